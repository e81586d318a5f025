"""Code solvers on degenerate data, bad numbers, in single precision, and with weights per atom."""

import jax.numpy as jnp
import numpy as np
import pytest
from code_problems import ITERATIVE, SOLVERS, USUAL, kkt_residual, oracle, penalty_for, problem, solve

import jax_mmf as mmf

DEGENERATE = ("zero atom", "zero dictionary", "equal atoms", "opposite atoms", "zero sample", "zeros")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_degenerate_data_give_optimal_codes(dtype, solver, masked):
    """Zero and equal atoms and zero samples, with no penalty, a usual one and a huge one."""
    eps = float(jnp.finfo(dtype).eps)
    made = USUAL[solver]()
    for case in DEGENERATE:
        _, (dictionary, x, mask) = problem(6, 15, 3, masked)
        if case == "zero atom":
            dictionary[2] = 0
        elif case == "equal atoms":
            dictionary[3] = dictionary[1]
        elif case == "opposite atoms":
            dictionary[3] = -dictionary[1]
        if case in ("zero dictionary", "zeros"):
            dictionary[:] = 0
        if case in ("zero sample", "zeros"):
            x[1] = 0
        gram = np.einsum("kp,bp,lp->bkl", dictionary, mask, dictionary)
        parts = (gram if masked else gram[0], (mask * x) @ dictionary.T, (mask * x**2).sum(1), np.zeros((3, 6)))
        gram, beta, sq_norm, init = (jnp.asarray(part, dtype) for part in parts)
        for alpha in (0.0, 0.5, 1e30):
            for penalty in (
                [mmf.Ridge(alpha)]
                if solver == "cholesky"
                else [mmf.ElasticNet(alpha, *more) for more in ((1.0, False), (1.0, True), (0.0, True))]
            ):
                codes, info = solve(made, gram, beta, penalty, sq_norm, init)
                message = f"{case}, {penalty}"
                assert jnp.isfinite(codes).all(), message
                assert jnp.isfinite(info.gap).all(), message
                if case in ("zero sample", "zeros"):
                    assert (codes[1] == 0).all(), message
                wide = [np.asarray(v, float) for v in (gram, beta, codes)]
                residual = kkt_residual(wide[0], wide[1], penalty, wide[2])
                # The tolerance of the gap is 1e-6 of the objective, which is at most 1/2 |x|^2; the square of the
                # slope's violation is at most twice the gap times the largest curvature, which is below 4.
                bound = np.sqrt(8 * (1e-6 + 32 * eps) * np.maximum(np.asarray(sq_norm), 1))
                assert alpha == 1e30 or (residual <= bound).all(), f"{message}: {residual} > {bound}"
                assert alpha < 1e30 or (np.abs(codes) < 1e-20).all(), message


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("b", [3, 64])
def test_nan_in_a_sample_stays_there(x64, solver, masked, b):
    penalty = penalty_for(solver)
    (gram, beta, sq_norm, init), _ = problem(6, 15, b, masked)
    expected, _ = solve(SOLVERS[solver], gram, beta, penalty, sq_norm, init)
    beta, sq_norm = beta.at[1].set(jnp.nan), sq_norm.at[1].set(jnp.nan)
    grams = [gram, gram.at[1].set(jnp.nan)] if masked else [gram]
    others = np.arange(b) != 1
    for one in grams:
        codes, info = solve(SOLVERS[solver], one, beta, penalty, sq_norm, init)
        if solver == "cholesky":
            assert jnp.isnan(codes[1]).all()
        else:  # codes may be those of the start
            assert jnp.isnan(info.gap[1])
        np.testing.assert_allclose(codes[others], expected[others], atol=1e-8)
        assert jnp.isfinite(info.gap[others]).all()


def test_nan_in_a_sample_does_not_make_others_singular(x64):
    """Cholesky without a penalty: a sample that is NaN next to one whose own Gram matrix is singular."""
    (gram, beta, sq_norm, init), _ = problem(6, 15, 3, masked=True)
    gram, beta = gram.at[2, 4].set(0).at[2, :, 4].set(0), beta.at[2, 4].set(0)
    expected, _ = solve(mmf.Cholesky(), gram, beta, mmf.Ridge(0.0), sq_norm, init)
    assert jnp.isfinite(expected).all()
    codes, _ = solve(mmf.Cholesky(), gram.at[1].set(jnp.nan), beta.at[1].set(jnp.nan), mmf.Ridge(0.0), sq_norm, init)
    np.testing.assert_allclose(codes[jnp.array([0, 2])], expected[jnp.array([0, 2])], rtol=1e-9)


