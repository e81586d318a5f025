"""Ratings and ids, against dictionaries and SciPy; ragged rows, against the entries that went in."""

import datetime
import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from jax_mmf import completion
from jax_mmf.completion import Labels, Ratings, ragged, ragged_rows


def as_dict(ratings):
    """Entries by pair of ids, and a check that they are sorted and of the right types."""
    assert ratings.users.dtype == ratings.items.dtype == np.int32
    assert ratings.values.dtype == np.float32
    pairs = list(zip(ratings.users.tolist(), ratings.items.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    users, items = ratings.user_ids.values.tolist(), ratings.item_ids.values.tolist()
    return {(users[u], items[i]): float(v) for (u, i), v in zip(pairs, ratings.values, strict=True)}


# Ids

KINDS = {
    "int": [30, -5, 7, 0, 2**40],
    "str": ["b", "a", "", "zoë", "10"],
    "tuple": [(1, "a"), (1,), (), (2, (3,)), (0, "a")],
    "mixed": ["a", 1, (1,), 2.5, frozenset([1])],
    "numpy int": np.array([30, -5, 7, 0, 2], np.int16),
    "numpy str": np.array(["b", "a", "ccc", "zoë", "10"]),
    "object str": np.array(["b", "a", "ccc", "zoë", "10"], object),
    "dates": np.array(["2020-01-03", "2020-01-01", "2021-01-01", "1999-01-01", "2000-01-01"], "datetime64[D]"),
    "whole floats": np.array([3.0, 1.0, -2.0, 7.0, 0.0]),
}
SORTED = ("int", "str", "numpy int", "numpy str", "object str", "dates", "whole floats")
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_triplets_with_ids_of_any_kind(kind):
    ids = KINDS[kind]
    plain = ids.tolist() if isinstance(ids, np.ndarray) else ids
    users, items = [0, 1, 2, 3, 4, 0, 0], [4, 3, 2, 1, 0, 0, 1]
    take = lambda at: ids[at] if isinstance(ids, np.ndarray) else [ids[p] for p in at]
    ratings = Ratings.from_triplets(take(users), take(items), range(7))
    expected = {(plain[u], plain[i]): float(v) for v, (u, i) in enumerate(zip(users, items, strict=True))}
    assert as_dict(ratings) == expected
    assert len(ratings) == 7
    assert ratings.shape == (5, 5) == (ratings.n_users, ratings.n_items)
    assert ratings.user_ids.values.tolist() == (sorted(plain) if kind in SORTED else plain)
    assert repr(ratings) == "Ratings(7 of 5 users x 5 items)"


@every_kind
def test_positions_of_ids(kind):
    ids = KINDS[kind]
    labels, positions = Labels.factorize(ids)
    assert len(labels) == 5
    plain = labels.values.tolist()
    np.testing.assert_array_equal(labels.positions(ids), positions)
    np.testing.assert_array_equal(labels.positions(labels.values[::-1]), [4, 3, 2, 1, 0])
    for position, one in enumerate(plain):
        if not isinstance(one, frozenset):  # which could be iterated over
            assert labels.positions(one).tolist() == [position]
    # As objects, some of them beside ids of other kinds.
    mixed = np.empty(4, object)
    mixed[:] = [plain[3], ("nobody",), plain[0], "nobody"]
    np.testing.assert_array_equal(labels.positions(mixed), [3, -1, 0, -1])
    np.testing.assert_array_equal(labels.positions(mixed.tolist()), [3, -1, 0, -1])


@every_kind
@pytest.mark.parametrize("other", [["nobody", "x"], [991, 992], [(9, 9), (8,)], [1.25], ["nobody", 992, (9, 9)], []])
def test_positions_of_ids_that_are_not_there(kind, other):
    labels, _ = Labels.factorize(KINDS[kind])
    np.testing.assert_array_equal(labels.positions(other), [-1] * len(other))
    unsorted = Labels(labels.values[::-1])
    np.testing.assert_array_equal(unsorted.positions(other), [-1] * len(other))


def test_numbers_and_text_are_different_ids():
    assert Labels(["1", "2"]).positions([1, 2]).tolist() == [-1, -1]
    assert Labels([1, 2]).positions(["1", "2"]).tolist() == [-1, -1]
    assert Labels([1, 2]).positions(["1", 2]).tolist() == [-1, 1]
    assert Labels(["1", "2"]).positions(["1", 2]).tolist() == [0, -1]
    assert Labels([1, 2]).positions(2).tolist() == [1]
    assert Labels(["12", "1", "2"]).positions("12").tolist() == [0]


def test_labels_keep_their_order_and_are_compared():
    assert Labels([3, 1, 2]).positions([1, 2, 3, 4]).tolist() == [1, 2, 0, -1]
    assert Labels([3, 1]) == Labels(np.array([3, 1]))
    assert Labels([3, 1]) != Labels([1, 3])
    assert Labels([1, 3]) != Labels([1, 3, 4])
    assert Labels(["1"]) != Labels([1])
    for twice in ([1, 1], ["a", "b", "a"], [(1,), (1,)]):
        with pytest.raises(ValueError, match="different"):
            Labels(twice)
    for bad in ([None], [float("nan"), "a"], [[1]], [([1],)], np.array([1.0, np.nan]), [{}]):
        with pytest.raises(ValueError, match="id"):
            Labels(bad)


BIG = [1, 2**63 + 1, 2**63 + 5]


@pytest.mark.parametrize("make", [list, lambda v: np.array(v, np.uint64), lambda v: np.array(v, object)])
def test_whole_numbers_of_64_bits_stay_apart(make):
    labels, positions = Labels.factorize(make(BIG[::-1]))
    assert labels.values.tolist() == BIG
    assert positions.tolist() == [2, 1, 0]
    for other in (BIG, np.array(BIG, np.uint64), [*BIG, -1][:3]):
        assert labels.positions(other).tolist() == [0, 1, 2]
    assert labels.positions([2**63 + 2, 2**63, -1]).tolist() == [-1, -1, -1]
    assert labels.positions(np.array([1, -1])).tolist() == [0, -1]
    assert Labels([1, 2]).positions(make(BIG)).tolist() == [0, -1, -1]
    assert Labels([1, 2]).union(labels).values.tolist() == [1, 2, *BIG[1:]]
    assert labels.union(Labels([3, -4])).values.tolist() == [*BIG, 3, -4]
    assert Labels([2**63 + 4, 1]) != Labels([2**63 + 5, 1])


def test_whole_numbers_of_any_size():
    huge = [2**64, -1, 2**63, 2**64 + 1]
    labels, positions = Labels.factorize(huge)
    assert labels.values[positions].tolist() == huge
    assert labels.positions([2**64 + 1, 2**63, 5]).tolist() == [positions[3], positions[2], -1]
    assert Labels(np.array([1, 5], np.uint64)).positions(np.array([5, -1])).tolist() == [1, -1]


@pytest.mark.parametrize("make", [list, lambda v: np.array(v, object)])
def test_text_with_nul_at_its_end_is_another_text(make):
    labels, positions = Labels.factorize(make(["A", "A\0", "A"]))
    assert labels.values.tolist() == ["A", "A\0"]
    assert positions.tolist() == [0, 1, 0]
    assert labels.positions(["A\0", "A", "A\0\0"]).tolist() == [1, 0, -1]
    assert Labels(["A"]).union(Labels(["A\0"])).values.tolist() == ["A", "A\0"]


def test_one_long_text_does_not_widen_the_others():
    labels, _ = Labels.factorize(["x" * 100_000, *map(str, range(1000))])
    assert labels.values.nbytes == 1001 * 8


def test_text_is_numbered_the_same_from_any_container():
    names = ["b", "a", "c", "a"]
    for values in (names, tuple(names), np.array(names), np.array(names, object)):
        labels, positions = Labels.factorize(values)
        assert labels.values.tolist() == ["a", "b", "c"]
        assert positions.tolist() == [1, 0, 2, 0]


def test_scalars_of_arrays_are_single_ids():
    labels = Labels([1, 2])
    for two in (2, np.int8(2), np.array(2), jnp.asarray(2), 2.0, np.float32(2), np.array(2.0)):
        assert labels.positions(two).tolist() == [1]
    assert labels.positions([jnp.asarray(2), 1]).tolist() == [1, 0]
    assert labels.positions(jnp.asarray([2, 1, 3])).tolist() == [1, 0, -1]
    assert Labels(["a"]).positions(np.array("a")).tolist() == [0]


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (np.array([1.0, 2.0**53]), "9007199254740992.*text"),  # 2**53 + 1 is rounded to it
        (np.array([2**24 + 2], np.float32), "16777216"),
        ([1.0, np.inf], "infinite"),
        (np.array(["2020-01-01", "NaT"], "datetime64[D]"), "NaT"),
        ([np.datetime64("NaT"), "a"], "NaT"),
        (np.ma.array([1, 2], mask=[False, True]), "masked"),
    ],
)
def test_ids_that_are_none(bad, word):
    for make in (Labels, Labels.factorize):
        with pytest.raises(ValueError, match=word):
            make(bad)


