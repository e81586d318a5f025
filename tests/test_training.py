"""`fit`: the same run from every source, resumed or not, partial or whole; its history; and data that are no good."""

import dataclasses
import threading

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_mmf as mmf
from jax_mmf.io import ArraySource, FeaturePermutation, HDF5Source, RawSource, open_source, write_permuted

KEY = jax.random.key(5)
NOTHING_LEARNED = pytest.mark.filterwarnings("ignore:fit has learned nothing")
N, P, K, B = 80, 256, 4, 16


def matrix(n=N, p=P, dtype="float32"):
    """Low rank plus noise."""
    g = np.random.default_rng(0)
    return (g.standard_normal((n, 6)) @ g.standard_normal((6, p)) / 3 + 0.1 * g.standard_normal((n, p))).astype(dtype)


X = matrix()


def make(**options):
    return mmf.OnlineFactorization(
        **{"n_components": K, "penalty": mmf.Ridge(0.1), "constraint": mmf.L2Ball()} | options
    )


FULL = make()
BLOCKS = make(subset=mmf.BlockSubset(4, 16))
BLOCKS_PARTIAL = make(subset=mmf.BlockSubset(4, 16), partial_b=True)
UNIFORM_PARTIAL = make(
    subset=mmf.UniformSubset(4), partial_b=True, penalty=mmf.Lasso(0.1),
    code_solver=mmf.CoordinateDescent(),  # which compiles sooner than the default
)  # fmt: skip
ADAM = make(subset=mmf.BlockSubset(4, 16), dictionary_update=mmf.GradientUpdate(optax.adam(1e-2)))
SOLVERS = {
    "full": FULL,
    "blocks": BLOCKS,
    "blocks, partial": BLOCKS_PARTIAL,
    "uniform, partial": UNIFORM_PARTIAL,
    "adam": ADAM,
}


def iter_batches(x):
    return [x[first : first + B] for first in range(0, len(x), B)]


def permuted_like_fit(solver, x):
    return x if solver.subset.n_blocks is None else x[:, FeaturePermutation.random(KEY, x.shape[1]).order]


def fit(solver, source, **options):
    options = {"batch_size": B} | ({"key": KEY} if "state" not in options else {}) | options
    return mmf.fit(solver, source, **options)


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert left.dtype == right.dtype
        key = jax.dtypes.issubdtype(left.dtype, jax.dtypes.prng_key)
        numbers = jax.random.key_data if key else np.asarray
        np.testing.assert_array_equal(numbers(left), numbers(right))


def stop_after(step):
    return lambda event: event.step >= step


def saved(kind, path, x=X):
    if kind == "array":
        return x
    if kind == "jax":
        return jnp.asarray(x)
    if kind == "memmap":
        x.tofile(path)
        return np.memmap(path, x.dtype, "r", shape=x.shape)
    if kind == "npy":
        np.save(f"{path}.npy", x)
        return open_source(f"{path}.npy")
    if kind == "fortran":
        np.save(f"{path}.npy", np.asfortranarray(x))
        return open_source(f"{path}.npy")
    if kind == "npz":
        np.savez_compressed(f"{path}.npz", x)
        return open_source(f"{path}.npz")
    if kind == "permuted":
        # The order that fit gives to a plain source with this key.
        write_permuted(f"{path}.h5", [x], key=KEY, block_width=4, rows_per_chunk=8)
        return open_source(f"{path}.h5")
    with h5py.File(f"{path}.h5", "w") as file:
        file.create_dataset("X", data=x, chunks=(7, 50) if kind == "chunked" else None)
    return open_source(f"{path}.h5")


# The same run from every source


@pytest.mark.parametrize("kind", ["jax", "memmap", "npy", "fortran", "npz", "contiguous", "chunked"])
@pytest.mark.parametrize("solver", ["full", "blocks, partial"])
def test_every_source_in_the_same_order_gives_the_same_bits(solver, kind, tmp_path):
    options = {"shuffle": False, "evaluate_every": 2, "held_out": X[:9]}
    want = fit(SOLVERS[solver], X, **options)
    got = fit(SOLVERS[solver], saved(kind, tmp_path / "x"), **options)
    assert_same_bits(got.state, want.state)
    same = [[r._replace(seconds=0, bytes_read=0) for r in result.history] for result in (got, want)]
    assert same[0] == same[1]


@pytest.mark.parametrize("kind", [list, iter])
def test_batches_are_learned_from_as_they_come(kind):
    """The initial dictionary is made of the batches that hold enough samples for it: here the first, of n = 4 k."""
    got = fit(FULL, kind([X[i : i + B] for i in range(0, N, B)]))
    assert_same_bits(got.state, fit(FULL, X, shuffle=False).state)


