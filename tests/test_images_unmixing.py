"""Unmixing: endmembers and abundances of cubes with a known answer."""

import jax
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, nnls

from jax_mmf import images
from jax_mmf.images import unmixing

KEY = jax.random.key(0)


def spectra(m, bands=40):
    """Smooth, similar, non-negative spectra."""
    wave = np.linspace(0, 1, bands)
    return np.stack([1.2 + 0.7 * np.sin((2.5 + 1.7 * i) * wave + 2 * i) for i in range(m)]) * 500


def scene(m=4, *, snr=30, largest=1.0, seed=0):
    """A cube of mixtures of which no pixel has more than a share of one endmember."""
    g = np.random.default_rng(seed)
    shares = g.dirichlet(np.ones(m), 20000)
    shares = shares[shares.max(1) <= largest][:1500].reshape(30, 50, m)
    mixed = shares @ spectra(m)
    noise = np.sqrt(np.mean(mixed**2) / 10 ** (snr / 10))
    return mixed + g.normal(0, noise, mixed.shape), shares


def matched(found, truth):
    angles = images.spectral_angles(truth, found.endmembers)
    order = linear_sum_assignment(angles)[1]
    return angles[np.arange(len(truth)), order].mean(), found.abundances[..., order]


def test_spectral_angles_are_those_of_arccos():
    g = np.random.default_rng(0)
    first, second = g.random((3, 7)), g.random((2, 7))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            expected = np.degrees(np.arccos(a @ b / np.sqrt(a @ a * (b @ b))))
            assert images.spectral_angles(first, second)[i, j] == pytest.approx(expected)
    np.testing.assert_array_equal(images.spectral_angles(np.zeros((1, 7)), first), 90)
    np.testing.assert_allclose(
        images.spectral_angles(1e200 * first, 1e-200 * second), images.spectral_angles(first, second)
    )
    for bad, error in (([[np.nan]], ValueError), ([[1j]], TypeError), ([1.0], ValueError)):
        with pytest.raises(error, match="second must"):
            images.spectral_angles([[1.0]], bad)


@pytest.mark.parametrize("m", [2, 3, 5])
def test_pure_pixels_without_noise_are_found(m):
    g = np.random.default_rng(1)
    shares = np.concatenate([g.dirichlet(np.ones(m), 300), np.eye(m)])
    x = shares @ spectra(m)
    pure = set(range(300, 300 + m))
    assert set(images.successive_projection(x, m).tolist()) == pure
    assert set(images.vertex_components(x, m, np.random.default_rng(2)).tolist()) == pure


@pytest.mark.parametrize("initialization", ["vca", "spa"])
@pytest.mark.parametrize(("snr", "largest"), [(30, 1.0), (40, 0.8)])
def test_unmixing_is_better_than_extreme_pixels(initialization, snr, largest):
    cube, shares = scene(snr=snr, largest=largest)
    found = images.unmix(cube, 4, key=KEY, initialization=initialization)
    first = images.unmix(cube, 4, key=KEY, initialization=initialization, refine=False)
    angle, abundances = matched(found, spectra(4))
    first_angle, first_abundances = matched(first, spectra(4))
    assert angle < first_angle / 2
    assert angle < 1.5
    error = np.sqrt(np.mean((abundances - shares) ** 2))
    assert error < np.sqrt(np.mean((first_abundances - shares) ** 2)) / 1.5
    assert error < 0.05


def test_abundances_are_constrained_least_squares():
    cube, _ = scene(3)
    found = images.unmix(cube, 3, key=KEY)
    assert found.abundances.shape == (30, 50, 3)
    assert found.error.shape == (30, 50)
    assert (found.endmembers >= 0).all()
    assert (found.abundances >= 0).all()
    np.testing.assert_allclose(found.abundances.sum(-1), 1, atol=1e-5)
    assert (np.diff(found.abundances.mean((0, 1))) <= 0).all()
    weight = 1e4 * found.endmembers.max()  # of the equation that they sum to one
    for row, column in ((0, 0), (3, 7), (29, 49)):
        stacked = np.r_[found.endmembers.T, np.full((1, 3), weight)]
        expected = nnls(stacked, np.r_[cube[row, column], weight])[0]
        np.testing.assert_allclose(found.abundances[row, column], expected, atol=1e-5)
        left = cube[row, column] - found.abundances[row, column] @ found.endmembers
        assert found.error[row, column] == pytest.approx(np.sqrt(np.mean(left**2)))


def test_the_start_hardly_matters():
    cube, _ = scene(4, snr=35)
    one = images.unmix(cube, 4, key=KEY)
    other = images.unmix(cube, 4, key=KEY, initialization="spa")
    given = images.unmix(cube, 4, key=KEY, initialization=one.endmembers)
    assert matched(other, one.endmembers)[0] < 0.05
    assert matched(given, one.endmembers)[0] < 0.05


