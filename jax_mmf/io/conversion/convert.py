"""Conversion of data of any kind to one file of training data."""

import shutil
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from jax_mmf.core import check_count
from jax_mmf.io.conversion.bands import Rows, bands, pieces
from jax_mmf.io.conversion.partial_file import PartialFile, continued_file
from jax_mmf.io.conversion.plan import Plan, checked_plan
from jax_mmf.io.files import files_of, open_source
from jax_mmf.io.hdf5 import HDF5Source
from jax_mmf.io.joined import JoinedFiles, JoinedSource
from jax_mmf.io.moments import Moments
from jax_mmf.io.output.atomic import check_outputs, hdf5_written_aside
from jax_mmf.io.permutation import FeaturePermutation
from jax_mmf.io.raw_source import RawSource
from jax_mmf.io.sources import ArraySource, BatchSource, SlicedSource, Source, SparseSource, as_source
from jax_mmf.io.training_file import (
    Layout,
    create_matrix,
    places_of_chunks,
    write_moments,
    write_of_features,
    write_seal,
)
from jax_mmf.learning import BlockSubset
from jax_mmf.typing import HostArray, Key

_MEMORY = 2**28  # most bytes of rows that are converted at a time
_MARGIN = 2**24  # bytes that must stay free on the disk for what HDF5 writes in addition to the rows

Progress = Callable[[int, int | None], Any]


class Conversion(NamedTuple):
    """Description of the file that a conversion wrote.

    Attributes:
      path: of the file.
      n_samples: number of rows.
      n_features: number of columns.
      dtype: of the numbers in the file.
      n_bytes: size of the matrix in the file.
      n_kept: number of rows that an earlier conversion had written before it was stopped.
      not_finite: sample and feature of the first number that is NaN or infinite, or None. `fit` refuses such samples,
        and the mean and the scale of such features are not finite.

    Example:
      >>> import jax, numpy as np, pathlib, tempfile, jax_mmf as mmf
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "x.h5"
      ...     conversion = mmf.convert(np.eye(4, 6), path, key=jax.random.key(0))
      >>> conversion.n_samples, conversion.n_features, conversion.not_finite
      (4, 6, None)
    """

    path: Path
    n_samples: int
    n_features: int
    dtype: np.dtype[Any]
    n_bytes: int
    n_kept: int
    not_finite: tuple[int, int] | None


