"""Checkpoints: model files with all that is needed to resume a run as if it had not stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax.numpy as jnp

from jax_mmf.core import check_process, check_shape, short
from jax_mmf.io.model_file import read_array, read_model, read_state_array, write_array, write_model
from jax_mmf.io.record import Record, as_record
from jax_mmf.io.sealed import opened_model
from jax_mmf.learning import Memory, OnlineFactorization, State, map_arrays
from jax_mmf.typing import Array

_MEMORY, _BEST = "memory", "best"  # groups of the file


class Best(NamedTuple):
    """The evaluation with the lowest held-out objective of a run.

    Attributes:
      state: at this evaluation, in the original order of the features.
      record: of the evaluation.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (40, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1))
      >>> result = mmf.fit(solver, x, key=jax.random.key(1), held_out=8, n_epochs=2, batch_size=16)
      >>> result.best.dictionary.shape, result.best.record in result.history
      ((3, 8), True)
    """

    state: State
    record: Record

    @property
    def dictionary(self) -> Array:
        """``(k, p)``: the best dictionary."""
        return self.state.dictionary

    def __repr__(self) -> str:
        return f"Best(dictionary={short(self.dictionary)}, record={self.record!r})"


class SavedRun(NamedTuple):
    """All that `jax_mmf.fit` needs to resume a run: ``fit(saved.solver, source, resume=saved)``.

    Attributes:
      solver: the configuration.
      state: after the last step, in the original order of the features.
      history: a `Record` per evaluation of the run.
      run: arguments of `jax_mmf.fit` in this run, such as ``batch_size`` and ``held_out``.
      memory: of averaged statistics, or None.
      best: the `Best` evaluation, or None.
      progress: further values that a resumed run continues, in types of JSON: ``"order"`` of the samples, counts of
        ``"callbacks"``, the relative ``"alpha"`` of the solver, ``"n_samples"``, ``"seconds"`` and ``"bytes_read"``.
        None or empty for files without them.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (40, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1))
      >>> result = mmf.fit(solver, x, key=jax.random.key(1), held_out=8, n_epochs=2, batch_size=16)
      >>> resumed = mmf.fit(solver, x, resume=result.saved(), held_out=8, n_epochs=3)
      >>> int(resumed.state.step)
      6
    """

    solver: OnlineFactorization
    state: State
    history: list[Record]
    run: Mapping[str, Any]
    memory: Memory | None = None
    best: Best | None = None
    progress: Mapping[str, Any] | None = None

    def told(self, name: str, default: Any = None) -> Any:
        """Return an entry of the progress, or a default if there is none."""
        return (self.progress or {}).get(name, default)


def save_run(path: str | Path, saved: SavedRun) -> None:
    """Write a checkpoint, which is a model file with additional content: `load_model` reads its model.

    Args:
      path: of the file, .h5 or .hdf5, which is replaced if it exists.
      saved: the run.

    Raises:
      TypeError: as `save_model` does.
      ValueError: as `save_model` does.
      OSError: if the file can't be written.
    """

    def more(file: h5py.File) -> None:
        file.attrs["progress"] = json.dumps(dict(saved.progress or {}))
        if saved.memory is not None:
            for name, array in saved.memory._asdict().items():
                write_array(file, f"{_MEMORY}/{name}", array)
        if saved.best is not None:
            file.attrs["best"] = json.dumps(saved.best.record._asdict())
            map_arrays(lambda name, _, array: write_array(file, f"{_BEST}/{name}", array), saved.best.state)

    write_model(path, saved.solver, saved.state, saved.history, saved.run, more)


def load_run(path: str | Path, *, solver: OnlineFactorization | None = None) -> SavedRun:
    """Read a checkpoint, or a model file with less content.

    Args:
      path: of the file.
      solver: as in `load_model`.

    Raises:
      FileNotFoundError: if the file does not exist.
      BadFileError: if it is damaged, and as `load_model` does. This is a ValueError.
    """
    check_process()
    with opened_model(path, "a checkpoint of jax-mmf", "/", "key") as file:
        model = read_model(file, solver)
        memory, best = _read_memory(file, model.state), _read_best(file, model.state)
        return SavedRun(*model, memory, best, _read_progress(file))


def _read_progress(file: h5py.File) -> dict[str, Any]:
    progress = json.loads(file.attrs.get("progress", "{}"))
    if not isinstance(progress, dict):
        raise TypeError("its progress is not a dictionary")
    return progress


def _read_memory(file: h5py.File, state: State) -> Memory | None:
    if _MEMORY not in file:
        return None
    names = file[_MEMORY].keys()
    arrays = {name: read_array(file, f"{_MEMORY}/{name}") if name in names else None for name in Memory._fields}
    memory = Memory(**arrays)  # type: ignore[arg-type]
    k = state.dictionary.shape[0]
    n = len(memory.visits)
    shapes: dict[str, tuple[int, ...]] = {"beta": (n, k), "sq_norm": (n,), "gram": (n, k, k), "visits": (n,)}
    for name, array in memory._asdict().items():
        if array is None and name == "gram":
            continue
        check_shape(f"{_MEMORY}/{name}", array, shapes[name], "as the statistics have it")
        _check_finite(f"{_MEMORY}/{name}", array)
    return memory


def _read_best(file: h5py.File, state: State) -> Best | None:
    if "best" not in file.attrs:
        return None

    def read(name: str, _: str | None, like: Array) -> Array:
        array = read_state_array(file, f"{_BEST}/", name, like)
        check_shape(f"{_BEST}/{name}", array, like.shape, "as in the last state")
        if array.dtype != like.dtype:
            raise ValueError(f"its {_BEST}/{name} must be {like.dtype}, got {array.dtype}")
        _check_finite(f"{_BEST}/{name}", array)
        return array

    return Best(map_arrays(read, state), as_record(json.loads(file.attrs["best"])))


def _check_finite(name: str, array: Array) -> None:
    if not bool(jnp.isfinite(array).all()):
        raise ValueError(f"its {name} holds NaN or infinity")
