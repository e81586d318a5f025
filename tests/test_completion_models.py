"""Models of ratings: half-steps and epochs against dense least squares in NumPy."""

import dataclasses

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import sklearn.linear_model
from completion_cases import (
    EVERY,
    EXPLICIT,
    KEY,
    MAIN,
    N_ITEMS,
    N_USERS,
    TIGHT,
    K,
    half_step,
    make_ratings,
    random_sides,
    strengths,
)
from jax.test_util import check_grads

import jax_mmf as mmf
from jax_mmf import completion
from jax_mmf.completion import bpr, online

# Explicit feedback: half-steps


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scaling", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("side", ["users", "items"])
def test_half_step_without_biases_is_ridge(x64, weighted, scaling, side):
    ratings, values, weights = make_ratings(weighted=weighted)
    model = completion.ExplicitALS(K, alpha=0.3, scaling=scaling, biases=False, variational=False)
    users, items = random_sides(ratings)
    data, mean, one = model.prepare(ratings), jnp.asarray(2.5), jnp.ones(())
    if side == "users":
        new, noise = half_step(model, data.by_user, users, items, mean, one)
        other = items
    else:
        new, noise = half_step(model, data.by_item, items, users, mean, one)
        other, values, weights = users, values.T, weights.T
    assert noise == 1
    assert new.variance is None
    np.testing.assert_array_equal(new.bias, 0)
    for i, strength in enumerate(strengths(model, weights)):
        target = values[i] - 2.5 - np.asarray(other.bias)
        ridge = sklearn.linear_model.Ridge(alpha=strength, fit_intercept=False)
        ridge.fit(np.asarray(other.factors), target, sample_weight=weights[i])
        np.testing.assert_allclose(new.factors[i], ridge.coef_, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scaling", [0.0, 0.5, 1.0])
def test_half_step_with_biases_is_one_joint_problem(x64, weighted, scaling):
    ratings, values, weights = make_ratings(weighted=weighted)
    model = completion.ExplicitALS(K, alpha=0.3, scaling=scaling, bias_alpha=1.7, variational=False)
    users, items = random_sides(ratings)
    new, _ = half_step(model, model.prepare(ratings).by_user, users, items, jnp.asarray(2.5), jnp.ones(()))
    design = np.hstack([items.factors, np.ones((N_ITEMS, 1))])
    for u, strength in enumerate(strengths(model, weights)):
        target = values[u] - 2.5 - np.asarray(items.bias)
        matrix = design.T @ (weights[u, :, None] * design) + np.diag([strength] * K + [1.7])
        best = np.linalg.solve(matrix, design.T @ (weights[u] * target))
        np.testing.assert_allclose(new.factors[u], best[:K], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(new.bias[u], best[K], rtol=1e-8, atol=1e-8)


def objective(model, values, weights, mean, users, items):
    """The problem of `jax_mmf.completion.explicit`, from its docstring."""
    (a, b), (d, c) = ((np.asarray(s.factors), np.asarray(s.bias)) for s in (users, items))
    error = values - mean - b[:, None] - c - a @ d.T
    ratio = 0.0 if model.l1_ratio is None else model.l1_ratio
    omega = lambda f: ratio * np.abs(f).sum(1) + (1 - ratio) / 2 * (f**2).sum(1)
    if model.nonneg:
        assert (a >= 0).all()
        assert (d >= 0).all()
    return (
        (weights * error**2).sum() / 2
        + strengths(model, weights) @ omega(a)
        + strengths(model, weights.T) @ omega(d)
        + model.bias_alpha / 2 * ((b**2).sum() + (c**2).sum())
    )


MODELS = {
    "ridge": completion.ExplicitALS(K, alpha=0.1, variational=False),
    "ridge, scaling 1": completion.ExplicitALS(K, alpha=0.1, variational=False, scaling=1.0),
    "no biases": completion.ExplicitALS(K, alpha=0.1, variational=False, biases=False, scaling=0.0),
    "nonneg": completion.ExplicitALS(K, alpha=0.1, nonneg=True, code_solver=TIGHT),
    "elastic net": completion.ExplicitALS(K, alpha=0.1, l1_ratio=0.4, code_solver=TIGHT),
    "elastic net, nonneg": completion.ExplicitALS(K, alpha=0.1, l1_ratio=0.4, nonneg=True, code_solver=TIGHT),
}


@pytest.mark.parametrize("name", MODELS)
def test_objective_never_rises(x64, name):
    model = MODELS[name]
    ratings, values, weights = make_ratings(weighted=True)
    data = model.prepare(ratings)
    state = model.init(KEY, data)
    np.testing.assert_allclose(state.mean, (weights * values).sum() / weights.sum(), rtol=1e-12)
    users, items, noise = state.users, state.items, state.noise
    costs = [objective(model, values, weights, float(state.mean), users, items)]
    for _ in range(8):
        users, noise = half_step(model, data.by_user, users, items, state.mean, noise)
        costs.append(objective(model, values, weights, float(state.mean), users, items))
        items, noise = half_step(model, data.by_item, items, users, state.mean, noise)
        costs.append(objective(model, values, weights, float(state.mean), users, items))
    assert np.diff(costs).max() <= 1e-9 * costs[0]
    assert costs[-1] < 0.9 * costs[0]
    # And an epoch is these two half-steps.
    after = jax.jit(model.epoch)(KEY, model.init(KEY, data), data)
    again = objective(model, values, weights, float(after.mean), after.users, after.items)
    np.testing.assert_allclose(again, costs[2], rtol=1e-9)


@pytest.mark.parametrize("nonneg", [False, True])
def test_elastic_net_half_step_is_that_of_scikit_learn(x64, nonneg):
    ratings, values, weights = make_ratings(full=0.8)
    model = completion.ExplicitALS(K, alpha=0.5, l1_ratio=0.4, nonneg=nonneg, biases=False, code_solver=TIGHT)
    users, items = random_sides(ratings)
    if nonneg:
        users = users._replace(factors=jnp.abs(users.factors))
    new, _ = half_step(model, model.prepare(ratings).by_user, users, items, jnp.asarray(2.5), jnp.ones(()))
    for u, strength in enumerate(strengths(model, weights)):
        rated = weights[u] > 0
        net = sklearn.linear_model.ElasticNet(
            alpha=strength / rated.sum(), l1_ratio=0.4, fit_intercept=False, positive=nonneg, tol=1e-14, max_iter=100000
        )
        net.fit(np.asarray(items.factors)[rated], (values[u] - 2.5 - np.asarray(items.bias))[rated])
        np.testing.assert_allclose(new.factors[u], net.coef_, atol=1e-6)
    assert (np.asarray(new.factors) == 0).any()
    assert (np.asarray(new.factors) != 0).any()


@pytest.mark.parametrize("nonneg", [False, True])
def test_elastic_net_with_biases_and_weights_satisfies_its_optimality_conditions(x64, nonneg):
    ratings, values, weights = make_ratings(weighted=True, full=0.8)
    model = completion.ExplicitALS(K, alpha=0.2, l1_ratio=0.4, bias_alpha=1.7, nonneg=nonneg, code_solver=TIGHT)
    users, items = random_sides(ratings)
    new, _ = half_step(model, model.prepare(ratings).by_user, users, items, jnp.asarray(2.5), jnp.ones(()))
    a, b, d = np.asarray(new.factors), np.asarray(new.bias), np.asarray(items.factors)
    error = weights * (values - 2.5 - b[:, None] - np.asarray(items.bias) - a @ d.T)
    np.testing.assert_allclose(error.sum(1), 1.7 * b, atol=1e-8)
    strength = strengths(model, weights)[:, None]
    pull = error @ d - strength * 0.6 * a
    l1 = np.broadcast_to(strength * 0.4, a.shape)
    on = a != 0
    assert on.any()
    assert (~on).any()
    np.testing.assert_allclose(pull[on], (np.sign(a) * l1)[on], atol=1e-5)
    assert ((pull if nonneg else np.abs(pull)) <= l1 + 1e-5)[~on].all()
    assert not nonneg or (a >= 0).all()


def test_nonneg_ridge_half_step_is_nnls(x64):
    ratings, values, weights = make_ratings(weighted=True, full=0.8)
    model = completion.ExplicitALS(K, alpha=0.2, nonneg=True, biases=False, code_solver=TIGHT)
    users, items = random_sides(ratings)
    users = users._replace(factors=jnp.abs(users.factors))
    new, _ = half_step(model, model.prepare(ratings).by_user, users, items, jnp.asarray(2.5), jnp.ones(()))
    for u, strength in enumerate(strengths(model, weights)):
        root = np.sqrt(weights[u])
        design = np.vstack([root[:, None] * items.factors, np.sqrt(strength) * np.eye(K)])
        target = np.concatenate([root * (values[u] - 2.5 - np.asarray(items.bias)), np.zeros(K)])
        np.testing.assert_allclose(new.factors[u], scipy.optimize.nnls(design, target)[0], atol=1e-6)
    assert (np.asarray(new.factors) == 0).any()


@pytest.mark.parametrize("biases", [False, True])
def test_variational_half_step_is_the_closed_form(x64, biases):
    ratings, values, weights = make_ratings(weighted=True)
    model = completion.ExplicitALS(K, alpha=0.3, bias_alpha=1.7, biases=biases, learned_prior=False)
    assert model.has_variance
    users, items = random_sides(ratings, variance=True)
    new, noise = half_step(model, model.prepare(ratings).by_user, users, items, jnp.asarray(2.5), jnp.asarray(0.7))
    d, c, spread = (np.asarray(part) for part in (items.factors, items.bias, items.variance))
    expected = 0.0
    for u, strength in enumerate(strengths(model, weights)):
        w, target = weights[u], values[u] - 2.5 - c
        precision = d.T @ (w[:, None] * d) + np.diag(w @ spread) + strength * np.eye(K)
        if biases:  # one more row and column
            whole = np.block([[precision, (w @ d)[:, None]], [(w @ d)[None], w.sum() + 1.7]])
            mean = np.linalg.solve(whole, [*(d.T @ (w * target)), w @ target])
            a, b = mean[:K], mean[K]
        else:
            a, b = np.linalg.solve(precision, d.T @ (w * target)), 0.0
        np.testing.assert_allclose(new.factors[u], a, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(new.bias[u], b, rtol=1e-8, atol=1e-10)
        variance = 0.7 / np.diag(precision)
        np.testing.assert_allclose(new.variance[u], variance, rtol=1e-8, atol=1e-10)
        # Expected squared error, entry by entry: all factors are independent.
        for i in np.flatnonzero(w):
            added = d[i] ** 2 @ variance + a**2 @ spread[i] + variance @ spread[i]
            expected += w[i] * ((target[i] - b - a @ d[i]) ** 2 + added)
    np.testing.assert_allclose(noise, expected / weights.sum(), rtol=1e-8)


def free_energy(model, values, weights, mean, users, items, noise):
    """Bound on minus the log evidence of ratings, up to a constant: expected cost less the entropy of the factors."""
    (a, b, v), (d, c, s) = ([np.asarray(p) for p in (t.factors, t.bias, t.variance)] for t in (users, items))
    error = (values - mean - b[:, None] - c - a @ d.T) ** 2 + v @ (d.T**2) + a**2 @ s.T + v @ s.T
    penalty = strengths(model, weights) @ (a**2 + v).sum(1) + strengths(model, weights.T) @ (d**2 + s).sum(1)
    cost = (weights * error).sum() + penalty + model.bias_alpha * ((b**2).sum() + (c**2).sum())
    return cost / (2 * noise) - np.log(v).sum() / 2 - np.log(s).sum() / 2


def test_variational_half_steps_lower_the_bound(x64):
    """At a noise that is held: each half-step is the best of its side, for means and variances."""
    ratings, values, weights = make_ratings(weighted=True)
    model = completion.ExplicitALS(K, alpha=0.2, learned_prior=False)
    data, noise = model.prepare(ratings), jnp.asarray(0.7)
    state = jax.jit(model.epoch)(KEY, model.init(KEY, data), data)
    users, items = state.users, state.items
    bounds = []
    for _ in range(8):
        users, _ = half_step(model, data.by_user, users, items, state.mean, noise)
        bounds.append(free_energy(model, values, weights, float(state.mean), users, items, 0.7))
        items, _ = half_step(model, data.by_item, items, users, state.mean, noise)
        bounds.append(free_energy(model, values, weights, float(state.mean), users, items, 0.7))
    assert np.diff(bounds).max() <= 1e-9 * abs(bounds[0])
    assert bounds[-1] < bounds[0] - 1
    # And it is a minimum: no small change of the side just solved for is better.
    rng = np.random.default_rng(0)
    for change in (1e-3, -1e-3):
        for name in ("factors", "bias", "variance"):
            moved = getattr(items, name) * (1 + change * rng.normal(size=getattr(items, name).shape))
            other = items._replace(**{name: moved})
            assert free_energy(model, values, weights, float(state.mean), users, other, 0.7) > bounds[-1]


def test_which_models_have_variances():
    assert completion.ExplicitALS().has_variance
    assert not completion.ExplicitALS(variational=False).has_variance
    assert not completion.ExplicitALS(l1_ratio=0.5).has_variance
    assert not completion.ExplicitALS(nonneg=True).has_variance
    for other in ({"l1_ratio": 0.5}, {"nonneg": True}):
        with pytest.raises(ValueError, match="variational"):
            completion.ExplicitALS(variational=True, **other)


@pytest.mark.parametrize("name", ["ridge", *MAIN])
def test_users_and_items_without_ratings(name):
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((4, 4)) < 0.8)
    ratings = completion.Ratings.from_triplets(
        users + 1, items + 1, rng.integers(1, 6, len(users)), user_ids=range(6), item_ids=range(6)
    )
    fitted = completion.fit(EVERY[name], ratings, key=KEY, n_epochs=2)
    assert fitted.factors.users.shape == fitted.factors.items.shape == (6, 2)
    f = jax.tree.map(np.asarray, fitted.factors)
    for empty in (0, 5):
        assert (f.users[empty] == 0).all()
        assert (f.items[empty] == 0).all()
        assert f.user_bias[empty] == f.item_bias[empty] == 0
    bound = lambda v: v if fitted.limits is None else np.clip(v, *fitted.limits)
    everyone, everything = np.repeat(range(6), 6), np.tile(range(6), 6)
    predicted = fitted.predict(everyone, everything).reshape(6, 6)
    assert np.isfinite(predicted).all()
    np.testing.assert_allclose(predicted[0], bound(f.mean + f.item_bias), rtol=1e-6)
    np.testing.assert_allclose(predicted[:, 5], bound(f.mean + f.user_bias), rtol=1e-6)
    assert set(fitted.recommend(n=6, exclude_seen=False).items.ravel()) == {-1, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("name", "shape"),
    [(n, s) for n in ("variational", "implicit") for s in ((1, 3), (3, 1))] + [(n, (1, 1)) for n in MAIN],
)
def test_one_user_or_one_item(name, shape):
    users, items = np.nonzero(np.ones(shape))
    ratings = completion.Ratings.from_triplets(users, items, np.arange(len(users)) + 1)
    fitted = completion.fit(EVERY[name], ratings, key=KEY, n_epochs=2)
    predicted = fitted.predict(users, items)
    assert predicted.shape == (len(users),)
    assert np.isfinite(predicted).all()


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, N_ITEMS + 3])
@pytest.mark.parametrize("name", ["variational", "elastic net", "online"])
def test_any_number_of_factors(name, k):
    ratings, values, _ = make_ratings()
    fitted = completion.fit(dataclasses.replace(EXPLICIT[name], n_components=k), ratings, key=KEY, n_epochs=3)
    assert fitted.factors.items.shape == (N_ITEMS, k)
    assert completion.rmse(fitted, ratings) < values[values != 0].std()


