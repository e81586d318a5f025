"""An atom enters the active set: the inverse Gram matrix and the target are updated, both of rank one.

Let G be the Gram matrix of the active atoms, and g the products of the new atom d with them. The combination of active
atoms that is nearest to d has the coefficients ``c = G^-1 g``, and the squared distance ``s = |d|^2 - g . c``. The
inverse of the larger Gram matrix is the old one, bordered by zeros, plus ``v v^T / s``, where v is c with -1 for d.
Where s is zero, the atom is a combination of the active ones, and can't enter.
"""

from typing import NamedTuple

import jax.numpy as jnp

from jax_mmf.codes.kernels import vectors
from jax_mmf.codes.kernels.problem import Problem, gram_entries, gram_row
from jax_mmf.codes.kernels.support import Support, accept_target, move_target
from jax_mmf.typing import Array

_SIGNIFICANT = 4  # times eps |d| |x|, the rounding of a correlation: smaller violations count as zero
_NEARLY_DEPENDENT = 1e-3  # s / |d|^2 below which the distance is computed again, with less rounding
_DEPENDENT = 100  # times eps, relative to the terms of s: a distance below is rounding, and counts as zero
_CORRECTIONS = 2  # of the coefficients c before the distance is computed again


class Candidate(NamedTuple):
    """How an atom that was tried depends on the active ones."""

    coefficients: Array  # (m + WIDTH,) the combination of active atoms that is nearest to it, c above
    sign: Array  # that its own coefficient would have
    dependent: Array  # whether it violates optimality and could not enter, because it is that combination


def enter(
    problem: Problem, support: Support, atom: Array, value: Array, allowed: Array, forced: Array
) -> tuple[Support, Candidate]:
    """Let an atom enter if it violates optimality, or with a given value if it is forced to.

    Args:
      problem: of the sample.
      support: the active set.
      atom: the atom that is tried.
      value: its feasible coefficient if it is forced; else that is zero.
      allowed: if false, nothing changes.
      forced: whether the atom enters for any correlation with the residual. Then the feasible coefficients of the
        others stay as they are; else they become the old target.
    """
    n_all = support.inverse.shape[0]
    products, correlation, free = _relation(problem, support, atom)
    l1, curvature = vectors.entry(problem.l1, atom), vectors.entry(gram_row(problem, atom), atom)
    excess = (correlation if problem.nonneg else jnp.abs(correlation)) - l1
    eps, tiny = jnp.finfo(l1.dtype).eps, jnp.finfo(l1.dtype).tiny
    wanted = allowed & (forced | (excess > _SIGNIFICANT * eps * jnp.sqrt(curvature * problem.sq_norm)))
    wanted = wanted & (curvature > tiny / eps) & (free < n_all)  # an atom of zeros never enters

    n = jnp.where(wanted, support.n_slots, 0)
    column = vectors.symmetric_product(support.inverse, products, n)
    explained = vectors.sum_chunks(n, lambda c: vectors.chunk(products, c) * vectors.chunk(column, c), products.dtype)
    distance = curvature - explained
    # Where the active atoms nearly span the new one, this is the error of the inverse as much as the distance.
    unclear = wanted & (distance < _NEARLY_DEPENDENT * curvature)
    again = lambda _, found: _exact_distance(problem, support, products, found[0], curvature)  # noqa: E731
    column, distance = vectors.fori(unclear.astype(jnp.int32), again, (column, distance))
    enters = wanted & (distance > 0)

    slot = jnp.where(enters, free, n_all)
    n_slots = jnp.where(enters, jnp.maximum(support.n_slots, slot + 1), support.n_slots)
    n = jnp.where(enters, n_slots, 0)
    direction = vectors.with_entry(column, slot, -1)
    scale = 1 / jnp.where(enters, distance, 1)
    sign = jnp.sign(jnp.where(forced, value, correlation))
    support = support._replace(
        n_slots=n_slots,
        atoms=vectors.with_entry(support.atoms, slot, atom),
        sign=vectors.with_entry(support.sign, slot, sign),
        feasible=vectors.with_entry(support.feasible, slot, jnp.where(forced, value, 0)),
        inverse=vectors.with_rank_one_update(support.inverse, scale, direction, n, jnp.full((), -1, jnp.int32)),
        n_entered=support.n_entered + enters,
        n_rounds=support.n_rounds + enters,
    )
    support = move_target(support, -scale * (correlation - sign * l1), direction, n, forced)
    dependent = wanted & ~enters & ~forced
    # An exchange moves the feasible coefficients, and must begin at the target.
    support = accept_target(support, jnp.where(dependent, support.n_slots, 0))
    return support, Candidate(column, jnp.sign(correlation), dependent)


