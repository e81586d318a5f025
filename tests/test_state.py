"""The arrays of a state: each is written to a model file, read back, and permuted if it has an axis of features."""

from typing import Annotated, NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_mmf as mmf
from jax_mmf.io import FeaturePermutation
from jax_mmf.learning import map_arrays
from jax_mmf.learning import state as module

K, P = 3, 8
X = np.random.default_rng(0).standard_normal((12, P)).astype("float32")
SOLVERS = {
    "full B": {},
    "partial B": {"partial_b": True},
    "gram": {"statistics": mmf.FullStatistics()},
    "vector of the update": {"dictionary_update": mmf.ProjectedGradient()},
    "tree of the update": {"dictionary_update": mmf.GradientUpdate(optax.adam(1e-2))},
}


def of(name):
    solver = mmf.OnlineFactorization(n_components=K, penalty=mmf.Ridge(0.1), **SOLVERS[name])
    return solver, solver.update(solver.init(jax.random.key(0), samples=X), X)[0]


def arrays(state):
    """All leaves of a state, found by JAX, without its key."""
    leaves = jax.tree_util.tree_leaves_with_path(state._replace(key=None))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.parametrize("name", SOLVERS)
def test_every_array_is_written_and_read_back(name, tmp_path):
    solver, state = of(name)
    mmf.save_model(tmp_path / "m.h5", solver, state)
    written = []
    with h5py.File(tmp_path / "m.h5") as file:
        file.visititems(lambda at, item: written.append(item[...]) if isinstance(item, h5py.Dataset) else None)
        key = file["key"][...]
    np.testing.assert_array_equal(key, jax.random.key_data(state.key))
    described = lambda found: sorted((a.dtype.str, a.shape, a.tobytes()) for a in found)
    assert described(written) == described([*arrays(state).values(), key])
    read = mmf.load_model(tmp_path / "m.h5", solver=solver).state
    assert jax.tree.structure(read) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, arrays(read), arrays(state))


@pytest.mark.parametrize("name", SOLVERS)
def test_an_array_is_permuted_if_it_has_the_axis_of_the_features(name):
    _, state = of(name)
    order = np.array([3, 1, 0, 2, 7, 6, 5, 4])
    permuted = FeaturePermutation(order).apply_to_state(state)
    assert jax.tree.structure(permuted) == jax.tree.structure(state)
    before, after = arrays(state), arrays(permuted)
    with_features = {at for at, array in before.items() if P in array.shape}
    assert len(with_features) == {"full B": 2, "gram": 2, "partial B": 3}.get(name, 2 if "vector" in name else 4)
    for at, array in before.items():
        np.testing.assert_array_equal(after[at], array[..., order] if at in with_features else array)


def test_a_new_array_needs_its_axes_and_no_more(monkeypatch):
    class Wider(NamedTuple):
        key: jax.Array
        dictionary: Annotated[jax.Array, "kp"]
        update_state: tuple
        means: Annotated[jax.Array | None, "p"]
        surrogate: mmf.learning.Surrogate

    monkeypatch.setattr(module, "_AXES", dict(module._annotated(Wider)))
    surrogate = mmf.learning.Surrogate(jnp.ones((K, K)), None, jnp.ones((K, P)), jnp.arange(P))
    state = Wider(jax.random.key(0), jnp.ones((K, P)), (), jnp.arange(P), surrogate)
    found = {}
    map_arrays(lambda name, axes, array: found.__setitem__(name, axes), state)
    expected = {"dictionary": "kp", "means": "p", "surrogate/c": "kk", "surrogate/residual": "kp"}
    assert found == expected | {"surrogate/feature_counts": "p"}
    order = np.array([7, 1, 2, 3, 4, 5, 6, 0])
    permuted = FeaturePermutation(order).apply_to_state(state)
    np.testing.assert_array_equal(permuted.means, order)


def test_an_array_without_axes_is_found_out(monkeypatch):
    _, state = of("full B")
    monkeypatch.delitem(module._AXES, "gauge")
    with pytest.raises(KeyError, match="gauge"):
        map_arrays(lambda name, axes, array: array, state)