@pytest.mark.slow
@pytest.mark.parametrize("model", [
    completion.ExplicitALS(N_ITEMS + 2, alpha=0.0),
    *(dataclasses.replace(model, alpha=0.0) for model in map(EVERY.get, ("ridge", *MAIN))),
    completion.ImplicitALS(N_ITEMS + 2, alpha=0.0),
])  # fmt: skip
def test_no_penalty_gives_finite_numbers(model):
    ratings, _, _ = make_ratings(counts=True)
    fitted = completion.fit(model, ratings, key=KEY, n_epochs=3)
    assert all(np.isfinite(np.asarray(a)).all() for a in fitted.factors)


# Implicit feedback


def dense_implicit(model, values, weights, own, other):
    """The best rows for given columns, and the matrix of the weights of entries."""
    w = model.confidence * weights * values
    n = w.sum(1) + model.unobserved_weight * w.shape[1]
    strength = model.alpha * w.sum(1).mean() * (n / n.mean()) ** model.scaling
    out = []
    for i in range(len(own)):
        # Both terms of the problem are squares of pairs: stacked, they are one least squares problem.
        roots = np.concatenate([np.sqrt(w[i]), np.full(len(other), np.sqrt(model.unobserved_weight))])
        design = np.vstack([roots[:, None] * np.vstack([other, other]), np.sqrt(strength[i]) * np.eye(other.shape[1])])
        target = np.concatenate([np.sqrt(w[i]), np.zeros(len(other) + other.shape[1])])
        out.append(np.linalg.lstsq(design, target, rcond=None)[0])
    return np.array(out)