def test_ids_of_nullable_columns():
    pandas = pytest.importorskip("pandas")
    for bad in (pandas.Series([1, None], dtype="Int64"), pandas.Series(["a", None]), [pandas.NA, "a"], [pandas.NaT]):
        with pytest.raises(ValueError, match="ids must not be"):
            Labels(bad)
    assert Labels(pandas.Series([3, 1], dtype="Int64")).values.tolist() == [3, 1]


# Where ratings come from


def test_order_of_ids_of_your_own():
    ratings = Ratings.from_triplets(["b", "a"], [1, 1], [2, 3], user_ids=["c", "b", "a"], item_ids=[0, 1])
    assert ratings.shape == (3, 2)
    assert ratings.users.tolist() == [1, 2]
    assert as_dict(ratings) == {("b", 1): 2, ("a", 1): 3}
    objects = np.array(["b", "a"], object)
    assert as_dict(Ratings.from_triplets(objects, [1, 1], [2, 3], user_ids=["a", "b"])) == as_dict(ratings)
    with pytest.raises(ValueError, match=r"users has 1 .*user_ids.*'z'"):
        Ratings.from_triplets(["b", "z"], [1, 1], user_ids=["a", "b"])
    with pytest.raises(ValueError, match=r"items has 2 .*item_ids"):
        Ratings.from_triplets(["b", "z"], [(1, 2), (3, 4)], item_ids=[(0, 0)])


def test_columns_may_be_tuples():
    """As lists: many ids, whether the rows are given or not."""
    expected = as_dict(Ratings.from_triplets([0, 1], [5, 6], [2, 3]))
    assert as_dict(Ratings.from_triplets((0, 1), (5, 6), (2, 3))) == expected
    assert as_dict(Ratings.from_triplets((0, 1), (5, 6), (2, 3), user_ids=(0, 1), item_ids=(5, 6))) == expected


