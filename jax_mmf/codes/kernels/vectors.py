"""What the loops of a compiled search are made of: scalars, vectors of a fixed size, and blocks of a matrix.

Arrays have room for more than is in use. Loops run over as many vectors and blocks as are needed, each of a size that a
compiler turns into a few instructions. Written for `compiled_loop`; correct anywhere.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_mmf.typing import Array

WIDTH = 32  # of a vector
SEARCHED = 128  # numbers that are compared at once
FIRST = np.int32(0)  # all indices are int32, also where the default is int64
_ROWS = 8  # of a block, WIDTH columns wide


def loop(n: Array | int, step: Callable[[Array, Any], Any], start: Any, first: int = 0) -> Any:
    """`lax.fori_loop` that counts in int32 also where the default is int64."""
    return lax.fori_loop(jnp.asarray(first, jnp.int32), jnp.asarray(n, jnp.int32), step, start)


def ceil_div(n: Any, d: int) -> Any:
    """How many parts of size d hold n."""
    return (n + d - 1) // d if isinstance(n, int) else lax.div(n + (d - 1), jnp.asarray(d, n.dtype))


def cut(array: Array, first: tuple[Any, ...], sizes: tuple[int, ...]) -> Array:
    """A part of an array. As everywhere here, an index is not negative, and nobody looks whether it is."""
    return lax.dynamic_slice(array, first, sizes, allow_negative_indices=False)


def paste(array: Array, part: Array, first: tuple[Any, ...]) -> Array:
    """With another part."""
    return lax.dynamic_update_slice(array, part, first, allow_negative_indices=False)


def whole_row(matrix: Array, i: Array) -> Array:
    """A row of a matrix."""
    return lax.squeeze(cut(matrix, (i, FIRST), (1, matrix.shape[1])), (0,))


def get(array: Array, i: Array) -> Array:
    """An entry."""
    return lax.squeeze(cut(array, (i,), (1,)), (0,))


def put(array: Array, i: Array, value: Any) -> Array:
    """With another entry."""
    return paste(array, lax.reshape(jnp.asarray(value, array.dtype), (1,)), (i,))


def each(array: Array) -> list[Array]:
    """All entries of a short vector, or rows of a small block."""
    return [lax.index_in_dim(array, j, keepdims=False) for j in range(len(array))]


def vector(array: Array, c: Array) -> Array:
    """The c-th vector of an array."""
    return cut(array, (c * WIDTH,), (WIDTH,))


def positions(c: Array) -> Array:
    """Where the entries of the c-th vector are."""
    return c * WIDTH + jnp.arange(WIDTH, dtype=jnp.int32)


def put_vector(array: Array, c: Array, values: Array) -> Array:
    """With another c-th vector."""
    return paste(array, values, (c * WIDTH,))


def tree(combine: Callable[[Array, Array], Array], values: Array) -> Array:
    """All values combined, half with half: a chain of them would wait for each."""
    while len(values) > 1:
        half = len(values) // 2
        values = combine(lax.slice_in_dim(values, 0, half), lax.slice_in_dim(values, half, 2 * half))
    return lax.squeeze(values, (0,))


def any_of(flags: Array) -> Array:
    """Whether one of a vector of flags is true."""
    return tree(jnp.maximum, flags.astype(jnp.int32)) > 0


def sum_vectors(n: Array, term: Callable[[Array], Array], dtype: Any) -> Array:
    """Sum of the entries of the vectors ``term(c)`` that hold the first n."""
    add = lambda c, total: total + tree(jnp.add, term(c))  # noqa: E731
    return loop(ceil_div(n, WIDTH), add, jnp.zeros((), dtype))


def order_of(values: Array) -> Array:
    """Whole numbers in the order of numbers that are not negative, and below zero for those that are.

    Smallest and largest of floating numbers cost three times as much, for the sake of NaN, which is largest here.
    """
    return lax.bitcast_convert_type(values, jnp.int64 if values.dtype.itemsize == 8 else jnp.int32)


def largest(size: Array) -> Array:
    """The largest of numbers, or 0."""
    order = jnp.maximum(order_of(size), 0)
    most = tree(jnp.maximum, order.reshape(-1, min(size.shape[0], SEARCHED)).max(0))
    return lax.bitcast_convert_type(most, size.dtype)


def times(matrix: Array, right: Array, n: Array) -> Array:
    """Product of a symmetric matrix and a vector, of which the first n entries count."""

    def columns(c: Array, out: Array) -> Array:
        def rows(i: Array, total: Array) -> Array:
            block, some = _block(matrix, i, c), cut(right, (i * _ROWS,), (_ROWS,))
            for factor, line in zip(each(some), each(block), strict=True):
                total = total + factor * line
            return total

        total = loop(ceil_div(n, _ROWS), rows, jnp.zeros((WIDTH,), right.dtype))
        return put_vector(out, c, total)

    return loop(ceil_div(n, WIDTH), columns, jnp.zeros_like(right))


def add_rank_one(matrix: Array, scale: Array, v: Array, n: Array, cleared: Array) -> Array:
    """Add ``scale v v^T`` in the first n rows and columns, and clear one of them, or none if it is -1."""

    def rows(i: Array, matrix: Array) -> Array:
        left = scale * cut(v, (i * _ROWS,), (_ROWS,))
        zero_row = i * _ROWS + jnp.arange(_ROWS, dtype=jnp.int32) == cleared

        def columns(c: Array, matrix: Array) -> Array:
            zero = zero_row[:, None] | (positions(c) == cleared)
            block = _block(matrix, i, c) + left[:, None] * vector(v, c)
            return paste(matrix, jnp.where(zero, 0, block), (i * _ROWS, c * WIDTH))

        return loop(ceil_div(n, WIDTH), columns, matrix)

    return loop(ceil_div(n, _ROWS), rows, matrix)


def row_of(matrix: Array, i: Array, n: Array) -> Array:
    """The first n entries of a row, in an array with room for one more vector."""

    def copy(c: Array, out: Array) -> Array:
        return put_vector(out, c, lax.squeeze(cut(matrix, (i, c * WIDTH), (1, WIDTH)), (0,)))

    return loop(ceil_div(n, WIDTH), copy, jnp.zeros((matrix.shape[0] + WIDTH,), matrix.dtype))


def clear(matrix: Array, n: Array) -> Array:
    """With zeros in the first n rows."""

    def rows(i: Array, matrix: Array) -> Array:
        zeros = jnp.zeros((_ROWS, matrix.shape[1]), matrix.dtype)
        return paste(matrix, zeros, (i * _ROWS, FIRST))

    return loop(ceil_div(n, _ROWS), rows, matrix)


def _block(matrix: Array, i: Array, c: Array) -> Array:
    return cut(matrix, (i * _ROWS, c * WIDTH), (_ROWS, WIDTH))
