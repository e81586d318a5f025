"""The command line: what it writes, what it says, how it fails, and Ctrl-C."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_changes import changed

import jax_mmf as mmf
from jax_mmf import cli, completion

N, P, K = 80, 64, 4
OPTIONS = ["-k", str(K), "--batch-size", "16", "--quiet"]


def matrix():
    g = np.random.default_rng(0)
    return (g.standard_normal((N, 5)) @ g.standard_normal((5, P))).astype("float32") / 2


X = matrix()


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """The command in this process: exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_MMF_CACHE", "0")
    x64 = jax.config.jax_enable_x64

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["jax-mmf", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out = capsys.readouterr()
        return caught.value.code, out.out, out.err

    yield call
    jax.config.update("jax_enable_x64", x64)


@pytest.fixture
def data(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["X"] = X
    return "x.h5"


@pytest.fixture
def model(run, data):
    assert run("fit", data, "-o", "m.h5", *OPTIONS)[0] == 0
    return "m.h5"


def command(*arguments, **options):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "jax_mmf", *map(str, arguments)]
    environment = os.environ | {"JAX_MMF_CACHE": "0"} | options.pop("env", {})
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment, **options)


# fit


@pytest.mark.parametrize("kind", ["h5", "npy", "npz", "dataset", "permuted"])
def test_fit_gives_the_model_of_the_library(kind, run, tmp_path):
    path, extra = tmp_path / f"x.{'h5' if kind in ('dataset', 'permuted') else kind}", []
    if kind == "npy":
        np.save(path, X)
    elif kind == "npz":
        np.savez_compressed(path, X)
    elif kind == "permuted":
        mmf.write_permuted(path, [X], key=jax.random.key(3), block_width=8)
    else:
        with h5py.File(path, "w") as file:
            file["a/X"] = X
            if kind == "dataset":
                file["other"] = X[:3]
                extra = ["--dataset", "a/X"]
    code, out, err = run("fit", path, "-o", "m.h5", "--held-out", 0.25, "--seed", 3, *OPTIONS, *extra)
    assert (code, err) == (0, "")
    model = mmf.load_model(tmp_path / "m.h5")
    want_solver = mmf.OnlineFactorization(n_components=K, penalty=mmf.Lasso(0.1), constraint=mmf.L2Ball())
    assert model.solver == want_solver
    source = mmf.open_source(path, "a/X" if kind == "dataset" else None)
    want = mmf.fit(want_solver, source, key=jax.random.key(3), held_out=0.25, batch_size=16)
    np.testing.assert_array_equal(model.state.dictionary, want.state.dictionary)
    assert model.history[-1].objective == want.history[-1].objective
    assert "4 steps, 60 samples" in out
    assert f"{want.history[-1].objective:.6g}" in out
    assert "m.h5" in out
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "m.h5"}


@pytest.mark.parametrize(("held_out", "seen"), [("0", 80), ("0.5", 40), ("10", 70), ("1", 79)])
def test_held_out_is_a_share_or_a_number(held_out, seen, run, data):
    assert run("fit", data, "-o", "m.h5", "--held-out", held_out, "--penalty", "ridge", *OPTIONS)[0] == 0
    history = mmf.load_model("m.h5").history
    assert history[-1].n_samples == seen
    assert history[-1].held_out == (held_out != "0")


@pytest.mark.parametrize("held_out", ["-1", "-0.5", "80", "1.0", "1.5", "nan", "inf"])
def test_held_out_out_of_range(held_out, run, data, tmp_path):
    fails(run, tmp_path, ["held"], "fit", data, "-o", "m.h5", "--held-out", held_out, *OPTIONS)


SOLVERS = [
    (["--penalty", "ridge", "--alpha", "0.5"], {"penalty": mmf.Ridge(0.5)}),
    (["--penalty", "elastic-net", "--l1-ratio", "0.2"], {"penalty": mmf.ElasticNet(0.1, 0.2)}),
    (["--constraint", "l1", "--radius", "2"], {"constraint": mmf.L1Ball(2.0)}),
    (
        ["--constraint", "elastic-net", "--atom-l1-ratio", "0.25"],
        {"constraint": mmf.ElasticNetBall(0.25, 1.0)},
    ),
    (["--constraint", "simplex"], {"constraint": mmf.Simplex(1.0)}),
    (["--nonneg"], {"penalty": mmf.Lasso(0.1, nonneg=True), "constraint": mmf.L2Ball(nonneg=True)}),
    (["--nonneg", "both"], {"penalty": mmf.Lasso(0.1, nonneg=True), "constraint": mmf.L2Ball(nonneg=True)}),
    (["--nonneg", "codes"], {"penalty": mmf.Lasso(0.1, nonneg=True), "constraint": mmf.L2Ball()}),
    (["--nonneg", "atoms"], {"penalty": mmf.Lasso(0.1), "constraint": mmf.L2Ball(nonneg=True)}),
    (["--nonneg", "none"], {"penalty": mmf.Lasso(0.1), "constraint": mmf.L2Ball()}),
    (["--init", "svd"], {"initialization": mmf.RandomizedSVD()}),
    (["--init", "kmeans++"], {"initialization": mmf.KMeansPlusPlus()}),
    (["--forgetting", "power:0.9"], {"forgetting": mmf.PowerForgetting(0.9)}),
    (["--forgetting", "constant:0.01"], {"forgetting": mmf.ConstantForgetting(0.01)}),
    (["--reduction", "2"], {"subset": mmf.UniformSubset(2.0), "partial_b": False}),
    (["--code-reduction", "2"], {"statistics": mmf.SubsampledStatistics(mmf.UniformSubset(2.0))}),
    (["--reduction", "2", "--partial-b"], {"subset": mmf.BlockSubset(2.0), "partial_b": True}),
]
QUICK = ["--penalty", "ridge"]  # which compiles sooner than the default
NAMES = ["".join(arguments) for arguments, _ in SOLVERS]
LEARNED = ("--constraintsimplex", "--nonneg", "--initsvd", "--reduction2--partial-b")  # others in the slow tests


@pytest.mark.parametrize(("arguments", "expected"), SOLVERS, ids=NAMES)
def test_options_make_the_solver(arguments, expected, run, data, monkeypatch):
    made = []

    def fit(solver, *_, **__):
        made.append(solver)
        raise ValueError("nothing is learned here")

    monkeypatch.setattr(mmf, "fit", fit)
    code, _, err = run("fit", data, "-o", "m.h5", *arguments, *OPTIONS)
    assert code == 1
    assert "nothing is learned here" in err
    for name, value in expected.items():
        assert getattr(made[0], name) == value


