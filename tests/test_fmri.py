"""Brain imaging: maps of small scans with known truth, beside nilearn, and what happens with bad input."""

import gzip
import pickle
import sys
from contextlib import nullcontext

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("nilearn")

from fmri_data import AFFINE, SHAPE, brain, cosines, frames, image, make_study  # noqa: E402
from nilearn.maskers import MultiNiftiMasker, NiftiMasker  # noqa: E402
from sklearn.base import clone  # noqa: E402

import jax_mmf as mmf  # noqa: E402
from jax_mmf.fmri import DictLearning, masking  # noqa: E402
from jax_mmf.fmri.maps import ExplainedVariance, time_courses, upright  # noqa: E402
from jax_mmf.fmri.masking import fitted_masker, masked  # noqa: E402
from jax_mmf.fmri.scans import Scan, scans_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*standardize.*:FutureWarning", "ignore::DeprecationWarning:nilearn.*", "ignore::FutureWarning:nilearn.*"
)


def estimator(study, **options):
    return DictLearning(3, **({"mask": study.mask, "smoothing_fwhm": None, "random_state": 0} | options))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def fitted(study):
    return estimator(study).fit([str(path) for path in study.paths])


def truth(study):
    return study.maps[:, study.mask.get_fdata() > 0]


def values(picture):
    return np.asarray(picture.dataobj)


@pytest.mark.parametrize("options", [{}, {"reduction": 4}, {"positive": True}, {"batch_size": 20, "n_epochs": 4}])
def test_planted_maps_are_found(study, options):
    maps = estimator(study, **options).fit(study.paths)
    assert cosines(maps.components_, truth(study)).min() > 0.93
    assert (maps.components_ == 0).mean() > 0.5
    assert not options.get("positive") or maps.components_.min() >= 0


def test_maps_are_mostly_positive_of_norm_1_and_in_order(fitted):
    assert (fitted.components_.sum(axis=1) > 0).all()
    assert np.linalg.norm(fitted.components_, axis=1) == pytest.approx(np.ones(3), rel=1e-5)
    assert (np.diff(fitted.explained_variance_ratio_) <= 0).all()
    assert fitted.components_.dtype == np.float32
    assert fitted.n_elements_ == 3


def test_image_of_the_maps_has_the_maps_in_the_mask(study, fitted):
    inside = study.mask.get_fdata() > 0
    assert fitted.components_img_.shape == (*SHAPE, 3)
    np.testing.assert_array_equal(values(fitted.components_img_)[inside].T, fitted.components_)
    assert (values(fitted.components_img_)[~inside] == 0).all()


def test_same_seed_gives_the_same_bits(study, fitted):
    again = estimator(study).fit(study.paths)
    np.testing.assert_array_equal(again.components_, fitted.components_)


def test_masked_frames_and_score_are_those_of_nilearn(study, fitted):
    from nilearn.decomposition._base import _explained_variance

    masker = NiftiMasker(study.mask, standardize="zscore_sample", detrend=True, reports=False).fit()
    x = np.concatenate([masker.transform(path) for path in study.paths])
    assert fitted.score(study.paths) == pytest.approx(_explained_variance(x, fitted.components_, False), rel=1e-4)
    per_map = fitted.score(study.paths, per_component=True)
    np.testing.assert_allclose(per_map, _explained_variance(x, fitted.components_, True), rtol=1e-4)
    np.testing.assert_allclose(per_map, fitted.explained_variance_ratio_, rtol=1e-5)
    assert fitted.total_explained_variance_ratio_ == pytest.approx(fitted.score(study.paths), rel=1e-5)


