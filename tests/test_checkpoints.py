"""Checkpoints: a run that was killed goes on bit for bit, from the newest whole file, and only with its own samples."""

import json
import threading
import time

import jax
import numpy as np
import pytest
from model_changes import changed
from test_training import AVERAGED, BLOCKS_PARTIAL, FULL, SOLVERS, N, X, assert_same_bits, fit, make, saved

import jax_mmf as mmf
from jax_mmf.training import checkpoint as module
from jax_mmf.training.checkpoint import checkpoints

OPTIONS = {"n_epochs": 2, "held_out": 10, "evaluate_every": 2}  # 70 samples: 10 steps
ALL = SOLVERS | {
    "averaged": AVERAGED,
    "averaged Gram": make(statistics=mmf.AveragedStatistics(gram="averaged"), subset=mmf.BlockSubset(4, 16)),
}


class Killed(Exception):  # noqa: N818
    """Stands for the end of a process: nothing but files is left."""


def killed(step, solver=FULL, x=X, callbacks=(), **options):
    def end(event):
        if event.step == step:
            raise Killed

    with pytest.raises(Killed):
        fit(solver, x, callbacks=[*callbacks, end], **(OPTIONS | options))


def without_clock(history):
    return [record._replace(seconds=0.0) for record in history]


# A run that goes on


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize(("step", "every"), [(6, 5), (9, 4), (10, 3)])
def test_a_killed_run_goes_on_bit_for_bit(solver, step, every, tmp_path):
    """With state, memory of samples, best state and history, between evaluations as well as at one."""
    killed(step, ALL[solver], callbacks=[mmf.Checkpoint(tmp_path / "c", every=every)])
    # A file can't hold an optimiser of optax.
    kept = mmf.load_checkpoint(tmp_path / "c", solver=ALL[solver] if solver == "adam" else None)
    assert int(kept.state.step) == (step - 1) // every * every
    got, want = fit(kept.solver, X, key=None, resume=kept, **OPTIONS), fit(ALL[solver], X, **OPTIONS)
    assert_same_bits(got.state, want.state)
    assert_same_bits(got.memory, want.memory)
    assert_same_bits(got.best.state, want.best.state)
    assert without_clock(got.history) == without_clock(want.history)
    seconds = [record.seconds for record in got.history]
    assert seconds == sorted(seconds)


def test_a_script_that_is_started_again_goes_on(tmp_path):
    """The same call starts a run and goes on with it, and finds nothing left to do in the end."""
    folder = tmp_path / "c"
    alpha = make(penalty=mmf.Lasso(mmf.RelativeAlpha(0.1)))

    def call(*more):
        callbacks = [mmf.Checkpoint(folder, every=2), *more]
        return fit(alpha, X, resume=mmf.load_checkpoint(folder), callbacks=callbacks, **OPTIONS)

    def fail(event):
        if event.step == 7:
            raise Killed

    with pytest.raises(Killed):
        call(fail)
    result, want = call(), fit(alpha, X, **OPTIONS)
    assert_same_bits(result.state, want.state)
    assert result.solver == want.solver
    again = call()
    assert_same_bits(again.state, want.state)
    assert without_clock(again.history) == without_clock(want.history)


def test_a_permuted_file_goes_on(tmp_path):
    data = saved("permuted", tmp_path / "x")
    killed(7, BLOCKS_PARTIAL, data, callbacks=[mmf.Checkpoint(tmp_path / "c", every=3)])
    kept = mmf.load_checkpoint(tmp_path / "c")
    want = fit(BLOCKS_PARTIAL, data, **OPTIONS)
    assert_same_bits(fit(kept.solver, data, key=None, resume=kept, **OPTIONS).state, want.state)


def test_results_and_models_go_on_too(tmp_path):
    stop = lambda event: event.step == 5
    half, want = fit(FULL, X, callbacks=[stop], **OPTIONS), fit(FULL, X, **OPTIONS)
    rest = fit(FULL, X, resume=half, **OPTIONS)
    assert_same_bits(rest.state, want.state)
    assert [r.step for r in rest.history] == [2, 4, 5, 6, 8, 10]
    half.save(tmp_path / "m.h5")
    model = mmf.load_model(tmp_path / "m.h5")
    assert_same_bits(model.state, half.state)
    assert model.run == {"batch_size": 16, "revive_every": None, "shuffle": True, "held_out": 10}
    assert_same_bits(fit(FULL, X, key=None, resume=mmf.load_checkpoint(tmp_path / "m.h5"), **OPTIONS).state, want.state)
    assert_same_bits(fit(FULL, X, key=None, resume=model, **OPTIONS).state, want.state)
    with pytest.raises(TypeError, match=r"resume must be what .* got State"):
        fit(FULL, X, key=None, resume=half.state)
    with pytest.raises(ValueError, match="resume includes the state"):
        fit(FULL, X, state=half.state, resume=half)


