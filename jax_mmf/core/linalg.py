"""Dense products at full precision, Cholesky factors, loops over parts of large matrices, and checks of numbers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.core.mesh import by_platform, on_mesh
from jax_mmf.typing import Array

_TILE = 8192  # features of a dictionary or of B that are updated together
_PRECISION = "highest"  # of products; benchmarks compare others
_IN_CACHE = 2**14  # numbers that are updated together, which fit in cache

Take = Callable[[Array], Array]


def matmul(left: Array, right: Array) -> Array:
    """Matrix product at the full precision of its inputs.

    By default, accelerators round the factors of a float32 product to TensorFloat-32 or bfloat16. A factorization takes
    differences of nearly equal products, which would lose all their digits.

    Args:
      left: ``(..., m, n)``.
      right: ``(..., n, q)``.

    Returns:
      ``(..., m, q)``.
    """
    return jnp.matmul(left, right, precision=_PRECISION)


@jax.custom_jvp
def inner_products(left: Array, right: Array) -> Array:
    """``L R^T``, the products of rows over many features: ``(m, p), (n, p) -> (m, n)``.

    On CPU, a few thousand features at a time are multiplied, and the results added. XLA would copy both factors first,
    which takes a quarter to half of the time for 128 samples of 200,000 features.
    """
    p = right.shape[1]
    n_tiles = p // _TILE

    def tiled(left: Array, right: Array) -> Array:
        def add(i: Array, out: Array) -> Array:
            take = lambda rows: lax.dynamic_slice_in_dim(rows, i * _TILE, _TILE, 1)  # noqa: E731
            return out + matmul(take(left), take(right).T)

        rest = matmul(left[:, n_tiles * _TILE :], right[:, n_tiles * _TILE :].T)
        return lax.fori_loop(0, n_tiles, add, rest)

    whole = lambda left, right: matmul(left, right.T)  # noqa: E731
    return by_platform(left, right, cpu=tiled, default=whole) if n_tiles > 1 else whole(left, right)


@inner_products.defjvp
def _inner_products_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """Differentiate the product itself: a loop would keep a copy of each tile for the way back."""
    (left, right), (d_left, d_right) = primals, tangents
    return inner_products(left, right), matmul(d_left, right.T) + matmul(left, d_right.T)


@jax.custom_jvp
def self_product(rows: Array) -> Array:
    """``D D^T`` of the rows of D: ``(k, p) -> (k, k)``."""
    return inner_products(rows, rows)


@self_product.defjvp
def _self_product_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Use one product over p features per derivative, where the product rule would use two."""
    half = matmul(tangents[0], primals[0].T)
    return self_product(primals[0]), half + half.T


def cholesky(matrix: Array) -> Array:
    """Lower Cholesky factors of symmetric positive semi-definite matrices.

    If a matrix is singular up to rounding, a multiple of the identity at the level of rounding is added to it, and
    solutions have nearly the least norm. NaN in one matrix does not affect the others.

    Args:
      matrix: ``(..., k, k)``.

    Returns:
      ``(..., k, k)``.
    """
    k, eps, tiny = matrix.shape[-1], jnp.finfo(matrix.dtype).eps, jnp.finfo(matrix.dtype).tiny
    diagonal = jnp.diagonal(matrix, axis1=-2, axis2=-1)
    # A positive pivot does not prove that a matrix is regular: at the level of rounding, k eps, it counts as zero.
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
    """Return the trial, which is already computed, unless it failed."""
    return lax.cond(failed, jnp.linalg.cholesky, lambda _: trial, matrix)


@_factor.defjvp
def _factor_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    """Differentiate the factor of the repaired matrix: derivatives of a trial that failed would be NaN."""
    return jax.jvp(jnp.linalg.cholesky, primals[:1], tangents[:1])


def cholesky_shifted(matrix: Array, shift: Array) -> Array:
    """Lower Cholesky factor of ``M + shift I`` with M positive semi-definite, without a branch: ``(..., k, k)``.

    A multiple of the identity at the level of the rounding of M is added too, and a shift of zero does not fail.
    This compiles in a third of the time of `cholesky`, which tests for singular matrices first.
    """
    k = matrix.shape[-1]
    largest = lax.stop_gradient(jnp.diagonal(matrix, axis1=-2, axis2=-1).max(-1))
    rounding = 4 * k * jnp.finfo(matrix.dtype).eps * largest + jnp.finfo(matrix.dtype).tiny
    return lax.linalg.cholesky(_plus_identity(matrix, shift + rounding), symmetrize_input=False)


def cho_solve(factor: Array, right: Array) -> Array:
    """Solve linear systems with their Cholesky factors: ``(..., k, k), (..., k) -> (..., k)``."""
    return jax.scipy.linalg.cho_solve((factor, True), right[..., None])[..., 0]


