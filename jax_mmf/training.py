"""`fit`: a solver over a source of samples, with held-out evaluation, callbacks, early stopping and resumption."""

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.io.feed import Feed, Item
from jax_mmf.io.prefetch import prefetch
from jax_mmf.metrics import objective
from jax_mmf.online import OnlineFactorization
from jax_mmf.state import Info, State
from jax_mmf.statistics import Memory
from jax_mmf.step import Filled, step_partial, step_whole
from jax_mmf.typing import Array, HostArray, Key
from jax_mmf.validation import check_count, check_shape

_EVALUATIONS = 40  # in a run whose length is known
_STEPS_PER_EVALUATION = 50  # in one whose length is not
_ROWS_PER_EVALUATION = 512
_INITIAL_ROWS = 4  # times the number of components


class Record(NamedTuple):
    """One line of the history.

    Attributes:
      step: number of steps done.
      n_samples: number of samples seen.
      epoch: epochs begun.
      seconds: time spent reading and learning, compilation included, evaluation not.
      bytes_read: read from the source, evaluation not included.
      objective: on the held-out samples, all features; NaN if none are held out.
      n_dead: atoms that codes hardly use.
    """

    step: int
    n_samples: int
    epoch: int
    seconds: float
    bytes_read: int
    objective: float
    n_dead: int


class FitResult(NamedTuple):
    """What `fit` returns.

    Attributes:
      state: after the last step, in the original order of the features.
      history: a `Record` per evaluation.
      memory: of averaged statistics, or None.
    """

    state: State
    history: list[Record]
    memory: Memory | None


@dataclass(frozen=True)
class Event:
    """What a callback is told after a step. Its arrays are valid during the call: the next step reuses their memory.

    Attributes:
      solver: of the run.
      info: of the step.
      step: number of steps done.
      n_steps: number of steps of the whole run, or None if it is not known.
      record: of the evaluation after this step, or None.
      history: all records so far.
    """

    solver: OnlineFactorization
    info: Info
    step: int
    n_steps: int | None
    record: Record | None
    history: Sequence[Record]
    _state: State
    _restore: Callable[[State], State]

    @cached_property
    def state(self) -> State:
        """State after the step, in the original order of the features. Costs a copy where features are permuted."""
        return self._restore(self._state)


Callback = Callable[[Event], Any]
"""Called after each step; a true result ends the run after that step."""


class EarlyStopping:
    """Callback that ends a run when the held-out objective no longer falls.

    Args:
      patience: evaluations without progress before the run ends.
      min_change: relative fall that counts as progress.
    """

    def __init__(self, patience: int = 5, min_change: float = 1e-4) -> None:
        check_count("patience", patience)
        self.patience, self.min_change = patience, min_change
        self.best = np.inf
        self.stale = 0

    def __call__(self, event: Event) -> bool:
        """Whether to stop."""
        if event.record is None:
            return False
        if math.isnan(event.record.objective):
            raise ValueError("EarlyStopping needs held-out samples to look at; give fit held_out")
        if event.record.objective < self.best * (1 - self.min_change):
            self.best, self.stale = event.record.objective, 0
        else:
            self.stale += 1
        return self.stale >= self.patience


