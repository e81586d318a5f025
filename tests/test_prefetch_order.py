"""Reading ahead, the order of the samples, and permutations of the features."""

import threading
import time
import tracemalloc
from collections import Counter
from contextlib import closing
from dataclasses import replace
from itertools import count, islice

import jax
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

import jax_mmf as mmf
from jax_mmf.io import ChunkCache, FeaturePermutation, MatrixSource
from jax_mmf.training import keyed_permutation
from jax_mmf.training import order as module
from jax_mmf.training.keyed_permutation import KeyedPermutation
from jax_mmf.training.mixing import n_kept
from jax_mmf.training.order import SampleOrder
from jax_mmf.training.prefetch import prefetch


def readers():
    return [t for t in threading.enumerate() if t.name == "jax-mmf-reader"]


# Prefetch


@given(st.lists(st.integers()), st.integers(0, 4))
def test_items_come_in_order_and_none_is_lost(items, depth):
    assert list(prefetch(items, depth)) == items
    assert not readers()


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(3), MemoryError()])
def test_exception_comes_after_the_items_before_it(depth, error):
    def items():
        yield from range(5)
        raise error

    got = []
    with pytest.raises(type(error)) as caught:
        got.extend(prefetch(items(), depth))
    assert got == list(range(5))
    assert caught.value is error
    assert not readers()


def test_none_and_exceptions_are_items_too():
    items = [None, ValueError("an item"), "end"]
    assert list(prefetch(items, 1)) == items


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_than_depth_items_wait(depth):
    made = []

    def items():
        for i in range(50):
            made.append(i)
            yield i

    reader = prefetch(items(), depth)
    next(reader)
    # The one that was taken, those that wait, and one that is held by the thread until there is room.
    for _ in range(600):
        if len(made) >= depth + 2:
            break
        time.sleep(0.1)
    time.sleep(0.3)  # a thread that does not wait would be further by now
    assert len(made) == depth + 2
    reader.close()


@pytest.mark.parametrize("depth", [1, 3])
def test_thread_ends_when_closed_early(depth):
    reader = prefetch(count(), depth)
    assert list(islice(reader, 4)) == [0, 1, 2, 3]
    assert len(readers()) == 1
    reader.close()
    assert not readers()


def test_thread_ends_when_the_caller_fails():
    with pytest.raises(ZeroDivisionError), closing(prefetch(count(), 2)) as reader:
        max(1 / (3 - i) for i in reader)
    assert not readers()


def test_without_depth_everything_happens_here():
    here = []

    def items():
        for i in range(3):
            here.append((i, threading.current_thread()))
            yield i

    reader = prefetch(items(), 0)
    assert next(reader) == 0
    assert here == [(0, threading.current_thread())]
    assert list(reader) == [1, 2]


def test_items_are_made_while_the_caller_works():
    """Each item but the first is asked for before the caller is done with the one before."""
    made = [threading.Event() for _ in range(5)]

    def items():
        for event in made:
            event.set()
            yield event

    with closing(prefetch(items(), 2)) as reader:
        for i, _ in enumerate(reader):
            assert all(event.wait(60) for event in made[: i + 2])
    assert i == 4


# The order of the samples

orders = st.builds(
    SampleOrder,
    st.integers(0, 5).map(jax.random.key),
    st.integers(2, 200),
    st.integers(1, 40),
    st.integers(0, 1_000_000),
    st.booleans(),
    st.integers(0, 9),
).map(lambda o: replace(o, n_held_out=o.n_held_out % o.n_samples))


def training(order):
    return np.setdiff1d(np.arange(order.n_samples), order.held_out)


