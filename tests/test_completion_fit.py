"""`fit`, and what `Fitted` answers."""

import dataclasses
import re
import signal
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from completion_cases import (
    EVERY,
    EXPLICIT,
    IMPLICIT,
    KEY,
    MAIN,
    N_ITEMS,
    N_USERS,
    TIGHT,
    K,
    half_step,
    make_ratings,
    random_sides,
)
from jax.test_util import check_grads

import jax_mmf as mmf
from jax_mmf import completion
from jax_mmf.completion import fitted as module
from jax_mmf.completion import ranking, training
from jax_mmf.completion.explicit import ALSState
from jax_mmf.completion.implicit import ImplicitState

# fit

_SELDOM = ("ridge", "elastic net", "online, items")


@pytest.mark.parametrize("name", MAIN)
def test_same_key_same_bits(name):
    ratings, _, _ = make_ratings(counts=True)
    one, two = (completion.fit(EVERY[name], ratings, key=jax.random.key(5), n_epochs=2) for _ in range(2))
    chex.assert_trees_all_equal(one.factors, two.factors)
    chex.assert_trees_all_equal(one.state, two.state)
    other = completion.fit(EVERY[name], ratings, key=jax.random.key(6), n_epochs=2)
    assert not np.array_equal(one.factors.items, other.factors.items)


def scripted(scores):
    rest = iter(scores)
    return lambda fitted, validation: next(rest)


@pytest.mark.parametrize("name", ["variational", "online", "implicit", "bpr"])
def test_validation_returns_the_best_epoch(name):
    ratings, _, _ = make_ratings(counts=True)
    fit = lambda n, **kw: completion.fit(EVERY[name], ratings, key=KEY, n_epochs=n, **kw)
    best = fit(6, validation=ratings, score=scripted([3.0, 1.0, 2.0, 1.0, 5.0, 1.5]))
    assert [r.score for r in best.history] == [3.0, 1.0, 2.0, 1.0, 5.0, 1.5]
    assert [r.epoch for r in best.history] == [1, 2, 3, 4, 5, 6]
    assert np.all(np.diff([r.seconds for r in best.history]) > 0)
    two = fit(2)
    chex.assert_trees_all_equal(best.factors, two.factors)
    chex.assert_trees_all_equal(best.state, two.state)
    assert all(np.isnan(r.score) for r in two.history)
    assert not np.array_equal(two.factors.items, fit(6).factors.items)


def test_patience():
    ratings, _, _ = make_ratings(counts=True)
    scores = [3.0, 2.0, 2.5, 1.9, 2.0, 1.9, 1.8]
    lengths = [
        len(
            completion.fit(
                EXPLICIT["ridge"], ratings, key=KEY, n_epochs=7, validation=ratings, patience=p, score=scripted(scores)
            ).history
        )
        for p in (1, 2, 3, None)
    ]
    # The first one worse than 2.0 is epoch 3; epochs 5 and 6 are no better than epoch 4.
    assert lengths == [3, 6, 7, 7]


def test_default_scores():
    ratings, _, _ = make_ratings(counts=True)
    train, held_out = completion.train_test_split(ratings, test_size=0.3, key=KEY)
    explicit = completion.fit(EXPLICIT["ridge"], train, key=KEY, n_epochs=1, validation=held_out)
    np.testing.assert_allclose(explicit.history[0].score, completion.rmse(explicit, held_out))
    implicit = completion.fit(IMPLICIT["implicit"], train, key=KEY, n_epochs=1, validation=held_out)
    expected = 1 - completion.ndcg(implicit, held_out, k=10, exclude=train)
    np.testing.assert_allclose(implicit.history[0].score, expected)


def test_callbacks():
    ratings, _, _ = make_ratings(counts=True)
    seen = []

    def third(event):
        seen.append((event.record.epoch, len(event.history), np.array(event.state.items.factors)))
        assert event.model is EXPLICIT["ridge"]
        return event.record.epoch == 3

    also = []
    fitted = completion.fit(
        EXPLICIT["ridge"], ratings, key=KEY, n_epochs=9, callbacks=[third, lambda e: also.append(e.record.epoch)]
    )
    assert [s[:2] for s in seen] == [(1, 1), (2, 2), (3, 3)]
    assert also == [1, 2, 3]  # all callbacks hear of the last epoch, the one after that which stops too
    assert len(fitted.history) == 3
    np.testing.assert_array_equal(seen[-1][2], fitted.factors.items)


def test_what_ended_a_run():
    ratings, _, _ = make_ratings(counts=True)
    fit = lambda **kw: completion.fit(EXPLICIT["ridge"], ratings, key=KEY, n_epochs=5, **kw)
    assert fit().stopped_by == "epochs"
    assert fit(callbacks=[lambda e: e.record.epoch == 2]).stopped_by == "callback"
    stale = fit(validation=ratings, patience=1, score=scripted([1.0, 2.0]))
    assert (stale.stopped_by, len(stale.history)) == ("patience", 2)


