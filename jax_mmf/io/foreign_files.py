"""Matrices in files of other programs: MATLAB and zarr."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jax_mmf.core import is_scipy_sparse
from jax_mmf.io.hdf5 import HDF5Source
from jax_mmf.io.matrix_source import MatrixSource, stretches
from jax_mmf.io.raw_source import band_rows
from jax_mmf.io.sources import ArraySource, SlicedSource, SparseSource
from jax_mmf.typing import HostArray

Choose = Callable[..., str]  # chooses one of several names of matrices
_NUMBERS = {b"double", b"single", b"logical"} | {
    f"{u}int{bits}".encode() for u in ("", "u") for bits in (8, 16, 32, 64)
}


class TransposedSource(MatrixSource):
    """An HDF5 data set with the features in its rows, as MATLAB writes a matrix whose samples are in rows.

    Args:
      dataset: ``(p, n)`` real numbers; its file must stay open until `close`, which closes it.
      **options: as in `HDF5Source`.
    """

    _has_file = True

    def __init__(self, dataset: h5py.Dataset, **options: Any) -> None:
        self._features = HDF5Source(dataset, **options)
        shape = (self._features.n_features, self._features.n_samples)
        super().__init__(f"matrix {dataset.name!r} of {dataset.file.filename}", shape, dataset.dtype)
        self._dataset = dataset
        bands = band_rows(shape[0], shape[1] * self.dtype.itemsize)
        self.rows_per_read = self.rows_per_chunk = dataset.chunks[1] if dataset.chunks else bands

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._features.close()

    def _check_unchanged(self) -> None:
        self._features._check_unchanged()

    def _read_into(self, out: HostArray, rows: HostArray, columns: HostArray | None) -> None:
        top = 0
        for first, last in stretches(rows):
            piece = np.empty((self.n_features, last - first), self.dtype)
            self._dataset.read_direct(piece, np.s_[:, first:last])
            out[top : top + last - first] = (piece if columns is None else piece[columns]).T
            self.bytes_read += piece.nbytes
            top += last - first


def open_matlab(path: Path, choose: Choose, options: dict[str, Any]) -> MatrixSource:
    """Open a matrix in a .mat file, with samples in rows.

    Files of version 7.3 are read a band of rows at a time. SciPy loads older files as a whole.

    Raises:
      NoDataSetError: as in `open_source`.
      ImportError: if SciPy is missing, for files before version 7.3.
    """
    if h5py.is_hdf5(path):
        file = h5py.File(path, "r")
        try:
            found = [name for name in file if _is_numbers(file.get(name, getlink=True), file, name)]
            return TransposedSource(file[choose(found, members=found)], **options)
        except BaseException:
            file.close()
            raise
    try:
        import scipy.io
    except ImportError as error:
        message = f"{path} needs the package scipy, which reads .mat files before version 7.3: pip install scipy"
        raise ImportError(message) from error
    found = [name for name, shape, kind in scipy.io.whosmat(path) if len(shape) == 2 and kind.encode() in _KINDS_5]
    name = choose(found, members=found)
    matrix, label = scipy.io.loadmat(path, variable_names=[name])[name], f"{name} in {path}"
    return SparseSource(matrix, label) if is_scipy_sparse(matrix) else ArraySource(matrix, label)


_KINDS_5 = _NUMBERS | {b"sparse"}


def _is_numbers(link: Any, file: h5py.File, name: str) -> bool:
    if not isinstance(link, h5py.HardLink):  # MATLAB writes no other links
        return False
    item = file[name]
    kind = item.attrs.get("MATLAB_class", b"double") if isinstance(item, h5py.Dataset) else b""
    return bytes(kind) in _NUMBERS and len(item.shape or ()) == 2 and "MATLAB_empty" not in item.attrs


def is_zarr(path: Path) -> bool:
    """Whether a path is a folder with an array or a group of zarr."""
    return path.is_dir() and any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def open_zarr(path: Path, choose: Choose) -> MatrixSource:
    """Open an array of zarr.

    Raises:
      NoDataSetError: as `open_source`.
      ImportError: if zarr is missing.
    """
    try:
        import zarr
    except ImportError as error:
        raise ImportError(f"{path} needs the package zarr: pip install 'jax-mmf[convert]'") from error
    found = zarr.open(path, mode="r")
    if isinstance(found, zarr.Group):
        arrays = dict(found.arrays())
        found = arrays[choose([name for name, array in arrays.items() if len(array.shape) == 2], members=arrays)]
    return SlicedSource(found, str(path))
