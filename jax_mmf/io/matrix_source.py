"""Base class of sources that read rows of a matrix."""

from types import TracebackType
from typing import Any, Self

import numpy as np

from jax_mmf.core import check_real_dtype, in_native_order
from jax_mmf.typing import HostArray

ROWS_PER_SEEK = 16  # consecutive rows read from a disk: enough to amortise a seek, few enough to mix a mini-batch


class MatrixSource:
    """Base class of `Source` classes that can be closed, also as context managers.

    Args:
      name: of the matrix, for error messages.
      shape: ``(n, p)``.
      dtype: of the stored numbers; `read` returns the byte order of this machine.

    Attributes:
      n_samples: number of rows.
      n_features: number of columns.
      dtype: of the numbers that `read` returns.
      rows_per_read: number of consecutive rows that are best read together.
      permutation: the original feature of each column ``(p,)``, or None.
      feature_names: names of the columns, or None.
      bytes_read: number of bytes read so far.

    Raises:
      TypeError: if the dtype is not of real numbers.
      ValueError: if the shape is not that of a matrix with at least one row and column.
    """

    rows_per_read: int = 1
    permutation: HostArray | None = None
    feature_names: tuple[str, ...] | None = None

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
        """
        if self._closed:
            raise ValueError(f"{self._name} was closed; read it inside of the with block, or open it again")
        return in_native_order(self._read(rows, columns))

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

    def _read(self, rows: HostArray, columns: HostArray | None) -> HostArray:
        """Read rows in any byte order, and add to ``bytes_read``; arguments as in `read`."""
        raise NotImplementedError


def stretches(indices: HostArray) -> list[tuple[int, int]]:
    """Group indices into stretches of consecutive numbers: ``[3, 4, 5, 9] -> [(3, 6), (9, 10)]``."""
    if indices.size == 0:
        return []
    cuts = np.flatnonzero(np.diff(indices) != 1)
    firsts, lasts = indices[np.r_[0, cuts + 1]], indices[np.r_[cuts, indices.size - 1]]
    return [(int(a), int(b) + 1) for a, b in zip(firsts, lasts, strict=True)]


def check_matrix(name: str, shape: tuple[int, ...], dtype: Any) -> None:
    """Raise unless a shape and a dtype are those of a matrix of real numbers with at least one row and column."""
    if len(shape) != 2:
        raise ValueError(f"{name} must be 2-D, (n_samples, n_features); got shape {tuple(shape)}")
    if 0 in shape:
        raise ValueError(f"{name} must have at least one sample and one feature; got shape {tuple(shape)}")
    check_real_dtype(name, dtype)
