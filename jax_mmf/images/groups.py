"""Groups of similar patches, each of which is denoised as a normal distribution of its own."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve

from jax_mmf.core import matmul
from jax_mmf.images.patches import PatchAverage
from jax_mmf.typing import Array, HostArray

_SIZE, _STRIDE = 8, 4  # of the patches, and the distance of those for which similar ones are looked for
_REACH = 10  # largest distance of similar patches, in rows and in columns
_N_SIMILAR = 60  # 30 and 100 gave worse images
_FEWEST = 16  # a smaller group has no covariance worth using
_NUMBERS = 1 << 23  # of the distances, and of the patches, that are in memory together


def refine_by_groups(noisy: HostArray, estimate: HostArray, told: Callable[[int, int], Any] | None = None) -> HostArray:
    """Denoise groups of similar patches, given a first estimate of the image [Lebrun et al. 2013].

    Similar patches are those of the first estimate. Their covariance in the first estimate is the prior of the group.
    Each band is denoised by itself, with the same groups.

    Args:
      noisy: ``(rows, columns, bands)`` with white noise of standard deviation 1.
      estimate: of the same shape, the first estimate.
      told: called with the numbers of groups that are done and that there are.

    Returns:
      the image of the same shape; the first estimate if it is too small for groups.
    """
    size = min(_SIZE, *noisy.shape[:2])
    corners = tuple(n - size + 1 for n in noisy.shape[:2])
    n_similar = min(_N_SIMILAR, min(corners[0], _REACH + 1) * min(corners[1], _REACH + 1))
    if n_similar < _FEWEST:
        if told is not None:
            told(1, 1)
        return estimate
    values, guide = (part.astype(np.float32) for part in (noisy, estimate))
    averages = [PatchAverage((*noisy.shape[:2], 1), size) for _ in range(noisy.shape[2])]
    rows = _grid(corners[0])
    for first, places in _similar(guide, size, rows, n_similar):
        for band, average in enumerate(averages):
            windows = [
                np.lib.stride_tricks.sliding_window_view(part[..., band], (size, size)) for part in (values, guide)
            ]
            chosen = [part[places[..., 0], places[..., 1]].reshape(*places.shape[:2], -1) for part in windows]
            found, freedom = _denoised(*map(jnp.asarray, chosen))
            weights = np.repeat(1 / (1 + np.asarray(freedom, np.float64)), n_similar)
            average.add(np.asarray(found).reshape(len(weights), -1), places.reshape(-1, 2), weights)
        if told is not None:
            told(int(first), len(rows))
    return np.concatenate([average.image(estimate[..., i]) for i, average in enumerate(averages)], 2)


def _grid(n: int) -> HostArray:
    """Every fourth number, and the last one."""
    return np.unique(np.r_[0:n:_STRIDE, n - 1])


def _similar(guide: HostArray, size: int, rows: HostArray, n_similar: int) -> Iterator[tuple[int, HostArray]]:
    """Yield upper left pixels ``(groups, n_similar, 2)`` of similar patches, for a few rows of patches at a time."""
    n_rows, n_columns = (n - size + 1 for n in guide.shape[:2])
    columns = _grid(n_columns)
    shifts = np.stack(np.meshgrid(*2 * [np.arange(-_REACH, _REACH + 1)], indexing="ij"), -1).reshape(-1, 2)
    most = max(len(shifts), n_similar * size**2) * len(columns)
    step = max(1, _NUMBERS // most)
    for first in range(0, len(rows), step):
        own = rows[first : first + step]
        low, high = max(own[0] - _REACH, 0), min(own[-1] + _REACH, n_rows - 1)
        distances = _distances(guide[low : high + size], size, own - low, columns, shifts)
        nearest = np.argpartition(distances, n_similar - 1, 1)[:, :n_similar]
        places = np.stack(np.meshgrid(own, columns, indexing="ij"), -1).reshape(-1, 1, 2)
        yield first + len(own), places + shifts[nearest]


def _distances(guide: HostArray, size: int, rows: HostArray, columns: HostArray, shifts: HostArray) -> HostArray:
    """Squared distances ``(groups, shifts)`` of patches to those at a shift; infinite outside of the image."""
    n_rows, n_columns = (n - size + 1 for n in guide.shape[:2])
    found = np.full((len(shifts), len(rows), len(columns)), np.inf, np.float32)
    for distance, (down, right) in zip(found, shifts, strict=True):
        inside = np.ix_(
            (rows + down >= 0) & (rows + down < n_rows), (columns + right >= 0) & (columns + right < n_columns)
        )
        top, left = max(0, -down), max(0, -right)
        here = guide[top : n_rows + size - 1 - max(0, down), left : n_columns + size - 1 - max(0, right)]
        there = guide[top + down :, left + right :][: here.shape[0], : here.shape[1]]
        if not inside[0].size or not inside[1].size:
            continue
        sums = window_sums(((here - there) ** 2).sum(2), size)
        distance[inside] = sums[np.ix_(rows[inside[0][:, 0]] - top, columns[inside[1][0]] - left)]
    return found.reshape(len(shifts), -1).T


def window_sums(values: HostArray, size: int) -> HostArray:
    """Sums of the ``(size, size)`` windows of a matrix."""
    for axis in (0, 1):
        total = np.cumsum(values, axis, dtype=np.float64)
        total = np.insert(total, 0, 0, axis)
        n = total.shape[axis]
        values = np.take(total, np.arange(size, n), axis) - np.take(total, np.arange(n - size), axis)
    return values


@jax.jit
def _denoised(noisy: Array, guides: Array) -> tuple[Array, Array]:
    """Denoise groups of patches with noise of variance 1.

    Args:
      noisy: ``(groups, n, p)``.
      guides: ``(groups, n, p)``, first estimates.

    Returns:
      the posterior means ``(groups, n, p)``, and degrees of freedom ``(groups,)``.
    """
    n, p = guides.shape[1:]
    centered = guides - guides.mean(1, keepdims=True)
    covariance = matmul(centered.swapaxes(1, 2), centered) / (n - 1)
    identity = jnp.eye(p, dtype=noisy.dtype)
    factor = jnp.linalg.cholesky(covariance + identity)
    inverse = jax.vmap(lambda own: cho_solve((own, True), identity))(factor)
    # That of the noisy patches has noise, that of the guides has lost detail.
    mean = 0.5 * (noisy.mean(1, keepdims=True) + guides.mean(1, keepdims=True))
    return noisy - matmul(noisy - mean, inverse), p - jnp.trace(inverse, axis1=1, axis2=2)
