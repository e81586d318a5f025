"""Initial atoms, against what they are meant to be: distinct samples, singular subspaces, directions far apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import INITIALIZATIONS as METHODS
from scipy import stats
from scipy.linalg import subspace_angles

import jax_mmf as mmf

KEYS = jax.random.split(jax.random.key(0), 400)
every_method = pytest.mark.parametrize("name", METHODS)


def indices_of(atoms, samples):
    """Which sample each atom is a copy of."""
    equal = (np.asarray(atoms)[:, None] == np.asarray(samples)[None]).all(-1)
    assert equal.any(1).all(), "an atom is no sample"
    return equal.argmax(1)


@every_method
@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (5, 5)])
def test_shape_dtype_and_reproducibility(dtype, name, shape):
    samples = jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype)
    start = jax.jit(METHODS[name], static_argnums=2)
    for k in (1, 5):
        atoms = start(KEYS[0], samples, k)
        assert atoms.shape == (k, shape[1])
        assert atoms.dtype == dtype
        assert jnp.isfinite(atoms).all()
        np.testing.assert_array_equal(atoms, start(KEYS[0], samples, k))
    different = any((start(KEYS[i], samples, 1) != start(KEYS[0], samples, 1)).any() for i in range(1, 8))
    assert different or name in ("svd", "own")  # which draw nothing: the same atoms, up to rounding


@pytest.mark.parametrize("name", ["samples", "kmeans"])
@pytest.mark.parametrize("k", [1, 7, 20])
def test_atoms_are_distinct_samples(name, k):
    samples = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    start = jax.jit(METHODS[name], static_argnums=2)
    for key in KEYS[:10]:
        chosen = indices_of(start(key, samples, k), samples)
        assert len(set(chosen)) == k


@pytest.mark.parametrize("name", ["samples", "kmeans"])
def test_zeros_are_avoided_as_long_as_possible(name):
    samples = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    samples[::2] = 0
    start = jax.jit(METHODS[name], static_argnums=2)
    for key in KEYS[:10]:
        for k in (1, 4, 10):
            assert (np.abs(start(key, samples, k)).max(1) > 0).all()
        assert (np.abs(start(key, samples, 13)).max(1) > 0).sum() == 10


@pytest.mark.parametrize("name", ["samples", "kmeans"])
def test_the_first_sample_is_uniform(name):
    """Whatever its norm: chi-square with fixed keys, over samples that are not zero."""
    rng = np.random.default_rng(0)
    samples = (rng.standard_normal((6, 4)) * 10.0 ** np.arange(-3, 3)[:, None]).astype(np.float32)
    samples = jnp.asarray(samples)
    atoms = jax.vmap(lambda key: METHODS[name](key, samples, 1))(KEYS)
    counts = np.bincount(indices_of(atoms[:, 0], samples), minlength=6)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_random_samples_are_uniform_pairs():
    samples = jnp.arange(1.0, 6.0)[:, None]
    atoms = jax.vmap(lambda key: mmf.RandomSamples()(key, samples, 2))(KEYS)[..., 0]
    pairs = np.sort(np.asarray(atoms), 1)
    _, counts = np.unique(pairs, axis=0, return_counts=True)
    assert len(counts) == 10
    assert stats.chisquare(counts).pvalue > 1e-3


def test_kmeans_draws_by_the_squared_sine():
    """Second atoms after the first: counts in proportion to the squared sine of the angle to it."""
    angles = np.deg2rad([0.0, 15.0, 40.0, 90.0])
    samples = (np.stack([np.cos(angles), np.sin(angles)], 1) * [[3.0], [0.1], [-5.0], [1.0]]).astype(np.float32)
    samples = jnp.asarray(samples)
    keys = jax.random.split(jax.random.key(1), 4000)
    atoms = jax.vmap(lambda key: mmf.KMeansPlusPlus()(key, samples, 2))(keys)
    first, second = (indices_of(atoms[:, i], samples) for i in (0, 1))
    for i in range(4):
        chance = np.delete(np.sin(angles - angles[i]) ** 2, i)
        counts = np.delete(np.bincount(second[first == i], minlength=4), i)
        assert counts.sum() == (first == i).sum()
        assert stats.chisquare(counts, counts.sum() * chance / chance.sum()).pvalue > 1e-3


def test_kmeans_finds_every_cluster(dtype):
    """Tight clusters of directions, in orthogonal axes, either sign and any norm: one atom of each."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(5), 12)
    samples = np.eye(5)[label] + 1e-3 * rng.standard_normal((60, 5))
    samples *= rng.choice([-1, 1], (60, 1)) * rng.gamma(1.0, 1.0, (60, 1))
    samples, start = jnp.asarray(samples, dtype), jax.jit(mmf.KMeansPlusPlus(), static_argnums=2)
    for key in KEYS[:20]:
        chosen = indices_of(start(key, samples, 5), samples)
        assert set(label[chosen]) == set(range(5))


