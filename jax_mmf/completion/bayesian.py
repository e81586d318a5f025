"""Bayesian matrix factorization of ratings, by Gibbs sampling (Salakhutdinov and Mnih 2008; Macau, Simm et al. 2017).

The model is that of `ExplicitALS` with learned priors. A sweep draws the rows of the users, their prior, the rows of
the items, their prior, and the noise, each from its distribution given all others. Rows have Gaussian priors, whose
mean, regression and precision have a Normal-Wishart prior, and are drawn together. The noise of a user has a precision
of its own (Lakshminarayanan, Bouchard and Archambeau 2011), since some users rate more consistently than others.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from jax_mmf.completion import hierarchical
from jax_mmf.completion.factors import Factors, carry_over
from jax_mmf.completion.features import Features, new_features
from jax_mmf.completion.gibbs import NOISE_DEGREES, Weights, draw_precision, draw_side
from jax_mmf.completion.hierarchical import Described, PriorSide, PriorState
from jax_mmf.completion.prior import Prior, draw_gamma, inverse, learn_prior, prior_means
from jax_mmf.completion.ragged import RaggedRows
from jax_mmf.completion.ratings import Ratings
from jax_mmf.core import check_count, check_real, matmul, register_configuration
from jax_mmf.typing import Array, Float, HostArray, Key

_NOISE_SHAPE = 1.0  # of the Gamma prior of the precision of the noise
_NOISE_RATE = 1.0
_UNKNOWN = NOISE_DEGREES / (NOISE_DEGREES - 2)  # expected variance of the noise of a user without ratings


class Draws(NamedTuple):
    """Kept samples of one side.

    Attributes:
      rows: ``(s, n, k + 1)``, prior means for rows without ratings.
      means: ``(s, n, k + 1)``, expectations of the rows given the rest of the sample, from which predictions are
        computed, since they vary less.
      prior: with a leading axis of samples.
    """

    rows: Array
    means: Array
    prior: Prior


class BayesianState(NamedTuple):
    """State of the sampler.

    Attributes:
      current: the last sample; variances are not used.
      users: `Draws`.
      items: `Draws`.
      precision: ``(n_users,)``, precision of the noise of each user, relative to that of all, in the last sample.
      noise: ``(s,)`` variance of the noise in the kept samples.
      precisions: ``(s, n_users)`` of the kept samples.
      n_sweeps: int32 scalar.
    """

    current: PriorState
    users: Draws
    items: Draws
    precision: Array
    noise: Array
    precisions: Array
    n_sweeps: Array


@register_configuration
@dataclass(frozen=True)
class BayesianMF:
    """Configuration of Bayesian matrix factorization for ratings.

    An epoch is a sweep of the sampler. By default, `fit` does burn_in + n_samples of them. Nothing has to be tuned. The
    predictions are averages over the kept samples, which are spread evenly over the n_samples sweeps. The factors of a
    fitted model are those of all kept samples side by side, so that it has ``n_kept * n_components`` of them.

    Attributes:
      n_components: k, number of factors (static).
      burn_in: sweeps before the first sample that counts (static).
      n_samples: sweeps after that (static).
      n_kept: number of samples that are kept, at most n_samples (static).
      alpha: precision of the factors at the start, per rating of an average user or item.
      bias_alpha: precision of the biases at the start, > 0.

    Raises:
      ValueError: for numbers out of range.
      TypeError: for values that are not numbers.
    """

    n_components: int = field(default=32, metadata={"static": True})
    burn_in: int = field(default=20, metadata={"static": True})
    n_samples: int = field(default=100, metadata={"static": True})
    n_kept: int = field(default=20, metadata={"static": True})
    alpha: Float = 0.1
    bias_alpha: Float = 3.0

    feedback = "explicit"
    learns_prior = True

    def __post_init__(self) -> None:
        for name in ("n_components", "n_samples", "n_kept"):
            check_count(name, getattr(self, name))
        check_count("burn_in", self.burn_in, low=0)
        if self.n_kept > self.n_samples:
            raise ValueError(f"n_kept must be at most n_samples, {self.n_samples}, got {self.n_kept}")
        check_real("alpha", self.alpha, low=0.0)
        check_real("bias_alpha", self.bias_alpha, low=0.0, open_low=True)

    @property
    def n_epochs(self) -> int:
        """Number of sweeps that `fit` does by default."""
        return self.burn_in + self.n_samples

    def prepare(self, ratings: Ratings, mesh: Mesh | None = None) -> Described:
        """Convert ratings to arrays on the device, or on the devices of a mesh, and compute features."""
        return hierarchical.prepare(ratings, mesh)

    def init(self, key: Key, data: Described) -> BayesianState:
        """Return random factors for the items, and zeros elsewhere."""
        current = hierarchical.init(key, data, self.n_components, self.alpha, self.bias_alpha)
        repeat = lambda a: jnp.zeros((self.n_kept, *a.shape), a.dtype)  # noqa: E731
        users, items = (
            Draws(*jax.tree.map(repeat, (side.rows, side.rows, side.prior))) for side in (current.users, current.items)
        )
        precision, sweeps = jnp.ones_like(current.users.rows[:, 0]), jnp.zeros((), jnp.int32)
        return BayesianState(current, users, items, precision, repeat(current.noise), repeat(precision), sweeps)

    def epoch(self, key: Key, state: BayesianState, data: Described) -> BayesianState:
        """Do one sweep, and write the sample to its place among those that are kept."""
        keys = jax.random.split(key, 4)
        now, same = state.current, jnp.ones_like(state.current.items.rows[:, 0])
        weights = Weights(state.precision, same)
        users, user_means, error, weight = draw_side(keys[0], data.by_user, now.users, now.items, now, weights)
        precision = draw_precision(keys[1], error, weight, now.noise)
        weights = Weights(same, precision)
        items, item_means, error, weight = draw_side(keys[2], data.by_item, now.items, users, now, weights)
        noise = (_NOISE_RATE + error.sum() / 2) / draw_gamma(keys[3], _NOISE_SHAPE + weight.sum() / 2)
        sweep = state.n_sweeps
        after = sweep - self.burn_in
        place = jnp.where(after < 0, sweep, after * self.n_kept // self.n_samples) % self.n_kept

        def kept(draws: Draws, side: PriorSide, means: Array) -> Draws:
            rows = jnp.where(side.features.rated[:, None] > 0, side.rows, means)
            return jax.tree.map(lambda all_, one: all_.at[place].set(one), draws, Draws(rows, means, side.prior))

        return BayesianState(
            now._replace(users=users, items=items, noise=noise),
            kept(state.users, users, user_means), kept(state.items, items, item_means),
            precision, state.noise.at[place].set(noise), state.precisions.at[place].set(precision), sweep + 1,
        )  # fmt: skip

    def resume(self, old: BayesianState, new: BayesianState, users: HostArray, items: HostArray) -> BayesianState:
        """Copy the samples of an old state into a new one; arguments as in `Model.resume`."""
        current = hierarchical.resume(old.current, new.current, users, items)

        def carried(draws: Draws, side: PriorSide, positions: HostArray) -> Draws:
            """Regress the rows of each sample on the new features."""
            known = side.features
            counted = known.rated * (jnp.asarray(positions) >= 0)

            def one(draw: Draws) -> Draws:
                start = side.prior._replace(ridge=jnp.full_like(side.prior.ridge, 1))
                rows, means = (carry_over(a, jnp.zeros_like(side.rows), positions) for a in draw[:2])
                prior = learn_prior(start, rows, jnp.zeros_like(rows), known.rows, counted, known.basis.shape[1])
                fresh = (jnp.asarray(positions) < 0)[:, None]
                start_rows = prior_means(prior, known.rows)
                return Draws(jnp.where(fresh, start_rows, rows), jnp.where(fresh, start_rows, means), prior)

            return lax.map(one, draws)

        precision = carry_over(old.precision, new.precision, users)
        precisions = jax.vmap(lambda one: carry_over(one, new.precision, users))(old.precisions)
        return BayesianState(
            current, carried(old.users, current.users, users), carried(old.items, current.items, items),
            precision, old.noise, precisions, old.n_sweeps,
        )  # fmt: skip

    def fold_in(self, state: BayesianState, rows: RaggedRows) -> tuple[Array, Array]:
        """Compute factors ``(m, s k)`` and biases ``(m,)`` of new users: their expectations for each kept sample.

        The noise of new users has the variance of all.
        """
        features = new_features(rows, state.current.users.features)

        def one(sample: tuple[Draws, Draws, Array]) -> tuple[Array, Array]:
            users, items, noise = sample
            now = state.current._replace(noise=noise)
            side = now.items._replace(rows=items.rows, variance=jnp.zeros_like(items.rows))
            means = prior_means(users.prior, features)
            found, _, _ = hierarchical.half_step(rows, means, users.prior.precision, side, now)
            return hierarchical.relative(found, users.prior.mean, items.prior.mean, now.scale)

        empty, filled = jnp.eye(self.n_components + 1, dtype=state.noise.dtype), _filled(self, state)
        safe = lambda draws: draws._replace(  # noqa: E731
            prior=draws.prior._replace(precision=jnp.where(filled[:, None, None], draws.prior.precision, empty))
        )
        noise = jnp.where(filled, state.noise, 1)
        factors, bias = lax.map(one, (safe(state.users), safe(state.items), noise))
        return _side_by_side(factors, _shares(self, state)), _shares(self, state) @ bias

    def factors(self, state: BayesianState) -> Factors:
        """Return the factors of all kept samples side by side, whose predictions are the means of the samples'."""

        def one(sample: tuple[Draws, Draws]) -> Factors:
            users, items = sample
            now = state.current
            return hierarchical.factors(
                now._replace(
                    users=now.users._replace(rows=users.means, prior=users.prior),
                    items=now.items._replace(rows=items.means, prior=items.prior),
                )
            )

        all_, share = lax.map(one, (state.users, state.items)), _shares(self, state)
        return Factors(
            share @ all_.mean, share @ all_.user_bias, share @ all_.item_bias,
            _side_by_side(all_.users, share), _side_by_side(all_.items, share),
        )  # fmt: skip

    def predict_std(self, state: BayesianState, users: Array, items: Array) -> Array:
        """Return standard deviations of ratings around their predictions ``(b,)``, at positions; -1 is unknown.

        They contain the noise of the user, and how the kept samples differ. For users and items without ratings, they
        contain the variance of the prior too.
        """
        now, share = state.current, _shares(self, state)
        is_new = [_is_new(side.features, at) for side, at in ((now.users, users), (now.items, items))]

        def one(sample: tuple[Array, Array, Prior, Array, Prior, Array, Array]) -> tuple[Array, Array]:
            filled, own, own_prior, other, other_prior, noise, precision = sample
            a, d = _rows_at(own, own_prior, users), _rows_at(other, other_prior, items)
            value = jnp.sum(a[:, :-1] * d[:, :-1], -1) + a[:, -1] + d[:, -1]
            first, second = _covariance(filled, own_prior), _covariance(filled, other_prior)
            both = jnp.sum(first[:-1, :-1] * second[:-1, :-1])
            spread = is_new[0] * _variance(first, d) + is_new[1] * _variance(second, a) + is_new[0] * is_new[1] * both
            own_noise = jnp.where(is_new[0] > 0, _UNKNOWN, 1 / jnp.where(filled, precision[users], 1))
            return value, noise * own_noise + spread

        filled = _filled(self, state)
        (own, _, own_prior), (other, _, other_prior) = state.users, state.items
        samples = (filled, own, own_prior, other, other_prior, state.noise, state.precisions)
        value, variance = lax.map(one, samples)
        mean = share @ value
        total = share @ variance + jnp.maximum(share @ value**2 - mean**2, 0)
        return now.scale * jnp.sqrt(total)