@pytest.mark.parametrize(
    "number",
    [pytest.param(i, marks=[pytest.mark.slow] * (name not in LEARNED), id=name) for i, name in enumerate(NAMES)],
)
def test_solvers_of_options_learn(number, run, data):
    arguments, expected = SOLVERS[number]
    quick = [] if "penalty" in expected else QUICK
    code, _, err = run("fit", data, "-o", "m.h5", *quick, *arguments, *OPTIONS)
    assert (code, err) == (0, "")
    model = mmf.load_model("m.h5")
    for name, value in expected.items():
        assert getattr(model.solver, name) == value
    dictionary = np.asarray(model.state.dictionary)
    assert np.isfinite(dictionary).all()
    if model.solver.constraint.nonneg:
        assert (dictionary >= 0).all()


def test_nonneg_alone_before_an_argument(run, data):
    assert run("fit", "--nonneg", "-o", "m.h5", data, *OPTIONS)[0] == 0
    assert mmf.load_model("m.h5").solver.penalty.nonneg


def test_log_is_one_json_object_per_evaluation(run, data, tmp_path):
    (tmp_path / "log").write_text("an older log\n")
    code, _, _ = run("fit", data, "-o", "m.h5", "--held-out", 16, "--epochs", 2, "--log", "log", *OPTIONS)
    assert code == 0
    forbidden = lambda text: pytest.fail(f"{text} is not JSON")
    lines = [json.loads(s, parse_constant=forbidden) for s in (tmp_path / "log").read_text().splitlines()]
    assert [mmf.Record(**line) for line in lines] == mmf.load_model("m.h5").history
    assert [set(line) for line in lines] == [set(mmf.Record._fields)] * len(lines)
    assert lines[-1]["step"] == 8


def test_log_without_held_out_samples_is_json_too(run, data, tmp_path):
    run("fit", data, "-o", "m.h5", "--log", "log", *OPTIONS)
    forbidden = lambda text: pytest.fail(f"{text} is not JSON")
    lines = [json.loads(s, parse_constant=forbidden) for s in (tmp_path / "log").read_text().splitlines()]
    assert len(lines) == 5
    assert all(line["objective"] > 0 and not line["held_out"] for line in lines)


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_plot_is_a_picture(suffix, magic, run, data, tmp_path):
    code, _, err = run("fit", data, "-o", "m.h5", "--held-out", 16, "--plot", f"p.{suffix}", *OPTIONS)
    assert (code, err) == (0, "")
    assert (tmp_path / f"p.{suffix}").read_bytes().startswith(magic)


def test_plot_without_held_out_samples_is_refused_before_the_work(run, data, tmp_path):
    fails(run, tmp_path, ["--held-out"], "fit", data, "-o", "m.h5", "--plot", "p.png", *OPTIONS)


def test_plot_of_an_unknown_format_is_refused_before_the_work(run, data, tmp_path):
    fails(run, tmp_path, ["p.xyz"], "fit", data, "-o", "m.h5", "--held-out", 16, "--plot", "p.xyz", *OPTIONS)


@pytest.mark.parametrize("extra", [[], ["--reduction", "2", "--partial-b"]])
def test_resume_continues(extra, run, data, tmp_path):
    once = ["--held-out", 16, "--batch-size", 16, "-q"]
    first = [*once, "-k", K, "--seed", 4, *extra]
    assert run("fit", data, "-o", "whole.h5", "--epochs", 2, *first)[0] == 0
    assert run("fit", data, "-o", "half.h5", *first)[0] == 0
    code, _, err = run("fit", data, "-o", "half.h5", "--resume", "half.h5", "--epochs", 2, "--log", "log", *once)
    assert (code, err) == (0, "")
    half, whole = mmf.load_model("half.h5"), mmf.load_model("whole.h5")
    np.testing.assert_array_equal(half.state.dictionary, whole.state.dictionary)
    assert half.solver == whole.solver
    assert [r.step for r in half.history] == list(range(1, 9))
    for name in ("n_samples", "seconds", "bytes_read", "epoch"):
        values = [getattr(r, name) for r in half.history]
        assert values == sorted(values), f"{name} goes back when the run goes on"
    assert run("fit", data, "-o", "again.h5", "--resume", "half.h5", "--epochs", 2, *once)[0] == 0
    again = mmf.load_model("again.h5")
    np.testing.assert_array_equal(again.state.dictionary, half.state.dictionary)
    assert again.history == half.history


def test_float64_is_computed_and_told(run, data, tmp_path):
    assert run("fit", data, "-o", "m.h5", "--dtype", "float64", *OPTIONS)[0] == 0
    with h5py.File("m.h5") as file:
        assert file["dictionary"].dtype == np.float64
        stored = file["dictionary"][...]
    jax.config.update("jax_enable_x64", False)  # another process
    code, out, _ = run("info", "m.h5", "--json")
    assert code == 0
    assert json.loads(out)["dtype"] == "float64"
    assert run("encode", "m.h5", data, "-o", "codes.h5")[0] == 0
    with h5py.File("codes.h5") as file:
        assert file["codes"].dtype == np.float64
        codes = file["codes"][...]
    with jax.enable_x64(True):
        np.testing.assert_allclose(codes, mmf.encode(stored, X, mmf.Lasso(0.1)), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("extra", [["--reduction", 2], ["--reduction", 2, "--partial-b"]])
def test_float64_with_subsets(extra, run, data):
    assert run("fit", data, "-o", "m.h5", "--dtype", "float64", *extra, *OPTIONS)[0] == 0
    assert mmf.load_model("m.h5").state.dictionary.dtype == np.float64


def test_float64_model_is_resumed_in_float64(run, data, tmp_path):
    assert run("fit", data, "-o", "m.h5", "--dtype", "float64", *OPTIONS)[0] == 0
    jax.config.update("jax_enable_x64", False)
    code, _, err = run("fit", data, "-o", "n.h5", "--resume", "m.h5", "--epochs", 2, "--batch-size", 16)
    assert code == 0, err
    with h5py.File("n.h5") as file:
        assert file["dictionary"].dtype == np.float64


CONTRADICTIONS = [
    (["--alpha", "0.9"], "0.1"),
    (["-k", 99], str(K)),
    (["--penalty", "ridge"], "lasso"),
    (["--constraint", "l1"], "l2"),
    (["--radius", 2], "1.0"),
    (["--nonneg"], "none"),
    (["--reduction", 3], "2.0"),
    (["--full-b"], "True"),
    (["--forgetting", "scaled:2"], "scaled:8.0"),
    (["--forgetting", "power:0.9"], "scaled:8.0"),
    (["--init", "svd"], "samples"),
    (["--batch-size", 17], "16"),
    (["--held-out", 0], "16"),
    (["--held-out", 0.5], "16"),
    (["--dtype", "float64"], "float32"),
    (["--seed", 1], "another"),
    (["--l1-ratio", 0.3], "lasso"),
    (["--atom-l1-ratio", 0.3], "l2"),
]


def test_options_that_contradict_the_model_are_errors(run, data, tmp_path):
    whole = [*OPTIONS, "--held-out", 16, "--reduction", 2, "--partial-b", "--forgetting", "scaled:8"]
    assert run("fit", data, "-o", "m.h5", *whole)[0] == 0
    for arguments, has in CONTRADICTIONS:
        x64 = jax.config.jax_enable_x64
        fails(run, tmp_path, [arguments[0], has], "fit", data, "--resume", "m.h5", "-o", "n.h5", "-q", *arguments)
        jax.config.update("jax_enable_x64", x64)
    same = ["--alpha", "0.10", "--penalty", "lasso", "--seed", 0, "--forgetting", "scaled:8.0", "--init", "samples"]
    assert run("fit", data, "--resume", "m.h5", "-o", "n.h5", "--epochs", 2, *whole, *same)[0] == 0
    assert mmf.load_model("n.h5").history[-1].step == 8


def test_a_resumed_run_holds_out_what_it_held_out_before(run, data):
    first = ["--held-out", 0.3, *OPTIONS]
    assert run("fit", data, "-o", "whole.h5", "--epochs", 3, *first)[0] == 0
    assert run("fit", data, "-o", "half.h5", *first)[0] == 0
    assert run("fit", data, "-o", "half.h5", "--resume", "half.h5", "--epochs", 2, "-q")[0] == 0
    assert run("fit", data, "-o", "half.h5", "--resume", "half.h5", "--epochs", 3, "-q")[0] == 0
    half, whole = mmf.load_model("half.h5"), mmf.load_model("whole.h5")
    np.testing.assert_array_equal(half.state.dictionary, whole.state.dictionary)
    assert half.run == whole.run == {"batch_size": 16, "held_out": 0.3, "revive_every": None, "shuffle": True}
    assert half.history[-1].objective == whole.history[-1].objective


@pytest.mark.parametrize("held_out", [0, 16])
def test_models_that_do_not_tell_of_their_run(held_out, run, data, tmp_path):
    """Their history tells whether samples were held out, but not how many."""
    assert run("fit", data, "-o", "m.h5", "--held-out", held_out, *OPTIONS)[0] == 0
    with changed(tmp_path / "m.h5") as file:
        del file.attrs["run"], file.attrs["progress"]
    again = ["fit", data, "--resume", "m.h5", "-o", "n.h5", "--epochs", 2, "-q"]
    if held_out:
        fails(run, tmp_path, ["m.h5", "--held-out"], *again)
    else:
        code, _, err = run(*again)
        assert code == 0
        assert "m.h5" in err
        assert "--batch-size 128" in err
    code, _, err = run(*again, "--held-out", held_out, "--batch-size", 16)
    assert code == 0
    assert "m.h5 does not contain the order of its samples" in err
    assert mmf.load_model("n.h5").run["held_out"] == (held_out or None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--l1-ratio", 0.3], ["--l1-ratio", "elastic-net", "lasso"]),
        (["--atom-l1-ratio", 0.3], ["--atom-l1-ratio", "elastic-net", "l2"]),
        (["--partial-b"], ["--partial-b", "--reduction"]),
    ],
    ids=lambda v: v[0],
)
def test_options_that_the_run_would_not_look_at(arguments, words, run, data, tmp_path):
    fails(run, tmp_path, words, "fit", data, "-o", "m.h5", *OPTIONS, *arguments)


@pytest.mark.filterwarnings("always:fit has learned nothing")
def test_a_run_that_learns_nothing_says_so_with_the_scale(run, data, tmp_path):
    code, _, err = run("fit", data, "-o", "m.h5", "--alpha", 1000, *OPTIONS)
    assert code == 0
    assert len(err.splitlines()) == 1
    assert err.startswith("jax-mmf: warning: ")
    for word in ("learned nothing", "1e+03", "alpha_max="):
        assert word in err
    np.save(tmp_path / "zeros.npy", np.zeros((20, 6), "float32"))
    err = run("fit", "zeros.npy", "-o", "z.h5", *OPTIONS)[2]
    assert "zero" in err


def test_alpha_is_a_share_of_the_strength_at_which_codes_vanish(run, data, tmp_path):
    """The strength is found once, by `fit`; the model has the number."""
    for text, share in (("auto", 0.1), ("25%", 0.25), ("7.5%", 0.075)):
        assert run("fit", data, "-o", "m.h5", "--alpha", text, *OPTIONS)[0] == 0
        solver = mmf.OnlineFactorization(n_components=K, penalty=mmf.Lasso(mmf.RelativeAlpha(share)))
        want = mmf.fit(solver, mmf.open_source(data), key=jax.random.key(0), batch_size=16).solver.penalty.alpha
        assert mmf.load_model("m.h5").solver.penalty.alpha == pytest.approx(want, rel=1e-6)
    for text in ("0%", "100%", "x%", "-5%", "nan%"):
        fails(run, tmp_path, ["--alpha", "auto", "10%"], "fit", data, "-o", "n.h5", "--alpha", text, *OPTIONS)


def test_fit_tells_size_and_scale_of_the_data(run, data):
    _, _, err = run("fit", data, "-o", "m.h5", "-k", K)
    assert f"x.h5: {N} x {P} float32, {N * P * 4 / 1e3:.3g} kB" in err
    assert f"{X[:64].std():.3g}" in err
    assert f"{np.abs(X[:64]).max():.3g}" in err


# Names of files


@pytest.mark.parametrize(
    ("step", "arguments", "words"),
    [
        ("fit", ["-o", "m.npz"], ["m.npz", ".h5"]),
        ("fit", ["-o", "m"], ["m", ".h5"]),
        ("fit", ["-o", "m.h5", "--log", "log.h5"], ["log.h5", "text"]),
        ("fit", ["-o", "m.h5", "--log", "log.png"], ["log.png", "text"]),
        ("fit", ["-o", "m.h5", "--held-out", 16, "--plot", "p.jpg"], ["p.jpg", ".png"]),
        ("encode", ["-o", "codes.csv"], ["codes.csv", ".h5", ".npy"]),
        ("encode", ["-o", "codes.npz"], ["codes.npz", ".h5", ".npy"]),
    ],
    ids=lambda v: " ".join(map(str, v)) if isinstance(v, list) else v,
)
def test_names_promise_the_format_that_is_written(step, arguments, words, run, data, request, tmp_path):
    first = [request.getfixturevalue("model")] if step == "encode" else []
    options = OPTIONS if step == "fit" else []
    fails(run, tmp_path, words, step, *first, data, *options, *arguments)


def test_a_log_is_not_written_over_the_model_of_resume(run, model, data, tmp_path):
    (tmp_path / "log").write_bytes((tmp_path / model).read_bytes())
    arguments = ["--resume", "log", "--epochs", 2, "--log", "log", "-q"]
    fails(run, tmp_path, ["log", "input"], "fit", data, "-o", "n.h5", *arguments)


@pytest.mark.parametrize("step", ["fit", "encode"])
def test_other_files_and_missing_chunks_are_read_only_if_asked_for(step, run, model, data, tmp_path):
    first, last = ([model], []) if step == "encode" else ([], OPTIONS)
    with h5py.File("links.h5", "w") as file:
        file["X"] = h5py.ExternalLink(data, "/X")
    with h5py.File("holes.h5", "w") as file:
        file.create_dataset("X", (N, P), "float32", chunks=(N // 2, P))[: N // 2] = X[: N // 2]
    for path, flag in (("links.h5", "--follow-external"), ("holes.h5", "--fill-missing")):
        before = sorted(tmp_path.iterdir())
        code, _, err = run(step, *first, path, "--dataset", "X", "-o", "out.h5", "-q", *last)
        assert code == 1
        assert path in err
        assert flag in err
        assert sorted(tmp_path.iterdir()) == before
        assert run(step, *first, path, "--dataset", "X", "-o", "out.h5", "-q", *last, flag)[0] == 0
        (tmp_path / "out.h5").unlink()


@pytest.mark.parametrize("step", ["fit", "encode"])
def test_outputs_are_no_devices_and_no_inputs(step, run, model, data, tmp_path):
    first, last = ([model], []) if step == "encode" else ([], OPTIONS)
    (tmp_path / "null.h5").symlink_to("/dev/null")
    (tmp_path / "hard.h5").hardlink_to(tmp_path / data)
    for name, words in (("null.h5", "is a device or a pipe"), ("hard.h5", "is an input too")):
        code, _, err = run(step, *first, data, "-o", name, "-q", *last)
        assert code == 1
        assert words in err
    assert (tmp_path / "null.h5").is_char_device()
    with h5py.File(data) as file:
        np.testing.assert_array_equal(file["X"], X)


# encode


def test_encode_to_npy(run, model, data):
    assert run("encode", model, data, "-o", "codes.npy", "--batch-size", 32)[0] == 0
    assert run("encode", model, data, "-o", "codes.h5", "--batch-size", 32)[0] == 0
    with h5py.File("codes.h5") as file:
        want = file["codes"][...]
    assert want.any()
    codes = np.load("codes.npy")
    assert codes.dtype == np.float32
    np.testing.assert_array_equal(codes, want)


@pytest.mark.parametrize("kind", ["same", "permuted", "uint16"])
def test_encode_gives_the_codes_of_the_library(kind, run, model, tmp_path):
    x = X
    if kind == "permuted":
        mmf.write_permuted(tmp_path / "y.h5", [X], key=jax.random.key(1), block_width=8)
    elif kind == "uint16":
        x = np.random.default_rng(1).integers(0, 60_000, (30, P)).astype("uint16")
        np.save(tmp_path / "y.npy", x)
    path = {"same": "x.h5", "permuted": "y.h5", "uint16": "y.npy"}[kind]
    code, out, err = run("encode", model, path, "-o", "codes.h5", "--batch-size", 32)
    assert (code, err) == (0, "")
    assert f"{len(x)} samples" in out
    dictionary = mmf.load_model(model).state.dictionary
    want = np.concatenate([mmf.encode(dictionary, x[i : i + 32], mmf.Lasso(0.1)) for i in range(0, len(x), 32)])
    with h5py.File("codes.h5") as file:
        codes = file["codes"][...]
        assert file["codes"].dtype == np.float32
    if kind == "permuted":
        np.testing.assert_allclose(codes, want, atol=1e-4)
    else:
        np.testing.assert_array_equal(codes, want)


def test_encode_of_large_integers(run, model, tmp_path):
    """JAX would wrap them around at 32 bits."""
    x = np.full((3, P), 3_000_000_000, "int64")
    np.save(tmp_path / "y.npy", x)
    assert run("encode", model, "y.npy", "-o", "codes.h5")[0] == 0
    want = mmf.encode(mmf.load_model(model).state.dictionary, x.astype("float32"), mmf.Lasso(0.1))
    with h5py.File("codes.h5") as file:
        np.testing.assert_allclose(file["codes"][...], want, rtol=1e-5)


def test_encode_names_the_bad_feature_of_a_permuted_file(run, model, tmp_path):
    x = X.copy()
    x[50, 7] = np.nan
    mmf.write_permuted(tmp_path / "y.h5", [x], key=jax.random.key(1))
    fails(run, tmp_path, ["sample 50, feature 7;"], "encode", model, "y.h5", "-o", "codes.h5")


# info


def test_info_tells_what_a_model_is(run, data):
    assert run("fit", data, "-o", "m.h5", "--held-out", 16, *OPTIONS)[0] == 0
    code, out, err = run("info", "m.h5", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    model = mmf.load_model("m.h5")
    assert (facts["n_components"], facts["n_features"], facts["dtype"]) == (K, P, "float32")
    assert (facts["steps"], facts["samples_seen"]) == (4, 64)
    assert facts["held_out_objective"] == model.history[-1].objective
    assert facts["penalty"] == {"class": "Lasso", "alpha": 0.1, "nonneg": False}
    assert facts["forgetting"] == {"class": "ScaledForgetting", "scale": 8.0}
    assert facts["partial_b"] is False
    assert facts["run"] == {"batch_size": 16, "held_out": 16, "revive_every": None, "shuffle": True}
    text = run("info", "m.h5")[1]
    assert all(name.replace("_", " ") in text for name in facts)
    assert "Lasso(alpha=0.1" in text


def test_info_of_a_model_without_history_and_held_out_samples(run, model, tmp_path):
    facts = json.loads(run("info", model, "--json")[1], parse_constant=pytest.fail)
    assert facts["held_out_objective"] is None
    loaded = mmf.load_model(model)
    mmf.save_model("bare.h5", loaded.solver, loaded.state)
    assert json.loads(run("info", "bare.h5", "--json")[1])["seconds"] is None
    assert run("info", "bare.h5")[0] == 0
    for option in (["--verify"], ["--dataset", "X"]):
        code, _, err = run("info", model, *option)
        assert code == 2
        assert f"--dataset and --verify are for data, and {model} is a model" in err


def test_info_of_a_model_with_an_optax_optimiser(run, tmp_path):
    import optax

    update = mmf.GradientUpdate(optax.sgd(0.1))
    solver = mmf.OnlineFactorization(
        n_components=K, penalty=mmf.Lasso(0.1), constraint=mmf.L2Ball(), dictionary_update=update
    )
    mmf.save_model("m.h5", solver, solver.init(jax.random.key(0), dictionary=jnp.eye(K, P)))
    fails(run, tmp_path, ["optax"], "info", "m.h5")


# Errors: one line, and nothing left behind


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fails(run, folder, words, *arguments):
    before = contents(folder)
    code, out, err = run(*arguments)
    assert code in (1, 2)  # errors, and those of usage
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("jax-mmf: ")
    assert "Traceback" not in err
    missing = [word for word in words if word not in err]
    assert not missing, f"{missing} not in {err!r}"
    assert contents(folder) == before


def break_file(folder, what):
    """A file that can't be learned from; its name."""
    path = folder / "bad.h5"
    if what == "text":
        path.write_text("1 2 3\n")
    elif what == "truncated":
        with h5py.File(path, "w") as file:
            file["X"] = X
        path.write_bytes(path.read_bytes()[:-3000])
    elif what == "nan":
        with h5py.File(path, "w") as file:
            file["X"] = np.full_like(X, np.nan)
    elif what == "several":
        with h5py.File(path, "w") as file:
            file["one"], file["two"] = X, X
    elif what == "1-D":
        with h5py.File(path, "w") as file:
            file["X"] = X[0]
    elif what == "text.npy":
        path = folder / "bad.npy"
        path.write_text("1 2 3\n")
    elif what == "truncated.npy":
        path = folder / "bad.npy"
        np.save(path, X)
        path.write_bytes(path.read_bytes()[:-3000])
    elif what == "damaged.npz":
        path = folder / "bad.npz"
        np.savez_compressed(path, np.arange(6000.0).reshape(100, 60))
        content = bytearray(path.read_bytes())
        content[100:110] = b"\xff" * 10
        path.write_bytes(content)
    elif what == "objects.npy":
        path = folder / "bad.npy"
        np.save(path, np.array([[None]]))
    elif what == "complex.npy":
        path = folder / "bad.npy"
        np.save(path, X * 1j)
    elif what == "ending":
        path = folder / "bad.csv"
        path.write_text("1,2\n")
    elif what == "folder":
        path = folder / "bad"
        path.mkdir()
    return path.name


FILES = {
    "missing": ["no file", "bad.h5"],
    "text": ["bad.h5", "HDF5"],
    "truncated": ["bad.h5", "truncated"],
    "nan": ["nan", "sample", "feature"],
    "several": ["one", "two"],
    "1-D": ["2-D"],
    "text.npy": ["bad.npy"],
    "truncated.npy": ["bad.npy", "truncated"],
    "damaged.npz": ["bad.npz"],
    "objects.npy": ["bad.npy", "objects"],
    "complex.npy": ["bad.npy", "complex"],
    "ending": ["loadtxt('bad.csv'", "delimiter=','", "np.save('bad.npy'"],
    "folder": ["folder bad holds no file"],
}


@pytest.mark.parametrize("what", FILES)
@pytest.mark.parametrize("step", ["fit", "encode"])
def test_files_that_are_no_data(step, what, run, request, tmp_path):
    first = [request.getfixturevalue("model")] if step == "encode" else []
    options = OPTIONS if step == "fit" else []
    bad = break_file(tmp_path, what)
    fails(run, tmp_path, FILES[what], step, *first, bad, "-o", "out.h5", *options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset", "Y"], ["'Y'", "X"]),
        (["-k", N + 1], [f"n_components={N + 1}", str(N)]),
        (["-k", 0], ["-k"]),
        (["-k", "many"], ["-k", "many"]),
        (["--alpha", -1], ["alpha"]),
        (["--alpha", "nan"], ["alpha"]),
        (["--alpha", "a lot"], ["alpha"]),
        (["--radius", 0], ["radius"]),
        (["--radius", "inf"], ["radius"]),
        (["--l1-ratio", 2], ["l1-ratio"]),
        (["--reduction", P + 1], ["reduction", str(P + 1), str(P)]),
        (["--reduction", P + 1, "--partial-b"], ["reduction", str(P + 1), str(P)]),
        (["--reduction", 0.5], ["reduction"]),
        (["--reduction", "nan"], ["reduction"]),
        (["--reduction", "inf"], ["reduction"]),
        (["--forgetting", "power"], ["--forgetting", "power"]),
        (["--forgetting", "power:x"], ["--forgetting", "power:x"]),
        (["--forgetting", "power:-1"], ["--forgetting", "power:-1"]),
        (["--forgetting", "scaled:0"], ["--forgetting", "scaled:0"]),
        (["--forgetting", "constant:2"], ["--forgetting", "constant:2"]),
        (["--forgetting", "other:1"], ["--forgetting", "other:1"]),
        (["--init", "zeros"], ["--init", "zeros"]),
        (["--penalty", "l0"], ["--penalty", "l0"]),
        (["--nonneg", "all"], ["--nonneg", "all"]),
        (["--dtype", "int8"], ["--dtype", "int8"]),
        (["--epochs", 0], ["--epochs"]),
        (["--code-reduction", 2, "--reduction", 2], ["--code-reduction", "one of the two"]),
        (["--batch-size", 0], ["--batch-size"]),
        (["--seed", 2**70], ["seed"]),
        (["--no-such-option"], ["--no-such-option"]),
        (["--resume", "none.h5"], ["no file", "none.h5"]),
        (["--resume", "x.h5"], ["x.h5", "not a model"]),
    ],
    ids=lambda v: " ".join(map(str, v)),
)
def test_options_that_can_not_be(arguments, words, run, data, tmp_path):
    before = [] if "-k" in arguments else OPTIONS
    fails(run, tmp_path, words, "fit", data, "-o", "m.h5", "--log", "log", "-q", *before, *arguments)


def test_the_advice_for_text_files_can_be_followed(run, tmp_path):
    np.savetxt(tmp_path / "x.csv", X, delimiter=",")
    np.savetxt(tmp_path / "y.txt", X)
    for name in ("x.csv", "y.txt"):
        err = run("fit", name, "-o", "m.h5", *OPTIONS)[2]
        exec(err.split('python -c "')[1].rsplit('"')[0], {})
        np.testing.assert_array_equal(np.load(f"{name[0]}.npy"), X)


def test_fit_needs_a_number_of_atoms(run, data, tmp_path):
    fails(run, tmp_path, ["-k"], "fit", data, "-o", "m.h5")


def test_fit_needs_an_output(run, data, tmp_path):
    fails(run, tmp_path, ["--output"], "fit", data, *OPTIONS)


def test_data_of_another_width_than_the_model(run, model, tmp_path):
    np.save(tmp_path / "y.npy", X[:, 1:])
    fails(run, tmp_path, [str(P - 1), str(P), "y.npy", "m.h5"], "encode", model, "y.npy", "-o", "codes.h5")
    again = ["--resume", model, "--epochs", "2", "-q"]
    fails(run, tmp_path, [str(P - 1), str(P)], "fit", "y.npy", "-o", "n.h5", *again)


@pytest.mark.parametrize(
    ("step", "bad"),
    [(step, bad) for step in ("info", "encode") for bad in ("text", "truncated", "missing")] + [("encode", "other")],
)
def test_models_that_are_none(step, bad, run, data, tmp_path):
    name = data if bad == "other" else break_file(tmp_path, bad)
    arguments = [data, "-o", "codes.h5"] if step == "encode" else []
    fails(run, tmp_path, [name], step, name, *arguments)


@pytest.mark.parametrize("output", ["none/m.h5", "x.h5/m.h5", "folder"])
@pytest.mark.parametrize("option", ["-o", "--log", "--plot"])
def test_places_that_can_not_be_written(option, output, run, data, tmp_path):
    (tmp_path / "folder").mkdir()
    outputs = {"-o": "m.h5"} | {option: output}
    flat = [v for pair in outputs.items() for v in pair]
    fails(run, tmp_path, [output.split("/")[-1]], "fit", data, "--held-out", 16, *flat, *OPTIONS)


@pytest.mark.parametrize("option", ["-o", "--log", "--plot"])
def test_data_are_not_written_over(option, run, data, tmp_path):
    outputs = {"-o": "m.h5"} | {option: data}
    flat = [v for pair in outputs.items() for v in pair]
    fails(run, tmp_path, [data], "fit", data, "--held-out", 16, *flat, *OPTIONS)


@pytest.mark.parametrize("target", ["x.h5", "m.h5"])
def test_encode_does_not_write_over_its_inputs(target, run, model, data, tmp_path):
    fails(run, tmp_path, [target], "encode", model, data, "-o", target)


def test_bad_number_late_in_the_data_leaves_a_usable_model(run, tmp_path):
    x = np.tile(X, (4, 1))
    x[300, 5] = np.inf
    np.save(tmp_path / "y.npy", x)
    for seed in range(20):
        code, _, err = run("fit", "y.npy", "-o", "m.h5", "--seed", seed, *OPTIONS)
        assert code == 1
        assert err.startswith("jax-mmf: ")
        assert "Traceback" not in err
        assert "sample 300, feature 5" in err
        if (tmp_path / "m.h5").exists():
            break
    model = mmf.load_model("m.h5")
    assert f"{int(model.state.step)} steps" in err
    assert int(model.state.step) >= 1
    assert np.isfinite(np.asarray(model.state.dictionary)).all()


def test_bad_number_late_in_the_data_leaves_no_codes(run, model, tmp_path):
    x = X.copy()
    x[70, 5] = np.nan
    np.save(tmp_path / "y.npy", x)
    arguments = ["encode", model, "y.npy", "-o", "codes.h5", "--batch-size", 16]
    fails(run, tmp_path, ["sample 70, feature 5"], *arguments)


# A process of its own


def test_errors_of_the_process(tmp_path):
    done = command("fit", "none.h5", "-o", "m.h5", "-k", 3, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "jax-mmf: no file none.h5\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_whole_session_of_processes(data, tmp_path):
    fit = command("fit", data, "-o", "m.h5", "--held-out", "16", *OPTIONS, cwd=tmp_path)
    assert (fit.returncode, fit.stderr) == (0, "")
    assert "4 steps" in fit.stdout
    info = command("info", "m.h5", "--json", cwd=tmp_path)
    assert (info.returncode, info.stderr) == (0, "")
    assert json.loads(info.stdout)["steps"] == 4
    encode = command("encode", "m.h5", data, "-o", "codes.h5", cwd=tmp_path)
    assert (encode.returncode, encode.stderr) == (0, "")


@pytest.mark.parametrize("step", [[], ["fit"], ["encode"], ["info"], ["demo"]])
def test_help(step, run):
    code, out, err = run(*step, "--help")
    assert (code, err) == (0, "")
    assert out.startswith("Usage: ")
    if step == ["demo"]:
        assert "--seconds" in out
    brackets = [line for line in out.splitlines() if line.count("[") != line.count("]")]
    assert brackets == [], "a default or a range is broken across lines"
    assert "\xa0" not in out
    if step:
        assert f"jax-mmf {step[0]} " in out, "no example"


def test_version(run):
    code, out, _ = run("--version")
    assert code == 0
    assert mmf.__version__ in out


def test_command_alone_shows_its_help(run):
    _, out, err = run()
    text = out + err
    assert text.startswith("Usage: ")
    assert all(name in text for name in ("fit", "encode", "info", "demo"))


def interrupted(folder, signals):
    """A long run that gets Ctrl-C once it has logged something: exit status, stderr."""
    arguments = ["fit", "x.h5", "-o", "m.h5", "--epochs", "20000", "--held-out", "16", "--log", "log", *OPTIONS]
    # Steps between evaluations are many in so long a run; a small one is started for the log, and gone on with.
    process = subprocess.Popen(
        [sys.executable, "-m", "jax_mmf", *arguments],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "JAX_MMF_CACHE": "0"},
    )
    try:
        deadline = time.monotonic() + 60
        while not (folder / "log").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(4)
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


def test_ctrl_c_leaves_a_usable_model(data, tmp_path):
    code, out, err = interrupted(tmp_path, 1)
    assert code == 130
    assert "Traceback" not in err
    assert "ending after this step" in err
    model = mmf.load_model(tmp_path / "m.h5")
    steps = int(model.state.step)
    assert steps >= 1
    assert f"{steps} steps" in out
    assert model.history[-1].step == steps
    assert np.isfinite(np.asarray(model.state.dictionary)).all()
    assert {p.name for p in tmp_path.iterdir()} == {"x.h5", "m.h5", "log"}
    # The run goes on as if it had not been stopped.
    epochs = steps // 4 + 2
    rest = mmf.fit(model.solver, X, state=model.state, n_epochs=epochs, held_out=16, batch_size=16)
    assert int(rest.state.step) == epochs * 4


def slow_fit(folder, log):
    """A process whose first step takes ten minutes, so that Ctrl-C meets it."""
    code = (
        "import sys, time, jax_mmf as mmf\n"
        "from jax_mmf import cli\n"
        "show = mmf.JSONLines.__call__\n"
        "slow = lambda self, event: (show(self, event), print('step', flush=True), time.sleep(600))[0]\n"
        "mmf.JSONLines.__call__ = slow\n"
        f"sys.argv = ['jax-mmf', 'fit', 'x.h5', '-o', 'm.h5', '-k', '4', '-q', '--log', {log!r}]\n"
        "cli.main()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_MMF_CACHE": "0"},
    )


def test_second_ctrl_c_stops_at_once(data, tmp_path):
    process = slow_fit(tmp_path, "log")
    try:
        assert process.stdout.readline() == "step\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert all(line.startswith("jax-mmf: ") for line in err.splitlines() if line)
    assert not (tmp_path / "m.h5").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"x.h5", "log"}


