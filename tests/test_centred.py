"""Centred models, against data that were centred before and against means of the rows seen."""

import json
import sys

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weighted_runs import K, P, batches_of, check_against_reference, matrix, solver_for

import jax_mmf as mmf
from jax_mmf import cli
from jax_mmf.io import ArraySource, CentredSource

X = matrix() + np.linspace(-3, 5, P)
WEIGHTS = np.random.default_rng(5).choice([0.0, 0.5, 1.0, 2.0], len(X))


@pytest.mark.parametrize(("partial_b", "subset"), [(False, 1), (False, 3), (True, 1), (True, 3), (True, "blocks")])
@pytest.mark.parametrize("weighted", [False, True])
def test_steps_are_those_of_the_reference(x64, partial_b, subset, weighted):
    solver = solver_for(partial_b=partial_b, subset=subset, center=True)
    check_against_reference(solver, X, sample_weight=WEIGHTS if weighted else None)


def test_whole_samples_with_partial_b(x64):
    """Full statistics read all features, so that each step moves every mean."""
    check_against_reference(solver_for(partial_b=True, subset=3, statistics="full", center=True), X)


def test_a_batch_of_everything_is_centred_data(x64):
    centred, plain = solver_for(partial_b=False, center=True), solver_for(partial_b=False)
    ours, theirs = centred.init(jax.random.key(0), samples=X), plain.init(jax.random.key(0), samples=X - X.mean(0))
    np.testing.assert_allclose(ours.dictionary, theirs.dictionary, atol=1e-12)
    for _ in range(5):
        ours, info = centred.update(ours, X)
        theirs, other = plain.update(theirs, X - X.mean(0))
        np.testing.assert_allclose(info.codes, other.codes, atol=1e-9)
    np.testing.assert_allclose(ours.dictionary, theirs.dictionary, atol=1e-9)
    np.testing.assert_allclose(ours.mean, X.mean(0), atol=1e-12)
    np.testing.assert_array_equal(ours.mean_weight, 5 * len(X))


def test_the_mean_is_that_of_the_rows_seen(x64):
    solver = solver_for(partial_b=False, center=True)
    state, seen = solver.init(jax.random.key(0), samples=X), []
    for rows in batches_of(X):
        state, _ = solver.update(state, X[rows])
        seen.extend(X[rows])
        np.testing.assert_allclose(state.mean, np.mean(seen, axis=0), atol=1e-12)
    assert int(state.n_samples) == state.mean_weight[0] == len(seen)


@pytest.mark.parametrize("subset", [1, "blocks"])
def test_fit(x64, subset):
    """Padding of the last batch does not count, and the features of blocks are back in their order."""
    solver = solver_for(partial_b=subset != 1, subset=subset, center=True)
    result = mmf.fit(solver, X, key=jax.random.key(0), n_epochs=4, batch_size=32, held_out=X[:30])
    if subset == 1:
        np.testing.assert_allclose(result.state.mean, X.mean(0), atol=1e-10)
    else:  # a step sees half of the features, and every feature once in two steps
        np.testing.assert_allclose(result.state.mean, X.mean(0), atol=1.0)
        assert 0 < result.state.mean_weight.min() <= result.state.mean_weight.max() < 4 * len(X)
    want = mmf.objective(result.dictionary, X[:30] - result.state.mean, solver.penalty)
    np.testing.assert_allclose(result.objective, want, rtol=1e-6)
    codes = solver.encode(result.dictionary, X - result.state.mean)
    np.testing.assert_allclose(result.encode(X), codes, atol=1e-6)
    np.testing.assert_allclose(result.encode(ArraySource(X)), codes, atol=1e-6)
    np.testing.assert_allclose(result.encode(iter([X[:50], X[50:]])), codes, atol=1e-6)


def test_the_objective_of_a_batch_without_held_out_samples(x64):
    solver = solver_for(partial_b=False, center=True)
    state = solver.init(jax.random.key(0), samples=X[:30])
    result = mmf.fit(solver, X[:30], state=state, batch_size=30, shuffle=False)
    np.testing.assert_allclose(result.state.mean, X[:30].mean(0), atol=1e-12)
    _, info = solver.update(state, X[:30])
    errors = X[:30] - X[:30].mean(0) - info.codes @ result.dictionary
    penalty = mmf.penalty_value(solver.penalty, info.codes)
    np.testing.assert_allclose(result.objective, (0.5 * (errors**2).sum(1) + penalty).mean(), rtol=1e-7)


def test_a_resumed_run_is_the_same(tmp_path):
    solver, x = solver_for(partial_b=True, subset="blocks", center=True), X.astype(np.float32)
    whole = mmf.fit(solver, x, key=jax.random.key(0), n_epochs=2, batch_size=16, held_out=0.1)
    half = mmf.fit(solver, x, key=jax.random.key(0), n_epochs=1, batch_size=16, held_out=0.1)
    half.save(tmp_path / "half.h5")
    resumed = mmf.fit(solver, x, resume=mmf.load_checkpoint(tmp_path / "half.h5"), n_epochs=2, held_out=0.1)
    for a, b in zip(jax.tree.leaves(resumed.state._replace(key=None)), jax.tree.leaves(whole.state._replace(key=None)),
                    strict=True):  # fmt: skip
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="center"):
        mmf.fit(solver_for(partial_b=True, subset="blocks"), x, state=half.state)


