"""Sources of samples: arrays, memory maps, frames, sparse matrices, raw files, and iterators of batches."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Set
from itertools import count
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import h5py
import jax
import numpy as np

from jax_mmf.core import as_array, describe, feature_names, in_native_order, is_in_memory, is_scipy_sparse, warn
from jax_mmf.io.hdf5 import HDF5Source
from jax_mmf.io.matrix_source import RUN, MatrixSource, check_matrix, runs_of
from jax_mmf.typing import HostArray


@runtime_checkable
class Source(Protocol):
    """A matrix whose rows can be read in any order, and perhaps some of its columns only.

    A source may have an attribute ``feature_names``, a tuple of p strings or None.
    """

    @property
    def n_samples(self) -> int:
        """Number of rows."""

    @property
    def n_features(self) -> int:
        """Number of columns."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers that are read."""

    @property
    def rows_per_read(self) -> int:
        """Number of consecutive rows that are best read in one piece: 1 if rows can be read in any order at no cost."""

    @property
    def permutation(self) -> HostArray | None:
        """If the columns were permuted when the data were written: the original feature of each column ``(p,)``."""

    @property
    def bytes_read(self) -> int:
        """Number of bytes read so far."""

    def read(self, rows: HostArray, columns: HostArray | None = None) -> HostArray:
        """Some rows, and some or all of their columns.

        Args:
          rows: ``(b,)`` row numbers.
          columns: ``(s,)`` column numbers, or None for all.

        Returns:
          ``(b, s)`` or ``(b, p)``.
        """


def as_source(data: Any, name: str = "source") -> "Source | BatchSource":
    """A source of samples from what a user has.

    Args:
      data: a matrix ``(n, p)``, an iterable of batches ``(b_i, p)``, or a source. A matrix is an array (NumPy, JAX,
        PyTorch, memory map), a frame (pandas, polars, pyarrow), a sparse matrix (SciPy), a list of rows, or anything
        else that has a shape and gives rows by slices, which are then read as they are needed (`h5py.Dataset`, zarr,
        dask, xarray).
      name: of the argument, in error messages.

    Returns:
      a source that can be read in any order, or a `BatchSource`.

    Raises:
      TypeError: for anything else, and matrices that do not hold real numbers.
      ValueError: for matrices that are empty, not 2-D, or have masked entries.
    """
    if isinstance(data, h5py.Dataset):
        return HDF5Source(data)
    if isinstance(data, BatchSource | Source) and not isinstance(data, type):
        if isinstance(data, Source):
            check_matrix(name, (data.n_samples, data.n_features), data.dtype)
        return data
    if is_scipy_sparse(data):
        return SparseSource(data, name)
    has_rows = isinstance(data, list | tuple) and len(data) > 0 and all(_n_axes(row) == 1 for row in data)
    if has_rows or is_in_memory(data):
        return ArraySource(_stacked(data, name) if has_rows else data, name)
    shape = getattr(data, "shape", None)
    if isinstance(shape, tuple) and hasattr(data, "__getitem__") and not isinstance(data, type):
        return SlicedSource(data, name)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping | Set | Path):
        return BatchSource(data, name)
    what = "a path; open it with jax_mmf.open_source" if isinstance(data, str | Path) else describe(data)
    raise TypeError(f"{name} must be a 2-D array or frame, an iterable of 2-D batches, or a Source; got {what}")


class ArraySource(MatrixSource):
    """An array in memory, or a memory map.

    Pages of a memory map that were read count as resident memory of the process until the system needs them elsewhere.

    Args:
      array: ``(n, p)`` real numbers, or anything that `jax_mmf.core.foreign.as_array` makes an array of.
      name: in error messages.
    """

    def __init__(self, array: Any, name: str = "source") -> None:
        values = as_array(name, array)
        super().__init__(name, values.shape, values.dtype)
        self._array = np.asarray(values) if isinstance(values, jax.Array) else values
        self.rows_per_read = RUN if isinstance(self._array, np.memmap) else 1
        self.feature_names = feature_names(array)

    def close(self) -> None:
        """Let go of the array."""
        super().close()
        self._array = np.empty((0, 0))

    def _read(self, rows: HostArray, columns: HostArray | None) -> HostArray:
        out: HostArray = np.take(self._array, rows, axis=0) if columns is None else self._array[np.ix_(rows, columns)]
        self.bytes_read += out.nbytes
        return out


class SparseSource(MatrixSource):
    """A sparse matrix of SciPy, some rows of which are made dense at a time.

    Args:
      matrix: ``(n, p)``, in any format; converted to CSR once.
      name: in error messages.
    """

    def __init__(self, matrix: Any, name: str = "source") -> None:
        super().__init__(name, matrix.shape, matrix.dtype)
        self._matrix = matrix.tocsr()

    def close(self) -> None:
        """Let go of the matrix."""
        super().close()
        self._matrix = None

    def _read(self, rows: HostArray, columns: HostArray | None) -> HostArray:
        some = self._matrix[rows]
        out: HostArray = (some if columns is None else some[:, columns]).toarray()
        self.bytes_read += out.nbytes
        return out


