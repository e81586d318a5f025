"""The step of online matrix factorization, as pure functions of a configuration and a state."""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.codes import CodeSolver, places_of, power_of_two, solve_codes
from jax_mmf.constraints import Constraint
from jax_mmf.core import Stream, all_finite, filled_up, inner_products, map_rows, stream_key
from jax_mmf.learning.dictionary_update import DictionaryProblem, DictionaryUpdate
from jax_mmf.learning.initialization import Initialization, RandomSamples
from jax_mmf.learning.minibatch import NO_WEIGHTS, MiniBatch, Weights, centred, imputed, partial_batch, whole_batch
from jax_mmf.learning.state import Info, State
from jax_mmf.learning.statistics import Memory, Statistics, View
from jax_mmf.learning.subsampling import FeatureSubset
from jax_mmf.learning.subset import Subset
from jax_mmf.learning.surrogate import count_samples, init_surrogate, settle_residual, update_surrogate
from jax_mmf.penalties import AnyPenalty
from jax_mmf.typing import Array, Key

_UNUSED_SHARE = 1e-6  # an atom whose codes have less than this share of the mean energy counts as unused
_STEP_BITS = 2**31 - 1  # steps are counted modulo 2^31
_REFRESHES = 16  # after p / s times as many steps, quantities that are updated by differences are recomputed


class Configuration(Protocol):
    """The attributes of a solver that a step uses: see `jax_mmf.OnlineFactorization`."""

    @property
    def n_components(self) -> int:
        """Number of atoms (static)."""

    @property
    def penalty(self) -> AnyPenalty:
        """Penalty on the codes."""

    @property
    def constraint(self) -> Constraint:
        """Constraint of the atoms."""

    @property
    def subset(self) -> FeatureSubset:
        """Which features a step sees."""

    @property
    def statistics(self) -> Statistics:
        """What codes are computed from."""

    @property
    def partial_b(self) -> bool:
        """Whether B is updated on the subset only (static)."""

    @property
    def dictionary_update(self) -> DictionaryUpdate:
        """How atoms move."""

    @property
    def initialization(self) -> Initialization:
        """How the first dictionary is made."""

    @property
    def center(self) -> bool:
        """Whether the mean of the samples is learned and subtracted (static)."""

    @property
    def needs_whole_samples(self) -> bool:
        """Whether a step reads features outside of its subset (static)."""

    def batch_weight(self, n_before: Array, batch_size: int | Array) -> Array:
        """Weight of a mini-batch in the moments."""

    def step_code_solver(self, weight: Array) -> CodeSolver:
        """The code solver of a step whose batch has this weight."""


def unused_atoms(c: Array) -> Array:
    """Return which atoms have codes with less than a millionth of the mean energy: ``(k, k) -> (k,)`` booleans."""
    energy = jnp.diagonal(c)
    return energy <= _UNUSED_SHARE * energy.mean()


@functools.partial(jax.jit, static_argnames="from_samples")
def init_state(
    solver: Configuration, key: Key, given: Array, mask: Array | None = None, *, from_samples: bool
) -> State:
    """Make a state; the arguments are checked.

    ``given`` is samples ``(m, p)``, perhaps with a mask ``(p,)`` or ``(m, p)``, or a dictionary ``(k, p)``.
    """
    constraint, k = solver.constraint, solver.n_components
    mean = jnp.zeros(given.shape[1:], given.dtype) if solver.center else None
    if from_samples:
        given = imputed(given, mask)
        if mean is not None:
            mean = given.mean(0)
            given = given - mean
        directions = solver.initialization(stream_key(key, Stream.INITIALIZATION), given, k)
        dictionary = jax.vmap(constraint.scale)(_orient(directions, constraint))
    else:
        dictionary = map_rows(constraint.project, given)
    dtype, p = dictionary.dtype, dictionary.shape[1]
    return State(
        key=key,
        step=jnp.zeros((), jnp.int32),
        n_samples=jnp.zeros((), jnp.int32),
        dictionary=dictionary,
        surrogate=init_surrogate(k, p, dtype, partial_b=solver.partial_b),
        gauge=constraint.gauge(dictionary),
        gram=inner_products(dictionary, dictionary) if solver.statistics.needs_gram else None,
        update_state=solver.dictionary_update.init(dictionary),
        mean=mean,
        mean_weight=None if mean is None else jnp.zeros_like(mean),
    )


def _orient(directions: Array, constraint: Constraint) -> Array:
    """Flip directions so that their positive part is the larger one, if atoms must be non-negative."""
    if not constraint.nonneg:
        return directions
    up, down = jnp.sum(jnp.maximum(directions, 0) ** 2, 1), jnp.sum(jnp.minimum(directions, 0) ** 2, 1)
    return directions * jnp.where(down > up, -1, 1)[:, None]


