"""Sparse principal components: sparse atoms and dense codes."""

from typing import Any

from jax_mmf.constraints import Constraint, ElasticNetBall, L1Ball
from jax_mmf.estimators.online import OnlineEstimator
from jax_mmf.penalties import AnyPenalty, Ridge


class OnlineSparsePCA(OnlineEstimator):
    """Sparse components with dense codes, a mini-batch at a time ([ICML16], [TSP18])::

        min over D    1/n sum_i  min over a_i   1/2 |x_i - a_i D|^2 + ridge_alpha / 2 |a_i|^2,
                      l1_ratio |d_j|_1 + (1 - l1_ratio) |d_j|_2^2 <= radius

    `sklearn.decomposition.MiniBatchSparsePCA` has an l1 penalty on the components, alpha, and codes of norm 1. Here,
    the components are in a ball, as in the papers.

    Args:
      n_components: k, number of components; None for as many as features.
      ridge_alpha: strength of the ridge penalty on codes, > 0, in learning and in `transform`.
      l1_ratio: share of the l1 norm in the ball of the components; 1 is the l1 ball.
      radius: of the ball.
      max_iter: largest number of passes over the samples.
      batch_size: samples per step; None chooses by the solver, 128 or 256 in most cases.
      shuffle: whether samples are read in random order.
      dict_init: ``(k, p)`` first components; by default random samples.
      positive_dict: whether components must be non-negative.
      center: whether the mean of the features is learned too, ``X ~ 1 mean_ + A D``, as scikit-learn does.
      reduction: r: a step computes codes from one in r features. 1 for all, ``"auto"`` as `jax_mmf.default_solver`.
      penalty: on the codes, instead of ridge_alpha: any penalty of the library.
      constraint: of the components, instead of l1_ratio, radius and positive_dict: any constraint of the library.
      tol: relative change of the components in a step that ends the fit; 0 for never.
      max_no_improvement: number of steps without a new minimum of the averaged objective that ends the fit; None for
        never. It costs an evaluation in each step.
      random_state: int, `numpy.random.RandomState` or None.
      verbose: whether to show a progress bar (needs tqdm).
      warm_start: whether `fit` continues from the state of the last fit.
      dtype: float32 or float64 for the computation; None for that of the samples.
      device: ``"cpu"``, ``"gpu"``, ``"gpu:1"``, or None for JAX's default device.

    Attributes:
      components_: ``(k, p)`` sparse components.
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
      >>> from jax_mmf.estimators import OnlineSparsePCA
      >>> X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
      >>> OnlineSparsePCA(n_components=3, random_state=0).fit(X).components_.shape
      (3, 6)
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        ridge_alpha: float = 0.01,
        l1_ratio: float = 1.0,
        radius: float = 1.0,
        max_iter: int = 1000,
        batch_size: int | None = None,
        shuffle: bool = True,
        dict_init: Any = None,
        positive_dict: bool = False,
        center: bool = True,
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
        self.ridge_alpha = ridge_alpha
        self.l1_ratio = l1_ratio
        self.radius = radius
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.dict_init = dict_init
        self.positive_dict = positive_dict
        self.center = center
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
        return Ridge(self.ridge_alpha)

    def _constraint(self) -> Constraint:
        nonneg = bool(self.positive_dict)
        return L1Ball(self.radius, nonneg) if self.l1_ratio == 1 else ElasticNetBall(self.l1_ratio, self.radius, nonneg)
