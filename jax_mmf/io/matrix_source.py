"""Base class of sources that read rows of a matrix."""

import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from jax_mmf.core import check_real_dtype
from jax_mmf.io.bad_file import BadFileError
from jax_mmf.typing import HostArray

ROWS_PER_SEEK = 16  # consecutive rows read from a disk: enough to amortise a seek, few enough to mix a mini-batch
_counting = threading.Lock()


class MatrixSource:
    """Base class of `Source` classes that can be closed, and are context managers.

    Args:
      name: of the matrix, for error messages.
      shape: ``(n, p)``.
      dtype: of the stored numbers; `read` returns the byte order of this machine.

    Attributes:
      n_samples: number of rows.
      n_features: number of columns.
      dtype: of the numbers that `read` returns.
      rows_per_read: number of consecutive rows that are best read together.
      rows_per_chunk: number of consecutive rows that are decoded together: reading one row costs as much as reading
        all of them; 1 if rows are read one by one.
      permutation: the original feature of each column ``(p,)``, or None.
      feature_names: names of the columns, or None.
      bytes_read: number of bytes read so far.
      paths: absolute paths of the files that are read, none of which may be an output.
      reads_in_parallel: whether several threads may read at the same time, and are faster than one.
      reads_on_several_devices: whether a read launches a program on several devices. Two threads that launch such
        programs can reach the devices in different orders. The programs then wait for each other without end.

    Raises:
      TypeError: if the dtype is not of real numbers.
      ValueError: if the shape is not that of a matrix with at least one row and column.

    Example:
      >>> import numpy as np, jax_mmf as mmf
      >>> with mmf.io.as_source(np.eye(3)) as source:
      ...     print(isinstance(source, mmf.io.MatrixSource), source.rows_per_chunk)
      True 1
    """

    rows_per_read: int = 1
    rows_per_chunk: int = 1
    reads_in_parallel: bool = False
    reads_on_several_devices: bool = False
    permutation: HostArray | None = None
    feature_names: tuple[str, ...] | None = None
    paths: tuple[Path, ...] = ()
    _has_file: bool = False  # whether a failed read means that a file is damaged

    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        check_matrix(name, shape, dtype)
        self._name, self._closed = name, False
        self.n_samples, self.n_features = map(int, shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype).newbyteorder("=")
        self.bytes_read = 0

    def read(self, rows: HostArray, columns: HostArray | None = None) -> HostArray:
        """Read some rows, and some or all of their columns.

        Args:
          rows: ``(b,)`` row numbers.
          columns: ``(s,)`` column numbers, or None for all.

        Returns:
          ``(b, s)`` or ``(b, p)``.

        Raises:
          ValueError: if the source, or the file behind it, was closed.
          BadFileError: if the file is damaged, or changed since it was opened.
          IndexError: for rows that the source does not have.
        """
        out = np.empty((rows.size, self.n_features if columns is None else columns.size), self.dtype)
        self.read_into(out, rows, columns)
        return out

    def read_into(self, out: HostArray, rows: HostArray, columns: HostArray | None = None) -> None:
        """Read some rows, and some or all of their columns, into an array.

        Args:
          out: ``(b, s)`` or ``(b, p)`` of the dtype of the source, in C order.
          rows: as in `read`.
          columns: as in `read`.

        Raises:
          ValueError: as `read` does.
          BadFileError: as `read` does.
          IndexError: as `read` does.
        """
        self._check_open()
        if rows.size and not (rows.min() >= 0 and rows.max() < self.n_samples):
            raise IndexError(f"{self._name} has rows 0 to {self.n_samples - 1}, got {rows.min()} to {rows.max()}")
        if not self._has_file or not rows.size:
            self._read_into(out, rows, columns)
            return
        try:
            self._read_into(out, rows, columns)
            self._check_unchanged()
        except MemoryError:
            raise
        except Exception as error:  # libraries raise errors of any kind for damaged files
            text = f"{self._name} can't be read at rows {rows.min()} to {rows.max()}"
            raise BadFileError(f"{text}: {self._reason(error)}") from error

    def close(self) -> None:
        """Release the data and their file. Further calls have no effect."""
        self._closed = True

    def __enter__(self) -> Self:
        """Return the source itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the source."""
        self.close()

    def _count(self, n_bytes: int) -> None:
        """Add to ``bytes_read``, possibly in several threads."""
        with _counting:
            self.bytes_read += n_bytes

    def _check_open(self) -> None:
        """Raise a ValueError if the source was closed."""
        if self._closed:
            raise ValueError(f"{self._name} was closed; read it inside of the with block, or open it again")

    def _check_unchanged(self) -> None:
        """Raise a `BadFileError` if the file changed since it was opened."""

    def _reason(self, error: Exception) -> str:
        """Return why a read failed: because the file changed, or the text of the error."""
        try:
            self._check_unchanged()
        except BadFileError as change:
            return str(change)
        return str(error) or type(error).__name__

    def _read_into(self, out: HostArray, rows: HostArray, columns: HostArray | None) -> None:
        """Read rows, and add to ``bytes_read``; arguments as in `read_into`."""
        raise NotImplementedError


def stretches(indices: HostArray) -> list[tuple[int, int]]:
    """Group indices into stretches of consecutive numbers: ``[3, 4, 5, 9] -> [(3, 6), (9, 10)]``."""
    if indices.size == 0:
        return []
    cuts = np.flatnonzero(np.diff(indices) != 1)
    firsts, lasts = indices[np.r_[0, cuts + 1]], indices[np.r_[cuts, indices.size - 1]]
    return [(int(a), int(b) + 1) for a, b in zip(firsts, lasts, strict=True)]


def is_range(indices: HostArray) -> bool:
    """Whether indices are consecutive numbers, at least one."""
    return indices.size > 0 and bool((np.diff(indices) == 1).all())


def check_matrix(name: str, shape: tuple[int, ...], dtype: Any) -> None:
    """Raise unless a shape and a dtype are those of a matrix of real numbers with at least one row and column."""
    if len(shape) != 2:
        raise ValueError(f"{name} must be 2-D, (n_samples, n_features); got shape {tuple(shape)}")
    if 0 in shape:
        raise ValueError(f"{name} must have at least one sample and one feature; got shape {tuple(shape)}")
    check_real_dtype(name, dtype)
