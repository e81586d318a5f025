"""Active sets: codes solved exactly on their support, which grows and shrinks by an atom at a time."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

from jax_mmf.codes.duality import ROUNDING, Gap, Weights
from jax_mmf.codes.kernels.compiled_loop import compiled_loop
from jax_mmf.codes.kernels.vectors import (
    FIRST,
    SEARCHED,
    WIDTH,
    add_rank_one,
    any_of,
    ceil_div,
    clear,
    cut,
    each,
    get,
    largest,
    loop,
    order_of,
    paste,
    positions,
    put,
    put_vector,
    row_of,
    sum_vectors,
    times,
    tree,
    vector,
    whole_row,
)
from jax_mmf.typing import Array

_SHARE = 0.7  # of the largest violation: atoms that violate optimality by more are tried before all are priced again
_REFINEMENTS = 2  # of the target for rounding
_SPOILT = 32  # times eps, of the squared norm of a sample: a rise of the objective that shows that rounding spoilt it
_RISE = 4  # times eps, of the squared norm of a sample, by which rounding may raise its objective
_FAR = 4  # times the gap that rounding may cause: codes that are this close are left to coordinate descent
_RESTARTS = 3  # of a search that rounding has spoilt
_ROUNDS = 16  # changes of the support, over the number of atoms, at which a search is given up
_UNCLEAR = 1e-3  # distance to the span of the others, over the norm of an atom, squared, that is computed twice
_ROWS = 4  # of the Gram matrix per pass over the correlations


class Supports(NamedTuple):
    """What `solve_supports` found.

    Attributes:
      codes: ``(b, k)``.
      gap: duality gaps relative to the objective, ``(b,)`` each; no bound where an l1 weight is zero.
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
    bounded: Array  # whether gaps are bounds: no l1 weight is zero
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
    close: Array  # the gap is within tolerance and rounding
    solved: Array  # no atom has to enter, or none can
    n_refined: Array  # how often the target was corrected since an atom entered
    objective: Array  # of the target; infinite if it breaks non-negativity
    gap: Gap  # () each


class _Best(NamedTuple):
    """The best codes so far."""

    codes: Array  # (q,)
    objective: Array
    gap: Gap  # () each


class _Search(NamedTuple):
    """A search on its way."""

    support: _Support
    start: Array  # (q,) codes that it starts from
    starting: Array  # whether these have not entered yet
    n_restarts: Array
    n_refined: Array  # as in `_Prices`
    objective: Array  # when all atoms were priced before, since the last start
    best: _Best
    close: Array  # whether the targets of the support are codes within tolerance
    solved: Array


class _Entry(NamedTuple):
    """How an atom that is tried depends on those that are active."""

    column: Array  # (m + 32,) coefficients of the active atoms that come nearest to it
    sign: Array  # that its own coefficient would have
    dependent: Array  # whether it could not enter because it is a combination of them


class _Trial(NamedTuple):
    """Atoms that are tried one after another."""

    support: _Support
    correlation: Array  # (q,) zero for those that were tried
    violation: Array  # the largest that is left
    atom: Array  # where it is
    waits: Array  # whether the atom enters next whatever its violation, another one has made way for it
    value: Array  # with which it then enters


