"""Solvers for the codes of a mini-batch: each minimizes a `CodeProblem` plus a penalty, per sample.

They stop each sample on its own duality gap. Inside, arrays are transposed, ``(k, b)``, so that one coordinate of all
samples is contiguous in memory. Your own solver is a pytree with the method `CodeSolver.solve`.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import lax

from jax_mmf.codes.compaction import Batch, SolveInfo, iterate
from jax_mmf.codes.duality import Gap, Weights, duality_gap, weights_of
from jax_mmf.codes.kernels.active_set import solve_supports
from jax_mmf.codes.kernels.descent import finish_by_descent
from jax_mmf.codes.problem import CodeProblem, image_of
from jax_mmf.codes.proximal import FISTA
from jax_mmf.codes.solver import CodeSolver, check_weighted
from jax_mmf.core import check_real, matmul, register_configuration, solve_shifted
from jax_mmf.defaults import ENCODE_MAX_ITER, ENCODE_TOL
from jax_mmf.penalties import AnyPenalty, Penalty, has_closed_form, is_weighted, shrink
from jax_mmf.typing import Array, Float

_BLOCK = 8  # coordinates per matrix product: 8 was faster than 16 and 32 at k = 256, b = 1024 on CPU
_SWEEPS_PER_CHECK = 2


def default_code_solver(
    penalty: AnyPenalty, *, tol: Float = ENCODE_TOL, max_iter: int | Array = ENCODE_MAX_ITER
) -> CodeSolver:
    """Return `Cholesky` for a penalty in closed form, `FISTA` for a `ProximalPenalty`, and `ActiveSet` for others."""
    if not is_weighted(penalty):
        return FISTA(tol=tol, max_iter=max_iter)
    return Cholesky() if has_closed_form(penalty) else ActiveSet(tol=tol, max_iter=max_iter)


@register_configuration
@dataclass(frozen=True)
class Cholesky:
    """Closed form for `Ridge` codes, with one Cholesky factorization per Gram matrix.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> print(mmf.encode(jnp.eye(2), jnp.array([2.0, -0.5]), mmf.Ridge(1.0), solver=mmf.Cholesky()).round(2))
      [ 1.   -0.25]
    """

    def solve(self, problem: CodeProblem, penalty: AnyPenalty, init: Array) -> tuple[Array, SolveInfo]:
        """Solve a batch of samples; arguments as in `CodeSolver.solve`. ``init`` is not used.

        Without a penalty the matrix is singular if there are more atoms than features, or atoms that are equal or
        zero. Then a multiple of the identity at the level of rounding is added, and the solution is nearly that of
        least norm.

        Raises:
          TypeError: for penalties without a closed form.
        """
        if not has_closed_form(penalty):
            raise TypeError(f"Cholesky solves Ridge without nonneg only, got {type(penalty).__name__}; use FISTA")
        gram = problem.gram
        l2 = jnp.broadcast_to(jnp.asarray(penalty.l2, gram.dtype), gram.shape[-1:])
        codes = solve_shifted(gram, l2, problem.beta)
        exact = jnp.ones(problem.sq_norm.shape, bool)
        return codes, SolveInfo(jnp.zeros_like(problem.sq_norm), exact.astype(jnp.int32), exact)


@register_configuration
@dataclass(frozen=True)
class CoordinateDescent:
    """Cyclic coordinate descent on all samples of a batch together.

    The correlations of a block of coordinates come from one matrix product. Inside the block, each coordinate is
    minimized exactly after correcting for the coordinates before it. Samples that have converged are dropped, three
    quarters of the batch at a time. The descent can be stopped at any accuracy. If several codes are optimal, it
    stays close to the codes that it starts from.

    Attributes:
      tol: relative duality gap at which a sample is done (`relative_gap`), or the level of rounding if
        that is higher; 0 always makes max_iter sweeps.
      max_iter: largest number of sweeps over the coordinates.

    Raises:
      ValueError: if a value known on the host is out of range.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> print(mmf.encode(jnp.eye(2), jnp.array([2.0, -0.5]), mmf.Lasso(1.0), solver=mmf.CoordinateDescent()))
      [1. 0.]
    """

    tol: Float = 1e-6
    max_iter: int | Array = 1000

    def __post_init__(self) -> None:
        check_real("tol", self.tol, low=0.0)
        check_real("max_iter", self.max_iter, low=1)

    def solve(self, problem: CodeProblem, penalty: AnyPenalty, init: Array) -> tuple[Array, SolveInfo]:
        """Solve a batch of samples; arguments as in `CodeSolver.solve`."""
        penalty = check_weighted(penalty, self)
        gram, beta, sq_norm = problem
        k = gram.shape[-1]
        pad = -k % _BLOCK if gram.ndim == 2 else 0
        gram = jnp.pad(gram, [(0, 0)] * (gram.ndim - 2) + [(0, pad), (0, pad)])
        weights = weights_of(penalty, k, gram.dtype, pad)
        batch = Batch(
            gram=gram if gram.ndim == 2 else jnp.moveaxis(gram, 0, -1),
            beta=jnp.pad(beta.T, [(0, pad), (0, 0)]),
            sq_norm=sq_norm,
            state=jnp.pad(init.T, [(0, pad), (0, 0)]),
        )
        sweep = _sweep_shared if gram.ndim == 2 else _sweep_own

        def advance(batch: Batch, n: Array) -> tuple[Batch, Array]:
            codes = lax.fori_loop(0, n, lambda _, c: sweep(batch, c, weights), batch.state)
            return batch._replace(state=codes), image_of(batch.gram, codes)

        def gap_of(batch: Batch, image: Array) -> Gap:
            return duality_gap(weights, batch.beta, image, batch.state, batch.sq_norm)

        codes, info = iterate(batch, advance, lambda state: state, gap_of, self.tol, self.max_iter, _SWEEPS_PER_CHECK)
        return codes[:k].T, info


@register_configuration
@dataclass(frozen=True)
class ActiveSet:
    """Codes solved exactly on their support, which changes by one atom at a time [Lee et al. 2006].

    The work grows with the number of active atoms and not with the correlation of the atoms. This is the fastest
    solver of sparse codes on CPU, where it is one compiled loop over the samples. A compiled program runs it on one
    core. Outside of transformations, `encode` distributes the samples over threads; in a program,
    `jax.shard_map` over CPU devices does so (docs/notes/numerics.md). On accelerators, where sequential steps are slow,
    `FISTA` replaces it, with the same tolerance. If atoms are nearly equal, coordinate descent closes the rest of the
    gap.

    Attributes:
      tol: relative duality gap at which a sample is done (`relative_gap`), or the level of rounding if
        that is higher; with 0, coordinate descent makes max_iter sweeps.
      max_iter: largest number of sweeps of coordinate descent, or of proximal steps.

    Raises:
      ValueError: if a value known on the host is out of range.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> print(mmf.encode(jnp.eye(2), jnp.array([2.0, -0.5]), mmf.Lasso(1.0), solver=mmf.ActiveSet()))
      [1. 0.]
    """

    tol: Float = 1e-6
    max_iter: int | Array = 1000
    sequential: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("tol", self.tol, low=0.0)
        check_real("max_iter", self.max_iter, low=1)

    def solve(self, problem: CodeProblem, penalty: AnyPenalty, init: Array) -> tuple[Array, SolveInfo]:
        """Solve a batch of samples; arguments as in `CodeSolver.solve`."""
        penalty = check_weighted(penalty, self)
        elsewhere = FISTA(self.tol, self.max_iter).solve
        return lax.platform_dependent(problem, penalty, init, cpu=self._solve, default=elsewhere)

    def _solve(self, problem: CodeProblem, penalty: Penalty, init: Array) -> tuple[Array, SolveInfo]:
        gram, beta, sq_norm = problem
        weights = weights_of(penalty, beta.shape[1], gram.dtype)
        tol = jnp.asarray(self.tol, gram.dtype)
        found = solve_supports(gram, beta, sq_norm, weights, tol, init)
        codes = found.codes + 0 * jnp.sum(beta, 1, keepdims=True)  # NaN stays NaN

        def measured() -> Gap:
            own = gram if gram.ndim == 2 else jnp.moveaxis(gram, 0, -1)
            return duality_gap(weights, beta.T, image_of(own, codes.T), codes.T, sq_norm)

        gap = lax.cond(weights.l1.min() > 0, lambda: found.gap, measured)
        max_iter = jnp.asarray(self.max_iter)
        codes, info = finish_by_descent(gram, beta, sq_norm, weights, tol, max_iter, codes, gap)
        return codes, info._replace(n_iter=found.n_rounds + info.n_iter)


def _sweep_shared(batch: Batch, codes: Array, weights: Weights) -> Array:
    """Update all coordinates once, in blocks, for a Gram matrix ``(k, k)`` shared by the batch."""
    k, b = codes.shape

    def block(i: Array, codes: Array) -> Array:
        first = i * _BLOCK
        rows = lax.dynamic_slice(batch.gram, (first, 0), (_BLOCK, k))
        inside = lax.dynamic_slice(rows, (0, first), (_BLOCK, _BLOCK))
        take = lambda array: lax.dynamic_slice(array, (first, 0), (_BLOCK, array.shape[1]))  # noqa: E731
        old, l1, l2 = take(codes), take(weights.l1)[:, 0], take(weights.l2)[:, 0]
        correlation = take(batch.beta) - matmul(rows, codes)
        curvature = jnp.diagonal(inside)

        def coordinate(j: Array, change: Array) -> Array:
            linear = correlation[j] + curvature[j] * old[j] - jnp.sum(inside[j][:, None] * change, 0)
            new = _minimise(linear, curvature[j], l1[j], l2[j], weights.nonneg)
            return change.at[j].set(new - old[j])

        change = lax.fori_loop(0, _BLOCK, coordinate, jnp.zeros((_BLOCK, b), codes.dtype))
        return lax.dynamic_update_slice(codes, old + change, (first, 0))

    return lax.fori_loop(0, k // _BLOCK, block, codes)


def _sweep_own(batch: Batch, codes: Array, weights: Weights) -> Array:
    """Update all coordinates once, for one Gram matrix per sample, ``(k, k, b)``."""

    def coordinate(j: Array, codes: Array) -> Array:
        row = batch.gram[j]
        linear = batch.beta[j] - jnp.sum(row * codes, 0) + row[j] * codes[j]
        new = _minimise(linear, row[j], weights.l1[j, 0], weights.l2[j, 0], weights.nonneg)
        return codes.at[j].set(new)

    return lax.fori_loop(0, codes.shape[0], coordinate, codes)


def _minimise(linear: Array, curvature: Array, l1: Array, l2: Array, nonneg: bool) -> Array:
    """Minimize ``1/2 curvature a^2 - linear a + l1 |a| + l2 / 2 a^2`` over a coordinate; 0 where an atom is zero."""
    bottom = curvature + l2
    # Written so that NaN stays NaN.
    return jnp.where(bottom <= 0, 0, shrink(linear, l1, nonneg) / jnp.where(bottom <= 0, 1, bottom))
