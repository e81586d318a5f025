"""Steps of ``jax-mmf recommend``."""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_mmf.cli.report import say
from jax_mmf.completion import (
    BPR,
    EASE,
    BayesianMF,
    CompletionEvent,
    ExplicitALS,
    ExplicitOnline,
    Fitted,
    ImplicitALS,
    Items,
    Labels,
    Model,
    Ratings,
    average_precision,
    fit,
    kind_mismatch,
    label_array,
    mae,
    ndcg,
    read_text,
    recall,
    rmse,
    train_test_split,
    whole_or_text,
)
from jax_mmf.io import written_aside
from jax_mmf.typing import HostArray

MODELS: dict[str, Callable[..., Any]] = {
    "als": ExplicitALS,
    "bayesian": BayesianMF,
    "online": ExplicitOnline,
    "implicit": ImplicitALS,
    "ease": EASE,
    "bpr": BPR,
}
"""Configurations by their names in the command."""

_USERS = 4096  # per call of `Fitted.recommend`


class Report(NamedTuple):
    """Metrics of a model on test ratings, by name."""

    metrics: dict[str, float]

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())


def configuration(kind: str, n_components: int, alpha: float | None) -> Model:
    """Return the configuration of a name in `MODELS`, with its default alpha for None."""
    values: dict[str, Any] = {} if alpha is None else {"alpha": alpha}
    if kind != "ease":  # which has no factors
        values["n_components"] = n_components
    chosen: Model = MODELS[kind](**values)
    return chosen


def evaluate(
    model: Model, ratings: Ratings, share: float, seed: int, n_epochs: int, progress: Callable[[CompletionEvent], Any]
) -> Report:
    """Train on a part of the ratings and test on the rest, split by user for implicit feedback, else at random."""
    key = jax.random.key(seed)
    explicit = model.feedback == "explicit"
    train, test = train_test_split(ratings, test_size=share, key=key, by="random" if explicit else "user")
    fitted = fit(model, train, key=key, n_epochs=n_epochs, callbacks=(progress,))
    if fitted.stopped_by == "interrupt":
        raise KeyboardInterrupt  # there is nothing to save yet
    if explicit:
        return Report({"RMSE": rmse(fitted, test), "MAE": mae(fitted, test)})
    metrics = {"NDCG@10": ndcg, "recall@10": recall, "MAP@10": average_precision}
    return Report({name: metric(fitted, test, k=10, exclude=train) for name, metric in metrics.items()})


def read_users(path: Path, known: Labels) -> HostArray:
    """Read the ids of users from a text file, one in each line.

    They are numbers if the known ids are. A note says how many are unknown.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if none of its ids is known.
    """
    lines = [line.strip() for line in io.StringIO(read_text(path)) if line.strip()]
    if not lines:
        raise ValueError(f"{path} holds no ids of users; write one in each line")
    users = label_array(whole_or_text(lines) if known.kinds == {"whole numbers"} else lines)
    n_new = int((known.positions(users) < 0).sum())
    if n_new == len(users):
        problem = kind_mismatch("users", known, users) or f"the ids of the model are such as {known.values[0]}"
        raise ValueError(f"{path} holds no user of the model: {problem}")
    if n_new:
        say(
            f"jax-mmf: {n_new} of {len(users)} users of {path} are new, and get items that are best overall",
            err=True,
        )
    return users


def rows_of(
    fitted: Fitted, n: int, exclude_seen: bool, items: Items | None, users: HostArray | None = None
) -> Iterator[dict[str, Any]]:
    """Iterate over recommendations: user, rank from 1, item, score, and the title if titles are known."""
    users = fitted.ratings.user_ids.values if users is None else users
    for first in range(0, len(users), _USERS):
        part = users[first : first + _USERS]
        best = fitted.recommend(part, n, exclude_seen=exclude_seen)
        there = np.isfinite(best.scores)
        titles = None if items is None else iter(items.titles_of(best.items[there]))
        for row, user in enumerate(part.tolist()):
            for rank in range(int(there[row].sum())):
                line = {"user": user, "rank": rank + 1, "item": best.items[row, rank]}
                line["score"] = float(best.scores[row, rank])
                if titles is not None:
                    line["title"] = next(titles)
                yield line


def sample(fitted: Fitted, items: Items | None, n: int = 5) -> list[str]:
    """Return example lines: items similar to the most rated item, and recommendations for the first user."""
    titled = lambda ids: ids.tolist() if items is None else items.titles_of(ids)  # noqa: E731
    ratings = fitted.ratings
    popular = ratings.item_ids.values[np.bincount(ratings.items, minlength=ratings.n_items).argmax()]
    first = ratings.user_ids.values[0]
    similar, _ = fitted.similar_items(popular, n)
    best = fitted.recommend([first], n)
    return [
        f"like {titled(np.asarray([popular]))[0]}: {'; '.join(map(str, titled(similar)))}",
        f"for user {first}: {'; '.join(map(str, titled(best.items[0])))}",
    ]


def write_recommendations(
    path: Path, fitted: Fitted, *, n: int, exclude_seen: bool = True, items: Items | None = None,
    users: HostArray | None = None,
) -> int:  # fmt: skip
    """Write the best items of users, all by default, to a ``.csv`` or ``.parquet`` file; return the number of rows.

    The file appears only when it is complete.
    """
    names = ["user", "rank", "item", "score", *(["title"] if items is not None else [])]
    rows = rows_of(fitted, n, exclude_seen, items, users)
    count = 0
    with written_aside(path) as aside:
        if path.suffix == ".parquet":
            return _write_parquet(aside, names, rows)
        with aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            for row in rows:
                writer.writerow(row | {"score": f"{row['score']:.5g}"})
                count += 1
    return count


def _write_parquet(path: Path, names: list[str], rows: Iterator[dict[str, Any]]) -> int:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow; pip install 'jax-mmf[recommend]', or write .csv") from error
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for row in rows:
        for name, column in columns.items():
            value = row[name]
            column.append(value.item() if isinstance(value, np.generic) else value)
    parquet.write_table(pa.table(columns), path)
    return len(columns["user"])
