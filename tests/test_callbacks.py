"""Callbacks: told of the start, of each step and of the end; Ctrl-C; early stopping, progress and logs."""

import io
import json
import math
import os
import signal
import sys

import jax
import numpy as np
import pytest

import jax_mmf as mmf

KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal((60, 16)).astype("float32")
SOLVER = mmf.OnlineFactorization(n_components=3, penalty=mmf.Ridge(0.1))


def fit(**options):
    start = {} if "state" in options else {"key": KEY}
    return mmf.fit(SOLVER, X, **({"batch_size": 20} | start | options))


class Witness:
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def on_start(self, start):
        self.told.append(start)

    def __call__(self, event):
        self.told.append(event.step)

    def on_end(self, result):
        self.told.append(result)


# Start and end


def test_callbacks_are_told_of_start_and_end():
    witness = Witness()
    result = fit(callbacks=[witness], held_out=10, n_epochs=2, batch_size=25)
    assert witness.told[0] == mmf.Start(SOLVER, 60, 16, np.dtype("float32"), 10, 0, 4)
    assert witness.told[1:-1] == [1, 2, 3, 4]
    assert witness.told[-1] is result
    fit(callbacks=[witness], state=result.state, held_out=10, n_epochs=3, batch_size=25)
    assert witness.told[6].step == 4
    assert witness.told[7:-1] == [5, 6]


def test_start_over_batches_says_what_is_not_known():
    witness = Witness()
    mmf.fit(SOLVER, iter([X[:20], X[20:]]), key=KEY, callbacks=[witness])
    assert (witness.told[0].n_samples, witness.told[0].n_steps, witness.told[0].n_held_out) == (None, None, 0)


def test_error_ends_the_callbacks_without_a_result():
    def fail(event):
        if event.step == 2:
            raise RuntimeError("broken")

    witness = Witness()
    with pytest.raises(RuntimeError, match="broken") as caught:
        fit(callbacks=[witness, fail])
    assert witness.told[1:] == [1, 2, None]
    assert caught.value.result.stopped_by == "error"
    assert caught.value.result.state.step == 2


def test_error_at_the_end_of_a_callback_keeps_the_result():
    class Late(Witness):
        def on_end(self, result):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full") as caught:
        fit(callbacks=[Late()])
    np.testing.assert_array_equal(caught.value.result.dictionary, fit().dictionary)


def test_only_callbacks_that_were_started_are_ended():
    class Refuses(Witness):
        def on_start(self, start):
            raise ValueError("not with me")

    first, last = Witness(), Witness()
    with pytest.raises(ValueError, match="not with me"):
        fit(callbacks=[first, Refuses(), last])
    assert [type(t).__name__ for t in first.told] == ["Start", "NoneType"]
    assert last.told == []


@pytest.mark.parametrize("bad", [mmf.EarlyStopping, 3, None])
def test_what_is_no_callback_is_refused_before_the_work(bad):
    steps = []
    with pytest.raises(TypeError, match="callbacks"):
        fit(callbacks=[lambda e: steps.append(e.step), bad])
    assert steps == []


def test_one_callback_without_a_list_is_refused_with_advice():
    with pytest.raises(TypeError, match=r"callbacks must be a list.*EarlyStopping\(patience=5"):
        fit(callbacks=mmf.EarlyStopping())


# What ended the run


def test_result_says_what_ended_the_run():
    assert fit().stopped_by == "epochs"
    stopped = fit(callbacks=[lambda event: event.step == 2])
    assert stopped.stopped_by == "callback"
    assert stopped.state.step == 2


def press_ctrl_c(step):
    return lambda event: os.kill(os.getpid(), signal.SIGINT) if event.step == step else None


def test_ctrl_c_ends_the_run_after_the_step_with_its_result(capfd):
    result = fit(callbacks=[press_ctrl_c(2)], n_epochs=10)
    assert result.stopped_by == "interrupt"
    assert result.state.step == 2
    assert result.history[-1].step == 2
    assert "again" in capfd.readouterr().err
    rest = fit(state=result.state)
    np.testing.assert_array_equal(rest.dictionary, fit().dictionary)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_ctrl_c_stops_at_once():
    twice = lambda event: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)]
    with pytest.raises(KeyboardInterrupt):
        fit(callbacks=[twice])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_the_last_step_is_not_lost():
    assert fit(callbacks=[press_ctrl_c(3)]).stopped_by == "interrupt"