@pytest.mark.parametrize("kind", ["file", "memory", "int16", "nii"])
def test_signals_are_those_of_the_masker(tmp_path, study, monkeypatch, kind):
    monkeypatch.setattr(masking, "_PART", 7 * 4000)  # seven frames
    picture = nibabel.load(study.paths[0])
    if kind == "int16":
        picture = nibabel.Nifti1Image(np.rint(picture.get_fdata() * 100).astype(np.int16), AFFINE)
        picture.header.set_slope_inter(0.01, 5.0)
    if kind != "memory":
        nibabel.save(picture, path := tmp_path / ("x.nii" if kind == "nii" else "x.nii.gz"))
        picture = path
    rng = np.random.default_rng(0)
    options = {"smoothing_fwhm": 5, "t_r": 2.0, "low_pass": 0.2, "high_pass": 0.02, "standardize": "zscore_sample"}
    masker = NiftiMasker(study.mask, detrend=True, clean_args={"filter": "butterworth"}, reports=False, **options).fit()
    confounds, kept = rng.standard_normal((40, 2)), np.arange(4, 40)
    expected = masker.transform(picture, confounds=[confounds], sample_mask=kept)
    masker.dtype = np.float64
    found = masked(masker, Scan(picture, "x", 36, [confounds], kept))
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("fwhm", [None, 1.0, 3.0, 6.0])
def test_signals_of_a_mask_in_a_corner_are_those_of_the_masker(fwhm):
    rng = np.random.default_rng(0)
    picture = image(rng.standard_normal((24, 20, 16, 9)), np.diag([1.0, 2.0, 1.5, 1.0]))
    inside = np.zeros((24, 20, 16), np.uint8)
    inside[9:13, 0:4, 6:9] = 1
    mask = nibabel.Nifti1Image(inside, picture.affine)
    masker = NiftiMasker(mask, smoothing_fwhm=fwhm, standardize=None, reports=False).fit()
    found = masked(masker, Scan(picture, "x", 9))
    assert masking._box_of(mask, 3.0)[0].stop < 24
    np.testing.assert_allclose(found, masker.transform(picture), atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_explained_variance_is_that_of_nilearn_on_any_frames_in_parts(shift):
    from nilearn.decomposition._base import _explained_variance

    rng = np.random.default_rng(1)
    x, maps = rng.standard_normal((40, 30)) + shift, rng.standard_normal((4, 30)) + 0.5
    explained = ExplainedVariance(maps)
    for part in np.split(x, [7, 20]):
        explained.add(part)
    np.testing.assert_allclose(explained.per_map(), _explained_variance(x, maps, True), atol=1e-6)
    assert explained.together() == pytest.approx(_explained_variance(x, maps, False), abs=1e-6)


def test_time_courses_are_least_squares_and_correlate_with_the_truth(study, fitted):
    found = fitted.transform(study.paths)
    masker = NiftiMasker(study.mask, standardize="zscore_sample", detrend=True, reports=False).fit()
    for course, path in zip(found, study.paths, strict=True):
        expected = np.linalg.lstsq(fitted.components_.T, masker.transform(path).T, rcond=None)[0].T
        np.testing.assert_allclose(course, expected, atol=2e-4)
    np.testing.assert_allclose(found[0], fitted.time_courses_, atol=1e-5)
    correlation = np.corrcoef(found[1].T, study.courses[1].T)[:3, 3:]
    assert (np.abs(correlation).max(axis=0) > 0.9).all()


def test_images_of_time_courses(study, fitted):
    courses = fitted.transform(study.paths[:2])
    images = fitted.inverse_transform(courses)
    inside = study.mask.get_fdata() > 0
    np.testing.assert_allclose(values(images[1])[inside].T, courses[1] @ fitted.components_, atol=1e-4)
    with pytest.raises(TypeError, match="loadings must be a list"):
        fitted.inverse_transform(courses[0])


def test_fit_transform_pattern_and_clone(study, fitted):
    pattern = str(study.paths[0].parent / "sub-*.nii.gz")
    courses = clone(estimator(study)).fit_transform(pattern)
    for found, expected in zip(courses, fitted.transform(pattern), strict=True):
        np.testing.assert_array_equal(found, expected)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(study.paths[:1])[0], courses[0])
    with pytest.raises(Exception, match="not fitted"):
        estimator(study).transform(study.paths)


