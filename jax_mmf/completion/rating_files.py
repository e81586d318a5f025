"""`read_ratings`, which reads ratings from text, Parquet, Arrow and JSON files a block at a time."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_mmf.completion.entries import Entries, arranged
from jax_mmf.completion.ratings import Ratings
from jax_mmf.completion.record_files import ARROW, JSON, PARQUET, ArrowTable, JsonTable, ParquetTable
from jax_mmf.completion.table_columns import Ids, Table, joined_times, labelled, reals, times_of
from jax_mmf.completion.text_file import TextTable, encodings, plain_name, suffix_of
from jax_mmf.typing import HostArray

_FOLDER = ("u.data", "ratings.dat", "ratings.csv")
_KNOWN = {
    "user": ("user", "userid"),
    "item": ("item", "itemid", "movie", "movieid"),
    "value": ("rating", "value", "score", "count"),
    "timestamp": ("timestamp", "time"),
}


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
    - ``.parquet``; ``.arrow`` and ``.feather``; ``.jsonl``, ``.ndjson`` and ``.json`` with a JSON object in each line.

    The extra ``recommend`` installs pyarrow, which reads these files in bounded memory.

    Args:
      path: of the file, or of a folder with one of ``u.data``, ``ratings.dat`` and ``ratings.csv``.
      user: column of the users: its name, or its number from 0. By default a column with a name such as ``userId``, or
        the first one of at most four without names. Name the columns of wider files without names.
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
    _check_text_options(separator, header, comment, encoding)
    path = _rating_file(Path(path))
    given = {"user": user, "item": item, "value": value, "timestamp": timestamp}
    has_names = True if header is None and any(isinstance(name, str) for name in given.values()) else header
    try:
        for kind, endings in ((ParquetTable, PARQUET), (ArrowTable, ARROW), (JsonTable, JSON)):
            if suffix_of(path) in endings:
                return _gathered(kind(path), given, aggregate)
        for candidate in encodings(path, encoding):
            try:
                table = TextTable(path, separator, has_names, comment, candidate, sum(_KNOWN.values(), ()))
                return _gathered(table, given, aggregate)
            except UnicodeDecodeError as error:
                unreadable = error
    except OSError as error:
        raise OSError(f"{path} can't be read: {error}") from error
    raise ValueError(f"{path} is not text in {encoding or 'a known encoding'} ({unreadable}); give its encoding")


def _check_text_options(separator: Any, header: Any, comment: Any, encoding: Any) -> None:
    """Raise TypeError or ValueError for options of text files that no file could have."""
    for name, given in (("separator", separator), ("comment", comment), ("encoding", encoding)):
        if given is not None and not isinstance(given, str):
            raise TypeError(f"{name} must be text or None, got {given!r}")
    if header is not None and not isinstance(header, bool):
        raise TypeError(f"header must be True, False or None, got {header!r}")
    if separator is not None and (separator == "" or set(separator) & set('\n\r"')):
        raise ValueError(f"separator must be characters between columns, such as ',' or '::', got {separator!r}")


class _Read(NamedTuple):
    user: Ids
    item: Ids
    values: list[HostArray]
    times: list[HostArray]


def _gathered(table: Table, given: dict[str, Any], aggregate: str | None) -> Ratings:
    """Read all blocks of a table."""
    columns = _columns(table, given)
    read = _Read(Ids(), Ids(), [], [])
    n = 0
    for block in table.blocks(columns):
        if len(block["user"]) == 0:
            continue
        for name, ids in (("user", read.user), ("item", read.item)):
            try:
                ids.add(block[name])
            except (TypeError, NotImplementedError) as error:
                raise ValueError(
                    f"{table.path}: ids of {name}s must be numbers, text or dates, got {table.names[columns[name]]} of "
                    f"another type: {error}"
                ) from error
        if "value" in columns:
            read.values.append(reals(table, columns, "value", block["value"], n).astype(np.float32))
        if "timestamp" in columns:
            read.times.append(times_of(table, columns, block["timestamp"], n))
        n += len(block["user"])
    if n == 0:
        raise ValueError(f"{table.path} holds no ratings")
    users, items = (labelled(table, columns, name, getattr(read, name)) for name in ("user", "item"))
    values = np.concatenate(read.values) if read.values else np.ones(n, np.float32)
    times = joined_times(table, columns, read.times)
    read.values.clear()
    read.times.clear()
    try:
        entries = Entries(users[1], items[1], values, None, times)
        return Ratings(users[0], items[0], *arranged(entries, aggregate, users[0], items[0]).columns())
    except ValueError as error:
        raise ValueError(f"{table.path}: {error}") from error


def _columns(table: Table, given: dict[str, Any]) -> dict[str, int]:
    """Find the columns of users, items, values and times, by what they are for."""
    found = {role: _column_of(table, role, wanted) for role, wanted in given.items() if wanted is not None}
    if len(set(found.values())) < len(found):
        raise ValueError(f"user, item, value and timestamp must be different columns of {table.path}, got {given}")
    plain = [plain_name(name) for name in table.names]
    for role, known in _KNOWN.items():
        free = (at for at, name in enumerate(plain) if name in known and at not in found.values())
        if role not in found and (at := next(free, None)) is not None:
            found[role] = at
    for role in ("user", "item"):
        if role not in found:
            raise ValueError(
                f"{table.path} must have a column of {role}s, got the columns {', '.join(table.names)}; name it with "
                f"{role}= (--{role}-column)"
            )
    return found


def _column_of(table: Table, role: str, wanted: str | int) -> int:
    names = table.names
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    short = [name.partition(":")[0] for name in names]  # RecBole writes the type of a column after a colon
    if isinstance(wanted, str) and wanted in short:
        return short.index(wanted)
    if isinstance(wanted, int | np.integer) and not isinstance(wanted, bool) and 0 <= wanted < len(names):
        return int(wanted)
    raise ValueError(f"{role}={wanted!r} is not a column of {table.path}, which has {', '.join(names)}")


def _rating_file(path: Path) -> Path:
    if path.is_dir():
        inside = [path / name for name in _FOLDER if (path / name).is_file()]
        if not inside:
            raise FileNotFoundError(f"no {', '.join(_FOLDER)} in the folder {path}")
        return inside[0]
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    return path
