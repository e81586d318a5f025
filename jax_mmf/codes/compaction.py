"""Iterations on a batch of independent problems, without those that have converged."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.codes.duality import PILED_UP, Gap
from jax_mmf.typing import Array, Float

_SHRINKAGE = 4  # halving is 1.1 times faster, and compiles for twice as long
_SMALLEST_WIDTH = 32  # batches are not compacted further: the loop's overhead dominates below


class SolveInfo(NamedTuple):
    """How well the codes of each sample were solved.

    Attributes:
      gap: ``(b,)`` duality gap relative to the objective, or to a thousandth of ``1/2 |x|^2`` if that is larger
        (`relative_gap`). For a `ProximalPenalty`, the residual of the fixed-point equation (`FISTA`).
      n_iter: ``(b,)`` iterations (sweeps over the coordinates, proximal steps, changes of the support) spent on the
        sample; int32.
      converged: ``(b,)`` whether the gap is within the tolerance of the solver, or the level of rounding if that is
        higher, and a small objective within a hundredth (`solved`). None from a solver that does
        not report it.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> codes, info = mmf.encode_with_info(jnp.eye(2), jnp.array([2.0, -0.5]), mmf.Lasso(1.0))
      >>> bool(info.converged)
      True
    """

    gap: Array
    n_iter: Array
    converged: Array | None = None


class Batch(NamedTuple):
    """A `CodeProblem` with samples last, so that a coordinate of all samples is contiguous, and a solver's state."""

    gram: Array  # (k, k), or (k, k, b)
    beta: Array  # (k, b)
    sq_norm: Array  # (b,)
    state: Any  # what the solver iterates on


def iterate(
    batch: Batch,
    advance: Callable[[Batch, Array], tuple[Batch, Array]],
    codes_of: Callable[[Any], Array],
    gap_of: Callable[[Batch, Array], Gap],
    tol: Float,
    max_iter: int | Array,
    n_per_check: int,
) -> tuple[Array, SolveInfo]:
    """Iterate until the gap of each sample is small, on fewer and fewer samples.

    An array operation can't skip samples that have converged. So the loop stops when all but a quarter have. These are
    gathered into a batch of a quarter of the width, which is iterated on its own. All shapes are static, and the total
    cost is close to the sum of what each sample needs. Every sample is advanced at least once.

    Args:
      batch: at the codes to start from.
      advance: makes a number of iterations, and returns the batch and the Gram matrix times its codes.
      codes_of: the codes ``(k, b)`` of a state.
      gap_of: gaps of the codes of a batch, given the Gram matrix times these codes.
      tol: gap at which a sample is done.
      max_iter: largest number of iterations.
      n_per_check: number of iterations between two checks of the gaps.

    Returns:
      codes ``(k, b)`` and the info of the batch.
    """
    tol = jnp.asarray(tol, batch.beta.dtype)
    max_iter = jnp.asarray(max_iter, jnp.int32)

    def run(batch: Batch, n_iter: Array, start: Gap) -> tuple[Array, SolveInfo]:
        width = batch.sq_norm.shape[0]
        part = width // _SHRINKAGE if width >= _SHRINKAGE * _SMALLEST_WIDTH else 0

        def unfinished(carry: tuple[Batch, Gap, Array]) -> Array:
            _, gap, n = carry
            return (n < max_iter) & (is_open(gap, tol).sum() > part)

        def body(carry: tuple[Batch, Gap, Array]) -> tuple[Batch, Gap, Array]:
            batch, _, n = carry
            more = jnp.minimum(n_per_check, max_iter - n)
            moved, image = advance(batch, more)
            return moved, gap_of(moved, image), n + more

        batch, gap, n_iter = lax.while_loop(unfinished, body, (batch, start, n_iter))
        codes, info = codes_of(batch.state), SolveInfo(gap.relative, jnp.full((width,), n_iter), is_close(gap, tol))
        if part == 0:
            return codes, info

        def rest() -> tuple[Array, SolveInfo]:
            _, chosen = lax.top_k(jnp.where(is_open(gap, tol), gap.relative, -1), part)
            keep = lambda array: jnp.take(array, chosen, axis=-1)  # noqa: E731
            fewer = Batch(
                gram=batch.gram if batch.gram.ndim == 2 else keep(batch.gram),
                beta=keep(batch.beta),
                sq_norm=keep(batch.sq_norm),
                state=jax.tree.map(keep, batch.state),
            )
            few_codes, few_info = run(fewer, n_iter, jax.tree.map(keep, gap))
            place = jnp.full((width,), part).at[chosen].set(jnp.arange(part))
            merge = lambda old, new: jnp.where(place < part, jnp.take(new, place, axis=-1, mode="clip"), old)  # noqa: E731
            return jax.tree.map(merge, (codes, info), (few_codes, few_info))

        # The last samples may have converged together.
        return lax.cond(is_open(gap, tol).any() & (n_iter < max_iter), rest, lambda: (codes, info))

    unknown = Gap(jnp.full_like(batch.sq_norm, jnp.inf), jnp.zeros_like(batch.sq_norm))
    return run(batch, jnp.zeros((), jnp.int32), unknown)


def is_close(gap: Gap, tol: Array) -> Array:
    """Return which samples have a gap within tolerance, or one that rounding can explain. NaN is never close."""
    return gap.relative <= tol + PILED_UP * gap.rounding


def is_open(gap: Gap, tol: Array) -> Array:
    """Return which samples have a gap above tolerance and rounding. NaN never is; with tolerance 0, every sample is.

    A computed gap of zero proves nothing: a gap is quadratic in the error of the codes, and vanishes in rounding first.
    """
    return (gap.relative > tol + gap.rounding) | (tol == 0)
