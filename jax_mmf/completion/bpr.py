"""Implicit feedback by gradients: Bayesian personalised ranking (Rendle et al. 2009) with any optax optimiser."""

import pickle
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh

from jax_mmf.completion.factors import Factors, carry_over, predict
from jax_mmf.completion.implicit import ImplicitALS, ImplicitState, check_counts
from jax_mmf.completion.ragged import RaggedRows
from jax_mmf.completion.ratings import Ratings
from jax_mmf.core import check_count, check_methods, check_real, register_configuration
from jax_mmf.typing import Array, Float, HostArray, Key

_INITIAL_SCALE = 0.1
_STEP = 0.01  # of Adam
_SHARE_CLICKED = 0.02  # of the items, by a mean user: for the strength of the penalty when other users are folded in


class Clicks(NamedTuple):
    """Entries on the device, by user, items of a user ascending.

    Attributes:
      users: ``(n,)`` int32.
      items: ``(n,)`` int32.
      starts: ``(n_users + 1,)`` int32, the entries of user u are those from ``starts[u]`` to ``starts[u + 1]``.
      item_numbers: ``(n_items,)`` int32.
    """

    users: Array
    items: Array
    starts: Array
    item_numbers: Array


class BPRState(NamedTuple):
    """Factors, without mean and biases of users, and the state of the optimiser."""

    model: Factors
    optimizer: Any


