"""Synthetic ratings with known factors."""

from typing import NamedTuple

import numpy as np

from jax_mmf.completion.ratings import Ratings
from jax_mmf.core import HostStream, check_count, host_generator
from jax_mmf.typing import HostArray, Key


class PlantedRatings(NamedTuple):
    """Synthetic ratings, and their expected values.

    Attributes:
      ratings: integers from 1 to 5 for random pairs of users and items.
      truth: ``(n_users, n_items)`` the expected values, without noise and rounding; None with ``truth=False``.
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
    """Generate ratings from normally distributed biases and factors; popular items are rated far more often.

    Args:
      key: PRNG key.
      n_users: number of users.
      n_items: number of items.
      n_ratings: number of pairs to draw; pairs drawn twice count once, so that there are slightly fewer ratings.
      n_components: number of factors.
      noise: standard deviation of the noise; that of biases, and of products of factors, is 0.4.
      popularity: exponent of the power law of the popularity of items; users have half of it. With 0, all are equally
        likely.
      truth: whether to return the expected values of all pairs too.

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
