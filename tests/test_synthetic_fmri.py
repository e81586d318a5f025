"""Semi-synthetic subjects: their maps, their time courses, their noise, and their files."""

import sys

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("nilearn")

from jax_mmf.fmri.synthetic import autoregressive, make_subjects, planted_maps  # noqa: E402

SMALL = {"n_subjects": 2, "n_frames": 60, "n_maps": 5, "resolution": 8}


def voxels(image, mask_img):
    """``(n, n_voxels)`` of a 4D image or its path."""
    image = image if hasattr(image, "get_fdata") else nibabel.load(image)
    return image.get_fdata(dtype=np.float32)[np.asarray(mask_img.dataobj) > 0].T


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    return make_subjects(tmp_path_factory.mktemp("subjects"), **SMALL)


def test_files_are_images_that_nilearn_takes(subjects):
    from nilearn.maskers import NiftiMasker

    assert [p.name for p in subjects.paths] == ["sub-01_bold.nii.gz", "sub-02_bold.nii.gz"]
    for path in subjects.paths:
        image = nibabel.load(path)
        assert image.shape == (*subjects.mask_img.shape, 60)
        assert image.get_data_dtype() == np.int16
        assert image.header.get_zooms()[3] == 2.0
        np.testing.assert_array_equal(image.affine, subjects.mask_img.affine)
        masked = NiftiMasker(mask_img=subjects.mask_img, standardize=None).fit_transform(path)
        np.testing.assert_allclose(masked, voxels(image, subjects.mask_img), rtol=1e-6)


def test_maps_are_sparse_and_follow_the_grey_matter(subjects):
    values = subjects.maps_img.get_fdata()
    mask = np.asarray(subjects.mask_img.dataobj) > 0
    assert values.shape == (*mask.shape, 5)
    assert not values[~mask].any()
    assert values.min() == 0
    np.testing.assert_allclose(values.max((0, 1, 2)), 1)
    share = (values[mask] > 0).mean(0)
    assert share.max() < 0.25
    assert share.min() > 0


def test_bumps_do_not_cross_gaps_between_the_sides_of_the_mask():
    mask = np.zeros((20, 12, 12), bool)
    mask[:9], mask[11:] = True, True  # two slabs, 12 mm apart
    for seed in range(20):
        (one,) = planted_maps(np.random.default_rng(seed), mask, 6, 1)
        volume = np.zeros(mask.shape)
        volume[mask] = one
        sides = [(volume[side] > 0).any() for side in (slice(9), slice(11, None))]
        peaks = [volume[side].max() for side in (slice(9), slice(11, None))]
        # A side that a map reaches holds the centre of a bump: the heights of bumps are 0.6 or more of the largest.
        assert all(peak >= 0.6 for peak, reached in zip(peaks, sides, strict=True) if reached)


def test_scans_are_the_planted_product_without_noise(tmp_path):
    made = make_subjects(tmp_path, **SMALL, physiological=0, noise=0, signal=2, dtype="float32")
    maps = voxels(made.maps_img, made.mask_img)
    for path, courses in zip(made.paths, made.time_courses, strict=True):
        np.testing.assert_allclose(voxels(path, made.mask_img), 100 + 2 * courses @ maps, atol=1e-4)


def test_int16_rounds_to_its_step(tmp_path):
    fine, coarse = (make_subjects(tmp_path / d, **SMALL, dtype=d) for d in ("float32", "int16"))
    for path, rounded in zip(fine.paths, coarse.paths, strict=True):
        difference = voxels(path, fine.mask_img) - voxels(rounded, fine.mask_img)
        assert 0.002 < np.abs(difference).max() <= 0.00252


def test_noise_has_the_variances_that_were_asked_for(tmp_path):
    only = {"signal": 0, "resolution": 6, "n_frames": 200, "n_subjects": 1, "n_maps": 3}
    white = make_subjects(tmp_path / "white", **only, physiological=0, noise=1.5)
    smooth = make_subjects(tmp_path / "smooth", **only, physiological=0.7, noise=0)
    both = make_subjects(tmp_path / "both", **only, physiological=0.7, noise=1.5)
    variance = [voxels(s.paths[0], s.mask_img).var(0).mean() for s in (white, smooth, both)]
    np.testing.assert_allclose(variance, [1.5**2, 0.49, 1.5**2 + 0.49], rtol=0.15)
    for made, low, high in ((white, -0.02, 0.02), (smooth, 0.8, 1.0)):
        frames = nibabel.load(made.paths[0]).get_fdata() - 100
        inside = np.asarray(made.mask_img.dataobj) > 0
        pair = inside[1:] & inside[:-1]
        left, right = frames[1:][pair], frames[:-1][pair]
        correlation = (left * right).sum() / np.sqrt((left**2).sum() * (right**2).sum())
        assert low < correlation < high


def test_time_courses_are_autoregressive():
    series = autoregressive(np.random.default_rng(0), 20_000, 3, np.array([0.0, 0.5, 0.8]))
    np.testing.assert_allclose(series.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(series.var(0), 1, rtol=1e-4)
    for lag in (1, 2, 3):
        found = (series[lag:] * series[:-lag]).mean(0)
        np.testing.assert_allclose(found, np.array([0.0, 0.5, 0.8]) ** lag, atol=0.03)


def test_a_subject_depends_on_the_seed_and_not_on_the_number_of_subjects(tmp_path, subjects):
    one = make_subjects(tmp_path / "one", **SMALL | {"n_subjects": 1})
    other = make_subjects(tmp_path / "other", **SMALL | {"n_subjects": 1}, seed=1)
    assert one.paths[0].read_bytes() == subjects.paths[0].read_bytes()
    np.testing.assert_array_equal(one.time_courses[0], subjects.time_courses[0])
    np.testing.assert_array_equal(one.maps_img.dataobj, subjects.maps_img.dataobj)
    assert (other.time_courses[0] != one.time_courses[0]).all()
    assert (subjects.time_courses[1] != subjects.time_courses[0]).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"resolution": 1}, "resolution must be at least 2"),
        ({"resolution": 9}, "resolution must be at most 8 mm"),
        ({"n_maps": 1000}, "n_maps must be at most 61"),
        ({"n_frames": 1}, "n_frames must be at least 2"),
        ({"dtype": "float64"}, "dtype must be one of"),
        ({"noise": -1}, "noise must be >= 0"),
    ],
)
def test_numbers_out_of_range(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_subjects(tmp_path / "never", **SMALL | wrong)
    assert not (tmp_path / "never").exists() or not list((tmp_path / "never").iterdir())


def test_without_nilearn_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
    with pytest.raises(ImportError, match=r"jax-mmf\[fmri\]"):
        make_subjects(tmp_path, **SMALL)
