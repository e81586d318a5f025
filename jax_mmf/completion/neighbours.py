"""Similar users and items, and the ratings that a prediction comes from."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from jax_mmf.completion.labels import Labels
from jax_mmf.completion.ratings import Ratings
from jax_mmf.typing import HostArray

if TYPE_CHECKING:
    from jax_mmf.completion.fitted import Fitted


def most_similar(vectors: HostArray, position: int, known: HostArray, n: int) -> tuple[HostArray, HostArray]:
    """Return positions and cosines of at most n rows most similar to the one at a position, among known others."""
    norms = np.linalg.norm(vectors, axis=1)
    unit = vectors / np.where(norms > 0, norms, 1)[:, None]
    cosines = unit @ unit[position]
    cosines[position] = -np.inf
    cosines[~known] = -np.inf
    best = np.argsort(-cosines, kind="stable")[: min(n, np.isfinite(cosines).sum())]
    return best, cosines[best]


def contributions(fitted: "Fitted", user: int, item: int) -> tuple[HostArray, HostArray]:
    """Return what each rating of a user adds to a prediction: positions of items, and differences, both ``(m,)``."""
    ratings = fitted.ratings
    first, end = ratings.row_starts()[user : user + 2]
    m = end - first
    # User 0 has all ratings, and user j lacks the one before number j.
    kept = np.arange(m) != np.arange(-1, m)[:, None]
    users, entries = np.nonzero(kept)
    take = lambda column: None if column is None else column[first + entries]  # noqa: E731
    features = ratings.user_features
    others = Ratings(
        Labels(np.arange(m + 1)), ratings.item_ids, users.astype(np.int32), ratings.items[first + entries],
        ratings.values[first + entries], take(ratings.weights),
        user_features=None if features is None else np.repeat(features[user : user + 1], m + 1, 0),
    )  # fmt: skip
    folded = replace(fitted, limits=None).fold_in(others)
    scores = folded.predict_positions(np.arange(m + 1), np.full(m + 1, item)).astype(np.float64)
    return ratings.items[first:end], scores[0] - scores[1:]
