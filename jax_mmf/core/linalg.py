"""Dense products at full precision, loops over parts of large matrices, and checks of numbers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.typing import Array

_TILE = 8192  # features of a dictionary or of B that are updated at once
_IN_CACHE = 2**14  # numbers of rows that are updated at once

Take = Callable[[Array], Array]


def matmul(left: Array, right: Array) -> Array:
    """Matrix product at the full precision of its inputs.

    Accelerators round the factors of a float32 product to TensorFloat-32 or bfloat16 unless told otherwise. The
    statistics of a factorization are differences of nearly equal products, which do not survive that.

    Args:
      left: ``(..., m, n)``.
      right: ``(..., n, q)``.

    Returns:
      ``(..., m, q)``.
    """
    return jnp.matmul(left, right, precision="highest")


@jax.custom_jvp
def self_product(rows: Array) -> Array:
    """``D D^T`` of the rows of D: ``(k, p) -> (k, k)``."""
    return matmul(rows, rows.T)


@self_product.defjvp
def _self_product_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """One product with p features per derivative, where the rule of a product of two would take two."""
    half = matmul(tangents[0], primals[0].T)
    return self_product(primals[0]), half + half.T


def cholesky(matrix: Array) -> Array:
    """Lower Cholesky factor of a symmetric positive semi-definite matrix, each of a batch on its own.

    Where a matrix is singular up to rounding, a multiple of the identity at the level of rounding is added, so that a
    solution of nearly least norm comes out. NaN in one matrix does no harm to the others.

    Args:
      matrix: ``(..., k, k)``.

    Returns:
      ``(..., k, k)``.
    """
    k, eps, tiny = matrix.shape[-1], jnp.finfo(matrix.dtype).eps, jnp.finfo(matrix.dtype).tiny
    diagonal = jnp.diagonal(matrix, axis1=-2, axis2=-1)
    # A positive pivot is no proof of a regular matrix: one at the level of rounding, k eps, is as good as zero.
    trial = jnp.linalg.cholesky(lax.stop_gradient(matrix))
    pivots = jnp.diagonal(trial, axis1=-2, axis2=-1) ** 2
    singular = ~(pivots > k * eps * diagonal).all(-1) & jnp.isfinite(diagonal).all(-1)
    jitter = lax.stop_gradient(jnp.where(singular, 10 * k * eps * diagonal.max(-1) + tiny, 0))
    return _factor(_plus_identity(matrix, jitter), trial, singular.any())


def _plus_identity(matrix: Array, factor: Array) -> Array:
    identity = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
    return matrix + factor[..., None, None] * identity


@jax.custom_jvp
def _factor(matrix: Array, trial: Array, failed: Array) -> Array:
    """The trial, which costs nothing more, unless it failed."""
    return lax.cond(failed, jnp.linalg.cholesky, lambda _: trial, matrix)


@_factor.defjvp
def _factor_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    """Derivatives go through the factor of the repaired matrix: through a trial that failed they would be NaN."""
    return jax.jvp(jnp.linalg.cholesky, primals[:1], tangents[:1])


def cholesky_shifted(matrix: Array, shift: Array) -> Array:
    """Lower Cholesky factor of ``M + shift I`` with M positive semi-definite: ``(..., k, k)``, one program, no branch.

    A multiple of the identity at the level of the rounding of M is added too, so that a shift of zero does not fail.
    Compiles in a third of the time of `cholesky`, which looks first.
    """
    k = matrix.shape[-1]
    largest = lax.stop_gradient(jnp.diagonal(matrix, axis1=-2, axis2=-1).max(-1))
    rounding = 4 * k * jnp.finfo(matrix.dtype).eps * largest + jnp.finfo(matrix.dtype).tiny
    return lax.linalg.cholesky(_plus_identity(matrix, shift + rounding), symmetrize_input=False)


def cho_solve(factor: Array, right: Array) -> Array:
    """Solutions of systems by their Cholesky factors: ``(..., k, k), (..., k) -> (..., k)``."""
    return jax.scipy.linalg.cho_solve((factor, True), right[..., None])[..., 0]


def solve_shifted(gram: Array, shift: Array, right: Array) -> Array:
    """Solutions of ``(G + diag(shift)) v = right``, one factorization for all where the matrix is shared.

    Args:
      gram: ``(k, k)``, or ``(b, k, k)``.
      shift: ``(k,)``.
      right: ``(b, k)``.

    Returns:
      ``(b, k)``; of a singular matrix as in `cholesky`.
    """
    factor = cholesky(gram + jnp.broadcast_to(jnp.diag(shift), gram.shape))
    if gram.ndim == 2:
        return jax.scipy.linalg.cho_solve((factor, True), right.T).T
    return cho_solve(factor, right)


def largest_eigenvalue(matrix: Array, start: Array, n_iter: int) -> tuple[Array, Array]:
    """Largest eigenvalue of positive semi-definite matrices, estimated from below by power iteration.

    Args:
      matrix: ``(..., k, k)``.
      start: ``(..., k)`` guess of the eigenvector, of any length.
      n_iter: products with the matrix.

    Returns:
      ``(...)`` the eigenvalue and ``(..., k)`` its eigenvector, of length 1, or zeros where the image of the guess is.
    """

    def unit(vector: Array) -> Array:
        length = jnp.linalg.norm(vector, axis=-1, keepdims=True)
        return vector / jnp.maximum(length, jnp.finfo(matrix.dtype).tiny)

    def power(_: Array, vector: Array) -> Array:
        return jnp.einsum("...ij,...j->...i", matrix, unit(vector), precision="highest")

    image = lax.fori_loop(0, n_iter, power, start)
    return jnp.linalg.norm(image, axis=-1), unit(image)


def in_tiles(update: Callable[[Take, Array], Array], rows: Array) -> Array:
    """``update(take, rows)`` of ``rows`` ``(k, p)``, a tile of the features at a time; ``take`` cuts it out of others.

    All at once, products would be written to memory before they are added, as large as ``rows``: more than twice as
    slow on CPU where these do not fit in cache. On accelerators it is all at once.
    """
    p = rows.shape[1]
    n_tiles = p // _TILE

    def whole(rows: Array) -> Array:
        return update(lambda array: array, rows)

    def tile(first: Array | int, rows: Array, width: int) -> Array:
        take = lambda array: lax.dynamic_slice_in_dim(array, first, width, array.ndim - 1)  # noqa: E731
        return lax.dynamic_update_slice_in_dim(rows, update(take, take(rows)), first, 1)

    def tiled(rows: Array) -> Array:
        rows = lax.fori_loop(0, n_tiles, lambda i, rows: tile(i * _TILE, rows, _TILE), rows)
        return tile(n_tiles * _TILE, rows, p % _TILE) if p % _TILE else rows

    return lax.platform_dependent(rows, cpu=tiled, default=whole) if n_tiles > 0 else whole(rows)


def map_rows(function: Callable[..., Array], rows: Array, *more: Array) -> Array:
    """``function(row, *more)`` of every row of a matrix ``(k, s)``, with arrays ``(k,)`` of which it gets one entry.

    On CPU a few rows at a time, for functions that pass over a row again and again: while it is in cache. On
    accelerators all at once.
    """
    k, s = rows.shape
    width = max(1, min(k, _IN_CACHE // max(s, 1)))
    together = jax.vmap(function)

    def block(i: Array, rows: Array) -> Array:
        # The last block goes back over rows that are done, but does not do them twice.
        first = jnp.minimum(i * width, k - width)
        take = lambda array: lax.dynamic_slice_in_dim(array, first, width)  # noqa: E731
        new = together(take(rows), *(take(array) for array in more))
        fresh = (first + jnp.arange(width) >= i * width)[:, None]
        return lax.dynamic_update_slice_in_dim(rows, jnp.where(fresh, new, take(rows)), first, 0)

    def in_blocks(rows: Array, *_: Array) -> Array:
        return lax.fori_loop(0, -(-k // width), block, rows)

    if width == k:
        return together(rows, *more)
    return lax.platform_dependent(rows, *more, cpu=in_blocks, default=together)


def all_finite(*arrays: Array) -> Array:
    """True where every entry of every array is finite: a boolean scalar."""
    return jnp.stack([jnp.isfinite(a).all() for a in jax.tree.leaves(arrays)]).all()


def power_of_two_below(x: Array) -> Array:
    """The power of two below the largest number of each sample, ``(b, p) -> (b,)``; zero for a sample of zeros."""
    limits = jnp.finfo(x.dtype)
    largest = lax.stop_gradient(jnp.abs(x)).max(-1, initial=0)
    usual = jnp.isfinite(largest) & (largest > 0)
    exponent = jnp.frexp(jnp.where(usual, largest, 1))[1] - 1
    # Not to the ends of the range: l1 weights are divided by it.
    exponent = jnp.clip(exponent, int(0.8 * limits.minexp), int(0.8 * limits.maxexp))
    return jnp.where(usual, jnp.ldexp(jnp.ones_like(largest), exponent), 0)