def test_images_in_memory_one_subject_and_other_numbers_of_frames(tmp_path, study):
    other = make_study(tmp_path, n_frames=(20, 35))
    pictures = [nibabel.load(path) for path in other.paths]
    maps = estimator(study).fit(pictures)
    assert [course.shape for course in maps.transform(pictures)] == [(20, 3), (35, 3)]
    alone = estimator(study).fit(pictures[1])
    assert alone.transform(pictures[1])[0].shape == (35, 3)
    assert alone.scans_ == [("imgs[0]", 35)]


@pytest.mark.parametrize("target", [{"target_affine": np.diag([4.0, 4.0, 4.0])}, {"target_affine": 2.5 * np.eye(3)}])
@pytest.mark.filterwarnings("ignore:imgs are being resampled")
def test_images_are_resampled_to_the_target(study, target):
    maps = estimator(study, smoothing_fwhm=4, n_epochs=1, **target).fit(study.paths)
    masker = NiftiMasker(
        study.mask, smoothing_fwhm=4, standardize="zscore_sample", detrend=True, reports=False, **target
    )
    expected = masker.fit().transform(study.paths[0])
    np.testing.assert_array_equal(values(maps.mask_img_), values(masker.mask_img_))
    np.testing.assert_allclose(masked(maps.masker_, Scan(study.paths[0], "x", 40)), expected, atol=2e-4)


def test_initial_maps_from_an_image(study):
    start = image(np.moveaxis(study.maps, 0, -1))
    maps = estimator(study, dict_init=start, n_epochs=1).fit(study.paths)
    assert cosines(maps.components_init_, truth(study)).min() > 0.999
    with pytest.raises(ValueError, match="dict_init gives 2 frames"):
        estimator(study, dict_init=image(np.moveaxis(study.maps[:2], 0, -1))).fit(study.paths)


def test_own_penalty_and_constraint(study):
    ball = mmf.ElasticNetBall(0.5, radius=4.0, nonneg=True)
    maps = estimator(study, penalty=mmf.Ridge(2.0), constraint=ball).fit(study.paths)
    assert maps.solver_.constraint == ball
    assert cosines(maps.components_, truth(study)).min() > 0.9


def test_more_alpha_is_sparser_and_does_not_depend_on_the_scale(study):
    zeros = [(estimator(study, alpha=alpha).fit(study.paths).components_ == 0).mean() for alpha in (0.5, 5, 50)]
    assert zeros[0] < zeros[1] < zeros[2]
    pictures = [nibabel.load(path) for path in study.paths]
    some = [
        estimator(study, standardize=None).fit([image(scale * p.get_fdata()) for p in pictures]) for scale in (1, 30)
    ]
    np.testing.assert_allclose(some[1].components_, some[0].components_, atol=1e-3)


def test_scripts_of_nilearn_run_with_another_import(study):
    import inspect

    from nilearn import decomposition

    theirs = inspect.signature(decomposition.DictLearning.__init__).parameters
    assert list(inspect.signature(DictLearning.__init__).parameters)[: len(theirs)] == list(theirs)
    for name in ("fit", "transform", "inverse_transform", "score"):
        theirs = list(inspect.signature(getattr(decomposition.DictLearning, name)).parameters)
        assert list(inspect.signature(getattr(DictLearning, name)).parameters)[: len(theirs)] == theirs
    with pytest.warns(UserWarning, match="reduction_ratio=1 has no effect"):
        estimator(study, reduction_ratio=1, n_epochs=1).fit(study.paths)
    with pytest.warns(UserWarning, match="method='lars' has no effect"):
        estimator(study, method="lars", n_epochs=1).fit(study.paths)