@given(orders, st.integers(1, 60), st.integers(1, 3))
def test_each_training_sample_once_per_epoch_and_no_other(order, batch_size, n_epochs):
    assert len(order.held_out) == order.n_held_out
    assert len(training(order)) == order.n_training
    batches = list(order.batches(batch_size, n_epochs))
    per_epoch = -(-order.n_training // batch_size)
    assert [epoch for epoch, _ in batches] == [e for e in range(n_epochs) for _ in range(per_epoch)]
    for epoch in range(n_epochs):
        rows = [r for e, r in batches if e == epoch]
        sizes = [len(r) for r in rows]
        assert sizes == [batch_size] * (per_epoch - 1) + [order.n_training - batch_size * (per_epoch - 1)]
        np.testing.assert_array_equal(np.sort(np.concatenate(rows)), training(order))


@given(orders, st.integers(1, 60), st.integers(1, 3), st.integers(1, 50), st.data())
def test_resuming_at_a_step_gives_the_same_tail(order, batch_size, n_epochs, at_once, data):
    """However many rows are ordered together."""
    whole = list(order.batches(batch_size, n_epochs))
    first = data.draw(st.integers(0, len(whole)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROWS_AT_ONCE", at_once)
        tail = list(order.batches(batch_size, n_epochs, first))
    assert len(tail) == len(whole) - first
    for (epoch, rows), (wanted_epoch, wanted_rows) in zip(tail, whole[first:], strict=True):
        assert epoch == wanted_epoch
        np.testing.assert_array_equal(rows, wanted_rows)


@given(orders, st.integers(0, 3))
def test_runs_of_rows_stay_together(order, epoch):
    order = replace(order, window=0)
    rows = order.epoch(epoch)
    # Rows of one run that are trained on are neighbours, in ascending order; so there are as many pieces as runs.
    runs = rows // order.stretch
    changes = np.flatnonzero(np.diff(runs))
    assert len(changes) + 1 == len(np.unique(runs))
    same = np.diff(runs) == 0
    assert (np.diff(rows)[same] > 0).all()


@given(orders, st.integers(1, 60), st.integers(1, 9), st.integers(0, 2))
def test_mixed_runs_are_used_up_one_after_another(order, batch_size, window, epoch):
    """A cache of as many runs as a feed keeps reads each of them at most once an epoch, whatever it kept before."""
    order = replace(order, window=window, shuffle=True, n_held_out=order.n_held_out % (order.n_samples // 2))
    size = n_kept(window, order.stretch * order.n_training / order.n_samples, batch_size)
    reads = Counter()

    class Source(MatrixSource):
        rows_per_chunk = order.stretch

        def _read_into(self, out, rows, columns):
            reads[int(rows[0]) // order.stretch] += 1
            out[:, 0] = rows

    source = Source("source", (order.n_samples, 1), np.float64)
    cache = ChunkCache(source, size)
    before = -1
    for at, rows in order.batches(batch_size, epoch + 1):
        if at != before:
            reads.clear()
            before = at
        out = np.empty((rows.size, 1))
        cache.read_into(out, rows)
        np.testing.assert_array_equal(out[:, 0], rows)
        assert len(cache._kept) <= size
        assert max(reads.values(), default=1) == 1


@pytest.mark.parametrize(("window", "batch_size"), [(8, 32), (50, 100), (200, 64)])
def test_a_mini_batch_mixes_the_runs_of_the_window(window, batch_size):
    """As many different runs as draws from so many boxes would hit, or nearly so, and none from outside."""
    order = SampleOrder(jax.random.key(0), 40_000, 100, 0, True, window)
    batches = [rows for _, rows in order.batches(batch_size, 1)]
    middle = batches[len(batches) // 2 : len(batches) // 2 + 20]
    n_runs = [len(np.unique(rows // 100)) for rows in middle]
    expected = window * (1 - (1 - 1 / window) ** batch_size)
    assert 0.85 * expected <= np.mean(n_runs) <= min(window + 2, 1.25 * expected)


@given(orders)
def test_without_shuffling_the_last_samples_are_held_out(order):
    order = replace(order, shuffle=False)
    np.testing.assert_array_equal(order.held_out, np.arange(order.n_training, order.n_samples))
    np.testing.assert_array_equal(order.epoch(2), np.arange(order.n_training))


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("run", [1, 16])
def test_orders_are_random_and_depend_on_key_and_epoch(run, window):
    order = SampleOrder(jax.random.key(0), 4096, run, 512, True, window)
    other = replace(order, key=jax.random.key(1))
    assert not np.array_equal(order.epoch(0), order.epoch(1))
    assert not np.array_equal(order.epoch(0), other.epoch(0))
    assert not np.array_equal(order.held_out, other.held_out)
    np.testing.assert_array_equal(order.epoch(1), order.epoch(1))
    # Positions and values of a random order are uncorrelated: 1 / sqrt(number of pieces) is a standard deviation.
    correlation = np.corrcoef(order.epoch(0), np.arange(order.n_training))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(order.n_training / run)


@given(orders, st.integers(0, 9), st.integers(1, 50))
def test_draws_are_of_different_training_samples(order, number, count):
    rows = order.draw(number, count)
    assert len(rows) == len(set(rows.tolist())) == min(count, order.n_training)
    assert set(rows.tolist()) <= set(training(order).tolist())
    np.testing.assert_array_equal(order.first(count), order.epoch(0)[:count])


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_raw_and_typed_keys_give_the_same_order(make):
    a = SampleOrder(make(5), 50, 4, 7, True)
    b = SampleOrder(jax.random.key(5), 50, 4, 7, True)
    np.testing.assert_array_equal(a.epoch(1), b.epoch(1))


@pytest.mark.parametrize(("stretch", "window"), [(1, 0), (16, 0), (16, 64), (256, 9)])
def test_the_order_of_many_samples_needs_no_array_of_them(stretch, window):
    """Of 5 x 10^7 samples, at the start and in the middle of an epoch; an array of int32 numbers takes 200 MB."""
    order = SampleOrder(jax.random.key(0), 50_000_000, stretch, 1000, True, window)
    half = order.n_training // 256
    tracemalloc.start()
    try:
        for first in (0, half):
            rows = np.concatenate([rows for _, rows in islice(order.batches(128, 1, first), 3)])
            assert len(np.unique(rows)) == 3 * 128
            assert not np.isin(rows, order.held_out).any()
        order.draw(3, 100)
        assert tracemalloc.get_traced_memory()[1] < 2e7
    finally:
        tracemalloc.stop()


# Permutations that need no array


@pytest.fixture(params=["table", "network"])
def permute(request, monkeypatch):
    if request.param == "network":
        monkeypatch.setattr(keyed_permutation, "_MOST_IN_TABLE", 0)
    return lambda n, seed: KeyedPermutation(n, np.random.default_rng(seed))


def test_each_number_comes_once(permute):
    for n in [*range(1, 70), 99, 100, 101, 1000, 4096, 4097]:
        numbers = permute(n, n)(np.arange(n))
        np.testing.assert_array_equal(np.sort(numbers), np.arange(n))


@pytest.mark.parametrize("n", [2**16 + 1, 300_007])
def test_long_permutations_are_no_tables_and_each_number_comes_once(n):
    long = KeyedPermutation(n, np.random.default_rng(0))
    assert long._table is None
    numbers = long(np.arange(n))
    np.testing.assert_array_equal(np.bincount(numbers, minlength=n), 1)
    np.testing.assert_array_equal(long(np.array([n - 1, 7, 7])), numbers[[n - 1, 7, 7]])


@pytest.mark.parametrize("n", [10, 97, 1000])
def test_all_places_of_a_number_are_equally_likely(permute, n):
    """Of one number, and of two together, over 20,000 seeds; chi-squared, with a share of 1e-5 of false alarms."""
    n_seeds, n_bins = 20_000, 10
    pairs = np.array([permute(n, seed)(np.array([0, 1])) for seed in range(n_seeds)])
    edges = np.arange(n_bins + 1) * n / n_bins
    bins = np.searchsorted(edges, pairs, side="right") - 1
    sizes = np.bincount(np.searchsorted(edges, np.arange(n), side="right") - 1)
    for side in (0, 1):
        counts = np.bincount(bins[:, side], minlength=n_bins)
        assert stats.chisquare(counts, n_seeds * sizes / n).pvalue > 1e-5
    together = np.zeros((n_bins, n_bins))
    np.add.at(together, (bins[:, 0], bins[:, 1]), 1)
    expected = n_seeds * (np.outer(sizes, sizes) - np.diag(sizes)) / (n * (n - 1))
    there = expected > 0
    assert together[~there].sum() == 0
    assert stats.chisquare(together[there], expected[there]).pvalue > 1e-5


def test_a_part_of_a_long_permutation_is_spread_evenly():
    """Chi-squared of 100,000 of 10^7 numbers in 200 bins, and of the differences of neighbours."""
    n = 10**7
    numbers = KeyedPermutation(n, np.random.default_rng(1))(np.arange(5 * 10**6, 5 * 10**6 + 10**5))
    assert stats.chisquare(np.bincount(numbers * 200 // n, minlength=200)).pvalue > 1e-4
    assert stats.chisquare(np.bincount(np.diff(numbers) % n * 200 // n, minlength=200)).pvalue > 1e-4


# Permutations of the features


@given(st.integers(1, 60), st.integers(0, 5))
@example(1, 0)
def test_inverse_undoes_a_permutation(p, seed):
    permutation = FeaturePermutation.random(jax.random.key(seed), p)
    x = np.random.default_rng(seed).standard_normal((3, p))
    inverse = permutation.inverse
    np.testing.assert_array_equal(inverse.apply(permutation.apply(x)), x)
    np.testing.assert_array_equal(permutation.apply(inverse.apply(x)), x)
    np.testing.assert_array_equal(inverse.inverse.order, permutation.order)
    np.testing.assert_array_equal(permutation.apply(x)[:, 0], x[:, permutation.order[0]])


@pytest.mark.parametrize("order", [[0, 0, 1], [1, 2, 3], [[0, 1]], [-1, 0, 1], [0.5, 1, 2]])
def test_orders_that_are_no_permutation(order):
    with pytest.raises(ValueError, match="each of 0 to p - 1 once"):
        FeaturePermutation(np.array(order))


@pytest.mark.parametrize("partial_b", [False, True])
@pytest.mark.parametrize("p", [12, 4])
def test_permuted_state_goes_back_to_itself(partial_b, p):
    """With p = k too, where a Gram matrix has the shape of the dictionary."""
    solver = mmf.OnlineFactorization(
        n_components=4,
        penalty=mmf.Lasso(0.1),
        constraint=mmf.L2Ball(),
        statistics=mmf.MaskedStatistics() if partial_b else mmf.FullStatistics(),
        partial_b=partial_b,
    )
    x = np.random.default_rng(0).standard_normal((8, p)).astype("float32")
    state, _ = solver.update(solver.init(jax.random.key(0), samples=x), x)
    permutation = FeaturePermutation.random(jax.random.key(1), p)
    permuted = permutation.apply_to_state(state)
    np.testing.assert_array_equal(permuted.dictionary, np.asarray(state.dictionary)[:, permutation.order])
    np.testing.assert_array_equal(permuted.surrogate.c, state.surrogate.c)
    if not partial_b:
        np.testing.assert_array_equal(permuted.gram, state.gram)
    back = permutation.inverse.apply_to_state(permuted)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for got, want in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        if not jax.dtypes.issubdtype(want.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(got, want)
