"""A cache of decoded chunks: a compressed file is decoded once per epoch."""

import numpy as np

from jax_mmf.io.matrix_source import MatrixSource
from jax_mmf.typing import HostArray


class ChunkCache:
    """Reader of whole rows that keeps the chunks that it decoded last.

    The first chunk that was decoded is dropped first. An order of the rows that uses up the chunks one after another
    (`jax_mmf.training.order.SampleOrder`, with a window) therefore decodes each of them once.

    Args:
      source: with ``rows_per_chunk`` above 1.
      n_chunks: number of chunks to keep.
    """

    def __init__(self, source: MatrixSource, n_chunks: int) -> None:
        self._source, self._n_chunks = source, n_chunks
        self._kept: dict[int, HostArray] = {}

    def read_into(self, out: HostArray, rows: HostArray) -> None:
        """Read some rows; arguments as in `MatrixSource.read_into`."""
        numbers = rows // self._source.rows_per_chunk
        for number in np.unique(numbers):
            here = numbers == number
            out[here] = self._chunk(int(number))[rows[here] % self._source.rows_per_chunk]

    def _chunk(self, number: int) -> HostArray:
        if number not in self._kept:
            dropped = self._kept.pop(next(iter(self._kept))) if len(self._kept) >= self._n_chunks else None
            first, height = number * self._source.rows_per_chunk, self._source.rows_per_chunk
            rows = np.arange(first, min(first + height, self._source.n_samples))
            reused = dropped is not None and len(dropped) == rows.size
            chunk = dropped if reused else np.empty((rows.size, self._source.n_features), self._source.dtype)
            assert chunk is not None
            self._source.read_into(chunk, rows)
            self._kept[number] = chunk
        return self._kept[number]
