"""Patches, denoising and inpainting of images, against NumPy and known pictures."""

import jax
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import jax_mmf as mmf
from jax_mmf import images
from jax_mmf.images.denoising import _is_noise
from jax_mmf.images.groups import _denoised, _similar, refine_by_groups
from jax_mmf.images.pursuit import pursue
from jax_mmf.io import JoinedSource, Source

G = np.random.default_rng(0)
KEY = jax.random.key(0)
SMALL = {"n_components": 24, "patch_size": 5, "n_patches": 1500}


def picture(size=40):
    """A smooth picture with an edge, in [0, 1]."""
    ramp = np.add.outer(np.sin(np.arange(size) / 5.0), np.cos(np.arange(size) / 7.0)) / 8
    return 0.4 + ramp + 0.3 * (np.arange(size) > size // 2)


def psnr(image, truth):
    return -10 * np.log10(np.mean((np.asarray(image, float) - truth) ** 2))


def plain_patches(image, size):
    """Patches by two loops."""
    cube = image.reshape(*image.shape[:2], -1)
    rows, columns = cube.shape[0] - size + 1, cube.shape[1] - size + 1
    return np.stack([cube[i : i + size, j : j + size].ravel() for i in range(rows) for j in range(columns)])


@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 3), (6, 5, 11)])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_patches_are_those_of_two_loops(shape, size):
    image = G.random(shape)
    source = images.PatchSource(image, size, center=False)
    assert isinstance(source, Source)
    expected = plain_patches(image, size)
    assert (source.n_samples, source.n_features) == expected.shape
    rows = G.permutation(source.n_samples)
    np.testing.assert_allclose(source.read(rows), expected[rows], rtol=1e-6)
    columns = np.array([source.n_features - 1, 0])
    np.testing.assert_allclose(source.read(rows, columns), expected[rows][:, columns], rtol=1e-6)
    assert source.read(rows).dtype == source.dtype == np.float32


def test_means_are_subtracted_in_each_band_and_contrast_is_scaled():
    image = G.random((8, 9, 3)) + np.array([0, 5, -3])
    expected = plain_patches(image, 4).reshape(-1, 16, 3)
    expected = expected - expected.mean(1, keepdims=True)
    rows = np.arange(len(expected))
    np.testing.assert_allclose(images.PatchSource(image, 4).read(rows), expected.reshape(len(rows), -1), atol=2e-6)
    spread = expected.std((1, 2), keepdims=True)
    found = images.PatchSource(image, 4, contrast=0.29).read(rows)
    np.testing.assert_allclose(found, (expected / np.maximum(spread, 0.29)).reshape(len(rows), -1), atol=1e-5)
    assert (spread > 0.29).any()
    assert (spread < 0.29).any()


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 255), ("uint16", 65535), (">u2", 65535), (">f8", 1), ("f2", 1)])
def test_values_are_shares_of_the_range_of_integers(dtype, scale):
    image = (G.random((6, 6)) * (scale if scale > 1 else 3)).astype(dtype)
    source = images.PatchSource(image, 2, center=False)
    assert source.scale == scale
    np.testing.assert_allclose(source.read(np.arange(25)), plain_patches(image, 2) / float(scale), rtol=1e-6)


@pytest.mark.parametrize("shape", [(12, 13), (12, 13, 2)])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_averages_of_patches_are_the_image(shape, stride):
    image = G.random(shape)
    source = images.PatchSource(image, 4, stride=stride, center=False)
    patches = source.read(np.arange(source.n_samples))
    found = images.from_patches(patches, shape, places=source.places)
    np.testing.assert_allclose(found, image, rtol=1e-6)
    np.testing.assert_array_equal(found, images.from_patches(patches, shape, stride=stride))


def test_averages_are_weighted_and_gaps_are_nan():
    patches, places = np.array([[1.0], [5.0], [2.0]]), [(0, 0), (0, 0), (1, 1)]
    found = images.from_patches(patches, (2, 2), places=places, weights=[3.0, 1.0, 7.0])
    np.testing.assert_array_equal(found, [[2.0, np.nan], [np.nan, 2.0]])