@pytest.mark.parametrize("when", ["callback", "score"])
def test_an_interrupt_returns_what_is_learned(when, capsys):
    ratings, _, _ = make_ratings(counts=True)
    fit = lambda n, **kw: completion.fit(EXPLICIT["ridge"], ratings, key=KEY, n_epochs=n, **kw)

    def second(epoch):
        if epoch == 2:
            signal.raise_signal(signal.SIGINT)

    if when == "callback":
        found = fit(9, callbacks=[lambda event: second(event.record.epoch)])
    else:
        scores = iter([3.0, 2.0])
        score = lambda fitted, _: second(len(fitted.history) + 1) or next(scores)
        found = fit(9, validation=ratings, score=score)
    assert found.stopped_by == "interrupt"
    assert len(found.history) == 2
    chex.assert_trees_all_equal(found.factors, fit(2).factors)
    assert "again" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_is_raised():
    def twice(event):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        completion.fit(EXPLICIT["ridge"], RATINGS, key=KEY, n_epochs=9, callbacks=[twice])
    assert len(caught.value.result.history) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("name", ["ridge", "bpr"])
def test_an_error_of_a_callback_carries_the_result(name):
    ratings, _, _ = make_ratings(counts=True)

    def third(event):
        if event.record.epoch == 3:
            raise RuntimeError("disk full")

    fit = lambda n, **kw: completion.fit(EVERY[name], ratings, key=KEY, n_epochs=n, **kw)
    with pytest.raises(RuntimeError, match="disk full") as caught:
        fit(9, callbacks=[third])
    assert "`result`" in caught.value.__notes__[0]
    assert caught.value.result.stopped_by == "error"
    chex.assert_trees_all_equal(caught.value.result.factors, fit(3).factors)
    # With validation it is the best epoch.
    with pytest.raises(RuntimeError) as caught:
        fit(9, callbacks=[third], validation=ratings, score=scripted([2.0, 1.0, 3.0]))
    chex.assert_trees_all_equal(caught.value.result.factors, fit(2).factors)
    # An error of the score keeps the best one too.
    with pytest.raises(StopIteration) as caught:
        fit(9, validation=ratings, score=scripted([2.0, 3.0]))
    chex.assert_trees_all_equal(caught.value.result.factors, fit(1).factors)


def test_an_interrupted_search_keeps_its_trials():
    scores = []

    def score(fitted, validation):
        scores.append(float(len(scores)))
        if len(scores) == 3:
            signal.raise_signal(signal.SIGINT)
        return scores[-1]

    with pytest.raises(KeyboardInterrupt) as caught:
        completion.search(
            EXPLICIT["ridge"], RATINGS, {"alpha": [0.1, 0.2, 0.3]}, key=KEY, n_epochs=2, patience=None,
            validation=RATINGS, score=score,
        )  # fmt: skip
    assert [t.values["alpha"] for t in caught.value.trials] == [0.1]
    assert caught.value.trials[0].score == 0


@pytest.mark.parametrize("name", MAIN)
def test_one_compilation_for_a_run_and_none_for_other_numbers(name):
    ratings, _, _ = make_ratings(counts=True)
    before = training._epoch._cache_size()
    completion.fit(EVERY[name], ratings, key=KEY, n_epochs=4)
    once = training._epoch._cache_size()
    assert once <= before + 1
    other = dataclasses.replace(EVERY[name], alpha=0.7)
    completion.fit(other, ratings, key=jax.random.key(3), n_epochs=2)
    assert training._epoch._cache_size() == once


@pytest.mark.parametrize(
    "name", ["variational", "online", "implicit", "bpr", *(pytest.param(n, marks=pytest.mark.slow) for n in _SELDOM)]
)
def test_update_with_new_users_and_items(name):
    ratings, _, _ = make_ratings(counts=True)
    old = completion.fit(EVERY[name], ratings, key=KEY, n_epochs=3)
    before = jax.tree.map(np.array, (old.state, old.factors))
    newer = completion.Ratings.from_triplets([100, 100, 0, 101], [0, 77, 77, 1], [1.0, 5.0, 5.0, 2.0])
    new = completion.refit(old, newer, key=KEY, n_epochs=2)
    assert list(new.ratings.user_ids.values) == [*range(N_USERS), 100, 101]
    assert list(new.ratings.item_ids.values) == [*range(N_ITEMS), 77]
    assert len(new.ratings) == len(ratings) + 4
    assert len(new.history) == 2
    assert np.isfinite(new.predict([100, 101, 0], [77, 77, 0])).all()
    if name != "elastic net":  # whose l1 penalty may make all factors of a user zero
        assert (np.asarray(new.factors.users)[-2:] != 0).any()
    # The old model is what it was, and goes on working.
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, (old.state, old.factors)), before)
    assert np.isfinite(old.predict(ratings.users, ratings.items)).all()
    assert np.isfinite(old.fold_in(newer).predict(100, 0)).all()


@pytest.mark.parametrize("name", ["ridge", "elastic net", "implicit"])
def test_fit_goes_on_from_where_it_started(x64, name):
    """Nothing is random in these: three epochs and two more are five."""
    ratings, _, _ = make_ratings(counts=True)
    fit = lambda n, **kw: completion.fit(EVERY[name], ratings, key=KEY, n_epochs=n, **kw)
    chex.assert_trees_all_close(fit(2, start=fit(3)).factors, fit(5).factors, rtol=1e-9)


