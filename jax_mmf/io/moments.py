"""Mean and variance of the features of a matrix, in one pass over bands of rows."""

import numpy as np

from jax_mmf.typing import HostArray

_COLUMNS = 4096  # columns that are converted to float64 at a time


class Moments:
    """Mean and variance of each column, in float64.

    Bands are merged by the formula of Chan, Golub and LeVeque, which does not lose digits if the mean is large.

    Args:
      n_features: number of columns.

    Attributes:
      n_samples: number of rows so far.
      mean: ``(p,)``.
      not_finite: row and column of the first number that is NaN or infinite, or None.
    """

    def __init__(self, n_features: int) -> None:
        self.n_samples = 0
        self.mean = np.zeros(n_features)
        self.not_finite: tuple[int, int] | None = None
        self._squares = np.zeros(n_features)

    def add(self, x: HostArray) -> None:
        """Add a band of rows ``(m, p)``."""
        total = self.n_samples + len(x)
        with np.errstate(invalid="ignore", over="ignore"):  # warnings for numbers that are not finite; these are noted
            for first in range(0, x.shape[1], _COLUMNS):
                some = np.s_[first : first + _COLUMNS]
                part = x[:, some].astype(np.float64)
                mean = part.mean(axis=0)
                if self.not_finite is None and not np.isfinite(mean).all():
                    self._note(part, first)
                change = mean - self.mean[some]
                part -= mean
                self._squares[some] += np.einsum("ij,ij->j", part, part) + change**2 * (self.n_samples * len(x) / total)
                self.mean[some] += change * (len(x) / total)
        self.n_samples = total

    @property
    def scale(self) -> HostArray:
        """Standard deviation of each column ``(p,)``, or 1 for a column whose numbers are all equal."""
        deviation = np.sqrt(self._squares / max(self.n_samples, 1))
        return np.where(deviation == 0, 1.0, deviation)

    def _note(self, part: HostArray, first_column: int) -> None:
        places = np.argwhere(~np.isfinite(part))
        if len(places):
            row, column = places[0].tolist()
            self.not_finite = (self.n_samples + row, first_column + column)
