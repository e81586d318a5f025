"""Explicit feedback with learned priors: the state and half-steps of `ExplicitALS` and `BayesianMF`.

Ratings are standardised. The row of a user holds its factors and, as the last number, its bias; so does that of an
item. Both have priors that are learned (see `jax_mmf.completion.prior`)::

    rating = mean + scale (b_u + c_i + a_u . d_i + noise),    (a_u, b_u) ~ N(mean of its features, precision^-1)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_mmf.completion.factors import Factors, carry_over
from jax_mmf.completion.features import Features, new_features, row_features
from jax_mmf.completion.prior import Prior, learn_prior, prior_means
from jax_mmf.completion.ragged import RaggedRows, Tile, map_blocks, observed, sum_rows, total_weight
from jax_mmf.completion.ratings import Ratings
from jax_mmf.core import cho_solve, cholesky_shifted, matmul
from jax_mmf.typing import Array, Float, HostArray, Key

_INITIAL_SCALE = 0.1
_LEAST_NOISE = 8.0  # least variance of the noise, in units of the precision of the numbers


class Described(NamedTuple):
    """Ratings on the device, grouped by user and by item, and features of both."""

    by_user: RaggedRows
    by_item: RaggedRows
    users: Features
    items: Features


class PriorSide(NamedTuple):
    """One side of a model: its users, or its items.

    Attributes:
      rows: ``(n, k + 1)``, factors and bias.
      variance: ``(n, k + 1)``.
      prior: of the rows.
      features: of the rows.
    """

    rows: Array
    variance: Array
    prior: Prior
    features: Features


class PriorState(NamedTuple):
    """State of a model with learned priors.

    Attributes:
      mean: scalar, of the ratings.
      scale: scalar, standard deviation of the ratings.
      users: a `PriorSide`.
      items: a `PriorSide`.
      noise: scalar, variance of the standardised ratings around the predictions.
    """

    mean: Array
    scale: Array
    users: PriorSide
    items: PriorSide
    noise: Array


class PairSums(NamedTuple):
    """Sums over the entries of each row; e is the value less the bias of the column, and d its factors.

    Attributes:
      gram: ``(m, k, k)`` sum of w d d^T.
      variance: ``(m, k)`` sum of w times the variance of d; None for draws.
      pull: ``(m, k)`` sum of w e d.
      column_sum: ``(m, k)`` sum of w d.
      weight: ``(m,)`` sum of w.
      value: ``(m,)`` sum of w e.
      square: ``(m,)`` sum of w e^2, with the variance of e.
    """

    gram: Array
    variance: Array | None
    pull: Array
    column_sum: Array
    weight: Array
    value: Array
    square: Array


def prepare(ratings: Ratings, mesh: Any) -> Described:
    """Convert ratings to arrays on the device, and compute the features of users and items."""
    by_user, by_item = observed(ratings, mesh)
    return Described(by_user, by_item, row_features(ratings), row_features(ratings, transposed=True))


def init(key: Key, data: Described, k: int, strength: Float, bias_strength: Float) -> PriorState:
    """Return random factors for the items, and zeros elsewhere.

    Args:
      key: PRNG key.
      data: as `prepare` returns it.
      k: number of factors.
      strength: precision of the factors at the start, per rating of an average row.
      bias_strength: precision of the biases at the start.
    """
    total = total_weight(data.by_user)
    mean = total_weight(data.by_user, values=True) / total
    tiles, dtype = data.by_user.tiles, mean.dtype
    # A power of two keeps squares in range and changes no bit.
    unit = jnp.ldexp(jnp.ones((), dtype), jnp.frexp(jnp.abs(tiles.values).max())[1] - 1)
    squares = jnp.sum(tiles.weights * ((tiles.values - mean) / unit) ** 2, (1, 2, 3))
    variance = jnp.sum(squares) / total
    scale = jnp.where(variance > 0, unit * jnp.sqrt(variance), 1)

    def side(factors: Array, features: Features) -> PriorSide:
        (n, _), p = factors.shape, features.rows.shape[1]
        rows = jnp.concatenate([factors, jnp.zeros((n, 1), dtype)], 1)
        start = jnp.full(k, strength * total / n, dtype)
        precision = jnp.diag(jnp.concatenate([start, jnp.full(1, bias_strength, dtype)]))
        prior = Prior(jnp.zeros(k + 1, dtype), jnp.zeros((p, k + 1), dtype), precision, jnp.ones(p, dtype))
        return PriorSide(rows, jnp.zeros((n, k + 1), dtype), prior, features)

    items = _INITIAL_SCALE * jax.random.normal(key, (data.by_item.n_rows, k), dtype)
    users = side(jnp.zeros((data.by_user.n_rows, k), dtype), data.users)
    return PriorState(mean, scale, users, side(items, data.items), jnp.ones((), dtype))


def epoch(state: PriorState, data: Described) -> PriorState:
    """Do a half-step for the users and one for the items, and learn the prior of each side after its half-step."""
    users, noise = learned_side(data.by_user, state.users, state.items, state)
    items, noise = learned_side(data.by_item, state.items, users, state._replace(noise=noise))
    return state._replace(users=users, items=items, noise=noise)


def learned_side(rows: RaggedRows, own: PriorSide, other: PriorSide, state: PriorState) -> tuple[PriorSide, Array]:
    """Do a half-step for one side, and learn its prior; return the side and the new noise."""
    means = prior_means(own.prior, own.features.rows)
    values, variance, noise = half_step(rows, means, own.prior.precision, other, state)
    known = own.features
    prior = learn_prior(own.prior, values, variance, known.rows, known.rated, known.basis.shape[1])
    return own._replace(rows=values, variance=variance, prior=prior), noise


def half_step(
    rows: RaggedRows, means: Array, precision: Array, other: PriorSide, state: PriorState
) -> tuple[Array, Array, Array]:
    """Compute the distributions of users with given items, or of items with given users.

    Args:
      rows: ratings by user, or by item.
      means: ``(n, k + 1)``, prior means of the rows.
      precision: ``(k + 1, k + 1)``, prior precision of the rows.
      other: side of the columns.
      state: for mean, scale and noise.

    Returns:
      means and variances ``(n, k + 1)`` of the rows, and the new noise.
    """

    def block(shared: Any, tiles: Tile, numbers: Array) -> Any:
        means, precision, other, mean, scale, beta = shared
        sums = sum_rows(tiles, numbers.shape[0], lambda tile: chunk_sums(tile, other, mean, scale))
        return _solve(sums, means.at[numbers].get(mode="fill", fill_value=0), precision, beta)

    shared = (means, precision, (other.rows, other.variance), state.mean, state.scale, 1 / state.noise)
    found, variance, error, weight = map_blocks(block, shared, rows)
    # Without noise, the error is lost in rounding and may be negative; ratings are standardised.
    least = _LEAST_NOISE * jnp.finfo(found.dtype).eps
    return found, variance, jnp.maximum(error.sum() / jnp.maximum(weight.sum(), 1), least)


def _solve(sums: PairSums, means: Array, precision: Array, beta: Array) -> tuple[Array, Array, Array, Array]:
    """Return means, variances, squared errors and weights of rows."""
    gram, pull = joined(sums)
    whole = precision + beta * gram
    found = cho_solve(cholesky_shifted(whole, jnp.zeros_like(beta)), beta * pull + matmul(means, precision))
    variance = 1 / jnp.diagonal(whole, axis1=1, axis2=2)
    product = jnp.einsum("mkl,ml->mk", gram, found, precision="highest")
    error = sums.square + jnp.sum(found * (product - 2 * pull), -1)
    error += jnp.sum(jnp.diagonal(gram, axis1=1, axis2=2) * variance, -1)
    return found, variance, error, sums.weight


def joined(sums: PairSums) -> tuple[Array, Array]:
    """Return the moments of factors and a constant one, ``(m, k + 1, k + 1)``, and their products with the values."""
    gram = sums.gram
    if sums.variance is not None:  # for the expectation of d d^T
        gram += sums.variance[:, None] * jnp.eye(gram.shape[1], dtype=gram.dtype)
    last = jnp.concatenate([sums.column_sum, sums.weight[:, None]], 1)
    gram = jnp.concatenate([jnp.concatenate([gram, sums.column_sum[:, :, None]], 2), last[:, None]], 1)
    return gram, jnp.concatenate([sums.pull, sums.value[:, None]], 1)


def chunk_sums(tile: Tile, other: tuple[Array, Array | None], mean: Array, scale: Array) -> PairSums:
    """Sum over the entries of each chunk of a tile; ``other`` has rows of the columns, and their variances or None."""
    columns, weights = tile.columns, tile.weights
    rows = other[0][columns]
    values = (tile.values - mean) / scale - rows[..., -1]
    factors = rows[..., :-1]
    weighted = weights[..., None] * factors
    square, variance = values**2, None
    if other[1] is not None:
        spread = other[1][columns]
        square += spread[..., -1]
        variance = jnp.einsum("cw,cwk->ck", weights, spread[..., :-1], precision="highest")
    return PairSums(
        gram=jnp.einsum("cwk,cwl->ckl", weighted, factors, precision="highest"),
        variance=variance,
        pull=jnp.einsum("cwk,cw->ck", weighted, values, precision="highest"),
        column_sum=weighted.sum(1),
        weight=weights.sum(1),
        value=(weights * values).sum(1),
        square=(weights * square).sum(1),
    )


def resume(old: PriorState, new: PriorState, users: HostArray, items: HostArray) -> PriorState:
    """Copy the rows of an old state into a new one, and learn the priors from them; see `Model.resume`."""

    def side(old: PriorSide, new: PriorSide, positions: HostArray) -> PriorSide:
        rows, variance = (carry_over(a, b, positions) for a, b in zip(old[:2], new[:2], strict=True))
        known = new.features
        carried = known.rated * (jnp.asarray(positions) >= 0)
        prior = learn_prior(new.prior, rows, variance, known.rows, carried, known.basis.shape[1])
        fresh = (jnp.asarray(positions) < 0)[:, None]
        rows = jnp.where(fresh, prior_means(prior, known.rows), rows)
        return PriorSide(rows, jnp.where(fresh, 1 / jnp.diagonal(prior.precision), variance), prior, known)

    return PriorState(
        old.mean, old.scale, side(old.users, new.users, users), side(old.items, new.items, items), old.noise
    )


def fold_in(state: PriorState, rows: RaggedRows) -> tuple[Array, Array]:
    """Compute factors ``(m, k)`` and biases ``(m,)`` of new users, in the terms of `factors`."""
    prior = state.users.prior
    means = prior_means(prior, new_features(rows, state.users.features))
    found, _, _ = half_step(rows, means, prior.precision, state.items, state)
    return relative(found, prior.mean, state.items.prior.mean, state.scale)


def factors(state: PriorState) -> Factors:
    """Return the factors of a state, relative to the prior means.

    The prior means of one side are part of the biases of the other one, so that a user or an item of whom nothing is
    known, which counts as zero, is an average one.
    """
    (users, first), (items, second) = ((side.rows, side.prior.mean) for side in (state.users, state.items))
    own, user_bias = relative(users, first, second, state.scale)
    other, item_bias = relative(items, second, first, state.scale)
    mean = state.mean + state.scale * (first[-1] + second[-1] + first[:-1] @ second[:-1])
    return Factors(mean, user_bias, item_bias, own, other)


def relative(rows: Array, own: Array, other: Array, scale: Array) -> tuple[Array, Array]:
    """Return factors and biases of rows relative to their mean ``own``, with that of the other side in the biases."""
    moved = rows - own
    bias = scale * (moved[:, -1] + matmul(moved[:, :-1], other[:-1]))
    return jnp.sqrt(scale) * moved[:, :-1], bias