@register_configuration
@dataclass(frozen=True)
class BPR:
    """Bayesian personalised ranking: configuration. An item that a user clicked should score above one it did not.

    The loss of a clicked item i and a random other item j is ``-log sigmoid(s_ui - s_uj)``, and the penalty
    ``alpha / 2`` times the squares of the factors and biases that these scores are made of.

    Attributes:
      n_components: k, number of factors (static).
      alpha: strength of the penalty, >= 0.
      optimizer: an `optax.GradientTransformation` (static); None is Adam with a step of 0.01. A model with another one
        can't be pickled, since those of optax can't.
      batch_size: pairs in a step (static).

    Raises:
      ValueError: for numbers out of range.
      TypeError: if optimizer has no init and update.
    """

    n_components: int = field(default=64, metadata={"static": True})
    alpha: Float = 0.01
    optimizer: optax.GradientTransformation | None = field(default=None, metadata={"static": True})
    batch_size: int = field(default=1024, metadata={"static": True})

    feedback = "implicit"

    def __post_init__(self) -> None:
        check_count("n_components", self.n_components)
        check_count("batch_size", self.batch_size)
        check_real("alpha", self.alpha, low=0.0)
        if self.optimizer is not None:
            check_methods("optimizer", self.optimizer, "optax.GradientTransformation", ("init", "update"))

    def __getstate__(self) -> dict[str, Any]:
        try:
            pickle.dumps(self.optimizer)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(
                "a BPR model whose optimizer is an optax transformation can't be pickled, since that is made of local "
                "functions; use optimizer=None (Adam), or jax_mmf.completion.save_model and load_model(path, model=...)"
            ) from error
        return self.__dict__

    def __copy__(self) -> "BPR":
        return self  # it can't be changed

    def __deepcopy__(self, memo: dict[int, Any]) -> "BPR":
        return self

    @property
    def transformation(self) -> optax.GradientTransformation:
        """The optimiser, also where none is given."""
        return optax.adam(_STEP) if self.optimizer is None else self.optimizer

    def prepare(self, ratings: Ratings, mesh: Mesh | None = None) -> Clicks:
        """Clicks as arrays on the device: the entries whose value and weight are not zero, which all count alike."""
        if mesh is not None:
            raise ValueError("mesh must be None: steps come one after another; ImplicitALS can be spread")
        if len(ratings) > np.iinfo(np.int32).max:
            raise ValueError(
                f"BPR takes at most {np.iinfo(np.int32).max:,} entries, which it numbers in int32, and these are "
                f"{len(ratings):,}; ImplicitALS takes more, or select a part"
            )
        check_counts(ratings)
        if not ratings.values.all() or (ratings.weights is not None and not ratings.weights.all()):
            ratings = ratings.select(ratings.values * (1 if ratings.weights is None else ratings.weights) > 0)
        arrays = (ratings.users, ratings.items, ratings.row_starts())
        numbers = jnp.arange(ratings.n_items, dtype=jnp.int32)
        users, items, starts = (jnp.asarray(a, jnp.int32) for a in arrays)
        return Clicks(users, items, starts, numbers)

    def init(self, key: Key, data: Clicks) -> BPRState:
        """Random factors."""
        k, (n_users, n_items) = self.n_components, (data.starts.shape[0] - 1, data.item_numbers.shape[0])
        users, items = (
            _INITIAL_SCALE * jax.random.normal(own, (n, k))
            for own, n in zip(jax.random.split(key), (n_users, n_items), strict=True)
        )
        zero = jnp.zeros((), users.dtype)
        model = Factors(zero, jnp.zeros(n_users, users.dtype), jnp.zeros(n_items, users.dtype), users, items)
        return BPRState(model, self.transformation.init(model))

    def epoch(self, key: Key, state: BPRState, data: Clicks) -> BPRState:
        """A step on each mini-batch of entries, in random order, each with a random other item."""
        n, n_items = data.users.shape[0], data.item_numbers.shape[0]
        size = min(self.batch_size, n)
        key_order, key_others = jax.random.split(key)
        order = jax.random.permutation(key_order, n)
        batches = jnp.resize(order, (-(-n // size), size))  # the last one is filled up from the first
        others = jax.random.randint(key_others, batches.shape, 0, n_items)

        def step(state: BPRState, batch: tuple[Array, Array]) -> tuple[BPRState, None]:
            entries, other = batch
            users, items = data.users[entries], data.items[entries]
            gradient = jax.grad(self.loss)(state.model, users, items, other, ~_clicked(data, users, other))
            gradient = gradient._replace(mean=jnp.zeros_like(gradient.mean), user_bias=0 * gradient.user_bias)
            updates, optimizer = self.transformation.update(gradient, state.optimizer, state.model)
            return BPRState(optax.apply_updates(state.model, updates), optimizer), None

        return lax.scan(step, state, (batches, others))[0]

    def loss(self, model: Factors, users: Array, items: Array, others: Array, valid: Array) -> Array:
        """Mean loss of pairs of items ``(b,)``; those that are not valid count nothing."""
        difference = predict(model, users, items) - predict(model, users, others)
        norms = jnp.sum(model.users[users] ** 2 + model.items[items] ** 2 + model.items[others] ** 2, -1)
        norms += model.item_bias[items] ** 2 + model.item_bias[others] ** 2
        each = jax.nn.softplus(-difference) + 0.5 * jnp.asarray(self.alpha, norms.dtype) * norms
        return jnp.sum(jnp.where(valid, each, 0)) / users.shape[0]

    def resume(self, old: BPRState, new: BPRState, users: HostArray, items: HostArray) -> BPRState:
        """A first state with the rows of an old one, and a fresh optimiser: arguments as in `Model.resume`."""
        before, after = old.model, new.model
        model = Factors(
            before.mean,
            carry_over(before.user_bias, after.user_bias, users),
            carry_over(before.item_bias, after.item_bias, items),
            carry_over(before.users, after.users, users),
            carry_over(before.items, after.items, items),
        )
        return BPRState(model, new.optimizer)

    def fold_in(self, state: BPRState, rows: RaggedRows) -> tuple[Array, Array]:
        """Factors ``(m, k)`` of other users, and biases of zero: those of `ImplicitALS` with its defaults."""
        items = state.model.items
        one = jnp.ones((), items.dtype)
        solver = ImplicitALS(self.n_components)
        clicks = replace(rows, tiles=rows.tiles._replace(values=jnp.ones_like(rows.tiles.values)))
        return solver.fold_in(ImplicitState(items[:0], items, _SHARE_CLICKED * items.shape[0] * one, one), clicks)

    def factors(self, state: BPRState) -> Factors:
        """The model of a state."""
        return state.model


def _clicked(data: Clicks, users: Array, items: Array) -> Array:
    """Whether users clicked items ``(b,)``: by bisection of the items of each user."""
    low, high = data.starts[users], data.starts[users + 1]
    end, last = high, data.items.shape[0] - 1

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2  # their sum may not fit into int32
        below = (low < high) & (data.items[jnp.minimum(middle, last)] < items)
        return jnp.where(below, middle + 1, low), jnp.where(below | (low >= high), high, middle)

    found, _ = lax.fori_loop(0, data.item_numbers.shape[0].bit_length(), halve, (low, high))
    return (found < end) & (data.items[jnp.minimum(found, last)] == items)