def convert(
    source: Any,
    path: str | Path,
    *,
    key: Key | None,
    dataset: str | list[str] | None = None,
    dtype: Any = None,
    compression: str | None = None,
    block_width: int | BlockSubset = 512,
    rows_per_chunk: int = 128,
    memory: int = _MEMORY,
    resume: bool = True,
    on_progress: Progress | None = None,
) -> Conversion:
    """Convert a matrix to one HDF5 file that `fit` reads fast: permuted columns, in chunks with checksums.

    The matrix is read once, a band of rows at a time; memory does not depend on the number of rows. The file also holds
    the mean and the scale of each feature, see `HDF5Source`. The data set of the matrix is called ``X``.

    A conversion that is stopped, by Ctrl-C or by the end of the process, leaves the folder ``PATH.partial``. The same
    call resumes it: it checks the rows that are complete, and does not read them from the source again. If the
    arguments differ or the inputs have changed, the conversion starts from the first row, with a warning. Conversions
    of iterables of batches can't be resumed.

    Args:
      source: anything that `open_source` opens (a file, a folder, a pattern, a list of them), or that `as_source`
        accepts (arrays, frames, iterables of batches, and more).
      path: of the file to write, .h5 or .hdf5. An existing file is replaced at the end.
      key: PRNG key of the permutation of the features, or None to keep their order.
      dataset: name of the data set in the files of ``source``, as in `open_source`.
      dtype: of the file; by default that of the source, or float32 if HDF5 does not have it.
      compression: None, "gzip", "zstd" or "blosc2"; or "auto" for zstd if the package hdf5plugin is installed, and gzip
        otherwise. To write and to read zstd and blosc2, hdf5plugin must be installed.
      block_width: columns per chunk; or the `BlockSubset` of a solver, to make chunks as wide as its blocks.
      rows_per_chunk: rows per chunk; best the size of a mini-batch.
      memory: bytes of rows that may be converted at a time; the process needs a few times as much. Tall chunks of a
        source are decoded repeatedly if they do not fit.
      resume: whether to resume a conversion that was stopped.
      on_progress: function that is called after each band, with the number of rows written and the number of all rows,
        or None if that is not known.

    Returns:
      a description of the file.

    Raises:
      ValueError: without samples, if numbers of features differ, numbers do not fit the dtype, the path has another
        ending, or an input is at the path.
      TypeError: for data that are not real numbers, and a dtype that is not of real numbers.
      BadFileError: if a file of the source is damaged, or changes during the conversion.
      OSError: if the file can't be written, or the disk is full.
      ImportError: if a package is missing that the format of the source or the compression needs.

    Example:
      >>> import jax, numpy as np, pathlib, tempfile, jax_mmf as mmf
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "x.h5"
      ...     conversion = mmf.convert(np.eye(4, 6), path, key=jax.random.key(0), dtype="float32")
      >>> conversion.n_samples, str(conversion.dtype)
      (4, 'float32')
    """
    check_count("memory", memory)
    plan = checked_plan("X", block_width, rows_per_chunk, compression, dtype, memory, checksums=True)
    named = isinstance(source, str | Path) or (
        isinstance(source, list | tuple) and len(source) > 0 and all(isinstance(part, str | Path) for part in source)
    )
    if dataset is not None and not named:
        raise ValueError(f"dataset is for files, got {dataset!r} with a source that is not a file; leave it out")
    files = files_of(source) if named else []
    check_outputs({"path": path}, *files)
    names = dataset if dataset is None or isinstance(dataset, str) else list(dataset)
    with open_source(source, dataset) if named else nullcontext(as_source(source)) as opened:
        check_outputs({"path": path}, *getattr(opened, "paths", ()))
        if isinstance(opened, RawSource | HDF5Source | JoinedFiles):
            files = list(opened.paths)
        plan = plan._replace(inputs=[[_identity(file) for file in files], names])
        job = _Job(Path(path), key, plan, on_progress, "source")
        if isinstance(opened, BatchSource):
            return _convert_batches(opened, job)
        return _convert_and_continue(opened, job) if resume else _convert_at_once(opened, job)


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

    From such a file, `fit` reads only the features that a step uses: a twelfth with ``BlockSubset(reduction=12)`` and
    ``partial_b=True``. Models have the original order of the features. `jax_mmf.io.convert` accepts more kinds of data,
    can be resumed, and adds checksums.

    Args:
      path: of the file, .h5 or .hdf5, which is replaced if it exists.
      batches: ``(b_i, p)`` each, written one after another; or a matrix, in anything that `fit` accepts.
      key: PRNG key of the permutation.
      dataset: name of the data set.
      block_width: columns per chunk; best the width of the solver's blocks (`BlockSubset.layout`).
      rows_per_chunk: rows per chunk; best the size of a mini-batch.
      dtype: of the file; by default that of the first batch, or float32 if HDF5 does not have it.

    Raises:
      ValueError: without batches, if widths differ, a batch holds numbers that the dtype of the file can't, or the
        path has another ending.
      TypeError: for data that are not real numbers, and a dtype that is not of real numbers.
      OSError: if the file can't be written.

    Example:
      >>> import jax, numpy as np, pathlib, tempfile, jax_mmf as mmf
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "x.h5"
      ...     mmf.write_permuted(path, np.eye(4, 6), key=jax.random.key(0))
      ...     with mmf.open_source(path) as source:
      ...         print(sorted(source.permutation.tolist()))
      [0, 1, 2, 3, 4, 5]
    """
    plan = checked_plan(dataset, block_width, rows_per_chunk, None, dtype, _MEMORY, checksums=False)
    source, job = as_source(batches, "batches"), _Job(Path(path), key, plan, None, "batches")
    _convert_batches(source, job) if isinstance(source, BatchSource) else _convert_at_once(source, job)


class _Job(NamedTuple):
    """A conversion: the path of the output, how it is written, and the function that reports progress."""

    path: Path
    key: Key | None
    plan: Plan
    on_progress: Progress | None
    name: str

    def report(self, n_rows: int, n_samples: int | None) -> None:
        if self.on_progress is not None:
            self.on_progress(n_rows, n_samples)


def _identity(path: Path) -> list[Any]:
    """Return what changes with a file, or with the files in a folder of zarr."""
    facts = [file.stat() for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    size, modified = sum(fact.st_size for fact in facts), max((fact.st_mtime_ns for fact in facts), default=0)
    return [str(path.absolute()), size, modified, len(facts)]


# Matrices, whose rows can be read again


def _rows(source: Source, job: _Job) -> tuple[Rows, HostArray | None]:
    """Return the reader of a source, and the original feature of each column of the file."""
    if source.permutation is not None and job.key is not None:
        raise ValueError(
            f"{job.name} comes from a file whose columns are permuted already; keep their order with key=None"
        )
    p, dtype = source.n_features, job.plan.dtype_of(source.dtype)
    permutation = None if job.key is None else FeaturePermutation.random(job.key, p)
    height = job.plan.height(source, p * max(dtype.itemsize, source.dtype.itemsize))
    rows = Rows(source, height, dtype, permutation, job.name, job.plan.memory)
    return rows, source.permutation if permutation is None else permutation.order


def _convert_at_once(source: Source, job: _Job) -> Conversion:
    rows, order = _rows(source, job)
    with hdf5_written_aside(job.path) as file:
        data = create_matrix(file, job.plan.layout(source.n_features), rows.shape, rows.dtype, order)
        moments = Moments(source.n_features)

        def note(done: int) -> None:
            file.check()
            job.report(done, source.n_samples)

        _fill(data, moments, rows.bands(0), job, note)
        return _finished(data, moments, order, getattr(source, "feature_names", None), job)


def _convert_and_continue(source: Source, job: _Job) -> Conversion:
    rows, order = _rows(source, job)
    layout = job.plan.layout(source.n_features)
    with continued_file(job.path, job.plan.record(rows.shape, rows.dtype, order, rows.height)) as partial:
        known = not isinstance(source, ArraySource | SlicedSource | SparseSource | JoinedSource) or job.plan.inputs[0]
        data, moments = _taken_over(partial, layout, rows, order, known=bool(known))
        n_kept = partial.n_rows
        job.report(n_kept, source.n_samples)

        def note(done: int) -> None:
            partial.complete(done)
            job.report(done, source.n_samples)

        _fill(data, moments, rows.bands(n_kept), job, note)
        partial.last_words()
        return _finished(data, moments, order, getattr(source, "feature_names", None), job, n_kept)


def _taken_over(
    partial: PartialFile, layout: Layout, rows: Rows, order: HostArray | None, *, known: bool
) -> tuple[h5py.Dataset, Moments]:
    """Return the data set to continue, and the moments of its complete rows, after a check of these rows."""
    if partial.n_rows:
        last = (partial.n_rows - 1) // rows.height * rows.height
        again = rows.band(last)  # outside of the try block: an error of the source does not mean that the part is bad
        try:
            moments = _checked_moments(partial.file[layout.dataset], partial.n_rows, rows, again, known=known)
            return partial.file[layout.dataset], moments
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            partial.restart(f"it is damaged or of other data: {error}")
    return create_matrix(partial.file, layout, rows.shape, rows.dtype, order), Moments(rows.shape[1])


def _checked_moments(data: h5py.Dataset, n_rows: int, rows: Rows, last_band: HostArray, *, known: bool) -> Moments:
    """Read the complete rows, and return their moments.

    Files are known by size and time. Of sources of other kinds, such as your own, the last band is compared; of arrays,
    all rows are.

    Raises:
      OSError: if a checksum is wrong.
      ValueError: if a chunk is missing, or the last band differs from the source.
    """
    if data.shape != rows.shape or data.dtype != rows.dtype:
        raise ValueError(f"it holds numbers of {data.dtype}, of shape {data.shape}")
    _check_chunks(data, n_rows)
    moments, first, band = Moments(rows.shape[1]), 0, np.empty(0)
    for first in range(0, n_rows, rows.height):
        last = min(first + rows.height, n_rows)
        band = data[first:last]
        moments.add(band)
        if known and last < n_rows:
            continue
        source = last_band if last == n_rows else rows.band(first)
        if not np.array_equal(band.view(np.uint8), source[: len(band)].view(np.uint8)):
            raise ValueError(f"rows {first} to {last - 1} of the source have changed")
    return moments


def _check_chunks(data: h5py.Dataset, n_rows: int) -> None:
    """Raise a ValueError if a chunk of the first rows is not in the file; HDF5 would read the fill value."""
    height, width = data.chunks
    there = {place[:2] for place in places_of_chunks(data)}
    needed = {(row, column) for row in range(0, n_rows, height) for column in range(0, data.shape[1], width)}
    if not needed <= there:
        raise ValueError(f"it lacks {len(needed - there)} chunks")


# Iterables of batches, whose number is not known


def _convert_batches(source: BatchSource, job: _Job) -> Conversion:
    with hdf5_written_aside(job.path) as file:
        batches = iter(source)
        start = next(batches, None)
        if start is None:
            raise ValueError(f"{job.name} must hold at least one batch, got none")
        p, dtype = start.shape[1], job.plan.dtype_of(start.dtype)
        permutation = None if job.key is None else FeaturePermutation.random(job.key, p)
        order = None if permutation is None else permutation.order
        data, moments = create_matrix(file, job.plan.layout(p), (0, p), dtype, order), Moments(p)
        height = job.plan.height(None, p * dtype.itemsize)
        together = bands(pieces(chain([start], batches), p, dtype, job.name), height, p, dtype)
        permuted = together if permutation is None else map(permutation.apply, together)

        def note(done: int) -> None:
            file.check()
            job.report(done, None)

        _fill(data, moments, permuted, job, note)
        return _finished(data, moments, order, source.feature_names, job)


# Writing


def _fill(
    data: h5py.Dataset, moments: Moments, bands: Iterable[HostArray], job: _Job, note: Callable[[int], Any]
) -> None:
    """Append bands to the rows that the moments describe. After each band, call ``note`` with the number of rows."""
    for band in bands:
        first, last = moments.n_samples, moments.n_samples + len(band)
        free, needed = shutil.disk_usage(job.path.parent).free, band.nbytes + _MARGIN
        if free < needed:
            raise OSError(
                f"no space for {job.path}: {free / 1e6:.0f} MB are free where {needed / 1e6:.0f} are needed next"
            )
        if last > data.shape[0]:
            data.resize(last, axis=0)
        data[first:last] = band
        moments.add(band)
        note(last)


def _finished(
    data: h5py.Dataset, moments: Moments, order: HostArray | None, names: tuple[str, ...] | None, job: _Job,
    n_kept: int = 0,
) -> Conversion:  # fmt: skip
    """Write the mean, the scale and the names of the features, and return a description of the file."""
    write_moments(data, moments, order)
    if names is not None:
        write_of_features(data, "feature_names", np.array(names, dtype=np.str_))
    if job.plan.chunks.checksums:
        write_seal(data)
    not_finite = moments.not_finite
    if not_finite is not None and order is not None:
        not_finite = (not_finite[0], int(order[not_finite[1]]))
    n, p = data.shape
    return Conversion(job.path, n, p, data.dtype, data.id.get_storage_size(), n_kept, not_finite)
