"""Chunks and blocks of compiled searches, against NumPy; compiled loops, with and without the attributes of XLA."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_mmf.codes.kernels import vectors
from jax_mmf.codes.kernels.compiled_loop import compiled_loop
from jax_mmf.core import compatibility

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


def test_products_of_the_entries_in_use(x64, symmetric, right, n):
    product = jax.jit(vectors.symmetric_product)(symmetric, right, n)
    np.testing.assert_allclose(product[:M], symmetric @ right[:M], atol=1e-12)
    assert (product[M:] == 0).all()
    total = jax.jit(lambda v, n: vectors.sum_chunks(n, lambda c: vectors.chunk(v, c), v.dtype))(right, n)
    np.testing.assert_allclose(total, right.sum(), atol=1e-12)


@pytest.mark.parametrize("cleared", [-1, 0, 4])
def test_updates_of_rank_one(x64, symmetric, right, n, cleared):
    new = jax.jit(vectors.with_rank_one_update)(symmetric, jnp.asarray(-2.0), right, n, jnp.asarray(cleared, jnp.int32))
    expected = np.array(symmetric - 2 * right[:M, None] * right[:M])
    if cleared >= 0:
        expected[cleared] = expected[:, cleared] = 0
    np.testing.assert_allclose(new, expected, atol=1e-12)
    assert (jax.jit(vectors.with_zero_rows)(new, n) == 0).all()
    np.testing.assert_array_equal(jax.jit(vectors.leading_row)(new, jnp.asarray(2, jnp.int32), n)[:M], new[2])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_orders_of_floating_numbers(dtype):
    values = np.array([0.0, 1e-30, 0.5, 0.5000001, 3e4, np.inf])
    with jax.enable_x64(True):
        order = vectors.sortable(jnp.asarray(values, dtype))
        assert (np.diff(np.asarray(order)) > 0).all()
        assert vectors.sortable(jnp.asarray(np.nan, dtype)) > order[-1]
        assert vectors.sortable(jnp.asarray(-0.5, dtype)) < 0
        sizes = jnp.asarray(np.random.default_rng(0).standard_normal(256), dtype)
        assert vectors.largest_or_zero(sizes) == sizes.max()
        assert vectors.largest_or_zero(-jnp.abs(sizes)) == 0


def test_parts_of_arrays():
    array = jnp.arange(96.0)
    one = jnp.asarray(1, jnp.int32)
    matrix = array.reshape(3, 32)
    np.testing.assert_array_equal(vectors.row(matrix, one), np.arange(32, 64))
    np.testing.assert_array_equal(vectors.with_row(matrix, one, jnp.zeros(32)).any(1), [True, False, True])
    np.testing.assert_array_equal(vectors.chunk(array, one), np.arange(32, 64))
    np.testing.assert_array_equal(vectors.chunk_indices(one), np.arange(32, 64))
    assert vectors.with_chunk(array, one, jnp.zeros(32)).sum() == array.sum() - np.arange(32, 64).sum()
    assert vectors.entry(vectors.with_entry(array, one, 7), one) == 7
    assert vectors.ceil_div(33, 32) == vectors.ceil_div(jnp.asarray(33, jnp.int32), 32) == 2
    assert vectors.any_true(jnp.arange(32) == 31)
    assert not vectors.any_true(jnp.arange(32) == 32)


def newton(x, scale):
    """Square roots, sample by sample."""

    def one(i, out):
        root = lax.fori_loop(0, 20, lambda _, r: (r + x[i] / r) / 2, x[i])
        return out.at[i].set(scale[0] * root)

    return (lax.fori_loop(0, len(x), one, jnp.zeros_like(x)),)


X, SCALE = np.linspace(0.5, 9.0, 33, dtype=np.float32), np.array([2.0], np.float32)


def test_compiled_loops_give_the_numbers_of_others():
    compiled = jax.jit(compiled_loop(newton, "b, k -> b", ("k",)))
    np.testing.assert_array_equal(compiled(X, SCALE)[0], jax.jit(newton)(X, SCALE)[0])
    np.testing.assert_allclose(compiled(X, SCALE)[0], 2 * np.sqrt(X), rtol=1e-6)


def refuse(results, **attributes):
    raise TypeError("set_xla_metadata() got an unexpected keyword argument")


@pytest.mark.parametrize("set_xla_metadata", [None, refuse])
def test_without_attributes_results_are_the_same_and_one_warning_says_that_it_is_slow(monkeypatch, set_xla_metadata):
    monkeypatch.setattr(compatibility, "set_xla_metadata", set_xla_metadata)
    compatibility._warn_of_slow_loops.cache_clear()
    with pytest.warns(UserWarning, match="ActiveSet, .* is several times slower"):
        first = jax.jit(compiled_loop(newton, "b, k -> b", ("k",)))(X, SCALE)[0]
    second = jax.jit(compiled_loop(newton, "b, k -> b", ("k",)))(X, SCALE)[0]  # a warning would be an error
    np.testing.assert_allclose(first, 2 * np.sqrt(X), rtol=1e-6)
    np.testing.assert_array_equal(first, second)


def test_without_custom_partitioning_results_are_the_same(monkeypatch):
    monkeypatch.setattr(compatibility, "custom_partitioning", None)
    compiled = jax.jit(compiled_loop(newton, "b, k -> b", ("k",)))
    np.testing.assert_allclose(compiled(X, SCALE)[0], 2 * np.sqrt(X), rtol=1e-6)


def test_experimental_modules_are_imported_in_one_place():
    root = Path(compatibility.__file__).parents[1]
    imports = re.compile(r"^\s*(from|import) jax\.experimental", re.MULTILINE)
    assert [path.name for path in root.rglob("*.py") if imports.search(path.read_text())] == ["compatibility.py"]
