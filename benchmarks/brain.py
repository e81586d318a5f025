"""Sparse maps of the brain from NIfTI files: `jax_mmf.fmri.DictLearning` beside nilearn and scikit-learn.

Subjects are semi-synthetic (`jax_mmf.fmri.synthetic`): 20 planted maps in the grey matter of the MNI template, AR(1)
time courses, smooth physiological noise and white noise. All contestants get the files and the mask, 20 components, a
smoothing of 4 mm and a seed, and their own defaults, or another alpha. Each runs once, in a process of its own.
``first run`` is the time from files to maps, with masking and compilation, without imports. ``cpu seconds`` is what it
took of the processor, which other programs on the machine disturb less, and ``over ours`` these seconds over those of
jax_mmf with r = 1 on the same subjects. "Masking alone" is by the masker of nilearn. nilearn 0.14.1 ignores the
parameter reduction_ratio of DictLearning in fit, so that the ratio is set inside of it here.

``found`` is the share of the planted maps that a map matches with a cosine above 0.9, one to one, and ``cosine`` the
mean over planted maps. ``held-out R2`` is the share of the variance of two other subjects that the maps explain in
least squares. The peak of the memory is that of the process, as Linux counts it.
"""

import functools
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Contestant, race
from benchmarks.problems import cached
from benchmarks.report import Record, records_of

Run = Callable[[], dict[str, Any]]
K = 20
N_HELD_OUT = 2
LIMIT = 3600.0  # seconds
OPTIONS = {"smoothing_fwhm": 4, "t_r": 2.0, "random_state": 0}
CONTESTANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "jax_mmf, r = 1": ("jax_dict_learning", {"reduction": 1}),
    "jax_mmf, r = 12": ("jax_dict_learning", {"reduction": 12}),
    "nilearn DictLearning": ("nilearn_fit", {"kind": "DictLearning"}),
    "nilearn DictLearning, without reduction": ("nilearn_unreduced", {}),
    "masking alone": ("masking", {}),
    "jax_mmf, r = 1, alpha = 1": ("jax_dict_learning", {"reduction": 1, "alpha": 1}),
    "jax_mmf, r = 12, alpha = 1": ("jax_dict_learning", {"reduction": 12, "alpha": 1}),
    "nilearn DictLearning, alpha = 1": ("nilearn_fit", {"kind": "DictLearning", "alpha": 1}),
    "nilearn CanICA": ("nilearn_fit", {"kind": "CanICA"}),
    "scikit-learn MiniBatchSparsePCA": ("sklearn_sparse_pca", {}),
}
ALSO_FEW = 5  # of the contestants, which also learn from 2 subjects


def jax_dict_learning(paths: list[str], mask: str, **options: Any) -> Run:
    from jax_mmf.fmri import DictLearning

    return _timed(lambda: DictLearning(n_components=K, mask=mask, **OPTIONS, **options).fit(paths).components_)


def nilearn_fit(paths: list[str], mask: str, kind: str, **options: Any) -> Run:
    from nilearn import decomposition

    estimator = getattr(decomposition, kind)
    return _timed(lambda: estimator(n_components=K, mask=mask, **OPTIONS, **options).fit(paths).components_)


def nilearn_unreduced(paths: list[str], mask: str) -> Run:
    from nilearn.decomposition import _base

    _base._mask_and_reduce = functools.partial(_base._mask_and_reduce, reduction_ratio=1.0)
    return nilearn_fit(paths, mask, "DictLearning")


def sklearn_sparse_pca(paths: list[str], mask: str) -> Run:
    """scikit-learn on all masked frames."""
    from sklearn.decomposition import MiniBatchSparsePCA

    def maps() -> np.ndarray:
        frames = np.concatenate([_masked(path, mask) for path in paths])
        return MiniBatchSparsePCA(K, random_state=0).fit(frames).components_

    return _timed(maps)


def masking(paths: list[str], mask: str) -> Run:
    return _timed(lambda: np.stack([_masked(path, mask)[0] for path in paths]))


