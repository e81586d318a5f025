"""Vectors and blocks of compiled searches, against NumPy; loops in one kernel give the numbers of others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_mmf.codes.kernels import vectors
from jax_mmf.codes.kernels.compiled_loop import compiled_loop

M = 64  # room, of which N is in use: two vectors, the second in part


@pytest.fixture(params=[5, 32, 45, 64])
def n(request):
    return jnp.asarray(request.param, jnp.int32)


@pytest.fixture
def symmetric(n):
    """Zero where it is not in use."""
    half = np.random.default_rng(0).standard_normal((M, M))
    used = np.arange(M) < int(n)
    return jnp.asarray((half + half.T) * used * used[:, None])


@pytest.fixture
def right(n):
    values = np.random.default_rng(1).standard_normal(M + vectors.WIDTH)
    return jnp.asarray(values * (np.arange(len(values)) < int(n)))


def test_products_with_what_is_in_use(x64, symmetric, right, n):
    product = jax.jit(vectors.times)(symmetric, right, n)
    np.testing.assert_allclose(product[:M], symmetric @ right[:M], atol=1e-12)
    assert (product[M:] == 0).all()
    total = jax.jit(lambda v, n: vectors.sum_vectors(n, lambda c: vectors.vector(v, c), v.dtype))(right, n)
    np.testing.assert_allclose(total, right.sum(), atol=1e-12)


@pytest.mark.parametrize("cleared", [-1, 0, 4])
def test_updates_of_rank_one(x64, symmetric, right, n, cleared):
    new = jax.jit(vectors.add_rank_one)(symmetric, jnp.asarray(-2.0), right, n, jnp.asarray(cleared, jnp.int32))
    expected = np.array(symmetric - 2 * right[:M, None] * right[:M])
    if cleared >= 0:
        expected[cleared] = expected[:, cleared] = 0
    np.testing.assert_allclose(new, expected, atol=1e-12)
    assert (jax.jit(vectors.clear)(new, n) == 0).all()
    np.testing.assert_array_equal(jax.jit(vectors.row_of)(new, jnp.asarray(2, jnp.int32), n)[:M], new[2])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_orders_of_floating_numbers(dtype):
    values = np.array([0.0, 1e-30, 0.5, 0.5000001, 3e4, np.inf])
    with jax.enable_x64(True):
        order = vectors.order_of(jnp.asarray(values, dtype))
        assert (np.diff(np.asarray(order)) > 0).all()
        assert vectors.order_of(jnp.asarray(np.nan, dtype)) > order[-1]
        assert vectors.order_of(jnp.asarray(-0.5, dtype)) < 0
        sizes = jnp.asarray(np.random.default_rng(0).standard_normal(256), dtype)
        assert vectors.largest(sizes) == sizes.max()
        assert vectors.largest(-jnp.abs(sizes)) == 0


def test_parts_of_arrays():
    array = jnp.arange(96.0)
    one = jnp.asarray(1, jnp.int32)
    np.testing.assert_array_equal(vectors.vector(array, one), np.arange(32, 64))
    np.testing.assert_array_equal(vectors.positions(one), np.arange(32, 64))
    assert vectors.put_vector(array, one, jnp.zeros(32)).sum() == array.sum() - np.arange(32, 64).sum()
    assert vectors.get(vectors.put(array, one, 7), one) == 7
    assert vectors.ceil_div(33, 32) == vectors.ceil_div(jnp.asarray(33, jnp.int32), 32) == 2
    assert vectors.any_of(jnp.arange(32) == 31)
    assert not vectors.any_of(jnp.arange(32) == 32)


def test_compiled_loops_give_the_numbers_of_others():
    def newton(x, scale):
        """Square roots, sample by sample."""

        def one(i, out):
            root = lax.fori_loop(0, 20, lambda _, r: (r + x[i] / r) / 2, x[i])
            return out.at[i].set(scale[0] * root)

        return (lax.fori_loop(0, len(x), one, jnp.zeros_like(x)),)

    x, scale = jnp.linspace(0.5, 9.0, 33), jnp.array([2.0])
    compiled = jax.jit(compiled_loop(newton, "b, k -> b", ("k",)))
    np.testing.assert_array_equal(compiled(x, scale)[0], jax.jit(newton)(x, scale)[0])
    np.testing.assert_allclose(compiled(x, scale)[0], 2 * np.sqrt(x), rtol=1e-6)
