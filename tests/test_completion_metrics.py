"""Measures, against loops and scikit-learn; splits and searches."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from jax_mmf import completion
from jax_mmf.completion import Fitted, Ratings

KEY = jax.random.key(0)
N_USERS, N_ITEMS = 5, 7
USERS, ITEMS = [f"u{u}" for u in range(N_USERS)], [10 * i for i in range(N_ITEMS)]


def fitted_of(scores, ratings, known=None, limits=None):
    """A model whose predictions are a matrix of scores."""
    n_users, n_items = scores.shape
    factors = completion.Factors(
        jnp.zeros(()), jnp.zeros(n_users), jnp.zeros(n_items), jnp.asarray(scores, jnp.float32), jnp.eye(n_items)
    )
    known = np.ones(n_items, bool) if known is None else known
    return Fitted(completion.ExplicitALS(n_items), None, factors, ratings, np.asarray(known, int), limits, [])


def ratings_of(mask, values=None, users=USERS, items=ITEMS, **kwargs):
    rows, columns = np.nonzero(mask)
    values = None if values is None else values[rows, columns]
    return Ratings.from_triplets(
        [users[r] for r in rows], [items[c] for c in columns], values, user_ids=users, item_ids=items, **kwargs
    )


def drawn_problem(seed):
    """Untied scores, relevant items (every user may have none), and others that are excluded."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(N_USERS * N_ITEMS).reshape(N_USERS, N_ITEMS).astype(float)
    part = rng.choice(3, (N_USERS, N_ITEMS), p=[0.4, 0.3, 0.3])
    part[rng.integers(N_USERS), rng.integers(N_ITEMS)] = 1
    known = rng.random(N_ITEMS) < 0.9
    return scores, part == 1, part == 2, known


def first(scores, excluded, known, k):
    """The first k items of each user, by a loop."""
    lists = []
    for u in range(len(scores)):
        allowed = [i for i in range(scores.shape[1]) if known[i] and not excluded[u, i]]
        lists.append(sorted(allowed, key=lambda i: -scores[u, i])[:k])
    return lists


def loops(scores, relevant, excluded, known, k):
    """Recall, average precision, NDCG and coverage from their definitions."""
    lists = first(scores, excluded, known, k)
    recalls, precisions, gains = [], [], []
    for u, items in enumerate(lists):
        wanted = set(np.flatnonzero(relevant[u]).tolist())
        if not wanted:
            continue
        hits = [i in wanted for i in items]
        recalls.append(sum(hits) / len(wanted))
        precisions.append(sum(sum(hits[: r + 1]) / (r + 1) for r in range(len(hits)) if hits[r]) / min(k, len(wanted)))
        ideal = sum(1 / np.log2(r + 2) for r in range(min(k, len(wanted))))
        gains.append(sum(1 / np.log2(r + 2) for r in range(len(hits)) if hits[r]) / ideal)
    found = {i for items in lists for i in items}
    return np.mean(recalls), np.mean(precisions), np.mean(gains), len(found) / max(1, known.sum())


@hypothesis.settings(max_examples=25)
@hypothesis.given(st.integers(0, 2**20), st.sampled_from([1, 3, 10]), st.booleans())
def test_measures_of_recommendations_are_those_of_loops(seed, k, exclude):
    scores, relevant, seen, known = drawn_problem(seed)
    seen = seen if exclude else np.zeros_like(seen)
    fitted = fitted_of(scores, ratings_of(np.ones_like(seen)), known)
    test = ratings_of(relevant)
    excluded = ratings_of(seen) if seen.any() else None
    expected = loops(scores, relevant, seen, known, k)
    found = [m(fitted, test, k=k, exclude=excluded) for m in (completion.recall, completion.average_precision)]
    found += [completion.ndcg(fitted, test, k=k, exclude=excluded), completion.coverage(fitted, k=k, exclude=excluded)]
    assert all(isinstance(f, float) for f in found)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_ndcg_is_that_of_scikit_learn(k):
    for seed in range(5):
        scores, relevant, seen, _ = drawn_problem(seed)
        fitted = fitted_of(scores, ratings_of(np.ones_like(seen)))
        rows = relevant.any(1)
        expected = sklearn.metrics.ndcg_score(relevant[rows], scores[rows], k=k)
        np.testing.assert_allclose(completion.ndcg(fitted, ratings_of(relevant), k=k), expected, rtol=1e-12)
        # Excluded items as the worst: sklearn has no other way.
        expected = sklearn.metrics.ndcg_score(relevant[rows], np.where(seen, -1 - scores, scores)[rows], k=k)
        found = completion.ndcg(fitted, ratings_of(relevant), k=k, exclude=ratings_of(seen))
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_ids_are_matched_by_value():
    """Test and exclude have their own users and items, in another order, and some that the model does not know."""
    scores, relevant, seen, known = drawn_problem(3)
    fitted = fitted_of(scores, ratings_of(np.ones_like(seen)), known)
    expected = loops(scores, relevant, seen, known, 3)[0]

    def turned(mask):
        return ratings_of(mask[::-1, ::-1], users=USERS[::-1], items=ITEMS[::-1])

    found = completion.recall(fitted, turned(relevant), k=3, exclude=turned(seen))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    wider = turned(seen).union(Ratings.from_triplets(["nobody", "u0"], [10, 12345]))
    np.testing.assert_allclose(completion.recall(fitted, turned(relevant), k=3, exclude=wider), expected, rtol=1e-12)