@pytest.mark.parametrize("solver", ["blocks", "blocks, partial"])
def test_permuted_file_is_the_same_run_as_the_array(solver, tmp_path):
    """With one key for both, the file's columns are in the order in which fit reads those of an array."""
    want = fit(SOLVERS[solver], X, shuffle=False)
    assert_same_bits(fit(SOLVERS[solver], saved("permuted", tmp_path / "x"), shuffle=False).state, want.state)


def test_permuted_file_without_subset_agrees_with_the_array(tmp_path):
    got = fit(FULL, saved("permuted", tmp_path / "x"), shuffle=False, held_out=10)
    want = fit(FULL, X, shuffle=False, held_out=10)
    np.testing.assert_allclose(got.state.dictionary, want.state.dictionary, atol=1e-4)
    np.testing.assert_allclose(got.state.surrogate.b, want.state.surrogate.b, atol=1e-4)
    assert got.history[-1].objective == pytest.approx(want.history[-1].objective, rel=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_same_key_gives_the_same_bits_and_another_key_does_not(solver):
    first, second = (fit(SOLVERS[solver], X, n_epochs=2, held_out=0.2) for _ in range(2))
    assert_same_bits(first.state, second.state)
    assert [r.objective for r in first.history] == [r.objective for r in second.history]
    other = fit(SOLVERS[solver], X, n_epochs=2, held_out=0.2, key=jax.random.key(6))
    assert not np.array_equal(first.state.dictionary, other.state.dictionary)


@pytest.mark.parametrize("read_ahead", [0, 1, 7])
def test_reading_ahead_changes_nothing(read_ahead):
    assert_same_bits(fit(BLOCKS_PARTIAL, X, read_ahead=read_ahead).state, fit(BLOCKS_PARTIAL, X).state)
    assert not [t for t in threading.enumerate() if t.name == "jax-mmf-reader"]


def test_raw_key_runs_as_the_typed_key_does():
    raw = fit(FULL, X, key=jax.random.PRNGKey(5))
    np.testing.assert_array_equal(raw.state.dictionary, fit(FULL, X).state.dictionary)
    resumed = fit(FULL, X, state=raw.state, n_epochs=2)
    np.testing.assert_array_equal(resumed.state.dictionary, fit(FULL, X, n_epochs=2).state.dictionary)


# Resuming


@pytest.mark.parametrize("source", ["array", "permuted", "contiguous"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_resumed_run_is_the_uninterrupted_one(solver, source, tmp_path):
    solver, data = SOLVERS[solver], saved(source, tmp_path / "x")
    options = {"n_epochs": 3, "held_out": 11}  # 69 samples: the fifth batch of each epoch is short
    whole = fit(solver, data, **options)
    half = fit(solver, data, callbacks=[stop_after(7)], **options)
    assert int(half.state.step) == 7
    mmf.save_model(tmp_path / "model.h5", solver, half.state)
    loaded = mmf.load_model(tmp_path / "model.h5", solver=solver if solver is ADAM else None)
    rest = fit(loaded.solver, data, state=loaded.state, **options)
    assert_same_bits(rest.state, whole.state)
    assert rest.history[-1].objective == whole.history[-1].objective
    assert rest.history[-1].step == 15
    assert rest.history[-1].n_samples == 3 * 69
    # A second time, since a run must not write into the state that it was given.
    assert_same_bits(fit(loaded.solver, data, state=loaded.state, **options).state, whole.state)


@pytest.mark.parametrize("solver", ["full", "blocks, partial"])
def test_one_more_epoch_is_the_run_that_had_it_from_the_start(solver):
    once = fit(SOLVERS[solver], X)
    assert_same_bits(
        fit(SOLVERS[solver], X, state=once.state, n_epochs=2).state, fit(SOLVERS[solver], X, n_epochs=2).state
    )


@NOTHING_LEARNED
def test_one_more_epoch_with_revivals_is_the_run_that_had_it_from_the_start():
    solver = make(penalty=mmf.Lasso(1e3))  # every atom is dead
    once = fit(solver, X, revive_every=2)
    longer = fit(solver, X, revive_every=2, n_epochs=2, callbacks=[stop_after(5)])
    assert_same_bits(once.state, longer.state)


@NOTHING_LEARNED
def test_resumed_run_with_revivals_is_the_uninterrupted_one():
    solver = make(penalty=mmf.Lasso(1e3))
    half = fit(solver, X, revive_every=2, n_epochs=2, callbacks=[stop_after(5)])
    rest = fit(solver, X, revive_every=2, n_epochs=2, state=half.state)
    assert_same_bits(rest.state, fit(solver, X, revive_every=2, n_epochs=2).state)


def test_resumed_run_over_batches_is_the_uninterrupted_one():
    batches = [X[i : i + B] for i in range(0, N, B)]
    half = fit(FULL, batches, n_epochs=2, callbacks=[stop_after(3)])
    rest = fit(FULL, batches, n_epochs=2, state=half.state)
    whole = fit(FULL, batches, n_epochs=2)
    assert int(rest.state.step) == int(whole.state.step) == 10
    assert_same_bits(rest.state, whole.state)


def test_finished_run_has_nothing_left_to_do():
    once = fit(FULL, X)
    again = fit(FULL, X, state=once.state)
    assert_same_bits(again.state, once.state)
    assert again.history == []


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make(n_components=K + 1), "n_components"),
        (make(subset=mmf.UniformSubset(4), partial_b=True), "partial_b"),
        (make(statistics=mmf.FullStatistics()), "statistics"),
    ],
)
def test_state_of_another_solver_is_refused(other, message):
    state = fit(FULL, X).state
    with pytest.raises(ValueError, match=message):
        fit(other, X, state=state, n_epochs=2)


