"""Implicit feedback (clicks and counts), by weighted alternating least squares over all pairs.

An entry has the weight ``w = confidence * weight * value`` (clicks have value one), and a user the weight
``n_u = sum of w + unobserved_weight * n_items``. With n_bar the mean of n_u over the users, and w_bar the mean of
``sum of w``, the problem is::

    min  sum over entries  w / 2 (1 - a_u . d_i)^2  +  unobserved_weight / 2  sum over all pairs (a_u . d_i)^2
         + alpha / 2  sum over users  w_bar (n_u / n_bar)^scaling |a_u|^2,  and the same for the items d_i

This is iALS (Hu, Koren and Volinsky 2008) with the penalty scaling of Rendle et al. (2022); with blocks of factors it
is iALS++ (Rendle et al. 2021). The papers define the penalty per n_u, most of which is unobserved weight. Their best
penalty is therefore nearly inversely proportional to unobserved_weight. Here alpha is relative to the weight of the
entries, and its best value changes little (docs/notes/recommenders.md).
"""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from jax_mmf.completion.factors import Factors, carry_over
from jax_mmf.completion.ragged import Observed, RaggedRows, Tile, map_blocks, observed, sum_rows, total_weight
from jax_mmf.completion.ratings import Ratings
from jax_mmf.core import (
    check_count,
    check_real,
    cho_solve,
    cholesky_shifted,
    matmul,
    register_configuration,
    self_product,
)
from jax_mmf.typing import Array, Float, HostArray, Key

_INITIAL_SCALE = 0.1
_STRENGTH = 0.58  # docs/notes/recommenders.md


class ImplicitState(NamedTuple):
    """State of iALS.

    Attributes:
      users: ``(n_users, k)``.
      items: ``(n_items, k)``.
      user_mean_weight: scalar, the mean over users of the total weight of their entries, w_bar.
      item_mean_weight: scalar, the same for items.
    """

    users: Array
    items: Array
    user_mean_weight: Array
    item_mean_weight: Array


class BlockSums(NamedTuple):
    """Sums over the entries of each row, on some of the factors: ``gram`` ``(m, d, d)``, ``pull`` ``(m, d)``."""

    gram: Array
    pull: Array


