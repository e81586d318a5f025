"""Samples of a source in order, a batch at a time, for functions that need each of them once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax.numpy as jnp
import numpy as np

from jax_mmf.codes import power_of_two
from jax_mmf.core import (
    as_real_array,
    check_count,
    check_shape,
    filled_up,
    is_in_memory,
    is_scipy_sparse,
)
from jax_mmf.io import BatchSource, FeaturePermutation, HDF5Source, Source, as_source
from jax_mmf.training.buffers import Buffers
from jax_mmf.training.mask import Mask, matrix_of_rows, n_axes, read_rows
from jax_mmf.training.prefetch import in_one_thread, prefetch
from jax_mmf.training.sample_reader import SampleReader, write_samples
from jax_mmf.typing import Array, HostArray

_MOST_BYTES = 2**26  # of the samples of a batch: three batches are in memory at a time
_MOST_ROWS = 4096  # in a batch, as in a chunk of the code solvers
_NO_SOURCES = (type, memoryview, bytes, Mapping, Set)


def is_source(x: Any) -> bool:
    """Whether samples are read a batch at a time, and not an array in memory.

    Sources are memory maps, sparse matrices of SciPy, other objects with two axes that are read by slices of rows
    (`h5py.Dataset`, zarr, dask, xarray), objects of the class `Source`, and iterables of matrices. Anything with one
    axis is a sample, and no samples are an array. Paths count as sources: `as_source` rejects them with advice.

    Args:
      x: what a user gives as samples.
    """
    if isinstance(x, np.memmap):
        return x.ndim > 1
    if is_in_memory(x) or isinstance(x, _NO_SOURCES) or hasattr(x, "__jax_array__"):
        return False
    # A data set whose file was closed is false and has no shape. Reading it raises an error that names the cause.
    if (isinstance(x, h5py.Dataset) and not x) or isinstance(x, str | Path | BatchSource | Source):
        return True
    shape = getattr(x, "shape", None)
    if isinstance(shape, tuple):
        return len(shape) > 1 and shape[0] != 0 and (is_scipy_sparse(x) or hasattr(x, "__getitem__"))
    if isinstance(x, Sequence):
        return len(x) > 0 and n_axes(x[0]) == 2
    return isinstance(x, Iterable) and not hasattr(x, "__array__")


class Batch(NamedTuple):
    """Consecutive samples, with what belongs to them.

    Attributes:
      first: number of the first sample.
      n_samples: number of rows that are samples. Rows of zeros fill up a batch that is smaller than an earlier one.
      x: ``(b, p)``, with the features in the order in which they are stored.
      mask: ``(b, p)`` if each sample has its own; or the mask ``(p,)`` of all, or None.
      codes: ``(b, k)``, or None.

    The memory of x is used again for a later batch, when the next one is asked for.
    """

    first: int
    n_samples: int
    x: HostArray
    mask: HostArray | None
    codes: HostArray | None


class Batches:
    """The samples of a source, in batches that a thread reads ahead.

    A pass over the batches is a pass over the source, which may allow only one.

    Args:
      x: a source, or anything that `as_source` accepts.
      dictionary: ``(k, p)``.
      batch_size: samples per batch; by default 64 MB of samples and at most 4,096, in whole chunks of the file. An
        iterable of batches determines this itself.
      mask: None, ``(p,)``, or a matrix ``(n, p)`` whose rows are read together with the samples.
      codes: None, or a matrix ``(n, k)`` whose rows are read with the samples, too.
      name: of the argument codes, for error messages.

    Attributes:
      dictionary: ``(k, p)``, with the features in the order in which they are stored.
      n_samples: number of samples, or None if it is not known before they are read.

    Raises:
      TypeError: if x is not a source, or the mask or the codes are not a matrix.
      ValueError: for shapes that do not fit.
    """

    def __init__(
        self,
        x: Any,
        dictionary: Any,
        batch_size: int | None,
        *,
        mask: Any = None,
        codes: Any = None,
        name: str = "init",
    ) -> None:
        if batch_size is not None:
            check_count("batch_size", batch_size)
        self.dictionary: Array = as_real_array("dictionary", dictionary, ndim=(2,))
        k, p = self.dictionary.shape
        self._dtype, self._source = np.dtype(self.dictionary.dtype), as_source(x, "x")
        self.n_samples: int | None = None
        order: HostArray | None = None
        if isinstance(self._source, Source):
            self.n_samples = int(self._source.n_samples)
            _check_width(p, (self.n_samples, int(self._source.n_features)))
            order = self._source.permutation
        if order is not None:
            order = FeaturePermutation(np.asarray(order)).order
            check_shape("the permutation of x", order, (p,), "(n_features,)")
            self.dictionary = jnp.take(self.dictionary, order, axis=1)
        self._given_size, self._buffers = batch_size, Buffers(self._dtype)
        names = getattr(self._source, "feature_names", None)
        self._mask = Mask(mask, self.n_samples, p, order, self._dtype, names)
        self._codes = (
            None if codes is None else matrix_of_rows(name, codes, self.n_samples, k, "(n_samples, n_components)")
        )
        self._codes_name = name

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the batches, in order.

        Raises:
          ValueError: for NaN, infinity, and numbers that the dtype of the dictionary can't hold, with the sample and
            the feature, unless a mask of zero excludes them; for batches of another width; and without batches.
        """
        if isinstance(self._source, BatchSource):
            with closing(iter(self._source)) as given:
                # The first batch is taken in this thread: warnings about it then point at the caller.
                yield from self._ahead(self._of_batches(chain(list(islice(given, 1)), given)), depth=1)
            return
        n_samples = int(self._source.n_samples)
        size = self._batch_size(self._source)
        if isinstance(self._source, HDF5Source) and self._source.chunks is not None:
            self._source.warn_of_excess(np.arange(size), None, in_order=True)
        yield from self._ahead(self._of_rows(self._source, n_samples, size), depth=0 if size == n_samples else 1)

    def _of_rows(self, source: Source, n_samples: int, size: int) -> Iterator[Batch]:
        reader = SampleReader(source, self._dtype, name="x")
        for first in range(0, n_samples, size):
            rows = np.arange(first, min(first + size, n_samples))
            mask = self._mask.rows(rows)
            x = self._buffers.take((size, int(source.n_features)))
            reader.read_into(x[: rows.size], rows, mask=mask)
            yield self._batch(rows, x, mask)

    def _of_batches(self, batches: Iterable[HostArray]) -> Iterator[Batch]:
        first, size = 0, 0
        for given in batches:
            _check_width(self.dictionary.shape[1], given.shape)
            rows = np.arange(first, first + len(given))
            mask = self._mask.rows(rows)
            first, size = first + len(given), max(size, len(given))
            x = self._buffers.take((size, given.shape[1]))
            write_samples(x[: rows.size], given, None, rows, mask=mask, name="x")
            yield self._batch(rows, x, mask)
        if first == 0:
            raise ValueError("x must give at least one batch, got none; iterators can be read only once")
        for name, matrix in (("mask", self._mask.matrix), (self._codes_name, self._codes)):
            if matrix is not None and matrix.n_samples != first:
                raise ValueError(f"{name} must have a row for each of the {first} samples of x, got {matrix.n_samples}")

    def _batch(self, rows: HostArray, x: HostArray, mask: HostArray | None) -> Batch:
        x[rows.size :] = 0
        codes = None
        if self._codes is not None:
            codes = read_rows(self._codes_name, self._codes, rows, self._dtype)
        own, shared = (mask, None) if mask is not None and mask.ndim == 2 else (None, mask)
        own, codes = filled_up((own, codes), len(x))
        return Batch(int(rows[0]), rows.size, x, shared if own is None else own, codes)

    def _batch_size(self, source: Source) -> int:
        n_samples = int(source.n_samples)
        if self._given_size is not None:
            return min(self._given_size, n_samples)
        row_bytes = int(source.n_features) * max(self._dtype.itemsize, np.dtype(source.dtype).itemsize)
        row_bytes *= 1 if self._mask.matrix is None else 2
        return min(_default_size(row_bytes, max(1, int(source.rows_per_read))), n_samples)

    def _ahead(self, batches: Iterator[Batch], depth: int) -> Iterator[Batch]:
        """Iterate over batches, and use the memory of each one again when the next one is asked for."""
        depth = 0 if in_one_thread(self._source, self._mask.matrix, self._codes) else depth
        with closing(prefetch(batches, depth)) as ready:
            for batch in ready:
                yield batch
                self._buffers.give_back(batch.x)


def _default_size(row_bytes: int, rows_per_read: int) -> int:
    """Choose the number of samples in a batch: whole chunks of a file, unless they are too large."""
    # The code solvers work on chunks of powers of two, and fill up the last one.
    most = min(_MOST_ROWS, max(1, power_of_two(_MOST_BYTES // row_bytes + 1) // 2))
    if rows_per_read <= most:
        return most - most % rows_per_read
    return rows_per_read if rows_per_read * row_bytes <= _MOST_BYTES else most


def _check_width(p: int, shape: tuple[int, ...]) -> None:
    check_shape("x", np.broadcast_to(0, shape), (None, p), "(n_samples, n_features)")