def test_state_of_other_data_is_refused():
    with pytest.raises(ValueError, match="n_features"):
        fit(FULL, X[:, :-1], state=fit(FULL, X).state, n_epochs=2)


@pytest.mark.parametrize("given", [{}, {"key": KEY, "state": "state"}])
def test_key_or_state(given):
    given = {k: fit(FULL, X).state if v == "state" else v for k, v in given.items()}
    with pytest.raises(ValueError, match=r"key.*state"):
        mmf.fit(FULL, X, **given)


# The order of the features


@pytest.mark.parametrize(("solver", "p"), [("blocks", 256), ("blocks", 250), ("blocks, partial", 250), ("adam", 256)])
def test_result_is_that_of_a_loop_over_data_permuted_by_hand(solver, p):
    """Also if the blocks do not divide the features, and the last one overlaps the one before it."""
    solver, x = SOLVERS[solver], X[:, :p]
    got = fit(solver, x, shuffle=False).state
    permutation = FeaturePermutation.random(KEY, p)
    permuted = x[:, permutation.order]
    state = solver.init(KEY, samples=permuted[: 4 * K])
    for first in range(0, N, B):
        state, _ = solver.update(state, permuted[first : first + B])
    undo = np.argsort(permutation.order)
    np.testing.assert_allclose(got.dictionary, np.asarray(state.dictionary)[:, undo], atol=2e-5)
    for ours, theirs in zip(jax.tree.leaves(got.surrogate[1:]), jax.tree.leaves(state.surrogate[1:]), strict=True):
        np.testing.assert_allclose(ours, np.asarray(theirs)[..., undo], atol=2e-5)
    np.testing.assert_allclose(got.surrogate.c, state.surrogate.c, atol=2e-5)
    if solver is ADAM:
        np.testing.assert_allclose(got.update_state[0].mu, np.asarray(state.update_state[0].mu)[:, undo], atol=2e-5)


