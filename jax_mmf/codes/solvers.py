"""Solvers for the codes of a mini-batch, given Gram matrices and correlations.

All of them minimise, per sample::

    1/2 a G a^T - a . beta + l1 |a|_1 + l2 / 2 |a|_2^2,     optionally with a >= 0,

where ``G`` is D D^T and ``beta`` is x D^T, or estimates of these. They stop each sample on its own duality gap, and
work on transposed arrays ``(k, b)`` so that what is done to one coordinate of every sample is done on contiguous
memory. A solver of your own is a pytree with the method `CodeSolver.solve`.
"""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.codes.compaction import Batch, SolveInfo, iterate
from jax_mmf.codes.duality import Gap, Weights, duality_gap, weights_of
from jax_mmf.codes.kernels.active_set import solve_supports
from jax_mmf.codes.kernels.descent import finish_by_descent
from jax_mmf.core import check_count, check_real, largest_eigenvalue, matmul, register_configuration, solve_shifted
from jax_mmf.penalties import Penalty, is_ridge, shrink
from jax_mmf.typing import Array, Float

_BLOCK = 8  # coordinates per matrix product: 8 was faster than 16 and 32 at k = 256, b = 1024 on CPU
_SWEEPS_PER_CHECK = 2  # of coordinate descent
_STEPS_PER_CHECK = 8  # of FISTA: a check costs about as much as a step
_POWER_ITERATIONS = 20


@runtime_checkable
class CodeSolver(Protocol):
    """A pytree that solves the codes of a batch.

    Derivatives of its codes are those of the problem, implicit on the support; with an attribute ``unrolled`` that is
    true, they are those of its operations. One that solves a sample after another, on one core of a CPU, says so by an
    attribute ``sequential`` that is true: then threads share out the samples, outside of transformations.
    """

    def solve(self, gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, init: Array) -> tuple[Array, SolveInfo]:
        """Solve a batch of samples.

        Args:
          gram: ``(k, k)`` shared by the batch, or ``(b, k, k)``.
          beta: ``(b, k)``.
          penalty: of the codes.
          sq_norm: ``(b,)`` squared norms of the samples, for the duality gap.
          init: ``(b, k)`` codes to start from.

        Returns:
          codes ``(b, k)`` and how well they were solved.
        """


def default_code_solver(penalty: Penalty, *, tol: Float = 1e-6, max_iter: int | Array = 1000) -> CodeSolver:
    """`Cholesky` for a penalty in closed form, else `ActiveSet`."""
    return Cholesky() if is_ridge(penalty) else ActiveSet(tol=tol, max_iter=max_iter)


@register_configuration
@dataclass(frozen=True)
class Cholesky:
    """Codes in closed form, for `Ridge`: one Cholesky factorization for the batch."""

    def solve(self, gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, init: Array) -> tuple[Array, SolveInfo]:
        """Solve a batch of samples; arguments as in `CodeSolver.solve`, of which ``init`` is not used.

        Where the matrix is singular (no penalty, and more atoms than features or atoms that are equal or zero), a
        multiple of the identity at the level of rounding is added, which gives a solution of nearly least norm.

        Raises:
          TypeError: for penalties without a closed form.
        """
        if not is_ridge(penalty):
            raise TypeError(
                f"Cholesky solves Ridge without nonneg only, got {penalty!r}; use CoordinateDescent or FISTA"
            )
        l2 = jnp.broadcast_to(jnp.asarray(penalty.l2, gram.dtype), gram.shape[-1:])
        codes = solve_shifted(gram, l2, beta)
        exact = jnp.ones(sq_norm.shape, bool)
        return codes, SolveInfo(jnp.zeros_like(sq_norm), exact.astype(jnp.int32), exact)


@register_configuration
@dataclass(frozen=True)
class CoordinateDescent:
    """Cyclic coordinate descent, over blocks of coordinates and over the whole batch at once.

    The correlations of a block of coordinates come from one matrix product; inside the block, each coordinate is
    minimised exactly after correcting for the coordinates before it. Three quarters of the batch are dropped when they
    have converged. It can be stopped at any accuracy, and keeps to the codes it starts from where several are as good.

    Attributes:
      tol: relative duality gap at which a sample is done (`relative_gap`), or the level of rounding if
        that is higher; 0 goes on to max_iter.
      max_iter: largest number of sweeps over the coordinates.

    Raises:
      ValueError: if a value known on the host is out of range.
    """

    tol: Float = 1e-6
    max_iter: int | Array = 1000

    def __post_init__(self) -> None:
        check_real("tol", self.tol, low=0.0)
        check_real("max_iter", self.max_iter, low=1)

    def solve(self, gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, init: Array) -> tuple[Array, SolveInfo]:
        """Solve a batch of samples; arguments as in `CodeSolver.solve`."""
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
            return batch._replace(state=codes), _apply(batch.gram, codes)

        codes, info = iterate(batch, advance, lambda state: state, weights, self.tol, self.max_iter, _SWEEPS_PER_CHECK)
        return codes[:k].T, info


