"""Opening of matrices in .h5, .npy and .npz files, without loading them if the format allows it."""

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import h5py
import numpy as np

from jax_mmf.io.hdf5 import HDF5Source
from jax_mmf.io.matrix_source import MatrixSource, check_matrix
from jax_mmf.io.sources import ArraySource, RawSource

# Errors of NumPy and zipfile for files that are truncated, overwritten or of another format.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    tokenize.TokenError,
    SyntaxError,
    NotImplementedError,
)
_HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".nxs")


def open_source(path: str | Path, dataset: str | None = None) -> MatrixSource:
    """Open a matrix in a file.

    Args:
      path: an HDF5 file (.h5, .hdf5), a NumPy array (.npy), or a NumPy archive (.npz).
      dataset: name of the data set or array inside of an .h5 or .npz file; by default the only 2-D one.

    Returns:
      a source that reads rows from the file when they are needed. Compressed .npz archives are loaded instead, and
      arrays in Fortran order are memory-mapped. HDF5 files and memory maps stay open until ``close()``, or the end of
      ``with open_source(path) as source:``. Until then, some systems do not allow writing to the file.

    Raises:
      FileNotFoundError: if the file does not exist.
      KeyError: if the file does not hold the data set, or if it holds several and ``dataset`` is None.
      ValueError: for other formats, truncated or damaged files, and matrices that are empty or not 2-D.
      TypeError: for matrices that do not hold real numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    suffix = path.suffix.lower()
    if suffix in _HDF5_SUFFIXES:
        return _open_hdf5(path, dataset)
    if suffix not in (".npy", ".npz"):
        raise ValueError(f"{path} must end in .h5, .hdf5, .npy or .npz; convert it to one of these formats")
    try:
        if suffix == ".npz":
            return _open_npz(path, dataset)
        if dataset is not None:
            raise KeyError(f"{path} holds one array without a name; leave out the data set {dataset!r}")
        return _open_npy(path, str(path))
    except _DAMAGE as error:
        raise ValueError(f"{path} is not a NumPy file, or is damaged: {error or type(error).__name__}") from error


def _open_hdf5(path: Path, dataset: str | None) -> MatrixSource:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is not an HDF5 file, or is truncated or in use: {error}") from error
    try:
        return HDF5Source(_find_data_set(file, path, dataset))
    except BaseException:
        file.close()
        raise


def _find_data_set(file: h5py.File, path: Path, dataset: str | None) -> h5py.Dataset:
    matrices: list[str] = []
    file.visititems(lambda name, item: _note_matrix(matrices, name, item))
    name = _choose(path, matrices, dataset)
    if name not in file or not isinstance(file[name], h5py.Dataset):
        raise KeyError(_missing(path, name, matrices))
    return file[name]


def _note_matrix(matrices: list[str], name: str, item: Any) -> None:
    if isinstance(item, h5py.Dataset) and item.shape is not None and len(item.shape) == 2:
        matrices.append(name)


def _choose(path: Path, matrices: list[str], dataset: str | None) -> str:
    if dataset is not None:
        return dataset
    if len(matrices) == 1:
        return matrices[0]
    if not matrices:
        raise KeyError(f"{path} holds no 2-D data set")
    raise KeyError(f"{path} holds several 2-D data sets: {', '.join(matrices)}; name one of them")


def _missing(path: Path, name: str, matrices: list[str]) -> str:
    return f"{path} has no data set {name!r}; it holds {', '.join(matrices) if matrices else 'no 2-D data set'}"


class _Header(NamedTuple):
    """Header of an .npy file."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def _read_header(file: IO[bytes], name: str) -> _Header:
    try:
        version = np.lib.format.read_magic(file)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        return _Header(*read(file))
    except (ValueError, KeyError) as error:
        raise ValueError(f"{name} is not a NumPy array file: {error}") from error


def _open_npy(path: Path, name: str, start: int = 0) -> MatrixSource:
    """Open an array in the .npy format that starts at some byte of a file."""
    with path.open("rb") as file:
        file.seek(start)
        header = _read_header(file, name)
        offset = file.tell()
    check_matrix(name, header.shape, header.dtype)
    source = RawSource(path, offset, header.shape, header.dtype)
    if header.fortran:
        return ArraySource(np.memmap(path, header.dtype, "r", offset, header.shape, order="F"), name)
    return source


def _open_npz(path: Path, dataset: str | None) -> MatrixSource:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        matrices = []
        for member, info in members.items():
            with archive.open(info) as file:
                if len(_read_header(file, f"{member} in {path}").shape) == 2:
                    matrices.append(member)
    name = _choose(path, matrices, dataset)
    if name not in members:
        raise KeyError(_missing(path, name, matrices))
    info, label = members[name], f"{name} in {path}"
    if info.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as file:
            # The array starts after the local header of the member, which ends with two fields of variable length.
            file.seek(info.header_offset + 26)
            name_length, extra_length = struct.unpack("<HH", file.read(4))
        return _open_npy(path, label, info.header_offset + 30 + name_length + extra_length)
    with np.load(path) as arrays:
        array = arrays[name]
    check_matrix(label, array.shape, array.dtype)
    return ArraySource(array, label)
