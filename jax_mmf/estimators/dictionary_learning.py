"""Dictionary learning with sparse codes."""

from typing import Any

from jax_mmf.constraints import Constraint, L2Ball
from jax_mmf.estimators.online import OnlineEstimator
from jax_mmf.penalties import AnyPenalty, ElasticNet, Lasso
from jax_mmf.selection import with_alpha


class OnlineDictionaryLearning(OnlineEstimator):
    """Dictionary learning with sparse codes, a mini-batch at a time ([JMLR10], [TSP18])::

        min over D    1/n sum_i  min over a_i   1/2 |x_i - a_i D|^2 + alpha |a_i|_1,     |d_j|_2 <= 1

    This is the problem of `sklearn.decomposition.MiniBatchDictionaryLearning`, with the same alpha.

    Args:
      n_components: k, number of atoms; None for as many as features.
      alpha: strength of the penalty on codes, >= 0.
      l1_ratio: share of the l1 norm in it; below 1, ``alpha (l1_ratio |a|_1 + (1 - l1_ratio) / 2 |a|_2^2)``.
      max_iter: largest number of passes over the samples.
      batch_size: samples per step; None chooses by the solver, 128 in most cases.
      shuffle: whether samples are read in random order.
      dict_init: ``(k, p)`` first dictionary; by default random samples.
      transform_alpha: alpha of `transform`; None for alpha.
      positive_code: whether codes must be non-negative.
      positive_dict: whether atoms must be non-negative.
      center: whether the mean of the features is learned too, ``X ~ 1 mean_ + A D``.
      missing_values: the value of missing entries, such as ``np.nan``, which are left out of the objective; None if
        there are none.
      reduction: r: a step computes codes from one in r features. 1 for all, ``"auto"`` as `jax_mmf.default_solver`.
      penalty: on the codes, instead of alpha, l1_ratio and positive_code: any penalty of the library.
      constraint: of the atoms, instead of positive_dict: any constraint of the library.
      tol: relative change of the dictionary in a step that ends the fit; 0 for never.
      max_no_improvement: number of steps without a new minimum of the averaged objective that ends the fit; None for
        never. It costs an evaluation in each step.
      random_state: int, `numpy.random.RandomState` or None.
      verbose: whether to show a progress bar (needs tqdm).
      warm_start: whether `fit` continues from the state of the last fit.
      dtype: float32 or float64 for the computation; None for that of the samples.
      device: ``"cpu"``, ``"gpu"``, ``"gpu:1"``, or None for JAX's default device.

    Attributes:
      components_: ``(k, p)`` dictionary.
      mean_: ``(p,)`` mean of the features, with center=True.
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
      >>> from jax_mmf.estimators import OnlineDictionaryLearning
      >>> X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
      >>> model = OnlineDictionaryLearning(n_components=4, alpha=0.5, random_state=0).fit(X)
      >>> model.transform(X).shape
      (40, 4)
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        alpha: float = 1.0,
        l1_ratio: float = 1.0,
        max_iter: int = 1000,
        batch_size: int | None = None,
        shuffle: bool = True,
        dict_init: Any = None,
        transform_alpha: float | None = None,
        positive_code: bool = False,
        positive_dict: bool = False,
        center: bool = False,
        missing_values: float | None = None,
        reduction: float | str = "auto",
        penalty: AnyPenalty | None = None,
        constraint: Constraint | None = None,
        tol: float = 1e-3,
        max_no_improvement: int | None = None,
        random_state: Any = None,
        verbose: bool = False,
        warm_start: bool = False,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        self.n_components = n_components
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.dict_init = dict_init
        self.transform_alpha = transform_alpha
        self.positive_code = positive_code
        self.positive_dict = positive_dict
        self.center = center
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
        nonneg = bool(self.positive_code)
        return Lasso(self.alpha, nonneg) if self.l1_ratio == 1 else ElasticNet(self.alpha, self.l1_ratio, nonneg)

    def _constraint(self) -> Constraint:
        return L2Ball(nonneg=bool(self.positive_dict))

    def _transform_penalty(self) -> AnyPenalty:
        solver = self.solver_
        return (solver if self.transform_alpha is None else with_alpha(solver, self.transform_alpha)).penalty