def test_random_subsets_are_patches_without_repetition():
    image = G.random((9, 9))
    source = images.PatchSource(image, 3, n_patches=20, key=KEY, center=False)
    assert source.n_samples == 20 == len(np.unique(source.places, axis=0))
    expected = [image[i : i + 3, j : j + 3].ravel() for i, j in source.places]
    np.testing.assert_allclose(source.read(np.arange(20)), expected, rtol=1e-6)
    again = images.PatchSource(image, 3, n_patches=20, key=KEY)
    np.testing.assert_array_equal(source.places, again.places)
    assert images.PatchSource(image, 3, n_patches=1000, key=KEY).n_samples == 49
    with pytest.raises(ValueError, match="key"):
        images.PatchSource(image, 3, n_patches=20)


def test_masked_pixels_have_no_part_in_means_and_weights_zero():
    image, missing = G.random((10, 10)), G.random((10, 10)) < 0.4
    missing[:5, :5] = True  # patches without an observed pixel
    source = images.PatchSource(np.where(missing, np.nan, image), 3, mask=missing)
    rows = np.arange(source.n_samples)
    observed = ~plain_patches(missing, 3)
    keep = observed.any(1)
    assert source.n_samples == keep.sum() < keep.size
    patches, observed = plain_patches(image, 3)[keep], observed[keep]
    means = (patches * observed).sum(1, keepdims=True) / observed.sum(1, keepdims=True)
    np.testing.assert_allclose(source.read(rows), (patches - means) * observed, atol=1e-6)
    np.testing.assert_array_equal(source.mask.read(rows), observed)


def test_patches_are_learned_without_a_matrix_of_all_of_them():
    image, missing = picture(), G.random((40, 40)) < 0.3
    source = images.PatchSource(image, 4, mask=missing)
    solver = mmf.OnlineFactorization(n_components=6, penalty=mmf.Lasso(0.01), partial_b=True)
    result = mmf.fit(solver, source, key=KEY, mask=source.mask, batch_size=64)
    assert np.isfinite(np.asarray(result.dictionary)).all()
    joined = JoinedSource([source, images.PatchSource(image.T, 4)])
    assert joined.n_samples == source.n_samples + 37 * 37


def test_learned_patches_explain_the_image_and_another_one():
    result = images.learn_patches([picture(), picture().T], key=KEY, patch_size=4, n_components=8)
    assert result.dictionary.shape == (8, 16)
    source = images.PatchSource(picture(30), 4)
    x = source.read(np.arange(source.n_samples))
    assert mmf.explained_variance(result.dictionary, x, mmf.Lasso(0.001)) > 0.9


def orthogonal_matching_pursuit(dictionary, x, seen, error, max_atoms):
    """One patch, by least squares in each step."""
    chosen, estimate = [], np.zeros_like(x)
    norms = np.linalg.norm(dictionary * seen, axis=1)
    while len(chosen) < max_atoms and np.sum((seen * (x - estimate)) ** 2) > error:
        scores = np.abs(dictionary @ (seen * (x - estimate))) / norms
        chosen.append(int(np.argmax(scores)))
        codes = np.linalg.lstsq((dictionary[chosen] * seen).T, seen * x, rcond=None)[0]
        estimate = codes @ dictionary[chosen]
    return estimate, len(chosen)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_pursuit_is_that_of_least_squares(share):
    dictionary = G.standard_normal((30, 16)).astype("float32")
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    x = G.standard_normal((50, 16)).astype("float32")
    seen = (G.random(x.shape) >= share).astype("float32")
    error = (seen.sum(1) * G.choice([0.1, 0.5], 50)).astype("float32")
    found, count = pursue(dictionary, x, error, max_atoms=5, mask=seen if share else None)
    for row in range(50):
        expected, n = orthogonal_matching_pursuit(dictionary, x[row], seen[row], error[row], 5)
        assert count[row] == n
        np.testing.assert_allclose(found[row], expected, atol=2e-4)
    assert len(set(count.tolist())) > 1


