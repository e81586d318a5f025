"""Sources of samples: arrays, memory maps, frames, sparse matrices, and iterators of batches."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Set
from itertools import count
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import h5py
import jax
import numpy as np

from jax_mmf.core import as_array, feature_names, in_native_order, is_in_memory, is_scipy_sparse, text_of, warn
from jax_mmf.io.device_source import DeviceSource
from jax_mmf.io.hdf5 import HDF5Source
from jax_mmf.io.matrix_source import ROWS_PER_SEEK, MatrixSource, check_matrix, is_range, stretches
from jax_mmf.typing import HostArray


@runtime_checkable
class Source(Protocol):
    """A matrix whose rows can be read in any order, with all or some of their columns.

    A source may also have an attribute ``feature_names``, a tuple of p strings or None.

    Example:
      >>> import numpy as np, jax_mmf as mmf
      >>> source = mmf.io.as_source(np.eye(3))
      >>> print(source.n_samples, source.n_features, source.read(np.array([0, 2]), np.array([1, 2])))
      3 3 [[0. 0.]
       [0. 1.]]
    """

    @property
    def n_samples(self) -> int:
        """Number of rows."""

    @property
    def n_features(self) -> int:
        """Number of columns."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the numbers that `read` returns."""

    @property
    def rows_per_read(self) -> int:
        """Number of consecutive rows that are best read together: 1 if the order of rows does not affect the speed."""

    @property
    def permutation(self) -> HostArray | None:
        """The original feature of each column ``(p,)`` if the columns are stored in another order, or None."""

    @property
    def bytes_read(self) -> int:
        """Number of bytes read so far."""

    def read(self, rows: HostArray, columns: HostArray | None = None) -> HostArray:
        """Read some rows, and some or all of their columns.

        Args:
          rows: ``(b,)`` row numbers.
          columns: ``(s,)`` column numbers, or None for all.

        Returns:
          ``(b, s)`` or ``(b, p)``.
        """


def as_source(data: Any, name: str = "source") -> "Source | BatchSource":
    """Make a source of samples from a matrix, or from an iterable of batches.

    Args:
      data: a matrix ``(n, p)``, an iterable of batches ``(b_i, p)``, or a source. A matrix is an array (NumPy, JAX,
        PyTorch, memory map), a frame (pandas, polars, pyarrow), a sparse matrix (SciPy), a list of rows, or any other
        object that has a shape and can be sliced by rows (`h5py.Dataset`, zarr, dask, xarray). Rows of the latter are
        read when they are needed.
      name: of the argument, for error messages.

    Returns:
      a source that can be read in any order, or a `BatchSource`.

    Raises:
      TypeError: for other objects, and for matrices that do not hold real numbers.
      ValueError: for matrices that are empty, not 2-D, or have masked entries.

    Example:
      >>> import numpy as np, jax_mmf as mmf
      >>> mmf.io.as_source([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).n_samples
      3
    """
    if isinstance(data, h5py.Dataset):
        return HDF5Source(data)
    if isinstance(data, BatchSource | Source) and not isinstance(data, type):
        if isinstance(data, Source):
            check_matrix(name, (data.n_samples, data.n_features), data.dtype)
        return data
    if is_scipy_sparse(data):
        return SparseSource(data, name)
    if isinstance(data, list | tuple) and data and all(isinstance(part, Source) for part in data):
        raise TypeError(f"{name} is a list of sources; join them to one matrix with jax_mmf.io.JoinedSource")
    has_rows = isinstance(data, list | tuple) and len(data) > 0 and all(_n_axes(row) == 1 for row in data)
    if has_rows or is_in_memory(data):
        return _source_of_array(_stacked(data, name) if has_rows else data, name)
    shape = getattr(data, "shape", None)
    if isinstance(shape, tuple) and hasattr(data, "__getitem__") and not isinstance(data, type):
        return SlicedSource(data, name)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping | Set | Path):
        return BatchSource(data, name)
    what = "a path; open it with jax_mmf.open_source" if isinstance(data, str | Path) else text_of(data)
    raise TypeError(f"{name} must be a 2-D array or frame, an iterable of 2-D batches, or a Source; got {what}")


