"""The active set: its atoms and their signs, two vectors of coefficients, and the inverse of their Gram matrix."""

from typing import NamedTuple

import jax.numpy as jnp

from jax_mmf.codes.kernels import vectors
from jax_mmf.typing import Array


class Support(NamedTuple):
    """The active set, in m slots. A slot with sign 0 is free; its coefficients and its row of the inverse are zero.

    Vectors have ``vectors.WIDTH`` entries more than there are slots: writes that must have no effect go to slot m.
    """

    n_slots: Array  # slots from here on have never been in use
    atoms: Array  # (m + WIDTH,) the atom of each slot
    sign: Array  # (m + WIDTH,) sign that the coefficient must keep, or 0
    feasible: Array  # (m + WIDTH,) coefficients with these signs, or zero: the current point of the search
    target: Array  # (m + WIDTH,) coefficients that minimise the objective for these signs, which they may not have
    inverse: Array  # (m, m) inverse of the Gram matrix of the active atoms; zero elsewhere
    any_wrong_sign: Array  # whether a coefficient of the target has the wrong sign
    n_entered: Array  # atoms that entered since the last pricing, counting from 1 in an empty active set
    n_rounds: Array  # atoms that entered or left since the search began


def empty_support(n_slots: int, zeros: Array) -> Support:
    """An empty active set with room for a number of atoms, a multiple of ``vectors.WIDTH``.

    Args:
      n_slots: number of slots, m.
      zeros: ``(m, m)`` zeros, which become the memory of the inverse.
    """
    none = jnp.zeros((n_slots + vectors.WIDTH,), zeros.dtype)
    no_atoms, zero = jnp.zeros((n_slots + vectors.WIDTH,), jnp.int32), jnp.zeros((), jnp.int32)
    return Support(zero, no_atoms, none, none, none, zeros, jnp.zeros((), bool), jnp.ones((), jnp.int32), zero)


def emptied(support: Support, wanted: Array) -> Support:
    """Remove all atoms at once if ``wanted``. The number of rounds is kept."""
    n = jnp.where(wanted, support.n_slots, 0)

    def cleared(array: Array) -> Array:
        zeros = jnp.zeros((vectors.WIDTH,), array.dtype)
        return vectors.fori(vectors.ceil_div(n, vectors.WIDTH), lambda c, a: vectors.with_chunk(a, c, zeros), array)

    return support._replace(
        n_slots=support.n_slots - n,
        sign=cleared(support.sign),
        feasible=cleared(support.feasible),
        target=cleared(support.target),
        inverse=vectors.with_zero_rows(support.inverse, n),
        any_wrong_sign=support.any_wrong_sign & ~wanted,
        n_entered=support.n_entered + wanted,
    )


def remove(support: Support, slot: Array, n: Array) -> Support:
    """Remove the atom of a slot, and move the target to the minimum on the others.

    Args:
      support: the active set.
      slot: that of the atom.
      n: number of slots in use; 0 to change nothing.
    """
    column = vectors.leading_row(support.inverse, slot, n)
    scale = -1 / jnp.where(n > 0, vectors.entry(column, slot), 1)
    step = scale * vectors.entry(support.target, slot)
    sign = vectors.with_entry(support.sign, jnp.where(n > 0, slot, support.inverse.shape[0]), 0)

    def move(c: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        target, wrong = carry
        stays = vectors.chunk_indices(c) != slot
        new = jnp.where(stays, vectors.chunk(target, c) + step * vectors.chunk(column, c), 0)
        return vectors.with_chunk(target, c, new), wrong | vectors.any_true(new * vectors.chunk(sign, c) < 0)

    # If no atom can leave, which only rounding can cause, n is 0 and the search continues from the same target.
    n_chunks = vectors.ceil_div(n, vectors.WIDTH)
    target, any_wrong_sign = vectors.fori(n_chunks, move, (support.target, jnp.zeros((), bool)))
    return support._replace(
        sign=sign,
        target=target,
        inverse=vectors.with_rank_one_update(support.inverse, scale, column, n, slot),
        any_wrong_sign=any_wrong_sign,
        n_rounds=support.n_rounds + (n > 0),
    )


def move_target(support: Support, scale: Array, direction: Array, n: Array, keep_feasible: Array) -> Support:
    """Add ``scale direction`` to the target.

    Args:
      support: the active set.
      scale: a scalar.
      direction: ``(m + WIDTH,)``.
      n: number of slots in use; 0 to change nothing.
      keep_feasible: whether the feasible coefficients stay. If not, they become the target as it was before, all of
        whose signs must be right.
    """

    def step(c: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        feasible, target, wrong = carry
        old = vectors.chunk(target, c)
        new = old + scale * vectors.chunk(direction, c)
        feasible = vectors.with_chunk(feasible, c, jnp.where(keep_feasible, vectors.chunk(feasible, c), old))
        wrong = wrong | vectors.any_true(new * vectors.chunk(support.sign, c) < 0)
        return feasible, vectors.with_chunk(target, c, new), wrong

    start = (support.feasible, support.target, support.any_wrong_sign & (n == 0))
    feasible, target, any_wrong_sign = vectors.fori(vectors.ceil_div(n, vectors.WIDTH), step, start)
    return support._replace(feasible=feasible, target=target, any_wrong_sign=any_wrong_sign)


def accept_target(support: Support, n: Array) -> Support:
    """Set the feasible coefficients of the first n slots to the target, all of whose signs must be right."""
    copy = lambda c, feasible: vectors.with_chunk(feasible, c, vectors.chunk(support.target, c))  # noqa: E731
    return support._replace(feasible=vectors.fori(vectors.ceil_div(n, vectors.WIDTH), copy, support.feasible))


def scatter_target(support: Support, codes: Array, wanted: Array) -> Array:
    """The target as codes of all atoms, ``(q,)``, if ``wanted``; else ``codes``."""

    def place(i: Array, codes: Array) -> Array:
        atom = vectors.entry(support.atoms, i)
        active = vectors.entry(support.sign, i) != 0
        value = jnp.where(active, vectors.entry(support.target, i), vectors.entry(codes, atom))
        return vectors.with_entry(codes, atom, value)

    once = wanted.astype(jnp.int32)
    return vectors.fori(once, lambda _, codes: vectors.fori(support.n_slots, place, jnp.zeros_like(codes)), codes)