@pytest.mark.parametrize("shape", ["k>p", "equal atoms", "zero atom"])
def test_cholesky_of_a_singular_matrix_has_nearly_least_norm(x64, shape):
    """As promised: against the pseudo-inverse, whose codes have the least norm."""
    rng = np.random.default_rng(0)
    dictionary = rng.standard_normal((19, 11) if shape == "k>p" else (6, 15))
    if shape == "equal atoms":
        dictionary[3] = dictionary[1]
    elif shape == "zero atom":
        dictionary[3] = 0
    x = rng.standard_normal((3, dictionary.shape[1]))
    least = x @ np.linalg.pinv(dictionary)
    args = (dictionary @ dictionary.T, x @ dictionary.T, mmf.Ridge(0.0), (x**2).sum(1), np.zeros(least.shape))
    codes, _ = solve(mmf.Cholesky(), *(jnp.asarray(a) if isinstance(a, np.ndarray) else a for a in args))
    np.testing.assert_allclose(codes @ dictionary, least @ dictionary, atol=1e-10)
    # Rounding of the Gram matrix is amplified by a tenth of its inverse size at most: 10 k eps is added.
    assert (np.linalg.norm(codes, axis=1) <= 1.1 * np.linalg.norm(least, axis=1)).all()


def test_cholesky_of_a_sample_is_its_own(x64):
    """A sample without any feature, whose Gram matrix is zero, changes nothing for the others."""
    rng = np.random.default_rng(0)
    dictionary = rng.standard_normal((6, 6)) + 1e-4 * np.eye(6)
    dictionary[5] = dictionary[4] + 1e-5 * rng.standard_normal(6)  # regular, but not by much
    x = rng.standard_normal((2, 6))
    gram = np.stack([dictionary @ dictionary.T, np.zeros((6, 6))])
    beta = x @ dictionary.T
    beta[1] = 0
    args = [jnp.asarray(a) for a in (gram, beta, (x**2).sum(1), np.zeros((2, 6)))]
    together, _ = solve(mmf.Cholesky(), args[0], args[1], mmf.Ridge(0.0), *args[2:])
    alone, _ = solve(mmf.Cholesky(), args[0][:1], args[1][:1], mmf.Ridge(0.0), args[2][:1], args[3][:1])
    np.testing.assert_allclose(together[0], alone[0], rtol=1e-9)
    assert (together[1] == 0).all()


def test_cholesky_refuses_what_it_cannot_solve():
    args, _ = problem(6, 15, 3, dtype=jnp.float32)
    for penalty in (mmf.Lasso(0.1), mmf.ElasticNet(0.1, 0.0), mmf.Ridge(0.1, nonneg=True)):
        with pytest.raises(TypeError, match="Cholesky"):
            solve(mmf.Cholesky(), args[0], args[1], penalty, *args[2:])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_single_precision(solver, masked):
    penalty = penalty_for(solver, "elastic net")
    (gram, beta, sq_norm, init), origin = problem(19, 11, 64, masked, dtype=jnp.float32)
    made = USUAL[solver]()
    codes, info = solve(made, gram, beta, penalty, sq_norm, init)
    assert codes.dtype == info.gap.dtype == jnp.float32
    dictionary, x, mask = origin
    expected = np.stack([oracle(dictionary, x[i], mask[i], penalty) for i in range(3)])
    # A gap of 1e-6 of the objective, about 10, leaves sqrt(2 gap / l2) in the codes; l2 is 0.18 or more.
    np.testing.assert_allclose(codes[:3], expected, atol=1e-2 if solver != "cholesky" else 1e-4)
    assert (info.gap <= 1e-6 + 8e-6 * 4).all()
    assert info.n_iter.max() < 1000


def test_strengths_of_each_atom(x64):
    """Arrays of one alpha per atom: against scikit-learn, on atoms divided by their strengths."""
    (gram, beta, sq_norm, init), (dictionary, x, mask) = problem(6, 15, 3)
    alphas = np.array([0.1, 0.4, 0.2, 0.8, 0.3, 0.5])
    expected = np.stack([oracle(dictionary / alphas[:, None], v, mask[0], mmf.Lasso(1.0)) for v in x]) / alphas
    for solver in ITERATIVE.values():
        codes, _ = solve(solver, gram, beta, mmf.Lasso(jnp.asarray(alphas)), sq_norm, init)
        np.testing.assert_allclose(codes, expected, atol=1e-6)
    ridge, _ = solve(mmf.Cholesky(), gram, beta, mmf.Ridge(jnp.asarray(alphas)), sq_norm, init)
    np.testing.assert_allclose(ridge, np.linalg.solve(gram + np.diag(alphas), beta.T).T, rtol=1e-10)


def test_some_atoms_without_penalty(x64):
    """A strength of zero for some atoms only."""
    (gram, beta, sq_norm, init), _ = problem(6, 15, 3)
    for l1_ratio in (1.0, 0.0):
        penalty = mmf.ElasticNet(jnp.array([0.5, 0.0, 0.0, 0.5, 0.5, 0.5]), l1_ratio, nonneg=True)
        for solver in ITERATIVE.values():
            codes, _ = solve(solver, gram, beta, penalty, sq_norm, init)
            slope = beta - codes @ gram - penalty.l1 - penalty.l2 * codes
            violation = np.where(codes > 0, np.abs(slope), np.maximum(slope, 0))
            assert violation.max() < 1e-6