@pytest.mark.parametrize("shape", [(96, 96), (64, 64, 3)])
def test_noise_is_estimated_in_units_of_the_image(shape):
    smooth = gaussian_filter(G.random(shape), (3, 3, 0)[: len(shape)]) * 500
    for sigma in (0.5, 20.0):
        assert images.estimate_sigma(smooth + G.normal(0, sigma, shape)) == pytest.approx(sigma, rel=0.1)


def test_similar_patches_are_the_nearest_of_all():
    guide, size, n_similar = G.random((27, 31, 2)).astype("float32"), 8, 16
    rows = np.array([0, 7, 19])
    found = np.concatenate([places for _, places in _similar(guide, size, rows, n_similar)])
    columns = np.array([0, 4, 8, 12, 16, 20, 23])
    assert found.shape == (21, n_similar, 2)
    patches = np.lib.stride_tricks.sliding_window_view(guide, (size, size), (0, 1))
    for (row, column), own in zip([(r, c) for r in rows for c in columns], found, strict=True):
        distances = ((patches - patches[row, column]) ** 2).sum((2, 3, 4))
        down, right = np.indices(distances.shape)
        distances[(abs(down - row) > 10) | (abs(right - column) > 10)] = np.inf
        nearest = np.sort(distances.ravel())[:n_similar]
        np.testing.assert_allclose(np.sort(distances[own[:, 0], own[:, 1]]), nearest, rtol=1e-4, atol=1e-4)


def test_groups_are_denoised_with_their_normal_distribution():
    noisy, guides = (G.standard_normal((3, 20, 6)).astype("float32") for _ in range(2))
    found, freedom = _denoised(noisy, guides)
    for group in range(3):
        covariance = np.cov(guides[group].T.astype(float))
        wiener = covariance @ np.linalg.inv(covariance + np.eye(6))
        mean = (noisy[group].mean(0) + guides[group].mean(0)) / 2
        np.testing.assert_allclose(found[group], mean + (noisy[group] - mean) @ wiener.T, atol=1e-4)
        np.testing.assert_allclose(freedom[group], np.trace(wiener), rtol=1e-4)


def test_groups_improve_an_estimate_and_small_images_have_none():
    truth = np.sin(np.add.outer(np.arange(40), 2 * np.arange(40)) / 3)[..., None] * 10
    noisy = truth + G.standard_normal(truth.shape)
    estimate = truth + 0.5 * G.standard_normal(truth.shape)
    found = refine_by_groups(noisy, estimate)
    assert ((found - truth) ** 2).mean() < ((estimate - truth) ** 2).mean() / 2
    np.testing.assert_array_equal(refine_by_groups(noisy[:9, :9], estimate[:9, :9]), estimate[:9, :9])


def test_denoising_of_bands_does_not_depend_on_their_basis():
    truth = np.stack([picture(24), picture(24).T], -1)
    noisy = truth + G.normal(0, 0.05, truth.shape)
    rotation = np.array([[0.6, -0.8], [0.8, 0.6]])
    found = images.denoise(noisy, 0.05, **SMALL)
    turned = images.denoise(noisy @ rotation, 0.05, **SMALL) @ rotation.T
    assert psnr(found, truth) == pytest.approx(psnr(turned, truth), abs=0.3)


@pytest.mark.parametrize(("dtype", "unit"), [("float32", 1), (">f8", 3.0), ("uint8", 255), (">u2", 65535)])
def test_denoising_keeps_shape_dtype_and_range(dtype, unit):
    noisy = picture() + G.normal(0, 0.05, (40, 40))
    image = (np.clip(noisy, 0, 1) * unit).astype(dtype)
    found = images.denoise(image, 0.05 * unit, **SMALL)
    assert found.shape == image.shape
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    assert psnr(found / unit, picture()) > psnr(image / unit, picture()) + 5


