"""Code solvers, against optimality conditions, very precise solutions, scikit-learn and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CODE_SOLVERS as KINDS
from helpers import OwnISTA
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls
from sklearn import linear_model
from sklearn.decomposition import sparse_encode

import jax_mmf as mmf
from jax_mmf.codes.duality import relative_gap
from jax_mmf.codes.solvers import default_code_solver

# One class, so that all of a sign share programs: solvers see two weights and `nonneg`. See test_penalties.py.
PENALTIES = {
    "ridge": mmf.ElasticNet(0.5, 0.0),
    "lasso": mmf.ElasticNet(0.5, 1.0),
    "elastic net": mmf.ElasticNet(0.6, 0.7),
    "ridge, nonneg": mmf.ElasticNet(0.5, 0.0, nonneg=True),
    "lasso, nonneg": mmf.ElasticNet(0.5, 1.0, nonneg=True),
    "elastic net, nonneg": mmf.ElasticNet(0.6, 0.7, nonneg=True),
}
# As many iterations as it takes to get to rounding, and a tolerance that is just above it.
ITERATIVE = {name: kind(tol=1e-14, max_iter=50000 if name == "fista" else 20000) for name, kind in KINDS.items()}
SOLVERS = {**ITERATIVE, "cholesky": mmf.Cholesky(), "own": OwnISTA(20000)}
USUAL = {**KINDS, "cholesky": mmf.Cholesky, "own": OwnISTA}  # as they are by default
SHAPES = {"k<p": (6, 15), "k>p": (19, 11), "k=1": (1, 9)}

lasso = lambda alpha: mmf.ElasticNet(alpha, 1.0)
solve = jax.jit(lambda solver, *args: solver.solve(*args))


def problem(k, p, b, masked=False, seed=0, dtype=float):
    """Gram matrix or matrices, correlations, squared norms and zeros to start from, with what they come from."""
    rng = np.random.default_rng(seed)
    dictionary, x = rng.standard_normal((k, p)), rng.standard_normal((b, p))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    x = x + 2 * rng.standard_normal((b, k)) * (rng.random((b, k)) < 0.3) @ dictionary
    mask = (rng.random((b, p)) < 0.7) if masked else np.ones((1, p))
    gram = np.einsum("kp,bp,lp->bkl", dictionary, mask, dictionary)
    parts = (gram if masked else gram[0], (mask * x) @ dictionary.T, (mask * x**2).sum(1), np.zeros((b, k)))
    return [jnp.asarray(part, dtype) for part in parts], (dictionary, x, np.broadcast_to(mask, x.shape))


def weights(penalty):
    return float(penalty.l1), float(penalty.l2)


def kkt_residual(gram, beta, penalty, codes):
    """Largest violation of the conditions of optimality: (b,)."""
    l1, l2 = weights(penalty)
    slope = beta - np.einsum("...kl,...l->...k", gram, codes) - l2 * codes
    if penalty.nonneg:
        assert (codes >= 0).all()
        violation = np.where(codes > 0, np.abs(slope - l1), np.maximum(slope - l1, 0))
    else:
        violation = np.where(codes != 0, np.abs(slope - l1 * np.sign(codes)), np.maximum(np.abs(slope) - l1, 0))
    return violation.max(-1)


def objective(gram, beta, sq_norm, penalty, codes):
    l1, l2 = weights(penalty)
    quadratic = (np.einsum("...kl,...l->...k", gram, codes) * codes).sum(1)
    linear = (codes * beta).sum(1)
    return sq_norm / 2 - linear + quadratic / 2 + l1 * np.abs(codes).sum(1) + l2 / 2 * (codes**2).sum(1)


def oracle(dictionary, x, mask, penalty):
    """Codes of one sample by a solver of somebody else, in double precision."""
    l1, l2 = weights(penalty)
    root = np.sqrt(mask)
    design, target = (dictionary * root).T, x * root
    k = design.shape[1]
    if l1 == 0 and not penalty.nonneg:
        return linear_model.Ridge(alpha=l2, fit_intercept=False).fit(design, target).coef_
    # The l2 penalty as more features; then, with a >= 0, the l1 penalty is linear, and goes into the target.
    design, target = np.vstack([design, np.sqrt(l2) * np.eye(k)]), np.append(target, np.zeros(k))
    if penalty.nonneg and l1 == 0:
        return nnls(design, target)[0]
    n = len(target)  # scikit-learn divides the squared error by it
    model = linear_model.Lasso(alpha=l1 / n, fit_intercept=False, positive=penalty.nonneg, tol=1e-14, max_iter=100000)
    return model.fit(design, target).coef_


def penalty_for(solver, name="lasso"):
    """A penalty by name; Cholesky, which is for ridge alone, is told the class."""
    return mmf.Ridge(0.5) if solver == "cholesky" else PENALTIES[name]


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
        image = jnp.einsum("...kl,...l->...k", gram, codes)
        np.testing.assert_allclose(relative_gap(penalty, beta, image, codes, sq_norm), info.gap, rtol=1e-6, atol=1e-13)


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
    gap = np.asarray(relative_gap(penalty, beta, codes @ gram, codes, sq_norm))
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
    gap = relative_gap(penalty, beta, codes @ gram, codes, sq_norm)
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
            mmf.Cholesky().solve(args[0], args[1], penalty, *args[2:])


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