@register_configuration
@dataclass(frozen=True)
class ActiveSet:
    """Codes solved exactly on their support, which changes by one atom at a time [Lee et al. 2006].

    The work grows with the number of active atoms and not with how alike the atoms are. The fastest choice for sparse
    codes on CPU, where it is one compiled loop over the samples, from zeros and from codes to start from. In a program
    it runs on one core; `encode` of arrays that are at hand shares the samples out among threads, and
    `jax.shard_map` over samples and CPU devices does so in a program (docs/numerics.md). On accelerators, where steps
    of a few numbers are slow, `FISTA` solves instead, to the same duality gap. Where atoms are nearly equal, what is
    left of the gap is up to coordinate descent.

    Attributes:
      tol: relative duality gap at which a sample is done (`relative_gap`), or the level of rounding if
        that is higher; 0 lets coordinate descent go on to max_iter.
      max_iter: largest number of sweeps of coordinate descent, or of proximal steps.

    Raises:
      ValueError: if a value known on the host is out of range.
    """

    tol: Float = 1e-6
    max_iter: int | Array = 1000
    sequential: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("tol", self.tol, low=0.0)
        check_real("max_iter", self.max_iter, low=1)

    def solve(self, gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, init: Array) -> tuple[Array, SolveInfo]:
        """Solve a batch of samples; arguments as in `CodeSolver.solve`."""
        elsewhere = FISTA(self.tol, self.max_iter).solve
        return lax.platform_dependent(gram, beta, penalty, sq_norm, init, cpu=self._solve, default=elsewhere)

    def _solve(
        self, gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, init: Array
    ) -> tuple[Array, SolveInfo]:
        weights = weights_of(penalty, beta.shape[1], gram.dtype)
        tol = jnp.asarray(self.tol, gram.dtype)
        found = solve_supports(gram, beta, sq_norm, weights, tol, init)
        codes = found.codes + 0 * jnp.sum(beta, 1, keepdims=True)  # what is not a number stays so

        def measured() -> Gap:
            own = gram if gram.ndim == 2 else jnp.moveaxis(gram, 0, -1)
            return duality_gap(weights, beta.T, _apply(own, codes.T), codes.T, sq_norm)

        gap = lax.cond(weights.l1.min() > 0, lambda: found.gap, measured)
        max_iter = jnp.asarray(self.max_iter)
        codes, info = finish_by_descent(gram, beta, sq_norm, weights, tol, max_iter, codes, gap)
        return codes, info._replace(n_iter=found.n_rounds + info.n_iter)


@register_configuration
@dataclass(frozen=True)
class FISTA:
    """Accelerated proximal gradient, with adaptive restart and step sizes of each sample's own.

    One matrix product per iteration and no sequential loop over coordinates: the choice for accelerators, where small
    steps one after another are slow. [Beck and Teboulle 2009; restart: O'Donoghue and Candes 2015]

    Attributes:
      tol: relative duality gap at which a sample is done (`relative_gap`), or the level of rounding if
        that is higher; 0 goes on to max_iter.
      max_iter: largest number of proximal steps.

    Raises:
      ValueError: if a value known on the host is out of range.
    """

    tol: Float = 1e-6
    max_iter: int | Array = 5000

    def __post_init__(self) -> None:
        check_real("tol", self.tol, low=0.0)
        check_real("max_iter", self.max_iter, low=1)

    def solve(self, gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, init: Array) -> tuple[Array, SolveInfo]:
        """Solve a batch of samples; arguments as in `CodeSolver.solve`."""
        weights = weights_of(penalty, gram.shape[-1], gram.dtype)
        lipschitz = jnp.broadcast_to(_largest_eigenvalue(gram), sq_norm.shape)
        gram = gram if gram.ndim == 2 else jnp.moveaxis(gram, 0, -1)
        codes = init.T
        image = _apply(gram, codes)
        batch = Batch(
            gram=gram,
            beta=beta.T,
            sq_norm=sq_norm,
            state=_Momentum(codes, image, codes, image, jnp.ones_like(sq_norm), lipschitz),
        )

        def proximal_step(batch: Batch, state: _Momentum) -> _Momentum:
            step = 1 / jnp.where(state.lipschitz > 0, state.lipschitz, 1)
            ahead = state.point - step * (state.point_image - batch.beta)
            codes = shrink(ahead, step * weights.l1, weights.nonneg) / (1 + step * weights.l2)
            image = _apply(batch.gram, codes)
            move = codes - state.point
            curvature, length = jnp.sum(move * (image - state.point_image), 0), jnp.sum(move**2, 0)
            # The estimate of the largest eigenvalue is a lower bound: raise it where the step shows that it is too low.
            too_low = curvature > state.lipschitz * length * (1 + 1e-3)
            restart = (jnp.sum(move * (codes - state.codes), 0) < 0) | too_low
            inertia = jnp.where(restart, 1, state.inertia)
            inertia_next = (1 + jnp.sqrt(1 + 4 * inertia**2)) / 2
            beta = jnp.where(restart, 0, (inertia - 1) / inertia_next)
            return _Momentum(
                codes,
                image,
                codes + beta * (codes - state.codes),
                image + beta * (image - state.image),
                inertia_next,
                jnp.where(too_low, 1.5 * curvature / jnp.where(length > 0, length, 1), state.lipschitz),
            )

        def advance(batch: Batch, n: Array) -> tuple[Batch, Array]:
            def one(i: Array, state: _Momentum) -> _Momentum:
                moved = proximal_step(batch, state)
                return jax.tree.map(lambda new, old: jnp.where(i < n, new, old), moved, state)

            # A number of trips that is known to the compiler: else an accelerator asks the host after each one.
            state = lax.fori_loop(0, _STEPS_PER_CHECK, one, batch.state)
            return batch._replace(state=state), state.image

        codes, info = iterate(
            batch, advance, lambda state: state.codes, weights, self.tol, self.max_iter, _STEPS_PER_CHECK
        )
        return codes.T, info