@register_configuration
@dataclass(frozen=True)
class ImplicitALS:
    """Configuration of weighted alternating least squares for clicks and counts.

    Attributes:
      n_components: k, number of factors (static).
      alpha: strength of the penalty, >= 0, relative to the weight of the entries of an average user or item. By default
        ``0.58 (n_u^-1/2 + n_i^-1/2)``, with n_u and n_i the mean number of clicks of a user and of an item.
      unobserved_weight: weight > 0 of the pairs without an entry, whose target is zero.
      confidence: factor > 0 of the weight of an entry, which is ``confidence * weight * value``.
      scaling: exponent with which the penalty grows with the weight of a user or item: 0 for a constant penalty, 1 for
        a proportional one.
      block_size: number of factors that are solved for together (static), as in iALS++, which is cheaper for large k;
        None for all.

    Raises:
      ValueError: for numbers out of range.
      TypeError: for values that are not numbers.
    """

    n_components: int = field(default=64, metadata={"static": True})
    alpha: Float | None = None
    unobserved_weight: Float = 0.3
    confidence: Float = 1.0
    scaling: Float = 0.5
    block_size: int | None = field(default=None, metadata={"static": True})

    feedback = "implicit"

    def __post_init__(self) -> None:
        check_count("n_components", self.n_components)
        if self.alpha is not None:
            check_real("alpha", self.alpha, low=0.0)
        check_real("unobserved_weight", self.unobserved_weight, low=0.0, open_low=True)
        check_real("confidence", self.confidence, low=0.0, open_low=True)
        check_real("scaling", self.scaling)
        if self.block_size is not None:
            check_count("block_size", self.block_size)

    def prepare(self, ratings: Ratings, mesh: Mesh | None = None) -> Observed:
        """Convert ratings to arrays on the device, or on the devices of a mesh."""
        check_counts(ratings)
        return observed(ratings, mesh)

    def init(self, key: Key, data: Observed) -> ImplicitState:
        """Return random factors for the items, and zeros for the users."""
        k, n_users, n_items = self.n_components, data.by_user.n_rows, data.by_item.n_rows
        total = self.confidence * total_weight(data.by_user, values=True)
        items = _INITIAL_SCALE / jnp.sqrt(k) * jax.random.normal(key, (n_items, k), total.dtype)
        return ImplicitState(
            jnp.zeros((n_users, k), total.dtype),
            items.astype(total.dtype),
            total / n_users,
            total / n_items,
        )

    def epoch(self, key: Key, state: ImplicitState, data: Observed) -> ImplicitState:
        """Do a half-step for the users and one for the items; the key is not used."""
        model = self.with_alpha(state)
        users = model.half_step(data.by_user, state.users, state.items, state.user_mean_weight)
        items = model.half_step(data.by_item, state.items, users, state.item_mean_weight)
        return state._replace(users=users, items=items)

    def with_alpha(self, state: ImplicitState) -> "ImplicitALS":
        """Return the configuration with a number as alpha.

        By default, the penalty follows the largest singular value of a random matrix with as many clicks, which grows
        with the root of their number per row and per column: factors below it are noise.
        """
        if self.alpha is not None:
            return self
        clicks = jnp.stack([state.user_mean_weight, state.item_mean_weight]) / self.confidence
        return replace(self, alpha=_STRENGTH * jnp.sum(1 / jnp.sqrt(clicks)))

    def half_step(self, rows: RaggedRows, own: Array, other: Array, mean_weight: Array) -> Array:
        """Solve for the users with given items, or for the items with given users, with a number as alpha.

        Args:
          rows: entries by user, or by item.
          own: ``(n, k)`` current factors of the rows, which matter only with blocks of factors.
          other: ``(m, k)`` factors of the columns.
          mean_weight: scalar, mean over rows of the total weight of their entries.

        Returns:
          ``(n, k)``.
        """
        k, dtype = self.n_components, own.dtype
        unobserved, alpha = (jnp.asarray(v, dtype) for v in (self.unobserved_weight, self.alpha))

        def block(shared: Any, tiles: Tile, numbers: Array) -> Array:
            own, other, everything, mean = shared
            factors = own.at[numbers].get(mode="fill", fill_value=0)
            entries = tiles._replace(weights=self.confidence * tiles.weights * tiles.values)
            weight = sum_rows(entries, numbers.shape[0], lambda tile: tile.weights.sum(1))
            everywhere = unobserved * other.shape[0]
            penalty = alpha * mean * ((weight + everywhere) / (mean + everywhere)) ** jnp.asarray(self.scaling, dtype)
            for first in range(0, k, self.block_size or k):
                part = slice(first, min(k, first + (self.block_size or k)))
                sums = sum_rows(entries, numbers.shape[0], lambda tile: _chunk_sums(tile, factors, other, part))  # noqa: B023
                # A Newton step on a quadratic function is exact for these factors, with the others fixed.
                factor = cholesky_shifted(sums.gram + everything[part, part], penalty)
                pull = sums.pull - matmul(factors, everything[:, part]) - penalty[:, None] * factors[:, part]
                moved = factors[:, part] + cho_solve(factor, pull)
                factors = lax.dynamic_update_slice(factors, moved, (0, first))
            return factors

        everything = unobserved * self_product(other.T)
        out: Array = map_blocks(block, (own, other, everything, mean_weight), rows)
        return out

    def resume(self, old: ImplicitState, new: ImplicitState, users: HostArray, items: HostArray) -> ImplicitState:
        """Copy the rows of an old state into a new one; arguments as in `Model.resume`."""
        return new._replace(
            users=carry_over(old.users, new.users, users), items=carry_over(old.items, new.items, items)
        )

    def fold_in(self, state: ImplicitState, rows: RaggedRows) -> tuple[Array, Array]:
        """Solve for the factors ``(m, k)`` of new users from their entries and the items of a state.

        The biases are zero. The result is differentiable in the state, the entries and the numbers of the
        configuration.
        """
        start = jnp.zeros((rows.n_rows, self.n_components), state.items.dtype)
        whole = replace(self.with_alpha(state), block_size=None)
        return whole.half_step(rows, start, state.items, state.user_mean_weight), start[:, 0]

    def factors(self, state: ImplicitState) -> Factors:
        """Return the factors of a state; mean and biases are zero."""
        users, items = state.users, state.items
        zeros = lambda rows: jnp.zeros(rows.shape[0], rows.dtype)  # noqa: E731
        return Factors(jnp.zeros((), users.dtype), zeros(users), zeros(items), users, items)


def check_counts(ratings: Ratings) -> None:
    """Raise ValueError unless all values are counts >= 0, and some entry has a positive value and weight."""
    if (ratings.values < 0).any():
        raise ValueError(
            f"implicit feedback must be counts >= 0, got {ratings.values.min():g}; ratings.positives(threshold) "
            "converts ratings to clicks"
        )
    if not (ratings.values * (1 if ratings.weights is None else ratings.weights)).any():
        raise ValueError("implicit feedback must have an entry whose value and weight are not zero")


def _chunk_sums(tile: Tile, own: Array, other: Array, part: slice) -> BlockSums:
    columns = other[tile.columns]
    scores = jnp.einsum("cwk,ck->cw", columns, own.at[tile.rows].get(mode="fill", fill_value=0), precision="highest")
    some = columns[..., part]
    return BlockSums(
        gram=jnp.einsum("cwk,cwl->ckl", tile.weights[..., None] * some, some, precision="highest"),
        pull=jnp.einsum("cwk,cw->ck", some, tile.weights * (1 - scores), precision="highest"),
    )
