"""Model files: a solver, its state and the history of its run in one HDF5 file, from which a run can go on."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf import (
    code_solvers,
    constraints,
    dictionary_update,
    forgetting,
    initialization,
    penalties,
    statistics,
    subsampling,
)
from jax_mmf.io.atomic import written_aside
from jax_mmf.io.permutation import is_typed_key
from jax_mmf.linalg import matmul
from jax_mmf.online import OnlineFactorization
from jax_mmf.state import State
from jax_mmf.surrogate import Surrogate
from jax_mmf.typing import Array
from jax_mmf.validation import check_count

_FORMAT = "jax-mmf model"
_FORMAT_VERSION = 2
_PARTS = (
    penalties.Ridge,
    penalties.Lasso,
    penalties.ElasticNet,
    constraints.L1Ball,
    constraints.L2Ball,
    constraints.ElasticNetBall,
    constraints.Simplex,
    subsampling.FullSubset,
    subsampling.UniformSubset,
    subsampling.BlockSubset,
    forgetting.PowerForgetting,
    forgetting.ScaledForgetting,
    forgetting.ConstantForgetting,
    statistics.MaskedStatistics,
    statistics.FullStatistics,
    statistics.AveragedStatistics,
    dictionary_update.BlockCoordinateDescent,
    dictionary_update.ProjectedGradient,
    code_solvers.Cholesky,
    code_solvers.CoordinateDescent,
    code_solvers.FISTA,
    code_solvers.ActiveSet,
    code_solvers.UnrolledFISTA,
    initialization.RandomSamples,
    initialization.RandomizedSVD,
    initialization.KMeansPlusPlus,
    OnlineFactorization,
)
CLASSES: dict[str, type[Any]] = {part.__name__: part for part in _PARTS}
"""What a description of a configuration may be made of, by name."""


class Model(NamedTuple):
    """What a model file holds.

    Attributes:
      solver: the configuration.
      state: after the last step; ``state.dictionary`` is the result.
      history: list of dictionaries, one per evaluation of the run, of the fields of `jax_mmf.training.Record`.
    """

    solver: OnlineFactorization
    state: State
    history: list[dict[str, float]]


def save_model(
    path: str | Path, solver: OnlineFactorization, state: State, history: list[dict[str, float]] | None = None
) -> None:
    """Write a model file. It appears under its name when it is complete.

    Args:
      path: of the file, which is replaced if it exists.
      solver: made of the classes of this library. (Of a `GradientUpdate` the optimiser is not written.)
      state: of the solver.
      history: of the run, as plain dictionaries.

    Raises:
      TypeError: if a part of the solver is a class of the user's own, which a file can't hold.
      OSError: if the file can't be written.
    """
    configuration = json.dumps(describe(solver))
    with written_aside(path) as aside, h5py.File(aside, "w") as file:
        file.attrs["format"] = _FORMAT
        file.attrs["format_version"] = _FORMAT_VERSION
        file.attrs["jax_mmf_version"] = version("jax-mmf")
        file.attrs["solver"] = configuration
        file.attrs["history"] = json.dumps(history or [])
        typed = is_typed_key(state.key)
        file["key"] = np.asarray(jax.random.key_data(state.key) if typed else state.key)
        file["key"].attrs["implementation"] = str(jax.random.key_impl(state.key)) if typed else "raw"
        for name in ("step", "n_samples", "dictionary", "gauge", "gram"):
            write_array(file, name, getattr(state, name))
        for name in Surrogate._fields:
            write_array(file, f"surrogate/{name}", getattr(state.surrogate, name))
        for index, leaf in enumerate(jax.tree.leaves(state.update_state)):
            write_array(file, f"update_state/{index}", leaf)


def load_model(path: str | Path, *, solver: OnlineFactorization | None = None) -> Model:
    """Read a model file.

    Args:
      path: of the file.
      solver: instead of the one in the file, for models whose solver a file can't hold.

    Returns:
      the model, from which `jax_mmf.fit` can go on: ``fit(model.solver, data, state=model.state)``.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no model file, is damaged, of a newer format, or holds float64 numbers and JAX is not set to
        them.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with h5py.File(path, "r") as file:
            return _read_model(file, solver)
    except OSError as error:
        raise ValueError(f"{path} is no model file, or is truncated: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} can't be read as a model file: {error}") from error


def needs_x64(path: str | Path) -> bool:
    """Whether a model file holds float64 numbers, which JAX reads only after ``jax_enable_x64``."""
    with suppress(OSError, KeyError), h5py.File(path, "r") as file:
        return bool(file["dictionary"].dtype == np.float64)
    return False