@register_configuration
@dataclass(frozen=True)
class UnrolledFISTA:
    """A number of accelerated proximal steps, differentiated one by one instead of on the support of the result.

    For training a dictionary through its codes in the beginning, when a few steps from zero are enough and atoms that
    are not yet in a code should hear of it; an encoder of n layers with tied weights, as in LISTA [Gregor and LeCun
    2010]. Memory of a gradient grows with the number of steps; the derivative is that of these steps from ``init``, and
    that of `encode` only as far as they converge. Step sizes are held.

    Attributes:
      n_steps: number of proximal steps (static).

    Raises:
      ValueError: if n_steps is below 1.
    """

    n_steps: int = field(default=20, metadata={"static": True})
    unrolled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("n_steps", self.n_steps)

    def solve(self, gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, init: Array) -> tuple[Array, SolveInfo]:
        """Solve a batch of samples; arguments as in `CodeSolver.solve`."""
        weights = weights_of(penalty, gram.shape[-1], gram.dtype)
        # The estimate is a lower bound; twice the step would be too long.
        lipschitz = 1.1 * lax.stop_gradient(_largest_eigenvalue(gram))
        step = 1 / jnp.where(lipschitz > 0, lipschitz, 1)
        gram = gram if gram.ndim == 2 else jnp.moveaxis(gram, 0, -1)

        def advance(carry: tuple[Array, Array], inertia: Array) -> tuple[tuple[Array, Array], None]:
            codes, before = carry
            point = codes + inertia * (codes - before)
            ahead = point - step * (_apply(gram, point) - beta.T)
            return (shrink(ahead, step * weights.l1, weights.nonneg) / (1 + step * weights.l2), codes), None

        number = jnp.arange(self.n_steps, dtype=gram.dtype)
        codes, _ = lax.scan(advance, (init.T, init.T), number / (number + 3))[0]
        gap = duality_gap(weights, beta.T, _apply(gram, codes), codes, sq_norm).relative
        n_iter = jnp.full(sq_norm.shape, self.n_steps, jnp.int32)
        return codes.T, SolveInfo(lax.stop_gradient(gap), n_iter)


class _Momentum(NamedTuple):
    codes: Array  # (k, b)
    image: Array  # (k, b) Gram matrix times codes
    point: Array  # (k, b) where the next gradient is taken
    point_image: Array  # (k, b)
    inertia: Array  # (b,)
    lipschitz: Array  # (b,)


def _apply(gram: Array, codes: Array) -> Array:
    if gram.ndim == 2:
        return matmul(gram, codes)
    return jnp.sum(gram * codes[None], axis=1)


def _largest_eigenvalue(gram: Array) -> Array:
    """Estimate from below: ``(k, k) -> ()`` or ``(b, k, k) -> (b,)``."""
    start = jnp.diagonal(gram, axis1=-2, axis2=-1) + jnp.finfo(gram.dtype).tiny
    return largest_eigenvalue(gram, start, _POWER_ITERATIONS)[0]


def _sweep_shared(batch: Batch, codes: Array, weights: Weights) -> Array:
    """One pass over all coordinates, in blocks, for a Gram matrix ``(k, k)`` shared by the batch."""
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
    """One pass over all coordinates, for Gram matrices ``(k, k, b)`` of each sample's own."""

    def coordinate(j: Array, codes: Array) -> Array:
        row = batch.gram[j]
        linear = batch.beta[j] - jnp.sum(row * codes, 0) + row[j] * codes[j]
        new = _minimise(linear, row[j], weights.l1[j, 0], weights.l2[j, 0], weights.nonneg)
        return codes.at[j].set(new)

    return lax.fori_loop(0, codes.shape[0], coordinate, codes)


def _minimise(linear: Array, curvature: Array, l1: Array, l2: Array, nonneg: bool) -> Array:
    """Minimum of a coordinate: ``1/2 curvature a^2 - linear a + l1 |a| + l2 / 2 a^2``; 0 where an atom is zero."""
    bottom = curvature + l2
    # Written so that NaN stays NaN.
    return jnp.where(bottom <= 0, 0, shrink(linear, l1, nonneg) / jnp.where(bottom <= 0, 1, bottom))
