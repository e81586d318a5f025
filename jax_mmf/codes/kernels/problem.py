"""The problem of one sample, and which atoms violate its optimality conditions.

The codes a of a sample minimise::

    1/2 a G a^T - a . beta + l1 |a|_1,      optionally with a >= 0,

where G is the Gram matrix of the atoms, with the l2 weights of an elastic net on its diagonal. At the minimum, the
correlation of an atom with the residual, ``beta - a G``, is ``sign(a) l1`` if the atom is active, and at most l1 in
absolute value else.
"""

from typing import NamedTuple

import jax.numpy as jnp

from jax_mmf.codes.kernels import vectors
from jax_mmf.typing import Array

TINY_L1 = 2**24  # times the smallest normal number: l1 weights below count as this, whose inverse is finite


class Problem(NamedTuple):
    """The problem of one sample. The k atoms are followed by atoms of zeros, up to q = `padded_size` (k) of them."""

    gram: Array  # (rows, q) Gram matrices of all samples, one below the other, or one that all share
    first_row: Array  # where the Gram matrix of this sample begins
    beta: Array  # (q,) correlations of the atoms with the sample
    sq_norm: Array  # squared norm of the sample
    l1: Array  # (q,) weights
    inverse_l1: Array  # (q,) zero for the padding
    bounded: Array  # whether gaps are upper bounds: no l1 weight of an atom is zero
    nonneg: bool  # whether codes are non-negative
    tol: Array  # relative duality gap at which the sample is solved


def padded_size(k: int) -> int:
    """Number of atoms with the padding that fills up the last step of a search for the largest violation."""
    width = vectors.SEARCH_WIDTH
    return vectors.ceil_div(k, width) * width if k > width else 2 ** (k - 1).bit_length()


def gram_row(problem: Problem, atom: Array) -> Array:
    """Products of an atom with all atoms: ``(q,)``."""
    return vectors.row(problem.gram, problem.first_row + atom)


def gram_entries(problem: Problem, atom: Array, others: Array) -> Array:
    """Products of an atom with others: as many as there are ``others``."""
    start = (problem.first_row + atom) * problem.gram.shape[1]
    return jnp.take(problem.gram.reshape(-1), start + others, mode="clip")


def violations(problem: Problem, correlation: Array) -> Array:
    """Correlations of inactive atoms with the residual over their l1 weights: above 1, optimality is violated."""
    return (correlation if problem.nonneg else jnp.abs(correlation)) * problem.inverse_l1


def most_violating(problem: Problem, correlation: Array) -> tuple[Array, Array]:
    """About the largest violation, and its atom.

    One search finds both: the last bits of each violation are replaced by the number of its atom. Violations that
    differ in these bits only count as equal.
    """
    q = correlation.shape[0]
    bits = vectors.sortable(violations(problem, correlation))
    low = jnp.asarray(2 ** max(1, (q - 1).bit_length()) - 1, bits.dtype)
    keys = (bits & ~low | jnp.arange(q, dtype=bits.dtype)).reshape(-1, min(q, vectors.SEARCH_WIDTH)).max(0)
    atom = (vectors.reduce_halves(jnp.maximum, keys) & low).astype(jnp.int32)
    return vectors.entry(violations(problem, correlation), atom), atom