def implicit_objective(model, values, weights, users, items):
    w, scores = model.confidence * weights * values, np.asarray(users) @ np.asarray(items).T
    cost = (w * (1 - scores) ** 2).sum() / 2 + model.unobserved_weight / 2 * (scores**2).sum()
    for factors, weight in ((users, w), (items, w.T)):
        n, squares = weight.sum(1) + model.unobserved_weight * weight.shape[1], (np.asarray(factors) ** 2).sum(1)
        cost += model.alpha / 2 * weight.sum(1).mean() * (n / n.mean()) ** model.scaling @ squares
    return cost


def implicit_mean_weights(model, values, weights):
    w = model.confidence * weights * values
    return (jnp.asarray(m.sum(1).mean()) for m in (w, w.T))


@pytest.mark.parametrize("block_size", [None, K])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scaling", [0.0, 0.5, 1.0])
def test_implicit_half_step_is_least_squares_over_all_pairs(x64, scaling, weighted, block_size):
    ratings, values, weights = make_ratings(weighted=weighted, counts=True)
    model = completion.ImplicitALS(K, 0.3, 0.2, 1.5, scaling, block_size=block_size)
    rng, data = np.random.default_rng(2), model.prepare(ratings)
    users, items = rng.normal(size=(N_USERS, K)), rng.normal(size=(N_ITEMS, K))
    user_mean_weight, item_mean_weight = implicit_mean_weights(model, values, weights)
    state = model.init(KEY, data)
    np.testing.assert_allclose(
        [state.user_mean_weight, state.item_mean_weight], [user_mean_weight, item_mean_weight], rtol=1e-12
    )
    new = half_step(model, data.by_user, jnp.asarray(users), jnp.asarray(items), user_mean_weight)
    np.testing.assert_allclose(new, dense_implicit(model, values, weights, users, items), rtol=1e-8, atol=1e-8)
    new = half_step(model, data.by_item, jnp.asarray(items), jnp.asarray(users), item_mean_weight)
    np.testing.assert_allclose(new, dense_implicit(model, values.T, weights.T, items, users), rtol=1e-8, atol=1e-8)


