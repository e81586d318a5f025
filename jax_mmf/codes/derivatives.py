"""Derivatives of codes, by implicit differentiation on their support ([TPAMI12], proposition 1).

As long as the support and the signs of a code do not change, the code is the solution of a linear system. This does
not depend on the solver that found it::

    (G + l2 I) a = beta - l1 sign(a)     on the support,     a = 0 off it,

and its derivative is the solution of the same system with another right-hand side. The cost of a derivative depends on
the size of the support, and not on the number of iterations of a solver.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from jax_mmf.codes.duality import weights_of
from jax_mmf.codes.problem import CodeProblem
from jax_mmf.core import cho_solve, cholesky, solve_shifted
from jax_mmf.penalties import Penalty, has_closed_form
from jax_mmf.typing import Array

_ROOMS = (32, 128)  # numbers of coordinates that systems of small supports are gathered into


def _weights(penalty: Penalty, codes: Array) -> tuple[Array, Array]:
    """Return the weights l1 and l2 of a penalty, ``(k,)`` each, for codes ``(b, k)``."""
    weights = weights_of(penalty, codes.shape[-1], codes.dtype)
    return weights.l1[:, 0], weights.l2[:, 0]


def polish(problem: CodeProblem, penalty: Penalty, codes: Array) -> Array:
    """Solve the system of the support of codes exactly, so that derivatives belong to the codes returned.

    Iterations stop at a duality gap, and the error of a code is of the order of the square root of its gap. Codes that
    solve the system up to rounding are returned unchanged, at the cost of one product. So are codes that would change
    their signs: their support has no better ones.

    Args:
      problem: of the batch.
      penalty: of the codes.
      codes: ``(b, k)``.

    Returns:
      ``(b, k)``; no derivatives go through it.
    """
    problem, penalty, codes = lax.stop_gradient((problem, penalty, codes))
    # A second solution would not be more accurate than a closed form.
    if has_closed_form(penalty):
        return codes
    beta = problem.beta
    l1, l2 = _weights(penalty, codes)
    support = codes != 0
    residual = jnp.where(support, beta - l1 * jnp.sign(codes) - l2 * codes - problem.image(codes), 0)
    scale = jnp.max(jnp.abs(beta), -1, keepdims=True)
    left = jnp.abs(residual) > 64 * jnp.finfo(codes.dtype).eps * scale
    moved = codes + _solve_if(left.any(), problem.gram, support, l2, residual)
    keeps_signs = (jnp.sign(moved) == jnp.sign(codes)).all(-1, keepdims=True)
    return jnp.where(keeps_signs, moved, codes)


def codes_tangent(
    problem: CodeProblem, penalty: Penalty, codes: Array, d_problem: CodeProblem, d_penalty: Any
) -> Array:
    """Differentiate codes along a direction; the result is differentiable again.

    Args:
      problem: of the batch.
      penalty: of the codes.
      codes: ``(b, k)``.
      d_problem: direction of the problem; that of the Gram matrix is symmetric.
      d_penalty: direction of the penalty.

    Returns:
      ``(b, k)``.
    """
    support = codes != 0
    (_, l2), (d_l1, d_l2) = jax.jvp(lambda q: _weights(q, codes), (penalty,), (d_penalty,))
    right = d_problem.beta - d_l1 * jnp.sign(codes) - d_l2 * codes - d_problem.image(codes)

    def system(v: Array) -> Array:
        on = jnp.where(support, v, 0)
        return jnp.where(support, problem.image(on) + l2 * on, v)

    constants = lax.stop_gradient((problem.gram, l2))
    closed_form = has_closed_form(penalty)

    def solve(_: Any, r: Array) -> Array:
        if closed_form:
            return solve_shifted(*constants, r)
        return _solve(constants[0], support, constants[1], r)

    return lax.custom_linear_solve(system, jnp.where(support, right, 0), solve, symmetric=True)


@custom_vmap
def _solve(gram: Array, support: Array, l2: Array, right: Array) -> Array:
    """Solve ``(G + l2 I) v = right`` on supports, with ``v = right`` off them: ``(b, k)``.

    The systems of small supports are gathered, in the smallest room that holds the largest support of the batch. Equal
    or zero atoms in a support make a system singular; then this is a solution of nearly least norm.
    """
    k = right.shape[1]
    if gram.ndim == 3:
        return _solve_full(gram, support, l2, right)
    rooms = [room for room in _ROOMS if 2 * room <= k]
    solvers = [functools.partial(_solve_gathered, room=room) for room in rooms]
    largest = support.sum(-1).max()
    number = jnp.sum(largest > jnp.asarray(rooms, largest.dtype)) if rooms else 0
    return lax.switch(number, [*solvers, _solve_full], gram, support, l2, right)


@_solve.def_vmap
def _solve_vmap(size: int, batched: Any, gram: Array, support: Array, l2: Array, right: Array) -> tuple[Array, bool]:
    """Turn a user's vmap into one batch: a switch under vmap would solve all of its cases."""
    gram_batched, _, l2_batched, _ = batched
    spread = lambda a, is_batched: a if is_batched else jnp.broadcast_to(a, (size, *a.shape))  # noqa: E731
    support, right = (spread(a, is_batched) for a, is_batched in ((support, batched[1]), (right, batched[3])))
    if gram_batched or l2_batched:
        axes = tuple(0 if is_batched else None for is_batched in (gram_batched, True, l2_batched, True))
        return jax.vmap(_solve_full, axes)(gram, support, l2, right), True
    if gram.ndim == 3:
        gram = jnp.broadcast_to(gram, (size, *gram.shape)).reshape(-1, *gram.shape[1:])
    flat = lambda a: a.reshape(-1, a.shape[-1])  # noqa: E731
    return _solve(gram, flat(support), l2, flat(right)).reshape(right.shape), True


