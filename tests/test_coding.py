"""Codes of samples and their derivatives, against equal problems, finite differences and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mmf as mmf

K, P, N = 5, 8, 3
TIGHT = mmf.CoordinateDescent(tol=1e-15, max_iter=5000)
PENALTIES = {
    "ridge": mmf.Ridge(0.3),
    "lasso": mmf.Lasso(0.3),
    "elastic net": mmf.ElasticNet(0.4, 0.6),
    "ridge, nonneg": mmf.Ridge(0.3, nonneg=True),
    "elastic net, nonneg": mmf.ElasticNet(0.4, 0.6, nonneg=True),
}
every_penalty = pytest.mark.parametrize("name", PENALTIES)


def problem(seed=0, n=N):
    rng = np.random.default_rng(seed)
    dictionary = rng.standard_normal((K, P))
    return dictionary, rng.standard_normal((n, P)) + rng.standard_normal((n, K)) @ dictionary / 2


def solver_of(name):
    return None if name == "ridge" else TIGHT


def encode(dictionary, x, penalty, name, **kwargs):
    return mmf.encode(dictionary, x, penalty, solver=solver_of(name), **kwargs)


# Values


@every_penalty
def test_one_sample_a_batch_and_vmap_agree(x64, name):
    (dictionary, x), penalty = problem(), PENALTIES[name]
    batch = encode(dictionary, x, penalty, name)
    assert batch.shape == (N, K)
    one = jax.jit(lambda v: encode(dictionary, v, penalty, name))
    assert one(x[0]).shape == (K,)
    np.testing.assert_allclose([one(v) for v in x], batch, atol=1e-7)
    np.testing.assert_allclose(jax.vmap(one)(x), batch, atol=1e-7)
    # Two axes of vmap: over dictionaries as well.
    both = jax.vmap(lambda d: jax.vmap(lambda v: encode(d, v, penalty, name))(x))(np.stack([dictionary, -dictionary]))
    other = encode(-dictionary, x, penalty, name)
    np.testing.assert_allclose(both, [batch, other], atol=1e-7)


@every_penalty
def test_vmap_over_masks_and_starts(x64, name):
    (dictionary, x), penalty = problem(), PENALTIES[name]
    mask = np.random.default_rng(1).random((N, P))
    expected = [encode(dictionary, v, penalty, name, mask=m) for v, m in zip(x, mask, strict=True)]
    mapped = jax.vmap(lambda v, m: encode(dictionary, v, penalty, name, mask=m))(x, mask)
    np.testing.assert_allclose(mapped, expected, atol=1e-7)
    starts = np.random.default_rng(2).standard_normal((4, N, K))
    mapped = jax.vmap(lambda s: encode(dictionary, x, penalty, name, init=s))(starts)
    np.testing.assert_allclose(mapped, np.broadcast_to(encode(dictionary, x, penalty, name), mapped.shape), atol=1e-6)


@every_penalty
def test_vmap_over_alpha(x64, name):
    dictionary, x = problem()
    alphas, leaves = jnp.array([0.01, 0.3, 3.0]), jax.tree.leaves(PENALTIES[name])[1:]
    make = lambda alpha: jax.tree.unflatten(jax.tree.structure(PENALTIES[name]), [alpha, *leaves])
    path = jax.jit(jax.vmap(lambda a: encode(dictionary, x, make(a), name)))(alphas)
    np.testing.assert_allclose(path, [encode(dictionary, x, make(a), name) for a in alphas], atol=1e-7)


@pytest.mark.parametrize("one_mask", [True, False])
@every_penalty
def test_masked_features_count_as_deleted(x64, name, one_mask):
    """And are never looked at: NaN and infinities under the mask change nothing, not a bit."""
    (dictionary, x), penalty = problem(), PENALTIES[name]
    keep = np.random.default_rng(3).random((N, P)) < 0.7
    mask = keep[0] if one_mask else keep
    codes, info = mmf.encode_with_info(dictionary, x, penalty, mask=mask, solver=solver_of(name))
    kept = np.broadcast_to(mask, x.shape)
    for i in range(N):
        deleted = encode(dictionary[:, kept[i]], x[i, kept[i]], penalty, name)
        np.testing.assert_allclose(codes[i], deleted, atol=1e-7)
    for missing in (np.nan, np.inf, 1e300):
        hidden = np.where(kept, x, missing)
        again, info_again = mmf.encode_with_info(dictionary, hidden, penalty, mask=mask, solver=solver_of(name))
        np.testing.assert_array_equal(again, codes)
        np.testing.assert_array_equal(info_again.gap, info.gap)


@pytest.mark.parametrize("one_mask", [True, False])
@every_penalty
def test_weights_of_features_are_those_of_a_scaled_problem(x64, name, one_mask):
    (dictionary, x), penalty = problem(), PENALTIES[name]
    weights = np.random.default_rng(4).gamma(1.0, 1.0, (N, P))
    mask = weights[0] if one_mask else weights
    codes = encode(dictionary, x, penalty, name, mask=mask)
    for i in range(N):
        root = np.sqrt(weights[0 if one_mask else i])
        np.testing.assert_allclose(codes[i], encode(dictionary * root, x[i] * root, penalty, name), atol=1e-7)


@every_penalty
def test_a_mask_per_sample_of_as_many_samples_as_atoms(x64, name):
    """Arrays of one shape by accident must not be mistaken for each other; nor may b and k differ."""
    penalty = PENALTIES[name]
    for n in (K, K + 1, 1):
        dictionary, x = problem(n=n)
        mask = np.random.default_rng(5).random((n, P))
        expected = [encode(dictionary, v, penalty, name, mask=m) for v, m in zip(x, mask, strict=True)]
        np.testing.assert_allclose(encode(dictionary, x, penalty, name, mask=mask), expected, atol=1e-7)


@every_penalty
def test_everything_masked_gives_zeros(dtype, name):
    (dictionary, x), penalty = problem(), PENALTIES[name]
    mask = np.ones((N, P))
    mask[1] = 0
    codes = mmf.encode(jnp.asarray(dictionary, dtype), x, penalty, mask=mask)
    assert (codes[1] == 0).all()
    assert jnp.isfinite(codes).all()


def test_boolean_and_integer_masks(x64):
    dictionary, x = problem()
    mask = np.arange(P) % 3 > 0
    for kind in (bool, int, np.uint8, float):
        codes = mmf.encode(dictionary, x, mmf.Ridge(0.3), mask=mask.astype(kind))
        np.testing.assert_allclose(codes, mmf.encode(dictionary[:, mask], x[:, mask], mmf.Ridge(0.3)), rtol=1e-10)


@pytest.mark.parametrize("kind", [mmf.CoordinateDescent, mmf.FISTA])
def test_init_is_where_it_starts(x64, kind):
    """One step from the solution stays there, one step from zeros does not get there."""
    dictionary, x = problem()
    penalty = mmf.Lasso(0.3)
    best = mmf.encode(dictionary, x, penalty, solver=TIGHT)
    short = kind(tol=0.0, max_iter=2)
    np.testing.assert_allclose(mmf.encode(dictionary, x, penalty, solver=short, init=best), best, atol=1e-7)
    np.testing.assert_allclose(mmf.encode(dictionary, x[0], penalty, solver=short, init=best[0]), best[0], atol=1e-7)
    assert jnp.abs(mmf.encode(dictionary, x, penalty, solver=short) - best).max() > 1e-3


def test_info_of_one_sample_and_of_a_batch():
    dictionary, x = problem()
    for sample, shape in ((x, (N,)), (x[0], ())):
        codes, info = mmf.encode_with_info(dictionary.astype(np.float32), sample, mmf.Lasso(0.3))
        assert codes.shape == (*shape, K)
        assert info.gap.shape == info.n_iter.shape == shape
        assert info.n_iter.dtype == jnp.int32
        assert (info.gap <= 1e-6 + 1e-5).all()  # or rounding: 8 eps |x|^2 / objective, a few times 1e-6 here


def test_dtypes(dtype):
    """That of the dictionary, for integers the default; samples are cast to it."""
    dictionary, x = problem()
    for penalty in (mmf.Ridge(0.3), mmf.Lasso(np.float64(0.3)), mmf.ElasticNet(1, 0)):
        for kind in (dtype, "int32"):
            codes = mmf.encode(dictionary.astype(kind), x.astype("float32"), penalty, mask=np.ones(P, bool))
            assert codes.dtype == dtype
            assert mmf.decode(dictionary.astype(kind), codes).dtype == dtype


def test_lists_are_arrays():
    codes = mmf.encode([[1.0, 0.0], [0.0, 2.0]], [1.0, 4.0], mmf.Ridge(0.0))
    np.testing.assert_allclose(codes, [1.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(mmf.decode([[1.0, 0.0], [0.0, 2.0]], [1, 2]), [1.0, 4.0])


def test_decode_is_a_product(x64):
    dictionary, _ = problem()
    codes = np.random.default_rng(0).standard_normal((N, K))
    np.testing.assert_allclose(mmf.decode(dictionary, codes), codes @ dictionary, rtol=1e-13)
    np.testing.assert_allclose(mmf.decode(dictionary, codes[0]), codes[0] @ dictionary, rtol=1e-13)


D, X, RIDGE = np.ones((K, P), np.float32), np.ones((N, P), np.float32), mmf.Ridge(0.1)


@pytest.mark.parametrize(
    ("error", "word", "call"),
    [
        (ValueError, "x", lambda: mmf.encode(D, X[:, 1:], RIDGE)),
        (ValueError, "x", lambda: mmf.encode(D, X[None], RIDGE)),
        (ValueError, "dictionary", lambda: mmf.encode(D[0], X, RIDGE)),
        (TypeError, "x", lambda: mmf.encode(D, X * 1j, RIDGE)),
        (TypeError, "x", lambda: mmf.encode(D, X.astype(str), RIDGE)),
        (TypeError, "x", lambda: mmf.encode(D, [[1.0], [1.0, 2.0]], RIDGE)),
        (TypeError, "dictionary", lambda: mmf.encode(D.astype(object), X, RIDGE)),
        (TypeError, "penalty", lambda: mmf.encode(D, X, 0.1)),
        (TypeError, "penalty", lambda: mmf.encode(D, X, mmf.Ridge)),
        (TypeError, "penalty", lambda: mmf.encode(D, X, None)),
        (TypeError, "solver", lambda: mmf.encode(D, X, RIDGE, solver="cholesky")),
        (TypeError, "solver", lambda: mmf.encode(D, X, RIDGE, solver=mmf.FISTA)),
        (TypeError, "Cholesky", lambda: mmf.encode(D, X, mmf.Lasso(0.1), solver=mmf.Cholesky())),
        (ValueError, "mask", lambda: mmf.encode(D, X, RIDGE, mask=np.ones(P + 1))),
        (ValueError, "mask", lambda: mmf.encode(D, X, RIDGE, mask=np.ones((N + 1, P)))),
        (ValueError, "mask", lambda: mmf.encode(D, X[0], RIDGE, mask=np.ones((1, P)))),
        (ValueError, "init", lambda: mmf.encode(D, X, RIDGE, init=np.ones((N, K + 1)))),
        (ValueError, "init", lambda: mmf.encode(D, X, RIDGE, init=np.ones((N + 1, K)))),
        (ValueError, "init", lambda: mmf.encode(D, X, RIDGE, init=np.ones((K, N)))),
        (ValueError, "init", lambda: mmf.encode(D, X, RIDGE, init=np.ones(K))),
        (ValueError, "init", lambda: mmf.encode(D, X[0], RIDGE, init=np.ones(K + 1))),
        (ValueError, "codes", lambda: mmf.decode(D, np.ones((N, K + 1)))),
        (TypeError, "codes", lambda: mmf.decode(D, np.ones((N, K)) * 1j)),
    ],
)
def test_bad_arguments_are_named(error, word, call):
    with pytest.raises(error, match=rf"\b{word}\b"):
        call()


# Derivatives


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


@pytest.mark.parametrize(
    ("name", "masked"), [*((name, "each") for name in PENALTIES), ("ridge", None), ("lasso", None), ("lasso", "one")]
)
def test_first_derivatives(x64, name, masked):
    """Forward and reverse, under jit, in every argument: central differences of very precise codes."""
    args, function = arguments(name, masked), jax.jit(codes_of(name))
    codes = function(args)
    support = codes != 0
    assert name == "ridge" or (support.any() and not support.all())
    weights = jnp.asarray(np.random.default_rng(3).standard_normal(codes.shape))
    forward = jax.jit(lambda a, d: jax.jvp(function, (a,), (d,))[1])
    gradient = jax.jit(jax.grad(lambda a: jnp.sum(weights * function(a))))(args)
    for key, direction in directions(args):
        expected = difference(function, args, direction)
        found = forward(args, direction)
        # The codes' own error, 1e-11 or so, over a step of 1e-5.
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=key)
        assert (found[~support] == 0).all()
        pairing = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, direction)))
        np.testing.assert_allclose(pairing, jnp.sum(weights * found), rtol=1e-9, atol=1e-11, err_msg=key)
        assert jnp.abs(found).max() > 1e-3, f"nothing to see in {key}"


@pytest.mark.parametrize("name", ["ridge", "lasso", "elastic net, nonneg"])
def test_second_derivatives(x64, name):
    """Forward over reverse and reverse over reverse: differences of the gradient."""
    args = arguments(name, "one")
    loss = lambda a: jnp.sum(jnp.sin(codes_of(name)(a)))
    gradient = jax.jit(jax.grad(loss))
    forward = jax.jit(lambda a, d: jax.jvp(jax.grad(loss), (a,), (d,))[1])
    reverse = jax.jit(lambda a, d: jax.grad(lambda b: sum(map(jnp.vdot, *map(jax.tree.leaves, (gradient(b), d)))))(a))
    for key, direction in directions(args):
        ahead, behind = (gradient(moved(args, direction, step)) for step in (1e-5, -1e-5))
        expected = jax.tree.map(lambda u, v: (u - v) / 2e-5, ahead, behind)
        for second in (forward, reverse):
            for part, wanted in zip(jax.tree.leaves(second(args, direction)), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(part, wanted, atol=2e-5 * (1 + jnp.abs(wanted).max()), err_msg=key)


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
    """Where x is finite, a weight of zero has the derivative from the right, or none at all; not a part of it."""
    args = arguments(name, "one")
    args["mask"] = args["mask"].at[2].set(0.0)
    function = jax.jit(lambda m: jnp.sum(codes_of(name)(args | {"mask": m}) ** 2))
    found = jax.grad(function)(args["mask"])[2]
    unit, step = jnp.zeros(P).at[2].set(1.0), 1e-5
    ahead = [function(args["mask"] + n * step * unit) for n in (0, 1, 2)]
    expected = (-3 * ahead[0] + 4 * ahead[1] - ahead[2]) / (2 * step)
    assert found == 0 or abs(found - expected) < 1e-4 * abs(expected)


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
