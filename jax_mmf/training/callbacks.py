"""Callbacks of `fit`: their arguments, and callbacks for common purposes."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jax_mmf.core import check_count, check_real
from jax_mmf.io import Record, SavedRun
from jax_mmf.learning import Info, OnlineFactorization, State
from jax_mmf.training.result import FitResult


class Start(NamedTuple):
    """Description of a run, for callbacks, before its first step.

    Attributes:
      solver: of the run.
      n_samples: number of samples of the source, or None if it is not known.
      n_features: p.
      dtype: of the computation.
      n_held_out: number of held-out samples.
      step: number of earlier steps, 0 for a new run.
      n_steps: number of steps of the whole run, or None if it is not known.
      history: records of the earlier run, if this one resumes it.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (40, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1))
      >>> options = {"key": jax.random.key(1), "held_out": 8, "n_epochs": 2, "batch_size": 16}
      >>> class Report:
      ...     def on_start(self, start):
      ...         print(start.n_features, start.n_held_out, start.n_steps)
      ...     def __call__(self, event):
      ...         return False
      >>> result = mmf.fit(solver, x, **options, callbacks=[Report()])
      8 8 4
    """

    solver: OnlineFactorization
    n_samples: int | None
    n_features: int
    dtype: np.dtype[Any]
    n_held_out: int
    step: int
    n_steps: int | None
    history: Sequence[Record] = ()


@dataclass(frozen=True, repr=False)
class Event:
    """Description of a step, for callbacks.

    Its arrays are valid only during the call, since the next step reuses their memory.

    Attributes:
      solver: of the run.
      info: of the step.
      step: number of steps so far.
      n_steps: number of steps of the whole run, or None if it is not known.
      record: of the evaluation after this step, or None.
      history: all records so far.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (40, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1))
      >>> options = {"key": jax.random.key(1), "held_out": 8, "n_epochs": 2, "batch_size": 16}
      >>> def first_steps(event):
      ...     return event.step == 2
      >>> mmf.fit(solver, x, **options, callbacks=[first_steps]).stopped_by
      'callback'
    """

    solver: OnlineFactorization
    info: Info
    step: int
    n_steps: int | None
    record: Record | None
    history: Sequence[Record]
    _state: State
    _restore: Callable[[State], State]
    _snapshot: Callable[[], Callable[[], SavedRun]] | None = None

    @cached_property
    def state(self) -> State:
        """State after the step, in the original order of the features; a copy if features are permuted."""
        return self._restore(self._state)

    def snapshot(self) -> Callable[[], SavedRun]:
        """Copy what the next step overwrites.

        Returns:
          a function that makes a `jax_mmf.io.SavedRun` of the copies, later and in any thread.
        """
        assert self._snapshot is not None
        return self._snapshot()

    def __repr__(self) -> str:
        return f"Event(step={self.step}, n_steps={self.n_steps}, record={self.record!r}, info={self.info!r})"


class Callback(Protocol):
    """Function or object that is called with an `Event` after each step. A true result ends the run.

    An object may have more methods. ``on_start(start)`` is called with a `Start` before the first step of each run:
    one object can serve several runs. ``on_end(result)`` is called at the end of each started run, with its
    `FitResult`, or None if an error ended it. ``on_save()`` returns what checkpoints store of it, in types of JSON. A
    resumed run calls ``on_resume(kept)`` with this, after ``on_start``.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (40, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1))
      >>> options = {"key": jax.random.key(1), "held_out": 8, "n_epochs": 2, "batch_size": 16}
      >>> steps = []
      >>> def note(event):
      ...     steps.append(event.step)
      >>> result = mmf.fit(solver, x, **options, callbacks=[note])
      >>> steps
      [1, 2, 3, 4]
    """

    def __call__(self, event: Event, /) -> Any:
        """Process a step; return a true value to end the run."""


def checked(callbacks: Any) -> tuple[Callback, ...]:
    """Return callbacks as a tuple.

    Raises:
      TypeError: unless they are an iterable of callables.
    """
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks must be a list, such as [jax_mmf.EarlyStopping()]; got {callbacks!r}")
    callbacks = tuple(callbacks)
    for callback in callbacks:
        if isinstance(callback, type) or not callable(callback):
            what = "the class itself; call it" if isinstance(callback, type) else f"a {type(callback).__name__}"
            raise TypeError(f"callbacks must be callable with an Event; got {callback!r}, {what}")
    return callbacks


def in_order(callbacks: Sequence[Callback]) -> tuple[Callback, ...]:
    """Return callbacks in order: those with a true ``comes_last``, which save what others count, come last."""
    return tuple(sorted(callbacks, key=lambda callback: bool(getattr(callback, "comes_last", False))))


def files_of(callbacks: Sequence[Callback]) -> dict[str, Path]:
    """Return the files that callbacks write, which have an attribute ``path``, by names for messages."""
    paths = [getattr(callback, "path", None) for callback in callbacks]
    return {
        f"{type(callback).__name__} {number}": path
        for number, (callback, path) in enumerate(zip(callbacks, paths, strict=True))
        if isinstance(path, Path) and path.suffix and not path.is_dir()
    }


@contextmanager
def notified(callbacks: Sequence[Callback], start: Start) -> Iterator[Callable[[FitResult], None]]:
    """Notify callbacks of the start and the end of a run; yields a function to which the run passes its result."""
    results: list[FitResult] = []
    started = list[Callback]()
    try:
        for callback in callbacks:
            getattr(callback, "on_start", _nothing)(start)
            started.append(callback)
        yield results.append
    finally:
        for callback in started:
            getattr(callback, "on_end", _nothing)(results[-1] if results else None)


def _nothing(_: Any) -> None: ...


class EarlyStopping:
    """Callback that ends a run when the held-out objective no longer decreases.

    Its counts restart with each run, except in resumed runs, ``fit(..., resume=...)``. `fit` keeps the best state as
    ``result.best``.

    Args:
      patience: number of evaluations without progress after which the run ends.
      min_change: relative decrease that counts as progress, >= 0.

    Raises:
      ValueError: if patience or min_change is out of range, and at the start of a run without held-out samples.

    Example:
      >>> EarlyStopping(patience=3)
      EarlyStopping(patience=3, min_change=0.0001)
    """

    def __init__(self, patience: int = 5, min_change: float = 1e-4) -> None:
        check_count("patience", patience)
        check_real("min_change", min_change, low=0.0, high=1.0)
        self.patience, self.min_change = patience, min_change
        self.best, self.stale = math.inf, 0

    def on_start(self, start: Start) -> None:
        """Reset the counters."""
        if start.n_held_out == 0:
            raise ValueError(
                "EarlyStopping needs held-out samples, and the run has none; pass held_out to fit, such as held_out=0.1"
            )
        self.best, self.stale = math.inf, 0

    def __call__(self, event: Event, /) -> bool:
        """Return whether to stop."""
        if event.record is None:
            return False
        if event.record.objective < self.best * (1 - self.min_change):
            self.best, self.stale = event.record.objective, 0
        else:
            self.stale += 1
        return self.stale >= self.patience

    def on_save(self) -> dict[str, Any]:
        """Return the counts."""
        return {"best": self.best, "stale": self.stale}

    def on_resume(self, kept: Mapping[str, Any]) -> None:
        """Continue from these counts."""
        self.best, self.stale = float(kept["best"]), int(kept["stale"])

    def __repr__(self) -> str:
        return f"EarlyStopping(patience={self.patience}, min_change={self.min_change})"


class ProgressBar:
    """Callback that shows the steps, the time and the last objective. It needs tqdm (extra ``cli``).

    Its clock is that of `Record.seconds`, which excludes the time of evaluations.

    Args:
      **options: arguments of tqdm, such as ``file`` or ``disable``.

    Raises:
      ImportError: without tqdm.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (40, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1))
      >>> options = {"key": jax.random.key(1), "held_out": 8, "n_epochs": 2, "batch_size": 16}
      >>> bar = mmf.ProgressBar(disable=True)  # tqdm shows nothing
      >>> result = mmf.fit(solver, x, **options, callbacks=[bar])
    """

    def __init__(self, **options: Any) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError as error:
            raise ImportError("a progress bar needs tqdm: pip install 'jax-mmf[cli]'") from error
        self._open, self._options = tqdm, options
        self._bar: Any = None
        self._seconds_before = 0.0

    def on_start(self, start: Start) -> None:
        """Open the bar, and show the size of the problem."""
        self._seconds_before = start.history[-1].seconds if start.history else 0.0
        n = "samples" if start.n_samples is None else f"{start.n_samples:,}"
        options = {"unit": "step", "smoothing": 0.05} | self._options
        if jax.process_index() != 0:  # the first process shows it
            options["disable"] = True
        self._bar = self._open(total=start.n_steps, initial=start.step, desc="compiling", **options)
        if not self._bar.disable:
            text = f"{n} x {start.n_features:,} features, {start.dtype}; {start.solver.n_components} atoms"
            self._bar.write(text, file=self._options.get("file", sys.stderr))  # where the bar is

    def __call__(self, event: Event, /) -> None:
        """Show a step."""
        if not self._bar.disable and self._bar.desc:
            self._bar.set_description_str("", refresh=False)
        self._bar.update()
        if event.record is not None:
            self._bar.start_t = time.time() - (event.record.seconds - self._seconds_before)
            name = "objective" if event.record.held_out else "objective of the batch"
            self._bar.set_postfix_str(f"{name} {event.record.objective:.5g}")

    def on_end(self, result: FitResult | None) -> None:
        """Close the bar."""
        self._bar.close()


class JSONLines:
    """Callback that writes each `Record` immediately as a line of JSON, which a crash does not lose.

    Args:
      path: of the file; the first record of a run replaces an existing file. In a resumed run, the earlier records are
        written again before it.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (40, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1))
      >>> options = {"key": jax.random.key(1), "held_out": 8, "n_epochs": 2, "batch_size": 16}
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "log.jsonl"
      ...     result = mmf.fit(solver, x, **options, callbacks=[mmf.JSONLines(path)])
      ...     print(len(path.read_text().splitlines()))
      4
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self._mode = Path(path), "w"
        self._before: Sequence[Record] = ()

    def on_start(self, start: Start) -> None:
        """Start a new file at the next record; until then, an existing file stays."""
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"the folder {self.path.parent} of {self.path.name} does not exist; create it first"
            )
        self._mode, self._before = "w", tuple(start.history)

    def __call__(self, event: Event, /) -> None:
        """Write the record of a step, if it has one; NaN and infinity, which JSON does not have, become null."""
        if event.record is not None and jax.process_index() == 0:
            with self.path.open(self._mode, encoding="utf-8") as file:
                file.writelines(map(_line, (*self._before, event.record)))
            self._mode, self._before = "a", ()


def _line(record: Record) -> str:
    fields = record._asdict()
    return (
        json.dumps({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}) + "\n"
    )
