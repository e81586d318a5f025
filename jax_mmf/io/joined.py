"""Several matrices with the same features as one source: those of several subjects, runs or machines."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jax_mmf.core import text_of
from jax_mmf.io.bad_file import BadFileError
from jax_mmf.io.matrix_source import MatrixSource
from jax_mmf.io.sources import BatchSource, Source, as_source
from jax_mmf.typing import HostArray

_MOST_OPEN = 64  # files at a time


class JoinedSource(MatrixSource):
    """Several matrices, stacked by rows, as one matrix. Nothing is copied.

    NumPy's promotion rules determine the dtype: float32 and float64 give float64, int16 and float32 give float32. The
    orders of the columns and the names of the features must agree.

    Args:
      parts: matrices ``(n_i, p)`` or sources that `as_source` accepts, for instance one for each subject.
      names: of the parts, for error messages; by default their numbers.

    Raises:
      ValueError: without parts, and if numbers, names or orders of the features differ.
      TypeError: for iterables of batches, and for anything that `as_source` refuses.

    Example:
      >>> import numpy as np, jax_mmf as mmf
      >>> mmf.io.JoinedSource([np.ones((2, 4)), np.zeros((3, 4))]).n_samples
      5
    """

    def __init__(self, parts: Sequence[Any], names: Sequence[str] | None = None) -> None:
        names = [f"part {i}" for i in range(len(parts))] if names is None else names
        self._parts = [as_source(part, name) for part, name in zip(parts, names, strict=True)]
        self._join(self._parts, names)

    def close(self) -> None:
        """Close all parts that can be closed."""
        super().close()
        for part in self._parts:
            if isinstance(part, MatrixSource):
                part.close()

    def _part(self, index: int) -> Any:
        return self._parts[index]

    def _join(self, parts: Any, names: Sequence[str]) -> None:
        """Check the parts in one pass, and note their common properties."""
        lengths, dtypes = [], []
        first: Source | None = None
        self.rows_per_read = self.rows_per_chunk = 1
        for part, name in zip(parts, names, strict=True):
            if isinstance(part, BatchSource):
                raise TypeError(f"{name} is an iterable of batches, whose number of rows is not known; join matrices")
            first = part if first is None else first
            _check_alike(first, names[0], part, name)
            if self.feature_names is None:
                self.feature_names = getattr(part, "feature_names", None)
            self.paths += tuple(getattr(part, "paths", ()))
            lengths.append(part.n_samples)
            dtypes.append(part.dtype)
            self.rows_per_read = max(self.rows_per_read, part.rows_per_read)
            self.rows_per_chunk = max(self.rows_per_chunk, getattr(part, "rows_per_chunk", 1))
            self.reads_on_several_devices |= getattr(part, "reads_on_several_devices", False)
        if first is None:
            raise ValueError("parts must hold at least one matrix, got none")
        self._ends = np.cumsum(lengths)
        self.permutation = first.permutation
        more = f" and {len(lengths) - 1} others" if len(lengths) > 1 else ""
        super().__init__(f"{names[0]}{more}", (sum(lengths), first.n_features),
                         np.result_type(*dtypes))  # fmt: skip

    def _read_into(self, out: HostArray, rows: HostArray, columns: HostArray | None) -> None:
        owners = np.searchsorted(self._ends, rows, side="right")
        for index in np.unique(owners):
            part, places = self._part(int(index)), np.flatnonzero(owners == index)
            first = self._ends[index] - part.n_samples
            before = part.bytes_read
            if places[-1] - places[0] + 1 == places.size and isinstance(part, MatrixSource) and part.dtype == out.dtype:
                part.read_into(out[places[0] : places[-1] + 1], rows[places] - first, columns)
            else:
                out[places] = part.read(rows[places] - first, columns)
            self.bytes_read += part.bytes_read - before


class JoinedFiles(JoinedSource):
    """Several files, stacked by rows. At most 64 stay open and others are reopened, so there may be thousands.

    Args:
      paths: of the file of each part.
      openers: functions that open each part.
      names: of the parts, for error messages.
    """

    def __init__(
        self, paths: Sequence[Path], openers: Sequence[Callable[[], MatrixSource]], names: Sequence[str]
    ) -> None:
        self._paths, self._openers, self._names = paths, openers, names
        self._open: dict[int, MatrixSource] = {}
        self._known: dict[int, tuple[Any, ...]] = {}
        try:
            self._join(map(self._part, range(len(paths))), names)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all files."""
        self._closed = True
        while self._open:
            self._open.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without open files; another process opens them again."""
        return self.__dict__ | {"_open": {}}

    def _part(self, index: int) -> MatrixSource:
        if index not in self._open:
            if len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            source = self._open[index] = self._openers[index]()
            facts = self._paths[index].stat()
            known = (source.n_samples, source.n_features, source.dtype, facts.st_size, facts.st_mtime_ns, facts.st_ino)
            if self._known.setdefault(index, known) != known:
                raise BadFileError(f"{self._names[index]} was changed after it was first opened; open it again")
        return self._open[index]


def join_files(
    paths: Sequence[Path], datasets: Sequence[str | None], open_one: Callable[[Path, str | None], MatrixSource]
) -> JoinedFiles:
    """Open data sets of files as one source, file after file.

    Args:
      paths: of the files.
      datasets: names of the data sets of each file, in this order; None for the only data set.
      open_one: function that opens one data set.
    """
    parts = [(path, dataset) for path in paths for dataset in datasets]
    names = [str(path) if dataset is None else f"data set {dataset!r} of {path}" for path, dataset in parts]
    openers = [partial(open_one, path, dataset) for path, dataset in parts]
    return JoinedFiles([path for path, _ in parts], openers, names)


def _check_alike(first: Source, first_name: str, part: Any, name: str) -> None:
    if not isinstance(part, Source):
        raise TypeError(f"{name} must be a matrix, got {text_of(part)}")
    if part.n_features != first.n_features:
        raise ValueError(
            f"{name} has {part.n_features} features, and {first_name} has {first.n_features}; matrices that are joined "
            "must have the same features"
        )
    if not _same_order(first.permutation, part.permutation):
        raise ValueError(
            f"the columns of {name} are in another order than those of {first_name}; join the files from which they "
            "were converted, or write them with the same key"
        )
    ours, theirs = getattr(first, "feature_names", None), getattr(part, "feature_names", None)
    if ours is not None and theirs is not None and ours != theirs:
        raise ValueError(f"{name} has other names of features than {first_name}")


def _same_order(ours: HostArray | None, theirs: HostArray | None) -> bool:
    return ours is theirs if ours is None or theirs is None else np.array_equal(ours, theirs)