def test_kmeans_of_copies_takes_each_once():
    """Copies are a last resort, but no sample is taken twice, and the result is never NaN."""
    base = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    samples = np.concatenate([base, base, -2 * base])
    start = jax.jit(mmf.KMeansPlusPlus(), static_argnums=2)
    for key in KEYS[:10]:
        atoms = np.asarray(start(key, samples, 9))
        assert len(set(indices_of(atoms[:3], samples) % 3)) == 3
        np.testing.assert_array_equal(np.sort(atoms, 0), np.sort(samples, 0))


@pytest.mark.parametrize("shape", [(60, 25), (25, 60)])
def test_svd_spans_the_top_singular_subspace(dtype, shape):
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((n, 20)))[0] for n in shape)
    samples = left * 2.0 ** -np.arange(20) @ right.T
    atoms = mmf.RandomizedSVD()(KEYS[0], jnp.asarray(samples, dtype), 6)
    # Three power iterations on a decay of 2^-10 over the oversamples leave rounding, over the gap of 1/2^6.
    bound = 1e-4 if dtype == "float32" else 1e-11
    assert subspace_angles(np.asarray(atoms, float).T, right[:, :6]).max() < bound
    atoms = np.asarray(atoms)
    np.testing.assert_allclose(atoms @ atoms.T, np.eye(6), atol=bound)
    cosines = np.abs(np.sum(atoms * right[:, :6].T, 1))
    np.testing.assert_allclose(cosines, 1, atol=bound)  # in order


def test_svd_without_iterations_is_a_random_projection(x64):
    """On data of the rank asked for, exact even so."""
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((40, 3)) @ rng.standard_normal((3, 20))
    atoms = mmf.RandomizedSVD(n_oversamples=0, n_iter=0)(KEYS[0], jnp.asarray(samples), 3)
    assert subspace_angles(np.asarray(atoms).T, samples.T[:, :3]).max() < 1e-10


def test_svd_fills_up_with_samples(dtype):
    """Rank 2, five atoms: two vectors that span the data, then distinct samples that are not zero."""
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((30, 2)) @ rng.standard_normal((2, 12))
    samples[::3] = 0
    samples = jnp.asarray(samples, dtype)
    atoms = mmf.RandomizedSVD()(KEYS[0], samples, 5)
    basis = np.linalg.svd(np.asarray(samples, float))[2][:2]
    assert subspace_angles(np.asarray(atoms[:2], float).T, basis.T).max() < (1e-5 if dtype == "float32" else 1e-12)
    chosen = indices_of(atoms[2:], samples)
    assert len(set(chosen)) == 3
    assert (np.asarray(samples)[chosen] != 0).any(1).all()


def test_svd_of_more_atoms_than_features(dtype):
    samples = jnp.asarray(np.random.default_rng(0).standard_normal((30, 4)), dtype)
    atoms = mmf.RandomizedSVD()(KEYS[0], samples, 9)
    np.testing.assert_allclose(atoms[:4] @ atoms[:4].T, np.eye(4), atol=1e-5 if dtype == "float32" else 1e-13)
    assert len(set(indices_of(atoms[4:], samples))) == 5


def test_svd_vectors_are_turned_to_their_larger_part(x64):
    """For constraints with d >= 0: the part that the projection keeps is the larger one."""
    samples = jnp.asarray(np.random.default_rng(0).standard_normal((30, 12)))
    for key in KEYS[:5]:
        atoms = np.asarray(mmf.RandomizedSVD()(key, samples, 5))
        assert (atoms.max(1) >= -atoms.min(1)).all()


