"""Active sets: codes solved exactly on their support, which grows and shrinks by an atom at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import sequential_vmap

from jax_mmf.compiled_loop import compiled_loop
from jax_mmf.duality import Gap, Weights
from jax_mmf.typing import Array

# Loops run over as many vectors and blocks as a support needs, these are of a fixed size.
_SLOTS = 32  # per vector
_ROWS = 8  # of the inverse per block
_ATOMS = 128  # per step of a search for the largest entry
_FIRST = np.int32(0)  # all indices are int32, also where the default is int64
_SHARE = 0.7  # atoms that violate optimality by this share of the largest violation are tried before all are priced again


class Supports(NamedTuple):
    """What `solve_supports` found.

    Attributes:
      codes: ``(b, k)``.
      gap: duality gaps relative to the objective, ``(b,)`` each; infinite where a weight l1 is zero.
      n_rounds: ``(b,)`` changes of the support; int32.
    """

    codes: Array
    gap: Gap
    n_rounds: Array


class _Sample(NamedTuple):
    """A problem: correlations and Gram matrix are padded with zeros to a whole number of vectors."""

    gram: Array  # (..., q) rows of all Gram matrices, with the l2 penalty on their diagonals
    first_row: Array  # of the Gram matrix of this sample
    beta: Array  # (q,)
    sq_norm: Array
    l1: Array  # (q,)
    per_l1: Array  # (q,)
    nonneg: bool
    tol: Array


class _Support(NamedTuple):
    """Active atoms, in slots of which those with a sign of 0 are free. What is to be thrown away goes to slot m."""

    n_slots: Array  # those from here on have never been used
    atoms: Array  # (m + 32,)
    sign: Array  # (m + 32,) that the coefficient must have
    feasible: Array  # (m + 32,) coefficients with the right signs
    target: Array  # (m + 32,) minimum for these atoms and signs, whose own signs may be wrong
    inverse: Array  # (m, m) of the Gram matrix of the active atoms; zero elsewhere
    any_wrong: Array  # whether a target has the wrong sign
    n_entered: Array  # atoms that entered since all were priced
    n_rounds: Array


class _Prices(NamedTuple):
    """What all atoms would gain."""

    correlation: Array  # (q,) with the residual; zero for atoms that are active or were tried
    threshold: Array  # of violations that are worth trying
    solved: Array  # no atom has to enter, or none can
    n_refined: Array  # how often the target was corrected since an atom entered
    gap: Gap  # () each


class _Trial(NamedTuple):
    """Atoms that are tried one after another."""

    support: _Support
    correlation: Array  # (q,) zero for those that were tried
    violation: Array  # the largest that is left
    atom: Array  # where it is
    waits: Array  # whether the atom enters next whatever its violation, another one has made way for it
    value: Array  # with which it then enters


def solve_supports(
    gram: Array, beta: Array, sq_norm: Array, weights: Weights, tol: Array, init: Array
) -> Supports:
    """Codes of samples by the feature-sign search of Lee et al. (2006), one sample after another.

    Each round moves a sample from its feasible codes towards the minimum on its support. The first coefficient that
    would change its sign leaves the support; if there is none, an atom that violates the optimality condition enters.
    Either is an update of rank one of the inverse Gram matrix of the support. The objective decreases in every round, so
    the search ends. The correlations of all atoms with the residual cost more than a round: they are computed for the
    atoms that violate the condition most together, and whether one of them still does, when its turn comes, takes a
    product with its row of the Gram matrix only.

    A loop over scalars and vectors of a few dozen numbers: fast where it is compiled into one kernel, on CPU.

    Args:
      gram: ``(k, k)``, or ``(b, k, k)``.
      beta: ``(b, k)`` correlations.
      sq_norm: ``(b,)``.
      weights: of the penalty.
      tol: relative duality gap at which a sample is done.
      init: ``(b, k)`` codes to start from.
    """
    l1, l2 = weights.l1[:, 0], weights.l2[:, 0]
    dtype = jnp.promote_types(beta.dtype, jnp.float32)  # the search orders numbers of fewer bits badly
    tol = jnp.broadcast_to(tol, sq_norm.shape)
    arrays = [a.astype(dtype) for a in (gram + jnp.diag(l2), beta, sq_norm, l1, tol, init)]
    search = compiled_loop(
        lambda *args: _solve_all(*args, nonneg=weights.nonneg),
        ("k l" if gram.ndim == 2 else "b k l") + ", b k, b, k, b, b k -> b k, b, b, b",
        ("k", "l"),
    )
    codes, relative, rounding, n_rounds = sequential_vmap(search)(*arrays)
    return Supports(codes.astype(beta.dtype), Gap(relative.astype(beta.dtype), rounding.astype(beta.dtype)), n_rounds)


def _solve_all(
    gram: Array, beta: Array, sq_norm: Array, l1: Array, tol: Array, init: Array, *, nonneg: bool
) -> tuple[Array, Array, Array, Array]:
    b, k = beta.shape
    pad = _padded(k) - k
    per_l1 = 1 / jnp.maximum(l1, jnp.finfo(l1.dtype).tiny * 2**24)
    gram = jnp.pad(gram, [(0, 0)] * (gram.ndim - 1) + [(0, pad)])
    beta, init = (jnp.pad(a, [(0, 0), (0, pad)]) for a in (beta, init))
    l1, per_l1 = jnp.pad(l1, (0, pad)), jnp.pad(per_l1, (0, pad))
    room = _ceil_div(k, _SLOTS) * _SLOTS
    n_own = k if gram.ndim == 3 else 0
    gram = gram.reshape(-1, k + pad)

    def solve(n: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        inverse, codes, relative, rounding, n_rounds = carry
        row = lambda array: lax.dynamic_slice(array, (n, _FIRST), (1, k + pad))[0]  # noqa: E731
        sample = _Sample(gram, n * n_own, row(beta), _get(sq_norm, n), l1, per_l1, nonneg, _get(tol, n))
        found, support = _solve_one(sample, _nobody(room, inverse), row(init))
        return (
            _clear(support.inverse, support.n_slots),
            lax.dynamic_update_slice(codes, _scatter(support, k + pad)[None], (n, _FIRST)),
            _set(relative, n, found.gap.relative),
            _set(rounding, n, found.gap.rounding),
            _set(n_rounds, n, support.n_rounds),
        )

    start = (
        jnp.zeros((room, room), beta.dtype),
        jnp.zeros_like(beta),
        *(jnp.zeros_like(sq_norm) for _ in Gap._fields),
        jnp.zeros((b,), jnp.int32),
    )
    _, codes, relative, rounding, n_rounds = _loop(b, solve, start)
    return codes[:, :k], relative, rounding, n_rounds


def _solve_one(sample: _Sample, support: _Support, init: Array) -> tuple[_Prices, _Support]:
    if sample.nonneg:
        init = jnp.maximum(init, 0)
    unsolved = Gap(*(jnp.zeros((), init.dtype) for _ in Gap._fields))
    first = _Prices(init, jnp.zeros((), init.dtype), jnp.zeros((), bool), jnp.zeros((), jnp.int32), unsolved)
    warm = _largest(_size(init, sample)) > 0

    def go_on(carry: tuple[_Prices, _Support, Array]) -> Array:
        prices, support, _ = carry
        return ~prices.solved & (support.n_rounds < 8 * support.inverse.shape[0])

    def body(carry: tuple[_Prices, _Support, Array]) -> tuple[_Prices, _Support, Array]:
        before, support, starting = carry
        prices = _price(sample, support, before.n_refined)
        support = support._replace(n_entered=jnp.zeros((), jnp.int32))
        support = _refine(sample, support, prices.correlation, jnp.where(prices.n_refined > 0, support.n_slots, 0))
        # Codes to start from enter as they are, one by one, before any leaves.
        tiny = jnp.finfo(init.dtype).tiny
        correlation = jnp.where(starting, init, prices.correlation)
        threshold = jnp.where(starting, tiny, prices.threshold)

        nothing = jnp.zeros((), bool), jnp.zeros((), init.dtype)

        def attempt(trial: _Trial) -> _Trial:
            forced = starting | trial.waits
            value = jnp.where(trial.waits, trial.value, _get(init, trial.atom))
            allowed = trial.waits | (trial.violation >= threshold)
            support, dependent = _enter(sample, trial.support, trial.atom, value, allowed, forced)
            support, waits, value = _when(
                dependent, lambda carry: _make_way(sample, carry[0], trial.atom), (support, *nothing)
            )
            correlation = _set(trial.correlation, trial.atom, jnp.zeros((), init.dtype))
            violation, atom = _most_violating(sample, correlation)
            atom = jnp.where(waits, trial.atom, atom)
            leaving = ~waits & (~starting | (violation < threshold))
            support = lax.while_loop(lambda s: s.any_wrong & leaving, _leave, support)
            return _Trial(support, correlation, violation, atom, waits, value)

        def more(trial: _Trial) -> Array:
            return (trial.violation >= threshold) | trial.support.any_wrong | trial.waits

        trial = _Trial(support, correlation, *_most_violating(sample, correlation), *nothing)
        trial = lax.while_loop(more, attempt, trial)
        solved = prices.solved & ~starting
        return prices._replace(solved=solved), trial.support, jnp.zeros((), bool)

    prices, support, _ = lax.while_loop(go_on, body, (first, support, warm))
    return prices, support


def _price(sample: _Sample, support: _Support, n_refined: Array) -> _Prices:
    """Correlations of all atoms with the residual of the target, and the duality gap."""
    group = 4  # rows of the Gram matrix per pass over the correlations

    def product(i: Array, correlation: Array) -> Array:
        atoms, coefficients = (lax.dynamic_slice(a, (i * group,), (group,)) for a in (support.atoms, support.target))
        for j in range(group):
            correlation = correlation - coefficients[j] * _gram_row(sample, atoms[j])
        return correlation

    # The first group is taken by itself: a loop that starts from beta would copy it, number by number.
    correlation = product(jnp.zeros((), jnp.int32), sample.beta)
    correlation = _loop(_ceil_div(support.n_slots, group), product, correlation, first=1)
    overshoot = jnp.maximum(_largest(_size(correlation, sample)), 1)

    def collect(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        linear, along, penalty = carry
        atom, coefficient = _get(support.atoms, i), _get(support.target, i)
        return (
            linear + coefficient * _get(sample.beta, atom),
            along + coefficient * _get(correlation, atom),
            penalty + _get(sample.l1, atom) * jnp.abs(coefficient),
        )

    zero = jnp.zeros((), correlation.dtype)
    linear, along, penalty = _loop(support.n_slots, collect, (zero, zero, zero))

    # As in `duality_gap`, with the residual scaled to be feasible.
    residual = jnp.maximum(sample.sq_norm - linear - along, 0)
    shift = 1 - 1 / overshoot
    gap = jnp.maximum(penalty - along + shift * along + shift**2 * residual / 2, 0)
    scale = jnp.maximum(residual / 2 + penalty, sample.sq_norm / 2000)
    scale = jnp.where(scale > 0, scale, 1)
    rounding = 8 * jnp.finfo(scale.dtype).eps * sample.sq_norm / scale
    gap = Gap(gap / scale, rounding)

    # Where no atom could enter, what is left of the gap is rounding of the target: it is corrected, twice at most.
    close = (gap.relative <= sample.tol + rounding) & (sample.tol > 0)
    stuck = support.n_entered == 0
    solved = close | (stuck & (n_refined == 2))
    refine = stuck & ~solved

    def mask(i: Array, correlation: Array) -> Array:
        atom = _get(support.atoms, i)
        return _set(correlation, atom, jnp.where(_get(support.sign, i) != 0, 0, _get(correlation, atom)))

    correlation = _loop(jnp.where(refine, 0, support.n_slots), mask, correlation)

    most = _largest(_size(correlation, sample))
    threshold = jnp.where(solved | refine, jnp.inf, jnp.maximum(_SHARE * most + (1 - _SHARE), 1))
    return _Prices(correlation, threshold, solved, jnp.where(refine, n_refined + 1, 0), gap)


def _refine(sample: _Sample, support: _Support, correlation: Array, n: Array) -> _Support:
    """Correct the target by what the correlations of the active atoms, in the first n slots, are off."""

    def collect(i: Array, error: Array) -> Array:
        atom, sign = _get(support.atoms, i), _get(support.sign, i)
        return _set(error, i, jnp.where(sign != 0, _get(correlation, atom) - _get(sample.l1, atom) * sign, 0))

    error = _loop(n, collect, jnp.zeros_like(support.target))
    one = jnp.ones((), error.dtype)
    return _move_target(support, one, _times(support.inverse, error, n), n, jnp.zeros((), bool))


def _enter(
    sample: _Sample, support: _Support, atom: Array, value: Array, allowed: Array, forced: Array
) -> tuple[_Support, Array]:
    """Let an atom enter if it violates optimality, or with a value if it is forced to.

    Returns:
      the support, and whether the atom could not enter because it is a combination of those that are active.
    """
    room = support.inverse.shape[0]
    row, correlation, free = _relate(sample, support, atom)
    l1, curvature = _get(sample.l1, atom), _get(_gram_row(sample, atom), atom)
    beyond = (correlation if sample.nonneg else jnp.abs(correlation)) - l1
    eps, tiny = jnp.finfo(l1.dtype).eps, jnp.finfo(l1.dtype).tiny
    wanted = allowed & (forced | (beyond > 4 * eps * jnp.sqrt(curvature * sample.sq_norm)))
    wanted = wanted & (curvature > tiny / eps) & (free < room)

    n = jnp.where(wanted, support.n_slots, 0)
    column = _times(support.inverse, row, n)
    along = _sum_vectors(n, lambda c: _vector(row, c) * _vector(column, c), row.dtype)
    distance = curvature - along  # of the atom to the span of the others, squared
    enters = wanted & (distance > 100 * eps * curvature)

    slot = jnp.where(enters, free, room)
    n_slots = jnp.where(enters, jnp.maximum(support.n_slots, slot + 1), support.n_slots)
    n = jnp.where(enters, n_slots, 0)
    direction = _set(column, slot, -1)
    scale = 1 / jnp.where(enters, distance, 1)
    sign = jnp.sign(jnp.where(forced, value, correlation))
    support = support._replace(
        n_slots=n_slots,
        atoms=_set(support.atoms, slot, atom),
        sign=_set(support.sign, slot, sign),
        feasible=_set(support.feasible, slot, jnp.where(forced, value, 0)),
        inverse=_rank_one(support.inverse, scale, direction, n, jnp.full((), -1, jnp.int32)),
        n_entered=support.n_entered + enters,
        n_rounds=support.n_rounds + enters,
    )
    support = _move_target(support, -scale * (correlation - sign * l1), direction, n, forced)
    return support, wanted & ~enters & ~forced


def _relate(sample: _Sample, support: _Support, atom: Array) -> tuple[Array, Array, Array]:
    """Products of an atom with the active ones, its correlation with the residual of the target, and a free slot."""

    def gather(c: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        row, correlation, free = carry
        active = _vector(support.sign, c) != 0
        entries = jnp.where(active, _gram_entries(sample, atom, _vector(support.atoms, c)), 0)
        slots = jnp.where(active, support.inverse.shape[0], c * _SLOTS + jnp.arange(_SLOTS, dtype=jnp.int32))
        correlation = correlation - _tree(jnp.add, entries * _vector(support.target, c))
        return _set_vector(row, c, entries), correlation, jnp.minimum(free, _tree(jnp.minimum, slots))

    start = (jnp.zeros_like(support.target), _get(sample.beta, atom), support.n_slots)
    return _loop(_ceil_div(support.n_slots, _SLOTS), gather, start)


def _make_way(sample: _Sample, support: _Support, atom: Array) -> tuple[_Support, Array, Array]:
    """Let an active atom go for one that is a combination of them.

    The coefficient of the new atom grows, and theirs move, without a change of what the code stands for. That makes the
    penalty smaller, until one of theirs is zero.

    Returns:
      the support, whether one has left, and the value with which the new atom has to enter then.
    """
    row, correlation, _ = _relate(sample, support, atom)
    column, sign = _times(support.inverse, row, support.n_slots), jnp.sign(correlation)
    step = lambda c, _: -sign * _vector(column, c)  # noqa: E731
    way, slot = _first_zero(support, step, support.n_slots)
    found = jnp.isfinite(way)
    n = jnp.where(found, support.n_slots, 0)
    return _remove(_go(support, step, way, slot, n), slot, n), found, jnp.where(found, sign * way, 0)


def _leave(support: _Support) -> _Support:
    """Move towards the target until a coefficient would change its sign, and let that one go."""
    step = lambda c, feasible: _vector(support.target, c) - feasible  # noqa: E731
    way, slot = _first_zero(support, step, support.n_slots)
    return _remove(_go(support, step, way, slot, support.n_slots), slot, support.n_slots)


def _first_zero(support: _Support, step: Callable[[Array, Array], Array], n: Array) -> tuple[Array, Array]:
    """How many steps from the feasible codes until a coefficient, of those in the first n slots, is zero; and its slot."""

    def first(c: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        shortest, slot = carry
        feasible = _vector(support.feasible, c)
        move = step(c, feasible)
        shrinks = move * _vector(support.sign, c) < 0
        order = _order(jnp.abs(jnp.where(shrinks, feasible / jnp.where(shrinks, move, 1), jnp.inf)))
        least = _tree(jnp.minimum, order)
        here = _tree(jnp.minimum, jnp.where(order == least, jnp.arange(_SLOTS, dtype=jnp.int32), _SLOTS))
        return jnp.minimum(shortest, least), jnp.where(least < shortest, c * _SLOTS + here, slot)

    never = _order(jnp.full((), jnp.inf, support.feasible.dtype))
    shortest, slot = _loop(_ceil_div(n, _SLOTS), first, (never, jnp.zeros((), jnp.int32)))
    return lax.bitcast_convert_type(shortest, support.feasible.dtype), slot


def _go(support: _Support, step: Callable[[Array, Array], Array], way: Array, zero: Array, n: Array) -> _Support:
    """Move the feasible codes, where one of them becomes zero exactly."""

    def move(c: Array, feasible: Array) -> Array:
        other = c * _SLOTS + jnp.arange(_SLOTS, dtype=jnp.int32) != zero
        old = _vector(feasible, c)
        return _set_vector(feasible, c, jnp.where(other, old + way * step(c, old), 0))

    return support._replace(feasible=_loop(_ceil_div(n, _SLOTS), move, support.feasible))


def _remove(support: _Support, slot: Array, n: Array) -> _Support:
    """Let the atom of a slot go; nothing if n, the number of slots in use, is 0."""
    column = _inverse_row(support.inverse, slot, n)
    scale = -1 / jnp.where(n > 0, _get(column, slot), 1)
    move = scale * _get(support.target, slot)
    sign = _set(support.sign, jnp.where(n > 0, slot, support.inverse.shape[0]), 0)

    def aim(c: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        target, wrong = carry
        stays = c * _SLOTS + jnp.arange(_SLOTS, dtype=jnp.int32) != slot
        new = jnp.where(stays, _vector(target, c) + move * _vector(column, c), 0)
        return _set_vector(target, c, new), wrong | _any(new * _vector(sign, c) < 0)

    start = (support.target, support.any_wrong & (n == 0))
    target, any_wrong = _loop(_ceil_div(n, _SLOTS), aim, start)
    return support._replace(
        sign=sign,
        target=target,
        inverse=_rank_one(support.inverse, scale, column, n, slot),
        any_wrong=any_wrong,
        n_rounds=support.n_rounds + (n > 0),
    )


def _move_target(support: _Support, scale: Array, direction: Array, n: Array, keep_feasible: Array) -> _Support:
    """Add to the targets of the first n slots; the old ones are feasible, unless told otherwise."""

    def step(c: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        feasible, target, wrong = carry
        old = _vector(target, c)
        new = old + scale * _vector(direction, c)
        feasible = _set_vector(feasible, c, jnp.where(keep_feasible, _vector(feasible, c), old))
        return feasible, _set_vector(target, c, new), wrong | _any(new * _vector(support.sign, c) < 0)

    start = (support.feasible, support.target, support.any_wrong & (n == 0))
    feasible, target, any_wrong = _loop(_ceil_div(n, _SLOTS), step, start)
    return support._replace(feasible=feasible, target=target, any_wrong=any_wrong)


# The inverse, in blocks of rows and columns.


def _times(inverse: Array, vector: Array, n: Array) -> Array:
    """Product with a vector, of which the first n entries count."""

    def columns(c: Array, out: Array) -> Array:
        def rows(i: Array, total: Array) -> Array:
            block, some = _block(inverse, i, c), lax.dynamic_slice(vector, (i * _ROWS,), (_ROWS,))
            for j in range(_ROWS):
                total = total + some[j] * block[j]
            return total

        total = _loop(_ceil_div(n, _ROWS), rows, jnp.zeros((_SLOTS,), vector.dtype))
        return _set_vector(out, c, total)

    return _loop(_ceil_div(n, _SLOTS), columns, jnp.zeros_like(vector))


def _rank_one(inverse: Array, scale: Array, vector: Array, n: Array, cleared: Array) -> Array:
    """Add ``scale v v^T`` in the first n rows and columns, and clear one of them."""

    def rows(i: Array, inverse: Array) -> Array:
        left = scale * lax.dynamic_slice(vector, (i * _ROWS,), (_ROWS,))
        clear_row = i * _ROWS + jnp.arange(_ROWS, dtype=jnp.int32) == cleared

        def columns(c: Array, inverse: Array) -> Array:
            clear = clear_row[:, None] | (c * _SLOTS + jnp.arange(_SLOTS, dtype=jnp.int32) == cleared)
            block = _block(inverse, i, c) + left[:, None] * _vector(vector, c)
            return lax.dynamic_update_slice(inverse, jnp.where(clear, 0, block), (i * _ROWS, c * _SLOTS))

        return _loop(_ceil_div(n, _SLOTS), columns, inverse)

    return _loop(_ceil_div(n, _ROWS), rows, inverse)


def _inverse_row(inverse: Array, i: Array, n: Array) -> Array:
    def copy(c: Array, out: Array) -> Array:
        return _set_vector(out, c, lax.dynamic_slice(inverse, (i, c * _SLOTS), (1, _SLOTS))[0])

    return _loop(_ceil_div(n, _SLOTS), copy, jnp.zeros((inverse.shape[0] + _SLOTS,), inverse.dtype))


def _clear(inverse: Array, n: Array) -> Array:
    def rows(i: Array, inverse: Array) -> Array:
        zeros = jnp.zeros((_ROWS, inverse.shape[1]), inverse.dtype)
        return lax.dynamic_update_slice(inverse, zeros, (i * _ROWS, _FIRST))

    return _loop(_ceil_div(n, _ROWS), rows, inverse)


def _block(inverse: Array, i: Array, c: Array) -> Array:
    return lax.dynamic_slice(inverse, (i * _ROWS, c * _SLOTS), (_ROWS, _SLOTS))


# Gram matrices.


def _gram_row(sample: _Sample, atom: Array) -> Array:
    return lax.dynamic_slice(sample.gram, (sample.first_row + atom, _FIRST), (1, sample.gram.shape[1]))[0]


def _gram_entries(sample: _Sample, atom: Array, others: Array) -> Array:
    start = (sample.first_row + atom) * sample.gram.shape[1]
    return jnp.take(sample.gram.reshape(-1), start + others, mode="clip")


# Violations of the optimality condition.


def _size(correlation: Array, sample: _Sample) -> Array:
    """Correlations in units of the l1 weight: an atom with more than 1 has to enter."""
    return (correlation if sample.nonneg else jnp.abs(correlation)) * sample.per_l1


def _most_violating(sample: _Sample, correlation: Array) -> tuple[Array, Array]:
    """About the largest size, and its atom: in one search, with the number of the atom in the last bits of its size."""
    q = correlation.shape[0]
    order = _order(_size(correlation, sample))
    low = jnp.asarray(2 ** max(1, (q - 1).bit_length()) - 1, order.dtype)
    key = _tree(jnp.maximum, (order & ~low | jnp.arange(q, dtype=order.dtype)).reshape(-1, min(q, _ATOMS)).max(0))
    atom = (key & low).astype(jnp.int32)
    return _get(_size(correlation, sample), atom), atom


def _largest(size: Array) -> Array:
    """The largest of numbers, or 0."""
    order = jnp.maximum(_order(size), 0)
    most = _tree(jnp.maximum, order.reshape(-1, min(size.shape[0], _ATOMS)).max(0))
    return lax.bitcast_convert_type(most, size.dtype)


def _order(values: Array) -> Array:
    """Whole numbers in the order of numbers that are not negative, and below zero for those that are.

    Smallest and largest of floating numbers cost three times as much, for the sake of NaN, which is largest here.
    """
    return lax.bitcast_convert_type(values, jnp.int64 if values.dtype.itemsize == 8 else jnp.int32)


# Vectors.


def _any(flags: Array) -> Array:
    return _tree(jnp.maximum, flags.astype(jnp.int32)) > 0



def _nobody(room: int, inverse: Array) -> _Support:
    slots, none = jnp.zeros((room + _SLOTS,), inverse.dtype), jnp.zeros((), jnp.int32)
    wrong, entered = jnp.zeros((), bool), jnp.ones((), jnp.int32)
    return _Support(none, jnp.zeros((room + _SLOTS,), jnp.int32), slots, slots, slots, inverse, wrong, entered, none)


def _scatter(support: _Support, q: int) -> Array:
    def put(i: Array, codes: Array) -> Array:
        atom = _get(support.atoms, i)
        return _set(codes, atom, jnp.where(_get(support.sign, i) != 0, _get(support.target, i), _get(codes, atom)))

    return _loop(support.n_slots, put, jnp.zeros((q,), support.target.dtype))


def _padded(k: int) -> int:
    """Atoms with those that fill the last step of a search."""
    return _ceil_div(k, _ATOMS) * _ATOMS if k > _ATOMS else 2 ** (k - 1).bit_length()


def _ceil_div(n: Any, d: int) -> Any:
    return (n + d - 1) // d if isinstance(n, int) else lax.div(n + (d - 1), jnp.asarray(d, n.dtype))


def _vector(array: Array, c: Array) -> Array:
    return lax.dynamic_slice(array, (c * _SLOTS,), (_SLOTS,))


def _set_vector(array: Array, c: Array, values: Array) -> Array:
    return lax.dynamic_update_slice(array, values, (c * _SLOTS,))


def _get(array: Array, i: Array) -> Array:
    return lax.dynamic_slice(array, (i,), (1,))[0]


def _set(array: Array, i: Array, value: Any) -> Array:
    return lax.dynamic_update_slice(array, jnp.asarray(value, array.dtype)[None], (i,))


def _tree(combine: Callable[[Array, Array], Array], values: Array) -> Array:
    """All values combined, half with half: a chain of them would wait for each."""
    while len(values) > 1:
        values = combine(values[: len(values) // 2], values[len(values) // 2 :])
    return values[0]


def _sum_vectors(n: Array, term: Callable[[Array], Array], dtype: Any) -> Array:
    add = lambda c, total: total + _tree(jnp.add, term(c))  # noqa: E731
    return _loop(_ceil_div(n, _SLOTS), add, jnp.zeros((), dtype))


def _loop(n: Array | int, step: Callable[[Array, Any], Any], start: Any, first: int = 0) -> Any:
    """`lax.fori_loop` that counts in int32 also where the default is int64."""
    return lax.fori_loop(jnp.asarray(first, jnp.int32), jnp.asarray(n, jnp.int32), step, start)


def _when(condition: Array, function: Callable[[Any], Any], carry: Any) -> Any:
    """As `lax.cond`, but in place: what the function leaves as it is is not copied."""
    return _loop(condition.astype(jnp.int32), lambda _, c: function(c), carry)