def test_clicks_are_ones():
    ratings = Ratings.from_triplets([1, 2], [3, 4])
    assert ratings.values.tolist() == [1, 1]
    assert ratings.weights is None
    assert ratings.timestamps is None


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "lil", "dok"])
def test_scipy(kind):
    dense = np.array([[0, 2.5, 0], [0, 0, 0], [-1, 0, 4]])
    for make in (scipy.sparse.coo_array, scipy.sparse.coo_matrix):
        ratings = Ratings.from_scipy(make(dense).asformat(kind))
        assert as_dict(ratings) == {(0, 1): 2.5, (2, 0): -1, (2, 2): 4}
        assert ratings.shape == (3, 3)
        np.testing.assert_array_equal(ratings.to_scipy().toarray(), dense)
    named = Ratings.from_scipy(scipy.sparse.csr_array(dense), user_ids=["z", "y", "x"], item_ids=[(1,), (2,), (3,)])
    assert as_dict(named) == {("z", (2,)): 2.5, ("x", (1,)): -1, ("x", (3,)): 4}
    np.testing.assert_array_equal(named.to_scipy().toarray(), dense)
    with pytest.raises(ValueError, match="user_ids"):
        Ratings.from_scipy(scipy.sparse.csr_array(dense), user_ids=["z", "y"])
    with pytest.raises(TypeError, match="from_dense"):
        Ratings.from_scipy(dense)


def test_stored_zeros_are_entries_and_duplicates_an_error():
    coo = scipy.sparse.coo_array(([0.0, 1.0, 2.0], ([0, 1, 1], [1, 0, 0])), shape=(2, 2))
    with pytest.raises(ValueError, match="aggregate"):
        Ratings.from_scipy(coo)
    ratings = Ratings.from_scipy(coo, aggregate="sum")
    assert as_dict(ratings) == {(0, 1): 0, (1, 0): 3}
    stored = scipy.sparse.csr_array(([0.0, 1.0], [1, 0], [0, 1, 2]), shape=(2, 2))
    again = Ratings.from_scipy(stored)
    assert len(again) == 2
    assert again.to_scipy().nnz == 2


def test_dense():
    dense = np.array([[np.nan, 2.5, 0], [np.nan] * 3, [-1, np.nan, 4]])
    expected = {(0, 1): 2.5, (0, 2): 0, (2, 0): -1, (2, 2): 4}
    ratings = Ratings.from_dense(dense)
    assert as_dict(ratings) == expected
    assert ratings.shape == (3, 3)
    assert as_dict(Ratings.from_dense(np.ma.masked_invalid(dense))) == expected
    mask = np.array([[0, 0, 0], [0, 0, 0], [1, 0, 0]], bool)  # NaN beside the mask is missing too
    del expected[2, 0]
    assert as_dict(Ratings.from_dense(np.ma.array(dense, mask=mask))) == expected
    assert len(Ratings.from_dense(np.zeros((2, 3), int))) == 6
    assert len(Ratings.from_dense(np.ma.masked_equal(np.array([[0, 3], [2, 0]]), 0))) == 2
    assert as_dict(Ratings.from_dense([[1, np.nan]], user_ids=["a"], item_ids=["x", "y"])) == {("a", "x"): 1}
    with pytest.raises(ValueError, match="axes"):
        Ratings.from_dense(np.ones(3))
    with pytest.raises(TypeError, match="real"):
        Ratings.from_dense(np.ones((2, 2), complex))
    with pytest.raises(ValueError, match="finite"):
        Ratings.from_dense(np.array([[1.0, np.inf]]))
    with pytest.raises(ValueError, match="item_ids"):
        Ratings.from_dense(dense, item_ids=["x"])
    with pytest.raises(ValueError, match="at least one"):
        Ratings.from_dense(np.full((2, 2), np.nan))


COLUMNS = {"user": ["b", "a", "b"], "item": [3, 1, 1], "rating": [5, 2, 1.5], "w": [1, 2, 3], "t": [10, 20, 5]}


@pytest.mark.parametrize("frame", ["dict", "pandas", "pandas of objects"])
def test_frames(frame):
    table = COLUMNS
    if frame != "dict":
        pandas = pytest.importorskip("pandas")
        table = pandas.DataFrame(COLUMNS, index=[7, 8, 9])
        table = table.astype({"user": object}) if frame == "pandas of objects" else table
    ratings = Ratings.from_frame(table, weight="w", timestamp="t")
    assert as_dict(ratings) == {("b", 3): 5, ("a", 1): 2, ("b", 1): 1.5}
    entries = list(zip(ratings.values, ratings.weights, ratings.timestamps, strict=True))
    assert sorted(entries) == [(1.5, 3, 5), (2, 2, 20), (5, 1, 10)]
    # Ids are found, however they are given.
    for users in (["a", "b", "x"], np.array(["a", "b", "x"]), np.array(["a", "b", "x"], object)):
        found = ratings.user_ids.positions(users)
        assert found[2] == -1
        assert [ratings.user_ids.values[p] for p in found[:2]] == ["a", "b"]
        assert Labels(["a", "b"]).positions(np.asarray(users, object)).tolist() == [0, 1, -1]
    clicks = Ratings.from_frame(table, user="item", item="user", value=None)
    assert as_dict(clicks) == {(3, "b"): 1, (1, "a"): 1, (1, "b"): 1}
    with pytest.raises(ValueError, match=r"value='stars'.*user, item, rating"):
        Ratings.from_frame(table, value="stars")
    with pytest.raises(ValueError, match="timestamp='when'"):
        Ratings.from_frame(table, timestamp="when")


def test_column_of_a_frame_as_query():
    pandas = pytest.importorskip("pandas")
    labels = Labels(["a", "b", "c"])
    for kind in ("str", object, "category"):
        assert labels.positions(pandas.Series(["c", "a", "x"], dtype=kind)).tolist() == [2, 0, -1]


