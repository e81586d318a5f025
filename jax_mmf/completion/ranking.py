"""Ranking: the best items of users, and recommendations."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.codes import power_of_two
from jax_mmf.completion.factors import Factors, score_all
from jax_mmf.completion.ratings import Ratings
from jax_mmf.typing import Array, HostArray

MOST_SCORES = 1 << 24  # in memory at a time

RowSource = Callable[[HostArray], tuple[Factors, HostArray]]
"""Function from positions of users to factors that hold these users, and their places there."""


class Recommendations(NamedTuple):
    """The best items of each user.

    Attributes:
      users: ``(m,)`` ids.
      items: ``(m, n)`` ids, the best first. Where fewer than n items are left for a user: -1 for numbers, NaT for
        dates, None for other ids.
      scores: ``(m, n)`` predictions, ``-inf`` where there is no item.
    """

    users: HostArray
    items: HostArray
    scores: HostArray


def best_items(
    source: RowSource, users: HostArray, n: int, allowed: HostArray, exclude: Ratings | None, counts: HostArray
) -> tuple[HostArray, HostArray]:
    """Find the best items of users.

    Args:
      source: of the users.
      users: ``(m,)`` positions, -1 for unknown users.
      n: number of items.
      allowed: ``(n_items,)`` booleans, the items to choose from.
      exclude: ratings of the same users and items whose items are left out, or None.
      counts: ``(n_items,)`` numbers of ratings, by which items are ranked for users of whom nothing is known.

    Returns:
      positions and scores ``(m, n)``, -1 and -inf where no item is left.
    """
    n_items = len(allowed)
    width = min(n, n_items)
    columns = np.full((len(users), n), -1, np.int64)
    scores = np.full((len(users), n), -np.inf, np.float32)
    size = min(power_of_two(len(users)), max(1, MOST_SCORES // n_items))
    popularity = np.empty(n_items, np.float32)  # ranks; the most rated item has the largest
    popularity[np.argsort(-counts, kind="stable")] = np.arange(n_items, 0, -1)
    for first in range(0, len(users), size):
        rows = users[first : first + size]
        barred = np.tile(~allowed, (size, 1))
        if exclude is not None:
            barred[_entries_of(exclude, rows)] = True
        m = len(rows)
        factors, places = source(np.resize(rows, size))
        best, found = _best(factors, places, barred, popularity, width)
        scores[first : first + m, :width] = np.asarray(best)[:m]
        columns[first : first + m, :width] = np.asarray(found)[:m]
    columns[~np.isfinite(scores)] = -1
    return columns, scores


def _entries_of(ratings: Ratings, users: HostArray) -> tuple[HostArray, HostArray]:
    """Return the entries of users at positions, as places among these users and positions of items."""
    starts = ratings.row_starts()
    counts = np.where(users >= 0, starts[users + 1] - starts[users], 0)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(np.arange(len(users)), counts), ratings.items[np.repeat(starts[users], counts) + within]


def labels_at(labels: HostArray, positions: HostArray) -> HostArray:
    """Return labels at positions; at -1, they are -1 for numbers, NaT for dates, and None for others."""
    best = labels[positions]
    if (positions < 0).any():
        missing: Any = {"i": -1, "u": -1, "M": np.datetime64("NaT"), "m": np.timedelta64("NaT")}.get(labels.dtype.kind)
        wide = {"i": np.int64, "u": object if labels.dtype == np.uint64 else np.int64}.get(labels.dtype.kind)
        best = best if wide is None else best.astype(wide)
        best[positions < 0] = missing
    return best


@functools.partial(jax.jit, static_argnames="n")
def _best(factors: Factors, users: Array, barred: Array, popularity: Array, n: int) -> tuple[Array, Array]:
    scores = jnp.where(barred, -jnp.inf, score_all(factors, users))
    # Without item biases, all items score the same for users without factors. They are ranked by popularity then.
    is_unknown = (users < 0) | jnp.all(factors.users[users] == 0, axis=1)
    is_tie = is_unknown[:, None] & jnp.all(factors.item_bias == 0) & ~barred
    _, found = jax.lax.top_k(jnp.where(is_tie, popularity.astype(scores.dtype), scores), n)
    return jnp.take_along_axis(scores, found, 1), found
