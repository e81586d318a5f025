"""Samples on their way from a source to a mini-batch: read, reordered, converted, and checked."""

import functools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jax_mmf.core import aligned_empty, check_real_dtype, default_device, n_cores
from jax_mmf.io import ChunkCache, MatrixSource, Source
from jax_mmf.typing import HostArray

_BYTES_IN_CACHE = 2**20  # of samples that are read, converted and checked together
_BYTES_OF_A_THREAD = 2**23  # the same with several threads, which would wait for Python's lock with smaller pieces


class SampleReader:
    """Reader that fills memory with samples of a source.

    Args:
      source: read by its method ``read_into``, or by ``read`` if it has no such method.
      dtype: of the samples, a floating dtype.
      order: ``(p,)`` the column of the source for each feature of the samples; None for the order of the source.
      n_chunks: number of decoded chunks of the source to keep, or 0.
      name: of the source, for error messages.
    """

    def __init__(
        self, source: Source, dtype: Any, *, order: HostArray | None = None, n_chunks: int = 0, name: str = "source"
    ) -> None:
        self._source, self._dtype, self._order, self._name = source, np.dtype(dtype), order, name
        self._chunks: ChunkCache | None = None
        if n_chunks:
            assert isinstance(source, MatrixSource)
            self._chunks = ChunkCache(source, n_chunks)
        # Threads share the source, which must allow it.
        self._parallel = isinstance(source, MatrixSource) and source.reads_in_parallel and not n_chunks
        self._n_threads = _n_threads() if self._parallel else 1
        self._local = threading.local()

    def read(self, rows: HostArray, mask: HostArray | None = None) -> HostArray:
        """Read whole samples ``(b, p)`` into new memory; arguments and errors as in `read_into`."""
        out = aligned_empty((rows.size, self._source.n_features), self._dtype)
        self.read_into(out, rows, mask=mask)
        return out

    def read_into(
        self, out: HostArray, rows: HostArray, features: HostArray | None = None, mask: HostArray | None = None
    ) -> None:
        """Read samples, or some of their features.

        Args:
          out: ``(b, s)`` memory for them, in C order.
          rows: ``(b,)`` row numbers.
          features: ``(s,)`` feature numbers, or None for all.
          mask: ``(s,)`` or ``(b, s)``; where it is zero, samples are replaced by zeros, even NaN. Or None.

        Raises:
          ValueError: for NaN, infinity and numbers that the dtype can't hold, with the first place; and for a source
            that gives another shape than is asked for.
        """
        columns = features if features is None or self._order is None else self._order[features]
        order = self._order if features is None else None
        as_it_is = order is None and self._source.dtype == self._dtype
        found = columns if order is None else order  # the column of the source for each column of out
        stored = self._source.permutation
        names = found if stored is None else stored if found is None else stored[found]
        # Sources whose rows are read one by one are read in pieces that are still in the cache when they are checked.
        one_by_one = self._parallel or (isinstance(self._source, MatrixSource) and self._source.rows_per_read == 1)
        height = max(1, rows.size)
        if one_by_one:
            height = rows_in_cache(out, _BYTES_IN_CACHE if self._n_threads == 1 else _BYTES_OF_A_THREAD)

        def read_piece(first: int) -> None:
            some, place = rows[first : first + height], out[first : first + height]
            x = self._fetch(place if as_it_is else None, some, columns)
            own = mask if mask is None or mask.ndim == 1 else mask[first : first + height]
            write_samples(place, x, order, some, names, mask=own, name=self._name)

        pieces = range(0, rows.size, height)
        for _ in map(read_piece, pieces) if self._n_threads == 1 else _pool(self._n_threads).map(read_piece, pieces):
            pass

    def _fetch(self, out: HostArray | None, rows: HostArray, columns: HostArray | None) -> HostArray:
        """Read rows as they are in the source, into ``out`` if it is given and the source can write there."""
        shape = (rows.size, self._source.n_features if columns is None else columns.size)
        if not isinstance(self._source, MatrixSource):
            x = np.asarray(self._source.read(rows, columns))
            check_real_dtype(f"{self._name}.read(rows)", x.dtype)
            if x.shape != shape:
                raise ValueError(
                    f"{self._name}.read must give an array of shape {shape} for these rows and columns, got {x.shape}"
                )
            return x
        if out is None:
            scratch = getattr(self._local, "scratch", None)
            if scratch is None or scratch.shape[1] != shape[1] or len(scratch) < shape[0]:
                self._local.scratch = scratch = aligned_empty(shape, self._source.dtype)
            out = scratch[: shape[0]]
        if self._chunks is not None and columns is None:
            self._chunks.read_into(out, rows)
        else:
            self._source.read_into(out, rows, columns)
        return out


def rows_in_cache(samples: HostArray, n_bytes: int = _BYTES_IN_CACHE) -> int:
    """Return the number of rows of an array that stay in the cache together."""
    return max(1, n_bytes // max(1, samples[:1].nbytes))


def _n_threads() -> int:
    """Choose the number of reading threads: all cores if an accelerator computes, and a quarter of them otherwise."""
    return max(1, n_cores() // 4) if default_device().platform == "cpu" else n_cores()


@functools.cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="jax-mmf-reader")


def write_samples(
    out: HostArray,
    x: HostArray,
    order: HostArray | None,
    rows: Sequence[int] | HostArray,
    features: HostArray | None = None,
    *,
    mask: HostArray | None = None,
    name: str = "source",
) -> None:
    """Write samples into memory, in another order of their features and another dtype, and check that they are finite.

    Args:
      out: ``(b, s)`` of a floating dtype; ``x`` itself is checked only.
      x: ``(b, s)``.
      order: ``(s,)`` the column of x for each column of out, or None for the same.
      rows: ``(b,)`` sample numbers, for error messages.
      features: ``(s,)`` feature numbers of the columns of out, or None for 0, 1, 2, ...
      mask: ``(s,)`` or ``(b, s)``; where it is zero, zeros are written. Or None.
      name: of the source, for error messages.

    Raises:
      ValueError: for NaN, infinity, and numbers that the dtype of out can't hold, with the first place.
    """
    height = rows_in_cache(out) if x is not out or mask is not None else max(1, len(out))
    for first in range(0, len(out), height):
        some, place = x[first : first + height], out[first : first + height]
        with np.errstate(over="ignore", invalid="ignore"):
            if order is not None:
                for row, here in zip(some, place, strict=True):
                    here[:] = row[order]
            elif x is not out:
                place[:] = some
            if mask is not None:
                place[np.broadcast_to(mask if mask.ndim == 1 else mask[first : first + height], place.shape) == 0] = 0
        # Both propagate NaN.
        if not (np.isfinite(place.min(initial=0)) and np.isfinite(place.max(initial=0))):
            i, j = np.argwhere(~np.isfinite(place))[0]
            value = some[i, j if order is None else order[j]]
            text = f"{value}" if not np.isfinite(np.float64(value)) else f"{value}, too large for {out.dtype},"
            raise ValueError(
                f"{name} holds {text} at sample {rows[first + i]}, feature {j if features is None else features[j]}; "
                "clean, impute or scale the data first"
            )
