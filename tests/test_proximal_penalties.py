"""Penalties that are known by their value and their proximal operator only."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mmf as mmf

K, P, N, SIZE = 6, 15, 20, 2


@mmf.register_configuration
@dataclass(frozen=True)
class GroupLasso:
    alpha: float
    size: int = field(default=SIZE, metadata={"static": True})

    def value(self, code):
        squares = jnp.sum(code.reshape(-1, self.size) ** 2, axis=1)
        return self.alpha * jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0).sum()

    def prox(self, code, step):
        groups = code.reshape(-1, self.size)
        squares = jnp.sum(groups**2, axis=1, keepdims=True)
        norms = jnp.sqrt(jnp.where(squares > 0, squares, 1))
        return (jnp.where(squares > 0, jnp.maximum(1 - step * self.alpha / norms, 0), 0) * groups).reshape(-1)


@mmf.register_configuration
@dataclass(frozen=True)
class LassoByProx:
    """The lasso without its weights: what `FISTA` gives must be what it gives for `Lasso`."""

    alpha: float

    def value(self, code):
        return self.alpha * jnp.abs(code).sum()

    def prox(self, code, step):
        return jnp.sign(code) * jnp.maximum(jnp.abs(code) - step * self.alpha, 0)


@pytest.fixture
def data(dtype):
    rng = np.random.default_rng(0)
    dictionary = rng.standard_normal((K, P))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    return dictionary.astype(dtype), rng.standard_normal((N, P)).astype(dtype)


def test_codes_meet_the_conditions_of_optimality(data, dtype):
    dictionary, x = data
    codes, info = mmf.encode_with_info(dictionary, x, GroupLasso(0.7))
    assert info.converged.all()
    slopes = ((x - codes @ dictionary) @ dictionary.T).reshape(N, -1, SIZE)
    groups = np.asarray(codes).reshape(N, -1, SIZE)
    norms = np.linalg.norm(groups, axis=-1, keepdims=True)
    on = norms[..., 0] > 0
    assert 0.2 < on.mean() < 0.8
    error = 5e-6 if dtype == "float64" else 2e-5
    np.testing.assert_allclose(slopes[on], (0.7 * groups / np.where(norms > 0, norms, 1))[on], atol=error)
    assert (np.linalg.norm(slopes, axis=-1)[~on] <= 0.7 + error).all()


def test_codes_in_orthonormal_atoms_have_a_closed_form(x64):
    rng = np.random.default_rng(1)
    atoms = np.linalg.qr(rng.standard_normal((P, K)))[0].T
    x = rng.standard_normal((N, P))
    groups = (x @ atoms.T).reshape(N, -1, SIZE)
    norms = np.linalg.norm(groups, axis=-1, keepdims=True)
    want = (np.maximum(1 - 0.7 / norms, 0) * groups).reshape(N, K)
    np.testing.assert_allclose(mmf.encode(atoms, x, GroupLasso(0.7)), want, atol=1e-6)


@pytest.mark.parametrize("solver", [mmf.FISTA(tol=1e-9), mmf.UnrolledFISTA(300)], ids=["FISTA", "UnrolledFISTA"])
def test_codes_are_those_of_the_penalty_with_weights(x64, solver):
    rng = np.random.default_rng(2)
    dictionary, x = rng.standard_normal((K, P)), 1e3 * rng.standard_normal((N, P))
    want = mmf.encode(dictionary, x, mmf.Lasso(900.0), solver=mmf.ActiveSet(1e-12))
    assert 0.2 < (want == 0).mean() < 0.8
    np.testing.assert_allclose(mmf.encode(dictionary, x, LassoByProx(900.0), solver=solver), want, atol=1e-3)


def test_masks_samples_alone_and_vmap(x64):
    rng = np.random.default_rng(3)
    dictionary, x, mask = rng.standard_normal((K, P)), rng.standard_normal((N, P)), rng.random((N, P)) < 0.7
    solver = mmf.FISTA(tol=1e-10)
    want = mmf.encode(dictionary, x, mmf.Lasso(0.5), mask=mask, solver=mmf.ActiveSet(1e-12))
    together = mmf.encode(dictionary, x, LassoByProx(0.5), mask=mask, solver=solver)
    np.testing.assert_allclose(together, want, atol=1e-7)
    alone = mmf.encode(dictionary, x[3], LassoByProx(0.5), mask=mask[3], solver=solver)
    np.testing.assert_allclose(alone, want[3], atol=1e-7)
    alphas = jnp.array([0.1, 0.5])
    both = jax.vmap(lambda a: mmf.encode(dictionary, x, LassoByProx(a), solver=solver))(alphas)
    for alpha, codes in zip(alphas, both, strict=True):
        np.testing.assert_allclose(codes, mmf.encode(dictionary, x, mmf.Lasso(alpha)), atol=1e-5)


def test_zero_samples_have_zero_codes(data):
    codes, info = mmf.encode_with_info(data[0], 0 * data[1], GroupLasso(0.7))
    assert (codes == 0).all()
    assert (info.gap == 0).all()


def test_value_and_prox_take_codes_of_any_shape(x64):
    codes = np.random.default_rng(4).standard_normal((2, 3, K))
    penalty = GroupLasso(0.7)
    value, prox = mmf.penalty_value(penalty, codes), mmf.penalty_prox(penalty, codes, 0.5)
    for place in np.ndindex(2, 3):
        np.testing.assert_allclose(value[place], penalty.value(codes[place]), rtol=1e-12)
        np.testing.assert_allclose(prox[place], penalty.prox(codes[place], 0.5), rtol=1e-12)


def test_objective_is_that_of_its_definition(data):
    dictionary, x = data
    codes = mmf.encode(dictionary, x, GroupLasso(0.7))
    left = 0.5 * ((x - codes @ dictionary) ** 2).sum(1)
    norms = np.linalg.norm(np.asarray(codes).reshape(N, -1, SIZE), axis=-1).sum(1)
    np.testing.assert_allclose(mmf.objective(dictionary, x, GroupLasso(0.7)), (left + 0.7 * norms).mean(), rtol=1e-5)
    explained = 1 - 2 * left.sum() / (x**2).sum()
    np.testing.assert_allclose(mmf.explained_variance(dictionary, x, GroupLasso(0.7)), explained, rtol=1e-4)


def test_unrolled_derivatives_are_those_of_finite_differences(x64):
    rng = np.random.default_rng(5)
    dictionary, x = rng.standard_normal((K, P)) / 4, rng.standard_normal((4, P))
    solver = mmf.UnrolledFISTA(200)
    value = lambda d, a: (mmf.encode(d, x, GroupLasso(a), solver=solver) ** 3).sum()
    by_dictionary, by_alpha = jax.grad(value, (0, 1))(dictionary, 0.2)
    step, direction = 1e-6, rng.standard_normal((K, P))
    slope = (value(dictionary + step * direction, 0.2) - value(dictionary - step * direction, 0.2)) / (2 * step)
    assert abs(slope) > 1e-2
    np.testing.assert_allclose((by_dictionary * direction).sum(), slope, rtol=1e-4)
    slope = (value(dictionary, 0.2 + step) - value(dictionary, 0.2 - step)) / (2 * step)
    np.testing.assert_allclose(by_alpha, slope, rtol=1e-4)


def test_derivatives_of_the_objective(x64):
    rng = np.random.default_rng(8)
    dictionary, x = rng.standard_normal((K, P)) / 4, rng.standard_normal((4, P))
    value = lambda d, a: mmf.objective(d, x, GroupLasso(a), solver=mmf.UnrolledFISTA(200))
    slopes, slope = jax.grad(value, (0, 1))(dictionary, 0.9)
    assert (mmf.encode(dictionary, x, GroupLasso(0.9)) == 0).any()  # groups of zeros have a derivative, too
    step, direction = 1e-6, rng.standard_normal((K, P))
    want = (value(dictionary + step * direction, 0.9) - value(dictionary - step * direction, 0.9)) / (2 * step)
    np.testing.assert_allclose((slopes * direction).sum(), want, rtol=1e-5)
    want = (value(dictionary, 0.9 + step) - value(dictionary, 0.9 - step)) / (2 * step)
    np.testing.assert_allclose(slope, want, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-15, 1e-10, 1e10, 1e18])
def test_samples_of_any_size(scale):
    rng = np.random.default_rng(9)
    dictionary, x = rng.standard_normal((K, P)).astype("float32"), rng.standard_normal((N, P)).astype("float32")
    want = mmf.encode(dictionary, x, GroupLasso(2.0))
    codes, info = mmf.encode_with_info(dictionary, np.float32(scale) * x, GroupLasso(np.float32(2 * scale)))
    assert info.converged.all()
    assert 0 < (want == 0).mean() < 1
    np.testing.assert_allclose(codes / np.float32(scale), want, atol=1e-4)


@pytest.mark.parametrize("penalty", [GroupLasso, LassoByProx])
def test_implicit_derivatives_are_those_of_finite_differences(x64, penalty):
    rng = np.random.default_rng(10)
    dictionary, x = rng.standard_normal((K, P)) / 4, rng.standard_normal((4, P))
    value = lambda d, x, a: (mmf.encode(d, x, penalty(a), solver=mmf.FISTA(1e-13, 20000)) ** 3).sum()
    slopes = jax.grad(value, (0, 1, 2))(dictionary, x, 0.4)
    assert (mmf.encode(dictionary, x, penalty(0.4)) == 0).any()
    step, given = 1e-6, (dictionary, x, np.float64(0.4))
    for i, slope in enumerate(slopes):
        direction = rng.standard_normal(np.shape(given[i]))
        moved = [[a + sign * step * direction if i == j else a for j, a in enumerate(given)] for sign in (1, -1)]
        want = (value(*moved[0]) - value(*moved[1])) / (2 * step)
        assert abs(want) > 1e-2
        np.testing.assert_allclose((slope * direction).sum(), want, rtol=1e-6)


def test_implicit_derivatives_are_those_of_the_penalty_with_weights(x64):
    rng = np.random.default_rng(11)
    dictionary, x = rng.standard_normal((K, P)) / 4, rng.standard_normal((4, P))
    direction = rng.standard_normal((K, P))

    def curvature(penalty):
        slope = lambda d: (jax.grad(lambda d: (mmf.encode(d, x, penalty) ** 3).sum())(d) * direction).sum()
        return jax.grad(slope)(dictionary)

    np.testing.assert_allclose(curvature(LassoByProx(0.3)), curvature(mmf.Lasso(0.3)), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("solver", [mmf.ActiveSet(), mmf.CoordinateDescent(), mmf.Cholesky()], ids=repr)
def test_solvers_that_need_weights_say_so(solver):
    with pytest.raises(TypeError, match=f"{type(solver).__name__} solves"):
        mmf.encode(jnp.eye(2), jnp.ones(2), GroupLasso(0.1), solver=solver)


def test_fit_lowers_the_objective_and_leaves_groups_unused():
    rng = np.random.default_rng(6)
    x = (rng.standard_normal((200, 4)) @ rng.standard_normal((4, P))).astype("float32")
    solver = mmf.OnlineFactorization(n_components=K, penalty=GroupLasso(0.5))
    assert solver.step_forgetting == mmf.ScaledForgetting(8.0)
    result = mmf.fit(solver, x, key=jax.random.key(0), n_epochs=5, batch_size=32, held_out=40, evaluate_every=1)
    assert result.history[-1].objective < 0.9 * result.history[0].objective
    codes = np.asarray(result.encode(x)).reshape(-1, K // SIZE, SIZE)
    used = (codes != 0).any(-1)
    assert (used == (codes != 0).all(-1)).all()  # the two codes of a group are zero together
    assert 0 < used.mean() < 1


def test_strength_that_is_too_large_warns():
    solver = mmf.OnlineFactorization(n_components=4, penalty=GroupLasso(1e4))
    with pytest.warns(UserWarning, match="learned nothing.*weaken the penalty"):
        mmf.fit(solver, np.eye(8, dtype="float32"), key=jax.random.key(0), batch_size=4)


class Half:
    def value(self, code):
        return 0.0


class Unregistered(GroupLasso):
    pass


@pytest.mark.parametrize(
    ("penalty", "reason"),
    [
        (None, "penalty must be a penalty with l1, l2, nonneg"),
        (1, "penalty must be a penalty with l1, l2, nonneg"),
        (GroupLasso, "the class itself; call it"),
        (Half(), "penalty must be a proximal penalty with value, prox; got .* without prox"),
        (Unregistered(0.1), "penalty must be a pytree: decorate Unregistered"),
    ],
)
def test_what_is_not_a_penalty_is_refused(penalty, reason):
    with pytest.raises(TypeError, match=reason):
        mmf.OnlineFactorization(n_components=2, penalty=penalty)
    with pytest.raises(TypeError, match=reason):
        mmf.encode(jnp.eye(2), jnp.ones(2), penalty)


def test_relative_alpha_is_for_penalties_that_have_it():
    solver = mmf.OnlineFactorization(n_components=2, penalty=GroupLasso(mmf.RelativeAlpha(0.1)))
    with pytest.raises(TypeError, match="give GroupLasso a number"):
        mmf.fit(solver, np.eye(4, dtype="float32"), key=jax.random.key(0))


def test_solver_of_an_encode_can_be_chosen():
    solver = mmf.OnlineFactorization(n_components=2, penalty=GroupLasso(0.1))
    slope = jax.grad(lambda x: solver.encode(jnp.eye(2), x, solver=mmf.UnrolledFISTA(50)).sum())(jnp.ones(2))
    assert jnp.isfinite(slope).all()


# Penalties with weights that say that they have no l1 part


@mmf.register_configuration
@dataclass(frozen=True)
class WeightedRidge:
    alpha: object
    nonneg: bool = field(default=False, metadata={"static": True})
    l1 = 0.0
    ridge = True

    @property
    def l2(self):
        return self.alpha


@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("partial_b", [False, True])
def test_a_ridge_penalty_of_ones_own_has_the_defaults_of_ridge(nonneg, partial_b):
    own, known = (
        mmf.OnlineFactorization(n_components=3, penalty=penalty, partial_b=partial_b)
        for penalty in (WeightedRidge(0.3, nonneg), mmf.Ridge(0.3, nonneg))
    )
    assert own.step_forgetting == known.step_forgetting
    weight = jnp.float32(0.02)
    assert repr(own.step_code_solver(weight)) == repr(known.step_code_solver(weight))


def test_a_ridge_penalty_of_ones_own_is_solved_and_differentiated_in_closed_form(x64):
    rng = np.random.default_rng(7)
    dictionary, x, alphas = rng.standard_normal((K, P)), rng.standard_normal((N, P)), rng.uniform(0.1, 1, K)
    codes, info = mmf.encode_with_info(dictionary, x, WeightedRidge(jnp.asarray(alphas)))
    want = np.linalg.solve(dictionary @ dictionary.T + np.diag(alphas), dictionary @ x.T).T
    np.testing.assert_allclose(codes, want, rtol=1e-10)
    assert (info.n_iter == 1).all()
    slope = jax.grad(lambda a: mmf.encode(dictionary, x, WeightedRidge(a))[0].sum())(jnp.asarray(alphas))
    inverse = np.linalg.inv(dictionary @ dictionary.T + np.diag(alphas))
    np.testing.assert_allclose(slope, -inverse.sum(0) * want[0], rtol=1e-9)
