"""The order in which the samples of a source are read."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jax_mmf.core import HostStream, host_generator
from jax_mmf.typing import HostArray, Key


class SampleOrder(NamedTuple):
    """Which samples are held out, and in which order the others are read: a function of the key alone.

    Shuffling moves stretches of consecutive rows, which disks read faster. A stretch of one row shuffles single rows.

    With a window, the rows of stretches are mixed: a row is read while its stretch is among the last ``window + 1``
    ones in the order of the stretches. Compressed chunks are therefore decoded once an epoch, and few are kept.

    Attributes:
      key: PRNG key of the run.
      n_samples: of the source.
      stretch: number of consecutive rows that stay together.
      n_held_out: number of samples that are not trained on.
      shuffle: whether the order is random; if not, the last samples are held out.
      window: number of stretches whose rows are mixed; 0 keeps the rows of a stretch together.
    """

    key: Key
    n_samples: int
    stretch: int
    n_held_out: int
    shuffle: bool
    window: int = 0

    @property
    def n_training(self) -> int:
        """Number of samples that are trained on."""
        return self.n_samples - self.n_held_out

    def split(self) -> tuple[HostArray, HostArray]:
        """Row numbers, ascending: those held out, and those trained on."""
        rows = np.arange(self.n_samples)
        if self.shuffle:
            rows = self._shuffled(rows, HostStream.HELD_OUT)
        return np.sort(rows[self.n_training :]), np.sort(rows[: self.n_training])

    def epoch(self, number: int) -> HostArray:
        """Row numbers ``(n_training,)`` in the order of an epoch."""
        rows = self.split()[1]
        return self._shuffled(rows, HostStream.EPOCH, number) if self.shuffle else rows

    def draw(self, number: int, count: int) -> HostArray:
        """Draw random row numbers to learn from; each `number` gives another draw."""
        rows = self.split()[1]
        return host_generator(self.key, HostStream.DRAW, number).choice(rows, min(count, rows.size), replace=False)

    def batches(self, batch_size: int, n_epochs: int, first_step: int = 0) -> Iterator[tuple[int, HostArray]]:
        """Epoch and row numbers of each mini-batch from a step on; the last one of an epoch may be short."""
        per_epoch = -(-self.n_training // batch_size)
        for epoch in range(first_step // per_epoch, n_epochs):
            rows = self.epoch(epoch)
            first = first_step % per_epoch if epoch == first_step // per_epoch else 0
            for i in range(first, per_epoch):
                # Within a batch the order does not matter; ascending rows are read in fewer pieces.
                yield epoch, np.sort(rows[i * batch_size : (i + 1) * batch_size])

    def _shuffled(self, rows: HostArray, stream: HostStream, *numbers: int) -> HostArray:
        generator = host_generator(self.key, stream, *numbers)
        if self.stretch == 1:
            return generator.permutation(rows)
        pieces = np.split(rows, np.flatnonzero(np.diff(rows // self.stretch)) + 1)
        order = generator.permutation(len(pieces))
        shuffled = np.concatenate([pieces[i] for i in order])
        if self.window == 0:
            return shuffled
        starts = np.repeat(np.arange(len(pieces)), [len(pieces[i]) for i in order])
        return shuffled[np.argsort(starts + self.window * generator.random(rows.size), kind="stable")]
