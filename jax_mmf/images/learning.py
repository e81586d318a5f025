"""Dictionaries of the patches of images."""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jax_mmf.core import as_real_array, check_count, check_key, check_real, check_shape
from jax_mmf.images.patches import PatchSource
from jax_mmf.io import JoinedSource
from jax_mmf.learning import OnlineFactorization
from jax_mmf.penalties import AnyPenalty, Lasso, RelativeAlpha
from jax_mmf.training import FitResult, fit
from jax_mmf.typing import HostArray, Key

N_ATOMS, N_PATCHES, BATCH = 256, 40_000, 512
_NUMBERS = 1 << 24  # of the patches that are in memory together: 64 MB


def learn_patches(
    images: Any,
    *,
    key: Key,
    patch_size: int = 8,
    n_components: int = N_ATOMS,
    penalty: AnyPenalty | None = None,
    n_patches: int = N_PATCHES,
    contrast: float = 0.0,
    **options: Any,
) -> FitResult:
    """Learn a dictionary of the patches of one or more images.

    Args:
      images: an image, or a sequence of images with the same number of bands; see `PatchSource`.
      key: PRNG key of the patches and of the run.
      patch_size: side of a patch in pixels.
      n_components: number of atoms.
      penalty: on the codes of patches, whose values are those of the image divided by `PatchSource.scale`. By default
        ``Lasso(RelativeAlpha(0.1))``.
      n_patches: random patches of each image.
      contrast: of `PatchSource`.
      **options: arguments of `jax_mmf.fit`, such as ``n_epochs``; by default 2 epochs in mini-batches of 512.

    Returns:
      the result of the run. ``result.dictionary`` is ``(n_components, patch_size * patch_size * bands)``.

    Raises:
      ValueError: as `PatchSource` and `jax_mmf.fit` do.

    Example:
      >>> image = np.random.default_rng(0).random((32, 32))
      >>> learn_patches(image, key=jax.random.key(0), patch_size=4, n_components=6).dictionary.shape
      (6, 16)
    """
    if isinstance(images, list | tuple) and len(images) == 0:
        raise ValueError("images must hold at least one image, got none")
    many = list(images) if isinstance(images, list | tuple) and np.ndim(images[0]) > 1 else [images]
    check_key(key)
    patch_key, run_key = jax.random.split(key)
    sources = [
        PatchSource(
            image, patch_size, n_patches=n_patches, key=jax.random.fold_in(patch_key, number), contrast=contrast
        )
        for number, image in enumerate(many)
    ]
    source = sources[0] if len(sources) == 1 else JoinedSource(sources, [f"image {i}" for i in range(len(sources))])
    penalty = Lasso(RelativeAlpha(0.1)) if penalty is None else penalty
    solver = OnlineFactorization(n_components=n_components, penalty=penalty)
    return fit(solver, source, key=run_key, **({"n_epochs": 2, "batch_size": BATCH} | options))


def own_dictionary(
    values: HostArray, patch_size: int, n_components: int, n_patches: int, alpha: float, key: Key | None
) -> HostArray:
    """Learn a dictionary of an image's own patches; an image of few patches gives few atoms."""
    n = (values.shape[0] - patch_size + 1) * (values.shape[1] - patch_size + 1)
    with warnings.catch_warnings():  # patches without structure are no mistake of the user
        warnings.filterwarnings("ignore", "fit has learned nothing")
        result = learn_patches(
            values.astype(np.float32),
            key=jax.random.key(0) if key is None else key,
            patch_size=patch_size,
            n_components=min(n_components, n, n_patches),
            penalty=Lasso(alpha),
            n_patches=n_patches,
            batch_size=min(BATCH, n),
        )
    return np.asarray(result.dictionary)


def check_patch_size(patch_size: int | None) -> None:
    """Raise unless the side of a patch is None or a whole number of at least 2: single pixels have no structure."""
    if patch_size is not None:
        check_count("patch_size", patch_size, low=2)


def checked_sigma(sigma: Any) -> float:
    """Return a standard deviation of the noise as a float.

    Raises:
      TypeError: unless it is one number.
      ValueError: if it is negative or not finite.
    """
    if np.ndim(sigma) > 0:
        raise TypeError(f"sigma must be one number for the whole image, got an array of shape {np.shape(sigma)}")
    check_real("sigma", sigma, low=0.0)
    return float(sigma)


def unit_atoms(dictionary: Any, patch_size: int, bands: int) -> HostArray:
    """Return the atoms that are not zero, as float32 of unit norm.

    Raises:
      ValueError: for another number of pixels, NaN and infinity, and if all atoms are zero.
    """
    atoms = np.array(as_real_array("dictionary", dictionary, ndim=(2,)), np.float32)
    check_shape("dictionary", atoms, (None, patch_size**2 * bands), "(n_components, patch_size * patch_size * bands)")
    if not np.isfinite(atoms).all():
        raise ValueError("dictionary must be finite, but holds nan or infinity")
    norms = np.linalg.norm(atoms, axis=1, keepdims=True)
    used = norms[:, 0] > 0
    if not used.any():
        raise ValueError("dictionary must have an atom that is not zero")
    return np.asarray(atoms[used] / norms[used])


def square_side(dictionary: Any, bands: int) -> int:
    """Return the side of the patches of a dictionary."""
    n_pixels = np.shape(dictionary)[-1] if np.ndim(dictionary) == 2 else 0
    side = round((n_pixels / bands) ** 0.5)
    if side < 2 or side**2 * bands != n_pixels:
        raise ValueError(
            f"dictionary must be (n_components, side * side * {bands}), the square patches of an image of {bands} "
            f"band(s); got shape {np.shape(dictionary)}"
        )
    return side


def pieces(n: int, n_features: int) -> Sequence[HostArray]:
    """Split the numbers of patches into pieces that fit into memory."""
    size = max(1, min(1 << 16, _NUMBERS // n_features))
    return [np.arange(first, min(first + size, n)) for first in range(0, n, size)]
