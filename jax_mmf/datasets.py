"""Real data from Python packages, and synthetic data with a known answer."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.core import check_count, check_key, matmul
from jax_mmf.typing import Array, HostArray, Key

__all__ = ["PlantedFactors", "iter_patches", "load_indian_pines", "make_sparse_codes", "standardize_bands"]


def load_indian_pines() -> HostArray:
    """Load the AVIRIS Indian Pines scene: radiances of 145 x 145 pixels of farmland in 200 spectral bands.

    The file is part of the package ``tensorly`` (extra ``demo``), which is not imported. Data: M. F. Baumgardner, L. L.
    Biehl, D. A. Landgrebe, 220 Band AVIRIS Hyperspectral Image Data Set: June 12, 1992 Indian Pine Test Site 3, Purdue
    University Research Repository, 2015 (CC BY 3.0); water absorption bands removed.

    Returns:
      ``(145, 145, 200)`` uint16.

    Raises:
      FileNotFoundError: if tensorly is not installed.

    Example:
      >>> from jax_mmf.datasets import load_indian_pines
      >>> cube = load_indian_pines()
      >>> cube.shape, str(cube.dtype)
      ((145, 145, 200), 'uint16')
    """
    try:
        found = [f for f in files("tensorly") or [] if f.name == "Indian_pines_corrected.npy"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise FileNotFoundError("the Indian Pines scene is part of tensorly; pip install 'jax-mmf[demo]'")
    cube: HostArray = np.load(str(found[0].locate()))
    return cube


def standardize_bands(cube: HostArray) -> HostArray:
    """Centre each band of a cube ``(height, width, bands)``, and scale the whole cube to unit variance: float32.

    Example:
      >>> import numpy as np
      >>> from jax_mmf.datasets import standardize_bands
      >>> cube = standardize_bands(np.arange(24.0).reshape(2, 3, 4))
      >>> cube.dtype, round(float(cube.std()), 3)
      (dtype('float32'), 1.0)
    """
    centred = cube.astype(np.float32) - cube.mean((0, 1), dtype=np.float64).astype(np.float32)
    scale = centred.std(dtype=np.float64).astype(np.float32)
    return centred / (scale if scale > 0 else 1)


def iter_patches(
    cube: HostArray, size: int, *, order: HostArray | None = None, batch: int = 512
) -> Iterator[HostArray]:
    """Iterate over the overlapping square patches of an image or cube, as rows.

    Args:
      cube: ``(height, width, bands)``.
      size: side of a patch in pixels.
      order: ``(n,)`` numbers of the patches, in the order in which to give them; by default all, in scan order.
      batch: patches per array.

    Yields:
      ``(batch, size * size * bands)``, in the order (row, column, band) within a patch.

    Example:
      >>> import numpy as np
      >>> from jax_mmf.datasets import iter_patches
      >>> [patches.shape for patches in iter_patches(np.zeros((6, 6, 2)), size=3, batch=10)]
      [(10, 18), (6, 18)]
    """
    check_count("size", size)
    windows = np.lib.stride_tricks.sliding_window_view(cube, (size, size), (0, 1))
    height, width = windows.shape[:2]
    order = np.arange(height * width) if order is None else order
    for first in range(0, order.size, batch):
        row, column = np.divmod(order[first : first + batch], width)
        yield np.moveaxis(windows[row, column], 1, -1).reshape(row.size, -1)


class PlantedFactors(NamedTuple):
    """Synthetic data with a known dictionary: ``x`` ``(n, p)``, ``dictionary`` ``(k, p)``, ``codes`` ``(n, k)``.

    Example:
      >>> import jax
      >>> from jax_mmf.datasets import make_sparse_codes
      >>> make_sparse_codes(jax.random.key(0), n_samples=20, n_features=8, n_components=4)._fields
      ('x', 'dictionary', 'codes')
    """

    x: Array
    dictionary: Array
    codes: Array


def make_sparse_codes(
    key: Key, n_samples: int, n_features: int, n_components: int, *, n_nonzero: int = 3, noise: float = 0.01
) -> PlantedFactors:
    """Generate samples that are sparse combinations of random atoms, plus noise.

    Args:
      key: PRNG key.
      n_samples: n.
      n_features: p.
      n_components: k, number of atoms: Gaussian, of unit norm.
      n_nonzero: number of atoms in each sample, with weights of absolute value in [1, 2] and random sign.
      noise: standard deviation of the noise on each feature.

    Returns:
      data, dictionary and codes.

    Example:
      >>> import jax
      >>> from jax_mmf.datasets import make_sparse_codes
      >>> planted = make_sparse_codes(jax.random.key(0), n_samples=20, n_features=8, n_components=4)
      >>> planted.x.shape, int((planted.codes[0] != 0).sum())
      ((20, 8), 3)
    """
    check_key(key)
    key_atoms, key_support, key_size, key_sign, key_noise = jax.random.split(key, 5)
    atoms = jax.random.normal(key_atoms, (n_components, n_features))
    atoms = atoms / jnp.linalg.norm(atoms, axis=1, keepdims=True)
    scores = jax.random.uniform(key_support, (n_samples, n_components))
    chosen = jax.lax.top_k(scores, n_nonzero)[1]
    support = jnp.zeros(scores.shape, bool).at[jnp.arange(n_samples)[:, None], chosen].set(True)
    size = jax.random.uniform(key_size, scores.shape, minval=1.0, maxval=2.0)
    codes = support * size * jax.random.rademacher(key_sign, scores.shape, size.dtype)
    x = matmul(codes, atoms) + noise * jax.random.normal(key_noise, (n_samples, n_features))
    return PlantedFactors(x, atoms, codes)
