"""Loops end whatever comes in, and NaN is told, not hidden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CONSTRAINTS, DICTIONARY_UPDATES, FORGETTINGS, INITIALIZATIONS, OwnSubset

import jax_mmf as mmf
from jax_mmf.core.linalg import largest_eigenvalue

SETS = CONSTRAINTS | {"of both signs": mmf.ElasticNetBall(0.5)}
project = jax.jit(lambda constraint, atom, radius: constraint.project(atom, radius))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_projections_of_bad_numbers_end(name, bad):
    """Not finite, as long as the entry is not clipped to zero: the set has no nearest point."""
    constraint = SETS[name]
    one_bad = np.array([1.0, bad, 0.3, -2.0], np.float32)
    clipped = bad == -np.inf and constraint.nonneg
    for atom in (one_bad, np.full(4, bad, np.float32)):
        found = project(constraint, atom, 1.0)
        if not clipped:
            assert not np.isfinite(found).all()
    for radius in (np.nan, np.inf):
        assert project(constraint, np.ones(4, np.float32), radius).shape == (4,)


@pytest.mark.parametrize("name", SETS)
def test_one_feature_and_slow_sets_of_entries_end(name):
    """Thresholds that each drop one entry: as many passes as entries, and no more."""
    constraint = SETS[name]
    assert np.isfinite(project(constraint, np.array([5.0], np.float32), 1.0)).all()
    assert project(constraint, np.zeros(0, np.float32), 1.0).shape == (0,)
    n = 300
    with jax.enable_x64(True):
        atom = 1 + 1e-6 * np.concatenate([[0], np.cumsum(1 / np.arange(n - 1, 0, -1))])
        radius = 1e-6  # of the order of the differences
        found = project(constraint, atom, radius)
        np.testing.assert_allclose(constraint.gauge(found), radius, rtol=1e-9)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_power_iteration_ends(bad):
    value, vector = largest_eigenvalue(jnp.full((3, 3), bad), jnp.ones(3), 5)
    assert vector.shape == (3,)
    assert value == 0 if bad == 0 else not jnp.isfinite(value)


@pytest.mark.parametrize("initialization", INITIALIZATIONS.values(), ids=INITIALIZATIONS)
@pytest.mark.parametrize(
    "samples", [np.full((6, 4), np.nan), np.full((6, 4), np.inf), np.zeros((6, 4)), np.ones((2, 1))]
)
def test_initial_directions_of_bad_numbers_end(initialization, samples):
    assert initialization(jax.random.key(0), jnp.asarray(samples, jnp.float32), 2).shape == (2, samples.shape[1])


# Every constraint with the usual update, and every update with one constraint.
STEPS = [("block coordinate descent", name) for name in SETS]
STEPS += [(update, "elastic net") for update in DICTIONARY_UPDATES if update != STEPS[0][0]]


@pytest.mark.parametrize(("update", "name"), STEPS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_on_bad_numbers_ends_and_tells(update, name, bad):
    x = np.abs(np.random.default_rng(0).standard_normal((8, 6))).astype(np.float32)
    solver = mmf.OnlineFactorization(
        n_components=3, penalty=mmf.Ridge(0.1), constraint=SETS[name], dictionary_update=DICTIONARY_UPDATES[update]
    )
    state = solver.init(jax.random.key(0), samples=x)
    x[2, 3] = bad
    assert not solver.update(state, x)[1].finite


@pytest.mark.parametrize("rule", FORGETTINGS.values(), ids=FORGETTINGS)
def test_a_batch_of_nothing_weighs_nothing(rule):
    assert jax.jit(rule.weight)(jnp.int32(5), jnp.int32(0)) == 0


@pytest.mark.parametrize("rule", [mmf.PowerForgetting(0.9), mmf.ScaledForgetting(), mmf.ConstantForgetting()])
def test_weights_of_bad_parameters_end(rule):
    of_traced_parameter = jax.jit(lambda parameter: type(rule)(parameter).weight(jnp.int32(5), jnp.int32(7)))
    assert jnp.isnan(of_traced_parameter(jnp.nan))


@pytest.mark.parametrize("subset", [mmf.FullSubset(), mmf.UniformSubset(1), mmf.BlockSubset(1, 3), OwnSubset(1)])
def test_subsets_of_one_feature(subset):
    np.testing.assert_array_equal(subset.draw(jax.random.key(0), jnp.int32(0), 1).indices, [0])


@pytest.mark.parametrize(
    ("update", "initialization"),
    [*((u, "samples") for u in DICTIONARY_UPDATES), *(("projected gradient", i) for i in ("kmeans", "svd", "own"))],
)
def test_data_times_a_number_give_the_same_dictionary(update, initialization):
    """From 1e-16 to 1e16 in single precision, where squares of codes are far from what it can hold."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3)) @ rng.standard_normal((3, 12)) + 0.1 * rng.standard_normal((40, 12))
    found = []
    for power in (0, -53, 53):
        c = np.float32(2.0**power)
        solver = mmf.OnlineFactorization(
            n_components=4, penalty=mmf.Ridge(0.1), constraint=mmf.L2Ball(),
            initialization=INITIALIZATIONS[initialization], dictionary_update=DICTIONARY_UPDATES[update],
        )  # fmt: skip
        state = solver.init(jax.random.key(0), samples=x.astype(np.float32) * c)
        for i in range(4):
            state, info = solver.update(state, x[10 * i : 10 * i + 10].astype(np.float32) * c)
        assert info.finite
        found.append((state.dictionary, info.codes / c, info.n_dead))
    for dictionary, codes, n_dead in found[1:]:
        np.testing.assert_allclose(dictionary, found[0][0], atol=2e-4)
        np.testing.assert_allclose(codes, found[0][1], atol=2e-3)
        assert n_dead == found[0][2]
