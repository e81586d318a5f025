"""Explicit feedback in mini-batches of users: masked online dictionary learning ([ICML16], section 4.2).

The items are the features of the dictionary. A step solves for the users of a mini-batch, each on the items that it
rated, and improves the items on the surrogate. Few users rate an item, so its moments are averages over these users,
with a separate rate for each item. They are moments of residuals, as with any partial B (see
`jax_mmf.learning.surrogate`).
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from jax_mmf.completion.explicit import ALSState, ExplicitALS, Side
from jax_mmf.completion.factors import Factors, carry_over
from jax_mmf.completion.ragged import Observed, RaggedRows, Tile, observed
from jax_mmf.completion.ratings import Ratings
from jax_mmf.constraints import L2Ball
from jax_mmf.core import check_choice, check_count, matmul, register_configuration
from jax_mmf.learning import (
    BatchMoments,
    BlockCoordinateDescent,
    DictionaryProblem,
    Forgetting,
    FullSubset,
    PowerForgetting,
)
from jax_mmf.typing import Array, Float, HostArray, Key

_BIAS_EPOCHS = 5
_MOST_SEEN = 2**31 - 2  # one below the largest int32, since forgetting rules may add one
_RADIUS = 0.05  # largest mean square of an atom, chosen to give alpha about the same effect as in ExplicitALS


class OnlineState(NamedTuple):
    """State of the online solver.

    Attributes:
      model: mean, biases and factors as in alternating least squares. A user has those of its last mini-batch.
      c: ``(k, k)`` second moments of the factors of the users.
      residual: ``(k, n_items)`` mean products of these factors with the residuals of the ratings.
      rates: ``(n_items,)`` mean number of ratings of each item per user. A count would stop at 2^24 in single
        precision.
      n_seen: int32 scalar, number of users seen, which stops at 2^31 - 2.
    """

    model: ALSState
    c: Array
    residual: Array
    rates: Array
    n_seen: Array


@register_configuration
@dataclass(frozen=True)
class ExplicitOnline:
    """Configuration of masked online dictionary learning for ratings [ICML16].

    Biases of the dictionary side are fitted once, at the start and without factors. Those of the streamed side are
    solved for together with its factors. The atoms of the dictionary are in an l2 ball.

    Attributes:
      n_components: k, number of factors, or atoms (static).
      alpha: strength of the ridge penalty on the factors of the streamed side, per rating of a user with an average
        number of ratings.
      scaling: exponent with which that penalty grows with the number of ratings of a user; 1 in [ICML16].
      bias_alpha: strength of the penalty on biases, > 0.
      forgetting: rule for the weight of a mini-batch.
      batch_size: users in a mini-batch (static).
      n_sweeps: passes over the atoms in a step (static).
      streamed: the side that is streamed, ``"users"`` or ``"items"``; the other one is the dictionary (static).

    Raises:
      ValueError: for numbers out of range, and another side.
      TypeError: for values that are not numbers.
    """

    n_components: int = field(default=32, metadata={"static": True})
    alpha: Float = 0.1
    scaling: Float = 0.5
    bias_alpha: Float = 3.0
    forgetting: Forgetting = PowerForgetting(0.9)
    batch_size: int = field(default=64, metadata={"static": True})
    n_sweeps: int = field(default=1, metadata={"static": True})
    streamed: str = field(default="users", metadata={"static": True})

    feedback = "explicit"

    def __post_init__(self) -> None:
        for name in ("n_components", "batch_size", "n_sweeps"):
            check_count(name, getattr(self, name))
        check_choice("streamed", self.streamed, ("users", "items"))
        _ = self._ridge(self.n_components)

    def _ridge(self, n_components: int) -> ExplicitALS:
        """Return the configuration of alternating least squares that solves for the users."""
        return ExplicitALS(
            n_components, self.alpha, scaling=self.scaling, bias_alpha=self.bias_alpha, variational=False
        )

    def prepare(self, ratings: Ratings, mesh: Mesh | None = None) -> Observed:
        """Convert ratings to arrays on the device; ``by_user`` holds mini-batches of the streamed side."""
        if mesh is not None:
            raise ValueError(
                "mesh must be None, since ExplicitOnline runs on one device; use ExplicitALS on several devices"
            )
        return observed(ratings, transposed=self.streamed == "items", block=self.batch_size)

    def init(self, key: Key, data: Observed) -> OnlineState:
        """Fit the biases, and draw random atoms on the sphere."""
        plain, (key_biases, key_atoms) = self._ridge(1), jax.random.split(key)
        model = plain.init(key_biases, data)
        # With zeros as factors, half-steps fit the biases alone.
        model = model._replace(items=model.items._replace(factors=jnp.zeros_like(model.items.factors)))
        model = lax.fori_loop(0, _BIAS_EPOCHS, lambda _, model: plain.epoch(key_biases, model, data), model)
        k, n_users, n_items = self.n_components, data.by_user.n_rows, data.by_item.n_rows
        atoms = jax.random.normal(key_atoms, (k, n_items), model.mean.dtype)
        atoms *= jnp.sqrt(_RADIUS * n_items) / jnp.linalg.norm(atoms, axis=1, keepdims=True)
        users = model.users._replace(factors=jnp.zeros((n_users, k), atoms.dtype))
        return OnlineState(
            ALSState(model.mean, users, model.items._replace(factors=atoms.T), model.noise),
            jnp.zeros((k, k), atoms.dtype),
            jnp.zeros((k, n_items), atoms.dtype),
            jnp.zeros(n_items, atoms.dtype),
            jnp.zeros((), jnp.int32),
        )

    def epoch(self, key: Key, state: OnlineState, data: Observed) -> OnlineState:
        """Do a step on each mini-batch of users, in random order."""
        rows = data.by_user
        n_blocks = rows.numbers.shape[0]

        def step(state: OnlineState, number: Array) -> tuple[OnlineState, None]:
            one = jax.tree.map(lambda a: a[number][None], (rows.tiles, rows.numbers))
            block = RaggedRows(one[0], one[1], jnp.arange(one[1].shape[1], dtype=jnp.int32))
            return self.step(jax.random.fold_in(key, number), state, block), None

        order = jax.random.permutation(jax.random.fold_in(key, n_blocks), n_blocks)  # the number after those of steps
        return lax.scan(step, state, order)[0]

    def step(self, key: Key, state: OnlineState, batch: RaggedRows) -> OnlineState:
        """Do one step on a mini-batch, a block of rows with the users ``batch.numbers``."""
        ridge, model, numbers = self._ridge(self.n_components), state.model, batch.numbers[0]
        size, dtype = numbers.shape[0], state.c.dtype
        own = model.users._replace(factors=jnp.zeros((size, self.n_components), dtype), bias=jnp.zeros(size, dtype))
        users, _ = ridge.half_step(batch, own, model.items, model.mean, model.noise)
        products, seen = _residual_products(batch, users, model.items, model.mean)

        n_batch = (numbers < model.users.bias.shape[0]).sum()  # the last places of a block may be empty
        n_seen = state.n_seen + jnp.minimum(n_batch, _MOST_SEEN - state.n_seen).astype(jnp.int32)
        weight = self.forgetting.weight(state.n_seen, size).astype(dtype)
        c = (1 - weight) * state.c + weight * matmul(users.factors.T, users.factors) / n_batch
        safe = lambda number: jnp.where(number > 0, number, 1)  # noqa: E731
        rates = state.rates + (seen / n_batch - state.rates) * (n_batch.astype(dtype) / n_seen.astype(dtype))
        # A feature that m of b samples have gets the share m / b of the weight, divided by its rate so far.
        share = jnp.minimum(1, weight * seen / n_batch / safe(rates))
        residual = (1 - share) * state.residual + share / safe(seen) * products.T

        atoms = model.items.factors.T
        b = residual + matmul(c, atoms)
        ball = L2Ball(radius=jnp.asarray(_RADIUS, dtype) * atoms.shape[1])
        every = FullSubset().draw(key, state.n_seen, atoms.shape[1])
        budget = jnp.full(atoms.shape[0], ball.radius, dtype)
        problem = DictionaryProblem(c, b, BatchMoments(c, b), budget, every)
        moved, _ = BlockCoordinateDescent(n_sweeps=self.n_sweeps).update(key, atoms, problem, ball, ())

        put = lambda old, new: old.at[numbers].set(new, mode="drop")  # noqa: E731
        all_users = model.users._replace(
            factors=put(model.users.factors, users.factors), bias=put(model.users.bias, users.bias)
        )
        items = model.items._replace(factors=moved.T)
        return OnlineState(model._replace(users=all_users, items=items), c, b - matmul(c, moved), rates, n_seen)

    def resume(self, old: OnlineState, new: OnlineState, users: HostArray, items: HostArray) -> OnlineState:
        """Copy the rows and moments of an old state into a new one; arguments as in `Model.resume`."""
        streamed, other = (users, items) if self.streamed == "users" else (items, users)
        return OnlineState(
            self._ridge(self.n_components).resume(old.model, new.model, streamed, other),
            old.c,
            carry_over(old.residual.T, new.residual.T, other).T,
            carry_over(old.rates, new.rates, other),
            old.n_seen,
        )

    def fold_in(self, state: OnlineState, rows: RaggedRows) -> tuple[Array, Array]:
        """Solve for factors ``(m, k)`` and biases ``(m,)`` of new users, as `ExplicitALS.fold_in` does."""
        return self._ridge(self.n_components).fold_in(_by_users(self.streamed, state.model), rows)

    def factors(self, state: OnlineState) -> Factors:
        """Return the factors of a state."""
        return self._ridge(self.n_components).factors(_by_users(self.streamed, state.model))


def _by_users(streamed: str, model: ALSState) -> ALSState:
    return model if streamed == "users" else model._replace(users=model.items, items=model.users)


def _residual_products(batch: RaggedRows, users: Side, items: Side, mean: Array) -> tuple[Array, Array]:
    """Sum user factors times residuals ``(n_items, k)``, and weights ``(n_items,)``, over a mini-batch."""
    tiles = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), batch.tiles)
    n_items, k = items.factors.shape

    def add(sums: tuple[Array, Array], tile: Tile) -> tuple[tuple[Array, Array], None]:
        own, bias = (a.at[tile.rows].get(mode="fill", fill_value=0) for a in (users.factors, users.bias))
        columns, weights = tile.columns, tile.weights
        scores = jnp.einsum("cwk,ck->cw", items.factors[columns], own, precision="highest")
        error = weights * (tile.values - mean - items.bias[columns] - bias[:, None] - scores)
        total, seen = sums
        return (total.at[columns].add(error[..., None] * own[:, None]), seen.at[columns].add(weights)), None

    zeros = (jnp.zeros((n_items, k), mean.dtype), jnp.zeros(n_items, mean.dtype))
    return lax.scan(add, zeros, tiles)[0]
