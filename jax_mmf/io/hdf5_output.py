"""The file that HDF5 writes to, which survives a full disk."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self


class HDF5Output:
    """A file object for `h5py.File` whose failed writes are ordinary errors.

    HDF5 can't close a file whose last writes fail: h5py then raises errors at random places, and the process may crash.
    This file object raises the error of a write while there is somebody to catch it. After `give_up_quietly`, it takes
    writes without doing them once one has failed, so that HDF5 can close the file. The end of the with block raises the
    error.

    Args:
      path: of the file, which is emptied.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None
        self._quiet = False

    def give_up_quietly(self) -> None:
        """From now on, note the first failure instead of raising it."""
        self._quiet = True

    def __enter__(self) -> Self:
        """Return the file object itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file, and raise the error of a failed write."""
        self._file.close()
        if self._error is not None:
            raise self._error

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
        """Read into memory."""
        return self._file.readinto(out) or 0

    def write(self, data: Any) -> int:
        """Write all of the data."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        while len(rest) and not self._failed:
            try:
                rest = rest[self._file.write(rest) :]
            except OSError as error:
                self._note(error)
        return size

    def truncate(self, size: int) -> int:
        """Set the size of the file."""
        if not self._failed:
            try:
                self._file.truncate(size)
            except OSError as error:
                self._note(error)
        return size

    def flush(self) -> None:
        """Do nothing, since writes are not buffered."""

    @property
    def _failed(self) -> bool:
        return self._quiet and self._error is not None

    def _note(self, error: OSError) -> None:
        self._error = self._error or error
        if not self._quiet:
            raise error
