"""Checks of HDF5 data sets before their numbers are read. HDF5 itself reads zeros for many kinds of missing data."""

import math
import os
from array import array
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jax_mmf.io.bad_file import BadFileError
from jax_mmf.io.sealed import check_strings
from jax_mmf.typing import HostArray

MAX_EXPANSION = 200.0  # bytes of numbers for each byte of compressed data
_SMALL = 2**26  # bytes of numbers that are allowed in any case
_MOST_LINKS = 32  # soft links that lead to one another
_MOST_COMPARED = 2**20  # chunks that are checked for overlap


def check_expansion(name: str, n_bytes: int, stored: int, limit: float) -> None:
    """Raise a `BadFileError` if compressed data expand too much, as in files made to exhaust the memory.

    Args:
      name: of the data, for the message.
      n_bytes: size of the numbers.
      stored: size of the compressed data.
      limit: largest ratio of both; up to 64 MB of numbers are always allowed.
    """
    if n_bytes > max(_SMALL, limit * stored):
        ratio = math.ceil(n_bytes / max(1, stored))
        raise BadFileError(
            f"{name} promises {n_bytes:,} bytes of numbers, and the file holds {stored:,} bytes for them, {ratio} "
            f"times less; if that is right, open it by open_source with max_expansion={ratio}"
        )


def find_data_set(file: h5py.File, path: str, *, follow_external: bool) -> Any:
    """Return the object at a path in a file, or None if there is none.

    Raises:
      BadFileError: if links form a cycle, or lead to another file without ``follow_external``.
    """
    place: Any = file
    parts, n_links = path.split("/"), 0
    while parts:
        part = parts.pop(0)
        if part in ("", "."):
            continue
        if not isinstance(place, h5py.Group):
            return None
        link = place.get(part, getlink=True)
        if isinstance(link, h5py.SoftLink):
            n_links += 1
            if n_links > _MOST_LINKS:
                raise BadFileError(f"{path!r} is a link that leads to itself")
            place = file if link.path.startswith("/") else place
            parts = link.path.split("/") + parts
            continue
        if isinstance(link, h5py.ExternalLink) and not follow_external:
            raise BadFileError(f"{path!r} is a link to another file, {link.filename}; {_ASK}")
        if link is None or part not in place:
            return None
        place = place[part]
    return place


_ASK = "if you trust this file, open it with follow_external=True (jax-mmf fit and encode: --follow-external)"


def check_data_set(
    dataset: h5py.Dataset, name: str, *, follow_external: bool, fill_missing: bool, max_expansion: float
) -> None:
    """Check that all the numbers of a data set are in its file.

    Data sets of files that are open for writing are not checked, because a part of their data may be in memory.

    Args:
      dataset: to check.
      name: of the data set, for error messages.
      follow_external: whether the numbers may be in other files. These files must exist.
      fill_missing: whether chunks that were never written are allowed; HDF5 reads the fill value for them.
      max_expansion: see `check_expansion`.

    Raises:
      BadFileError: if numbers are in other files, beyond the end of the file, missing, or too many for its size.
    """
    if dataset.file.mode != "r":
        return
    layout = dataset.id.get_create_plist()
    if dataset.is_virtual or layout.get_external_count():
        if not follow_external:
            raise BadFileError(f"{name} holds no numbers, but refers to other files; {_ASK}")
        _check_other_files(dataset, name, fill_missing)
        return
    n_bytes, size = math.prod(dataset.shape) * dataset.id.get_type().get_size(), _size(dataset.file)
    if n_bytes == 0:
        return
    if dataset.chunks is not None:
        _check_chunks(dataset, name, size, fill_missing=fill_missing, max_expansion=max_expansion)
    elif layout.get_layout() == h5py.h5d.CONTIGUOUS:
        offset = dataset.id.get_offset()
        if offset is None:
            _refuse_missing(name, "numbers that were never written", fill_missing=fill_missing)
        elif dataset.id.get_storage_size() < n_bytes or (size is not None and offset + n_bytes > size):
            raise BadFileError(f"{name} is truncated: it ends beyond the {size} bytes of the file, or holds too few")


def read_permutation(dataset: h5py.Dataset, name: str) -> HostArray | None:
    """Read the order of the columns that an attribute of a data set refers to, or None without such an attribute.

    Raises:
      BadFileError: if it is not an order of the columns.
    """
    path = path_of_part(dataset, "feature_permutation")
    if path is None:
        return None
    file, n_features = dataset.file, dataset.shape[1]
    found = find_data_set(file, path, follow_external=False)
    what = f"the feature_permutation of {name}"
    if not isinstance(found, h5py.Dataset) or found.shape != (n_features,) or found.dtype.kind not in "iu":
        raise BadFileError(f"{what} must refer to {n_features} integers, the order of the columns")
    check_data_set(found, what, follow_external=False, fill_missing=False, max_expansion=MAX_EXPANSION)
    order: HostArray = found[...]
    if order.min() < 0 or order.max() >= n_features or (np.bincount(order.astype(np.int64)) != 1).any():
        raise BadFileError(f"{what} must hold each of 0 to {n_features - 1} once")
    return order


