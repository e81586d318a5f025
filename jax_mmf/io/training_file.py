"""Files of training data: a matrix in chunks with checksums, and what is known of its features.

What belongs to the features stands in data sets of its own, in the original order of the features. Attributes of the
matrix name them: ``feature_permutation``, ``mean``, ``scale``, ``feature_names``.
"""

from typing import Any, NamedTuple

import h5py
import numpy as np

from jax_mmf.io.bad_file import BadFileError
from jax_mmf.io.compression import filters_of
from jax_mmf.io.hdf5_checks import MAX_EXPANSION, check_data_set, find_data_set, path_of_part
from jax_mmf.io.moments import Moments
from jax_mmf.typing import HostArray


class Layout(NamedTuple):
    """How a matrix is stored.

    Attributes:
      dataset: name of the data set.
      block_width: columns per chunk.
      rows_per_chunk: rows per chunk.
      compression: as `jax_mmf.io.compression.chosen_compression` returns it.
      checksums: whether HDF5 checks each chunk that it reads; it then reads chunks as a whole.
    """

    dataset: str
    block_width: int
    rows_per_chunk: int
    compression: str | None
    checksums: bool


def create_matrix(
    file: h5py.File, layout: Layout, shape: tuple[int, int], dtype: np.dtype[Any], order: HostArray | None
) -> h5py.Dataset:
    """Create the data set of a matrix, which can grow; with the original feature of each column, or None."""
    data = file.create_dataset(
        layout.dataset,
        shape,
        dtype,
        maxshape=(None, shape[1]),
        chunks=(layout.rows_per_chunk, min(layout.block_width, shape[1])),
        **filters_of(layout.compression, checksums=layout.checksums),
    )
    if order is not None:
        write_of_features(data, "feature_permutation", order)
    return data


def write_moments(data: h5py.Dataset, moments: Moments, order: HostArray | None) -> None:
    """Write mean and scale of the columns, in the original order of the features."""
    for name, values in (("mean", moments.mean), ("scale", moments.scale)):
        original = values
        if order is not None:
            original = np.empty_like(values)
            original[order] = values
        write_of_features(data, name, original)


def write_of_features(data: h5py.Dataset, name: str, values: HostArray) -> None:
    """Write an array ``(p,)`` that belongs to the features of a matrix; text is stored in UTF-8."""
    if values.dtype.kind == "U":
        values = np.char.encode(values, "utf-8")
        values = values.astype(h5py.string_dtype("utf-8", max(values.dtype.itemsize, 1)))
    place = f"{data.name}_{name}"
    if place in data.file:  # of a conversion that stopped here
        del data.file[place]
    data.attrs[name] = data.file.create_dataset(place, data=values, chunks=values.shape, fletcher32=True).name


def read_of_features(data: h5py.Dataset, name: str) -> HostArray | None:
    """Read an array ``(p,)`` that belongs to the features of a matrix, or return None if there is none.

    Raises:
      BadFileError: if it is of another length or kind, or not complete.
    """
    path = path_of_part(data, name)
    if path is None:
        return None
    found = find_data_set(data.file, path, follow_external=False)
    what = f"{name} of data set {data.name!r} of {data.file.filename}"
    if not isinstance(found, h5py.Dataset) or found.shape != data.shape[1:] or found.dtype.kind not in "fS":
        raise BadFileError(f"{what} must refer to a number or a name for each of {data.shape[1]} features")
    check_data_set(found, what, follow_external=False, fill_missing=False, max_expansion=MAX_EXPANSION)
    values: HostArray = found[...]
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