class ArraySource(MatrixSource):
    """An array in memory, or a memory map.

    The operating system counts the pages of a memory map that were read as resident memory of the process, until it
    needs them elsewhere.

    Args:
      array: ``(n, p)`` real numbers, or any data that `jax_mmf.core.foreign.as_array` converts to an array.
      name: of the array, for error messages.

    Example:
      >>> import numpy as np, jax_mmf as mmf
      >>> print(mmf.io.ArraySource(np.eye(3)).read(np.array([1])))
      [[0. 1. 0.]]
    """

    reads_in_parallel = True

    def __init__(self, array: Any, name: str = "source") -> None:
        values = as_array(name, array)
        super().__init__(name, values.shape, values.dtype)
        self._array = np.asarray(values) if isinstance(values, jax.Array) else values
        self.rows_per_read = ROWS_PER_SEEK if isinstance(self._array, np.memmap) else 1
        if isinstance(self._array, np.memmap) and self._array.filename is not None:
            self.paths = (Path(self._array.filename).absolute(),)
        self.feature_names = feature_names(array)

    def close(self) -> None:
        """Release the array."""
        super().close()
        self._array = np.empty((0, 0))

    def _read_into(self, out: HostArray, rows: HostArray, columns: HostArray | None) -> None:
        if columns is not None:
            chosen = slice(int(columns[0]), int(columns[-1]) + 1) if is_range(columns) else columns
            for row, place in zip(rows, out, strict=True):
                place[:] = self._array[row][chosen]
        elif self._array.flags.c_contiguous and self._array.dtype == out.dtype:
            np.take(self._array, rows, axis=0, out=out, mode="clip")  # other modes make a copy first
        else:  # of which np.take would copy the whole array first
            out[:] = self._array[rows]
        self._count(out.nbytes)


class SparseSource(MatrixSource):
    """A SciPy sparse matrix, of which only the rows that are read become dense.

    Args:
      matrix: ``(n, p)``, in any format; converted to CSR once.
      name: of the matrix, for error messages.

    Example:
      >>> import numpy as np, scipy.sparse, jax_mmf as mmf
      >>> print(mmf.io.SparseSource(scipy.sparse.eye_array(3)).read(np.array([1])))
      [[0. 1. 0.]]
    """

    def __init__(self, matrix: Any, name: str = "source") -> None:
        super().__init__(name, matrix.shape, matrix.dtype)
        self._matrix = matrix.tocsr()

    def close(self) -> None:
        """Release the matrix."""
        super().close()
        self._matrix = None

    def _read_into(self, out: HostArray, rows: HostArray, columns: HostArray | None) -> None:
        some = self._matrix[rows]
        out[:] = (some if columns is None else some[:, columns]).toarray()
        self.bytes_read += out.nbytes


