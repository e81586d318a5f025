"""Matrices that are computed from another one when they are read."""

from typing import Any

import numpy as np

from jax_mmf.io.matrix_source import MatrixSource
from jax_mmf.io.sources import BatchSource, Source, as_source
from jax_mmf.typing import HostArray


class _DerivedSource(MatrixSource):
    """A matrix of the shape of another one, in the same order of the columns, computed from it a piece at a time."""

    def __init__(self, data: Any, name: str, dtype: Any = None) -> None:
        source = as_source(data, name)
        if isinstance(source, BatchSource):
            raise TypeError(f"{name} must be a matrix or a source, got an iterable of batches")
        self._source: Source = source
        super().__init__(name, (source.n_samples, source.n_features), source.dtype if dtype is None else dtype)
        self.rows_per_read, self.permutation = source.rows_per_read, source.permutation
        self.rows_per_chunk = getattr(source, "rows_per_chunk", 1)
        self.feature_names, self.paths = getattr(source, "feature_names", None), getattr(source, "paths", ())
        self.reads_on_several_devices = getattr(source, "reads_on_several_devices", False)

    def _read_into(self, out: HostArray, rows: HostArray, columns: HostArray | None) -> None:
        before = self._source.bytes_read
        self._compute(out, np.asarray(self._source.read(rows, columns)), columns)
        self._count(self._source.bytes_read - before)

    def _compute(self, out: HostArray, x: HostArray, columns: HostArray | None) -> None:
        raise NotImplementedError


class ObservedEntries(_DerivedSource):
    """The mask of a matrix with missing values: 1 for an entry that is there, and 0 for one that is missing.

    Each read reads the same entries of the matrix. ``fit(solver, x, mask=ObservedEntries(x))`` learns from a matrix
    whose missing entries are NaN, of any size.

    Args:
      data: the matrix ``(n, p)``, or a source.
      missing_values: the value of missing entries, NaN by default.

    Raises:
      TypeError: for iterables of batches, and for anything that `as_source` refuses.
      ValueError: as `as_source` does.

    Example:
      >>> import numpy as np, jax_mmf as mmf
      >>> x = np.array([[1.0, np.nan], [np.nan, 2.0]])
      >>> print(mmf.io.ObservedEntries(x).read(np.arange(2)))
      [[1. 0.]
       [0. 1.]]
    """

    def __init__(self, data: Any, missing_values: float = np.nan) -> None:
        super().__init__(data, "data", np.float32)
        self._missing = missing_values

    def _compute(self, out: HostArray, x: HostArray, columns: HostArray | None) -> None:
        out[:] = ~np.isnan(x) if np.isnan(self._missing) else x != self._missing


class NonNegativeSource(_DerivedSource):
    """The same matrix, in which a negative number is an error when it is read.

    Args:
      data: the matrix ``(n, p)``, or a source.
      missing_values: a value that may be negative, because it marks missing entries; None if there are none.

    Raises:
      TypeError: as `ObservedEntries` does.
      ValueError: as `as_source` does, and when a negative number is read.

    Example:
      >>> import numpy as np, jax_mmf as mmf
      >>> print(mmf.io.NonNegativeSource(np.array([[0.0, 1.0], [2.0, 3.0]])).read(np.array([1])))
      [[2. 3.]]
    """

    def __init__(self, data: Any, missing_values: float | None = None) -> None:
        super().__init__(data, "data")
        self._missing = missing_values

    def _compute(self, out: HostArray, x: HostArray, columns: HostArray | None) -> None:
        negative = x < 0 if self._missing is None else (x < 0) & (x != self._missing)
        if negative.any():
            i, j = np.argwhere(negative)[0]
            feature = j if columns is None else columns[j]
            feature = feature if self.permutation is None else self.permutation[feature]
            raise ValueError(f"Negative values in data: {x[i, j]} in feature {feature}; all numbers must be >= 0")
        out[:] = x


class CentredSource(_DerivedSource):
    """A matrix minus the mean of each column.

    Args:
      data: the matrix ``(n, p)``, or a source.
      mean: ``(p,)``, in the original order of the features.

    Raises:
      TypeError: as `ObservedEntries` does.
      ValueError: for another number of means, and as `as_source` does.

    Example:
      >>> import numpy as np, jax_mmf as mmf
      >>> source = mmf.io.CentredSource(np.array([[1.0, 2.0], [3.0, 6.0]]), np.array([2.0, 4.0]))
      >>> print(source.read(np.arange(2)))
      [[-1. -2.]
       [ 1.  2.]]
    """

    def __init__(self, data: Any, mean: HostArray) -> None:
        mean = np.asarray(mean)
        super().__init__(data, "data", mean.dtype)
        if mean.shape != (self.n_features,):
            raise ValueError(f"data has {self.n_features} features, and mean has shape {mean.shape}")
        self._mean = mean if self.permutation is None else mean[self.permutation]

    def _compute(self, out: HostArray, x: HostArray, columns: HostArray | None) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # which the reader of samples reports, with the place
            np.subtract(x, self._mean if columns is None else self._mean[columns], out=out, casting="unsafe")
