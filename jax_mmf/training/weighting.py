"""Weights of the samples and of the entries of a source, as the feed of a run reads them."""

from typing import Any

import numpy as np

from jax_mmf.core import as_real_array, check_shape, filled_up
from jax_mmf.io import Source
from jax_mmf.learning import check_weights
from jax_mmf.training.mask import Mask
from jax_mmf.typing import HostArray


class Weighting:
    """Weights of a source, for the features in the order inside of a run.

    Args:
      sample_weight: ``(n,)`` or None.
      mask: ``(p,)``, a matrix or source ``(n, p)``, or None.
      n_samples: n, or None for an iterable of batches.
      n_features: p.
      order: ``(p,)`` the original number of each feature, or None for the original order.
      dtype: of the weights.
      names: names of the columns of the source, in the original order, or None for columns without names.

    Raises:
      TypeError: for weights that are not real numbers.
      ValueError: for shapes that do not fit, weights that are negative or not finite, and iterables of batches.
    """

    def __init__(
        self,
        sample_weight: Any,
        mask: Any,
        n_samples: int | None,
        n_features: int,
        order: HostArray | None,
        dtype: Any,
        names: tuple[str, ...] | None = None,
    ) -> None:
        self._weights: HostArray | None = None
        self._mask: Mask | None = None
        self._n_features, self._dtype = n_features, np.dtype(dtype)
        for name, given in (("sample_weight", sample_weight), ("mask", mask)):
            if given is not None and n_samples is None:
                raise ValueError(
                    f"{name} needs a source with numbered samples, such as a matrix or a file; got an iterable of "
                    f"batches. Call solver.update(state, batch, {name}=...) for each batch"
                )
        if sample_weight is not None:
            self._weights = np.asarray(as_real_array("sample_weight", sample_weight, ndim=(1,), dtype=dtype))
            check_shape("sample_weight", self._weights, (n_samples,), "(n_samples,)")
            check_weights("sample_weight", self._weights)
        if mask is not None:
            self._mask = Mask(mask, n_samples, n_features, order, self._dtype, names)

    @property
    def matrix(self) -> Source | None:
        """Source of the mask, if it has a row for each sample."""
        return None if self._mask is None else self._mask.matrix

    def of_samples(self, rows: HostArray, size: int) -> HostArray | None:
        """Return the weights of samples, filled up by zeros: ``(size,)``, or None."""
        if self._weights is None:
            return None
        weights: HostArray = filled_up(self._weights[rows], size)
        return weights

    def entries(self, rows: HostArray, features: HostArray | None = None) -> HostArray | None:
        """Return the mask of samples on some features, ``(b, s)``, or on all, ``(b, p)``; or None."""
        return None if self._mask is None else self._mask.matrix_of(rows, features)

    def padded_entries(self, rows: HostArray, features: HostArray | None, shape: tuple[int, int]) -> HostArray | None:
        """Return the mask of samples, filled up by zeros.

        Args:
          rows: of the samples.
          features: ``(s,)``, those past the last one for padding; or None for all.
          shape: of the result, ``(size, s)``, or ``(size, width)`` with features that are padded up to a width.
        """
        if self._mask is None:
            return None
        whole = np.zeros(shape, self._dtype)
        there: Any = slice(self._n_features) if features is None else features < self._n_features
        whole[: rows.size, there] = self._mask.matrix_of(rows, None if features is None else features[there])
        return whole

    def all_weights(self) -> HostArray | None:
        """Return the weights of all samples ``(n,)``, or None."""
        return self._weights