# Early stopping


def test_early_stopping_starts_anew_with_each_run():
    stopping = mmf.EarlyStopping(patience=2)
    options = {"held_out": 10, "evaluate_every": 1, "n_epochs": 50}
    steps = [int(fit(callbacks=[stopping], **options).state.step) for _ in range(2)]
    assert steps[0] == steps[1] == int(fit(callbacks=[mmf.EarlyStopping(patience=2)], **options).state.step)
    assert 3 < steps[0] < 150


@pytest.mark.parametrize("options", [{"patience": 0}, {"min_change": -0.1}, {"min_change": float("nan")}])
def test_early_stopping_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        mmf.EarlyStopping(**options)


def test_early_stopping_without_held_out_samples_is_refused_before_the_work():
    steps = []
    with pytest.raises(ValueError, match="held_out"):
        fit(callbacks=[lambda e: steps.append(e.step), mmf.EarlyStopping()])
    assert steps == []


# Progress


def test_progress_bar_says_what_is_learned_and_shows_objective_and_clock():
    pytest.importorskip("tqdm")
    text = io.StringIO()
    result = fit(callbacks=[mmf.ProgressBar(file=text, mininterval=0, ascii=True)], held_out=0.2, n_epochs=2)
    lines = text.getvalue().replace("\r", "\n").split("\n")
    assert "60 x 16 features, float32; 3 atoms" in lines
    before, after = ([line for line in lines if "|" in line and ("| 0/6" in line) == start] for start in (True, False))
    assert before
    assert after
    assert all("compiling" in line for line in before)
    assert not any("compiling" in line for line in after)
    last = next(line for line in reversed(lines) if "|" in line)
    assert "6/6" in last
    assert f"objective {result.objective:.5g}" in last
    minutes, seconds = divmod(int(result.history[-1].seconds), 60)
    assert f"[{minutes:02d}:{seconds:02d}<" in last


def test_verbose_is_the_progress_bar(capfd):
    pytest.importorskip("tqdm")
    result = fit(verbose=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "60 x 16 features" in err
    assert "3/3" in err
    assert f"objective of the batch {result.objective:.5g}" in err
    fit()
    assert capfd.readouterr().err == ""


def test_progress_of_a_resumed_run_goes_on():
    pytest.importorskip("tqdm")
    text, half = io.StringIO(), fit()
    fit(state=half.state, n_epochs=2, callbacks=[mmf.ProgressBar(file=text, mininterval=0)])
    assert "3/6" in text.getvalue()
    assert "6/6" in text.getvalue()
    assert "7/6" not in text.getvalue()


def test_without_tqdm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"jax-mmf\[cli\]"):
        fit(verbose=True)


# Logs


def test_json_lines_are_the_history(tmp_path):
    log = mmf.JSONLines(tmp_path / "log.jsonl")
    for _ in range(2):  # the second run replaces the first
        result = fit(callbacks=[log], held_out=10, evaluate_every=1)
    lines = [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]
    assert [mmf.Record(**line) for line in lines] == result.history


def test_json_lines_are_there_after_each_evaluation(tmp_path):
    log, counts = mmf.JSONLines(str(tmp_path / "log.jsonl")), []
    count = lambda _: counts.append(len(log.path.read_text().splitlines()) if log.path.exists() else None)
    fit(callbacks=[log, count], evaluate_every=2)
    assert counts == [None, 1, 2]


def test_json_has_null_for_nan(tmp_path):
    log = mmf.JSONLines(tmp_path / "log.jsonl")
    record = mmf.Record(1, 20, 1, 0.5, 10, math.nan, 0)
    log(mmf.Event(SOLVER, None, 1, None, record, [record], None, None))
    assert json.loads(log.path.read_text(), parse_constant=pytest.fail)["objective"] is None


def test_json_lines_without_a_folder_fail_before_the_work(tmp_path):
    steps = []
    with pytest.raises(FileNotFoundError):
        fit(callbacks=[lambda e: steps.append(e.step), mmf.JSONLines(tmp_path / "none" / "log.jsonl")])
    assert steps == []


@pytest.mark.parametrize("callbacks", [print, mmf.EarlyStopping()])
def test_a_callback_outside_of_a_list_is_named(callbacks):
    with pytest.raises(TypeError, match="callbacks must be a list, such as"):
        fit(callbacks=callbacks)
