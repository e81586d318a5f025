"""Feature-sign search [Lee, Battle, Raina and Ng, 2006]: codes solved exactly on an active set of atoms.

The active set changes by an atom at a time. In the names of the code, for each sample::

    support, start = empty_support(), init                               # _search
    phase = STARTING if start has an atom, else SEARCHING
    while phase is STARTING or SEARCHING:                                # _advance
        prices = price(support)     # correlations of all atoms with the residual, duality gap, objective
        best = _better(best, prices)
        phase = _next_phase(prices)     # OPTIMAL if the gap is small; RESTARTING or FAILED if rounding spoilt it
        if prices.n_refined > 0:
            support.target = refine_target(support)
        for atom, the largest violation first, until it is below prices.threshold:  # _try_atoms
            enter(atom)     # updates support.inverse, and support.target to the minimum for the signs as they are
            while support.any_wrong_sign:                                # restore_signs
                move support.feasible towards support.target, to the first breakpoint
                remove(the atom whose coefficient became zero)
        if phase is RESTARTING:
            support, start = emptied(support), best.codes (the last time: zeros)

While STARTING, the atoms of ``start`` enter instead of those that violate optimality. An atom that is a combination of
active ones can't enter, and replaces one of them (`restore_signs`).

Lee et al. compute the correlations of all atoms for each one that enters. That costs more than the update of the
inverse, so here all atoms whose violation is nearly the largest are tried in a row. When the turn of one comes, its
correlation is computed again, which takes its products with the active atoms only.

The steps are in the modules of their names: `prices`, `entering`, `leaving`; the active set is in `support`.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import sequential_vmap

from jax_mmf.codes.duality import Gap, Weights
from jax_mmf.codes.kernels import vectors
from jax_mmf.codes.kernels.compiled_loop import compiled_loop
from jax_mmf.codes.kernels.entering import enter
from jax_mmf.codes.kernels.leaving import restore_signs
from jax_mmf.codes.kernels.prices import Prices, price, refine_target
from jax_mmf.codes.kernels.problem import TINY_L1, Problem, most_violating, padded_size, violations
from jax_mmf.codes.kernels.support import Support, emptied, empty_support, scatter_target
from jax_mmf.typing import Array

# Phases of a search.
STARTING = np.int32(0)  # the atoms of `start` enter next, with its values, before any atom leaves
SEARCHING = np.int32(1)  # atoms that violate optimality enter next
RESTARTING = np.int32(2)  # spoilt by rounding: within the same `_advance`, it becomes STARTING or SEARCHING again
OPTIMAL = np.int32(3)  # ended: the gap of the target is within tolerance
FAILED = np.int32(4)  # ended: spoilt, or no atom can enter, and there is no restart; the best codes count

_MAX_RESTARTS = 3  # where gaps are bounds; else one
_MAX_ROUNDS = 16  # times the number of slots: atoms that enter or leave before a search is given up
_SPOILT = 32  # times eps |x|^2: a rise of the objective that shows that rounding has spoilt the inverse
_EQUAL = 4  # times eps |x|^2: objectives that differ by less are equal up to rounding
_FAR = 4  # times the rounding of a gap: codes whose gap is above are searched again, others left to coordinate descent


class Supports(NamedTuple):
    """What `solve_supports` found.

    Attributes:
      codes: ``(b, k)``.
      gap: duality gaps relative to the objective, ``(b,)`` each; no bounds where an l1 weight is zero.
      n_rounds: ``(b,)`` changes of the active set; int32.
    """

    codes: Array
    gap: Gap
    n_rounds: Array


class _Best(NamedTuple):
    """The best codes so far."""

    codes: Array  # (q,)
    objective: Array
    gap: Gap


class _Search(NamedTuple):
    """State of a search between two pricings."""

    phase: Array  # int32, one of the phases above
    support: Support
    start: Array  # (q,) codes to start from, in the phase STARTING
    n_restarts: Array
    n_refined: Array  # as in `Prices`
    objective: Array  # of the target at the pricing before; infinite after a start
    best: _Best


class _Trial(NamedTuple):
    """State between two atoms that are tried."""

    support: Support
    correlation: Array  # (q,) with the residual at the last pricing; zero for atoms that were tried since
    violation: Array  # the largest that is left
    atom: Array  # the atom to try next: that of the violation, or the one of an exchange
    exchanged: Array  # whether another atom left in exchange for it; then it always enters
    value: Array  # coefficient with which it then enters


def solve_supports(gram: Array, beta: Array, sq_norm: Array, weights: Weights, tol: Array, init: Array) -> Supports:
    """Solve samples one after another by feature-sign search.

    The objective falls between pricings. No active set occurs twice, and the search ends. Rounding can spoil the
    inverse. Then the objective rises, or the gap stays open with no atom left to enter, and the search begins again,
    with a new inverse, from the best codes so far, and the last time from zeros.

    Every loop ends for all numbers, including NaN. Each trial takes an atom off the list, signs are restored by
    taking atoms away, and the numbers of rounds and restarts are limited.

    The loops run over scalars and over chunks of a few dozen numbers: fast where they are compiled into one kernel, on
    CPU.

    Args:
      gram: ``(k, k)``, or ``(b, k, k)``.
      beta: ``(b, k)`` correlations.
      sq_norm: ``(b,)``.
      weights: of the penalty.
      tol: relative duality gap at which a sample is done.
      init: ``(b, k)`` codes to start from.
    """
    l1, l2 = weights.l1[:, 0], weights.l2[:, 0]
    dtype = jnp.promote_types(beta.dtype, jnp.float32)  # half precision is too coarse to order violations
    tol = jnp.broadcast_to(tol, sq_norm.shape)
    arrays = [a.astype(dtype) for a in (gram + jnp.diag(l2), beta, sq_norm, l1, tol, init)]
    search = compiled_loop(
        lambda *args: _search_all(*args, nonneg=weights.nonneg),
        ("k l" if gram.ndim == 2 else "b k l") + ", b k, b, k, b, b k -> b k, b, b, b",
        ("k", "l"),
    )
    codes, relative, rounding, n_rounds = sequential_vmap(search)(*arrays)
    return Supports(codes.astype(beta.dtype), Gap(relative.astype(beta.dtype), rounding.astype(beta.dtype)), n_rounds)


def _search_all(
    gram: Array, beta: Array, sq_norm: Array, l1: Array, tol: Array, init: Array, *, nonneg: bool
) -> tuple[Array, Array, Array, Array]:
    b, k = beta.shape
    pad = padded_size(k) - k
    bounded = l1.min() > 0
    inverse_l1 = 1 / jnp.maximum(l1, jnp.finfo(l1.dtype).tiny * TINY_L1)
    gram = jnp.pad(gram, [(0, 0)] * (gram.ndim - 1) + [(0, pad)])
    beta, init = (jnp.pad(a, [(0, 0), (0, pad)]) for a in (beta, init))
    l1, inverse_l1 = jnp.pad(l1, (0, pad)), jnp.pad(inverse_l1, (0, pad))
    n_slots = vectors.ceil_div(k, vectors.WIDTH) * vectors.WIDTH
    rows_per_sample = k if gram.ndim == 3 else 0
    gram = gram.reshape(-1, k + pad)

    def solve(n: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        zeros, codes, relative, rounding, n_rounds = carry
        problem = Problem(
            gram=gram,
            first_row=n * rows_per_sample,
            beta=vectors.row(beta, n),
            sq_norm=vectors.entry(sq_norm, n),
            l1=l1,
            inverse_l1=inverse_l1,
            bounded=bounded,
            nonneg=nonneg,
            tol=vectors.entry(tol, n),
        )
        best, support = _search(problem, empty_support(n_slots, zeros), vectors.row(init, n))
        return (
            vectors.with_zero_rows(support.inverse, support.n_slots),  # the same memory for the next sample
            vectors.with_row(codes, n, best.codes),
            vectors.with_entry(relative, n, best.gap.relative),
            vectors.with_entry(rounding, n, best.gap.rounding),
            vectors.with_entry(n_rounds, n, support.n_rounds),
        )

    start = (
        jnp.zeros((n_slots, n_slots), beta.dtype),
        jnp.zeros_like(beta),
        *(jnp.zeros_like(sq_norm) for _ in Gap._fields),
        jnp.zeros((b,), jnp.int32),
    )
    _, codes, relative, rounding, n_rounds = vectors.fori(b, solve, start)
    return codes[:, :k], relative, rounding, n_rounds


def _search(problem: Problem, support: Support, init: Array) -> tuple[_Best, Support]:
    """Search from an empty active set: the best codes of a sample, and the active set at the end."""
    if problem.nonneg:
        init = jnp.maximum(init, 0)
    warm = _any_enters(problem, init)
    max_restarts = jnp.where(problem.bounded, _MAX_RESTARTS, 1)
    max_rounds = _MAX_ROUNDS * support.inverse.shape[0]
    zero, infinite = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, init.dtype)
    first = _Search(
        phase=jnp.where(warm, STARTING, SEARCHING),
        support=support,
        start=init,
        n_restarts=zero,
        n_refined=zero,
        objective=infinite,
        best=_Best(jnp.zeros_like(init), infinite, Gap(infinite, jnp.zeros((), init.dtype))),
    )

    def unfinished(search: _Search) -> Array:
        return (search.phase <= SEARCHING) & (search.support.n_rounds < max_rounds)

    advance = lambda search: _advance(problem, search, warm, max_restarts)  # noqa: E731
    last = lax.while_loop(unfinished, advance, first)
    codes = scatter_target(last.support, last.best.codes, last.phase == OPTIMAL)
    return last.best._replace(codes=codes), last.support


def _advance(problem: Problem, search: _Search, warm: Array, max_restarts: Array) -> _Search:
    """Price all atoms once, try those that violate optimality by much, and choose the next phase of the search."""
    prices = price(problem, search.support, search.n_refined)
    best = _better(problem, search.best, prices, search.support)
    phase = _next_phase(problem, search, prices, warm, max_restarts)
    starting, restarting = search.phase == STARTING, phase == RESTARTING

    support = search.support._replace(n_entered=jnp.zeros((), jnp.int32))
    n_refined_slots = jnp.where(prices.n_refined > 0, support.n_slots, 0)
    support = refine_target(problem, support, prices.correlation, n_refined_slots)
    # Codes to start from replace correlations: the atoms with the largest codes enter first.
    correlation = jnp.where(starting, search.start, prices.correlation)
    threshold = jnp.where(phase == SEARCHING, prices.threshold, jnp.inf)
    threshold = jnp.where(starting, jnp.finfo(threshold.dtype).tiny, threshold)
    support = _try_atoms(problem, support, correlation, threshold, search.start, starting)

    last = search.n_restarts == max_restarts - 1
    start = jnp.where(restarting, jnp.where(last, 0, best.codes), search.start)
    restarted = jnp.where(_any_enters(problem, start), STARTING, SEARCHING)
    return _Search(
        phase=jnp.where(restarting, restarted, phase),
        support=emptied(support, restarting),
        start=start,
        n_restarts=search.n_restarts + restarting,
        n_refined=jnp.where(restarting, 0, prices.n_refined),
        objective=jnp.where(restarting | starting, jnp.inf, prices.objective),
        best=best,
    )


def _next_phase(problem: Problem, search: _Search, prices: Prices, warm: Array, max_restarts: Array) -> Array:
    """Phase after a pricing: SEARCHING, RESTARTING, OPTIMAL or FAILED.

    A search that is stuck far from the optimum was spoilt by rounding, or began at a bad start. If gaps are not bounds,
    the distance to the optimum is unknown, and only a search from a start begins again.
    """
    eps = jnp.finfo(prices.objective.dtype).eps
    rose = ~(prices.objective <= search.objective + _SPOILT * eps * problem.sq_norm)
    far = prices.gap.relative > problem.tol + _FAR * prices.gap.rounding
    failed = rose | prices.stuck
    restart = (rose | (far & (problem.bounded | warm))) & (search.n_restarts < max_restarts)
    phase = jnp.where(failed, jnp.where(restart, RESTARTING, FAILED), SEARCHING)
    phase = jnp.where(prices.optimal, OPTIMAL, phase)
    return jnp.where(search.phase == STARTING, SEARCHING, phase)


def _try_atoms(
    problem: Problem, support: Support, correlation: Array, threshold: Array, start: Array, starting: Array
) -> Support:
    """Try atoms by decreasing violation, and let others leave after each until all signs are right.

    Args:
      problem: of the sample.
      support: the active set.
      correlation: ``(q,)`` with the residual, zero for active atoms; or the codes to start from.
      threshold: of the violations that are tried.
      start: ``(q,)`` coefficients with which atoms enter if ``starting``.
      starting: whether all atoms enter, for any correlation with the residual. No atom leaves before all have entered.
    """

    def unfinished(trial: _Trial) -> Array:
        return (trial.violation >= threshold) | trial.support.any_wrong_sign | trial.exchanged

    def attempt(trial: _Trial) -> _Trial:
        forced = starting | trial.exchanged
        value = jnp.where(trial.exchanged, trial.value, vectors.entry(start, trial.atom))
        allowed = trial.exchanged | (trial.violation >= threshold)
        support, candidate = enter(problem, trial.support, trial.atom, value, allowed, forced)
        correlation = vectors.with_entry(trial.correlation, trial.atom, jnp.zeros((), value.dtype))
        violation, atom = most_violating(problem, correlation)
        support, exchanged, value = restore_signs(support, candidate, ~starting | (violation < threshold))
        return _Trial(support, correlation, violation, jnp.where(exchanged, trial.atom, atom), exchanged, value)

    none = jnp.zeros((), bool), jnp.zeros((), correlation.dtype)
    first = _Trial(support, correlation, *most_violating(problem, correlation), *none)
    return lax.while_loop(unfinished, attempt, first).support


def _better(problem: Problem, best: _Best, prices: Prices, support: Support) -> _Best:
    """The target, if its objective is lower than that of the best codes, or its gap where objectives are equal.

    If gaps are not bounds and objectives are equal, the later codes win: they have been refined. Codes that end the
    search are not copied here, since they are the target of the active set.
    """
    rounding = _EQUAL * jnp.finfo(best.codes.dtype).eps * problem.sq_norm
    closer = (prices.gap.relative < best.gap.relative) | ~problem.bounded
    most = best.objective + jnp.where(closer, rounding, -rounding)
    better = (prices.objective < most) & jnp.isfinite(prices.objective)
    codes = scatter_target(support, best.codes, better & ~prices.optimal)
    choose = lambda new, old: jnp.where(better | prices.optimal, new, old)  # noqa: E731
    return _Best(codes, choose(prices.objective, best.objective), Gap(*map(choose, prices.gap, best.gap)))


def _any_enters(problem: Problem, codes: Array) -> Array:
    """Whether codes to start from have an atom that is not zero."""
    return vectors.largest_or_zero(violations(problem, codes)) > 0
