"""The level of the noise in an image."""

from typing import Any

import numpy as np

from jax_mmf.images.pictures import as_picture
from jax_mmf.typing import HostArray

_MAD = 0.6744897501960817  # median of |z| for a standard normal z


def estimate_sigma(image: Any) -> float:
    """Estimate the standard deviation of white Gaussian noise in an image.

    The mixed second difference of rows and columns leaves little of the image [Immerkaer 1996]. The estimate is the
    median of its absolute value [Donoho and Johnstone 1994], so that edges don't count much. Fine texture makes it too
    large, and clipped pixels make it too small.

    Args:
      image: ``(rows, columns)`` or ``(rows, columns, bands)``, at least 3 x 3 pixels.

    Returns:
      sigma in units of the image; the mean over the bands.

    Raises:
      ValueError: for an image that is too small, and as `denoise` does.

    Example:
      >>> noise = np.random.default_rng(0).standard_normal((256, 256))
      >>> print(round(estimate_sigma(5.0 * noise), 1))
      5.0
    """
    return sigma_of(as_picture(image).values)


def sigma_of(values: HostArray) -> float:
    """Estimate sigma from finite values ``(rows, columns, bands)``."""
    if min(values.shape[:2]) < 3:
        raise ValueError(f"sigma can't be estimated from {values.shape[0]} x {values.shape[1]} pixels; pass sigma")
    for axis in (0, 1):
        values = np.diff(values, 2, axis)
    return float(np.mean(np.median(np.abs(values), axis=(0, 1)))) / (6 * _MAD)