def test_unknown_users_and_items_in_the_test_part():
    """An unknown user gets the items of the largest bias; an unknown item is relevant and never found."""
    scores = np.tile(np.arange(N_ITEMS, dtype=float), (N_USERS, 1))
    fitted = fitted_of(scores, ratings_of(np.ones(scores.shape)))
    fitted = fitted_with_bias(fitted, -np.arange(N_ITEMS, dtype=np.float32) / 100)
    test = Ratings.from_triplets(["nobody", "nobody", "u0", "u0"], [0, 60, 60, 999])
    # nobody: item 0 of two; u0: item 60, the best for it, of two.
    np.testing.assert_allclose(completion.recall(fitted, test, k=1), 0.5)
    ideal = 1 + 1 / np.log2(3)
    np.testing.assert_allclose(completion.ndcg(fitted, test, k=2), 1 / ideal)
    excluded = ratings_of(np.eye(N_USERS, N_ITEMS, N_ITEMS - 1) > 0)  # item 60 of u0
    np.testing.assert_allclose(completion.recall(fitted, test, k=1, exclude=excluded), 0.25)
    nothing = Ratings.from_triplets(["u0"], [999])
    assert completion.recall(fitted, nothing) == completion.ndcg(fitted, nothing) == 0


def fitted_with_bias(fitted, bias):
    return dataclasses.replace(fitted, factors=fitted.factors._replace(item_bias=jnp.asarray(bias)))


