"""The course of a run: its steps, its evaluations, and the states that it keeps."""

import functools
import warnings

import jax
import jax.numpy as jnp

from jax_mmf.evaluation import Evaluation, why_nothing_is_learned
from jax_mmf.io.feed import Feed, Item
from jax_mmf.online import OnlineFactorization
from jax_mmf.result import Best, FitResult, Record
from jax_mmf.state import Info, State
from jax_mmf.statistics import Memory
from jax_mmf.step import Filled, step_partial, step_whole
from jax_mmf.typing import Array, Key


class Run:
    """Where a run is: its state, its history, and copies of the states that are kept."""

    def __init__(
        self, solver: OnlineFactorization, feed: Feed, evaluation: Evaluation, state: State, memory: Memory | None
    ) -> None:
        self.solver, self.state = solver, state
        self.step, self.history = int(state.step), list[Record]()
        self.item: Item | None = None
        self._feed, self._evaluation, self._memory = feed, evaluation, memory
        self._first_step, self._n_samples = self.step, int(state.n_samples)
        self._evaluated: State | None = None
        self._best: tuple[State, Record] | None = None
        self._warned = False

    def advance(self, item: Item) -> None:
        """Do a step."""
        self.item = item
        self.state, self._memory, self.info = _advance(self.solver, self.state, self._memory, item)
        self.step, self._n_samples = self.step + 1, self._n_samples + item.n_samples

    def revive(self, key: Key) -> None:
        """Replace dead atoms by samples of the source."""
        fresh = self._feed.some_samples(self.step, self.solver.n_components)
        self.state = self.solver.revive(jax.random.fold_in(key, self.step), self.state, fresh)

    def evaluate(self) -> Record:
        """Add a record to the history, keep what is worth it, and warn once if nothing is learned."""
        assert self.item is not None
        record = self._evaluation(self.state, self.step, self._n_samples, self.item, self.info)
        self.history.append(record)
        self._evaluated = jax.tree.map(jnp.copy, self.state)
        if record.held_out and (self._best is None or record.objective < self._best[1].objective):
            self._best = self._evaluated, record  # the same copy
        reason = None if self._warned else why_nothing_is_learned(self.solver.penalty, self.state, self.item, self.info)
        if reason is not None:
            self._warned = True
            text = f"fit learns nothing: up to step {self.step} no code counts, since {reason}"
            warnings.warn(text, UserWarning, stacklevel=3)  # of the caller of fit
        return record

    def result(self, stopped_by: str) -> FitResult:
        """The result of the steps so far."""
        self._evaluated = None  # room for copies in the original order of the features
        return self._result(self.state, self._memory, stopped_by)

    def result_before(self, error: Exception) -> FitResult | None:
        """The result of the last good step before an error, or None if there was none."""
        # Overflow is noticed some steps after it happened; at the evaluation before, all was well.
        # A step that fails while it runs leaves nothing of the state before, whose memory it was given.
        back = isinstance(error, FloatingPointError) or self.state.step.is_deleted()
        state = self._evaluated if back else self.state
        if state is None or int(state.step) == self._first_step:
            return None
        # The memory of averaged statistics went on with the steps.
        return self._result(state, None if back else self._memory, "error")

    def _result(self, state: State, memory: Memory | None, stopped_by: str) -> FitResult:
        restore = self._feed.restore
        best = None if self._best is None else Best(restore(self._best[0]), self._best[1])
        names = getattr(self._feed, "feature_names", None)
        return FitResult(restore(state), self.history, memory, self.solver, stopped_by, best, names)


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
