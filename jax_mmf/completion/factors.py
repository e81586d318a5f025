"""Factors of a rating matrix and their predictions, as pure functions that are differentiable in all factors."""

from typing import NamedTuple

import jax.numpy as jnp

from jax_mmf.core import matmul
from jax_mmf.typing import Array, ArrayLike, HostArray


class Factors(NamedTuple):
    """A model of ratings: ``mean + user_bias[u] + item_bias[i] + users[u] @ items[i]``.

    Attributes:
      mean: scalar.
      user_bias: ``(n_users,)``.
      item_bias: ``(n_items,)``.
      users: ``(n_users, k)``.
      items: ``(n_items, k)``.
    """

    mean: Array
    user_bias: Array
    item_bias: Array
    users: Array
    items: Array


def predict(factors: Factors, users: ArrayLike, items: ArrayLike) -> Array:
    """Predict the values of pairs of a user and an item, by their positions.

    A position of -1 means an unknown user or item. The prediction then uses only the mean and the bias of the
    other one.

    Args:
      factors: the model.
      users: ``(...)`` int32 positions.
      items: ``(...)`` int32 positions.

    Returns:
      ``(...)``.
    """
    users, items = jnp.asarray(users), jnp.asarray(items)
    known_user, known_item = users >= 0, items >= 0
    product = jnp.sum(factors.users[users] * factors.items[items], -1)
    return (
        factors.mean
        + jnp.where(known_user, factors.user_bias[users], 0)
        + jnp.where(known_item, factors.item_bias[items], 0)
        + jnp.where(known_user & known_item, product, 0)
    )


def score_all(factors: Factors, users: ArrayLike) -> Array:
    """Predict all items for users at positions, -1 as in `predict`: ``(b,) -> (b, n_items)``."""
    users = jnp.asarray(users)
    known = (users >= 0)[:, None]
    own = factors.user_bias[users][:, None] + matmul(factors.users[users], factors.items.T)
    return factors.mean + factors.item_bias + jnp.where(known, own, 0)


def carry_over(old: Array, new: Array, positions: HostArray) -> Array:
    """Take rows of ``old`` at ``positions``, and rows of ``new`` where the position is -1."""
    known = (positions >= 0).reshape(-1, *[1] * (new.ndim - 1))
    return jnp.where(known, old[positions], new)