# Aggregates

ENTRY = st.tuples(
    st.integers(0, 3), st.integers(0, 2), st.integers(-4, 4), st.integers(0, 3), st.integers(0, 3)
)  # user, item, value, weight, time


def mean_of(group, weighted):
    """The weighted mean, exactly; a plain one where nothing has weight."""
    weights = [e[3] if weighted else 1 for e in group]
    weights = weights if any(weights) else [1] * len(group)
    return Fraction(sum(w * e[2] for w, e in zip(weights, group, strict=True)), sum(weights))


@hypothesis.given(st.lists(ENTRY, min_size=1, max_size=15), st.booleans(), st.booleans())
def test_aggregates_are_those_of_a_dictionary(entries, weighted, timed):
    users, items, values, weights, times = (list(c) for c in zip(*entries, strict=True))
    groups = {}
    for entry in entries:
        groups.setdefault(entry[:2], []).append(entry)
    for group in groups.values():
        group.sort(key=lambda e: e[4] if timed else 0)  # stable: the order given
    value = {
        "mean": lambda g: float(np.float32(mean_of(g, weighted))),
        "sum": lambda g: sum(e[2] for e in g),
        "min": lambda g: min(e[2] for e in g),
        "max": lambda g: max(e[2] for e in g),
        "first": lambda g: g[0][2],
        "last": lambda g: g[-1][2],
    }
    weight = {"first": lambda g: g[0][3], "last": lambda g: g[-1][3]}
    for how, of_group in value.items():
        ratings = Ratings.from_triplets(
            users, items, values, weights=weights if weighted else None, timestamps=times if timed else None,
            aggregate=how,
        )  # fmt: skip
        assert as_dict(ratings) == {pair: of_group(g) for pair, g in groups.items()}
        in_order = [groups[pair] for pair in sorted(groups)]
        if weighted:
            total = weight.get(how, lambda g: sum(e[3] for e in g))
            assert ratings.weights.tolist() == [total(g) for g in in_order]
        if timed and how != "first":
            assert ratings.timestamps.tolist() == [max(e[4] for e in g) for g in in_order]
    if len(groups) < len(entries):
        with pytest.raises(ValueError, match="aggregate"):
            Ratings.from_triplets(users, items, values)
    else:
        assert as_dict(Ratings.from_triplets(users, items, values)) == {e[:2]: e[2] for e in entries}


def test_time_of_aggregated_pairs_is_the_latest():
    for how in ("mean", "sum", "min", "max", "first", "last"):
        ratings = Ratings.from_triplets([1, 1], [1, 1], [3, 4], timestamps=[9, 5], aggregate=how)
        assert ratings.timestamps.tolist() == [5 if how == "first" else 9], how


def test_dates_are_timestamps():
    dates = np.array(["2020-01-02", "2020-01-01"], "datetime64[s]")
    ratings = Ratings.from_triplets([1, 1], [1, 1], [3, 4], timestamps=dates, aggregate="last")
    assert as_dict(ratings) == {(1, 1): 3}
    assert ratings.timestamps[0] == dates[0]


def test_the_mean_is_weighted():
    mean = lambda weights: Ratings.from_triplets([1, 1], [1, 1], [1, 3], weights=weights, aggregate="mean")
    assert mean([1, 3]).values.tolist() == [2.5]
    assert mean([1, 3]).weights.tolist() == [4]
    assert mean([0, 3]).values.tolist() == [3]
    assert mean([0, 0]).values.tolist() == [2]
    assert mean([0, 0]).weights.tolist() == [0]
    assert mean(None).values.tolist() == [2]
    for how, value in (("sum", 4), ("min", 1), ("max", 3)):
        ratings = Ratings.from_triplets([1, 1], [1, 1], [1, 3], weights=[0, 3], aggregate=how)
        assert ratings.values.tolist() == [value]


def test_sums_that_overflow_are_an_error():
    with pytest.raises(ValueError, match=r"values.*float32.*scale"):
        Ratings.from_triplets([1, 1], [1, 1], [3e38, 3e38], aggregate="sum")
    with pytest.raises(ValueError, match=r"weights.*float32.*scale"):
        Ratings.from_triplets([1, 1], [1, 1], weights=[3e38, 3e38], aggregate="max")


@pytest.mark.parametrize(
    "times",
    [
        ["2020-01-02", "2020-01-01"],
        np.array(["2020-01-02 00:00", "2020-01-01"]),
        [datetime.date(2020, 1, 2), datetime.date(2020, 1, 1)],
        [datetime.datetime(2020, 1, 2), datetime.datetime(2020, 1, 1)],
        ["2020-01-02T01:00+01:00", "2020-01-01T00:00:00Z"],
    ],
)
def test_text_and_objects_are_dates_in_utc(times):
    ratings = Ratings.from_triplets([1, 2], [1, 1], timestamps=times)
    expected = np.array(["2020-01-02", "2020-01-01"], "datetime64[us]")
    np.testing.assert_array_equal(ratings.timestamps, expected)
    assert ratings.timestamps.dtype.kind == "M"


@pytest.mark.parametrize(
    "times", [[1, np.nan, 2], np.array(["2020", "NaT", "2021"], "M8[D]"), [1, np.inf, 2], [5, None, 6]]
)
def test_times_that_are_missing_are_named(times):
    for how in (None, "last"):
        with pytest.raises(ValueError, match=r"timestamps must be finite, got (nan|NaT|inf) in 1 of 3.*entry 1 "):
            Ratings.from_triplets([1, 1, 2], [1, 2, 3], timestamps=times, aggregate=how)


