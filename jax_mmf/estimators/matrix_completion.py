"""Matrices with missing entries, such as ratings."""

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from jax_mmf.completion import ExplicitALS, Model, Ratings, fit
from jax_mmf.core import check_count, is_scipy_sparse
from jax_mmf.estimators.data import in_memory
from jax_mmf.estimators.settings import computing, key_of
from jax_mmf.io import Source
from jax_mmf.typing import HostArray


class MatrixCompletion(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Factorization of a matrix from some of its entries: a mean, biases of rows and columns, and k factors.

    The entries are those that a SciPy sparse matrix stores, zeros too, or those of an array that are not NaN. This
    estimator calls `jax_mmf.completion.fit`, which also has labels, validation, implicit feedback and recommendations.
    The computation is in float32.

    Args:
      n_components: k, number of factors.
      alpha: strength of the penalty on factors in the first passes, >= 0, as in `jax_mmf.completion.ExplicitALS`, which
        learns the strengths after that.
      max_iter: passes over the entries.
      random_state: int, `numpy.random.RandomState` or None.
      model: any model of `jax_mmf.completion` for explicit feedback, instead of n_components and alpha.
      device: ``"cpu"``, ``"gpu"``, ``"gpu:1"``, or None for JAX's default device.

    Attributes:
      components_: ``(k + 1, p)`` factors of the columns, and a row of ones, by which `transform` gives the bias of a
        row of X.
      mean_: ``(p,)`` the mean of the entries plus the bias of each column.
      n_components_: k.
      n_features_in_: p.
      feature_names_in_: ``(p,)`` names, if the matrix has names.
      n_iter_: passes over the entries.
      fitted_: `jax_mmf.completion.Fitted`.

    Example:
      >>> import numpy as np
      >>> from jax_mmf.estimators import MatrixCompletion
      >>> X = np.array([[5, 4, np.nan], [4, np.nan, 1], [1, 1, 5], [np.nan, 5, 1]])
      >>> model = MatrixCompletion(n_components=1, random_state=0).fit(X)
      >>> model.predict_entries([0, 3], [2, 0]).shape, model.inverse_transform(model.transform(X)).shape
      ((2,), (4, 3))
    """

    def __init__(
        self,
        n_components: int = 32,
        *,
        alpha: float = 0.1,
        max_iter: int = 20,
        random_state: Any = None,
        model: Model | None = None,
        device: str | None = None,
    ) -> None:
        self.n_components = n_components
        self.alpha = alpha
        self.max_iter = max_iter
        self.random_state = random_state
        self.model = model
        self.device = device

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn factors from the entries of a matrix.

        Args:
          X: ``(n, p)`` SciPy sparse matrix, or array or frame with NaN for missing entries.
          y: ignored.

        Returns:
          the estimator.

        Raises:
          ValueError: for infinity, and for a matrix without entries.
        """
        ratings = self._ratings(X, reset=True)
        check_count("max_iter", self.max_iter)
        model = ExplicitALS(self.n_components, alpha=self.alpha) if self.model is None else self.model
        if getattr(model, "feedback", "explicit") != "explicit":
            raise ValueError(f"model must be for explicit feedback, such as ExplicitALS(); got {model!r}")
        with computing(np.float32, self.device):
            self.fitted_ = fit(model, ratings, key=key_of(self.random_state), n_epochs=self.max_iter)
        factors = self.fitted_.factors
        items = np.asarray(factors.items)
        self.components_ = np.concatenate([items.T, np.ones((1, len(items)), items.dtype)])
        self.mean_ = np.asarray(factors.mean + factors.item_bias)
        self.n_components_, self.n_iter_ = items.shape[1], len(self.fitted_.history)
        return self

    def transform(self, X: Any) -> Any:
        """Solve for the factors and the biases of rows, which need not be those of the fit.

        Args:
          X: ``(n, p)`` entries, as in `fit`.

        Returns:
          ``(n, k + 1)`` float32 factors, and biases in the last column; zeros for rows without entries.
        """
        return self._codes(self._ratings(X, reset=False))

    def inverse_transform(self, X: Any) -> HostArray:
        """Predict all entries of rows from their factors and biases.

        Args:
          X: ``(n, k + 1)``, as `transform` gives.

        Returns:
          ``(n, p)`` predictions, within the range of the entries of the fit.
        """
        check_is_fitted(self)
        codes = check_array(X, dtype=(np.float32, np.float64), input_name="X")
        if codes.shape[1] != len(self.components_):
            raise ValueError(f"X must have {len(self.components_)} columns, factors and bias; got shape {codes.shape}")
        predictions = codes @ self.components_ + self.mean_
        return predictions if self.fitted_.limits is None else np.clip(predictions, *self.fitted_.limits)

    def predict_entries(self, rows: Any, columns: Any) -> HostArray:
        """Predict entries of the matrix of the fit.

        Args:
          rows: ``(m,)`` numbers of rows.
          columns: ``(m,)`` numbers of columns.

        Returns:
          ``(m,)`` float32, within the range of the entries of the fit.

        Raises:
          ValueError: for numbers of rows or columns that the matrix does not have, and for other shapes.
        """
        check_is_fitted(self)
        pairs = [np.asarray(rows), np.asarray(columns)]
        for name, numbers, size in zip(("rows", "columns"), pairs, self.fitted_.ratings.shape, strict=True):
            if numbers.shape == (0,):
                continue
            if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or (numbers < 0).any() or (numbers >= size).any():
                raise ValueError(f"{name} must be whole numbers (m,) from 0 to {size - 1}, got {numbers}")
        if len(pairs[0]) != len(pairs[1]):
            raise ValueError(f"rows and columns must have the same length, got {len(pairs[0])} and {len(pairs[1])}")
        if len(pairs[0]) == 0:
            return np.empty(0, np.float32)
        with computing(np.float32, self.device):
            return self.fitted_.predict_positions(*pairs)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the negative root mean squared error of predictions for rows with some known entries.

        Args:
          X: ``(n, p)`` known entries, as in `fit`, from which the factors of the rows are computed.
          y: ``(n, p)`` other entries of the same rows, on which the error is measured. Without y, the error is that
            of the entries of X, which is lower than that of others. Labels, which have one axis, are ignored.

        Returns:
          at most 0; higher is better.

        Raises:
          ValueError: for y of another shape than X, and without entries to measure the error on.
        """
        known = asked = self._ratings(X, reset=False)
        if is_scipy_sparse(y) or np.ndim(y) == 2:
            if np.shape(y) != known.shape:
                raise ValueError(f"y must have the shape of X, {known.shape}, or one axis of labels; got {np.shape(y)}")
            asked = self._ratings(y, reset=False, name="y")
        if len(asked) == 0:
            raise ValueError(f"{'X' if asked is known else 'y'} must hold at least one entry to score, got none")
        with computing(np.float32, self.device):
            folds = bool(self.fitted_.known_items[known.items].any())
            fitted = self.fitted_.fold_in(known) if folds else self.fitted_
            users = asked.users if folds else np.full(len(asked), -1)  # rows that nothing is known of
            predictions = fitted.predict_positions(users, asked.items)
        return -float(np.sqrt(np.mean((predictions - asked.values) ** 2)))

    def _ratings(self, X: Any, *, reset: bool, name: str = "X") -> Ratings:
        if not reset:
            check_is_fitted(self)
        if isinstance(X, Source):
            raise TypeError(
                f"{name} must be an array, a frame or a SciPy sparse matrix, got {type(X).__name__}; for files of "
                "ratings, see jax_mmf.completion"
            )
        X = in_memory(self, X, reset=reset, allow_nan=not is_scipy_sparse(X), name=name)
        sparse = is_scipy_sparse(X)
        if not (X.nnz if sparse else (~np.isnan(X)).any()):
            if reset:
                raise ValueError("X must hold at least one known entry to learn from, got none")
            return _no_ratings(X.shape)
        return Ratings.from_scipy(X) if sparse else Ratings.from_dense(X)

    def _codes(self, ratings: Ratings) -> HostArray:
        known = self.fitted_.known_items[ratings.items]
        if not known.any():
            return np.zeros((ratings.n_users, len(self.components_)), np.float32)
        with computing(np.float32, self.device):
            factors = self.fitted_.fold_in(ratings).factors
            return np.concatenate([factors.users, np.asarray(factors.user_bias)[:, None]], axis=1)

    @property
    def _n_features_out(self) -> int:
        return int(self.components_.shape[0])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _no_ratings(shape: tuple[int, int]) -> Ratings:
    """Return ratings of a matrix without entries."""
    one = Ratings.from_triplets([0], [0], [0.0], user_ids=np.arange(shape[0]), item_ids=np.arange(shape[1]))
    return one.select(np.zeros(1, bool))
