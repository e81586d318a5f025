"""Learned priors of `ExplicitALS`: half-steps, priors and bound against NumPy, features, scale, and files."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from completion_cases import KEY, K, make_ratings
from jax.test_util import check_grads

from jax_mmf import completion
from jax_mmf.completion import features, hierarchical
from jax_mmf.completion.prior import Prior, learn_prior, prior_means

MODEL = completion.ExplicitALS(K)
_half_step = jax.jit(hierarchical.half_step)
_epoch = jax.jit(hierarchical.epoch)


def random_state(ratings, seed=3):
    """A state with random numbers in all its parts, and the data."""
    data, rng = MODEL.prepare(ratings), np.random.default_rng(seed)
    state = jax.tree.map(np.asarray, hierarchical.init(KEY, data, K, 0.1, 3.0))

    def side(side):
        half = rng.normal(size=(K + 1, K + 1))
        prior = Prior(
            rng.normal(size=K + 1),
            rng.normal(size=side.prior.weights.shape),
            half @ half.T + np.eye(K + 1),
            rng.uniform(0.5, 2, side.prior.ridge.shape),
        )
        rows, variance = rng.normal(size=side.rows.shape), rng.uniform(0.1, 0.3, side.rows.shape)
        return side._replace(rows=rows, variance=variance, prior=prior)

    state = state._replace(users=side(state.users), items=side(state.items), noise=np.asarray(0.7))
    return jax.tree.map(jnp.asarray, state), data


def test_half_step_is_that_of_numpy(x64):
    ratings, values, weights = make_ratings(weighted=True)
    state, data = random_state(ratings)
    prior, d, s = state.users.prior, np.asarray(state.items.rows), np.asarray(state.items.variance)
    means = np.asarray(prior_means(prior, state.users.features.rows))
    found, variance, noise = _half_step(data.by_user, means, prior.precision, state.items, state)
    one = np.concatenate([d[:, :K], np.ones((len(d), 1))], 1)
    spread = np.concatenate([s[:, :K], np.zeros((len(d), 1))], 1)
    targets = (values - float(state.mean)) / float(state.scale) - d[:, K]
    expected = 0.0
    for u, w in enumerate(weights):
        precision = np.asarray(prior.precision) + (one.T @ (w[:, None] * one) + np.diag(w @ spread)) / 0.7
        right = np.asarray(prior.precision) @ means[u] + one.T @ (w * targets[u]) / 0.7
        x, v = np.linalg.solve(precision, right), 1 / np.diag(precision)
        np.testing.assert_allclose(found[u], x, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(variance[u], v, rtol=1e-8)
        added = one**2 @ v + spread @ (x**2 + v) + s[:, K]
        expected += w @ ((targets[u] - one @ x) ** 2 + added)
    np.testing.assert_allclose(noise, expected / weights.sum(), rtol=1e-8)


def test_mean_and_scale_are_those_of_the_ratings(x64):
    ratings, values, weights = make_ratings(weighted=True)
    state, _ = random_state(ratings)
    there = weights > 0
    mean = np.average(values[there], weights=weights[there])
    np.testing.assert_allclose(state.mean, mean, rtol=1e-8)
    np.testing.assert_allclose(state.scale**2, np.average((values[there] - mean) ** 2, weights=weights[there]))


def test_learned_prior_is_that_of_numpy(x64):
    rng = np.random.default_rng(0)
    n, p, clicks = 30, 5, 3
    x, v, f = rng.normal(size=(n, K)), rng.uniform(0.1, 0.5, (n, K)), rng.normal(size=(n, p))
    rated = (np.arange(n) < 25).astype(float)
    f[:25] -= f[:25].mean(0)
    ridge = np.array([1.5] * clicks + [0.3] * (p - clicks))
    old = Prior(jnp.zeros(K), jnp.zeros((p, K)), jnp.eye(K), jnp.asarray(ridge))
    new = learn_prior(old, *map(jnp.asarray, (x, v, f, rated)), clicks)
    x, v, f = x[:25], v[:25], f[:25]
    centred, spread = x - x.mean(0), np.linalg.inv(f.T @ f + np.diag(ridge))
    weights = spread @ f.T @ centred
    rest = centred - f @ weights
    scatter = rest.T @ rest + np.diag(v.sum(0)) + weights.T @ np.diag(ridge) @ weights + np.eye(K)
    precision = np.linalg.inv(scatter / (25 + K))
    np.testing.assert_allclose(new.mean, x.mean(0))
    np.testing.assert_allclose(new.weights, weights)
    np.testing.assert_allclose(new.precision, precision)
    for group in (slice(0, clicks), slice(clicks, p)):
        w, s = weights[group], spread[group, group]
        expected = len(w) * K / (np.trace(w @ precision @ w.T) + K * np.trace(s))
        np.testing.assert_allclose(new.ridge[group], expected)


def bound(state, before, values, weights):
    """Bound on the log evidence, up to a constant; regressions have the strengths of the state before."""
    noise, sides = float(state.noise), (state.users, state.items)
    (a, b, va, vb), (d, c, vd, vc) = (
        [np.asarray(part) for part in (s.rows[:, :-1], s.rows[:, -1], s.variance[:, :-1], s.variance[:, -1])]
        for s in sides
    )
    targets = (values - float(state.mean)) / float(state.scale)
    error = (targets - b[:, None] - c - a @ d.T) ** 2 + vb[:, None] + vc
    error += va @ (d.T**2) + a**2 @ vd.T + va @ vd.T
    total = -(weights * error).sum() / (2 * noise) - weights.sum() * np.log(noise) / 2
    for side, old in zip(sides, (before.users, before.items), strict=True):
        x, v, f = (np.asarray(t) for t in (side.rows, side.variance, side.features.rows))
        mean, w, precision, ridge = (np.asarray(t) for t in side.prior)
        n, k = x.shape
        spread = np.linalg.inv(f.T @ f + np.diag(old.prior.ridge))
        rest = x - mean - f @ w
        logdet = np.linalg.slogdet(precision)[1]
        total += (n + k) * logdet / 2 + np.log(v).sum() / 2
        inner = rest.T @ rest + np.diag(v.sum(0)) + w.T @ (ridge[:, None] * w) + np.eye(k)
        total -= np.trace(precision @ inner) / 2 + k * np.trace((f.T @ f + np.diag(ridge)) @ spread) / 2
        total += k * np.log(ridge).sum() / 2 + k * np.linalg.slogdet(spread)[1] / 2
    return total


def test_bound_never_falls(x64):
    ratings, values, weights = make_ratings(weighted=True)
    data = MODEL.prepare(ratings)
    before = hierarchical.init(KEY, data, K, 0.1, 3.0)
    state, found = _epoch(before, data), []
    for _ in range(30):
        before, state = state, _epoch(state, data)
        found.append(bound(state, before, values, weights))
    assert np.diff(found).min() >= -1e-9 * abs(found[0])
    assert found[-1] > found[0] + 1
    items = state.items
    for factor in (1.01, 0.99):  # the strengths and the means of the prior were chosen last
        moved = items.prior._replace(ridge=factor * items.prior.ridge)
        assert bound(state._replace(items=items._replace(prior=moved)), before, values, weights) < found[-1]
        moved = items.prior._replace(mean=items.prior.mean + (factor - 1))
        assert bound(state._replace(items=items._replace(prior=moved)), before, values, weights) < found[-1]


# Features


def test_singular_vectors_are_those_of_numpy():
    rng = np.random.default_rng(0)
    dense = (rng.normal(size=(90, 12)) * 0.5 ** np.arange(12)) @ rng.normal(size=(12, 120))
    found = features.singular_vectors(scipy.sparse.csr_array(dense), 5)
    _, _, expected = np.linalg.svd(dense)
    np.testing.assert_allclose(found @ found.T, expected[:5].T @ expected[:5], atol=1e-5)
    small = features.singular_vectors(scipy.sparse.csr_array(dense[:4]), 64)
    assert small.shape == (120, 4)
    np.testing.assert_allclose(dense[:4] @ small @ small.T, dense[:4], atol=1e-4)


@pytest.mark.parametrize("transposed", [False, True])
def test_features_are_of_clicks_and_of_given_numbers(x64, transposed):
    ratings, _, weights = make_ratings()
    given = np.random.default_rng(1).normal(2, 3, (weights.shape[1 if transposed else 0], 2))
    given[1, 0] = np.nan
    name = "item_features" if transposed else "user_features"
    known = features.row_features(ratings.with_features(**{name: given}), transposed)
    clicks = (weights.T if transposed else weights) > 0
    scaled = clicks / np.sqrt(clicks.sum(1, keepdims=True))
    own = scaled - scaled.mean(0)
    r = known.basis.shape[1]
    rows = np.asarray(known.rows)
    np.testing.assert_allclose(rows[:, :r] @ rows[:, :r].T, own @ own.T, atol=1e-5)
    given = given.astype(np.float32).astype(float)
    expected = (given - np.nanmean(given, 0)) / np.nanstd(given, 0)
    np.testing.assert_allclose(rows[:, r:], np.nan_to_num(expected), atol=1e-6)


def test_fold_in_uses_clicks_and_features_of_new_users(x64):
    ratings, _, _ = make_ratings(counts=True, weighted=True)
    given = np.random.default_rng(1).normal(size=(ratings.n_users, 2))
    ratings = ratings.with_features(user_features=given)
    fitted = completion.fit(MODEL, ratings, key=KEY, n_epochs=3)
    state, data = fitted.state, MODEL.prepare(ratings)
    means = prior_means(state.users.prior, state.users.features.rows)
    rows, _, _ = _half_step(data.by_user, means, state.users.prior.precision, state.items, state)
    users, bias = hierarchical.relative(rows, state.users.prior.mean, state.items.prior.mean, state.scale)
    folded = fitted.fold_in(ratings)
    np.testing.assert_allclose(folded.factors.users, users, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(folded.factors.user_bias, bias, rtol=1e-5, atol=1e-6)
    # Features alone are enough, and say something other than nothing.
    alone = completion.Ratings.from_triplets([77], ratings.items[:1], [3.0], user_ids=[77, 78])
    described = alone.with_features(user_features=given[:2])
    assert (np.asarray(fitted.fold_in(described).factors.users)[1] != 0).all()
    assert (np.asarray(fitted.fold_in(alone).factors.users)[1] == 0).all()
    with pytest.raises(ValueError, match="user_features must have the 2 columns"):
        fitted.fold_in(alone.with_features(user_features=given[:2, :1]))


def test_gradients_of_folding_in(x64):
    ratings, _, _ = make_ratings()
    state, _ = random_state(ratings)
    columns, here = np.array([[0, 1, 2, 3], [4, 2, 0, 0]]), np.array([[1, 1, 1, 1], [1, 1, 0, 0.0]])
    values = jnp.asarray(np.random.default_rng(4).normal(3, 1, (2, 4)))

    def prediction(rows, precision, values):
        moved = state._replace(
            items=state.items._replace(rows=rows),
            users=state.users._replace(prior=state.users.prior._replace(precision=(precision + precision.T) / 2)),
        )
        users, bias = MODEL.fold_in(moved, completion.padded_rows(columns, values, here))
        return jnp.sum(jnp.sin(users)) + jnp.sum(jnp.cos(bias))

    args = (state.items.rows, state.users.prior.precision, values)
    check_grads(jax.jit(prediction), args, 1, modes=["rev"], atol=1e-6, rtol=1e-6, eps=1e-5)
    to_values = np.asarray(jax.grad(prediction, 2)(*args))
    assert (to_values[here == 0] == 0).all()
    assert (to_values[here > 0] != 0).all()


def test_items_without_ratings_are_predicted_from_features():
    """The last item is liked by those who like the items of its kind."""
    rng = np.random.default_rng(0)
    kind, taste = np.arange(21) % 2, np.arange(40) % 2
    users, items = np.nonzero(rng.random((40, 20)) < 0.7)
    values = np.where(taste[users] == kind[items], 5.0, 1.0) + rng.normal(0, 0.3, len(users))
    ratings = completion.Ratings.from_triplets(users, items, values).with_features(
        item_features=np.stack([kind, 1 - kind], 1), items=range(21)
    )
    assert ratings.n_items == 21
    fitted = completion.fit(completion.ExplicitALS(2), ratings, key=KEY)
    predicted = fitted.predict(np.arange(40), 20)
    assert (predicted[taste == kind[20]] > 4).all()
    assert (predicted[taste != kind[20]] < 2).all()
    assert 20 in fitted.recommend(0, n=20).items
    folded = fitted.fold_in(completion.Ratings.from_triplets([100, 100], [0, 1], [5.0, 1.0]))
    assert 20 in folded.recommend(100, n=21).items
    assert 20 not in completion.fit(completion.ExplicitALS(2, learned_prior=False), ratings, key=KEY).recommend(
        0, n=20
    ).items.tolist()  # fmt: skip


@pytest.mark.parametrize(
    ("error", "words", "given"),
    [
        (ValueError, "user_features must have one row for each of 6 ids, got 2", {"user_features": np.ones((2, 1))}),
        (ValueError, "two axes", {"user_features": np.ones(6)}),
        (TypeError, "must be numbers", {"user_features": [["a"]] * 6}),
        (ValueError, "finite", {"item_features": np.full((5, 1), np.inf)}),
        (ValueError, "at most 1000 columns", {"item_features": scipy.sparse.csr_array((5, 1001))}),
        (ValueError, "must be given too", {"users": [1]}),
        (ValueError, "different", {"user_features": np.ones((2, 1)), "users": [1, 1]}),
        (TypeError, "real numbers", {"user_features": np.full((6, 1), 1j)}),
        (ValueError, "fit into float32", {"user_features": np.full((6, 1), 1e39)}),
        (TypeError, "ids must be a list or an array", {"user_features": np.ones((1, 1)), "users": 3}),
    ],
)
def test_wrong_features_are_named(error, words, given):
    with pytest.raises(error, match=words):
        make_ratings()[0].with_features(**given)


def test_features_must_keep_their_digits_in_float32():
    numbers = np.random.default_rng(0).normal(size=(6, 2))
    with pytest.raises(ValueError, match="user_features lose digits as float32 in column 1"):
        make_ratings()[0].with_features(user_features=numbers + np.array([0, 1e8]))
    with pytest.raises(ValueError, match="lose digits"):
        make_ratings()[0].with_features(user_features=10**9 + np.arange(12).reshape(6, 2))
    seconds = 1e9 + 1e7 * np.arange(12.0).reshape(6, 2)
    np.testing.assert_allclose(make_ratings()[0].with_features(user_features=seconds).user_features, seconds)
    constant = make_ratings()[0].with_features(user_features=np.full((6, 1), 123456789.0))
    assert constant.user_features.shape == (6, 1)


def test_masked_features_are_unknown():
    given = np.ma.masked_array(np.arange(6.0)[:, None], np.arange(6)[:, None] == 2)
    found = make_ratings()[0].with_features(user_features=given).user_features[:, 0]
    np.testing.assert_array_equal(found, [0, 1, np.nan, 3, 4, 5])


def test_features_of_ids_of_another_type_give_a_warning():
    with pytest.warns(UserWarning, match="none of the 2 users is known: they are text"):
        make_ratings()[0].with_features(user_features=np.ones((2, 1)), users=["0", "1"])


def test_features_follow_their_users():
    ratings, _, _ = make_ratings()
    own = ratings.with_features(user_features=scipy.sparse.csr_array(np.arange(6)[:, None]))
    newer = completion.Ratings.from_triplets([9, 2], [0, 0], [1.0, 2.0]).with_features(user_features=[[20.0], [90.0]])
    both = own.union(newer)
    np.testing.assert_array_equal(both.user_features[:, 0], [0, 1, 20, 3, 4, 5, 90])
    assert own.select([0]).user_features.shape == (6, 1)
    moved = own.relabelled(completion.Labels([5, 77, 0]), own.item_ids)
    np.testing.assert_array_equal(moved.user_features[:, 0], [5, np.nan, 0])


# Scale, files and the switch


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e3, 1e25])
def test_predictions_scale_with_the_ratings(scale):
    ratings, _, _ = make_ratings(counts=True)
    fit = lambda by: completion.fit(
        MODEL, completion.Ratings.from_triplets(ratings.users, ratings.items, by * ratings.values), key=KEY, n_epochs=5
    )
    one, other = fit(1.0), fit(scale)
    np.testing.assert_allclose(
        other.predict(ratings.users, ratings.items) / scale, one.predict(ratings.users, ratings.items), rtol=1e-3
    )
    assert np.ptp(one.predict(ratings.users, ratings.items)) > 0.5


def test_files_with_features_and_from_before_priors_were_learned(tmp_path):
    ratings = make_ratings(counts=True)[0].with_features(item_features=np.arange(10.0).reshape(5, 2))
    fitted = completion.fit(MODEL, ratings, key=KEY, n_epochs=2)
    completion.save_model(tmp_path / "m.h5", fitted)
    loaded = completion.load_model(tmp_path / "m.h5")
    jax.tree.map(np.testing.assert_array_equal, loaded.factors, fitted.factors)
    np.testing.assert_array_equal(loaded.ratings.item_features, ratings.item_features)
    old = completion.load_model(Path(__file__).parent / "data" / "ratings_model_version_1.h5")
    assert old.model == completion.ExplicitALS(2, learned_prior=False)
    expected = [3.858379364013672, 3.711765766143799, 3.407167911529541, 3.3718390464782715, 3.7352359294891357]
    np.testing.assert_allclose(old.predict([0, 0, 0, 1, 1], [0, 1, 5, 4, 5]), expected, rtol=1e-5)


def test_which_models_learn_priors():
    assert completion.ExplicitALS().learns_prior
    for other in ({"biases": False}, {"nonneg": True}, {"variational": False}, {"learned_prior": False}):
        assert not completion.ExplicitALS(**other).learns_prior
    with pytest.raises(ValueError, match="learned_prior=True needs"):
        completion.ExplicitALS(learned_prior=True, nonneg=True)
