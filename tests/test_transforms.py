"""jit, vmap, scan, grad and export of the public functions."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mmf as mmf

K, P, B = 4, 48, 12


def make(**kwargs):
    options = {"n_components": K, "penalty": mmf.Lasso(0.1), "constraint": mmf.L2Ball()} | kwargs
    return mmf.OnlineFactorization(**options)


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(np.random.default_rng(0).standard_normal((B, P)), jnp.float32)


SOLVERS = {
    "ridge, l1": make(penalty=mmf.Ridge(0.1), constraint=mmf.L1Ball()),
    "lasso, l2, uniform": make(subset=mmf.UniformSubset(3), partial_b=True),
    "elastic net, blocks, full": make(
        penalty=mmf.ElasticNet(0.1, 0.5, nonneg=True),
        constraint=mmf.ElasticNetBall(0.5),
        subset=mmf.BlockSubset(5, 4),
        statistics=mmf.FullStatistics(),
    ),
    "simplex, fista": make(constraint=mmf.Simplex(), code_solver=mmf.FISTA(1e-3)),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_jit_scan_and_vmap_agree_with_plain_calls(x, name):
    solver = SOLVERS[name]
    keys = jax.random.split(jax.random.key(0), 2)
    starts = [solver.init(key, samples=x) for key in keys]

    def steps(solver, state):
        return jax.lax.scan(lambda s, _: solver.update(s, x), state, length=3)[0]

    plain = []
    for start in starts:
        state = start
        for _ in range(3):
            state, _ = solver.update(state, x)
        plain.append(state.dictionary)
    scanned = jax.jit(steps)(solver, starts[0]).dictionary
    np.testing.assert_allclose(scanned, plain[0], atol=1e-5)

    # Seeds: a batch of states.
    stacked = jax.vmap(lambda key: solver.init(key, samples=x))(keys)
    np.testing.assert_allclose(jax.vmap(steps, (None, 0))(solver, stacked).dictionary, jnp.stack(plain), atol=1e-5)


def test_vmap_over_a_path_of_alphas(x):
    """A solver whose alpha is an array is a batch of solvers: one call trains a whole regularisation path."""
    alphas = jnp.array([0.05, 0.2, 0.8])
    path = make(penalty=mmf.Lasso(alphas))
    axes = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, path)
    state = make().init(jax.random.key(0), samples=x)
    trained = jax.vmap(lambda s: s.update(state, x)[0].dictionary, in_axes=(axes,))(path)
    for alpha, dictionary in zip(alphas, trained, strict=True):
        alone = make(penalty=mmf.Lasso(alpha)).update(state, x)[0].dictionary
        np.testing.assert_allclose(dictionary, alone, atol=1e-5)


def test_forward_mode_through_a_step(x):
    def loss(alpha):
        solver = make(penalty=mmf.Lasso(alpha))
        state = solver.init(jax.random.key(0), samples=x)
        return jnp.sum(solver.update(state, x)[0].dictionary ** 2 * jnp.arange(P))

    forward, reverse = jax.jacfwd(loss)(0.3), jax.jacrev(loss)(0.3)
    np.testing.assert_allclose(forward, reverse, rtol=1e-3)
    assert forward != 0


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("name", SOLVERS)
def test_update_and_encode_lower_for_every_platform(x, name, platform):
    solver = SOLVERS[name]
    state = solver.init(jax.random.key(0), samples=x)
    raw = state._replace(key=jax.random.key_data(state.key))

    def update(raw, x):
        state = raw._replace(key=jax.random.wrap_key_data(raw.key))
        after, info = solver.update(state, x)
        return after.dictionary, info

    calls = (
        (update, (raw, x)),
        (lambda d, x: mmf.encode(d, x, solver.penalty), (state.dictionary, x)),
    )
    for function, args in calls:
        exported = jax.export.export(jax.jit(function), platforms=[platform])(*args)
        assert exported.platforms == (platform,)
        assert "f64" not in exported.mlir_module()


def test_export_runs_here(x):
    """The program that was lowered for this platform gives the numbers of the function."""
    penalty = mmf.Lasso(0.1)
    dictionary = x[:K] / 10
    encode = jax.jit(lambda d, x: mmf.encode(d, x, penalty))
    exported = jax.export.export(encode)(dictionary, x)
    np.testing.assert_array_equal(exported.call(dictionary, x), encode(dictionary, x))


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, jax_mmf as mmf
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax_mmf.codes.chunks import chunks_of
assert jax.device_count() == 4
mesh = jax.make_mesh((4,), ("samples",), axis_types=(AxisType.Auto,))
x = jnp.asarray(np.random.default_rng(0).standard_normal((32, 48)), jnp.float32)
rows = jax.device_put(x, NamedSharding(mesh, PartitionSpec("samples")))
assert chunks_of(mmf.ActiveSet(), rows) is None  # samples stay where they are
for penalty in (mmf.Ridge(0.1), mmf.Lasso(0.1)):
    solver = mmf.OnlineFactorization(n_components=4, penalty=penalty, constraint=mmf.L2Ball())
    state = solver.init(jax.random.key(0), samples=x)
    alone, sharded = solver.update(state, x)[0], solver.update(state, rows)[0]
    np.testing.assert_allclose(sharded.dictionary, alone.dictionary, atol=1e-5)
    codes = mmf.encode(state.dictionary, rows, penalty)
    expected = mmf.encode(state.dictionary, x, penalty)
    np.testing.assert_allclose(codes, expected, atol=1e-4)
    whole, spread = PartitionSpec(), PartitionSpec("samples")
    each = jax.shard_map(lambda d, x: mmf.encode(d, x, penalty), mesh=mesh, in_specs=(whole, spread), out_specs=spread,
                         check_vma=False)
    program = jax.jit(each).lower(state.dictionary, rows).compile()
    assert ("xla_cpu_small_call" in program.as_text()) == isinstance(penalty, mmf.Lasso)
    np.testing.assert_allclose(program(state.dictionary, rows), expected, atol=1e-4)
"""


@pytest.mark.slow
def test_sharded_batch_gives_the_same_numbers():
    """A mini-batch spread over four simulated devices gives the numbers of one device."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=os.environ | flags, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
