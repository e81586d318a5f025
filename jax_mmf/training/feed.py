"""The feed of a run, which reads the samples of each step, on all or some of their features."""

import zlib
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jax_mmf.core import as_computing_dtype, check_process, computing_dtype, copied, filled_up
from jax_mmf.io import BatchSource, DeviceSource, FeaturePermutation, HDF5Source, MatrixSource, as_source
from jax_mmf.learning import OnlineFactorization, State, Subset, Weights, draw_subset, imputed
from jax_mmf.training.buffers import Buffers
from jax_mmf.training.held_out import count_held_out, is_count_or_share, samples_held_out
from jax_mmf.training.mixing import mixing_window
from jax_mmf.training.order import SampleOrder
from jax_mmf.training.placement import Placement, on_one_device
from jax_mmf.training.prefetch import in_one_thread
from jax_mmf.training.sample_reader import SampleReader, write_samples
from jax_mmf.training.weighting import Weighting
from jax_mmf.typing import Array, HostArray, Key


class Item(NamedTuple):
    """A mini-batch on its way from the reader to the step.

    Attributes:
      epoch: number of the epoch, from 0.
      n_samples: number of rows that are samples. Rows of zeros pad a batch that is smaller than an earlier one.
      rows: ``(b,)`` sample numbers on the device, past the last sample for padding; None if they are not needed.
      x: ``(b, p)``, or ``(b, s)`` if only a subset was read. On CPU it is `buffer`.
      subset: the features of x, or None if it has all.
      bytes_read: bytes read by the feed, up to and including this mini-batch.
      buffer: host memory of x, to be returned to the feed once x is not needed; None if x was gathered on its device.
      weights: of the samples and of the entries of x, zeros in padded rows.
    """

    epoch: int
    n_samples: int
    rows: Array | None
    x: Array
    subset: Subset | None
    bytes_read: int
    buffer: HostArray | None
    weights: Weights = Weights()


