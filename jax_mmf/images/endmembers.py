"""First endmembers: the pixels of a cube that are most extreme."""

from typing import Any

import numpy as np

from jax_mmf.core import as_array, check_count, check_real_dtype
from jax_mmf.typing import HostArray


def successive_projection(spectra: HostArray, n_endmembers: int) -> HostArray:
    """Choose pixels by successive projection [Araujo et al. 2001].

    Each is the one that is farthest from the span of those before it. If each endmember occurs as a pure pixel, and
    there is no noise, these are the endmembers.

    Args:
      spectra: ``(n, bands)``.
      n_endmembers: m, at most n and the number of bands.

    Returns:
      ``(m,)`` row numbers.

    Raises:
      ValueError: for another number of axes, NaN and infinity, and too many endmembers.
      TypeError: for spectra that are not real numbers.
    """
    left = _checked(spectra, n_endmembers).copy()
    chosen = np.empty(n_endmembers, np.intp)
    for i in range(n_endmembers):
        energy = np.einsum("ij,ij->i", left, left)
        energy[chosen[:i]] = -1.0  # rounding must not choose a pixel twice
        chosen[i] = np.argmax(energy)
        direction = left[chosen[i]]
        size = float(direction @ direction)
        if size > 0:
            left -= np.outer(left @ direction / size, direction)
    return chosen


def vertex_components(spectra: HostArray, n_endmembers: int, generator: np.random.Generator) -> HostArray:
    """Choose pixels by vertex component analysis [Nascimento and Dias 2005].

    Spectra are projected on their main subspace, and then, if there is little noise, on the hyperplane where
    abundances sum to one. Each choice is the pixel farthest along a random direction orthogonal to those before.

    Args:
      spectra: ``(n, bands)``.
      n_endmembers: m, at most n and the number of bands.
      generator: of the random directions.

    Returns:
      ``(m,)`` row numbers.

    Raises:
      ValueError: as `successive_projection` does.
      TypeError: as `successive_projection` does, and for another generator, such as a key of JAX.
    """
    if not isinstance(generator, np.random.Generator):
        raise TypeError(f"generator must be that of numpy.random.default_rng, got a {type(generator).__name__}")
    x = _checked(spectra, n_endmembers)
    n, m = len(x), n_endmembers
    mean = x.mean(0)
    _, vectors = np.linalg.eigh(x.T @ x / n)
    signal = np.sum((x @ vectors[:, -m:]) ** 2) / n
    noise = np.sum(x**2) / n - signal
    if signal > 10**1.5 * m * noise:  # 15 dB + 10 log10(m), as in the article
        y = x @ vectors[:, -m:]
        scale = y @ y.mean(0)
        floor = np.finfo(float).eps * np.abs(scale).max()
        y = y / np.where(np.abs(scale) > floor, scale, 1 if floor == 0 else floor)[:, None]
    else:
        _, vectors = np.linalg.eigh((x - mean).T @ (x - mean) / n)
        y = (x - mean) @ vectors[:, x.shape[1] - m + 1 :]
        y = np.c_[y, np.full(n, np.sqrt((y**2).sum(1)).max())]
    basis = np.zeros((m, m))
    basis[-1, 0] = 1
    chosen = np.empty(m, np.intp)
    for i in range(m):
        direction = generator.standard_normal(m)
        direction -= basis @ (np.linalg.pinv(basis) @ direction)
        reach = np.abs(y @ direction)
        reach[chosen[:i]] = -1.0
        chosen[i] = np.argmax(reach)
        basis[:, i] = y[chosen[i]]
    return chosen


def as_spectra(name: str, spectra: Any) -> HostArray:
    """Return spectra as ``(n, bands)`` float64, scaled by a power of two to values of at most 1.

    Raises:
      ValueError: for another number of axes, no spectra, NaN and infinity.
      TypeError: for spectra that are not real numbers.
    """
    values = np.asarray(as_array(name, spectra))
    check_real_dtype(name, values.dtype)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} must be (n, bands), got shape {values.shape}; reshape a cube to (-1, bands)")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, but holds NaN or infinity; leave out such spectra")
    largest = np.abs(values).max()
    return values if largest == 0 else np.ldexp(values, -np.frexp(largest)[1])


def _checked(spectra: HostArray, n_endmembers: int) -> HostArray:
    """Return spectra as ``(n, bands)`` float64."""
    check_count("n_endmembers", n_endmembers)
    values = as_spectra("spectra", spectra)
    n, bands = values.shape
    if n_endmembers > min(n, bands):
        raise ValueError(f"n_endmembers must be at most the {n} spectra and the {bands} bands, got {n_endmembers}")
    return values