def test_default_alpha_follows_the_clicks_per_user_and_per_item(x64):
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((12, 9)) < 0.4)
    clicks = completion.Ratings.from_triplets(users, items, np.ones(len(users)))
    per_user, per_item = len(clicks) / clicks.n_users, len(clicks) / clicks.n_items
    alpha = 0.58 * (per_user**-0.5 + per_item**-0.5)
    given, default, scaled = (
        completion.fit(completion.ImplicitALS(2, **values), clicks, key=KEY, n_epochs=3)
        for values in ({"alpha": alpha}, {}, {"confidence": 5.0, "unobserved_weight": 1.5})
    )
    for other in (default, scaled):
        np.testing.assert_allclose(other.factors.users, given.factors.users, rtol=1e-7, atol=1e-12)
        folded = [fitted.fold_in(clicks).factors.users for fitted in (other, given)]
        np.testing.assert_allclose(*folded, rtol=1e-7, atol=1e-12)
    assert np.abs(given.factors.users).max() > 0.1


@pytest.mark.parametrize("block_size", [1, 2, None])
def test_implicit_objective_never_rises(x64, block_size):
    ratings, values, weights = make_ratings(weighted=True, counts=True)
    model = completion.ImplicitALS(K, 0.05, 0.2, 1.5, 0.5, block_size=block_size)
    data = model.prepare(ratings)
    state = model.init(KEY, data)
    users, items = state.users, state.items
    costs = [implicit_objective(model, values, weights, users, items)]
    for _ in range(8):
        users = half_step(model, data.by_user, users, items, state.user_mean_weight)
        costs.append(implicit_objective(model, values, weights, users, items))
        items = half_step(model, data.by_item, items, users, state.item_mean_weight)
        costs.append(implicit_objective(model, values, weights, users, items))
    assert np.diff(costs).max() <= 1e-9 * costs[0]
    assert costs[-1] < 0.9 * costs[0]


