"""Sparse codes where supports are degenerate, weights are small, and samples are of any scale.

LARS of scikit-learn, which follows the whole path from the largest weight on, is the judge.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import lars_path

import jax_mmf as mmf


def lars(dictionary, x, alpha):
    """Codes by the homotopy: ``(n, k)``, in double precision."""
    paths = (lars_path(dictionary.T, row, alpha_min=alpha / row.size, method="lasso")[2] for row in x)
    return np.array([path[:, -1] for path in paths])


def objective(dictionary, x, codes, alpha):
    codes = np.asarray(codes, float)
    return np.mean(0.5 * ((x - codes @ dictionary) ** 2).sum(1) + alpha * np.abs(codes).sum(1))


def excess(dictionary, x, alpha, dtype="float64", **options):
    """How far codes are above the optimum, relative to it."""
    arrays = (a.astype(dtype) for a in (dictionary, x))
    codes = mmf.encode(*arrays, mmf.Lasso(alpha), **options)
    best = objective(dictionary, x, lars(dictionary, x, alpha), alpha)
    return objective(dictionary, x, codes, alpha) / best - 1


def gaussian(seed, k, p, n):
    rng = np.random.default_rng(seed)
    dictionary = rng.standard_normal((k, p))
    return dictionary / np.linalg.norm(dictionary, axis=1, keepdims=True), rng.standard_normal((n, p))


def test_the_smallest_case_of_a_combination_that_enters(x64):
    """Four atoms in three dimensions: once three are active, the fourth is a combination of them up to rounding."""
    rng = np.random.default_rng(36)
    dictionary, x = rng.standard_normal((4, 3)), rng.standard_normal((50, 3))[[40]]
    assert excess(dictionary, x, 1e-4) < 1e-9


@pytest.mark.parametrize("alpha", [0.01, 0.001])
def test_twice_as_many_atoms_as_features(x64, alpha):
    dictionary = np.random.default_rng(0).standard_normal((32, 16))
    x = np.random.default_rng(1).standard_normal((100, 16))
    assert excess(dictionary, x, alpha) < 1e-6
    right = {0.01: 0.0355843, 0.001: 0.0035665}[alpha]
    np.testing.assert_allclose(mmf.objective(dictionary, x, mmf.Lasso(alpha)), right, rtol=2e-5)


@pytest.mark.parametrize("share", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_more_atoms_than_features_at_all_weights(dtype, share):
    """In single precision, the gap of tiny weights is rounding."""
    dictionary, x = gaussian(5, 100, 64, 24)
    alpha = share * np.abs(x @ dictionary.T).max()
    allowed = 1e-6 if dtype == "float64" else {1e-4: 1e-3, 1e-5: 2e-2}.get(share, 1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if dtype == "float32" else "error", mmf.ConvergenceWarning)
        assert -1e-9 < excess(dictionary, x, alpha, dtype) < allowed


@pytest.mark.slow
@pytest.mark.parametrize(("k", "p"), [(512, 256), (256, 64)])
@pytest.mark.parametrize("share", [1e-3, 1e-4, 1e-5])
def test_many_atoms_at_small_weights(x64, k, p, share):
    dictionary, x = gaussian(6, k, p, 8)
    assert excess(dictionary, x, share * np.abs(x @ dictionary.T).max()) < 1e-6


@pytest.mark.parametrize("solver", [mmf.ActiveSet(), mmf.FISTA(), mmf.CoordinateDescent(), mmf.UnrolledFISTA(20)])
@pytest.mark.parametrize("penalty", [lambda c: mmf.Lasso(0.3 * c), lambda c: mmf.Lasso(0.3 * c, nonneg=True)])
@pytest.mark.parametrize("c", [2.0**-99, 2.0**-50, 2.0**50, 2.0**99])
def test_codes_are_homogeneous_over_sixty_powers_of_ten(solver, penalty, c):
    """c times the samples and c times the weight are c times the codes; squares of these samples are out of range."""
    dictionary, x = (a.astype("float32") for a in gaussian(0, 12, 20, 32))
    codes = mmf.encode(dictionary, x, penalty(1.0), solver=solver)
    scaled = mmf.encode(dictionary, np.float32(c) * x, penalty(c), solver=solver)
    np.testing.assert_allclose(np.asarray(scaled, float) / c, np.asarray(codes, float), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("c", [1e-30, 1e30])
def test_samples_of_any_scale_with_masks_and_derivatives(c):
    dictionary, x = (a.astype("float32") for a in gaussian(1, 12, 20, 32))
    c, mask = np.float32(c), np.random.default_rng(0).uniform(size=x.shape) > 0.3
    codes = mmf.encode(dictionary, x, mmf.Lasso(0.3), mask=mask)
    scaled = mmf.encode(dictionary, c * x, mmf.Lasso(0.3 * c), mask=mask)
    np.testing.assert_allclose(scaled / c, codes, rtol=1e-4, atol=1e-5)
    slope = lambda c: jax.grad(lambda d: mmf.encode(d, c * x, mmf.Lasso(0.3 * c)).sum() / c)(dictionary)
    np.testing.assert_allclose(slope(c), slope(np.float32(1)), rtol=1e-3, atol=1e-3)


def test_samples_of_zeros_among_small_ones():
    """A sample without a scale does not set that of the others."""
    dictionary, x = (a.astype("float32") for a in gaussian(2, 12, 20, 32))
    x[2] = 0
    small = np.float32(1e-30)
    codes = mmf.encode(dictionary, small * x, mmf.Lasso(0.3 * small))
    np.testing.assert_allclose(codes / small, mmf.encode(dictionary, x, mmf.Lasso(0.3)), rtol=1e-4, atol=1e-5)
    assert (mmf.encode(dictionary, np.zeros_like(x), mmf.Lasso(1e30)) == 0).all()


@pytest.mark.parametrize("c", [1e-30, 1e-19, 1e15, 1e30])
def test_explained_variance_has_no_scale(c):
    dictionary, x = (a.astype("float32") for a in gaussian(1, 12, 20, 32))
    share = mmf.explained_variance(dictionary, x, mmf.Lasso(0.1))
    scaled = mmf.explained_variance(dictionary, np.float32(c) * x, mmf.Lasso(0.1 * c))
    np.testing.assert_allclose(scaled, share, rtol=1e-5)


def test_objectives_keep_their_digits_up_to_the_ends_of_the_range():
    dictionary, x = (a.astype("float32") for a in gaussian(1, 4, 20, 32))
    value = float(mmf.objective(dictionary, x, mmf.Lasso(0.1)))
    for c in (1e-18, 1e18):
        scaled = mmf.objective(dictionary, np.float32(c) * x, mmf.Lasso(0.1 * c))
        np.testing.assert_allclose(float(scaled) / c**2, value, rtol=1e-5)
    assert np.isinf(mmf.objective(dictionary, np.float32(1e30) * x, mmf.Lasso(1e29)))


class TestConvergence:
    @pytest.mark.parametrize("alpha", [1e-4, 1e-5, 1e-6])
    def test_weights_too_small_for_single_precision_are_told(self, alpha):
        """Gaps are relative to the sample where the objective is small; so are those that are reported as solved."""
        dictionary = np.random.default_rng(0).standard_normal((32, 16)).astype("float32")
        x = np.random.default_rng(1).standard_normal((100, 16)).astype("float32")
        with pytest.warns(mmf.ConvergenceWarning, match="compute in float64"):
            codes, info = mmf.encode_with_info(dictionary, x, mmf.Lasso(alpha))
        codes = np.asarray(codes, float)
        each = 0.5 * ((x - codes @ dictionary) ** 2).sum(1) + alpha * np.abs(codes).sum(1)
        best = lars(dictionary.astype(float), x.astype(float), alpha)
        best = 0.5 * ((x - best @ dictionary) ** 2).sum(1) + alpha * np.abs(best).sum(1)
        assert (each <= 1.02 * best)[np.asarray(info.converged)].all()

    @pytest.mark.parametrize("solver", [None, mmf.FISTA(), mmf.CoordinateDescent()])
    def test_weights_that_are_nothing_beside_large_residuals_are_no_reason_to_warn(self, solver):
        """The scaled residual proves nothing here, and yet these are least squares up to rounding."""
        dictionary, x = (a.astype("float32") for a in gaussian(0, 4, 64, 20))
        codes = mmf.encode(dictionary, np.float32(1e6) * x, mmf.Lasso(0.1), solver=solver)  # warnings are errors here
        least_squares = np.linalg.lstsq(dictionary.T.astype(float), 1e6 * x.T.astype(float))[0].T
        np.testing.assert_allclose(codes, least_squares, rtol=1e-4, atol=1)

    def test_codes_that_are_not_solved_are_told_with_their_number_and_gap(self):
        dictionary, x = gaussian(3, 30, 20, 50)
        with pytest.warns(mmf.ConvergenceWarning, match=r"codes of 50 of 50 samples .* the largest gap is 1\.0e\+00"):
            mmf.encode(dictionary, x, mmf.Lasso(1e-3), solver=mmf.FISTA(max_iter=1))
        with pytest.warns(mmf.ConvergenceWarning):
            mmf.objective(dictionary, x, mmf.Lasso(1e-3), solver=mmf.CoordinateDescent(max_iter=1))

    def test_the_warning_points_at_the_caller(self):
        dictionary, x = gaussian(3, 30, 20, 2)
        for call in (mmf.encode, mmf.encode_with_info):
            with pytest.warns(mmf.ConvergenceWarning) as seen:
                call(dictionary, x, mmf.Lasso(1e-3), solver=mmf.FISTA(max_iter=1))
            assert seen[0].filename == __file__

    @pytest.mark.parametrize("solver", [mmf.ActiveSet, mmf.FISTA, mmf.CoordinateDescent])
    def test_converged_says_which_samples_are_within_tolerance(self, solver, dtype):
        dictionary, x = (a.astype(dtype) for a in gaussian(4, 12, 20, 8))
        x[3] = 0  # solved at once
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", mmf.ConvergenceWarning)
            _, info = mmf.encode_with_info(dictionary, x, mmf.Lasso(0.1), solver=solver(tol=1e-4))
            assert info.converged.all()
            assert (info.gap <= 1e-3).all()
            if solver is not mmf.ActiveSet:
                _, info = mmf.encode_with_info(dictionary, x, mmf.Lasso(1e-3), solver=solver(max_iter=1))
                np.testing.assert_array_equal(info.converged, np.arange(8) == 3)

    def test_no_warning_inside_of_a_transformation(self):
        dictionary, x = gaussian(3, 30, 20, 2)
        solve = lambda x: mmf.encode_with_info(dictionary, x, mmf.Lasso(1e-3), solver=mmf.FISTA(max_iter=1))
        _, info = jax.jit(solve)(x)  # warnings are errors here
        assert not info.converged.any()

    def test_a_solver_that_does_not_say_is_trusted(self):
        class Zeros:
            def solve(self, problem, penalty, init):
                gap = jnp.ones_like(problem.sq_norm)
                return jnp.zeros_like(init), mmf.SolveInfo(gap, gap.astype(jnp.int32))

        jax.tree_util.register_static(Zeros)
        dictionary, x = gaussian(3, 30, 20, 2)
        codes, info = mmf.encode_with_info(dictionary, x, mmf.Lasso(1e-3), solver=Zeros())
        assert (codes == 0).all()
        assert info.converged.all()


class TestNumbersThatAreNotFinite:
    def test_samples_are_named_as_in_fit(self):
        dictionary, x = gaussian(3, 30, 20, 50)
        x[7, 3] = np.nan
        for solver, penalty in ((None, mmf.Lasso(0.1)), (None, mmf.Ridge(0.1)), (mmf.FISTA(), mmf.Lasso(0.1))):
            with pytest.raises(ValueError, match="x holds nan at sample 7, feature 3; clean or impute"):
                mmf.encode(dictionary, x, penalty, solver=solver)
        x[7, 3] = np.inf
        with pytest.raises(ValueError, match="x holds inf at sample 7, feature 3"):
            mmf.objective(dictionary, x, mmf.Lasso(0.1))

    def test_what_a_mask_leaves_out_may_be_anything(self):
        dictionary, x = gaussian(3, 30, 20, 5)
        mask = np.ones_like(x)
        x[2, 3], mask[2, 3] = np.nan, 0
        assert np.isfinite(mmf.encode(dictionary, x, mmf.Lasso(0.1), mask=mask)).all()
        x[4, 1] = np.nan
        with pytest.raises(ValueError, match="x holds nan at sample 4, feature 1"):
            mmf.encode(dictionary, x, mmf.Lasso(0.1), mask=mask)

    def test_dictionary_and_mask_are_named(self):
        dictionary, x = gaussian(3, 30, 20, 5)
        with pytest.raises(ValueError, match="dictionary holds nan"):
            mmf.encode(np.full_like(dictionary, np.nan), x, mmf.Lasso(0.1))
        for bad in (np.nan, np.inf, -0.5):
            for shape in ((20,), (5, 20)):
                with pytest.raises(ValueError, match="mask must hold weights >= 0"):
                    mmf.encode(dictionary, x, mmf.Lasso(0.1), mask=np.full(shape, bad))

    @pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
    @pytest.mark.parametrize("solver", [mmf.ActiveSet(), mmf.FISTA(), mmf.CoordinateDescent()])
    def test_starts_are_refused_where_they_are_known_and_zeros_where_not(self, bad, solver):
        dictionary, x = gaussian(3, 30, 20, 5)
        start = np.zeros((5, 30))
        start[1, 2] = bad
        with pytest.raises(ValueError, match="init holds nan or infinity"):
            mmf.encode(dictionary, x, mmf.Lasso(0.1), solver=solver, init=start)
        traced = jax.jit(lambda i: mmf.encode(dictionary, x, mmf.Lasso(0.1), solver=solver, init=i))
        np.testing.assert_allclose(traced(start), traced(np.zeros((5, 30))), atol=1e-6)


@pytest.mark.parametrize("penalty", [mmf.Lasso(0.1), mmf.Ridge(0.1), mmf.Ridge(0.1, nonneg=True)])
def test_no_samples_are_no_codes(penalty):
    dictionary, x = gaussian(3, 12, 20, 5)
    codes, info = mmf.encode_with_info(dictionary, x[:0], penalty)
    assert codes.shape == (0, 12)
    assert info.gap.shape == info.n_iter.shape == info.converged.shape == (0,)
    assert jax.jit(lambda x: mmf.encode(dictionary, x, penalty))(x[:0]).shape == (0, 12)
    with pytest.raises(ValueError, match="at least one sample"):
        mmf.objective(dictionary, x[:0], penalty)


def test_samples_and_dictionary_in_the_order_of_scikit_learn():
    """The shapes fit either way: what tells is that the other one holds atoms."""
    dictionary, x = gaussian(3, 6, 20, 50)
    with pytest.warns(UserWarning, match=r"encode\(dictionary, x, penalty\)"):
        mmf.encode(x, dictionary, mmf.Ridge(0.1))
    mmf.encode(dictionary, x, mmf.Ridge(0.1))
    mmf.encode(dictionary, x[:2], mmf.Ridge(0.1))  # fewer samples than atoms are no sign


def test_dictionaries_without_atoms_and_weights_that_do_not_fit_are_named():
    dictionary, x = gaussian(3, 4, 20, 5)
    with pytest.raises(ValueError, match="dictionary must hold at least one atom"):
        mmf.encode(dictionary[:0], x, mmf.Lasso(0.1))
    with pytest.raises(ValueError, match=r"one for each of the 4 atoms; got l1 of shape \(3,\)"):
        mmf.encode(dictionary, x, mmf.Lasso(jnp.ones(3)))


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_numbers_in_arrays_of_jax_are_checked_as_others(bad):
    for make in (mmf.Lasso, mmf.Ridge, mmf.L2Ball, mmf.ScaledForgetting):
        with pytest.raises(ValueError, match=r"must be (finite|>)"):
            make(jnp.array(bad))


def test_data_whose_squares_are_lost_are_told_before_the_work():
    _, x = (np.float32(1e-20) * a.astype("float32") for a in gaussian(3, 4, 10, 200))
    with pytest.warns(UserWarning, match="whose square is lost in float32"):
        mmf.fit(mmf.OnlineFactorization(n_components=4, penalty=mmf.Lasso(1e-21)), x, key=jax.random.key(0))


def test_samples_one_at_a_time_are_told():
    _, x = gaussian(3, 4, 10, 8)
    solver = mmf.OnlineFactorization(n_components=4, penalty=mmf.Ridge(0.1))
    with pytest.warns(UserWarning, match="one sample at a time"):
        result = mmf.fit(solver, iter(x.astype("float32")), key=jax.random.key(0), batch_size=4)
    assert result.state.step == 8
