"""Dictionaries that are learned a mini-batch at a time, as transformers of scikit-learn."""

import dataclasses
from abc import abstractmethod
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.codes import objective_per_sample, power_of_two
from jax_mmf.constraints import Constraint
from jax_mmf.core import as_real_array, check_count, check_shape, default_device
from jax_mmf.defaults import INITIAL_SAMPLES_PER_ATOM
from jax_mmf.estimators.base import DictionaryTransformer
from jax_mmf.estimators.convergence import Convergence
from jax_mmf.estimators.data import dtype_of, loaded, n_samples_of, observed, sample_weights, spread_samples
from jax_mmf.estimators.settings import computing, key_of
from jax_mmf.io import ObservedEntries
from jax_mmf.learning import OnlineFactorization, State, default_batch_size, default_solver, default_subset, imputed
from jax_mmf.penalties import AnyPenalty, check_penalty, has_relative_alpha, resolve_alpha
from jax_mmf.training import fit
from jax_mmf.typing import HostArray


class OnlineEstimator(DictionaryTransformer):
    """Base of the estimators that learn a dictionary from mini-batches.

    A subclass has the parameters below, and makes the penalty of the codes and the constraint of the atoms from its
    other parameters.
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

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn the dictionary from samples.

        Args:
          X: ``(n, p)`` samples: an array, frame, SciPy sparse matrix, memory map, `h5py.Dataset` or
            `jax_mmf.io.Source`. The last four are read a batch at a time, in memory that does not grow with n.
          y: ignored.
          sample_weight: ``(n,)`` weights >= 0 of the samples in the objective; ones by default. The first dictionary
            does not depend on them.

        Returns:
          the estimator.

        Raises:
          ValueError: for NaN or infinity, with the first place, for fewer samples than components, for parameters
            out of range, and for another n_components, center, missing_values or dtype with ``warm_start=True``.
        """
        goes_on = self.warm_start and hasattr(self, "state_")
        X = self._validated(X, reset=not goes_on)
        n_samples = n_samples_of(X)
        weights = sample_weights(sample_weight, n_samples)
        dtype = self._dtype(X, goes_on=goes_on)
        with computing(dtype, self.device):
            solver = self._solver(goes_on=goes_on)
            size = default_batch_size(solver) if self.batch_size is None else self.batch_size
            check_count("batch_size", size)
            check_count("max_iter", self.max_iter)
            size = min(size, power_of_two(n_samples))
            state = self.state_ if goes_on else self._first_state(solver, n_samples, dtype)
            if state is not None and has_relative_alpha(solver.penalty):
                few = spread_samples(X, INITIAL_SAMPLES_PER_ATOM * solver.n_components).astype(dtype)
                solver = _with_alpha_of(solver, state, few, observed(few, self.missing_values))
            n_per_epoch = -(-n_samples // size)
            first_step = 0 if state is None else int(state.step)
            rule = Convergence(self.tol, self.max_no_improvement, size, n_samples)
            last_step = (
                first_step + self.max_iter * n_per_epoch
            )  # an earlier fit may end within an epoch of these samples
            result = fit(
                solver,
                X,
                key=key_of(self.random_state) if state is None else None,
                state=state,
                n_epochs=self.max_iter + -(-first_step // n_per_epoch),
                batch_size=size,
                sample_weight=weights,
                mask=None if self.missing_values is None else ObservedEntries(X, self.missing_values),
                evaluate_every=max(1, n_per_epoch // 4) if self.max_no_improvement is None else 1,
                callbacks=[*([rule] if rule.active else []), lambda event: event.step >= last_step],
                shuffle=bool(self.shuffle),
                dtype=dtype,
                verbose=bool(self.verbose),
            )
            self._learned(result.solver, result.state)
        self._remember([(record.step, record.objective) for record in result.history], goes_on=goes_on)
        self.n_iter_ = -(-(self.n_steps_ - first_step) // n_per_epoch)
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Make one step on a mini-batch.

        Args:
          X: ``(b, p)`` samples, in memory at once. Without ``dict_init``, the first call needs at least
            ``n_components`` samples, to make a dictionary from.
          y: ignored.
          sample_weight: ``(b,)`` as in `fit`.

        Returns:
          the estimator.
        """
        goes_on = hasattr(self, "state_")
        X = self._validated(X, reset=not goes_on)
        weights = sample_weights(sample_weight, n_samples_of(X))
        dtype = self._dtype(X, goes_on=goes_on)
        with computing(dtype, self.device):
            x = as_real_array("X", loaded(X, allow_nan=self._allow_nan), ndim=(2,), dtype=dtype)
            mask = observed(np.asarray(x), self.missing_values)
            solver = self._solver(goes_on=goes_on)
            state = self.state_ if goes_on else self._first_state(solver, len(x), dtype, " in the first mini-batch")
            if state is None:
                state = solver.init(key_of(self.random_state), samples=x, mask=mask)
            solver = _with_alpha_of(solver, state, x, mask)
            state, info = solver.update(state, x, sample_weight=weights, mask=mask)
            centred = x if state.mean is None else x - state.mean
            each = objective_per_sample(state.dictionary, centred, info.codes, solver.penalty, mask)
            value = float(each.mean())
            self._learned(solver, state)
        self._remember([(self.n_steps_, value)], goes_on=goes_on)
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

    def _solver(self, *, goes_on: bool) -> OnlineFactorization:
        """Return the solver by the parameters."""
        p = self.n_features_in_
        k = p if self.n_components is None else self.n_components
        check_count("n_components", k)
        penalty: Any = self._penalty() if self.penalty is None else self.penalty
        if has_relative_alpha(penalty):
            if goes_on:  # the value that learning began with
                known = getattr(self.solver_.penalty, "alpha", penalty.alpha)
                penalty = dataclasses.replace(penalty, alpha=known)
        else:
            check_penalty(penalty)
        constraint = self._constraint() if self.constraint is None else self.constraint
        options: dict[str, Any] = {"center": bool(self.center)}
        if self.missing_values is not None:
            options["partial_b"] = True  # the number of samples differs between features
        if self.reduction != "auto":
            if isinstance(self.reduction, str):
                raise ValueError(f"reduction must be 'auto' or a number >= 1, got {self.reduction!r}")
            options["subset"] = default_subset(self.reduction, p, k, partial_b="partial_b" in options)
        solver = default_solver(k, penalty, constraint, n_features=p, platform=default_device().platform, **options)
        if goes_on:
            _check_unchanged("n_components", self.solver_.n_components, k)
            _check_unchanged("center", self.solver_.center, solver.center)
            if solver.partial_b != self.solver_.partial_b:
                now = self.missing_values
                _check_unchanged("missing_values", "None" if now is not None else "a value", now)
        return solver

    def _dtype(self, X: Any, *, goes_on: bool) -> np.dtype[Any]:
        """Return the dtype to compute in."""
        if not goes_on:
            return dtype_of(X, self.dtype)
        if self.dtype is not None:
            _check_unchanged("dtype", self.components_.dtype.name, dtype_of(X, self.dtype).name)
        return self.state_.dictionary.dtype

    def _first_state(self, solver: OnlineFactorization, n_samples: int, dtype: Any, where: str = "") -> State | None:
        """Return the state of a given initial dictionary; None if it comes from the samples."""
        k = solver.n_components
        if self.dict_init is None:
            if n_samples < k:
                raise ValueError(
                    f"n_components={k} is more than n_samples={n_samples}{where}: atoms are chosen among the samples. "
                    "Use fewer components, or pass more samples or an initial dictionary, dict_init"
                )
            return None
        given = as_real_array("dict_init", self.dict_init, ndim=(2,), dtype=dtype)
        check_shape("dict_init", given, (k, self.n_features_in_), "(n_components, n_features)")
        return solver.init(key_of(self.random_state), dictionary=given)

    def _learned(self, solver: OnlineFactorization, state: State) -> None:
        """Set the attributes that describe a state, whose arrays are moved to the host."""
        host: Any = jax.tree.map(np.asarray, state._replace(key=None))  # type: ignore[arg-type]
        self.state_, self.solver_ = host._replace(key=state.key), solver
        self.components_ = np.array(self.state_.dictionary)  # which users may change
        if self.state_.mean is not None:
            self.mean_ = np.array(self.state_.mean)
        self.n_components_, self.n_steps_ = len(self.components_), int(self.state_.step)

    def _remember(self, records: list[tuple[int, float]], *, goes_on: bool) -> None:
        """Set or continue the history of the objective."""
        found = np.array(records, [("step", np.int64), ("objective", np.float64)])
        self.objective_ = np.concatenate([self.objective_, found]) if goes_on else found


def _with_alpha_of(solver: OnlineFactorization, state: State, x: Any, mask: Any) -> OnlineFactorization:
    """Replace a `RelativeAlpha` by its value for the first dictionary and some samples, as `jax_mmf.fit` does."""
    if not has_relative_alpha(solver.penalty):
        return solver
    there = np.isfinite(x) if mask is None else np.isfinite(x) & (mask != 0)  # learning names what is not finite
    samples = imputed(jnp.asarray(x), jnp.asarray(there))
    samples = samples if state.mean is None else samples - samples.mean(0)
    return dataclasses.replace(solver, penalty=resolve_alpha(solver.penalty, state.dictionary, samples))


def _check_unchanged(name: str, before: Any, now: Any) -> None:
    """Raise ValueError if a parameter that determines the state has changed since learning began."""
    if before != now:
        raise ValueError(
            f"{name} must not change while learning continues, with warm_start=True or partial_fit: it was {before}, "
            f"got {now}. Set warm_start=False and call fit to start again, or clone the estimator"
        )