def _timed(maps: Callable[[], np.ndarray]) -> Run:
    warnings.simplefilter("ignore")

    def run() -> dict[str, Any]:
        start = time.process_time()
        found = np.asarray(maps(), np.float32)
        return {"maps": found, "cpu_seconds": time.process_time() - start}

    return run


def _masked(image: Any, mask: str, *, clean: bool = True) -> np.ndarray:
    from nilearn.maskers import NiftiMasker

    cleaning: dict[str, Any] = {"standardize": None}
    if clean:
        cleaning = {"smoothing_fwhm": 4, "standardize": "zscore_sample", "detrend": True, "t_r": 2.0}
    return NiftiMasker(mask, dtype=np.float32, reports=False, **cleaning).fit().transform(image)


def subjects(n_subjects: int, n_frames: int, resolution: int, cache: Path) -> tuple[list[str], str, dict[str, Path]]:
    """Paths of the images and of the mask, and ``planted`` maps ``(k, p)`` and ``held_out`` frames ``(n, p)``."""

    def write(folder: Path) -> None:
        from jax_mmf.fmri.synthetic import make_subjects

        made = make_subjects(
            folder, n_subjects=n_subjects + N_HELD_OUT, n_frames=n_frames, n_maps=K, resolution=resolution
        )
        mask = str(folder / "mask.nii.gz")
        made.mask_img.to_filename(mask)
        np.save(folder / "planted.npy", _masked(made.maps_img, mask, clean=False))
        np.save(folder / "held_out.npy", np.concatenate([_masked(path, mask) for path in made.paths[n_subjects:]]))

    arrays = cached(cache, f"brain-{n_subjects}-{n_frames}-{resolution}mm", write)
    folder = arrays["planted"].parent
    return [str(path) for path in sorted(folder.glob("sub-*.nii.gz"))], str(folder / "mask.nii.gz"), arrays


def quality(maps: np.ndarray, planted: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
    """Matches with the planted maps, one to one, and explained variance of held-out frames in least squares."""
    from scipy.optimize import linear_sum_assignment

    norms = np.linalg.norm(maps, axis=1, keepdims=True)
    unit = maps / np.where(norms > 0, norms, 1)
    cosines = np.abs(planted / np.linalg.norm(planted, axis=1, keepdims=True) @ unit.T)
    matched = cosines[linear_sum_assignment(-cosines)]
    basis = np.linalg.svd(unit[norms[:, 0] > 0].astype(np.float64), full_matrices=False)[2]
    explained = np.square(held_out @ basis.T).sum() / np.square(held_out, dtype=np.float64).sum()
    return {"found": float((matched > 0.9).mean()), "cosine": float(matched.mean()), "held-out_R2": float(explained)}


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    n_subjects, n_frames, resolution = (2, 60, 6) if quick else (8, 400, 4)
    paths, mask, arrays = subjects(n_subjects, n_frames, resolution, cache)
    planted, held_out = np.load(arrays["planted"]), np.load(arrays["held_out"])

    def evaluate(name: str, found: dict[str, np.ndarray]) -> dict[str, Any]:
        return {"quality": {} if name == "masking alone" else quality(found["maps"], planted, held_out)}

    records: list[Record] = []
    said = f"{resolution} mm, {planted.shape[1]:,} voxels, {n_frames} frames a subject, k = {K}"
    for n in sorted({2, n_subjects}):
        some = list(CONTESTANTS)[: ALSO_FEW if n < n_subjects else None]
        outcomes = []
        for name in some:
            function, options = CONTESTANTS[name]
            one = Contestant(name, f"benchmarks.brain:{function}", threads[0], paths=paths[:n], mask=mask, **options)
            outcomes += race([one], 0, evaluate=evaluate, limit=LIMIT)
        good = [outcome for outcome in outcomes if "error" not in outcome]
        for outcome in good:
            seconds, ours = (o["result"]["cpu_seconds"] for o in (outcome, good[0]))
            outcome["quality"] |= {"cpu_seconds": seconds, "over_ours": seconds / ours}
        records += records_of("brain", said, f"{n} subjects", outcomes)
    return records
