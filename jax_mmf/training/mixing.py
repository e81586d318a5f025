"""The number of chunks of a compressed file that are mixed, and of decoded chunks that are kept for it."""

import math
from bisect import bisect

from jax_mmf.io import MatrixSource, Source

_BYTES_OF_CHUNKS = 2**29  # most bytes of decoded chunks that are kept
_ROWS_MIXED = 2**20  # most rows that are mixed; their row numbers are in memory


def mixing_window(source: Source, batch_size: int, n_held_out: int) -> tuple[int, int]:
    """Choose how many chunks to mix, and how many decoded chunks to keep; zero if a chunk is too large."""
    if not isinstance(source, MatrixSource) or source.rows_per_chunk == 1:
        return 0, 0
    height = source.rows_per_chunk
    most_kept = _BYTES_OF_CHUNKS // (height * source.n_features * source.dtype.itemsize)
    most_mixed = min(-(-source.n_samples // height), max(1, _ROWS_MIXED // height))
    trained = height * (1 - n_held_out / source.n_samples)
    window = bisect(range(1, most_mixed + 1), most_kept, key=lambda window: n_kept(window, trained, batch_size))
    return (window, n_kept(window, trained, batch_size)) if window else (0, 0)


def n_kept(window: int, height: float, batch_size: int) -> int:
    """Return how many decoded chunks to keep for each chunk to be decoded only once per epoch.

    Mini-batches are read in ascending order of the rows, and each one covers several turns (see `SampleOrder`). So a
    chunk may be decoded too early, and be needed too long, by as many chunks as a mini-batch has turns. A turn has as
    many rows as a chunk, except in the beginning of an epoch, where turn i has i / window as many.

    Args:
      window: number of chunks that are mixed.
      height: number of rows of a chunk that are trained on, on average.
      batch_size: number of rows of a mini-batch.
    """
    turns = max(batch_size / height, math.sqrt(2 * batch_size * window / height))
    return window + 2 * min(batch_size, math.ceil(turns) + 1)
