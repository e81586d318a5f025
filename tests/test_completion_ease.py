"""EASE against its definition, popular items, choices of items, similar users and explanations."""

import jax
import numpy as np
import pytest
from completion_cases import KEY

from jax_mmf import completion
from jax_mmf.completion import ease

RNG = np.random.default_rng(0)
CLICKS = RNG.random((30, 9)) < 0.4
CLICKS[:, 8] = False  # nobody has the last item
CLICKS[0] = False
USERS, ITEMS = np.nonzero(CLICKS)
RATINGS = completion.Ratings.from_triplets(
    USERS, [f"i{i}" for i in ITEMS], np.ones(len(USERS)), user_ids=range(30), item_ids=[f"i{i}" for i in range(9)]
)


@pytest.fixture(scope="module")
def fitted():
    return completion.fit(completion.EASE(alpha=3.0), RATINGS, key=KEY)


@pytest.fixture(scope="module")
def als():
    return completion.fit(completion.ImplicitALS(3), RATINGS, key=KEY)


def test_weights_minimise_the_cost_column_by_column(fitted):
    """Ridge regression of each item on the others."""
    x = CLICKS.astype(float)
    expected = np.zeros((9, 9))
    for item in range(9):
        others = np.arange(9) != item
        a = x[:, others]
        expected[others, item] = np.linalg.solve(a.T @ a + 3.0 * np.eye(8), a.T @ x[:, item])
    np.testing.assert_allclose(fitted.state.weights, expected, atol=1e-5)
    assert len(fitted.history) == 1
    users, items = np.repeat(range(30), 9), np.tile(np.arange(9), 30)
    predicted = fitted.predict(users, [f"i{i}" for i in items]).reshape(30, 9)
    np.testing.assert_allclose(predicted, x @ expected, atol=1e-5)
    best = fitted.recommend(3, 4)
    scores = np.where(CLICKS[3] | ~CLICKS.any(0), -np.inf, (x @ expected)[3])
    assert best.items[0].tolist() == [f"i{i}" for i in np.argsort(-scores)[:4]]
    np.testing.assert_allclose(best.scores[0], np.sort(scores)[::-1][:4], atol=1e-5)
    # Counts of zero and weights of zero are no clicks.
    zeros = completion.Ratings.from_triplets([0, 0, 1], [0, 1, 1], [1, 0, 2], weights=[1, 1, 0])
    np.testing.assert_array_equal(
        ease.click_rows(ease.click_matrix(zeros), np.array([0, 1, -1])), [[1, 0], [0, 0], [0, 0]]
    )


def test_new_users_are_scored_by_their_clicks(fitted, tmp_path):
    new = completion.Ratings.from_triplets(["x", "x"], ["i1", "i2"], [1.0, 1.0])
    b = np.asarray(fitted.state.weights)
    np.testing.assert_allclose(fitted.fold_in(new).predict("x", ["i3"]), [b[1, 3] + b[2, 3]], rtol=1e-5)
    completion.save_model(tmp_path / "m.h5", fitted)
    loaded = completion.load_model(tmp_path / "m.h5")
    np.testing.assert_array_equal(loaded.predict(4, ["i3"]), fitted.predict(4, ["i3"]))
    again = completion.refit(fitted, completion.Ratings.from_triplets([99, 99], ["i8", "i1"], [1.0, 1.0]), key=KEY)
    assert again.predict(99, "i8")[0] != 0


def test_too_many_items_and_devices():
    many = completion.Ratings.from_triplets([0], [0], [1.0], item_ids=range(20_001))
    with pytest.raises(ValueError, match="at most 20,000 items.*20,001; use ImplicitALS"):
        completion.fit(completion.EASE(), many, key=KEY)
    with pytest.raises(ValueError, match="mesh"):
        completion.fit(completion.EASE(), RATINGS, key=KEY, mesh=jax.make_mesh((1,), ("users",)))
    with pytest.raises(ValueError, match="alpha"):
        completion.EASE(alpha=0)


@pytest.mark.parametrize("name", ["fitted", "als"])
def test_users_without_clicks_get_the_most_popular_items(name, request):
    model = request.getfixturevalue(name)
    popular = np.argsort(-CLICKS.sum(0), kind="stable")[:5]
    for user in (0, 12345):
        assert model.recommend(user, 5).items[0].tolist() == [f"i{i}" for i in popular]


@pytest.mark.parametrize("name", ["fitted", "als"])
def test_recommendations_of_some_items(name, request):
    model = request.getfixturevalue(name)
    every = model.recommend([3, 5], 9)
    for row, user in enumerate((3, 5)):
        order = [i for i in every.items[row].tolist() if i is not None]
        some = model.recommend(user, 9, items=["i1", "i4", "i6", "i8", "film"])
        assert [i for i in some.items[0] if i is not None] == [i for i in order if i in ("i1", "i4", "i6")]
        rest = model.recommend(user, 9, exclude=["i1", order[0]])
        assert [i for i in rest.items[0] if i is not None] == [i for i in order[1:] if i != "i1"]
        both = model.recommend(user, 9, items=["i1", "i4"], exclude="i1", exclude_seen=False)
        assert [i for i in both.items[0] if i is not None] == ["i4"]


def test_similar_users(als, fitted):
    ids, cosines = als.similar_users(3, 6)
    f = np.asarray(als.factors.users)
    f = f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-30)
    expected = f @ f[3]
    np.testing.assert_allclose(cosines, np.sort(expected[np.arange(30) != 3])[::-1][:6], rtol=1e-5)
    np.testing.assert_allclose(expected[ids], cosines, rtol=1e-5)
    assert 0 not in als.similar_users(3, 30)[0]
    for model, user, words in ((als, 0, "no ratings"), (als, 999, "999"), (fitted, 3, "no factors of users")):
        with pytest.raises(ValueError, match=words):
            model.similar_users(user)


def test_explanations(als, fitted):
    rated = np.flatnonzero(CLICKS[3])
    ids, shares = fitted.explain(3, "i8", n=20)
    assert set(ids) == {f"i{i}" for i in rated}
    target = next(i for i in range(8) if not CLICKS[3, i])
    ids, shares = fitted.explain(3, f"i{target}", n=20)
    weights = np.asarray(fitted.state.weights)
    np.testing.assert_allclose(shares, np.sort(weights[rated, target])[::-1], atol=1e-5)
    np.testing.assert_allclose(shares.sum(), fitted.predict(3, f"i{target}")[0], atol=1e-5)
    # Against folding in by hand.
    ids, shares = als.explain(3, f"i{target}", n=2)
    without = [f"i{i}" for i in rated if f"i{i}" != ids[0]]
    fold = lambda items: als.fold_in(completion.Ratings.from_triplets(["x"] * len(items), items, [1.0] * len(items)))
    gone = fold(without).predict("x", f"i{target}")
    np.testing.assert_allclose(
        shares[0], fold([f"i{i}" for i in rated]).predict("x", f"i{target}")[0] - gone[0], rtol=1e-3, atol=1e-5
    )
    with pytest.raises(ValueError, match="user 0 has no ratings"):
        als.explain(0, "i1")
