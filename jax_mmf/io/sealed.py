"""HDF5 files with a checksum of all their bytes, which is compared before HDF5 opens them.

The checksum is a line of text in the user block, the first 512 bytes of the file, which HDF5 ignores. HDF5 hangs or
crashes on some damaged files. The checksum reveals the damage before HDF5 reads anything.
"""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from jax_mmf.io.bad_file import BadFileError, bad_file_told
from jax_mmf.io.output.atomic import hdf5_written_aside

_BLOCK = 512  # bytes of the user block, the smallest size that HDF5 allows
_START = b"jax-mmf file, blake2b of the bytes after the first 512: "
_ATTRIBUTE = "checksum"  # name of the attribute of files that must have a checksum
_SECONDS = 20  # to wait for the strings of a file without a checksum, which usually take 0.01 s

# HDF5 hangs and crashes on damaged strings of variable length.
_READ_STRINGS = """
import sys
import h5py
with h5py.File(sys.argv[1], "r") as file:
    for name in sys.argv[2:]:
        place = file.get(name)
        for key in () if place is None else place.attrs:
            place.attrs[key]
        if isinstance(place, h5py.Dataset) and place.dtype.hasobject:
            place[...]
"""


@contextmanager
def sealed_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """Yield a new HDF5 file, which gets a checksum at the end; errors as in `hdf5_written_aside`."""
    with hdf5_written_aside(path, userblock_size=_BLOCK, finish=_seal) as file:
        file.attrs[_ATTRIBUTE] = "blake2b"
        yield file


@contextmanager
def opened_model(path: str | Path, kind: str, *objects: str) -> Iterator[h5py.File]:
    """Yield an HDF5 file that was written by this library, open for reading, after its checksum was compared.

    Files of earlier versions have no checksum. Another process reads their strings first.

    Args:
      path: of the file.
      kind: expected kind of file, for error messages.
      objects: names of the objects whose strings are read.

    Raises:
      FileNotFoundError: if the file does not exist.
      BadFileError: if it is damaged, and for errors of any kind in the block.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    sealed = is_sealed(path)
    with bad_file_told(path, f"is not {kind}, or is truncated or in use"):
        file = h5py.File(path, "r")
    with file, bad_file_told(path, f"can't be read as {kind}"):
        if not sealed:
            check_strings(path, *objects)
            if _ATTRIBUTE in file.attrs:
                raise BadFileError(f"{path} is damaged: its checksum is missing")
        yield file


def is_sealed(path: Path) -> bool:
    """Whether a file has a checksum.

    Raises:
      BadFileError: if the checksum of its bytes is another one.
    """
    with path.open("rb") as file:
        start = file.read(_BLOCK)
    if not start.startswith(_START):
        return False
    if start != _line(path):
        raise BadFileError(
            f"{path} is damaged or truncated, or was changed: its bytes do not have its checksum; use another copy, or "
            "the checkpoint before"
        )
    return True


def check_strings(path: Path, *objects: str) -> None:
    """Read the strings of objects in an HDF5 file in another process, which may crash or hang instead of this one.

    Raises:
      BadFileError: if the other process crashes, hangs or can't read them.
    """
    if not sys.executable or not objects:
        return
    command = [sys.executable, "-P", "-c", _READ_STRINGS, str(path), *objects]
    try:
        subprocess.run(command, capture_output=True, timeout=_SECONDS, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise BadFileError(f"{path} is damaged: HDF5 can't read its strings") from error


def _seal(path: Path) -> None:
    line = _line(path)
    with path.open("r+b") as file:
        file.write(line)


def _line(path: Path) -> bytes:
    """Compute the first bytes of a file, with the checksum of the bytes after them."""
    with path.open("rb") as file:
        file.seek(_BLOCK)
        sum_ = hashlib.blake2b(digest_size=16)
        while block := file.read(2**20):
            sum_.update(block)
    return (_START + sum_.hexdigest().encode() + b"\n").ljust(_BLOCK, b"\0")