def fit(
    solver: OnlineFactorization,
    source: Any,
    *,
    key: Key | None = None,
    state: State | None = None,
    memory: Memory | None = None,
    n_epochs: int = 1,
    batch_size: int = 128,
    held_out: float | int | HostArray | Array | None = None,
    evaluate_every: int | None = None,
    callbacks: Sequence[Callback] = (),
    revive_every: int | None = None,
    shuffle: bool = True,
    dtype: Any = None,
    read_ahead: int = 2,
) -> FitResult:
    """Learn a dictionary from a source of samples, a mini-batch at a time, reading ahead of computing.

    Memory does not grow with the number of samples. With ``BlockSubset`` the features are permuted while they are read,
    and everything that comes out is in their original order again. With ``partial_b=True`` only the features of a
    step's subset are read where the source allows (see `jax_mmf.io.write_permuted`).

    Args:
      solver: the configuration.
      source: a matrix ``(n, p)`` (an array, memory map, frame, sparse matrix, list of rows, `h5py.Dataset`: see
        `jax_mmf.io.as_source`), a `jax_mmf.io.Source`, or an iterable of batches ``(b_i, p)``.
      key: PRNG key: initial dictionary, order of the samples, subsets. The same key gives the same bits.
      state: to go on from, instead of a key: the run continues where it was, in the same order of samples, as if it
        had never stopped. ``n_epochs`` counts from its beginning.
      memory: of averaged statistics, to go on with.
      n_epochs: passes over the source. An iterator can be passed over once.
      batch_size: samples per step; the last batch of an epoch may be short. Iterables of batches have their own sizes.
      held_out: samples to evaluate on and not to train on: a share of the source (float below 1), a number of its
        samples (int: 1 is one sample), or an array ``(m, p)``. They are kept in memory.
      evaluate_every: steps between evaluations; by default about 40 in the run, or each 50 steps.
      callbacks: called with an `Event` after each step; one that returns a true value ends the run.
      revive_every: steps between revivals of dead atoms, from samples of the source; None for never.
      shuffle: whether the source is read in random order (in runs of consecutive rows where that is faster).
      dtype: of all computation, float32 or float64; by default that of the source if it is one of them (float64 as far
        as JAX is set to it), float32 if it is a shorter floating dtype, and JAX's default if it is not floating. A run
        that goes on keeps that of its state.
      read_ahead: mini-batches that wait at most while others are computed on; 0 reads without a thread.

    Returns:
      a `FitResult`.

    Raises:
      ValueError: for data that do not fit, hold NaN or infinity, or are fewer than the atoms. An error that comes up
        while the run is under way carries the result of the last good step as its attribute ``result``.
      FloatingPointError: if numbers overflow; its ``result`` is that of the last evaluation before.
      TypeError: for sources that are none.
    """
    for name, count, low in (("n_epochs", n_epochs, 1), ("batch_size", batch_size, 1), ("read_ahead", read_ahead, 0)):
        check_count(name, count, low=low)
    for name, every in (("evaluate_every", evaluate_every), ("revive_every", revive_every)):
        if every is not None:
            check_count(name, every)
    if (key is None) == (state is None):
        raise ValueError("fit takes key, for a new run, or state, to go on with one; give one of the two")
    run_key: Key = key if state is None else state.key  # type: ignore[assignment]
    feed = Feed(
        source,
        solver,
        run_key,
        n_epochs=n_epochs,
        batch_size=batch_size,
        held_out=held_out,
        shuffle=shuffle,
        dtype=dtype if state is None else state.dictionary.dtype,
    )
    current = _initial_state(solver, state, feed, run_key)
    del state  # the steps write into copies
    first_step, n_samples = int(current.step), int(current.n_samples)
    memory = _initial_memory(solver, current, feed, memory, first_step)
    if revive_every is not None and feed.n_samples is None:
        raise ValueError("revive_every needs a source that can be read anywhere, not an iterable of batches")
    n_steps = feed.n_steps
    evaluate_every = evaluate_every or (_STEPS_PER_EVALUATION if n_steps is None else max(1, n_steps // _EVALUATIONS))
    evaluate = _Evaluation(solver, feed.held_out_samples())
    step, history = first_step, list[Record]()
    reader = prefetch(feed.items(first_step, with_rows=memory is not None), read_ahead)
    item, info, record, good = None, None, None, None
    try:
        for item in reader:
            current, memory, info = _advance(solver, current, memory, item)
            step, n_samples = step + 1, n_samples + item.n_samples
            if revive_every is not None and step % revive_every == 0:
                fresh = feed.some_samples(step, solver.n_components)
                current = solver.revive(jax.random.fold_in(run_key, step), current, fresh)
            due = step % evaluate_every == 0 or step == n_steps
            record = evaluate(current, step, n_samples, item, info) if due else None
            if record is not None:
                history.append(record)
                good = jax.tree.map(jnp.copy, current)
            event = Event(solver, info, step, n_steps, record, history, current, feed.restore)
            stops = [callback(event) for callback in callbacks]
            if any(stops):
                break
        if item is not None and info is not None and record is None:
            history.append(evaluate(current, step, n_samples, item, info))
    except Exception as error:
        # Overflow is noticed some steps after it happened; at the evaluation before, all was well.
        last = good if isinstance(error, FloatingPointError) else current
        if last is not None and int(last.step) > first_step:
            kept = memory if last is current else None  # that of averaged statistics went on with the steps
            error.result = FitResult(feed.restore(last), history, kept)  # type: ignore[attr-defined]
            error.add_note(f"The result of the first {last.step} steps is in the attribute `result` of this error.")
        raise
    finally:
        reader.close()
    return FitResult(feed.restore(current), history, memory)


# The state is donated: a step writes into the memory of the one before.
_step_whole = jax.jit(step_whole, donate_argnames="state")
_step_partial = jax.jit(step_partial, donate_argnames="state")


@jax.jit
def _take_rows(memory: Memory, rows: Array) -> Memory:
    return jax.tree.map(lambda a: a[rows], memory)


@functools.partial(jax.jit, donate_argnames="memory")
def _put_rows(memory: Memory, rows: Array, new: Memory) -> Memory:
    return jax.tree.map(lambda a, b: a.at[rows].set(b), memory, new)


@functools.partial(jax.jit, static_argnums=2)
def _fill(solver: OnlineFactorization, n_before: Array, n_samples: int) -> Filled:
    return Filled(jnp.asarray(n_samples, jnp.int32), solver.forgetting.weight(n_before, n_samples))


@functools.partial(jax.jit, static_argnums=1)
def _of_samples(info: Info, n_samples: int) -> Info:
    """Without the rows that are no samples."""
    rows = {name: getattr(info, name) for name in ("codes", "gap", "n_iter", "memory")}
    return info._replace(**jax.tree.map(lambda a: a[:n_samples], rows))


def _advance(
    solver: OnlineFactorization, state: State, memory: Memory | None, item: Item
) -> tuple[State, Memory | None, Info]:
    size = item.x.shape[0]
    start = jnp.zeros((size, solver.n_components), item.x.dtype)
    rows = None if item.rows is None else _take_rows(memory, item.rows)
    # Whole batches too: it is one program then.
    filled = _fill(solver, state.n_samples, item.n_samples)
    if item.subset is None:
        state, info = _step_whole(solver, state, item.x, rows, start, filled)
    else:
        state, info = _step_partial(solver, state, item.x, item.subset, rows, start, filled)
    if rows is not None:
        memory = _put_rows(memory, item.rows, info.memory)
    return state, memory, info if item.n_samples == size else _of_samples(info, item.n_samples)


class _Evaluation:
    """Held-out objective, and a clock of the time spent otherwise."""

    def __init__(self, solver: OnlineFactorization, samples: Array | None) -> None:
        self._solver, self._n_samples, self._pieces = solver, 0, list[Array]()
        if samples is not None:
            self._n_samples = samples.shape[0]
            # Pieces of one size, for one program; samples of zeros fill up the last one, whose objective is zero.
            n_pieces = -(-self._n_samples // _ROWS_PER_EVALUATION)
            size = -(-self._n_samples // n_pieces)
            padded = jnp.pad(samples, ((0, n_pieces * size - self._n_samples), (0, 0)))
            self._pieces = [padded[first : first + size] for first in range(0, n_pieces * size, size)]
        self._seconds, self._since = 0.0, time.perf_counter()

    def __call__(self, state: State, step: int, n_samples: int, item: Item, info: Info) -> Record:
        """Evaluate a state, once it is there; the clock stands still meanwhile."""
        jax.block_until_ready(state.dictionary)
        self._seconds += time.perf_counter() - self._since
        if not bool(info.finite):
            raise FloatingPointError(
                f"codes are not finite after step {step}: {state.dictionary.dtype} overflowed; scale the data"
            )
        value = self._mean_objective(state) if self._pieces else math.nan
        n_dead = int(info.n_dead)
        self._since = time.perf_counter()
        return Record(step, n_samples, item.epoch + 1, self._seconds, item.bytes_read, value, n_dead)

    def _mean_objective(self, state: State) -> float:
        total = sum(float(objective(state.dictionary, piece, self._solver.penalty)) for piece in self._pieces)
        return total * self._pieces[0].shape[0] / self._n_samples


def _initial_state(solver: OnlineFactorization, given: State | None, feed: Feed, key: Key) -> State:
    if given is None:
        return solver.init(key, samples=feed.first_samples(solver.n_components, _INITIAL_ROWS))
    expected = (solver.n_components, feed.n_features)
    check_shape("state.dictionary", given.dictionary, expected, "(n_components, n_features)")
    if given.surrogate.partial != solver.partial_b:
        raise ValueError(f"state is of a run with partial_b={not solver.partial_b}; the solver has {solver.partial_b}")
    if (given.gram is not None) != solver.statistics.needs_gram:
        raise ValueError(f"state is of a run with other statistics than {solver.statistics!r}")
    return feed.adopt(given)


def _initial_memory(
    solver: OnlineFactorization, state: State, feed: Feed, memory: Memory | None, first_step: int
) -> Memory | None:
    if solver.init_memory(state, 0) is None:
        if memory is not None:
            raise ValueError(f"memory must be None with statistics={solver.statistics!r}, which remembers nothing")
        return None
    if feed.n_samples is None:
        raise ValueError("averaged statistics need a source whose samples have numbers, not an iterable of batches")
    if first_step > 0 and memory is None:
        raise ValueError("a run with averaged statistics goes on from its memory too: give memory=result.memory")
    if memory is not None:
        expected = (feed.n_samples, solver.n_components)
        check_shape("memory.beta", memory.beta, expected, "(n_samples, n_components)")
    # A copy, since steps write into the memory of the one before.
    return solver.init_memory(state, feed.n_samples) if memory is None else jax.tree.map(jnp.copy, memory)
