"""Masks of features and other matrices with a row for each sample, which are read together with the samples."""

from typing import Any

import numpy as np

from jax_mmf.core import as_real_array, check_shape
from jax_mmf.io import BatchSource, Source, as_source
from jax_mmf.learning import check_weights
from jax_mmf.typing import HostArray


class Mask:
    """A mask of features, the same for all samples or read with them, in the order of the features of the samples.

    Args:
      mask: ``(p,)``, or a matrix or source ``(n, p)``.
      n_samples: n, or None if it is not known.
      p: number of features.
      order: ``(p,)`` the original number of each feature of the samples, or None for the original order.
      dtype: of the weights.
      names: names of the columns of the samples, in the original order, or None for columns without names.

    Attributes:
      matrix: source ``(n, p)``, or None if the mask is None or the same for all samples.

    Raises:
      TypeError: if the mask is not a matrix.
      ValueError: for shapes that do not fit, and for columns with other names than those of the samples.
    """

    def __init__(
        self,
        mask: Any,
        n_samples: int | None,
        p: int,
        order: HostArray | None,
        dtype: np.dtype[Any],
        names: tuple[str, ...] | None = None,
    ) -> None:
        self.matrix: Source | None = None
        self._shared: HostArray | None = None
        self._dtype, self._order = dtype, order
        if mask is None:
            return
        if n_axes(mask) == 1:
            shared = np.asarray(as_real_array("mask", mask, ndim=(1,), dtype=dtype))
            check_shape("mask", shared, (p,), "(n_features,) or the shape of x")
            self._shared = shared if order is None else shared[order]
            return
        self.matrix = matrix_of_rows("mask", mask, n_samples, p, "(n_features,) or the shape of x")
        check_columns(getattr(self.matrix, "feature_names", None), names)
        if self.matrix.permutation is not None:
            place = np.argsort(self.matrix.permutation)
            self._order = place if order is None else place[order]

    def rows(self, rows: HostArray) -> HostArray | None:
        """Return the mask of some samples, ``(p,)`` or ``(b, p)``, or None."""
        if self.matrix is None:
            return self._shared
        mask = read_rows("mask", self.matrix, rows, self._dtype)
        return mask if self._order is None else np.take(mask, self._order, axis=1)

    def matrix_of(self, rows: HostArray, features: HostArray | None = None) -> HostArray:
        """Return the mask of some samples, and of some or all of their features: ``(b, s)`` or ``(b, p)``.

        Raises:
          ValueError: for weights that are negative or not finite, and without a mask.
        """
        if self._shared is not None:
            shared = self._shared if features is None else self._shared[features]
            found: HostArray | None = np.broadcast_to(shared, (rows.size, shared.size))
        elif features is None or self.matrix is None:
            found = self.rows(rows)
        else:
            columns = features if self._order is None else self._order[features]
            found = read_rows("mask", self.matrix, rows, self._dtype, columns)
        if found is None:
            raise ValueError("there is no mask")
        check_weights("mask", found)
        return found


def check_columns(own: tuple[str, ...] | None, names: tuple[str, ...] | None) -> None:
    """Raise ValueError if the columns of a mask have other names than those of the samples, or another order."""
    if own is not None and names is not None and own != names:
        raise ValueError(f"mask must have the columns of the samples, {names}, in this order; got {own}")


def matrix_of_rows(name: str, value: Any, n_samples: int | None, width: int, meaning: str) -> Source:
    """Make a source of a matrix that has a row for each sample."""
    matrix = as_source(value, name)
    if isinstance(matrix, BatchSource):
        raise TypeError(f"{name} must be a matrix {meaning}, got an iterable of batches")
    shape = (int(matrix.n_samples), int(matrix.n_features))
    check_shape(name, np.broadcast_to(0, shape), (n_samples, width), meaning)
    return matrix


def read_rows(
    name: str, matrix: Source, rows: HostArray, dtype: np.dtype[Any], columns: HostArray | None = None
) -> HostArray:
    """Read rows of a matrix that has a row for each sample."""
    if rows.size and rows[-1] >= matrix.n_samples:
        raise ValueError(f"{name} must have a row for each sample of x; it has {matrix.n_samples} rows, and x has more")
    return np.array(matrix.read(rows, columns), dtype)


def n_axes(value: Any) -> int | None:
    """Return the number of axes of a value, or None if it has no shape."""
    try:
        return len(value.shape) if isinstance(getattr(value, "shape", None), tuple) else np.ndim(value)
    except (ValueError, TypeError):
        return None
