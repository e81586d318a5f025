"""Filling of missing pixels, with a dictionary of the image's own patches."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jax_mmf.core import as_array, check_count, check_key
from jax_mmf.images.learning import (
    N_ATOMS,
    check_patch_size,
    checked_sigma,
    own_dictionary,
    pieces,
    square_side,
    unit_atoms,
)
from jax_mmf.images.patches import PatchAverage, PatchSource
from jax_mmf.images.pictures import as_missing, as_picture
from jax_mmf.images.pursuit import pursue
from jax_mmf.typing import HostArray, Key

_ERROR = 0.04  # root mean square of what a patch may keep, in standard deviations of the image
_ALPHA = 0.7
_MAX_ATOMS = 24


def inpaint(
    image: Any,
    mask: Any,
    dictionary: Any = None,
    patch_size: int | None = None,
    *,
    sigma: float = 0.0,
    n_components: int = N_ATOMS,
    n_rounds: int = 3,
    n_patches: int = 20_000,
    key: Key | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> HostArray:
    """Fill missing pixels of an image.

    The holes are first filled smoothly. Then rounds follow: a dictionary is learned from the patches of the filled
    image, and the holes are filled with averages of patches, whose codes are those of the observed pixels alone [Elad
    and Aharon 2006, Mairal et al. 2008].

    Args:
      image: ``(rows, columns)`` or ``(rows, columns, bands)`` integers or floats. Values of missing pixels are not
        used, and may be NaN.
      mask: ``(rows, columns)`` or the shape of the image; True or nonzero for missing pixels, as in
        ``skimage.restoration.inpaint_biharmonic``.
      dictionary: ``(k, patch_size * patch_size * bands)``; by default it is learned from the image.
      patch_size: side of a patch in pixels, at least 2. By default 8, less for smaller images, or that of the
        dictionary.
      sigma: standard deviation of the noise of observed pixels, in units of the image. Observed pixels are returned as
        they are, with their noise.
      n_components: number of atoms to learn.
      n_rounds: number of rounds; one if a dictionary is given.
      n_patches: random patches to learn from in a round.
      key: PRNG key of the patches and of learning. By default a fixed one.
      progress: called with the numbers of patches that are done and that there are, of all rounds.

    Returns:
      an array of the shape and dtype of the image, in the byte order of the machine. Observed pixels are unchanged.
      Filled pixels stay in the range of the observed ones.

    Raises:
      ValueError: for an image that is smaller than ``patch_size`` or the patches of ``dictionary``, for observed pixels
        that are NaN or infinite, for a mask of another shape, and if a band has no observed pixel.
      TypeError: for an image that does not hold real numbers, and for a key that is an integer.

    Example:
      >>> ramp = np.add.outer(np.arange(24.0), np.arange(24.0))
      >>> missing = np.random.default_rng(0).random(ramp.shape) < 0.5
      >>> filled = inpaint(np.where(missing, np.nan, ramp), missing, n_components=16)
      >>> print(np.abs(filled - ramp).mean() < 0.5)
      True
    """
    check_count("n_rounds", n_rounds)
    check_patch_size(patch_size)
    if key is not None:
        check_key(key)
    sigma = checked_sigma(sigma)
    check_count("n_components", n_components)
    check_count("n_patches", n_patches)
    image = as_array("image", image)
    missing = as_missing(mask, image.shape)
    picture = as_picture(image, missing=missing, least=1 if patch_size is None else patch_size)
    bands = picture.values.shape[2]
    if patch_size is None:
        patch_size = min(8, *picture.values.shape[:2]) if dictionary is None else square_side(dictionary, bands)
    observed = picture.values[~missing]
    low, high, offset, spread = observed.min(), observed.max(), observed.mean(), observed.std()
    if spread == 0 or not missing.any():
        return picture.restored(np.where(missing, offset, picture.values), missing)
    values = np.where(missing, 0, (picture.values - offset) / spread)
    filled = _smoothly_filled(values, missing)
    error = patch_size**2 * bands * (_ERROR**2 + (sigma / spread) ** 2)
    rounds = 0 if patch_size == 1 else n_rounds if dictionary is None else 1  # single pixels have no structure
    for number in range(rounds):
        atoms = dictionary
        if dictionary is None:
            own = jax.random.fold_in(jax.random.key(0) if key is None else key, number)
            atoms = own_dictionary(filled, patch_size, n_components, n_patches, _ALPHA, own)
        told = None if progress is None else _told(progress, number, rounds)
        filled = _filled(values, missing, filled, unit_atoms(atoms, patch_size, bands), error, told)
    filled = np.clip(filled * spread + offset, low, high)
    return picture.restored(np.where(missing, filled, picture.values), missing)


def _filled(
    values: HostArray,
    missing: HostArray,
    before: HostArray,
    atoms: HostArray,
    error: float,
    progress: Callable[[int, int], Any] | None,
) -> HostArray:
    """Replace missing pixels by averages of patches, whose codes come from the observed pixels."""
    bands = values.shape[2]
    size = square_side(atoms, bands)
    # Means are those of the patches as filled before; flat atoms correct them together with the other codes.
    source = PatchSource(before.astype(np.float32), size)
    weights = PatchSource((~missing).astype(np.float32), size, center=False)
    flat = np.tile(np.eye(bands, dtype=np.float32) / size, size * size)
    atoms = np.concatenate([flat, atoms])
    average = PatchAverage((values.shape[0], values.shape[1], bands), size)
    windows = np.lib.stride_tricks.sliding_window_view(missing, (size, size), (0, 1))
    near = np.flatnonzero(windows.any((2, 3, 4)))  # patches without a hole fill nothing
    for part in pieces(len(near), source.n_features):
        rows = near[part]
        patches, means, _ = source.read_with_means(rows)
        mask = weights.read(rows)
        allowed = (error * mask.mean(1)).astype(np.float32)
        estimates, n_atoms = pursue(atoms, patches, allowed, max_atoms=min(_MAX_ATOMS, patches.shape[1]), mask=mask)
        average.add(estimates + means, source.places[rows], mask.mean(1) ** 2 / (1 + n_atoms) + 1e-6)
        if progress is not None:
            progress(int(part[-1]) + 1, len(near))
    return np.where(missing, average.image(before), values)


def _smoothly_filled(values: HostArray, missing: HostArray) -> HostArray:
    """Fill holes with averages of the nearest observed pixels, at the finest scale that has some."""
    filled, known = np.where(missing, 0, values), ~missing
    pyramid = [(filled, known.astype(float))]
    while not (pyramid[-1][1] > 0).all():
        pyramid.append(tuple(_halved(part) for part in pyramid[-1]))  # type: ignore[arg-type]
    total, weight = pyramid.pop()
    coarse = total / weight
    for total, weight in reversed(pyramid):
        doubled = coarse.repeat(2, 0).repeat(2, 1)[: total.shape[0], : total.shape[1]]
        coarse = _smoothed(np.where(weight > 0, total / np.where(weight > 0, weight, 1), doubled), weight > 0)
    return coarse


def _halved(values: HostArray) -> HostArray:
    """Sum 2 x 2 pixels."""
    padded = np.pad(values, [(0, values.shape[0] % 2), (0, values.shape[1] % 2), (0, 0)])
    halved: HostArray = padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]
    return halved


def _smoothed(values: HostArray, known: HostArray, n_steps: int = 20) -> HostArray:
    """Diffuse into the holes."""
    for _ in range(n_steps):
        padded = np.pad(values, [(1, 1), (1, 1), (0, 0)], mode="edge")
        mean = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
        values = np.where(known, values, mean)
    return values


def _told(progress: Callable[[int, int], Any], number: int, rounds: int) -> Callable[[int, int], Any]:
    return lambda done, total: progress(number * total + done, rounds * total)
