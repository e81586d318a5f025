"""Opening of matrices in files, without loading them where the format allows it."""

from collections.abc import Sequence
from functools import partial
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import h5py

from jax_mmf.io.bad_file import NoDataSetError, bad_file_told
from jax_mmf.io.compression import check_readable
from jax_mmf.io.foreign_files import is_zarr, open_matlab, open_zarr
from jax_mmf.io.hdf5 import HDF5Source
from jax_mmf.io.hdf5_checks import MAX_EXPANSION, find_data_set
from jax_mmf.io.joined import join_files
from jax_mmf.io.matrix_source import MatrixSource
from jax_mmf.io.numpy_files import chosen, missing, open_npy, open_npz

_HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".nxs")
_SUFFIXES = (*_HDF5_SUFFIXES, ".npy", ".npz", ".mat")


def open_source(
    path: str | Path | Sequence[str | Path],
    dataset: str | Sequence[str] | None = None,
    *,
    follow_external: bool = False,
    fill_missing: bool = False,
    max_expansion: float = MAX_EXPANSION,
) -> MatrixSource:
    """Open a matrix in a file, or in several files.

    The sizes in a file are compared with the size of the file before memory is allocated. Each read checks that the
    file was not changed or replaced.

    Args:
      path: an HDF5 file (.h5, .hdf5), a NumPy array (.npy), a NumPy archive (.npz), a MATLAB file (.mat, samples in
        rows), or a zarr folder. Several files become one matrix: a list of files, in this order; or a pattern such as
        ``"subject-*.npy"`` or a folder of files, sorted by name.
      dataset: name of the data set or array inside of an .h5, .npz or .mat file or a zarr group; by default the only
        2-D one. The rows of several data sets, given by a list of names, follow each other.
      follow_external: whether external links, external storage and virtual data sets of HDF5 may refer to other files.
        They can refer to any file that you can read, so allow this only for files that you trust.
      fill_missing: whether chunks of HDF5 that were never written, and missing files of virtual data sets, are read as
        the fill value, usually zero. By default they are errors, because damaged files look the same.
      max_expansion: largest number of bytes of numbers for one byte of compressed data; up to 64 MB of numbers are
        always allowed.

    Returns:
      a source that reads rows from the file when they are needed. Compressed .npz archives and .mat files before
      version 7.3 are loaded instead. For uncompressed .npz archives, the checksums are compared first, which reads the
      archive once. Files stay open until ``close()``, or the end of ``with open_source(path) as source:``. Until then,
      some systems do not allow writing to the file. `JoinedSource` describes what several files must have in common.

    Raises:
      FileNotFoundError: if the file does not exist.
      KeyError: if the file does not hold the data set, or if it holds several and ``dataset`` is None. This error is
        also a `BadFileError`.
      BadFileError: for truncated, damaged and incomplete files, other formats, matrices that are empty or not 2-D, and
        numbers that are not real. This is a ValueError.
      ValueError: for other endings of the name, and for files whose features differ.
      ImportError: if the package is missing that reads the format: scipy for .mat before version 7.3, zarr, hdf5plugin.

    Example:
      >>> import numpy as np, pathlib, tempfile, jax_mmf as mmf
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "x.npy"
      ...     np.save(path, np.eye(3))
      ...     with mmf.open_source(path) as source:
      ...         print(source.n_samples, source.read(np.array([2])))
      3 [[0. 0. 1.]]
    """
    options = {"follow_external": follow_external, "fill_missing": fill_missing, "max_expansion": max_expansion}
    names = [dataset] if dataset is None or isinstance(dataset, str) else list(dataset)
    paths = files_of(path)
    if len(paths) * len(names) == 1:
        return _open_one(paths[0], names[0], options)
    return join_files(paths, names, partial(_open_one, options=options))


def files_of(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files for a path, a pattern, a folder, or a list of these. A zarr folder counts as one file.

    Raises:
      FileNotFoundError: if no file matches.
    """
    if not isinstance(path, str | Path):
        return [file for part in path for file in files_of(part)]
    if str(path) == "":
        raise FileNotFoundError("path must name a file or a folder, got an empty text")
    found = [Path(path)]
    if found[0].is_dir() and not is_zarr(found[0]):
        found = sorted(file for file in found[0].iterdir() if file.suffix.lower() in _SUFFIXES or is_zarr(file))
        if not found:
            raise FileNotFoundError(f"folder {path} holds no file that ends in {', '.join(_SUFFIXES)}")
    elif not found[0].exists():
        found = sorted(map(Path, glob(str(path), recursive=True))) if has_magic(str(path)) else []  # noqa: PTH207  # of any folder
        if not found:
            raise FileNotFoundError(f"no file {path}")
    return found


def _open_one(path: Path, dataset: str | None, options: dict[str, Any]) -> MatrixSource:
    """Open one matrix in one file."""
    choose = partial(chosen, path, dataset=dataset)
    if is_zarr(path):
        with bad_file_told(path, "is not a matrix of zarr, or is damaged"):
            return open_zarr(path, choose)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    suffix = path.suffix.lower()
    if suffix in _HDF5_SUFFIXES:
        return _open_hdf5(path, dataset, options)
    if suffix not in (".npy", ".npz", ".mat"):
        raise ValueError(f"{path} must end in .h5, .hdf5, .npy, .npz or .mat; convert it to one of these formats")
    if suffix == ".mat":
        with bad_file_told(path, "is not a MATLAB file, or is damaged"):
            return open_matlab(path, choose, options)
    with bad_file_told(path, "is not a NumPy file of real numbers, or is damaged or truncated"):
        return open_npy(path, dataset) if suffix == ".npy" else open_npz(path, dataset, options["max_expansion"])


def _open_hdf5(path: Path, dataset: str | None, options: dict[str, Any]) -> MatrixSource:
    with bad_file_told(path, "is not an HDF5 file, or is truncated or in use"):
        file = h5py.File(path, "r")
    try:
        with bad_file_told(path, "can't be read as a matrix of real numbers, or is damaged"):
            data = _data_set(file, path, dataset, follow_external=options["follow_external"])
            check_readable(data)
            return HDF5Source(data, **options)
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
