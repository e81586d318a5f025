"""Atoms leave the active set: the feasible coefficients move along a line until one of them is zero.

A step size at which a coefficient becomes zero is a *breakpoint* of the objective. At the first one, the feasible
coefficients can't move further without a change of sign, and the atom of that coefficient leaves.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_mmf.codes.kernels import vectors
from jax_mmf.codes.kernels.entering import Candidate
from jax_mmf.codes.kernels.support import Support, remove
from jax_mmf.typing import Array

# Where the feasible coefficients move next.
_TO_TARGET = np.int32(0)  # towards the target, as long as that has a wrong sign
_EXCHANGE = np.int32(1)  # until a dependent candidate can replace an active atom
_EXCHANGED = np.int32(2)  # nowhere: the candidate enters first


class Departure(NamedTuple):
    """Result of `restore_signs`."""

    support: Support
    exchanged: Array  # whether an atom left in exchange for the candidate, which has to enter next
    value: Array  # coefficient with which the candidate enters


class _Line(NamedTuple):
    support: Support
    direction: Array  # _TO_TARGET, _EXCHANGE or _EXCHANGED
    value: Array  # as in `Departure`


def restore_signs(support: Support, candidate: Candidate, allowed: Array) -> Departure:
    """Let atoms leave until all signs of the target are right.

    If the candidate is a combination of active atoms, they make an exchange first. The coefficient of the candidate
    grows, those of the others change so that the code times the dictionary stays the same, and the penalty falls; at
    the first breakpoint an atom leaves, and the candidate is no longer dependent.

    Args:
      support: the active set.
      candidate: the atom that was tried last.
      allowed: if false, no atom leaves except in an exchange.
    """
    tiny = jnp.finfo(support.target.dtype).tiny

    def unfinished(line: _Line) -> Array:
        wrong = (line.direction == _TO_TARGET) & line.support.any_wrong_sign & allowed
        return (line.direction == _EXCHANGE) | wrong

    def leave(line: _Line) -> _Line:
        exchange = line.direction == _EXCHANGE
        support, step_size = _leave_at_breakpoint(line.support, candidate, exchange)
        exchanged = exchange & jnp.isfinite(step_size)
        # A step of no length still has a direction: the value keeps its sign.
        value = jnp.where(exchanged, candidate.sign * jnp.maximum(step_size, tiny), 0)
        return _Line(support, jnp.where(exchanged, _EXCHANGED, _TO_TARGET), value)

    direction = jnp.where(candidate.dependent, _EXCHANGE, _TO_TARGET)
    line = lax.while_loop(unfinished, leave, _Line(support, direction, jnp.zeros_like(candidate.sign)))
    return Departure(line.support, line.direction == _EXCHANGED, line.value)


def _leave_at_breakpoint(support: Support, candidate: Candidate, exchange: Array) -> tuple[Support, Array]:
    """Move the feasible coefficients to the first breakpoint, towards the target or in an exchange; that atom leaves.

    Returns:
      the active set, and the step size; infinite if there is no breakpoint; then nothing changes.
    """

    def move(c: Array, feasible: Array) -> Array:
        """Direction of the coefficients of a chunk."""
        to_target = vectors.chunk(support.target, c) - feasible
        return jnp.where(exchange, -candidate.sign * vectors.chunk(candidate.coefficients, c), to_target)

    step_size, slot = _first_breakpoint(support, move, support.n_slots)
    n = jnp.where(jnp.isfinite(step_size), support.n_slots, 0)
    return remove(_step(support, move, step_size, slot, n), slot, n), step_size


def _first_breakpoint(support: Support, move: Callable[[Array, Array], Array], n: Array) -> tuple[Array, Array]:
    """Smallest step size at which a coefficient of the first n slots becomes zero, and its slot."""

    def earlier(c: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        shortest, slot = carry
        feasible = vectors.chunk(support.feasible, c)
        step = move(c, feasible)
        shrinks = step * vectors.chunk(support.sign, c) < 0
        breakpoints = jnp.abs(jnp.where(shrinks, feasible / jnp.where(shrinks, step, 1), jnp.inf))
        bits = vectors.sortable(breakpoints)
        least = vectors.reduce_halves(jnp.minimum, bits)
        places = jnp.where(bits == least, jnp.arange(vectors.WIDTH, dtype=jnp.int32), vectors.WIDTH)
        here = vectors.reduce_halves(jnp.minimum, places)
        return jnp.minimum(shortest, least), jnp.where(least < shortest, c * vectors.WIDTH + here, slot)

    never = vectors.sortable(jnp.full((), jnp.inf, support.feasible.dtype))
    start = (never, jnp.zeros((), jnp.int32))
    shortest, slot = vectors.fori(vectors.ceil_div(n, vectors.WIDTH), earlier, start)
    return lax.bitcast_convert_type(shortest, support.feasible.dtype), slot


def _step(
    support: Support, move: Callable[[Array, Array], Array], step_size: Array, zero_slot: Array, n: Array
) -> Support:
    """Move the feasible coefficients of the first n slots; the one at the breakpoint becomes exactly zero."""

    def step(c: Array, feasible: Array) -> Array:
        stays = vectors.chunk_indices(c) != zero_slot
        old = vectors.chunk(feasible, c)
        return vectors.with_chunk(feasible, c, jnp.where(stays, old + step_size * move(c, old), 0))

    return support._replace(feasible=vectors.fori(vectors.ceil_div(n, vectors.WIDTH), step, support.feasible))