def test_rows_are_carried_over_by_id():
    """A start from the same ratings in another order of users and items, and without epochs that change much."""
    ratings, values, _ = make_ratings(counts=True)
    names = [f"u{i}" for i in range(N_USERS)]
    first = completion.Ratings.from_triplets(
        [names[u] for u in ratings.users], ratings.items, ratings.values, user_ids=names
    )
    again = completion.Ratings.from_triplets(
        [names[u] for u in ratings.users], ratings.items, ratings.values, user_ids=names[::-1],
        item_ids=range(N_ITEMS)[::-1],
    )  # fmt: skip
    model = completion.ExplicitALS(2, variational=False)
    start = completion.fit(model, first, key=KEY, n_epochs=200)
    assert values.max() == start.limits[1]
    moved = completion.fit(model, again, key=jax.random.key(9), n_epochs=1, start=start)
    np.testing.assert_allclose(moved.factors.users[::-1], start.factors.users, atol=1e-3)
    np.testing.assert_allclose(moved.factors.items[::-1], start.factors.items, atol=1e-3)


def test_mesh_must_be_none_where_steps_are_in_order():
    ratings, _, _ = make_ratings(counts=True)
    mesh = jax.make_mesh((1,), ("rows",))
    for name in ("online", "bpr"):
        with pytest.raises(ValueError, match="mesh"):
            completion.fit(EVERY[name], ratings, key=KEY, mesh=mesh)


RATINGS = make_ratings(counts=True)[0]
NOTHING = RATINGS.positives(99)
WEIGHTLESS = completion.Ratings.from_triplets([0, 1], [0, 1], weights=[0, 0])
ZEROS = completion.Ratings.from_triplets([0, 1], [0, 1], [0, 0])
NEGATIVE = completion.Ratings.from_triplets([0, 1], [0, 1], [1, -1])


@pytest.mark.parametrize(
    ("error", "word", "call"),
    [
        (TypeError, "model", lambda: completion.fit(mmf.Ridge(0.1), RATINGS, key=KEY)),
        (TypeError, "model", lambda: completion.fit(completion.ExplicitALS, RATINGS, key=KEY)),
        (TypeError, "train", lambda: completion.fit(EXPLICIT["ridge"], np.ones((3, 3)), key=KEY)),
        (TypeError, "validation", lambda: completion.fit(EXPLICIT["ridge"], RATINGS, key=KEY, validation=[1])),
        (ValueError, "train", lambda: completion.fit(EXPLICIT["ridge"], RATINGS.positives(99), key=KEY)),
        (ValueError, "patience", lambda: completion.fit(EXPLICIT["ridge"], RATINGS, key=KEY, patience=2)),
        (ValueError, "score", lambda: completion.fit(EXPLICIT["ridge"], RATINGS, key=KEY, score=completion.mae)),
        (
            ValueError,
            "patience",
            lambda: completion.fit(EXPLICIT["ridge"], RATINGS, key=KEY, patience=0, validation=RATINGS),
        ),
        (ValueError, "n_epochs", lambda: completion.fit(EXPLICIT["ridge"], RATINGS, key=KEY, n_epochs=0)),
        (ValueError, "validation", lambda: completion.fit(EXPLICIT["ridge"], RATINGS, key=KEY, validation=NOTHING)),
        (
            ValueError,
            "train must have a weight",
            lambda: completion.fit(EXPLICIT["ridge"], WEIGHTLESS, key=KEY),
        ),
        (
            ValueError,
            "train must have a weight",
            lambda: completion.fit(IMPLICIT["implicit"], WEIGHTLESS, key=KEY),
        ),
        (ValueError, "not zero", lambda: completion.fit(IMPLICIT["implicit"], ZEROS, key=KEY)),
        (ValueError, "not zero", lambda: completion.fit(IMPLICIT["bpr"], ZEROS, key=KEY)),
        (ValueError, "counts", lambda: completion.fit(IMPLICIT["bpr"], NEGATIVE, key=KEY)),
        (TypeError, "start", lambda: completion.fit(EXPLICIT["ridge"], RATINGS, key=KEY, start=RATINGS)),
        (ValueError, "test_size", lambda: completion.train_test_split(RATINGS, test_size=True, key=KEY)),
        (ValueError, "n_components", lambda: completion.ExplicitALS(0)),
        (ValueError, "alpha", lambda: completion.ExplicitALS(alpha=-1)),
        (ValueError, "l1_ratio", lambda: completion.ExplicitALS(l1_ratio=1.5)),
        (ValueError, "bias_alpha", lambda: completion.ExplicitALS(bias_alpha=0)),
        (TypeError, "alpha", lambda: completion.ExplicitALS(alpha="much")),
        (TypeError, "n_components", lambda: completion.ExplicitALS(2.0)),
        (ValueError, "unobserved_weight", lambda: completion.ImplicitALS(unobserved_weight=0)),
        (ValueError, "confidence", lambda: completion.ImplicitALS(confidence=0)),
        (ValueError, "block_size", lambda: completion.ImplicitALS(block_size=0)),
        (ValueError, "streamed", lambda: completion.ExplicitOnline(streamed="rows")),
        (ValueError, "batch_size", lambda: completion.ExplicitOnline(batch_size=0)),
        (ValueError, "alpha", lambda: completion.ExplicitOnline(alpha=-1)),
        (ValueError, "batch_size", lambda: completion.BPR(batch_size=0)),
        (TypeError, "optimizer", lambda: completion.BPR(optimizer="adam")),
    ],
)
def test_errors(error, word, call):
    with pytest.raises(error, match=word):
        call()