def _solve_gathered(gram: Array, support: Array, l2: Array, right: Array, room: int) -> Array:
    weight, index = lax.top_k(support.astype(gram.dtype), room)
    inside = weight > 0
    matrix = _masked(gram[index[:, :, None], index[:, None, :]], inside, l2[index])
    solution = cho_solve(cholesky(matrix), jnp.take_along_axis(right, index, 1))
    return jnp.put_along_axis(right, index, solution, 1, inplace=False)


def _solve_full(gram: Array, support: Array, l2: Array, right: Array) -> Array:
    """Solve systems of all coordinates, which takes b k^2 numbers.

    A loop over parts of the batch would need less memory, but in a switch XLA on CPU hangs in it (jaxlib 0.10.2).
    """
    return cho_solve(cholesky(_masked(gram, support, l2)), right)


def _masked(gram: Array, inside: Array, l2: Array) -> Array:
    """``G + l2 I`` on a support, the identity off it: ``(..., m, m), (..., m), (..., m) -> (..., m, m)``."""
    both = inside[..., :, None] & inside[..., None, :]
    diagonal = jnp.where(inside, l2, 1)[..., None] * jnp.eye(inside.shape[-1], dtype=gram.dtype)
    return jnp.where(both, gram, 0) + diagonal


@custom_vmap
def _solve_if(wanted: Array, gram: Array, support: Array, l2: Array, right: Array) -> Array:
    """Call `_solve`, or return zeros if its result is not needed."""
    return lax.cond(wanted, _solve, lambda *args: jnp.zeros_like(args[3]), gram, support, l2, right)


@_solve_if.def_vmap
def _solve_if_vmap(size: int, batched: Any, wanted: Array, *args: Array) -> tuple[Array, bool]:
    """Solve for all of a user's vmap or for none: a condition under vmap computes both branches."""
    axes = tuple(0 if is_batched else None for is_batched in batched[1:])
    shape = args[3].shape[1:] if batched[4] else args[3].shape
    zeros = jnp.zeros((size, *shape), args[3].dtype)
    return lax.cond(wanted.any(), lambda a: jax.vmap(_solve, axes)(*a), lambda _: zeros, args), True
