"""Draws of the rows of one side, and of their prior, given the other side: a half of a sweep of `BayesianMF`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.completion import hierarchical
from jax_mmf.completion.hierarchical import PriorSide, PriorState
from jax_mmf.completion.prior import draw_gamma, draw_prior, prior_means
from jax_mmf.completion.ragged import RaggedRows, Tile, map_blocks, sum_rows
from jax_mmf.core import cholesky_shifted, matmul
from jax_mmf.typing import Array, Key

NOISE_DEGREES = 20.0  # of the prior of the precision of a user


class Weights(NamedTuple):
    """Precisions of the noise of rows ``(n,)`` and of columns ``(n_columns,)``, relative to that of all."""

    rows: Array
    columns: Array


def draw_side(
    key: Key, rows: RaggedRows, own: PriorSide, other: PriorSide, state: PriorState, weights: Weights
) -> tuple[PriorSide, Array, Array, Array]:
    """Draw the rows of one side given the other, and its prior given these; return as `draw_rows` does."""
    key_rows, key_prior = jax.random.split(key)
    means, known = prior_means(own.prior, own.features.rows), own.features
    normal = jax.random.normal(key_rows, means.shape, means.dtype)
    expected, found, error, weight = draw_rows(normal, rows, means, own.prior.precision, other.rows, state, weights)
    prior = draw_prior(key_prior, own.prior, found, known.rows, known.rated, known.basis.shape[1])
    return own._replace(rows=found, prior=prior), expected, error, weight


def draw_rows(
    normal: Array, rows: RaggedRows, means: Array, precision: Array, other: Array, state: PriorState, weights: Weights
) -> tuple[Array, Array, Array, Array]:
    """Draw rows ``(n, k + 1)`` from their distribution given the other side.

    Args:
      normal: ``(n, k + 1)`` standard normal numbers.
      rows: ratings by user, or by item.
      means: ``(n, k + 1)``, prior means.
      precision: ``(k + 1, k + 1)``, prior precision.
      other: ``(n_columns, k + 1)``, rows of the columns.
      state: for mean, scale and noise.
      weights: of the ratings of each row, and of each column.

    Returns:
      expectations of the rows, the draws, and for each row ``(n,)`` the squared error of its ratings with the weights
      of the columns, and the sum of the weights of its ratings without.
    """

    def block(shared: Any, tiles: Tile, numbers: Array) -> Any:
        normal, means, precision, other, weights, mean, scale, beta = shared
        take = lambda a: a.at[numbers].get(mode="fill", fill_value=0)  # noqa: E731

        def chunk(tile: Tile) -> tuple[hierarchical.PairSums, Array]:
            weighted = tile._replace(weights=tile.weights * weights.columns[tile.columns])
            return hierarchical.chunk_sums(weighted, (other, None), mean, scale), tile.weights.sum(1)

        sums, weight = sum_rows(tiles, numbers.shape[0], chunk)
        gram, pull = hierarchical.joined(sums)
        betas = beta * take(weights.rows)
        factor = cholesky_shifted(precision + betas[:, None, None] * gram, jnp.zeros_like(beta))
        right = betas[:, None] * pull + matmul(take(means), precision)
        half = lax.linalg.triangular_solve(factor, right[..., None], left_side=True, lower=True)
        both = jnp.concatenate([half, half + take(normal)[..., None]], -1)
        both = lax.linalg.triangular_solve(factor, both, left_side=True, lower=True, transpose_a=True)
        expected, found = both[..., 0], both[..., 1]
        product = jnp.einsum("mkl,ml->mk", gram, found, precision="highest")
        return expected, found, sums.square + jnp.sum(found * (product - 2 * pull), -1), weight

    shared = (normal, means, precision, other, weights, state.mean, state.scale, 1 / state.noise)
    expected, found, error, weight = map_blocks(block, shared, rows)
    return expected, found, error, weight


def draw_precision(key: Key, error: Array, weight: Array, noise: Array) -> Array:
    """Draw the precisions of the noise of users ``(n,)``, relative to that of all, given their squared errors.

    Their prior is a Gamma distribution of mean one and shape ``NOISE_DEGREES / 2``.
    """
    return 2 * draw_gamma(key, (NOISE_DEGREES + weight) / 2) / (NOISE_DEGREES + jnp.maximum(error, 0) / noise)
