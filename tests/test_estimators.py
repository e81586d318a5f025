"""Estimators as scikit-learn, its tools and its users treat them."""

import copy
import importlib
import itertools
import pickle
import subprocess
import sys

import cloudpickle
import h5py
import jax
import joblib
import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.decomposition import SparseCoder as SKSparseCoder
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils._test_common.instance_generator import PER_ESTIMATOR_CHECK_PARAMS
from sklearn.utils.estimator_checks import check_estimator

import jax_mmf as mmf
from jax_mmf import estimators
from jax_mmf.estimators import MatrixCompletion, OnlineDictionaryLearning, OnlineNMF, OnlineSparsePCA, SparseCoder
from jax_mmf.estimators.settings import key_of

rng = np.random.default_rng(0)
X = np.abs(rng.normal(size=(40, 6))).astype(np.float32)
D = rng.normal(size=(5, 3))
FEW = {"batch_size": 16, "random_state": 0}
LEARNERS = {
    "dictionary": OnlineDictionaryLearning(3, penalty=mmf.Ridge(0.1), max_iter=3, **FEW),
    "sparse_pca": OnlineSparsePCA(3, max_iter=3, **FEW),
    "nmf": OnlineNMF(3, max_iter=3, **FEW),
}
ALL = LEARNERS | {"completion": MatrixCompletion(3, random_state=0), "coder": SparseCoder(rng.normal(size=(3, 6)))}
every = pytest.mark.parametrize("name", ALL)
learner = pytest.mark.parametrize("name", ["sparse_pca", pytest.param("nmf", marks=pytest.mark.slow)])

# Ridge codes are compiled soonest, and any code goes through the same lines.
CHECKED = {
    "dictionary_ridge": OnlineDictionaryLearning(2, penalty=mmf.Ridge(0.1), max_iter=2, batch_size=16),
    "completion": MatrixCompletion(2, max_iter=2),
    "dictionary": OnlineDictionaryLearning(max_iter=5, batch_size=16),
    "nmf": OnlineNMF(max_iter=5, batch_size=16),
    "sparse_pca": OnlineSparsePCA(max_iter=5, batch_size=16),
    "coder": SparseCoder(D),
}
WEIGHTS = "the mini-batches and the first dictionary differ when samples are repeated or left out instead of weighted"
SLOW = ("dictionary", "nmf", "sparse_pca", "coder")


@pytest.mark.filterwarnings("ignore")  # the checks make data on which little can be learned
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in CHECKED])
def test_checks_of_scikit_learn(name, monkeypatch):
    # The dictionary of a coder must fit the data of each check, as that of scikit-learn's.
    monkeypatch.setitem(PER_ESTIMATOR_CHECK_PARAMS, SparseCoder, PER_ESTIMATOR_CHECK_PARAMS[SKSparseCoder])
    results = check_estimator(CHECKED[name], on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] not in ("passed", "skipped")}
    weighted = {f"check_sample_weight_equivalence_on_{kind}_data" for kind in ("dense", "sparse")}
    assert failed.keys() == (weighted if name not in ("completion", "coder") else set()), WEIGHTS
    assert len(results) > 40
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= {"check_array_api_input"}


# Names, copies, output


@every
def test_copies_give_the_same_codes(name, tmp_path):
    model = clone(ALL[name]).fit(X)
    codes = model.transform(X)
    joblib.dump(model, tmp_path / "it")
    copies = [
        copy.deepcopy(model),
        joblib.load(tmp_path / "it"),
        *(m.loads(m.dumps(model)) for m in (pickle, cloudpickle)),
    ]
    for again in copies:
        np.testing.assert_array_equal(again.transform(X), codes)
        assert again.get_params().keys() == model.get_params().keys()


def test_float64_survives_copies_and_goes_on():
    x = X.astype(np.float64)
    model = clone(LEARNERS["sparse_pca"]).fit(x)
    again = pickle.loads(pickle.dumps(model))
    assert not jax.config.jax_enable_x64
    assert again.state_.surrogate.c.dtype == np.float64
    for one in (model, again):
        one.partial_fit(x[:16])
    np.testing.assert_array_equal(again.components_, model.components_)
    assert again.components_.dtype == np.float64


