"""``jax-mmf convert``."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import jax
from tqdm import tqdm

import jax_mmf as mmf
from jax_mmf.cli import report
from jax_mmf.cli.options import Command, Output, Real, option, quiet, seed
from jax_mmf.cli.outcome import SIGNALS, exit_status
from jax_mmf.io import COMPRESSIONS, HDF5_ENDINGS, check_outputs, files_of, folder_of
from jax_mmf.training import deferred_interrupt

_EPILOG = """\b
Examples:
  jax-mmf convert subject-*.npy -o data.h5 --dtype float32
  jax-mmf convert scans.mat --dataset X -o data.h5 --compression zstd
"""


@click.command("convert", cls=Command, epilog=_EPILOG)
@click.argument("inputs", type=click.Path(path_type=Path), nargs=-1, required=True)
@option("--dataset", "datasets", metavar="NAME", multiple=True,
        help="Data set inside of each .h5, .npz, .mat or zarr input; several are joined. "
             "[default: the only 2-D one]")  # fmt: skip
@option("-o", "--output", type=Output("an HDF5 file", HDF5_ENDINGS), required=True, help="File to write (.h5).")
@option("--dtype", type=click.Choice(["float16", "float32", "float64"]),
        help="Numbers in the output. [default: those of the inputs]")  # fmt: skip
@option("--compression", type=click.Choice(COMPRESSIONS), default="none",
        help="auto is zstd if the package hdf5plugin is installed, and gzip otherwise.")  # fmt: skip
@option("--permute/--no-permute", default=True, help="Write the features in random order, which fit undoes.")
@option("-r", "--reduction", type=Real(min=1), metavar="R",
        help="Chunks as wide as the blocks of fit --reduction R --partial-b. [default: 512 features]")  # fmt: skip
@option("--rows-per-chunk", type=click.IntRange(min=1), default=128,
        help="Samples per chunk; best the batch size of fit.")  # fmt: skip
@option("--memory", type=click.IntRange(min=1), default=256, metavar="MB",
        help="Samples to convert at a time; more helps with inputs in tall chunks.")  # fmt: skip
@option("--resume/--no-resume", default=True, help="Resume a conversion to the same output that was stopped.")
@seed
@quiet
def command(inputs: tuple[Path, ...], output: Path, datasets: tuple[str, ...], quiet: bool, **options: Any) -> int:
    """Convert INPUTS to one file that fit reads fast. INPUTS are .npy, .npz, .mat, .h5 or zarr, or folders of these.

    The rows of the inputs follow each other. Memory does not depend on their number. The output has a checksum for each
    chunk, and mean and scale of each feature. If a conversion stops, the same command resumes it.

    Ctrl-C stops after the current samples. Exit status: 0, or 128 plus the number of the signal: 130 after Ctrl-C.
    """
    files = files_of(inputs)
    check_outputs({"--output": output}, *files)
    names = None if not datasets else datasets[0] if len(datasets) == 1 else list(datasets)
    subset = None if options["reduction"] is None else mmf.BlockSubset(options["reduction"])
    note = "jax-mmf: stopping after these samples; press Ctrl-C again to stop immediately"
    with deferred_interrupt(note, SIGNALS) as interrupted, closing(_Progress(interrupted, quiet=quiet)) as progress:
        try:
            result = mmf.convert(
                files, output, key=jax.random.key(options["seed"]) if options["permute"] else None, dataset=names,
                dtype=options["dtype"], compression=options["compression"], block_width=subset or 512,
                rows_per_chunk=options["rows_per_chunk"], memory=options["memory"] * 10**6, resume=options["resume"],
                on_progress=progress,
            )  # fmt: skip
        except BaseException as error:
            if folder_of(output).is_dir():
                click.echo(
                    f"jax-mmf: {folder_of(output)} holds the rows written so far; the same command resumes",
                    err=True,
                )
            if isinstance(error, KeyboardInterrupt) and interrupted():
                return exit_status(interrupted())
            raise
    if result.not_finite is not None:
        sample, feature = result.not_finite
        note = f"the first is in sample {sample}, feature {feature}; fit refuses such samples"
        click.echo(f"jax-mmf: warning: the data contain NaN or infinity; {note}", err=True)
    kept = f", of which {result.n_kept:,} were kept" if result.n_kept else ""
    click.echo(
        f"{result.n_samples:,} samples{kept}, {result.n_features:,} features, {result.dtype}, "
        f"{report.size_of(result.n_bytes)}: {output}"
    )
    return 0


class _Progress:
    """A progress bar that starts at the rows already written, and ends the conversion at a signal."""

    def __init__(self, interrupted: Callable[[], int], *, quiet: bool) -> None:
        self._interrupted, self._quiet = interrupted, quiet
        self._bar: Any = None

    def __call__(self, done: int, total: int | None) -> None:
        """Show how many rows are written, of how many."""
        if self._bar is None:
            self._bar = tqdm(
                total=total,
                initial=done,
                unit="sample",
                desc="converting",
                disable=self._quiet or None,
                mininterval=0.5,
            )
        self._bar.update(done - self._bar.n)
        if self._interrupted() and done != total:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
