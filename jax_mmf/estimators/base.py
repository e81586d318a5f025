"""What the estimators share: codes of a dictionary, and learning one online."""

import dataclasses
from abc import abstractmethod
from typing import Any, Self

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from jax_mmf.codes import power_of_two
from jax_mmf.constraints import Constraint
from jax_mmf.core import as_real_array, check_count, check_shape, default_device
from jax_mmf.estimators.convergence import Convergence
from jax_mmf.estimators.data import dtype_of, n_samples_of, validated
from jax_mmf.estimators.settings import computing, key_of
from jax_mmf.learning import OnlineFactorization, State, default_batch_size, default_solver, default_subset
from jax_mmf.penalties import AnyPenalty, check_penalty, has_relative_alpha, resolve_alpha
from jax_mmf.training import FitResult, encode, explained_variance, fit, objective
from jax_mmf.typing import HostArray


class DictionaryTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base of the estimators that encode samples in a dictionary, ``components_``."""

    components_: HostArray
    device: str | None

    def transform(self, X: Any) -> Any:
        """Compute the codes of samples in the dictionary.

        Args:
          X: ``(n, p)`` samples: an array, frame, SciPy sparse matrix, memory map, `h5py.Dataset` or
            `jax_mmf.io.Source`. The last four are read a batch at a time.

        Returns:
          ``(n, k)`` codes in the dtype of ``components_``; a frame after ``set_output``.
        """
        check_is_fitted(self)
        X = validated(self, X, reset=False)
        dictionary = self._dictionary(X)
        with computing(dictionary.dtype, self.device):
            return np.asarray(encode(dictionary, X, self._transform_penalty()))

    def inverse_transform(self, X: Any) -> HostArray:
        """Return the samples that codes stand for, ``X @ components_``.

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
        return codes @ self.components_

    def score(self, X: Any, y: Any = None) -> float:
        """Return the share of the sum of squares of samples that their codes explain, ``1 - |X - A D|^2 / |X|^2``.

        Args:
          X: ``(n, p)`` samples, as in `transform`.
          y: ignored.

        Returns:
          at most 1; higher is better.
        """
        check_is_fitted(self)
        X = validated(self, X, reset=False)
        dictionary = self._dictionary(X)
        with computing(dictionary.dtype, self.device):
            return float(explained_variance(dictionary, X, self._transform_penalty()))

    def _dictionary(self, X: Any) -> HostArray:
        """Return the dictionary in the dtype of the codes of samples."""
        return self.components_

    @abstractmethod
    def _transform_penalty(self) -> AnyPenalty:
        """Return the penalty of the codes of `transform`."""

    @property
    def _n_features_out(self) -> int:
        return int(self.components_.shape[0])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class OnlineEstimator(DictionaryTransformer):
    """Base of the estimators that learn a dictionary from mini-batches.

    A subclass has the parameters of this class, and makes the penalty of the codes and the constraint of the atoms from
    its own.
    """

    n_components: int | None
    max_iter: int
    batch_size: int | None
    shuffle: bool
    dict_init: Any
    reduction: float | str
    constraint: Constraint | None
    penalty: AnyPenalty | None
    tol: float
    max_no_improvement: int | None
    random_state: Any
    verbose: bool
    warm_start: bool
    dtype: Any
    objective_: HostArray

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the dictionary from samples.

        Args:
          X: ``(n, p)`` samples: an array, frame, SciPy sparse matrix, memory map, `h5py.Dataset` or
            `jax_mmf.io.Source`. The last four are read a batch at a time, so that memory does not grow with n.
          y: ignored.

        Returns:
          the estimator.

        Raises:
          ValueError: for NaN or infinity, with the first place, for fewer samples than components, and for parameters
            out of range.
        """
        goes_on = self.warm_start and hasattr(self, "state_")
        X = self._validated(X, reset=not goes_on)
        n_samples = n_samples_of(X)
        dtype = self.components_.dtype if goes_on else dtype_of(X, self.dtype)
        with computing(dtype, self.device):
            solver = self._solver(goes_on=goes_on)
            size = default_batch_size(solver) if self.batch_size is None else self.batch_size
            check_count("batch_size", size)
            check_count("max_iter", self.max_iter)
            size = min(size, power_of_two(n_samples))
            state = self.state_ if goes_on else self._first_state(solver, n_samples, dtype)
            n_per_epoch = -(-n_samples // size)
            rule = Convergence(self.tol, self.max_no_improvement, size, n_samples)
            result = fit(
                solver,
                X,
                **({"key": key_of(self.random_state)} if state is None else {"state": state}),
                n_epochs=self.max_iter + (0 if state is None else -(-int(state.step) // n_per_epoch)),
                batch_size=size,
                evaluate_every=1 if self.max_no_improvement is not None else None,
                callbacks=[rule] if rule.active else [],
                shuffle=bool(self.shuffle),
                dtype=dtype,
                verbose=bool(self.verbose),
            )
            before = int(state.step) if state is not None else 0
            self._keep(result, history=self.objective_ if goes_on else None)
        self.n_iter_ = -(-(self.n_steps_ - before) // n_per_epoch)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Make one step on a mini-batch.

        Args:
          X: ``(b, p)`` samples, in memory at once. Without ``dict_init``, the first call needs at least
            ``n_components`` samples, to make a dictionary from.
          y: ignored.

        Returns:
          the estimator.
        """
        goes_on = hasattr(self, "state_")
        X = self._validated(X, reset=not goes_on)
        dtype = self.components_.dtype if goes_on else dtype_of(X, self.dtype)
        with computing(dtype, self.device):
            solver = self._solver(goes_on=goes_on)
            x = as_real_array(
                "X", X if hasattr(X, "shape") else X.read(np.arange(n_samples_of(X))), ndim=(2,), dtype=dtype
            )
            state = self.state_ if goes_on else self._first_state(solver, len(x), dtype)
            if state is None:
                state = solver.init(key_of(self.random_state), samples=x)
            if has_relative_alpha(solver.penalty):
                penalty = resolve_alpha(solver.penalty, state.dictionary, x)
                solver = dataclasses.replace(solver, penalty=penalty)
            state, _ = solver.update(state, x)
            value = float(objective(state.dictionary, x, solver.penalty))
            self._set_learned(solver, state)
        record = _history([(self.n_steps_, value)])
        self.objective_ = np.concatenate([self.objective_, record]) if goes_on else record
        self.n_iter_ = 1
        return self

    @abstractmethod
    def _penalty(self) -> AnyPenalty:
        """Return the penalty of the codes in learning, by the parameters other than ``penalty``."""

    @abstractmethod
    def _constraint(self) -> Constraint:
        """Return the constraint of the atoms, by the parameters other than ``constraint``."""

    def _transform_penalty(self) -> AnyPenalty:
        return self.solver_.penalty

    def _validated(self, X: Any, *, reset: bool) -> Any:
        return validated(self, X, reset=reset)

    def _solver(self, *, goes_on: bool) -> OnlineFactorization:
        """Return the solver by the parameters."""
        k, p = self.n_features_in_ if self.n_components is None else self.n_components, self.n_features_in_
        penalty = self._penalty() if self.penalty is None else self.penalty
        if has_relative_alpha(penalty):
            penalty = self.solver_.penalty if goes_on else penalty
        else:
            check_penalty(penalty)
        constraint = self._constraint() if self.constraint is None else self.constraint
        check_count("n_components", k)
        options: dict[str, Any] = {}
        if self.reduction != "auto":
            if isinstance(self.reduction, str):
                raise ValueError(f"reduction must be 'auto' or a number >= 1, got {self.reduction!r}")
            options["subset"] = default_subset(self.reduction, p, k, partial_b=False)
        platform = default_device().platform
        return default_solver(k, penalty, constraint, n_features=p, platform=platform, **options)

    def _first_state(self, solver: OnlineFactorization, n_samples: int, dtype: Any) -> State | None:
        """Return the state of a given initial dictionary; None if it comes from the samples."""
        k = solver.n_components
        if self.dict_init is None:
            if n_samples < k:
                raise ValueError(
                    f"n_components={k} is more than n_samples={n_samples}: atoms are chosen among the samples. Use "
                    "fewer components, give more samples, or an initial dictionary, dict_init"
                )
            return None
        given = as_real_array("dict_init", self.dict_init, ndim=(2,), dtype=dtype)
        check_shape("dict_init", given, (k, self.n_features_in_), "(n_components, n_features)")
        return solver.init(key_of(self.random_state), dictionary=given)

    def _keep(self, result: FitResult, history: HostArray | None) -> None:
        self._set_learned(result.solver, result.state)
        found = _history([(record.step, record.objective) for record in result.history])
        self.objective_ = found if history is None else np.concatenate([history, found])

    def _set_learned(self, solver: OnlineFactorization, state: State) -> None:
        """Set the attributes that describe a state, whose arrays are moved to the host."""
        key = state.key
        host: Any = jax.tree.map(np.asarray, state._replace(key=None))  # type: ignore[arg-type]
        self.state_, self.solver_ = host._replace(key=key), solver
        self.components_ = self.state_.dictionary
        self.n_components_, self.n_steps_ = len(self.components_), int(self.state_.step)


def _history(pairs: list[tuple[int, float]]) -> HostArray:
    return np.array(pairs, [("step", np.int64), ("objective", np.float64)])