@every_method
def test_zeros_give_zeros(dtype, name):
    assert (METHODS[name](KEYS[0], jnp.zeros((6, 4), dtype), 3) == 0).all()


@every_method
def test_extreme_scales_are_finite(name):
    samples = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    for scale in (1e-18, 1e18):
        atoms = METHODS[name](KEYS[0], jnp.asarray(samples * np.float32(scale)), 3)
        assert jnp.isfinite(atoms).all()
        assert (jnp.abs(atoms).max(1) > 0).all()


@pytest.mark.parametrize("name", ["samples", "kmeans"])
def test_choices_do_not_depend_on_the_scale_of_the_data(name):
    """Norms of such data vanish or overflow."""
    samples = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    samples[::3] = samples[0]
    expected = indices_of(METHODS[name](KEYS[0], jnp.asarray(samples), 6), samples)
    for power in (-110, -60, 60, 120):
        scaled = samples * np.float32(2.0) ** power
        np.testing.assert_array_equal(indices_of(METHODS[name](KEYS[0], jnp.asarray(scaled), 6), scaled), expected)


def test_svd_does_not_depend_on_the_scale_of_the_data():
    samples = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    expected = mmf.RandomizedSVD()(KEYS[0], jnp.asarray(samples), 3)
    for power in (-110, -60, 60, 120):
        found = mmf.RandomizedSVD()(KEYS[0], jnp.asarray(samples * np.float32(2.0) ** power), 3)
        np.testing.assert_allclose(found, expected, atol=1e-5)


BAD = {
    "zeros": np.zeros((12, 5)),
    "constant": np.full((12, 5), 3.0),
    "copies of two": np.repeat(np.random.default_rng(0).standard_normal((2, 5)), 6, 0),
    "one that is not zero": np.eye(12, 5) * (np.arange(12) == 3)[:, None],
    "one feature": np.arange(12.0)[:, None],
}


@every_method
@pytest.mark.parametrize(
    "constraint", [mmf.L2Ball(), mmf.L1Ball(nonneg=True), mmf.Simplex()], ids=["l2", "l1", "simplex"]
)
@pytest.mark.parametrize("kind", BAD)
def test_poor_samples_give_atoms_of_the_radius_or_zeros(name, constraint, kind):
    solver = mmf.OnlineFactorization(
        n_components=4, penalty=mmf.Ridge(0.1), constraint=constraint, initialization=METHODS[name]
    )
    state = solver.init(KEYS[0], samples=BAD[kind].astype(np.float32))
    gauges = np.asarray(constraint.gauge(state.dictionary))
    zero = (np.asarray(state.dictionary) == 0).all(1)
    np.testing.assert_allclose(gauges, np.where(zero, 0, 1), rtol=1e-6)
    assert not zero.any() or kind in ("zeros", "one that is not zero", "one feature", "copies of two")
    assert zero.all() == (kind == "zeros" and not isinstance(constraint, mmf.Simplex))


@every_method
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_an_error(name, value):
    samples = np.random.default_rng(0).standard_normal((12, 5))
    samples[3, 2] = value
    solver = mmf.OnlineFactorization(
        n_components=4, penalty=mmf.Ridge(0.1), constraint=mmf.L2Ball(), initialization=METHODS[name]
    )
    with pytest.raises(ValueError, match="samples must be finite"):
        solver.init(KEYS[0], samples=samples)
    with pytest.raises(ValueError, match="dictionary must be finite"):
        solver.init(KEYS[0], dictionary=samples[:4])


def test_bad_settings_are_named():
    for name in ("n_oversamples", "n_iter"):
        with pytest.raises(ValueError, match=name):
            mmf.RandomizedSVD(**{name: -1})
        with pytest.raises(TypeError, match=name):
            mmf.RandomizedSVD(**{name: 1.5})


@every_method
def test_settings_are_static(name):
    assert jax.tree.leaves(METHODS[name]) == []
    assert isinstance(METHODS[name], mmf.Initialization)