def test_union_of_dates_and_numbers_is_an_error():
    make = lambda t: Ratings.from_triplets([1], [1], timestamps=[t])
    with pytest.raises(ValueError, match="timestamps are dates in one"):
        make(3).union(make("2020-01-01"))


def test_nullable_and_masked_columns():
    pandas = pytest.importorskip("pandas")
    full, holed = pandas.Series([1, 2.5], dtype="Float64"), pandas.Series([1, None], dtype="Float64")
    assert Ratings.from_triplets([1, 2], [1, 2], full).values.tolist() == [1, 2.5]
    with pytest.raises(ValueError, match="values must be finite, got nan in 1 of 2"):
        Ratings.from_triplets([1, 2], [1, 2], holed)
    for name in ("values", "weights", "timestamps"):
        with pytest.raises(ValueError, match=f"{name} must not be masked"):
            Ratings.from_triplets([1, 2], [1, 2], **{name: np.ma.array([1, 2], mask=[0, 1])})


def test_message_of_duplicates_names_the_pair_and_the_way_out():
    with pytest.raises(ValueError, match=r"(?s)1 entries.*user ann and item \('x', 2\).*aggregate=.*'mean'"):
        Ratings.from_triplets(["bob", "ann", "ann"], [("x", 2)] * 3, [1, 2, 3])


@pytest.mark.parametrize(
    ("error", "word", "call"),
    [
        (ValueError, "users must hold at least one entry", lambda: Ratings.from_triplets([], [], [])),
        (ValueError, "items", lambda: Ratings.from_triplets([1, 2], [1], [1, 2])),
        (ValueError, "items", lambda: Ratings.from_triplets([1, 2], [1, 2, 3])),
        (ValueError, "values", lambda: Ratings.from_triplets([1, 2], [1, 2], [1])),
        (ValueError, "values", lambda: Ratings.from_triplets([1, 2], [1, 2], [[1], [2]])),
        (ValueError, "weights", lambda: Ratings.from_triplets([1, 2], [1, 2], weights=[1])),
        (ValueError, "timestamps", lambda: Ratings.from_triplets([1, 2], [1, 2], timestamps=[1])),
        (ValueError, r"values.*nan in 1 of 2", lambda: Ratings.from_triplets([1, 2], [1, 2], [1, np.nan])),
        (ValueError, r"values.*inf", lambda: Ratings.from_triplets([1, 2], [1, 2], [1, -np.inf])),
        (ValueError, "values", lambda: Ratings.from_triplets([1, 2], [1, 2], [1, 1e39])),
        (ValueError, "weights", lambda: Ratings.from_triplets([1, 2], [1, 2], weights=[1, np.nan])),
        (ValueError, r"weights.*-1", lambda: Ratings.from_triplets([1, 2], [1, 2], weights=[0, -1])),
        (TypeError, "values", lambda: Ratings.from_triplets([1, 2], [1, 2], ["1", "2"])),
        (TypeError, "values", lambda: Ratings.from_triplets([1, 2], [1, 2], [1j, 2])),
        (TypeError, "timestamps", lambda: Ratings.from_triplets([1, 2], [1, 2], timestamps=["a", "b"])),
        (ValueError, "aggregate", lambda: Ratings.from_triplets([1, 2], [1, 2], aggregate="median")),
        (ValueError, "users.*None", lambda: Ratings.from_triplets([1, None], [1, 2])),
        (ValueError, "items.*NaN", lambda: Ratings.from_triplets([1, 2], [1, np.nan])),
        (ValueError, "items.*NaN", lambda: Ratings.from_triplets([1, 2], np.array([1, np.nan]))),
        (ValueError, "users.*fractions", lambda: Ratings.from_triplets(np.array([1.5, 2]), [1, 2])),
        (ValueError, "users.*hashable", lambda: Ratings.from_triplets([[1], [2]], [1, 2])),
        (ValueError, "users", lambda: Ratings.from_triplets([([1],), ([2],)], [1, 2])),
        (ValueError, "users", lambda: Ratings.from_triplets(5, [1, 2])),
        (ValueError, "user", lambda: Ratings.from_triplets([1], [1], user_ids=[1, 1])),
        (ValueError, "users: .* got a str", lambda: Ratings.from_triplets("ab", "cd")),
        (ValueError, "items: .* got a dict", lambda: Ratings.from_triplets([1], {1: 2})),
        (ValueError, "users: .* got a set", lambda: Ratings.from_triplets({1, 2}, [1, 2])),
        (ValueError, "users.*whole numbers.*text", lambda: Ratings.from_triplets([1], [1], user_ids=["1", "2"])),
        (ValueError, "2 axes", lambda: Ratings.from_scipy(scipy.sparse.coo_array([1, 0, 2]))),
        (ValueError, "values.*nan", lambda: Ratings.from_scipy(scipy.sparse.csr_array([[1, np.nan]]))),
        (ValueError, "at least one entry", lambda: Ratings.from_scipy(scipy.sparse.csr_array((3, 4)))),
        (ValueError, "at least one entry", lambda: Ratings.from_dense(np.full((2, 2), np.nan))),
        (ValueError, "values.*inf", lambda: Ratings.from_dense([[np.inf, 1.0]])),
        (TypeError, "from_scipy", lambda: Ratings.from_dense(scipy.sparse.csr_array((3, 4)))),
        (ValueError, "user", lambda: Ratings.from_triplets([1, 2], [1, 2], user_ids=[1])),
    ],
)
def test_errors(error, word, call):
    with pytest.raises(error, match=word):
        call()


