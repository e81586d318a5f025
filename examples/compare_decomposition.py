"""Brain maps of CanICA and of DictLearning: the comparison of nilearn's example plot_compare_decomposition.

The script follows nilearn's, with two changes: DictLearning comes from jax_mmf.fmri, and the scans are synthetic, so
that the maps behind them are known.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from nilearn.decomposition import CanICA
from nilearn.image import index_img
from nilearn.plotting import plot_stat_map

from jax_mmf.fmri import DictLearning, make_subjects


def cosines(maps_img, subjects):
    """Return the cosine of each planted map with the most similar map."""
    inside = np.asarray(subjects.mask_img.dataobj) > 0
    found, planted = (np.asarray(image.dataobj)[inside].T for image in (maps_img, subjects.maps_img))
    found, planted = (maps / np.maximum(np.linalg.norm(maps, axis=1, keepdims=True), 1e-9) for maps in (found, planted))
    return np.abs(planted @ found.T).max(axis=1)


def main(quick=False, figure=None):
    """Learn maps by both methods, print how many planted maps are found, and draw one of them.

    Args:
      quick: whether to use few small scans.
      figure: file for the figure, or None.

    Returns:
      the cosines of the planted maps with those of each method.
    """
    n_subjects, n_maps, resolution = (3, 5, 6) if quick else (4, 10, 4)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        size = {"n_subjects": n_subjects, "n_frames": 200, "n_maps": n_maps, "resolution": resolution}
        subjects = make_subjects(folder, physiological=0.2, noise=0.7, **size)
        options = {"n_components": n_maps, "mask": subjects.mask_img, "smoothing_fwhm": 6.0, "random_state": 0}
        estimators = {
            "CanICA": CanICA(standardize="zscore_sample", **options),
            "DictLearning": DictLearning(**options),
        }
        for name, estimator in estimators.items():
            estimator.fit(subjects.paths)
            found[name] = cosines(estimator.components_img_, subjects)
            print(f"{name}: {np.sum(found[name] > 0.9)} of {n_maps} planted maps, mean cosine {found[name].mean():.3f}")
        if figure is not None:
            draw(figure, {name: estimator.components_img_ for name, estimator in estimators.items()}, subjects)
    return found


def draw(path, images, subjects):
    """Draw the first planted map, and the map of each method that is most similar to it."""
    from matplotlib.figure import Figure

    inside = np.asarray(subjects.mask_img.dataobj) > 0
    planted = np.asarray(subjects.maps_img.dataobj)[..., 0]
    place = subjects.mask_img.affine @ [*np.unravel_index(planted.argmax(), planted.shape), 1]
    sheet = Figure(figsize=(8, 8))
    rows = sheet.subplots(1 + len(images))
    options = {"cut_coords": place[:3], "draw_cross": False, "colorbar": False}
    options |= {"threshold": 1e-6, "resampling_interpolation": "nearest"}
    plot_stat_map(index_img(subjects.maps_img, 0), title="planted", axes=rows[0], **options)
    for axes, (name, image) in zip(rows[1:], images.items(), strict=True):
        maps = np.asarray(image.dataobj)[inside].T
        best = int(np.abs(maps @ planted[inside] / np.maximum(np.linalg.norm(maps, axis=1), 1e-9)).argmax())
        plot_stat_map(index_img(image, best), title=name, axes=axes, **options)
    sheet.savefig(path, dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller scans")
    parser.add_argument("--figure", type=Path, help="picture to write")
    main(**vars(parser.parse_args()))