@pytest.mark.parametrize(
    ("solver", "forgetting"),
    [
        (FULL, mmf.ScaledForgetting(8.0)), (UNIFORM_PARTIAL, mmf.PowerForgetting(0.9)),
        (ADAM, mmf.ScaledForgetting(8.0)),
        pytest.param(BLOCKS_PARTIAL, mmf.ScaledForgetting(8.0), marks=pytest.mark.slow),
        pytest.param(FULL, mmf.PowerForgetting(0.9), marks=pytest.mark.slow),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("source", "n"),
    [
        ("array", N - 1),
        pytest.param("batches", N - 1, marks=pytest.mark.slow),
        pytest.param("array", N - B + 1, marks=pytest.mark.slow),
        pytest.param("array", B - 3, marks=pytest.mark.slow),
    ],
)
def test_batch_that_is_short_weighs_what_its_samples_weigh(solver, forgetting, source, n):
    """Inside, rows of zeros fill it up; nobody must see them."""
    solver, infos = dataclasses.replace(solver, forgetting=forgetting), []
    x = iter_batches(X[:n]) if source == "batches" else X[:n]
    keep = lambda event: infos.append(jax.tree.map(np.asarray, event.info))
    got = fit(solver, x, shuffle=False, callbacks=[keep])
    inside = got.state
    if solver.subset.n_blocks is not None:
        inside = FeaturePermutation.random(KEY, X.shape[1]).apply_to_state(inside)
    state = solver.init(KEY, samples=permuted_like_fit(solver, X[:n])[: 4 * K])
    for i, first in enumerate(range(0, n, B)):
        batch = permuted_like_fit(solver, X[first : min(first + B, n)])
        state, info = solver.update(state, batch)
        assert infos[i].codes.shape == (len(batch), K)
        assert infos[i].gap.shape == infos[i].n_iter.shape == (len(batch),)
        np.testing.assert_allclose(infos[i].codes, info.codes, atol=2e-5)
        np.testing.assert_allclose(infos[i].weight, info.weight, rtol=1e-6)
    assert int(inside.n_samples) == n == got.history[-1].n_samples
    for ours, theirs in zip(jax.tree.leaves(inside[3:]), jax.tree.leaves(state[3:]), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("source", ["array", "permuted", "chunked"])
@pytest.mark.parametrize("solver", ["blocks", "blocks, partial"])
def test_dictionary_is_in_the_order_of_the_data(solver, source, tmp_path):
    """Features of very different size: in a wrong order, codes times dictionary would be far from the data."""
    x = X * np.geomspace(0.1, 3, P, dtype="float32")
    solver = SOLVERS[solver]
    events = []
    result = fit(
        solver, saved(source, tmp_path / "x", x), n_epochs=12, callbacks=[lambda e: events.append(e.state.dictionary)]
    )
    for dictionary in (result.state.dictionary, events[-1]):
        codes = mmf.encode(dictionary, x, solver.penalty)
        assert mmf.explained_variance(dictionary, x, codes) > 0.6


# Partial reading


def wide():
    g = np.random.default_rng(1)
    return (g.standard_normal((256, 4)) @ g.standard_normal((4, 2048))).astype("float32")


@pytest.mark.parametrize("reduction", [4, 8])
def test_a_step_reads_one_part_in_r_of_a_permuted_file(reduction, tmp_path):
    x, solver = wide(), make(subset=mmf.BlockSubset(reduction, 16), partial_b=True)
    width = solver.subset.layout(2048)[0]
    write_permuted(tmp_path / "x.h5", [x], key=KEY, block_width=width, rows_per_chunk=B)
    options = {"shuffle": False, "held_out": 32, "evaluate_every": 1, "read_ahead": 0}
    partial = fit(solver, open_source(tmp_path / "x.h5"), **options)
    history = partial.history
    read = history[-1].bytes_read - history[0].bytes_read
    samples = history[-1].n_samples - history[0].n_samples
    assert read == pytest.approx(samples * 2048 * 4 / reduction, rel=0.01)
    # All there is beside the steps: the samples that the dictionary was made from.
    assert history[-1].bytes_read <= history[-1].n_samples * 2048 * 4 / reduction * 1.01 + 4 * K * 2048 * 4
    whole = fit(solver, x, **options)
    assert_same_bits(partial.state, whole.state)
    assert [r.objective for r in history] == [r.objective for r in whole.history]


def test_whole_statistics_read_whole_samples(tmp_path):
    x, solver = wide(), make(subset=mmf.BlockSubset(4, 16))
    write_permuted(tmp_path / "x.h5", [x], key=KEY, rows_per_chunk=B)  # in chunks that every HDF5 caches
    history = fit(solver, open_source(tmp_path / "x.h5"), evaluate_every=1, read_ahead=0).history
    assert history[-1].bytes_read - history[0].bytes_read == 240 * 2048 * 4


@pytest.mark.parametrize("make_source", [ArraySource, lambda x: x])
def test_bytes_read_are_those_of_the_run(make_source):
    source = make_source(X)
    histories = [fit(FULL, source, read_ahead=0).history for _ in range(2)]
    assert histories[0][-1].bytes_read == histories[1][-1].bytes_read
    assert X.nbytes <= histories[0][-1].bytes_read <= X.nbytes + 4 * K * P * 4


# History


@pytest.mark.parametrize("solver", ["full", "blocks"])
def test_history_is_the_objective_on_the_held_out_samples(solver):
    solver = SOLVERS[solver]
    dictionaries = {}

    def keep(event):
        dictionaries[event.step] = np.array(event.state.dictionary)

    result = fit(solver, X, n_epochs=2, shuffle=False, held_out=10, evaluate_every=4, callbacks=[keep])
    assert [r.step for r in result.history] == [4, 8, 10]
    assert [r.n_samples for r in result.history] == [64, 118, 140]
    assert [r.epoch for r in result.history] == [1, 2, 2]
    for record in result.history:
        want = mmf.objective(dictionaries[record.step], X[-10:], solver.penalty)
        assert record.objective == pytest.approx(float(want), rel=1e-4)
        assert 0 <= record.n_dead <= K
    seconds = [r.seconds for r in result.history]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    read = [r.bytes_read for r in result.history]
    assert 0 < read[0] < read[1] <= read[2]
    np.testing.assert_array_equal(dictionaries[10], result.state.dictionary)


def test_held_out_more_than_one_evaluation_piece():
    """561 samples are two pieces, which are not equal."""
    x = np.tile(X, (8, 1)) + np.linspace(0, 1, 640, dtype="float32")[:, None]
    result = fit(FULL, x, shuffle=False, held_out=561, evaluate_every=100)
    want = mmf.objective(result.state.dictionary, x[-561:], FULL.penalty)
    assert result.history[-1].objective == pytest.approx(float(want), rel=1e-4)


@pytest.mark.parametrize(("held_out", "count"), [(0.25, 20), (20, 20), (1, 1), (79, 79), (0.01, 1)])
def test_held_out_samples_are_not_learned_from(held_out, count):
    solver = make(n_components=1)
    steps = fit(solver, X, held_out=held_out).history[-1]
    assert steps.n_samples == N - count
    assert np.isfinite(steps.objective)


def test_held_out_array_leaves_all_samples_to_learn_from():
    record = fit(FULL, X, held_out=X[:5] * 2).history[-1]
    assert record.n_samples == N


@pytest.mark.parametrize("held_out", [0, -1, N, N + 1, 0.0, 1.5, -0.1, 1e-9, 0.9999, float("nan")])
def test_held_out_out_of_range(held_out):
    with pytest.raises(ValueError, match="held_out"):
        fit(FULL, X, held_out=held_out)


@pytest.mark.parametrize("held_out", [X[:, 1:], X[0], np.zeros((2, P, 1))])
def test_held_out_array_of_another_shape(held_out):
    with pytest.raises(ValueError, match="held_out"):
        fit(FULL, X, held_out=held_out)


@pytest.mark.parametrize("held_out", [np.int64(20), np.float64(0.25)])
def test_held_out_takes_numpy_numbers(held_out):
    assert fit(FULL, X, held_out=held_out).history[-1].n_samples == 60


def test_held_out_array_with_nan_is_refused():
    with pytest.raises(ValueError, match="nan"):
        fit(FULL, X, held_out=np.where(np.arange(P) == 7, np.nan, X[:5]))


# Callbacks


def test_callbacks_see_every_step_and_the_first_true_one_ends_the_run():
    steps, calls = [], []
    first = lambda event: steps.append((event.step, event.n_steps, event.record is not None, len(event.history)))
    second = lambda event: (calls.append(event.step), event.step == 3)[1]
    third = lambda event: calls.append(-event.step)
    result = fit(FULL, X, evaluate_every=2, callbacks=[first, second, third], n_epochs=4)
    assert steps == [(1, 20, False, 0), (2, 20, True, 1), (3, 20, False, 1)]
    assert calls == [1, -1, 2, -2, 3, -3]
    assert int(result.state.step) == 3
    assert [r.step for r in result.history] == [2, 3]
    assert not [t for t in threading.enumerate() if t.name == "jax-mmf-reader"]


def test_number_of_steps_of_an_iterator_is_not_known():
    seen = []
    fit(FULL, iter([X[:20], X[20:]]), callbacks=[lambda e: seen.append((e.step, e.n_steps))])
    assert seen == [(1, None), (2, None)]


def test_error_of_a_callback_carries_what_was_learned():
    def fail(event):
        if event.step == 3:
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full") as caught:
        fit(BLOCKS, X, callbacks=[fail])
    assert_same_bits(caught.value.result.state, fit(BLOCKS, X, callbacks=[stop_after(3)]).state)


def test_early_stopping_ends_a_run_that_no_longer_improves():
    result = fit(FULL, X, n_epochs=200, held_out=X, evaluate_every=5, callbacks=[mmf.EarlyStopping(2, 0.01)])
    values = [r.objective for r in result.history]
    assert len(values) < 200
    best, stale = np.inf, 0
    for i, value in enumerate(values):
        best, stale = (value, 0) if value < best * 0.99 else (best, stale + 1)
        assert (stale == 2) == (i == len(values) - 1)


def test_early_stopping_without_held_out_samples_is_refused():
    """There is no objective that could fall; ending the run as if it had stalled would be wrong."""
    with pytest.raises(ValueError, match="held"):
        fit(FULL, X, n_epochs=4, evaluate_every=1, callbacks=[mmf.EarlyStopping(2)])


@pytest.mark.parametrize("solver", ["full", "blocks, partial"])
def test_checkpoints_can_be_gone_on_from(solver, tmp_path):
    solver, path = SOLVERS[solver], tmp_path / "model.h5"
    options = {"n_epochs": 2, "held_out": 10, "evaluate_every": 2}
    fit(solver, X, callbacks=[mmf.Checkpoint(path, every=3), stop_after(8)], **options)
    model = mmf.load_model(path)
    assert int(model.state.step) == 8  # the last step of the run
    assert [r.step for r in model.history] == [2, 4, 6, 8]
    assert list(tmp_path.iterdir()) == [path]
    assert_same_bits(fit(model.solver, X, state=model.state, **options).state, fit(solver, X, **options).state)


# Revival


@NOTHING_LEARNED
@pytest.mark.parametrize("source", ["array", "permuted"])
@pytest.mark.parametrize("solver", ["full", "blocks"])
def test_dead_atoms_are_replaced_by_samples(solver, source, tmp_path):
    solver = make(subset=SOLVERS[solver].subset, penalty=mmf.Lasso(1e4))
    seen = []
    fit(
        solver,
        saved(source, tmp_path / "x"),
        revive_every=2,
        n_epochs=2,
        held_out=10,
        callbacks=[lambda e: seen.append(np.array(e.state.dictionary))],
    )
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    for step, dictionary in enumerate(seen, 1):
        np.testing.assert_allclose((dictionary @ unit.T).max(1), 1, atol=1e-5)
        if step > 1:
            assert np.array_equal(dictionary, seen[step - 2]) == (step % 2 == 1)


def test_living_atoms_stay():
    assert_same_bits(fit(FULL, X, revive_every=1).state, fit(FULL, X).state)


def test_reviving_from_batches_is_refused_before_the_work():
    steps = []
    with pytest.raises(ValueError, match="reviv"):
        fit(FULL, [X[:20], X[20:]], revive_every=2, callbacks=[lambda e: steps.append(e.step)])
    assert steps == []


@pytest.mark.parametrize(
    "options", [{"revive_every": 0}, {"evaluate_every": 0}, {"n_epochs": 0}, {"batch_size": 0}, {"read_ahead": -1}]
)
def test_counts_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        fit(FULL, X, **options)


# Averaged statistics

AVERAGED = make(statistics=mmf.AveragedStatistics(), subset=mmf.BlockSubset(4, 16))


def test_averaged_statistics_remember_each_sample():
    result = fit(AVERAGED, X, n_epochs=2, held_out=10)
    visits = np.asarray(result.memory.visits)
    assert visits.shape == (N,)
    assert sorted(visits) == [0] * 10 + [2] * 70
    assert fit(FULL, X).memory is None


def test_averaged_run_is_resumed_with_its_memory():
    whole = fit(AVERAGED, X, n_epochs=2)
    half = fit(AVERAGED, X, n_epochs=2, callbacks=[stop_after(7)])
    rest = fit(AVERAGED, X, n_epochs=2, state=half.state, memory=half.memory)
    assert_same_bits(rest.state, whole.state)
    assert_same_bits(rest.memory, whole.memory)
    with pytest.raises(ValueError, match="memory"):
        fit(AVERAGED, X, n_epochs=2, state=half.state)


def test_memory_of_other_data_is_refused():
    half = fit(AVERAGED, X)
    small = jax.tree.map(lambda a: a[:50], half.memory)
    with pytest.raises(ValueError, match="memory"):
        fit(AVERAGED, X, n_epochs=2, state=half.state, memory=small)


def test_averaged_statistics_need_samples_with_numbers():
    with pytest.raises(ValueError, match="iterable"):
        fit(AVERAGED, [X])


# NaN and infinity


def poisoned(kind, folder, bad, row, feature, x=X):
    x = x.copy()
    x[row, feature] = bad
    if kind in ("batches", "iterator"):
        batches = [x[i : i + 10] for i in range(0, N, 10)]
        return batches if kind == "batches" else iter(batches)
    return saved(kind, folder / "x", x)


@pytest.mark.parametrize(
    ("kind", "bad"),
    [(k, np.nan) for k in ("array", "contiguous", "npy", "permuted", "batches", "iterator")]
    + [("array", np.inf), ("permuted", -np.inf), ("batches", np.inf)],
)
@pytest.mark.parametrize("solver", ["full", "blocks", "blocks, partial"])
def test_bad_number_is_named_by_sample_and_feature(solver, kind, bad, tmp_path):
    row, feature = 77, 133
    source = poisoned(kind, tmp_path, bad, row, feature)
    options = {"n_epochs": 1 if kind == "iterator" else 60, "shuffle": False}
    with pytest.raises(ValueError, match="sample") as caught:
        fit(SOLVERS[solver], source, **options)
    text = str(caught.value)
    assert f"sample {row}," in text
    assert f"feature {feature};" in text
    assert str(bad) in text
    result = caught.value.result
    assert int(result.state.step) >= 4
    assert np.isfinite(np.asarray(result.state.dictionary)).all()
    assert not [t for t in threading.enumerate() if t.name == "jax-mmf-reader"]


def test_what_was_learned_before_the_bad_number_is_right(tmp_path):
    x = X.copy()
    x[70, 3] = np.nan
    with pytest.raises(ValueError, match="sample 70, feature 3") as caught:
        fit(FULL, x, shuffle=False)
    assert_same_bits(caught.value.result.state, fit(FULL, X, shuffle=False, callbacks=[stop_after(4)]).state)
    assert any("`result`" in note for note in caught.value.__notes__)


def test_bad_number_in_the_first_samples_is_found_before_a_step():
    x = X.copy()
    x[2, 9] = np.nan
    with pytest.raises(ValueError, match="sample 2, feature 9") as caught:
        fit(FULL, x, shuffle=False)
    assert not hasattr(caught.value, "result")


def test_bad_number_in_low_precision():
    x = np.array(jnp.asarray(X, jnp.bfloat16))
    x[70, 3] = np.nan
    with pytest.raises(ValueError, match="sample 70, feature 3"):
        fit(FULL, x, shuffle=False, dtype="float32")


def test_numbers_too_large_for_the_computation_are_named_too():
    x = X.astype("float64")
    x[70, 3] = 1e200
    with pytest.raises(ValueError, match="sample 70, feature 3"):
        fit(FULL, x, shuffle=False, dtype="float32")


@pytest.mark.parametrize("size", [1e19, 1e30])
def test_overflow_is_an_error_that_carries_the_last_good_result(size):
    """A sample whose square is no float32: unnoticed, statistics are infinite and the run learns nothing more."""
    x = X.copy()
    x[70] *= np.float32(size)
    with pytest.raises(ArithmeticError, match="scale the data") as caught:
        fit(FULL, x, shuffle=False, evaluate_every=1)
    assert_same_bits(caught.value.result.state, fit(FULL, X, shuffle=False, callbacks=[stop_after(4)]).state)


@pytest.mark.parametrize("size", [1e19, 1e30])
def test_overflow_is_noticed_within_one_interval(size):
    """It happens in step 5, and evaluations are after steps 4 and 6."""
    x = X.copy()
    x[70] *= np.float32(size)
    options = {"shuffle": False, "evaluate_every": 2, "n_epochs": 4, "held_out": X[:9]}
    steps = []
    with pytest.raises(FloatingPointError, match=r"after step 6.*float32 overflowed") as caught:
        fit(FULL, x, callbacks=[lambda event: steps.append(event.step)], **options)
    assert steps == [1, 2, 3, 4, 5]
    good = caught.value.result
    assert [r.step for r in good.history] == [2, 4]
    assert_same_bits(good.state, fit(FULL, X, callbacks=[stop_after(4)], **options).state)
    assert np.isfinite(good.best.dictionary).all()


# Sizes and dtypes


@pytest.mark.parametrize("source", [X[:3], [X[:2], X[2:3]], iter([X[:3]])])
def test_fewer_samples_than_atoms(source):
    with pytest.raises(ValueError, match=r"n_components=4.*3"):
        fit(FULL, source)


def test_held_out_leaves_fewer_samples_than_atoms():
    with pytest.raises(ValueError, match=r"n_components=4.*3"):
        fit(FULL, X, held_out=N - 3)


def test_no_batches():
    with pytest.raises(ValueError, match="no batches"):
        fit(FULL, [])


def test_batches_of_different_widths():
    with pytest.raises(ValueError, match=f"{P} features"):
        fit(FULL, [X, X[:, 1:]])


def test_iterator_can_be_passed_over_once():
    with pytest.raises(ValueError, match="n_epochs=2"):
        fit(FULL, iter([X]), n_epochs=2)


@pytest.mark.parametrize("source", ["x.h5", {"X": X}, None])
def test_what_is_no_source(source):
    with pytest.raises(TypeError, match="source"):
        fit(FULL, source)


@pytest.mark.parametrize("solver", ["full", "blocks, partial"])
@pytest.mark.parametrize("batch_size", [N, 1000])
def test_batch_of_all_samples(solver, batch_size):
    state = fit(SOLVERS[solver], X, batch_size=batch_size, n_epochs=3).state
    assert (int(state.step), int(state.n_samples)) == (3, 3 * N)
    assert_same_bits(state, fit(SOLVERS[solver], X, batch_size=N, n_epochs=3).state)


def test_one_sample_per_batch():
    result = fit(FULL, X[:20], batch_size=1, held_out=X)
    assert int(result.state.step) == 20
    assert np.isfinite(result.history[-1].objective)


def float_dtypes(tree):
    return {str(a.dtype) for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.floating)}


@pytest.mark.parametrize("solver", ["full", "blocks, partial", "adam"])
def test_float32_data_stay_float32_under_x64(solver, x64):
    result = fit(SOLVERS[solver], X, revive_every=2)
    assert float_dtypes(result.state) == {"float32"}
    assert result.state.step.dtype == result.state.n_samples.dtype == "int32"
    assert float_dtypes(fit(SOLVERS[solver], X, state=result.state, n_epochs=2).state) == {"float32"}


@pytest.mark.parametrize("solver", ["full", "blocks, partial"])
def test_float64_data_are_computed_on_in_float64(solver, x64):
    result = fit(SOLVERS[solver], X.astype("float64"), held_out=10, shuffle=False)
    assert float_dtypes(result.state) == {"float64"}
    single = fit(SOLVERS[solver], X, held_out=10, shuffle=False)
    np.testing.assert_allclose(single.state.dictionary, result.state.dictionary, atol=1e-3)
    assert single.history[-1].objective == pytest.approx(result.history[-1].objective, rel=1e-4)


@pytest.mark.parametrize("data", ["float64", "uint16"])
def test_dtype_overrides_that_of_the_source(data, x64):
    assert float_dtypes(fit(FULL, (X * 100).astype(data) if data != "uint16" else counts(), dtype="float32").state) == {
        "float32"
    }


def counts():
    return np.random.default_rng(0).integers(0, 60_000, (N, P)).astype("uint16")


@pytest.mark.parametrize("dtype", ["uint16", "int64", "bool", ">f4", ">i2", "float64", "float16"])
@pytest.mark.parametrize("kind", ["array", "contiguous", "npy"])
def test_every_dtype_is_learned_from_as_its_numbers(dtype, kind, tmp_path):
    x = (counts() // 4).astype(dtype)
    state = fit(FULL, saved(kind, tmp_path / "x", x), shuffle=False, dtype="float32").state
    assert_same_bits(state, fit(FULL, x.astype("float32"), shuffle=False).state)


@NOTHING_LEARNED
@pytest.mark.filterwarnings("ignore:the largest of the first samples")  # "tiny"
@pytest.mark.parametrize("init", [mmf.RandomSamples(), mmf.RandomizedSVD(), mmf.KMeansPlusPlus()])
@pytest.mark.parametrize(
    "what", ["zeros", "constant", "zero samples", "duplicates", "constant features", "tiny", "large"]
)
def test_degenerate_data_give_finite_results(init, what):
    x = {
        "zeros": np.zeros_like(X),
        "constant": np.full_like(X, 3),
        "zero samples": X * (np.arange(N) % 3 == 0)[:, None],
        "duplicates": np.tile(X[:2], (N // 2, 1)),
        "constant features": np.where(np.arange(P) % 2, X, 1).astype("float32"),
        "tiny": X * np.float32(1e-20),
        "large": X * np.float32(1e12),
    }[what]
    result = fit(make(initialization=init), x, held_out=10, revive_every=2)
    for leaf in jax.tree.leaves(result.state._replace(key=jnp.zeros(()))):
        assert np.isfinite(np.asarray(leaf)).all()
    assert np.isfinite(result.history[-1].objective)


@NOTHING_LEARNED
@pytest.mark.parametrize("constraint", [mmf.ElasticNetBall(0.5), mmf.Simplex()])
def test_zeros_under_every_constraint(constraint):
    result = fit(make(constraint=constraint), np.zeros_like(X), held_out=10)
    assert np.isfinite(np.asarray(result.state.dictionary)).all()
    assert result.history[-1].objective == 0


@pytest.mark.parametrize("solver", [make(subset=mmf.UniformSubset(P + 1)), make(subset=mmf.BlockSubset(P + 1))])
def test_reduction_larger_than_the_number_of_features(solver):
    with pytest.raises(ValueError, match=f"reduction must be at most the number of features, got {P + 1}"):
        fit(solver, X)


def test_sources_can_be_a_users_own():
    class Mine:
        n_samples, n_features, dtype, rows_per_read, permutation, bytes_read = N, P, X.dtype, 4, None, 0

        def read(self, rows, columns=None):
            return X[rows] if columns is None else X[np.ix_(rows, columns)]

    assert_same_bits(fit(BLOCKS_PARTIAL, Mine(), shuffle=False).state, fit(BLOCKS_PARTIAL, X, shuffle=False).state)


def test_open_data_sets_and_raw_files_are_sources(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["X"] = X
        got = fit(FULL, file["X"], shuffle=False)
        wrapped = fit(FULL, HDF5Source(file["X"]), shuffle=False)
    X.tofile(tmp_path / "x.raw")
    raw = fit(FULL, RawSource(tmp_path / "x.raw", 0, X.shape, X.dtype), shuffle=False)
    want = fit(FULL, X, shuffle=False).state
    for result in (got, wrapped, raw):
        assert_same_bits(result.state, want)