def test_early_stopping_counts_on(tmp_path):
    """A run that is killed before it would have stopped stops at the same step when it goes on."""
    options = {"n_epochs": 60, "evaluate_every": 1}
    stopping = lambda: mmf.EarlyStopping(patience=4, min_change=1e-3)
    want = fit(FULL, X, callbacks=[stopping()], **(OPTIONS | options))
    last = int(want.state.step)
    assert want.stopped_by == "callback"
    assert last > 6
    # The checkpoint stands before the others in the list, and is of the same step.
    killed(last - 1, callbacks=[mmf.Checkpoint(tmp_path / "c", every=last - 2), stopping()], **options)
    kept = mmf.load_checkpoint(tmp_path / "c")
    assert kept.progress["callbacks"]["EarlyStopping"]["stale"] == 2
    got = fit(FULL, X, resume=kept, callbacks=[stopping()], **(OPTIONS | options))
    assert int(got.state.step) == last


def test_two_callbacks_of_a_class_keep_their_own_counts(tmp_path):
    pair = lambda: [mmf.EarlyStopping(50), mmf.EarlyStopping(60, min_change=1.0)]
    killed(9, callbacks=[*pair(), mmf.Checkpoint(tmp_path / "c", every=8)])
    resumed = pair()
    fit(FULL, X, resume=mmf.load_checkpoint(tmp_path / "c"), callbacks=resumed, **OPTIONS)
    whole = pair()
    fit(FULL, X, callbacks=whole, **OPTIONS)
    assert [vars(a) for a in resumed] == [vars(b) for b in whole]
    assert resumed[0].stale != resumed[1].stale


def test_a_log_goes_on_with_the_history(tmp_path):
    """Lines of steps after the checkpoint are not there twice."""
    log = tmp_path / "log.jsonl"
    killed(9, callbacks=[mmf.Checkpoint(tmp_path / "c", every=5), mmf.JSONLines(log)])
    assert len(log.read_text().splitlines()) == 4
    kept = mmf.load_checkpoint(tmp_path / "c")
    result = fit(FULL, X, resume=kept, callbacks=[mmf.JSONLines(log)], **OPTIONS)
    assert [mmf.Record(**json.loads(line)) for line in log.read_text().splitlines()] == result.history


def test_counts_past_the_largest_int32_go_on(tmp_path):
    """The state's count stops at 2^31 - 1; that of the history does not."""
    n = 2**31 - 200
    half = fit(FULL, X, callbacks=[lambda event: event.step == 5], **OPTIONS)
    late = half._replace(state=half.state._replace(n_samples=jax.numpy.int32(n)), progress={"n_samples": n + 10**9})
    late.save(tmp_path / "m.h5")
    result = fit(FULL, X, key=None, resume=mmf.load_checkpoint(tmp_path / "m.h5"), **OPTIONS)
    assert int(result.state.n_samples) == n + 70
    assert result.history[-1].n_samples == n + 10**9 + 70


# When and what is written


def test_the_last_ones_are_kept(tmp_path):
    fit(FULL, X, callbacks=[mmf.Checkpoint(tmp_path / "c", every=2, keep=2)], **OPTIONS)
    assert [step for step, _ in checkpoints(tmp_path / "c")] == [8, 10]
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_one_file_is_replaced(tmp_path):
    path = tmp_path / "m.h5"
    for _ in range(2):  # a new run replaces the file of another
        killed(6, callbacks=[mmf.Checkpoint(path, every=2)])
        assert list(tmp_path.iterdir()) == [path]
        assert int(mmf.load_checkpoint(path).state.step) == 4
    with pytest.raises(ValueError, match="keep must be 1"):
        mmf.Checkpoint(path, keep=2)