class SlicedSource(MatrixSource):
    """Anything with a shape that gives rows by slices: arrays of zarr, dask, xarray and others. Whole rows are read.

    Args:
      data: ``(n, p)`` real numbers.
      name: in error messages.
    """

    def __init__(self, data: Any, name: str = "source") -> None:
        shape = tuple(data.shape)
        if not all(isinstance(length, int) for length in shape):
            raise TypeError(f"{name} must have a known shape, got {shape} of {describe(data)}")
        # The libraries have dtypes of their own; what a row is converted to tells.
        check_matrix(name, shape, np.dtype(float))
        super().__init__(name, shape, as_array(name, data[:1]).dtype)
        self._data = data
        chunks = getattr(data, "chunks", None)
        # Lengths along each axis, or one length for each axis.
        self.rows_per_read = RUN if not chunks else max(chunks[0]) if isinstance(chunks[0], tuple) else chunks[0]
        self.feature_names = feature_names(data)

    def close(self) -> None:
        """Let go of the data, and close them where they can be closed."""
        super().close()
        if callable(getattr(self._data, "close", None)):
            self._data.close()
        self._data = None

    def _read(self, rows: HostArray, columns: HostArray | None) -> HostArray:
        pieces = [np.asarray(as_array(self._name, self._data[first:last])) for first, last in runs_of(rows)]
        out = np.concatenate(pieces)
        self.bytes_read += out.nbytes
        return out if columns is None else out[:, columns]


class RawSource(MatrixSource):
    """A matrix in the C order in a file, such as the body of an .npy file. Whole rows are read.

    Unlike a memory map, what was read does not stay in the memory of the process, and the file is open only while it
    is read.

    Args:
      path: of the file.
      offset: of the first number, in bytes.
      shape: ``(n, p)``.
      dtype: of the numbers.
    """

    rows_per_read = RUN

    def __init__(self, path: str | Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().__init__(str(path), shape, dtype)
        self._path, self._offset, self._stored = Path(path), offset, np.dtype(dtype)
        needed = offset + self.n_samples * self.n_features * self._stored.itemsize
        if self._path.stat().st_size < needed:
            raise ValueError(f"{path} is truncated: {self._path.stat().st_size} bytes where {needed} are expected")

    def _read(self, rows: HostArray, columns: HostArray | None) -> HostArray:
        row_bytes = self.n_features * self._stored.itemsize
        pieces = []
        with self._path.open("rb") as file:
            for first, last in runs_of(rows):
                file.seek(self._offset + first * row_bytes)
                pieces.append(np.fromfile(file, self._stored, (last - first) * self.n_features))
        out = np.concatenate(pieces).reshape(rows.size, self.n_features)
        self.bytes_read += out.nbytes
        return out if columns is None else out[:, columns]


class BatchSource:
    """An iterable of batches ``(b_i, p)``, of any sizes, read in the order in which it gives them.

    Args:
      batches: an iterator, for one pass, or an iterable that can be iterated over again, for several. Batches may be
        arrays, frames or sparse matrices.
      name: in error messages.

    Attributes:
      once: whether there is one pass only.
      bytes_read: so far.
      feature_names: of the columns of the first batch, once it was read; None if they have no names.
    """

    def __init__(self, batches: Iterable[Any], name: str = "source") -> None:
        self._batches, self._name = batches, name
        self.once = isinstance(batches, Iterator)
        self.bytes_read = 0
        self.feature_names: tuple[str, ...] | None = None

    def __iter__(self) -> Generator[HostArray]:
        """Batches as 2-D arrays; a 1-D batch is one sample.

        A generator that was started here is closed with this one; an iterator that was given can be gone on with.

        Raises:
          TypeError: for batches that do not hold real numbers.
          ValueError: for batches that are empty or of more than two axes, and frames whose columns are not those of
            the first batch.
        """
        iterator = iter(self._batches)
        try:
            for index in count():
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                except Exception as error:
                    error.add_note(f"{self._name} raised this when it was asked for batch {index}.")
                    raise
                yield self._as_matrix(batch, index)
        finally:
            if isinstance(iterator, Generator) and not self.once:
                iterator.close()

    def _as_matrix(self, batch: Any, index: int) -> HostArray:
        name = f"batch {index} of {self._name}"
        array = np.asarray(as_array(name, batch))
        single = array.ndim == 1
        array = array[None] if single else array
        check_matrix(name, array.shape, array.dtype)
        if single and index == 0:
            warn(
                f"{self._name} gives one sample at a time, and each is a mini-batch of its own, whatever batch_size "
                "says. Give a matrix, or batches (b, p)"
            )
        names = feature_names(batch)
        if index == 0:
            self.feature_names = names
        if names != self.feature_names:
            raise ValueError(f"{name} must have the columns {self.feature_names} of the first batch, got {names}")
        self.bytes_read += array.nbytes
        return in_native_order(array)


def _n_axes(row: Any) -> int | None:
    """Number of axes, or None if it has no shape."""
    try:
        return len(row.shape) if hasattr(row, "shape") else np.ndim(row)
    except (ValueError, TypeError):
        return None


def _stacked(rows: list[Any] | tuple[Any, ...], name: str) -> HostArray:
    """A matrix from its rows."""
    for index, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"{name} must have rows of one length; row 0 has {len(rows[0])} numbers and row {index} has {len(row)}"
            )
    return np.stack([np.asarray(as_array(f"row {index} of {name}", row)) for index, row in enumerate(rows)])
