"""Accelerated proximal gradient for every penalty: to a tolerance, or a number of steps that are differentiated."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.codes.compaction import Batch, SolveInfo, iterate
from jax_mmf.codes.duality import ROUNDING, Gap, duality_gap, weights_of
from jax_mmf.codes.fixed_point import eigenvalue_of, newton_direction
from jax_mmf.codes.problem import CodeProblem, image_of
from jax_mmf.core import check_count, check_real, register_configuration
from jax_mmf.penalties import AnyPenalty, ProximalPenalty, is_weighted, shrink
from jax_mmf.typing import Array, Float

_STEPS_PER_CHECK = 8  # a check costs about as much as a step
_LENGTHS = (1.0, 0.3, 0.1)  # of steps of Newton's method, the best of which is taken


@register_configuration
@dataclass(frozen=True)
class FISTA:
    """Accelerated proximal gradient, with adaptive restart and one step size per sample.

    An iteration is one matrix product, without a sequential loop over coordinates. Use this solver on accelerators,
    where sequences of small operations are slow. [Beck and Teboulle 2009; restart: O'Donoghue and Candes 2015]

    It solves every penalty. A `ProximalPenalty` without the method ``gap`` has no duality gap. The residual of the
    fixed-point equation replaces it, ``sqrt(L) |a - prox(a - (a G - beta) / L)| / |x|``, with L the largest
    eigenvalue of G.

    Attributes:
      tol: relative duality gap at which a sample is done (`relative_gap`), or the level of rounding if
        that is higher; 0 always runs max_iter steps.
      max_iter: largest number of proximal steps.

    Raises:
      ValueError: if a value known on the host is out of range.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> print(mmf.encode(jnp.eye(2), jnp.array([2.0, -0.5]), mmf.Lasso(1.0), solver=mmf.FISTA()))
      [1. 0.]
    """

    tol: Float = 1e-6
    max_iter: int | Array = 5000

    def __post_init__(self) -> None:
        check_real("tol", self.tol, low=0.0)
        check_real("max_iter", self.max_iter, low=1)

    def solve(self, problem: CodeProblem, penalty: AnyPenalty, init: Array) -> tuple[Array, SolveInfo]:
        """Solve a batch of samples; arguments as in `CodeSolver.solve`."""
        gram, beta, sq_norm = problem
        prox, gap = _prox_and_gap(penalty, gram.shape[-1], gram.dtype)
        lipschitz = jnp.broadcast_to(eigenvalue_of(gram), sq_norm.shape)
        gram = gram if gram.ndim == 2 else jnp.moveaxis(gram, 0, -1)
        codes = init.T
        image = image_of(gram, codes)
        batch = Batch(
            gram=gram,
            beta=beta.T,
            sq_norm=sq_norm,
            state=_Momentum(codes, image, codes, image, jnp.ones_like(sq_norm), lipschitz),
        )

        def proximal_step(batch: Batch, state: _Momentum) -> _Momentum:
            step = 1 / jnp.where(state.lipschitz > 0, state.lipschitz, 1)
            ahead = state.point - step * (state.point_image - batch.beta)
            codes = prox(ahead, step)
            image = image_of(batch.gram, codes)
            move = codes - state.point
            curvature, length = jnp.sum(move * (image - state.point_image), 0), jnp.sum(move**2, 0)
            # The estimate of the largest eigenvalue is a lower bound. A step may show that it is too low.
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

            # The number of trips is static: otherwise an accelerator asks the host after each one.
            state = lax.fori_loop(0, _STEPS_PER_CHECK, one, batch.state)
            if hasattr(penalty, "gap"):
                state = _jump(batch, cast(ProximalPenalty, penalty), prox, state)
            return batch._replace(state=state), state.image

        def gap_of(batch: Batch, image: Array) -> Gap:
            return gap(batch.beta, image, batch.state.codes, batch.sq_norm, batch.state.lipschitz)

        codes, info = iterate(
            batch, advance, lambda state: state.codes, gap_of, self.tol, self.max_iter, _STEPS_PER_CHECK
        )
        return codes.T, info


@register_configuration
@dataclass(frozen=True)
class UnrolledFISTA:
    """A fixed number of accelerated proximal steps, with derivatives through each of them.

    This is an encoder of n layers with tied weights, as in LISTA [Gregor and LeCun 2010]. Use it to start training a
    dictionary through its codes: a few steps are enough, and atoms outside of the support get a gradient as well. The
    memory of a gradient grows with the number of steps. The derivative is that of these steps from ``init``; it tends
    to that of `encode` as they converge. Step sizes are constants in the derivative.

    Attributes:
      n_steps: number of proximal steps (static).

    Raises:
      ValueError: if n_steps is below 1.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> codes = mmf.encode(jnp.eye(2), jnp.array([2.0, -0.5]), mmf.Lasso(1.0), solver=mmf.UnrolledFISTA(n_steps=2))
      >>> print(codes.round(1))
      [1. 0.]
    """

    n_steps: int = field(default=20, metadata={"static": True})
    unrolled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("n_steps", self.n_steps)

    def solve(self, problem: CodeProblem, penalty: AnyPenalty, init: Array) -> tuple[Array, SolveInfo]:
        """Solve a batch of samples; arguments as in `CodeSolver.solve`."""
        gram, beta, sq_norm = problem
        prox, gap = _prox_and_gap(penalty, gram.shape[-1], gram.dtype)
        # The estimate is a lower bound, and a step of more than 2 / L diverges.
        lipschitz = 1.1 * lax.stop_gradient(eigenvalue_of(gram))
        step = 1 / jnp.where(lipschitz > 0, lipschitz, 1)
        gram = gram if gram.ndim == 2 else jnp.moveaxis(gram, 0, -1)

        def advance(carry: tuple[Array, Array], inertia: Array) -> tuple[tuple[Array, Array], None]:
            codes, before = carry
            point = codes + inertia * (codes - before)
            ahead = point - step * (image_of(gram, point) - beta.T)
            return (prox(ahead, step), codes), None

        number = jnp.arange(self.n_steps, dtype=gram.dtype)
        codes, _ = lax.scan(advance, (init.T, init.T), number / (number + 3))[0]
        left = gap(beta.T, image_of(gram, codes), codes, sq_norm, lipschitz).relative
        n_iter = jnp.full(sq_norm.shape, self.n_steps, jnp.int32)
        return codes.T, SolveInfo(lax.stop_gradient(left), n_iter)


class _Momentum(NamedTuple):
    codes: Array  # (k, b)
    image: Array  # (k, b) Gram matrix times codes
    point: Array  # (k, b) where the next gradient is taken
    point_image: Array  # (k, b)
    inertia: Array  # (b,)
    lipschitz: Array  # (b,)


def _jump(batch: Batch, penalty: ProximalPenalty, prox: "Prox", state: _Momentum) -> _Momentum:
    """Move along the direction of Newton's method where this is better, and start momentum again there.

    Proximal steps find the support soon. Newton's method solves on it, however much the atoms are correlated. Where
    the solution is outside of the support, a shorter step drops coordinates.
    """
    gram = batch.gram if batch.gram.ndim == 2 else jnp.moveaxis(batch.gram, -1, 0)
    problem = CodeProblem(gram, batch.beta.T, batch.sq_norm)
    step = 1 / jnp.where(state.lipschitz > 0, state.lipschitz, 1)
    direction = newton_direction(problem, penalty, state.codes.T, step).T
    value = jax.vmap(penalty.value, -1)
    fresh = jnp.ones_like(state.inertia)

    def try_length(best: tuple[Array, _Momentum], length: Array) -> tuple[tuple[Array, _Momentum], None]:
        ahead = state.codes + length * direction
        codes = prox(ahead - step * (image_of(batch.gram, ahead) - batch.beta), step)
        image = image_of(batch.gram, codes)
        # The rise of the objective, by differences: rounding of its value is larger.
        rise = jnp.sum((codes - state.codes) * ((image + state.image) / 2 - batch.beta), 0)
        rise += value(codes) - value(state.codes)
        moved = rise, _Momentum(codes, image, codes, image, fresh, state.lipschitz)
        better = rise < best[0]  # False for NaN
        return jax.tree.map(lambda new, old: jnp.where(better, new, old), moved, best), None

    return lax.scan(try_length, (jnp.zeros_like(step), state), jnp.asarray(_LENGTHS, step.dtype))[0][1]


Prox = Callable[[Array, Array], Array]
"""From points ``(k, b)`` and step sizes ``(b,)`` or ``()`` to codes ``(k, b)``."""
GapOf = Callable[[Array, Array, Array, Array, Array], Gap]
"""From correlations, image and codes ``(k, b)``, squared norms ``(b,)`` and largest eigenvalues to gaps ``(b,)``."""


def _prox_and_gap(penalty: AnyPenalty, k: int, dtype: Any) -> tuple[Prox, GapOf]:
    """Return the proximal operator of a penalty, and a function that measures codes, both with samples last."""
    if is_weighted(penalty):
        weights = weights_of(penalty, k, dtype)

        def shrunk(points: Array, step: Array) -> Array:
            return shrink(points, step * weights.l1, weights.nonneg) / (1 + step * weights.l2)

        return shrunk, lambda beta, image, codes, sq_norm, _: duality_gap(weights, beta, image, codes, sq_norm)

    proximal = cast(ProximalPenalty, penalty)

    def prox(points: Array, step: Array) -> Array:
        steps = jnp.broadcast_to(step, points.shape[1:])
        return jax.vmap(proximal.prox, in_axes=(1, 0), out_axes=1)(points, steps)

    def residual(beta: Array, image: Array, codes: Array, sq_norm: Array, lipschitz: Array) -> Gap:
        curvature = jnp.where(lipschitz > 0, lipschitz, 1)
        step = codes - prox(codes - (image - beta) / curvature, 1 / curvature)
        size = jnp.where(sq_norm > 0, sq_norm, 1)
        length = lambda a: jnp.sqrt(curvature * jnp.sum(a**2, 0) / size)  # noqa: E731
        return Gap(length(step), ROUNDING * jnp.finfo(codes.dtype).eps * length(codes))

    bound = getattr(penalty, "gap", None)
    if bound is None:
        return prox, residual

    def bounded(beta: Array, image: Array, codes: Array, sq_norm: Array, _: Array) -> Gap:
        each = lambda function, *arrays: jax.vmap(function, in_axes=-1)(*arrays)  # noqa: E731
        quadratic = jnp.sum(codes * image, 0)
        left = jnp.maximum(sq_norm - 2 * jnp.sum(codes * beta, 0) + quadratic, 0) / 2
        primal = left + jnp.maximum(each(proximal.value, codes), 0)
        scale = jnp.maximum(jnp.where(jnp.isfinite(primal), primal, 0), sq_norm / 2000)
        scale = jnp.where(scale > 0, scale, 1)
        rounding = ROUNDING * jnp.finfo(codes.dtype).eps * (sq_norm + quadratic)
        return Gap(jnp.maximum(each(bound, codes, image - beta), 0) / scale, rounding / scale)

    return prox, bounded