def test_time_is_a_measure_too(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    steps = []

    def tick(event):
        now[0] += 40.0
        steps.append([step for step, _ in checkpoints(tmp_path / "c")])

    fit(FULL, X, callbacks=[tick, mmf.Checkpoint(tmp_path / "c", minutes=2, keep=9, background=False)], **OPTIONS)
    assert steps[-1] == [3, 6, 9]
    assert mmf.Checkpoint(tmp_path).minutes == 10
    assert mmf.Checkpoint(tmp_path, every=5).minutes is None


def test_steps_go_on_while_a_file_is_written(tmp_path, monkeypatch):
    """The file holds the state of its step, whatever the steps since have made of its memory."""
    write, go_on, states = module.save_run, threading.Event(), {}

    def slow(path, saved):
        assert go_on.wait(60)
        write(path, saved)

    def keep(event):
        states[event.step] = np.array(event.state.dictionary)
        if event.step == 7:
            go_on.set()

    monkeypatch.setattr(module, "save_run", slow)
    for name, solver in (("a", FULL), ("b", BLOCKS_PARTIAL)):
        go_on.clear()
        killed(8, solver, callbacks=[keep, mmf.Checkpoint(tmp_path / name, every=4)])
        np.testing.assert_array_equal(mmf.load_checkpoint(tmp_path / name).state.dictionary, states[4])
    assert not [t for t in threading.enumerate() if t.name == "jax-mmf-checkpoint"]


@pytest.mark.parametrize("background", [True, False])
def test_a_file_that_can_not_be_written_ends_the_run_with_its_result(background, tmp_path, monkeypatch):
    def full(path, saved):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(module, "save_run", full)
    with pytest.raises(OSError, match="No space left") as caught:
        fit(FULL, X, callbacks=[mmf.Checkpoint(tmp_path / "c", every=3, background=background)], **OPTIONS)
    assert 3 <= int(caught.value.result.state.step) <= 6
    with pytest.raises(OSError, match="No space left"):  # at the end of the run
        fit(FULL, X, callbacks=[mmf.Checkpoint(tmp_path / "c", every=10, background=background)], **OPTIONS)


@pytest.mark.parametrize("background", [True, False])
def test_a_full_disk_leaves_the_checkpoints_before_whole(background, tmp_path):
    """Here a limit of the size of files, which no new checkpoint keeps."""
    resource = pytest.importorskip("resource")
    folder = tmp_path / "c"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(event):
        if event.step == 5:
            deadline = time.monotonic() + 60
            while not (folder / "step_000000000004.h5").exists():  # which the thread may still write
                assert time.monotonic() < deadline
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))

    try:
        with pytest.raises(OSError, match="step_00000000000[68]") as caught:
            fit(FULL, X, callbacks=[fill, mmf.Checkpoint(folder, every=2, background=background)], **OPTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert int(caught.value.result.state.step) >= 6
    assert [path.name for path in sorted(folder.iterdir())] == [f"step_{step:012d}.h5" for step in (2, 4)]
    result = fit(FULL, X, resume=mmf.load_checkpoint(folder), **OPTIONS)
    assert_same_bits(result.state, fit(FULL, X, **OPTIONS).state)


@pytest.mark.parametrize("damage", ["truncated", "replaced", "NaN"])
def test_data_that_change_under_a_run_leave_the_checkpoint_before(damage, tmp_path):
    path, folder = tmp_path / "x.npy", tmp_path / "c"
    x = X.copy()
    if damage == "NaN":
        x[70, 3] = np.nan
    np.save(path, x)

    def spoil_data(event):
        if event.step == 2 and damage == "truncated":
            path.write_bytes(path.read_bytes()[:40_000])
        if event.step == 2 and damage == "replaced":
            np.save(tmp_path / "y.npy", X + 1)
            (tmp_path / "y.npy").replace(path)

    options = {"shuffle": False, "read_ahead": 0, "n_epochs": 2}
    with mmf.open_source(path) as source, pytest.raises(ValueError) as caught:  # noqa: PT011
        fit(FULL, source, callbacks=[spoil_data, mmf.Checkpoint(folder, every=1)], **options)
    assert ("sample 70, feature 3" if damage == "NaN" else "x.npy") in str(caught.value)
    last = 4 if damage == "NaN" else 2
    assert int(caught.value.result.state.step) == last
    assert checkpoints(folder)[-1][0] == last
    np.save(path, X)
    with mmf.open_source(path) as source:
        kept = mmf.load_checkpoint(folder)
        assert_same_bits(fit(FULL, source, resume=kept, **options).state, fit(FULL, X, **options).state)


def test_the_folder_of_one_file_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .*none of run\.h5 does not exist; create it first"):
        fit(FULL, X, callbacks=[mmf.Checkpoint(tmp_path / "none" / "run.h5")], **OPTIONS)


def test_an_error_of_the_last_write_is_a_warning_beside_that_of_the_run(tmp_path, monkeypatch):
    def full(path, run):
        raise OSError("no space left")

    monkeypatch.setattr("jax_mmf.training.checkpoint.save_run", full)
    with pytest.warns(UserWarning, match="the last checkpoint was not written: no space left"):
        killed(6, callbacks=[mmf.Checkpoint(tmp_path / "c", every=5)])


def test_two_runs_in_threads_share_a_solver(tmp_path):
    """Each with checkpoints of its own."""
    found = {}

    def run(seed):
        callbacks = [mmf.Checkpoint(tmp_path / str(seed), every=2)]
        found[seed] = fit(FULL, X, key=jax.random.key(seed), callbacks=callbacks, **OPTIONS)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        want = fit(FULL, X, key=jax.random.key(seed), **OPTIONS)
        assert_same_bits(found[seed].state, want.state)
        assert_same_bits(mmf.load_checkpoint(tmp_path / str(seed)).state, want.state)


def test_numbers_that_are_not_finite_are_not_written(tmp_path):
    """They are noticed at the next evaluation, and the checkpoint before stays the newest."""
    x = X.copy()
    x[40:] = 1e30  # whose squares are infinite in float32
    options = {"shuffle": False, "held_out": None, "evaluate_every": 5}
    with pytest.raises(FloatingPointError) as caught:
        fit(FULL, x, callbacks=[mmf.Checkpoint(tmp_path / "c", every=1, keep=9)], **(OPTIONS | options))
    assert "step" in str(caught.value)
    steps = [step for step, _ in checkpoints(tmp_path / "c")]
    assert steps == [1, 2]
    assert np.isfinite(np.asarray(mmf.load_checkpoint(tmp_path / "c").state.dictionary)).all()


def test_the_first_of_several_processes_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    log = tmp_path / "log.jsonl"
    fit(FULL, X, callbacks=[mmf.Checkpoint(tmp_path / "c", every=2), mmf.JSONLines(log)], **OPTIONS)
    assert checkpoints(tmp_path / "c") == []
    assert not log.exists()


def test_a_folder_of_another_run_is_not_mixed_with_a_new_one(tmp_path):
    killed(7, callbacks=[mmf.Checkpoint(tmp_path / "c", every=2)])
    steps = []
    with pytest.raises(ValueError, match="checkpoints of another run, the last one of step 6"):
        fit(FULL, X, callbacks=[lambda e: steps.append(e.step), mmf.Checkpoint(tmp_path / "c", every=2)], **OPTIONS)
    assert steps == []


@pytest.mark.parametrize("options", [{"every": 0}, {"minutes": 0.0}, {"keep": 0}, {"minutes": float("nan")}])
def test_numbers_out_of_range(options, tmp_path):
    with pytest.raises(ValueError, match=next(iter(options))):
        mmf.Checkpoint(tmp_path, **options)


# Damaged files


def spoil(path, how):
    data = bytearray(path.read_bytes())
    if how == "empty":
        path.write_bytes(b"")
    elif how == "short":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.write_bytes(bytes(len(data)))


@pytest.mark.parametrize("how", ["empty", "short", "zeros"])
def test_a_damaged_newest_one_is_skipped_with_a_warning(how, tmp_path):
    folder = tmp_path / "c"
    killed(8, callbacks=[mmf.Checkpoint(folder, every=2)])
    spoil(checkpoints(folder)[-1][1], how)
    with pytest.warns(UserWarning, match=r"damaged checkpoint is skipped.*step_000000000006.*step_000000000004"):
        kept = mmf.load_checkpoint(folder)
    assert int(kept.state.step) == 4
    result = fit(FULL, X, resume=kept, callbacks=[mmf.Checkpoint(folder, every=5)], **OPTIONS)
    assert_same_bits(result.state, fit(FULL, X, **OPTIONS).state)
    assert [step for step, _ in checkpoints(folder)] == [4, 5, 10]
    assert int(mmf.load_checkpoint(folder).state.step) == 10


def test_no_whole_one_is_an_error_and_none_at_all_is_a_new_run(tmp_path):
    folder = tmp_path / "c"
    assert mmf.load_checkpoint(folder) is None
    assert mmf.load_checkpoint(tmp_path / "m.h5") is None
    killed(8, callbacks=[mmf.Checkpoint(folder, every=3)])
    for _, path in checkpoints(folder):
        spoil(path, "short")
    with pytest.raises(ValueError, match="step_000000000006"):
        mmf.load_checkpoint(folder)


@pytest.mark.parametrize("what", ["memory/beta", "memory/visits", "best/dictionary", "progress", "best"])
def test_parts_that_do_not_fit_are_named(what, tmp_path):
    path = tmp_path / "m.h5"
    fit(AVERAGED, X, **OPTIONS).save(path)
    with changed(path) as file:
        if what in file.attrs:
            file.attrs[what] = "[1]"
        else:
            del file[what]
            file[what] = np.zeros((3, 2), "f4")
    with pytest.raises(mmf.BadFileError, match=r"m\.h5 can't be read as a checkpoint"):
        mmf.load_checkpoint(path)


# What must be as it was

CHANGES = {
    "batch size": ({"batch_size": 8}, X, "batch_size 16 before, 8 now"),
    "held-out number": ({"held_out": 11}, X, "held-out samples 10 before, 11 now"),
    "no held-out": ({"held_out": None}, X, "held-out samples 10 before, 0 now"),
    "given held-out": ({"held_out": X[:10]}, X, "given held-out samples"),
    "shuffle": ({"shuffle": False}, X, "shuffle True before, False now"),
    "other numbers": ({}, X[::-1].copy(), "samples with the checksum"),
    "fewer samples": ({}, X[:70], "n_samples 80 before, 70 now"),
    "other dtype": ({}, X.astype("f8"), "dtype 'float32' before, 'float64' now"),
    "key": ({"key": jax.random.key(99)}, X, "another key before"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_contradicts_the_run_is_an_error_unless_it_is_allowed(change, tmp_path):
    options, x, message = CHANGES[change]
    killed(6, callbacks=[mmf.Checkpoint(tmp_path / "c", every=5)])
    kept = mmf.load_checkpoint(tmp_path / "c")
    options = OPTIONS | options
    with pytest.raises(ValueError, match=message):
        fit(FULL, x, resume=kept, **options)
    with pytest.warns(UserWarning, match=message):
        result = fit(FULL, x, resume=kept, allow_changes=True, **options)
    assert int(result.state.step) > 5


def test_what_may_change(tmp_path):
    killed(6, callbacks=[mmf.Checkpoint(tmp_path / "c", every=5)])
    kept = mmf.load_checkpoint(tmp_path / "c")
    options = {"n_epochs": 3, "evaluate_every": 3, "read_ahead": 0, "revive_every": 100}
    result = fit(FULL, X, resume=kept, **(OPTIONS | options))
    assert_same_bits(result.state, fit(FULL, X, **(OPTIONS | {"n_epochs": 3})).state)


def test_the_batch_size_is_that_of_the_run_by_default():
    half = fit(FULL, X, callbacks=[lambda event: event.step == 5], **OPTIONS)
    assert_same_bits(mmf.fit(FULL, X, resume=half, **OPTIONS).state, fit(FULL, X, **OPTIONS).state)


def test_a_file_in_place_of_the_array_has_another_order(tmp_path):
    """The rows of a file are read in stretches, unless nothing is shuffled."""
    half = fit(FULL, X, callbacks=[lambda event: event.step == 5], **OPTIONS)
    with pytest.raises(ValueError, match="rows read together"):
        fit(FULL, saved("npy", tmp_path / "x"), key=None, resume=half, **OPTIONS)
    options = OPTIONS | {"shuffle": False}
    half, want = (fit(FULL, X, callbacks=c, **options) for c in ([lambda event: event.step == 5], []))
    rest = fit(FULL, saved("npy", tmp_path / "y"), key=None, resume=half, **options)
    assert_same_bits(rest.state, want.state)


def test_batches_go_on_too():
    batches = [X[i : i + 16] for i in range(0, N, 16)]
    half = fit(FULL, batches, n_epochs=2, callbacks=[lambda event: event.step == 3])
    assert_same_bits(fit(FULL, batches, n_epochs=2, resume=half).state, fit(FULL, batches, n_epochs=2).state)
