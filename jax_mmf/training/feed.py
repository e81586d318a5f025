"""The feed of a run: which samples, and which of their features, reach which step."""

from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.core import as_computing_dtype, check_process, computing_dtype, filled_up
from jax_mmf.io import BatchSource, FeaturePermutation, HDF5Source, as_source
from jax_mmf.learning import OnlineFactorization, State, Subset, draw_subset
from jax_mmf.training.held_out import count_held_out, is_count_or_share, samples_held_out
from jax_mmf.training.order import SampleOrder
from jax_mmf.typing import Array, HostArray, Key


class Item(NamedTuple):
    """A mini-batch on its way from the reader to the step.

    Attributes:
      epoch: from 0.
      n_samples: number of rows that are samples. Rows of zeros fill up a batch that is smaller than one before.
      rows: ``(b,)`` sample numbers on the device, past the last one where a row is no sample; or None where nobody asks
        for them.
      x: ``(b, p)``, or ``(b, s)`` if only a subset was read.
      subset: the features of x, or None if it has all.
      bytes_read: by the feed, up to and including this mini-batch.
    """

    epoch: int
    n_samples: int
    rows: Array | None
    x: Array
    subset: Subset | None
    bytes_read: int


class Feed:
    """A source of samples, read in the way that a solver needs.

    Inside of a run, features are in the order in which they are read: that of the file, or a random one where the
    solver's subset is made of blocks and the file's columns were not permuted. Outside, they are in the original order.

    Args:
      source: anything that `as_source` takes.
      solver: whose subsets decide which features are read.
      key: of the run.
      n_epochs: passes over the source.
      batch_size: samples per mini-batch.
      held_out: share or number of the samples that are kept back, samples ``(m, p)`` of their own, or None.
      shuffle: whether the order of the samples is random.
      dtype: of what comes out, float32 or float64; or None for that of the source if it is one of them.

    Attributes:
      n_samples: of the source, or None if it is an iterable of batches.
      n_features: p.
      n_steps: of the whole run, or None.
      dtype: of what comes out.
      feature_names: of the columns of the source, a tuple of p strings; None if they have no names.
    """

    def __init__(
        self,
        source: Any,
        solver: OnlineFactorization,
        key: Key,
        *,
        n_epochs: int,
        batch_size: int,
        held_out: Any,
        shuffle: bool,
        dtype: Any,
    ) -> None:
        check_process()
        self._solver, self._key, self._n_epochs, self._batch_size = solver, key, n_epochs, batch_size
        source = as_source(source)
        settings: Any = jax.config
        self._x64, self._device = settings.jax_enable_x64, settings.jax_default_device
        self._order: SampleOrder | None = None
        self._bytes_apart = source.bytes_read  # by others before, and to evaluate on
        self._stored: HostArray | None = None
        if isinstance(source, BatchSource):
            if source.once and n_epochs > 1:
                raise ValueError(f"source is an iterator, which can be passed over once; got n_epochs={n_epochs}")
            if held_out is not None and is_count_or_share(held_out):
                raise ValueError(f"held_out must be an array if source is an iterable of batches, got {held_out!r}")
            self._batches = source
            self._begun = iter(source)
            self._peeked = list[HostArray]()
            self._peek(1)
            self.n_samples = self.n_steps = None
            self.n_features, source_dtype = self._peeked[0].shape[1], self._peeked[0].dtype
        else:
            self._source = source
            self.n_samples = source.n_samples
            self.n_features, source_dtype, self._stored = source.n_features, source.dtype, source.permutation
            stretch = min(source.rows_per_read, batch_size)
            n_held_out = count_held_out(held_out, source.n_samples)
            self._order = SampleOrder(key, source.n_samples, stretch, n_held_out, shuffle)
            self.n_steps = n_epochs * -(-self._order.n_training // batch_size)
        self.dtype = computing_dtype(source_dtype) if dtype is None else as_computing_dtype(dtype)
        self.feature_names: tuple[str, ...] | None = getattr(source, "feature_names", None)
        # Blocks are random subsets only of features in random order.
        blocks = solver.subset.n_blocks is not None and solver.subset.reduction > 1
        self._mix = FeaturePermutation.random(key, self.n_features) if blocks and self._stored is None else None
        self._permutation = self._mix if self._stored is None else FeaturePermutation(self._stored)
        self._given: Array | None = None
        if not is_count_or_share(held_out):
            given = samples_held_out(held_out, self.n_features, self.dtype, self.feature_names)
            self._given = self.to_inside(given)
        if isinstance(source, HDF5Source) and source.chunks is not None and self._order is not None:
            rows = next(self._order.batches(batch_size, 1))[1]
            source.warn_of_excess(rows, self._columns(self._subset(0)), in_order=not shuffle)

    # Between the order of the features inside and the original one

    def to_inside(self, x: HostArray) -> Array:
        """Samples ``(n, p)`` from the original order of the features."""
        return jnp.asarray(x if self._permutation is None else self._permutation.apply(x), self.dtype)

    def adopt(self, state: State) -> State:
        """A copy of a state, from the original order of the features."""
        if self._permutation is None:
            return jax.tree.map(jnp.copy, state)
        permuted = self._permutation.apply_to_state(state)
        # What has no features was not copied by that.
        return jax.tree.map(jnp.copy, permuted)

    def restore(self, state: State) -> State:
        """A state in the original order of the features."""
        return state if self._permutation is None else self._permutation.inverse.apply_to_state(state)

    # Samples apart from the mini-batches, whole

    def first_samples(self, n_needed: int, factor: int) -> Array:
        """Samples to make a dictionary from: ``factor * n_needed`` of them if there are so many.

        Raises:
          ValueError: if there are fewer than ``n_needed``.
        """
        if self._order is None:
            self._peek(n_needed)
            x = np.concatenate(self._peeked)
            found = len(x)
        else:
            found = self._order.n_training
        if found < n_needed:
            raise ValueError(
                f"source must hold at least as many samples to learn from as n_components={n_needed}, got {found}"
            )
        if self._order is None:
            return jnp.asarray(self._check(self._shuffled(x), None))
        return self._read_whole(self._order.epoch(0)[: factor * n_needed])

    def some_samples(self, number: int, count: int) -> Array:
        """Random samples to learn from, others for another number.

        Raises:
          ValueError: if the source can't be read anywhere.
        """
        if self._order is None:
            raise ValueError("reviving atoms needs a source that can be read anywhere, not an iterable of batches")
        return self._read_whole(self._order.draw(number, count))

    def held_out_samples(self) -> Array | None:
        """The samples kept back, or those given; or None."""
        if self._given is not None:
            return self._given
        if self._order is None or self._order.n_held_out == 0:
            return None
        before = self._source.bytes_read
        x = self._read_whole(self._order.split()[0])
        self._bytes_apart += self._source.bytes_read - before
        return x

    # Mini-batches

    def items(self, first_step: int, *, with_rows: bool) -> Iterator[Item]:
        """The mini-batches from a step on, in order. May be iterated over in another thread."""
        # These settings belong to a thread; those of the caller's hold in the reader's too.
        with jax.enable_x64(self._x64), jax.default_device(self._device):
            if self._order is None:
                yield from self._items_of_batches(first_step)
            else:
                yield from self._items_of_source(self._order, first_step, with_rows=with_rows)

    def _items_of_source(self, order: SampleOrder, first_step: int, *, with_rows: bool) -> Iterator[Item]:
        all_batches = order.batches(self._batch_size, self._n_epochs, first_step)
        size = min(self._batch_size, order.n_training)
        for step, (epoch, rows) in enumerate(all_batches, first_step):
            subset = self._subset(step)
            columns = self._columns(subset)
            x = self._read(rows, columns)
            x = self._check(self._shuffled(x) if columns is None else x, rows, columns=columns)
            read = self._source.bytes_read - self._bytes_apart
            numbers = jnp.asarray(filled_up(rows, size, order.n_samples)) if with_rows else None
            yield Item(epoch, len(x), numbers, jnp.asarray(filled_up(x, size)), subset, read)

    def _items_of_batches(self, first_step: int) -> Iterator[Item]:
        # An iterator goes on where it is; what can be iterated over again starts again, and was learned from already.
        step, row, size = first_step if self._batches.once else 0, 0, 0
        for epoch in range(self._n_epochs):
            row_before = row
            with closing(self._begun if epoch == 0 else iter(self._batches)) as batches:
                for x in chain(self._peeked if epoch == 0 else (), batches):
                    if step >= first_step:
                        size = max(size, len(x))
                        filled = jnp.asarray(filled_up(self._check(self._shuffled(x), None, first_row=row), size))
                        yield Item(epoch, len(x), None, filled, None, self._batches.bytes_read - self._bytes_apart)
                    step, row = step + 1, row + len(x)
            if row == row_before:
                raise ValueError(
                    f"source gives no batches in epoch {epoch + 1}; give something that can be iterated over "
                    f"{self._n_epochs} times, or n_epochs=1"
                )

    def _peek(self, n_samples: int) -> None:
        """Take batches of an iterable until there are so many samples, or no more."""
        while sum(map(len, self._peeked)) < n_samples:
            batch: HostArray | None = next(self._begun, None)
            if batch is None:
                break
            self._peeked.append(batch)
        if not self._peeked:
            raise ValueError("source gives no batches")

    def _shuffled(self, x: HostArray) -> HostArray:
        return x if self._mix is None or x.shape[-1] != self.n_features else self._mix.apply(x)

    def _read_whole(self, rows: HostArray) -> Array:
        rows = np.sort(rows)
        return jnp.asarray(self._check(self._shuffled(self._read(rows, None)), rows))

    def _read(self, rows: HostArray, columns: HostArray | None) -> HostArray:
        x = np.asarray(self._source.read(rows, columns))
        wanted = (rows.size, self.n_features if columns is None else columns.size)
        if x.shape != wanted:
            raise ValueError(
                f"source.read must give an array of shape {wanted} for so many rows and columns, got {x.shape}"
            )
        return x

    def _subset(self, step: int) -> Subset | None:
        """The features of a step, or None if it reads all. They depend on the key and the number of the step alone."""
        if self._solver.needs_whole_samples:
            return None
        return draw_subset(self._solver, self._key, jnp.asarray(step % 2**31, jnp.int32), self.n_features)

    def _columns(self, subset: Subset | None) -> HostArray | None:
        """The columns to read for a subset, or None for all."""
        if subset is None or subset.is_full:
            return None
        indices = np.asarray(subset.indices)
        return indices if self._mix is None else self._mix.order[indices]

    def _check(
        self, x: HostArray, rows: HostArray | None, *, first_row: int = 0, columns: HostArray | None = None
    ) -> HostArray:
        """A batch in the dtype of the run, once it is sure that it can be learned from."""
        width = self.n_features if columns is None else columns.size
        if x.shape[-1] != width:
            raise ValueError(f"source must give {width} features in every batch, got one of shape {x.shape}")
        features = None if self._permutation is None else self._permutation.order
        if columns is not None:
            features = columns if self._stored is None else self._stored[columns]
        return finite_samples(x, self.dtype, rows, first_row, features)


def finite_samples(
    x: HostArray,
    dtype: Any,
    rows: HostArray | None = None,
    first_row: int = 0,
    features: HostArray | None = None,
) -> HostArray:
    """A batch in a dtype, once it is sure that all of it is finite there.

    Args:
      x: ``(b, s)``.
      dtype: floating.
      rows: sample numbers of the rows, or None for ``first_row`` and those after it.
      first_row: see rows.
      features: of the columns, or None for all in order.

    Returns:
      ``(b, s)``.

    Raises:
      ValueError: for NaN, infinity, and numbers that the dtype can't hold, naming the first place.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.asarray(x, dtype)
        # Sums are finite where everything is, but for numbers so large that the exact check decides.
        if np.isfinite(cast.sum()):
            return cast
    bad = np.argwhere(~np.isfinite(cast))
    if bad.size:
        i, j = bad[0]
        row = first_row + i if rows is None else rows[i]
        feature = j if features is None else features[j]
        value = f"{x[i, j]}" if not np.isfinite(np.float64(x[i, j])) else f"{x[i, j]}, too large for {np.dtype(dtype)},"
        raise ValueError(
            f"source holds {value} at sample {row}, feature {feature}; clean, impute or scale the data first"
        )
    return cast
