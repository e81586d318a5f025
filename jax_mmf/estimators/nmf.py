"""Non-negative matrix factorization."""

from typing import Any

from jax_mmf.constraints import Constraint, L2Ball
from jax_mmf.core import check_real, is_scipy_sparse
from jax_mmf.estimators.data import is_streamed
from jax_mmf.estimators.online import OnlineEstimator
from jax_mmf.io import NonNegativeSource
from jax_mmf.penalties import AnyPenalty, ElasticNet, Ridge


class OnlineNMF(OnlineEstimator):
    """Non-negative matrix factorization, a mini-batch at a time ([JMLR10], [TSP18])::

        min over W, H >= 0    1/2 |X - W H|^2 + alpha_W p (l1_ratio |W|_1 + (1 - l1_ratio) / 2 |W|^2),     |h_j|_2 <= 1

    With ``alpha_W=0`` this is the problem of `sklearn.decomposition.MiniBatchNMF` with the squared error, since the
    scale of a component can be moved from H to W. The term of W has scikit-learn's scale, the number of features p.
    scikit-learn has such a term for H as well, with alpha_H. Here, the norms of the rows of H are bounded instead.

    Args:
      n_components: k, number of components; None for as many as features.
      alpha_W: strength of the penalty on W, >= 0.
      l1_ratio: share of the l1 norm in it.
      max_iter: largest number of passes over the samples.
      batch_size: samples per step; None chooses by the solver, 128 in most cases.
      shuffle: whether samples are read in random order.
      dict_init: ``(k, p)`` first H; by default random samples.
      missing_values: the value of missing entries, such as ``np.nan``, which are left out of the objective; None if
        there are none.
      reduction: r: a step computes W from one in r features. 1 for all, ``"auto"`` as `jax_mmf.default_solver`.
      penalty: on the rows of W, instead of alpha_W and l1_ratio: any penalty of the library.
      constraint: of the rows of H: any constraint of the library, such as ``Simplex()`` for topics.
      tol: relative change of H in a step that ends the fit; 0 for never.
      max_no_improvement: number of steps without a new minimum of the averaged objective that ends the fit; None for
        never. It costs an evaluation in each step.
      random_state: int, `numpy.random.RandomState` or None.
      verbose: whether to show a progress bar (needs tqdm).
      warm_start: whether `fit` continues from the state of the last fit.
      dtype: float32 or float64 for the computation; None for that of the samples.
      device: ``"cpu"``, ``"gpu"``, ``"gpu:1"``, or None for JAX's default device.

    Attributes:
      components_: ``(k, p)`` H.
      n_components_: k.
      n_features_in_: p.
      feature_names_in_: ``(p,)`` names, if the samples have names.
      n_iter_: passes over the samples of the last fit.
      n_steps_: steps so far, also those of `partial_fit`.
      objective_: structured array with fields ``step`` and ``objective``, of the mini-batches.
      solver_: `jax_mmf.OnlineFactorization` of the fit.
      state_: `jax_mmf.State`, which `jax_mmf.fit` can continue; its arrays are in host memory.

    Example:
      >>> import numpy as np
      >>> from jax_mmf.estimators import OnlineNMF
      >>> X = np.random.default_rng(0).random((40, 6), np.float32)
      >>> model = OnlineNMF(n_components=3, random_state=0).fit(X)
      >>> bool((model.transform(X) >= 0).all() and (model.components_ >= 0).all())
      True
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        alpha_W: float = 0.0,
        l1_ratio: float = 0.0,
        max_iter: int = 200,
        batch_size: int | None = None,
        shuffle: bool = True,
        dict_init: Any = None,
        missing_values: float | None = None,
        reduction: float | str = "auto",
        penalty: AnyPenalty | None = None,
        constraint: Constraint | None = None,
        tol: float = 1e-4,
        max_no_improvement: int | None = None,
        random_state: Any = None,
        verbose: bool = False,
        warm_start: bool = False,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        self.n_components = n_components
        self.alpha_W = alpha_W
        self.l1_ratio = l1_ratio
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.dict_init = dict_init
        self.missing_values = missing_values
        self.reduction = reduction
        self.penalty = penalty
        self.constraint = constraint
        self.tol = tol
        self.max_no_improvement = max_no_improvement
        self.random_state = random_state
        self.verbose = verbose
        self.warm_start = warm_start
        self.dtype = dtype
        self.device = device

    def _penalty(self) -> AnyPenalty:
        check_real("alpha_W", self.alpha_W, low=0.0)
        alpha = self.n_features_in_ * self.alpha_W
        if self.l1_ratio == 0:
            return Ridge(alpha, nonneg=True)
        return ElasticNet(alpha, self.l1_ratio, nonneg=True)

    def _constraint(self) -> Constraint:
        return L2Ball(nonneg=True)

    def _validated(self, X: Any, *, reset: bool) -> Any:
        X = super()._validated(X, reset=reset)
        if is_streamed(X):  # its numbers are seen when it is read
            X = NonNegativeSource(X, self.missing_values)
        else:
            values = X.data if is_scipy_sparse(X) else X
            negative = values < 0 if self.missing_values is None else (values < 0) & (values != self.missing_values)
            if negative.any():
                raise ValueError(f"Negative values in data passed to {type(self).__name__} (input X)")
        return X

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags
