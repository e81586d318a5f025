"""Implicit feedback by stochastic gradients: Bayesian personalised ranking (Rendle et al. 2009) with optax."""

import pickle
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from jax_mmf.completion.factors import Factors, carry_over, predict
from jax_mmf.completion.implicit import ImplicitALS, ImplicitState, check_counts
from jax_mmf.completion.ragged import RaggedRows
from jax_mmf.completion.ratings import Ratings
from jax_mmf.core import check_count, check_methods, check_real, register_configuration
from jax_mmf.typing import Array, Float, HostArray, Key

if TYPE_CHECKING:  # importing optax takes as long as the rest of the package
    import optax

_INITIAL_SCALE = 0.1
_STEP = 0.01  # learning rate of Adam
_SHARE_CLICKED = 0.02  # assumed share of items that an average user clicked, for the penalty when users are folded in


class Clicks(NamedTuple):
    """Entries on the device, sorted by user and item.

    Attributes:
      users: ``(n,)`` int32.
      items: ``(n,)`` int32.
      starts: ``(n_users + 1,)`` int32; user u has the entries ``starts[u]`` to ``starts[u + 1] - 1``.
      item_numbers: ``(n_items,)`` int32, 0, 1, 2, ...
    """

    users: Array
    items: Array
    starts: Array
    item_numbers: Array


class BPRState(NamedTuple):
    """Factors, whose mean and user biases are zero, and the state of the optimiser."""

    model: Factors
    optimizer: Any


@register_configuration
@dataclass(frozen=True)
class BPR:
    """Configuration of Bayesian personalised ranking, which learns to score clicked items above others.

    The loss of a clicked item i and a random other item j is ``-log sigmoid(s_ui - s_uj)``. The penalty is
    ``alpha / 2`` times the squares of the factors and biases in these scores.

    Attributes:
      n_components: k, number of factors (static).
      alpha: strength of the penalty, >= 0.
      optimizer: an `optax.GradientTransformation` (static); None for Adam with a learning rate of 0.01. Only models
        with None can be pickled, since optax transformations can't.
      batch_size: number of pairs in a step (static).

    Raises:
      ValueError: for numbers out of range.
      TypeError: if optimizer has no init and update.
    """

    n_components: int = field(default=64, metadata={"static": True})
    alpha: Float = 0.01
    optimizer: "optax.GradientTransformation | None" = field(default=None, metadata={"static": True})
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
                "a BPR model whose optimizer is an optax transformation can't be pickled, since optax uses local "
                "functions; use optimizer=None (Adam), or jax_mmf.completion.save_model and load_model(path, model=...)"
            ) from error
        return self.__dict__

    def __copy__(self) -> "BPR":
        return self  # immutable

    def __deepcopy__(self, memo: dict[int, Any]) -> "BPR":
        return self

    @property
    def transformation(self) -> "optax.GradientTransformation":
        """The optimiser, Adam if None was given."""
        import optax

        return optax.adam(_STEP) if self.optimizer is None else self.optimizer

    def prepare(self, ratings: Ratings, mesh: Mesh | None = None) -> Clicks:
        """Convert ratings to clicks on the device: all entries of non-zero value and weight, which count equally."""
        if mesh is not None:
            raise ValueError("mesh must be None, since BPR runs on one device; use ImplicitALS on several devices")
        if len(ratings) > np.iinfo(np.int32).max:
            raise ValueError(
                f"BPR takes at most {np.iinfo(np.int32).max:,} entries, since it numbers them in int32, got "
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
        """Return random factors, and the initial state of the optimiser."""
        k, (n_users, n_items) = self.n_components, (data.starts.shape[0] - 1, data.item_numbers.shape[0])
        users, items = (
            _INITIAL_SCALE * jax.random.normal(own, (n, k))
            for own, n in zip(jax.random.split(key), (n_users, n_items), strict=True)
        )
        zero = jnp.zeros((), users.dtype)
        model = Factors(zero, jnp.zeros(n_users, users.dtype), jnp.zeros(n_items, users.dtype), users, items)
        return BPRState(model, self.transformation.init(model))

    def epoch(self, key: Key, state: BPRState, data: Clicks) -> BPRState:
        """Do a step on each mini-batch of entries, in random order, with a random other item for each entry."""
        n, n_items = data.users.shape[0], data.item_numbers.shape[0]
        size = min(self.batch_size, n)
        key_order, key_others = jax.random.split(key)
        order = jax.random.permutation(key_order, n)
        batches = jnp.resize(order, (-(-n // size), size))  # the first entries fill the last batch
        others = jax.random.randint(key_others, batches.shape, 0, n_items)

        import optax

        def step(state: BPRState, batch: tuple[Array, Array]) -> tuple[BPRState, None]:
            entries, other = batch
            users, items = data.users[entries], data.items[entries]
            gradient = jax.grad(self.loss)(state.model, users, items, other, ~_clicked(data, users, other))
            gradient = gradient._replace(mean=jnp.zeros_like(gradient.mean), user_bias=0 * gradient.user_bias)
            updates, optimizer = self.transformation.update(gradient, state.optimizer, state.model)
            return BPRState(optax.apply_updates(state.model, updates), optimizer), None

        return lax.scan(step, state, (batches, others))[0]

    def loss(self, model: Factors, users: Array, items: Array, others: Array, valid: Array) -> Array:
        """Return the mean loss of pairs of items ``(b,)``; pairs that are not valid count as zero."""
        difference = predict(model, users, items) - predict(model, users, others)
        norms = jnp.sum(model.users[users] ** 2 + model.items[items] ** 2 + model.items[others] ** 2, -1)
        norms += model.item_bias[items] ** 2 + model.item_bias[others] ** 2
        each = jax.nn.softplus(-difference) + 0.5 * jnp.asarray(self.alpha, norms.dtype) * norms
        return jnp.sum(jnp.where(valid, each, 0)) / users.shape[0]

    def resume(self, old: BPRState, new: BPRState, users: HostArray, items: HostArray) -> BPRState:
        """Copy the rows of an old state into a new one, but not its optimiser; arguments as in `Model.resume`."""
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
        """Solve for the factors ``(m, k)`` of new users as `ImplicitALS` does by default; the biases are zero."""
        items = state.model.items
        one = jnp.ones((), items.dtype)
        als = ImplicitALS(self.n_components)
        clicks = replace(rows, tiles=rows.tiles._replace(values=jnp.ones_like(rows.tiles.values)))
        return als.fold_in(ImplicitState(items[:0], items, _SHARE_CLICKED * items.shape[0] * one, one), clicks)

    def factors(self, state: BPRState) -> Factors:
        """Return the factors of a state."""
        return state.model


def _clicked(data: Clicks, users: Array, items: Array) -> Array:
    """Whether users clicked items ``(b,)``, by bisection of the items of each user."""
    low, high = data.starts[users], data.starts[users + 1]
    end, last = high, data.items.shape[0] - 1

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2  # low + high may overflow int32
        below = (low < high) & (data.items[jnp.minimum(middle, last)] < items)
        return jnp.where(below, middle + 1, low), jnp.where(below | (low >= high), high, middle)

    found, _ = lax.fori_loop(0, data.item_numbers.shape[0].bit_length(), halve, (low, high))
    return (found < end) & (data.items[jnp.minimum(found, last)] == items)
