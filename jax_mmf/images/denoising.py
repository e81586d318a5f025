"""Removal of noise from an image, with a dictionary of its own patches."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jax_mmf.core import check_count, check_key, warn
from jax_mmf.images.groups import refine_by_groups, window_sums
from jax_mmf.images.learning import (
    N_ATOMS,
    N_PATCHES,
    check_patch_size,
    checked_sigma,
    own_dictionary,
    pieces,
    square_side,
    unit_atoms,
)
from jax_mmf.images.noise import sigma_of
from jax_mmf.images.patches import PatchAverage, PatchSource
from jax_mmf.images.pictures import as_picture
from jax_mmf.images.pursuit import pursue
from jax_mmf.typing import HostArray, Key

ALPHA = 2.0  # strength of the lasso during learning, in sigmas: 2 gave better images than 1, in a quarter of the time
_SPREAD = 0.6  # error of a patch above its mean, in standard deviations of chi-squared: best of 0 to 1.5
_MAX_ATOMS = 24
_LARGEST_SIGMA = 1e6  # in standard deviations of the image; more noise gives the same flat image


def denoise(
    image: Any,
    sigma: float | None = None,
    dictionary: Any = None,
    patch_size: int | None = None,
    *,
    n_components: int = N_ATOMS,
    stride: int = 2,
    refine: bool = True,
    n_patches: int = N_PATCHES,
    key: Key | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> HostArray:
    """Remove white Gaussian noise from an image.

    There are two steps. The first gives an estimate: a dictionary is learned from the noisy patches with lasso codes
    [JMLR10], each patch is approximated by as few atoms as bring its error down to the level of the noise [Elad and
    Aharon 2006], and the overlapping patches are averaged. Patches of few atoms weigh more. The second step finds
    groups of patches that are similar in this estimate, and denoises each group with its own mean and covariance
    [Lebrun et al. 2013].

    Several bands are first rotated to their principal components, each of which has its own dictionary.

    Args:
      image: ``(rows, columns)`` or ``(rows, columns, bands)`` integers or floats.
      sigma: standard deviation of the noise in units of the image, for instance 25 for 8 bits; by default
        `estimate_sigma`.
      dictionary: of the first step, ``(k, patch_size * patch_size * bands)``, such as that of `learn_patches`; by
        default it is learned from the image.
      patch_size: side of a patch in pixels, at least 2. By default 8, 10 or 12 as noise increases, or that of the
        dictionary. A smaller image has smaller patches by default.
      n_components: number of atoms to learn.
      stride: distance of the patches of the first step; 1 takes all, 2 a quarter of them.
      refine: whether to do the second step.
      n_patches: random patches to learn from.
      key: PRNG key of the patches and of learning. By default a fixed one: the same image gives the same
        result.
      progress: called with the numbers of pixels that are done and that there are, of all bands and both steps.

    Returns:
      an array of the shape and dtype of the image, in the byte order of the machine. Integers are rounded and clipped
      to the range of their dtype. Floats are not clipped.

    Raises:
      ValueError: for an image that is smaller than ``patch_size`` or the patches of ``dictionary``, holds NaN or
        infinity, or looks as if it had an alpha channel; for a negative sigma; and for a dictionary of other patches.
      TypeError: for an image that does not hold real numbers, a sigma that is not one number, and a key that is an
        integer.

    Warns:
      UserWarning: if the image has one row or one column, or if its noise is estimated as 0. Such images are returned
        unchanged.

    Example:
      >>> flat = np.full((32, 32), 100.0)
      >>> noisy = flat + np.random.default_rng(0).normal(0, 5, flat.shape)
      >>> clean = denoise(noisy, sigma=5, n_components=16)
      >>> print(np.abs(clean - flat).mean() < np.abs(noisy - flat).mean() / 3)
      True
    """
    check_count("stride", stride)
    check_patch_size(patch_size)
    if key is not None:
        check_key(key)
    check_count("n_components", n_components)
    check_count("n_patches", n_patches)
    picture = as_picture(image, least=1 if patch_size is None else patch_size)
    bands = picture.values.shape[2]
    offset, spread = picture.values.mean(), picture.values.std()
    if sigma is None:
        sigma = sigma_of(picture.values)
        if sigma == 0 < spread:
            warn("the noise of the image is estimated as 0, as if most pixels were clipped or smooth: it is returned "
                 "unchanged; pass sigma")  # fmt: skip
    sigma = checked_sigma(sigma)
    if spread == 0 or sigma <= np.finfo(np.float32).eps * spread:
        return picture.given.copy()
    if min(picture.shape[:2]) == 1:
        warn(f"image of shape {picture.shape} has no patches of 2 x 2 pixels, and is returned with its noise")
        return picture.given.copy()
    sigma = min(sigma, _LARGEST_SIGMA * spread)
    # Learning and coding see values without offset, in sigmas. A rotation of the bands leaves the noise white.
    values = (picture.values - offset) / sigma
    rotation = _principal_bands(values)
    rotated = values @ rotation
    told = _Stages(progress, rotated[..., 0].size, (bands if dictionary is None else 1) + bool(refine))
    if dictionary is None:
        estimates = [
            _with_own_dictionary(rotated[..., i : i + 1], patch_size, stride, told, n_components, n_patches, key)
            for i in range(bands)
        ]
        found = np.concatenate(estimates, 2)
    else:
        patch_size = square_side(dictionary, bands) if patch_size is None else patch_size
        atoms = unit_atoms(dictionary, patch_size, bands)
        found = _coded(values, atoms, patch_size, stride, told) @ rotation
    if refine:
        found = refine_by_groups(rotated, found, told)
    return picture.restored(found @ rotation.T * sigma + offset)


class _Stages:
    """Report of progress over several passes through the pixels."""

    def __init__(self, progress: Callable[[int, int], Any] | None, n_pixels: int, n_stages: int) -> None:
        self._progress, self._n_pixels, self._n_stages, self._stage = progress, n_pixels, n_stages, 0

    def __call__(self, done: int, total: int) -> None:
        if self._progress is not None:
            pixels = self._stage * self._n_pixels + self._n_pixels * done // total
            self._progress(pixels, self._n_stages * self._n_pixels)
        self._stage += done == total


def _principal_bands(values: HostArray) -> HostArray:
    """Rotation ``(bands, bands)`` to uncorrelated bands, the one of largest variance first."""
    flat = values.reshape(-1, values.shape[2])
    flat = flat - flat.mean(0)
    rotation: HostArray = np.linalg.eigh(flat.T @ flat)[1][:, ::-1]
    return rotation


def _with_own_dictionary(
    values: HostArray, patch_size: int | None, stride: int, told: _Stages, n_components: int, n_patches: int,
    key: Key | None,
) -> HostArray:  # fmt: skip
    """First estimate of one band ``(rows, columns, 1)``, in sigmas."""
    mean = values.mean()
    values = values - mean
    if _is_noise(values[..., 0]):
        told(1, 1)
        return np.full_like(values, mean)
    size = min(_default_size(1 / values.std()), *values.shape[:2]) if patch_size is None else patch_size
    atoms = unit_atoms(own_dictionary(values, size, n_components, n_patches, ALPHA, key), size, 1)
    return _coded(values, atoms, size, stride, told) + mean


def _is_noise(values: HostArray) -> bool:
    """Whether a band ``(rows, columns)`` of mean zero, in sigmas, has no more structure than noise alone.

    The variance misses structure in a small part of a large band, so the means of windows of all sizes count too.
    """
    if values.var() > 1 + 3 * (2 / values.size) ** 0.5:  # standard errors
        return False
    largest = 1 + (2 * np.log(values.size)) ** 0.5  # of as many standard normal numbers, with a margin
    sizes = 2 ** np.arange(min(values.shape).bit_length())
    return all(np.abs(window_sums(values, size)).max() < largest * size for size in sizes)


def _coded(values: HostArray, atoms: HostArray, patch_size: int, stride: int, told: _Stages) -> HostArray:
    """Average of patches of few atoms, for an image ``(rows, columns, bands)`` in sigmas."""
    source = PatchSource(values.astype(np.float32), patch_size, stride=min(stride, patch_size))
    average = PatchAverage((values.shape[0], values.shape[1], values.shape[2]), patch_size)
    for rows in pieces(source.n_samples, source.n_features):
        patches, means, _ = source.read_with_means(rows)
        estimates, n_atoms = pursue(atoms, patches, np.full(len(rows), _noise_energy(patches.shape[1]), np.float32),
                                    max_atoms=min(_MAX_ATOMS, patches.shape[1]))  # fmt: skip
        average.add(estimates + means, source.places[rows], 1.0 / (1 + n_atoms))
        told(int(rows[-1]) + 1, source.n_samples)
    return average.image(values)


def _noise_energy(n_pixels: int) -> float:
    """Squared norm to which the noise of a patch is attributed, in units of sigma squared."""
    return n_pixels * (1 + _SPREAD * (2 / n_pixels) ** 0.5)


def _default_size(noise: float) -> int:
    """Side of a patch for a standard deviation of the noise, as a share of that of the image."""
    return 8 if noise < 0.22 else 10 if noise < 0.5 else 12
