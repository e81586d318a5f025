"""Small scans with known maps, for the tests of brain imaging."""

from typing import NamedTuple

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment

SHAPE, K = (10, 10, 10), 3
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
CENTRES = [(2, 2, 2), (7, 2, 7), (3, 7, 6)]


class Study(NamedTuple):
    paths: list
    mask: nibabel.Nifti1Image
    maps: np.ndarray  # (k, 10, 10, 10)
    courses: list


def image(values, affine=AFFINE):
    return nibabel.Nifti1Image(np.asarray(values, np.float32), affine)


def planted_maps():
    maps = np.zeros((K, *SHAPE), np.float32)
    for planted, centre in zip(maps, CENTRES, strict=True):
        planted[centre] = 1
    maps = np.stack([gaussian_filter(planted, 1.2) for planted in maps])
    maps /= maps.max((1, 2, 3), keepdims=True)
    return np.where(maps > 0.1, maps, 0)


def brain():
    values = np.zeros(SHAPE, np.uint8)
    values[1:-1, 1:-1, 1:-1] = 1
    return nibabel.Nifti1Image(values, AFFINE)


def frames(rng, n_frames, noise=0.3):
    """Courses, and frames (10, 10, 10, n) of the planted maps around 100 inside of the brain."""
    courses = rng.standard_normal((n_frames, K)).astype(np.float32)
    x = 100 + np.einsum("nk,kxyz->xyzn", courses, planted_maps())
    x += noise * rng.standard_normal(x.shape)
    return courses, (x * (brain().get_fdata()[..., None] > 0)).astype(np.float32)


def make_study(folder, n_frames=(40, 40, 40)):
    rng = np.random.default_rng(0)
    paths, courses = [], []
    for number, n in enumerate(n_frames, 1):
        course, x = frames(rng, n)
        paths.append(folder / f"sub-{number:02d}.nii.gz")
        nibabel.save(image(x), paths[-1])
        courses.append(course)
    return Study(paths, brain(), planted_maps(), courses)


def cosines(maps, truth):
    """Absolute cosine of each true map (k, p) with the found map that it is matched with."""
    maps, truth = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (maps, truth))
    found = np.abs(truth @ maps.T)
    rows, columns = linear_sum_assignment(-found)
    return found[rows, columns]
