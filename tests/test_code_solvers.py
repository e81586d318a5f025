"""Code solvers, against optimality conditions, very precise solutions, scikit-learn and SciPy."""

import jax
import numpy as np
import pytest
from code_problems import (
    ITERATIVE,
    KINDS,
    PENALTIES,
    SHAPES,
    SOLVERS,
    kkt_residual,
    lasso,
    objective,
    oracle,
    penalty_for,
    problem,
    solve,
)
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import sparse_encode

import jax_mmf as mmf
from jax_mmf.codes.solvers import default_code_solver
from jax_mmf.extending import CodeProblem, relative_gap


def cases():
    for solver in SOLVERS:
        for name in ["ridge"] if solver == "cholesky" else PENALTIES:
            for masked in (False, True):
                for shape in ("k<p", "k>p") if masked else SHAPES:
                    yield name, solver, masked, shape


@pytest.mark.parametrize(("name", "solver", "masked", "shape"), list(cases()))
def test_codes_are_optimal_and_those_of_others(x64, name, solver, masked, shape):
    """The conditions of optimality, and the codes of scikit-learn or SciPy."""
    penalty = penalty_for(solver, name)
    args, origin = problem(*SHAPES[shape], 3, masked)
    gram, beta, sq_norm, init = args
    codes, info = solve(SOLVERS[solver], gram, beta, penalty, sq_norm, init)
    assert codes.shape == init.shape
    assert info.gap.shape == info.n_iter.shape == (3,)
    assert (info.gap <= 1e-12).all()
    # An objective within eps of the best leaves the root of that in the slope.
    assert (kkt_residual(gram, beta, penalty, np.asarray(codes)) < 1e-6).all()
    dictionary, x, mask = origin
    expected = np.stack([oracle(dictionary, x[i], mask[i], penalty) for i in range(3)])
    np.testing.assert_allclose(codes, expected, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("solver", ITERATIVE)
@pytest.mark.parametrize("b", [1, 200])
def test_codes_do_not_depend_on_the_batch(x64, b, solver, masked):
    """Batches are cut in half as samples converge: each sample still gets its own codes, in its own place."""
    penalty = PENALTIES["elastic net"]
    (gram, beta, sq_norm, init), _ = problem(19, 11, b, masked)
    codes, info = solve(SOLVERS[solver], gram, beta, penalty, sq_norm, init)
    assert (kkt_residual(gram, beta, penalty, np.asarray(codes)) < 1e-6).all()
    assert (info.gap <= 1e-12).all()
    assert b == 1 or info.n_iter.min() < info.n_iter.max()
    first = 3 if b > 1 else 1
    alone, _ = solve(
        SOLVERS[solver], gram[:first] if masked else gram, beta[:first], penalty, sq_norm[:first], init[:first]
    )
    np.testing.assert_allclose(codes[:first], alone, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("solver", ITERATIVE)
def test_reported_gap_bounds_the_error(x64, solver, masked):
    """Gaps relative to the objective are what they say, at every tolerance, and reach it, for a large batch."""
    (gram, beta, sq_norm, init), _ = problem(19, 11, 200, masked)
    penalty = PENALTIES["lasso"]
    best, _ = solve(SOLVERS["cd"], gram, beta, penalty, sq_norm, init)
    for tol in (1e-2, 1e-6):
        made = KINDS[solver](tol, max_iter=20000)
        codes, info = solve(made, gram, beta, penalty, sq_norm, init)
        value, least = (objective(gram, beta, sq_norm, penalty, np.asarray(c)) for c in (codes, best))
        scale = np.maximum(value, sq_norm / 2000)
        assert (value - least <= info.gap * scale + 1e-13 * sq_norm).all()
        assert (info.gap <= tol + 1e-11).all()
        measured = relative_gap(CodeProblem(gram, beta, sq_norm), penalty, codes)
        np.testing.assert_allclose(measured, info.gap, rtol=1e-6, atol=1e-13)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", PENALTIES)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.0, 1e-3, 1.0, 1e3]), alpha=st.sampled_from([1e-3, 0.3, 5.0]))
def test_gap_of_any_codes_bounds_the_error(name, seed, scale, alpha):
    """Weak duality holds for every code, not only for those that solvers come by."""
    kind = PENALTIES[name]
    penalty = mmf.ElasticNet(alpha, kind.l1_ratio, kind.nonneg)
    (gram, beta, sq_norm, init), _ = problem(6, 15, 3, seed=seed)
    best, _ = solve(SOLVERS["cd"], gram, beta, penalty, sq_norm, init)
    noise = scale * np.random.default_rng(seed).standard_normal(best.shape)
    codes = np.asarray(best + noise)
    codes = np.abs(codes) if kind.nonneg else codes
    gap = np.asarray(relative_gap(CodeProblem(gram, beta, sq_norm), penalty, codes))
    value, least = (objective(gram, beta, sq_norm, penalty, np.asarray(c)) for c in (codes, best))
    denominator = np.maximum(value, sq_norm / 2000)
    assert (gap >= 0).all()
    assert (value - least <= gap * denominator + 1e-13 * (sq_norm + value)).all()
    assert scale > 0 or (gap < 1e-12).all()


def test_gap_without_penalty_holds_for_codes_of_twice_the_norm(x64):
    (gram, beta, sq_norm, _), _ = problem(6, 15, 50)
    penalty = mmf.Ridge(0.0)
    best = np.linalg.solve(gram, beta.T).T
    codes = best + 0.1 * np.random.default_rng(0).standard_normal(best.shape)
    covered = np.abs(best).sum(1) <= 2 * np.abs(codes).sum(1)
    assert covered.all()
    gap = relative_gap(CodeProblem(gram, beta, sq_norm), penalty, codes)
    value, least = (objective(gram, beta, sq_norm, penalty, c) for c in (codes, best))
    assert (value - least <= gap * np.maximum(value, sq_norm / 2000) + 1e-13).all()


@pytest.mark.parametrize("b", [3, 200])
@pytest.mark.parametrize("solver", ["cd", "fista"])
def test_too_few_iterations_are_reported(x64, solver, b):
    (gram, beta, sq_norm, init), _ = problem(19, 11, b)
    made = mmf.CoordinateDescent(1e-10, max_iter=2) if solver == "cd" else mmf.FISTA(1e-10, max_iter=2)
    _, info = solve(made, gram, beta, lasso(0.01), sq_norm, init)
    assert (info.gap > 1e-10).all()
    assert (info.n_iter == 2).all()


@pytest.mark.parametrize("max_iter", [1, 2, 3])
@pytest.mark.parametrize("kind", [mmf.CoordinateDescent, mmf.FISTA])
def test_max_iter_is_the_largest_number(x64, kind, max_iter):
    """Odd numbers as well."""
    (gram, beta, sq_norm, init), _ = problem(19, 11, 3)
    _, info = solve(kind(0.0, max_iter), gram, beta, lasso(0.01), sq_norm, init)
    assert (info.n_iter == max_iter).all()


@pytest.mark.parametrize("kind", [mmf.CoordinateDescent, mmf.FISTA])
def test_tolerance_zero_goes_on(x64, kind):
    (gram, beta, sq_norm, init), _ = problem(6, 15, 3)
    _, info = solve(kind(0.0, 300), gram, beta, lasso(0.5), sq_norm, init)
    assert (info.n_iter == 300).any()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("kind", "first_check"), [(mmf.CoordinateDescent, 2), (mmf.FISTA, 8)])
@pytest.mark.parametrize("name", ["lasso", "elastic net, nonneg"])
def test_a_warm_start_from_the_solution_is_over_at_once(x64, name, kind, first_check, masked):
    penalty = PENALTIES[name]
    (gram, beta, sq_norm, init), _ = problem(19, 11, 3, masked)
    best, cold = solve(kind(1e-14, 20000), gram, beta, penalty, sq_norm, init)
    again, info = solve(kind(1e-9, 20000), gram, beta, penalty, sq_norm, best)
    assert (info.n_iter <= first_check).all()
    assert cold.n_iter.max() > 10
    np.testing.assert_allclose(again, best, atol=1e-6)  # a gap of 1e-14 leaves the root of that in the codes


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("solver", ITERATIVE)
@pytest.mark.parametrize("name", PENALTIES)
def test_any_start_leads_to_the_same_codes(x64, name, solver, masked):
    """Starts far off, of the wrong sign, and infeasible ones where codes are non-negative."""
    penalty = PENALTIES[name]
    (gram, beta, sq_norm, init), _ = problem(6, 15, 3, masked)
    expected, _ = solve(SOLVERS["cd"], gram, beta, penalty, sq_norm, init)
    found, _ = solve(SOLVERS[solver], gram, beta, penalty, sq_norm, init - 30.0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["lasso", "lasso, nonneg"])
def test_sparse_encode_of_scikit_learn(x64, name):
    """The whole batch at once, of the penalties that scikit-learn has there."""
    penalty = PENALTIES[name]
    (gram, beta, sq_norm, init), (dictionary, x, _) = problem(19, 11, 64)
    expected = sparse_encode(x, dictionary, algorithm="lasso_cd", alpha=0.5, positive=penalty.nonneg, max_iter=100000)
    codes, _ = solve(SOLVERS["cd"], gram, beta, penalty, sq_norm, init)
    value, theirs = (objective(gram, beta, sq_norm, penalty, np.asarray(c)) for c in (codes, expected))
    # It stops at 1e-4 of |x|^2 / n, and can't be told to go on.
    assert (value <= theirs + 1e-12).all()
    np.testing.assert_allclose(value, theirs, rtol=1e-3)


@pytest.mark.parametrize("gain", [1e-6, 1e6])
def test_units_do_not_matter(x64, gain):
    """Samples in other units, with the strength in the same: the codes follow, in as many iterations."""
    (gram, beta, sq_norm, init), _ = problem(19, 11, 3)
    for kind in (mmf.CoordinateDescent, mmf.FISTA):
        made = kind(1e-10, 20000)
        codes, info = solve(made, gram, beta, lasso(0.5), sq_norm, init)
        other, scaled = solve(made, gram, gain * beta, lasso(0.5 * gain), gain**2 * sq_norm, init)
        np.testing.assert_allclose(other / gain, codes, atol=1e-6)
        assert (np.abs(scaled.n_iter - info.n_iter) <= 2).all()


def test_default_solver():
    assert isinstance(default_code_solver(mmf.Ridge(0.1)), mmf.Cholesky)
    for penalty in (mmf.Ridge(0.1, nonneg=True), mmf.Lasso(0.1), mmf.ElasticNet(0.1, 0.5)):
        made = default_code_solver(penalty, tol=1e-3, max_iter=7)
        assert (type(made), made.tol, made.max_iter) == (mmf.ActiveSet, 1e-3, 7)


@pytest.mark.parametrize("kind", [mmf.CoordinateDescent, mmf.FISTA])
def test_bad_settings_are_named(kind):
    for tol in (-1e-3, float("nan")):
        with pytest.raises(ValueError, match="tol"):
            kind(tol=tol)
    with pytest.raises(ValueError, match="max_iter"):
        kind(max_iter=0)
    with pytest.raises(TypeError, match="tol"):
        kind(tol="small")


def test_kinds_have_different_structures():
    """jit finds compiled code by the structure of its arguments: equal ones run the code of each other."""
    assert jax.tree.structure(mmf.CoordinateDescent()) != jax.tree.structure(mmf.FISTA())
