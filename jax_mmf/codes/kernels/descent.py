"""Coordinate descent over one sample after another, in one loop, for samples that the active set has not solved."""

import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

from jax_mmf.codes.compaction import SolveInfo, is_close, is_open
from jax_mmf.codes.duality import Gap, Weights, duality_gap
from jax_mmf.codes.kernels import vectors
from jax_mmf.codes.kernels.compiled_loop import compiled_loop
from jax_mmf.penalties import shrink
from jax_mmf.typing import Array

_SWEEPS_PER_CHECK = 2  # sweeps over the coordinates between two duality gaps


def finish_by_descent(
    gram: Array, beta: Array, sq_norm: Array, weights: Weights, tol: Array, max_iter: Array, codes: Array, gap: Gap
) -> tuple[Array, SolveInfo]:
    """Improve codes by cyclic coordinate descent until the gap of each sample is small.

    Samples whose gap is small already are left as they are. A coordinate that does not change costs a few operations,
    for any number of atoms. This is fast where it is compiled into one kernel, on CPU.

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
    descend = compiled_loop(
        lambda *args: _descend_all(*args, nonneg=weights.nonneg),
        ("k l" if gram.ndim == 2 else "b k l") + ", b k, b, k, k, b, b k, b, b, b -> b k, b, b, b",
        ("k", "l"),
    )
    better, *measured, n_sweeps = sequential_vmap(descend)(*arrays, max_iter)
    gap = Gap(*(a.astype(beta.dtype) for a in measured))
    return better.astype(beta.dtype), SolveInfo(gap.relative, n_sweeps, is_close(gap, tol.astype(beta.dtype)))


def _descend_all(
    gram: Array, beta: Array, sq_norm: Array, l1: Array, l2: Array, tol: Array, codes: Array, relative: Array,
    rounding: Array, max_iter: Array, *, nonneg: bool,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    b, k = beta.shape
    pad = vectors.ceil_div(k, vectors.WIDTH) * vectors.WIDTH - k
    rows_per_sample = k if gram.ndim == 3 else 0
    gram = jnp.pad(gram, [(0, 0)] * (gram.ndim - 1) + [(0, pad)]).reshape(-1, k + pad)
    beta, codes = (jnp.pad(a, [(0, 0), (0, pad)]) for a in (beta, codes))
    # The padding is atoms of zeros. Their weights repeat the last one, which keeps the smallest weight.
    l1, l2 = (jnp.pad(a, (0, pad), mode="edge") for a in (l1, l2))
    weights = Weights(l1[:, None], l2[:, None], nonneg)

    def solve(n: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        all_codes, all_gaps, all_roundings, all_sweeps = carry
        own_beta, own_sq_norm = vectors.row(beta, n), vectors.entry(sq_norm, n)
        own_tol, own_max = vectors.entry(tol, n), vectors.entry(max_iter, n)

        def gram_row(j: Array) -> Array:
            return vectors.row(gram, n * rows_per_sample + j)

        def unfinished(carry: tuple[Array, Gap, Array]) -> Array:
            _, gap, n_sweeps = carry
            return is_open(gap, own_tol) & (n_sweeps < own_max)

        def correlations(codes: Array) -> Array:
            """Correlations of all atoms with the residual x - a D."""

            def subtract(j: Array, correlation: Array) -> Array:
                code = vectors.entry(codes, j)
                once = (code != 0).astype(jnp.int32)
                return vectors.fori(once, lambda _, c: c - code * gram_row(j), correlation)

            return vectors.fori(k, subtract, own_beta)

        def update(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            """Minimise along coordinate j."""
            codes, correlation = carry
            products, old = gram_row(j), vectors.entry(codes, j)
            sq_norm_of_atom = vectors.entry(products, j)
            curvature = sq_norm_of_atom + vectors.entry(l2, j)
            pull = vectors.entry(correlation, j) + sq_norm_of_atom * old
            best = shrink(pull, vectors.entry(l1, j), nonneg)
            new = jnp.where(curvature > 0, best / jnp.where(curvature > 0, curvature, 1), 0)
            once = (new != old).astype(jnp.int32)
            correlation = vectors.fori(once, lambda _, c: c - (new - old) * products, correlation)
            return vectors.with_entry(codes, j, new), correlation

        def sweeps(carry: tuple[Array, Gap, Array]) -> tuple[Array, Gap, Array]:
            """Sweep a few times over all coordinates, and compute the duality gap."""
            codes, _, n_sweeps = carry
            count = jnp.minimum(_SWEEPS_PER_CHECK, own_max - n_sweeps)
            sweep = lambda _, carry: vectors.fori(k, update, carry)  # noqa: E731
            codes, _ = vectors.fori(count, sweep, (codes, correlations(codes)))
            image = own_beta - correlations(codes)
            gap = duality_gap(weights, own_beta[:, None], image[:, None], codes[:, None], own_sq_norm[None])
            return codes, Gap(gap.relative[0], gap.rounding[0]), n_sweeps + count

        own_gap = Gap(vectors.entry(relative, n), vectors.entry(rounding, n))
        start = (vectors.row(all_codes, n), own_gap, jnp.zeros((), jnp.int32))
        codes, gap, n_sweeps = lax.while_loop(unfinished, sweeps, start)
        return (
            vectors.with_row(all_codes, n, codes),
            vectors.with_entry(all_gaps, n, gap.relative),
            vectors.with_entry(all_roundings, n, gap.rounding),
            vectors.with_entry(all_sweeps, n, n_sweeps),
        )

    start = (codes, relative, rounding, jnp.zeros((b,), jnp.int32))
    codes, relative, rounding, n_sweeps = vectors.fori(b, solve, start)
    return codes[:, :k], relative, rounding, n_sweeps
