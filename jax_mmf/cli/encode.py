"""``jax-mmf encode``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
from tqdm import tqdm

import jax_mmf as mmf
from jax_mmf.cli.options import (
    Command,
    Output,
    cache,
    dataset,
    fill_missing,
    follow_external,
    input_files,
    open_data,
    option,
    quiet,
)
from jax_mmf.io import HDF5_ENDINGS, CentredSource, check_outputs, hdf5_written_aside, needs_x64, written_aside
from jax_mmf.typing import HostArray

_EPILOG = """\b
Example:
  jax-mmf encode model.h5 data.h5 --dataset X -o codes.h5
"""


@click.command("encode", cls=Command, epilog=_EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@dataset
@option("-o", "--output", type=Output("an HDF5 file or a NumPy array", (*HDF5_ENDINGS, ".npy")), required=True,
        help="File for the codes (n, k): .h5, data set “codes”, or .npy.")  # fmt: skip
@option("--batch-size", type=click.IntRange(min=1),
        help="Samples per batch. [default: 64 MB of them, and at most 4096]")  # fmt: skip
@follow_external
@fill_missing
@cache
@quiet
def command(
    model: Path,
    data: Path,
    dataset: str | None,
    output: Path,
    batch_size: int | None,
    quiet: bool,
    follow_external: bool,
    fill_missing: bool,
) -> None:
    """Compute codes of the samples in DATA, with the dictionary and the penalty of MODEL.

    A centred model subtracts its mean from the samples.
    """
    check_outputs({"--output": output}, *input_files(data), model)
    if needs_x64(model):
        jax.config.update("jax_enable_x64", True)
    solver, state, *_ = mmf.load_model(model)
    source = open_data(data, dataset, follow_external=follow_external, fill_missing=fill_missing)
    if source.n_features != state.dictionary.shape[1]:
        raise ValueError(
            f"{data} has {source.n_features} features, and {model} was trained on {state.dictionary.shape[1]}"
        )
    n, k = source.n_samples, solver.n_components
    with (
        _codes_file(output, (n, k), np.dtype(state.dictionary.dtype), model) as write,
        tqdm(total=n, unit="sample", desc="compiling", disable=quiet or None) as bar,
    ):
        codes = _Codes((n, k), write, bar)
        samples = source if state.mean is None else CentredSource(source, np.asarray(state.mean))
        mmf.encode(state.dictionary, samples, solver.penalty, out=codes, batch_size=batch_size)
    click.echo(f"codes of {n:,} samples, {k} atoms: {output}")


class _Codes:
    """The file of codes, as an array that is written from its first row to its last one, with a progress bar.

    Args:
      shape: ``(n, k)``.
      write: function that writes the next codes, given the number of their first row.
      bar: progress bar.
    """

    def __init__(self, shape: tuple[int, int], write: Callable[[int, HostArray], Any], bar: Any) -> None:
        self.shape, self._write, self._bar = shape, write, bar

    def __setitem__(self, rows: slice, codes: HostArray) -> None:
        self._write(rows.start, codes)
        self._bar.set_description("encoding", refresh=False)
        self._bar.update(len(codes))


@contextmanager
def _codes_file(
    path: Path, shape: tuple[int, int], dtype: np.dtype[Any], model: Path
) -> Iterator[Callable[[int, HostArray], Any]]:
    """Open the file, and yield a function that writes the next codes, given the number of their first row."""
    if path.suffix.lower() == ".npy":
        header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
        with written_aside(path) as aside, aside.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            yield lambda _, codes: file.write(np.ascontiguousarray(codes).data)
    else:
        with hdf5_written_aside(path) as file:
            file.attrs["model"] = str(model)
            data = file.create_dataset("codes", shape, dtype)

            def write(first: int, codes: HostArray) -> None:
                data[first : first + len(codes)] = codes
                file.check()

            yield write