def test_threshold():
    scores, relevant, seen, known = drawn_problem(8)
    fitted = fitted_of(scores, ratings_of(np.ones_like(seen)), known)
    values = np.random.default_rng(0).integers(1, 6, scores.shape)
    test, liked = ratings_of(relevant, values), relevant & (values >= 3)
    assert 0 < liked.sum() < relevant.sum()
    expected = loops(scores, liked, np.zeros_like(seen), known, 3)
    measures = completion.recall, completion.average_precision, completion.ndcg
    found = [m(fitted, test, k=3, threshold=3) for m in measures]
    np.testing.assert_allclose(found, expected[:3], rtol=1e-12)
    for measure in measures:
        with pytest.raises(ValueError, match="threshold"):
            measure(fitted, test, threshold=9)
        with pytest.raises(ValueError, match="k"):
            measure(fitted, test, k=0)
    with pytest.raises(ValueError, match="k"):
        completion.coverage(fitted, k=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_errors_of_predictions_are_those_of_scikit_learn(weighted):
    rng = np.random.default_rng(0)
    scores, truth = rng.normal(3, 2, (2, N_USERS, N_ITEMS)).astype(np.float32)
    mask = rng.random(scores.shape) < 0.5
    weights = rng.uniform(0, 2, mask.sum()) if weighted else None
    fitted = fitted_of(scores, ratings_of(np.ones_like(mask), truth), limits=(1.0, 5.0))
    test = ratings_of(mask, truth, weights=weights)
    predicted = np.clip(scores, 1, 5)[mask]
    mse = sklearn.metrics.mean_squared_error(truth[mask], predicted, sample_weight=weights)
    np.testing.assert_allclose(completion.rmse(fitted, test), np.sqrt(mse), rtol=1e-6)
    expected = sklearn.metrics.mean_absolute_error(truth[mask], predicted, sample_weight=weights)
    np.testing.assert_allclose(completion.mae(fitted, test), expected, rtol=1e-6)
    # Unknown users and items are predicted from what is known: here zero, clipped to one.
    unknown = Ratings.from_triplets(["nobody", "u0"], [0, 999], [4.0, 2.0])
    np.testing.assert_allclose(completion.mae(fitted, unknown), 2.0, rtol=1e-6)
    np.testing.assert_allclose(completion.rmse(fitted, unknown), np.sqrt(5), rtol=1e-6)
    for measure in (completion.rmse, completion.mae):
        with pytest.raises(ValueError, match="test"):
            measure(fitted, test.positives(99))


# Splits


def many(n_users=20, n_items=12, seed=0, times=True):
    rng = np.random.default_rng(seed)
    mask = rng.random((n_users, n_items)) < 0.5
    mask[0] = np.arange(n_items) == 3  # a user with one rating
    users, items = np.nonzero(mask)
    return Ratings.from_triplets(
        users, items, rng.integers(1, 6, len(users)), weights=rng.uniform(1, 2, len(users)),
        timestamps=rng.permutation(len(users)) if times else None, user_ids=range(n_users), item_ids=range(n_items),
    )  # fmt: skip


def entries(ratings):
    columns = ratings.users, ratings.items, ratings.values, ratings.weights, ratings.timestamps
    return set(zip(*(c.tolist() for c in columns), strict=True))


@pytest.mark.parametrize("by", ["random", "user", "time"])
@pytest.mark.parametrize("test_size", [0.25, 0.6, 1, 3])
def test_two_parts(by, test_size):
    ratings = many()
    key = None if by == "time" else KEY
    train, test = completion.train_test_split(ratings, test_size=test_size, key=key, by=by)
    assert entries(train) | entries(test) == entries(ratings)
    assert len(train) + len(test) == len(ratings)
    assert train.shape == test.shape == ratings.shape
    n = len(ratings)
    if by == "user":
        all_, left, out = (np.bincount(r.users, minlength=20) for r in (ratings, train, test))
        assert (left[all_ > 0] >= 1).all()
        wanted = test_size if isinstance(test_size, int) else np.floor(test_size * all_ + 0.5)
        np.testing.assert_array_equal(out, np.minimum(wanted, np.maximum(all_ - 1, 0)))
    else:
        assert len(test) == (test_size if isinstance(test_size, int) else round(test_size * n))
    if by == "time":
        assert train.timestamps.max() < test.timestamps.min()
    else:
        again = completion.train_test_split(ratings, test_size=test_size, key=KEY, by=by)
        assert entries(again[1]) == entries(test)
        other = completion.train_test_split(ratings, test_size=test_size, key=jax.random.key(1), by=by)
        assert entries(other[1]) != entries(test)


def test_random_entries_are_of_everybody():
    """Each entry is as likely as any other: a rough count over keys."""
    ratings, counts = many(times=False), 0
    for seed in range(40):
        _, test = completion.train_test_split(ratings, test_size=0.5, key=jax.random.key(seed), by="random")
        counts = counts + np.isin(ratings.users * 100 + ratings.items, test.users * 100 + test.items)
    assert counts.min() >= 6  # of 40 throws of a coin, 20 expected with deviation 3.2
    assert counts.max() <= 34


@pytest.mark.parametrize("n_folds", [2, 3, 7])
def test_folds_are_a_partition(n_folds):
    ratings = many()
    folds = list(completion.k_folds(ratings, n_folds, key=KEY))
    assert len(folds) == n_folds
    held_out = [entries(validation) for _, validation in folds]
    assert sum(map(len, held_out)) == len(ratings)
    assert set().union(*held_out) == entries(ratings)
    assert max(map(len, held_out)) - min(map(len, held_out)) <= 1
    for train, validation in folds:
        assert entries(train) == entries(ratings) - entries(validation)
    assert [entries(v) for _, v in completion.k_folds(ratings, n_folds, key=KEY)] == held_out


@pytest.mark.parametrize(
    ("word", "call"),
    [
        ("test_size", lambda r: completion.train_test_split(r, test_size=0.0, key=KEY)),
        ("test_size", lambda r: completion.train_test_split(r, test_size=1.0, key=KEY)),
        ("test_size", lambda r: completion.train_test_split(r, test_size=0, key=KEY)),
        ("test_size", lambda r: completion.train_test_split(r, test_size=len(r), key=KEY)),
        ("test_size", lambda r: completion.train_test_split(r, test_size=1e-6, key=KEY)),
        ("key", completion.train_test_split),
        ("timestamps", lambda r: completion.train_test_split(r, by="time")),
        ("by", lambda r: completion.train_test_split(r, key=KEY, by="item")),
        ("n_folds", lambda r: list(completion.k_folds(r, 1, key=KEY))),
        ("n_folds", lambda r: list(completion.k_folds(r, len(r) + 1, key=KEY))),
        ("values", lambda r: completion.search(completion.ExplicitALS(1), r, [], key=KEY)),
        ("values", lambda r: completion.search(completion.ExplicitALS(1), r, {"alpha": []}, key=KEY)),
    ],
)
def test_errors_of_splits(word, call):
    with pytest.raises(ValueError, match=word):
        call(many(times=False))


@pytest.fixture(scope="module")
def low_rank():
    """Two kinds of users who like two kinds of items, with little noise: a strong penalty is obviously bad."""
    rng = np.random.default_rng(0)
    scores = 3 + 2 * np.outer(rng.choice([-1, 1], 30), rng.choice([-1, 1], 30)) + 0.1 * rng.normal(size=(30, 30))
    users, items = np.nonzero(rng.random(scores.shape) < 0.8)
    return Ratings.from_triplets(users, items, scores[users, items])


def test_search_finds_the_best_alpha(low_rank):
    model = completion.ExplicitALS(1, alpha=1.0, variational=False, biases=False)
    train, test = completion.train_test_split(low_rank, test_size=0.2, key=KEY)
    grid = {"alpha": [100.0, 0.1, 10.0]}
    result = completion.search(model, train, grid, key=KEY, n_folds=2, n_epochs=15, patience=None)
    assert result.fitted.model.alpha == 0.1
    assert [t.values for t in result.trials] == [{"alpha": a} for a in grid["alpha"]]
    best = result.trials[1]
    assert best.score == min(t.score for t in result.trials) < 0.5 * result.trials[0].score
    assert result.n_epochs == best.n_epochs == len(result.fitted.history)
    assert entries_of_pairs(result.fitted.ratings) == entries_of_pairs(train)
    strong = completion.fit(dataclasses.replace(model, alpha=100.0), train, key=KEY, n_epochs=result.n_epochs)
    assert completion.rmse(result.fitted, test) < 0.5 * completion.rmse(strong, test)


def entries_of_pairs(ratings):
    return set(zip(ratings.users.tolist(), ratings.items.tolist(), strict=True))


def test_folds_of_a_search_do_not_leak(low_rank):
    """What is scored was never trained on; with a part to validate on, it is that part that is scored on."""
    pairs = []

    def score(fitted, validation):
        pairs.append((entries_of_pairs(fitted.ratings), entries_of_pairs(validation)))
        return completion.rmse(fitted, validation)

    model = completion.ExplicitALS(1, variational=False)
    grid = [{"alpha": 0.1}, {"alpha": 0.2, "scaling": 1.0}]
    result = completion.search(model, low_rank, grid, key=KEY, n_folds=2, n_epochs=2, patience=None, score=score)
    assert len(pairs) == 2 * 2 * 2
    assert all(not train & held_out for train, held_out in pairs)
    assert all(train | held_out == entries_of_pairs(low_rank) for train, held_out in pairs)
    assert [t.values for t in result.trials] == grid
    train, held_out = completion.train_test_split(low_rank, test_size=0.2, key=KEY)
    pairs.clear()
    options = {"key": KEY, "n_epochs": 2, "patience": None, "score": score}
    result = completion.search(model, train, grid, validation=held_out, **options)
    assert pairs == [(entries_of_pairs(train), entries_of_pairs(held_out))] * 2 * 2  # combinations, epochs
    assert entries_of_pairs(result.fitted.ratings) == entries_of_pairs(low_rank)
    product = completion.search(
        model, train, {"alpha": [0.1, 0.2], "scaling": [0.0, 1.0]}, key=KEY, n_epochs=1, validation=held_out
    )
    assert len({tuple(t.values.items()) for t in product.trials}) == 4
