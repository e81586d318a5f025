"""HDF5 files that are written, and survive a full disk."""

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
    process may crash. This file object takes all writes, and does none of them after the first one that failed. So HDF5
    can close the file. Whoever writes calls `check` now and then.

    Args:
      path: of the file.
      existing: whether to go on with a file that is there; otherwise it is emptied.

    Attributes:
      error: of the first failed write, or None.

    Raises:
      BlockingIOError: if another one has the file open for writing, on systems that tell.
    """

    def __init__(self, path: Path, *, existing: bool = False) -> None:
        # Emptied only after it is locked.
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
        """Wait until what was written is on the disk."""
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

    # What HDF5 calls

    def seek(self, place: int, whence: int = 0) -> int:
        """Move to a place."""
        return self._file.seek(place, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        """Read bytes; by this method h5py recognises a file object."""
        return self._file.read(size) or b""

    def readinto(self, out: Any) -> int:
        """Read into memory. Zeros stand for what was not written after an error."""
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
        """Raise the OSError of a write that failed; call this in long loops, which would go on on a full disk."""
        self._output.check()


def _lock(file: FileIO) -> None:
    """Raise a BlockingIOError if another one writes to a file; some file systems can't tell."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            return
