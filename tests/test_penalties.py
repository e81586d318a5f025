"""Penalties on codes, against scalar minimisation and the definition."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PENALTIES as PARTS
from helpers import OwnPenalty
from scipy.optimize import minimize_scalar

import jax_mmf as mmf

PENALTIES = {
    "ridge": mmf.Ridge(0.7),
    "lasso": mmf.Lasso(0.7),
    "elastic net": mmf.ElasticNet(0.7, 0.3),
    "ridge, nonneg": mmf.Ridge(0.7, nonneg=True),
    "lasso, nonneg": mmf.Lasso(0.7, nonneg=True),
    "elastic net, nonneg": mmf.ElasticNet(0.7, 0.3, nonneg=True),
    "none": mmf.Ridge(0.0),
}
EVERY = PENALTIES | {name: PARTS[name] for name in ("own", "own, nonneg")}
SHARE = {mmf.Ridge: 0.0, mmf.Lasso: 1.0}


def omega(penalty, a):
    if isinstance(penalty, OwnPenalty):
        return penalty.l1 * np.abs(a) + penalty.l2 / 2 * a**2
    ratio = SHARE.get(type(penalty), getattr(penalty, "l1_ratio", None))
    return penalty.alpha * (ratio * np.abs(a) + (1 - ratio) / 2 * a**2)


@pytest.mark.parametrize("name", EVERY)
def test_value_is_the_definition(x64, name):
    penalty = EVERY[name]
    codes = np.random.default_rng(0).standard_normal((3, 4, 5))
    codes = np.abs(codes) if penalty.nonneg else codes
    np.testing.assert_allclose(mmf.penalty_value(penalty, codes), omega(penalty, codes).sum(-1), rtol=1e-14)
    assert mmf.penalty_value(penalty, codes[0, 0]).shape == ()


def test_negative_codes_are_infinitely_bad_with_nonneg():
    value = mmf.penalty_value(mmf.Lasso(0.1, nonneg=True), jnp.array([[1.0, 0.0], [1.0, -1e-6]]))
    assert np.isfinite(value[0])
    assert value[1] == np.inf


@pytest.mark.parametrize("step", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("name", EVERY)
def test_prox_is_the_scalar_minimum(x64, name, step):
    penalty = EVERY[name]
    points = np.array([-3.0, -0.5, -0.01, 0.0, 0.03, 0.6, 4.0])
    found = mmf.penalty_prox(penalty, points, step)
    for v, a in zip(points, found, strict=True):
        cost = lambda t, v=v: (t - v) ** 2 / 2 + step * omega(penalty, t)
        bounds = (0.0, 5.0) if penalty.nonneg else (-5.0, 5.0)
        best = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-10})
        # A minimum found by comparing values is known to the square root of their rounding.
        assert abs(best.x - a) < 1e-6
        assert cost(a) <= best.fun + 1e-15
        assert not penalty.nonneg or a >= 0


@pytest.mark.parametrize("nonneg", [False, True])
def test_own_penalty_has_the_codes_and_derivatives_of_the_elastic_net(x64, nonneg):
    rng = np.random.default_rng(0)
    dictionary, x = rng.standard_normal((5, 8)), rng.standard_normal((3, 8))
    solver = mmf.CoordinateDescent(1e-14)

    def value(penalty):
        codes = mmf.encode(dictionary, x, penalty, solver=solver)
        return jnp.sum(codes**2), codes

    both = jax.jit(jax.value_and_grad(value, has_aux=True))
    (_, codes), slope = both(mmf.ElasticNet(0.5, 0.6, nonneg))
    (_, own_codes), own_slope = both(OwnPenalty(0.3, 0.2, nonneg))
    np.testing.assert_allclose(own_codes, codes, atol=1e-12)
    np.testing.assert_allclose(0.6 * own_slope.l1 + 0.4 * own_slope.l2, slope.alpha, rtol=1e-9)
    np.testing.assert_allclose(0.5 * (own_slope.l1 - own_slope.l2), slope.l1_ratio, rtol=1e-9)
    assert (codes != 0).any()


def test_prox_of_one_strength_per_atom(x64):
    alphas, points = np.array([0.0, 0.5, 2.0]), np.array([[1.0, 1.0, 1.0], [-3.0, -3.0, -3.0]])
    together = mmf.penalty_prox(mmf.ElasticNet(alphas, 0.4), points, 0.5)
    for j, alpha in enumerate(alphas):
        alone = mmf.penalty_prox(mmf.ElasticNet(alpha, 0.4), points[:, j], 0.5)
        np.testing.assert_allclose(together[:, j], alone, rtol=1e-15)
    expected = sum(omega(mmf.ElasticNet(a, 0.4), points[:, j]) for j, a in enumerate(alphas))
    np.testing.assert_allclose(mmf.penalty_value(mmf.ElasticNet(alphas, 0.4), points), expected, rtol=1e-15)


@pytest.mark.parametrize("function", [mmf.penalty_value, mmf.penalty_prox])
def test_codes_of_integers_count_as_numbers(function):
    """Weights are not rounded to the dtype of integer codes."""
    penalty = mmf.ElasticNet(0.5, 0.5)
    np.testing.assert_allclose(function(penalty, np.array([1, -2])), function(penalty, np.array([1.0, -2.0])))


@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("l1_ratio", [1.0, 0.3])
@pytest.mark.parametrize("shape", [(12,), (6, 12)])
def test_alpha_max_is_where_codes_vanish(x64, shape, l1_ratio, nonneg):
    rng = np.random.default_rng(0)
    dictionary, x = rng.standard_normal((5, 12)), rng.standard_normal(shape)
    largest = mmf.alpha_max(dictionary, x, l1_ratio=l1_ratio, nonneg=nonneg)
    assert largest.shape == ()
    solver = mmf.CoordinateDescent(tol=0.0, max_iter=100)
    encode = lambda factor: mmf.encode(dictionary, x, mmf.ElasticNet(factor * largest, l1_ratio, nonneg), solver=solver)
    assert (encode(1.0001) == 0).all()
    assert (encode(0.999) != 0).any()


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        (mmf.Lasso(mmf.RelativeAlpha(0.25)), 1.0),
        (mmf.Lasso(mmf.RelativeAlpha(0.25), nonneg=True), 0.75),
        (mmf.ElasticNet(mmf.RelativeAlpha(0.25), 0.5), 2.0),
    ],
)
def test_relative_alpha_becomes_a_share_of_the_largest_correlation(penalty, expected):
    x = jnp.array([3.0, -4.0])
    resolved = mmf.resolve_alpha(penalty, jnp.eye(2), x)
    assert resolved == replace(penalty, alpha=expected)
    assert isinstance(resolved.alpha, float)
    assert mmf.resolve_alpha(resolved, jnp.eye(2), 2 * x) is resolved
    assert jax.jit(lambda x: mmf.resolve_alpha(penalty, jnp.eye(2), x).alpha)(x) == expected


def test_alpha_max_of_ridge_is_infinite():
    dictionary = jnp.eye(3)
    assert mmf.alpha_max(dictionary, jnp.ones(3), l1_ratio=0.0) == np.inf


def test_alpha_max_of_ridge_is_never_nan():
    """Zero samples have zero codes; whichever bound is given, it is one that alphas can be compared with."""
    assert not np.isnan(mmf.alpha_max(jnp.eye(3), jnp.zeros(3), l1_ratio=0.0))


def test_alpha_max_of_nothing():
    """Codes of zeros, and non-negative codes of samples opposed to every atom, are zero for every strength."""
    assert mmf.alpha_max(jnp.eye(3), jnp.zeros(3)) == 0
    assert mmf.alpha_max(jnp.eye(3), -jnp.ones(3), nonneg=True) == 0


def test_alpha_max_of_integers():
    found = mmf.alpha_max(np.eye(3, dtype=int), np.array([1, 2, 3]), l1_ratio=0.5)
    assert found == 6


@pytest.mark.parametrize("make", [mmf.Ridge, mmf.Lasso, lambda a: mmf.ElasticNet(a, 0.5)])
@pytest.mark.parametrize(
    ("alpha", "error"),
    [
        (-1.0, ValueError),
        (-1, ValueError),
        (np.float32(-1), ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (np.array([0.1, -0.1]), ValueError),
        (np.array([0.1, np.nan]), ValueError),
        ("0.1", TypeError),
        ([0.1, 0.2], TypeError),
        (1j, TypeError),
        (np.complex64(1j), TypeError),
        (np.array(["a"]), TypeError),
    ],
    ids=repr,
)
def test_a_bad_alpha_is_named(make, alpha, error):
    with pytest.raises(error, match="alpha"):
        make(alpha)


@pytest.mark.parametrize(
    ("l1_ratio", "error"),
    [(-0.1, ValueError), (1.1, ValueError), (float("nan"), ValueError), ("half", TypeError)],
)
def test_a_bad_l1_ratio_is_named(l1_ratio, error):
    with pytest.raises(error, match="l1_ratio"):
        mmf.ElasticNet(0.1, l1_ratio)


def test_bounds_are_allowed():
    for penalty in (mmf.Ridge(0.0), mmf.Lasso(0), mmf.ElasticNet(0, 0), mmf.ElasticNet(0.0, 1)):
        assert mmf.penalty_value(penalty, jnp.ones(2)) == 0


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_are_pytrees_of_their_numbers(name):
    penalty = PENALTIES[name]
    leaves, tree = jax.tree.flatten(penalty)
    assert leaves == [penalty.alpha, *([penalty.l1_ratio] if isinstance(penalty, mmf.ElasticNet) else [])]
    assert jax.tree.unflatten(tree, leaves) == penalty
    assert isinstance(penalty, mmf.Penalty)
    # Placeholders that JAX puts into pytrees are no numbers, and pass.
    jax.tree.unflatten(tree, [object()] * len(leaves))


def test_traced_alpha_and_its_derivative(x64):
    codes = jnp.array([1.0, -2.0, 0.0])
    value = lambda alpha, ratio: mmf.penalty_value(mmf.ElasticNet(alpha, ratio), codes)
    gradient = jax.jit(jax.grad(value, argnums=(0, 1)))(0.5, 0.25)
    np.testing.assert_allclose(gradient, (0.25 * 3 + 0.75 * 2.5, 0.5 * (3 - 2.5)), rtol=1e-15)
    alphas = jnp.array([0.1, 1.0])
    np.testing.assert_allclose(
        jax.vmap(lambda a: mmf.penalty_prox(mmf.Lasso(a), codes))(alphas),
        [[0.9, -1.9, 0.0], [0.0, -1.0, 0.0]],
        atol=1e-15,
    )


def test_kinds_have_different_structures():
    """jit finds compiled code by the structure of its arguments: equal ones run the code of each other."""
    assert jax.tree.structure(mmf.Ridge(0.5)) != jax.tree.structure(mmf.Lasso(0.5))
    assert jax.tree.structure(mmf.Ridge(0.5)) == jax.tree.structure(mmf.Ridge(0.7))
