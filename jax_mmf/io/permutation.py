"""Permutations of the features, after which contiguous features are a random subset."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import jax.numpy as jnp
import numpy as np

from jax_mmf.core import HostStream, check_count, check_real_dtype, host_generator
from jax_mmf.io.atomic import hdf5_written_aside
from jax_mmf.io.sources import BatchSource, as_source
from jax_mmf.learning import State, map_arrays
from jax_mmf.typing import HostArray, Key

_ROWS = 1024  # of a matrix that are copied at a time


@dataclass(frozen=True)
class FeaturePermutation:
    """An order of the features.

    Attributes:
      order: ``(p,)``; column j of permuted data is feature ``order[j]``.

    Raises:
      ValueError: if order does not hold each of 0 to p - 1 once.
    """

    order: HostArray

    def __post_init__(self) -> None:
        if self.order.ndim != 1 or not np.array_equal(np.sort(self.order), np.arange(self.order.size)):
            raise ValueError(f"order must hold each of 0 to p - 1 once, got shape {self.order.shape}")

    @classmethod
    def random(cls, key: Key, n_features: int) -> "FeaturePermutation":
        """A random order of n features."""
        return cls(host_generator(key, HostStream.PERMUTATION).permutation(n_features))

    @property
    def inverse(self) -> "FeaturePermutation":
        """The permutation that undoes this one."""
        return FeaturePermutation(np.argsort(self.order))

    def apply(self, array: HostArray) -> HostArray:
        """Permute the last axis of an array in host memory."""
        return np.take(array, self.order, axis=-1)

    def apply_to_state(self, state: State) -> State:
        """Permute everything in a solver's state that has features: the same run, on permuted data."""
        return map_arrays(lambda _, axes, array: self._columns(axes, array), state)

    def _columns(self, axes: str | None, array: Any) -> Any:
        return jnp.take(array, self.order, axis=axes.index("p")) if axes is not None and "p" in axes else array


def write_permuted(
    path: str | Path,
    batches: Any,
    *,
    key: Key,
    dataset: str = "X",
    block_width: int = 512,
    rows_per_chunk: int = 128,
    dtype: Any = None,
) -> None:
    """Write a matrix to an HDF5 file whose columns are permuted, in chunks of contiguous columns.

    From such a file, `fit` reads only the features that a step uses: with ``BlockSubset(reduction=12)`` and
    ``partial_b=True``, a twelfth. Models come out in the original order of the features.

    Args:
      path: of the file, .h5 or .hdf5, which is replaced if it exists.
      batches: ``(b_i, p)`` each, written one after another; or a matrix, in anything that `fit` takes.
      key: PRNG key of the permutation.
      dataset: name of the data set.
      block_width: columns per chunk; best the width of the solver's blocks (`BlockSubset.layout`).
      rows_per_chunk: rows per chunk; best the size of a mini-batch.
      dtype: of the file; by default that of the first batch, or float32 if HDF5 does not have it.

    Raises:
      ValueError: if there is no batch, widths differ, a batch holds numbers that the dtype of the file can't, or the
        path has another ending.
      TypeError: for data that are not real numbers, and a dtype that is not of real numbers.
      OSError: if the file can't be written.
    """
    check_count("block_width", block_width)
    check_count("rows_per_chunk", rows_per_chunk)
    if dtype is not None:
        check_real_dtype("dtype", np.dtype(dtype))
    with hdf5_written_aside(path) as file:
        data: h5py.Dataset | None = None
        for index, array in enumerate(_batches(batches)):
            n_features = array.shape[1]
            if data is None:
                permutation = FeaturePermutation.random(key, n_features)
                chunks = (rows_per_chunk, min(block_width, n_features))
                stored = np.dtype(array.dtype if dtype is None else dtype)
                stored = stored if stored.kind in "biuf" else np.dtype("float32")
                data = file.create_dataset(dataset, (0, n_features), stored, maxshape=(None, n_features), chunks=chunks)
                order = file.create_dataset(f"{dataset}_feature_permutation", data=permutation.order)
                data.attrs["feature_permutation"] = order.name
            if n_features != data.shape[1]:
                raise ValueError(f"batches must all have {data.shape[1]} features, got one with {n_features}")
            converted = _converted(array, data.dtype, f"batch {index} of batches")
            data.resize(data.shape[0] + array.shape[0], axis=0)
            data[-array.shape[0] :] = permutation.apply(converted)
        if data is None:
            raise ValueError("batches must hold at least one batch, got none")


def _batches(data: Any) -> Iterator[HostArray]:
    source = as_source(data, "batches")
    if isinstance(source, BatchSource):
        yield from source
        return
    if source.permutation is not None:
        raise ValueError("batches come from a file whose columns are permuted already")
    for first in range(0, source.n_samples, _ROWS):
        yield np.asarray(source.read(np.arange(first, min(first + _ROWS, source.n_samples))))


def _converted(array: HostArray, dtype: np.dtype[Any], name: str) -> HostArray:
    """An array in the dtype of a file that holds its numbers, except for rounding among floating numbers."""
    with np.errstate(over="ignore", invalid="ignore"):
        out = array.astype(dtype)
    # Infinity is written as it is, and but a finite number must not overflow to it.
    kept = out == array if dtype.kind in "biu" else np.isfinite(out) | ~np.isfinite(array)
    if not np.can_cast(array.dtype, dtype, "safe") and not kept.all():
        raise ValueError(
            f"{name} holds numbers of {array.dtype} that {dtype}, the dtype of the file, can't hold; give another dtype"
        )
    return out
