"""Implicit feedback: clicks and counts, by weighted alternating least squares over all pairs.

The problem, with ``w = confidence * weight * value`` of an entry (values are one for clicks), the weight
``n_u = sum of w + unobserved_weight * n_items`` of a user, its mean n_bar, and w_bar, the mean of ``sum of w``::

    min  sum over entries  w / 2 (1 - a_u . d_i)^2  +  unobserved_weight / 2  sum over all pairs (a_u . d_i)^2
         + alpha / 2  sum over users  w_bar (n_u / n_bar)^scaling |a_u|^2,  the same for the items d_i

This is iALS (Hu, Koren and Volinsky 2008), the penalty scaled as by Rendle et al. 2022, by blocks of factors iALS++
(Rendle et al. 2021). Both have a penalty per n_u, which is mostly unobserved weight: the best one falls nearly in
proportion as unobserved_weight rises. Here alpha is per weight of entries, and its best value moves little
(docs/recommenders.md).
"""

from dataclasses import dataclass, field
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


class ImplicitState(NamedTuple):
    """State of iALS.

    Attributes:
      users: ``(n_users, k)``.
      items: ``(n_items, k)``.
      user_load: scalar, the mean weight of the entries of a user, w_bar.
      item_load: scalar, that of an item.
    """

    users: Array
    items: Array
    user_load: Array
    item_load: Array


class BlockSums(NamedTuple):
    """Sums over the entries of each row, on some of the factors: ``gram`` ``(m, d, d)``, ``pull`` ``(m, d)``."""

    gram: Array
    pull: Array


@register_configuration
@dataclass(frozen=True)
class ImplicitALS:
    """Weighted alternating least squares for clicks and counts: configuration.

    Attributes:
      n_components: k, number of factors (static).
      alpha: strength of the penalty, >= 0, per weight of the entries of a mean user or item.
      unobserved_weight: weight > 0 of the pairs without an entry, whose target is zero.
      confidence: weight of an entry, times its value and its weight.
      scaling: how the penalty grows with the weight of a user or item: 0, the same for all; 1, in proportion.
      block_size: number of factors that are solved for at a time (static), as in iALS++, which costs less where k is
        large; None for all.

    Raises:
      ValueError: for numbers out of range.
      TypeError: for values that are not numbers.
    """

    n_components: int = field(default=64, metadata={"static": True})
    alpha: Float = 0.2
    unobserved_weight: Float = 0.3
    confidence: Float = 1.0
    scaling: Float = 0.5
    block_size: int | None = field(default=None, metadata={"static": True})

    feedback = "implicit"

    def __post_init__(self) -> None:
        check_count("n_components", self.n_components)
        check_real("alpha", self.alpha, low=0.0)
        check_real("unobserved_weight", self.unobserved_weight, low=0.0, open_low=True)
        check_real("confidence", self.confidence, low=0.0, open_low=True)
        check_real("scaling", self.scaling)
        if self.block_size is not None:
            check_count("block_size", self.block_size)

    def prepare(self, ratings: Ratings, mesh: Mesh | None = None) -> Observed:
        """Ratings as arrays on the device, or the devices of a mesh."""
        check_counts(ratings)
        return observed(ratings, mesh)

    def init(self, key: Key, data: Observed) -> ImplicitState:
        """Random factors of the items, zeros for the users."""
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
        """A half-step of the users and one of the items; nothing is random."""
        users = self.half_step(data.by_user, state.users, state.items, state.user_load)
        items = self.half_step(data.by_item, state.items, users, state.item_load)
        return state._replace(users=users, items=items)

    def half_step(self, rows: RaggedRows, own: Array, other: Array, load: Array) -> Array:
        """The best users for given items, or the best items for given users.

        Args:
          rows: entries by user, or by item.
          own: ``(n, k)`` what is solved for; blocks of factors start there.
          other: ``(m, k)`` factors of the columns.
          load: scalar, mean weight of the entries of a row.

        Returns:
          ``(n, k)``.
        """
        k, dtype = self.n_components, own.dtype
        unobserved, alpha = (jnp.asarray(v, dtype) for v in (self.unobserved_weight, self.alpha))

        def block(shared: Any, tiles: Tile, numbers: Array) -> Array:
            own, other, everything, load = shared
            factors = own.at[numbers].get(mode="fill", fill_value=0)
            entries = tiles._replace(weights=self.confidence * tiles.weights * tiles.values)
            weight = sum_rows(entries, numbers.shape[0], lambda tile: tile.weights.sum(1))
            everywhere = unobserved * other.shape[0]
            penalty = alpha * load * ((weight + everywhere) / (load + everywhere)) ** jnp.asarray(self.scaling, dtype)
            for first in range(0, k, self.block_size or k):
                part = slice(first, min(k, first + (self.block_size or k)))
                sums = sum_rows(entries, numbers.shape[0], lambda tile: _chunk_sums(tile, factors, other, part))  # noqa: B023
                # Newton's step of a quadratic function: exact on these factors, the others held.
                factor = cholesky_shifted(sums.gram + everything[part, part], penalty)
                pull = sums.pull - matmul(factors, everything[:, part]) - penalty[:, None] * factors[:, part]
                moved = factors[:, part] + cho_solve(factor, pull)
                factors = lax.dynamic_update_slice(factors, moved, (0, first))
            return factors

        everything = unobserved * self_product(other.T)
        out: Array = map_blocks(block, (own, other, everything, load), rows)
        return out

    def resume(self, old: ImplicitState, new: ImplicitState, users: HostArray, items: HostArray) -> ImplicitState:
        """A first state with the rows of an old one: arguments as in `Model.resume`."""
        return new._replace(
            users=carry_over(old.users, new.users, users), items=carry_over(old.items, new.items, items)
        )

    def fold_in(self, state: ImplicitState, rows: RaggedRows) -> tuple[Array, Array]:
        """Factors ``(m, k)`` of other users, from their entries and the items of a state, and biases of zero.

        Differentiable in the state, the entries and the numbers of the configuration.
        """
        start = jnp.zeros((rows.n_rows, self.n_components), state.items.dtype)
        whole = ImplicitALS(self.n_components, self.alpha, self.unobserved_weight, self.confidence, self.scaling)
        return whole.half_step(rows, start, state.items, state.user_load), start[:, 0]

    def factors(self, state: ImplicitState) -> Factors:
        """The model of a state: scores without mean and biases."""
        users, items = state.users, state.items
        zeros = lambda rows: jnp.zeros(rows.shape[0], rows.dtype)  # noqa: E731
        return Factors(jnp.zeros((), users.dtype), zeros(users), zeros(items), users, items)


def check_counts(ratings: Ratings) -> None:
    """Raise ValueError unless values are counts, of which some weigh something."""
    if (ratings.values < 0).any():
        raise ValueError(
            f"implicit feedback must be counts >= 0, got {ratings.values.min():g}; ratings.positives(threshold) "
            "makes clicks of ratings"
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