def test_overflow_is_told():
    ratings = completion.Ratings.from_triplets([0, 0, 1], [0, 1, 1], [1e30, -1e30, 3e30])
    with pytest.raises(FloatingPointError, match="scale"):
        completion.fit(completion.ExplicitALS(2, alpha=1e-6, learned_prior=False), ratings, key=KEY, n_epochs=5)


def test_start_of_another_model():
    start = completion.fit(EXPLICIT["ridge"], RATINGS, key=KEY, n_epochs=1)
    other = completion.ExplicitALS(3, alpha=0.1, variational=False)
    for model in (IMPLICIT["implicit"], other, EXPLICIT["variational"]):
        with pytest.raises(ValueError, match="start must be of the configuration"):
            completion.fit(model, RATINGS, key=KEY, start=start)


def test_entries_without_weight_are_no_clicks_of_bpr():
    ratings = completion.Ratings.from_triplets([0, 0, 1, 1], [0, 1, 1, 2], [1, 0, 1, 1], weights=[1, 1, 1, 0])
    data = completion.BPR(2).prepare(ratings)
    assert data.users.tolist() == [0, 1]
    assert data.items.tolist() == [0, 1]
    assert data.starts.tolist() == [0, 1, 2]
    assert data.item_numbers.shape == (3,)


# What a fitted model answers

USERS, ITEMS = ["ann", "bob", "cem", "dan"], [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")]


@pytest.fixture(scope="module")
def numbered():
    return completion.fit(EXPLICIT["ridge"], RATINGS, key=KEY, n_epochs=2)


@pytest.fixture(scope="module")
def named():
    rng = np.random.default_rng(3)
    there = rng.random((4, 5)) < 0.6
    there[0] = [True, True, True, True, False]
    there[1, 4] = True
    users, items = np.nonzero(there)
    ratings = completion.Ratings.from_triplets(
        [USERS[u] for u in users], [ITEMS[i] for i in items], rng.integers(1, 6, len(users)), user_ids=USERS,
        item_ids=ITEMS,
    )  # fmt: skip
    return completion.fit(completion.ExplicitALS(3, alpha=0.01), ratings, key=KEY, n_epochs=5)


def dense_scores(fitted):
    f = jax.tree.map(lambda a: np.asarray(a, float), fitted.factors)
    return f.mean + f.user_bias[:, None] + f.item_bias + f.users @ f.items.T


def test_predictions_are_of_ids(named):
    scores, (low, high) = dense_scores(named), named.limits
    users, items = [u for u in USERS for _ in ITEMS], ITEMS * 4
    predicted = named.predict(users, items)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, np.clip(scores.ravel(), low, high), rtol=1e-5)
    assert (low, high) == (named.ratings.values.min(), named.ratings.values.max())
    for position, user in enumerate(USERS):  # one user for all items, and the other way round
        np.testing.assert_array_equal(named.predict(user, ITEMS), predicted.reshape(4, 5)[position])
    for position, item in enumerate(ITEMS):
        np.testing.assert_array_equal(named.predict(USERS, item), predicted.reshape(4, 5)[:, position])
        np.testing.assert_array_equal(named.predict(USERS, [item]), predicted.reshape(4, 5)[:, position])
    assert named.predict("ann", ITEMS[0]).shape == (1,)
    assert named.predict([], []).shape == (0,)
    objects = np.empty(4, object)
    objects[:] = USERS
    np.testing.assert_array_equal(named.predict(objects, ITEMS[0]), named.predict(USERS, ITEMS[0]))


