"""Runs of more than 2^31 samples or steps: counters stop, weights stay those of then, nothing turns negative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_forgetting import constant, power, scaled

import jax_mmf as mmf
from jax_mmf.learning.surrogate import Surrogate, count_samples, update_surrogate

LAST, BATCH, N_FEATURES = 2**31 - 1, 100, 24
LAST_COUNT = 2**24  # of float32
SUBSET = mmf.UniformSubset(2)
RULES = {
    "power": (mmf.PowerForgetting(0.9), lambda n: power(0.9, n, BATCH)),
    "average": (mmf.PowerForgetting(1.0), lambda n: power(1.0, n, BATCH)),
    "scaled": (mmf.ScaledForgetting(8.0), lambda n: scaled(8.0, n, BATCH)),
    "scaled by a whole number": (mmf.ScaledForgetting(8), lambda n: scaled(8.0, n, BATCH)),
    "constant": (mmf.ConstantForgetting(1e-7), lambda n: constant(1e-7, n, BATCH)),
}


def late_state(solver, n_samples, step=0):
    """A state that has seen so many samples, each feature in half of them; counts of features stop at LAST_COUNT."""
    x = jax.random.normal(jax.random.key(0), (BATCH, N_FEATURES))
    state, _ = solver.update(solver.init(jax.random.key(1), samples=x), x)
    counts = state.surrogate.feature_counts
    if counts is not None:
        counts = jnp.full_like(counts, min(n_samples, LAST_COUNT) // 2)
    surrogate = state.surrogate._replace(feature_counts=counts)
    return state._replace(n_samples=jnp.int32(n_samples), step=jnp.int32(step), surrogate=surrogate)


def make(forgetting, *, partial_b):
    return mmf.OnlineFactorization(
        n_components=3,
        penalty=mmf.Ridge(0.1),
        constraint=mmf.L2Ball(),
        forgetting=forgetting,
        partial_b=partial_b,
        subset=SUBSET if partial_b else mmf.FullSubset(),
    )


@pytest.mark.parametrize("partial_b", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_weights_past_the_largest_count_are_those_of_that_count(name, partial_b):
    """In double precision from the formulas; the numbers of samples and of each feature stop together."""
    forgetting, truth = RULES[name]
    solver = make(forgetting, partial_b=partial_b)
    state, weights, n = late_state(solver, LAST - 250, LAST - 2), [], LAST - 250
    for i in range(5):
        x = jax.random.normal(jax.random.key(i), (BATCH, N_FEATURES))
        state, info = solver.update(state, x)
        weights.append(float(info.weight))
        np.testing.assert_allclose(weights[-1], truth(n), rtol=1e-5)
        n = min(n + BATCH, LAST)
        assert int(state.n_samples) == n
        assert info.finite
        assert jnp.isfinite(state.dictionary).all()
    assert (np.diff(weights) <= 0).all()
    if partial_b:
        np.testing.assert_array_equal(state.surrogate.feature_counts, LAST_COUNT // 2)


def test_partial_b_weighs_a_feature_by_its_share_of_the_samples():
    """A feature of half of all samples has twice the weight of the batch, past the largest count as before it."""
    subset = SUBSET.draw(jax.random.key(0), jnp.int32(0), N_FEATURES)
    atoms, zeros = jnp.zeros((3, subset.size)), jnp.zeros((BATCH, subset.size))
    for n in (LAST_COUNT - 10**6, LAST_COUNT - 20, LAST_COUNT, LAST - 20, LAST):
        counted = min(n, LAST_COUNT)
        counts = jnp.full(N_FEATURES, counted // 2, jnp.float32)
        before = Surrogate(jnp.zeros((3, 3)), None, jnp.ones((3, N_FEATURES)), counts)
        weight, codes = jnp.float32(0.01), jnp.zeros((BATCH, 3))
        after, b, _ = update_surrogate(before, codes, None, zeros, atoms, subset, weight, BATCH, jnp.int32(n))
        np.testing.assert_allclose(1 - b, 0.02, rtol=1e-4)
        grown = min(n + BATCH, LAST_COUNT) - counted
        np.testing.assert_array_equal(after.feature_counts[subset.indices], counted // 2 + grown)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_counts_of_features_stop_where_they_are_still_exact(size):
    """One sample more than 2^24 would be lost in float32, and the share of a feature would be wrong from there on."""
    subset = SUBSET.draw(jax.random.key(0), jnp.int32(0), N_FEATURES)
    empty, codes, x = jnp.zeros((3, N_FEATURES)), jnp.zeros((size, 3)), jnp.zeros((size, subset.size))
    before = Surrogate(jnp.zeros((3, 3)), None, empty, jnp.full(N_FEATURES, LAST_COUNT - 2.0, jnp.float32))
    for n in (LAST_COUNT - 2, LAST_COUNT + 10**6):
        after, *_ = update_surrogate(
            before, codes, None, x, jnp.zeros((3, subset.size)), subset, jnp.float32(0.1), size, jnp.int32(n)
        )
        want = LAST_COUNT - 2 + max(0, min(n + size, LAST_COUNT) - n)
        np.testing.assert_array_equal(after.feature_counts[subset.indices], want)


@pytest.mark.parametrize("n", [1000, LAST_COUNT, 2**30, LAST])
def test_whole_numbers_of_older_files_keep_their_ratio(tmp_path, n):
    """Counts were int32 and stopped at 2^31 - 1, in the state and in the best one."""
    solver = make(mmf.ScaledForgetting(8.0), partial_b=True)
    state = late_state(solver, n)
    counts = jnp.linspace(0, n, N_FEATURES, dtype="float32").astype(jnp.int32)
    old = state._replace(surrogate=state.surrogate._replace(feature_counts=counts))
    record = mmf.Record(1, n, 1, 0.0, 0, 1.0, 0, held_out=True)
    mmf.io.run_file.save_run(tmp_path / "m.h5", mmf.io.SavedRun(solver, old, [], {}, None, mmf.Best(old, record)))
    found = mmf.load_checkpoint(tmp_path / "m.h5")
    for one in (found.state, found.best.state):
        assert one.surrogate.feature_counts.dtype == jnp.float32
        ratio = np.asarray(one.surrogate.feature_counts, float) / min(n, LAST_COUNT)
        np.testing.assert_allclose(ratio, np.asarray(counts, float) / n, rtol=1e-6)


@pytest.mark.parametrize("n", [0, 5, LAST - 100, LAST - 99, LAST - 1, LAST])
def test_the_number_of_samples_stops(n):
    for size in (100, jnp.int32(100)):
        assert int(jax.jit(count_samples)(jnp.int32(n), size)) == min(n + 100, LAST)


def test_steps_are_counted_modulo_2_31():
    """After the last number comes zero; subsets that were drawn ahead are those of the steps to come."""
    solver = make(mmf.ScaledForgetting(8.0), partial_b=True)
    state = late_state(solver, 10_000, LAST - 1)
    ahead = [solver.draw_subset(state, ahead=i).indices for i in range(4)]
    x = jax.random.normal(jax.random.key(5), (BATCH, N_FEATURES))
    for i, expected in enumerate([LAST - 1, LAST, 0, 1]):
        assert int(state.step) == expected
        np.testing.assert_array_equal(solver.draw_subset(state).indices, ahead[i])
        state, info = solver.update(state, x)
        assert info.finite
    first = late_state(solver, 10_000, 0)
    np.testing.assert_array_equal(ahead[2], solver.draw_subset(first).indices)


@pytest.mark.parametrize("partial_b", [False, True])
def test_fit_goes_on_past_the_last_step_and_the_last_count(partial_b):
    solver = make(mmf.ScaledForgetting(8.0), partial_b=partial_b)
    state = late_state(solver, LAST - 150, LAST - 1)
    batches = (np.random.default_rng(i).standard_normal((BATCH, N_FEATURES)) for i in range(4))
    result = mmf.fit(solver, batches, state=state, evaluate_every=1)
    assert int(result.state.n_samples) == LAST
    assert np.isfinite(result.state.dictionary).all()
