"""Parts of a user's own together; alone, they stand in the tables of helpers.py, which other test files loop over."""

from dataclasses import replace

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mmf as mmf

SOLVER = mmf.OnlineFactorization(
    n_components=4,
    penalty=helpers.OwnPenalty(0.05, 0.05),
    constraint=helpers.OwnBall(),
    subset=helpers.OwnSubset(),
    forgetting=helpers.OwnAverage(),
    statistics=helpers.OwnStatistics(),
    partial_b=True,
    dictionary_update=helpers.OwnGradientStep(),
    code_solver=helpers.OwnISTA(200),
    initialization=helpers.OwnFirstSamples(),
)
PROTOCOLS = {
    "penalty": mmf.Penalty,
    "constraint": mmf.Constraint,
    "subset": mmf.FeatureSubset,
    "forgetting": mmf.Forgetting,
    "statistics": mmf.Statistics,
    "dictionary_update": mmf.DictionaryUpdate,
    "code_solver": mmf.CodeSolver,
    "initialization": mmf.Initialization,
}


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((64, 4)) * (rng.random((64, 4)) < 0.5)
    return (codes @ rng.standard_normal((4, 24)) / 3 + 0.05 * rng.standard_normal((64, 24))).astype(np.float32)


@pytest.mark.parametrize("field", PROTOCOLS)
def test_each_is_of_its_protocol_and_a_pytree(field):
    part = getattr(SOLVER, field)
    assert isinstance(part, PROTOCOLS[field])
    leaves, structure = jax.tree.flatten(part)
    assert jax.tree.unflatten(structure, leaves) == part


def test_fit_learns(x):
    result = mmf.fit(SOLVER, x, key=jax.random.key(0), n_epochs=30, batch_size=16, held_out=x)
    start = SOLVER.init(jax.random.key(0), samples=x).dictionary
    assert result.objective < 0.7 * mmf.objective(start, x, SOLVER.penalty, solver=mmf.CoordinateDescent())
    assert (np.sum(np.asarray(result.state.dictionary) ** 2, 1) <= 1 + 1e-5).all()


def test_scan_is_a_loop_and_vmap_over_a_number_too(x):
    start = SOLVER.init(jax.random.key(0), samples=x)
    state = start
    for _ in range(3):
        state, info = SOLVER.update(state, x[:16])
    assert info.finite

    @jax.jit
    @jax.vmap
    def learned(l1):
        solver = replace(SOLVER, penalty=helpers.OwnPenalty(l1, 0.05))
        return jax.lax.scan(lambda s, _: solver.update(s, x[:16]), start, length=3)[0].dictionary

    several = learned(jnp.array([0.05, 0.3]))
    np.testing.assert_allclose(several[0], state.dictionary, atol=1e-5)
    assert jnp.abs(several[1] - several[0]).max() > 1e-3
