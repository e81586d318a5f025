"""Coordinate descent over one sample after another, compiled as one loop: what a search leaves to finish."""

import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

from jax_mmf.codes.compaction import SolveInfo, is_close, is_open
from jax_mmf.codes.duality import Gap, Weights, duality_gap
from jax_mmf.codes.kernels.compiled_loop import compiled_loop
from jax_mmf.codes.kernels.vectors import FIRST, WIDTH, ceil_div, get, loop, paste, put, whole_row
from jax_mmf.penalties import shrink
from jax_mmf.typing import Array

_SWEEPS_PER_CHECK = 2


def finish_by_descent(
    gram: Array, beta: Array, sq_norm: Array, weights: Weights, tol: Array, max_iter: Array, codes: Array, gap: Gap
) -> tuple[Array, SolveInfo]:
    """Cyclic coordinate descent until the gap of each sample is small; samples that are done stay as they are.

    A coordinate that does not change costs nothing but a look. Fast where it is compiled into one kernel, on CPU.

    Args:
      gram: ``(k, k)``, or ``(b, k, k)``.
      beta: ``(b, k)`` correlations.
      sq_norm: ``(b,)``.
      weights: of the penalty.
      tol: relative duality gap at which a sample is done.
      max_iter: largest number of sweeps.
      codes: ``(b, k)`` to start from.
      gap: ``(b,)`` each, of these codes.

    Returns:
      codes ``(b, k)``, their gaps, and the number of sweeps.
    """
    dtype = jnp.promote_types(beta.dtype, jnp.float32)
    tol, max_iter = (jnp.broadcast_to(a, sq_norm.shape) for a in (tol, max_iter.astype(jnp.int32)))
    arrays = [a.astype(dtype) for a in (gram, beta, sq_norm, weights.l1[:, 0], weights.l2[:, 0], tol, codes, *gap)]
    search = compiled_loop(
        lambda *args: _descend_all(*args, nonneg=weights.nonneg),
        ("k l" if gram.ndim == 2 else "b k l") + ", b k, b, k, k, b, b k, b, b, b -> b k, b, b, b",
        ("k", "l"),
    )
    better, *measured, n_sweeps = sequential_vmap(search)(*arrays, max_iter)
    gap = Gap(*(a.astype(beta.dtype) for a in measured))
    return better.astype(beta.dtype), SolveInfo(gap.relative, n_sweeps, is_close(gap, tol.astype(beta.dtype)))


def _descend_all(
    gram: Array, beta: Array, sq_norm: Array, l1: Array, l2: Array, tol: Array, codes: Array, relative: Array,
    rounding: Array, max_iter: Array, *, nonneg: bool,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    b, k = beta.shape
    pad = ceil_div(k, WIDTH) * WIDTH - k
    n_own = k if gram.ndim == 3 else 0
    gram = jnp.pad(gram, [(0, 0)] * (gram.ndim - 1) + [(0, pad)]).reshape(-1, k + pad)
    beta, codes = (jnp.pad(a, [(0, 0), (0, pad)]) for a in (beta, codes))
    # Padding is an atom of zeros, whose weights are none of the smallest.
    l1, l2 = (jnp.pad(a, (0, pad), mode="edge") for a in (l1, l2))
    weights = Weights(l1[:, None], l2[:, None], nonneg)

    def solve(n: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        all_codes, all_gaps, all_roundings, all_sweeps = carry
        gram_row = lambda j: whole_row(gram, n * n_own + j)  # noqa: E731
        own_beta, own_sq_norm, own_tol, own_max = whole_row(beta, n), get(sq_norm, n), get(tol, n), get(max_iter, n)

        def go_on(carry: tuple[Array, Gap, Array]) -> Array:
            _, gap, n_sweeps = carry
            return is_open(gap, own_tol) & (n_sweeps < own_max)

        def residual(codes: Array) -> Array:
            """Correlations with the residual x - a D."""

            def subtract(j: Array, correlation: Array) -> Array:
                code = get(codes, j)
                once = (code != 0).astype(jnp.int32)
                return loop(once, lambda _, c: c - code * gram_row(j), correlation)

            return loop(k, subtract, own_beta)

        def coordinate(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            codes, correlation = carry
            along, old = gram_row(j), get(codes, j)
            curvature = get(along, j)
            bottom = curvature + get(l2, j)
            best = shrink(get(correlation, j) + curvature * old, get(l1, j), nonneg)
            new = jnp.where(bottom > 0, best / jnp.where(bottom > 0, bottom, 1), 0)
            once = (new != old).astype(jnp.int32)
            correlation = loop(once, lambda _, c: c - (new - old) * along, correlation)
            return put(codes, j, new), correlation

        def body(carry: tuple[Array, Gap, Array]) -> tuple[Array, Gap, Array]:
            codes, _, n_sweeps = carry
            count = jnp.minimum(_SWEEPS_PER_CHECK, own_max - n_sweeps)
            sweep = lambda _, carry: loop(k, coordinate, carry)  # noqa: E731
            codes, _ = loop(count, sweep, (codes, residual(codes)))
            image = own_beta - residual(codes)
            gap = duality_gap(weights, own_beta[:, None], image[:, None], codes[:, None], own_sq_norm[None])
            return codes, Gap(gap.relative[0], gap.rounding[0]), n_sweeps + count

        start = (whole_row(all_codes, n), Gap(get(relative, n), get(rounding, n)), jnp.zeros((), jnp.int32))
        codes, gap, n_sweeps = lax.while_loop(go_on, body, start)
        return (
            paste(all_codes, lax.expand_dims(codes, (0,)), (n, FIRST)),
            put(all_gaps, n, gap.relative),
            put(all_roundings, n, gap.rounding),
            put(all_sweeps, n, n_sweeps),
        )

    start = (codes, relative, rounding, jnp.zeros((b,), jnp.int32))
    codes, relative, rounding, n_sweeps = loop(b, solve, start)
    return codes[:, :k], relative, rounding, n_sweeps
