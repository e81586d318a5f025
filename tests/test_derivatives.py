"""Derivatives of codes, of projections and of learning, against finite differences, formulas and equal problems."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_coding import PENALTIES, TIGHT, K, N, P, encode, every_penalty, problem

import jax_mmf as mmf


def arguments(name, masked):
    """All the arguments that codes are differentiated in: a dict, of which a finite difference moves one direction."""
    dictionary, x = problem(1)
    args = {"dictionary": dictionary, "x": x, "alpha": np.array(0.3)}
    if "elastic" in name:
        args["l1_ratio"] = np.array(0.6)
    if masked:
        args["mask"] = np.random.default_rng(2).uniform(0.3, 1.5, (P,) if masked == "one" else (N, P))
    return {key: jnp.asarray(value) for key, value in args.items()}


def codes_of(name):
    """A function of the arguments."""
    kind, nonneg = type(PENALTIES[name]), PENALTIES[name].nonneg

    def function(args):
        ratio = (args["l1_ratio"],) if "l1_ratio" in args else ()
        penalty = kind(args["alpha"], *ratio, nonneg=nonneg)
        return encode(args["dictionary"], args["x"], penalty, name, mask=args.get("mask"))

    return function


def moved(args, direction, step):
    return jax.tree.map(lambda a, d: a + step * d, args, direction)


def directions(args, seed=7):
    """A random direction in each of the arguments, one at a time."""
    rng = np.random.default_rng(seed)
    for key in args:
        yield key, {k: jnp.asarray(rng.standard_normal(a.shape) * (k == key)) for k, a in args.items()}


def difference(function, args, direction, step=1e-5):
    return (function(moved(args, direction, step)) - function(moved(args, direction, -step))) / (2 * step)


def four_points(function, args, direction, step=1e-4):
    """Derivative along a direction to fourth order; of codes that are exact, as they are under differentiation."""
    value = lambda n: jax.jvp(function, (moved(args, direction, n * step),), (direction,))[0]
    near, far = (jax.tree.map(jnp.subtract, value(n), value(-n)) for n in (1, 2))
    return jax.tree.map(lambda u, v: (8 * u - v) / (12 * step), near, far)


def assert_close(found, expected, message):
    """To 1e-6 of the largest entry, and there is something to see."""
    found, expected = (np.concatenate([np.ravel(a) for a in jax.tree.leaves(t)]) for t in (found, expected))
    assert np.abs(expected).max() > 1e-4, f"nothing to see: {message}"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max(), err_msg=message)


def as_called(how, name):
    """The codes of a batch as a function of all arguments: at once, jitted, or by vmap over its samples."""
    function = codes_of(name)
    if how == "vmapped":

        def each(args):
            per_sample = {key: 0 if key in ("x", "mask") else None for key in args}
            return jax.vmap(function, (per_sample,))(args)

        return each
    return jax.jit(function) if how == "jitted" else function


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "elastic net")) for n in PENALTIES])
def test_derivatives_in_every_argument(x64, name):
    """In the dictionary, the samples, the penalty and the mask: forward, reverse, and forward over reverse.

    Each jitted, and under vmap over the samples; and at once, where calls are traced anew, in all arguments together.
    """
    args = arguments(name, "each")
    jitted = as_called("jitted", name)
    codes = jitted(args)
    support = codes != 0
    assert name == "ridge" or (support.any() and not support.all())
    weights = jnp.asarray(np.random.default_rng(3).standard_normal(codes.shape))
    loss_of = lambda function: lambda a: jnp.sum(weights * jnp.sin(function(a)))
    first_difference = jax.jit(lambda a, d: four_points(jitted, a, d))
    second_difference = jax.jit(lambda a, d: four_points(jax.grad(loss_of(jitted)), a, d))
    expected = {
        key: (direction, first_difference(args, direction), second_difference(args, direction))
        for key, direction in directions(args)
    }
    together = [jax.tree.map(lambda *parts: sum(parts), *of_all) for of_all in zip(*expected.values(), strict=True)]
    for how in ("plain", "jitted", "vmapped"):
        function = as_called(how, name)
        compiled = (lambda f: f) if how == "plain" else jax.jit
        gradient = compiled(jax.grad(loss_of(function)))
        forward = compiled(lambda a, d, function=function: jax.jvp(function, (a,), (d,))[1])
        twice = compiled(lambda a, d, gradient=gradient: jax.jvp(gradient, (a,), (d,))[1])
        at_args = gradient(args)
        for key, (direction, first, second) in ({"all": together} if how == "plain" else expected).items():
            found = forward(args, direction)
            assert_close(found, first, f"forward, {key}, {how}")
            assert (found[~support] == 0).all()
            pairing = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), at_args, direction)))
            reverse = jnp.sum(weights * jnp.cos(codes) * first)
            np.testing.assert_allclose(pairing, reverse, rtol=1e-6, atol=1e-9, err_msg=f"reverse, {key}, {how}")
            assert_close(twice(args, direction), second, f"second, {key}, {how}")


@pytest.mark.parametrize("name", ["ridge", "lasso", "elastic net, nonneg"])
def test_reverse_over_reverse(x64, name):
    """The Hessian by two passes backwards is the one by a pass forwards over one backwards."""
    args = arguments(name, "one")
    gradient = jax.grad(lambda a: jnp.sum(jnp.sin(codes_of(name)(a))))
    forward = jax.jit(lambda a, d: jax.jvp(gradient, (a,), (d,))[1])
    reverse = jax.jit(lambda a, d: jax.grad(lambda b: sum(map(jnp.vdot, *map(jax.tree.leaves, (gradient(b), d)))))(a))
    for key, direction in directions(args):
        for part, wanted in zip(
            *map(jax.tree.leaves, (reverse(args, direction), forward(args, direction))), strict=True
        ):
            np.testing.assert_allclose(part, wanted, atol=1e-9 * (1 + jnp.abs(wanted).max()), err_msg=key)


@pytest.mark.parametrize("name", ["ridge", "elastic net"])
def test_derivatives_under_vmap(x64, name):
    """vmap of grad, over samples and over alphas, and grad of vmap: a loop of gradients."""
    args, function = arguments(name, None), codes_of(name)
    loss = lambda x, alpha: jnp.sum(function(args | {"x": x, "alpha": alpha}) ** 3)
    both = jax.grad(loss, argnums=(0, 1))
    alphas = jnp.array([0.1, 0.3, 0.5])
    expected = [both(v, a) for v, a in zip(args["x"], alphas, strict=True)]
    mapped = jax.jit(jax.vmap(both))(args["x"], alphas)
    for i in range(N):
        np.testing.assert_allclose(mapped[0][i], expected[i][0], atol=1e-6)
        np.testing.assert_allclose(mapped[1][i], expected[i][1], atol=1e-6)
    outside = jax.jit(jax.grad(lambda x: jnp.sum(jax.vmap(loss)(x, alphas))))(args["x"])
    np.testing.assert_allclose(outside, [e[0] for e in expected], atol=1e-6)
    jacobian = jax.jit(jax.jacfwd(function))(args)["x"]
    # Codes of a sample depend on this sample only.
    for i in range(N):
        for j in range(N):
            assert i == j or (jacobian[i, :, j] == 0).all()


def test_derivative_of_ridge_in_closed_form(x64):
    dictionary, x = problem()
    alpha = 0.3
    matrix = dictionary @ dictionary.T + alpha * np.eye(K)
    codes = np.linalg.solve(matrix, dictionary @ x[0])
    by_x, by_alpha, by_d = jax.jacrev(lambda v, a, d: mmf.encode(d, v, mmf.Ridge(a)), argnums=(0, 1, 2))(
        x[0], alpha, dictionary
    )
    np.testing.assert_allclose(by_x, np.linalg.solve(matrix, dictionary), atol=1e-12)
    np.testing.assert_allclose(by_alpha, -np.linalg.solve(matrix, codes), atol=1e-12)
    inverse, residual = np.linalg.inv(matrix), x[0] - codes @ dictionary
    expected = np.einsum("ij,p->ijp", inverse, residual) - np.einsum("ip,j->ijp", inverse @ dictionary, codes)
    np.testing.assert_allclose(by_d, expected, atol=1e-12)


def test_derivative_of_ridge_in_single_precision():
    """As accurate as the codes are: the rounding of the Gram matrix, times its condition."""
    rng = np.random.default_rng(0)
    dictionary = rng.standard_normal((64, 256)) / 16
    x = rng.standard_normal(256)
    expected = np.linalg.solve(dictionary @ dictionary.T, dictionary)
    condition = np.linalg.cond(dictionary @ dictionary.T)
    narrow = jnp.asarray(dictionary, jnp.float32)
    found = jax.jacrev(lambda v: mmf.encode(narrow, v, mmf.Ridge(0.0)))(jnp.asarray(x, jnp.float32))
    error = np.linalg.norm(found - expected, 2) / np.linalg.norm(expected, 2)
    assert error < 8 * condition * np.finfo(np.float32).eps


def test_derivatives_per_atom_strengths(x64):
    dictionary, x = problem(1)
    alphas = jnp.linspace(0.2, 0.5, K)
    for kind in (mmf.Lasso, mmf.Ridge):
        function = jax.jit(lambda a, kind=kind: mmf.encode(dictionary, x, kind(a), solver=TIGHT))
        jacobian = jax.jacrev(function)(alphas)
        for j, unit in enumerate(np.eye(K)):
            np.testing.assert_allclose(jacobian[..., j], difference(function, alphas, unit), atol=1e-5)


def test_whole_numbers_in_penalties(x64):
    """Integers have no derivative, and do not stop those of the others."""
    dictionary, x = problem(1)
    whole = jax.grad(lambda d: mmf.encode(d, x, mmf.Lasso(1), solver=TIGHT).sum())(dictionary)
    real = jax.grad(lambda d: mmf.encode(d, x, mmf.Lasso(1.0), solver=TIGHT).sum())(dictionary)
    np.testing.assert_allclose(whole, real, rtol=1e-12)


@pytest.mark.parametrize("nonneg", [False, True])
def test_zero_codes_have_zero_derivatives(dtype, nonneg):
    dictionary, x = (jnp.asarray(v, dtype) for v in problem())
    loss = lambda d, v, a: jnp.sum(mmf.encode(d, v, mmf.Lasso(a, nonneg)) + 1)
    gradient = jax.grad(loss, argnums=(0, 1, 2))(dictionary, x, jnp.asarray(1e3, dtype))
    assert all((part == 0).all() for part in gradient)
    # Samples that are zero, one of them.
    gradient = jax.grad(loss, argnums=(0, 1, 2))(dictionary, x.at[1].set(0), jnp.asarray(0.1, dtype))
    assert all(jnp.isfinite(part).all() for part in gradient)
    assert (gradient[1][1] == 0).all()
    assert (gradient[1][0] != 0).any()


@every_penalty
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)], indirect=True)
def test_equal_and_zero_atoms_have_finite_derivatives(dtype, name):
    """In first and second order, without penalty as well, from codes that use all the copies."""
    dictionary, x = problem()
    dictionary[1] = dictionary[0]
    dictionary[2] = 0
    dictionary, x = jnp.asarray(dictionary, dtype), jnp.asarray(x, dtype)
    make = lambda alpha: jax.tree.unflatten(
        jax.tree.structure(PENALTIES[name]), [alpha, *jax.tree.leaves(PENALTIES[name])[1:]]
    )
    loss = lambda d, v, a: jnp.sum(mmf.encode(d, v, make(a), init=jnp.ones((N, K))) ** 2)
    first = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    second = jax.jit(jax.grad(lambda *args: sum(jnp.sum(g**2) for g in jax.grad(loss, argnums=(0, 1, 2))(*args))))
    for alpha in (0.0, 0.1):
        value = jnp.asarray(alpha, dtype)
        assert all(jnp.isfinite(part).all() for part in first(dictionary, x, value))
        assert jnp.isfinite(second(dictionary, x, value)).all()


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_an_atom_share_its_derivative(dtype, seed):
    """A pivot that is only rounding must not decide what each of two equal atoms in a support gets."""
    rng = np.random.default_rng(seed)
    dictionary, x = (jnp.asarray(rng.standard_normal(shape) / 3, dtype) for shape in ((6, 8), (8,)))
    descent = mmf.CoordinateDescent()  # which keeps both where it finds them; `ActiveSet` keeps one
    code = lambda alpha, atoms, init=None: mmf.encode(atoms, x, mmf.Lasso(alpha), init=init, solver=descent)
    alone, slopes = code(0.1, dictionary), jax.jacfwd(code)(0.1, dictionary)
    copied = [j for j in range(6) if alone[j] != 0]
    assert len(copied) > 1
    for j in copied:
        halves = jnp.append(alone, 0.0).at[jnp.array([j, 6])].set(alone[j] / 2)
        twice = jax.jacfwd(code)(0.1, jnp.concatenate([dictionary, dictionary[j : j + 1]]), halves)
        np.testing.assert_allclose(twice[j] + twice[6], slopes[j], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(twice[j], twice[6], rtol=0.2, atol=0.01 * np.abs(slopes).max())


def test_derivatives_of_equal_atoms_are_right_where_they_exist(x64):
    """Copies share a code in any way; what they stand for has a derivative all the same."""
    dictionary, x = problem(1)
    twice = np.concatenate([dictionary, dictionary[:1]])
    image = lambda d, v: mmf.encode(d, v, mmf.ElasticNet(0.3, 0.6), solver=TIGHT) @ d
    gradient = jax.grad(lambda v: jnp.sum(image(twice, v) ** 2))(x)
    direction = np.random.default_rng(0).standard_normal(x.shape)
    expected = difference(jax.jit(lambda v: jnp.sum(image(twice, v) ** 2)), x, direction)
    np.testing.assert_allclose(jnp.sum(gradient * direction), expected, rtol=1e-5)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("name", ["ridge", "lasso"])
def test_derivatives_with_missing_values(x64, name, each):
    """NaN under the mask has no influence on any derivative in the dictionary, the samples or the strength."""
    args = arguments(name, "each" if each else "one")
    args["mask"] = jnp.where(jnp.arange(P) % 3 == 0, 0.0, args["mask"])
    hidden = args | {"x": jnp.where(args["mask"] == 0, jnp.nan, args["x"])}
    gradient = jax.jit(jax.grad(lambda a: jnp.sum(codes_of(name)(a) ** 2)))
    plain, masked = gradient(args), gradient(hidden)
    for key in ("dictionary", "x", "alpha"):
        np.testing.assert_allclose(masked[key], plain[key], rtol=1e-12, atol=1e-15)
    assert (jnp.where(args["mask"] == 0, plain["x"], 0) == 0).all()
    np.testing.assert_allclose(masked["mask"][..., 1::3], plain["mask"][..., 1::3], rtol=1e-12)
    assert jnp.isfinite(masked["mask"]).all()


@pytest.mark.parametrize("name", ["ridge", "lasso"])
def test_derivative_in_a_weight_of_zero(x64, name):
    """Where x is finite, a weight of zero has the derivative from the right; not a part of it."""
    args = arguments(name, "one")
    args["mask"] = args["mask"].at[2].set(0.0)
    function = jax.jit(lambda m: jnp.sum(codes_of(name)(args | {"mask": m}) ** 2))
    found = jax.grad(function)(args["mask"])[2]
    unit, step = jnp.zeros(P).at[2].set(1.0), 1e-5
    ahead = [function(args["mask"] + n * step * unit) for n in (0, 1, 2)]
    expected = (-3 * ahead[0] + 4 * ahead[1] - ahead[2]) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_init_and_solver_have_no_derivatives(x64):
    dictionary, x = problem()
    function = lambda s, tol: mmf.encode(dictionary, x, mmf.Lasso(0.3), init=s, solver=mmf.FISTA(tol)).sum()
    by_init, by_tol = jax.grad(function, argnums=(0, 1))(jnp.zeros((N, K)), 1e-9)
    assert (by_init == 0).all()
    assert by_tol == 0


@pytest.mark.parametrize("kind", [mmf.CoordinateDescent, mmf.FISTA])
def test_solvers_have_the_same_derivatives(x64, kind):
    dictionary, x = problem(1)
    gradient = lambda solver: jax.grad(lambda d: mmf.encode(d, x, mmf.Lasso(0.3), solver=solver).sum())(dictionary)
    np.testing.assert_allclose(gradient(kind(1e-15, 20000)), gradient(TIGHT), atol=1e-6)


def test_gradient_of_task_driven_dictionary_learning(x64):
    """The formula of [TPAMI12], proposition 1, written out sample by sample."""
    dictionary, x = problem(1)
    l1, l2 = 0.3, 0.1
    weights = np.random.default_rng(4).standard_normal((N, K))
    penalty = mmf.ElasticNet(l1 + l2, l1 / (l1 + l2))
    loss = lambda d, v: jnp.sum(weights * mmf.encode(d, v, penalty, solver=TIGHT))
    by_d, by_x = jax.grad(loss, argnums=(0, 1))(dictionary, x)
    codes = np.asarray(mmf.encode(dictionary, x, penalty, solver=TIGHT))
    expected_d, expected_x = np.zeros((K, P)), np.zeros((N, P))
    for i in range(N):
        on = np.flatnonzero(codes[i])
        atoms, adjoint = dictionary[on], np.zeros(K)
        adjoint[on] = np.linalg.solve(atoms @ atoms.T + l2 * np.eye(len(on)), weights[i, on])
        exact = np.zeros(K)  # a gap of 1e-15 leaves an error of 1e-8
        exact[on] = np.linalg.solve(atoms @ atoms.T + l2 * np.eye(len(on)), atoms @ x[i] - l1 * np.sign(codes[i, on]))
        expected_d += np.outer(adjoint, x[i] - exact @ dictionary) - np.outer(exact, adjoint @ dictionary)
        expected_x[i] = adjoint @ dictionary
    np.testing.assert_allclose(by_d, expected_d, rtol=0, atol=1e-9)
    np.testing.assert_allclose(by_x, expected_x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["lasso", "elastic net", "ridge, nonneg"])
def test_many_steps_unrolled_have_the_same_derivatives(x64, name):
    args = arguments(name, "each")
    kind, nonneg = type(PENALTIES[name]), PENALTIES[name].nonneg

    def loss(args, solver):
        penalty = kind(args["alpha"], *([args["l1_ratio"]] if "l1_ratio" in args else []), nonneg=nonneg)
        codes = mmf.encode(args["dictionary"], args["x"], penalty, mask=args["mask"], solver=solver)
        return jnp.sum(jnp.sin(codes))

    implicit, unrolled = (jax.jit(jax.grad(loss), static_argnums=1)(args, s) for s in (None, mmf.UnrolledFISTA(3000)))
    for key, part in implicit.items():
        np.testing.assert_allclose(unrolled[key], part, rtol=0, atol=1e-7 * jnp.abs(part).max(), err_msg=key)


def test_few_steps_unrolled_have_derivatives_of_their_own(x64):
    """In the samples, on which the step size, which is held, does not depend."""
    dictionary, x = problem(1)
    loss = lambda v, solver: jnp.sum(mmf.encode(dictionary, v, mmf.Lasso(0.3), solver=solver) ** 2)
    steps = mmf.UnrolledFISTA(3)
    direction = np.random.default_rng(0).standard_normal(x.shape)
    found, exact = (jnp.sum(jax.grad(loss)(x, solver) * direction) for solver in (steps, TIGHT))
    np.testing.assert_allclose(found, difference(lambda v: loss(v, steps), x, direction), rtol=1e-7)
    assert abs(found / exact - 1) > 1e-3
    info = mmf.encode_with_info(dictionary, x, mmf.Lasso(0.3), solver=mmf.UnrolledFISTA(3))[1]
    assert (info.n_iter == 3).all()
    assert (info.gap > 1e-4).any()
    with pytest.raises(ValueError, match="n_steps"):
        mmf.UnrolledFISTA(0)


@pytest.mark.filterwarnings("ignore::jax_mmf.ConvergenceWarning")
@pytest.mark.parametrize("name", ["lasso", "ridge, nonneg", "elastic net"])
def test_codes_that_did_not_converge_are_polished(x64, name):
    """After six sweeps the support is right and the values are not; derivatives are those of the exact codes."""
    dictionary, x = problem(4)
    few, penalty = mmf.CoordinateDescent(tol=0.0, max_iter=6), PENALTIES[name]
    codes, info = mmf.encode_with_info(dictionary, x, penalty, solver=few)
    exact = mmf.encode(dictionary, x, penalty, solver=TIGHT)
    assert (info.gap > 1e-8).any()
    assert ((codes != 0) == (exact != 0)).all(), "choose another problem"
    assert jnp.abs(codes - exact).max() > 1e-5
    value, gradient = jax.value_and_grad(lambda d: jnp.sum(mmf.encode(d, x, penalty, solver=few) ** 2))(dictionary)
    wanted = jax.value_and_grad(lambda d: jnp.sum(mmf.encode(d, x, penalty, solver=TIGHT) ** 2))(dictionary)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-10)
    np.testing.assert_allclose(gradient, wanted[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", [mmf.CoordinateDescent, mmf.FISTA, mmf.ActiveSet])
@pytest.mark.parametrize("name", ["lasso", "elastic net, nonneg"])
def test_one_iteration_gives_finite_derivatives(kind, name):
    """Also of second order, and with four times as many atoms as features."""
    rng = np.random.default_rng(0)
    dictionary, x = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((4 * P, P), (N, P)))
    loss = lambda d, v: jnp.sum(mmf.encode(d, v, PENALTIES[name], solver=kind(max_iter=1)) ** 2)
    gradient = jax.grad(loss, argnums=(0, 1))
    assert all(jnp.isfinite(part).all() for part in gradient(dictionary, x))
    second = jax.jvp(lambda d: gradient(d, x)[0], (dictionary,), (jnp.ones_like(dictionary),))[1]
    assert jnp.isfinite(second).all()


@pytest.mark.parametrize(("k", "active"), [(80, 5), (80, 60), (300, 5), (300, 60), (300, 200)])
def test_supports_of_every_size(x64, k, active):
    """In rooms of 32 and 128, and in systems of all atoms: NumPy on the support of each sample."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 400))
    dictionary = rng.standard_normal((k, 400)) / 20
    alpha = np.sort(np.abs(x @ dictionary.T))[:, -active].min()  # as many as this, or thereabouts
    codes, pull = jax.vjp(lambda v: mmf.encode(dictionary, v, mmf.ElasticNet(alpha + 0.01, alpha / (alpha + 0.01))), x)
    cotangent = rng.standard_normal(codes.shape)
    sizes = np.count_nonzero(codes, axis=1)
    assert active / 2 < sizes.max() < 4 * active
    for i in range(3):
        on = np.flatnonzero(codes[i])
        atoms = dictionary[on]
        expected = np.linalg.solve(atoms @ atoms.T + 0.01 * np.eye(on.size), cotangent[i, on]) @ atoms
        np.testing.assert_allclose(pull(jnp.asarray(cotangent))[0][i], expected, rtol=0, atol=1e-9)


