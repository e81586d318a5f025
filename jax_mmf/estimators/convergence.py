"""The rule that ends a fit: small changes of the dictionary, or no progress of the objective."""

from typing import Any

import numpy as np

from jax_mmf.core import check_count, check_real
from jax_mmf.training import Event

_MOST_FIRST_STEPS = 100


class Convergence:
    """Callback of `jax_mmf.fit` that ends a run as the mini-batch estimators of scikit-learn do.

    The first epoch, or its first 100 steps, never ends a run. After that, a run ends if the dictionary changes little
    in a step, or if the exponentially weighted average of the objective of the mini-batches has not reached a new
    minimum in a number of consecutive steps. The average starts at the mean over as many further steps: a single
    mini-batch may have a low objective by chance, and in the first steps the dictionary is fitted to the mini-batch.

    Args:
      tol: largest relative change ``|D_new - D|_F / |D|_F`` of the dictionary in a step that ends the run; 0 for never.
      max_no_improvement: number of steps without a new minimum; None for never.
      batch_size: samples per step.
      n_samples: of the source.

    Raises:
      ValueError: for numbers out of range.
    """

    def __init__(self, tol: float, max_no_improvement: int | None, batch_size: int, n_samples: int) -> None:
        check_real("tol", tol, low=0.0)
        if max_no_improvement is not None:
            check_count("max_no_improvement", max_no_improvement)
        self.tol, self.max_no_improvement = tol, max_no_improvement
        self.share = min(1.0, batch_size / (n_samples + 1))
        self.n_first = min(_MOST_FIRST_STEPS, max(1, n_samples // batch_size))
        self.average = 0.0
        self.lowest, self.stale, self.n_calls = np.inf, 0, 0
        self.dictionary: Any = None

    @property
    def active(self) -> bool:
        """Whether the rule can end a run."""
        return self.tol > 0 or self.max_no_improvement is not None

    def __call__(self, event: Event, /) -> bool:
        """Return whether to stop."""
        self.n_calls += 1
        return self._stands_still(event) | self._no_improvement(event)

    def _stands_still(self, event: Event) -> bool:
        """Whether the dictionary changed little."""
        if self.tol == 0 or self.n_calls < self.n_first:
            return False
        before, self.dictionary = self.dictionary, np.array(event.state.dictionary)
        if before is None:
            return False
        return bool(np.linalg.norm(self.dictionary - before) <= self.tol * np.linalg.norm(before))

    def _no_improvement(self, event: Event) -> bool:
        """Whether the average of the objective has had no new minimum for too long."""
        n_averaged = self.n_calls - self.n_first
        if self.max_no_improvement is None or event.record is None or n_averaged <= 0:
            return False
        self.average += max(self.share, 1 / n_averaged) * (event.record.objective - self.average)
        if n_averaged < self.n_first:
            return False
        if self.average < self.lowest:
            self.lowest, self.stale = self.average, 0
        else:
            self.stale += 1
        return self.stale >= self.max_no_improvement
