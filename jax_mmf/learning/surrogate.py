"""The surrogate: moments C and B of all samples seen, which define a quadratic function of the dictionary::

    1/2 tr(D^T C D) - tr(D^T B),     C ~ mean of a^T a,     B ~ mean of a^T x

The means are weighted: see `jax_mmf.learning.forgetting`.

Partial B. Where a step sees a subset of the features only, feature j is in fewer samples than C is made of. As
published [ICML16], column j of B is the mean over those samples. It is then C_j D_j, with the second moments C_j of the
codes of its own samples, and noise; but atoms are solved for with C. The difference (C - C_j) D_j is there even in data
without noise, and larger than all noise. This package averages residuals instead. With the right dictionary they no
longer depend on the codes. B follows from them::

    R_j ~ mean of a^T (x - a D)_j over the samples with feature j,     B_j = R_j + C D_j

Once D_j has moved, by a step that sees j, R_j = B_j - C D_j again. With all features in every step both are the same.

Weights. A weight w_i multiplies what sample i adds to a sum, and the mean still divides by the number of samples. With
a mask, feature j is in as many samples of a batch as the sum of its mask, M_j, which replaces the number b::

    R_j ~ sum_i m_ij w_i a_i^T (x_i - a_i D)_j / M_j
"""

from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jax_mmf.core import Take, in_tiles, matmul
from jax_mmf.learning.subset import Subset
from jax_mmf.typing import Array


class Surrogate(NamedTuple):
    """Moments of all codes and samples so far, with forgetting.

    Attributes:
      c: ``(k, k)`` second moments of the codes.
      b: ``(k, p)`` products of codes and samples, or None with partial B.
      residual: ``(k, p)`` with partial B, products of codes and residuals, else None: the
        negative gradient ``B - C D`` of each feature after the last step that saw it.
      feature_counts: ``(p,)`` with partial B, the number of samples in which each feature was seen, or the sum of its
        mask, in the dtype of the dictionary; else None. They stop after 2^24 samples in float32, which then no longer
        holds every whole number, and after 2^31 - 1 in float64. The number of all samples that they are compared with
        stops there too, so that the ratio stays right.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (20, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1), constraint=mmf.L2Ball())
      >>> state = solver.init(jax.random.key(1), samples=x)
      >>> state.surrogate.c.shape, state.surrogate.b.shape, state.surrogate.partial
      ((3, 3), (3, 8), False)
    """

    c: Annotated[Array, "kk"]
    b: Annotated[Array | None, "kp"]
    residual: Annotated[Array | None, "kp"]
    feature_counts: Annotated[Array | None, "p"]

    @property
    def partial(self) -> bool:
        """Whether B is partial (static)."""
        return self.b is None


class BatchMoments(NamedTuple):
    """Moments of one mini-batch: ``c`` ``(k, k)``, ``b`` ``(k, s)`` on the features of the subset.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> codes, x = jnp.ones((4, 2)), jnp.ones((4, 8))
      >>> moments = mmf.extending.BatchMoments(c=codes.T @ codes / 4, b=codes.T @ x / 4)
      >>> moments.b.shape
      (2, 8)
    """

    c: Array
    b: Array


def init_surrogate(n_components: int, n_features: int, dtype: jnp.dtype, *, partial_b: bool) -> Surrogate:
    """A surrogate that has seen nothing."""
    c, empty = jnp.zeros((n_components, n_components), dtype), jnp.zeros((n_components, n_features), dtype)
    if partial_b:
        return Surrogate(c, None, empty, jnp.zeros((n_features,), dtype))
    return Surrogate(c, empty, None, None)


def count_samples(n_before: Array, size: int | Array) -> Array:
    """The number of samples seen after a batch: an int32 scalar that stops at 2^31 - 1."""
    return n_before + jnp.minimum(size, np.iinfo(np.int32).max - n_before)


def last_count(dtype: Any) -> int:
    """Return the number of samples after which `Surrogate.feature_counts` of a dtype stop."""
    return int(min(np.iinfo(np.int32).max, 2 ** (jnp.finfo(dtype).nmant + 1)))


