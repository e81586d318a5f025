"""`ActiveSet` against a plain feature-sign search in NumPy, and on degenerate problems of all kinds.

Compilation takes most of the time: all problems have the same few shapes and types.
"""

import warnings

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from active_set_reference import feature_sign_search
from hypothesis import given, settings

import jax_mmf as mmf

PENALTIES = {
    "lasso": mmf.ElasticNet(0.1, 1.0),
    "lasso, nonneg": mmf.ElasticNet(0.1, 1.0, nonneg=True),
    "elastic net": mmf.ElasticNet(0.15, 0.7),
    "elastic net, nonneg": mmf.ElasticNet(0.15, 0.7, nonneg=True),
}
N, K = 6, 12  # samples and atoms of a problem
FEATURES = {"k < p": 20, "k > p": 5}


def problem(shape, seed=0):
    """Unit atoms ``(K, p)``, samples ``(N, p)`` of a few of them with noise, and random codes ``(N, K)``."""
    rng = np.random.default_rng(seed)
    dictionary = rng.standard_normal((K, FEATURES[shape]))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    x = (rng.standard_normal((N, K)) * (rng.random((N, K)) < 0.2)) @ dictionary
    return dictionary, x + 0.3 * rng.standard_normal(x.shape), rng.standard_normal((N, K))


def twin(dictionary, x, penalty, init):
    l1, l2 = float(penalty.l1), float(penalty.l2)
    solve = lambda row, start: feature_sign_search(dictionary, row, l1, l2, penalty.nonneg, start)
    return np.array([solve(row, start) for row, start in zip(x, init, strict=True)])


def kkt_violation(dictionary, x, penalty, codes):
    """The largest violation of the optimality conditions of each sample: ``(n,)``."""
    l1, l2 = float(penalty.l1), float(penalty.l2)
    correlation = (x - codes @ dictionary) @ dictionary.T - l2 * codes
    reach = correlation if penalty.nonneg else np.abs(correlation)
    return np.where(codes != 0, np.abs(correlation - l1 * np.sign(codes)), np.maximum(reach - l1, 0)).max(1)


def objective(dictionary, x, penalty, codes):
    l1, l2 = float(penalty.l1), float(penalty.l2)
    return ((x - codes @ dictionary) ** 2).sum(1) / 2 + l1 * np.abs(codes).sum(1) + l2 / 2 * (codes**2).sum(1)


@pytest.mark.parametrize("shape", FEATURES)
@pytest.mark.parametrize("name", PENALTIES)
def test_the_twin_meets_the_optimality_conditions(name, shape):
    dictionary, x, start = problem(shape)
    for init in (0 * start, start):
        codes = twin(dictionary, x, PENALTIES[name], init)
        assert (kkt_violation(dictionary, x, PENALTIES[name], codes) < 1e-9).all()
        assert not PENALTIES[name].nonneg or (codes >= 0).all()
        assert 0 < (codes != 0).mean() < 1


@pytest.mark.parametrize("shape", FEATURES)
@pytest.mark.parametrize("name", PENALTIES)
def test_codes_and_supports_are_those_of_the_twin(x64, name, shape):
    for seed in range(5):
        dictionary, x, start = problem(shape, seed)
        expected = twin(dictionary, x, PENALTIES[name], 0 * start)
        for init in (0 * start, start):
            solver = mmf.ActiveSet(tol=1e-12)
            codes = np.asarray(mmf.encode(dictionary, x, PENALTIES[name], solver=solver, init=init))
            np.testing.assert_array_equal(codes != 0, expected != 0)
            np.testing.assert_allclose(codes, expected, atol=1e-9)


@st.composite
def degenerate_problems(draw):
    """Atoms ``(K, p)``, samples ``(N, p)``, the first of zeros, and codes to start from ``(N, K)``."""
    p = FEATURES["k > p"]
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    integers = draw(st.booleans())  # many ties
    dictionary = rng.integers(-2, 3, (K, p)).astype(float) if integers else rng.standard_normal((K, p))
    kind = draw(st.sampled_from(["any", "copies", "near copies", "zeros", "low rank"]))
    if kind in ("copies", "near copies"):
        dictionary[K // 2 :] = dictionary[: K // 2] * rng.choice([-1, 1], (K // 2, 1))
    if kind == "near copies":
        dictionary[K // 2 :] += 1e-4 * rng.standard_normal((K // 2, p))
    if kind == "zeros":
        dictionary[:: draw(st.integers(1, 3))] = 0
    if kind == "low rank":
        dictionary[:, 2:] = 0
    size = 10.0 ** draw(st.sampled_from([-12, -3, 0, 3, 12]))
    x = size * (dictionary[:N] if draw(st.booleans()) else rng.standard_normal((N, p)))
    x[0] = 0
    start = draw(st.sampled_from([0, size])) * rng.standard_normal((N, K))
    return 10.0 ** draw(st.sampled_from([-3, 0, 3])) * dictionary, x, start


@given(
    problem=degenerate_problems(),
    share=st.sampled_from([1.0, 0.5, 0.1, 1e-2, 1e-3, 1e-4, 1e-5]),
    nonneg=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
)
@settings(max_examples=100)
def test_codes_of_degenerate_problems_are_optimal(problem, share, nonneg, dtype):
    dictionary, x, start = (a.astype(dtype) for a in problem)
    alpha_max = float(np.abs(x @ dictionary.T).max())
    penalty = mmf.ElasticNet(share * alpha_max if alpha_max > 0 else share, 1.0, nonneg)
    with jax.enable_x64(dtype == "float64"), warnings.catch_warnings():
        warnings.simplefilter("ignore", mmf.ConvergenceWarning)
        codes, info = mmf.encode_with_info(dictionary, x, penalty, solver=mmf.ActiveSet(), init=start)
    converged = np.asarray(info.converged)
    dictionary, x, codes = (np.asarray(a, float) for a in (dictionary, x, codes))
    assert np.isfinite(codes).all()
    assert not nonneg or (codes >= 0).all()
    assert (codes[0] == 0).all()
    assert converged.all() or (dtype == "float32" and share < 1e-2)

    # All in units of the sample: a tolerance of the gap of 1e-6, and rounding of terms of the size of these.
    sq_norm, value = (x**2).sum(1), objective(dictionary, x, penalty, codes)
    terms = sq_norm + np.abs(codes * (x @ dictionary.T)).sum(1)
    slack = 1e-6 * np.maximum(value, sq_norm / 2000) + 64 * np.finfo(dtype).eps * terms
    best = objective(dictionary, x, penalty, twin(dictionary, x, penalty, 0 * codes))
    assert (value - best <= slack)[converged].all()
    if dtype == "float64":
        residual = x - codes @ dictionary
        correlation = residual @ dictionary.T
        reach = (correlation if nonneg else np.abs(correlation)).max(1, keepdims=True)
        dual_point = residual / np.maximum(reach / penalty.alpha, 1)
        dual = (x * dual_point).sum(1) - (dual_point**2).sum(1) / 2
        assert (value - dual <= slack).all()
