"""Synthetic ratings with known factors."""

from typing import NamedTuple

import numpy as np

from jax_mmf.completion.ratings import Ratings
from jax_mmf.core import HostStream, check_count, host_generator
from jax_mmf.typing import HostArray, Key


class PlantedRatings(NamedTuple):
    """Ratings, and what is behind them.

    Attributes:
      ratings: integers from 1 to 5, of all users and items, in random pairs.
      truth: ``(n_users, n_items)`` the expected values, not rounded and without noise; None if they were not asked for.
    """

    ratings: Ratings
    truth: HostArray | None


def make_ratings(
    key: Key,
    n_users: int,
    n_items: int,
    n_ratings: int,
    *,
    n_components: int = 4,
    noise: float = 0.5,
    popularity: float = 1.0,
    truth: bool = False,
) -> PlantedRatings:
    """Ratings of users and items with normal biases and factors, popular items far more often than others.

    Args:
      key: PRNG key.
      n_users: number of users.
      n_items: number of items.
      n_ratings: number of pairs to draw; those drawn twice count once, so that there are a little fewer ratings.
      n_components: number of factors.
      noise: standard deviation of a rating, in stars; biases and factors have 0.4 each.
      popularity: exponent of the power law that items are drawn by; that of users is half of it. 0: all alike.
      truth: whether the expected values of all pairs are wanted, too.

    Returns:
      the ratings, and the truth.
    """
    for name, value in (("n_users", n_users), ("n_items", n_items), ("n_ratings", n_ratings)):
        check_count(name, value)
    rng = host_generator(key, HostStream.RATINGS)
    drawn = []
    for size, exponent in ((n_users, 0.5 * popularity), (n_items, popularity)):
        weight = (1 + np.arange(size) / (0.02 * size)) ** -exponent
        cumulative = np.cumsum(rng.permutation(weight))
        drawn.append(np.searchsorted(cumulative, rng.random(n_ratings) * cumulative[-1]))
    pairs = np.unique(np.minimum(drawn[0], n_users - 1).astype(np.int64) * n_items + np.minimum(drawn[1], n_items - 1))
    users, items = np.divmod(pairs, n_items)
    sides = [
        (0.4 * rng.standard_normal(size), rng.standard_normal((size, n_components)) * np.sqrt(0.4) / n_components**0.25)
        for size in (n_users, n_items)
    ]
    (user_bias, a), (item_bias, d) = sides
    products = np.concatenate(
        [np.einsum("nk,nk->n", a[users[i : i + 10**6]], d[items[i : i + 10**6]]) for i in range(0, len(users), 10**6)]
    )
    expected = 3.5 + user_bias[users] + item_bias[items] + products
    values = np.clip(np.rint(expected + noise * rng.standard_normal(len(users))), 1, 5)
    everything = 3.5 + user_bias[:, None] + item_bias + a @ d.T if truth else None
    ratings = Ratings.from_triplets(users, items, values, user_ids=np.arange(n_users), item_ids=np.arange(n_items))
    return PlantedRatings(ratings, everything)