def path_of_part(dataset: h5py.Dataset, name: str) -> str | None:
    """Return the path of the data set that an attribute of a data set refers to, or None without such an attribute.

    HDF5 hangs or crashes on damaged strings of variable length. Therefore such a string is read only if there is no
    data set with the usual name, and another process reads it first.

    Args:
      dataset: of a matrix.
      name: of the attribute, which holds a path. The usual path is that of the matrix, an underscore, and this name.

    Raises:
      BadFileError: if the attribute can't be read.
    """
    if name not in dataset.attrs:
        return None
    kind, usual, file = dataset.attrs.get_id(name).get_type(), f"{dataset.name}_{name}", dataset.file
    if isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str():
        if usual in file:
            return usual
        if file.driver == "sec2" and file.mode == "r":
            check_strings(Path(str(file.filename)), str(dataset.name))
    value = dataset.attrs[name]
    if isinstance(value, h5py.Reference):
        return str(file[value].name)
    return value.decode() if isinstance(value, bytes) else str(value)


def _check_chunks(
    dataset: h5py.Dataset, name: str, size: int | None, *, fill_missing: bool, max_expansion: float
) -> None:
    """Check that chunks exist, end inside of the file, do not overlap, and have a plausible size."""
    chunk_bytes = math.prod(dataset.chunks) * dataset.id.get_type().get_size()
    expected = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    starts, sizes, stored, outside = array("q"), array("q"), 0, 0

    def note(chunk: Any) -> None:
        nonlocal stored, outside
        stored += chunk.size
        outside += size is not None and chunk.byte_offset + chunk.size > size
        if len(starts) < _MOST_COMPARED:
            starts.append(chunk.byte_offset)
            sizes.append(chunk.size)

    found = dataset.id.get_num_chunks()
    if found < expected:
        _refuse_missing(name, f"{expected - found} of its {expected} chunks", fill_missing=fill_missing)
    if found > expected:
        raise BadFileError(f"{name} has {found} chunks where {expected} fit; the file is damaged")
    dataset.id.chunk_iter(note)
    order = np.argsort(np.array(starts, np.int64))
    places, lengths = np.array(starts, np.int64)[order], np.array(sizes, np.int64)[order]
    if outside or (places[:-1] + lengths[:-1] > places[1:]).any():
        raise BadFileError(f"{name} has chunks beyond the end of the file, or overlapping; it is damaged")
    if dataset.id.get_create_plist().get_nfilters():
        check_expansion(name, found * chunk_bytes, stored, max_expansion)
    elif stored != found * chunk_bytes:
        raise BadFileError(f"{name} has chunks of another size than {chunk_bytes} bytes; the file is damaged")


def _refuse_missing(name: str, what: str, *, fill_missing: bool) -> None:
    if not fill_missing:
        raise BadFileError(
            f"{name} lacks {what}; HDF5 would read the fill value there. If they were left out on purpose, open the "
            "file with fill_missing=True (jax-mmf fit and encode: --fill-missing)"
        )


def _check_other_files(dataset: h5py.Dataset, name: str, fill_missing: bool) -> None:
    """Check that the other files that a data set refers to exist, as far as their names are known."""
    folder, layout = Path(str(dataset.file.filename)).parent, dataset.id.get_create_plist()
    needed: list[tuple[str, int]] = []
    if dataset.is_virtual:
        needed = [(s.file_name, 0) for s in dataset.virtual_sources() if s.file_name != "." and "%" not in s.file_name]
    else:
        for index in range(layout.get_external_count()):
            other, offset, length = layout.get_external(index)
            whole = math.prod(dataset.shape) * dataset.dtype.itemsize
            needed.append((other.decode(), offset + min(length, whole)))
    for other, least in needed:
        places = [path for path in (folder / other, Path(other)) if path.is_file()]  # HDF5 looks in both
        if not fill_missing and not any(path.stat().st_size >= least for path in places):
            raise BadFileError(f"{name} refers to {other}, which does not exist or is truncated")


def _size(file: h5py.File) -> int | None:
    """Return the size of a file on a disk, or None for files of other drivers."""
    return os.fstat(file.id.get_vfd_handle()).st_size if file.driver == "sec2" else None