def test_denoising_of_colors_and_with_an_estimated_sigma_and_a_given_dictionary():
    truth = np.stack([picture(), 1 - picture(), picture().T], -1)
    noisy = truth + G.normal(0, 0.05, truth.shape)
    found = images.denoise(noisy, **SMALL)
    assert psnr(found, truth) > psnr(noisy, truth) + 5
    dictionary = images.learn_patches(noisy, key=KEY, patch_size=5, n_components=24).dictionary
    assert psnr(images.denoise(noisy, 0.05, dictionary), truth) > psnr(noisy, truth) + 5
    with pytest.raises(ValueError, match="dictionary"):
        images.denoise(noisy, 0.05, dictionary[:, :70])


def test_denoising_is_the_same_at_another_offset_and_scale_and_for_the_same_key():
    noisy = picture() + G.normal(0, 0.05, (40, 40))
    found = images.denoise(noisy, 0.05, **SMALL)
    np.testing.assert_array_equal(found, images.denoise(noisy, 0.05, **SMALL))
    other = images.denoise(1e4 + 1e3 * noisy, 50.0, **SMALL)
    assert psnr((other - 1e4) / 1e3, picture()) == pytest.approx(psnr(found, picture()), abs=0.5)


def test_structure_in_a_small_part_of_a_large_image_is_not_noise():
    noise = np.random.default_rng(0).standard_normal((128, 128))
    noise -= noise.mean()
    assert _is_noise(noise)
    for size, value in ((1, 8.0), (5, 3.0), (30, 0.5)):
        image = noise.copy()
        image[40 : 40 + size, 50 : 50 + size] += value
        assert image.var() < 1 + 3 * (2 / image.size) ** 0.5  # which the variance does not show
        assert not _is_noise(image)
    spot = np.zeros((128, 128))
    spot[40:44, 50:54] = 6
    found = images.denoise(spot + noise, 1.0, patch_size=5, n_components=8, n_patches=500)
    assert found[40:44, 50:54].mean() > 3


def test_noise_estimated_as_zero_is_a_warning():
    clipped = np.clip(picture() * (np.arange(40) > 30) + G.normal(-0.3, 0.05, (40, 40)), 0, 1)
    with pytest.warns(UserWarning, match="estimated as 0.*pass sigma"):
        np.testing.assert_array_equal(images.denoise(clipped), clipped)


def test_noise_without_limit_gives_a_flat_image():
    image = picture(16)
    for dictionary in (None, np.eye(16)):
        found = images.denoise(image, 1e30, dictionary, patch_size=4)
        np.testing.assert_allclose(found, image.mean(), atol=0.3)


@pytest.mark.parametrize("image", [np.full((20, 20), 7, "uint8"), np.zeros((20, 20, 3)), np.full((1, 1), 2.5)])
def test_images_without_contrast_are_returned(image):
    np.testing.assert_array_equal(images.denoise(image, 1.0), image)
    missing = np.zeros(image.shape[:2], bool)
    missing[1:2] = True
    np.testing.assert_array_equal(images.inpaint(image, missing), image)


def test_a_few_pixels_are_denoised():
    for shape in ((2, 3), (3, 3, 2)):
        assert np.isfinite(images.denoise(G.random(shape), 0.1)).all()


def test_progress_is_told():
    told = []
    images.denoise(picture() + G.normal(0, 0.05, (40, 40)), 0.05, progress=lambda *n: told.append(n), **SMALL)
    assert told[-1] == (2 * 1600, 2 * 1600)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    images.denoise(picture()[:9, :9], 0.1, n_components=4, progress=lambda *n: told.append(n))
    assert told[-1] == (2 * 81, 2 * 81)  # also of an image without groups