def test_computed_mask_and_masker(study):
    strategy = {"mask": None, "mask_strategy": "background"}
    maps = estimator(study, **strategy).fit(study.paths)
    expected = MultiNiftiMasker(mask_strategy="background", reports=False).fit(study.paths).mask_img_
    np.testing.assert_array_equal(values(maps.mask_img_), values(expected))
    masker = NiftiMasker(study.mask, smoothing_fwhm=2, standardize=True)
    with pytest.warns(UserWarning, match="Overriding"):
        maps = estimator(study, mask=masker, smoothing_fwhm=None).fit(study.paths)
    assert maps.masker_.smoothing_fwhm == 2


@pytest.mark.parametrize("strategy", ["epi", "background"])
def test_computed_mask_is_that_of_nilearn(study, strategy):
    rng = np.random.default_rng(0)
    x = np.full((20, 20, 20, 5), 3.0) + rng.standard_normal((20, 20, 20, 5))
    x[4:-4, 4:-4, 4:-4] += 100
    x[9, 9, 9, 2] = np.nan
    scans = scans_of([image(x), image(2 * x)])
    settings = DictLearning(mask_strategy=strategy, mask_args={"opening": 1})
    expected = MultiNiftiMasker(mask_strategy=strategy, mask_args={"opening": 1}, reports=False)
    expected.fit([scan.image for scan in scans])
    found = fitted_masker(settings, scans)
    assert expected.n_elements_ > 1000
    np.testing.assert_array_equal(values(found.mask_img_), values(expected.mask_img_))


def test_confounds_are_removed(tmp_path, study):
    rng = np.random.default_rng(3)
    drift = np.cumsum(rng.standard_normal(50))[:, None]
    clean = frames(rng, 50)[1]
    dirty = image(clean + 30 * drift[:, 0] * (brain().get_fdata()[..., None] > 0))
    table = np.column_stack([drift, rng.standard_normal(50)])
    np.savetxt(tmp_path / "c.tsv", table, header="drift\tmotion", comments="", delimiter="\t")
    for table in (drift, [drift], tmp_path / "c.tsv", str(tmp_path / "c.tsv")):
        maps = estimator(study).fit([dirty], confounds=[table])
        assert cosines(maps.components_, truth(study)).min() > 0.85
    assert cosines(estimator(study).fit([dirty]).components_, truth(study)).min() < 0.5
    kept = [np.arange(10, 50)]
    assert estimator(study).fit([dirty], confounds=[drift], sample_mask=kept).scans_ == [("imgs[0]", 40)]
    chosen = np.arange(50) >= 10
    assert estimator(study).fit([dirty], sample_mask=[chosen]).scans_ == [("imgs[0]", 40)]


@pytest.mark.filterwarnings("ignore:imgs are being resampled")
def test_images_in_another_space_are_resampled_to_the_mask(study):
    shifted = []
    for path in study.paths:
        x = np.zeros((12, 12, 12, 40), np.float32)
        x[1:-1, 1:-1, 1:-1] = nibabel.load(path).get_fdata()
        affine = AFFINE.copy()
        affine[:3, 3] = -3.0
        shifted.append(image(x, affine))
    maps = estimator(study).fit([study.paths[0], *shifted[1:]])
    assert cosines(maps.components_, truth(study)).min() > 0.9
    with pytest.raises(ValueError, match="(?s)the mask can't be computed.*target_affine"):
        estimator(study, mask=None, mask_strategy="background").fit([study.paths[0], shifted[1]])


# The file of masked frames


