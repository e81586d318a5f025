"""A Gaussian prior of rows, learned from them, whose mean depends on features of the rows.

The rows ``x_i``, of K numbers each, have the prior ``N(mean + f_i B, precision^-1)`` with centred features ``f_i``. The
regression B has the prior ``N(0, ridge^-1, precision^-1)``, with one strength for each group of features, and the
precision a Wishart prior. B is a normal distribution given the precision, as in Macau (Simm et al. 2017); mean,
precision and strengths are the most likely ones. All have closed forms.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_mmf.core import cholesky, matmul
from jax_mmf.typing import Array, Key

_SCATTER = 0.01  # prior of the scatter of drawn rows: a larger one keeps factors from shrinking, and predicts worse
_PROPOSALS = 8  # of each Gamma number; more than 95 % are accepted


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


def draw_prior(key: Key, prior: Prior, rows: Array, features: Array, rated: Array, n_clicks: int) -> Prior:
    """Draw mean, regression and precision together given the rows, and then the strengths given these.

    The precision has a Wishart prior with K degrees of freedom and the inverse scale ``0.01 I``, the mean the prior
    ``N(0, precision^-1)``, and the strengths are exponential with mean one.

    Args:
      key: PRNG key.
      prior: the current one, from which the strengths are taken.
      rows: ``(n, K)``.
      features: as in `learn_prior`.
      rated: as in `learn_prior`.
      n_clicks: as in `learn_prior`.

    Returns:
      the new prior.
    """
    (k, p), mask, dtype = (rows.shape[1], features.shape[1]), rated[:, None], rows.dtype
    keys = jax.random.split(key, 5)
    n = rated.sum()
    mean = (mask * rows).sum(0) / jnp.maximum(n, 1)
    centred, features = mask * (rows - mean), mask * features
    # That of the core adds to the diagonal where features are collinear.
    system = cholesky(matmul(features.T, features) + jnp.diag(prior.ridge)) if p else jnp.zeros((0, 0), dtype)
    pull = matmul(features.T, centred)
    weights = jax.scipy.linalg.cho_solve((system, True), pull) if p else pull
    rest = centred - matmul(features, weights)
    scatter = (
        matmul(rest.T, rest) + matmul(weights.T, prior.ridge[:, None] * weights) + _SCATTER * jnp.eye(k, dtype=dtype)
    )
    scatter += n / (n + 1) * jnp.outer(mean, mean)
    precision = draw_wishart(keys[0], scatter, k + n)
    factor = cholesky(precision)

    def spread(key: Key, n_rows: int) -> Array:
        """Draw rows ``(n_rows, K)`` of the covariance ``precision^-1``."""
        normal = jax.random.normal(key, (n_rows, k), dtype)
        return jax.scipy.linalg.solve_triangular(factor, normal.T, lower=True, trans=1).T

    mean = n / (n + 1) * mean + spread(keys[1], 1)[0] / jnp.sqrt(n + 1)
    if p == 0:
        return Prior(mean, weights, precision, prior.ridge)
    weights += jax.scipy.linalg.solve_triangular(system, spread(keys[2], p), lower=True, trans=1)
    square = (matmul(weights, precision) * weights).sum(1)
    groups = [(key, g) for key, g in zip(keys[3:], (square[:n_clicks], square[n_clicks:]), strict=True) if len(g)]
    ridge = [
        jnp.full(len(g), draw_gamma(own, jnp.asarray(1 + len(g) * k / 2, dtype)) / (1 + g.sum() / 2))
        for own, g in groups
    ]
    return Prior(mean, weights, precision, jnp.concatenate(ridge))


def draw_wishart(key: Key, inverse_scale: Array, degrees: Array) -> Array:
    """Draw from a Wishart distribution by the decomposition of Bartlett.

    Args:
      key: PRNG key.
      inverse_scale: ``(k, k)``; the mean is ``degrees inverse_scale^-1``.
      degrees: scalar, above k - 1.

    Returns:
      ``(k, k)``.
    """
    k, dtype = len(inverse_scale), inverse_scale.dtype
    key_diagonal, key_rest = jax.random.split(key)
    shape = (degrees - jnp.arange(k, dtype=dtype)) / 2
    diagonal = jnp.sqrt(2 * draw_gamma(key_diagonal, shape))
    lower = jnp.tril(jax.random.normal(key_rest, (k, k), dtype), -1) + jnp.diag(diagonal)
    half = jax.scipy.linalg.solve_triangular(cholesky(inverse_scale), lower, lower=True, trans=1)
    return matmul(half, half.T)


def draw_gamma(key: Key, shape: Array) -> Array:
    """Draw from Gamma distributions of scale one by the method of Marsaglia and Tsang (2000).

    The first accepted one of a fixed number of proposals compiles faster than the loops of `jax.random.gamma`. The
    probability that none is accepted is below 1e-10.

    Args:
      key: PRNG key.
      shape: ``(...)``, at least one.

    Returns:
      ``(...)``.
    """
    key_normal, key_uniform = jax.random.split(key)
    size, d = (_PROPOSALS, *shape.shape), shape - 1 / 3
    normal = jax.random.normal(key_normal, size, shape.dtype)
    cube = jnp.maximum(1 + normal / jnp.sqrt(9 * d), jnp.finfo(shape.dtype).tiny ** 0.25) ** 3
    bound = normal**2 / 2 + d * (1 - cube + jnp.log(cube))
    accepted = jnp.log1p(-jax.random.uniform(key_uniform, size, shape.dtype)) < bound
    return d * jnp.take_along_axis(cube, jnp.argmax(accepted, 0)[None], 0)[0]
