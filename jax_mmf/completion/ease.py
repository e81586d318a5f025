"""Clicks by a linear model of items: EASE (Steck 2019)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jax_mmf.completion.factors import Factors
from jax_mmf.completion.implicit import check_counts
from jax_mmf.completion.prior import inverse
from jax_mmf.completion.ragged import RaggedRows
from jax_mmf.completion.ratings import Ratings
from jax_mmf.core import check_real, register_configuration
from jax_mmf.typing import Array, Float, HostArray, Key

_MOST_ITEMS = 20_000


class Counts(NamedTuple):
    """Numbers of common users of items on the device: ``gram`` ``(n_items, n_items)``, ``users`` ``(n_users, 0)``."""

    gram: Array
    users: Array


class EASEState(NamedTuple):
    """State of EASE.

    Attributes:
      weights: ``(n_items, n_items)``, what a click on the item of the row adds to the score of that of the column.
      users: ``(n_users, 0)``, since users have no factors.
    """

    weights: Array
    users: Array


@register_configuration
@dataclass(frozen=True)
class EASE:
    """Configuration of EASE, which scores an item by the sum of its weights for the items that a user clicked.

    With X the clicks of users on items, the weights B minimise ``|X - X B|^2 + alpha |B|^2`` with a diagonal of zero.
    The solution has a closed form, so that one epoch is enough. It needs memory for a few matrices of n_items x n_items
    numbers, and a user no more than its clicks.

    Attributes:
      alpha: strength of the penalty, > 0. It acts like as many users with a single click, for each item.

    Raises:
      ValueError: for numbers out of range.
      TypeError: for values that are not numbers.
    """

    alpha: Float = 200.0

    feedback = "implicit"
    n_epochs = 1
    scores_clicks = True

    def __post_init__(self) -> None:
        check_real("alpha", self.alpha, low=0.0, open_low=True)

    def prepare(self, ratings: Ratings, mesh: Mesh | None = None) -> Counts:
        """Count the common users of items; entries of non-zero value and weight are clicks, which count equally."""
        if mesh is not None:
            raise ValueError("mesh must be None, since EASE runs on one device; use ImplicitALS on several devices")
        if ratings.n_items > _MOST_ITEMS:
            raise ValueError(
                f"EASE takes at most {_MOST_ITEMS:,} items, since it inverts a matrix of n_items x n_items, got "
                f"{ratings.n_items:,}; use ImplicitALS, or drop items with few clicks"
            )
        check_counts(ratings)
        clicks = click_matrix(ratings)
        dtype = jnp.zeros(()).dtype
        return Counts(jnp.asarray((clicks.T @ clicks).toarray(), dtype), jnp.zeros((ratings.n_users, 0), dtype))

    def init(self, key: Key, data: Counts) -> EASEState:
        """Return weights of zero; the key is not used."""
        return EASEState(jnp.zeros_like(data.gram), data.users)

    def epoch(self, key: Key, state: EASEState, data: Counts) -> EASEState:
        """Compute the weights; the key is not used."""
        identity = jnp.eye(len(data.gram), dtype=data.gram.dtype)
        precision = inverse(data.gram + jnp.asarray(self.alpha, data.gram.dtype) * identity)
        return EASEState(identity - precision / jnp.diagonal(precision), data.users)

    def resume(self, old: EASEState, new: EASEState, users: HostArray, items: HostArray) -> EASEState:
        """Return the new state, since an epoch does not depend on the state before."""
        return new

    def fold_in(self, state: EASEState, rows: RaggedRows) -> tuple[Array, Array]:
        """Return no factors ``(m, 0)`` and biases of zero ``(m,)``: new users are scored by their clicks."""
        zeros = jnp.zeros((rows.n_rows, 1), state.weights.dtype)
        return zeros[:, :0], zeros[:, 0]

    def factors(self, state: EASEState) -> Factors:
        """Return factors of items ``(n_items, n_items)``, whose products with clicks are scores, and none of users."""
        zeros = jnp.zeros(len(state.weights) + len(state.users), state.weights.dtype)
        n = len(state.users)
        return Factors(jnp.zeros((), zeros.dtype), zeros[:n], zeros[n:], state.users, state.weights.T)


def clicked(ratings: Ratings) -> HostArray:
    """Whether each entry is a click: ``(n,)`` booleans."""
    weights = 1 if ratings.weights is None else ratings.weights
    return np.asarray(ratings.values * weights > 0)


def click_matrix(ratings: Ratings) -> Any:
    """Return clicks as a sparse float32 matrix ``(n_users, n_items)`` of zeros and ones."""
    clicks = ratings.to_scipy()
    clicks.data = clicked(ratings).astype(np.float32)
    return clicks


def click_rows(clicks: Any, users: HostArray) -> HostArray:
    """Return rows ``(m, n_items)`` of a matrix of clicks at positions, 0 for those at -1."""
    rows = clicks[np.maximum(users, 0)].toarray()
    return np.where((users >= 0)[:, None], rows, 0)
