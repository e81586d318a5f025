"""Data sets: shapes, patches against a naive loop, and planted codes."""

import jax
import numpy as np
import pytest

import jax_mmf as mmf
from jax_mmf.datasets import iter_patches, load_indian_pines, make_sparse_codes, standardize_bands


def naive_patches(cube, size):
    height, width, _ = cube.shape
    return np.array(
        [
            [cube[y + i, x + j, b] for i in range(size) for j in range(size) for b in range(cube.shape[2])]
            for y in range(height - size + 1)
            for x in range(width - size + 1)
        ]
    )


CUBE = np.random.default_rng(0).integers(0, 1000, (7, 5, 3)).astype("uint16")


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 4, 512])
def test_patches_are_those_of_a_loop(size, batch):
    got = list(iter_patches(CUBE, size, batch=batch))
    want = naive_patches(CUBE, size)
    np.testing.assert_array_equal(np.concatenate(got), want)
    assert {len(g) for g in got[:-1]} <= {batch}
    assert 0 < len(got[-1]) <= batch
    assert got[0].dtype == CUBE.dtype


@pytest.mark.parametrize("order", [[3, 0, 23], [5], [7, 7, 7]])
def test_patches_in_an_order(order):
    got = np.concatenate(list(iter_patches(CUBE, 2, order=np.array(order), batch=2)))
    np.testing.assert_array_equal(got, naive_patches(CUBE, 2)[order])


@pytest.mark.parametrize("size", [0, -1, 6])
def test_size_of_patches_out_of_range(size):
    with pytest.raises(ValueError, match=r"size|window"):
        list(iter_patches(CUBE, size))


def test_size_of_patches_is_a_whole_number():
    with pytest.raises(TypeError, match="size"):
        list(iter_patches(CUBE, 2.5))


def test_bands_are_centred_and_the_cube_has_unit_variance():
    cube = CUBE * np.array([1, 10, 60], "uint16")
    got = standardize_bands(cube)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.mean((0, 1)), 0, atol=1e-5)
    assert got.std() == pytest.approx(1, rel=1e-5)
    # One scale for all: the bands keep their sizes relative to each other.
    want = cube.astype(float) - cube.mean((0, 1))
    np.testing.assert_allclose(got, want / want.std(), atol=1e-4)


def test_indian_pines():
    pytest.importorskip("importlib.metadata").version("tensorly")
    cube = load_indian_pines()
    assert (cube.shape, cube.dtype) == ((145, 145, 200), np.uint16)
    assert 900 < cube.min() < cube.mean() < cube.max() < 10_000
    # Neighbouring pixels and bands of a scene resemble each other.
    bands = cube.reshape(-1, 200).astype(float)
    assert np.corrcoef(bands[:, 50], bands[:, 51])[0, 1] > 0.9


@pytest.mark.parametrize("n_nonzero", [1, 3, 7])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_planted_codes(n_nonzero, noise, dtype):
    x, dictionary, codes = map(
        np.asarray, make_sparse_codes(jax.random.key(0), 300, 20, 7, n_nonzero=n_nonzero, noise=noise)
    )
    assert (x.shape, dictionary.shape, codes.shape) == ((300, 20), (7, 20), (300, 7))
    assert x.dtype == dictionary.dtype == codes.dtype == dtype
    np.testing.assert_allclose(np.linalg.norm(dictionary, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal((codes != 0).sum(1), n_nonzero)
    sizes = np.abs(codes[codes != 0])
    assert 1 <= sizes.min() < 1.1
    assert 1.9 < sizes.max() <= 2
    assert 0.4 < (codes[codes != 0] > 0).mean() < 0.6
    assert (codes != 0).any(0).all()
    residual = x - codes @ dictionary
    if noise:
        assert residual.std() == pytest.approx(noise, rel=0.05)
    else:
        np.testing.assert_allclose(residual, 0, atol=1e-5)


def test_number_of_atoms_is_exact_in_many_samples():
    """Equal random scores are not rare among millions of float32 numbers."""
    codes = make_sparse_codes(jax.random.key(0), 200_000, 1, 128, n_nonzero=3).codes
    counts = np.asarray((codes != 0).sum(1))
    assert np.unique(counts).tolist() == [3]


def test_planted_data_depend_on_the_key_alone():
    a, b = (make_sparse_codes(jax.random.key(4), 30, 10, 5) for _ in range(2))
    np.testing.assert_array_equal(a.x, b.x)
    assert not np.array_equal(a.x, make_sparse_codes(jax.random.key(5), 30, 10, 5).x)


def test_planted_codes_explain_planted_data():
    x, dictionary, codes = make_sparse_codes(jax.random.key(0), 200, 30, 10)
    assert mmf.explained_variance(dictionary, x, codes) > 0.99
