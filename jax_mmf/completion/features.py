"""Features of users and items from which their factors are predicted: who rated what, and features that users give.

The click features of users are the rows of ``N^(-1/2) C V``. Here C is one where a user rated an item, N holds the
number of ratings of each user, and V are the leading right singular vectors of ``N^(-1/2) C``. Those of items are the
same for the transposed matrix.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jax_mmf.completion.ragged import RaggedRows, Tile, map_blocks, sum_rows
from jax_mmf.completion.ratings import Ratings
from jax_mmf.typing import Array, HostArray

_RANK = 64
_OVERSAMPLING = 10
_ITERATIONS = 4


class Features(NamedTuple):
    """Features of the rows of one side, r from clicks and the others given.

    Attributes:
      rows: ``(n, p)``, centred; the click features of a row without ratings are zero.
      basis: ``(n_columns, r)``, the singular vectors V.
      center: ``(p,)``, means of the features.
      spread: ``(p,)``, by which they are divided: one for click features, standard deviations for the others.
      rated: ``(n,)`` 1 for rows with ratings, and 0 for the others.
    """

    rows: Array
    basis: Array
    center: Array
    spread: Array
    rated: Array


def row_features(ratings: Ratings, transposed: bool = False) -> Features:
    """Compute the features of users, or of items if transposed; on the host, with fixed random numbers."""
    clicks = ratings.to_scipy()
    weights = np.ones(len(ratings)) if ratings.weights is None else ratings.weights
    clicks.data = (weights > 0).astype(np.float32)
    side = ratings.item_features if transposed else ratings.user_features
    clicks = clicks.T.tocsr() if transposed else clicks
    counts = np.asarray(clicks.sum(1)).ravel()
    rated = counts > 0
    scaled = clicks.multiply(1 / np.sqrt(np.maximum(counts, 1))[:, None]).tocsr()
    basis = singular_vectors(scaled, _RANK)
    rows = scaled @ basis
    center, spread = rows[rated].mean(0), np.ones(rows.shape[1])
    rows = np.where(rated[:, None], rows - center, 0)
    if side is not None:
        middle, width = _moments(side[rated])
        rows = np.concatenate([rows, np.nan_to_num((side - middle) / width)], 1)
        center, spread = np.concatenate([center, middle]), np.concatenate([spread, width])
    dtype = jnp.zeros(()).dtype
    return Features(*(jnp.asarray(a, dtype) for a in (rows, basis, center, spread, rated)))


def _moments(side: HostArray) -> tuple[HostArray, HostArray]:
    """Return means and standard deviations of the columns, without NaN; the latter are one for constant columns."""
    there = ~np.isnan(side)
    n = np.maximum(there.sum(0), 1)
    mean = np.where(there, side, 0).sum(0, dtype=np.float64) / n
    deviation = np.sqrt((np.where(there, side - mean, 0) ** 2).sum(0) / n)
    return mean, np.where(deviation > 0, deviation, 1)


def singular_vectors(matrix: Any, rank: int) -> HostArray:
    """Return leading right singular vectors ``(n, r)`` of a sparse matrix ``(m, n)``, r <= rank.

    This is a randomized subspace iteration (Halko, Martinsson and Tropp 2011), and exact for small matrices.
    """
    rank = min(rank, *matrix.shape)
    width = min(rank + _OVERSAMPLING, *matrix.shape)
    start = np.random.default_rng(0).normal(size=(matrix.shape[0], width)).astype(np.float32)
    range_, _ = np.linalg.qr(matrix.T @ start)
    for _ in range(_ITERATIONS):
        range_, _ = np.linalg.qr(matrix.T @ (matrix @ range_))
    small = np.asarray(matrix @ range_, np.float64)
    _, vectors = np.linalg.eigh(small.T @ small)
    return np.asarray(range_ @ vectors[:, ::-1][:, :rank])


def new_features(rows: RaggedRows, known: Features) -> Array:
    """Compute the features ``(m, p)`` of new rows from their entries, and from the features that they are given."""
    basis = known.basis

    def sums(tile: Tile) -> tuple[Array, Array]:
        there = (tile.weights > 0).astype(basis.dtype)
        return jnp.einsum("cw,cwr->cr", there, basis[tile.columns], precision="highest"), there.sum(1)

    def block(_: Any, tiles: Tile, numbers: Array) -> tuple[Array, Array]:
        return sum_rows(tiles, numbers.shape[0], sums)

    total, count = map_blocks(block, (), rows)
    r = basis.shape[1]
    own = jnp.where(count[:, None] > 0, total / jnp.sqrt(jnp.maximum(count, 1))[:, None] - known.center[:r], 0)
    n_given = known.center.shape[0] - r
    given = jnp.zeros((len(own), n_given), own.dtype)
    if rows.features is not None and n_given > 0:
        given = jnp.nan_to_num((rows.features - known.center[r:]) / known.spread[r:])
    return jnp.concatenate([own, given], 1)
