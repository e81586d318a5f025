"""Codes from Gram matrices and correlations: any size of samples, derivatives, and a user's vmap as a larger batch."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from jax_mmf.codes.compaction import SolveInfo
from jax_mmf.codes.derivatives import codes_tangent, polish
from jax_mmf.codes.duality import solved, weights_of
from jax_mmf.codes.solvers import CodeSolver
from jax_mmf.core import matmul, register_configuration
from jax_mmf.penalties import Penalty, is_ridge, penalty_value
from jax_mmf.typing import Array, Float


def _converged(gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, codes: Array, info: SolveInfo) -> Array:
    """Which samples are solved, by their objectives where it is not plain from the gaps."""
    assert info.converged is not None
    certain = info.converged
    plain = certain & (jnp.nan_to_num(penalty_value(penalty, codes)) >= sq_norm / 2000)

    def look() -> Array:
        weights = weights_of(penalty, codes.shape[1], codes.dtype)
        image = matmul(codes, gram) if gram.ndim == 2 else jnp.einsum("bk,bkl->bl", codes, gram, precision="highest")
        return solved(weights, beta.T, image.T, codes.T, sq_norm, info.gap, certain)

    return lax.cond(plain.all(), lambda: certain, look)


@jax.custom_jvp
def _differentiable_solve(
    gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, scale: Array | None, solver: CodeSolver, init: Array
) -> tuple[Array, SolveInfo]:
    return _flat_solve(gram, beta, penalty, sq_norm, scale, solver, init)


def solve_codes(
    gram: Array,
    beta: Array,
    penalty: Penalty,
    *,
    sq_norm: Array,
    solver: CodeSolver,
    init: Array,
    scale: Array | None = None,
) -> tuple[Array, SolveInfo]:
    """Codes of a batch from Gram matrices and correlations, differentiable in these and in the penalty.

    Args:
      gram: ``(k, k)`` shared by the batch, or ``(b, k, k)``.
      beta: ``(b, k)``.
      penalty: of the codes.
      sq_norm: ``(b,)`` squared norms of the samples, each over the square of its scale.
      solver: a `CodeSolver`.
      init: ``(b, k)``; what is not finite counts as zero.
      scale: ``(b,)`` powers of two of the size of the samples, whose squares may be out of the range of the dtype, and
        zeros for samples of zeros; None for ones.

    Returns:
      codes ``(b, k)`` and a `SolveInfo` of ``(b,)``.
    """
    init = jnp.where(jnp.isfinite(init), init, 0)
    solve = _solve_scaled if getattr(solver, "unrolled", False) else _differentiable_solve
    return solve(gram, beta, penalty, sq_norm, scale, solver, init)


@register_configuration
@dataclass(frozen=True)
class Scaled:
    """The penalty of codes that are divided by a number, which its objective is divided by the square of."""

    penalty: Penalty
    scale: Array

    @property
    def l1(self) -> Float:
        """Weight of the l1 norm."""
        return jnp.minimum(self.penalty.l1 / self.scale, jnp.finfo(self.scale.dtype).max)  # times zero it must be zero

    @property
    def l2(self) -> Float:
        """Weight of half the squared l2 norm."""
        return self.penalty.l2

    @property
    def nonneg(self) -> bool:
        """Whether codes must be non-negative (static)."""
        return self.penalty.nonneg


def _solve_scaled(
    gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, scale: Array | None, solver: CodeSolver, init: Array
) -> tuple[Array, SolveInfo]:
    """The codes of a solver for samples of any size: codes are homogeneous in samples and l1 weights."""
    if scale is None or is_ridge(penalty):
        codes, info = solver.solve(gram, beta, penalty, sq_norm, init)
    else:
        common = jnp.where(scale.max() > 0, scale.max(), 1)
        sq_norm, beta = sq_norm * (scale / common) ** 2, beta / common
        scaled = Scaled(penalty, common)
        codes, info = solver.solve(gram, beta, scaled, sq_norm, init / common)
        if info.converged is not None:
            info = info._replace(converged=_converged(gram, beta, scaled, sq_norm, codes, info))
        codes = codes * common
    if info.converged is None:  # a solver that does not say
        info = info._replace(converged=jnp.ones(info.gap.shape, bool))
    return codes, info


@_differentiable_solve.defjvp
def _solve_jvp(primals: Any, tangents: Any) -> Any:
    gram, beta, penalty, *_ = primals
    d_gram, d_beta, d_penalty, *_ = tangents
    codes, info = _differentiable_solve(*primals)
    # Under differentiation the codes are those that the derivative is of: a chain of both would mix two points.
    codes = codes + lax.stop_gradient(polish(codes, gram, beta, penalty) - codes)
    d_codes = codes_tangent(codes, gram, penalty, d_gram, d_beta, d_penalty)
    whole = jnp.zeros(info.n_iter.shape, jax.dtypes.float0)
    zeros = SolveInfo(jnp.zeros_like(info.gap), whole, whole)
    return (codes, info), (d_codes, zeros)


_ALL_BATCHED: Any = (True, SolveInfo(True, True, True))  # type: ignore[arg-type]


@custom_vmap
def _flat_solve(
    gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, scale: Array | None, solver: CodeSolver, init: Array
) -> tuple[Array, SolveInfo]:
    return _solve_scaled(gram, beta, penalty, sq_norm, scale, solver, init)


@_flat_solve.def_vmap
def _flat_solve_vmap(size: int, batched: Any, *args: Any) -> Any:
    """A user's vmap over samples becomes one larger batch, which is what the solvers are fast at."""
    gram, beta, penalty, _, _, solver, _ = args
    gram_batched, _, penalty_batched, _, _, solver_batched, _ = batched
    one_problem = not any(jax.tree.leaves((penalty_batched, solver_batched)))
    own_gram_each = gram_batched and gram.ndim == 3 and beta.shape[-2] == 1
    if not one_problem or not (own_gram_each or (not gram_batched and gram.ndim == 2)):
        # Problems that differ in more than their samples: the solver's loop runs until the last is done.
        axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
        return jax.vmap(_solve_scaled, in_axes=axes)(*args), _ALL_BATCHED

    def merge(array: Any, is_batched: Any) -> Any:
        if array is None:
            return None
        spread = array if is_batched else jnp.broadcast_to(array, (size, *array.shape))
        return spread.reshape(-1, *spread.shape[2:])

    merged = [merge(args[i], batched[i]) for i in (1, 3, 4, 6)]
    out = _flat_solve(gram, merged[0], penalty, merged[1], merged[2], solver, merged[3])
    return jax.tree.map(lambda a: a.reshape(size, -1, *a.shape[1:]), out), _ALL_BATCHED
