"""Progress of a run: its history, and the states that it keeps."""

import math
from collections import deque

import jax

from jax_mmf.core import Stream, copied, stream_key, warn
from jax_mmf.io import Record
from jax_mmf.learning import Info, Memory, OnlineFactorization, State
from jax_mmf.training.evaluation import Evaluation, why_nothing_is_learned
from jax_mmf.training.feed import Feed, Item
from jax_mmf.training.result import Best, FitResult
from jax_mmf.typing import Array, Key

_IN_FLIGHT = 2  # steps that are computed or wait for it, while the next one is prepared


class Run:
    """Progress of a run: current state, history, and copies of states that are kept."""

    def __init__(
        self, solver: OnlineFactorization, feed: Feed, evaluation: Evaluation, state: State, memory: Memory | None
    ) -> None:
        self.solver, self.state, self.memory = solver, state, memory
        self.step, self.history = int(state.step), list[Record]()
        self.item: Item | None = None
        self._feed, self._evaluation = feed, evaluation
        self._first_step, self._n_samples = self.step, int(state.n_samples)
        self._evaluated: State | None = None
        self._best: tuple[State, Record] | None = None
        self._warned = False
        self._in_flight = deque[tuple[Array, Item]]()

    def take(self, item: Item, state: State, memory: Memory | None, info: Info) -> None:
        """Store the result of a step, and wait for the step before the last one."""
        self.item, self.state, self.memory, self.info = item, state, memory, info
        self.step, self._n_samples = self.step + 1, self._n_samples + item.n_samples
        self._in_flight.append((info.finite, item))
        if len(self._in_flight) > _IN_FLIGHT:
            result, done = self._in_flight.popleft()
            jax.block_until_ready(result)  # all results of a step are there at once: its mini-batch has been read
            self._feed.give_back(done)

    def revive(self, key: Key) -> None:
        """Replace dead atoms by samples of the source."""
        fresh = self._feed.some_samples(self.step, self.solver.n_components)
        self.state = self.solver.revive(stream_key(key, Stream.REVIVAL, self.step), self.state, fresh)

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

    def result(self, stopped_by: str) -> FitResult:
        """The result of the steps so far."""
        self._evaluated = None  # room for copies in the original order of the features
        return self._result(self.state, self.memory, stopped_by)

    def attach_result(self, error: Exception) -> None:
        """Attach the result of the last good step to an error, as its attribute ``result``, if there was one."""
        # Overflow is noticed some steps after it happened; at the evaluation before, all was well.
        # A step that fails while it runs leaves nothing of the state before, whose memory it was given.
        back = isinstance(error, FloatingPointError) or self.state.step.is_deleted()
        state = self._evaluated if back else self.state
        if state is None or int(state.step) == self._first_step:
            return
        # The memory of averaged statistics went on with the steps.
        error.result = self._result(state, None if back else self.memory, "error")  # type: ignore[attr-defined]
        error.add_note(f"The result of the first {state.step} steps is in the attribute `result` of this error.")

    def _result(self, state: State, memory: Memory | None, stopped_by: str) -> FitResult:
        restore = self._feed.restore
        best = None if self._best is None else Best(restore(self._best[0]), self._best[1])
        names = self._feed.feature_names
        return FitResult(restore(state), self.history, memory, self.solver, stopped_by, best, names)