def solve_supports(gram: Array, beta: Array, sq_norm: Array, weights: Weights, tol: Array, init: Array) -> Supports:
    """Codes of samples by the feature-sign search of Lee et al. (2006), one sample after another.

    Each round moves a sample from its feasible codes towards the minimum on its support. The first coefficient that
    would change its sign leaves the support; if there is none, an atom that violates the optimality condition enters.
    Either is an update of rank one of the inverse Gram matrix of the support. The objective decreases in every round,
    so the search ends. The correlations of all atoms with the residual cost more than a round: they are computed once
    for all atoms that violate the condition by much, and whether one of these still does, when its turn comes, takes a
    product with its row of the Gram matrix only.

    An atom that is a combination of the active ones can't enter. It takes the place of one of them, whose coefficient
    it brings to zero. What rounding does to the inverse shows in the objective, or in a gap that stays open: then the
    search starts again from the best codes so far, with a new inverse, and the last time from zeros.

    Every loop ends, whatever the numbers. An attempt takes one atom off the list of those to try; each change of signs
    removes an atom, or ends if none can be; rounds and restarts are limited.

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
    bounded = l1.min() > 0
    per_l1 = 1 / jnp.maximum(l1, jnp.finfo(l1.dtype).tiny * 2**24)
    gram = jnp.pad(gram, [(0, 0)] * (gram.ndim - 1) + [(0, pad)])
    beta, init = (jnp.pad(a, [(0, 0), (0, pad)]) for a in (beta, init))
    l1, per_l1 = jnp.pad(l1, (0, pad)), jnp.pad(per_l1, (0, pad))
    room = ceil_div(k, WIDTH) * WIDTH
    n_own = k if gram.ndim == 3 else 0
    gram = gram.reshape(-1, k + pad)

    def solve(n: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        inverse, codes, relative, rounding, n_rounds = carry
        sample = _Sample(gram, n * n_own, whole_row(beta, n), get(sq_norm, n), l1, per_l1, bounded, nonneg, get(tol, n))
        found, support = _solve_one(sample, _nobody(room, inverse), whole_row(init, n))
        return (
            clear(support.inverse, support.n_slots),
            paste(codes, lax.expand_dims(found.codes, (0,)), (n, FIRST)),
            put(relative, n, found.gap.relative),
            put(rounding, n, found.gap.rounding),
            put(n_rounds, n, support.n_rounds),
        )

    start = (
        jnp.zeros((room, room), beta.dtype),
        jnp.zeros_like(beta),
        *(jnp.zeros_like(sq_norm) for _ in Gap._fields),
        jnp.zeros((b,), jnp.int32),
    )
    _, codes, relative, rounding, n_rounds = loop(b, solve, start)
    return codes[:, :k], relative, rounding, n_rounds


def _solve_one(sample: _Sample, support: _Support, init: Array) -> tuple[_Best, _Support]:
    """The best codes of a sample that a search from an empty support comes to, and that support."""
    if sample.nonneg:
        init = jnp.maximum(init, 0)
    zero, no, none = jnp.zeros((), init.dtype), jnp.zeros((), bool), jnp.zeros((), jnp.int32)
    infinite = jnp.full((), jnp.inf, init.dtype)
    warm = largest(_size(init, sample)) > 0
    n_restarts = jnp.where(sample.bounded, _RESTARTS, 1)
    first = _Search(
        support=support,
        start=init,
        starting=warm,
        n_restarts=none,
        n_refined=none,
        objective=infinite,
        best=_Best(jnp.zeros_like(init), infinite, Gap(infinite, zero)),
        close=no,
        solved=no,
    )

    def go_on(search: _Search) -> Array:
        return ~search.solved & (search.support.n_rounds < _ROUNDS * support.inverse.shape[0])

    def body(search: _Search) -> _Search:
        starting, start = search.starting, search.start
        prices = _price(sample, search.support, search.n_refined)
        best = _better(sample, search.best, prices, search.support)
        # The objective only falls, unless rounding has spoilt the inverse.
        spoilt = ~(prices.objective <= search.objective + _SPOILT * jnp.finfo(init.dtype).eps * sample.sq_norm)
        failed = ~starting & ~prices.close & (spoilt | prices.solved)
        far = prices.gap.relative > sample.tol + _FAR * prices.gap.rounding
        # A search that ends far from the optimum was spoilt, or had a start that leads nowhere. Without a bound on the
        # gap, that does not show.
        again = failed & (spoilt | (far & (sample.bounded | warm))) & (search.n_restarts < n_restarts)
        support = search.support._replace(n_entered=jnp.zeros((), jnp.int32))
        support = _refine(sample, support, prices.correlation, jnp.where(prices.n_refined > 0, support.n_slots, 0))
        # Codes to start from enter as they are, one by one, before any leaves.
        tiny = jnp.finfo(init.dtype).tiny
        correlation = jnp.where(starting, start, prices.correlation)
        threshold = jnp.where(starting, tiny, jnp.where(failed, jnp.inf, prices.threshold))
        nothing = jnp.zeros((), bool), jnp.zeros((), init.dtype)

        def attempt(trial: _Trial) -> _Trial:
            forced = starting | trial.waits
            value = jnp.where(trial.waits, trial.value, get(start, trial.atom))
            allowed = trial.waits | (trial.violation >= threshold)
            support, entry = _enter(sample, trial.support, trial.atom, value, allowed, forced)
            correlation = put(trial.correlation, trial.atom, jnp.zeros((), init.dtype))
            violation, atom = _most_violating(sample, correlation)
            leaving = ~starting | (violation < threshold)

            def somebody_leaves(carry: tuple[_Support, Array, Array, Array]) -> Array:
                support, makes_way, waits, _ = carry
                return makes_way | (support.any_wrong & leaving & ~waits)

            def leave(carry: tuple[_Support, Array, Array, Array]) -> tuple[_Support, Array, Array, Array]:
                support, makes_way, _, _ = carry
                support, way = _leave(support, entry, makes_way)
                waits = makes_way & jnp.isfinite(way)
                # A way of no length still has a direction.
                return support, jnp.zeros((), bool), waits, jnp.where(waits, entry.sign * jnp.maximum(way, tiny), 0)

            support, _, waits, value = lax.while_loop(somebody_leaves, leave, (support, entry.dependent, *nothing))
            return _Trial(support, correlation, violation, jnp.where(waits, trial.atom, atom), waits, value)

        def more(trial: _Trial) -> Array:
            return (trial.violation >= threshold) | trial.support.any_wrong | trial.waits

        trial = _Trial(support, correlation, *_most_violating(sample, correlation), *nothing)
        trial = lax.while_loop(more, attempt, trial)
        # A search that fails starts again with a new inverse, from the best codes so far; the last time from zero.
        last = search.n_restarts == n_restarts - 1
        return _Search(
            support=_empty(trial.support, again),
            start=jnp.where(again, jnp.where(last, 0, best.codes), start),
            starting=again & ~last & (largest(_size(best.codes, sample)) > 0),
            n_restarts=search.n_restarts + again,
            n_refined=jnp.where(again, 0, prices.n_refined),
            objective=jnp.where(again | starting, jnp.inf, prices.objective),
            best=best,
            close=~starting & prices.close,
            solved=~starting & (prices.close | failed & ~again),
        )

    last = lax.while_loop(go_on, body, first)
    return last.best._replace(codes=_scatter(last.support, last.best.codes, last.close)), last.support


def _better(sample: _Sample, best: _Best, prices: _Prices, support: _Support) -> _Best:
    """The target of a support, if its objective is lower than the best one, or its gap where these are equal.

    Without a bound on gaps the later one counts, which was corrected for rounding. Codes that end the search are not
    copied here: they are those of the support.
    """
    rounding = _RISE * jnp.finfo(best.codes.dtype).eps * sample.sq_norm
    closer = (prices.gap.relative < best.gap.relative) | ~sample.bounded
    most = best.objective + jnp.where(closer, rounding, -rounding)
    better = (prices.objective < most) & jnp.isfinite(prices.objective)
    codes = _scatter(support, best.codes, better & ~prices.close)
    choose = lambda new, old: jnp.where(better | prices.close, new, old)  # noqa: E731
    return _Best(codes, choose(prices.objective, best.objective), Gap(*map(choose, prices.gap, best.gap)))


def _price(sample: _Sample, support: _Support, n_refined: Array) -> _Prices:
    """Correlations of all atoms with the residual of the target, and the duality gap."""

    def product(i: Array, correlation: Array) -> Array:
        atoms, coefficients = (each(cut(a, (i * _ROWS,), (_ROWS,))) for a in (support.atoms, support.target))
        for atom, coefficient in zip(atoms, coefficients, strict=True):
            correlation = correlation - coefficient * _gram_row(sample, atom)
        return correlation

    # The first rows are taken by themselves: a loop that starts from beta would copy it, number by number.
    correlation = product(jnp.zeros((), jnp.int32), sample.beta)
    correlation = loop(ceil_div(support.n_slots, _ROWS), product, correlation, first=1)
    overshoot = jnp.maximum(largest(_size(correlation, sample)), 1)

    def collect(i: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        linear, along, penalty, allowed = carry
        atom, coefficient = get(support.atoms, i), get(support.target, i)
        return (
            linear + coefficient * get(sample.beta, atom),
            along + coefficient * get(correlation, atom),
            penalty + get(sample.l1, atom) * jnp.abs(coefficient),
            allowed & (coefficient >= 0) if sample.nonneg else allowed,
        )

    zero = jnp.zeros((), correlation.dtype)
    linear, along, penalty, allowed = loop(support.n_slots, collect, (zero, zero, zero, jnp.ones((), bool)))

    # As in `duality_gap`, with the residual scaled to be feasible.
    residual = jnp.maximum(sample.sq_norm - linear - along, 0)
    shift = 1 - 1 / overshoot
    excess = jnp.maximum(penalty - along + shift * along + shift**2 * residual / 2, 0)
    scale = jnp.maximum(residual / 2 + penalty, sample.sq_norm / 2000)
    scale = jnp.where(scale > 0, scale, 1)
    gap = Gap(excess / scale, ROUNDING * jnp.finfo(scale.dtype).eps * sample.sq_norm / scale)

    # Where no atom could enter, what is left of the gap is rounding of the target: it is corrected.
    close = (gap.relative <= sample.tol + gap.rounding) & (sample.tol > 0)
    stuck = support.n_entered == 0
    solved = close | (stuck & (n_refined == _REFINEMENTS))
    refine = stuck & ~solved

    def mask(i: Array, correlation: Array) -> Array:
        atom = get(support.atoms, i)
        return put(correlation, atom, jnp.where(get(support.sign, i) != 0, 0, get(correlation, atom)))

    correlation = loop(jnp.where(refine, 0, support.n_slots), mask, correlation)
    most = largest(_size(correlation, sample))
    threshold = jnp.where(solved | refine, jnp.inf, jnp.maximum(_SHARE * most + (1 - _SHARE), 1))
    objective = jnp.where(allowed, residual / 2 + penalty, jnp.inf)
    return _Prices(correlation, threshold, close, solved, jnp.where(refine, n_refined + 1, 0), objective, gap)


def _refine(sample: _Sample, support: _Support, correlation: Array, n: Array) -> _Support:
    """Correct the target by what the correlations of the active atoms, in the first n slots, are off."""

    def collect(i: Array, error: Array) -> Array:
        atom, sign = get(support.atoms, i), get(support.sign, i)
        return put(error, i, jnp.where(sign != 0, get(correlation, atom) - get(sample.l1, atom) * sign, 0))

    error = loop(n, collect, jnp.zeros_like(support.target))
    one = jnp.ones((), error.dtype)
    return _move_target(support, one, times(support.inverse, error, n), n, jnp.zeros((), bool))


def _enter(
    sample: _Sample, support: _Support, atom: Array, value: Array, allowed: Array, forced: Array
) -> tuple[_Support, _Entry]:
    """Let an atom enter if it violates optimality, or with a value if it is forced to."""
    room = support.inverse.shape[0]
    row, correlation, free = _relate(sample, support, atom)
    l1, curvature = get(sample.l1, atom), get(_gram_row(sample, atom), atom)
    beyond = (correlation if sample.nonneg else jnp.abs(correlation)) - l1
    eps, tiny = jnp.finfo(l1.dtype).eps, jnp.finfo(l1.dtype).tiny
    wanted = allowed & (forced | (beyond > 4 * eps * jnp.sqrt(curvature * sample.sq_norm)))
    wanted = wanted & (curvature > tiny / eps) & (free < room)

    n = jnp.where(wanted, support.n_slots, 0)
    column = times(support.inverse, row, n)
    along = sum_vectors(n, lambda c: vector(row, c) * vector(column, c), row.dtype)
    distance = curvature - along  # of the atom to the span of the others, squared
    # Where they nearly span it, that is the error of the inverse as much as the distance.
    unclear = wanted & (distance < _UNCLEAR * curvature)
    more_exact = lambda _, found: _distance(sample, support, row, found[0], curvature)  # noqa: E731
    column, distance = loop(unclear.astype(jnp.int32), more_exact, (column, distance))
    enters = wanted & (distance > 0)

    slot = jnp.where(enters, free, room)
    n_slots = jnp.where(enters, jnp.maximum(support.n_slots, slot + 1), support.n_slots)
    n = jnp.where(enters, n_slots, 0)
    direction = put(column, slot, -1)
    scale = 1 / jnp.where(enters, distance, 1)
    sign = jnp.sign(jnp.where(forced, value, correlation))
    support = support._replace(
        n_slots=n_slots,
        atoms=put(support.atoms, slot, atom),
        sign=put(support.sign, slot, sign),
        feasible=put(support.feasible, slot, jnp.where(forced, value, 0)),
        inverse=add_rank_one(support.inverse, scale, direction, n, jnp.full((), -1, jnp.int32)),
        n_entered=support.n_entered + enters,
        n_rounds=support.n_rounds + enters,
    )
    support = _move_target(support, -scale * (correlation - sign * l1), direction, n, forced)
    dependent = wanted & ~enters & ~forced
    support = _settle(support, jnp.where(dependent, support.n_slots, 0))
    return support, _Entry(column, jnp.sign(correlation), dependent)


def _settle(support: _Support, n: Array) -> _Support:
    """Move the feasible codes of the first n slots to the targets, whose signs are right."""
    copy = lambda c, feasible: put_vector(feasible, c, vector(support.target, c))  # noqa: E731
    return support._replace(feasible=loop(ceil_div(n, WIDTH), copy, support.feasible))


def _distance(sample: _Sample, support: _Support, row: Array, column: Array, curvature: Array) -> tuple[Array, Array]:
    """Coefficients of the active atoms that come nearest to an atom, and the squared distance; 0 if it is rounding.

    The error of the distance is quadratic in that of the coefficients, which are corrected first.
    """
    n = support.n_slots

    def error(column: Array) -> Array:
        """What the row is off the Gram matrix of the active atoms times the column."""

        def subtract(i: Array, error: Array) -> Array:
            atom, coefficient = get(support.atoms, i), get(column, i)

            def part(c: Array, error: Array) -> Array:
                entries = _gram_entries(sample, atom, vector(support.atoms, c))
                entries = jnp.where(vector(support.sign, c) != 0, entries, 0)
                return put_vector(error, c, vector(error, c) - coefficient * entries)

            return loop(ceil_div(n, WIDTH), part, error)

        return loop(n, subtract, row)

    def correct(_: Array, column: Array) -> Array:
        change = times(support.inverse, error(column), n)
        return loop(ceil_div(n, WIDTH), lambda c, a: put_vector(a, c, vector(a, c) + vector(change, c)), column)

    column = loop(_REFINEMENTS, correct, column)
    left = error(column)
    along = sum_vectors(n, lambda c: (vector(row, c) + vector(left, c)) * vector(column, c), row.dtype)
    size = sum_vectors(n, lambda c: jnp.abs(vector(row, c) * vector(column, c)), row.dtype)
    distance = curvature - along
    return column, jnp.where(distance > 100 * jnp.finfo(row.dtype).eps * (curvature + size), distance, 0)


def _relate(sample: _Sample, support: _Support, atom: Array) -> tuple[Array, Array, Array]:
    """Products of an atom with the active ones, its correlation with the residual of the target, and a free slot."""

    def gather(c: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        row, correlation, free = carry
        active = vector(support.sign, c) != 0
        entries = jnp.where(active, _gram_entries(sample, atom, vector(support.atoms, c)), 0)
        slots = jnp.where(active, support.inverse.shape[0], positions(c))
        correlation = correlation - tree(jnp.add, entries * vector(support.target, c))
        return put_vector(row, c, entries), correlation, jnp.minimum(free, tree(jnp.minimum, slots))

    start = (jnp.zeros_like(support.target), get(sample.beta, atom), support.n_slots)
    return loop(ceil_div(support.n_slots, WIDTH), gather, start)


def _leave(support: _Support, entry: _Entry, makes_way: Array) -> tuple[_Support, Array]:
    """Move the feasible codes until a coefficient would change its sign, and let that one go.

    They move towards the target. Or they make way for an atom that is a combination of them: its coefficient grows and
    theirs shrink, without a change of what the code stands for, which makes the penalty smaller until one is zero.

    Returns:
      the support, and the length of the way; infinite if no coefficient would change its sign.
    """

    def step(c: Array, feasible: Array) -> Array:
        return jnp.where(makes_way, -entry.sign * vector(entry.column, c), vector(support.target, c) - feasible)

    way, slot = _first_zero(support, step, support.n_slots)
    n = jnp.where(jnp.isfinite(way), support.n_slots, 0)
    return _remove(_go(support, step, way, slot, n), slot, n), way


def _first_zero(support: _Support, step: Callable[[Array, Array], Array], n: Array) -> tuple[Array, Array]:
    """How many steps from the feasible codes until a coefficient in the first n slots is zero, and its slot."""

    def first(c: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        shortest, slot = carry
        feasible = vector(support.feasible, c)
        move = step(c, feasible)
        shrinks = move * vector(support.sign, c) < 0
        order = order_of(jnp.abs(jnp.where(shrinks, feasible / jnp.where(shrinks, move, 1), jnp.inf)))
        least = tree(jnp.minimum, order)
        here = tree(jnp.minimum, jnp.where(order == least, jnp.arange(WIDTH, dtype=jnp.int32), WIDTH))
        return jnp.minimum(shortest, least), jnp.where(least < shortest, c * WIDTH + here, slot)

    never = order_of(jnp.full((), jnp.inf, support.feasible.dtype))
    shortest, slot = loop(ceil_div(n, WIDTH), first, (never, jnp.zeros((), jnp.int32)))
    return lax.bitcast_convert_type(shortest, support.feasible.dtype), slot


def _go(support: _Support, step: Callable[[Array, Array], Array], way: Array, zero: Array, n: Array) -> _Support:
    """Move the feasible codes, where one of them becomes zero exactly."""

    def move(c: Array, feasible: Array) -> Array:
        other = positions(c) != zero
        old = vector(feasible, c)
        return put_vector(feasible, c, jnp.where(other, old + way * step(c, old), 0))

    return support._replace(feasible=loop(ceil_div(n, WIDTH), move, support.feasible))


def _remove(support: _Support, slot: Array, n: Array) -> _Support:
    """Let the atom of a slot go; nothing if n, the number of slots in use, is 0."""
    column = row_of(support.inverse, slot, n)
    scale = -1 / jnp.where(n > 0, get(column, slot), 1)
    move = scale * get(support.target, slot)
    sign = put(support.sign, jnp.where(n > 0, slot, support.inverse.shape[0]), 0)

    def aim(c: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        target, wrong = carry
        stays = positions(c) != slot
        new = jnp.where(stays, vector(target, c) + move * vector(column, c), 0)
        return put_vector(target, c, new), wrong | any_of(new * vector(sign, c) < 0)

    # Where none can leave, which rounding alone can bring about, the search goes on from the target.
    target, any_wrong = loop(ceil_div(n, WIDTH), aim, (support.target, jnp.zeros((), bool)))
    return support._replace(
        sign=sign,
        target=target,
        inverse=add_rank_one(support.inverse, scale, column, n, slot),
        any_wrong=any_wrong,
        n_rounds=support.n_rounds + (n > 0),
    )


def _move_target(support: _Support, scale: Array, direction: Array, n: Array, keep_feasible: Array) -> _Support:
    """Add to the targets of the first n slots; the old ones are feasible, unless told otherwise."""

    def step(c: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        feasible, target, wrong = carry
        old = vector(target, c)
        new = old + scale * vector(direction, c)
        feasible = put_vector(feasible, c, jnp.where(keep_feasible, vector(feasible, c), old))
        return feasible, put_vector(target, c, new), wrong | any_of(new * vector(support.sign, c) < 0)

    start = (support.feasible, support.target, support.any_wrong & (n == 0))
    feasible, target, any_wrong = loop(ceil_div(n, WIDTH), step, start)
    return support._replace(feasible=feasible, target=target, any_wrong=any_wrong)


# Gram matrices.


def _gram_row(sample: _Sample, atom: Array) -> Array:
    return whole_row(sample.gram, sample.first_row + atom)


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
    order = order_of(_size(correlation, sample))
    low = jnp.asarray(2 ** max(1, (q - 1).bit_length()) - 1, order.dtype)
    key = tree(jnp.maximum, (order & ~low | jnp.arange(q, dtype=order.dtype)).reshape(-1, min(q, SEARCHED)).max(0))
    atom = (key & low).astype(jnp.int32)
    return get(_size(correlation, sample), atom), atom


# Supports as codes.


def _nobody(room: int, inverse: Array) -> _Support:
    slots, none = jnp.zeros((room + WIDTH,), inverse.dtype), jnp.zeros((), jnp.int32)
    wrong, entered = jnp.zeros((), bool), jnp.ones((), jnp.int32)
    return _Support(none, jnp.zeros((room + WIDTH,), jnp.int32), slots, slots, slots, inverse, wrong, entered, none)


def _empty(support: _Support, wanted: Array) -> _Support:
    """Nobody again, if wanted; the rounds count on."""
    n = jnp.where(wanted, support.n_slots, 0)
    none = lambda array: loop(  # noqa: E731
        ceil_div(n, WIDTH), lambda c, a: put_vector(a, c, jnp.zeros((WIDTH,), a.dtype)), array
    )
    return support._replace(
        n_slots=support.n_slots - n,
        sign=none(support.sign),
        feasible=none(support.feasible),
        target=none(support.target),
        inverse=clear(support.inverse, n),
        any_wrong=support.any_wrong & ~wanted,
        n_entered=support.n_entered + wanted,
    )


def _scatter(support: _Support, codes: Array, wanted: Array) -> Array:
    """The targets as codes, if wanted; else the codes given."""

    def place(i: Array, codes: Array) -> Array:
        atom = get(support.atoms, i)
        return put(codes, atom, jnp.where(get(support.sign, i) != 0, get(support.target, i), get(codes, atom)))

    once = wanted.astype(jnp.int32)
    return loop(once, lambda _, codes: loop(support.n_slots, place, jnp.zeros_like(codes)), codes)


def _padded(k: int) -> int:
    """Atoms with those that fill the last step of a search."""
    return ceil_div(k, SEARCHED) * SEARCHED if k > SEARCHED else 2 ** (k - 1).bit_length()