def test_block_of_factors_is_newtons_step_on_the_block(x64):
    """With one block of factors held, the other is solved for exactly."""
    ratings, values, weights = make_ratings(counts=True)
    model = completion.ImplicitALS(K, 0.3, 0.2, 1.5, 0.5, block_size=2)
    rng, data = np.random.default_rng(2), model.prepare(ratings)
    users, items = rng.normal(size=(N_USERS, K)), rng.normal(size=(N_ITEMS, K))
    user_mean_weight, _ = implicit_mean_weights(model, values, weights)
    new = np.asarray(half_step(model, data.by_user, jnp.asarray(users), jnp.asarray(items), user_mean_weight))
    w = 1.5 * weights * values
    n = w.sum(1) + 0.2 * N_ITEMS
    strength = 0.3 * w.sum(1).mean() * (n / n.mean()) ** 0.5
    for u in range(N_USERS):
        matrix = items.T @ ((w[u] + 0.2)[:, None] * items) + strength[u] * np.eye(K)
        right, a = items.T @ w[u], users[u].copy()
        a[:2] = np.linalg.solve(matrix[:2, :2], right[:2] - matrix[:2, 2] * a[2])
        a[2] = (right[2] - matrix[2, :2] @ a[:2]) / matrix[2, 2]
        np.testing.assert_allclose(new[u], a, rtol=1e-8, atol=1e-8)


