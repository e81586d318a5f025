"""Copies and pickles of what completion makes."""

import copy
import functools
import pickle

import jax
import numpy as np
import optax
import pytest
from completion_cases import EVERY, KEY, MAIN, make_ratings

from jax_mmf import completion


def through_joblib(value, path):
    joblib = pytest.importorskip("joblib")
    joblib.dump(value, path / "it")
    return joblib.load(path / "it")


COPIES = {
    "pickle": lambda value, path: pickle.loads(pickle.dumps(value)),
    "deepcopy": lambda value, path: copy.deepcopy(value),
    "copy": lambda value, path: copy.copy(value),
    "joblib": through_joblib,
}
KINDS = {name: EVERY[name] for name in MAIN} | {
    "bayesian": completion.BayesianMF(2, n_samples=2, n_kept=2, burn_in=1),
    "ease": completion.EASE(),
}
every_copy = pytest.mark.parametrize("how", COPIES)


def assert_same(one, other):
    leaves, structure = jax.tree.flatten(one)
    others, same = jax.tree.flatten(other)
    assert structure == same
    for a, b in zip(leaves, others, strict=True):
        np.testing.assert_array_equal(a, b)


@every_copy
def test_configurations(how, tmp_path):
    for model in (*EVERY.values(), completion.BPR()):
        again = COPIES[how](model, tmp_path)
        assert again == model
        assert type(again) is type(model)
        assert hash(jax.tree.structure(again)) == hash(jax.tree.structure(model))


@every_copy
def test_ratings_labels_and_rows(how, tmp_path):
    ratings = completion.Ratings.from_triplets(
        ["b", "a", "b"], [(1,), (2,), (2,)], [1, 2, 3], weights=[1, 2, 3], timestamps=["2020-01-01"] * 3
    )
    again = COPIES[how](ratings, tmp_path)
    assert again.user_ids == ratings.user_ids
    assert again.item_ids.positions([(2,), (9,)]).tolist() == [1, -1]
    for name in ("users", "items", "values", "weights", "timestamps"):
        np.testing.assert_array_equal(getattr(again, name), getattr(ratings, name))
    rows = completion.ragged_rows(ratings.users, ratings.items, ratings.values, None, 2)
    assert_same(COPIES[how](rows, tmp_path), rows)
    items = completion.Items(completion.Labels([1, 2]), np.array(["x", "y"], object), [("a",), ()])
    assert COPIES[how](items, tmp_path).titles_of(np.array([2, 3])) == ["y", "3"]


@pytest.fixture(scope="module")
def learned():
    """A fitted model of every kind, by name, each fitted once."""
    ratings, _, _ = make_ratings(counts=True)
    return functools.cache(lambda name: completion.fit(KINDS[name], ratings, key=KEY, n_epochs=1))


@every_copy
@pytest.mark.parametrize("name", KINDS)
def test_fitted_models_answer_and_learn_on(name, how, tmp_path, learned):
    fitted = learned(name)
    again = COPIES[how](fitted, tmp_path)
    assert_same(again.state, fitted.state)
    np.testing.assert_array_equal(again.recommend(n=3).items, fitted.recommend(n=3).items)
    np.testing.assert_array_equal(again.predict(0, 1), fitted.predict(0, 1))
    np.testing.assert_equal(again.history, fitted.history)  # scores are NaN, which equal each other here
    assert again.stopped_by == "epochs"
    newer = completion.Ratings.from_triplets([0, 50], [1, 1], [2, 3])
    learned = [completion.refit(f, newer, key=KEY).factors for f in (again, fitted)]
    assert_same(*learned)


@every_copy
def test_events_and_results(how, tmp_path):
    ratings, _, _ = make_ratings(counts=True)
    events = []
    fitted = completion.fit(
        EVERY["ridge"], ratings, key=KEY, n_epochs=1, callbacks=[lambda e: events.append(COPIES[how](e, tmp_path))]
    )
    np.testing.assert_equal(events[0].record, fitted.history[0])
    assert_same(events[0].state, fitted.state)
    found = COPIES[how](completion.SearchResult(fitted, 1, [completion.Trial({"alpha": 0.1}, 0.5, 1)]), tmp_path)
    assert found.trials == [completion.Trial({"alpha": 0.1}, 0.5, 1)]
    best = fitted.recommend(n=2)
    assert_same(COPIES[how](best, tmp_path), best)


def test_optimisers_of_optax_are_named():
    model = completion.BPR(2, optimizer=optax.sgd(0.1))
    fitted = completion.fit(model, make_ratings(counts=True)[0], key=KEY, n_epochs=1)
    for value in (model, fitted):
        with pytest.raises(TypeError, match="optimizer.*save_model"):
            pickle.dumps(value)
    assert copy.deepcopy(fitted).model.optimizer is model.optimizer
    assert copy.copy(model) == model


def test_the_default_optimiser_is_adam():
    ratings, _, _ = make_ratings(counts=True)
    one, other = (
        completion.fit(completion.BPR(2, batch_size=8, optimizer=o), ratings, key=KEY, n_epochs=2)
        for o in (None, optax.adam(0.01))
    )
    np.testing.assert_array_equal(one.factors.items, other.factors.items)
