"""Prices: correlations of all atoms with the residual, the duality gap, and the objective."""

from typing import NamedTuple

import jax.numpy as jnp

from jax_mmf.codes.duality import ROUNDING, Gap
from jax_mmf.codes.kernels import vectors
from jax_mmf.codes.kernels.problem import Problem, gram_row, violations
from jax_mmf.codes.kernels.support import Support, move_target
from jax_mmf.typing import Array

_THRESHOLD = 0.7  # share of the way from the l1 weight to the largest violation: atoms above it are tried
_REFINEMENTS = 2  # corrections of the target, one after another, before the search counts as stuck
_OBJECTIVE_FLOOR = 2000  # the objective counts as at least |x|^2 over this, as in `duality_gap`
_ROWS = 4  # of the Gram matrix that are subtracted in one pass over the correlations


class Prices(NamedTuple):
    """Correlations, gap and objective at the target of an active set."""

    correlation: Array  # (q,) with the residual; zero for active atoms, except where the target is to be refined
    threshold: Array  # violations at least as large are tried before the next pricing
    optimal: Array  # whether the gap is within tolerance and rounding
    stuck: Array  # whether no atom entered since the last pricing, and refinements of the target are used up
    n_refined: Array  # refinements of the target since an atom entered, with the one that is due now
    objective: Array  # of the target; infinite if codes must not be negative and one is
    gap: Gap  # of the target


def price(problem: Problem, support: Support, n_refined: Array) -> Prices:
    """Compute prices at the target, with as many rows of the Gram matrix as there are active atoms.

    Where no atom has entered since the last pricing and the gap is still open, the target has rounding errors: then it
    has to be refined, and no atom is tried.

    Args:
      problem: of the sample.
      support: the active set.
      n_refined: refinements of the target since an atom entered.
    """
    correlation = _correlations(problem, support)
    gap, objective = _duality_gap(problem, support, correlation)
    none_entered = support.n_entered == 0
    optimal = (gap.relative <= problem.tol + gap.rounding) & (problem.tol > 0)
    stuck = none_entered & (n_refined == _REFINEMENTS)
    refine = none_entered & ~(optimal | stuck)

    def mask(i: Array, correlation: Array) -> Array:
        atom, active = vectors.entry(support.atoms, i), vectors.entry(support.sign, i) != 0
        return vectors.with_entry(correlation, atom, jnp.where(active, 0, vectors.entry(correlation, atom)))

    correlation = vectors.fori(jnp.where(refine, 0, support.n_slots), mask, correlation)
    most = vectors.largest_or_zero(violations(problem, correlation))
    worthwhile = jnp.maximum(_THRESHOLD * most + (1 - _THRESHOLD), 1)
    threshold = jnp.where(optimal | stuck | refine, jnp.inf, worthwhile)
    return Prices(correlation, threshold, optimal, stuck, jnp.where(refine, n_refined + 1, 0), objective, gap)


def refine_target(problem: Problem, support: Support, correlation: Array, n: Array) -> Support:
    """Correct the target for rounding: a step of iterative refinement of its linear system.

    Args:
      problem: of the sample.
      support: the active set.
      correlation: ``(q,)`` with the residual of the target, also of active atoms.
      n: number of slots in use; 0 to change nothing.
    """

    def error(i: Array, errors: Array) -> Array:
        atom, sign = vectors.entry(support.atoms, i), vectors.entry(support.sign, i)
        off = vectors.entry(correlation, atom) - vectors.entry(problem.l1, atom) * sign
        return vectors.with_entry(errors, i, jnp.where(sign != 0, off, 0))

    errors = vectors.fori(n, error, jnp.zeros_like(support.target))
    correction = vectors.symmetric_product(support.inverse, errors, n)
    return move_target(support, jnp.ones((), errors.dtype), correction, n, jnp.zeros((), bool))


def _correlations(problem: Problem, support: Support) -> Array:
    """Correlations of all atoms with the residual of the target: ``(q,)``."""

    def subtract(i: Array, correlation: Array) -> Array:
        atoms, coefficients = (
            vectors.unstack(vectors.part(a, (i * _ROWS,), (_ROWS,))) for a in (support.atoms, support.target)
        )
        for atom, coefficient in zip(atoms, coefficients, strict=True):
            correlation = correlation - coefficient * gram_row(problem, atom)
        return correlation

    # The first pass is outside of the loop: a loop that starts from beta would copy it, number by number.
    correlation = subtract(jnp.zeros((), jnp.int32), problem.beta)
    return vectors.fori(vectors.ceil_div(support.n_slots, _ROWS), subtract, correlation, first=1)


def _duality_gap(problem: Problem, support: Support, correlation: Array) -> tuple[Gap, Array]:
    """Duality gap of the target, and its objective: as `duality_gap`, with the residual scaled to be feasible."""
    overshoot = jnp.maximum(vectors.largest_or_zero(violations(problem, correlation)), 1)

    def collect(i: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        linear, along, penalty, allowed = carry
        atom, coefficient = vectors.entry(support.atoms, i), vectors.entry(support.target, i)
        return (
            linear + coefficient * vectors.entry(problem.beta, atom),
            along + coefficient * vectors.entry(correlation, atom),
            penalty + vectors.entry(problem.l1, atom) * jnp.abs(coefficient),
            allowed & (coefficient >= 0) if problem.nonneg else allowed,
        )

    zero = jnp.zeros((), correlation.dtype)
    start = (zero, zero, zero, jnp.ones((), bool))
    linear, along, penalty, allowed = vectors.fori(support.n_slots, collect, start)
    residual = jnp.maximum(problem.sq_norm - linear - along, 0)
    shift = 1 - 1 / overshoot
    excess = jnp.maximum(penalty - along + shift * along + shift**2 * residual / 2, 0)
    scale = jnp.maximum(residual / 2 + penalty, problem.sq_norm / _OBJECTIVE_FLOOR)
    scale = jnp.where(scale > 0, scale, 1)
    gap = Gap(excess / scale, ROUNDING * jnp.finfo(scale.dtype).eps * problem.sq_norm / scale)
    return gap, jnp.where(allowed, residual / 2 + penalty, jnp.inf)