class Checkpoint:
    """Callback of `jax_mmf.fit` that writes a model file now and then.

    Args:
      path: of the file, which each checkpoint replaces.
      every: number of steps between checkpoints.
    """

    def __init__(self, path: str | Path, *, every: int) -> None:
        check_count("every", every)
        self.path, self.every = Path(path), every

    def __call__(self, event: Any) -> None:
        """Write the model if it is time; ``event`` is a `jax_mmf.training.Event`."""
        if event.step % self.every == 0:
            save_model(self.path, event.solver, event.state, [r._asdict() for r in event.history])


def write_array(file: h5py.File, name: str, value: Any) -> None:
    """Write an array, unless it is None."""
    if value is not None:
        file[name] = np.asarray(value)


def read_array(file: h5py.File, name: str) -> Array:
    """Read an array to the device.

    Raises:
      ValueError: if it holds float64 numbers and JAX is not set to them.
    """
    stored = file[name][...]
    if stored.dtype == np.float64 and jax.dtypes.canonicalize_dtype(stored.dtype) != np.float64:
        raise ValueError(
            'it holds float64 numbers, which JAX cuts to float32 without jax.config.update("jax_enable_x64", True)'
        )
    return jnp.asarray(stored)


def _read_model(file: h5py.File, solver: OnlineFactorization | None) -> Model:
    if str(file.attrs.get("format")) != _FORMAT:
        raise ValueError("it is an HDF5 file, but no model that jax-mmf wrote")
    if file.attrs["format_version"] > _FORMAT_VERSION:
        raise ValueError(f"it was written by jax-mmf {file.attrs['jax_mmf_version']}; install that or newer")
    solver = build(json.loads(file.attrs["solver"])) if solver is None else solver
    if not isinstance(solver, OnlineFactorization):
        raise TypeError(f"its solver is a {type(solver).__name__}")
    return Model(solver, _read_state(file, solver), json.loads(file.attrs["history"]))


def _read_state(file: h5py.File, solver: OnlineFactorization) -> State:
    def get(name: str) -> Any:
        return read_array(file, name)

    implementation = file["key"].attrs["implementation"]
    key = get("key")
    if implementation != "raw":
        key = jax.random.wrap_key_data(key, impl=implementation)
    dictionary = get("dictionary")
    like = jax.eval_shape(solver.dictionary_update.init, dictionary)
    leaves = [get(f"update_state/{index}") for index in range(len(jax.tree.leaves(like)))]
    return State(
        key=key,
        step=get("step"),
        n_samples=get("n_samples"),
        dictionary=dictionary,
        surrogate=_read_surrogate(get, solver, dictionary, int(file.attrs["format_version"])),
        gauge=get("gauge"),
        gram=get("gram") if solver.statistics.needs_gram else None,
        update_state=jax.tree.unflatten(jax.tree.structure(like), leaves),
    )


def _read_surrogate(
    get: Callable[[str], Any], solver: OnlineFactorization, dictionary: Array, format_version: int
) -> Surrogate:
    c = get("surrogate/c")
    if not solver.partial_b:
        return Surrogate(c, get("surrogate/b"), None, None)
    # Version 1 held the partial B itself.
    before = format_version == 1
    residual = get("surrogate/b") - matmul(c, dictionary) if before else get("surrogate/residual")
    return Surrogate(c, None, residual, get("surrogate/feature_counts"))


def describe(value: Any, classes: Mapping[str, type[Any]] = CLASSES) -> Any:
    """JSON of a configuration: ``{"class": name, field: value, ...}`` for objects, plain values for the rest."""
    if isinstance(value, dictionary_update.GradientUpdate):
        return {"class": "GradientUpdate"}
    if dataclasses.is_dataclass(value):
        name = type(value).__name__
        if classes.get(name) is not type(value):
            raise TypeError(
                f"a model file can't hold {name}, which is not a class of jax_mmf; save state.dictionary by itself"
            )
        return {"class": name} | {f.name: describe(getattr(value, f.name), classes) for f in dataclasses.fields(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if not isinstance(value, np.ndarray | np.generic | jax.Array):
        raise TypeError(
            f"a model file can't hold {type(value).__name__}, which is not a class of jax_mmf; save state.dictionary"
        )
    array = np.asarray(value)
    return (array if array.dtype.kind in "biu" else array.astype(float)).tolist()


def build(description: Any, classes: Mapping[str, type[Any]] = CLASSES) -> Any:
    """The configuration that `describe` described."""
    if isinstance(description, dict):
        name = description["class"]
        if name == "GradientUpdate":
            raise ValueError("the model learned with an optax optimiser, which a file can't hold; give solver=")
        if name not in classes:
            raise ValueError(f"the model has a part {name!r} that this version of jax-mmf does not know")
        if classes[name] is OnlineFactorization and not {"penalty", "constraint"} <= description.keys():
            raise ValueError("the solver in the model lacks its penalty or its constraint")  # defaults may be others
        return classes[name](**{k: build(v, classes) for k, v in description.items() if k != "class"})
    return np.asarray(description) if isinstance(description, list) else description
