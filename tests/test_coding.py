"""Codes of samples, against equal problems; their derivatives are in test_derivatives.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mmf as mmf

K, P, N = 5, 8, 3
TIGHT = mmf.CoordinateDescent(tol=1e-15, max_iter=5000)
PENALTIES = {
    "ridge": mmf.Ridge(0.3),
    "lasso": mmf.ElasticNet(0.3, 1.0),  # by the programs of the elastic net
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
        if one_mask:
            deleted = encode(dictionary[:, kept[i]], x[i, kept[i]], penalty, name)
        else:  # features of zeros, which have no part in codes: masks of all sizes share a program
            deleted = encode(dictionary * kept[i], x[i] * kept[i], penalty, name)
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


@pytest.mark.filterwarnings("ignore::jax_mmf.ConvergenceWarning")
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
            solver = None if isinstance(penalty, mmf.Ridge) else mmf.CoordinateDescent()
            codes = mmf.encode(
                dictionary.astype(kind), x.astype("float32"), penalty, mask=np.ones(P, bool), solver=solver
            )
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
