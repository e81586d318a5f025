"""Scalars, vectors of a fixed width and blocks of a matrix: the operations that the compiled searches are made of.

An array has room for more entries than are in use. Loops run over as many of its *chunks* as needed: chunk c holds the
``WIDTH`` entries from ``c * WIDTH`` on, a size that a compiler turns into a few instructions. Functions named
``with_...`` return a copy of an array with new values in one place; where the old array is not used again, XLA updates
it in place. Written for `compiled_loop`; correct anywhere.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_mmf.typing import Array

WIDTH = 32  # entries of a chunk
SEARCH_WIDTH = 128  # entries that a search for the largest one compares at once
ZERO = np.int32(0)  # indices are int32 everywhere, also where the default integer is int64
_BLOCK_ROWS = 8  # rows of a block of a matrix, which is WIDTH columns wide


def fori(n: Array | int, step: Callable[[Array, Any], Any], start: Any, first: int = 0) -> Any:
    """`lax.fori_loop` from ``first`` to n, with a counter that is int32 also where the default integer is int64."""
    return lax.fori_loop(jnp.asarray(first, jnp.int32), jnp.asarray(n, jnp.int32), step, start)


def ceil_div(n: Any, d: int) -> Any:
    """Divide two positive integers and round up: the number of parts of size d that hold n entries."""
    return (n + d - 1) // d if isinstance(n, int) else lax.div(n + (d - 1), jnp.asarray(d, n.dtype))


# Entries, rows and parts of arrays. Indices are never negative, and are not checked.


def part(array: Array, first: tuple[Any, ...], sizes: tuple[int, ...]) -> Array:
    """Slice of an array that begins at the indices ``first``."""
    return lax.dynamic_slice(array, first, sizes, allow_negative_indices=False)


def with_part(array: Array, values: Array, first: tuple[Any, ...]) -> Array:
    """Copy of an array whose slice that begins at the indices ``first`` is replaced by ``values``."""
    return lax.dynamic_update_slice(array, values, first, allow_negative_indices=False)


def entry(array: Array, i: Array) -> Array:
    """Entry i of a vector."""
    return lax.squeeze(part(array, (i,), (1,)), (0,))


def with_entry(array: Array, i: Array, value: Any) -> Array:
    """Copy of a vector whose entry i is replaced."""
    return with_part(array, lax.reshape(jnp.asarray(value, array.dtype), (1,)), (i,))


def row(matrix: Array, i: Array) -> Array:
    """Row i of a matrix."""
    return lax.squeeze(part(matrix, (i, ZERO), (1, matrix.shape[1])), (0,))


def with_row(matrix: Array, i: Array, values: Array) -> Array:
    """Copy of a matrix whose row i is replaced."""
    return with_part(matrix, lax.expand_dims(values, (0,)), (i, ZERO))


def unstack(array: Array) -> list[Array]:
    """Entries of a short vector, or rows of a small matrix, as a list."""
    return [lax.index_in_dim(array, j, keepdims=False) for j in range(len(array))]


# Chunks of vectors.


def chunk(array: Array, c: Array) -> Array:
    """Chunk c of a vector: ``(WIDTH,)``."""
    return part(array, (c * WIDTH,), (WIDTH,))


def with_chunk(array: Array, c: Array, values: Array) -> Array:
    """Copy of a vector whose chunk c is replaced."""
    return with_part(array, values, (c * WIDTH,))


def chunk_indices(c: Array) -> Array:
    """Indices of the entries of chunk c: ``(WIDTH,)``."""
    return c * WIDTH + jnp.arange(WIDTH, dtype=jnp.int32)


def reduce_halves(combine: Callable[[Array, Array], Array], values: Array) -> Array:
    """Combine all entries into one, half with half: a chain, where each operation waits for the one before, is slower.

    Args:
      combine: an elementwise operation that is associative and commutative, such as `jnp.maximum`.
      values: a power of two of entries.
    """
    while len(values) > 1:
        half = len(values) // 2
        values = combine(lax.slice_in_dim(values, 0, half), lax.slice_in_dim(values, half, 2 * half))
    return lax.squeeze(values, (0,))


def any_true(flags: Array) -> Array:
    """Whether an entry of a chunk of booleans is true."""
    return reduce_halves(jnp.maximum, flags.astype(jnp.int32)) > 0


def sum_chunks(n: Array, term: Callable[[Array], Array], dtype: Any) -> Array:
    """Sum of all entries of ``term(c)``, over the chunks c that hold the first n entries."""
    add = lambda c, total: total + reduce_halves(jnp.add, term(c))  # noqa: E731
    return fori(ceil_div(n, WIDTH), add, jnp.zeros((), dtype))


# The largest entry.


def sortable(values: Array) -> Array:
    """Bits of floating-point numbers as integers: in the same order where they are not negative, else below zero.

    The minimum and maximum of floating-point numbers cost three times as much, since NaN has to propagate. Here a
    positive NaN is the largest.
    """
    return lax.bitcast_convert_type(values, jnp.int64 if values.dtype.itemsize == 8 else jnp.int32)


def largest_or_zero(values: Array) -> Array:
    """The largest entry of a vector, or 0 if all are negative."""
    bits = jnp.maximum(sortable(values), 0)
    most = reduce_halves(jnp.maximum, bits.reshape(-1, min(values.shape[0], SEARCH_WIDTH)).max(0))
    return lax.bitcast_convert_type(most, values.dtype)


# Matrices, in blocks.


def symmetric_product(matrix: Array, v: Array, n: Array) -> Array:
    """Product of a symmetric matrix and a vector, both zero after the first n entries of each axis."""

    def columns(c: Array, out: Array) -> Array:
        def rows(i: Array, total: Array) -> Array:
            block, factors = _block(matrix, i, c), part(v, (i * _BLOCK_ROWS,), (_BLOCK_ROWS,))
            for factor, line in zip(unstack(factors), unstack(block), strict=True):
                total = total + factor * line
            return total

        total = fori(ceil_div(n, _BLOCK_ROWS), rows, jnp.zeros((WIDTH,), v.dtype))
        return with_chunk(out, c, total)

    return fori(ceil_div(n, WIDTH), columns, jnp.zeros_like(v))


def with_rank_one_update(matrix: Array, scale: Array, v: Array, n: Array, cleared: Array) -> Array:
    """Add ``scale v v^T`` to the first n rows and columns of a matrix, and set one row and column to zero.

    Args:
      matrix: ``(m, m)``.
      scale: a scalar.
      v: ``(m,)`` or longer.
      n: number of rows and columns in use.
      cleared: index of the row and column that becomes zero; -1 for none.
    """

    def rows(i: Array, matrix: Array) -> Array:
        left = scale * part(v, (i * _BLOCK_ROWS,), (_BLOCK_ROWS,))
        zero_row = i * _BLOCK_ROWS + jnp.arange(_BLOCK_ROWS, dtype=jnp.int32) == cleared

        def columns(c: Array, matrix: Array) -> Array:
            zero = zero_row[:, None] | (chunk_indices(c) == cleared)
            block = _block(matrix, i, c) + left[:, None] * chunk(v, c)
            return with_part(matrix, jnp.where(zero, 0, block), (i * _BLOCK_ROWS, c * WIDTH))

        return fori(ceil_div(n, WIDTH), columns, matrix)

    return fori(ceil_div(n, _BLOCK_ROWS), rows, matrix)


def with_zero_rows(matrix: Array, n: Array) -> Array:
    """Copy of a matrix whose first n rows, and those that fill up their last block, are zero."""

    def rows(i: Array, matrix: Array) -> Array:
        zeros = jnp.zeros((_BLOCK_ROWS, matrix.shape[1]), matrix.dtype)
        return with_part(matrix, zeros, (i * _BLOCK_ROWS, ZERO))

    return fori(ceil_div(n, _BLOCK_ROWS), rows, matrix)


def leading_row(matrix: Array, i: Array, n: Array) -> Array:
    """The first n entries of row i of a matrix ``(m, m)``, and then zeros: ``(m + WIDTH,)``."""

    def copy(c: Array, out: Array) -> Array:
        return with_chunk(out, c, lax.squeeze(part(matrix, (i, c * WIDTH), (1, WIDTH)), (0,)))

    return fori(ceil_div(n, WIDTH), copy, jnp.zeros((matrix.shape[0] + WIDTH,), matrix.dtype))


def _block(matrix: Array, i: Array, c: Array) -> Array:
    return part(matrix, (i * _BLOCK_ROWS, c * WIDTH), (_BLOCK_ROWS, WIDTH))