@every
def test_text_and_html(name):
    model = clone(ALL[name])
    assert repr(model).startswith(type(model).__name__)
    assert type(model).__name__ in model._repr_html_()
    if name != "coder":  # which has its dictionary from the start
        with pytest.raises(NotFittedError):
            model.transform(X)


@every
def test_frames(name):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    columns = list("abcdef")
    model = clone(ALL[name]).fit(pandas.DataFrame(X, columns=columns))
    assert list(model.feature_names_in_) == columns
    names = list(model.get_feature_names_out())
    assert names[0] == f"{type(model).__name__.lower()}0"
    expected = model.transform(pandas.DataFrame(X, columns=columns))
    for output, frame in (("pandas", pandas.DataFrame), ("polars", polars.DataFrame)):
        model.set_output(transform=output)
        codes = model.transform(frame(X, columns) if output == "polars" else frame(X, columns=columns))
        assert isinstance(codes, frame)
        assert list(codes.columns) == names
        np.testing.assert_allclose(codes.to_numpy(), expected, atol=1e-6)
    with pytest.raises(ValueError, match="feature names should match"):
        model.transform(pandas.DataFrame(X, columns=columns[::-1]))
    with pytest.raises(ValueError, match="expecting 6 features"):
        clone(model).fit(X).transform(X[:, :4])


# Searches and pipelines


def test_pipeline_with_a_classifier():
    y = X[:, 0] > np.median(X[:, 0])
    pipeline = make_pipeline(clone(LEARNERS["sparse_pca"]), LogisticRegression())
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.5
    assert clone(pipeline).fit(X, y)[:-1].transform(X).shape == (40, 3)


@pytest.mark.filterwarnings("ignore:.*(leaked|worker stopped).*")
def test_search_in_other_processes():
    search = GridSearchCV(clone(LEARNERS["sparse_pca"]), {"ridge_alpha": [0.01, 100.0]}, n_jobs=2, cv=2)
    search.fit(X)
    assert search.best_params_ == {"ridge_alpha": 0.01}  # codes that a ridge does not shrink explain more
    here = GridSearchCV(clone(LEARNERS["sparse_pca"]), {"ridge_alpha": [0.01, 100.0]}, cv=2).fit(X)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], here.cv_results_["mean_test_score"], rtol=1e-5)


# Kinds of samples


def files(folder):
    """The samples as each kind of data that is not in memory."""
    mapped = np.memmap(folder / "x.bin", np.float32, "w+", shape=X.shape)
    mapped[:] = X
    file = h5py.File(folder / "x.h5", "w")
    file["x"] = X
    return {"memmap": mapped, "h5py": file["x"], "source": mmf.io.as_source(X), "sparse": scipy.sparse.csr_array(X)}


@learner
def test_files_and_sparse_matrices_give_what_arrays_give(name, tmp_path):
    model = clone(LEARNERS[name]).set_params(shuffle=False).fit(X)
    for kind, data in files(tmp_path).items():
        other = clone(LEARNERS[name]).set_params(shuffle=False).fit(data)
        np.testing.assert_allclose(other.components_, model.components_, atol=1e-5, err_msg=kind)
        np.testing.assert_allclose(other.transform(data), model.transform(X), atol=1e-4, err_msg=kind)
        assert other.score(data) == pytest.approx(model.score(X), abs=1e-5)
        with pytest.raises(ValueError, match="expecting 6 features|must have shape"):
            other.transform(data[:, :3] if kind != "source" else mmf.io.as_source(X[:, :3]))
    step = clone(LEARNERS[name]).partial_fit(X).components_
    for data in (scipy.sparse.csr_array(X), mmf.io.as_source(X)):
        np.testing.assert_allclose(clone(LEARNERS[name]).partial_fit(data).components_, step, atol=1e-5)


