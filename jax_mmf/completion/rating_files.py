"""`read_ratings`, which reads ratings from text, Parquet, Arrow and JSON files a block at a time."""

from collections.abc import Hashable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jax_mmf.completion.columns import as_float32, utc
from jax_mmf.completion.entries import Entries, arranged
from jax_mmf.completion.labels import Labels, whole_or_text
from jax_mmf.completion.ratings import Ratings
from jax_mmf.completion.record_files import ARROW, JSON, PARQUET, ArrowTable, JsonTable, ParquetTable
from jax_mmf.completion.text_file import TextTable, encodings, is_number, plain_name, suffix_of
from jax_mmf.typing import HostArray

_FOLDER = ("u.data", "ratings.dat", "ratings.csv")
_KNOWN = {
    "user": ("user", "userid"),
    "item": ("item", "itemid", "movie", "movieid"),
    "value": ("rating", "value", "score", "count"),
    "timestamp": ("timestamp", "time"),
}
_MISSING = ("", "nan", "none", "null")


class _Table(Protocol):
    """A file of named columns; numbers and ids in text differ by their spelling."""

    path: Path
    names: list[str]
    is_text: bool

    def blocks(self, columns: dict[str, int]) -> Iterator[dict[str, Any]]:
        """Iterate over blocks of columns, as arrays of pyarrow or lists."""

    def where(self, row: int, column: int) -> tuple[str, str]:
        """Return the place of a cell in the file, such as ``"line 3"``, and its text."""


def read_ratings(
    path: str | Path,
    *,
    user: str | int | None = None,
    item: str | int | None = None,
    value: str | int | None = None,
    timestamp: str | int | None = None,
    separator: str | None = None,
    header: bool | None = None,
    comment: str | None = None,
    encoding: str | None = None,
    aggregate: str | None = None,
) -> Ratings:
    r"""Read ratings from a file with one of them in each row. Other columns are not loaded.

    - Text, also compressed (``.gz``, ``.bz2``, ``.zst``), such as ``u.data``, ``ratings.dat`` and ``ratings.csv`` of
      MovieLens, and ``.inter`` files of RecBole;
    - ``.parquet``; ``.arrow`` and ``.feather``; ``.jsonl`` and ``.ndjson`` with one JSON object in each line.

    The extra ``recommend`` installs pyarrow, which reads these files in bounded memory.

    Args:
      path: of the file, or of a folder with one of ``u.data``, ``ratings.dat`` and ``ratings.csv``.
      user: column of the users: its name, or its number from 0. By default a column with a name such as ``userId``, or
        the first one if columns have no names.
      item: column of the items, such as ``movieId``; by default the second one without names.
      value: column of the values, such as ``rating``; by default the third one without names. Values are one if there
        is no such column.
      timestamp: column of the times; by default the fourth one without names. There may be none.
      separator: of columns of text, also of several characters; by default it is found in the first line.
      header: whether the first line of text has the names of the columns; by default it is found there.
      comment: characters with which lines of text begin that are left out.
      encoding: of text; by default UTF-8 or UTF-16 if it is valid, else Windows-1252, else Latin 1.
      aggregate: as in `Ratings.from_triplets`.

    Returns:
      the ratings. Ids in text are integers if all of a column are whole numbers (007 is 7, and so is 7.0 if all are
      written so), else text. Ids in other files keep their types. Times are numbers, or dates if they are ISO text (in
      UTC, unless they have a time zone).

    Raises:
      FileNotFoundError: if the file does not exist.
      ImportError: if pyarrow is not installed.
      ValueError: for missing or ragged columns, ratings or times that are not finite numbers or dates, missing ids,
        and repeated pairs without aggregate. The message names the line.

    Example:
      >>> import pathlib, tempfile
      >>> from jax_mmf import completion
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "ratings.csv"
      ...     _ = path.write_text("userId,movieId,rating\nann,7,4\nbob,7,2.5\n")
      ...     completion.read_ratings(path)
      Ratings(2 of 2 users x 1 items)
    """
    path = _rating_file(Path(path))
    given = {"user": user, "item": item, "value": value, "timestamp": timestamp}
    ending = suffix_of(path)
    for kind, endings in ((ParquetTable, PARQUET), (ArrowTable, ARROW), (JsonTable, JSON)):
        if ending in endings:
            return _gathered(kind(path), given, aggregate)
    has_names = True if header is None and any(isinstance(name, str) for name in given.values()) else header
    for candidate in encodings(path, encoding):
        try:
            table = TextTable(path, separator, has_names, comment, candidate, sum(_KNOWN.values(), ()))
            return _gathered(table, given, aggregate)
        except UnicodeDecodeError as error:
            unreadable = error
    raise ValueError(f"{path} is not text in {encoding or 'a known encoding'} ({unreadable}); give its encoding")


class _Column:
    """Ids of a column as they are read, numbered by their first occurrence."""

    def __init__(self) -> None:
        self.index: dict[Hashable, int] = {}
        self.parts: list[HostArray] = []

    def add(self, column: Any) -> None:
        if isinstance(column, list):
            self.parts.append(self._numbered(column))
            return
        coded = column.dictionary_encode(null_encoding="encode")
        codes = np.asarray(coded.indices)
        self.parts.append(self._numbered(coded.dictionary.to_pylist())[codes])

    def _numbered(self, values: list[Any]) -> HostArray:
        index = self.index
        return np.fromiter((index.setdefault(v, len(index)) for v in values), np.int32, len(values))