def test_one_user_and_one_item():
    ratings = Ratings.from_triplets(["only"], [0], [4])
    assert ratings.shape == (1, 1)
    assert ratings.row_starts().tolist() == [0, 1]
    assert as_dict(ratings) == {("only", 0): 4}


# Parts and unions

PAIRS = st.dictionaries(st.tuples(st.integers(0, 4), st.integers(0, 3)), st.integers(-3, 3), min_size=1, max_size=12)


def from_dict(entries, name=lambda i: i, **kwargs):
    users, items = zip(*entries, strict=True)
    return Ratings.from_triplets([name(u) for u in users], list(items), list(entries.values()), **kwargs)


@pytest.mark.parametrize("name", [int, str, lambda i: (i, "x"), lambda i: str(i) if i % 2 else i])
@hypothesis.given(old=PAIRS, new=PAIRS)
def test_union_is_that_of_dictionaries(name, old, new):
    one, other = from_dict(old, name), from_dict(new, name)
    both = one.union(other)
    assert as_dict(both) == {(name(u), i): v for (u, i), v in (old | new).items()}
    for old_ids, new_ids, ids in (
        (one.user_ids, other.user_ids, both.user_ids), (one.item_ids, other.item_ids, both.item_ids)
    ):  # fmt: skip
        before = old_ids.values.tolist()
        assert ids.values.tolist() == before + [v for v in new_ids.values.tolist() if v not in before]
        assert ids.positions(ids.values).tolist() == list(range(len(ids)))


def test_union_of_ids_of_other_types():
    text, objects = Ratings.from_triplets(["a", "b"], [1, 1], [1, 2]), np.array(["b", "c"], object)
    both = text.union(Ratings.from_triplets(objects, [1, 2], [5, 6]))
    assert as_dict(both) == {("a", 1): 1, ("b", 1): 5, ("c", 2): 6}
    assert both.n_users == 3
    numbers = text.union(Ratings.from_triplets([1, 2], [1, 1], [3, 4]))
    assert as_dict(numbers) == {("a", 1): 1, ("b", 1): 2, (1, 1): 3, (2, 1): 4}
    small = Ratings.from_triplets(np.array([1, 2], np.uint8), [1, 1]).union(Ratings.from_triplets([2, 300], [1, 1]))
    assert small.user_ids.values.tolist() == [1, 2, 300]


def test_union_of_weights_and_times():
    make = lambda users, v, **kw: Ratings.from_triplets(users, [1] * len(users), v, **kw)
    both = make([1, 2], [1, 2], weights=[3, 4]).union(make([2, 3], [5, 6]))
    assert both.weights.tolist() == [3, 1, 1]
    both = make([1, 2], [1, 2]).union(make([2, 3], [5, 6], weights=[7, 8]))
    assert both.weights.tolist() == [1, 7, 8]
    both = make([1, 2], [1, 2], timestamps=[30, 40]).union(make([2, 3], [5, 6], timestamps=[10, 20]))
    assert both.values.tolist() == [1, 5, 6]
    assert both.timestamps.tolist() == [30, 10, 20]
    assert make([1], [1], timestamps=[1]).union(make([2], [1])).timestamps is None


@hypothesis.given(PAIRS, st.data())
def test_select_positives_and_starts(entries, data):
    ratings = from_dict(entries, user_ids=range(6), weights=np.arange(len(entries)), timestamps=range(len(entries)))
    everything = list(as_dict(ratings).items())
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(entries), max_size=len(entries))))
    chosen = ratings.select(mask)
    expected = [e for e, m in zip(everything, mask, strict=True) if m]
    assert list(as_dict(chosen).items()) == expected
    np.testing.assert_array_equal(chosen.weights, ratings.weights[mask])
    np.testing.assert_array_equal(chosen.timestamps, ratings.timestamps[mask])
    assert as_dict(ratings.select(np.random.default_rng(0).permutation(np.flatnonzero(mask)))) == as_dict(chosen)
    assert chosen.shape == ratings.shape
    assert as_dict(ratings.positives(1)) == {pair: 1 for pair, v in everything if v >= 1}
    starts = ratings.row_starts()
    assert starts.tolist() == [sum(pair[0] < u for pair, _ in everything) for u in range(7)]
    dense = np.zeros(ratings.shape)
    for (u, i), v in everything:
        dense[u, list(ratings.item_ids.values).index(i)] = v
    csr = ratings.to_scipy()
    np.testing.assert_array_equal(csr.toarray(), dense)
    assert csr.nnz == len(ratings)
    back = Ratings.from_scipy(csr, user_ids=ratings.user_ids.values, item_ids=ratings.item_ids.values)
    assert as_dict(back) == as_dict(ratings)


def test_selections_that_are_none():
    ratings = Ratings.from_triplets([1, 1, 2], [1, 2, 1], [1, 2, 3])
    assert ratings.select([-1, 0]).values.tolist() == [1, 3]
    assert as_dict(ratings.select([-1, 0])) == {(1, 1): 1, (2, 1): 3}
    with pytest.raises(ValueError, match="3 booleans"):
        ratings.select([True, False])
    for twice in ([0, 0], [2, -1]):
        with pytest.raises(ValueError, match="twice"):
            ratings.select(twice)
    with pytest.raises(IndexError):
        ratings.select([3])
    with pytest.raises(ValueError, match="threshold must be finite"):
        ratings.positives(np.nan)


