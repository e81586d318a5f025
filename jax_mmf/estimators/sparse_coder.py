"""Sparse codes in a given dictionary."""

from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_array

from jax_mmf.estimators.base import DictionaryTransformer
from jax_mmf.estimators.data import dtype_of, validated
from jax_mmf.penalties import AnyPenalty, ElasticNet, Lasso
from jax_mmf.typing import HostArray


class SparseCoder(DictionaryTransformer):
    """Sparse codes of samples in a given dictionary, ``argmin_a 1/2 |x - a D|^2 + transform_alpha |a|_1``.

    These are the codes of `sklearn.decomposition.SparseCoder` with ``transform_algorithm="lasso_cd"``, solved exactly
    on their support. For derivatives of codes with respect to the dictionary and the samples, use `jax_mmf.encode`.

    Args:
      dictionary: ``(k, p)`` atoms, used as they are.
      transform_alpha: strength of the penalty, >= 0; None for 1.
      l1_ratio: share of the l1 norm in it, as in `OnlineDictionaryLearning`.
      positive_code: whether codes must be non-negative.
      penalty: instead of the three: any penalty of the library.
      dtype: float32 or float64 for the computation; None for the longer one of dictionary and samples.
      device: ``"cpu"``, ``"gpu"``, ``"gpu:1"``, or None for JAX's default device.

    Attributes:
      components_: the dictionary.
      n_components_: k.
      n_features_in_: p.
      feature_names_in_: ``(p,)`` names, after `fit` on samples with names.

    Example:
      >>> import numpy as np
      >>> from jax_mmf.estimators import SparseCoder
      >>> SparseCoder(np.eye(3), transform_alpha=0.5).transform([[2.0, -0.1, -1.0]])
      array([[ 1.5,  0. , -0.5]])
    """

    def __init__(
        self,
        dictionary: Any,
        *,
        transform_alpha: float | None = None,
        l1_ratio: float = 1.0,
        positive_code: bool = False,
        penalty: AnyPenalty | None = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        self.dictionary = dictionary
        self.transform_alpha = transform_alpha
        self.l1_ratio = l1_ratio
        self.positive_code = positive_code
        self.penalty = penalty
        self.dtype = dtype
        self.device = device

    def fit(self, X: Any, y: Any = None) -> Self:
        """Validate the parameters and samples; there is nothing to learn.

        Args:
          X: ``(n, p)`` samples.
          y: ignored.

        Returns:
          the estimator.
        """
        validated(self, X, reset=True)
        p = self.components_.shape[1]
        if self.n_features_in_ != p:
            raise ValueError(
                f"dictionary and X must have the same number of features, got {p} and {self.n_features_in_}"
            )
        self._transform_penalty()
        self.n_components_ = self._n_features_out
        return self

    @property
    def components_(self) -> HostArray:  # type: ignore[override]
        """The dictionary."""
        return check_array(self.dictionary, dtype=(np.float64, np.float32), input_name="dictionary")

    def _dictionary(self, X: Any) -> HostArray:
        dictionary = self.components_
        dtype = np.result_type(dictionary, dtype_of(X, None)) if self.dtype is None else dtype_of(X, self.dtype)
        return dictionary.astype(dtype, copy=False)

    def _transform_penalty(self) -> AnyPenalty:
        if self.penalty is not None:
            return self.penalty
        alpha, nonneg = 1.0 if self.transform_alpha is None else self.transform_alpha, bool(self.positive_code)
        return Lasso(alpha, nonneg) if self.l1_ratio == 1 else ElasticNet(alpha, self.l1_ratio, nonneg)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags
