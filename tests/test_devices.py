"""Runs that are spread over devices, and over processes, against runs on one device."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jax_mmf as mmf
from jax_mmf.learning import SubsetPerShare
from jax_mmf.training.placement import adapted

WORKER = Path(__file__).with_name("devices_worker.py")
FAST = ["partial B"]  # `test_sources_of_all_kinds_and_resumed_runs` has ridge codes of all features
SLOW = ["ridge", "lasso", "l1 ball", "blocks", "uniform", "codes from a part", "averaged", "non-negative",
        "elastic net", "simplex", "one after another", "missing entries"]  # fmt: skip


def start(*arguments, devices=8, x64=False):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": str(int(x64))}
    command = [sys.executable, str(WORKER), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def check(*arguments, **options):
    process = start(*arguments, **options)
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text[-4000:]


def test_a_mesh_gives_what_one_device_gives():
    check("agrees", "float32", *FAST)


@pytest.mark.slow
def test_a_mesh_gives_what_one_device_gives_with_every_setting():
    check("agrees", "float32", *SLOW)


@pytest.mark.slow
def test_a_mesh_gives_what_one_device_gives_in_float64():
    check("agrees", "float64", *FAST, "ridge", "lasso", "l1 ball", "uniform", x64=True)


def test_a_step_sends_sums_only():
    check("communicates")


def test_sources_of_all_kinds_and_resumed_runs():
    check("sources")


@pytest.mark.slow
def test_completion_takes_meshes_of_both_kinds():
    check("ratings")


# Several processes


def run_processes(count, layout, path, out, command, limit=300):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        start("process", i, count, port, layout, path, out, command, devices=4 // count) for i in range(count)
    ]  # fmt: skip
    return [(process.communicate(timeout=limit)[0], process.returncode) for process in processes]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "layout"), [(2, "data"), (2, "features"), (2, "both"), (4, "both")])
def test_processes_read_their_parts_and_give_what_one_gives(count, layout, tmp_path):
    path, p = tmp_path / "x.npy", 4096
    np.save(path, np.random.default_rng(0).standard_normal((203, p)).astype(np.float32))
    parts = run_processes(count, layout, path, tmp_path, "part")
    assert [code for _, code in parts] == [0] * count, parts[0][0][-3000:]
    assert len(list((tmp_path / "checkpoints").glob("*.h5"))) == 2, "one process writes"
    # Another number of processes goes on.
    resumed = run_processes(4 // count if count < 4 else 2, layout, path, tmp_path, "resume")
    assert {code for _, code in resumed} == {0}, resumed[0][0][-3000:]

    subset = mmf.BlockSubset(3) if layout == "data" else SubsetPerShare(mmf.BlockSubset(3, n_blocks=2), 4)
    solver = mmf.OnlineFactorization(
        n_components=5, penalty=mmf.Ridge(0.1), constraint=mmf.L2Ball(), subset=subset,
        dictionary_update=mmf.ProjectedGradient(4),
    )  # fmt: skip
    with mmf.open_source(path) as source:
        one = mmf.fit(solver, source, key=jax.random.key(0), n_epochs=2, batch_size=30, held_out=20, revive_every=5)
    whole = one.history[-1].bytes_read
    for found in map(np.load, sorted(tmp_path.glob("resume_*.npz"))):
        np.testing.assert_allclose(found["dictionary"], one.dictionary, atol=1e-5)
    bytes_read = [int(np.load(tmp_path / f"part_{i}.npz")["bytes_read"]) for i in range(count)]
    assert max(bytes_read) <= 0.75 * whole, "each process reads its part"


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["data", "features"])
def test_processes_stop_where_one_of_them_dies(layout, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((203, 64)).astype(np.float32))
    (text, left), (_, died) = run_processes(2, layout, path, tmp_path, "die", limit=150)
    assert died == 9
    assert left != 0
    assert "Error" in text


# Arguments


def test_meshes_of_other_kinds_are_refused():
    x = np.ones((20, 4), np.float32)
    solver = mmf.OnlineFactorization(n_components=2)
    with pytest.raises(TypeError, match="mesh must be a jax.sharding.Mesh"):
        mmf.fit(solver, x, key=jax.random.key(0), mesh=4)


def test_axes_have_names():
    check("axes")


def test_a_mesh_of_one_device_changes_nothing():
    x = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    solver = mmf.OnlineFactorization(n_components=2, subset=mmf.UniformSubset(2))
    mesh = jax.make_mesh((1, 1), ("data", "features"))
    assert adapted(solver, mesh) is solver
    one, same = (mmf.fit(solver, x, key=jax.random.key(0), mesh=m) for m in (None, mesh))
    np.testing.assert_allclose(one.dictionary, same.dictionary, atol=1e-6)


# Subsets of each share of the features


@pytest.mark.parametrize("rule", [mmf.UniformSubset(3), mmf.UniformSubset(3, width=4), mmf.BlockSubset(3, n_blocks=2)])
@pytest.mark.parametrize("p", [4 * 23, 4 * 23 - 2])
def test_each_share_has_its_own_subset(p, rule):
    n = 4
    subset = SubsetPerShare(rule, n).draw(jax.random.key(0), 5, p)
    shares = np.asarray(subset.indices).reshape(n, -1)
    assert (shares // 23 == np.arange(n)[:, None]).all()
    assert len(set(map(tuple, shares % 23))) > 1, "all the same"
    valid = np.ones(subset.size, bool) if subset.valid is None else np.asarray(subset.valid)
    assert (np.asarray(subset.indices)[valid] < p).all()
    x = np.random.default_rng(0).standard_normal((3, p)).astype(np.float32)
    inside = np.minimum(subset.indices, p - 1)
    np.testing.assert_array_equal(subset.gather(x), np.where(valid, x[:, inside], 0))
    values = np.random.default_rng(1).standard_normal((3, subset.size)).astype(np.float32)
    expected = x.copy()
    expected[:, np.asarray(subset.indices)[valid]] = values[:, valid]
    np.testing.assert_array_equal(subset.scatter(jax.numpy.asarray(x), values), expected)


def test_features_of_shares_are_equally_likely():
    rule, p = SubsetPerShare(mmf.UniformSubset(3), 2), 24
    draw = jax.jit(jax.vmap(lambda step: rule.draw(jax.random.key(0), step, p).indices))
    counts = np.bincount(np.asarray(draw(np.arange(3000))).ravel(), minlength=p)
    assert (counts == 1000).all()  # each once in three steps


def test_shares_are_large_enough():
    with pytest.raises(ValueError, match="got 3 for 2 of 13 features on 8 devices"):
        SubsetPerShare(mmf.UniformSubset(3), 8).draw(jax.random.key(0), 0, 13)
    with pytest.raises(ValueError, match="n_shards"):
        SubsetPerShare(mmf.UniformSubset(2), 0)


def test_a_model_with_shares_can_be_saved(tmp_path):
    solver = mmf.OnlineFactorization(n_components=2, subset=SubsetPerShare(mmf.BlockSubset(2, n_blocks=2), 2))
    x = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    run = mmf.fit(solver, x, key=jax.random.key(0))
    run.save(tmp_path / "model.h5")
    assert mmf.load_model(tmp_path / "model.h5").solver == solver
