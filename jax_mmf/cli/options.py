"""Shared parts of the commands: types of options, checks of files, and the layout of help."""

import functools
import math
import os
import re
from pathlib import Path
from typing import Any

import click

from jax_mmf.core import enable_compilation_cache
from jax_mmf.io import HDF5_ENDINGS, Source, files_of, open_source

_NO_TEXT = (*HDF5_ENDINGS, ".npy", ".npz", ".png", ".pdf", ".svg", ".parquet", ".zip", ".gz")


class Option(click.Option):
    """Option whose help keeps brackets, which hold defaults and ranges, on one line."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the help of click, with no-break spaces in brackets."""
        record = super().get_help_record(ctx)
        if record is None:
            return None
        text = record[1].replace("  [x<=None]", "")  # click's text for a range without bounds
        return record[0], re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", "\xa0"), text)


class Command(click.Command):
    """Command for options of the class `Option`."""

    def get_help(self, ctx: click.Context) -> str:
        """Return the help with ordinary spaces, which can be copied."""
        return super().get_help(ctx).replace("\xa0", " ")


option = functools.partial(click.option, cls=Option, show_default=True)


class Real(click.FloatRange):
    """Range of finite floats; click lets NaN and infinity pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return a finite number in the range."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number", param, ctx)
        return number


class Output(click.Path):
    """File to write, whose ending determines the format.

    Args:
      what: kind of the file, for the message.
      endings: allowed endings.
    """

    def __init__(self, what: str, endings: tuple[str, ...]) -> None:
        super().__init__(dir_okay=False, path_type=Path)
        self._what, self._endings = what, endings

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, which must have one of the endings."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.suffix.lower() not in self._endings:
            self.fail(f"{path} must end in {_listed(self._endings)}, since it is {self._what}", param, ctx)
        return path


class TextOutput(click.Path):
    """Text file to write, whose name must not have the ending of another format."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, which must not have the ending of another format."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.suffix.lower() in _NO_TEXT:
            self.fail(f"{path} is a text file, one JSON object per line; use an ending such as .jsonl", param, ctx)
        return path


class Resume(click.Path):
    """Model file or checkpoint of a run, or "auto" for the newest checkpoint."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or "auto"."""
        return value if value == "auto" else super().convert(value, param, ctx)


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def input_files(data: Path) -> list[Path]:
    """Return the files that DATA is read from, none of which may be an output."""
    try:
        return files_of(data)
    except FileNotFoundError:  # opening it gives a better message
        return [data]


def open_data(path: Path, dataset: str | None, **options: bool) -> Source:
    """Open the matrix in a file, or in the files of a folder.

    Args:
      path: of the file.
      dataset: name of the data set, or None.
      options: of `jax_mmf.open_source`.

    Raises:
      click.UsageError: for other formats, with a command that converts the file.
      OSError, ValueError, KeyError, TypeError: as `jax_mmf.open_source`.
    """
    ending = path.suffix.lower()
    if path.is_file() and ending in _CONVERSIONS:
        package, read = _CONVERSIONS[ending]
        line = f"import numpy as np{package}; np.save({str(path.with_suffix('.npy'))!r}, {read.format(path)})"
        raise click.UsageError(f'{ending} files are not supported; convert the file once: python -c "{line}"')
    return open_source(path, dataset, **options)


_CONVERSIONS = {  # skiprows=0 is written out for users with a header line
    ".csv": ("", "np.loadtxt('{}', dtype='float32', delimiter=',', skiprows=0)"),
    ".tsv": ("", "np.loadtxt('{}', dtype='float32', skiprows=0)"),
    ".txt": ("", "np.loadtxt('{}', dtype='float32', skiprows=0)"),
    ".parquet": (", pandas as pd", "pd.read_parquet('{}').to_numpy('float32')"),
}


class _Seed(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in new versions of click alone
    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return a 64-bit integer; the help does not show this range."""
        return int(click.IntRange(-(2**63), 2**63 - 1).convert(value, param, ctx))


def _use_cache(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        enable_compilation_cache()


quiet = option("--quiet", "-q", is_flag=True, help="Show no progress bar and no description of the data.")
dataset = option(
    "--dataset", metavar="NAME", help="Data set inside of an .h5, .npz, .mat or zarr file. [default: the only 2-D one]"
)
seed = option("--seed", type=_Seed(), default=0, help="Seed of all random choices.")
cache = option(
    "--cache/--no-cache", default=True, envvar="JAX_MMF_CACHE", expose_value=False, callback=_use_cache,
    help="Store compiled programs on disk, for faster starts later. JAX_MMF_CACHE=0 turns this off too.",
)  # fmt: skip
follow_external = option(
    "--follow-external", is_flag=True,
    help="Follow links of an HDF5 file to other files, which may be any file. Use it only for files that you trust.",
)  # fmt: skip
fill_missing = option(
    "--fill-missing", is_flag=True,
    help="Read chunks of an HDF5 file that were never written as zeros. By default they are errors.",
)  # fmt: skip
