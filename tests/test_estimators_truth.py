"""Estimators against those of scikit-learn, closed forms and planted factors."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import load_digits
from sklearn.decomposition import (
    MiniBatchDictionaryLearning,
    MiniBatchNMF,
    non_negative_factorization,
    sparse_encode,
)
from sklearn.decomposition import SparseCoder as SKSparseCoder
from sklearn.linear_model import ridge_regression
from sklearn.model_selection import GridSearchCV

import jax_mmf as mmf
from jax_mmf import completion
from jax_mmf.estimators import MatrixCompletion, OnlineDictionaryLearning, OnlineNMF, OnlineSparsePCA, SparseCoder

DIGITS = load_digits().data / 16


def unit_rows(shape, seed=0):
    atoms = np.random.default_rng(seed).normal(size=shape)
    return atoms / np.linalg.norm(atoms, axis=1)[:, None]


@pytest.mark.parametrize("positive", [False, True])
def test_codes_are_those_of_scikit_learn(positive):
    x, dictionary = DIGITS[:200], unit_rows((24, 64))
    for alpha in (0.05, 0.5):
        ours = SparseCoder(dictionary, transform_alpha=alpha, positive_code=positive).transform(x)
        options = {"transform_algorithm": "lasso_cd", "positive_code": positive, "transform_max_iter": 100_000}
        theirs = SKSparseCoder(dictionary, transform_alpha=alpha, **options).transform(x)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        assert ours.dtype == np.float64


def test_default_alpha_is_that_of_scikit_learn():
    x, dictionary = 10 * DIGITS[:50], unit_rows((24, 64))
    theirs = SKSparseCoder(dictionary, transform_algorithm="lasso_cd", transform_max_iter=100_000).transform(x)
    np.testing.assert_allclose(SparseCoder(dictionary).transform(x), theirs, atol=1e-5)


def lasso_objective(dictionary, x, alpha):
    codes = sparse_encode(x, dictionary, algorithm="lasso_cd", alpha=alpha, max_iter=5000)
    return (0.5 * ((x - codes @ dictionary) ** 2).sum() + alpha * np.abs(codes).sum()) / len(x)


def test_dictionaries_are_not_worse_than_those_of_scikit_learn():
    x, alpha = DIGITS - DIGITS.mean(0), 0.2
    ours = OnlineDictionaryLearning(32, alpha=alpha, random_state=0).fit(x)
    theirs = MiniBatchDictionaryLearning(
        32, alpha=alpha, fit_algorithm="cd", random_state=0, max_iter=30, tol=0, max_no_improvement=None
    ).fit(x)
    assert lasso_objective(ours.components_, x, alpha) <= lasso_objective(theirs.components_, x, alpha)
    assert np.linalg.norm(ours.components_, axis=1).max() < 1 + 1e-6
    codes = sparse_encode(x[:100], ours.components_, algorithm="lasso_cd", alpha=0.1, max_iter=100_000)
    np.testing.assert_allclose(ours.set_params(transform_alpha=0.1).transform(x[:100]), codes, atol=1e-5)
    explained = 1 - ((x[:100] - codes @ ours.components_) ** 2).sum() / (x[:100] ** 2).sum()
    assert ours.score(x[:100]) == pytest.approx(explained, abs=1e-5)
    np.testing.assert_allclose(ours.inverse_transform(codes), codes @ ours.components_, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")  # of scikit-learn's, with its defaults
def test_nmf_is_not_worse_than_that_of_scikit_learn():
    def error(model):
        return np.linalg.norm(DIGITS - model.transform(DIGITS) @ model.components_)

    ours, theirs = (model(16, random_state=0).fit(DIGITS) for model in (OnlineNMF, MiniBatchNMF))
    assert error(ours) <= error(theirs)
    assert (ours.components_ >= 0).all()


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 1.0])
def test_the_penalty_of_nmf_has_the_scale_of_scikit_learn(l1_ratio):
    x, h = DIGITS[:64], np.abs(unit_rows((3, 64)))
    options = {"alpha_W": 0.01, "l1_ratio": l1_ratio}
    theirs, _, _ = non_negative_factorization(
        x, None, h, n_components=3, init="custom", update_H=False, tol=1e-12, max_iter=100_000, alpha_H=0.0, **options
    )
    ours = OnlineNMF(3, dict_init=h, max_iter=1, **options).fit(x)
    ours.components_ = h
    np.testing.assert_allclose(ours.transform(x), theirs, atol=1e-5)


def test_sparse_pca():
    x = DIGITS
    sparse, dense = (OnlineSparsePCA(8, l1_ratio=ratio, random_state=0).fit(x) for ratio in (1.0, 0.0))
    assert np.abs(sparse.components_).sum(1).max() < 1 + 1e-6
    assert (sparse.components_ == 0).mean() > 0.3 > (dense.components_ == 0).mean()
    np.testing.assert_allclose(sparse.mean_, x.mean(0), atol=0.01)  # of the samples seen
    expected = ridge_regression(sparse.components_.T, (x - sparse.mean_).T, alpha=0.01, solver="cholesky")
    np.testing.assert_allclose(sparse.transform(x), expected, rtol=1e-6, atol=1e-6)
    stronger = OnlineSparsePCA(8, ridge_alpha=0.1, random_state=0).fit(x)
    smaller = OnlineSparsePCA(8, radius=0.1**0.5, random_state=0).fit(x)
    # In the l1 ball, only ridge_alpha / radius^2 counts.
    np.testing.assert_allclose(smaller.components_, 0.1**0.5 * stronger.components_, atol=1e-6)
    assert (stronger.components_ == 0).mean() > (sparse.components_ == 0).mean()


# Matrices with missing entries


@pytest.fixture(scope="module")
def ratings():
    """A matrix of rank 2 with biases, an observed half, and another part of its entries."""
    rng = np.random.default_rng(1)
    truth = 3 + rng.normal(size=(80, 1)) + rng.normal(size=(80, 2)) @ rng.normal(size=(2, 30))
    part = rng.random(truth.shape)
    return truth, np.where(part < 0.6, truth, np.nan), np.where(part > 0.8, truth, np.nan)


def test_completion_finds_a_matrix_of_low_rank(ratings):
    _, known, other = ratings
    model = MatrixCompletion(2, alpha=0.01, max_iter=50, random_state=0).fit(known)
    assert model.score(known, other) > -0.25 * np.nanstd(other)
    assert model.score(known) > model.score(known, other)
    assert model.score(known, np.arange(80)) == model.score(known)  # labels are ignored
    codes = model.transform(known)
    assert codes.shape == (80, 3)
    predicted = model.inverse_transform(codes)
    assert (predicted >= np.nanmin(known) - 1e-5).all()
    assert np.sqrt(np.nanmean((predicted - other) ** 2)) == pytest.approx(-model.score(known, other), rel=1e-5)
    factors = model.fitted_.factors
    rows, columns = np.array([3, 70]), np.array([29, 0])
    expected = factors.mean + factors.user_bias[rows] + factors.item_bias[columns]
    expected += (factors.users[rows] * factors.items[columns]).sum(1)
    low, high = np.nanmin(known), np.nanmax(known)
    np.testing.assert_allclose(model.predict_entries(rows, columns), np.clip(expected, low, high), rtol=1e-4)


def test_stored_entries_of_a_sparse_matrix_are_entries(ratings):
    known = ratings[1].copy()
    known[0, np.flatnonzero(~np.isnan(known[0]))[0]] = 0.0
    rows, columns = np.nonzero(~np.isnan(known))
    sparse = scipy.sparse.csr_array((known[rows, columns], (rows, columns)), shape=known.shape)
    one, other = (MatrixCompletion(2, max_iter=5, random_state=0).fit(data) for data in (known, sparse))
    np.testing.assert_array_equal(one.components_, other.components_)
    np.testing.assert_array_equal(one.transform(known), other.transform(sparse))


def test_rows_and_columns_without_entries(ratings):
    known = ratings[1].copy()
    known[5] = np.nan
    known[:, 7] = np.nan
    model = MatrixCompletion(2, max_iter=5, random_state=0).fit(known)
    assert not model.transform(known)[5].any()
    assert not model.transform(np.full((2, 30), np.nan)).any()
    alone = np.full((1, 30), np.nan)
    alone[0, 7] = 3.0  # an entry of a column that the model does not know
    assert not model.transform(alone).any()
    with pytest.raises(ValueError, match="y must hold at least one entry"):
        model.score(known, np.full_like(known, np.nan))
    for nothing in (np.full((4, 3), np.nan), scipy.sparse.csr_array((4, 3))):
        with pytest.raises(ValueError, match="X must hold at least one known entry"):
            MatrixCompletion(2).fit(nothing)


def test_one_entry_is_the_mean():
    one = np.full((4, 3), np.nan)
    one[1, 2] = 3.0
    model = MatrixCompletion(2, max_iter=3, random_state=0).fit(one)
    np.testing.assert_array_equal(model.inverse_transform(model.transform(one)), np.full((4, 3), 3.0))
    assert model.predict_entries([], []).shape == (0,)


def test_entries_to_score_have_the_shape_of_the_known_ones(ratings):
    _, known, other = ratings
    model = MatrixCompletion(2, max_iter=1, random_state=0).fit(known)
    there = ~np.isnan(other)
    sparse = scipy.sparse.csr_array((other[there], np.nonzero(there)), shape=other.shape)
    assert model.score(known, sparse) == pytest.approx(model.score(known, other), rel=1e-6)
    for y in (other[:5], other[:, :5], sparse[:, :5], np.ones((80, 1))):
        with pytest.raises(ValueError, match=r"y must have the shape of X, \(80, 30\)"):
            model.score(known, y)
    with pytest.raises(ValueError, match="Input y contains infinity"):
        model.score(known, np.full_like(known, np.inf))
    with pytest.raises(TypeError, match="X must be an array, a frame or a SciPy sparse matrix, got ArraySource"):
        model.transform(mmf.io.as_source(known))


def test_search_over_completion_scores_other_entries(ratings):
    _, known, other = ratings
    search = GridSearchCV(MatrixCompletion(2, max_iter=20, random_state=0), {"alpha": [0.01, 100.0]}, cv=2)
    search.fit(known, other)
    assert search.best_params_ == {"alpha": 0.01}


def test_other_models_of_completion(ratings):
    known = ratings[1]
    model = MatrixCompletion(model=completion.ExplicitALS(4, biases=False), random_state=0, max_iter=3).fit(known)
    assert model.components_.shape == (5, 30)
    assert not model.transform(known)[:, -1].any()
    with pytest.raises(ValueError, match="explicit feedback"):
        MatrixCompletion(model=completion.ImplicitALS(4)).fit(known)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([80], [0], "rows must be whole numbers"),
        ([0], [-1], "columns must be whole numbers"),
        ([0.5], [1], "rows must be"),
        ([0, 1], [1], "same length"),
    ],
)
def test_entries_that_are_not_there(ratings, rows, columns, message):
    model = MatrixCompletion(2, max_iter=1, random_state=0).fit(ratings[1])
    with pytest.raises(ValueError, match=message):
        model.predict_entries(rows, columns)


def test_nan_that_a_sparse_matrix_stores():
    stored = scipy.sparse.csr_array(np.array([[1.0, np.nan], [2.0, 3.0]]))
    with pytest.raises(ValueError, match="NaN at sample 0, feature 1"):
        MatrixCompletion(1).fit(stored)


def test_derivatives_reach_what_the_coder_computes():
    """The function that docs refer to gives the codes of the coder."""
    dictionary, x = unit_rows((4, 8)).astype(np.float32), unit_rows((6, 8), 1).astype(np.float32)
    coder = SparseCoder(dictionary, transform_alpha=0.1)
    np.testing.assert_allclose(coder.transform(x), mmf.encode(dictionary, x, mmf.Lasso(0.1)), atol=1e-6)
