"""Files of training data: a matrix in chunks with checksums, and arrays that describe its features.

Each of these arrays is a separate data set. The attributes ``feature_permutation``, ``mean``, ``scale`` and
``feature_names`` of the matrix name the data sets. Mean, scale and names are in the original order of the features.

The attribute ``seal`` is a checksum of what HDF5 has no checksum for: the places of the chunks, the meaning of their
bytes, and the arrays that describe the features. If HDF5 does not find a chunk of floating numbers, since its index is
damaged, it reads NaN instead of zero, which `fit` and other functions refuse. Integers have no such value.
"""

import zlib
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from jax_mmf.io.bad_file import BadFileError, bad_file_told
from jax_mmf.io.compression import filters_of
from jax_mmf.io.hdf5_checks import MAX_EXPANSION, check_data_set, find_data_set, path_of_part
from jax_mmf.io.moments import Moments
from jax_mmf.typing import HostArray

_OF_FEATURES = ("feature_permutation", "mean", "scale", "feature_names")


class Layout(NamedTuple):
    """How a matrix is stored.

    Attributes:
      dataset: name of the data set.
      block_width: columns per chunk.
      rows_per_chunk: rows per chunk.
      compression: as returned by `jax_mmf.io.compression.chosen_compression`.
      checksums: whether chunks have checksums. HDF5 then reads each chunk as a whole, and checks it.
    """

    dataset: str
    block_width: int
    rows_per_chunk: int
    compression: str | None
    checksums: bool


def create_matrix(
    file: h5py.File, layout: Layout, shape: tuple[int, int], dtype: np.dtype[Any], order: HostArray | None
) -> h5py.Dataset:
    """Create the data set of a matrix, whose number of rows can grow.

    Args:
      file: open for writing.
      layout: of the matrix.
      shape: ``(n, p)``.
      dtype: of the numbers.
      order: ``(p,)`` the original feature of each column, or None.
    """
    data = file.create_dataset(
        layout.dataset,
        shape,
        dtype,
        maxshape=(None, shape[1]),
        chunks=(layout.rows_per_chunk, min(layout.block_width, shape[1])),
        fillvalue=np.nan if dtype.kind == "f" else None,
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


def write_seal(data: h5py.Dataset) -> None:
    """Write the seal of a complete file."""
    data.file.flush()  # all chunks then have their final place
    data.attrs["seal"] = np.uint32(_seal_of(data))


def check_seal(data: h5py.Dataset, name: str) -> None:
    """Compare the seal of a file, if it has one.

    Raises:
      BadFileError: if the seal is wrong or missing.
    """
    sealed = "seal" in data.attrs or (data.fletcher32 and "mean" in data.attrs)  # such files have a seal
    if sealed and data.file.mode == "r" and data.attrs.get("seal") != _seal_of(data):
        raise BadFileError(f"{name} is damaged: its layout does not have its checksum; convert the data again")


def places_of_chunks(data: h5py.Dataset) -> list[tuple[int, ...]]:
    """Return row, column, omitted filters, place in the file and size of each chunk, in the order of the rows."""
    places: list[tuple[int, ...]] = []
    data.id.chunk_iter(lambda c: places.append((*c.chunk_offset, c.filter_mask, c.byte_offset, c.size)))
    return sorted(places)


def _seal_of(data: h5py.Dataset) -> int:
    seal = zlib.crc32(np.array(places_of_chunks(data), "<u8").tobytes(), _crc_of_kind(data, 0))
    for name in _OF_FEATURES:
        path = path_of_part(data, name)
        if path is not None:
            part = data.file[path]
            seal = zlib.crc32(part[...].tobytes(), _crc_of_kind(part, zlib.crc32(name.encode(), seal)))
    return seal


def _crc_of_kind(data: h5py.Dataset, seal: int) -> int:
    """Return a checksum of the shape of a data set, and of the settings that give its bytes their meaning."""
    settings = data.id.get_create_plist()
    filters = [settings.get_filter(index)[:3] for index in range(settings.get_nfilters())]
    return zlib.crc32(data.id.get_type().encode(), zlib.crc32(repr((data.shape, data.chunks, filters)).encode(), seal))


def write_of_features(data: h5py.Dataset, name: str, values: HostArray) -> None:
    """Write an array ``(p,)`` that belongs to the features of a matrix; text is stored in UTF-8."""
    if values.dtype.kind == "U":
        values = np.char.encode(values, "utf-8")
        values = values.astype(h5py.string_dtype("utf-8", max(values.dtype.itemsize, 1)))
    place = f"{data.name}_{name}"
    if place in data.file:  # a conversion stopped after it wrote this one
        del data.file[place]
    written = data.file.create_dataset(place, data=values, chunks=values.shape, fletcher32=True)
    data.attrs[name] = np.bytes_(written.name.encode())  # damaged strings of variable length may crash HDF5


def read_of_features(data: h5py.Dataset, name: str) -> HostArray | None:
    """Read an array ``(p,)`` that belongs to the features of a matrix, or return None if there is none.

    Raises:
      BadFileError: if it is of another length or kind, or incomplete.
    """
    place = Path(str(data.file.filename))
    with bad_file_told(place, f"has no valid {name} of the features of data set {data.name!r}"):
        path = path_of_part(data, name)
        if path is None:
            return None
        found = find_data_set(data.file, path, follow_external=False)
        if not isinstance(found, h5py.Dataset) or found.shape != data.shape[1:] or found.dtype.kind not in "fS":
            raise BadFileError(f"it must refer to a number or a name for each of {data.shape[1]} features")
        check_data_set(found, name, follow_external=False, fill_missing=False, max_expansion=MAX_EXPANSION)
        values: HostArray = found[...]
        return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