def solve_shifted(gram: Array, shift: Array, right: Array) -> Array:
    """Solve ``(G + diag(shift)) v = right``, with one factorization for all systems if they share the matrix.

    Args:
      gram: ``(k, k)``, or ``(b, k, k)``.
      shift: ``(k,)``.
      right: ``(b, k)``.

    Returns:
      ``(b, k)``; singular matrices are treated as in `cholesky`.
    """
    shifted = gram + jnp.broadcast_to(jnp.diag(shift), gram.shape)
    factor = cholesky(shifted)
    if gram.ndim == 2 and on_mesh(right):
        # For a triangular solve, XLA would send all systems to all devices. Matrix products stay on their devices.
        inverse = jax.scipy.linalg.cho_solve((factor, True), jnp.eye(len(factor), dtype=factor.dtype))
        found = matmul(right, inverse)
        return found + matmul(right - matmul(found, shifted), inverse)
    if gram.ndim == 2:
        return jax.scipy.linalg.cho_solve((factor, True), right.T).T
    return cho_solve(factor, right)


def largest_eigenvalue(matrix: Array, start: Array, n_iter: int) -> tuple[Array, Array]:
    """Largest eigenvalue of positive semi-definite matrices, estimated from below by power iteration.

    Args:
      matrix: ``(..., k, k)``.
      start: ``(..., k)`` guess of the eigenvector, of any norm.
      n_iter: products with the matrix.

    Returns:
      ``(...)`` the eigenvalue and ``(..., k)`` its eigenvector of norm 1, or zeros if the guess is mapped to zero.
    """

    def unit(vector: Array) -> Array:
        length = jnp.linalg.norm(vector, axis=-1, keepdims=True)
        return vector / jnp.maximum(length, jnp.finfo(matrix.dtype).tiny)

    def power(_: Array, vector: Array) -> Array:
        return jnp.einsum("...ij,...j->...i", matrix, unit(vector), precision="highest")

    image = lax.fori_loop(0, n_iter, power, start)
    return jnp.linalg.norm(image, axis=-1), unit(image)


def in_tiles(update: Callable[[Take, Array], Array], rows: Array) -> Array:
    """Apply ``update(take, rows)`` to ``rows`` ``(k, p)``, one tile of features at a time.

    ``take`` cuts the tile out of other arrays. Without tiles, XLA would write products as large as ``rows`` to memory
    before it adds them, which takes more than twice the time on CPU if they do not fit in cache. Accelerators update
    all features together.
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

    return by_platform(rows, cpu=tiled, default=whole) if n_tiles > 0 else whole(rows)


def map_rows(function: Callable[..., Array], rows: Array, *more: Array) -> Array:
    """Apply a function to each row of a matrix ``(k, s)`` and the matching entries of more arrays ``(k,)``.

    On CPU, a few rows are processed at a time, which stay in cache while the function passes over them
    repeatedly. Accelerators process all rows together.
    """
    k, s = rows.shape
    width = max(1, min(k, _IN_CACHE // max(s, 1)))
    together = jax.vmap(function)

    def block(i: Array, rows: Array) -> Array:
        # The last block overlaps rows that are done, and does not apply the function to them twice.
        first = jnp.minimum(i * width, k - width)
        take = lambda array: lax.dynamic_slice_in_dim(array, first, width)  # noqa: E731
        new = together(take(rows), *(take(array) for array in more))
        fresh = (first + jnp.arange(width) >= i * width)[:, None]
        return lax.dynamic_update_slice_in_dim(rows, jnp.where(fresh, new, take(rows)), first, 0)

    def in_blocks(rows: Array, *_: Array) -> Array:
        return lax.fori_loop(0, -(-k // width), block, rows)

    if width == k:
        return together(rows, *more)
    return by_platform(rows, *more, cpu=in_blocks, default=together)


def all_finite(*arrays: Array) -> Array:
    """True where every entry of every array is finite: a boolean scalar."""
    return jnp.stack([jnp.isfinite(a).all() for a in jax.tree.leaves(arrays)]).all()


def power_of_two_below(x: Array) -> Array:
    """Power of two just below the largest absolute value of each sample, ``(b, p) -> (b,)``; zero for zeros."""
    limits = jnp.finfo(x.dtype)
    largest = lax.stop_gradient(jnp.abs(x)).max(-1, initial=0)
    usual = jnp.isfinite(largest) & (largest > 0)
    exponent = jnp.frexp(jnp.where(usual, largest, 1))[1] - 1
    # Stay away from the ends of the range, since l1 weights are divided by the result.
    exponent = jnp.clip(exponent, int(0.8 * limits.minexp), int(0.8 * limits.maxexp))
    return jnp.where(usual, jnp.ldexp(jnp.ones_like(largest), exponent), 0)