@functools.partial(jax.jit, static_argnums=3)
def draw_subset(solver: Configuration, key: Key, step: Array, n_features: int) -> Subset:
    """Draw the subset of a step of the run with this key."""
    return solver.subset.draw(stream_key(key, Stream.SUBSET), step & _STEP_BITS, n_features)


class Filled(NamedTuple):
    """The true size of a mini-batch that is padded with rows of zeros, so that batches share a compiled program.

    Attributes:
      n_samples: int32 scalar, the number of samples, which are the first rows.
      weight: scalar, weight of these samples in the moments.
    """

    n_samples: Array
    weight: Array


def step_whole(
    solver: Configuration,
    state: State,
    x: Array,
    memory: Memory | None,
    codes: Array | None,
    filled: Filled | None = None,
    weights: Weights = NO_WEIGHTS,
) -> tuple[State, Info]:
    """Make a step on checked arguments, not jitted. Without ``filled``, all rows are samples."""
    subset = draw_subset(solver, state.key, state.step, state.dictionary.shape[1])
    batch = whole_batch(x, weights, subset, needs_whole=solver.needs_whole_samples)
    return _step(solver, state, batch, subset, memory, codes, filled)


def step_partial(
    solver: Configuration,
    state: State,
    x_subset: Array,
    subset: Subset,
    memory: Memory | None,
    codes: Array | None,
    filled: Filled | None = None,
    weights: Weights = NO_WEIGHTS,
) -> tuple[State, Info]:
    """Make a step on a subset of the features, with checked arguments, not jitted."""
    return _step(solver, state, partial_batch(x_subset, weights, subset), subset, memory, codes, filled)


_step_whole = jax.jit(step_whole)
_step_partial = jax.jit(step_partial)


def update(
    solver: Configuration, state: State, x: Array, memory: Memory | None, codes: Array | None, weights: Weights
) -> tuple[State, Info]:
    """Make a step on checked arguments. Outside of transformations, batches of many sizes share a program."""
    return _fill_up(lambda *rows: _step_whole(solver, state, *rows), solver, state, x, memory, codes, weights)


def partial_update(
    solver: Configuration,
    state: State,
    x_subset: Array,
    subset: Subset,
    memory: Memory | None,
    codes: Array | None,
    weights: Weights,
) -> tuple[State, Info]:
    """Make a step on a subset of the features, with checked arguments and programs as in `update`."""
    step = lambda x, *rows: _step_partial(solver, state, x, subset, *rows)  # noqa: E731
    return _fill_up(step, solver, state, x_subset, memory, codes, weights)


def _fill_up(
    step: Callable[..., tuple[State, Info]],
    solver: Configuration,
    state: State,
    x: Array,
    memory: Memory | None,
    codes: Array | None,
    weights: Weights,
) -> tuple[State, Info]:
    """Make a step on a batch that is padded to a power of two; under a transformation, on the batch unchanged."""
    n_samples = x.shape[0]
    size = power_of_two(n_samples)
    if size == n_samples or places_of(solver, state, x, memory, codes, weights) is None:
        return step(x, memory, codes, None, weights)
    x, memory, codes, weights = filled_up((x, memory, codes, weights), size)
    state, info = step(x, memory, codes, fill(solver, state.n_samples, n_samples), weights)
    return state, of_samples(info, n_samples)


@jax.jit
def fill(solver: Configuration, n_before: Array, n_samples: int | Array) -> Filled:
    """Return the number and the weight of samples after ``n_before`` others, by one program for all sizes."""
    n_samples = jnp.asarray(n_samples, jnp.int32)
    return Filled(n_samples, solver.batch_weight(n_before, n_samples))


@functools.partial(jax.jit, static_argnums=1)
def of_samples(info: Info, n_samples: int) -> Info:
    """Drop the rows that are not samples."""
    rows = {name: getattr(info, name) for name in ("codes", "gap", "n_iter", "memory")}
    return info._replace(**jax.tree.map(lambda a: a[:n_samples], rows))


