"""Similar users and items, and copies of a user without one of its ratings each."""

import numpy as np

from jax_mmf.completion.labels import Labels
from jax_mmf.completion.ratings import Ratings
from jax_mmf.typing import HostArray


def most_similar(vectors: HostArray, position: int, known: HostArray, n: int) -> tuple[HostArray, HostArray]:
    """Return positions and cosines of at most n rows most similar to the one at a position, among known others."""
    norms = np.linalg.norm(vectors, axis=1)
    unit = vectors / np.where(norms > 0, norms, 1)[:, None]
    cosines = unit @ unit[position]
    cosines[position] = -np.inf
    cosines[~known] = -np.inf
    best = np.argsort(-cosines, kind="stable")[: min(n, np.isfinite(cosines).sum())]
    return best, cosines[best]


def without_each(ratings: Ratings, user: int) -> Ratings:
    """Return copies of a user at a position: one with all m ratings, and then m copies, each without one of them."""
    first, end = ratings.row_starts()[user : user + 2]
    m = end - first
    users, entries = np.nonzero(np.arange(m) != np.arange(-1, m)[:, None])
    take = lambda column: None if column is None else column[first + entries]  # noqa: E731
    features = ratings.user_features
    return Ratings(
        Labels(np.arange(m + 1)), ratings.item_ids, users.astype(np.int32), ratings.items[first + entries],
        ratings.values[first + entries], take(ratings.weights),
        user_features=None if features is None else np.repeat(features[user : user + 1], m + 1, 0),
        item_features=ratings.item_features,
    )  # fmt: skip
