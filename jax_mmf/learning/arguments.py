"""Checks and conversions of the arguments of a solver's methods."""

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.core import as_real_array, check_shape
from jax_mmf.learning.minibatch import Weights, check_weights
from jax_mmf.learning.state import State
from jax_mmf.learning.statistics import Memory, Statistics
from jax_mmf.typing import Array, ArrayLike


class _Solver(Protocol):
    """The attributes of a solver that arguments must agree with."""

    @property
    def n_components(self) -> int: ...

    @property
    def partial_b(self) -> bool: ...

    @property
    def statistics(self) -> Statistics: ...


def batch_of(name: str, x: ArrayLike, state: State, width: int, meaning: str) -> Array:
    """Return samples, or one sample ``(width,)``, as an array ``(b, width)`` in the dtype of the state."""
    x = as_real_array(name, x, ndim=(1, 2), dtype=state.dictionary.dtype)
    x = x[None] if x.ndim == 1 else x
    check_shape(name, x, (None, width), meaning)
    if x.shape[0] == 0:
        raise ValueError(f"{name} must hold at least one sample, got shape {x.shape}")
    return x


def weights_of(solver: _Solver, sample_weight: ArrayLike | None, mask: ArrayLike | None, x: Array) -> Weights:
    """Return the weights of a batch ``(b, s)``."""
    if mask is not None:
        check_takes_mask(solver)
    if sample_weight is not None:
        sample_weight = as_real_array("sample_weight", sample_weight, ndim=(1,), dtype=x.dtype)
        check_shape("sample_weight", sample_weight, x.shape[:1], "(batch,)")
        check_weights("sample_weight", sample_weight)
    entries = mask_of(mask, x, "the shape of the samples")
    return Weights(sample_weight, None if entries is None else jnp.broadcast_to(entries, x.shape))


def mask_of(mask: ArrayLike | None, x: Array, meaning: str) -> Array | None:
    """Return a mask of samples ``(m, p)``, either ``(p,)`` or ``(m, p)``, or None."""
    if mask is None:
        return None
    weights = as_real_array("mask", mask, ndim=(1, 2), dtype=x.dtype)
    check_shape("mask", weights, x.shape[-weights.ndim :], meaning if weights.ndim == 2 else "(n_features,)")
    check_weights("mask", weights)
    return weights


def check_takes_mask(solver: _Solver) -> None:
    """Raise ValueError, with the reason, if steps of a solver do not take a mask."""
    if not solver.partial_b:
        raise ValueError(
            "mask needs partial_b=True: with missing entries, the number of samples differs between features, and "
            "full B, the default, averages all features over the same samples"
        )
    if not getattr(solver.statistics, "takes_mask", False):
        raise ValueError(
            f"statistics={solver.statistics!r} takes no mask; use MaskedStatistics(), FullStatistics() or "
            "SubsampledStatistics(...)"
        )


def check_memory(solver: _Solver, memory: Memory | None, batch: int) -> None:
    """Raise ValueError if the statistics need the memory of a batch and it is missing, or the other way round."""
    statistics = solver.statistics
    remembers = statistics.init_memory(0, 1, jnp.dtype("float32")) is not None
    if remembers and memory is None:
        raise ValueError(
            f"statistics={statistics!r} needs memory: the rows of the batch out of solver.init_memory(...)"
        )
    if memory is not None and not remembers:
        raise ValueError(f"memory must be None with statistics={statistics!r}, which keep no memory")
    if memory is not None:
        check_shape("memory.beta", memory.beta, (batch, solver.n_components), "(batch, n_components)")


def start_of(solver: _Solver, codes: ArrayLike | None, state: State, batch: int) -> Array | None:
    """Return codes ``(b, k)`` to start from, or None."""
    if codes is None:
        return None
    codes = as_real_array("codes", codes, ndim=(2,), dtype=state.dictionary.dtype)
    check_shape("codes", codes, (batch, solver.n_components), "(batch, n_components)")
    return codes


def check_finite(name: str, array: Array, mask: Array | None = None) -> None:
    """Raise ValueError for NaN and infinity in an array that is not traced, except where a mask is zero."""
    if isinstance(array, jax.core.Tracer) or isinstance(mask, jax.core.Tracer):
        return
    values = np.asarray(array)  # without a copy on CPU; NumPy compiles nothing
    if mask is not None:
        values = np.where(np.asarray(mask) == 0, 0, values)
    if not np.isfinite([values.min(initial=0), values.max(initial=0)]).all():  # both propagate NaN
        raise ValueError(f"{name} must be finite, got nan or infinity; clean or impute the data first")