def test_vmap_over_samples_shares_the_systems(x64):
    """A gradient per sample, by vmap: that of the batch."""
    rng = np.random.default_rng(0)
    x, dictionary, cotangent = (
        rng.standard_normal((4, 50)),
        rng.standard_normal((70, 50)) / 7,
        rng.standard_normal((4, 70)),
    )
    mapped = jax.vmap(jax.grad(lambda v, c: jnp.vdot(c, mmf.encode(dictionary, v, mmf.Lasso(0.5)))))(x, cotangent)
    whole = jax.grad(lambda v: jnp.vdot(cotangent, mmf.encode(dictionary, v, mmf.Lasso(0.5))))(x)
    np.testing.assert_allclose(mapped, whole, rtol=0, atol=1e-9)


def test_samples_on_several_devices():
    """Samples are spread over devices, the dictionary is on all: the gradient is that of one device."""
    program = """
import os
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
import jax, jax.numpy as jnp, numpy as np, jax_mmf as mmf
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
rng = np.random.default_rng(0)
dictionary, x = rng.standard_normal((5, 8)).astype("f"), rng.standard_normal((16, 8)).astype("f")
gradient = jax.jit(jax.grad(lambda d, v: jnp.sum(mmf.encode(d, v, mmf.Lasso(0.3)) ** 2), argnums=(0, 1)))
mesh = Mesh(jax.devices(), ("samples",))
spread = jax.device_put(x, NamedSharding(mesh, P("samples")))
whole = jax.device_put(dictionary, NamedSharding(mesh, P()))
for ours, theirs in zip(gradient(whole, spread), gradient(dictionary, x)):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
assert len(jax.devices()) == 4
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_large_supports_of_many_samples_do_not_hang():
    """On two threads: jaxlib 0.10.2 waits for ever in a loop inside of a switch that calls LAPACK."""
    program = """
