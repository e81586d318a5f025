"""Solve a `CodeProblem` for samples of any scale, with derivatives, and with vmap as a larger batch."""

from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from jax_mmf.codes.compaction import SolveInfo
from jax_mmf.codes.derivatives import codes_tangent, polish
from jax_mmf.codes.duality import solved, weights_of
from jax_mmf.codes.fixed_point import proximal_polish, proximal_tangent
from jax_mmf.codes.problem import CodeProblem
from jax_mmf.codes.solver import CodeSolver, is_unrolled
from jax_mmf.core import register_configuration
from jax_mmf.penalties import AnyPenalty, Penalty, ProximalPenalty, has_closed_form, is_weighted, penalty_value
from jax_mmf.typing import Array, Float


def solve_codes(
    problem: CodeProblem, penalty: AnyPenalty, *, solver: CodeSolver, init: Array, scale: Array | None = None
) -> tuple[Array, SolveInfo]:
    """Solve the codes of a batch, differentiable in the problem and in the penalty.

    Args:
      problem: of the batch, with each squared norm divided by the square of its scale.
      penalty: of the codes.
      solver: a `CodeSolver`.
      init: ``(b, k)`` codes to start from; NaN and infinity count as zero.
      scale: ``(b,)`` powers of two of the size of the samples, whose squares may be out of the range of the dtype, and
        zeros for samples of zeros; None for ones.

    Returns:
      codes ``(b, k)`` and a `SolveInfo` of ``(b,)``.
    """
    init = jnp.where(jnp.isfinite(init), init, 0)
    solve = _solve_scaled if is_unrolled(solver) else _differentiable_solve
    return solve(problem, penalty, scale, solver, init)


# Samples of any scale


@register_configuration
@dataclass(frozen=True)
class Scaled:
    """The penalty for codes divided by a scale, in an objective divided by the square of the scale."""

    penalty: Penalty
    scale: Array

    @property
    def l1(self) -> Float:
        """Weight of the l1 norm."""
        # Finite, so that its product with zero is zero.
        return jnp.minimum(self.penalty.l1 / self.scale, jnp.finfo(self.scale.dtype).max)

    @property
    def l2(self) -> Float:
        """Weight of half the squared l2 norm."""
        return self.penalty.l2

    @property
    def nonneg(self) -> bool:
        """Whether codes must be non-negative (static)."""
        return self.penalty.nonneg


@register_configuration
@dataclass(frozen=True)
class ScaledProximal:
    """As `Scaled`, for a penalty that is known by its proximal operator."""

    penalty: ProximalPenalty
    scale: Array

    def value(self, code: Array) -> Array:
        """Value of the penalty, in units of the square of the scale."""
        return self.penalty.value(code * self.scale) / self.scale / self.scale

    def prox(self, code: Array, step: Array) -> Array:
        """Proximal operator at a code in units of the scale."""
        return self.penalty.prox(code * self.scale, step) / self.scale


@register_configuration
@dataclass(frozen=True)
class ScaledBounded(ScaledProximal):
    """As `ScaledProximal`, for a penalty with a duality gap."""

    def gap(self, code: Array, gradient: Array) -> Array:
        """Duality gap, in units of the square of the scale."""
        bound = self.penalty.gap  # type: ignore[attr-defined]
        return bound(code * self.scale, gradient * self.scale) / self.scale / self.scale


def scaled(penalty: AnyPenalty, scale: Array) -> AnyPenalty:
    """Return the penalty of codes that are divided by a scale."""
    if is_weighted(penalty):
        return Scaled(penalty, scale)
    kind = ScaledBounded if hasattr(penalty, "gap") else ScaledProximal
    return kind(cast(ProximalPenalty, penalty), scale)


def _solve_scaled(
    problem: CodeProblem, penalty: AnyPenalty, scale: Array | None, solver: CodeSolver, init: Array
) -> tuple[Array, SolveInfo]:
    """Solve a problem in units of the scale of its samples."""
    if scale is None or has_closed_form(penalty):
        codes, info = solver.solve(problem, penalty, init)
    else:
        common = jnp.where(scale.max() > 0, scale.max(), 1)
        problem = CodeProblem(problem.gram, problem.beta / common, problem.sq_norm * (scale / common) ** 2)
        of_scaled = scaled(penalty, common)
        codes, info = solver.solve(problem, of_scaled, init / common)
        if info.converged is not None and is_weighted(of_scaled):
            info = info._replace(converged=_converged(problem, of_scaled, codes, info))
        codes = codes * common
    if info.converged is None:  # the solver does not report it
        info = info._replace(converged=jnp.ones(info.gap.shape, bool))
    return codes, info


