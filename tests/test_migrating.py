"""Conversions of docs/learn/migrating: converted problems have the same solution and the same objective, to 1e-6."""

import jax
import numpy as np
import pytest
from sklearn.decomposition import DictionaryLearning, SparseCoder, non_negative_factorization, sparse_encode
from sklearn.linear_model import ElasticNet, Lasso, Ridge

import jax_mmf as mmf
from jax_mmf import completion

CLOSE = {"rtol": 1e-6, "atol": 1e-8}


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def problem():
    """Dictionary ``(k, p)`` of unit atoms and samples ``(n, p)``."""
    rng = np.random.default_rng(0)
    dictionary = rng.standard_normal((7, 12))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    return dictionary, rng.standard_normal((9, 12))


def codes_of(dictionary, x, penalty):
    return np.asarray(mmf.encode(dictionary, x, penalty, solver=mmf.ActiveSet(tol=1e-12, max_iter=10_000)))


def total_objective(dictionary, x, codes, penalty):
    """``1/2 |X - A D|^2 + Omega(A)``, summed over samples."""
    return 0.5 * np.sum((x - codes @ dictionary) ** 2) + float(mmf.penalty_value(penalty, codes).sum())


@pytest.mark.parametrize(
    ("algorithm", "positive", "rtol"),
    # Coordinate descent stops at a duality gap of 1e-4. With positive codes, scikit-learn's LARS is not exact.
    [("lasso_lars", False, 1e-6), ("lasso_cd", False, 1e-5), ("lasso_cd", True, 1e-5)],
)
def test_alpha_of_sparse_encode_is_that_of_lasso(problem, algorithm, positive, rtol):
    dictionary, x = problem
    theirs = sparse_encode(x, dictionary, algorithm=algorithm, alpha=0.3, positive=positive, max_iter=100_000)
    ours = codes_of(dictionary, x, mmf.Lasso(0.3, nonneg=positive))
    values = [total_objective(dictionary, x, codes, mmf.Lasso(0.3)) for codes in (ours, theirs)]
    np.testing.assert_allclose(*values, rtol=rtol)
    assert values[0] <= values[1] * (1 + 1e-10)
    if algorithm == "lasso_lars":
        np.testing.assert_allclose(ours, theirs, **CLOSE)


def test_sparse_coder_and_dictionary_learning_have_the_alpha_of_lasso(problem):
    dictionary, x = problem
    coder = SparseCoder(dictionary, transform_algorithm="lasso_lars", transform_alpha=0.2)
    np.testing.assert_allclose(codes_of(dictionary, x, mmf.Lasso(0.2)), coder.transform(x), **CLOSE)
    # Its errors are the objective, summed over samples, and at convergence its codes are the best ones.
    learner = DictionaryLearning(4, alpha=0.2, tol=1e-13, max_iter=5000, random_state=0).fit(x)
    value = len(x) * float(mmf.objective(learner.components_, x, mmf.Lasso(0.2), solver=mmf.ActiveSet(tol=1e-12)))
    np.testing.assert_allclose(value, learner.error_[-1], rtol=1e-6)


def test_alpha_of_linear_models_is_divided_by_the_number_of_features(problem):
    dictionary, x = problem
    p = dictionary.shape[1]
    options = {"fit_intercept": False, "tol": 1e-14, "max_iter": 100_000}
    for penalty, theirs in (
        (mmf.Lasso(0.3), Lasso(0.3 / p, **options)),
        (mmf.ElasticNet(0.3, l1_ratio=0.6), ElasticNet(0.3 / p, l1_ratio=0.6, **options)),
        (mmf.Ridge(0.3), Ridge(0.3, fit_intercept=False)),
    ):
        expected = np.stack([theirs.fit(dictionary.T, sample).coef_ for sample in x])
        np.testing.assert_allclose(codes_of(dictionary, x, penalty), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("alpha_w", "l1_ratio"), [(0.0, 0.0), (0.02, 0.0), (0.02, 1.0), (0.02, 0.4)])
