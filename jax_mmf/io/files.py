"""Opening of matrices in .h5, .npy and .npz files, without loading them if the format allows it."""

from pathlib import Path
from typing import Any

import h5py

from jax_mmf.io.bad_file import NoDataSetError, bad_file_told
from jax_mmf.io.hdf5 import HDF5Source
from jax_mmf.io.hdf5_checks import MAX_EXPANSION, find_data_set
from jax_mmf.io.matrix_source import MatrixSource
from jax_mmf.io.numpy_files import chosen, missing, open_npy, open_npz

_HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".nxs")


def open_source(
    path: str | Path,
    dataset: str | None = None,
    *,
    follow_external: bool = False,
    fill_missing: bool = False,
    max_expansion: float = MAX_EXPANSION,
) -> MatrixSource:
    """Open a matrix in a file.

    Sizes are compared with that of the file before memory is allocated. Each read checks that the file is the one that
    was opened, and did not change.

    Args:
      path: an HDF5 file (.h5, .hdf5), a NumPy array (.npy), or a NumPy archive (.npz).
      dataset: name of the data set or array inside of an .h5 or .npz file; by default the only 2-D one.
      follow_external: whether external links, external storage and virtual data sets of HDF5 may lead to other files.
        They can make data of any file that you can read, so allow it for files that you trust.
      fill_missing: whether chunks of HDF5 that were never written, and missing files of virtual data sets, are read as
        the fill value, zero. By default they are errors, since those of damaged files look the same.
      max_expansion: largest number of bytes that may come of one byte of compressed data, beyond 64 MB of them.

    Returns:
      a source that reads rows from the file when they are needed. Compressed .npz archives are loaded instead, and the
      check sums of others are compared first, which reads them once. Files stay open until ``close()``, or the end of
      ``with open_source(path) as source:``. Until then, some systems do not allow writing to the file.

    Raises:
      FileNotFoundError: if the file does not exist.
      KeyError: if the file does not hold the data set, or if it holds several and ``dataset`` is None. This error is a
        `BadFileError`, too.
      BadFileError: for truncated, damaged and incomplete files, other formats, matrices that are empty or not 2-D, and
        numbers that are not real. This is a ValueError.
      ValueError: for other endings of the name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    suffix = path.suffix.lower()
    if suffix in _HDF5_SUFFIXES:
        options = {"follow_external": follow_external, "fill_missing": fill_missing, "max_expansion": max_expansion}
        return _open_hdf5(path, dataset, options)
    if suffix not in (".npy", ".npz"):
        raise ValueError(f"{path} must end in .h5, .hdf5, .npy or .npz; convert it to one of these formats")
    with bad_file_told(path, "is not a NumPy file of real numbers, or is damaged or truncated"):
        return open_npy(path, dataset) if suffix == ".npy" else open_npz(path, dataset, max_expansion)


def _open_hdf5(path: Path, dataset: str | None, options: dict[str, Any]) -> MatrixSource:
    with bad_file_told(path, "is not an HDF5 file, or is truncated or in use"):
        file = h5py.File(path, "r")
    try:
        with bad_file_told(path, "can't be read as a matrix of real numbers, or is damaged"):
            return HDF5Source(_data_set(file, path, dataset, follow_external=options["follow_external"]), **options)
    except BaseException:
        file.close()
        raise


def _data_set(file: h5py.File, path: Path, dataset: str | None, *, follow_external: bool) -> h5py.Dataset:
    matrices: list[str] = []
    found = None if dataset is None else find_data_set(file, dataset, follow_external=follow_external)
    if not isinstance(found, h5py.Dataset):
        file.visititems(lambda name, item: _note_matrix(matrices, name, item))
        name = chosen(path, matrices, dataset)
        found = find_data_set(file, name, follow_external=follow_external) if dataset is None else None
        if not isinstance(found, h5py.Dataset):
            raise NoDataSetError(missing(path, name, matrices))
    return found


def _note_matrix(matrices: list[str], name: str, item: Any) -> None:
    if isinstance(item, h5py.Dataset) and item.shape is not None and len(item.shape) == 2:
        matrices.append(name)
