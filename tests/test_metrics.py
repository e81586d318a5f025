"""Measures of a factorization, against their definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import linear_model

import jax_mmf as mmf
from jax_mmf.codes.metrics import objective_per_sample

K, P, N = 4, 9, 6


def problem(seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((K, P)), rng.standard_normal((N, P))


def test_objective_of_ridge_in_closed_form(x64):
    """The least value is 1/2 x (I + D'D / alpha)^-1 x', by the matrix inversion lemma."""
    dictionary, x = problem()
    alpha = 0.7
    inverse = np.linalg.inv(np.eye(P) + dictionary.T @ dictionary / alpha)
    expected = 0.5 * np.einsum("np,pq,nq->n", x, inverse, x)
    np.testing.assert_allclose(mmf.objective(dictionary, x, mmf.Ridge(alpha)), expected.mean(), rtol=1e-12)
    one = mmf.objective(dictionary, x[0], mmf.Ridge(alpha))
    assert one.shape == ()
    np.testing.assert_allclose(one, expected[0], rtol=1e-12)


@pytest.mark.parametrize("nonneg", [False, True])
def test_objective_of_scikit_learn(x64, nonneg):
    dictionary, x = problem()
    model = linear_model.ElasticNet(
        alpha=0.5 / P, l1_ratio=0.6, fit_intercept=False, positive=nonneg, tol=1e-14, max_iter=100000
    )
    codes = np.stack([model.fit(dictionary.T, v).coef_ for v in x])
    expected = 0.5 * ((x - codes @ dictionary) ** 2).sum(1)
    expected += 0.5 * (0.6 * np.abs(codes).sum(1) + 0.2 * (codes**2).sum(1))
    penalty = mmf.ElasticNet(0.5, 0.6, nonneg)
    # The default tolerance of the codes is 1e-6 of the objective.
    found = mmf.objective(dictionary, x, penalty)
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-6)
    assert found >= expected.mean() * (1 - 1e-12)
    tight = mmf.objective(dictionary, x, penalty, solver=mmf.FISTA(tol=1e-14, max_iter=10000))
    np.testing.assert_allclose(tight, expected.mean(), rtol=1e-12)
    np.testing.assert_allclose(objective_per_sample(dictionary, x, codes, penalty), expected, rtol=1e-12)


def test_gradient_of_the_objective_is_that_with_codes_held(x64):
    """Codes are optimal, so that their derivative does not count (Danskin)."""
    dictionary, x = problem()
    solver, penalty = mmf.CoordinateDescent(tol=1e-15, max_iter=5000), mmf.Lasso(0.4)
    codes = mmf.encode(dictionary, x, penalty, solver=solver)
    loss = lambda d, v, a: mmf.objective(d, v, mmf.Lasso(a), solver=solver)
    by_d, by_x, by_alpha = jax.grad(loss, argnums=(0, 1, 2))(dictionary, x, 0.4)
    residual = x - codes @ dictionary
    np.testing.assert_allclose(by_d, -codes.T @ residual / N, atol=1e-7)
    np.testing.assert_allclose(by_x, residual / N, atol=1e-7)
    np.testing.assert_allclose(by_alpha, np.abs(codes).sum() / N, atol=1e-7)


def test_bad_shapes_are_named():
    dictionary, x = (v.astype(np.float32) for v in problem())
    codes = np.ones((N, K), np.float32)
    for word, call in (
        ("x", lambda: mmf.objective(dictionary, x[:, 1:], mmf.Ridge(0.1))),
        ("codes", lambda: mmf.explained_variance(dictionary, x, codes[1:])),
        ("codes", lambda: mmf.explained_variance(dictionary, x, codes[:, 1:])),
        ("x", lambda: mmf.explained_variance(dictionary, x[0], codes)),
    ):
        with pytest.raises(ValueError, match=rf"\b{word}\b"):
            call()


def test_features_must_match():
    """A dictionary of one feature is not spread over all of them."""
    dictionary, x = (v.astype(np.float32) for v in problem())
    codes = np.ones((N, K), np.float32)
    for d, v in ((dictionary[:, :1], x), (dictionary, x[:, :1])):
        with pytest.raises(ValueError, match=r"\b(x|dictionary)\b"):
            mmf.explained_variance(d, v, codes)


def test_explained_variance(x64):
    dictionary, x = problem()
    codes = np.linalg.lstsq(dictionary.T, x.T)[0].T
    expected = 1 - ((x - codes @ dictionary) ** 2).sum() / (x**2).sum()
    np.testing.assert_allclose(mmf.explained_variance(dictionary, x, codes), expected, rtol=1e-13)
    assert mmf.explained_variance(dictionary, x, 0 * codes) == 0
    np.testing.assert_allclose(mmf.explained_variance(dictionary, codes @ dictionary, codes), 1, rtol=1e-14)
    assert mmf.explained_variance(dictionary, x, -codes) < 0
    assert np.isnan(mmf.explained_variance(dictionary, 0 * x, codes))


def test_explained_variance_of_integers():
    """Counts are numbers too, and products of integers do not overflow."""
    found = mmf.explained_variance(
        np.eye(2, dtype=np.int8), np.array([[100, 100]], np.int8), np.array([[100, 50]], np.int8)
    )
    np.testing.assert_allclose(found, 1 - 50**2 / (2 * 100**2), rtol=1e-6)


def test_atoms_are_found_in_any_order_sign_and_scale():
    reference, _ = problem()
    order = np.array([2, 0, 3, 1])
    dictionary = reference[order] * np.array([[-1.0], [3.0], [0.01], [-20.0]])
    pair, cosine = mmf.match_atoms(dictionary, reference)
    np.testing.assert_array_equal(order[pair], np.arange(K))
    np.testing.assert_allclose(cosine, 1, rtol=1e-14)


@pytest.mark.parametrize(("k", "m"), [(3, 3), (5, 3), (3, 5)])
def test_greedy_pairs_are_those_of_the_definition(k, m):
    """Sort all pairs by cosine, take each whose two ends are free."""
    rng = np.random.default_rng(0)
    dictionary, reference = rng.standard_normal((k, 6)), rng.standard_normal((m, 6))
    unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)
    cosine = np.abs(unit(reference) @ unit(dictionary).T)
    pair, value = np.full(m, -1), np.zeros(m)
    for i, j in sorted(itertools.product(range(m), range(k)), key=lambda ij: -cosine[ij]):
        if pair[i] < 0 and j not in pair:
            pair[i], value[i] = j, cosine[i, j]
    found, cosines = mmf.match_atoms(jnp.asarray(dictionary), reference)
    np.testing.assert_array_equal(found, pair)
    np.testing.assert_allclose(cosines, value, rtol=1e-6)
    assert (found == -1).sum() == max(m - k, 0)


def test_zero_atoms_match_nothing():
    dictionary = np.array([[0.0, 0.0], [1.0, 0.0]])
    pair, cosine = mmf.match_atoms(dictionary, np.array([[2.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_array_equal(pair, [1, 0])
    np.testing.assert_array_equal(cosine, [1.0, 0.0])
