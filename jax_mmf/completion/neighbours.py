"""Similar users and items, and copies of a user without one of its ratings each."""

from typing import Any

import numpy as np

from jax_mmf.completion.labels import Labels
from jax_mmf.completion.lookup import known_positions
from jax_mmf.completion.ratings import Ratings
from jax_mmf.core import check_count
from jax_mmf.typing import Array, HostArray


def similar(
    name: str, own: Any, labels: Labels, factors: Array, known: HostArray, n: int
) -> tuple[HostArray, HostArray]:
    """Find the users or items whose factors have the largest cosine with those of one of them.

    Args:
      name: ``"user"`` or ``"item"``, for messages.
      own: the id of the one.
      labels: ids of all.
      factors: of all, one row each.
      known: which of them have ratings.
      n: largest number of ids.

    Returns:
      ids and cosines, the most similar first, without ``own`` and those without ratings.
    """
    check_count("n", n)
    (position,) = known_positions(f"{name}s", labels, [own], "error")
    if not known[position]:
        raise ValueError(f"{name} {own!r} has no ratings to compare it by; choose a {name} with ratings")
    vectors = np.asarray(factors)
    norms = np.linalg.norm(vectors, axis=1)
    unit = vectors / np.where(norms > 0, norms, 1)[:, None]
    cosines = unit @ unit[position]
    others = known & (np.arange(len(labels)) != position)
    best = np.argsort(np.where(others, -cosines, np.inf), kind="stable")[: min(n, others.sum())]
    return labels.values[best], cosines[best]


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
