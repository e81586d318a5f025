"""Products over many features, which are added up over tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mmf.core import inner_products, self_product
from jax_mmf.core.linalg import _TILE

SIZES = [1, 7, _TILE, 2 * _TILE - 1, 2 * _TILE, 3 * _TILE + 5]


def rows(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("p", SIZES)
def test_products_are_those_of_numpy(p, dtype):
    left, right = rows(0, 3, p).astype(dtype), rows(1, 2, p).astype(dtype)
    tol = 1e-5 if dtype == "float32" else 1e-13
    for function in (inner_products, jax.jit(inner_products)):
        got = function(jnp.asarray(left), jnp.asarray(right))
        assert got.dtype == dtype
        np.testing.assert_allclose(got, left.astype(float) @ right.T.astype(float), rtol=tol, atol=tol * np.sqrt(p))


@pytest.mark.parametrize("p", [7, 2 * _TILE + 3])
def test_derivatives_and_batches_are_those_of_the_plain_product(p, x64):
    left, right = jnp.asarray(rows(0, 3, p)), jnp.asarray(rows(1, 2, p))
    weights = jnp.asarray(rows(2, 3, 2))
    plain = lambda a, b: a @ b.T
    loss = lambda product: lambda a, b: jnp.sum(jnp.sin(weights * product(a, b) / p))
    for product in (inner_products, plain):
        assert loss(product)(left, right) == pytest.approx(float(loss(plain)(left, right)), rel=1e-12)
    gradients = [jax.grad(loss(product), argnums=(0, 1))(left, right) for product in (inner_products, plain)]
    tangents = [jax.jvp(loss(product), (left, right), (left + 1, right - 2))[1] for product in (inner_products, plain)]
    for got, want in (gradients, tangents):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), got, want)
    second = lambda product: jax.grad(lambda a: jnp.sum(jax.grad(loss(product))(a, right) ** 2))(left)
    np.testing.assert_allclose(second(inner_products), second(plain), rtol=1e-8, atol=1e-12)
    both = jnp.stack([left, 2 * left])
    np.testing.assert_allclose(jax.vmap(inner_products, (0, None))(both, right)[1], 2 * left @ right.T, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(lambda a: self_product(a).sum())(left), 2 * left.sum(0) + 0 * left, rtol=1e-9)


def test_accelerators_multiply_all_features_at_once():
    shapes = [jax.ShapeDtypeStruct((n, 4 * _TILE), jnp.float32) for n in (3, 2)]
    lowered = jax.export.export(jax.jit(inner_products), platforms=["cuda"])(*shapes)
    assert "while" not in lowered.mlir_module()
    assert "while" in jax.export.export(jax.jit(inner_products), platforms=["cpu"])(*shapes).mlir_module()
