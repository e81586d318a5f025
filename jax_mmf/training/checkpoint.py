"""Checkpoints of a run: a callback that writes them in the background, and functions that read them."""

import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_mmf.core import check_count, check_real, warn, with_settings_of_this_thread
from jax_mmf.io import HDF5_ENDINGS, SavedRun, load_run, save_run
from jax_mmf.learning import OnlineFactorization
from jax_mmf.training.callbacks import Event, Start
from jax_mmf.training.placement import any_process
from jax_mmf.training.result import FitResult

_MINUTES, _KEEP = 10.0, 3
_NAME = re.compile(r"step_(\d{12,})\.h5")


class Checkpoint:
    """Callback that regularly writes all that is needed to resume a run, while the next steps are computed.

    Each file is a model file with additional content, which appears under its name when it is complete.
    `load_checkpoint` reads the newest valid one. One more checkpoint is written at the end of a run that ended without
    an error.

    Args:
      path: a folder for files that are named by their steps, which is created; or a single file, .h5 or .hdf5, which
        each checkpoint replaces.
      every: number of steps between checkpoints, or None.
      minutes: time between checkpoints, or None. Without ``every``, 10 by default.
      keep: number of the newest files to keep in a folder; 3 by default. It must be 1 or None for a single file.
      run: further arguments of `jax_mmf.fit` to store in the file, in addition to those of the run, as in `save_model`.
      background: whether another thread writes a copy of the state while the next steps are computed. With several
        processes, the steps always wait.

    Raises:
      ValueError: for numbers out of range; and at the start of a new run, if the folder holds checkpoints of another
        run.
      OSError: during the run, if a file can't be written.

    Example:
      >>> Checkpoint("checkpoints", minutes=30)
      Checkpoint('checkpoints', every=None, minutes=30, keep=3)
    """

    comes_last = True  # then it stores the counts that the other callbacks have after the step

    def __init__(
        self,
        path: str | Path,
        *,
        every: int | None = None,
        minutes: float | None = None,
        keep: int | None = None,
        run: Mapping[str, Any] | None = None,
        background: bool = True,
    ) -> None:
        if every is not None:
            check_count("every", every)
        if minutes is not None:
            check_real("minutes", minutes, low=0.0, open_low=True)
        if keep is not None:
            check_count("keep", keep)
        self.path = Path(path)
        self._one_file = _is_file_name(self.path)
        if self._one_file and keep not in (None, 1):
            raise ValueError(f"keep must be 1 for the single file {path}, got {keep}; pass a folder to keep several")
        self.every, self.run, self.background = every, run, background
        self.minutes = _MINUTES if every is None and minutes is None else minutes
        self.keep = keep or (1 if self._one_file else _KEEP)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._since, self._last_step = 0.0, -1

    def on_start(self, start: Start) -> None:
        """Create the folder, and start the clock."""
        self._error, self._last_step, self._since = None, -1, time.monotonic()
        if self._one_file:
            if not self.path.parent.is_dir():
                raise FileNotFoundError(
                    f"the folder {self.path.parent} of {self.path.name} does not exist; create it first"
                )
            return
        self.path.mkdir(parents=True, exist_ok=True)
        files = checkpoints(self.path)
        if start.step == 0 and files:
            raise ValueError(
                f"{self.path} holds checkpoints of another run, the last one of step {files[-1][0]}: resume that run "
                "by resume=jax_mmf.load_checkpoint(folder) or the option --resume auto, or pass another folder"
            )
        for step, path in files if jax.process_index() == 0 else ():
            if step > start.step:  # a damaged file, or one of an earlier run that resumed at the same step
                path.replace(path.with_suffix(".h5.old"))

    def __call__(self, event: Event, /) -> None:
        """Write a checkpoint if one is due.

        Raises:
          OSError: if the previous checkpoint could not be written.
          FloatingPointError: if the previous checkpoint would have held NaN or infinity.
        """
        self._raise_error()
        due = self.every is not None and event.step % self.every == 0
        if self.minutes is not None:
            due = any_process(due or time.monotonic() - self._since >= 60 * self.minutes)
        if due:
            self._write(event.step, event.snapshot())

    def on_end(self, result: FitResult | None) -> None:
        """Wait for the writing thread. Then write the last state, unless an error ended the run."""
        self._wait()
        if result is None:
            if self._error is not None:
                warn(f"the last checkpoint was not written: {self._error}")
            return
        self._raise_error()
        step = int(result.state.step)
        if step != self._last_step and result.history:
            self._save(step, result.saved)

    def _write(self, step: int, saved: Callable[[], SavedRun]) -> None:
        self._wait()
        self._raise_error()
        self._since = time.monotonic()
        if not self.background or jax.process_count() > 1:  # processes collect the state together
            self._save(step, saved)
            return

        def work() -> None:
            try:
                self._save(step, saved)
            except Exception as error:  # noqa: BLE001 - raised by the next call
                self._error = error

        self._thread = threading.Thread(target=with_settings_of_this_thread(work), name="jax-mmf-checkpoint")
        self._thread.start()

    def _save(self, step: int, saved: Callable[[], SavedRun]) -> None:
        run = saved()
        if jax.process_index() > 0:  # one file for all processes
            self._last_step = step
            return
        run = run._replace(run={**run.run, **(self.run or {})})
        if not all(map(_is_finite, jax.tree.leaves((run.state._replace(key=run.state.step), run.memory)))):
            raise FloatingPointError(
                f"the state after step {step} holds NaN or infinity, and no checkpoint was written; resume from "
                "the previous one, with scaled data or other settings"
            )
        save_run(self.path if self._one_file else self.path / f"step_{step:012d}.h5", run)
        self._last_step = step
        if not self._one_file:
            for _, old in checkpoints(self.path)[: -self.keep]:
                with suppress(FileNotFoundError):
                    old.unlink()

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, every={self.every}, minutes={self.minutes}, keep={self.keep})"


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return steps and paths of the checkpoints in a folder, the newest one last; an empty list without a folder."""
    if not folder.is_dir():
        return []
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match is not None)


def newest_checkpoint(path: Path) -> Path | None:
    """Return the path of the newest checkpoint in a folder, valid or not; or the single file; or None."""
    if path.is_file():
        return path
    found = checkpoints(path)
    return found[-1][1] if found else None


def load_checkpoint(path: str | Path, *, solver: OnlineFactorization | None = None) -> SavedRun | None:
    """Read the newest valid checkpoint, for ``fit(..., resume=...)``.

    Args:
      path: folder or single file of `Checkpoint`; or any model file.
      solver: as in `jax_mmf.load_model`.

    Returns:
      the run, or None if there is no checkpoint yet: ``resume=None`` starts a new run.

    Warns:
      UserWarning: if a damaged checkpoint is skipped.

    Raises:
      ValueError: if no checkpoint can be read: the error of `jax_mmf.load_model` for the newest one.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (40, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1))
      >>> options = {"key": jax.random.key(1), "held_out": 8, "n_epochs": 2, "batch_size": 16}
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     result = mmf.fit(solver, x, **options, callbacks=[mmf.Checkpoint(folder)])
      ...     run = mmf.load_checkpoint(folder)
      >>> int(run.state.step), run.run["batch_size"]
      (4, 16)
    """
    found = newest_whole(path, solver=solver)
    return None if found is None else found[1]


def newest_whole(path: str | Path, *, solver: OnlineFactorization | None = None) -> tuple[Path, SavedRun] | None:
    """Return path and content of the newest valid checkpoint; arguments and errors as in `load_checkpoint`."""
    path = Path(path)
    if path.is_file() or _is_file_name(path):  # an existing file is read under any name
        return (path, load_run(path, solver=solver)) if path.is_file() else None
    errors = list[ValueError | OSError]()
    for _, file in reversed(checkpoints(path)):
        try:
            found = load_run(file, solver=solver)
        except (ValueError, OSError) as error:
            errors.append(error)
            continue
        for skipped in errors:
            warn(f"a damaged checkpoint is skipped: {skipped}. Resuming from the previous one, {file}")
        return file, found
    if errors:
        raise errors[0]
    return None


def _is_file_name(path: Path) -> bool:
    return path.suffix.lower() in HDF5_ENDINGS and not path.is_dir()


def _is_finite(array: Any) -> bool:
    values = np.asarray(array)
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())
