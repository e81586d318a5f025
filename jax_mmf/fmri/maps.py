"""Explained variance of maps, their time courses, signs and order."""

from collections.abc import Iterator

import numpy as np

from jax_mmf.io import Source
from jax_mmf.typing import HostArray

_BAND = 2**26  # bytes of frames that are read at a time


def upright(maps: HostArray) -> HostArray:
    """Flip the maps ``(k, p)`` whose negative part has the larger l1 norm."""
    return np.where(maps.sum(axis=1, keepdims=True) < 0, -maps, maps)


def time_courses(x: HostArray, maps: HostArray) -> HostArray:
    """Return the time courses ``(n, k)`` that approximate frames ``(n, p)`` by maps ``(k, p)`` in least squares."""
    gram = maps.astype(np.float64) @ maps.T
    return np.asarray(x @ maps.T @ np.linalg.pinv(gram, hermitian=True), np.float32)


def frames_of(source: Source) -> Iterator[HostArray]:
    """Read a source in bands of consecutive rows ``(b, p)``, with the columns as they are stored."""
    height = max(1, _BAND // (source.n_features * source.dtype.itemsize))
    for first in range(0, source.n_samples, height):
        yield source.read(np.arange(first, min(first + height, source.n_samples)))


class ExplainedVariance:
    """Explained variance of maps, over frames that come a few at a time. The definitions are those of nilearn.

    Args:
      maps: ``(k, p)``, of any scale.
    """

    def __init__(self, maps: HostArray) -> None:
        maps = maps.astype(np.float64)
        norms = np.linalg.norm(maps, axis=1, keepdims=True)
        self._maps = maps / np.where(norms > 0, norms, 1)
        self._projector = np.column_stack([self._maps.T, np.ones(maps.shape[1])]).astype(np.float32)
        self._moments = np.zeros((len(maps) + 1, len(maps) + 1))  # of the scores of frames, and of their sums
        self._sums = np.zeros(len(maps) + 1)
        self._squares, self._count = 0.0, 0

    def add(self, x: HostArray) -> "ExplainedVariance":
        """Add frames ``(b, p)``."""
        y = (x @ self._projector).astype(np.float64)
        self._moments += y.T @ y
        self._sums += y.sum(axis=0)
        self._squares += float(np.square(x).sum(dtype=np.float64))
        self._count += x.size
        return self

    def per_map(self) -> HostArray:
        """Return ``(k,)``: the share of the variance that each map explains by itself."""
        scores, totals = self._sums[:-1], self._maps.sum(axis=1)
        left = self._squares - np.diag(self._moments)[:-1]
        variance = left / self._count - ((self._sums[-1] - scores * totals) / self._count) ** 2
        whole = self._squares / self._count - (self._sums[-1] / self._count) ** 2
        return np.maximum(0.0, 1 - variance / whole) if whole > 0 else np.zeros(len(scores))

    def together(self) -> float:
        """Return the share of the sum of squares that all maps explain, by a regression with intercept per frame."""
        means = self._maps.mean(axis=1)
        gram = self._maps @ self._maps.T
        centred = gram - self._maps.shape[1] * np.outer(means, means)
        inverse = np.linalg.pinv(centred, hermitian=True)
        y = np.vstack([np.eye(len(means)), -means])  # scores of centred maps, from scores and sums
        coefficients = inverse @ y.T @ self._moments  # times the scores: (k, k + 1)
        fitted = coefficients @ y @ inverse  # second moments of the coefficients
        left = self._squares - 2 * np.trace(coefficients[:, :-1]) + np.sum(fitted * gram)
        return max(0.0, 1 - left / self._squares) if self._squares > 0 else 0.0
