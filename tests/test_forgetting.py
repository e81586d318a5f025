"""Weights of mini-batches, against their definitions in exact-enough arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FORGETTINGS

import jax_mmf as mmf


def power(exponent, n, b):
    """1 - prod(1 - i^-u) without cancellation, in double precision."""
    with np.errstate(divide="ignore"):
        return -np.expm1(np.log1p(-(np.arange(n + 1, n + b + 1, dtype=float) ** -float(exponent))).sum())


def scaled(scale, n, b):
    return scale * b / (n + scale * b)


def constant(rate, n, b):
    with np.errstate(divide="ignore"):
        return -np.expm1(b * np.log1p(-rate))


RULES = [
    (mmf.PowerForgetting(0.9), power, 0.9),
    (mmf.PowerForgetting(1.0), power, 1.0),
    (mmf.PowerForgetting(0.5), power, 0.5),
    (mmf.ScaledForgetting(8.0), scaled, 8.0),
    (mmf.ScaledForgetting(0.5), scaled, 0.5),
    (mmf.ConstantForgetting(0.05), constant, 0.05),
    (mmf.ConstantForgetting(1.0), constant, 1.0),
    (FORGETTINGS["own"], scaled, 1.0),
]
# Whole numbers are numbers too.
WHOLE = [
    (mmf.PowerForgetting(1), power, 1),
    (mmf.ScaledForgetting(8), scaled, 8),
    (mmf.ConstantForgetting(1), constant, 1),
]


@pytest.mark.parametrize("b", [1, 3, 64])
@pytest.mark.parametrize("n", [0, 1, 10, 12345])
@pytest.mark.parametrize(("rule", "truth", "value"), RULES + WHOLE, ids=lambda v: getattr(v, "__name__", repr(v)))
def test_weight_is_the_definition(x64, rule, truth, value, n, b):
    # 1 - prod loses a few digits where the weight is small, about 1e-5 here.
    np.testing.assert_allclose(rule.weight(jnp.asarray(n), b), truth(value, n, b), rtol=1e-10)


@pytest.mark.parametrize("n_dtype", [jnp.int32, jnp.float32])
@pytest.mark.parametrize(
    ("rule", "truth", "value"),
    [
        (mmf.PowerForgetting(1.0), power, 1.0),
        (mmf.PowerForgetting(0.9), power, 0.9),
        (mmf.ScaledForgetting(8.0), scaled, 8.0),
        (mmf.ConstantForgetting(1e-3), constant, 1e-3),
        (mmf.ConstantForgetting(1e-7), constant, 1e-7),
    ],
    ids=lambda v: getattr(v, "__name__", repr(v)),
)
def test_massive_data_in_single_precision(rule, truth, value, n_dtype):
    """After a hundred million samples a batch still weighs what it should: in (0, 1], not rounded to nothing."""
    n, b = 10**8, 256
    # Powers and sums in float32: some eps each.
    np.testing.assert_allclose(rule.weight(jnp.asarray(n, n_dtype), b), truth(value, n, b), rtol=1e-4)


@pytest.mark.parametrize(("rule", "truth", "value"), RULES + WHOLE, ids=lambda v: getattr(v, "__name__", repr(v)))
def test_weights_of_billions_of_samples_in_single_precision(rule, truth, value):
    """float32 rounds the numbers of samples from 2^24 on, and integers end at 2^31 - 1."""
    for n in (2**24 - 7, 2**24 + 1, 2**28, 2**31 - 300, 2**31 - 2, 2**31 - 1):
        for b in (1, 300):
            found = rule.weight(jnp.asarray(n, jnp.int32), b)
            assert found.dtype == jnp.float32
            np.testing.assert_allclose(found, truth(value, n, b), rtol=2e-6)


TRACED = {repr(rule): jax.jit(rule.weight) for rule, _, _ in RULES + WHOLE}


@pytest.mark.parametrize("n", [0, 3, 10**6, 2**31 - 1])
@pytest.mark.parametrize(("rule", "truth", "value"), RULES + WHOLE, ids=lambda v: getattr(v, "__name__", repr(v)))
def test_weight_of_a_traced_batch_size(rule, truth, value, n):
    """One program for all sizes: those of a chunk of the loop, one less, one more, and many chunks."""
    weight = TRACED[repr(rule)]
    for b in (1, 255, 256, 257, 5000):
        np.testing.assert_allclose(weight(jnp.int32(n), jnp.int32(b)), truth(value, n, b), rtol=3e-6)
        np.testing.assert_allclose(weight(jnp.int32(n), jnp.int32(b)), rule.weight(jnp.int32(n), b), rtol=3e-6)
    assert weight._cache_size() == 1


def test_forward_derivative_of_a_traced_batch_size(x64):
    weight = jax.jit(lambda u, b: mmf.PowerForgetting(u).weight(jnp.int32(10_000), b))
    derivative = jax.jit(jax.jacfwd(weight))(0.6, jnp.int32(300))
    expected = (power(0.6 + 1e-6, 10_000, 300) - power(0.6 - 1e-6, 10_000, 300)) / 2e-6
    np.testing.assert_allclose(derivative, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "rule", [mmf.PowerForgetting(1.0), mmf.ScaledForgetting(1.0), FORGETTINGS["own"]], ids=["power", "scaled", "own"]
)
@pytest.mark.parametrize("sizes", [(5, 5, 5, 5), (7, 1, 10, 2)])
def test_plain_average(x64, rule, sizes):
    """Exponent 1 and scale 1 weigh every sample the same, whatever the sizes of the batches."""
    x, mean, n = np.random.default_rng(0).standard_normal(sum(sizes)), 0.0, 0
    for b in sizes:
        w = float(rule.weight(jnp.asarray(n), b))
        mean = (1 - w) * mean + w * x[n : n + b].mean()
        n += b
    assert abs(mean - x.mean()) < 1e-14


def test_scaled_samples_weigh_a_power_of_their_number(x64):
    """Weights in the final average grow as i^(c - 1): fitted on late samples, where the law holds to 1/i."""
    c, n = 3.0, 4000
    w = np.array([float(mmf.ScaledForgetting(c).weight(i, 1)) for i in range(n)])
    share = w * np.append(np.cumprod((1 - w)[::-1])[::-1][1:], 1.0)
    assert abs(share.sum() - 1) < 1e-12
    late = np.arange(1000, n)
    slope = np.polyfit(np.log(late + 1), np.log(share[late]), 1)[0]
    assert abs(slope - (c - 1)) < 0.01


@pytest.mark.parametrize("rule", [mmf.PowerForgetting(0.7), mmf.ConstantForgetting(0.01)], ids=["power", "constant"])
def test_batches_compose(x64, rule):
    """Two batches keep as much of the past as the one that they make up."""
    first, second = rule.weight(jnp.asarray(20), 6), rule.weight(jnp.asarray(26), 9)
    np.testing.assert_allclose((1 - first) * (1 - second), 1 - rule.weight(jnp.asarray(20), 15), rtol=1e-13)


@pytest.mark.parametrize("kind", [mmf.PowerForgetting, mmf.ScaledForgetting, mmf.ConstantForgetting])
@pytest.mark.parametrize("n", [0, 7])
def test_derivative_in_the_setting(x64, kind, n):
    """Traced, vectorised and differentiated, the first batch included."""
    weight = jax.jit(lambda v: kind(v).weight(jnp.asarray(n), 5))
    ahead, behind = weight(0.6 + 1e-6), weight(0.6 - 1e-6)
    np.testing.assert_allclose(jax.grad(weight)(0.6), (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(jax.vmap(weight)(jnp.array([0.6, 0.9]))[0], weight(0.6), rtol=1e-15)


@pytest.mark.parametrize(
    ("kind", "name", "bad"),
    [
        (mmf.PowerForgetting, "exponent", [0.0, -1.0, float("nan")]),
        (mmf.ScaledForgetting, "scale", [0.0, -1, float("inf")]),
        (mmf.ConstantForgetting, "rate", [0.0, 1.5, -0.1]),
    ],
)
def test_bad_settings_are_named(kind, name, bad):
    for value in bad:
        with pytest.raises(ValueError, match=name):
            kind(value)
    with pytest.raises(TypeError, match=name):
        kind("fast")


@pytest.mark.parametrize("kind", [mmf.PowerForgetting, mmf.ScaledForgetting, mmf.ConstantForgetting])
def test_rules_are_pytrees_of_one_number(kind):
    rule = kind(0.5)
    assert jax.tree.leaves(rule) == [0.5]
    assert isinstance(rule, mmf.Forgetting)


def test_kinds_have_different_structures():
    """jit finds compiled code by the structure of its arguments: equal ones run the code of each other."""
    rules = (mmf.PowerForgetting(0.5), mmf.ScaledForgetting(0.5), mmf.ConstantForgetting(0.5))
    structures = [jax.tree.structure(rule) for rule in rules]
    assert all(structures[i] != structures[j] for i in range(3) for j in range(i))