def test_predictions_are_clipped(named):
    narrow = dataclasses.replace(named, limits=(2.5, 3.0))
    free = dataclasses.replace(named, limits=None)
    users, items = [u for u in USERS for _ in ITEMS], ITEMS * 4
    raw = free.predict(users, items)
    assert raw.min() < 2.5
    assert raw.max() > 3.0
    np.testing.assert_allclose(raw, dense_scores(named).ravel(), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(narrow.predict(users, items), np.clip(raw, 2.5, 3.0))
    scores = narrow.recommend(exclude_seen=False, n=5).scores
    assert scores.min() >= 2.5
    assert scores.max() <= 3.0
    # Clipped, scores are equal; the order is that without limits.
    np.testing.assert_array_equal(
        narrow.recommend(exclude_seen=False, n=5).items, free.recommend(exclude_seen=False, n=5).items
    )


def test_unknown_ids(named):
    f = jax.tree.map(lambda a: np.asarray(a, float), named.factors)
    clip = lambda v: np.clip(v, *named.limits)
    np.testing.assert_allclose(named.predict("eve", ITEMS), clip(f.mean + f.item_bias), rtol=1e-5)
    np.testing.assert_allclose(named.predict(USERS, [(9, "z")]), clip(f.mean + f.user_bias), rtol=1e-5)
    with pytest.warns(UserWarning, match="none of the 3 (users|items) is known: .* such as"):
        np.testing.assert_allclose(named.predict(["eve", 7, ("x",)], [5, "a", (0,)]), clip(f.mean), rtol=1e-5)
    for users, items, word in (("eve", ITEMS, "users"), (USERS, [(9, "z")], "items")):
        with pytest.raises(ValueError, match=f"(?s){word}.*1 id"):
            named.predict(users, items, unknown="error")
    named.predict("ann", ITEMS, unknown="error")
    with pytest.raises(ValueError, match="unknown"):
        named.predict("ann", ITEMS, unknown="drop")
    with pytest.raises(ValueError, match="same length"):
        named.predict(["ann", "bob"], ITEMS[:3])
    best = named.recommend("eve", 5)
    order = np.argsort(-f.item_bias)
    assert [ITEMS[i] for i in order] == list(best.items[0])
    with pytest.raises(ValueError, match="eve"):
        named.recommend(["ann", "eve"], unknown="error")


def test_known_ids_beside_unknown_ones_of_another_type(named):
    """A list with ids of several types: each is looked up for itself."""
    np.testing.assert_array_equal(named.predict(["ann", 7], [ITEMS[0]] * 2)[0], named.predict("ann", ITEMS[0])[0])


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("n", [1, 3, 5, 8])
def test_recommendations_are_those_of_brute_force(named, n, exclude_seen):
    scores, rated = dense_scores(named), named.ratings.to_scipy().toarray() > 0
    found = named.recommend(n=n, exclude_seen=exclude_seen)
    assert list(found.users) == USERS
    assert found.items.shape == found.scores.shape == (4, n)
    for u in range(4):
        allowed = np.flatnonzero(~rated[u]) if exclude_seen else np.arange(5)
        order = allowed[np.argsort(-scores[u, allowed])][:n]
        items, values = list(found.items[u]), found.scores[u]
        assert items == [ITEMS[i] for i in order] + [None] * (n - len(order))
        np.testing.assert_allclose(values[: len(order)], np.clip(scores[u, order], *named.limits), rtol=1e-5)
        assert (values[len(order) :] == -np.inf).all()
    one = named.recommend("cem", n, exclude_seen=exclude_seen)
    assert list(one.users) == ["cem"]
    assert list(one.items[0]) == list(found.items[2])
    some = named.recommend(["dan", "ann"], n, exclude_seen=exclude_seen)
    assert list(some.users) == ["dan", "ann"]
    assert [list(r) for r in some.items] == [list(found.items[3]), list(found.items[0])]
    with pytest.raises(ValueError, match="n"):
        named.recommend(n=0)


def test_missing_recommendations_of_numbers_are_minus_one():
    ratings = completion.Ratings.from_triplets([1, 1, 2], [10, 20, 10], [1.0, 2.0, 3.0])
    found = completion.fit(EXPLICIT["ridge"], ratings, key=KEY, n_epochs=1).recommend(n=3)
    assert found.items.tolist() == [[-1, -1, -1], [20, -1, -1]]
    assert (found.scores == -np.inf).tolist() == [[True] * 3, [False, True, True]]


@pytest.mark.parametrize(
    ("ids", "missing"),
    [
        (np.array([3, 2**63 + 1, 2**63 + 5], np.uint64), -1),
        (np.array([1, 2, 200], np.uint8), -1),
        (np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "datetime64[ns]"), np.datetime64("NaT")),
        (["a", "b", "c"], None),
    ],
)
def test_missing_recommendations_beside_ids_of_any_kind(ids, missing):
    ratings = completion.Ratings.from_triplets([1, 1, 2], [ids[0], ids[2], ids[1]], [1.0, 2.0, 3.0], item_ids=ids)
    found = completion.fit(EXPLICIT["ridge"], ratings, key=KEY, n_epochs=1).recommend(n=2)
    assert found.items[0, 0] == ids[1]
    assert set(found.items[1].tolist()) == set(np.asarray(ids)[[0, 2]].tolist())
    np.testing.assert_equal(found.items[0, 1], missing)


def test_similar_items_are_by_cosine(named):
    factors = np.asarray(named.factors.items, float)
    for position, item in enumerate(ITEMS):
        cosines = factors @ factors[position]
        cosines /= np.linalg.norm(factors, axis=1) * np.linalg.norm(factors[position])
        order = [i for i in np.argsort(-cosines) if i != position]
        for n in (2, 4, 10):
            ids, found = named.similar_items(item, n)
            assert len(set(ids)) == len(ids) == min(n, len(order))
            np.testing.assert_allclose(found, cosines[order[:n]], atol=1e-5)
            # By their cosines, since some may be equal up to rounding.
            np.testing.assert_allclose(cosines[[ITEMS.index(i) for i in ids]], found, atol=1e-5)
    with pytest.raises(ValueError, match="item"):
        named.similar_items("film")


