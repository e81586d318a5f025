"""Runs of the command that do not end as they should: killed, stopped, on a full disk, or gone on with by mistake."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
import test_cli
from test_cli import OPTIONS, K, X, command, fails
from test_training import assert_same_bits

import jax_mmf as mmf
from jax_mmf.cli import recommend
from jax_mmf.training import result as result_module
from jax_mmf.training.checkpoint import checkpoints

run, data = test_cli.run, test_cli.data  # fixtures
LONG = ["--epochs", 3, "--held-out", 16, *OPTIONS]  # 12 steps


class Killed(BaseException):
    """Stands for the end of a process."""


def at_step(monkeypatch, step, act):
    """Do something after a step of the command, which has to write a log."""
    write = mmf.JSONLines.__call__

    def call(self, event):
        write(self, event)
        if event.step == step:
            act()

    monkeypatch.setattr(mmf.JSONLines, "__call__", call)


def killed(monkeypatch, run, step, *arguments):
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run("fit", *arguments, "--log", "log")


@pytest.mark.parametrize("extra", [["--alpha", "auto"], ["--reduction", 2, "--partial-b", "--nonneg"]])
def test_the_same_line_goes_on_after_a_crash(extra, run, data, monkeypatch):
    line = [data, *LONG, *extra, "-o", "m.h5", "--checkpoint", "run", "--checkpoint-steps", 2, "--resume", "auto"]
    killed(monkeypatch, run, 7, *line)
    assert [step for step, _ in checkpoints(Path("run"))] == [2, 4, 6]
    assert not Path("m.h5").exists()
    code, out, err = run("fit", *line, "--log", "log")
    assert (code, err) == (0, "")
    assert "12 steps" in out
    assert run("fit", data, *LONG, *extra, "-o", "whole.h5", "--log", "log2")[0] == 0
    got, want = mmf.load_model("m.h5"), mmf.load_model("whole.h5")
    assert_same_bits(got.state, want.state)
    without_clock = lambda history: [r._replace(seconds=0.0) for r in history]
    assert without_clock(got.history) == without_clock(want.history)
    assert len(Path("log").read_text().splitlines()) == len(Path("log2").read_text().splitlines())
    code, out, _ = run("fit", *line)
    assert code == 0
    assert "nothing to do" in out


@pytest.mark.filterwarnings("always:a damaged checkpoint")
def test_a_damaged_newest_checkpoint_is_skipped(run, data, monkeypatch):
    line = [data, *LONG, "-o", "m.h5", "--checkpoint", "run", "--checkpoint-steps", 2, "--resume", "auto"]
    killed(monkeypatch, run, 7, *line)
    newest = checkpoints(Path("run"))[-1][1]
    newest.write_bytes(newest.read_bytes()[:-100])
    code, _, err = run("fit", *line)
    assert code == 0
    assert err.startswith("jax-mmf: warning: a damaged checkpoint is skipped")
    assert "step_000000000004.h5" in err
    assert mmf.load_model("m.h5").history[-1].step == 12


def test_resume_auto_needs_a_folder_and_checkpoints_are_not_mixed(run, data, tmp_path, monkeypatch):
    fails(run, tmp_path, ["--resume auto", "--checkpoint"], "fit", data, *LONG, "-o", "m.h5", "--resume", "auto")
    line = [data, *LONG, "-o", "m.h5", "--checkpoint", "run", "--checkpoint-steps", 2]
    killed(monkeypatch, run, 7, *line)
    fails(run, tmp_path, ["run holds checkpoints of another run"], "fit", *line)
    fails(run, tmp_path, ["--seed 9", "contradicts", "run"], "fit", *line, "--resume", "auto", "--seed", 9)
    assert run("fit", data, "-q", "-o", "m.h5", "--resume", "run", "--epochs", 3)[0] == 0  # a folder is a name too


@pytest.mark.filterwarnings("always:resume contradicts")
def test_other_data_are_refused_unless_they_are_allowed(run, data, tmp_path):
    assert run("fit", data, "-o", "m.h5", "--held-out", 16, *OPTIONS)[0] == 0
    for name, x in (("other.h5", X[::-1]), ("short.h5", X[:-1])):
        with h5py.File(name, "w") as file:
            file["X"] = x
        again = ["fit", name, "-q", "-o", "n.h5", "--resume", "m.h5", "--epochs", 2]
        fails(run, tmp_path, ["resume contradicts this run", "before", "now", "allow_changes"], *again)
        code, _, err = run(*again, "--allow-changes")
        assert code == 0
        assert "warning: resume contradicts this run" in err
    code, _, err = run("fit", data, "-q", "-o", "n.h5", "--resume", "m.h5", "--epochs", 2, "--batch-size", 8,
                       "--held-out", 8, "--allow-changes")  # fmt: skip
    assert code == 0
    assert "batch_size 16 before, 8 now" in err
    assert "held-out samples 16 before, 8 now" in err


# Signals


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_end_the_run_after_its_step_with_a_model(name, status, run, data, monkeypatch):
    number = getattr(signal, name)
    at_step(monkeypatch, 3, lambda: os.kill(os.getpid(), number))
    code, out, err = run("fit", data, *LONG, "-o", "m.h5", "--log", "log", "--checkpoint", "run")
    assert code == status
    assert "3 steps" in out
    assert "ending after this step" in err
    assert mmf.load_model("m.h5").history[-1].step == 3
    assert [step for step, _ in checkpoints(Path("run"))] == [3]
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    monkeypatch.undo()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_first_signal_during_the_last_write_does_not_lose_the_model(name, run, data, monkeypatch):
    write = result_module.save_run

    def slow(path, saved):
        os.kill(os.getpid(), getattr(signal, name))
        write(path, saved)

    monkeypatch.setattr(result_module, "save_run", slow)
    code, _, _ = run("fit", data, *LONG, "-o", "m.h5")
    assert code == 128 + getattr(signal, name)
    assert mmf.load_model("m.h5").history[-1].step == 12


def test_a_process_that_is_terminated_leaves_a_model(data, tmp_path):
    code = (
        "import os, signal, sys, jax_mmf as mmf\n"
        "from jax_mmf import cli\n"
        "show = mmf.JSONLines.__call__\n"
        "def act(self, event):\n"
        "    show(self, event)\n"
        "    if event.step == 3: os.kill(os.getpid(), signal.SIGTERM)\n"
        "mmf.JSONLines.__call__ = act\n"
        f"sys.argv = ['jax-mmf', 'fit', 'x.h5', '-o', 'm.h5', '-k', '{K}', '-q', '--log', 'log', '--epochs', '9']\n"
        "cli.main()\n"
    )
    environment = os.environ | {"JAX_MMF_CACHE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 143, done.stderr
    assert "Traceback" not in done.stderr
    assert mmf.load_model(tmp_path / "m.h5").history[-1].step == 3


# The last write


@pytest.mark.parametrize("error", [False, True])
def test_a_model_that_can_not_be_written_is_written_elsewhere(error, run, data, tmp_path, monkeypatch):
    """Here the folder vanishes, as a disk that is full or was taken out."""
    (tmp_path / "out").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def vanish():
        (tmp_path / "out").rmdir()
        if error:
            raise ValueError("something else")

    at_step(monkeypatch, 3, vanish)
    code, out, err = run("fit", data, *LONG, "-o", "out/m.h5", "--log", "log")
    assert code == 1
    assert out == ""
    (place,) = (tmp_path / "temporary").rglob("*.h5")
    assert str(place) in err
    assert "can't write out/m.h5" in err
    assert mmf.load_model(place).history[-1].step == (3 if error else 12)
    assert ("something else" in err) == error


def test_a_disk_without_room_is_told_with_the_place_of_the_model(run, data, tmp_path, monkeypatch):
    write = result_module.save_run

    def full(path, saved):
        if Path(path).parent == Path():
            raise OSError(28, "No space left on device", str(path))
        write(path, saved)

    monkeypatch.setattr(result_module, "save_run", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, _, err = run("fit", data, *LONG, "-o", "m.h5")
    assert code == 1
    assert "No space left" in err
    (place,) = tmp_path.rglob("m.h5")
    assert str(place) in err


@pytest.mark.parametrize("option", ["-o", "--log", "--plot", "--checkpoint"])
def test_names_that_are_too_long_are_refused_before_the_work(option, run, data, tmp_path):
    name = "a" * 300 + {"-o": ".h5", "--plot": ".png"}.get(option, "")
    outputs = {"-o": "m.h5", option: name}
    fails(run, tmp_path, ["File name too long"], "fit", data, *LONG, *[a for pair in outputs.items() for a in pair])


def test_the_help_tells_of_checkpoints():
    text = command("fit", "--help").stdout
    assert all(word in text for word in ("--checkpoint FOLDER", "--resume MODEL|auto", "--allow-changes"))


def test_the_longest_names_can_be_written(run, data):
    name = "a" * (os.pathconf(".", "PC_NAME_MAX") - 3) + ".h5"
    assert run("fit", data, *LONG, "-o", name)[0] == 0
    assert np.isfinite(np.asarray(mmf.load_model(name).state.dictionary)).all()
    assert jax.tree.leaves(mmf.load_model(name).state)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signals_end_recommend_after_an_epoch_with_its_files(name, run, monkeypatch):
    ratings = mmf.completion.make_ratings(jax.random.key(0), 30, 20, 300).ratings
    lines = [f"{u}\t{i}\t{v}" for u, i, v in zip(ratings.users, ratings.items, ratings.values, strict=True)]
    Path("r.tsv").write_text("user_id\titem_id\trating\n" + "\n".join(lines) + "\n", encoding="utf-8")
    number, epochs = getattr(signal, name), []

    def press(bar, n=1):
        epochs.append(n)
        if len(epochs) == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(recommend.tqdm, "update", press)
    arguments = ["-k", 2, "--test", 0, "--epochs", 50, "-o", "r.csv", "--save", "m.h5"]
    code, _, err = run("recommend", "r.tsv", *arguments)
    assert code == 128 + number, err
    assert "ending after this epoch" in err
    assert Path("r.csv").is_file()
    assert len(epochs) == 3
    assert mmf.completion.load_model("m.h5").ratings.n_users == 30