class _Read(NamedTuple):
    user: _Column
    item: _Column
    values: list[HostArray]
    times: list[HostArray]


def _gathered(table: _Table, given: dict[str, Any], aggregate: str | None) -> Ratings:
    """Read all blocks of a table."""
    columns = _columns(table, given)
    read = _Read(_Column(), _Column(), [], [])
    n = 0
    for block in table.blocks(columns):
        for name, ids in (("user", read.user), ("item", read.item)):
            try:
                ids.add(block[name])
            except TypeError as error:
                raise ValueError(f"{table.path}: ids of {name}s must be hashable: {error}") from error
        if "value" in columns:
            read.values.append(_reals(table, columns, "value", block["value"], n).astype(np.float32))
        if "timestamp" in columns:
            read.times.append(_times(table, columns, block["timestamp"], n))
        n += len(block["user"])
    if n == 0:
        raise ValueError(f"{table.path} holds no ratings")
    users, items = (_labelled(table, columns, name, getattr(read, name)) for name in ("user", "item"))
    values = np.concatenate(read.values) if read.values else np.ones(n, np.float32)
    times = _joined_times(table, columns, read.times)
    read.values.clear()
    read.times.clear()
    try:
        entries = Entries(users[1], items[1], values, None, times)
        return Ratings(users[0], items[0], *arranged(entries, aggregate, users[0], items[0]).columns())
    except ValueError as error:
        raise ValueError(f"{table.path}: {error}") from error


def _columns(table: _Table, given: dict[str, Any]) -> dict[str, int]:
    """Find the columns of users, items, values and times, by what they are for."""
    plain = [plain_name(name) for name in table.names]
    found = {}
    for role, wanted in given.items():
        if wanted is None:
            at = next((at for at, name in enumerate(plain) if name in _KNOWN[role]), None)
        else:
            at = _column_of(table, role, wanted)
        if at is not None:
            found[role] = at
        elif role in ("user", "item"):
            raise ValueError(
                f"{table.path} must have a column of {role}s, got the columns {', '.join(table.names)}; name it with "
                f"{role}= (--{role}-column)"
            )
    return found


def _column_of(table: _Table, role: str, wanted: str | int) -> int:
    names = table.names
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    short = [name.partition(":")[0] for name in names]  # RecBole writes the type of a column after a colon
    if isinstance(wanted, str) and wanted in short:
        return short.index(wanted)
    if not isinstance(wanted, str) and 0 <= wanted < len(names):
        return int(wanted)
    raise ValueError(f"{role}={wanted!r} is not a column of {table.path}, which has {', '.join(names)}")


def _labelled(table: _Table, columns: dict[str, int], name: str, ids: _Column) -> tuple[Labels, HostArray]:
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


def _reals(table: _Table, columns: dict[str, int], role: str, column: Any, first: int) -> HostArray:
    """Return finite numbers of a block that begins with row ``first``."""
    import pyarrow as pa

    try:
        array = pa.array(column) if isinstance(column, list) else column
        numbers = np.asarray(array.cast(pa.float64(), safe=False), np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise ValueError(f"{table.path}: {table.names[columns[role]]} must be finite numbers: {error}") from error
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        _refuse(table, columns[role], first + int(bad[0]), "finite numbers")
    if role == "value" and len(numbers):
        as_float32(f"{table.path}: {table.names[columns[role]]}", numbers)
    return numbers


def _times(table: _Table, columns: dict[str, int], column: Any, first: int) -> HostArray:
    """Return times of a block: finite numbers, or dates in UTC."""
    import pyarrow as pa

    array = pa.array(column) if isinstance(column, list) else column
    if pa.types.is_temporal(array.type) and not pa.types.is_duration(array.type) and not pa.types.is_time(array.type):
        dates = array.to_numpy(zero_copy_only=False)
    elif (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)) and not is_number(str(array[0])):
        dates = _dates(table, columns["timestamp"], array, first)
    else:
        return _reals(table, columns, "timestamp", array, first)
    bad = np.flatnonzero(np.isnat(dates))
    if bad.size:
        _refuse(table, columns["timestamp"], first + int(bad[0]), "dates")
    return np.asarray(dates)


def _dates(table: _Table, column: int, array: Any, first: int) -> HostArray:
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


def _joined_times(table: _Table, columns: dict[str, int], parts: list[HostArray]) -> HostArray | None:
    if len({part.dtype.kind for part in parts}) > 1:
        name = table.names[columns["timestamp"]]
        raise ValueError(f"{table.path}: {name} has dates in some rows and numbers in others; convert one of them")
    return np.concatenate(parts) if parts else None


def _refuse(table: _Table, column: int, row: int, expected: str) -> None:
    place, cell = table.where(row, column)
    raise ValueError(
        f"{table.path}: {table.names[column]} must be {expected}, got {cell!r} in {place}; correct or drop such lines"
    )


def _rating_file(path: Path) -> Path:
    if path.is_dir():
        inside = [path / name for name in _FOLDER if (path / name).is_file()]
        if not inside:
            raise FileNotFoundError(f"no {', '.join(_FOLDER)} in the folder {path}")
        return inside[0]
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    return path
