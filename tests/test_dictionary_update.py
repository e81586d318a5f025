"""Updates of the dictionary on a fixed surrogate, against formulas, each other, and what they promise."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CONSTRAINTS, DICTIONARY_UPDATES
from hypothesis import given

import jax_mmf as mmf
from jax_mmf.core.linalg import map_rows
from jax_mmf.learning.dictionary_update import DictionaryProblem
from jax_mmf.learning.surrogate import BatchMoments

every_constraint = pytest.mark.parametrize("constraint", CONSTRAINTS.values(), ids=CONSTRAINTS)


def make_problem(k, p, constraint, *, seed=0, dense=0.0, budget=1.0, subset=None):
    """Atoms within their budgets, and statistics of codes that share a part ``dense`` with each other."""
    rng = np.random.default_rng(seed)
    codes = rng.standard_normal((3 * k + 5, k)) * (rng.random((3 * k + 5, k)) < 0.4) + dense
    c = codes.T @ codes / len(codes)
    b = c @ rng.standard_normal((k, p)) + rng.standard_normal((k, p)) / 3
    budgets = jnp.full(k, budget)
    atoms = project_all(constraint, jnp.asarray(rng.standard_normal((k, p))), budgets)
    subset = mmf.FullSubset().draw(jax.random.key(0), jnp.zeros((), jnp.int32), p) if subset is None else subset
    c, b = jnp.asarray(c), jnp.asarray(b)
    return atoms, DictionaryProblem(c, b, BatchMoments(c, b), budgets, subset)


def surrogate(problem, atoms):
    c, b, atoms = (np.asarray(array) for array in (problem.c, problem.b, atoms))
    return np.sum(atoms * (c @ atoms)) / 2 - np.sum(atoms * b)


@jax.jit
def project_all(constraint, atoms, budgets):
    return jax.vmap(constraint.project)(atoms, budgets)


gauge = jax.jit(lambda constraint, atoms: constraint.gauge(atoms))


def updated(update, atoms, problem, constraint, state=None):
    return _updated(update, atoms, problem, constraint, update.init(atoms) if state is None else state)


@functools.partial(jax.jit, static_argnames="update")
def _updated(update, atoms, problem, constraint, state):
    return update.update(jax.random.key(3), atoms, problem, constraint, state)


@every_constraint
@given(
    shape=st.sampled_from([(1, 7), (6, 1), (9, 12)]),  # each compiles
    seed=st.integers(0, 10**6), dense=st.sampled_from([0.0, 0.3, 3.0]),
    name=st.sampled_from(["projected gradient", "accelerated", "own"]),
)  # fmt: skip
def test_gradient_steps_never_raise_the_surrogate_and_stay_feasible(constraint, shape, seed, dense, name):
    k, p = shape
    with jax.enable_x64(True):
        atoms, problem = make_problem(k, p, constraint, seed=seed, dense=dense)
        update, state = DICTIONARY_UPDATES[name], None
        for _ in range(4):
            before = surrogate(problem, atoms)
            atoms, state = updated(update, atoms, problem, constraint, state)
            if name != "accelerated":  # momentum may overshoot
                assert surrogate(problem, atoms) <= before + 1e-9 * (1 + abs(before))
            assert (np.asarray(gauge(constraint, atoms)) <= 1 + 1e-9).all()


@every_constraint
@pytest.mark.parametrize("n_steps", [1, 5])
def test_all_updates_end_at_the_same_dictionary(x64, constraint, n_steps):
    """The surrogate is strictly convex: its minimum is one dictionary, whoever finds it."""
    start, problem = make_problem(6, 8, constraint, dense=0.2)
    found = []
    for update in (mmf.BlockCoordinateDescent(n_sweeps=10), mmf.ProjectedGradient(n_steps)):
        atoms, state = start, None
        for _ in range(300):
            atoms, state = updated(update, atoms, problem, constraint, state)
        found.append(np.asarray(atoms))
    np.testing.assert_allclose(found[1], found[0], atol=1e-7)


def test_one_step_is_the_formula(x64):
    """With the leading eigenvector as its state, one step of the l2 ball against NumPy."""
    atoms, problem = make_problem(7, 11, mmf.L2Ball(), dense=0.5)
    c, b, d = (np.asarray(array) for array in (problem.c, problem.b, atoms))
    scale = 1 / np.sqrt(np.diag(c))
    values, vectors = np.linalg.eigh(scale[:, None] * c * scale)
    moved = d + (b - c @ d) * scale[:, None] ** 2 / (1.1 * values[-1])
    expected = moved / np.maximum(1, np.linalg.norm(moved, axis=1, keepdims=True))
    new, state = updated(mmf.ProjectedGradient(), atoms, problem, mmf.L2Ball(), jnp.asarray(vectors[:, -1]))
    np.testing.assert_allclose(new, expected, atol=1e-12)
    np.testing.assert_allclose(np.abs(state), np.abs(vectors[:, -1]), atol=1e-12)


def test_eigenvector_is_found_over_the_steps(x64):
    """From ones, which is no eigenvector of codes of both signs."""
    atoms, problem = make_problem(30, 5, mmf.L2Ball())
    c = np.asarray(problem.c)
    scale = 1 / np.sqrt(np.diagonal(c))
    vectors = np.linalg.eigh(scale[:, None] * c * scale)[1]
    state = None
    for _ in range(60):
        _, state = updated(mmf.ProjectedGradient(), atoms, problem, mmf.L2Ball(), state)
    assert abs(state @ vectors[:, -1]) > 1 - 1e-4


def test_atoms_that_do_not_meet_are_solved_exactly_up_to_the_margin(x64):
    """With a diagonal C, nothing but the margin of 1.1 keeps a step from the minimum."""
    atoms, problem = make_problem(4, 6, mmf.L2Ball(100.0))
    problem = problem._replace(c=jnp.diag(jnp.asarray([1.0, 2.0, 1e-3, 5.0])), budget=jnp.full(4, 1e9))
    new, _ = updated(mmf.ProjectedGradient(), atoms, problem, mmf.L2Ball(100.0))
    best = problem.b / jnp.diagonal(problem.c)[:, None]
    np.testing.assert_allclose(new, atoms + (best - atoms) / 1.1, rtol=1e-10)


@every_constraint
@pytest.mark.parametrize("update", DICTIONARY_UPDATES.values(), ids=DICTIONARY_UPDATES)
def test_atoms_without_codes_stay_as_they_are(constraint, update):
    atoms, problem = make_problem(6, 9, constraint)
    used = jnp.asarray([True, False, True, True, False, True])
    both = used[:, None] & used
    problem = problem._replace(c=jnp.where(both, problem.c, 0), b=jnp.where(used[:, None], problem.b, 0))
    new, _ = updated(update, atoms, problem, constraint)
    np.testing.assert_array_equal(new[~used], atoms[~used])
    assert (new[used] != atoms[used]).any(1).all()
    nothing = problem._replace(c=jnp.zeros_like(problem.c), b=jnp.zeros_like(problem.b))
    same, state = updated(update, atoms, nothing, constraint)
    np.testing.assert_array_equal(same, atoms)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("constraint", [mmf.L2Ball(), mmf.L1Ball()], ids=["l2", "l1"])
def test_many_features_in_tiles_are_as_few_at_once(constraint):
    """2^16 + 9 features are updated in tiles, with a ragged one at the end: the formula all the same."""
    p = 2**16 + 9
    atoms, problem = make_problem(3, p, constraint, budget=0.7)
    new, _ = updated(mmf.ProjectedGradient(), atoms, problem, constraint)
    c, b, start = (np.asarray(array) for array in (problem.c, problem.b, atoms))
    scale = 1 / np.sqrt(np.diagonal(c))
    vector = np.ones(3) / np.sqrt(3)
    for _ in range(4):
        image = (c * scale[:, None] * scale) @ vector
        vector = image / np.linalg.norm(image)
    rate = scale**2 / (1.1 * np.linalg.norm(image))
    moved = jnp.asarray(start + rate[:, None] * (b - c @ start))
    expected = project_all(constraint, moved, problem.budget)
    np.testing.assert_allclose(new, expected, atol=1e-5)


@every_constraint
def test_columns_that_are_no_features_stay_zero(constraint):
    """The last block of a subset may be filled up."""
    draws = (mmf.BlockSubset(2, 2).draw(jax.random.key(1), jnp.asarray(step), 13) for step in range(99))
    subset = next(s for s in draws if not s.valid.all())
    atoms, problem = make_problem(4, subset.size, constraint, subset=subset)
    atoms, problem = subset.drop_invalid(atoms), problem._replace(b=subset.drop_invalid(problem.b))
    new, _ = updated(mmf.ProjectedGradient(), atoms, problem, constraint)
    assert (new[:, ~np.asarray(subset.valid)] == 0).all()
    valid = np.asarray(subset.valid)
    part = make_problem(4, int(valid.sum()), constraint)[1]._replace(
        c=problem.c, b=problem.b[:, valid], budget=problem.budget
    )
    alone, _ = updated(mmf.ProjectedGradient(), atoms[:, valid], part, constraint)
    np.testing.assert_allclose(new[:, valid], alone, atol=1e-6)


def test_gradients_and_vmap_of_a_step(x64):
    atoms, problem = make_problem(3, 5, mmf.L1Ball())

    def loss(b, n_steps=3):
        return jnp.sum(updated(mmf.ProjectedGradient(n_steps), atoms, problem._replace(b=b), mmf.L1Ball())[0] ** 2)

    direction = jnp.asarray(np.random.default_rng(1).standard_normal(problem.b.shape))
    step = 1e-6
    slope = (loss(problem.b + step * direction) - loss(problem.b - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(jax.jit(jax.grad(loss))(problem.b) * direction), slope, rtol=1e-6)
    several = jnp.stack([problem.b, 2 * problem.b, direction])
    np.testing.assert_allclose(jax.jit(jax.vmap(loss))(several), [loss(b) for b in several], rtol=1e-10)


def test_learns_from_ragged_batches_and_in_one_sample_batches():
    x = np.random.default_rng(0).standard_normal((50, 20)).astype(np.float32)
    update = mmf.ProjectedGradient()
    solver = mmf.OnlineFactorization(
        n_components=4, penalty=mmf.Ridge(0.1), constraint=mmf.L2Ball(), dictionary_update=update
    )
    state = solver.init(jax.random.key(0), samples=x)
    for batch in (x[:32], x[32:49], x[49:], x[49]):
        state, info = solver.update(state, batch)
        assert info.finite
    assert (jnp.sum(state.dictionary**2, 1) <= 1 + 1e-5).all()


@pytest.mark.parametrize("k", [1, 2, 5, 7])
@pytest.mark.parametrize("s", [1, 9_000, 40_000])
def test_map_rows_is_vmap_and_touches_each_row_once(k, s):
    rows = jnp.asarray(np.random.default_rng(0).standard_normal((k, s)), jnp.float32)
    more = jnp.arange(1.0, k + 1), jnp.arange(k) % 2 == 0
    function = lambda row, factor, flag: jnp.where(flag, row * factor, row + jnp.sum(row))
    expected = jax.vmap(function)(rows, *more)
    np.testing.assert_allclose(map_rows(function, rows, *more), expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(jax.jit(lambda r: map_rows(function, r, *more))(rows), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2"])
def test_bad_numbers_of_steps(bad):
    with pytest.raises((ValueError, TypeError), match="n_steps"):
        mmf.ProjectedGradient(bad)


@pytest.mark.parametrize("k", [1, 2, 31, 400])
def test_every_order_visits_each_atom_once(k):
    for order in ("random", "cyclic"):
        visited = mmf.BlockCoordinateDescent(order).atom_order(jax.random.key(k), k)
        np.testing.assert_array_equal(np.sort(visited), np.arange(k))


def test_random_orders_are_all_as_likely():
    n, draw = 12_000, jax.vmap(lambda key: mmf.BlockCoordinateDescent().atom_order(key, 3))
    keys = jax.random.split(jax.random.key(0), n)
    _, counts = np.unique(draw(keys), axis=0, return_counts=True)
    assert counts.size == 6
    assert np.abs(counts - n / 6).max() < 5 * np.sqrt(n * 5 / 36)
