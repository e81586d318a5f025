"""Reading of a matrix in bands of rows, in the dtype of the file that it is converted to."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from jax_mmf.io.chunk_cache import ChunkCache
from jax_mmf.io.matrix_source import MatrixSource
from jax_mmf.io.permutation import FeaturePermutation
from jax_mmf.io.sources import Source
from jax_mmf.typing import HostArray


class Rows:
    """Reader of bands of rows, in the dtype and the order of the columns of the file."""

    def __init__(
        self,
        source: Source,
        height: int,
        dtype: np.dtype[Any],
        permutation: FeaturePermutation | None,
        name: str,
        memory: int,
    ) -> None:
        self._source, self._permutation, self._name = source, permutation, name
        self.shape, self.height, self.dtype = (source.n_samples, source.n_features), height, dtype
        self._cache: ChunkCache | None = None
        tall = getattr(source, "rows_per_chunk", 1)
        # If a chunk of the source extends over two bands, it is kept for the second one.
        fits = tall * self.shape[1] * source.dtype.itemsize <= memory
        if isinstance(source, MatrixSource) and tall > 1 and height % tall and fits:
            self._cache = ChunkCache(source, 1)

    def bands(self, first: int) -> Iterator[HostArray]:
        """Read all bands, beginning with the one that starts at a row."""
        return map(self.band, range(first, self.shape[0], self.height))

    def band(self, first: int) -> HostArray:
        """Read the band that starts at a row."""
        rows = np.arange(first, min(first + self.height, self.shape[0]))
        if self._cache is None:
            x = np.asarray(self._source.read(rows))
        else:
            x = np.empty((rows.size, self.shape[1]), self._source.dtype)
            self._cache.read_into(x, rows)
        x = converted(x, self.dtype, f"{self._name}, rows {first} to {rows[-1]},")
        return x if self._permutation is None else self._permutation.apply(x)


def pieces(batches: Iterable[HostArray], n_features: int, dtype: np.dtype[Any], name: str) -> Iterator[HostArray]:
    """Yield batches in the dtype of the file, or raise a ValueError for one that does not fit."""
    for index, x in enumerate(batches):
        if x.shape[1] != n_features:
            raise ValueError(f"{name} must all have {n_features} features, got one with {x.shape[1]}")
        yield converted(x, dtype, f"batch {index} of {name}")


def bands(pieces: Iterable[HostArray], height: int, width: int, dtype: np.dtype[Any]) -> Iterator[HostArray]:
    """Regroup pieces of a matrix into bands of a height; the last may be shorter. Each overwrites the one before."""
    band, filled = np.empty((height, width), dtype), 0
    for piece in pieces:
        done = 0
        while done < len(piece):
            count = min(height - filled, len(piece) - done)
            band[filled : filled + count] = piece[done : done + count]
            filled, done = filled + count, done + count
            if filled == height:
                yield band
                filled = 0
    if filled:
        yield band[:filled]


def converted(array: HostArray, dtype: np.dtype[Any], name: str) -> HostArray:
    """Convert an array to the dtype of a file. Floating-point numbers may be rounded.

    Raises:
      ValueError: if the dtype can't hold the numbers.
    """
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        out = array.astype(dtype)
    # Infinity is written as it is, but a finite number must not overflow to infinity.
    kept = out == array if dtype.kind in "biu" else np.isfinite(out) | ~np.isfinite(array)
    if not np.can_cast(array.dtype, dtype, "safe") and not kept.all():
        raise ValueError(
            f"{name} holds numbers of {array.dtype} that {dtype}, the dtype of the file, can't hold; give another dtype"
        )
    return out
