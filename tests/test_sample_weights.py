"""A weight for each sample, against the NumPy reference, repeated samples, and steps without weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weighted_runs import check_against_reference, matrix, solver_for

import jax_mmf as mmf

X = matrix()
WEIGHTS = np.random.default_rng(5).choice([0.0, 0.5, 1.0, 2.0, 7.0], len(X))


@pytest.mark.parametrize(("partial_b", "subset"), [(False, 1), (False, 3), (True, 1), (True, 3), (True, "blocks")])
def test_steps_are_those_of_the_reference(x64, partial_b, subset):
    check_against_reference(solver_for(partial_b=partial_b, subset=subset), X, sample_weight=WEIGHTS)


def test_partial_updates_are_those_of_the_reference(x64):
    check_against_reference(solver_for(partial_b=True, subset=3), X, sample_weight=WEIGHTS, partial=True)


def test_full_and_partial_b_agree_on_all_features(x64):
    """A weight multiplies what a sample adds, so both are the same surrogate, whatever the scale of the weights."""
    solvers = [solver_for(partial_b=partial_b) for partial_b in (False, True)]
    states = [solver.init(jax.random.key(0), samples=X) for solver in solvers]
    for first in range(0, 80, 20):
        some = slice(first, first + 20)
        states = [
            solver.update(state, X[some], sample_weight=3 * WEIGHTS[some])[0]
            for solver, state in zip(solvers, states, strict=True)
        ]
    np.testing.assert_allclose(states[0].dictionary, states[1].dictionary, atol=1e-10)


@pytest.mark.parametrize("partial_b", [False, True])
def test_ones_change_nothing(dtype, partial_b):
    solver = solver_for(partial_b=partial_b, subset=3)
    x = X.astype(dtype)
    state = solver.init(jax.random.key(0), samples=x)
    plain, _ = solver.update(state, x[:13])
    weighted, _ = solver.update(state, x[:13], sample_weight=np.ones(13))
    for ours, want in zip(jax.tree.leaves(weighted.surrogate), jax.tree.leaves(plain.surrogate), strict=True):
        np.testing.assert_allclose(ours, want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(weighted.dictionary, plain.dictionary, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("partial_b", [False, True])
def test_a_weight_of_zero_leaves_no_trace(x64, partial_b):
    solver = solver_for(partial_b=partial_b, subset=3, center=True)
    state = solver.init(jax.random.key(0), samples=X)
    weights = np.ones(12)
    weights[4] = 0
    other = X[:12].copy()
    other[4] = 1e3
    ours, info = solver.update(state, X[:12], sample_weight=weights)
    theirs, _ = solver.update(state, other, sample_weight=weights)
    for a, b in zip(jax.tree.leaves(ours.surrogate), jax.tree.leaves(theirs.surrogate), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    np.testing.assert_allclose(ours.dictionary, theirs.dictionary, atol=1e-12)
    np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-12)
    assert np.abs(info.codes[4]).max() > 0  # it has a code all the same


@pytest.mark.parametrize("partial_b", [False, True])
def test_whole_weights_are_repeated_samples(x64, partial_b):
    """One batch of all samples: means divide by the number of rows, so the moments differ by that factor only."""
    solver = solver_for(partial_b=partial_b)
    state = solver.init(jax.random.key(0), samples=X)
    times = np.random.default_rng(2).integers(0, 4, len(X))
    repeated = np.repeat(X, times, axis=0)
    ours, _ = solver.update(state, X, sample_weight=times)
    theirs, _ = solver.update(state, repeated)
    factor = len(repeated) / len(X)
    np.testing.assert_allclose(ours.surrogate.c, factor * theirs.surrogate.c, atol=1e-10)
    if not partial_b:
        np.testing.assert_allclose(ours.surrogate.b, factor * theirs.surrogate.b, atol=1e-10)
    np.testing.assert_allclose(ours.dictionary, theirs.dictionary, atol=1e-10)


def test_fit_reads_the_weights_of_its_samples(x64):
    """Batches in order: the same steps by hand. The last batch is smaller, and its padding has no weight."""
    solver = solver_for(partial_b=False)
    state = solver.init(jax.random.key(3), samples=X)
    result = mmf.fit(solver, X, state=state, sample_weight=WEIGHTS, n_epochs=2, batch_size=32, shuffle=False)
    for first in (0, 32, 64, 0, 32, 64):
        some = slice(first, first + 32)
        state, _ = solver.update(state, X[some], sample_weight=WEIGHTS[some])
    assert int(result.state.n_samples) == 160
    np.testing.assert_allclose(result.state.surrogate.c, state.surrogate.c, atol=1e-9)
    np.testing.assert_allclose(result.dictionary, state.dictionary, atol=1e-9)


def test_evaluations_do_not_use_weights():
    solver = solver_for(partial_b=False)
    x = X.astype(np.float32)
    result = mmf.fit(solver, x, sample_weight=WEIGHTS, key=jax.random.key(0), held_out=x[:20], batch_size=16)
    want = mmf.objective(result.dictionary, x[:20], solver.penalty)
    np.testing.assert_allclose(result.objective, want, rtol=1e-5)


def test_derivatives_in_the_weights(x64):
    solver = solver_for(partial_b=True, code_solver=None, penalty=mmf.Ridge(0.1))
    state = solver.init(jax.random.key(0), samples=X)

    def left(weights):
        return jnp.sum(solver.update(state, X[:16], sample_weight=weights)[0].dictionary ** 3)

    weights = jnp.asarray(1 + WEIGHTS[:16])
    slope = jax.grad(left)(weights)
    step = 1e-6 * jax.random.normal(jax.random.key(1), (16,))
    difference = (left(weights + step) - left(weights - step)) / 2
    np.testing.assert_allclose(jnp.vdot(slope, step), difference, rtol=1e-5)


def test_vmap_over_weights(x64):
    solver = solver_for(partial_b=True, subset=3, code_solver=None, penalty=mmf.Ridge(0.1))
    state = solver.init(jax.random.key(0), samples=X)
    several = jnp.asarray(np.stack([WEIGHTS[:16], WEIGHTS[16:32]]))
    mapped = jax.vmap(lambda w: solver.update(state, X[:16], sample_weight=w)[0].dictionary)(several)
    for ours, weights in zip(mapped, several, strict=True):
        want = solver.update(state, X[:16], sample_weight=weights)[0].dictionary
        np.testing.assert_allclose(ours, want, atol=1e-12)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.array([1.0, -1.0, 1.0]), r"sample_weight must hold finite weights >= 0, got -1.0 at \(1,\)"),
        (np.array([1.0, np.nan, 1.0]), "sample_weight must hold finite weights >= 0, got nan"),
        (np.array([1.0, np.inf, 1.0]), "sample_weight must hold finite weights >= 0, got inf"),
        (np.ones(4), "sample_weight must have shape"),
        (np.ones((3, 1)), "sample_weight must have 1 axes"),
    ],
)
def test_bad_weights_are_named(weights, message):
    solver = solver_for(partial_b=False)
    x = X[: len(X) // 3 * 3].astype(np.float32)
    state = solver.init(jax.random.key(0), samples=x)
    with pytest.raises(ValueError, match=message):
        solver.update(state, x[:3], sample_weight=weights)
    long = np.concatenate([weights, np.ones((len(x) - 3, *weights.shape[1:]))])
    with pytest.raises(ValueError, match=message):
        mmf.fit(solver, x, sample_weight=long, key=jax.random.key(0))


def test_iterables_of_batches_take_no_weights():
    batches = [X[:40].astype(np.float32), X[40:].astype(np.float32)]
    with pytest.raises(ValueError, match="sample_weight needs a source with numbered samples.*iterable of batches"):
        mmf.fit(solver_for(partial_b=False), batches, sample_weight=np.ones(80), key=jax.random.key(0))


def test_a_resumed_run_needs_the_same_weights():
    solver, x = solver_for(partial_b=False), X.astype(np.float32)
    options = {"sample_weight": WEIGHTS, "batch_size": 16}
    half = mmf.fit(solver, x, key=jax.random.key(0), **options)
    with pytest.raises(ValueError, match="weights of the samples with the checksum"):
        mmf.fit(solver, x, resume=half, n_epochs=2, sample_weight=WEIGHTS + 1)
    with pytest.raises(ValueError, match="weights of the samples with the checksum"):
        mmf.fit(solver, x, resume=half, n_epochs=2)
    resumed = mmf.fit(solver, x, resume=half, n_epochs=2, **options)
    whole = mmf.fit(solver, x, key=jax.random.key(0), n_epochs=2, **options)
    np.testing.assert_array_equal(resumed.dictionary, whole.dictionary)
