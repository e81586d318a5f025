"""``jax-mmf fmri``."""

import glob
import gzip
from pathlib import Path
from typing import Any

import click
import numpy as np

from jax_mmf.cli.options import Command, Output, Real, cache, option, quiet, seed
from jax_mmf.cli.outcome import SIGNALS, exit_status
from jax_mmf.io import check_outputs, written_aside
from jax_mmf.training import deferred_interrupt

_IMAGES = (".nii", ".gz")
_DEMO: dict[str, Any] = {
    "n_subjects": 4,
    "n_frames": 200,
    "n_maps": 10,
    "resolution": 4,
    "physiological": 0.2,
    "noise": 0.7,
}
_EPILOG = """\b
Examples:
  jax-mmf fmri 'sub-*_bold.nii.gz' -k 20 --tr 2 -o maps.nii.gz --report report.html
  jax-mmf fmri @scans.txt -k 70 --confounds 'sub-*_confounds.tsv' --masked work -o maps.nii.gz
  jax-mmf fmri --demo
"""


@click.command("fmri", cls=Command, epilog=_EPILOG)
@click.argument("images", nargs=-1, metavar="IMAGES...")
@option("-o", "--output", type=Output("a NIfTI image", _IMAGES), help="Image of the maps to write (.nii, .nii.gz).")
@option("--report", type=Output("a web page", (".html", ".htm")), help="Report to write (.html).")
@option("--demo", is_flag=True, help="Make four synthetic scans, and learn from them instead of IMAGES.")
@option("-k", "--components", type=click.IntRange(min=1), help="Number of maps. [default: 20; 10 with --demo]")
@option("--alpha", type=Real(min=0), default=3.0, help="Sparsity of the maps; more is sparser.")
@option("--positive", is_flag=True, help="Make the maps non-negative.")
@option("-r", "--reduction", type=Real(min=1),
        help="Each step sees a random 1/r of the voxels. [default: chosen by the number of voxels]")  # fmt: skip
@option("--epochs", type=click.IntRange(min=1), help="Passes over the frames. [default: as many as make 50 steps]")
@option("--batch-size", type=click.IntRange(min=1), help="Frames per step. [default: chosen by the solver]")
@option("--mask", type=click.Path(exists=True, dir_okay=False), help="Image of the mask. [default: computed]")
@option("--mask-strategy", default="epi", help="How the mask is computed, in nilearn's words.")
@option("--confounds", metavar="PATTERN",
        help="Tables of confounds, one for each image, sorted by name: a pattern, or @FILE.")  # fmt: skip
@option("--tr", type=Real(min=0, min_open=True), help="Repetition time in seconds, for filters and spectra.")
@option("--low-pass", type=Real(min=0, min_open=True), help="Highest frequency to keep, in Hz.")
@option("--high-pass", type=Real(min=0, min_open=True), help="Lowest frequency to keep, in Hz.")
@option("--smoothing-fwhm", type=Real(min=0), default=4.0, help="Width of the smoothing in mm; 0 for none.")
@option("--jobs", type=click.IntRange(min=1), default=1, help="Scans that are masked at a time; each needs memory.")
@option("--masked", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
        help="Folder that keeps the masked frames for further runs. If a run stops, the same command "
             "resumes it.")  # fmt: skip