@pytest.mark.slow
def test_demo(tmp_path):
    done = command("demo", "-o", "demo", "--seconds", "0.5", "-k", "8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {"model.h5", "demo.png"}
    assert (tmp_path / "demo" / "demo.png").read_bytes().startswith(b"\x89PNG")
    model = mmf.load_model(tmp_path / "demo" / "model.h5")
    assert model.state.dictionary.shape == (8, 12_800)
    assert np.isfinite(np.asarray(model.state.dictionary)).all()
    assert "19,044 x 12,800" in done.stdout
    table = [line.split() for line in done.stdout.splitlines()]
    for name in (["defaults"], ["r", "=", "4"], ["u", "=", "0.917"]):
        row = next(line for line in table if line[: len(name)] == name and len(line) >= len(name) + 4)
        assert float(row[len(name) + 1]) > 0


@pytest.fixture
def ratings(tmp_path):
    """A file of ratings, with blocks of users that like blocks of items."""
    g = np.random.default_rng(0)
    pairs = np.argwhere(g.random((40, 30)) < 0.4)
    values = np.where((pairs[:, 0] < 20) == (pairs[:, 1] < 15), 5, 2)
    lines = [f"{u + 1}\t{i + 1}\t{v}\t{t}\n" for t, ((u, i), v) in enumerate(zip(pairs, values, strict=True))]
    (tmp_path / "u.data").write_text("".join(lines))
    names = "\n".join(f"{i + 1}|Film {i + 1}|" + "|".join("0" * 22) for i in range(30))
    (tmp_path / "u.item").write_text(names)
    return "u.data", {(u + 1, i + 1) for u, i in pairs.tolist()}


def test_recommend_writes_unseen_items_with_titles(run, ratings, tmp_path):
    path, seen = ratings
    options = ("--epochs", 5, "-k", 2, "-n", 3, "--titles", "u.item", "--save", "m.h5", "-q")
    code, out, err = run("recommend", path, "-o", "r.csv", *options)
    assert code == 0, err
    assert "RMSE" in out
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["user", "rank", "item", "score", "title"]
    assert len(rows) == 40 * 3
    assert all((int(r["user"]), int(r["item"])) not in seen for r in rows)
    assert all(r["title"] == f"Film {r['item']}" for r in rows)
    own = [int(r["item"]) <= 15 for r in rows if int(r["user"]) <= 20]
    assert np.mean(own) > 0.9
    model = completion.load_model(tmp_path / "m.h5")
    first = next(r for r in rows if r["user"] == "1")
    assert model.recommend(1, 3).items[0, 0] == int(first["item"])


@pytest.mark.parametrize("kind", ["implicit", "bpr"])
def test_recommend_from_clicks(run, ratings, tmp_path, kind):
    options = ("--model", kind, "--threshold", 4, "--epochs", 3, "-k", 2, "-q", "--test", 0.2)
    code, out, err = run("recommend", ratings[0], *options)
    assert code == 0, err
    assert "NDCG@10" in out
    assert (tmp_path / "recommendations.csv").exists()


def test_recommend_says_what_is_wrong(run, ratings, tmp_path):
    path = ratings[0]
    assert run("recommend")[0] == 2
    assert run("recommend", path, "--demo")[0] == 2
    assert run("recommend", path, "-o", "r.txt")[0] == 2
    assert run("recommend", path, "--threshold", 4)[0] == 2
    code, _, err = run("recommend", path, "--threshold", 9, "--model", "ease")
    assert code == 2
    assert "--threshold 9 is above all ratings, which are at most 5" in err
    code, _, err = run("recommend", path, "-k", 3, "--model", "ease")
    assert code == 2
    assert "--components is not for --model ease" in err
    code, _, err = run("recommend", "absent.csv")
    assert code == 1
    assert "absent.csv" in err
    (tmp_path / "twice.csv").write_text("userId,movieId,rating\n1,2,3\n1,2,4\n")
    code, _, err = run("recommend", "twice.csv", "-q")
    assert code == 1
    assert "aggregate" in err
    assert not (tmp_path / "recommendations.csv").exists()


PARQUET = ("-o", "r.parquet", "--epochs", 1, "-k", 2, "--test", 0, "-q")


def test_recommend_writes_parquet(run, ratings, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run("recommend", ratings[0], *PARQUET)[0] == 0
    assert parquet.read_table(tmp_path / "r.parquet").num_rows > 0


def test_recommend_without_pyarrow_says_what_to_install(run, ratings, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = run("recommend", ratings[0], *PARQUET)
    assert code == 1
    assert "pyarrow" in err
    assert not (tmp_path / "r.parquet").exists()


@pytest.mark.parametrize("name", ["1.h5", "2.npy"])
def test_outputs_are_no_files_of_the_folder_that_is_read(name, run, model, tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    with h5py.File(folder / "1.h5", "w") as file:
        file["x"] = X
    np.save(folder / "2.npy", X)
    before = (folder / name).read_bytes()
    commands = [["encode", model, folder], ["fit", folder, *OPTIONS]] if name == "1.h5" else [["encode", model, folder]]
    for arguments in commands:
        status, _, message = run(*arguments, "-o", folder / name)
        assert status == 1
        assert str(folder / name) in message
        assert (folder / name).read_bytes() == before


def test_one_file_takes_all_checkpoints(run, data):
    options = ["--checkpoint", "run.h5", "--checkpoint-steps", 1]
    assert run("fit", data, "-o", "m.h5", *OPTIONS, *options)[0] == 0
    assert mmf.load_checkpoint("run.h5") is not None


def test_info_of_a_folder_shows_the_newest_checkpoint(run, data):
    options = ["--checkpoint", "all", "--checkpoint-steps", 1]
    assert run("fit", data, "-o", "m.h5", *OPTIONS, *options)[0] == 0
    steps = [json.loads(run("info", path, "--json")[1])["steps"] for path in ("m.h5", "all")]
    assert steps[0] == steps[1] > 1


def test_options_of_checkpoints_need_a_folder(run, data):
    status, _, message = run("fit", data, "-o", "m.h5", *OPTIONS, "--checkpoint-steps", 3)
    assert status == 2
    assert "--checkpoint FOLDER" in message


SERVED = ("--epochs", 2, "-k", 2, "--test", 0, "--save", "m.h5", "-q")


def table(path):
    with path.open(newline="") as file:
        return [(row["user"], int(row["item"])) for row in csv.DictReader(file)]


def test_a_saved_model_recommends(run, ratings, tmp_path):
    path, _ = ratings
    assert run("recommend", path, "-o", "all.csv", *SERVED)[0] == 0
    (tmp_path / "u.txt").write_text("\ufeff7\n\n3\n 40 \n")
    code, out, err = run("recommend", "--model", "m.h5", "--users", "u.txt", "-o", "some.csv")
    assert (code, err) == (0, "")
    assert "model of 40 users and 30 items" in out
    every = table(tmp_path / "all.csv")
    assert table(tmp_path / "some.csv") == [row for user in ("7", "3", "40") for row in every if row[0] == user]
    (tmp_path / "u.txt").write_text("7\n99\n")
    code, _, err = run("recommend", "--model", "m.h5", "--users", "u.txt", "-o", "some.csv", "-n", 2)
    assert code == 0
    assert "1 of 2 users of u.txt are new" in err
    assert [user for user, _ in table(tmp_path / "some.csv")] == ["7", "7", "99", "99"]
    for ids, words in (("user\nx\n", "no user of the model: none of the 2"), ("98\n99", "such as 1"), ("", "no ids")):
        (tmp_path / "u.txt").write_text(ids)
        code, _, err = run("recommend", "--model", "m.h5", "--users", "u.txt")
        assert code == 1
        assert words in err
    for wrong in (("-k", 3), ("--save", "n.h5"), ("--demo",), ("--user-column", 3), ("--threshold", 2)):
        code, _, err = run("recommend", "--model", "m.h5", *wrong)
        assert code == 2
        assert wrong[0] in err
    assert run("recommend", path, "--model", "m.txt")[0] == 2
    assert run("recommend", "--model", "m.h5", "-o", "u.txt")[0] == 2
    code, _, err = run("recommend", path, "--model", "m.h5", "--threshold", 2)  # of new users of a model of ratings
    assert code == 2
    assert "--threshold is for" in err


def test_new_users_are_folded_into_a_saved_model(run, ratings, tmp_path):
    path, _ = ratings
    assert run("recommend", path, *SERVED)[0] == 0
    lines = [f"new {'x' * (n % 2)};{1 + n};{5 if n < 6 else 1}" for n in range(12)]
    (tmp_path / "new.txt").write_text("# who, what\n" + "\n".join(lines), encoding="utf-16")
    named = (
        "--user-column",
        0,
        "--item-column",
        1,
        "--rating-column",
        2,
        "--sep",
        ";",
        "--no-header",
        "--comment",
        "#",
    )
    code, out, err = run("recommend", "new.txt", "--model", "m.h5", *named, "--encoding", "utf-16", "-o", "r.csv")
    assert (code, err) == (0, "")
    assert "12 ratings of 2 users and 12 items" in out
    newcomers = completion.read_ratings(tmp_path / "new.txt", separator=";", header=False, comment="#")
    best = completion.load_model(tmp_path / "m.h5").fold_in(newcomers).recommend()
    expected = [(user, item) for user, items in zip(best.users, best.items.tolist(), strict=True) for item in items]
    assert table(tmp_path / "r.csv") == expected


def test_columns_of_ratings_by_their_names(run, ratings, tmp_path):
    lines = (tmp_path / ratings[0]).read_text().replace("\t", ",").splitlines()
    (tmp_path / "r.csv").write_text("\n".join(["wer,was,wie,wann", *lines]))
    named = ("--user-column", "wer", "--item-column", "was", "--rating-column", "wie", "--time-column", "wann")
    assert run("recommend", ratings[0], "-o", "a.csv", *SERVED)[0] == 0
    assert run("recommend", "r.csv", *named, "-o", "b.csv", *SERVED)[0] == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    code, _, err = run("recommend", "r.csv", "-q")
    assert code == 1
    assert "--user-column" in err


def test_info_of_a_model_of_ratings(run, ratings, tmp_path):
    path, seen = ratings
    assert run("recommend", path, *SERVED)[0] == 0
    code, out, err = run("info", "m.h5", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["model"]["class"] == "ExplicitALS"
    assert facts["model"]["n_components"] == 2
    assert [facts[n] for n in ("n_users", "n_items", "n_ratings", "epochs")] == [40, 30, len(seen), 2]
    assert facts["limits"] == [2, 5]
    assert facts["user_ids"] == "whole numbers"
    assert facts["validation_score"] is None
    code, out, _ = run("info", "m.h5")
    assert code == 0
    assert re.search(r"model +ExplicitALS\(n_components=2", out)
    assert run("info", "m.h5", "--verify")[0] == 2
