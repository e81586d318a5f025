"""A Gaussian prior of rows, learned from them, whose mean depends on features of the rows.

The rows ``x_i``, of K numbers each, have the prior ``N(mean + f_i B, precision^-1)`` with centred features ``f_i``. The
regression B has the prior ``N(0, ridge^-1, precision^-1)``, with one strength for each group of features, and the
precision a Wishart prior. B is a normal distribution given the precision, as in Macau (Simm et al. 2017); mean,
precision and strengths are the most likely ones. All have closed forms.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_mmf.core import matmul
from jax_mmf.typing import Array


class Prior(NamedTuple):
    """Prior of the rows of one side.

    Attributes:
      mean: ``(K,)``.
      weights: ``(p, K)``, the regression on p features.
      precision: ``(K, K)``.
      ridge: ``(p,)``, strength of the penalty on the weights of each feature.
    """

    mean: Array
    weights: Array
    precision: Array
    ridge: Array


def prior_means(prior: Prior, features: Array) -> Array:
    """Return the prior means of rows with given features: ``(n, p) -> (n, K)``."""
    return prior.mean + matmul(features, prior.weights)


def inverse(matrix: Array) -> Array:
    """Invert a positive definite matrix ``(n, n)``."""
    factor = jnp.linalg.cholesky(matrix)
    return jax.scipy.linalg.cho_solve((factor, True), jnp.eye(len(matrix), dtype=matrix.dtype))


def learn_prior(prior: Prior, rows: Array, variance: Array, features: Array, rated: Array, n_clicks: int) -> Prior:
    """Return the most likely prior of rows that are independent normal distributions.

    The result maximises the bound of the variational model in the mean, the regression, the precision and the
    strengths, one after the other.

    Args:
      prior: the current one, from which the strengths are taken.
      rows: ``(n, K)``, means of the rows.
      variance: ``(n, K)``, their variances.
      features: ``(n, p)``, centred.
      rated: ``(n,)`` 1 for the rows that count, and 0 for the others.
      n_clicks: number of features in the first of the two groups, each of which has its own strength.

    Returns:
      the new prior.
    """
    (n_columns, p), mask = (rows.shape[1], features.shape[1]), rated[:, None]
    n = jnp.maximum(rated.sum(), 1)
    mean = (mask * rows).sum(0) / n
    centred, features = mask * (rows - mean), mask * features
    spread = inverse(matmul(features.T, features) + jnp.diag(prior.ridge)) if p else jnp.zeros((0, 0), rows.dtype)
    weights = matmul(spread, matmul(features.T, centred))
    rest = centred - matmul(features, weights)
    scatter = matmul(rest.T, rest) + jnp.diag((mask * variance).sum(0))
    scatter += matmul(weights.T, prior.ridge[:, None] * weights) + jnp.eye(n_columns, dtype=rows.dtype)
    precision = inverse(scatter / (n + n_columns))
    # Expected square of the regression of each feature, in the metric of the precision.
    square = (matmul(weights, precision) * weights).sum(1) + n_columns * jnp.diagonal(spread)
    groups = [square[:n_clicks], square[n_clicks:]]
    ridge = [jnp.full(len(g), len(g) * n_columns / g.sum(), rows.dtype) for g in groups if len(g)]
    return Prior(mean, weights, precision, jnp.concatenate(ridge) if ridge else prior.ridge)