def masked_files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_masked_frames_are_used_again_while_nothing_changed(tmp_path, study, fitted, monkeypatch):
    estimator(study, cache=tmp_path).fit(study.paths)
    (first,) = [name for name in masked_files(tmp_path) if name.endswith(".h5")]
    monkeypatch.setattr(masking, "masked", None)  # which would raise an error
    again = estimator(study, cache=tmp_path, n_jobs=2, verbose=1).fit(study.paths)
    np.testing.assert_array_equal(again.components_, fitted.components_)
    estimator(study, cache=tmp_path, alpha=50).fit(study.paths)
    monkeypatch.undo()
    estimator(study, cache=tmp_path, detrend=False, n_epochs=1).fit(study.paths)
    estimator(study, cache=tmp_path, n_epochs=1).fit(study.paths[:2])
    assert first in masked_files(tmp_path)
    assert len(masked_files(tmp_path)) == 3


def test_changed_file_is_masked_again(tmp_path, study):
    other = make_study(tmp_path, n_frames=(30, 30))
    estimator(study, memory=str(tmp_path / "memory"), memory_level=1, n_epochs=1).fit(other.paths)
    x = frames(np.random.default_rng(9), 30)[1]
    nibabel.save(image(x), other.paths[1])
    estimator(study, memory=str(tmp_path / "memory"), memory_level=1, n_epochs=1).fit(other.paths)
    assert len(masked_files(tmp_path / "memory" / "jax_mmf")) == 2


def test_images_in_memory_are_known_by_their_content(tmp_path, study):
    for _ in range(2):
        estimator(study, cache=tmp_path, n_epochs=1).fit([nibabel.load(path) for path in study.paths])
    assert len(masked_files(tmp_path)) == 1
    arrays = [nibabel.load(path).get_fdata() for path in study.paths]
    for _ in range(2):
        estimator(study, cache=tmp_path, n_epochs=1).fit([image(array) for array in arrays])
    assert len(masked_files(tmp_path)) == 2
    arrays[1][5, 5, 5, 5] += 1
    estimator(study, cache=tmp_path, n_epochs=1).fit([image(array) for array in arrays])
    assert len(masked_files(tmp_path)) == 3


def test_damaged_file_of_masked_frames_is_written_again(tmp_path, study, fitted):
    estimator(study, cache=tmp_path, n_epochs=1).fit(study.paths)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match="is damaged and written again"):
        again = estimator(study, cache=tmp_path).fit(study.paths)
    np.testing.assert_array_equal(again.components_, fitted.components_)


def test_file_holds_the_masked_frames(tmp_path, study):
    estimator(study, cache=tmp_path, n_epochs=1, n_jobs=2).fit(study.paths)
    (path,) = tmp_path.iterdir()
    masker = NiftiMasker(study.mask, standardize="zscore_sample", detrend=True, dtype=np.float32, reports=False).fit()
    expected = np.concatenate([masker.transform(path) for path in study.paths])
    with mmf.open_source(path) as source:
        found = source.read(np.arange(120))
        np.testing.assert_array_equal(found, expected[:, source.permutation].astype(np.float32))


def test_stopped_masking_goes_on_without_masking_again(tmp_path, study, fitted, monkeypatch):
    from jax_mmf.fmri import training_data

    seen, whole = [], masking.masked
    monkeypatch.setattr(masking, "masked", lambda masker, scan: seen.append(scan.name) or whole(masker, scan))
    monkeypatch.setattr(training_data, "_MEMORY", 20 * 512 * 4)  # bands of 20 frames
    monkeypatch.setattr(training_data, "_ROWS_PER_CHUNK", 20)
    with monkeypatch.context() as patch:
        patch.setattr(training_data, "deferred_interrupt", lambda _: nullcontext(lambda: len(seen) == 3))
        with pytest.raises(KeyboardInterrupt):
            estimator(study, cache=tmp_path).fit(study.paths)
    (part,) = tmp_path.iterdir()
    assert part.name.endswith(".h5.partial")
    seen.clear()
    again = estimator(study, cache=tmp_path).fit(study.paths)
    assert seen == [str(study.paths[2])]
    assert cosines(again.components_, fitted.components_).min() > 0.99
    assert [path.suffix for path in tmp_path.iterdir()] == [".h5"]