def update_surrogate(
    surrogate: Surrogate,
    codes: Array,
    x: Array | None,
    x_subset: Array,
    atoms: Array,
    subset: Subset,
    weight: Array,
    size: int | Array,
    n_before: Array,
    *,
    sample_weight: Array | None = None,
    mask: Array | None = None,
) -> tuple[Surrogate, Array, BatchMoments]:
    """Add a mini-batch.

    Args:
      surrogate: before the batch. With partial B, feature j of the subset gets the weight
        ``min(1, weight n_seen / n_j)`` ([ICML16]), and its residual is the one before the batch: see `settle_residual`.
        Else all features get ``weight`` ([TSP18]).
      codes: ``(b, k)``; zeros in padded rows.
      x: ``(b, p)`` whole samples; not used with partial B.
      x_subset: ``(b, s)``.
      atoms: ``(k, s)`` the dictionary that the codes are of, on the subset.
      subset: the features of ``x_subset``.
      weight: scalar, of the batch.
      size: number of samples in the batch.
      n_before: int32 scalar, the number of samples seen before the batch, as `count_samples` counts.
      sample_weight: ``(b,)``, or None for ones.
      mask: ``(b, s)`` weights of the entries of ``x_subset``, which is zero where they are; zeros in padded rows. Or
        None for ones. It needs partial B.

    Returns:
      the surrogate, its B on the subset ``(k, s)``, and the moments of the batch.
    """
    weighted = codes if sample_weight is None else sample_weight[:, None] * codes
    c_batch = matmul(weighted.T, codes) / size
    c = (1 - weight) * surrogate.c + weight * c_batch
    if surrogate.feature_counts is not None:
        return _update_partial(
            surrogate._replace(c=c), c_batch, codes, weighted, x_subset, atoms, subset, weight, size, n_before, mask
        )
    assert x is not None
    assert surrogate.b is not None
    assert mask is None
    moments = BatchMoments(c_batch, matmul(weighted.T, x_subset) / size)
    scaled = (weight / size * weighted).T
    b = in_tiles(lambda take, b: (1 - weight) * b + matmul(scaled, take(x)), surrogate.b)
    return surrogate._replace(c=c, b=b), subset.gather(b), moments


def _update_partial(
    surrogate: Surrogate,
    c_batch: Array,
    codes: Array,
    weighted: Array,
    x_subset: Array,
    atoms: Array,
    subset: Subset,
    weight: Array,
    size: int | Array,
    n_before: Array,
    mask: Array | None,
) -> tuple[Surrogate, Array, BatchMoments]:
    """Add a mini-batch to partial B. ``surrogate.c`` is C after the batch; ``weighted`` are weighted codes."""
    assert surrogate.residual is not None
    assert surrogate.feature_counts is not None
    dtype, c = codes.dtype, surrogate.c
    last = last_count(dtype)
    n_seen = jnp.minimum(count_samples(n_before, size), last)
    grown = (n_seen - jnp.minimum(n_before, last)).astype(dtype)
    before = subset.gather(surrogate.feature_counts)
    if mask is None:
        seen = before + grown
        share = jnp.minimum(1, weight * n_seen.astype(dtype) / seen)

        def left_over(take: Take) -> Array:
            return matmul((weighted / size).T, take(x_subset)) - matmul(c_batch, take(atoms))
    else:
        mass = mask.sum(0)
        seen = before + grown * (mass / size)
        part = weight * n_seen.astype(dtype) * (mass / size) / jnp.where(seen > 0, seen, 1)
        # A feature that appears for the first time after the counts have stopped.
        share = jnp.where(seen > 0, jnp.minimum(1, part), (mass > 0).astype(dtype))
        scale = jnp.where(mass > 0, 1 / jnp.where(mass > 0, mass, 1), 0)

        def left_over(take: Take) -> Array:
            errors = take(mask) * (take(x_subset) - matmul(codes, take(atoms)))
            return take(scale) * matmul(weighted.T, errors)

    def average(take: Take, residual: Array) -> Array:
        return (1 - take(share)) * residual + take(share) * left_over(take) + matmul(c, take(atoms))

    b_subset = subset.drop_invalid(in_tiles(average, subset.gather(surrogate.residual)))
    # Used by updates that see the mini-batch alone, as `GradientUpdate`; XLA drops it for others.
    if mask is None:
        b_batch = matmul(weighted.T, x_subset) / size
    else:
        b_batch = left_over(lambda array: array) + matmul(c_batch, atoms)
    counts = subset.scatter(surrogate.feature_counts, seen)
    return surrogate._replace(feature_counts=counts), b_subset, BatchMoments(c_batch, b_batch)


def settle_residual(surrogate: Surrogate, b_subset: Array, atoms: Array, subset: Subset) -> Surrogate:
    """The surrogate once the atoms ``(k, s)`` on the subset have moved; with full B, nothing changes."""
    if surrogate.residual is None:
        return surrogate
    residual = in_tiles(lambda take, b: b - matmul(surrogate.c, take(atoms)), b_subset)
    return surrogate._replace(residual=subset.scatter(surrogate.residual, subset.drop_invalid(residual)))