@seed
@cache
@quiet
def command(images: tuple[str, ...], output: Path | None, report: Path | None, demo: bool, **options: Any) -> int:
    """Learn sparse brain maps from IMAGES: 4D NIfTI files, one for each scan.

    An image may be a pattern in quotes, or @FILE for a text file with a path in each line. Each scan is masked and
    cleaned once, by nilearn, and then read from disk in mini-batches. Memory does not depend on the number of scans.

    Ctrl-C ends the masking, or ends the learning after the current step and writes the maps. Exit status: 0, or 128
    plus the number of the signal: 130 after Ctrl-C.
    """
    from jax_mmf.fmri import DictLearning

    if demo == bool(images):
        raise click.UsageError("the command needs images; give IMAGES, or --demo instead")
    if output is None and not demo:
        raise click.UsageError("the image to write is missing; give it by -o, such as -o maps.nii.gz")
    if options["tr"] is None and (options["low_pass"] or options["high_pass"]):
        raise click.UsageError("--low-pass and --high-pass need the repetition time, --tr")
    output, report = _outputs(output, report, demo=demo)
    subjects = _demo_subjects(output.parent, options) if demo else None
    paths = _paths(images) if subjects is None else [str(path) for path in subjects.paths]
    check_outputs({"--output": output, "--report": report}, *paths, options["mask"])
    tables = None if options["confounds"] is None else _paths([options["confounds"]])
    if tables is not None and len(tables) != len(paths):
        raise click.UsageError(f"--confounds gives {len(tables)} tables for {len(paths)} images; give one for each")
    maps = DictLearning(
        options["components"] or (_DEMO["n_maps"] if demo else 20), alpha=options["alpha"],
        positive=options["positive"], reduction=options["reduction"], n_epochs=options["epochs"],
        batch_size=options["batch_size"], mask=options["mask"], mask_strategy=options["mask_strategy"],
        t_r=options["tr"], low_pass=options["low_pass"], high_pass=options["high_pass"],
        smoothing_fwhm=options["smoothing_fwhm"] or None, n_jobs=options["jobs"], random_state=options["seed"],
        cache=options["masked"], verbose=0 if options["quiet"] else 1,
    )  # fmt: skip
    note = "jax-mmf: ending; press Ctrl-C again to stop immediately"
    with deferred_interrupt(note, SIGNALS) as interrupted:
        try:
            maps.fit(paths, confounds=tables)
        except KeyboardInterrupt:
            if not interrupted():
                raise
            click.echo("jax-mmf: stopped before there were maps", err=True)
            return exit_status(interrupted())
        _write_image(maps.components_img_, output)
        click.echo(f"{maps.n_elements_} maps, {maps.total_explained_variance_ratio_:.1%} of the variance: {output}")
        if subjects is not None:
            click.echo(_comparison(maps, subjects.maps_img))
        if report is not None:
            click.echo(f"report: {maps.report(report)}")
        return exit_status(interrupted())


def _outputs(output: Path | None, report: Path | None, *, demo: bool) -> tuple[Path, Path | None]:
    """Return the files to write. The demo has default names, and makes its folder."""
    if not demo:
        assert output is not None
        return output, report
    folder = Path("jax-mmf-fmri-demo") if output is None else output.parent
    folder.mkdir(parents=True, exist_ok=True)
    return output or folder / "maps.nii.gz", report or folder / "report.html"


def _demo_subjects(folder: Path, options: dict[str, Any]) -> Any:
    from jax_mmf.fmri import make_subjects

    subjects = make_subjects(folder, seed=options["seed"], **_DEMO)
    options["mask"] = str(folder / "mask.nii.gz")
    _write_image(subjects.mask_img, Path(options["mask"]))
    options["tr"] = options["tr"] or 2.0
    return subjects


def _comparison(maps: Any, planted: Any) -> str:
    """Describe how many of the planted maps of the demo were found."""
    truth = np.asarray(planted.dataobj)[np.asarray(maps.mask_img_.dataobj) > 0].T
    truth = truth / np.linalg.norm(truth, axis=1, keepdims=True)
    found = int((np.abs(truth @ maps.components_.T).max(axis=1) > 0.9).sum())
    return f"{found} of {len(truth)} planted maps found, with a cosine above 0.9"


def _paths(arguments: Any) -> list[str]:
    """Return the paths of arguments: a path itself, files that match a pattern, or the lines of @FILE.

    Raises:
      FileNotFoundError: if a file of paths is missing, and if nothing matches a pattern.
    """
    paths: list[str] = []
    for argument in arguments:
        if argument.startswith("@"):
            lines = Path(argument[1:]).read_text(encoding="utf-8").splitlines()
            paths += _paths([line.strip() for line in lines if line.strip()])
        elif glob.has_magic(argument) and not Path(argument).exists():
            found = sorted(glob.glob(argument))  # noqa: PTH207  # patterns may be absolute
            if not found:
                raise FileNotFoundError(f"no file matches {argument!r}")
            paths += found
        else:
            paths.append(argument)
    return paths


def _write_image(image: Any, path: Path) -> None:
    data = image.to_bytes()
    with written_aside(path) as aside:
        aside.write_bytes(gzip.compress(data, 6, mtime=0) if path.suffix.lower() == ".gz" else data)