def test_frames_and_objects_as_matrices():
    holes = [[1, None], [2, 3]]
    assert as_dict(Ratings.from_dense(holes)) == {(0, 0): 1, (1, 0): 2, (1, 1): 3}
    pandas = pytest.importorskip("pandas")
    named = {("a", "x"): 1, ("b", "x"): 2, ("b", "y"): 3}
    for dtype in (float, "Float64", object):
        frame = pandas.DataFrame(holes, index=["a", "b"], columns=["x", "y"], dtype=dtype)
        assert as_dict(Ratings.from_dense(frame)) == named
    assert as_dict(Ratings.from_dense(frame, user_ids=[7, 8], item_ids=[1, 2])) == {(7, 1): 1, (8, 1): 2, (8, 2): 3}


def test_columns_of_any_name():
    table = {0: [1, 2], 1: [3, 4], 2: [5, 6]}
    pandas = pytest.importorskip("pandas")
    expected = {(1, 3): 5, (2, 4): 6}
    assert as_dict(Ratings.from_frame(pandas.DataFrame(table), user=0, item=1, value=2)) == expected
    structured = np.array([(1, 3, 5.0), (2, 4, 6.0)], [("user", int), ("item", int), ("rating", float)])
    assert as_dict(Ratings.from_frame(structured)) == expected


def test_frames_of_every_library_keep_large_ids_and_dates():
    pandas, polars, pyarrow = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
    large, dates = [2**63 + 3, 2**63 + 1], [datetime.datetime(2020, 1, day) for day in (2, 1)]
    columns = {"user": np.array(large, np.uint64), "item": ["b", "a"], "rating": [1.0, 2.0], "time": dates}
    for frame in (pandas.DataFrame(columns), polars.DataFrame(columns), pyarrow.table(columns)):
        ratings = Ratings.from_frame(frame, timestamp="time")
        assert as_dict(ratings) == {(large[0], "b"): 1, (large[1], "a"): 2}
        np.testing.assert_array_equal(ratings.timestamps, np.array(dates[::-1], "datetime64[us]"))
        np.testing.assert_array_equal(Labels(frame["user"]).positions(large), [0, 1])
    zoned = polars.Series(dates).dt.replace_time_zone("Europe/Berlin")
    ratings = Ratings.from_triplets([1, 2], [1, 2], timestamps=zoned)
    np.testing.assert_array_equal(ratings.timestamps, np.array(["2020-01-01T23", "2019-12-31T23"], "datetime64[us]"))
    for missing in (
        polars.Series([2**53 + 1, None]),
        pandas.array([2**53 + 1, None], "Int64"),
        pyarrow.array([1, None]),
    ):
        with pytest.raises(ValueError, match="ids must not be NaN"):
            Labels(missing)


def test_features_are_aligned_by_the_index_of_a_frame():
    pandas = pytest.importorskip("pandas")
    ratings = Ratings.from_triplets(["a", "b", "c"], [7, 8, 9], [1, 2, 3])
    frame = pandas.DataFrame({"age": [30, 10, 40]}, index=["c", "a", "d"])
    described = ratings.with_features(user_features=frame)
    assert described.user_ids.values.tolist() == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(described.user_features[:, 0], [10, np.nan, 30, 40])
    # The ids that are given count, and an index that numbers the rows says nothing.
    by_hand = ratings.with_features(user_features=frame, users=["b", "a", "c"])
    assert by_hand.user_features[:, 0].tolist() == [10, 30, 40]
    plain = ratings.with_features(item_features=pandas.DataFrame({"year": [1, 2, 3]}))
    assert plain.item_features[:, 0].tolist() == [1, 2, 3]
    for index in (["x", "y", "z"], [5, 6, 4]):
        with pytest.raises(ValueError, match="index without any known id: it holds .*reset_index"):
            ratings.with_features(user_features=frame.set_axis(index))
    with pytest.raises(ValueError, match="index that can't be ids"):
        ratings.with_features(user_features=frame.set_axis(["a", "a", "b"]))


def test_nothing_selected():
    ratings = Ratings.from_triplets([1, 2], [1, 2], [3, 4])
    for none in ([], np.zeros(2, bool), np.array([], int)):
        assert len(ratings.select(none)) == 0
        assert ratings.select(none).row_starts().tolist() == [0, 0, 0]


@hypothesis.given(PAIRS, st.permutations(range(7)), st.permutations(range(5)))
def test_relabelled(entries, users, items):
    users, items = users[:4], items[:3]
    ratings = from_dict(entries, timestamps=range(len(entries)))
    moved = ratings.relabelled(Labels(users), Labels(items))
    assert moved.shape == (4, 3)
    assert moved.user_ids.values.tolist() == users
    assert as_dict(moved) == {(u, i): v for (u, i), v in entries.items() if u in users and i in items}
    assert len(moved.timestamps) == len(moved)


# Ragged rows


@st.composite
def ragged_inputs(draw):
    lengths = draw(st.lists(st.sampled_from([0, 0, 1, 1, 2, 3, 7, 33, 70, 400]), min_size=1, max_size=12))
    block = draw(st.sampled_from([1, 2, 5, 2048]))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    rows = rng.permutation(np.repeat(np.arange(len(lengths)), lengths))
    columns = rng.integers(0, 1000, len(rows))
    weights = rng.uniform(0.5, 2, len(rows)).astype(np.float32) if draw(st.booleans()) else None
    return rows, columns, rng.normal(size=len(rows)).astype(np.float32), weights, len(lengths), block