class SlicedSource(MatrixSource):
    """An object with a shape that can be sliced by rows: an array of zarr, dask, xarray or others. Reads whole rows.

    Args:
      data: ``(n, p)`` real numbers.
      name: of the data, for error messages.

    Example:
      >>> import numpy as np, jax_mmf as mmf
      >>> class Lazy:
      ...     shape, dtype = (3, 2), np.dtype("float32")
      ...     def __getitem__(self, rows):
      ...         return np.ones(self.shape, self.dtype)[rows]
      >>> mmf.io.SlicedSource(Lazy()).n_features
      2
    """

    def __init__(self, data: Any, name: str = "source") -> None:
        shape = tuple(data.shape)
        if not all(isinstance(length, int) for length in shape):
            raise TypeError(f"{name} must have a known shape, got {shape} of {text_of(data)}")
        # Some libraries define their own dtypes, so the dtype is that of a converted row.
        check_matrix(name, shape, np.dtype(float))
        super().__init__(name, shape, as_array(name, data[:1]).dtype)
        self._data = data
        chunks = getattr(data, "chunks", None)
        # Chunks are given as all lengths along each axis (dask), or as one length for each axis (zarr).
        self.rows_per_read = ROWS_PER_SEEK
        if chunks:
            self.rows_per_read = max(chunks[0]) if isinstance(chunks[0], tuple) else chunks[0]
            self.rows_per_chunk = self.rows_per_read
        self.feature_names = feature_names(data)

    def close(self) -> None:
        """Release the data, and close them if they have a method ``close``."""
        super().close()
        if callable(getattr(self._data, "close", None)):
            self._data.close()
        self._data = None

    def _read_into(self, out: HostArray, rows: HostArray, columns: HostArray | None) -> None:
        top = 0
        for first, last in stretches(rows):
            piece = np.asarray(as_array(self._name, self._data[first:last]))
            out[top : top + last - first] = piece if columns is None else piece[:, columns]
            self.bytes_read += piece.nbytes
            top += last - first


class BatchSource:
    """An iterable of batches ``(b_i, p)`` of any sizes, read in its own order.

    Args:
      batches: an iterator, for one pass, or an iterable that can be iterated over several times. Batches may be arrays,
        frames or sparse matrices.
      name: of the iterable, for error messages.

    Attributes:
      once: whether only one pass is possible.
      bytes_read: number of bytes read so far.
      feature_names: names of the columns of the first batch after it was read; None if they have no names.

    Example:
      >>> import numpy as np, jax_mmf as mmf
      >>> source = mmf.io.BatchSource(np.ones((2, 3)) for _ in range(5))
      >>> source.once
      True
    """

    def __init__(self, batches: Iterable[Any], name: str = "source") -> None:
        self._batches, self._name = batches, name
        self.once = isinstance(batches, Iterator)
        self.bytes_read = 0
        self.feature_names: tuple[str, ...] | None = None

    def __iter__(self) -> Generator[HostArray]:
        """Iterate over the batches as 2-D arrays; a 1-D batch is one sample.

        Closing this generator also closes a generator that it has started, but not an iterator given by the user.

        Raises:
          TypeError: for batches that do not hold real numbers.
          ValueError: for batches that are empty or have more than two axes, and for frames whose columns differ from
            those of the first batch.
        """
        iterator = iter(self._batches)
        try:
            for index in count():
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                except Exception as error:
                    error.add_note(f"{self._name} raised this error at batch {index}.")
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
                f"{self._name} gives one sample at a time. Each becomes a separate mini-batch, and batch_size has no "
                "effect. Pass a matrix, or batches (b, p)"
            )
        names = feature_names(batch)
        if index == 0:
            self.feature_names = names
        if names != self.feature_names:
            raise ValueError(f"{name} must have the columns {self.feature_names} of the first batch, got {names}")
        self.bytes_read += array.nbytes
        return in_native_order(array)


def _source_of_array(array: Any, name: str) -> "DeviceSource | ArraySource":
    if isinstance(array, jax.Array) and any(device.platform != "cpu" for device in array.devices()):
        return DeviceSource(array, name)
    return ArraySource(array, name)


def _n_axes(row: Any) -> int | None:
    """Return the number of axes of a row, or None if it has no shape."""
    try:
        return len(row.shape) if hasattr(row, "shape") else np.ndim(row)
    except (ValueError, TypeError):
        return None


def _stacked(rows: list[Any] | tuple[Any, ...], name: str) -> HostArray:
    """Stack rows into a matrix."""
    for index, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"{name} must have rows of one length; row 0 has {len(rows[0])} numbers and row {index} has {len(row)}"
            )
    return np.stack([np.asarray(as_array(f"row {index} of {name}", row)) for index, row in enumerate(rows)])