def test_implicit_values_are_counts():
    """A count of three is as good as a weight of three; negative values are no counts."""
    ratings, _, _ = make_ratings(counts=True)
    as_weights = completion.Ratings.from_triplets(ratings.users, ratings.items, weights=ratings.values)
    model = completion.ImplicitALS(2)
    one, other = (completion.fit(model, r, key=KEY, n_epochs=2) for r in (ratings, as_weights))
    chex.assert_trees_all_close(one.factors, other.factors, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="implicit"):
        completion.fit(model, make_negative(ratings), key=KEY)


def make_negative(ratings):
    return completion.Ratings.from_triplets(ratings.users, ratings.items, -ratings.values)


# Online


def test_online_epoch_is_that_of_numpy(x64):
    ratings, values, weights = make_ratings(n_users=8, weighted=True)
    k, forget, radius = 3, 0.8, online._RADIUS
    model = completion.ExplicitOnline(
        k, alpha=0.2, scaling=0.5, bias_alpha=1.7, forgetting=mmf.PowerForgetting(forget), batch_size=3,
        n_sweeps=2,
    )  # fmt: skip
    data = model.prepare(ratings)
    state = model.init(KEY, data)

    mean, user_bias, item_bias = (weights * values).sum() / weights.sum(), np.zeros(8), np.zeros(N_ITEMS)
    for _ in range(5):
        user_bias = (weights * (values - mean - item_bias)).sum(1) / (weights.sum(1) + 1.7)
        item_bias = (weights * (values - mean - user_bias[:, None])).sum(0) / (weights.sum(0) + 1.7)
    np.testing.assert_allclose(state.model.items.bias, item_bias, rtol=1e-9)
    np.testing.assert_allclose(state.model.users.bias, user_bias, rtol=1e-9)
    atoms = np.asarray(state.model.items.factors).T.copy()
    np.testing.assert_allclose((atoms**2).sum(1), radius * N_ITEMS, rtol=1e-9)

    blocks = np.asarray(data.by_user.numbers)
    assert sorted(blocks[blocks < 8]) == list(range(8))
    strength = strengths(model, weights)
    codes, c, residual, counts, n = np.zeros((8, k)), np.zeros((k, k)), np.zeros((k, N_ITEMS)), np.zeros(N_ITEMS), 0
    for number in np.asarray(jax.random.permutation(jax.random.fold_in(KEY, len(blocks)), len(blocks))):
        batch = blocks[number][blocks[number] < 8]
        design, left = np.vstack([atoms, np.ones(N_ITEMS)]), np.zeros((k, N_ITEMS))
        for u in batch:
            target = values[u] - mean - item_bias
            matrix = (design * weights[u]) @ design.T + np.diag([strength[u]] * k + [1.7])
            best = np.linalg.solve(matrix, design @ (weights[u] * target))
            codes[u], user_bias[u] = best[:k], best[k]
            left += np.outer(best[:k], weights[u] * (target - best @ design))
        seen = weights[batch].sum(0)
        # Sample i has the weight i^-u: what is left of the past is the product of the rest.
        places = np.arange(n + 1, n + blocks.shape[1] + 1, dtype=float)
        weight = 1 - np.prod(1 - places**-forget)
        n += len(batch)
        counts += seen
        c = (1 - weight) * c + weight * codes[batch].T @ codes[batch] / len(batch)
        for j in np.flatnonzero(seen):
            share = min(1, weight * (seen[j] / len(batch)) / (counts[j] / n))
            residual[:, j] = (1 - share) * residual[:, j] + share * left[:, j] / seen[j]
        b = residual + c @ atoms
        order = np.asarray(jax.random.permutation(jax.random.fold_in(KEY, int(number)), k))
        for _ in range(2):
            for j in order:
                atom = atoms[j] + (b[j] - c[j] @ atoms) / c[j, j]
                atoms[j] = atom * min(1, np.sqrt(radius * N_ITEMS / (atom @ atom)))
        residual = b - c @ atoms

    after = jax.jit(model.epoch)(KEY, state, data)
    np.testing.assert_allclose(after.c, c, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(after.rates, counts / 8, rtol=1e-10)
    np.testing.assert_allclose(after.model.users.factors, codes, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(after.model.users.bias, user_bias, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(after.model.items.factors, atoms.T, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(after.model.items.bias, item_bias, rtol=1e-9)
    np.testing.assert_allclose(after.residual, residual, rtol=1e-7, atol=1e-9)
    assert after.n_seen == 8


def test_counters_of_the_online_model_stay_at_their_end():
    """Weights of the steps around 2^31 users are those of just before: nothing wraps around."""
    ratings, _, weights = make_ratings(seed=5, n_users=96, full=0.7)
    model = completion.ExplicitOnline(2, batch_size=48)
    data = model.prepare(ratings)
    epoch, first = jax.jit(model.epoch), model.init(KEY, data)
    rates = jnp.asarray(weights.mean(0), jnp.float32)
    after = {}
    for n_seen in (2**31 - 200, 2**31 - 5000):
        state = first._replace(n_seen=jnp.asarray(n_seen, jnp.int32), rates=rates)
        for number in range(3):
            state = epoch(jax.random.fold_in(KEY, number), state, data)
        after[n_seen] = state
    end, before = after.values()
    assert int(end.n_seen) == 2**31 - 2
    assert int(before.n_seen) == 2**31 - 5000 + 3 * 96
    # All items are in many ratings, whatever the number of users: 288 more change nothing of their rates.
    np.testing.assert_allclose(end.rates, rates, rtol=1e-5)
    assert np.abs(end.c).max() > 0
    # The sum of the weights i^-0.9, times second moments: no factor of 2 between wrapped and right ones.
    np.testing.assert_allclose(end.c, before.c, rtol=1e-4)
    np.testing.assert_allclose(end.residual, before.residual, rtol=1e-3, atol=1e-9)


def test_rates_of_items_do_not_stop_where_counts_do():
    """In single precision 2^24 + 1 is 2^24, so that a count of ratings would stop while that of users goes on."""
    ratings, _, weights = make_ratings(seed=5, n_users=96, full=0.7)
    model = completion.ExplicitOnline(2, batch_size=48)
    data = model.prepare(ratings)
    first = model.init(KEY, data)
    twice = jnp.asarray(2 * weights.mean(0), jnp.float32)  # of an earlier time: the mean has to fall
    state = first._replace(n_seen=jnp.asarray(96 * 100, jnp.int32), rates=twice)
    state = jax.jit(model.epoch)(KEY, state, data)
    np.testing.assert_allclose(state.rates, (100 * twice + weights.mean(0)) / 101, rtol=1e-5)


def test_more_entries_than_int32_are_refused():
    class Many(completion.Ratings):
        def __len__(self):
            return 2**31

    few = make_ratings()[0]
    many = Many(**{f.name: getattr(few, f.name) for f in dataclasses.fields(few)})
    with pytest.raises(ValueError, match="2,147,483,647 entries.*2,147,483,648; ImplicitALS"):
        completion.BPR(2).prepare(many)


def transposed(ratings):
    return completion.Ratings.from_triplets(ratings.items, ratings.users, ratings.values, weights=ratings.weights)


@pytest.mark.slow
def test_streamed_items_are_streamed_users_of_the_transposed_matrix(x64):
    ratings, _, _ = make_ratings(n_users=8, weighted=True)
    by_items = completion.ExplicitOnline(2, batch_size=3, streamed="items")
    by_users = completion.ExplicitOnline(2, batch_size=3)
    one = completion.fit(by_items, ratings, key=KEY, n_epochs=2)
    other = completion.fit(by_users, transposed(ratings), key=KEY, n_epochs=2)
    users, items = np.repeat(range(8), N_ITEMS), np.tile(range(N_ITEMS), 8)
    np.testing.assert_allclose(one.predict(users, items), other.predict(items, users), rtol=1e-6)
    np.testing.assert_allclose(one.factors.users, other.factors.items, rtol=1e-9)


# Bayesian personalised ranking


def test_gradient_of_bpr_is_that_of_finite_differences(x64):
    model, rng = completion.BPR(2, alpha=0.3), np.random.default_rng(0)
    factors = completion.Factors(
        *(jnp.asarray(rng.normal(size=s)) for s in ((), N_USERS, N_ITEMS, (N_USERS, 2), (N_ITEMS, 2)))
    )
    users, items, others = (jnp.asarray(rng.integers(n, size=7)) for n in (N_USERS, N_ITEMS, N_ITEMS))
    valid = jnp.asarray(rng.random(7) < 0.7)
    check_grads(
        lambda f: model.loss(f, users, items, others, valid), (factors,), 1, modes=["rev"], atol=1e-7, rtol=1e-7
    )
    # The loss of the docstring, in NumPy.
    f, total = jax.tree.map(np.asarray, factors), 0.0
    for u, i, j, good in zip(users, items, others, valid, strict=True):
        score = lambda item: f.item_bias[item] + f.users[u] @ f.items[item]  # noqa: B023
        squares = (f.users[u] ** 2).sum() + (f.items[[i, j]] ** 2).sum() + (f.item_bias[[i, j]] ** 2).sum()
        total += good * (np.log1p(np.exp(score(j) - score(i))) + 0.3 / 2 * squares)
    np.testing.assert_allclose(model.loss(factors, users, items, others, valid), total / 7, rtol=1e-12)


@hypothesis.settings(max_examples=15)
@hypothesis.given(
    st.integers(1, 9).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.tuples(st.integers(0, 3), st.integers(0, n - 1)), min_size=1))
    )
)
def test_clicked_is_membership(drawn):
    n_items, pairs = drawn
    users, items = zip(*pairs, strict=True)
    ratings = completion.Ratings.from_triplets(list(users), list(items), user_ids=range(4), item_ids=range(n_items))
    with jax.disable_jit():
        data = completion.BPR(2).prepare(ratings)
        all_users, all_items = (a.ravel() for a in np.meshgrid(range(4), range(n_items)))
        clicked = bpr._clicked(data, jnp.asarray(all_users), jnp.asarray(all_items))
    assert {(u, i) for u, i, c in zip(all_users, all_items, clicked, strict=True) if c} == pairs


@pytest.fixture(scope="module")
def clustered():
    """Two groups of users, each of which likes one half of the items; a part to train and a part to test on."""
    there = np.kron(np.eye(2), np.ones((10, 10)))
    users, items = np.nonzero(there)
    ratings = completion.Ratings.from_triplets(users, items)
    return completion.train_test_split(ratings, test_size=3, key=jax.random.key(1), by="user")


@pytest.mark.parametrize("model", [
    completion.BPR(4, alpha=0.001, batch_size=16, optimizer=optax.adam(0.05)),
    completion.ImplicitALS(4),
])  # fmt: skip
def test_groups_of_users_are_found(clustered, model):
    train, test = clustered
    fitted = completion.fit(model, train, key=KEY, n_epochs=20)
    # By chance 0.23: three items among the 13 that were not trained on.
    assert completion.ndcg(fitted, test, k=3, exclude=train) > 0.8