@pytest.mark.parametrize("name", ["variational", "ridge", "elastic net", "implicit"])
def test_fold_in_is_one_more_half_step_of_users(x64, name):
    model = EVERY[name]
    ratings, _, _ = make_ratings(counts=True, weighted=True)
    fitted = completion.fit(model, ratings, key=KEY, n_epochs=3)
    state, data = fitted.state, model.prepare(ratings)
    if name == "implicit":
        users, bias = (
            half_step(model, data.by_user, state.users, state.items, state.user_mean_weight),
            np.zeros(N_USERS),
        )
    else:
        users, bias = half_step(model, data.by_user, state.users, state.items, state.mean, state.noise)[0][:2]
    chosen = ratings.select(np.isin(ratings.users, [1, 4]))
    for part in (ratings, chosen):
        folded = fitted.fold_in(part)
        rows = np.unique(part.users)
        np.testing.assert_allclose(folded.factors.users[rows], users[rows], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(folded.factors.user_bias[rows], bias[rows], rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(folded.factors.items, fitted.factors.items)
    assert (np.asarray(folded.factors.users)[0] == 0).all()


def test_few_programs_for_many_sizes(numbered):
    """One of some seconds for each new number of ratings, or of users, would be what a service spends its time on."""
    fold_in, best = module._fold_in._cache_size(), ranking._best._cache_size()
    full = completion.Ratings.from_triplets(np.repeat(range(9), 5), np.tile(range(5), 9), np.arange(45) % 5 + 1.0)
    for n in range(1, 21):
        part = full.select(np.arange(45) < n)
        folded = numbered.fold_in(part)
        assert folded.factors.users.shape == (9, 2)
        folded.recommend(range(n), 3)
        numbered.fold_in(completion.Ratings.from_triplets([7] * (n % 5 + 1), range(n % 5 + 1), [1.0] * (n % 5 + 1)))
    assert module._fold_in._cache_size() - fold_in <= 3
    assert ranking._best._cache_size() - best <= 6


def test_padding_of_fold_ins_changes_nothing(x64):
    """Rows of many lengths, against the same rows one by one."""
    rng = np.random.default_rng(2)
    many, _, _ = make_ratings(n_users=30, n_items=90, counts=True)
    fitted = completion.fit(EXPLICIT["ridge"], many, key=KEY, n_epochs=2)
    lengths = [1, 2, 8, 9, 33, 70, 3, 3, 1, 1, 90]
    users = np.repeat(np.arange(len(lengths)), lengths)
    items = np.concatenate([rng.permutation(90)[:n] for n in lengths])
    others = completion.Ratings.from_triplets(users, items, rng.integers(1, 6, len(users)))
    together = fitted.fold_in(others).factors
    rows = completion.ragged_rows(others.users, others.items, others.values, None, len(lengths))
    expected, bias = jax.jit(fitted.model.fold_in)(fitted.state, rows)
    np.testing.assert_allclose(together.users, expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(together.user_bias, bias, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_fold_in_of_other_users(name):
    ratings, _, _ = make_ratings(counts=True)
    fitted = completion.fit(EVERY[name], ratings, key=KEY, n_epochs=2)
    others = completion.Ratings.from_triplets(["x", "x", "x", "y"], [0, 2, 99, 99], [5.0, 1.0, 3.0, 3.0])
    folded = fitted.fold_in(others)
    alone = fitted.fold_in(completion.Ratings.from_triplets(["x", "x"], [0, 2], [5.0, 1.0]))
    assert list(folded.ratings.user_ids.values) == ["x", "y"]
    np.testing.assert_allclose(folded.factors.users[0], alone.factors.users[0], rtol=1e-5, atol=1e-7)
    assert (np.asarray(folded.factors.users)[1] == 0).all()
    assert folded.predict(["x", "y"], [1, 1]).shape == (2,)
    assert not set(folded.recommend("x", n=5).items[0]) & {0, 2}
    with pytest.raises(ValueError, match="items"):
        fitted.fold_in(completion.Ratings.from_triplets(["x"], ["film"], [1.0]))


GRADIENTS = {
    "ridge": completion.ExplicitALS(K, alpha=0.3, variational=False),
    "variational": completion.ExplicitALS(K, alpha=0.3, learned_prior=False),
    "elastic net": completion.ExplicitALS(K, alpha=0.1, l1_ratio=0.3, code_solver=TIGHT),
}


@pytest.mark.parametrize(
    "name", [n if n == "variational" else pytest.param(n, marks=pytest.mark.slow) for n in GRADIENTS]
)
def test_gradients_of_folding_in(x64, name):
    model, rng = GRADIENTS[name], np.random.default_rng(4)
    ratings, _, _ = make_ratings()
    users, items = random_sides(ratings, variance=name == "variational")
    columns, here = np.array([[0, 1, 2, 3], [4, 2, 0, 0]]), np.array([[1, 1, 1, 1], [1, 1, 0, 0.0]])
    values = jnp.asarray(rng.normal(3, 1, (2, 4)))

    def prediction(factors, bias, mean, values, weights, alpha):
        state = ALSState(mean, users, items._replace(factors=factors, bias=bias), jnp.asarray(0.7))
        rows = completion.padded_rows(columns, values, weights * here)
        own, own_bias = dataclasses.replace(model, alpha=alpha).fold_in(state, rows)
        return jnp.sum(jnp.sin(own @ factors.T + own_bias[:, None] + bias + mean))

    args = (items.factors, items.bias, jnp.asarray(2.5), values, jnp.ones((2, 4)) * 1.3, jnp.asarray(0.3))
    own, _ = jax.jit(model.fold_in)(
        ALSState(args[2], users, items, jnp.asarray(0.7)), completion.padded_rows(columns, values, 1.3 * here)
    )
    assert (np.asarray(own) != 0).any(axis=1).all()
    check_grads(jax.jit(prediction), args, 1, modes=["rev"], atol=1e-6, rtol=1e-6, eps=1e-5)
    # Ratings that are only padding have no influence.
    to_values = jax.grad(prediction, 3)(*args)
    assert (np.asarray(to_values)[here == 0] == 0).all()
    assert (np.asarray(to_values)[here > 0] != 0).all()


def test_gradients_of_folding_in_clicks(x64):
    rng = np.random.default_rng(4)
    items = jnp.asarray(rng.normal(size=(N_ITEMS, 2)))
    columns, values = np.array([[0, 1, 2], [4, 2, 0]]), jnp.asarray(rng.uniform(1, 2, (2, 3)))

    def prediction(items, values, alpha, unobserved):
        model = dataclasses.replace(completion.ImplicitALS(2), alpha=alpha, unobserved_weight=unobserved)
        state = ImplicitState(items[:0], items, jnp.asarray(3.0), jnp.asarray(2.0))
        own, _ = model.fold_in(state, completion.padded_rows(columns, values))
        return jnp.sum(jnp.sin(own @ items.T))

    args = (items, values, jnp.asarray(0.3), jnp.asarray(0.2))
    check_grads(jax.jit(prediction), args, 1, modes=["rev"], atol=1e-6, rtol=1e-6, eps=1e-5)


# Users of whom nothing is known, and ids of another kind

CLICKS = completion.Ratings.from_triplets(
    [0, 0, 1, 1, 2, 2, 3, 3], [9, 5, 9, 7, 9, 5, 9, 8], user_ids=[0, 1, 2, 3, 99], item_ids=range(10)
)  # item 9 is the most popular one, then 5; nobody has items 0 to 4 and 6


@pytest.mark.parametrize("model", [completion.ImplicitALS(2), completion.ExplicitALS(2, biases=False)])
def test_users_without_ratings_get_the_most_popular_items(model):
    fitted = completion.fit(model, CLICKS, key=KEY, n_epochs=2)
    both = fitted.recommend([99, 1234, 0], 5)
    assert both.items.tolist()[:2] == [[9, 5, 7, 8, -1]] * 2
    assert np.isfinite(both.scores[:2, :4]).all()
    assert np.ptp(both.scores[:2, :4]) == 0
    assert set(both.items[2, :2].tolist()) == {7, 8}
    others = completion.Ratings.from_triplets([7, 8], [5, 9], user_ids=[7, 8, 9])
    assert fitted.fold_in(others).recommend(9, 3).items.tolist() == [[9, 5, 7]]


def test_biases_of_items_say_better_than_popularity():
    ratings = completion.Ratings.from_triplets([0, 1, 2, 0, 1], [1, 1, 1, 2, 2], [2.0, 2, 2, 5, 5])
    assert completion.fit(EXPLICIT["ridge"], ratings, key=KEY).recommend(77, 2).items.tolist() == [[2, 1]]


def test_items_without_ratings_resemble_none():
    fitted = completion.fit(completion.ImplicitALS(2), CLICKS, key=KEY, n_epochs=2)
    ids, cosines = fitted.similar_items(9, 8)
    assert sorted(ids) == [5, 7, 8]
    assert np.isfinite(cosines).all()
    with pytest.raises(ValueError, match="item 3 has no ratings"):
        fitted.similar_items(3)


def test_scalars_of_any_library_are_one_id(numbered):
    for one in (np.array(1), np.int64(1), jnp.asarray(1), np.float64(1.0)):
        np.testing.assert_array_equal(numbered.predict(one, [0, 2]), numbered.predict(1, [0, 2]))
        np.testing.assert_array_equal(numbered.predict([0, 2], one), numbered.predict([0, 2], 1))
        assert numbered.predict(one, one).shape == (1,)
        assert numbered.recommend(one, 2).items.tolist() == numbered.recommend([1], 2).items.tolist()
        assert numbered.similar_items(one, 2)[0].tolist() == numbered.similar_items(1, 2)[0].tolist()


def test_ids_of_another_kind_are_told(numbered):
    text = completion.fit(
        EXPLICIT["ridge"], completion.Ratings.from_triplets(["1", "2"], ["a", "b"], [1.0, 2.0]), key=KEY, n_epochs=1
    )
    numbers, words = "whole numbers, such as", "text, such as"
    for call, word in (
        (lambda: numbered.predict("1", 1), f"users is known: they are {words} '1'.*{numbers} 0"),
        (lambda: numbered.predict(1, ["1.0", "2.0"]), f"2 items is known: they are {words} '1.0'"),
        (lambda: numbered.recommend(["1", "2"]), "none of the 2 users"),
        (lambda: text.predict(1, "a"), f"users is known: they are {numbers} 1.*{words} '1'"),
        (lambda: text.predict(1.0, "a"), f"they are {numbers} 1"),
        (lambda: text.predict("1.0", "a"), "such as '1.0'.*such as '1'"),
        (lambda: completion.rmse(text, RATINGS), "none of the 6 users"),
        (lambda: completion.refit(text, RATINGS, key=KEY), "none of the 6 users is known"),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        assert re.search(word, str(caught[0].message))
        assert caught[0].category is UserWarning
        assert caught[0].filename == __file__
    with pytest.raises(ValueError, match="6 ids.*whole numbers.*text"):
        text.predict(range(6), "a", unknown="error")
    with pytest.raises(ValueError, match="none is: .*whole numbers.*text"):
        text.fold_in(RATINGS)


def test_new_ids_of_the_same_kind_are_no_mistake_unless_all_of_several_are(numbered):
    numbered.predict(10**6, 1)
    numbered.recommend([10**6, 1], 2)
    for call in (lambda: numbered.predict(["1", 10**6], 1), lambda: numbered.recommend([10**6, 10**7], 2)):
        with pytest.warns(UserWarning, match="none of the 2 users is known: they are such as .* known ones 0"):
            call()


@pytest.mark.parametrize("bad", [np.nan, None, [1, np.nan], np.array([0.5])])
def test_ids_that_are_none_are_named(numbered, bad):
    if bad is not None:  # all users
        with pytest.raises(ValueError, match="users: ids must not be"):
            numbered.recommend(bad)
    with pytest.raises(ValueError, match="items: ids must not be"):
        numbered.predict(1, bad)


def test_booleans_are_not_ids_of_items():
    ratings = completion.Ratings.from_triplets([0, 0, 1], [0, 1, 2], [1.0, 2.0, 3.0])
    fitted = completion.fit(completion.EASE(), ratings, key=KEY)
    for name in ("items", "exclude"):
        with pytest.raises(TypeError, match="items must be ids, got booleans"):
            fitted.recommend(0, **{name: np.array([True, False, True])})
    for mask in (np.array([True, False]), [True, False]):
        with pytest.raises(TypeError, match=r"users must be ids, got booleans; pass ratings.user_ids"):
            fitted.recommend(mask)
    named = completion.Ratings.from_triplets([True, False], [0, 1], [1.0, 2.0])
    assert len(completion.fit(completion.EASE(), named, key=KEY).recommend([True, False]).users) == 2


def test_ratings_and_models_of_another_type_are_named():
    ratings = completion.Ratings.from_triplets([0, 0, 1], [0, 1, 2], [1.0, 2.0, 3.0])
    model = completion.ImplicitALS(n_components=2)
    fitted = completion.fit(model, ratings, key=KEY, n_epochs=1)
    for call, message in (
        (lambda: fitted.fold_in([1]), "ratings must be Ratings, .*got list"),
        (lambda: completion.refit({}, ratings, key=KEY), "previous must be Fitted, .*got dict"),
        (lambda: completion.refit(fitted, [1], key=KEY), "newer must be Ratings, .*got list"),
        (lambda: completion.save_model(fitted, "model.h5"), "model must be Fitted, .*got str"),
        (lambda: completion.rmse(ratings, fitted), "test must be Ratings, .*got Fitted"),
        (lambda: completion.recall(fitted, ratings, exclude=3), "exclude must be Ratings, .*got int"),
        (lambda: completion.fit(model, ratings, key=KEY, callbacks=print), "callbacks must be a list of functions"),
        (lambda: completion.fit(model, ratings, key=KEY, mesh=2), "mesh must be a jax.sharding.Mesh"),
        (lambda: completion.fit(model, ratings, key=KEY, validation=ratings, score="rmse"), "score must be a function"),
        (lambda: completion.Ratings.from_frame(3), "frame must have named columns"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(ValueError, match=r"fields of ImplicitALS, alpha, .*got foo"):
        completion.search(model, ratings, {"foo": [1]}, key=KEY)


def test_a_fit_does_not_start_from_users_that_were_folded_in():
    ratings = completion.Ratings.from_triplets([0, 0, 1], [0, 1, 2], [1.0, 2.0, 3.0])
    fitted = completion.fit(completion.ImplicitALS(n_components=2), ratings, key=KEY, n_epochs=1)
    new = completion.Ratings.from_triplets([7], [1], [1.0])
    with pytest.raises(ValueError, match="start must have the users that it learned from"):
        completion.refit(fitted.fold_in(new), new, key=KEY)


@pytest.mark.parametrize("model", [completion.ExplicitALS, completion.ImplicitALS, completion.EASE])
def test_strengths_relative_to_a_dictionary_are_an_error(model):
    ratings = completion.Ratings.from_triplets([0, 0, 1], [0, 1, 2], [1.0, 2.0, 3.0])
    with pytest.raises(TypeError, match="alpha of a model of ratings must be a number"):
        completion.fit(model(alpha=mmf.RelativeAlpha(0.1)), ratings, key=KEY)