@pytest.mark.parametrize("dtype", ["float64", "uint8"])
def test_inpainting_fills_holes_and_leaves_the_rest(dtype):
    truth = picture() if dtype == "float64" else (picture() * 255).astype(dtype)
    unit = 1.0 if dtype == "float64" else 255
    missing = G.random(truth.shape) < 0.5
    image = np.where(missing, np.nan if dtype == "float64" else 0, truth).astype(dtype)
    found = images.inpaint(image, missing, n_rounds=1, **SMALL)
    assert found.dtype == truth.dtype
    np.testing.assert_array_equal(found[~missing], truth[~missing])
    assert psnr(found / unit, truth / unit) > 30
    assert found.min() >= truth[~missing].min()
    assert found.max() <= truth[~missing].max()


def test_inpainting_of_single_bands():
    truth = np.stack([picture(), 1 - picture().T], -1)
    missing = np.zeros(truth.shape, bool)
    missing[10:14, 5:30, 0] = True
    found = images.inpaint(np.where(missing, 0, truth), missing, n_rounds=1, **SMALL)
    np.testing.assert_array_equal(found[..., 1], truth[..., 1])
    assert psnr(found, truth) > 30


BAD = {
    "smaller than a patch": (np.ones((5, 9)), "smaller than a patch", ValueError),
    "nan": (np.where(np.eye(20) > 0, np.nan, 1.0), "row 0, column 0", ValueError),
    "infinity": (np.where(np.arange(400).reshape(20, 20) == 41, np.inf, 1.0), "row 2, column 1", ValueError),
    "alpha channel": (np.ones((20, 20, 4), "uint8"), r"alpha channel.*\[\.\.\., :3\]", ValueError),
    "one axis": (np.ones(20), "rows, columns", ValueError),
    "empty": (np.ones((0, 20)), "at least one pixel", ValueError),
    "complex": (np.ones((20, 20), complex), "complex", TypeError),
    "bool": (np.ones((20, 20), bool), "bool", TypeError),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("call", ["denoise", "patches", "sigma"])
def test_bad_images(what, call):
    image, match, error = BAD[what]
    functions = {
        "denoise": lambda: images.denoise(image, 0.1, patch_size=8),
        "patches": lambda: images.PatchSource(image, 8),
        "sigma": lambda: images.estimate_sigma(image),
    }
    if (what, call) == ("smaller than a patch", "sigma"):
        image, match = np.ones((2, 9)), "pass sigma"
    with pytest.raises(error, match=match):
        functions[call]()


def test_bad_masks_and_numbers():
    image = picture()
    with pytest.raises(ValueError, match=r"shape of the image, \(40, 40\)"):
        images.inpaint(image, np.zeros((40, 39)))
    with pytest.raises(ValueError, match="every pixel"):
        images.inpaint(image, np.ones((40, 40)))
    with pytest.raises(ValueError, match="row 3, column 4"):
        images.inpaint(np.where(np.arange(1600).reshape(40, 40) == 124, np.nan, image), np.eye(40))
    with pytest.raises(ValueError, match="sigma"):
        images.denoise(image, -1.0)
    with pytest.raises(ValueError, match="places"):
        images.from_patches(np.ones((1, 4)), (3, 3), places=[(2, 0)])
    with pytest.raises(ValueError, match="patches"):
        images.from_patches(np.ones((4, 5)), (3, 3))
    with pytest.raises(ValueError, match="smaller than a patch of 8 x 8"):
        images.inpaint(image[:7], np.eye(40)[:7], patch_size=8)
    for what in (3.0, np.ones(4)):
        with pytest.raises(ValueError, match=r"image must be \(rows, columns\)"):
            images.inpaint(what, np.zeros(np.shape(what)))


@pytest.mark.parametrize(
    ("error", "match", "patches", "shape", "options"),
    [
        (ValueError, r"weights must be \(4,\)", np.ones((4, 4)), (3, 3), {"weights": [1.0]}),
        (ValueError, "weights must be positive", np.ones((4, 4)), (3, 3), {"weights": [1, -1, 1, 1]}),
        (ValueError, "weights must be positive", np.ones((4, 4)), (3, 3), {"weights": [1, np.nan, 1, 1]}),
        (TypeError, "places must hold whole numbers", np.ones((1, 4)), (3, 3), {"places": [[0.5, 0.5]]}),
        (ValueError, "places must be at least 0", np.ones((1, 4)), (3, 3), {"places": [[0, -1]]}),
        (ValueError, "patches must be the 4 of a grid", np.ones((3, 4)), (3, 3), {}),
        (ValueError, "stride must be at least 1", np.ones((4, 4)), (3, 3), {"stride": 0}),
        (TypeError, "patches must hold real numbers", 1j * np.ones((4, 4)), (3, 3), {}),
        (ValueError, "shape must be", np.ones((4, 4)), 3, {}),
        (ValueError, "length of shape must be at least 1", np.ones((4, 4)), (3, 3, 0), {}),
    ],
)
def test_patches_that_make_no_image_are_named(error, match, patches, shape, options):
    with pytest.raises(error, match=match):
        images.from_patches(patches, shape, **options)


@pytest.mark.parametrize("scale", [1e-50, 1e50])
def test_patches_that_float32_cannot_hold_are_an_error(scale):
    with pytest.raises(ValueError, match=r"between 1e-18 and 1e\+18"):
        images.PatchSource(scale * picture(16), 4)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.longdouble])
