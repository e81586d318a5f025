"""Matrices that are stored as plain numbers in a file."""

from pathlib import Path
from typing import Any

import numpy as np

from jax_mmf.io.bad_file import BadFileError
from jax_mmf.io.matrix_source import ROWS_PER_SEEK, MatrixSource, is_range, stretches
from jax_mmf.io.opened_file import OpenedFile
from jax_mmf.typing import HostArray

_BAND_BYTES = 2**26  # most bytes of consecutive rows that are read together from a file in Fortran order
_BAND_ROWS = 4096
_BLOCK_BYTES = 2**22  # bytes of columns that are transposed together
_LEAST_STRIP = 2**12  # fewest bytes of consecutive columns that are read without the rest of their rows


class RawSource(MatrixSource):
    """A matrix of plain numbers in a file, such as the body of an .npy file.

    Unlike the pages of a memory map, rows that were read do not add to the resident memory of the process. The file
    stays open until `close`. Each read checks that the file did not change.

    Args:
      path: of the file.
      offset: of the first number, in bytes.
      shape: ``(n, p)``.
      dtype: of the numbers.
      order: "C" if the numbers of a row are stored together, or "F" if the numbers of a column are stored together. For
        "F", bands of consecutive rows are read together, up to 64 MB each.
      name: of the matrix, for error messages; by default the path.

    Raises:
      BadFileError: if the file is too short.

    Example:
      >>> import numpy as np, pathlib, tempfile, jax_mmf as mmf
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "x.bin"
      ...     np.eye(3).tofile(path)
      ...     with mmf.io.RawSource(path, 0, (3, 3), np.dtype("float64")) as source:
      ...         print(source.read(np.array([1])))
      [[0. 1. 0.]]
    """

    rows_per_read = ROWS_PER_SEEK
    _has_file = True

    def __init__(
        self,
        path: str | Path,
        offset: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        order: str = "C",
        name: str | None = None,
    ) -> None:
        name = str(path) if name is None else name
        super().__init__(name, shape, dtype)
        self._offset, self._stored, self._order = offset, np.dtype(dtype), order
        needed = offset + self.n_samples * self.n_features * self._stored.itemsize
        file = OpenedFile(path)
        if file.size < needed:
            file.close()
            raise BadFileError(f"{name} is truncated: {path} has {file.size} bytes where {needed} are expected")
        self._file, self.paths = file, (file.path,)
        self.reads_in_parallel = order == "C"
        if order == "F":
            self.rows_per_read = self.rows_per_chunk = band_rows(self.n_samples, self.n_features * self.dtype.itemsize)

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._file.close()

    def _check_unchanged(self) -> None:
        self._file.check()

    def _read_into(self, out: HostArray, rows: HostArray, columns: HostArray | None) -> None:
        top = 0
        for first, last in stretches(rows):
            place = out[top : top + last - first]
            top += last - first
            if self._order == "F":
                self._read_columns(place, first, columns)
            else:
                self._read_rows(place, first, columns)

    def _read_rows(self, out: HostArray, first: int, columns: HostArray | None) -> None:
        """Read consecutive rows, each of which is contiguous in the file."""
        if columns is not None and is_range(columns) and columns.size * self._stored.itemsize >= _LEAST_STRIP:
            firsts = (first + np.arange(len(out))) * self.n_features + int(columns[0])
            self._file.read_strips_into(out, self._place(firsts))
            self._done(out)
            return
        piece = out if columns is None else np.empty((len(out), self.n_features), self.dtype)
        self._file.read_into(piece, self._place(first * self.n_features))
        self._done(piece)
        if columns is not None:
            out[:] = piece[:, columns]

    def _read_columns(self, out: HostArray, first: int, columns: HostArray | None) -> None:
        """Read consecutive rows, where the numbers of a column are contiguous in the file."""
        chosen = np.arange(self.n_features) if columns is None else columns
        width = max(1, _BLOCK_BYTES // max(1, len(out) * self._stored.itemsize))
        for left in range(0, chosen.size, width):
            some = chosen[left : left + width]
            block = np.empty((some.size, len(out)), self.dtype)
            self._file.read_strips_into(block, self._place(some.astype(np.int64) * self.n_samples + first))
            self._done(block)
            out[:, left : left + width] = block.T

    def _place(self, number: Any) -> Any:
        """Return the offset of a number in the file, or the offsets of several numbers."""
        return self._offset + number * self._stored.itemsize

    def _done(self, out: HostArray) -> None:
        """Convert numbers that were read to the byte order of this machine, and count their bytes."""
        if self._stored != self.dtype:
            out.byteswap(inplace=True)
        self._count(out.nbytes)


def band_rows(n_samples: int, row_bytes: int) -> int:
    """Return how many consecutive rows to read together if single rows are slow to read."""
    return min(n_samples, _BAND_ROWS, max(ROWS_PER_SEEK, _BAND_BYTES // row_bytes))