def test_permuted_files_give_what_arrays_give(tmp_path):
    mmf.write_permuted(tmp_path / "x.h5", X, key=jax.random.key(3))
    model = clone(LEARNERS["sparse_pca"]).set_params(shuffle=False).fit(X)
    step = clone(LEARNERS["sparse_pca"]).partial_fit(X)
    with h5py.File(tmp_path / "x.h5") as file:
        data = file[next(iter(file))]
        assert mmf.io.as_source(data).permutation is not None
        other = clone(model).fit(data)
        np.testing.assert_allclose(other.components_, model.components_, atol=1e-5)
        np.testing.assert_allclose(other.transform(data), model.transform(X), atol=1e-4)
        np.testing.assert_allclose(clone(step).partial_fit(data).components_, step.components_, atol=1e-5)


def test_partial_fit_refuses_what_is_not_finite_in_files(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = BAD
        with pytest.raises(ValueError, match="NaN at sample 7, feature 4"):
            clone(LEARNERS["sparse_pca"]).partial_fit(file["x"])


def test_names_of_a_source():
    pandas = pytest.importorskip("pandas")
    source = mmf.io.as_source(pandas.DataFrame(X, columns=list("abcdef")))
    model = clone(LEARNERS["sparse_pca"]).fit(source)
    assert list(model.feature_names_in_) == list("abcdef")
    with pytest.raises(ValueError, match="feature names should match"):
        model.transform(mmf.io.as_source(pandas.DataFrame(X, columns=list("fedcba"))))


@pytest.mark.slow
def test_a_sparse_matrix_does_not_become_dense():
    import tracemalloc

    sparse = scipy.sparse.random_array((60_000, 2000), density=1e-3, dtype=np.float32, rng=0, format="csr")
    model = OnlineSparsePCA(2, max_iter=1, batch_size=256, random_state=0)
    tracemalloc.start()
    codes = model.fit(sparse).transform(sparse)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert codes.shape == (60_000, 2)
    assert peak < 300e6 < 60_000 * 2000 * 4


@pytest.mark.parametrize("name", LEARNERS)
def test_dtypes(name):
    model = clone(LEARNERS[name])
    assert model.fit(X).transform(X).dtype == model.components_.dtype == np.float32
    whole = np.round(4 * X).astype(int)
    assert model.fit(whole).transform(whole).dtype == np.float64
    np.testing.assert_array_equal(model.transform(whole), model.fit(whole.astype(float)).transform(whole.astype(float)))
    model.set_params(dtype="float32")
    assert model.fit(whole).transform(whole).dtype == np.float32
    reference = clone(LEARNERS[name]).fit(X).components_
    np.testing.assert_array_equal(clone(LEARNERS[name]).fit(np.asfortranarray(X)).components_, reference)
    assert not jax.config.jax_enable_x64


# Bad input


BAD = X.copy()
BAD[7, 4] = np.nan


@pytest.mark.parametrize("name", [*LEARNERS, "coder"])
@pytest.mark.parametrize("kind", ["array", "sparse", "h5py", "infinity"])
def test_not_finite_numbers_are_named_with_their_place(name, kind, tmp_path):
    data = BAD
    if kind == "sparse":
        data = scipy.sparse.csr_array(BAD)
    elif kind == "h5py":
        if name == "coder":
            pytest.skip("its fit reads no numbers of files")
        data = h5py.File(tmp_path / "x.h5", "w").create_dataset("x", data=BAD)
    elif kind == "infinity":
        data = np.where(np.isnan(BAD), np.inf, BAD)
    with pytest.raises(ValueError, match=r"(?i)(nan|inf).* sample 7, feature 4"):
        clone(ALL[name]).fit(data)


@learner
def test_few_samples(name):
    model = clone(LEARNERS[name])
    with pytest.raises(ValueError, match="n_components=3 is more than n_samples=2.*dict_init"):
        model.fit(X[:2])
    with pytest.raises(ValueError, match="n_components=3 is more than n_samples=1 in the first mini-batch"):
        model.partial_fit(X[:1])
    model.set_params(dict_init=X[:3])
    if name != "nmf":
        model.set_params(center=False)  # one sample minus its mean is zero
    model.fit(X[:1])
    assert model.transform(X[:1]).shape == (1, 3)
    with pytest.raises(ValueError, match=r"dict_init must have shape \(n_components, n_features\) = \(3, 6\)"):
        model.set_params(dict_init=X[:2]).fit(X)


def test_constant_features():
    data = np.ones_like(X)
    data[:, 0] = X[:, 0]
    model = clone(LEARNERS["sparse_pca"]).fit(data)
    assert np.isfinite(model.components_).all()
    assert model.score(data) > 0.9


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_components": 0}, "n_components must be at least 1"),
        ({"max_iter": 0}, "max_iter must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"ridge_alpha": -1.0}, "alpha must be >= 0"),
        ({"l1_ratio": 2.0}, "l1_ratio must be"),
        ({"reduction": "half"}, "reduction must be 'auto' or a number >= 1"),
        ({"reduction": 0.5}, "reduction"),
        ({"tol": -1.0}, "tol must be >= 0"),
        ({"max_no_improvement": 0}, "max_no_improvement must be at least 1"),
        ({"device": "none:7"}, "device must be a device of JAX.*none:7"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(ValueError, match=message):
        clone(LEARNERS["sparse_pca"]).set_params(**parameters).fit(X)


def test_parameters_of_another_type():
    with pytest.raises(TypeError, match="dtype must be None, float32 or float64"):
        clone(LEARNERS["sparse_pca"]).set_params(dtype="int8").fit(X)
    with pytest.raises(TypeError, match="penalty must be a penalty"):
        clone(LEARNERS["sparse_pca"]).set_params(penalty="l1").fit(X)


@pytest.mark.parametrize("value", ["nan", np.inf, True, [1.0]])
def test_missing_values_are_a_number(value):
    with pytest.raises(ValueError, match="missing_values must be np.nan, a finite number, or None"):
        clone(LEARNERS["dictionary"]).set_params(missing_values=value).fit(X)


@pytest.mark.parametrize("kind", ["array", "frame", "polars"])
@pytest.mark.parametrize("dtype", ["datetime64[ms]", "timedelta64[ms]"])
def test_dates_are_refused(kind, dtype):
    data = np.arange(240).reshape(40, 6).astype(dtype)
    if kind == "frame":
        data = pytest.importorskip("pandas").DataFrame(data)
    if kind == "polars":
        data = pytest.importorskip("polars").DataFrame(data)
    for name in ("sparse_pca", "completion"):
        with pytest.raises(TypeError, match="(?i)X must hold numbers, got (datetime|timedelta|duration)"):
            clone(ALL[name]).fit(data)


def test_score_needs_a_sum_of_squares():
    model = clone(LEARNERS["sparse_pca"]).fit(X)
    for data in (np.tile(model.mean_, (4, 1)), mmf.io.as_source(np.tile(model.mean_, (4, 1)))):
        with pytest.raises(ValueError, match="X must have a sum of squares above zero"):
            model.score(data)
    gaps = clone(LEARNERS["dictionary"]).set_params(missing_values=np.nan).fit(X)
    with pytest.raises(ValueError, match="X must have a sum of squares above zero"):
        gaps.score(np.full_like(X, np.nan))


def test_negative_numbers_in_nmf():
    with pytest.raises(ValueError, match="Negative values in data passed to OnlineNMF"):
        OnlineNMF(3).fit(-X)


def test_negative_numbers_of_a_file_in_nmf(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, X)
    model = OnlineNMF(3, max_iter=1, random_state=0).fit(np.load(path, mmap_mode="r"))
    assert np.isfinite(model.components_).all()
    broken = X.copy()
    broken[-1, 2] = -1
    np.save(path, broken)
    with pytest.raises(ValueError, match=r"Negative values in data: -1\.0 in feature 2"):
        model.fit(np.load(path, mmap_mode="r"))
    with pytest.raises(ValueError, match=r"Negative values in data: -1\.0 in feature 2"):
        model.transform(np.load(path, mmap_mode="r"))
    np.save(path, np.where(broken < 0, -1, broken))
    gaps = clone(model).set_params(missing_values=-1)
    assert (gaps.fit(np.load(path, mmap_mode="r")).components_ >= 0).all()


# Steps and states


def key_of_zero():
    """The key that estimators make of random_state=0."""
    return jax.random.key(int(np.random.RandomState(0).randint(np.iinfo(np.int32).max)))


def test_partial_fit_makes_the_steps_of_the_solver():
    model = clone(LEARNERS["sparse_pca"])
    for first in (0, 16, 24):
        model.partial_fit(X[first : first + 16])
    solver = model.solver_
    state = solver.init(key_of_zero(), samples=X[:16])
    for first in (0, 16, 24):
        state, _ = solver.update(state, X[first : first + 16])
    np.testing.assert_array_equal(model.components_, state.dictionary)
    assert model.n_steps_ == 3
    assert list(model.objective_["step"]) == [1, 2, 3]


def test_warm_start_goes_on():
    model = clone(LEARNERS["sparse_pca"]).set_params(warm_start=True, tol=0, max_no_improvement=None).fit(X)
    assert (model.n_iter_, model.n_steps_) == (3, 9)
    first = model.components_
    model.fit(X)
    assert (model.n_iter_, model.n_steps_) == (3, 18)
    straight = clone(model).set_params(max_iter=6).fit(X)
    np.testing.assert_array_equal(model.components_, straight.components_)  # the steps of one long fit
    assert not np.array_equal(first, model.components_)
    assert (np.diff(model.objective_["step"]) > 0).all()
    model.set_params(warm_start=False, max_iter=3).fit(X)
    np.testing.assert_array_equal(model.components_, first)


def test_warm_start_keeps_the_value_of_a_relative_alpha():
    model = OnlineDictionaryLearning(3, penalty=mmf.Lasso(mmf.RelativeAlpha(0.1)), warm_start=True, max_iter=1)
    first = model.fit(X).solver_.penalty.alpha
    model.set_params(penalty=mmf.Lasso(mmf.RelativeAlpha(0.1), nonneg=True)).fit(100 * X)
    assert model.solver_.penalty == mmf.Lasso(first, nonneg=True)


def test_warm_start_makes_max_iter_passes_over_other_samples():
    model = clone(LEARNERS["sparse_pca"]).set_params(warm_start=True, tol=0).partial_fit(X)
    for n_samples, n_steps in ((40, 1 + 9), (32, 10 + 6), (40, 16 + 9)):  # 3 passes of 3, 2 and 3 steps
        model.fit(X[:n_samples])
        assert (model.n_iter_, model.n_steps_, model.objective_["step"][-1]) == (3, n_steps, n_steps)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_components", 4, "3, got 4"),
        ("center", True, "False, got True"),
        ("dtype", "float64", "float32, got float64"),
        ("missing_values", np.nan, "None, got nan"),
    ],
)
def test_what_must_not_change_while_learning_goes_on(method, name, value, message):
    model = clone(LEARNERS["dictionary"]).set_params(warm_start=True).partial_fit(X)
    with pytest.raises(ValueError, match=f"{name} must not change.*it was {message}. Set warm_start=False"):
        getattr(model.set_params(**{name: value}), method)(X)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_relative_alpha_is_a_share_of_the_largest_correlation(method, missing):
    atoms = np.linalg.qr(rng.normal(size=(6, 3)))[0].T.astype(np.float32)
    x = X[:12] + 100  # few enough for fit to take all of them; 100 is in the mean only
    x = np.where(rng.random(x.shape) < 0.2, np.nan, x).astype(np.float32) if missing else x
    penalty = mmf.Lasso(mmf.RelativeAlpha(0.1))
    options = {"missing_values": np.nan} if missing else {}
    model = OnlineDictionaryLearning(3, penalty=penalty, center=True, dict_init=atoms, max_iter=1, **FEW, **options)
    mean = np.nanmean(x, 0)
    largest = np.abs((np.where(np.isnan(x), mean, x) - mean) @ atoms.T).max()
    assert getattr(model, method)(x).solver_.penalty.alpha == pytest.approx(0.1 * largest, rel=1e-3)


def test_the_library_goes_on_with_a_state():
    model = clone(LEARNERS["sparse_pca"]).fit(X)
    result = mmf.fit(model.solver_, X, state=model.state_, batch_size=16, n_epochs=6)
    assert int(result.state.step) == 18


def test_random_state():
    def components(random_state):
        return clone(LEARNERS["sparse_pca"]).set_params(random_state=random_state).fit(X).components_

    np.testing.assert_array_equal(components(3), components(3))
    np.testing.assert_array_equal(components(np.random.RandomState(3)), components(3))
    assert not np.array_equal(components(4), components(3))
    assert not np.array_equal(components(None), components(None))


@pytest.mark.parametrize("tol", [0.28, 0.1, 0.02])
def test_tol_ends_a_fit_at_the_first_small_step_after_the_first_pass(tol):
    model = clone(LEARNERS["sparse_pca"]).set_params(tol=tol, max_iter=60).fit(X)
    seen = []
    note = lambda event: seen.append(np.array(event.state.dictionary))
    mmf.fit(model.solver_, X, key=key_of(0), batch_size=16, n_epochs=60, dtype="float32", callbacks=[note])
    changes = [np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in itertools.pairwise(seen)]
    small = [i + 2 for i, change in enumerate(changes) if i >= 1 and change <= tol]  # a pass has 40 // 16 whole steps
    assert model.n_steps_ == small[0]


def test_the_run_ends_when_nothing_changes():
    full = {"batch_size": 64, "max_iter": 500}
    runs = [
        {"tol": 0.0, "max_no_improvement": None, "max_iter": 7},
        {"tol": 0.1},
        {"tol": 0.0, "max_no_improvement": 1, "batch_size": 8},
    ]
    n_iter = [clone(LEARNERS["sparse_pca"]).set_params(**full | run).fit(X).n_iter_ for run in runs]
    assert n_iter[0] == 7
    assert 1 < n_iter[1] < 100
    assert 1 < n_iter[2] < 500


def test_weights_of_samples():
    model, weights = clone(LEARNERS["sparse_pca"]), np.arange(40.0) % 3
    model.fit(X, sample_weight=weights)
    result = mmf.fit(
        model.solver_, X, key=key_of_zero(), batch_size=16, n_epochs=3, sample_weight=weights, dtype="float32"
    )
    np.testing.assert_array_equal(model.components_, result.dictionary)
    step = clone(model).partial_fit(X[:16], sample_weight=weights[:16])
    state = step.solver_.init(key_of_zero(), samples=X[:16])
    expected = step.solver_.update(state, X[:16], sample_weight=weights[:16])[0].dictionary
    np.testing.assert_array_equal(step.components_, expected)
    same = [clone(model).fit(X, sample_weight=weight).components_ for weight in (2, np.full(40, 2.0))]
    np.testing.assert_array_equal(*same)
    for bad, message in (
        (-1.0, ">= 0"),
        (weights[:3], "shape"),
        (-weights, ">= 0"),
        (weights * np.nan, "NaN"),
        (0 * weights, "zero"),
    ):
        with pytest.raises(ValueError, match=f"sample_weight.*{message}"):
            model.fit(X, sample_weight=bad)


def test_the_mean_is_learned():
    data = X + np.arange(6, dtype=np.float32)
    model = clone(LEARNERS["sparse_pca"]).fit(data)
    np.testing.assert_allclose(model.mean_, data.mean(0), rtol=1e-5)
    codes = np.asarray(mmf.encode(model.components_, data - model.mean_, mmf.Ridge(0.01)))
    np.testing.assert_allclose(model.transform(data), codes, atol=1e-5)
    left = data - model.mean_ - codes @ model.components_
    np.testing.assert_allclose(model.inverse_transform(codes), data - left, atol=1e-4)
    assert model.score(data) == pytest.approx(1 - (left**2).sum() / ((data - model.mean_) ** 2).sum(), abs=1e-5)
    plain = clone(model).set_params(center=False).fit(data)
    assert not hasattr(plain, "mean_")
    np.testing.assert_allclose(plain.inverse_transform(codes), codes @ plain.components_, atol=1e-6)


@pytest.mark.parametrize("kind", ["array", "sparse", "memmap", "minus one"])
def test_missing_entries(kind, tmp_path):
    """A penalty without an l1 part, since its codes have a closed form."""
    gaps = rng.random(X.shape) < 0.2
    data, missing = np.where(gaps, np.nan, X).astype(np.float32), np.nan
    if kind == "minus one":
        data, missing = np.where(gaps, -1, X).astype(np.float32), -1.0
    model = clone(LEARNERS["dictionary"]).set_params(missing_values=missing)
    if kind == "memmap":
        mapped = np.memmap(tmp_path / "x.bin", np.float32, "w+", shape=X.shape)
        mapped[:] = data
        given = mapped
    else:
        given = scipy.sparse.csr_array(data) if kind == "sparse" else data
    model.fit(given)
    assert np.isfinite(model.components_).all()
    for row, codes in zip(range(5), model.transform(given), strict=False):
        there = ~gaps[row]
        d = model.components_[:, there].astype(np.float64)
        expected = np.linalg.solve(d @ d.T + 0.1 * np.eye(3), d @ X[row, there])
        np.testing.assert_allclose(codes, expected, atol=1e-4)
    left = np.where(gaps, 0, X - model.inverse_transform(model.transform(given)))
    assert model.score(given) == pytest.approx(1 - (left**2).sum() / (X[~gaps] ** 2).sum(), abs=1e-5)
    if kind == "array":
        assert np.isfinite(clone(model).partial_fit(data).partial_fit(data[:7]).components_).all()


def test_missing_entries_of_a_matrix_of_low_rank_are_found():
    generator = np.random.default_rng(5)
    truth = generator.random((400, 3)) @ generator.random((3, 20))
    gaps = generator.random(truth.shape) < 0.3
    model = OnlineNMF(3, missing_values=np.nan, tol=0, max_no_improvement=None, max_iter=60, random_state=0)
    filled = model.inverse_transform(model.fit_transform(np.where(gaps, np.nan, truth)))
    assert (model.components_ >= 0).all()
    assert np.sqrt(np.mean((filled - truth)[gaps] ** 2)) < 0.05 * truth[gaps].std()
    with pytest.raises(ValueError, match="Negative values"):
        model.fit(np.where(gaps, np.nan, -truth))


def test_parts_of_the_library_replace_parameters():
    model = OnlineDictionaryLearning(
        3, penalty=mmf.Lasso(mmf.RelativeAlpha(0.5), nonneg=True), constraint=mmf.Simplex(), max_iter=2, **FEW
    ).fit(X)
    np.testing.assert_allclose(model.components_.sum(1), 1, rtol=1e-5)
    assert (model.transform(X) >= 0).all()
    alpha = model.solver_.penalty.alpha
    assert model.partial_fit(X).solver_.penalty.alpha == alpha  # it does not change with the mini-batches
    assert clone(model).penalty.alpha.share == 0.5


def test_reduction():
    wide = np.tile(X, (1, 400))
    solvers = [clone(LEARNERS["sparse_pca"]).set_params(reduction=r).fit(wide).solver_ for r in ("auto", 1, 3.0)]
    assert [solver.subset.reduction for solver in solvers] == [1, 1, 3]
    assert isinstance(solvers[0].statistics, mmf.SubsampledStatistics)  # p > 400 k
    assert isinstance(solvers[1].statistics, mmf.MaskedStatistics)


# The package


def test_the_library_does_not_import_scikit_learn():
    code = "import sys, jax_mmf; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install 'jax-mmf\[sklearn\]'"):
        importlib.reload(estimators)


def test_transform_alpha_keeps_the_penalty():
    penalty = mmf.Lasso(0.5, nonneg=True)
    model = OnlineDictionaryLearning(3, penalty=penalty, transform_alpha=0.05, max_iter=2, random_state=0).fit(X - 1)
    expected = mmf.encode(model.components_, X - 1, mmf.Lasso(0.05, nonneg=True))
    np.testing.assert_allclose(model.transform(X - 1), expected, atol=1e-5)
