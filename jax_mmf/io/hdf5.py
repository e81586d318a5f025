"""Data sets of HDF5 files as sources of samples."""

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jax_mmf.core import warn
from jax_mmf.io.compression import compression_of
from jax_mmf.io.hdf5_checks import MAX_EXPANSION, check_data_set, read_permutation
from jax_mmf.io.matrix_source import ROWS_PER_SEEK, MatrixSource, stretches
from jax_mmf.io.opened_file import Stamp, check_unchanged
from jax_mmf.io.raw_source import RawSource
from jax_mmf.io.training_file import check_seal, read_of_features
from jax_mmf.typing import HostArray

_MUCH_EXCESS = 4  # numbers read for each one that is needed, from which a warning is given


class HDF5Source(MatrixSource):
    """A data set in an HDF5 file.

    If the columns to read are in contiguous stretches, only these are read. A file written by `write_permuted` has a
    suitable layout.

    Args:
      dataset: ``(n, p)`` real numbers; its file must stay open until `close`, which closes it. The attribute
        ``feature_permutation``, if present, refers to the data set with the order in which the columns are stored.
      follow_external: whether the numbers may be in other files, as in `open_source`, whose default is stricter.
      fill_missing: as in `open_source`.
      max_expansion: as in `open_source`.

    Raises:
      BadFileError: if the data set or its permutation is damaged or incomplete.
      TypeError: if the data are not real numbers.
      ValueError: if the shape is not that of a matrix, and for data sets of closed files.

    Example:
      >>> import h5py, numpy as np, jax_mmf as mmf
      >>> with h5py.File("x.h5", "w", driver="core", backing_store=False) as file:
      ...     source = mmf.io.HDF5Source(file.create_dataset("x", data=np.eye(3)))
      ...     print(source.read(np.array([1])))
      [[0. 1. 0.]]
    """

    _has_file = True

    def __init__(
        self,
        dataset: h5py.Dataset,
        *,
        follow_external: bool = True,
        fill_missing: bool = False,
        max_expansion: float = MAX_EXPANSION,
    ) -> None:
        if not dataset:
            raise ValueError("source is an h5py.Dataset of a file that was closed; open the file again")
        name = f"data set {dataset.name!r} of {dataset.file.filename}"
        super().__init__(name, dataset.shape or (), dataset.dtype)
        self._dataset = dataset
        self.chunks: tuple[int, ...] | None = dataset.chunks
        self.rows_per_read = self.chunks[0] if self.chunks else ROWS_PER_SEEK
        # Chunks that only have checksums are cheap to read again, so they need not be kept.
        self.rows_per_chunk = self.chunks[0] if self.chunks and compression_of(dataset) is not None else 1
        check_data_set(
            dataset,
            name,
            follow_external=follow_external,
            fill_missing=fill_missing,
            max_expansion=max_expansion,
        )
        check_seal(dataset, name)
        self.permutation = read_permutation(dataset, name)
        names = read_of_features(dataset, "feature_names")
        self.feature_names = None if names is None else tuple(names.tolist())
        # Files of other drivers are not on a disk, and files that are open for writing may change.
        self._stamp: tuple[Path, int, Stamp] | None = None
        if dataset.file.driver == "sec2":
            path = Path(dataset.file.filename).absolute()
            self.paths = (path,)
            handle = int(dataset.file.id.get_vfd_handle())
            self._stamp = (path, handle, Stamp.of(handle)) if dataset.file.mode == "r" else None
        self._raw = _contiguous(dataset, name)
        self.reads_in_parallel = self._raw is not None

    @cached_property
    def mean(self) -> HostArray | None:
        """Mean of each feature ``(p,)``, in the original order of the features, or None without it."""
        self._check_open()
        return read_of_features(self._dataset, "mean")

    @cached_property
    def scale(self) -> HostArray | None:
        """Standard deviation of each feature ``(p,)``, or 1 if that is zero, in the original order; None without it."""
        self._check_open()
        return read_of_features(self._dataset, "scale")

    def storage(self) -> dict[str, Any]:
        """Return the storage of the data set: chunks, compression, checksums, and whether it has mean and scale."""
        return {
            "chunks": self.chunks,
            "compression": compression_of(self._dataset),
            "checksums": bool(self._dataset.fletcher32),
            "mean_and_scale": self.mean is not None and self.scale is not None,
        }

    def close(self) -> None:
        """Close the file."""
        super().close()
        if self._raw is not None:
            self._raw.close()
        if self._dataset:
            self._dataset.file.close()

    def _check_open(self) -> None:
        super()._check_open()
        if not self._dataset:
            raise ValueError(f"{self._name} can't be read, since its file was closed; open it again")

    def _check_unchanged(self) -> None:
        if self._stamp is not None:
            check_unchanged(*self._stamp)

    def _read_into(self, out: HostArray, rows: HostArray, columns: HostArray | None) -> None:
        if self._raw is not None and columns is None:
            self._raw.read_into(out, rows)
            self._count(out.nbytes)
            return
        wanted = self._column_stretches(columns)
        column_stretches = wanted or [(0, self.n_features)]
        place = out if columns is None or wanted else np.empty((rows.size, self.n_features), self.dtype)
        top = 0
        for some in self._read_together(rows):
            first, last = int(some[0]), int(some[-1]) + 1
            here = place[top : top + some.size]
            # Rows that are left out, such as held-out samples, are read too: HDF5 would read each chunk for each gap.
            target = here if last - first == some.size else np.empty((last - first, place.shape[1]), self.dtype)
            left = 0
            for a, b in column_stretches:
                self._dataset.read_direct(target, np.s_[first:last, a:b], np.s_[:, left : left + b - a])
                left += b - a
            if target is not here:
                here[:] = target[some - first]
            top += some.size
        n_read = max(place.size, out.size * self.excess(rows, columns))
        self._count(round(n_read * self.dtype.itemsize * self._compression))
        if place is not out:
            out[:] = place[:, columns]

    def _read_together(self, rows: HostArray) -> list[HostArray]:
        """Split rows into parts, each of which one read gives: consecutive rows, or rows of one row of chunks."""
        if rows.size == 0:
            return []
        apart = np.diff(rows) != 1
        if self.chunks is not None and self._reads_whole_chunks:
            apart &= (np.diff(rows // self.chunks[0]) != 0) | (np.diff(rows) < 0)
        return np.split(rows, np.flatnonzero(apart) + 1)

    def _column_stretches(self, columns: HostArray | None) -> list[tuple[int, int]] | None:
        """Return the stretches of columns to read, or None if it is faster to read whole rows."""
        if columns is None:
            return None
        found = stretches(columns)
        # Short stretches do not pay for a read each, and each read of a chunk may decompress all of it.
        few = len(found) * 8 <= columns.size
        if self.chunks and self._reads_whole_chunks:
            few = few and len(found) <= -(-self.n_features // self.chunks[1])
        return found if few else None

    def excess(self, rows: HostArray, columns: HostArray | None = None) -> float:
        """Return how many numbers HDF5 reads for each one that `read` returns.

        HDF5 reads whole chunks and keeps some of them in a cache. Of chunks that are neither compressed nor fit into
        the cache, it reads only the part that is needed.

        Args:
          rows: of a mini-batch.
          columns: of a mini-batch.

        Returns:
          a number of at least 1.
        """
        if self.chunks is None or not self._reads_whole_chunks:
            return 1.0
        if self.n_samples * self._bytes_per_row <= self._cache_bytes:
            return 1.0
        spans = [(int(some[0]), int(some[-1]) + 1) for some in self._read_together(rows)]
        n_rows = _covered(spans, self.chunks[0])
        n_columns = _covered(self._column_stretches(columns) or [(0, self.n_features)], self.chunks[1])
        return n_rows * n_columns / (rows.size * (self.n_features if columns is None else columns.size))

    def warn_of_excess(self, rows: HostArray, columns: HostArray | None, *, in_order: bool) -> None:
        """Warn if mini-batches make HDF5 read the same chunks repeatedly.

        Args:
          rows: of a mini-batch.
          columns: of a mini-batch, or None for all.
          in_order: whether the mini-batches are read in order; a chunk may then stay in the cache.
        """
        excess = self.excess(rows, columns)
        if excess < _MUCH_EXCESS or self.chunks is None:
            return
        if in_order and columns is None and self.chunks[0] * self._bytes_per_row <= self._cache_bytes:
            return
        n_reads = excess * (1 if columns is None else columns.size / self.n_features)
        warn(
            f"{self._name} is stored in chunks of {self.chunks}, which HDF5 reads whole: a mini-batch of {rows.size} "
            f"samples makes it read {excess:.0f} times as many numbers as it needs, and an epoch reads each chunk "
            f"{n_reads:.1f} times. Write the data with jax_mmf.write_permuted, rows_per_chunk=batch_size and the width "
            f"of the solver's blocks as block_width, or use a batch_size of at least {self.chunks[0]}"
        )

    @cached_property
    def _reads_whole_chunks(self) -> bool:
        chunk_bytes = math.prod(self.chunks or ()) * self._dataset.dtype.itemsize
        return self._has_filters or chunk_bytes <= self._cache_bytes

    @cached_property
    def _has_filters(self) -> bool:
        """Whether chunks are compressed or have checksums: they are then read whole."""
        return bool(self._dataset.id.get_create_plist().get_nfilters())

    @cached_property
    def _compression(self) -> float:
        """Bytes in the file for each byte of the numbers in it."""
        stored: int = self._dataset.id.get_storage_size()
        return stored / (self.n_samples * self._bytes_per_row) if self._has_filters and stored else 1.0

    @cached_property
    def _bytes_per_row(self) -> int:
        return self.n_features * self._dataset.dtype.itemsize

    @cached_property
    def _cache_bytes(self) -> int:
        return int(self._dataset.id.get_access_plist().get_chunk_cache()[1])


def _contiguous(dataset: h5py.Dataset, name: str) -> RawSource | None:
    """Return a source that threads can read together, if the data set is one contiguous piece of its file; or None."""
    file, place = dataset.file, dataset.id.get_offset()
    in_one_piece = place is not None and not (dataset.chunks or dataset.is_virtual or dataset.external)
    as_on_disk = file.driver == "sec2" and file.mode == "r" and not file.userblock_size
    if not (in_one_piece and as_on_disk):
        return None
    return RawSource(file.filename, place, dataset.shape, dataset.dtype, name=name)


def _covered(spans: list[tuple[int, int]], length: int) -> int:
    """Count the indices of the chunks that stretches touch; a chunk that two stretches touch counts twice."""
    return sum((-(-last // length) - first // length) * length for first, last in spans)
