"""Progress of a run: its history, and the states that it keeps."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jax_mmf.core import Stream, copied, stream_key, warn
from jax_mmf.io import Best, Record, SavedRun
from jax_mmf.learning import Info, Memory, OnlineFactorization, State
from jax_mmf.training.callbacks import Callback, Event, Start
from jax_mmf.training.evaluation import Evaluation, why_nothing_is_learned
from jax_mmf.training.feed import Feed, Item
from jax_mmf.training.result import FitResult
from jax_mmf.training.resumption import callback_counts, restore_callbacks
from jax_mmf.typing import Array

_IN_FLIGHT = 2  # steps that are running or queued while the next one is prepared


class Run:
    """Progress of a run: current state, history, and copies of states that are kept.

    Args:
      solver: of the run.
      feed: of the run.
      evaluation: of the run.
      state: at the start, in the order of the features inside.
      memory: of averaged statistics, or None.
      arguments: of `fit`, which are stored in files.
      before: the run that this one resumes, or None.
      alpha: description of a `RelativeAlpha` that the solver had, or None.
      callbacks: of the run.
    """

    def __init__(
        self,
        solver: OnlineFactorization,
        feed: Feed,
        evaluation: Evaluation,
        state: State,
        memory: Memory | None,
        arguments: Mapping[str, Any],
        before: SavedRun | None = None,
        *,
        alpha: Any = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.solver, self.state, self.memory = solver, state, memory
        self.step, self.history = int(state.step), list[Record]() if before is None else list(before.history)
        self.item: Item | None = None
        self.callbacks, self.n_steps, self.placement = callbacks, feed.n_steps, feed.placement
        self._feed, self._evaluation = feed, evaluation
        self._arguments, self._alpha, self._before = arguments, alpha, before
        self._first_step, self._n_samples = self.step, int(state.n_samples)
        self._bytes_read = 0
        self._evaluated: State | None = None
        self._best: tuple[State, Record] | None = None
        if before is not None:
            self._n_samples = max(self._n_samples, int(before.told("n_samples", 0)))
            self._bytes_read = int(before.told("bytes_read", 0))
            if before.best is not None:
                self._best = feed.adopt(before.best.state), before.best.record
        self._warned = False
        self._in_flight = deque[tuple[Array, Item]]()

    def start(self) -> Start:
        """Describe the run before its first step."""
        feed, n_held_out, history = self._feed, self._evaluation.n_held_out, tuple(self.history)
        return Start(
            self.solver, feed.n_samples, feed.n_features, feed.dtype, n_held_out, self.step, self.n_steps, history
        )

    def event(self, record: Record | None) -> Event:
        """Describe the last step, given its record if it was evaluated."""
        return Event(
            solver=self.solver,
            info=self.info,
            step=self.step,
            n_steps=self.n_steps,
            record=record,
            history=self.history,
            _state=self.state,
            _restore=self._feed.restore,
            _snapshot=self.snapshot,
        )

    def restore_callbacks(self) -> None:
        """Give callbacks what they saved in the run before."""
        if self._before is not None:
            restore_callbacks(self.callbacks, self._before.told("callbacks", {}))

    def take(self, item: Item, state: State, memory: Memory | None, info: Info) -> None:
        """Store the result of a step, and wait for the step before the last one."""
        self.item, self.state, self.memory, self.info = item, state, memory, info
        self.step, self._n_samples = self.step + 1, self._n_samples + item.n_samples
        self._bytes_read = self._evaluation.bytes_read(item)
        self._in_flight.append((info.finite, item))
        if len(self._in_flight) > _IN_FLIGHT:
            result, done = self._in_flight.popleft()
            jax.block_until_ready(result)  # all results of a step are there at once: its mini-batch has been read
            self._feed.give_back(done)

    def revive(self) -> None:
        """Replace unused atoms by samples of the source."""
        fresh = self._feed.placement.put_rows(self._feed.some_samples(self.step, self.solver.n_components))
        self.state = self.solver.revive(stream_key(self._feed.key, Stream.REVIVAL, self.step), self.state, fresh)

    def evaluate(self) -> Record:
        """Add a record to the history, keep the state if it is the best so far, and warn once if nothing is learned."""
        assert self.item is not None
        record = self._evaluation(self.state, self.step, self._n_samples, self.item, self.info)
        self.history.append(record)
        self._evaluated = copied(self.state)
        if record.held_out and record.objective < (math.inf if self._best is None else self._best[1].objective):
            self._best = self._evaluated, record  # the same copy
        reason = None if self._warned else why_nothing_is_learned(self.solver.penalty, self.state, self.item, self.info)
        if reason is not None:
            self._warned = True
            warn(f"fit has learned nothing up to step {self.step}: {reason}")
        return record

    def snapshot(self) -> Callable[[], SavedRun]:
        """Copy what the next step overwrites, and return a function that makes a `SavedRun` of it, in any thread."""
        copies = copied((self.state, self.memory))
        best, history, progress = self._best, list(self.history), self._progress()

        def saved() -> SavedRun:
            state, memory = copies[0], self.placement.collected(copies[1])
            restored = None if best is None else Best(self._feed.restore(best[0]), best[1])
            state = self._feed.restore(state)
            return SavedRun(self.solver, state, history, self._arguments, memory, restored, progress)

        if self.placement.mesh is None:
            return saved
        # Programs on several devices must run in the same order in all processes, so not in a thread beside the steps.
        collected = saved()
        return lambda: collected

    def result(self, stopped_by: str) -> FitResult:
        """The result of the steps so far."""
        self._evaluated = None  # room for copies in the original order of the features
        return self._result(self.state, self.memory, stopped_by)

    def attach_result(self, error: Exception) -> None:
        """Attach the result of the last good step to an error, as its attribute ``result``, if there was one."""
        # Overflow is noticed some steps after it happened; the evaluation before found a finite state.
        # A step that fails while it runs has already taken the memory of the previous state.
        back = isinstance(error, FloatingPointError) or self.state.step.is_deleted()
        state = self._evaluated if back else self.state
        if state is None or int(state.step) == self._first_step or not self.placement.has_all_of(state):
            return
        # The memory of averaged statistics has changed since the evaluation.
        error.result = self._result(state, None if back else self.memory, "error")  # type: ignore[attr-defined]
        error.add_note(f"The result of the first {state.step} steps is in the attribute `result` of this error.")

    def _result(self, state: State, memory: Memory | None, stopped_by: str) -> FitResult:
        restore, memory = self._feed.restore, self.placement.collected(memory)
        best = None if self._best is None else Best(restore(self._best[0]), self._best[1])
        names, run = self._feed.feature_names, self._arguments
        progress = self._progress()
        return FitResult(restore(state), self.history, memory, self.solver, stopped_by, best, names, run, progress)

    def _progress(self) -> dict[str, Any]:
        """Return what else is needed to resume the run: see `SavedRun.progress`."""
        return {
            "order": self._feed.order,
            "alpha": self._alpha,
            "callbacks": callback_counts(self.callbacks),
            "n_samples": self._n_samples,
            "seconds": self._evaluation.seconds,
            "bytes_read": self._bytes_read,
        }
