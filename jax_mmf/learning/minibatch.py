"""A mini-batch as a step uses it: weights per sample and per entry, missing entries, and the running mean."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.learning.subset import Subset
from jax_mmf.typing import Array, HostArray


class Weights(NamedTuple):
    """Weights of a mini-batch.

    Attributes:
      samples: ``(b,)`` weights >= 0 of the samples in the moments, or None for ones.
      entries: ``(b, p)`` or ``(b, s)`` weights >= 0 of the entries, zero for a missing one, or None for ones.
    """

    samples: Array | None = None
    entries: Array | None = None


NO_WEIGHTS = Weights()


class MiniBatch(NamedTuple):
    """Samples and weights of a step. Missing entries are zeros.

    Attributes:
      x: ``(b, p)`` whole samples, or None if the step needs its subset only.
      x_subset: ``(b, s)``.
      sample_weight: ``(b,)``, or None for ones.
      mask: ``(b, p)`` for ``x``, or None.
      mask_subset: ``(b, s)`` for ``x_subset``, or None. Columns that are not valid are zeros.
    """

    x: Array | None
    x_subset: Array
    sample_weight: Array | None = None
    mask: Array | None = None
    mask_subset: Array | None = None


def whole_batch(x: Array, weights: Weights, subset: Subset, *, needs_whole: bool) -> MiniBatch:
    """Make a mini-batch of whole samples ``(b, p)``."""
    mask = weights.entries
    x = without_missing(x, mask)
    of_subset = None if mask is None else subset.gather(mask)
    if not needs_whole:
        return MiniBatch(None, subset.gather(x), weights.samples, None, of_subset)
    return MiniBatch(x, subset.gather(x), weights.samples, mask, of_subset)


def partial_batch(x_subset: Array, weights: Weights, subset: Subset) -> MiniBatch:
    """Make a mini-batch of the features of a subset ``(b, s)``."""
    mask = None if weights.entries is None else subset.drop_invalid(weights.entries)
    return MiniBatch(None, subset.drop_invalid(without_missing(x_subset, mask)), weights.samples, None, mask)


def without_missing(x: Array, mask: Array | None) -> Array:
    """Replace missing entries by zeros. A product of NaN and zero would be NaN, in derivatives too."""
    return x if mask is None else jnp.where(mask == 0, 0, x)


def imputed(samples: Array, mask: Array | None) -> Array:
    """Replace missing entries by the mean of the feature's other entries, or by zero without them.

    Args:
      samples: ``(m, p)``.
      mask: ``(p,)`` or ``(m, p)``, zero for a missing entry; None returns the samples.
    """
    if mask is None:
        return samples
    there = jnp.broadcast_to(mask, samples.shape) != 0
    known = jnp.where(there, samples, 0)
    return jnp.where(there, known, known.sum(0) / jnp.maximum(there.sum(0), 1).astype(samples.dtype))


def centred(
    batch: MiniBatch, mean: Array, mean_weight: Array, subset: Subset, n_samples: int | Array
) -> tuple[MiniBatch, Array, Array]:
    """Add a mini-batch to the running mean, then subtract the mean from it.

    Args:
      batch: of the step.
      mean: ``(p,)`` before the step.
      mean_weight: ``(p,)`` sum of the weights of the entries that each mean is of.
      subset: of the step. Without whole samples, the means of other features stay.
      n_samples: number of rows that are samples; those after them are padding.

    Returns:
      the centred mini-batch, whose missing entries and padding are zeros, the mean, and the sum of its weights.
    """
    whole = batch.x is not None
    x, mask = (batch.x, batch.mask) if whole else (batch.x_subset, batch.mask_subset)
    assert x is not None
    before, total = (mean, mean_weight) if whole else (subset.gather(mean), subset.gather(mean_weight))
    here = jnp.arange(x.shape[0]) < n_samples
    weights = here.astype(x.dtype) if batch.sample_weight is None else jnp.where(here, batch.sample_weight, 0)
    entries = weights[:, None] if mask is None else weights[:, None] * mask
    total = total + entries.sum(0)
    moved = before + jnp.sum(entries * (x - before), 0) / jnp.where(total > 0, total, 1)
    kept = here[:, None] if mask is None else here[:, None] & (mask != 0)
    x = jnp.where(kept, x - moved, 0)
    if whole:
        return batch._replace(x=x, x_subset=subset.gather(x)), moved, total
    batch = batch._replace(x_subset=subset.drop_invalid(x))
    return batch, subset.scatter(mean, moved), subset.scatter(mean_weight, total)


def check_weights(name: str, weights: Array | HostArray | None) -> None:
    """Raise ValueError unless weights are finite and at least zero; weights that are traced pass unchecked."""
    if weights is None or isinstance(weights, jax.core.Tracer):
        return
    values = np.asarray(weights)
    if not (values.min(initial=0) >= 0 and np.isfinite(values.max(initial=0))):  # both propagate NaN
        place = tuple(int(i) for i in np.argwhere(~((values >= 0) & np.isfinite(values)))[0])
        raise ValueError(f"{name} must hold finite weights >= 0, got {values[place]} at {place}")
