"""Matrices in .npy and .npz files. Their headers and sizes are checked before memory is allocated."""

import io
import math
import struct
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from jax_mmf.io.bad_file import BadFileError, NoDataSetError
from jax_mmf.io.hdf5_checks import check_expansion
from jax_mmf.io.matrix_source import MatrixSource, check_matrix
from jax_mmf.io.raw_source import RawSource
from jax_mmf.io.sources import ArraySource
from jax_mmf.typing import HostArray

_MOST_HEADER = 2**16  # bytes; NumPy itself refuses more than 10,000
_BLOCK = 2**18  # bytes that are read at a time


class _Header(NamedTuple):
    """Header of an .npy file."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    size: int  # of the header itself, in bytes

    @property
    def n_bytes(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def open_npy(path: Path, dataset: str | None) -> MatrixSource:
    """Open the array in an .npy file; errors as of `open_source`."""
    if dataset is not None:
        raise NoDataSetError(f"{path} holds one array without a name; leave out the data set {dataset!r}")
    with path.open("rb") as file:
        header = _read_header(file, str(path))
    return _source(path, str(path), header, 0)


def open_npz(path: Path, dataset: str | None, max_expansion: float) -> MatrixSource:
    """Open a matrix in an .npz file; arguments and errors as of `open_source`."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        headers = {}
        for member, info in members.items():
            with archive.open(info) as file:
                headers[member] = _read_header(file, f"{member} in {path}")
        name = chosen(path, [m for m, header in headers.items() if len(header.shape) == 2], dataset, members)
        info, header, label = members[name], headers[name], f"{name} in {path}"
        check_matrix(label, header.shape, header.dtype)
        if header.size + header.n_bytes != info.file_size:
            raise BadFileError(
                f"{label} is truncated or damaged: its header announces {header.n_bytes:,} bytes of numbers, and it "
                f"holds {info.file_size - header.size:,}"
            )
        if info.compress_type != zipfile.ZIP_STORED:
            check_expansion(label, header.n_bytes, min(info.compress_size, path.stat().st_size), max_expansion)
            with archive.open(info) as file:
                return ArraySource(_loaded(file, header), label)
        with archive.open(info) as file:
            while file.read(_BLOCK):  # zipfile compares the checksum at the end
                pass
    return _source(path, label, header, _start_of(path, info))


def chosen(path: Path, matrices: list[str], dataset: str | None, members: Any = None) -> str:
    """Return the name of the data set to open.

    Args:
      path: of the file.
      matrices: names of the 2-D data sets in it.
      dataset: name that the user gave, or None for the only one.
      members: names of all data sets, to check the name of the user; or None for no check.

    Raises:
      NoDataSetError: if the data set does not exist, or if there are several and the user did not name one.
    """
    if dataset is not None:
        if members is not None and dataset not in members:
            raise NoDataSetError(missing(path, dataset, matrices))
        return dataset
    if len(matrices) == 1:
        return matrices[0]
    if not matrices:
        raise NoDataSetError(f"{path} holds no 2-D data set")
    raise NoDataSetError(f"{path} holds several 2-D data sets: {', '.join(matrices)}; name one of them")


def missing(path: Path, name: str, matrices: list[str]) -> str:
    """Return the message for a data set that does not exist."""
    return f"{path} has no data set {name!r}; it holds {', '.join(matrices) if matrices else 'no 2-D data set'}"


def _source(path: Path, name: str, header: _Header, start: int) -> MatrixSource:
    order = "F" if header.fortran else "C"
    return RawSource(path, start + header.size, header.shape, header.dtype, order=order, name=name)


def _read_header(file: IO[bytes], name: str) -> _Header:
    """Check the length of the header of an array, and read it."""
    start = file.read(8)
    width = {1: 2, 2: 4}.get(start[6] if len(start) == 8 else 0)
    if width is None or start[:6] != np.lib.format.MAGIC_PREFIX:
        raise BadFileError(f"{name} is not a NumPy array file, of version 1 or 2 of the format")
    length = file.read(width)
    n_bytes = int.from_bytes(length, "little")
    if n_bytes > _MOST_HEADER:
        raise BadFileError(f"{name} is not a NumPy array file, or is damaged: its header has {n_bytes:,} bytes")
    text = io.BytesIO(length + file.read(n_bytes))
    read = np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(text)
    if any(isinstance(n, bool) or n < 0 for n in shape):
        raise BadFileError(f"{name} is damaged: its shape is {shape}")
    return _Header(shape, fortran, dtype, 8 + width + n_bytes)


def _start_of(path: Path, info: zipfile.ZipInfo) -> int:
    """Return where a member starts: after its local header, which ends with two fields of variable length."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
    return int(info.header_offset + 30 + name_length + extra_length)


def _loaded(file: IO[bytes], header: _Header) -> HostArray:
    """Read the numbers of a compressed member to its end, where zipfile compares the checksum."""
    file.read(header.size)
    array = np.empty(header.shape, header.dtype, order="F" if header.fortran else "C")
    place, done = memoryview(array.reshape(-1, order="A").view(np.uint8)), 0  # type: ignore[arg-type]
    while count := file.readinto(place[done : done + _BLOCK] if done < len(place) else bytearray(1)):  # type: ignore[attr-defined]
        done += count
    if done != len(place):
        raise BadFileError(f"it holds {done:,} bytes of numbers where {len(place):,} are expected")
    return array
