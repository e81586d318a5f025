"""The description of a data file in ``jax-mmf info``."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from jax_mmf.io import HDF5Source, MatrixSource, open_source

_BAND = 2**26  # bytes of rows that are read at a time


def is_data(path: Path) -> bool:
    """Whether a path is that of data. HDF5 files with an attribute "format" are models."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return path.suffix.lower() in (".npy", ".npz", ".mat") or path.is_dir()
    try:
        with h5py.File(path, "r") as file:
            return "format" not in file.attrs
    except (OSError, RuntimeError):  # the reader of models gives a better message
        return False


def facts_of(path: Path, dataset: str | None, *, verify: bool, quiet: bool) -> dict[str, Any]:
    """Return size and layout of a matrix. ``verify`` reads all of it, so that HDF5 compares the checksums.

    Raises:
      BadFileError: if a checksum is wrong.
    """
    with open_source(path, dataset) as source:
        facts = {
            "n_samples": source.n_samples,
            "n_features": source.n_features,
            "dtype": str(source.dtype),
            "bytes": source.n_samples * source.n_features * source.dtype.itemsize,
            "permuted": source.permutation is not None,
            "feature_names": source.feature_names is not None,
        }
        if isinstance(source, HDF5Source):
            facts |= source.storage()
        if verify:
            facts["samples_read"], facts["not_finite"] = _read_all(source, quiet=quiet)
    return facts


def _read_all(source: MatrixSource, *, quiet: bool) -> tuple[int, int]:
    """Read all rows; return their number, and that of those with NaN or infinity."""
    height = max(1, _BAND // (source.n_features * source.dtype.itemsize))
    height = -(-height // source.rows_per_chunk) * source.rows_per_chunk
    bad = 0
    with tqdm(total=source.n_samples, unit="sample", desc="reading", disable=quiet or None) as bar:
        for first in range(0, source.n_samples, height):
            x = source.read(np.arange(first, min(first + height, source.n_samples)))
            bad += int((~np.isfinite(x)).any(axis=1).sum())
            bar.update(len(x))
    return source.n_samples, bad