def test_stopped_run_goes_on_with_the_same_bits(tmp_path, study, fitted, monkeypatch):
    from jax_mmf.fmri import learning

    whole = learning.fit

    def stopped(*args, callbacks, **options):
        return whole(*args, callbacks=[*callbacks, lambda event: event.step == 30], **options)

    monkeypatch.setattr(learning, "fit", stopped)
    part = estimator(study, cache=tmp_path).fit(study.paths)
    assert (part.n_steps_, part.stopped_by_) == (30, "callback")
    monkeypatch.undo()
    rest = estimator(study, cache=tmp_path).fit(study.paths)
    assert (rest.n_steps_, rest.stopped_by_) == (fitted.n_steps_, "epochs")
    np.testing.assert_array_equal(rest.components_, fitted.components_)
    assert [path.suffix for path in tmp_path.iterdir()] == [".h5"]


# Bad input


def cut_short(path, target):
    target.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return target


def test_missing_file_in_the_middle_is_named_and_nothing_is_written(tmp_path, study):
    paths = [study.paths[0], tmp_path / "absent.nii.gz", study.paths[2]]
    with pytest.raises(FileNotFoundError, match=r"absent.nii.gz; 1 of 3 are missing"):
        estimator(study, cache=tmp_path / "cache").fit(paths)
    assert not (tmp_path / "cache").exists()
    with pytest.raises(FileNotFoundError, match="no file matches"):
        estimator(study).fit(str(tmp_path / "*.nii"))


@pytest.mark.parametrize("mask", [None, "given"])
def test_file_that_is_cut_short_is_named_and_nothing_is_written(tmp_path, study, mask):
    bad = cut_short(study.paths[1], tmp_path / "bad.nii.gz")
    options = {"mask_strategy": "background"} | ({"mask": None} if mask is None else {})
    with pytest.raises(ValueError, match=r"bad.nii.gz can't be"):
        estimator(study, cache=tmp_path / "cache", **options).fit([study.paths[0], bad, study.paths[2]])
    assert not (tmp_path / "cache").exists() or not any((tmp_path / "cache").iterdir())


def test_no_image_at_all(tmp_path, study):
    text = tmp_path / "text.nii.gz"
    text.write_bytes(gzip.compress(b"no image"))
    with pytest.raises(ValueError, match=r"text.nii.gz can't be read as an image"):
        estimator(study).fit([study.paths[0], text])
    with pytest.raises(ValueError, match="at least one image"):
        estimator(study).fit([])
    with pytest.raises(TypeError, match=r"imgs\[1\] must be a path"):
        estimator(study).fit([study.paths[0], 3])
    with pytest.raises(TypeError, match="imgs must be a path"):
        estimator(study).fit(3)


def test_3d_image_is_refused(study):
    with pytest.raises(ValueError, match=r"imgs\[1\] must have three axes of space and one of time"):
        estimator(study).fit([study.paths[0], study.mask])


def test_empty_mask_is_refused(study):
    with pytest.raises(ValueError, match="the mask (is empty|can't be used)"):
        estimator(study, mask=image(np.zeros(SHAPE))).fit(study.paths)


def test_too_few_frames_and_scan_of_zeros(tmp_path, study):
    x = frames(np.random.default_rng(0), 2)[1]
    with pytest.raises(ValueError, match="2 frames are too few for n_components=3"):
        estimator(study).fit([image(x)])


def test_nan_and_constant_voxels_and_frames_of_zeros(study):
    x = frames(np.random.default_rng(5), 60)[1]
    x[4, 4, 4], x[5, 5, 5], x[..., 20:23] = np.nan, 7.0, 0.0
    maps = estimator(study).fit([image(x), study.paths[0], study.paths[1]])
    assert np.isfinite(maps.components_).all()
    assert cosines(maps.components_, truth(study)).min() > 0.7


