"""Online matrix factorization with stochastic subsampling: the solver.

`OnlineFactorization` is a frozen pytree: its numbers (alpha, l1_ratio, radius, exponents) are leaves, its structure is
static. Its methods are pure functions of a `State`, jitted with the configuration as an argument: another alpha
compiles nothing, ``jax.vmap`` over a batch of them trains a whole path, and ``jax.grad`` reaches them.
"""

from dataclasses import dataclass, field, fields
from typing import Any

import jax.numpy as jnp

from jax_mmf.codes import CodeSolver, CoordinateDescent, default_code_solver, encode
from jax_mmf.constraints import Constraint, L2Ball
from jax_mmf.core import (
    as_real_array,
    check_count,
    check_methods,
    check_process,
    check_shape,
    register_configuration,
    short,
    short_fields,
    warn,
)
from jax_mmf.defaults import (
    FEWEST_BLOCKS,
    FORGETTING_SCALE,
    FORGETTING_SCALE_NONNEG_RIDGE,
    FORGETTING_SCALE_RIDGE,
    N_BLOCKS,
    NONNEG_RIDGE_STEP_TOL,
    STEP_MAX_ITER,
    STEP_TOL,
)
from jax_mmf.learning import step
from jax_mmf.learning.arguments import batch_of, check_finite, check_memory, mask_of, start_of, weights_of
from jax_mmf.learning.dictionary_update import BlockCoordinateDescent, DictionaryUpdate
from jax_mmf.learning.forgetting import Forgetting, ScaledForgetting
from jax_mmf.learning.initialization import Initialization, RandomSamples
from jax_mmf.learning.state import Info, State
from jax_mmf.learning.statistics import MaskedStatistics, Memory, Statistics
from jax_mmf.learning.subsampling import FeatureSubset, FullSubset
from jax_mmf.learning.subset import Subset
from jax_mmf.penalties import AnyPenalty, Lasso, check_penalty, has_closed_form, has_relative_alpha, is_ridge
from jax_mmf.typing import Array, ArrayLike, Key


