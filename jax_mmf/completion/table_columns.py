"""Columns of a table as ids, real numbers and times, with errors that name the place of a cell."""

from collections.abc import Hashable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jax_mmf.completion.columns import as_float32, utc
from jax_mmf.completion.labels import Labels, whole_or_text
from jax_mmf.completion.text_file import is_number
from jax_mmf.typing import HostArray

_MISSING = ("", "nan", "none", "null")


class Table(Protocol):
    """A file of named columns; numbers and ids in text differ by their spelling."""

    path: Path
    names: list[str]
    is_text: bool

    def blocks(self, columns: dict[str, int]) -> Iterator[dict[str, Any]]:
        """Iterate over blocks of columns, as arrays of pyarrow or lists."""

    def where(self, row: int, column: int) -> tuple[str, str]:
        """Return the place of a cell in the file, such as ``"line 3"``, and its text."""


class Ids:
    """Ids of a column as they are read, numbered by their first occurrence."""

    def __init__(self) -> None:
        self.index: dict[Hashable, int] = {}
        self.parts: list[HostArray] = []

    def add(self, column: Any) -> None:
        """Add a block, an array of pyarrow or a list."""
        if isinstance(column, list):
            self.parts.append(self._numbered(column))
            return
        coded = _decoded(column).dictionary_encode(null_encoding="encode")
        codes = np.asarray(coded.indices)
        self.parts.append(self._numbered(coded.dictionary.to_pylist())[codes])

    def _numbered(self, values: list[Any]) -> HostArray:
        index = self.index
        return np.fromiter((index.setdefault(v, len(index)) for v in values), np.int32, len(values))


def labelled(table: Table, columns: dict[str, int], name: str, ids: Ids) -> tuple[Labels, HostArray]:
    """Return the ids of a column in ascending order, and the positions ``(n,)`` of the rows among them."""
    codes = np.concatenate(ids.parts)
    ids.parts.clear()
    distinct: list[Any] = list(ids.index)
    for value, code in ids.index.items():
        if value is None or value != value or (table.is_text and str(value).lower() in _MISSING):  # noqa: PLR0124
            place, cell = table.where(int(np.flatnonzero(codes == code)[0]), columns[name])
            raise ValueError(
                f"{table.path}: users and items must have ids, got {cell!r} as {table.names[columns[name]]} in "
                f"{place}; drop such lines"
            )
    try:
        labels, rank = Labels.factorize(whole_or_text(distinct) if table.is_text else distinct)
    except ValueError as error:
        raise ValueError(f"{table.path}: {name}s: {error}") from error
    return labels, rank[codes]


def reals(table: Table, columns: dict[str, int], role: str, column: Any, first: int) -> HostArray:
    """Return finite numbers of a block that begins with row ``first``."""
    import pyarrow as pa

    array = _array(table, columns[role], column)
    try:
        numbers = np.asarray(array.cast(pa.float64(), safe=False), np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise ValueError(f"{table.path}: {table.names[columns[role]]} must be finite numbers: {error}") from error
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        _refuse(table, columns[role], first + int(bad[0]), "finite numbers")
    if role == "value" and len(numbers):
        as_float32(f"{table.path}: {table.names[columns[role]]}", numbers)
    return numbers


def _array(table: Table, column: int, cells: Any) -> Any:
    """Convert a list, which must hold cells of one type, to an array of pyarrow."""
    import pyarrow as pa

    try:
        return pa.array(cells) if isinstance(cells, list) else _decoded(cells)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ValueError(f"{table.path}: {table.names[column]} must hold cells of one type: {error}") from error


def _decoded(column: Any) -> Any:
    """Return an array of pyarrow without dictionary encoding, which frames use for categories."""
    return column.dictionary_decode() if hasattr(column, "dictionary_decode") else column


def times_of(table: Table, columns: dict[str, int], column: Any, first: int) -> HostArray:
    """Return times of a block: finite numbers, or dates in UTC."""
    import pyarrow as pa

    array = _array(table, columns["timestamp"], column)
    if pa.types.is_temporal(array.type) and not pa.types.is_duration(array.type) and not pa.types.is_time(array.type):
        dates = array.to_numpy(zero_copy_only=False)
    elif (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)) and not is_number(str(array[0])):
        dates = _dates(table, columns["timestamp"], array, first)
    else:
        return reals(table, columns, "timestamp", array, first)
    bad = np.flatnonzero(np.isnat(dates))
    if bad.size:
        _refuse(table, columns["timestamp"], first + int(bad[0]), "dates")
    return np.asarray(dates)


def _dates(table: Table, column: int, array: Any, first: int) -> HostArray:
    import pyarrow as pa

    try:
        return np.asarray(array.cast(pa.timestamp("us")))
    except pa.ArrowInvalid:  # time zones, and what is not a date
        dates = []
    for row, cell in enumerate(array.to_pylist()):
        try:
            dates.append(utc(datetime.fromisoformat(cell)))
        except (TypeError, ValueError):
            _refuse(table, column, first + row, "numbers, or ISO dates such as 2020-01-31 12:00:00")
    return np.array(dates, "datetime64[us]")


def joined_times(table: Table, columns: dict[str, int], parts: list[HostArray]) -> HostArray | None:
    """Concatenate the times of blocks, which must all be dates or all be numbers; None for no times."""
    if len({part.dtype.kind for part in parts}) > 1:
        name = table.names[columns["timestamp"]]
        raise ValueError(f"{table.path}: {name} has dates in some rows and numbers in others; convert one of them")
    return np.concatenate(parts) if parts else None


def _refuse(table: Table, column: int, row: int, expected: str) -> None:
    place, cell = table.where(row, column)
    raise ValueError(
        f"{table.path}: {table.names[column]} must be {expected}, got {cell!r} in {place}; correct or drop such lines"
    )