def test_numbers_that_are_not_finite_after_masking_are_named():
    class Masker:
        def transform(self, *_, **__):
            return np.array([[1.0, 2.0], [3.0, np.inf]])

    with pytest.raises(ValueError, match="the scan gives inf after masking, in frame 1, voxel 1"):
        masked(Masker(), Scan(None, "the scan", 2))
    with pytest.raises(ValueError, match="the scan gives 2 frames after masking where 5 were expected"):
        masked(Masker(), Scan(None, "the scan", 5))


@pytest.mark.parametrize(
    ("confounds", "message"),
    [
        ([np.zeros((39, 2))] * 3, r"confounds\[0\] must have a row for each of the 40 frames of .*sub-01.* got 39"),
        ([np.zeros((40, 2))] * 2, "an entry for each of 3 images, got 2"),
    ],
)
def test_confounds_of_another_length_are_refused(study, confounds, message):
    with pytest.raises(ValueError, match=message):
        estimator(study).fit(study.paths, confounds=confounds)
    with pytest.raises(ValueError, match=message):
        estimator(study).fit(study.paths[0:3]).score(study.paths, confounds=confounds)


def test_other_bad_arguments(tmp_path, study):
    with pytest.raises(FileNotFoundError, match=r"confounds\[1\]: no file"):
        estimator(study).fit(study.paths[:2], confounds=[None, tmp_path / "absent.tsv"])
    (tmp_path / "short.tsv").write_text("a\n1\n2\n")
    with pytest.raises(ValueError, match=r"confounds\[0\] must have a row"):
        estimator(study).fit(study.paths[:1], confounds=[tmp_path / "short.tsv"])
    with pytest.raises(ValueError, match=r"sample_mask\[0\] must hold frame numbers from 0 to 39"):
        estimator(study).fit(study.paths[:1], sample_mask=[np.array([40])])
    with pytest.raises(ValueError, match=r"sample_mask\[0\] must hold frame numbers"):
        estimator(study).fit(study.paths[:1], sample_mask=[np.zeros(40, bool)])
    with pytest.raises(ValueError, match="sample_mask.* 40 booleans"):
        estimator(study).fit(study.paths[:1], sample_mask=[np.ones(3, bool)])
    with pytest.raises(ValueError, match="positive=True is for the default constraint"):
        estimator(study, positive=True, constraint=mmf.L1Ball()).fit(study.paths)
    for name, bad in {"n_components": 0, "alpha": -1.0, "reduction": 0.5, "n_epochs": 0}.items():
        with pytest.raises(ValueError, match=name):
            estimator(study).set_params(**{name: bad}).fit(study.paths)


def test_places_that_are_something_else_are_named(tmp_path, study, fitted):
    with pytest.raises(ValueError, match=r"is a folder; pass its files"):
        estimator(study).fit([study.paths[0], tmp_path])
    file = tmp_path / "file"
    file.touch()
    for cache in (file, file / "below"):
        with pytest.raises(NotADirectoryError, match="cache must be a folder"):
            estimator(study, cache=cache).fit(study.paths)
    with pytest.raises(ValueError, match=r"loadings\[1\] must have shape"):
        fitted.inverse_transform([np.zeros((4, fitted.n_elements_)), np.zeros((4, 50))])


def test_maps_of_zeros_have_no_time_course():
    maps = np.array([[1.0, 0, 0], [0, 0, 0]], np.float32)
    np.testing.assert_allclose(time_courses(np.array([[2.0, 5, 5]], np.float32), maps), [[2, 0]])
    np.testing.assert_array_equal(upright(np.array([[-2.0, 1]])), [[2.0, -1]])
    assert (ExplainedVariance(maps).add(np.ones((2, 3), np.float32)).per_map()[1]) == 0


def test_import_of_the_library_does_not_import_nilearn():
    import subprocess

    code = "import sys, jax_mmf; sys.exit(bool({'nilearn', 'nibabel', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
