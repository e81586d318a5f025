"""The surrogate: statistics C and B, whose quadratic function of the dictionary stands for all samples seen::

    1/2 tr(D^T C D) - tr(D^T B),     C ~ mean of a^T a,     B ~ mean of a^T x

The means are weighted: see `jax_mmf.forgetting`.

Partial B. Where a step sees a subset of the features only, feature j is in fewer samples than C is made of. As
published [ICML16], column j of B is the mean over those samples. It is then C_j D_j, with the second moments C_j of the
codes of its own samples, and noise; but atoms are solved for with C. The difference (C - C_j) D_j is there even in data
without noise, and larger than all noise. So here it is residuals that are averaged, which depend on the codes no longer
once the dictionary is right, and B is what follows from them::

    R_j ~ mean of a^T (x - a D)_j over the samples with feature j,     B_j = R_j + C D_j

Once D_j has moved, by a step that sees j, R_j = B_j - C D_j again. With all features in every step both are the same.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jax_mmf.linalg import matmul
from jax_mmf.subsampling import Subset
from jax_mmf.typing import Array

_TILE = 8192  # features of B that are updated at once

Take = Callable[[Array], Array]


class Surrogate(NamedTuple):
    """Statistics of all codes and samples so far, forgetting applied.

    Attributes:
      c: ``(k, k)`` second moments of the codes.
      b: ``(k, p)`` products of codes and samples, or None with partial B.
      residual: ``(k, p)`` with partial B, products of codes and of what they leave of the samples, else None: the
        negative gradient ``B - C D`` of each feature after the last step that saw it.
      feature_counts: ``(p,)`` int32, with partial B, the number of samples in which each feature was seen, else None.
    """

    c: Array
    b: Array | None
    residual: Array | None
    feature_counts: Array | None

    @property
    def partial(self) -> bool:
        """Whether B is partial (static)."""
        return self.b is None


class BatchMoments(NamedTuple):
    """Moments of one mini-batch: ``c`` ``(k, k)``, ``b`` ``(k, s)`` on the features of the subset."""

    c: Array
    b: Array


def init_surrogate(n_components: int, n_features: int, dtype: jnp.dtype, *, partial_b: bool) -> Surrogate:
    """A surrogate that has seen nothing."""
    c, empty = jnp.zeros((n_components, n_components), dtype), jnp.zeros((n_components, n_features), dtype)
    if partial_b:
        return Surrogate(c, None, empty, jnp.zeros((n_features,), jnp.int32))
    return Surrogate(c, empty, None, None)


def update_surrogate(
    surrogate: Surrogate,
    codes: Array,
    x: Array | None,
    x_subset: Array,
    atoms: Array,
    subset: Subset,
    weight: Array,
    n_seen: Array,
) -> tuple[Surrogate, Array, BatchMoments]:
    """Add a mini-batch.

    Args:
      surrogate: before the batch. With partial B, feature j of the subset gets the weight
        ``min(1, weight n_seen / n_j)`` ([ICML16]), and its residual is still that of before: see `settle_residual`.
        Else all features get ``weight`` ([TSP18]).
      codes: ``(b, k)``.
      x: ``(b, p)`` whole samples; not looked at with partial B.
      x_subset: ``(b, s)``.
      atoms: ``(k, s)`` the dictionary that the codes are of, on the subset.
      subset: the features of ``x_subset``.
      weight: scalar, of the batch.
      n_seen: scalar, the number of samples seen, the batch included.

    Returns:
      the surrogate, its B on the subset ``(k, s)``, and the moments of the batch.
    """
    size = codes.shape[0]
    c_batch = matmul(codes.T, codes) / size
    c = (1 - weight) * surrogate.c + weight * c_batch
    # For what updates the dictionary by the mini-batch alone; XLA drops it for all others.
    b_batch = matmul(codes.T, x_subset) / size
    moments = BatchMoments(c_batch, b_batch)
    if surrogate.feature_counts is not None:
        assert surrogate.residual is not None
        seen = subset.gather(surrogate.feature_counts) + size
        share = jnp.minimum(1, weight * n_seen.astype(weight.dtype) / seen.astype(weight.dtype))

        def average(take: Take, residual: Array) -> Array:
            left_over = matmul((codes / size).T, take(x_subset)) - matmul(c_batch, take(atoms))
            return (1 - take(share)) * residual + take(share) * left_over + matmul(c, take(atoms))

        b_subset = subset.drop_invalid(_in_tiles(average, subset.gather(surrogate.residual)))
        counts = subset.scatter(surrogate.feature_counts, seen)
        return surrogate._replace(c=c, feature_counts=counts), b_subset, moments
    assert x is not None
    assert surrogate.b is not None
    weighted = (weight / size * codes).T
    b = _in_tiles(lambda take, b: (1 - weight) * b + matmul(weighted, take(x)), surrogate.b)
    return surrogate._replace(c=c, b=b), subset.gather(b), moments


def settle_residual(surrogate: Surrogate, b_subset: Array, atoms: Array, subset: Subset) -> Surrogate:
    """The surrogate once the atoms ``(k, s)`` on the subset have moved; with full B, nothing changes."""
    if surrogate.residual is None:
        return surrogate
    residual = _in_tiles(lambda take, b: b - matmul(surrogate.c, take(atoms)), b_subset)
    return surrogate._replace(residual=subset.scatter(surrogate.residual, subset.drop_invalid(residual)))


def _in_tiles(update: Callable[[Take, Array], Array], rows: Array) -> Array:
    """``update(take, rows)`` of ``rows`` ``(k, p)``, a tile of the features at a time; ``take`` cuts it out of others.

    All at once, products would be written to memory before they are added, as large as ``rows``: more than twice as
    slow on CPU where these do not fit in cache.
    """
    p = rows.shape[1]

    def tile(first: Array | int, rows: Array, width: int) -> Array:
        take = lambda array: lax.dynamic_slice_in_dim(array, first, width, array.ndim - 1)  # noqa: E731
        return lax.dynamic_update_slice_in_dim(rows, update(take, take(rows)), first, 1)

    n_tiles = p // _TILE
    if n_tiles > 0:
        rows = lax.fori_loop(0, n_tiles, lambda i, rows: tile(i * _TILE, rows, _TILE), rows)
    return tile(n_tiles * _TILE, rows, p % _TILE) if p % _TILE else rows