def _step(
    solver: Configuration,
    state: State,
    batch: MiniBatch,
    subset: Subset,
    memory: Memory | None,
    start: Array | None,
    filled: Filled | None,
) -> tuple[State, Info]:
    """Make one step: algorithm 3 of [TSP18], or algorithm 1 of [ICML16] with partial B."""
    dictionary, dtype = state.dictionary, state.dictionary.dtype
    size: int | Array = batch.x_subset.shape[0]
    atoms = subset.gather(dictionary)
    if filled is None:
        weight = solver.batch_weight(state.n_samples, batch.x_subset.shape[0]).astype(dtype)
    else:
        size, weight = filled.n_samples, filled.weight.astype(dtype)

    mean, mean_weight = state.mean, state.mean_weight
    if mean is not None and mean_weight is not None:
        batch, mean, mean_weight = centred(batch, mean, mean_weight, subset, size)
    reduction = jnp.asarray(subset.reduction, dtype)
    key = stream_key(state.key, Stream.STATISTICS)
    x, x_subset, sample_weight, mask, mask_subset = batch
    view = View(x, x_subset, dictionary, atoms, state.gram, reduction, key, state.step, mask, mask_subset)
    code_problem, memory = solver.statistics.estimate(view, memory)
    start = jnp.zeros_like(code_problem.beta) if start is None else start
    codes, solved = solve_codes(code_problem, solver.penalty, solver=solver.step_code_solver(weight), init=start)
    if filled is not None:
        codes = jnp.where((jnp.arange(codes.shape[0]) < size)[:, None], codes, 0)

    surrogate, b_subset, moments = update_surrogate(
        state.surrogate,
        codes,
        x,
        x_subset,
        atoms,
        subset,
        weight,
        size,
        state.n_samples,
        sample_weight=sample_weight,
        mask=mask_subset,
    )

    constraint = solver.constraint
    gauge_subset = constraint.gauge(atoms)
    radius = jnp.asarray(constraint.radius, dtype)
    # By rounding, the difference may be slightly negative.
    outside = jnp.maximum(state.gauge - gauge_subset, 0) if not subset.is_full else jnp.zeros_like(state.gauge)
    problem = DictionaryProblem(surrogate.c, b_subset, moments, jnp.maximum(radius - outside, 0), subset)
    order_key = stream_key(state.key, Stream.ATOM_ORDER, state.step)
    moved, update_state = solver.dictionary_update.update(order_key, atoms, problem, constraint, state.update_state)

    new_dictionary = subset.scatter(dictionary, moved)
    surrogate = settle_residual(surrogate, b_subset, moved, subset)
    gauge, gram = _follow(solver, state, new_dictionary, atoms, moved, outside, subset)
    new_state = State(
        key=state.key,
        step=(state.step + 1) & _STEP_BITS,
        n_samples=count_samples(state.n_samples, size),
        dictionary=new_dictionary,
        surrogate=surrogate,
        gauge=gauge,
        gram=gram,
        update_state=update_state,
        mean=mean,
        mean_weight=mean_weight,
    )
    info = Info(
        codes=codes,
        weight=weight,
        gap=solved.gap,
        n_iter=solved.n_iter,
        n_dead=unused_atoms(surrogate.c).sum(dtype=jnp.int32),
        finite=all_finite(codes, surrogate.c, gauge),
        memory=memory,
    )
    return new_state, info


def _follow(
    solver: Configuration,
    state: State,
    dictionary: Array,
    before: Array,
    after: Array,
    outside: Array,
    subset: Subset,
) -> tuple[Array, Array | None]:
    """Update gauges and Gram matrix from the atoms on the subset before and after a step, in O(k^2 s).

    Differences accumulate rounding. Both are therefore recomputed once in many steps, at little cost.
    """
    gauge = outside + solver.constraint.gauge(after)
    gram = state.gram
    if subset.is_full:
        return gauge, None if gram is None else inner_products(after, after)
    if gram is not None:
        gram = gram + inner_products(after, after) - inner_products(before, before)

    def afresh() -> tuple[Array, Array | None]:
        exact = None if gram is None else inner_products(dictionary, dictionary)
        return solver.constraint.gauge(dictionary), exact

    period = _REFRESHES * -(-subset.n_features // subset.size)
    return lax.cond((state.step + 1) % period == 0, afresh, lambda: (gauge, gram))


@jax.jit
def revive(solver: Configuration, key: Key, state: State, samples: Array, mask: Array | None = None) -> State:
    """Replace unused atoms by samples; the arguments are checked."""
    dead = unused_atoms(state.surrogate.c)
    samples = imputed(samples, mask)
    samples = samples if state.mean is None else samples - state.mean
    k, m = solver.n_components, samples.shape[0]
    pool = jnp.tile(samples, (-(-k // m), 1))
    fresh = jax.vmap(solver.constraint.scale)(_orient(RandomSamples()(key, pool, k), solver.constraint))
    dictionary = jnp.where(dead[:, None], fresh, state.dictionary)
    surrogate = state.surrogate
    # Zeros in C, B and residuals remove an atom from the surrogate.
    without = lambda rows: None if rows is None else jnp.where(dead[:, None], 0, rows)  # noqa: E731
    return state._replace(
        dictionary=dictionary,
        surrogate=surrogate._replace(
            c=jnp.where(dead[:, None] | dead[None], 0, surrogate.c),
            b=without(surrogate.b),
            residual=without(surrogate.residual),
        ),
        gauge=jnp.where(dead, solver.constraint.gauge(dictionary), state.gauge),
        gram=None if state.gram is None else inner_products(dictionary, dictionary),
    )