def test_observed_pixels_keep_every_bit(dtype):
    truth = (1000 * picture(24)).astype(dtype) + np.array(2**60 + 1, dtype)
    missing = G.random(truth.shape) < 0.2
    filled = images.inpaint(truth, missing, patch_size=3, n_components=4, n_rounds=1)
    assert filled.dtype == dtype
    np.testing.assert_array_equal(filled[~missing], truth[~missing])
    np.testing.assert_array_equal(images.denoise(truth, 0), truth)


def test_the_largest_integers_do_not_overflow():
    image = np.full((12, 12), 2**64 - 1, np.uint64)
    image[::2] -= np.uint64(10_000)
    assert images.denoise(image, 3000.0, patch_size=3, n_components=4).min() > 2**64 - 50_000


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_values_whose_squares_overflow_or_vanish_are_an_error(scale):
    with pytest.raises(ValueError, match="largest value is between"):
        images.denoise(scale * picture(16), 0.1 * scale)


def test_arguments_of_another_kind_are_named():
    image = picture(16)
    with pytest.raises(TypeError, match="sigma must be one number"):
        images.denoise(image, np.full(2, 0.1))
    with pytest.raises(TypeError, match="sigma must be one number"):
        images.inpaint(image, image > 0.5, sigma=[0.1])
    for mask in (np.full(image.shape, "no"), np.where(image > 0.5, np.nan, 0)):
        with pytest.raises(TypeError, match="mask must hold booleans or numbers"):
            images.inpaint(image, mask)
    for call in (images.denoise, lambda *a, **k: images.inpaint(a[0], image > 0.5, **k)):
        with pytest.raises(ValueError, match="patch_size must be at least 2"):
            call(image, 0.1, patch_size=1)
    with pytest.raises(ValueError, match="at least one image"):
        images.learn_patches([], key=KEY)


def test_a_row_of_pixels_is_returned_with_a_warning():
    row = picture(16)[:1]
    with pytest.warns(UserWarning, match="no patches"):
        np.testing.assert_array_equal(images.denoise(row, 0.1), row)


@pytest.mark.parametrize("key", [0, np.uint32(3), "seed"])
def test_keys_of_another_kind_are_named(key):
    image = picture(16)
    calls = [
        lambda: images.denoise(image, 0.1, key=key),
        lambda: images.inpaint(image, image > 0.5, key=key),
        lambda: images.learn_patches(image, key=key),
        lambda: images.unmix(image.reshape(4, 16, 4), 2, key=key),
        lambda: images.PatchSource(image, 4, n_patches=3, key=key),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"key must be a PRNG key, such as jax\.random\.key\(0\)"):
            call()
