"""Rows of different lengths as arrays of static shape, for half-steps over all users or all items.

The entries of a row are divided into chunks of one width; the last chunk is padded with weight zero. A sum over a row
is a sum over its chunks. One small program, compiled once, therefore works for rows of any length, and padding stays
below a fifth. On CPU this is as fast as batches of rows of similar length, or faster, and compiles in a tenth of the
time (docs/notes/recommenders.md).

Chunks are grouped into tiles, which are computed together, and tiles into blocks of rows, whose sums are in memory
together. Rows are distributed over the blocks so that all have about the same number of chunks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_mmf.codes import power_of_two
from jax_mmf.completion.ratings import Ratings
from jax_mmf.core import register_configuration, with_auto_axes
from jax_mmf.typing import Array, ArrayLike, HostArray

MAX_PADDING = 1.2
_WIDTHS = (32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
_TILE = 64  # chunks
_FEW_WIDTHS, _FEW_TILE = (32, 8), 4
_FEWEST_USERS = 8  # that are folded in together
BLOCK = 2048  # rows


class Tile(NamedTuple):
    """Chunks that are computed together.

    Attributes:
      columns: ``(c, w)`` int32.
      values: ``(c, w)``.
      weights: ``(c, w)``, zero where there is no entry.
      rows: ``(c,)`` int32, the row of each chunk within its block, ascending; the number of rows for empty chunks.
    """

    columns: Array
    values: Array
    weights: Array
    rows: Array


@register_configuration
@dataclass(frozen=True)
class RaggedRows:
    """The entries of a matrix, grouped by row, as made by `ragged_rows`.

    Attributes:
      tiles: a `Tile` with two more leading axes: ``(n_blocks, n_tiles, ...)``.
      numbers: ``(n_blocks, m)`` int32, the row of the matrix at each place of a block; ``n_rows`` for empty places.
      places: ``(n_rows,)`` int32, the place of each row of the matrix among the places of all blocks.
      features: ``(n_rows, p)`` features of the rows that `Ratings` hold, or None.
      mesh: mesh of the devices over which blocks are spread, or None (static).
    """

    tiles: Tile
    numbers: Array
    places: Array
    features: Array | None = None
    mesh: Mesh | None = field(default=None, metadata={"static": True})

    @property
    def n_rows(self) -> int:
        """Number of rows of the matrix."""
        return int(self.places.shape[0])


def ragged_rows(
    rows: HostArray,
    columns: HostArray,
    values: HostArray,
    weights: HostArray | None,
    n_rows: int,
    *,
    mesh: Mesh | None = None,
    block: int = BLOCK,
    few_shapes: bool = False,
) -> RaggedRows:
    """Group the entries of a matrix, given in any order, by row.

    Args:
      rows: ``(n,)`` whole numbers.
      columns: ``(n,)`` whole numbers.
      values: ``(n,)``.
      weights: ``(n,)``, or None for weights of one.
      n_rows: number of rows, including those without entries.
      mesh: mesh of devices with one axis, over which the blocks are spread, or None.
      block: largest number of rows in a block.
      few_shapes: whether to pad more, so that small inputs with nearly any number of entries share a program.

    Returns:
      the rows, as arrays on the device or the devices of the mesh.
    """
    lengths = np.bincount(rows, minlength=n_rows)
    width = chunk_width(lengths, _FEW_WIDTHS, 2.0) if few_shapes else chunk_width(lengths)
    n_chunks = -(-lengths // width)
    mesh = None if mesh is None else with_auto_axes(mesh)
    devices = 1 if mesh is None else mesh.size
    n_blocks = devices * -(-n_rows // (block * devices))
    at, place, size = _deal(n_chunks, n_blocks)

    # Sort by block, then by place in the block: the chunks of a block are contiguous, and so are those of a row.
    order = np.lexsort((place[rows], at[rows]))
    sorted_rows = rows[order]
    in_order = np.lexsort((place, at))
    first_entry = np.zeros(n_rows, np.int64)
    first_entry[in_order] = np.cumsum(lengths[in_order]) - lengths[in_order]
    first_chunk = np.zeros(n_rows, np.int64)
    first_chunk[in_order] = np.cumsum(n_chunks[in_order]) - n_chunks[in_order]
    per_block = np.bincount(at, weights=n_chunks, minlength=n_blocks).astype(np.int64)
    most = int(per_block.max())
    tile = min(_TILE, max(_FEW_TILE, power_of_two(most)) if few_shapes else max(1, most))
    n_tiles = max(1, -(-most // tile))
    step = 1 << max(0, n_tiles.bit_length() - 4)  # few sizes, so that parts of the same ratings share a program
    n_tiles = power_of_two(n_tiles) if few_shapes else -(-n_tiles // step) * step
    capacity = tile * n_tiles
    first_chunk += at * capacity - (np.cumsum(per_block) - per_block)[at]

    within = np.arange(len(rows)) - first_entry[sorted_rows]
    slot = (first_chunk[sorted_rows] + within // width) * width + within % width
    shape = (n_blocks, n_tiles, tile)

    def laid_out(source: HostArray, kind: Any) -> Any:
        out = np.zeros(n_blocks * capacity * width, kind)
        out[slot] = source[order]
        return out.reshape(*shape, width)

    chunk_rows: Any = np.full(n_blocks * capacity, size, np.int32)
    chunk_rows[slot // width] = place[sorted_rows]
    numbers: Any = np.full(n_blocks * size, n_rows, np.int32)
    places = at * size + place
    numbers[places] = np.arange(n_rows)
    ones = np.ones(len(rows)) if weights is None else weights
    dtype = jnp.zeros(()).dtype
    tiles = Tile(laid_out(columns, np.int32), laid_out(values, dtype), laid_out(ones, dtype), chunk_rows.reshape(shape))
    by_block = (tiles, numbers.reshape(n_blocks, size))
    spread = None if mesh is None else NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    tiles, numbers = jax.device_put(by_block, spread)
    return RaggedRows(tiles, numbers, jax.device_put(places.astype(np.int32), everywhere), mesh=mesh)


class Observed(NamedTuple):
    """Ratings on the device, grouped both ``by_user`` and ``by_item``."""

    by_user: RaggedRows
    by_item: RaggedRows


def observed(ratings: Ratings, mesh: Mesh | None = None, *, transposed: bool = False, block: int = BLOCK) -> Observed:
    """Group ratings by user and by item, exchanged if transposed; ``block`` is the block size of the first."""
    users, items, shape = ratings.users, ratings.items, ratings.shape
    if transposed:
        users, items, shape = items, users, shape[::-1]
    values, weights = ratings.values, ratings.weights
    return Observed(
        ragged_rows(users, items, values, weights, shape[0], mesh=mesh, block=block),
        ragged_rows(items, users, values, weights, shape[1], mesh=mesh),
    )


def padded_rows(columns: ArrayLike, values: ArrayLike, weights: ArrayLike | None = None) -> RaggedRows:
    """Make rows from arrays that are already padded to one width, and may be traced or differentiated.

    Args:
      columns: ``(m, w)`` int32.
      values: ``(m, w)``.
      weights: ``(m, w)``, zero for padding; None for weights of one.

    Returns:
      the rows.
    """
    columns, values = jnp.asarray(columns, jnp.int32), jnp.asarray(values)
    values = values.astype(jnp.result_type(values, jnp.float32))
    if columns.ndim != 2 or values.shape != columns.shape:
        raise ValueError(f"columns and values must have the same shape (m, w), got {columns.shape} and {values.shape}")
    weights = jnp.ones_like(values) if weights is None else jnp.asarray(weights, values.dtype)
    if weights.shape != columns.shape:
        raise ValueError(f"weights must have the shape of columns, {columns.shape}, got {weights.shape}")
    numbers = jnp.arange(columns.shape[0], dtype=jnp.int32)
    tile = Tile(columns, values, weights, numbers)
    return RaggedRows(jax.tree.map(lambda a: a[None, None], tile), numbers[None], numbers)


def padded_users(ratings: Ratings, features: HostArray | None) -> RaggedRows:
    """Group ratings by user, with users added so that nearly any number of users and ratings share a program.

    Args:
      ratings: of n users.
      features: ``(n, p)`` features of the users, or None.

    Returns:
      the rows, of n users and of those that were added, which have no ratings and unknown features.
    """
    padded = max(_FEWEST_USERS, power_of_two(ratings.n_users))
    rows = ragged_rows(ratings.users, ratings.items, ratings.values, ratings.weights, padded, few_shapes=True)
    if features is None:
        return rows
    more = np.pad(features, ((0, padded - len(features)), (0, 0)), constant_values=np.nan)
    return replace(rows, features=jnp.asarray(more))


def total_weight(rows: RaggedRows, *, values: bool = False) -> Array:
    """Return the sum of the weights of all entries, or of the weighted values: a scalar."""
    per_block = jnp.sum(rows.tiles.weights * (rows.tiles.values if values else 1), axis=(1, 2, 3))
    return per_block.sum()


def chunk_width(lengths: HostArray, widths: tuple[int, ...] = _WIDTHS, max_padding: float = MAX_PADDING) -> int:
    """Return the largest chunk width whose padding stays below a limit, or the smallest, for lengths ``(n_rows,)``."""
    total = lengths.sum()
    return next(w for w in widths if (-(-lengths // w) * w).sum() <= max_padding * total or w == widths[-1])


def _deal(n_chunks: HostArray, n_blocks: int) -> tuple[HostArray, HostArray, int]:
    """Deal rows to blocks, longest first, back and forth; return block and place of each row, and places per block."""
    n_rows = len(n_chunks)
    turn, seat = np.divmod(np.arange(n_rows), n_blocks)
    seat = np.where(turn % 2 == 1, n_blocks - 1 - seat, seat)
    block, place = np.zeros(n_rows, np.int64), np.zeros(n_rows, np.int64)
    longest_first = np.argsort(-n_chunks, kind="stable")
    block[longest_first], place[longest_first] = seat, turn
    return block, place, -(-n_rows // n_blocks)


def sum_rows(tiles: Tile, n_rows: int, chunk_sums: Callable[[Tile], Any]) -> Any:
    """Sum over the chunks of each row of a block.

    Args:
      tiles: of one block, ``(n_tiles, ...)``.
      n_rows: number of places m of the block.
      chunk_sums: maps a tile to a pytree of ``(c, ...)``.

    Returns:
      a pytree of ``(m, ...)``.
    """
    first = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), tiles)
    leaves, structure = jax.tree.flatten(jax.eval_shape(chunk_sums, first))
    widths = [math.prod(leaf.shape[1:]) for leaf in leaves]

    def add(sums: Array, tile: Tile) -> tuple[Array, None]:
        # One scatter for all leaves: separate ones would each be compiled and run as a loop.
        parts = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(chunk_sums(tile))]
        joined = jnp.concatenate(parts, 1)
        return sums.at[tile.rows].add(joined, indices_are_sorted=True, mode="drop"), None

    sums, _ = lax.scan(add, jnp.zeros((n_rows, sum(widths)), leaves[0].dtype), tiles)
    parts = jnp.split(sums, np.cumsum(widths)[:-1].tolist(), axis=1)
    shaped = [part.reshape(n_rows, *leaf.shape[1:]) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


def map_blocks(function: Callable[[Any, Tile, Array], Any], shared: Any, rows: RaggedRows) -> Any:
    """Apply ``function(shared, tiles, numbers)`` to each block, and join the results in the order of the matrix rows.

    Args:
      function: maps ``shared``, the tiles of a block and the numbers ``(m,)`` of its rows to a pytree of ``(m, ...)``.
      shared: a pytree, the same for all blocks.
      rows: the blocks.

    Returns:
      a pytree of ``(n_rows, ...)``.
    """

    def of_blocks(shared: Any, blocks: Any) -> Any:
        return lax.map(lambda block: function(shared, *block), blocks)

    blocks = (rows.tiles, rows.numbers)
    if rows.mesh is None:
        out = of_blocks(shared, blocks)
    else:
        axis = PartitionSpec(rows.mesh.axis_names[0])
        spread = jax.shard_map(
            of_blocks, mesh=rows.mesh, in_specs=(PartitionSpec(), axis), out_specs=axis, check_vma=False
        )
        out = spread(shared, blocks)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[rows.places], out)
