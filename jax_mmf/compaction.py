"""Iterating on a batch of independent problems, on fewer and fewer of them as they converge."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.duality import Gap, Weights, duality_gap
from jax_mmf.typing import Array, Float

_SMALLEST_WIDTH = 32  # batches are not compacted further: the loop's overhead dominates below


class SolveInfo(NamedTuple):
    """How well the codes of each sample were solved.

    Attributes:
      gap: ``(b,)`` duality gap relative to the objective (`relative_gap`).
      n_iter: ``(b,)`` iterations (sweeps over the coordinates, proximal steps) spent on the sample; int32.
    """

    gap: Array
    n_iter: Array


class Batch(NamedTuple):
    """A problem per sample: the last axis of everything is the batch, but for a shared Gram matrix."""

    gram: Array  # (k, k), or (k, k, b)
    beta: Array  # (k, b)
    sq_norm: Array  # (b,)
    state: Any  # what the solver iterates on


def iterate(
    batch: Batch,
    advance: Callable[[Batch, Array], tuple[Batch, Array]],
    codes_of: Callable[[Any], Array],
    weights: Weights,
    tol: Float,
    max_iter: int | Array,
    n_per_check: int,
) -> tuple[Array, SolveInfo]:
    """Advance a batch until the gap of each sample is small, on an ever smaller part of the batch.

    Samples that are done can't be skipped inside of an array operation. So the loop stops when half of them are done,
    the others are gathered into a batch of half the width, and that is iterated by itself: static shapes, and a total
    cost near the sum of what each sample needs.

    Returns:
      codes ``(k, b)`` and the info of the batch.
    """
    tol = jnp.asarray(tol, batch.beta.dtype)
    max_iter = jnp.asarray(max_iter, jnp.int32)

    def run(batch: Batch, n_iter: Array) -> tuple[Array, SolveInfo]:
        width = batch.sq_norm.shape[0]
        half = width // 2 if width >= 2 * _SMALLEST_WIDTH else 0

        def unfinished(carry: tuple[Batch, Gap, Array]) -> Array:
            _, gap, n = carry
            return (n < max_iter) & (_is_open(gap, tol).sum() > half)

        def body(carry: tuple[Batch, Gap, Array]) -> tuple[Batch, Gap, Array]:
            batch, _, n = carry
            more = jnp.minimum(n_per_check, max_iter - n)
            moved, image = advance(batch, more)
            gap = duality_gap(weights, batch.beta, image, codes_of(moved.state), batch.sq_norm)
            return moved, gap, n + more

        start = Gap(jnp.full_like(batch.sq_norm, jnp.inf), jnp.zeros_like(batch.sq_norm))
        batch, gap, n_iter = lax.while_loop(unfinished, body, (batch, start, n_iter))
        codes, info = codes_of(batch.state), SolveInfo(gap.relative, jnp.full((width,), n_iter))
        if half == 0:
            return codes, info

        def rest() -> tuple[Array, SolveInfo]:
            _, chosen = lax.top_k(jnp.where(_is_open(gap, tol), gap.relative, -1), half)
            keep = lambda array: jnp.take(array, chosen, axis=-1)  # noqa: E731
            part = Batch(
                gram=batch.gram if batch.gram.ndim == 2 else keep(batch.gram),
                beta=keep(batch.beta),
                sq_norm=keep(batch.sq_norm),
                state=jax.tree.map(keep, batch.state),
            )
            part_codes, part_info = run(part, n_iter)
            place = jnp.full((width,), half).at[chosen].set(jnp.arange(half))
            merge = lambda old, new: jnp.where(place < half, jnp.take(new, place, axis=-1, mode="clip"), old)  # noqa: E731
            return jax.tree.map(merge, (codes, info), (part_codes, part_info))

        # Nothing is left to do where the last samples were done together.
        return lax.cond(_is_open(gap, tol).any() & (n_iter < max_iter), rest, lambda: (codes, info))

    return run(batch, jnp.zeros((), jnp.int32))


def _is_open(gap: Gap, tol: Array) -> Array:
    """Samples whose gap is above tolerance and rounding; NaN never is. With tolerance 0, all are.

    A computed gap of zero is no proof: it is quadratic in the error of the codes, and drowns in rounding before that.
    """
    return (gap.relative > tol + gap.rounding) | (tol == 0)
