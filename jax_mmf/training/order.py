"""The order in which the samples of a source are read."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jax_mmf.core import HostStream, host_generator
from jax_mmf.training.keyed_permutation import KeyedPermutation, mixed
from jax_mmf.typing import HostArray, Key

_ROWS_AT_ONCE = 2**15  # rows whose order is computed together


@dataclass(frozen=True)
class SampleOrder:
    """Which samples are held out, and in which order the others are read. The key determines both.

    Shuffling moves stretches of consecutive rows, which disks read faster. With a stretch of one row, it moves single
    rows.

    With a window, the rows of stretches are mixed. An epoch consists of turns, one for each stretch. The rows of a
    stretch are in random order, and spread evenly over its own turn and the next ``window - 1`` turns. The rows of a
    turn are in random order, too. So compressed chunks are decoded once per epoch, and few decoded chunks are kept.

    Any part of the order is computed when it is needed, from permutations that are not stored as arrays. Memory is
    eight bytes per held-out sample, and otherwise does not grow with the number of samples.

    Attributes:
      key: PRNG key of the run.
      n_samples: of the source.
      stretch: number of consecutive rows that are moved together.
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

    @cached_property
    def held_out(self) -> HostArray:
        """Row numbers that are held out, ascending."""
        if not self.shuffle:
            return np.arange(self.n_training, self.n_samples)
        if self.n_held_out == 0:
            return np.arange(0)
        return np.sort(self._permutation(self.n_samples, HostStream.HELD_OUT)(np.arange(self.n_held_out)))

    @cached_property
    def _n_before(self) -> HostArray:
        """Number of training rows before each held-out row."""
        return self.held_out - np.arange(self.n_held_out)

    def epoch(self, number: int) -> HostArray:
        """Row numbers ``(n_training,)`` in the order of an epoch, all at once."""
        return np.concatenate(list(self.rows(number)))

    def first(self, count: int) -> HostArray:
        """Row numbers of the first ``count`` samples of the first epoch, or of all if there are fewer."""
        return next(_regrouped(self.rows(0), count))

    def draw(self, number: int, count: int) -> HostArray:
        """Draw distinct random row numbers of training samples; each ``number`` gives another draw."""
        places = np.arange(min(count, self.n_training))
        return self._training(self._permutation(self.n_training, HostStream.DRAW, number)(places))

    def batches(self, batch_size: int, n_epochs: int, first_step: int = 0) -> Iterator[tuple[int, HostArray]]:
        """Epoch and row numbers of each mini-batch, beginning with a step; the last one of an epoch may be smaller."""
        per_epoch = -(-self.n_training // batch_size)
        for epoch in range(first_step // per_epoch, n_epochs):
            first = first_step % per_epoch if epoch == first_step // per_epoch else 0
            for rows in _regrouped(self.rows(epoch, first * batch_size), batch_size):
                # The order within a batch does not matter; ascending rows are read in fewer pieces.
                yield epoch, np.sort(rows)

    def rows(self, epoch: int, first: int = 0) -> Iterator[HostArray]:
        """Row numbers in the order of an epoch, in pieces, beginning with the row at place ``first``."""
        if not self.shuffle or self.stretch == 1:
            yield from self._single_rows(epoch, first)
            return
        visits, window = _Visits(self, epoch), max(self.window, 1)
        start, n_before = visits.start(first, window)
        for rows in visits.spread(start, window, mix=self.window > 0):
            yield rows[max(0, first - n_before) :]
            n_before += rows.size

    def _single_rows(self, epoch: int, first: int) -> Iterator[HostArray]:
        place = self._permutation(self.n_training, HostStream.EPOCH, epoch) if self.shuffle else np.asarray
        for some in _ranges(first, self.n_training, _ROWS_AT_ONCE):
            yield self._training(place(some))

    def _training(self, numbers: HostArray) -> HostArray:
        """Return the rows of training samples, given their numbers among the training samples."""
        return numbers + np.searchsorted(self._n_before, numbers, side="right")

    def _permutation(self, n: int, stream: HostStream, *numbers: int) -> KeyedPermutation:
        return KeyedPermutation(n, host_generator(self.key, stream, *numbers))


class _Visits:
    """The visits of an epoch: the stretches of a source in random order, without held-out rows.

    Args:
      order: of the samples.
      epoch: its number.
    """

    def __init__(self, order: SampleOrder, epoch: int) -> None:
        self._order, self._n = order, -(-order.n_samples // order.stretch)
        generator = host_generator(order.key, HostStream.EPOCH, epoch)
        self._stretches = KeyedPermutation(self._n, generator)
        self._seeds = generator.integers(2**64, size=2, dtype=np.uint64)

    def start(self, first: int, window: int) -> tuple[int, int]:
        """Find the visit to start with, to produce the rows of the order beginning with place ``first``.

        Returns:
          the number of the visit, and the number of rows of the visits before it, at most ``first``. If `spread` starts
          with this visit, all rows at place ``first`` and later are the right ones.
        """
        visit, n_before = 0, [0]
        while visit < self._n and first > 0:
            sizes = self._sizes(np.arange(visit, min(visit + _ROWS_AT_ONCE, self._n)))
            ends = n_before[-1] + np.cumsum(sizes)
            full = int(np.searchsorted(ends, first, side="right"))  # visits whose rows are all before `first`
            n_before += ends[:full].tolist()
            n_before = n_before[-window:]
            visit += full
            if full < sizes.size:
                break
        # Turns before `visit` hold at most `first` rows. Rows in it or later come from up to window - 1 visits before.
        back = min(visit, window - 1)
        return visit - back, n_before[-1 - back]

    def _sizes(self, visits: HostArray) -> HostArray:
        """Count the training rows of visits."""
        order, firsts = self._order, self._stretches(visits) * self._order.stretch
        lasts = np.minimum(firsts + order.stretch, order.n_samples)
        return lasts - firsts - np.diff(np.searchsorted(order.held_out, [firsts, lasts]), axis=0)[0]

    def spread(self, start: int, window: int, *, mix: bool) -> Iterator[HostArray]:
        """Iterate over the rows of all visits, beginning with one of them, turn by turn, in pieces.

        Args:
          start: number of the first visit.
          window: number of turns over which the rows of a visit are spread.
          mix: whether the rows of a visit and the rows of a turn are in random order.
        """
        waiting = turns = np.arange(0)
        at_once = max(window, _ROWS_AT_ONCE // self._order.stretch, 1)
        for visits in _ranges(start, self._n, at_once):
            rows, places = self._rows(visits, mix=mix)
            _, begins, sizes = np.unique(places, return_index=True, return_counts=True)
            rank = np.arange(rows.size) - np.repeat(begins, sizes)
            waiting = np.r_[waiting, rows]
            turns = np.r_[turns, places + rank * window // np.repeat(sizes, sizes)]
            order = np.lexsort((self._noise(waiting, 1), turns)) if mix else np.argsort(turns, kind="stable")
            n_ready = int(np.searchsorted(turns[order], visits[-1], side="right"))
            yield waiting[order[:n_ready]]
            waiting, turns = waiting[order[n_ready:]], turns[order[n_ready:]]
        yield waiting

    def _rows(self, visits: HostArray, *, mix: bool) -> tuple[HostArray, HostArray]:
        """Return the training rows of visits, and the visit of each."""
        order = self._order
        rows = (self._stretches(visits)[:, None] * order.stretch + np.arange(order.stretch)).ravel()
        places = np.repeat(visits, order.stretch)
        held = order.held_out
        there = rows < order.n_samples
        if held.size:
            there &= held[np.minimum(np.searchsorted(held, rows), held.size - 1)] != rows
        rows, places = rows[there], places[there]
        shuffled = np.lexsort((self._noise(rows, 0), places)) if mix else slice(None)
        return rows[shuffled], places

    def _noise(self, rows: HostArray, number: int) -> HostArray:
        return mixed(rows.astype(np.uint64) ^ self._seeds[number])


def _ranges(first: int, last: int, length: int) -> Iterator[HostArray]:
    for start in range(first, last, length):
        yield np.arange(start, min(start + length, last))


def _regrouped(pieces: Iterator[HostArray], size: int) -> Iterator[HostArray]:
    """Regroup pieces of any length into pieces of one length; the last one may be shorter."""
    kept = np.arange(0)
    for piece in pieces:
        rows = np.r_[kept, piece] if kept.size else piece
        n_full = rows.size - rows.size % size
        yield from np.split(rows[:n_full], range(size, n_full, size)) if n_full else ()
        kept = rows[n_full:]
    if kept.size:
        yield kept
