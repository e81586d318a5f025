"""`ActiveSet`, against optimality conditions and coordinate descent: supports of every size, starts, its program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from code_problems import PENALTIES, SOLVERS, kkt_residual, lasso, objective, problem, solve

import jax_mmf as mmf


@pytest.mark.parametrize("name", ["lasso", "elastic net", "lasso, nonneg"])
def test_many_samples_exactly_on_their_supports(x64, name):
    """One sample after another in the same memory: nothing of one is left for the next."""
    penalty = PENALTIES[name]
    (gram, beta, sq_norm, init), _ = problem(40, 30, 1100)
    codes, info = solve(mmf.ActiveSet(1e-12), gram, beta, penalty, sq_norm, init)
    assert (kkt_residual(gram, beta, penalty, np.asarray(codes)) < 1e-6).all()
    expected, _ = solve(SOLVERS["cd"], gram, beta, penalty, sq_norm, init)
    np.testing.assert_allclose(codes, expected, atol=1e-5)
    # Changes of the support, and no more of them than an atom that enters and one that leaves for each.
    assert info.n_iter.max() <= 2 * gram.shape[0]


@pytest.mark.parametrize("name", ["lasso", "elastic net", "lasso, nonneg"])
@pytest.mark.parametrize("masked", [False, True])
def test_few_changes_from_a_good_start(x64, name, masked):
    """Codes to start from are taken as they are: from the best ones, every atom enters once, and none leaves."""
    penalty = PENALTIES[name]
    (gram, beta, sq_norm, init), _ = problem(40, 30, 20, masked)
    solver = mmf.ActiveSet(1e-9)
    best, _ = solve(solver, gram, beta, penalty, sq_norm, init)
    again, info = solve(solver, gram, beta, penalty, sq_norm, best)
    np.testing.assert_allclose(again, best, atol=1e-9)
    np.testing.assert_array_equal(info.n_iter, (best != 0).sum(1))
    moved = best + 0.05 * np.asarray(jax.random.normal(jax.random.key(0), best.shape)) * (best != 0)
    near, info = solve(solver, gram, beta, penalty, sq_norm, moved)
    np.testing.assert_allclose(near, best, atol=1e-7)
    assert info.n_iter.mean() < (best != 0).sum(1).mean() + 3


@pytest.mark.parametrize("seed", range(6))
def test_a_start_in_more_atoms_than_features(x64, seed):
    """Atoms of the start that others span can't all be in a support: codes are found all the same, and soon."""
    (gram, beta, sq_norm, _), _ = problem(40, 6, 10)
    init = jax.random.normal(jax.random.key(seed), beta.shape)
    codes, info = solve(mmf.ActiveSet(1e-9), gram, beta, lasso(0.1), sq_norm, init)
    assert (info.gap <= 1e-9).all()
    assert (info.n_iter < 200).all()  # none is left to coordinate descent
    assert (kkt_residual(gram, beta, lasso(0.1), np.asarray(codes)) < 1e-6).all()


@pytest.mark.parametrize(
    "k", [1, 32, 33, 129, *(pytest.param(k, marks=pytest.mark.slow) for k in (2, 31, 127, 128, 260))]
)
def test_any_number_of_atoms(x64, k):
    """Padded to whole vectors and searches, the padding never enters."""
    (gram, beta, sq_norm, init), _ = problem(k, 50, 7)
    codes, info = solve(mmf.ActiveSet(1e-10), gram, beta, lasso(0.3), sq_norm, init)
    assert codes.shape == (7, k)
    assert (info.gap <= 1e-10).all()
    assert (kkt_residual(gram, beta, lasso(0.3), np.asarray(codes)) < 1e-6).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_active_set_in_half_precision(dtype):
    (gram, beta, sq_norm, init), _ = problem(19, 11, 5)
    arrays = [jnp.asarray(np.asarray(a), dtype) for a in (gram, beta, sq_norm, init)]
    codes, _ = solve(mmf.ActiveSet(1e-2), arrays[0], arrays[1], lasso(0.5), arrays[2], arrays[3])
    gram, beta, sq_norm, init = (a.astype(jnp.float32) for a in arrays)
    expected, _ = solve(mmf.ActiveSet(1e-6), gram, beta, lasso(0.5), sq_norm, init)
    assert codes.dtype == dtype
    value, least = (objective(gram, beta, sq_norm, lasso(0.5), np.asarray(c, np.float64)) for c in (codes, expected))
    assert (value - least <= 0.05 * np.asarray(sq_norm)).all()