class Feed:
    """Reader of a source of samples that provides the mini-batches of a solver.

    Inside a run, features are in the order in which they are read: that of the file, or a random one if the solver's
    subset consists of blocks and the columns of the file are not permuted. Outside, they are in the original order.

    Args:
      source: any source that `as_source` accepts.
      solver: its subsets determine which features are read.
      key: PRNG key of the run.
      n_epochs: passes over the source.
      batch_size: samples per mini-batch.
      held_out: share or number of the samples to hold out, separate samples ``(m, p)``, or None.
      shuffle: whether the order of the samples is random.
      dtype: of the mini-batches, float32 or float64; or None for that of the source if it is one of them.
      mesh: devices to spread the mini-batches over, or None.
      sample_weight: ``(n,)`` or None.
      mask: ``(p,)``, a matrix or source ``(n, p)``, or None.

    Attributes:
      key: of the run.
      n_samples: number of samples of the source, or None if it is an iterable of batches.
      n_features: p.
      n_steps: number of steps of the whole run, or None.
      dtype: of the mini-batches.
      feature_names: names of the columns of the source, a tuple of p strings; None if they have no names.
      placement: of mini-batches and states on the mesh.
      paths: of the files that are read.
      order: what determines the order of the samples and the held-out samples: numbers and text by name.
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
        mesh: Mesh | None = None,
        sample_weight: Any = None,
        mask: Any = None,
    ) -> None:
        check_process()
        self._solver, self.key, self._n_epochs, self._batch_size = solver, key, n_epochs, batch_size
        source = as_source(source)
        self._order: SampleOrder | None = None
        self._bytes_apart = source.bytes_read  # bytes read before the run, or for evaluation
        self._stored: HostArray | None = None
        if isinstance(source, BatchSource | DeviceSource) and mesh is not None and jax.process_count() > 1:
            raise ValueError(
                "source must be a matrix or a file that all processes can read, since the run has several processes; "
                f"got {'an iterable of batches' if isinstance(source, BatchSource) else 'a JAX array'}"
            )
        if isinstance(source, BatchSource):
            if source.once and n_epochs > 1:
                raise ValueError(
                    f"source is an iterator, which allows one pass; got n_epochs={n_epochs}. Pass an iterable that can "
                    "be iterated over again, or n_epochs=1"
                )
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
            n_held_out = count_held_out(held_out, source.n_samples)
            window, self._n_chunks = (
                mixing_window(source, batch_size, n_held_out) if solver.needs_whole_samples else (0, 0)
            )
            stretch = source.rows_per_read if window else min(source.rows_per_read, batch_size)
            self._order = SampleOrder(key, source.n_samples, stretch, n_held_out, shuffle, window)
            self.n_steps = n_epochs * -(-self._order.n_training // batch_size)
        self.dtype = computing_dtype(source_dtype) if dtype is None else as_computing_dtype(dtype)
        self.feature_names: tuple[str, ...] | None = getattr(source, "feature_names", None)
        self.placement = Placement(mesh, self.n_features)
        self.paths: tuple[Path, ...] = source.paths if isinstance(source, MatrixSource) else ()
        # Blocks are random subsets only if the features are in random order.
        blocks = solver.subset.n_blocks is not None and solver.subset.reduction > 1
        self._mix = FeaturePermutation.random(key, self.n_features) if blocks and self._stored is None else None
        self._permutation = self._mix if self._stored is None else FeaturePermutation(self._stored)
        inside = None if self._permutation is None else self._permutation.order
        self._weighting = Weighting(
            sample_weight, mask, self.n_samples, self.n_features, inside, self.dtype, self.feature_names
        )
        self._buffers = Buffers(self.dtype)
        self._given: Array | None = None
        checksum: int | None = None
        if not is_count_or_share(held_out):
            given = samples_held_out(held_out, self.n_features, self.dtype, self.feature_names)
            self._given, checksum = self.to_inside(given), _checksum(given)
        self.order = self._described(batch_size, checksum)
        if isinstance(source, HDF5Source) and self._order is not None and not self._n_chunks:
            rows = next(self._order.batches(batch_size, 1))[1]
            source.warn_of_excess(rows, self._columns(self._subset(0)), in_order=not shuffle)

    # Conversions between the order of the features inside and the original one

    def to_inside(self, x: HostArray) -> Array:
        """Convert samples ``(n, p)`` from the original order of the features."""
        return jnp.asarray(x if self._permutation is None else self._permutation.apply(x), self.dtype)

    def adopt(self, state: State) -> State:
        """Copy a state to the placement of the run, and convert it from the original order of the features."""
        if self._permutation is not None:
            state = self._permutation.apply_to_state(state)
        # Neither the permutation nor the placement is sure to copy every array.
        return copied(self.placement.put_state(state))

    def restore(self, state: State) -> State:
        """Convert a state to the original order of the features, on one device."""
        state = self.placement.collected(state)
        with self.placement.left():
            state = self.placement.without_padding(state)
            return state if self._permutation is None else self._permutation.inverse.apply_to_state(state)

    # Whole samples outside of the mini-batches

    def first_samples(self, n_needed: int, factor: int) -> Array:
        """Read samples to initialize a dictionary: ``factor * n_needed``, or all if there are fewer.

        Missing entries are replaced by the mean of the feature's other entries among these samples.

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
            out, order = np.empty(x.shape, self.dtype), None if self._mix is None else self._mix.order
            write_samples(out, x, order, range(len(x)), order)
            return jnp.asarray(out)
        return imputed(*self._read_whole(self._order.first(factor * n_needed)))

    def some_samples(self, number: int, count: int) -> Array:
        """Read random training samples, with missing entries as in `first_samples`; each number gives other samples.

        Raises:
          ValueError: if the source does not allow random access.
        """
        if self._order is None:
            raise ValueError("reviving atoms needs a source with random access, not an iterable of batches")
        return imputed(*self._read_whole(self._order.draw(number, count)))

    def held_out_samples(self) -> tuple[Array | None, Array | None]:
        """Return the held-out samples, from the source or as given, or None; and their mask, or None."""
        if self._given is not None:
            return self._given, None
        if self._order is None or self._order.n_held_out == 0:
            return None, None
        before = self._source.bytes_read
        x, mask = self._read_whole(self._order.held_out)
        self._bytes_apart += self._source.bytes_read - before
        return x, mask

    # Mini-batches

    @property
    def in_one_thread(self) -> bool:
        """Whether mini-batches must be read in the thread that launches the steps."""
        return self._order is not None and in_one_thread(self._source, self._weighting.matrix)

    def give_back(self, item: Item) -> None:
        """Free the memory of a mini-batch, once the step and all else that reads it is done."""
        if item.buffer is not None:
            self._buffers.give_back(item.buffer)

    def items(self, first_step: int, *, with_rows: bool) -> Iterator[Item]:
        """Iterate over the mini-batches from a step on, in order, possibly in another thread."""
        if self._order is None:
            yield from self._items_of_batches(first_step)
        else:
            yield from self._items_of_source(self._order, first_step, with_rows=with_rows)

    def _items_of_source(self, order: SampleOrder, first_step: int, *, with_rows: bool) -> Iterator[Item]:
        all_batches = order.batches(self._batch_size, self._n_epochs, first_step)
        size = self.placement.height(min(self._batch_size, order.n_training))
        reader = self._sample_reader(self._n_chunks)
        for step, (epoch, rows) in enumerate(all_batches, first_step):
            subset = self._subset(step)
            features = None if subset is None or subset.is_full else np.asarray(subset.indices)
            filled, buffer = filled_up(rows, size, order.n_samples), None
            width = self.placement.width if features is None else features.size
            mask = self._weighting.padded_entries(rows, features, (size, width))
            if isinstance(self._source, DeviceSource):
                x = self._source.take(filled, self._stored_columns(features), self.dtype)
                x = self.placement.put_on_device(x)
            else:
                x, buffer = self._read(reader, rows, features, (size, width), mask)
            numbers = self.placement.put_whole(jnp.asarray(filled)) if with_rows else None
            read = self._source.bytes_read - self._bytes_apart
            weights = self._put_weights(self._weighting.of_samples(rows, size), mask)
            yield Item(epoch, rows.size, numbers, x, subset, read, buffer, weights)

    def _put_weights(self, samples: HostArray | None, mask: HostArray | None) -> Weights:
        """Put the weights of a mini-batch, which every process has read, where its samples are."""
        placed = None if samples is None else self.placement.put_whole(jnp.asarray(samples))
        if mask is None:
            return Weights(placed)
        own = np.ascontiguousarray(mask[self.placement.own(*mask.shape)])
        return Weights(placed, self.placement.put_samples(own, *mask.shape))

    def _read(
        self,
        reader: SampleReader,
        rows: HostArray,
        features: HostArray | None,
        shape: tuple[int, int],
        mask: HostArray | None,
    ) -> tuple[Array, HostArray]:
        """Read this process's part of a mini-batch; return the whole mini-batch, and the memory of the part."""
        own_rows, own_columns = self.placement.own(*shape)
        buffer = self._buffers.take((own_rows.stop - own_rows.start, own_columns.stop - own_columns.start))
        some, found = rows[own_rows], None if features is None else features[own_columns]
        entries = None if mask is None else mask[own_rows, own_columns][: some.size]
        if found is None and (own_columns.start, own_columns.stop) != (0, self.n_features):
            found = np.arange(own_columns.start, own_columns.stop)
        if found is None or found.max() < self.n_features:
            reader.read_into(buffer[: some.size], some, found, entries)
        else:  # some features are padding, past the last one
            there = found < self.n_features
            buffer[: some.size, ~there] = 0
            piece = np.empty((some.size, int(there.sum())), self.dtype)
            reader.read_into(piece, some, found[there], None if entries is None else entries[:, there])
            buffer[: some.size, there] = piece
        buffer[some.size :] = 0
        return self.placement.put_samples(buffer, *shape), buffer

    def _items_of_batches(self, first_step: int) -> Iterator[Item]:
        # An iterator continues where it is. Other iterables start again, so the batches before first_step are skipped.
        step, row, size = first_step if self._batches.once else 0, 0, 0
        for epoch in range(self._n_epochs):
            row_before = row
            with closing(self._begun if epoch == 0 else iter(self._batches)) as batches:
                for x in chain(self._peeked if epoch == 0 else (), batches):
                    if step >= first_step:
                        size = max(size, len(x))
                        filled, buffer = self._of_batch(x, row, size)
                        read = self._batches.bytes_read - self._bytes_apart
                        yield Item(epoch, len(x), None, filled, None, read, buffer)
                    step, row = step + 1, row + len(x)
            if row == row_before:
                raise ValueError(
                    f"source gives no batches in epoch {epoch + 1}; pass an iterable that can be iterated over "
                    f"{self._n_epochs} times, or n_epochs=1"
                )

    def _peek(self, n_samples: int) -> None:
        """Take batches of an iterable until they hold a number of samples, or the iterable ends."""
        while sum(map(len, self._peeked)) < n_samples:
            batch: HostArray | None = next(self._begun, None)
            if batch is None:
                break
            self._peeked.append(batch)
        if not self._peeked:
            raise ValueError("source gives no batches")

    def _of_batch(self, x: HostArray, first_row: int, size: int) -> tuple[Array, HostArray]:
        """Copy a batch of an iterable, which may overwrite it, to memory for a number of samples."""
        if x.shape[1] != self.n_features:
            raise ValueError(f"source must give {self.n_features} features in every batch, got one of shape {x.shape}")
        order = None if self._mix is None else self._mix.order
        height, width = self.placement.height(size), self.placement.width
        buffer = self._buffers.take((height, width))
        rows = range(first_row, first_row + len(x))
        write_samples(buffer[: len(x), : self.n_features], x, order, rows, order)
        buffer[len(x) :] = buffer[:, self.n_features :] = 0
        return self.placement.put_samples(buffer, height, width), buffer

    def _read_whole(self, rows: HostArray) -> tuple[Array, Array | None]:
        """Read whole samples in ascending order, and their mask."""
        rows = np.sort(rows)
        mask = self._weighting.entries(rows)
        on_device = None if mask is None else jax.device_put(mask)
        if isinstance(self._source, DeviceSource):
            return on_one_device(self._source.take(rows, self._stored_columns(None), self.dtype)), on_device
        # In ascending order, each chunk is decoded once if the last one is kept.
        return jax.device_put(self._sample_reader(min(1, self._n_chunks)).read(rows, mask)), on_device

    def _described(self, batch_size: int, held_out_samples: int | None) -> dict[str, Any]:
        """Describe what determines the order of the samples; of an iterable of batches, only their width."""
        described: dict[str, Any] = {"n_features": int(self.n_features), "held_out_samples": held_out_samples}
        if self._order is None:
            return described
        order, before = self._order, self._source.bytes_read
        n_samples = int(order.n_samples)
        some = np.unique([0, n_samples // 2, n_samples - 1])
        few = self._source.read(some)
        self._bytes_apart += self._source.bytes_read - before
        described |= {
            "sample_weight": _checksum(self._weighting.all_weights()),
            "mask": _checksum(self._weighting.entries(some)),
            "n_samples": n_samples,
            "source": _checksum(few),
            "source_dtype": str(np.dtype(self._source.dtype)),
            "batch_size": int(batch_size),
            "held_out": int(order.n_held_out),
            "shuffle": bool(order.shuffle),
        }
        # Without shuffling, the order does not depend on how rows are read.
        return described | ({"stretch": int(order.stretch), "window": int(order.window)} if order.shuffle else {})

    def _sample_reader(self, n_chunks: int) -> SampleReader:
        """Make a reader; each thread needs its own."""
        order = None if self._mix is None else self._mix.order
        return SampleReader(self._source, self.dtype, order=order, n_chunks=n_chunks)

    def _subset(self, step: int) -> Subset | None:
        """Return the features of a step, or None if it reads all. They depend only on key and number of the step."""
        if self._solver.needs_whole_samples:
            return None
        subset = draw_subset(self._solver, self.key, jnp.asarray(step % 2**31, jnp.int32), self.placement.width)
        return self.placement.put_whole(subset)

    def _columns(self, subset: Subset | None) -> HostArray | None:
        """Return the columns to read for a subset, or None for all."""
        if subset is None or subset.is_full:
            return None
        features = np.asarray(subset.indices)
        return self._stored_columns(features[features < self.n_features])

    def _stored_columns(self, features: HostArray | None) -> HostArray | None:
        """Return the columns of the source for some features, or for all; None if the orders are the same.

        Padding, which comes after the last feature, gets numbers past the last column.
        """
        if self._mix is None:
            return features
        if features is None:
            return self._mix.order
        return np.append(self._mix.order, self.n_features)[np.minimum(features, self.n_features)]


def _checksum(samples: Any) -> int | None:
    return None if samples is None else zlib.crc32(np.ascontiguousarray(samples).tobytes())
