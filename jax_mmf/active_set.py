"""Active sets: codes solved exactly on their support, which grows and shrinks by an atom at a time."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jax_mmf.duality import Weights
from jax_mmf.linalg import matmul
from jax_mmf.typing import Array

_LANE_FLOATS = 2**18  # of all inverses together: they are read and written in every round, and must stay in cache
_MIN_LANES, _MAX_LANES = 32, 256


class Supports(NamedTuple):
    """What `solve_supports` found.

    Attributes:
      codes: ``(k, b)``; zeros for samples that were not in the queue.
      n_rounds: ``(b,)`` changes of the support; int32.
      full: ``(b,)`` whether a sample needs more active atoms than there was room for.
    """

    codes: Array
    n_rounds: Array
    full: Array


class _Problem(NamedTuple):
    """All samples, with one more of zeros at the end that stands for no sample."""

    gram: Array  # (k, k), with the l2 penalty on its diagonal
    padded_gram: Array  # (k + 1, k + 1) flattened: zeros for the atom of an empty slot
    l1: Array  # (k + 1,)
    nonneg: bool
    beta: Array  # (k, b + 1)
    sq_norm: Array  # (b + 1,)
    queue: Array  # (b,)
    n_queued: Array
    tol: Array


class _RankOne(NamedTuple):
    """Update of rank one: rows and columns of slots without ``keep`` are cleared, then ``left right^T`` is added."""

    keep: Array  # (m, T) 0 or 1
    left: Array  # (m, T)
    right: Array  # (m, T)


class _Lanes(NamedTuple):
    """Samples in work: the last axis of everything is the lane. A slot holds an active atom where its sign is not 0."""

    sample: Array  # (T,) number of the sample, b for a lane without work
    beta: Array  # (k, T)
    atoms: Array  # (m, T) atom in each slot, k for none
    sign: Array  # (m, T) sign that its coefficient must have, 0 for an empty slot
    feasible: Array  # (m, T) coefficients with the right signs
    target: Array  # (m, T) minimum for these atoms and signs, whose own signs may be wrong
    update: _RankOne  # of the inverse, not yet done: what a loop carries is in memory, else XLA computes it m^2 times
    n_rounds: Array  # (T,)


class _Results(NamedTuple):
    """Of all samples, and of one more that lanes without a result write to."""

    atoms: Array  # (m, b + 1)
    codes: Array  # (m, b + 1)
    n_rounds: Array  # (b + 1,)
    full: Array  # (b + 1,)


class _Entering(NamedTuple):
    """The atom that violates the optimality condition most, per lane."""

    atom: Array
    correlation: Array  # with the residual
    beyond: Array  # how much of it is beyond the l1 weight
    solved: Array  # whether the duality gap is small although it does not enter


def solve_supports(
    gram: Array, beta: Array, sq_norm: Array, weights: Weights, tol: Array, room: int, queue: Array, n_queued: Array
) -> Supports:
    """Codes of the samples in a queue, by the feature-sign search of Lee et al. (2006), many samples at once.

    Each round moves a sample from its feasible codes towards the minimum on its support. The first coefficient that
    would change its sign leaves the support; if there is none, the atom that violates the optimality condition most
    enters. Either is an update of rank one of the inverse Gram matrix of the support. The objective decreases in every
    round, so the search ends. A lane takes the next sample of the queue when its own is done: else all would wait for
    the sample with the largest support.

    Args:
      gram: ``(k, k)``.
      beta: ``(k, b)`` correlations.
      sq_norm: ``(b,)``.
      weights: of the penalty.
      tol: relative duality gap at which a sample is done.
      room: largest number of active atoms (static).
      queue: ``(b,)`` samples in the order in which they are taken.
      n_queued: how many of the queue are to be solved.
    """
    k, b = beta.shape
    gram = gram + jnp.diag(weights.l2[:, 0])
    problem = _Problem(
        gram=gram,
        padded_gram=jnp.pad(gram, (0, 1)).reshape(-1),
        l1=jnp.pad(weights.l1[:, 0], (0, 1)),
        nonneg=weights.nonneg,
        beta=jnp.pad(beta, ((0, 0), (0, 1))),
        sq_norm=jnp.pad(sq_norm, (0, 1)),
        queue=queue,
        n_queued=n_queued,
        tol=tol,
    )
    n_lanes = min(b, max(_MIN_LANES, min(_MAX_LANES, _LANE_FLOATS // room**2)))
    slots = jnp.zeros((room, n_lanes), beta.dtype)
    idle = _Lanes(
        sample=jnp.full((n_lanes,), b, jnp.int32),
        beta=jnp.zeros((k, n_lanes), beta.dtype),
        atoms=jnp.full((room, n_lanes), k, jnp.int32),
        sign=slots,
        feasible=slots,
        target=slots,
        update=_RankOne(slots, slots, slots),
        n_rounds=jnp.zeros((n_lanes,), jnp.int32),
    )
    results = _Results(
        atoms=jnp.full((room, b + 1), k, jnp.int32),
        codes=jnp.zeros((room, b + 1), beta.dtype),
        n_rounds=jnp.zeros((b + 1,), jnp.int32),
        full=jnp.zeros((b + 1,), bool),
    )

    def body(carry: tuple[_Lanes, Array, Array, _Results]) -> tuple[_Lanes, Array, Array, _Results]:
        lanes, inverse, n_taken, results = carry
        lanes, inverse, stopped, full = _advance(problem, lanes, inverse)
        n_stopped = stopped.sum(dtype=jnp.int32)
        # Changing samples costs as much as a round: it waits for some lanes, unless no other is at work.
        ready = (n_stopped > 0) & ((n_stopped >= n_lanes // 8) | (n_stopped == (lanes.sample < b).sum()))

        def change() -> tuple[_Lanes, Array, _Results]:
            to = jnp.where(stopped, lanes.sample, b)
            written = _Results(
                atoms=results.atoms.at[:, to].set(lanes.atoms),
                codes=results.codes.at[:, to].set(lanes.feasible),
                n_rounds=results.n_rounds.at[to].set(lanes.n_rounds),
                full=results.full.at[to].set(full),
            )
            return _load(problem, lanes, stopped, n_taken), n_taken + n_stopped, written

        lanes, n_taken, results = lax.cond(ready, change, lambda: (lanes, n_taken, results))
        return lanes, inverse, n_taken, results

    start = _load(problem, idle, jnp.ones((n_lanes,), bool), jnp.zeros((), jnp.int32))
    inverse = jnp.zeros((room, room, n_lanes), beta.dtype)
    carry = (start, inverse, jnp.asarray(n_lanes, jnp.int32), results)
    *_, results = lax.while_loop(lambda carry: (carry[0].sample < b).any(), body, carry)
    results = _Results(*(array[..., :b] for array in results))
    codes = jnp.zeros_like(beta).at[results.atoms, jnp.arange(b)].set(results.codes, mode="drop")
    return Supports(codes, results.n_rounds, results.full)


def _load(problem: _Problem, lanes: _Lanes, free: Array, n_taken: Array) -> _Lanes:
    """The next samples of the queue into the free lanes."""
    k, no_sample = problem.beta.shape[0], problem.beta.shape[1] - 1
    place = n_taken + jnp.cumsum(free, dtype=jnp.int32) - 1
    following = jnp.where(place < problem.n_queued, jnp.take(problem.queue, place, mode="clip"), no_sample)
    sample = jnp.where(free, following, lanes.sample)
    clear = lambda array, value: jnp.where(free, jnp.asarray(value, array.dtype), array)  # noqa: E731
    return lanes._replace(
        sample=sample,
        beta=jnp.where(free, jnp.take(problem.beta, sample, axis=1), lanes.beta),
        atoms=clear(lanes.atoms, k),
        sign=clear(lanes.sign, 0),
        feasible=clear(lanes.feasible, 0),
        target=clear(lanes.target, 0),
        n_rounds=clear(lanes.n_rounds, 0),
    )


def _advance(problem: _Problem, lanes: _Lanes, inverse: Array) -> tuple[_Lanes, Array, Array, Array]:
    """One round: lanes and inverses, the lanes that stop, and those of them that do for lack of room."""
    k, room = lanes.beta.shape[0], lanes.atoms.shape[0]
    slots = jnp.arange(room, dtype=jnp.int32)[:, None]
    eps = jnp.finfo(inverse.dtype).eps
    sq_norm = jnp.take(problem.sq_norm, lanes.sample)
    keep, left, right = lanes.update
    inverse = inverse * keep * keep[:, None] + left * right[:, None]
    entering = _most_violated(problem, lanes, sq_norm)

    # Towards the minimum on the support, as far as the signs allow.
    active = lanes.sign != 0
    wrong = lanes.target * lanes.sign < 0
    way = jnp.where(wrong, lanes.feasible / jnp.where(wrong, lanes.feasible - lanes.target, 1), 2)
    shortest = way.min(0)
    drop = shortest <= 1
    feasible = lanes.feasible + jnp.minimum(shortest, 1) * (lanes.target - lanes.feasible)
    leaving = jnp.where(way == shortest, slots, room - 1).min(0)
    empty = jnp.where(active, room, slots).min(0)
    chosen = slots == jnp.where(drop, leaving, empty)

    # The column of the inverse of the leaving atom; for an entering one, its coefficients on the active atoms.
    row = problem.padded_gram[lanes.atoms * (k + 1) + entering.atom]
    column = jnp.where(active, _apply(inverse, jnp.where(active, jnp.where(drop, chosen, row), 0)), 0)
    diagonal = jnp.sum(jnp.where(chosen, column, 0), 0)
    curvature = problem.padded_gram[entering.atom * (k + 2)]
    distance = curvature - jnp.sum(row * column, 0)  # of the entering atom to the span of the others, squared

    rounding = 4 * eps * jnp.sqrt(curvature * sq_norm)
    wanted = ~drop & ~entering.solved & (entering.beyond > rounding) & (distance > 100 * eps * curvature)
    enter = wanted & (empty < room)
    live = enter | (drop & (diagonal > 0))
    scale = jnp.where(live, 1 / jnp.where(live, jnp.where(drop, -diagonal, distance), 1), 0)
    gone, added = chosen & live & drop, chosen & enter
    direction = jnp.where(added, -1, column)
    sign = jnp.sign(entering.correlation)
    excess = jnp.where(drop, -jnp.sum(jnp.where(chosen, lanes.target, 0), 0), entering.beyond * sign)
    lanes = lanes._replace(
        atoms=jnp.where(gone, k, jnp.where(added, entering.atom, lanes.atoms)),
        sign=jnp.where(gone, 0, jnp.where(added, sign, lanes.sign)),
        feasible=jnp.where(gone, 0, feasible),
        target=jnp.where(gone, 0, lanes.target - scale * excess * direction),
        update=_RankOne((~added).astype(inverse.dtype), scale * direction, direction),
        n_rounds=lanes.n_rounds + live,
    )
    stopped = (~live | (lanes.n_rounds >= 4 * room)) & (lanes.sample < problem.beta.shape[1] - 1)
    return lanes, inverse, stopped, wanted & ~enter


def _most_violated(problem: _Problem, lanes: _Lanes, sq_norm: Array) -> _Entering:
    """The atom to enter, if the minimum on the support has the right signs, and whether it has to."""
    k, n_lanes = lanes.beta.shape
    lane = jnp.arange(n_lanes)
    dense = jnp.zeros_like(lanes.beta).at[lanes.atoms, lane].set(lanes.target, mode="drop")
    residual = lanes.beta - matmul(problem.gram, dense)
    l1 = problem.l1[:k, None]
    per_l1 = 1 / jnp.maximum(l1, jnp.finfo(l1.dtype).tiny * 2**24)
    size = jnp.where(dense != 0, 0, (residual if problem.nonneg else jnp.abs(residual)) * per_l1)
    overshoot = size.max(0)
    # Not `argmax`, which XLA does not vectorise on CPU.
    atom = jnp.where(size == overshoot, jnp.arange(k, dtype=jnp.int32)[:, None], k - 1).min(0)

    # The duality gap where the support is solved exactly: the residual is orthogonal to what the codes stand for.
    penalty = jnp.sum(problem.l1[lanes.atoms] * jnp.abs(lanes.target), 0)
    fitted = jnp.sum(lanes.target * jnp.take_along_axis(lanes.beta, jnp.minimum(lanes.atoms, k - 1), 0), 0)
    residual_norm = jnp.maximum(sq_norm - fitted - penalty, 0)
    shift = 1 - 1 / jnp.maximum(overshoot, 1)
    gap = shift * penalty + shift**2 * residual_norm / 2
    solved = gap <= problem.tol * jnp.maximum(residual_norm / 2 + penalty, sq_norm / 2000)

    correlation = residual[atom, lane]
    beyond = (correlation if problem.nonneg else jnp.abs(correlation)) - problem.l1[atom]
    return _Entering(atom, correlation, beyond, solved)


def _apply(inverse: Array, vector: Array) -> Array:
    """Symmetric matrices times vectors: ``(m, m, T), (m, T) -> (m, T)``.

    Written out in groups of rows: a reduction over an axis before the last is not vectorised by XLA on CPU (10 times
    slower at m = 32), and all rows at once make a program that compiles slowly.
    """
    m = vector.shape[0]
    group = 16
    while m % group:
        group //= 2
    inverse, vector = inverse.reshape(group, m // group, m, -1), vector.reshape(group, m // group, 1, -1)
    partial = sum((inverse[i] * vector[i] for i in range(1, group)), inverse[0] * vector[0])
    return sum((partial[i] for i in range(1, m // group)), partial[0])
