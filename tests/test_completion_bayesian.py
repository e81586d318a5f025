"""`BayesianMF`: draws against NumPy, moments against a long chain in NumPy, kept samples, and standard deviations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from completion_cases import KEY, K, make_ratings

from jax_mmf import completion
from jax_mmf.completion import bayesian, gibbs, hierarchical
from jax_mmf.completion.prior import Prior, draw_gamma, draw_prior, draw_wishart, prior_means

MODEL = completion.BayesianMF(2, burn_in=4, n_samples=8, n_kept=4)


def test_draws_of_rows_are_those_of_numpy(x64):
    ratings, values, weights = make_ratings(weighted=True)
    data, rng = hierarchical.prepare(ratings, None), np.random.default_rng(0)
    state = hierarchical.init(KEY, data, K, 0.1, 3.0)._replace(noise=jnp.asarray(0.7))
    items, means, normal = rng.normal(size=(5, K + 1)), rng.normal(size=(6, K + 1)), rng.normal(size=(6, K + 1))
    half = rng.normal(size=(K + 1, K + 1))
    precision = half @ half.T + np.eye(K + 1)
    rows, columns = rng.uniform(0.5, 2, 6), rng.uniform(0.5, 2, 5)
    args = normal, data.by_user, means, precision, items, state, gibbs.Weights(jnp.asarray(rows), jnp.asarray(columns))
    expected, found, error, weight = jax.jit(gibbs.draw_rows)(*args)
    one = np.concatenate([items[:, :K], np.ones((5, 1))], 1)
    targets = (values - float(state.mean)) / float(state.scale) - items[:, K]
    for u, w in enumerate(weights * columns * rows[:, None]):
        whole = precision + one.T @ (w[:, None] * one) / 0.7
        mean = np.linalg.solve(whole, precision @ means[u] + one.T @ (w * targets[u]) / 0.7)
        np.testing.assert_allclose(expected[u], mean, rtol=1e-8, atol=1e-10)
        draw = mean + np.linalg.solve(np.linalg.cholesky(whole).T, normal[u])
        np.testing.assert_allclose(found[u], draw, rtol=1e-8, atol=1e-10)
    squares = weights * columns * (targets - np.asarray(found) @ one.T) ** 2
    np.testing.assert_allclose(error, squares.sum(1), rtol=1e-8)
    np.testing.assert_allclose(weight, weights.sum(1))


@pytest.mark.parametrize("shape", [1.0, 2.5, 40_000.0])
def test_draws_of_gamma_distributions(x64, shape):
    draws = jax.jit(draw_gamma)(KEY, jnp.full(20_000, shape))
    assert scipy.stats.kstest(draws, scipy.stats.gamma(shape).cdf).pvalue > 0.01


def test_draws_of_the_precision_of_users_have_the_moments_of_the_posterior(x64):
    error, weight, noise = np.array([0.0, 30.0]), np.array([0.0, 12.0]), 0.5
    draws = jax.vmap(lambda key: gibbs.draw_precision(key, error, weight, noise))(jax.random.split(KEY, 20000))
    shape, rate = (20 + weight) / 2, (20 + error / noise) / 2
    np.testing.assert_allclose(draws.mean(0), shape / rate, rtol=0.02)
    np.testing.assert_allclose(draws.var(0), shape / rate**2, rtol=0.06)


def test_draws_of_priors_have_the_moments_of_the_posterior(x64):
    """Precisions are Wishart, and the mean and the regression are normal given these."""
    inverse_scale = np.array([[2.0, 0.5], [0.5, 1.0]])
    draws = jax.vmap(lambda key: draw_wishart(key, jnp.asarray(inverse_scale), jnp.asarray(7.0)))(
        jax.random.split(KEY, 20000)
    )
    known = scipy.stats.wishart(7, np.linalg.inv(inverse_scale))
    np.testing.assert_allclose(draws.mean(0), known.mean(), rtol=0.03)
    np.testing.assert_allclose(draws.var(0), known.var(), rtol=0.06)

    rng = np.random.default_rng(0)
    n, p, k = 12, 2, 2
    rows, features = rng.normal(size=(n, k)), rng.normal(size=(n, p))
    features -= features.mean(0)
    ridge = np.array([2.0, 0.5])
    old = Prior(jnp.zeros(k), jnp.zeros((p, k)), jnp.eye(k), jnp.asarray(ridge))
    many = jax.vmap(lambda key: draw_prior(key, old, *map(jnp.asarray, (rows, features, np.ones(n))), 1))(
        jax.random.split(jax.random.key(1), 20000)
    )
    design = np.concatenate([np.ones((n, 1)), features], 1)
    system = design.T @ design + np.diag([1.0, *ridge])
    best = np.linalg.solve(system, design.T @ rows)
    scatter = 0.01 * np.eye(k) + rows.T @ rows - best.T @ system @ best
    np.testing.assert_allclose(many.precision.mean(0), (n + k) * np.linalg.inv(scatter), rtol=0.03)
    found = np.concatenate([many.mean[:, None], many.weights], 1)
    np.testing.assert_allclose(found.mean(0), best, atol=0.02)
    # The marginal distribution is a matrix t.
    covariance = np.kron(np.linalg.inv(system), scatter / (n + k - k - 1))
    np.testing.assert_allclose(np.cov(found.reshape(len(found), -1).T), covariance, atol=0.01)
    squares = np.einsum("sgk,skl,sgl->sg", many.weights, many.precision, many.weights)
    expected = (1 + k / 2) / (1 + squares / 2)  # mean of a Gamma distribution
    np.testing.assert_allclose(many.ridge.mean(0), expected.mean(0), rtol=0.03)


def numpy_chain(values, weights, features, k, n_sweeps, seed=0):
    """Predictions, noise and precisions of users; mean, regression, precision and strength are drawn one by one."""
    rng = np.random.default_rng(seed)
    sides = [rng.normal(size=(n, k + 1)) for n in values.shape]
    priors = [[np.zeros(k + 1), np.zeros((f.shape[1], k + 1)), np.eye(k + 1), 1.0] for f in features]
    beta, tau, out = 1.0, np.ones(len(values)), []

    def normal(precision, linear):
        factor = np.linalg.cholesky(precision)
        mean = np.linalg.solve(precision, linear)
        return mean + np.linalg.solve(factor.T, rng.normal(size=linear.shape))

    for _ in range(n_sweeps):
        for side in (0, 1):
            own, other, f = sides[side], sides[1 - side], features[side]
            target, weight = (values, weights * tau[:, None]) if side == 0 else (values.T, (weights * tau[:, None]).T)
            mean, b, precision, lam = priors[side]
            one = np.concatenate([other[:, :k], np.ones((len(other), 1))], 1)
            for row, w in enumerate(weight):
                pull = precision @ (mean + f[row] @ b) + beta * one.T @ (w * (target[row] - other[:, k]))
                own[row] = normal(precision + beta * one.T @ (w[:, None] * one), pull)
            n, p = f.shape
            mean = normal((n + 1) * precision, precision @ (own - f @ b).sum(0))
            system = np.kron(f.T @ f + lam * np.eye(p), precision)
            b = normal(system, (f.T @ (own - mean) @ precision).ravel()).reshape(p, k + 1)
            rest = own - mean - f @ b
            scatter = 0.01 * np.eye(k + 1) + rest.T @ rest + np.outer(mean, mean) + lam * b.T @ b
            precision = scipy.stats.wishart(n + p + 1 + k + 1, np.linalg.inv(scatter)).rvs(random_state=rng)
            lam = rng.gamma(1 + p * (k + 1) / 2, 1 / (1 + np.trace(b @ precision @ b.T) / 2))
            priors[side] = [mean, b, precision, lam]
        (a, d) = sides
        predicted = a[:, :k] @ d[:, :k].T + a[:, k:] + d[:, k]
        errors = (weights * (values - predicted) ** 2).sum(1)
        beta = rng.gamma(1 + weights.sum() / 2, 1 / (1 + tau @ errors / 2))
        tau = rng.gamma((20 + weights.sum(1)) / 2, 2 / (20 + beta * errors))
        out.append([*predicted.ravel(), 1 / beta, *tau])
    return np.array(out)


@pytest.mark.slow
def test_moments_are_those_of_a_long_chain_of_numpy(x64):
    ratings, values, weights = make_ratings(n_users=4, n_items=3)
    data = hierarchical.prepare(ratings, None)
    model = completion.BayesianMF(1, burn_in=0, n_samples=1, n_kept=1)
    state = model.init(KEY, data)

    def sweep(state, key):
        state = model.epoch(key, state, data)
        (a, d), noise = (side.rows for side in state.current[2:4]), state.current.noise
        predicted = a[:, :1] @ d[:, :1].T + a[:, 1:] + d[:, 1]
        return state, jnp.concatenate([predicted.ravel(), noise[None], state.precision])

    _, ours = jax.jit(lambda s: jax.lax.scan(sweep, s, jax.random.split(KEY, 30000)))(state)
    standard = (values - float(state.current.mean)) / float(state.current.scale)
    theirs = numpy_chain(standard, weights, [np.asarray(f.rows) for f in data[2:]], 1, 6000)
    ours, theirs = np.asarray(ours)[500:], theirs[500:]
    spread = theirs.std(0)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 0.12 * spread).all()
    np.testing.assert_allclose(ours.std(0), spread, rtol=0.15)


@pytest.fixture(scope="module")
def fitted():
    ratings, _, _ = make_ratings(counts=True, n_users=9)
    return completion.fit(MODEL, ratings, key=KEY)


def test_factors_are_the_kept_samples(fitted):
    assert len(fitted.history) == MODEL.n_epochs == 12
    assert fitted.factors.users.shape == (9, 4 * 2)
    state, (m, n) = fitted.state, fitted.ratings.shape
    users, items = np.repeat(np.arange(m), n), np.tile(np.arange(n), m)
    each = np.asarray(
        [
            float(state.current.mean)
            + float(state.current.scale) * ((a[:, :2] @ d[:, :2].T) + a[:, 2:] + d[:, 2])
            for a, d in zip(np.asarray(state.users.means), np.asarray(state.items.means), strict=True)
        ]
    )  # fmt: skip
    found = np.asarray(completion.predict(fitted.factors, users, items)).reshape(m, n)
    np.testing.assert_allclose(found, each.mean(0), rtol=1e-4)
    draws = [
        a[:, :2] @ d[:, :2].T + a[:, 2:] + d[:, 2]
        for a, d in zip(np.asarray(state.users.rows), np.asarray(state.items.rows), strict=True)
    ]
    noise = np.mean(np.asarray(state.noise)[:, None] / np.asarray(state.precisions), 0)
    std = float(state.current.scale) * np.sqrt(noise[:, None] + np.var(draws, 0))
    mean, found = fitted.predict(users, items, return_std=True)
    np.testing.assert_array_equal(mean, fitted.predict(users, items))
    np.testing.assert_allclose(found.reshape(m, n), std, rtol=1e-4)


def test_samples_are_spread_over_the_sweeps():
    """Each place holds the last sweep of its share."""
    ratings, _, _ = make_ratings(counts=True, n_users=9)
    noises = []
    result = completion.fit(
        MODEL, ratings, key=KEY, callbacks=[lambda event: noises.append(float(event.state.current.noise))]
    )
    np.testing.assert_allclose(result.state.noise, [noises[i] for i in (5, 7, 9, 11)])
    short = completion.fit(MODEL, ratings, key=KEY, n_epochs=2)
    assert np.isfinite(short.predict(0, 0)).all()
    np.testing.assert_allclose(short.state.noise[:2], noises[:2])
    np.testing.assert_array_equal(np.asarray(short.factors.users)[:, 4:], 0)  # places without samples


@pytest.mark.parametrize(("n_epochs", "sweeps"), [(10, [4, 6, 8, 9]), (7, [4, 6]), (3, [0, 1, 2])])
def test_samples_are_spread_evenly_and_those_of_the_burn_in_do_not_count(n_epochs, sweeps):
    ratings, _, _ = make_ratings(counts=True, n_users=9)
    model, noises = completion.BayesianMF(2, burn_in=3, n_samples=7, n_kept=4), []
    note = lambda event: noises.append(float(event.state.current.noise))
    state = completion.fit(model, ratings, key=KEY, n_epochs=n_epochs, callbacks=[note]).state
    share = np.asarray(bayesian._shares(model, state))
    np.testing.assert_allclose(share, [1 / len(sweeps)] * len(sweeps) + [0] * (4 - len(sweeps)))
    np.testing.assert_allclose(state.noise[: len(sweeps)], [noises[i] for i in sweeps])


def test_unknown_users_and_items_have_wider_intervals(fitted):
    _, known = fitted.predict(0, fitted.ratings.items[:2], return_std=True)
    _, std = fitted.predict([77, 0, 77], [0, 77, 77], return_std=True)
    assert np.isfinite(std).all()
    assert std[0] > known.min()
    state = fitted.state
    # Both unknown: the variance of the product of two independent draws of the priors, and of the noise.
    rng, values = np.random.default_rng(0), []
    for place in range(4):
        rows = []
        for prior in (state.users.prior, state.items.prior):
            covariance = np.linalg.inv(np.asarray(prior.precision[place], np.float64))
            rows.append(rng.multivariate_normal(prior.mean[place], covariance, 100_000))
        own = rng.gamma(10, 1 / 10, 100_000)  # precision of the user
        noise = rng.normal(0, np.sqrt(state.noise[place] / own))
        values.append(np.sum(rows[0][:, :2] * rows[1][:, :2], 1) + rows[0][:, 2] + rows[1][:, 2] + noise)
    np.testing.assert_allclose(std[2], float(state.current.scale) * np.std(values), rtol=0.02)


def test_intervals_cover_what_they_say():
    planted = completion.make_ratings(jax.random.key(2), n_users=120, n_items=60, n_ratings=3500).ratings
    train, test = completion.train_test_split(planted, test_size=0.25, key=KEY)
    result = completion.fit(completion.BayesianMF(4, n_samples=60), train, key=KEY)
    mean, std = result.predict(
        test.user_ids.values[test.users], test.item_ids.values[test.items], return_std=True
    )  # fmt: skip
    covered = np.mean(np.abs(test.values - mean) < 1.645 * std)
    assert 0.85 < covered < 0.95


def test_fold_in_is_the_expectation_for_each_sample(x64):
    ratings, _, _ = make_ratings(counts=True)
    result = completion.fit(MODEL, ratings, key=KEY)
    state, data = result.state, MODEL.prepare(ratings)
    folded = result.fold_in(ratings)
    now, bias = state.current, 0
    for place in range(4):
        own, other = (jax.tree.map(lambda a, place=place: a[place], side) for side in (state.users, state.items))
        items = now.items._replace(rows=other.rows, variance=jnp.zeros_like(now.items.rows))
        means = prior_means(own.prior, now.users.features.rows)
        found, _, _ = jax.jit(hierarchical.half_step)(
            data.by_user, means, own.prior.precision, items, now._replace(noise=state.noise[place])
        )
        expected = np.sqrt(float(now.scale) / 4) * (np.asarray(found) - np.asarray(own.prior.mean))[:, :2]
        np.testing.assert_allclose(folded.factors.users[:, 2 * place : 2 * place + 2], expected, rtol=1e-5, atol=1e-6)
        bias += hierarchical.relative(found, own.prior.mean, other.prior.mean, now.scale)[1] / 4
    np.testing.assert_allclose(folded.factors.user_bias, bias, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="folded in"):
        folded.predict(0, 0, return_std=True)


def test_errors():
    with pytest.raises(ValueError, match="n_kept must be at most n_samples, 5, got 9"):
        completion.BayesianMF(n_samples=5, n_kept=9)
    ratings, _, _ = make_ratings(counts=True)
    als = completion.fit(completion.ExplicitALS(1), ratings, key=KEY, n_epochs=1)
    with pytest.raises(ValueError, match="BayesianMF, got ExplicitALS"):
        als.predict(0, 0, return_std=True)


@pytest.mark.parametrize("p", [120, 240])
def test_draws_of_priors_are_finite_for_features_that_explain_nearly_all(p):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30_000, 120)).astype(np.float32)
    rows = features @ rng.normal(size=(120, 3)) + 0.01 * rng.normal(size=(30_000, 3))
    features = np.tile(features, p // 120)  # all of them twice
    features -= features.mean(0)
    start = Prior(jnp.zeros(3), jnp.zeros((p, 3)), jnp.eye(3), jnp.ones(p))
    draw = jax.jit(lambda key, prior: draw_prior(key, prior, rows.astype(np.float32), features, np.ones(30_000), p))
    prior = start
    for key in jax.random.split(KEY, 5):
        prior = draw(key, prior)
    assert all(bool(jnp.isfinite(array).all()) for array in prior)
    np.testing.assert_allclose(np.linalg.inv(prior.precision).diagonal(), 1e-4, rtol=0.5)


def test_a_refit_knows_the_new_ratings():
    ratings, *_ = make_ratings()
    fitted = completion.fit(completion.BayesianMF(2, burn_in=10, n_samples=20, n_kept=10), ratings, key=KEY)
    likes = completion.Ratings.from_triplets([99] * 4, ratings.item_ids.values[:4], [5.0, 5.0, 1.0, 1.0])
    items = ratings.item_ids.values[[0, 2]]
    again = completion.refit(fitted, likes, key=jax.random.key(1))
    folded = fitted.fold_in(likes).predict([99] * 2, items)
    found = again.predict([99] * 2, items)
    assert (found[0] - found[1]) > 0.5 * (folded[0] - folded[1])