@hypothesis.given(ragged_inputs())
def test_ragged_rows_hold_every_entry_once(drawn):
    rows, columns, values, weights, n_rows, block = drawn
    ragged_ = ragged_rows(rows, columns, values, weights, n_rows, block=block)
    tiles, numbers, places = jax.tree.map(np.asarray, (ragged_.tiles, ragged_.numbers, ragged_.places))
    assert ragged_.n_rows == n_rows
    n_blocks, size = numbers.shape
    assert size <= block
    assert n_blocks == -(-n_rows // block)
    np.testing.assert_array_equal(numbers.ravel()[places], np.arange(n_rows))
    assert Counter(numbers.ravel().tolist())[n_rows] == numbers.size - n_rows
    found = Counter()
    for b in range(n_blocks):
        chunk_rows = tiles.rows[b].ravel()
        assert (np.diff(chunk_rows) >= 0).all()  # what sum_rows tells XLA
        empty = np.broadcast_to((chunk_rows == size).reshape(tiles.rows[b].shape)[..., None], tiles.weights[b].shape)
        assert (tiles.weights[b][empty] == 0).all()
        owner = np.append(numbers[b], n_rows)[tiles.rows[b]]
        owner = np.broadcast_to(owner[..., None], tiles.weights[b].shape)
        there = tiles.weights[b] > 0
        found.update(zip(*(a[there].tolist() for a in (owner, *(leaf[b] for leaf in tiles[:3]))), strict=True))
    ones = np.ones(len(rows), np.float32) if weights is None else weights
    expected = Counter(zip(*(a.tolist() for a in (rows, columns, values, ones)), strict=True))
    assert found == expected
    # Chunks of one block have as many as those of another, up to those of one row.
    if len(rows):
        width = tiles.columns.shape[-1]
        lengths = np.bincount(rows, minlength=n_rows)
        padded = (-(-lengths // width) * width).sum()
        assert width == 1 or padded <= ragged.MAX_PADDING * len(rows)
        per_block = [(tiles.rows[b] < size).sum() for b in range(n_blocks)]
        assert sum(per_block) * width == padded
        assert max(per_block) - min(per_block) <= max(-(-lengths // width))


@hypothesis.given(st.lists(st.integers(0, 300), min_size=1, max_size=30))
def test_width_of_chunks(lengths):
    lengths = np.array(lengths)
    padded = lambda w: sum(-(-n // w) * w for n in lengths.tolist())
    width = ragged.chunk_width(lengths)
    assert width == 1 or padded(width) <= 1.2 * lengths.sum()
    assert all(padded(w) > 1.2 * lengths.sum() for w in ragged._WIDTHS if w > width)


@pytest.mark.parametrize("block", [2048, 4, 1])
def test_sums_of_rows_are_those_of_bincount(block):
    rng = np.random.default_rng(block)
    rows = rng.permutation(np.repeat(np.arange(9), [0, 1, 200, 3, 0, 50, 2, 2, 0]))
    columns, values = rng.integers(0, 6, len(rows)), rng.normal(size=len(rows))
    weights, factors = rng.uniform(0.5, 2, len(rows)), rng.normal(size=6)
    with jax.enable_x64(True):
        entries = ragged_rows(rows, columns, values, weights, 9, block=block)

        def function(shared, tiles, numbers):
            sums = lambda t: {
                "weight": t.weights.sum(1),
                "both": jnp.stack([(t.weights * t.values * shared[t.columns]).sum(1)] * 2, 1),
            }
            return ragged.sum_rows(tiles, numbers.shape[0], sums), numbers

        sums, numbers = jax.jit(lambda f, e: ragged.map_blocks(function, f, e))(jnp.asarray(factors), entries)
        np.testing.assert_array_equal(numbers, np.arange(9))
        expected = np.bincount(rows, weights * values * factors[columns], minlength=9)
        np.testing.assert_allclose(sums["both"], np.stack([expected] * 2, 1), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(sums["weight"], np.bincount(rows, weights, minlength=9), rtol=1e-12)
        np.testing.assert_allclose(ragged.total_weight(entries), weights.sum(), rtol=1e-12)
        np.testing.assert_allclose(ragged.total_weight(entries, values=True), weights @ values, rtol=1e-12)


def test_padded_rows():
    here = np.array([[1, 1], [1, 0]])
    rows = completion.padded_rows(np.array([[0, 1], [2, 0]]), np.array([[1, 2], [3, 0.0]]), here)
    assert rows.n_rows == 2
    sums = lambda t: t.weights * t.values * (t.columns + 1)
    found = ragged.map_blocks(lambda _, t, n: ragged.sum_rows(t, n.shape[0], lambda c: sums(c).sum(1)), None, rows)
    assert found.tolist() == [5, 9]
    for bad in (((2,), (2,)), ((1, 2), (1, 1)), ((1, 2), (1, 2), (1, 1))):
        with pytest.raises(ValueError, match="shape"):
            completion.padded_rows(*(np.ones(shape) for shape in bad))


DEVICES = """
import jax, numpy as np
from jax_mmf import completion
assert len(jax.devices()) == 4
mesh = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
rng = np.random.default_rng(0)
for n_users, model in ((9, completion.ExplicitALS(2, alpha=0.1)), (3, completion.ImplicitALS(2))):
    users, items = np.nonzero(rng.random((n_users, 7)) < 0.6)
    ratings = completion.Ratings.from_triplets(
        users, items, rng.integers(1, 6, len(users)), weights=rng.uniform(1, 2, len(users)), user_ids=range(n_users)
    )
    one, many = (completion.fit(model, ratings, key=jax.random.key(0), n_epochs=3, mesh=m) for m in (None, mesh))
    spread = model.prepare(ratings, mesh).by_user.tiles.values
    assert len(spread.sharding.device_set) == 4
    assert not spread.is_fully_replicated
    for a, b in zip(one.factors, many.factors):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one.predict(users, items), many.predict(users, items), rtol=1e-4, atol=1e-5)
"""


@pytest.mark.slow
def test_rows_are_spread_over_devices():
    flags = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", DEVICES], env=flags, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