@register_configuration
@dataclass(frozen=True, kw_only=True, repr=False)
class OnlineFactorization:
    """Online matrix factorization ``X ~ A D`` with stochastic subsampling of the features ([ICML16], [TSP18])::

        min over D    1/n sum_i  min over a_i   1/2 |x_i - a_i D|^2 + Omega(a_i),     gauge of each atom <= radius

    With all features in every step (the default), this is online matrix factorization [JMLR10].

    Attributes:
      n_components: k, number of atoms (static).
      penalty: Omega: `Ridge`, `Lasso`, `ElasticNet`, or any `Penalty` or `ProximalPenalty`; ``Lasso(0.1)`` by default.
      constraint: of the atoms: `L2Ball` (default), `L1Ball`, `ElasticNetBall`, `Simplex`, or any `Constraint`.
      subset: which features a step sees: `FullSubset` (default), `BlockSubset`, `UniformSubset`.
      forgetting: weight of a mini-batch: `ScaledForgetting`, `PowerForgetting`, `ConstantForgetting`. None (default)
        is ``ScaledForgetting(c)``, with c = 4 for ridge codes and full B, 32 for non-negative codes without an
        l1 penalty, and 8 otherwise (figures: docs/notes/defaults.md). `step_forgetting` is the rule that is used.
      statistics: estimators that codes are computed from: `MaskedStatistics` (default), `FullStatistics`,
        `SubsampledStatistics` (for many more features than atoms, see `default_solver`), or `AveragedStatistics`.
      partial_b: whether B is updated on the subset only, with counters per feature [ICML16] (static). Then a step needs
        only the subset of its samples, and costs r times less. If not [TSP18] (default), B is updated on all
        features, which needs whole samples, is far less noisy, and costs one product of codes and samples.
      dictionary_update: `BlockCoordinateDescent` (default); `ProjectedGradient`, for accelerators; or `GradientUpdate`
        with any optax transformation.
      code_solver: `Cholesky`, `CoordinateDescent`, `ActiveSet`, `FISTA`; None chooses by the penalty: `Cholesky` for
        ridge, `CoordinateDescent` for non-negative ridge, to a relative duality gap that falls with the weight of a
        batch in the moments, from 0.1 to 1e-3, `FISTA` to 1e-3 for a `ProximalPenalty`, and `ActiveSet` to 1e-3 for
        others.
      initialization: how the first dictionary is made from samples: `RandomSamples` (default), `RandomizedSVD`,
        `KMeansPlusPlus`.
      center: whether the model is ``X ~ 1 mu + A D`` (static). ``state.mean`` is mu, the mean of the samples seen so
        far. Each step adds its batch to the mean, and then subtracts the mean from the batch. Functions of a dictionary
        take centred samples: ``solver.encode(state.dictionary, x - state.mean)``.

    Raises:
      ValueError: for combinations that cannot work, and for numbers out of range; the message has the reason.
      TypeError: for a part that lacks a method; the message names it.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (20, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1), constraint=mmf.L2Ball())
      >>> state = solver.init(jax.random.key(1), samples=x)
      >>> state, info = solver.update(state, x)
      >>> state.dictionary.shape, info.codes.shape, int(state.n_samples)
      ((3, 8), (20, 3), 20)
    """

    n_components: int = field(metadata={"static": True})
    penalty: AnyPenalty = Lasso(0.1)
    constraint: Constraint = L2Ball()
    subset: FeatureSubset = FullSubset()
    forgetting: Forgetting | None = None
    statistics: Statistics = MaskedStatistics()
    partial_b: bool = field(default=False, metadata={"static": True})
    dictionary_update: DictionaryUpdate = BlockCoordinateDescent()
    code_solver: CodeSolver | None = None
    initialization: Initialization = RandomSamples()
    center: bool = field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        check_count("n_components", self.n_components)
        if not has_relative_alpha(self.penalty):  # which has no weights yet
            check_penalty(self.penalty)
        check_methods("constraint", self.constraint, "constraint", ("gauge", "project", "scale", "radius", "nonneg"))
        check_methods("subset", self.subset, "feature subset", ("draw", "reduction", "n_blocks"))
        if self.forgetting is not None:
            check_methods("forgetting", self.forgetting, "forgetting rule", ("weight",))
        needed = ("estimate", "init_memory", "needs_whole_samples", "needs_gram")
        check_methods("statistics", self.statistics, "pair of estimators", needed)
        check_methods("dictionary_update", self.dictionary_update, "dictionary update", ("init", "update"))
        check_methods("initialization", self.initialization, "initialization", ("__call__",))
        if self.code_solver is not None:
            check_methods("code_solver", self.code_solver, "code solver", ("solve",))
        n_blocks, reduction = self.subset.n_blocks, self.subset.reduction
        if self.partial_b and n_blocks is not None and reduction > 1:
            reason = (
                f"subset has n_blocks={n_blocks} with partial_b=True: features that are always seen together are "
                "factorized separately"
            )
            if n_blocks == 1:
                raise ValueError(f"{reason}, and the run fails; use n_blocks={N_BLOCKS}, or partial_b=False")
            if n_blocks < FEWEST_BLOCKS:
                warn(f"{reason}; use n_blocks={N_BLOCKS}, or partial_b=False")

    def __sklearn_clone__(self) -> "OnlineFactorization":
        """Serve `sklearn.base.clone`: a frozen object is a clone of itself."""
        return self

    def __repr__(self) -> str:
        """Show the parts that differ from the defaults."""
        default: dict[str, Any] = {f.name: f.default for f in fields(self)}
        always = ("n_components", "penalty", "constraint")
        return short_fields(self, [n for n, d in default.items() if n in always or short(getattr(self, n)) != short(d)])

    @property
    def needs_whole_samples(self) -> bool:
        """Whether a step reads features outside of its subset (static)."""
        return self.statistics.needs_whole_samples or not self.partial_b

    @property
    def step_forgetting(self) -> Forgetting:
        """The forgetting rule of a run: ``forgetting``, or the default for the penalty."""
        if self.forgetting is not None:
            return self.forgetting
        if not is_ridge(self.penalty):
            return ScaledForgetting(FORGETTING_SCALE)
        if not has_closed_form(self.penalty):
            return ScaledForgetting(FORGETTING_SCALE_NONNEG_RIDGE)
        return ScaledForgetting(FORGETTING_SCALE if self.partial_b else FORGETTING_SCALE_RIDGE)

    def batch_weight(self, n_before: Array, batch_size: int | Array) -> Array:
        """Weight of a mini-batch in the moments; arguments as in `Forgetting.weight`."""
        return self.step_forgetting.weight(n_before, batch_size)

    def step_code_solver(self, weight: Array) -> CodeSolver:
        """Return the code solver of a step whose batch has this weight in the moments: ``code_solver``, or the default.

        By default, non-negative codes without an l1 penalty are solved by a few sweeps from zero, to a tolerance that
        follows the weight. Such codes have fewer zeros than the optimal ones, and atoms are learned faster
        (figures: docs/notes/defaults.md). For other penalties this makes no difference, and exact codes cost no more.
        """
        if self.code_solver is not None:
            return self.code_solver
        if is_ridge(self.penalty) and not has_closed_form(self.penalty):
            return CoordinateDescent(tol=jnp.clip(weight, *NONNEG_RIDGE_STEP_TOL), max_iter=STEP_MAX_ITER)
        return default_code_solver(self.penalty, tol=STEP_TOL, max_iter=STEP_MAX_ITER)

    def init(
        self,
        key: Key,
        *,
        samples: ArrayLike | None = None,
        dictionary: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> State:
        """Return the state before the first step.

        Args:
          key: PRNG key of the run.
          samples: ``(m, p)`` with ``m >= n_components``, to make a dictionary from.
          dictionary: ``(k, p)``, to start from as it is; atoms outside of the constraint are projected.
          mask: of samples, as in `update`. A missing entry is replaced by the mean of the feature's other entries among
            the samples, or by zero without them.

        Returns:
          a state in the floating dtype of what was given.

        Raises:
          ValueError: unless exactly one of samples and dictionary is given, for shapes that do not fit, and for NaN or
            infinity (outside of `jax.jit`, where values are not known).
          TypeError: for arrays that do not hold real numbers.
        """
        if (samples is None) == (dictionary is None):
            raise ValueError(
                f"init needs exactly one of samples and dictionary, got {'neither' if samples is None else 'both'}"
            )
        if mask is not None and samples is None:
            raise ValueError("mask applies to samples, and init got a dictionary; leave mask out")
        k = self.n_components
        if dictionary is not None:
            given = as_real_array("dictionary", dictionary, ndim=(2,))
            check_shape("dictionary", given, (k, None), "(n_components, n_features)")
            check_finite("dictionary", given)
            return step.init_state(self, key, given, from_samples=False)
        given = as_real_array("samples", samples, ndim=(2,))
        weights = mask_of(mask, given, "(m, n_features)")
        check_finite("samples", given, weights)
        if given.shape[0] < k:
            raise ValueError(
                f"samples must be at least as many as n_components={k}, got {given.shape[0]}; pass more, use fewer "
                "components, or pass a dictionary"
            )
        return step.init_state(self, key, given, weights, from_samples=True)

    def init_memory(self, state: State, n_samples: int) -> Memory | None:
        """Return the memory that averaged statistics keep of n samples, whose rows `update` takes; None for others."""
        return self.statistics.init_memory(n_samples, self.n_components, state.dictionary.dtype)

    def draw_subset(self, state: State, *, ahead: int = 0) -> Subset:
        """Return the features that `update` would use.

        Args:
          state: before the step.
          ahead: 0 for the next step, 1 for the one after it, and so on: subsets do not depend on data.

        Returns:
          the subset.
        """
        check_process()
        return step.draw_subset(self, state.key, state.step + ahead, state.dictionary.shape[1])

    def update(
        self,
        state: State,
        x: ArrayLike,
        *,
        memory: Memory | None = None,
        codes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> tuple[State, Info]:
        """Make one step on a mini-batch of whole samples.

        Args:
          state: before the step.
          x: ``(b, p)``, or one sample ``(p,)``. Cast to the state's dtype. Outside of transformations, batches of all
            sizes up to the next power of two share a compiled program; inside, each size has its own.
          memory: rows of the samples, with averaged statistics.
          codes: ``(b, k)`` to start the code solver from; zeros by default.
          sample_weight: ``(b,)`` weights >= 0 of the samples in the objective, ones by default. A sample of weight zero
            leaves no trace in the moments. Means still divide by the number of samples, forgetting counts samples, and
            the code of a sample does not depend on its weight.
          mask: ``(b, p)``, or ``(p,)`` for all samples: weights >= 0 of the squared error of each entry, zero for a
            missing one, whose value in ``x`` may be NaN. It needs ``partial_b=True`` (docs/guides/missing_data.md).

        Returns:
          the state after the step, and an `Info`.

        Raises:
          ValueError: for shapes that do not fit; if memory is missing or not wanted; for weights that are negative or
            not finite; and for a mask with full B, or with statistics that take none.
          TypeError: if x does not hold real numbers.
        """
        x = batch_of("x", x, state, state.dictionary.shape[1], "(batch, n_features)")
        check_memory(self, memory, x.shape[0])
        weights = weights_of(self, sample_weight, mask, x)
        return step.update(self, state, x, memory, start_of(self, codes, state, x.shape[0]), weights)

    def partial_update(
        self,
        state: State,
        x_subset: ArrayLike,
        subset: Subset,
        *,
        memory: Memory | None = None,
        codes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> tuple[State, Info]:
        """Make one step on the features of a subset alone, with the result of `update` on the whole samples.

        Args:
          state: before the step.
          x_subset: ``(b, s)``, the columns ``subset.indices`` of the samples.
          subset: what `draw_subset` gave for this step.
          memory: as in `update`.
          codes: as in `update`.
          sample_weight: as in `update`.
          mask: ``(b, s)`` or ``(s,)``, of the entries of ``x_subset``.

        Returns:
          the state after the step, and an `Info`.

        Raises:
          ValueError: if the statistics need whole samples, and as `update` does.
          TypeError: as `update` does.
        """
        if self.needs_whole_samples:
            what = "partial_b=False" if not self.partial_b else f"statistics={self.statistics!r}"
            raise ValueError(f"partial_update sees only a subset of the features, and {what} needs all; use update")
        check_methods("subset", subset, "subset", ("indices", "gather", "scatter"))
        if subset.n_features != state.dictionary.shape[1]:
            raise ValueError(f"subset must be of {state.dictionary.shape[1]} features, got one of {subset.n_features}")
        x_subset = batch_of("x_subset", x_subset, state, subset.size, "(batch, size of the subset)")
        check_memory(self, memory, x_subset.shape[0])
        weights = weights_of(self, sample_weight, mask, x_subset)
        start = start_of(self, codes, state, x_subset.shape[0])
        return step.partial_update(self, state, x_subset, subset, memory, start, weights)

    def encode(
        self, dictionary: ArrayLike, x: ArrayLike, *, mask: ArrayLike | None = None, solver: CodeSolver | None = None
    ) -> Array:
        """Compute codes of samples with this penalty, as `jax_mmf.encode` does.

        ``code_solver`` applies to the steps of learning only, whose codes are less accurate. This method uses
        ``solver``, by default that of `jax_mmf.encode`.
        """
        return encode(dictionary, x, self.penalty, mask=mask, solver=solver)

    def revive(self, key: Key, state: State, samples: ArrayLike, *, mask: ArrayLike | None = None) -> State:
        """Replace unused atoms by random samples.

        Args:
          key: PRNG key of the choice.
          state: of the run.
          samples: ``(m, p)``, whole.
          mask: of samples, as in `init`.

        Returns:
          a state whose unused atoms are samples, scaled to the constraint, with empty moments; the others are as
          before.

        Raises:
          ValueError: for shapes that do not fit.
        """
        samples = batch_of("samples", samples, state, state.dictionary.shape[1], "(m, n_features)")
        return step.revive(self, key, state, samples, mask_of(mask, samples, "(m, n_features)"))
