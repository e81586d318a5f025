"""Sources of samples: arrays, memory maps, HDF5 data sets, raw files, and iterators of batches."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import h5py
import jax
import numpy as np

from jax_mmf.typing import HostArray

_RUN = 16  # rows read in one piece from a disk: enough to amortise a seek, few enough to mix a mini-batch


@runtime_checkable
class Source(Protocol):
    """A matrix whose rows can be read in any order, and perhaps some of its columns only."""

    @property
    def n_samples(self) -> int:
        """Number of rows."""

    @property
    def n_features(self) -> int:
        """Number of columns."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers as they are stored."""

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
          ``(b, s)`` or ``(b, p)``, in the stored dtype.
        """


def as_source(data: Any) -> "Source | BatchSource":
    """A source of samples from what a user has.

    Args:
      data: a 2-D array (NumPy, JAX, memory map), a 2-D `h5py.Dataset`, an iterable of 2-D batches, or a source.

    Returns:
      a source that can be read in any order, or a `BatchSource`.

    Raises:
      TypeError: for anything else, and arrays that do not hold real numbers.
      ValueError: for arrays that are empty or not 2-D.
    """
    if isinstance(data, BatchSource) or (isinstance(data, Source) and not isinstance(data, type)):
        return data
    if isinstance(data, h5py.Dataset):
        return HDF5Source(data)
    if isinstance(data, np.ndarray | jax.Array):
        return ArraySource(np.asarray(data) if isinstance(data, jax.Array) else data)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | dict | Path):
        return BatchSource(data)
    what = "a path; open it with jax_mmf.io.open_source" if isinstance(data, str | Path) else type(data).__name__
    raise TypeError(f"source must be a 2-D array, an h5py.Dataset, an iterable of batches, or a Source; got {what}")


class ArraySource:
    """An array in memory, or a memory map.

    Pages of a memory map that were read count as resident memory of the process until the system needs them elsewhere.

    Args:
      array: ``(n, p)`` real numbers.
    """

    permutation: HostArray | None = None

    def __init__(self, array: HostArray) -> None:
        check_matrix("source", array.shape, array.dtype)
        self._array = array
        self.bytes_read = 0
        self.n_samples, self.n_features = array.shape
        self.dtype = array.dtype
        self.rows_per_read = _RUN if isinstance(array, np.memmap) else 1

    def read(self, rows: HostArray, columns: HostArray | None = None) -> HostArray:
        """Some rows, and some or all of their columns, as in `Source.read`."""
        out: HostArray = np.take(self._array, rows, axis=0) if columns is None else self._array[np.ix_(rows, columns)]
        self.bytes_read += out.nbytes
        return out


class HDF5Source:
    """A data set in an HDF5 file.

    Only the columns asked for are read where they come in runs; a file written by `write_permuted` is laid out for it.

    Args:
      dataset: ``(n, p)`` real numbers; its file must stay open. An attribute ``feature_permutation`` names the data set
        that holds the order in which the columns are stored.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        check_matrix(f"data set {dataset.name!r} of {dataset.file.filename}", dataset.shape, dataset.dtype)
        self._dataset = dataset
        self.bytes_read = 0
        self.n_samples, self.n_features = dataset.shape
        self.dtype = dataset.dtype
        self.rows_per_read = dataset.chunks[0] if dataset.chunks else _RUN
        reference = dataset.attrs.get("feature_permutation")
        self.permutation: HostArray | None = None if reference is None else dataset.file[reference][...]

    def read(self, rows: HostArray, columns: HostArray | None = None) -> HostArray:
        """Some rows, and some or all of their columns, as in `Source.read`."""
        column_runs = [(0, self.n_features)] if columns is None else runs_of(columns)
        # Pieces of a few columns are not worth a read each.
        some = columns is not None and len(column_runs) * 8 <= columns.size
        if not some:
            column_runs = [(0, self.n_features)]
        out = np.empty((rows.size, sum(b - a for a, b in column_runs)), self.dtype)
        top = 0
        for first, last in runs_of(rows):
            left = 0
            for a, b in column_runs:
                here = np.s_[top : top + last - first, left : left + b - a]
                self._dataset.read_direct(out, np.s_[first:last, a:b], here)
                left += b - a
            top += last - first
        self.bytes_read += out.nbytes
        return out if some or columns is None else out[:, columns]


class RawSource:
    """A matrix in the C order in a file, such as the body of an .npy file. Whole rows are read.

    Unlike a memory map, what was read does not stay in the memory of the process.

    Args:
      path: of the file.
      offset: of the first number, in bytes.
      shape: ``(n, p)``.
      dtype: of the numbers.
    """

    permutation: HostArray | None = None
    rows_per_read = _RUN

    def __init__(self, path: str | Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        check_matrix(str(path), shape, dtype)
        self._path, self._offset = Path(path), offset
        self.bytes_read = 0
        self.n_samples, self.n_features = shape
        self.dtype = dtype
        needed = offset + self.n_samples * self.n_features * dtype.itemsize
        if self._path.stat().st_size < needed:
            raise ValueError(f"{path} is truncated: {self._path.stat().st_size} bytes where {needed} are expected")

    def read(self, rows: HostArray, columns: HostArray | None = None) -> HostArray:
        """Some rows, and some or all of their columns, as in `Source.read`."""
        row_bytes = self.n_features * self.dtype.itemsize
        pieces = []
        with self._path.open("rb") as file:
            for first, last in runs_of(rows):
                file.seek(self._offset + first * row_bytes)
                pieces.append(np.fromfile(file, self.dtype, (last - first) * self.n_features))
        out = np.concatenate(pieces).reshape(rows.size, self.n_features)
        self.bytes_read += out.nbytes
        return out if columns is None else out[:, columns]


class BatchSource:
    """An iterable of batches ``(b_i, p)``, of any sizes, read in the order in which it gives them.

    Args:
      batches: an iterator, for one pass, or an iterable that can be iterated over again, for several.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches
        self.once = isinstance(batches, Iterator)
        self.bytes_read = 0

    def __iter__(self) -> Iterator[HostArray]:
        """Batches as 2-D arrays; a 1-D batch is one sample."""
        for index, batch in enumerate(self._batches):
            array = np.atleast_2d(np.asarray(batch))
            check_matrix(f"batch {index} of source", array.shape, array.dtype)
            self.bytes_read += array.nbytes
            yield array


def runs_of(indices: HostArray) -> list[tuple[int, int]]:
    """Runs of consecutive numbers: ``[3, 4, 5, 9] -> [(3, 6), (9, 10)]``."""
    if indices.size == 0:
        return []
    cuts = np.flatnonzero(np.diff(indices) != 1)
    firsts, lasts = indices[np.r_[0, cuts + 1]], indices[np.r_[cuts, indices.size - 1]]
    return [(int(a), int(b) + 1) for a, b in zip(firsts, lasts, strict=True)]


def check_matrix(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise unless a shape and a dtype are those of a matrix of real numbers with at least one row and column."""
    if len(shape) != 2:
        raise ValueError(f"{name} must be 2-D, (n_samples, n_features); got shape {tuple(shape)}")
    if 0 in shape:
        raise ValueError(f"{name} must have at least one sample and one feature; got shape {tuple(shape)}")
    # Floating types that NumPy does not know of itself, such as bfloat16, have the kind V.
    if np.dtype(dtype).kind not in "biuf" and not jax.numpy.issubdtype(dtype, jax.numpy.floating):
        what = "Python objects" if np.dtype(dtype).hasobject else f"dtype {dtype}"
        raise TypeError(f"{name} must hold real numbers; got {what}")
