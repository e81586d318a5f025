"""Codes on the simplex: fully constrained least squares."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_mmf as mmf

K, P, N = 5, 12, 30


def problem(seed=0, dtype="float64", noise=0.05):
    rng = np.random.default_rng(seed)
    dictionary = rng.random((K, P))
    x = rng.dirichlet(np.full(K, 0.5), N) @ dictionary + noise * rng.standard_normal((N, P))
    return dictionary.astype(dtype), x.astype(dtype)


def brute_force(dictionary, x, total=1.0):
    """Solve the equality-constrained problem on every support, and take the best that is non-negative."""
    best = np.inf, None
    for size in range(1, len(dictionary) + 1):
        for support in map(list, combinations(range(len(dictionary)), size)):
            atoms = dictionary[support]
            system = np.block([[atoms @ atoms.T, np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
            found = np.linalg.solve(system, np.append(atoms @ x, total))[:size]
            if (found < 0).any():
                continue
            value = 0.5 * ((x - found @ atoms) ** 2).sum()
            if value < best[0]:
                code = np.zeros(len(dictionary))
                code[support] = found
                best = value, code
    return best[1]


@pytest.mark.parametrize("total", [1.0, 0.3, 2.0])
def test_codes_are_those_of_brute_force(x64, total):
    dictionary, x = problem(noise=0.3)
    codes, info = mmf.encode_with_info(dictionary, x, mmf.SimplexCodes(total))
    assert info.converged.all()
    assert 0.1 < (codes == 0).mean() < 0.9
    np.testing.assert_allclose(codes, [brute_force(dictionary, row, total) for row in x], atol=1e-5)
    np.testing.assert_allclose(codes.sum(1), total, rtol=1e-12)


def test_the_gap_bounds_the_error_of_the_objective(x64):
    dictionary, x = problem(1, noise=0.3)
    best = np.array([brute_force(dictionary, row) for row in x])
    value = lambda codes: 0.5 * ((x - codes @ dictionary) ** 2).sum(1)
    codes, info = mmf.encode_with_info(dictionary, x, mmf.SimplexCodes(), solver=mmf.UnrolledFISTA(5))
    error = (value(np.asarray(codes)) - value(best)) / np.maximum(value(np.asarray(codes)), (x**2).sum(1) / 2000)
    assert error.max() > 1e-3
    assert (np.asarray(info.gap) >= error - 1e-12).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=9), st.sampled_from([0.01, 1.0, 100.0]))
def test_prox_is_the_nearest_point(code, total):
    code = np.asarray(code, np.float32)
    point = np.asarray(mmf.SimplexCodes(total).prox(jnp.asarray(code), jnp.float32(1)), np.float64)
    assert (point >= 0).all()
    scale = np.float32(np.abs(code).max() + total)
    np.testing.assert_allclose(point.sum(), total, rtol=1e-5, atol=1e-6 * scale)
    # The residual is the same number on the support, and not larger elsewhere.
    residual = code - point
    assert np.ptp(residual[point > 0]) <= 1e-5 * scale
    assert (residual[point == 0] <= residual[point > 0].min() + 1e-5 * scale).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_similar_endmembers_are_solved(dtype, x64):
    # Smooth spectra with a condition number of 1.6e6: proximal steps alone are not done after 1,000 of them.
    bands = np.linspace(0, 1, 200)
    dictionary = np.stack([0.5 + 0.1 * np.sin(2 * np.pi * bands * (1 + 0.3 * i)) for i in range(8)])
    rng = np.random.default_rng(0)
    x = rng.dirichlet(np.full(8, 0.5), 500) @ dictionary + 0.001 * rng.standard_normal((500, 200))
    codes, info = mmf.encode_with_info(dictionary.astype(dtype), x.astype(dtype), mmf.SimplexCodes())
    assert info.converged.all()
    assert info.n_iter.max() < 800
    best = np.array([brute_force(dictionary, row) for row in x[:20]])
    value = lambda codes: 0.5 * ((x[:20] - codes @ dictionary) ** 2).sum(1)
    rounding = np.finfo(dtype).eps * (x**2).sum(1).max()
    np.testing.assert_allclose(value(np.asarray(codes[:20], np.float64)), value(best), atol=rounding, rtol=1e-5)
    # Nothing but rounding changes if the same vector is subtracted from samples and atoms.
    mean = dictionary.mean(0)
    centred = mmf.encode((dictionary - mean).astype(dtype), (x - mean).astype(dtype), mmf.SimplexCodes())
    np.testing.assert_allclose(value(np.asarray(centred[:20], np.float64)), value(best), atol=rounding / 1e3, rtol=1e-4)


def test_derivatives_of_both_orders(x64):
    dictionary, x = problem(2)
    value = lambda d, x, t: (mmf.encode(d, x, mmf.SimplexCodes(t)) ** 3).sum()
    slopes = jax.grad(value, (0, 1, 2))(dictionary, x, 1.0)
    rng, step, arguments = np.random.default_rng(3), 1e-6, (dictionary, x, np.float64(1.0))
    for i, slope in enumerate(slopes):
        direction = rng.standard_normal(np.shape(arguments[i]))
        moved = [[a + s * step * direction if i == j else a for j, a in enumerate(arguments)] for s in (1, -1)]
        want = (value(*moved[0]) - value(*moved[1])) / (2 * step)
        np.testing.assert_allclose((slope * direction).sum(), want, rtol=1e-5)
    direction = rng.standard_normal((K, P))
    along = lambda d: (jax.grad(value)(d, x, 1.0) * direction).sum()
    want = (along(dictionary + 1e-5 * direction) - along(dictionary - 1e-5 * direction)) / 2e-5
    np.testing.assert_allclose((jax.grad(along)(dictionary) * direction).sum(), want, rtol=1e-6)


def test_masks_vmap_and_samples_alone(x64):
    dictionary, x = problem(4)
    mask = np.random.default_rng(5).random((N, P)) < 0.7
    codes = mmf.encode(dictionary, np.where(mask, x, np.nan), mmf.SimplexCodes(), mask=mask)
    want = [brute_force(dictionary[:, seen], row[seen]) for row, seen in zip(x, mask, strict=True)]
    np.testing.assert_allclose(codes, want, atol=1e-5)
    whole = mmf.encode(dictionary, x, mmf.SimplexCodes())
    np.testing.assert_allclose(
        jax.vmap(lambda row: mmf.encode(dictionary, row, mmf.SimplexCodes()))(x), whole, atol=1e-6
    )
    np.testing.assert_allclose(mmf.encode(dictionary, x[0], mmf.SimplexCodes()), whole[0], atol=1e-6)


def test_degenerate_dictionaries():
    dictionary, x = problem(6, "float32")
    codes = mmf.encode(dictionary[:1], x, mmf.SimplexCodes(0.5))  # one atom
    np.testing.assert_allclose(codes, 0.5, rtol=1e-6)
    twice = np.concatenate([dictionary, dictionary])  # equal atoms
    codes, info = mmf.encode_with_info(twice, x, mmf.SimplexCodes())
    assert info.converged.all()
    np.testing.assert_allclose(codes @ twice, mmf.encode(dictionary, x, mmf.SimplexCodes()) @ dictionary, atol=1e-3)
    zeros = mmf.encode(np.zeros_like(dictionary), x, mmf.SimplexCodes())  # every code is optimal
    np.testing.assert_allclose(zeros.sum(1), 1, rtol=1e-6)
    assert jnp.isfinite(jax.grad(lambda d: mmf.encode(d, x, mmf.SimplexCodes()).sum())(twice)).all()


def test_value_tells_where_the_simplex_is():
    codes = jnp.array([[0.5, 0.5], [0.5, 0.4], [1.5, -0.5], [1.0, 0.0]])
    assert mmf.penalty_value(mmf.SimplexCodes(), codes).tolist() == [0, np.inf, np.inf, 0]


@pytest.mark.parametrize("total", [0.0, -1.0, np.nan])
def test_totals_that_make_no_sense(total):
    with pytest.raises(ValueError, match="total"):
        mmf.SimplexCodes(total)


def test_held_out_samples_in_several_pieces():
    _, x = problem(8, "float32")
    held_out = np.tile(x, (20, 1))[:515]  # two pieces, and a row that fills up the second
    solver = mmf.OnlineFactorization(
        n_components=3, penalty=mmf.SimplexCodes(), constraint=mmf.L2Ball(5.0, nonneg=True)
    )
    result = mmf.fit(solver, np.tile(x, (3, 1)), key=jax.random.key(0), held_out=held_out)
    want = float(mmf.objective(result.dictionary, held_out, mmf.SimplexCodes()))
    np.testing.assert_allclose(result.history[-1].objective, want, rtol=1e-5)


def test_fit_finds_mixtures():
    rng = np.random.default_rng(7)
    pure = np.abs(np.cumsum(rng.standard_normal((3, 40)), axis=1)).astype("float32") + 1
    abundances = rng.dirichlet(np.full(3, 0.4), 2000).astype("float32")
    x = abundances @ pure
    ball = mmf.L2Ball(radius=float((x**2).sum(1).max()), nonneg=True)
    solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.SimplexCodes(), constraint=ball)
    result = mmf.fit(solver, x, key=jax.random.key(0), n_epochs=10, held_out=101)
    assert result.history[-1].objective < 0.02 * result.history[0].objective
    assert mmf.explained_variance(result.dictionary, x, mmf.SimplexCodes()) > 0.999
    want = float(mmf.objective(result.dictionary, x, mmf.SimplexCodes()))
    np.testing.assert_allclose(
        float(mmf.objective(result.dictionary, x, mmf.SimplexCodes(), batch_size=300)), want, rtol=1e-3
    )


def test_total_is_one_number():
    with pytest.raises(TypeError, match="total must be a number, got RelativeAlpha"):
        mmf.SimplexCodes(mmf.RelativeAlpha(0.1))
    with pytest.raises(TypeError, match=r"one number for all samples, got an array of shape \(3,\)"):
        mmf.encode(np.eye(3), np.ones((3, 3)), mmf.SimplexCodes(np.ones(3)))
    totals = jnp.array([1.0, 2.0])  # those of several calls may be mapped over
    codes = jax.vmap(lambda t: mmf.encode(jnp.eye(3), jnp.ones(3), mmf.SimplexCodes(t)))(totals)
    np.testing.assert_allclose(codes, [[1 / 3] * 3, [2 / 3] * 3], rtol=1e-6)


@pytest.mark.parametrize("solver", [mmf.CoordinateDescent(), mmf.ActiveSet()])
def test_solvers_of_weighted_penalties_name_the_penalty(solver):
    with pytest.raises(TypeError, match="got SimplexCodes with value and prox; use FISTA"):
        mmf.encode(jnp.eye(3), jnp.ones((2, 3)), mmf.SimplexCodes(), solver=solver)