import jax, jax.numpy as jnp, numpy as np, jax_mmf as mmf
rng = np.random.default_rng(0)
dictionary, x = rng.standard_normal((120, 64)).astype("f") / 8, rng.standard_normal((500, 64)).astype("f")
gradient = jax.jit(jax.grad(lambda d: jnp.sum(mmf.encode(d, x, mmf.Lasso(0.05)) ** 2)))
for _ in range(20):
    assert jnp.isfinite(gradient(dictionary)).all()
assert (mmf.encode(dictionary, x, mmf.Lasso(0.05)) != 0).sum(1).max() > 32
"""
    as_users_compile = os.environ | {"XLA_FLAGS": ""}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300, env=as_users_compile)


# Hyperparameters, and the learning itself


def test_gradient_finds_the_best_alpha(x64):
    """Denoising: the optimum of a grid of 50, to within 1 % of the loss, in at most 15 solves of a bisection."""
    rng = np.random.default_rng(0)
    dictionary = rng.standard_normal((20, 30)) / np.sqrt(30)
    clean = (rng.standard_normal((60, 20)) * (rng.random((60, 20)) < 0.2)) @ dictionary
    noisy = clean + 0.1 * rng.standard_normal(clean.shape)

    @jax.jit
    def loss(log_alpha):
        codes = mmf.encode(dictionary, noisy, mmf.Lasso(jnp.exp(log_alpha)))
        return jnp.mean((mmf.decode(dictionary, codes) - clean) ** 2)

    slope = jax.grad(loss)
    grid = np.linspace(np.log(1e-3), np.log(1.0), 50)
    best = min(float(loss(a)) for a in grid)
    low, high = grid[0], grid[-1]
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    assert float(loss((low + high) / 2)) <= 1.01 * best


@pytest.mark.parametrize("settings", ["lasso, full", "elastic net, partial B", "ridge, blocks"])
def test_gradient_through_a_scan_of_updates(x64, settings):
    """Held-out loss after five steps, in all numbers of the solver, the first dictionary and the data."""
    rng = np.random.default_rng(0)
    batches = jnp.asarray(rng.standard_normal((5, 6, 40)))
    held_out, start = rng.standard_normal((8, 40)), jnp.asarray(rng.standard_normal((4, 40)) / 10)
    tight = mmf.CoordinateDescent(tol=0.0, max_iter=300)

    def loss(args):
        alpha, ratio = args["alpha"], args["l1_ratio"]
        options = {
            "lasso, full": {"penalty": mmf.Lasso(alpha), "constraint": mmf.ElasticNetBall(ratio, 0.5)},
            "elastic net, partial B": {
                "penalty": mmf.ElasticNet(alpha, ratio),
                "constraint": mmf.L2Ball(0.5),
                "subset": mmf.UniformSubset(2),
                "partial_b": True,
            },
            "ridge, blocks": {
                "penalty": mmf.Ridge(alpha),
                "constraint": mmf.ElasticNetBall(ratio, 0.5),
                "subset": mmf.BlockSubset(4),
                "statistics": mmf.FullStatistics(),
            },
        }[settings] | ({} if "ridge" in settings else {"code_solver": tight})
        solver = mmf.OnlineFactorization(n_components=4, forgetting=mmf.PowerForgetting(args["exponent"]), **options)
        state = solver.init(jax.random.key(0), dictionary=args["start"])
        state, _ = jax.lax.scan(solver.update, state, args["batches"])
        return mmf.objective(state.dictionary, held_out, mmf.Ridge(0.3))

    args = {"alpha": 0.2, "l1_ratio": 0.6, "exponent": 0.8, "start": start, "batches": batches}
    args = jax.tree.map(jnp.asarray, args)
    gradient, forward = jax.jit(jax.grad(loss))(args), jax.jit(lambda a, d: jax.jvp(loss, (a,), (d,))[1])
    value = jax.jit(loss)
    for key, direction in directions(args):
        expected = difference(value, args, direction, step=1e-6)
        found = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, direction)))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8, err_msg=key)
        np.testing.assert_allclose(forward(args, direction), found, rtol=1e-7, atol=1e-12, err_msg=key)
        assert abs(expected) > 1e-7, f"nothing to see in {key}"


def test_learning_by_gradients_with_projections_of_optax(x64):
    """The l2 ball of both libraries is one, so that learning with either is the same."""
    rng = np.random.default_rng(0)
    dictionary, x = rng.standard_normal((6, 12)), rng.standard_normal((30, 12))
    optimizer = optax.adam(0.05)

    def learn(project):
        def step(carry, _):
            atoms, state = carry
            gradient = jax.grad(lambda d: mmf.objective(d, x, mmf.Lasso(0.2)))(atoms)
            updates, state = optimizer.update(gradient, state)
            return (jax.vmap(project)(optax.apply_updates(atoms, updates)), state), None

        start = jax.vmap(project)(dictionary)
        return jax.lax.scan(step, (start, optimizer.init(start)), length=10)[0][0]

    ours, theirs = learn(mmf.L2Ball().project), learn(optax.projections.projection_l2_ball)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
    start = jax.vmap(mmf.L2Ball().project)(dictionary)
    assert mmf.objective(ours, x, mmf.Lasso(0.2)) < 0.9 * mmf.objective(start, x, mmf.Lasso(0.2))
