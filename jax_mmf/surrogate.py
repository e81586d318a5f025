"""The surrogate: statistics C and B, whose quadratic function of the dictionary stands for all samples seen::

    1/2 tr(D^T C D) - tr(D^T B),     C ~ mean of a^T a,     B ~ mean of a^T x

The means are weighted: see `jax_mmf.forgetting`.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jax_mmf.linalg import matmul
from jax_mmf.subsampling import Subset
from jax_mmf.typing import Array

_TILE = 8192  # features of B that are updated at once


class Surrogate(NamedTuple):
    """Statistics of all codes and samples so far, forgetting applied.

    Attributes:
      c: ``(k, k)`` second moments of the codes.
      b: ``(k, p)`` products of codes and samples.
      feature_counts: ``(p,)`` int32, the number of samples in which each feature was seen, or None if all are always.
    """

    c: Array
    b: Array
    feature_counts: Array | None


class BatchMoments(NamedTuple):
    """Moments of one mini-batch: ``c`` ``(k, k)``, ``b`` ``(k, s)`` on the features of the subset."""

    c: Array
    b: Array


def init_surrogate(n_components: int, n_features: int, dtype: jnp.dtype, *, partial_b: bool) -> Surrogate:
    """A surrogate that has seen nothing. With ``partial_b``, it counts how often each feature was seen."""
    return Surrogate(
        c=jnp.zeros((n_components, n_components), dtype),
        b=jnp.zeros((n_components, n_features), dtype),
        feature_counts=jnp.zeros((n_features,), jnp.int32) if partial_b else None,
    )


def update_surrogate(
    surrogate: Surrogate,
    codes: Array,
    x: Array | None,
    x_subset: Array,
    subset: Subset,
    weight: Array,
    n_seen: Array,
) -> tuple[Surrogate, Array, BatchMoments]:
    """Add a mini-batch.

    Args:
      surrogate: before the batch. If it counts features, B is updated on the subset only, feature j with the weight
        ``min(1, weight n_seen / n_j)`` ([ICML16]); else on all features with ``weight`` ([TSP18]).
      codes: ``(b, k)``.
      x: ``(b, p)`` whole samples; not looked at if the surrogate counts features.
      x_subset: ``(b, s)``.
      subset: the features of ``x_subset``.
      weight: scalar, of the batch.
      n_seen: scalar, the number of samples seen, the batch included.

    Returns:
      the surrogate, its B on the subset ``(k, s)``, and the moments of the batch.
    """
    size = codes.shape[0]
    c_batch = matmul(codes.T, codes) / size
    c = (1 - weight) * surrogate.c + weight * c_batch
    if surrogate.feature_counts is not None:
        b_batch = matmul(codes.T, x_subset) / size
        seen = subset.gather(surrogate.feature_counts) + size
        share = jnp.minimum(1, weight * n_seen.astype(weight.dtype) / seen.astype(weight.dtype))
        b_subset = (1 - share) * subset.gather(surrogate.b) + share * b_batch
        b_subset = subset.drop_invalid(b_subset)
        counts = subset.scatter(surrogate.feature_counts, seen)
        return Surrogate(c, subset.scatter(surrogate.b, b_subset), counts), b_subset, BatchMoments(c_batch, b_batch)
    assert x is not None
    b = _add_moments(surrogate.b, (weight / size * codes).T, x, 1 - weight)
    # Computed again for what updates the dictionary by the mini-batch alone; XLA drops it for all others.
    b_batch = matmul(codes.T, x_subset) / size
    return Surrogate(c, b, None), subset.gather(b), BatchMoments(c_batch, b_batch)


def _add_moments(b: Array, left: Array, x: Array, decay: Array) -> Array:
    """``decay b + left x``, a tile of the features at a time: ``(k, p), (k, n), (n, p) -> (k, p)``.

    All at once, the product would be written to memory before it is added: as large as B, and more than twice as slow
    on CPU where B does not fit in cache.
    """
    p = b.shape[1]

    def add(first: Array | int, b: Array, width: int) -> Array:
        take = lambda array: lax.dynamic_slice_in_dim(array, first, width, 1)  # noqa: E731
        return lax.dynamic_update_slice_in_dim(b, decay * take(b) + matmul(left, take(x)), first, 1)

    n_tiles = p // _TILE
    if n_tiles > 0:
        b = lax.fori_loop(0, n_tiles, lambda i, b: add(i * _TILE, b, _TILE), b)
    return add(n_tiles * _TILE, b, p % _TILE) if p % _TILE else b