def test_ten_endmembers_are_refined_where_brightness_varies():
    g = np.random.default_rng(0)
    truth = g.random((10, 20)) + 0.2
    mixed = g.dirichlet(np.full(10, 0.5), 600) @ truth * (1 + 0.2 * g.standard_normal((600, 1)))
    cube = np.abs(mixed + g.normal(0, 0.02, mixed.shape)).reshape(20, 30, 20)
    found = images.unmix(cube, 10, key=KEY)
    assert np.sqrt(np.mean(found.error**2)) < 0.04  # extreme pixels leave 0.12


def test_refinement_that_does_not_converge_is_a_warning(monkeypatch):
    monkeypatch.setattr(unmixing, "_STEPS", 1)
    unmixing._maximise.clear_cache()
    with pytest.warns(UserWarning, match="did not converge"):
        images.unmix(scene(3)[0], 3, key=KEY)
    unmixing._maximise.clear_cache()


@pytest.mark.parametrize(("dtype", "scale"), [("uint16", 20), (">i2", 10), ("float32", 1e-6)])
def test_dtypes_and_units_do_not_matter(dtype, scale):
    cube, _ = scene(3)
    one = images.unmix(cube, 3, key=KEY)
    other = images.unmix((cube * scale).astype(dtype), 3, key=KEY)
    np.testing.assert_allclose(other.endmembers / scale, one.endmembers, atol=0.2)


def test_edge_cases_of_cubes():
    pixel = images.unmix(np.array([[[1.0, 2.0]]]), 1, key=KEY)
    np.testing.assert_allclose(pixel.endmembers, [[1, 2]])
    np.testing.assert_allclose(pixel.abundances, [[[1]]], atol=1e-6)
    band = images.unmix(np.arange(6.0).reshape(2, 3, 1), 1, key=KEY)
    np.testing.assert_allclose(band.endmembers, [[2.5]])  # the constant of least squared error
    two_bands = images.unmix(np.random.default_rng(0).random((8, 8, 2)), 2, key=KEY)
    np.testing.assert_allclose(two_bands.abundances.sum(-1), 1, atol=1e-5)


BAD = {
    "two axes": (np.ones((3, 4)), 2, "rows, columns, bands"),
    "one pixel": (np.ones((1, 1, 5)), 2, "number of pixels, 1"),
    "one band": (np.random.default_rng(0).random((4, 4, 1)), 2, "bands, 1"),
    "constant": (np.ones((4, 4, 5)), 3, "mixtures of fewer"),
    "low rank": (np.random.default_rng(0).random((5, 5, 1)) * np.ones(6), 3, "mixtures of fewer"),
    "nan": (np.full((4, 4, 5), np.nan), 2, "finite"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_cubes(what):
    cube, m, match = BAD[what]
    with pytest.raises(ValueError, match=match):
        images.unmix(cube, m, key=KEY)


def test_bad_initializations():
    cube, _ = scene(3)
    with pytest.raises(ValueError, match="'vca', 'spa'"):
        images.unmix(cube, 3, key=KEY, initialization="nfindr")
    with pytest.raises(ValueError, match="initialization"):
        images.unmix(cube, 3, key=KEY, initialization=np.ones((2, 40)))


@pytest.mark.parametrize(
    ("message", "spectra", "m"),
    [
        (r"\(n, bands\)", np.ones((3, 4, 5)), 2),
        ("finite", np.full((6, 4), np.nan), 2),
        ("at most the 6 spectra and the 4 bands, got 5", np.ones((6, 4)), 5),
    ],
)
def test_spectra_without_extreme_pixels_are_named(message, spectra, m):
    with pytest.raises(ValueError, match=message):
        images.successive_projection(spectra, m)
    with pytest.raises(ValueError, match=message):
        images.vertex_components(spectra, m, np.random.default_rng(0))


def test_arguments_that_give_no_endmembers_are_named():
    cube = np.random.default_rng(0).random((5, 6, 4)) + 0.1
    key = jax.random.key(0)
    with pytest.raises(TypeError, match="numpy.random.default_rng"):
        images.vertex_components(cube.reshape(-1, 4), 2, key)
    with pytest.raises(ValueError, match="no endmember with positive values"):
        images.unmix(-cube, 2, key=key, refine=False)
    for message, spectra in (("different spectra", np.ones((2, 4))), ("finite", np.full((2, 4), np.nan))):
        with pytest.raises(ValueError, match=f"initialization must .*{message}"):
            images.unmix(cube, 2, key=key, initialization=spectra)
