"""Iterating on a batch of independent problems, on fewer and fewer of them as they converge."""

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
        higher, and a small objective within a hundredth (`solved`). None from a solver that does not
        say.
    """

    gap: Array
    n_iter: Array
    converged: Array | None = None


class Batch(NamedTuple):
    """A `CodeProblem` on its way, with samples last, so that a coordinate of all samples is contiguous in memory."""

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
    """Advance a batch until the gap of each sample is small, on an ever smaller part of the batch.

    Samples that are done can't be skipped inside of an array operation. So the loop stops when all but a quarter are
    done, the others are gathered into a batch of a quarter of the width, and that is iterated by itself: static
    shapes, and a total cost near the sum of what each sample needs. All are advanced once.

    Args:
      batch: at the codes to start from.
      advance: makes a number of iterations, and returns the batch and the Gram matrix times its codes.
      codes_of: the codes ``(k, b)`` of a state.
      gap_of: gaps of the codes of a batch, given the Gram matrix times these codes.
      tol: gap at which a sample is done.
      max_iter: largest number of iterations.
      n_per_check: number of iterations between two looks at the gaps.

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

        # Nothing is left to do where the last samples were done together.
        return lax.cond(is_open(gap, tol).any() & (n_iter < max_iter), rest, lambda: (codes, info))

    unknown = Gap(jnp.full_like(batch.sq_norm, jnp.inf), jnp.zeros_like(batch.sq_norm))
    return run(batch, jnp.zeros((), jnp.int32), unknown)


def is_close(gap: Gap, tol: Array) -> Array:
    """Samples whose gap is within tolerance, or can be rounding that has piled up; NaN never is."""
    return gap.relative <= tol + PILED_UP * gap.rounding


def is_open(gap: Gap, tol: Array) -> Array:
    """Samples whose gap is above tolerance and rounding; NaN never is. With tolerance 0, all are.

    A computed gap of zero is no proof: it is quadratic in the error of the codes, and drowns in rounding before that.
    """
    return (gap.relative > tol + gap.rounding) | (tol == 0)