def test_model_files(tmp_path):
    solver, x = solver_for(partial_b=False, center=True), X.astype(np.float32)
    result = mmf.fit(solver, x, key=jax.random.key(0))
    mmf.save_model(tmp_path / "m.h5", solver, result.state)
    model = mmf.load_model(tmp_path / "m.h5")
    assert model.solver.center
    np.testing.assert_array_equal(model.state.mean, result.state.mean)
    np.testing.assert_array_equal(model.state.mean_weight, result.state.mean_weight)
    mmf.save_model(
        tmp_path / "plain.h5", solver_for(partial_b=False), result.state._replace(mean=None, mean_weight=None)
    )
    assert mmf.load_model(tmp_path / "plain.h5").state.mean is None


def test_revived_atoms_are_centred_samples(x64):
    solver = solver_for(partial_b=False, center=True, penalty=mmf.Lasso(1e4))  # no atom is used
    state, _ = solver.update(solver.init(jax.random.key(0), samples=X), X)
    revived = solver.revive(jax.random.key(1), state, X[:K])
    centred = X[:K] - X.mean(0)
    cosines = mmf.match_atoms(revived.dictionary, centred)[1]
    np.testing.assert_allclose(cosines, 1, atol=1e-9)


def test_relative_alpha_is_a_share_of_centred_samples(x64):
    far = X + 1e3
    solver = solver_for(partial_b=False, center=True, penalty=mmf.Lasso(mmf.RelativeAlpha(0.1)))
    found = [mmf.fit(solver, x, key=jax.random.key(0), batch_size=80).solver.penalty.alpha for x in (X, far)]
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_derivatives_reach_the_mean(x64):
    solver = solver_for(partial_b=False, center=True, penalty=mmf.Ridge(0.1), code_solver=None)
    state = solver.init(jax.random.key(0), samples=X)
    left = lambda x: jnp.sum(solver.update(state, x)[0].dictionary ** 3)
    slope = jax.grad(left)(jnp.asarray(X[:16]))
    step = 1e-6 * np.random.default_rng(0).normal(size=(16, P))
    np.testing.assert_allclose(jnp.vdot(slope, step), (left(X[:16] + step) - left(X[:16] - step)) / 2, rtol=1e-5)
    np.testing.assert_allclose(slope.sum(0), 0, atol=1e-9)  # a shift of all samples changes nothing


def test_centred_sources():
    source = CentredSource(X.astype(np.float32), X.mean(0))
    assert (source.n_samples, source.n_features, source.dtype) == (*X.shape, np.float64)
    rows, columns = np.array([3, 7]), np.array([5, 1])
    np.testing.assert_allclose(source.read(rows), (X - X.mean(0))[rows], atol=1e-6)
    np.testing.assert_allclose(source.read(rows, columns), (X - X.mean(0))[rows][:, columns], atol=1e-6)
    assert source.bytes_read == 2 * (P + 2) * 4
    with pytest.raises(ValueError, match=f"data has {P} features, and mean has shape"):
        CentredSource(X, X[0, :3])
    with pytest.raises(TypeError, match="iterable of batches"):
        CentredSource(iter([X]), X[0])


def test_commands(tmp_path, monkeypatch, capsys):
    """fit --center, info, encode, and --resume, which knows the option."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_MMF_CACHE", "0")
    np.save("x.npy", X.astype(np.float32))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["jax-mmf", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, capsys.readouterr()

    learned = ("fit", "x.npy", "-k", "3", "--penalty", "ridge", "--center", "--quiet", "-o", "m.h5")
    assert call(*learned)[0] == 0
    assert json.loads(call("info", "m.h5", "--json")[1].out)["center"] is True
    assert call("encode", "m.h5", "x.npy", "--quiet", "-o", "c.npy")[0] == 0
    solver, state, *_ = mmf.load_model("m.h5")
    np.testing.assert_allclose(state.mean, X.mean(0), atol=1e-5)
    want = solver.encode(state.dictionary, X.astype(np.float32) - state.mean)
    np.testing.assert_allclose(np.load("c.npy"), want, atol=1e-4)
    more = ("fit", "x.npy", "--resume", "m.h5", "--epochs", "2", "--quiet", "-o", "n.h5")
    assert "--center/--no-center False contradicts" in call(*more, "--no-center")[1].err
    assert call(*more, "--center")[0] == 0


def test_old_files_are_not_centred(tmp_path):
    """Files of before had no mean, and no such field of the solver."""
    solver, x = solver_for(partial_b=False), X.astype(np.float32)
    mmf.save_model(tmp_path / "m.h5", solver, solver.init(jax.random.key(0), samples=x))
    with h5py.File(tmp_path / "m.h5") as file:
        assert "mean" not in file
