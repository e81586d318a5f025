"""Codes of samples in a dictionary, as a transformer of scikit-learn."""

from abc import abstractmethod
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from jax_mmf.core import is_scipy_sparse
from jax_mmf.estimators.data import check_missing_values, is_streamed, observed, validated
from jax_mmf.estimators.settings import computing
from jax_mmf.io import CentredSource
from jax_mmf.penalties import AnyPenalty
from jax_mmf.training import encode, explained_variance
from jax_mmf.typing import HostArray


class DictionaryTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base of the estimators that encode samples in a dictionary, ``components_``."""

    components_: HostArray
    mean_: HostArray
    device: str | None
    missing_values: float | None = None
    center: bool = False

    def transform(self, X: Any) -> Any:
        """Compute the codes of samples in the dictionary.

        Args:
          X: ``(n, p)`` samples: an array, frame, SciPy sparse matrix, memory map, `h5py.Dataset` or
            `jax_mmf.io.Source`. The last four are read a batch at a time.

        Returns:
          ``(n, k)`` codes in the dtype of ``components_``; a frame after ``set_output``.
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        dictionary, mask = self._dictionary(X), observed(X, self.missing_values)
        with computing(dictionary.dtype, self.device):
            return np.asarray(encode(dictionary, self._centred(X), self._transform_penalty(), mask=mask))

    def inverse_transform(self, X: Any) -> HostArray:
        """Return the samples of codes, ``X @ components_``, plus ``mean_`` of a centred model.

        Args:
          X: ``(n, k)`` codes.

        Returns:
          ``(n, p)``.
        """
        check_is_fitted(self)
        codes = check_array(X, dtype=(np.float64, np.float32), input_name="X")
        k = len(self.components_)
        if codes.shape[1] != k:
            raise ValueError(f"X must hold codes of {k} components, got shape {codes.shape}")
        return codes @ self.components_ + (self.mean_ if self.center else 0)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the share of the sum of squares of samples that codes explain, ``1 - |X - A D|^2 / |X|^2``.

        A centred model subtracts its mean from the samples first: the result is then the share of the variance.
        Missing entries are left out.

        Args:
          X: ``(n, p)`` samples, as in `transform`.
          y: ignored.

        Returns:
          at most 1; higher is better.

        Raises:
          ValueError: if the sum of squares is zero, as of samples that are all zero, missing, or equal to the mean.
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        dictionary, mask = self._dictionary(X), observed(X, self.missing_values)
        with computing(dictionary.dtype, self.device):
            share = float(explained_variance(dictionary, self._centred(X), self._transform_penalty(), mask=mask))
        if np.isnan(share):
            raise ValueError(
                "X must have a sum of squares above zero to score: its samples are zero, missing, or equal to the mean"
            )
        return share

    def _validated(self, X: Any, *, reset: bool) -> Any:
        check_missing_values(self.missing_values)
        return validated(self, X, reset=reset, allow_nan=self._allow_nan)

    @property
    def _allow_nan(self) -> bool:
        """Whether NaN marks a missing entry."""
        return self.missing_values is not None and bool(np.isnan(self.missing_values))

    def _dictionary(self, X: Any) -> HostArray:
        """Return the dictionary in the dtype of the codes of samples."""
        return self.components_

    def _centred(self, X: Any) -> Any:
        """Subtract the mean of a centred model."""
        if not self.center:
            return X
        return CentredSource(X, self.mean_) if is_streamed(X) or is_scipy_sparse(X) else X - self.mean_

    @abstractmethod
    def _transform_penalty(self) -> AnyPenalty:
        """Return the penalty of the codes of `transform`."""

    @property
    def _n_features_out(self) -> int:
        return int(self.components_.shape[0])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = self._allow_nan
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
