"""What the commands share: types of options, checks of files, and help that reads well."""

import functools
import math
import os
import re
from pathlib import Path
from typing import Any

import click

from jax_mmf.core import enable_compilation_cache
from jax_mmf.io import HDF5_ENDINGS, Source, open_source

_NO_TEXT = (*HDF5_ENDINGS, ".npy", ".npz", ".png", ".pdf", ".svg", ".parquet", ".zip", ".gz")


class Option(click.Option):
    """An option in whose help the brackets, with defaults and ranges, stay on one line."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """As that of click, with no-break spaces in brackets."""
        record = super().get_help_record(ctx)
        if record is None:
            return None
        return record[0], re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", "\xa0"), record[1])


class Command(click.Command):
    """A command whose options are `Option`."""

    def get_help(self, ctx: click.Context) -> str:
        """The help, with spaces that can be copied."""
        return super().get_help(ctx).replace("\xa0", " ")


option = functools.partial(click.option, cls=Option, show_default=True)


class Real(click.FloatRange):
    """A range of floats without NaN and infinity, which pass all comparisons or have no place in them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A finite number in the range."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number", param, ctx)
        return number


class Output(click.Path):
    """A file to write, whose ending says in which format.

    Args:
      endings: that it may have.
      what: it is, for the message.
    """

    def __init__(self, what: str, endings: tuple[str, ...]) -> None:
        super().__init__(dir_okay=False, path_type=Path)
        self._what, self._endings = what, endings

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A path of one of the endings."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.suffix.lower() not in self._endings:
            self.fail(f"{path} must end in {_listed(self._endings)}, since it is {self._what}", param, ctx)
        return path


class TextOutput(click.Path):
    """A text file to write, of any name that does not promise another format."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A path."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.suffix.lower() in _NO_TEXT:
            self.fail(f"{path} is text, one JSON object per line; give it an ending such as .jsonl", param, ctx)
        return path


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def open_data(path: Path, dataset: str | None) -> Source:
    """The matrix in a file; files of other formats are told how to be converted.

    Raises:
      click.UsageError: for a folder, and for formats that are not read.
      OSError, ValueError, KeyError, TypeError: as `jax_mmf.open_source`.
    """
    if path.is_dir():
        raise click.UsageError(f"{path} is a folder; give the name of a file, .h5, .npy or .npz")
    ending = path.suffix.lower()
    if path.is_file() and ending in _CONVERSIONS:
        package, read = _CONVERSIONS[ending]
        line = f"import numpy as np{package}; np.save({str(path.with_suffix('.npy'))!r}, {read.format(path)})"
        raise click.UsageError(f'files ending in {ending} are not read; convert it once: python -c "{line}"')
    return open_source(path, dataset)


_CONVERSIONS = {  # with skiprows=0 to be changed if there is a line of names
    ".csv": ("", "np.loadtxt('{}', dtype='float32', delimiter=',', skiprows=0)"),
    ".tsv": ("", "np.loadtxt('{}', dtype='float32', skiprows=0)"),
    ".txt": ("", "np.loadtxt('{}', dtype='float32', skiprows=0)"),
    ".mat": (", scipy.io", "scipy.io.loadmat('{}')['X']"),
    ".parquet": (", pandas as pd", "pd.read_parquet('{}').to_numpy('float32')"),
}


def check_outputs(outputs: dict[str, Path | None], *inputs: Path | None) -> None:
    """Fail before the work, not after it, and never write over what is read or written otherwise.

    Args:
      outputs: paths, or None, by the name of their option.
      inputs: files that must stay as they are.

    Raises:
      click.UsageError: if two outputs are one file.
      ValueError: if an output is an input.
      OSError: if an output can't be written.
    """
    seen: dict[Path, str] = {}
    for name, path in outputs.items():
        if path is None:
            continue
        other = seen.setdefault(path.resolve(), name)
        if other != name:
            raise click.UsageError(f"{other} and {name} are both {path}; give each a name of its own")
        if any(i is not None and path.exists() and i.exists() and path.samefile(i) for i in inputs):
            raise ValueError(f"{name} {path} is an input too; give the output another name")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"no folder {path.parent} to write {path.name} in; make it first")
        if not os.access(path.parent, os.W_OK) or path.is_dir():
            raise PermissionError(f"can't write {path}")


class _Seed(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in new versions of click alone
    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """An integer of 64 bits, of which the help does not show the range."""
        return int(click.IntRange(-(2**63), 2**63 - 1).convert(value, param, ctx))


def _use_cache(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        enable_compilation_cache()


quiet = option("--quiet", "-q", is_flag=True, help="No progress bar, and no lines about the data.")
dataset = option(
    "--dataset", metavar="NAME", help="Data set inside of an .h5 or .npz file. [default: the only 2-D one]"
)
seed = option("--seed", type=_Seed(), default=0, help="Of all random choices.")
cache = option(
    "--cache/--no-cache", default=True, envvar="JAX_MMF_CACHE", expose_value=False, callback=_use_cache,
    help="Keep compiled programs on disk, for the next start to be quick. JAX_MMF_CACHE=0 turns it off, too.",
)  # fmt: skip