def test_nearly_equal_atoms_in_float32():
    """What the search can't tell apart is left to coordinate descent: the gap says how far that came."""
    base = jax.random.normal(jax.random.key(0), (20, 30))
    atoms = jnp.concatenate([base, base + 1e-3 * jax.random.normal(jax.random.key(1), base.shape)])
    atoms /= jnp.linalg.norm(atoms, axis=1, keepdims=True)
    x = jax.random.normal(jax.random.key(2), (64, 30))
    penalty = mmf.Lasso(0.05)
    codes, info = mmf.encode_with_info(atoms, x, penalty, solver=mmf.ActiveSet(1e-4))
    wide = [np.asarray(a, np.float64) for a in (atoms, x)]
    parts = wide[0] @ wide[0].T, wide[1] @ wide[0].T, (wide[1] ** 2).sum(1)
    with jax.enable_x64(True):
        best = mmf.encode(*wide, penalty, solver=mmf.ActiveSet(1e-12))
    value, least = (objective(*parts, penalty, np.asarray(c, np.float64)) for c in (codes, best))
    assert (value - least <= (info.gap + 1e-5) * np.maximum(value, parts[2] / 2000)).all()
    assert (value - least <= 1e-2 * value).all()


def test_active_set_is_one_kernel_on_cpu():
    """What makes it fast is an attribute that XLA obeys without a promise: look for the call in the program."""
    solver, penalty = mmf.ActiveSet(), mmf.Lasso(0.1)
    program = jax.jit(lambda d, x: mmf.encode(d, x, penalty, solver=solver)).lower(jnp.ones((6, 4)), jnp.ones((3, 4)))
    compiled = program.compile().as_text()
    entry = compiled[compiled.index("ENTRY") :]
    assert 'xla_cpu_small_call="true"' in entry
    assert " call(" in entry


def test_active_set_over_strengths_and_dictionaries():
    """vmap over problems solves them one after another."""
    dictionaries = jax.random.normal(jax.random.key(0), (3, 12, 8))
    x = jax.random.normal(jax.random.key(1), (3, 5, 8))
    alphas = jnp.array([0.1, 0.5, 2.0])
    one = lambda d, a, x: mmf.encode(d, x, mmf.Lasso(a), solver=mmf.ActiveSet())
    together = jax.jit(jax.vmap(one))(dictionaries, alphas, x)
    for codes, problem_ in zip(together, zip(dictionaries, alphas, x, strict=True), strict=True):
        np.testing.assert_allclose(codes, one(*problem_), atol=1e-5)


def test_supports_of_all_sizes(x64):
    """Samples with up to 32, 64 and more active atoms, in one batch: vectors of slots are used one after another."""
    (gram, beta, sq_norm, init), _ = problem(150, 200, 90)
    scale = jnp.asarray(np.geomspace(0.02, 1, 90))[:, None]
    beta, sq_norm = beta * scale, sq_norm * scale[:, 0] ** 2
    penalty = lasso(0.1)
    codes, info = solve(mmf.ActiveSet(1e-12, 20000), gram, beta, penalty, sq_norm, init)
    n_active = (codes != 0).sum(1)
    assert all(((n_active > low) & (n_active <= high)).any() for low, high in ((0, 32), (32, 64), (64, 150)))
    assert (kkt_residual(gram, beta, penalty, np.asarray(codes)) < 1e-5).all()
    assert (info.gap <= 1e-11).all()
