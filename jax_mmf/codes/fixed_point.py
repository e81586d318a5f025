"""Derivatives of codes with a `ProximalPenalty`, by implicit differentiation of their fixed-point equation.

Optimal codes are those that a proximal step, of any size s > 0, leaves where they are::

    a = prox(a - s (a G - beta), s)

The derivative of both sides gives a linear system for the derivative of the codes, with the Jacobian of the proximal
operator. It does not depend on s. [Bertrand et al., Implicit differentiation for fast hyperparameter selection in
non-smooth convex learning, JMLR 2022, theorem 9]
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.codes.problem import CodeProblem
from jax_mmf.core import largest_eigenvalue
from jax_mmf.penalties import ProximalPenalty
from jax_mmf.typing import Array

_POWER_ITERATIONS = 20
_SHIFT = 16  # of systems, in units of eps: a singular one, of equal atoms, then has a solution


def eigenvalue_of(gram: Array) -> Array:
    """Estimate the largest eigenvalue from below: ``(k, k) -> ()`` or ``(b, k, k) -> (b,)``."""
    start = jnp.diagonal(gram, axis1=-2, axis2=-1) + jnp.finfo(gram.dtype).tiny
    return largest_eigenvalue(gram, start, _POWER_ITERATIONS)[0]


def proximal_tangent(
    problem: CodeProblem, penalty: ProximalPenalty, codes: Array, d_problem: CodeProblem, d_penalty: Any
) -> Array:
    """Differentiate codes along a direction; the result is differentiable again if the proximal operator is.

    Args:
      problem: of the batch.
      penalty: of the codes.
      codes: ``(b, k)``.
      d_problem: direction of the problem; that of the Gram matrix is symmetric.
      d_penalty: direction of the penalty.

    Returns:
      ``(b, k)``.
    """
    step = _step_of(problem)
    left_over = lambda problem, penalty: _left_over(problem, penalty, codes, step)  # noqa: E731
    _, right = jax.jvp(left_over, (problem, penalty), (d_problem, d_penalty))

    def system(v: Array) -> Array:
        return -jax.jvp(lambda a: _left_over(problem, penalty, a, step), (codes,), (v,))[1]

    matrix = _matrices(*lax.stop_gradient((problem, penalty, codes)), step)
    solve = lambda _, r: _solve(matrix, r)  # noqa: E731
    transposed = lambda _, r: _solve(jnp.swapaxes(matrix, -1, -2), r)  # noqa: E731
    return lax.custom_linear_solve(system, right, solve, transposed)


def proximal_polish(problem: CodeProblem, penalty: ProximalPenalty, codes: Array) -> Array:
    """Improve codes by a step of Newton's method, if this lowers the residual, for accurate derivatives.

    If the proximal operator is piecewise linear, as that of a norm or a polyhedron, this step ends at the solution.

    Args:
      problem: of the batch.
      penalty: of the codes.
      codes: ``(b, k)``.

    Returns:
      ``(b, k)``; no derivatives go through it.
    """
    problem, penalty, codes = lax.stop_gradient((problem, penalty, codes))
    step = _step_of(problem)
    left = _left_over(problem, penalty, codes, step)
    moved = codes + newton_direction(problem, penalty, codes, step)
    size = lambda a: jnp.sum(a**2, -1, keepdims=True)  # noqa: E731
    better = size(_left_over(problem, penalty, moved, step)) < size(left)  # False for NaN
    return jnp.where(better, moved, codes)


def newton_direction(problem: CodeProblem, penalty: ProximalPenalty, codes: Array, step: Array) -> Array:
    """Return the direction of Newton's method on the fixed-point equation.

    Args:
      problem: of the batch.
      penalty: of the codes.
      codes: ``(b, k)``.
      step: ``(b,)`` sizes of the proximal step.

    Returns:
      ``(b, k)``.
    """
    return _solve(_matrices(problem, penalty, codes, step), _left_over(problem, penalty, codes, step))


def _step_of(problem: CodeProblem) -> Array:
    """Return a step size for each sample, ``(b,)``, whose choice does not matter for derivatives."""
    largest = lax.stop_gradient(eigenvalue_of(problem.gram))
    return jnp.broadcast_to(1 / jnp.where(largest > 0, largest, 1), problem.beta.shape[:1])


def _left_over(problem: CodeProblem, penalty: ProximalPenalty, codes: Array, step: Array) -> Array:
    """Return how far a proximal step moves codes: ``(b, k)``, zero at the solution."""
    ahead = codes - step[:, None] * (problem.image(codes) - problem.beta)
    return jax.vmap(penalty.prox)(ahead, step) - codes


def _matrices(problem: CodeProblem, penalty: ProximalPenalty, codes: Array, step: Array) -> Array:
    """Return the derivative of `_left_over` with respect to the codes of each sample, negated: ``(b, k, k)``."""
    identity = jnp.eye(codes.shape[-1], dtype=codes.dtype)

    def column(direction: Array) -> Array:
        along = jnp.broadcast_to(direction, codes.shape)
        return jax.jvp(lambda a: _left_over(problem, penalty, a, step), (codes,), (along,))[1]

    columns = lax.map(column, identity)
    return -jnp.moveaxis(columns, 0, -1)


def _solve(matrix: Array, right: Array) -> Array:
    shift = _SHIFT * jnp.finfo(right.dtype).eps * jnp.eye(right.shape[-1], dtype=right.dtype)
    return jnp.linalg.solve(matrix + shift, right[..., None])[..., 0]