def _filled(model: BayesianMF, state: BayesianState) -> Array:
    """Whether each place holds a sample that counts: ``(s,)``. Before the end of the burn-in, all samples count."""
    after = state.n_sweeps - model.burn_in
    places = (after - 1) * model.n_kept // model.n_samples + 1
    n = jnp.where(after > 0, places, jnp.maximum(state.n_sweeps, 1))
    return jnp.arange(model.n_kept) < n


def _shares(model: BayesianMF, state: BayesianState) -> Array:
    """Return the weight of each sample in averages: ``(s,)``."""
    filled = _filled(model, state).astype(state.noise.dtype)
    return filled / filled.sum()


def _side_by_side(rows: Array, share: Array) -> Array:
    """Join rows of all samples ``(s, n, k)`` to ``(n, s k)``, so that inner products are averages."""
    weighted = jnp.sqrt(share)[:, None, None] * rows
    return jnp.moveaxis(weighted, 0, 1).reshape(rows.shape[1], -1)


def _is_new(features: Features, at: Array) -> Array:
    """Whether each position is -1, or of a row without ratings: ``(b,)``, 0 or 1."""
    return 1 - (at >= 0) * features.rated[at]


def _rows_at(rows: Array, prior: Prior, at: Array) -> Array:
    """Return rows at positions, and the prior mean at -1."""
    return jnp.where((at >= 0)[:, None], rows[at], prior.mean)


def _covariance(filled: Array, prior: Prior) -> Array:
    """Return the prior covariance ``(k + 1, k + 1)``, and the identity for a place without a sample."""
    return inverse(jnp.where(filled, prior.precision, jnp.eye(len(prior.mean), dtype=prior.mean.dtype)))


def _variance(covariance: Array, other: Array) -> Array:
    """Return the variances ``(b,)`` of predictions from rows of the other side: ``[d, 1]' covariance [d, 1]``."""
    direction = other.at[:, -1].set(1)
    return jnp.sum(matmul(direction, covariance) * direction, -1)
