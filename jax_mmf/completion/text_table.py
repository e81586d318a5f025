"""Reading of tables in text files by columns, with their encodings, separators and quotes."""

import csv
import re
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from jax_mmf.completion.columns import utc
from jax_mmf.typing import HostArray

_WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*")
_WHOLE_FLOAT = re.compile(r"\s*[+-]?[0-9]+\.0\s*")
_REAL = re.compile(
    r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*|\s*[+-]?(nan|inf|infinity)\s*", re.IGNORECASE
)
_MISSING = ("", "nan", "none", "null")


def read_lines(path: Path) -> list[str]:
    """Read the lines of a file in UTF-8 (with or without byte order mark), UTF-16, Windows-1252 or Latin 1."""
    with path.open("rb") as file:
        is_utf16 = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    for encoding in ("utf-16",) if is_utf16 else ("utf-8-sig", "cp1252"):
        try:
            with path.open(encoding=encoding) as file:
                return list(file)
        except UnicodeDecodeError:
            continue
    with path.open(encoding="latin-1") as file:
        return list(file)


def whole_or_text(cells: list[str]) -> list[int] | list[str]:
    """Convert cells to integers if all are whole numbers, or all are written as 7.0; else return them unchanged."""
    if all(map(_WHOLE.fullmatch, cells)):
        return list(map(int, cells))
    if all(map(_WHOLE_FLOAT.fullmatch, cells)):
        return [int(cell.partition(".")[0]) for cell in cells]
    return cells


class Table:
    """Named columns of text or numbers. Error messages name the line of a row in the file.

    Args:
      path: of the file, for messages.
      lines: of the file, including blank ones.
      names: of the columns; the file may have fewer, unless ``exact``.
      first: number of lines before the first row.
      separator: between columns; cells must not contain it if it is ``::``.
      whole: names of columns that may hold whole numbers; the others may hold real numbers.
      exact: whether the file must have all columns.

    Raises:
      ValueError: for too few or too many columns, and rows of different lengths.
    """

    def __init__(
        self, path: Path, lines: list[str], names: list[str], *, first: int, separator: str, whole: tuple[str, ...],
        exact: bool,
    ) -> None:  # fmt: skip
        self._path, self._lines, self._first = path, lines, first
        self._separator = "\t" if separator == "::" else separator
        self._replaced = separator == "::"
        self._quote = '"' if separator == "," else None
        row = self._first_row()
        self.columns: dict[str, Any] = {}
        if row is None:
            return
        if len(row) < 2 or len(row) > len(names) or (exact and len(row) != len(names)):
            raise ValueError(f"{path} must have the columns {', '.join(names)}, and its first line has {len(row)}")
        names = names[: len(row)]
        kinds = [(name, np.int64 if name in whole else np.float64) for name in names]
        options: dict[str, Any] = {"delimiter": self._separator, "comments": None, "quotechar": self._quote}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # older versions of NumPy truncate 1.5 to an integer, with a warning
                table = np.loadtxt(self._rows_of_text(), dtype=kinds, ndmin=1, **options)
        except (ValueError, DeprecationWarning):  # some cells are text
            pass
        else:
            self.columns = {name: table[name] for name in names}
            return
        try:
            # Objects, since every element of an array of strings takes the space of the longest one.
            cells = np.loadtxt(self._rows_of_text(), dtype=object, encoding=None, ndmin=2, **options)
        except ValueError as error:
            reason = str(error).partition(";")[0]  # without NumPy's advice, which is about its own arguments
            raise ValueError(f"{path} can't be read: {reason}") from error
        self.columns = {name: cells[:, at].tolist() for at, name in enumerate(names)}

    def line(self, row: int) -> int:
        """Return the line number of a row, from 1, provided that no cell has line breaks."""
        there = (at for at, line in enumerate(self._lines) if at >= self._first and line.strip())
        return next(at for number, at in enumerate(there) if number == row) + 1

    def ids(self, name: str) -> Any:
        """Return a column of ids: integers if all are whole numbers, or all are written as 7.0; else text.

        Raises:
          ValueError: for an empty cell; the message names its line.
        """
        cells = self.columns[name]
        if isinstance(cells, np.ndarray):
            return cells
        missing = next((row for row, cell in enumerate(cells) if cell.lower() in _MISSING), None)
        if missing is not None:
            raise ValueError(
                f"users and items must have ids, got {cells[missing]!r} as {name} in line {self.line(missing)}; drop "
                "such lines"
            )
        return whole_or_text(cells)

    def reals(self, name: str) -> HostArray:
        """Return a column of finite real numbers.

        Raises:
          ValueError: for another cell; the message names its line.
        """
        cells = self.columns[name]
        if not isinstance(cells, np.ndarray):
            cells = np.array([float(c) if _REAL.fullmatch(c) else self._refuse(name, r) for r, c in enumerate(cells)])
        bad = np.flatnonzero(~np.isfinite(cells))
        if bad.size:
            self._refuse(name, int(bad[0]))
        return cells

    def times(self, name: str) -> HostArray:
        """Return a column of finite real numbers, or of dates if the first cell is not a number.

        Raises:
          ValueError: for another cell; the message names its line.
        """
        cells = self.columns[name]
        if isinstance(cells, np.ndarray) or _REAL.fullmatch(cells[0]):
            return self.reals(name)
        dates = []
        for row, cell in enumerate(cells):
            try:
                dates.append(utc(datetime.fromisoformat(cell)))
            except ValueError:
                self._refuse(name, row, "numbers, or ISO dates such as 2020-01-31 12:00:00")
        return np.array(dates, "datetime64[us]")

    def _first_row(self) -> list[str] | None:
        line = next(self._rows_of_text(), None)
        if line is None or self._quote is None:
            return None if line is None else line.split(self._separator)
        return next(csv.reader([line]))

    def _rows_of_text(self) -> Iterator[str]:
        lines = (line for at, line in enumerate(self._lines) if at >= self._first and line.strip())
        return (line.replace("::", "\t") for line in lines) if self._replaced else lines

    def _refuse(self, name: str, row: int, expected: str = "finite numbers") -> Any:
        cell = self.columns[name][row]
        raise ValueError(
            f"{name} must be {expected}, got {str(cell)!r} in line {self.line(row)}; correct or drop such lines"
        )
