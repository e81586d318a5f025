"""Files that are open for reading, with checks that they do not change."""

import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from jax_mmf.io.bad_file import BadFileError
from jax_mmf.typing import HostArray

_LOCK = threading.Lock()


def _move_and_read(handle: int, out: list[memoryview], offset: int) -> int:  # pragma: no cover - on Windows
    """Read as `os.preadv` does, on systems where each read moves the position in the file."""
    with _LOCK:
        os.lseek(handle, offset, os.SEEK_SET)
        found = os.read(handle, len(out[0]))
        out[0][: len(found)] = found
        return len(found)


_read_at: Callable[[int, list[memoryview], int], int] = getattr(os, "preadv", _move_and_read)


class Stamp(NamedTuple):
    """Identity and state of a file, to detect that it was changed or replaced.

    Attributes:
      device: number of the file system.
      inode: number of the file in it.
      size: in bytes.
      modified: time of the last change, in nanoseconds.
    """

    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, file: Path | int) -> Self:
        """Return the stamp of the file with a path or a descriptor."""
        found = os.stat(file)  # noqa: PTH116 - which also takes descriptors
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def check_unchanged(path: Path, handle: int, then: Stamp) -> None:
    """Raise an error if an open file was changed, or if its path refers to another file.

    Args:
      path: absolute.
      handle: descriptor of the file.
      then: its stamp when it was opened.

    Raises:
      BadFileError: if it was changed, truncated, replaced or removed.
    """
    now = Stamp.of(handle)
    try:
        there = Stamp.of(path)
    except OSError as error:
        raise BadFileError(f"{path} was removed or renamed after it was opened: {error.strerror}") from error
    if now.size < then.size:
        raise BadFileError(f"{path} was truncated after it was opened: {now.size} bytes instead of {then.size}")
    if there[:2] != then[:2]:
        raise BadFileError(f"{path} was replaced by another file after it was opened")
    if now != then:
        raise BadFileError(f"{path} was changed after it was opened; open it again when it is complete")


class OpenedFile:
    """A file that is open for reading, by a descriptor that all readers share.

    Reads do not move a shared position, so threads and forked processes may share the file. Unpickling opens the file
    again.

    Args:
      path: of the file.
      then: the stamp of an earlier opening, with which the file is compared; or None.

    Attributes:
      path: absolute.
      size: in bytes.

    Raises:
      BadFileError: if the file has changed since the earlier opening.
    """

    def __init__(self, path: str | Path, then: Stamp | None = None) -> None:
        self.path = Path(path).absolute()
        self._handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        self.close = weakref.finalize(self, os.close, self._handle)
        self._then = Stamp.of(self._handle) if then is None else then
        self.size = self._then.size
        if then is not None:
            self.check()

    def __reduce__(self) -> tuple[Any, ...]:
        """Open the file again in another process."""
        return OpenedFile, (self.path, self._then)

    def check(self) -> None:
        """Raise a `BadFileError` if the file changed since it was opened."""
        check_unchanged(self.path, self._handle, self._then)

    def read_into(self, out: HostArray, offset: int) -> None:
        """Fill an array, contiguous in memory, with the bytes that start at an offset.

        Raises:
          BadFileError: if the file ends too early.
        """
        self._fill(memoryview(out.reshape(-1).view(np.uint8)), offset)  # type: ignore[arg-type]

    def read_strips_into(self, out: HostArray, offsets: HostArray) -> None:
        """Fill each row of an array, contiguous in memory, with the bytes that start at its own offset.

        Args:
          out: ``(s, h)``.
          offsets: ``(s,)`` offsets in the file.

        Raises:
          BadFileError: if the file ends too early.
        """
        place, width = memoryview(out.reshape(-1).view(np.uint8)), out[:1].nbytes  # type: ignore[arg-type]
        for index, offset in enumerate(offsets.tolist()):
            strip = place[index * width : (index + 1) * width]
            if _read_at(self._handle, [strip], offset) != width:
                self._fill(strip, offset)

    def _fill(self, place: memoryview, offset: int) -> None:
        done = 0
        while done < len(place):
            count = _read_at(self._handle, [place[done:]], offset + done)
            if count == 0:
                raise BadFileError(f"{self.path} ended after {offset + done} bytes; was it truncated?")
            done += count