def _relation(problem: Problem, support: Support, atom: Array) -> tuple[Array, Array, Array]:
    """Products of an atom with the active ones, its correlation with the residual of the target, and a free slot."""

    def gather(c: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        products, correlation, free = carry
        active = vectors.chunk(support.sign, c) != 0
        entries = jnp.where(active, gram_entries(problem, atom, vectors.chunk(support.atoms, c)), 0)
        free_slots = jnp.where(active, support.inverse.shape[0], vectors.chunk_indices(c))
        correlation = correlation - vectors.reduce_halves(jnp.add, entries * vectors.chunk(support.target, c))
        free = jnp.minimum(free, vectors.reduce_halves(jnp.minimum, free_slots))
        return vectors.with_chunk(products, c, entries), correlation, free

    start = (jnp.zeros_like(support.target), vectors.entry(problem.beta, atom), support.n_slots)
    return vectors.fori(vectors.ceil_div(support.n_slots, vectors.WIDTH), gather, start)


def _exact_distance(
    problem: Problem, support: Support, products: Array, column: Array, curvature: Array
) -> tuple[Array, Array]:
    """Coefficients of the nearest combination of active atoms, and its squared distance, or 0 where that is rounding.

    The error of the distance is quadratic in that of the coefficients, which are corrected first.
    """
    n = support.n_slots
    n_chunks = vectors.ceil_div(n, vectors.WIDTH)

    def residual(column: Array) -> Array:
        """What is left of the linear system: products - G column."""

        def subtract(i: Array, left: Array) -> Array:
            atom, coefficient = vectors.entry(support.atoms, i), vectors.entry(column, i)

            def subtract_chunk(c: Array, left: Array) -> Array:
                entries = gram_entries(problem, atom, vectors.chunk(support.atoms, c))
                entries = jnp.where(vectors.chunk(support.sign, c) != 0, entries, 0)
                return vectors.with_chunk(left, c, vectors.chunk(left, c) - coefficient * entries)

            return vectors.fori(n_chunks, subtract_chunk, left)

        return vectors.fori(n, subtract, products)

    def correct(_: Array, column: Array) -> Array:
        change = vectors.symmetric_product(support.inverse, residual(column), n)
        add = lambda c, a: vectors.with_chunk(a, c, vectors.chunk(a, c) + vectors.chunk(change, c))  # noqa: E731
        return vectors.fori(n_chunks, add, column)

    def terms(c: Array) -> Array:
        return (vectors.chunk(products, c) + vectors.chunk(left, c)) * vectors.chunk(column, c)

    def sizes(c: Array) -> Array:
        return jnp.abs(vectors.chunk(products, c) * vectors.chunk(column, c))

    column = vectors.fori(_CORRECTIONS, correct, column)
    left = residual(column)
    explained = vectors.sum_chunks(n, terms, products.dtype)
    size = vectors.sum_chunks(n, sizes, products.dtype)
    distance = curvature - explained
    rounding = _DEPENDENT * jnp.finfo(products.dtype).eps * (curvature + size)
    return column, jnp.where(distance > rounding, distance, 0)