def test_alpha_of_nmf_is_multiplied_by_the_number_of_features(problem, alpha_w, l1_ratio):
    dictionary, x = (np.abs(a) for a in problem)
    p = dictionary.shape[1]
    theirs, _, _ = non_negative_factorization(
        x, H=dictionary, update_H=False, init="custom", alpha_W=alpha_w, l1_ratio=l1_ratio, tol=1e-14, max_iter=100_000
    )
    penalty = mmf.ElasticNet(p * alpha_w, l1_ratio, nonneg=True) if l1_ratio else mmf.Ridge(p * alpha_w, nonneg=True)
    np.testing.assert_allclose(codes_of(dictionary, x, penalty), theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pos", [False, True])
@pytest.mark.parametrize(("lambda1", "lambda2"), [(0.3, 0.0), (0.2, 0.5)])
def test_lambdas_of_spams_lasso(problem, lambda1, lambda2, pos):
    spams = pytest.importorskip("spams")
    dictionary, x = problem
    found = spams.lasso(
        np.asfortranarray(x.T), D=np.asfortranarray(dictionary.T), mode=2, lambda1=lambda1, lambda2=lambda2, pos=pos
    )
    alpha = lambda1 + lambda2
    penalty = mmf.ElasticNet(alpha, l1_ratio=lambda1 / alpha, nonneg=pos)
    np.testing.assert_allclose(codes_of(dictionary, x, penalty), found.toarray().T, **CLOSE)


@pytest.mark.parametrize(
    ("constraint", "set_of_spams"),
    [
        (mmf.L2Ball(), lambda d: np.sum(d**2)),  # modeD=0
        (mmf.ElasticNetBall(0.4 / 1.4, radius=1 / 1.4), lambda d: np.sum(d**2) + 0.4 * np.sum(np.abs(d))),  # modeD=1
        (mmf.ElasticNetBall(0.4), lambda d: 0.6 * np.sum(d**2) + 0.4 * np.sum(np.abs(d))),  # modeD=3, and modl
    ],
)
def test_sets_of_atoms_of_spams_and_modl(constraint, set_of_spams):
    for atom in np.random.default_rng(1).standard_normal((5, 8)):
        edge = np.asarray(constraint.scale(atom))
        np.testing.assert_allclose(set_of_spams(edge), 1, rtol=1e-6)
        np.testing.assert_allclose(constraint.project(0.99 * edge), 0.99 * edge, rtol=1e-6)


def test_forgetting_of_modl():
    """The weight that modl gives to a batch: one minus the product over its samples of ``1 - i^-learning_rate``."""
    weight = mmf.PowerForgetting(0.92).weight(np.int32(40), 10)
    np.testing.assert_allclose(weight, 1 - np.prod(1 - np.arange(41.0, 51.0) ** -0.92), rtol=1e-6)


# Recommenders: with given items, the problem of a user is a small linear system.


@pytest.fixture(scope="module")
def clicks():
    """Clicks of 12 users on 8 items, and the fitted items of two models."""
    rng = np.random.default_rng(2)
    users, items = np.nonzero(rng.random((12, 8)) < 0.4)
    return completion.Ratings.from_triplets(users, items, rng.integers(1, 6, len(users)).astype(np.float32))


def test_reg_of_surprise_is_per_rating(clicks):
    """SVD of Surprise adds ``reg (|p|^2 + |q|^2)`` to the squared error of each rating."""
    model = completion.ExplicitALS(3, alpha=0.2, scaling=1.0, variational=False, biases=False)
    fitted = completion.fit(model, clicks, key=jax.random.key(0), n_epochs=2)
    own = clicks.users == 4
    items, values = np.asarray(fitted.factors.items)[clicks.items[own]], clicks.values[own]
    expected = np.linalg.solve(
        items.T @ items + 0.2 * own.sum() * np.eye(3), items.T @ (values - float(fitted.factors.mean))
    )
    found = fitted.fold_in(clicks)
    np.testing.assert_allclose(found.factors.users[4], expected, rtol=1e-4, atol=1e-5)


def test_weights_of_implicit(clicks):
    """A click of implicit has the error ``c (1 - s)^2``, another pair ``s^2``, and factors ``l (|x|^2 + |y|^2)``."""
    ones, c, strength = clicks.positives(0.0), 6.0, 2.0
    mean_clicks = len(ones) / ones.n_users
    model = completion.ImplicitALS(
        3, alpha=strength / ((c - 1) * mean_clicks), unobserved_weight=1.0, confidence=c - 1, scaling=0.0
    )
    fitted = completion.fit(model, ones, key=jax.random.key(0), n_epochs=2)
    items = np.asarray(fitted.factors.items)
    weights = np.where(np.isin(np.arange(8), ones.items[ones.users == 4]), c, 1.0)
    theirs = np.linalg.solve((weights * items.T) @ items + strength * np.eye(3), items.T @ np.where(weights > 1, c, 0))
    np.testing.assert_allclose(fitted.fold_in(ones).factors.users[4], (c - 1) / c * theirs, rtol=1e-4, atol=1e-5)
