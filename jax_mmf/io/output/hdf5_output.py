"""Writing of HDF5 files, with an ordinary error if the disk is full."""

import os
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py

try:
    import fcntl
except ImportError:  # pragma: no cover - on Windows
    fcntl = None  # type: ignore[assignment]


class HDF5Output:
    """A file object for `h5py.File` that notes the error of a failed write, instead of raising it.

    HDF5 can't close a file or a data set whose last writes fail: h5py then raises errors at random places, and the
    process may crash. After the first failed write, this file object ignores all later writes: HDF5 can then close
    the file. The code that writes must call `check` regularly.

    Args:
      path: of the file.
      existing: whether to continue an existing file; otherwise its content is erased.

    Attributes:
      error: of the first failed write, or None.

    Raises:
      BlockingIOError: if another process has the file open for writing, on systems with locks.
    """

    def __init__(self, path: Path, *, existing: bool = False) -> None:
        # The content is erased only after the file is locked.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        self._file = FileIO(handle, "r+")
        self.error: OSError | None = None
        try:
            _lock(self._file)
            if not existing:
                self._file.truncate(0)
        except OSError:
            self._file.close()
            raise

    def check(self) -> None:
        """Raise the OSError of the first write that failed, if there is one."""
        if self.error is not None:
            raise self.error

    def synchronise(self) -> None:
        """Flush what was written to disk."""
        self.check()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, and raise the error of a failed write."""
        self._file.close()
        self.check()

    def __enter__(self) -> Self:
        """Return the file object itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file, and raise the error of a failed write."""
        self.close()

    # Methods that HDF5 calls

    def seek(self, place: int, whence: int = 0) -> int:
        """Set the position in the file."""
        return self._file.seek(place, whence)

    def tell(self) -> int:
        """Return the position in the file."""
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        """Read bytes. h5py recognises a file object by this method."""
        return self._file.read(size) or b""

    def readinto(self, out: Any) -> int:
        """Read bytes into a buffer. After an error, bytes that were not written are zeros."""
        place = memoryview(out).cast("B")
        count = self._file.readinto(place) or 0
        if self.error is not None:
            place[count:] = bytes(len(place) - count)
            return len(place)
        return count

    def write(self, data: Any) -> int:
        """Write all of the data, or note the error."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        while len(rest) and self.error is None:
            try:
                rest = rest[self._file.write(rest) :]
            except OSError as error:
                self.error = error
        return size

    def truncate(self, size: int) -> int:
        """Set the size of the file, or note the error."""
        if self.error is None:
            try:
                self._file.truncate(size)
            except OSError as error:
                self.error = error
        return size

    def flush(self) -> None:
        """Do nothing, since writes are not buffered."""


class WrittenHDF5(h5py.File):  # type: ignore[misc]
    """An HDF5 file that is written through an `HDF5Output`.

    Args:
      output: where its bytes go.
      mode: "w" for a new file, or "r+".
      options: of `h5py.File`.
    """

    def __init__(self, output: HDF5Output, mode: str = "w", **options: Any) -> None:
        super().__init__(output, mode, **options)
        self._output = output

    def check(self) -> None:
        """Raise the OSError of a failed write. Long loops call this, to stop on a full disk."""
        self._output.check()


def _lock(file: FileIO) -> None:
    """Raise a BlockingIOError if another process writes to a file; some file systems do not support this check."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            return