def _converged(problem: CodeProblem, penalty: Penalty, codes: Array, info: SolveInfo) -> Array:
    """Which samples are solved, by their objectives where the gaps alone do not show it."""
    assert info.converged is not None
    certain = info.converged
    plain = certain & (jnp.nan_to_num(penalty_value(penalty, codes)) >= problem.sq_norm / 2000)

    def look() -> Array:
        weights = weights_of(penalty, codes.shape[1], codes.dtype)
        image = problem.image(codes)
        return solved(weights, problem.beta.T, image.T, codes.T, problem.sq_norm, info.gap, certain)

    return lax.cond(plain.all(), lambda: certain, look)


# Derivatives


@jax.custom_jvp
def _differentiable_solve(
    problem: CodeProblem, penalty: AnyPenalty, scale: Array | None, solver: CodeSolver, init: Array
) -> tuple[Array, SolveInfo]:
    return _flat_solve(problem, penalty, scale, solver, init)


@_differentiable_solve.defjvp
def _solve_jvp(primals: Any, tangents: Any) -> Any:
    problem, penalty, *_ = primals
    d_problem, d_penalty, *_ = tangents
    codes, info = _differentiable_solve(*primals)
    # The derivative is that of the polished codes, so these are returned: otherwise a chain would mix two points.
    if is_weighted(penalty):
        codes = codes + lax.stop_gradient(polish(problem, penalty, codes) - codes)
        d_codes = codes_tangent(problem, penalty, codes, d_problem, d_penalty)
    else:
        proximal = cast(ProximalPenalty, penalty)
        codes = codes + lax.stop_gradient(proximal_polish(problem, proximal, codes) - codes)
        d_codes = proximal_tangent(problem, proximal, codes, d_problem, d_penalty)
    whole = jnp.zeros(info.n_iter.shape, jax.dtypes.float0)
    zeros = SolveInfo(jnp.zeros_like(info.gap), whole, whole)
    return (codes, info), (d_codes, zeros)


# vmap over samples

_ALL_BATCHED: Any = (True, SolveInfo(True, True, True))  # type: ignore[arg-type]


@custom_vmap
def _flat_solve(
    problem: CodeProblem, penalty: AnyPenalty, scale: Array | None, solver: CodeSolver, init: Array
) -> tuple[Array, SolveInfo]:
    return _solve_scaled(problem, penalty, scale, solver, init)


@_flat_solve.def_vmap
def _flat_solve_vmap(size: int, batched: Any, *args: Any) -> Any:
    """Turn a user's vmap over samples into one larger batch, because solvers are fastest on large batches."""
    problem, penalty, scale, solver, init = args
    problem_batched, penalty_batched, scale_batched, solver_batched, init_batched = batched
    one_problem = not any(jax.tree.leaves((penalty_batched, solver_batched)))
    own_gram_each = problem_batched.gram and problem.gram.ndim == 3 and problem.beta.shape[-2] == 1
    if not one_problem or not (own_gram_each or (not problem_batched.gram and problem.gram.ndim == 2)):
        # Problems that differ in more than their samples: the solver's loop runs until the last is done.
        axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
        return jax.vmap(_solve_scaled, in_axes=axes)(*args), _ALL_BATCHED

    def merge(array: Any, is_batched: Any) -> Any:
        if array is None:
            return None
        spread = array if is_batched else jnp.broadcast_to(array, (size, *array.shape))
        return spread.reshape(-1, *spread.shape[2:])

    merged = CodeProblem(
        problem.gram,
        merge(problem.beta, problem_batched.beta),
        merge(problem.sq_norm, problem_batched.sq_norm),
    )
    out = _flat_solve(merged, penalty, merge(scale, scale_batched), solver, merge(init, init_batched))
    return jax.tree.map(lambda a: a.reshape(size, -1, *a.shape[1:]), out), _ALL_BATCHED
