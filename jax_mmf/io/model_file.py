"""Model files: a solver, its state and the history of its run in one HDF5 file, from which a run can be resumed."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.core import (
    check_process,
    check_shape,
    configuration_name,
    configuration_named,
    is_typed_key,
    matmul,
)
from jax_mmf.io.bad_file import BadFileError
from jax_mmf.io.hdf5_checks import MAX_EXPANSION, check_data_set, find_data_set
from jax_mmf.io.record import Record, as_record
from jax_mmf.io.sealed import opened_model, sealed_hdf5
from jax_mmf.learning import GradientUpdate, OnlineFactorization, State, last_count, map_arrays
from jax_mmf.penalties import has_relative_alpha
from jax_mmf.typing import Array, HostArray

_FORMAT = "jax-mmf model"
_FORMAT_VERSION = 3


class SavedModel(NamedTuple):
    """What a model file holds.

    Attributes:
      solver: the configuration.
      state: after the last step.
      history: a `Record` per evaluation of the run.
      run: arguments of `jax_mmf.fit` that the run had, such as ``batch_size`` and ``held_out``; empty if the file does
        not contain them.

    Example:
      >>> import jax, pathlib, tempfile, jax_mmf as mmf
      >>> solver = mmf.OnlineFactorization(n_components=2)
      >>> state = solver.init(jax.random.key(0), dictionary=jax.numpy.eye(2, 8))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     mmf.save_model(pathlib.Path(folder) / "model.h5", solver, state)
      ...     model = mmf.load_model(pathlib.Path(folder) / "model.h5")
      >>> model.solver.n_components, model.history, model.run
      (2, [], {})
      >>> mmf.encode(model.dictionary, jax.numpy.ones((5, 8)), model.solver.penalty).shape
      (5, 2)
    """

    solver: OnlineFactorization
    state: State
    history: list[Record]
    run: Mapping[str, Any] = MappingProxyType({})

    @property
    def dictionary(self) -> Array:
        """``(k, p)`` the dictionary after the last step."""
        return self.state.dictionary


def save_model(
    path: str | Path,
    solver: OnlineFactorization,
    state: State,
    history: Iterable[Record | Mapping[str, Any]] | None = None,
    *,
    run: Mapping[str, Any] | None = None,
) -> None:
    """Write a model file. It appears under its name when it is complete.

    Args:
      path: of the file, .h5 or .hdf5, which is replaced if it exists.
      solver: made of classes of this library, and of your own classes that are registered with a name, see
        `jax_mmf.register_configuration`. (The optimiser of a `GradientUpdate` is not written.)
      state: of the solver.
      history: of the run: `Record` objects, or dictionaries of some of their fields.
      run: arguments of `jax_mmf.fit` to resume the run with, such as ``{"batch_size": 128, "held_out": 0.05}``:
        numbers, text, booleans or None by name.

    Raises:
      TypeError: if a part of the solver is of your own class without a name, or an argument in ``run`` is an array,
        which a file can't hold; or a line of the history is not a record.
      ValueError: if the path has another ending, or alpha is a `RelativeAlpha`, whose value the solver does not know.
      OSError: if the file can't be written.

    Example:
      >>> import jax, pathlib, tempfile, jax_mmf as mmf
      >>> solver = mmf.OnlineFactorization(n_components=2)
      >>> state = solver.init(jax.random.key(0), dictionary=jax.numpy.eye(2, 8))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     mmf.save_model(pathlib.Path(folder) / "model.h5", solver, state)
      ...     model = mmf.load_model(pathlib.Path(folder) / "model.h5")
      >>> model.solver == solver
      True
    """
    write_model(path, solver, state, history, run)


def write_model(
    path: str | Path,
    solver: OnlineFactorization,
    state: State,
    history: Iterable[Record | Mapping[str, Any]] | None,
    run: Mapping[str, Any] | None,
    *more: Callable[[h5py.File], None],
) -> None:
    """Write a model file as `save_model` does, with additional content."""
    if has_relative_alpha(solver.penalty):
        raise ValueError(
            "solver.penalty has a RelativeAlpha, which has no value yet; save result.solver, where fit has replaced it "
            "by a number"
        )
    configuration = json.dumps(describe(solver))
    arguments = json.dumps({name: _plain(name, value) for name, value in (run or {}).items()})
    lines = json.dumps([_line(record) for record in history or ()])
    with sealed_hdf5(path) as file:
        file.attrs["format"] = _FORMAT
        file.attrs["format_version"] = _FORMAT_VERSION
        file.attrs["jax_mmf_version"] = version("jax-mmf")
        file.attrs["solver"] = configuration
        file.attrs["history"] = lines
        file.attrs["run"] = arguments
        typed = is_typed_key(state.key)
        file["key"] = np.asarray(jax.random.key_data(state.key) if typed else state.key)
        file["key"].attrs["implementation"] = str(jax.random.key_impl(state.key)) if typed else "raw"
        map_arrays(lambda name, _, array: write_array(file, name, array), state)
        for write in more:
            write(file)


def load_model(path: str | Path, *, solver: OnlineFactorization | None = None) -> SavedModel:
    """Read a model file.

    Args:
      path: of the file.
      solver: instead of the one in the file, for models whose solver a file can't hold. Without it, import the modules
        of your own classes first.

    Returns:
      the model, which `jax_mmf.fit` can continue: ``fit(model.solver, data, state=model.state, **model.run)``.

    Raises:
      FileNotFoundError: if the file does not exist.
      BadFileError: if it is not a model file, is damaged, has a newer format, needs a class that is not registered,
        holds arrays that do not fit its solver or numbers that are not finite, or holds float64 numbers without
        ``jax_enable_x64``. This is a ValueError.

    Example:
      >>> import jax, pathlib, tempfile, jax_mmf as mmf
      >>> solver = mmf.OnlineFactorization(n_components=2)
      >>> state = solver.init(jax.random.key(0), dictionary=jax.numpy.eye(2, 8))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     mmf.save_model(pathlib.Path(folder) / "model.h5", solver, state)
      ...     model = mmf.load_model(pathlib.Path(folder) / "model.h5")
      >>> model.state.dictionary.shape
      (2, 8)
    """
    check_process()
    with opened_model(path, "a model file of jax-mmf", "/", "key") as file:
        return read_model(file, solver)


def needs_x64(path: str | Path) -> bool:
    """Whether a model file holds float64 numbers, which JAX reads only after ``jax_enable_x64``."""
    with suppress(OSError, ValueError), opened_model(path, "a model file") as file:
        return any(name in file and file[name].dtype == np.float64 for name in ("dictionary", "state/0"))
    return False


def write_array(file: h5py.File, name: str, value: Any) -> None:
    """Write an array, unless it is None."""
    if value is not None:
        file[name] = np.asarray(value)


def read_array(file: h5py.File, name: str) -> Array:
    """Read an array to the device.

    Raises:
      ValueError: if it does not exist or is damaged, or if it holds float64 numbers without ``jax_enable_x64``.
    """
    stored = read_data_set(file, name)
    if stored.dtype.kind not in "biuf":
        raise ValueError(f"its {name} must hold integers, float32 or float64, got {_name_of(stored.dtype)}")
    if stored.dtype == np.float64 and jax.dtypes.canonicalize_dtype(stored.dtype) != np.float64:
        raise ValueError(
            'it holds float64 numbers, which JAX rounds to float32 without jax.config.update("jax_enable_x64", True)'
        )
    return jnp.asarray(stored)


def read_data_set(file: h5py.File, name: str) -> HostArray:
    """Read an array, after a check that the file holds all of it.

    Raises:
      ValueError: if it does not exist or is damaged.
    """
    found = find_data_set(file, name, follow_external=False)
    if not isinstance(found, h5py.Dataset):
        raise BadFileError(f"it has no {name}")
    check_data_set(found, f"its {name}", follow_external=False, fill_missing=False, max_expansion=MAX_EXPANSION)
    stored: HostArray = found[...]
    return stored


def _name_of(dtype: np.dtype[Any]) -> str:
    # bfloat16 is unknown to HDF5, which keeps its two bytes without a meaning.
    return "bytes (bfloat16?); cast the state to float32 before it is saved" if dtype.kind == "V" else str(dtype)


def _line(record: Any) -> dict[str, Any]:
    """A line of the history for JSON."""
    if isinstance(record, Mapping) and set(record) <= set(Record._fields):
        record = as_record(record)
    if not isinstance(record, Record):
        names = ", ".join(Record._fields)
        raise TypeError(f"history must hold Records, or dictionaries with some of {names}; got {record!r}")
    return record._asdict()


def _plain(name: str, value: Any) -> Any:
    """A value of ``run`` for JSON."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError(
            f"run[{name!r}] must be a number, text, a boolean or None to be kept, got {type(value).__name__}"
        )
    return value


def read_model(file: h5py.File, solver: OnlineFactorization | None) -> SavedModel:
    """Read the model in an open file; arguments and errors as in `load_model`."""
    if str(file.attrs.get("format")) == "jax-mmf ratings model":
        raise ValueError("it is a model of ratings, for jax_mmf.completion.load_model")
    if str(file.attrs.get("format")) != _FORMAT:
        raise ValueError("it is an HDF5 file, but not a model written by jax-mmf")
    version = int(file.attrs["format_version"])
    if version > _FORMAT_VERSION:
        raise ValueError(f"it was written by jax-mmf {file.attrs['jax_mmf_version']}; install that or newer")
    if version < 1:
        raise ValueError(f"its format_version is {version}; the first one was 1")
    solver = build(json.loads(file.attrs["solver"])) if solver is None else solver
    if not isinstance(solver, OnlineFactorization):
        raise TypeError(f"its solver is a {type(solver).__name__}")
    history, run = json.loads(file.attrs["history"]), json.loads(file.attrs.get("run", "{}"))
    if not isinstance(history, list) or not isinstance(run, dict):
        raise TypeError("its history is not a list, or its run is not a dictionary")
    if not all(value is None or isinstance(value, bool | int | float | str) for value in run.values()):
        raise TypeError("its run holds something else than numbers, text, booleans and None")
    return SavedModel(solver, _read_state(file, solver), [as_record(line) for line in history], run)


def _read_state(file: h5py.File, solver: OnlineFactorization) -> State:
    implementation = file["key"].attrs["implementation"]
    key = read_array(file, "key")
    if implementation != "raw":
        key = jax.random.wrap_key_data(key, impl=implementation)
    jax.eval_shape(jax.random.bits, key)  # raises unless it is a key
    dictionary = read_array(file, "dictionary")
    check_shape("dictionary", dictionary, (solver.n_components, None), "(n_components, n_features)")
    if not jnp.issubdtype(dictionary.dtype, jnp.floating):
        raise ValueError(f"its dictionary must hold real numbers, got {dictionary.dtype}")

    def read(name: str, axes: str | None, like: jax.ShapeDtypeStruct) -> Array:
        if name == "surrogate/residual" and file.attrs["format_version"] == 1:  # which held the partial B itself
            array = read_array(file, "surrogate/b") - matmul(read_array(file, "surrogate/c"), dictionary)
        else:
            array = read_state_array(file, "", name, like)
        if array.shape != like.shape or array.dtype != like.dtype:
            raise ValueError(f"its {name} must be {like.dtype}{list(like.shape)}, got {array.dtype}{list(array.shape)}")
        if not bool(jnp.isfinite(array).all()):
            raise ValueError(f"its {name} holds NaN or infinity")
        return array

    # All states of this solver have the same arrays as the first state from this dictionary.
    like = jax.eval_shape(lambda dictionary: solver.init(key, dictionary=dictionary), dictionary)
    state = map_arrays(read, like)._replace(key=key)
    for name, count in {"step": state.step, "n_samples": state.n_samples}.items():
        if int(count) < 0:
            raise ValueError(f"its {name} must not be negative, got {int(count)}")
    return state


def read_state_array(file: h5py.File, group: str, name: str, like: Any) -> Array:
    """Read an array of a state from the group of a file, in the dtype that states have now.

    Counts of the features were int32 up to format version 2, and stopped at 2^31 - 1. They are divided by what makes
    their ratio to the number of samples the same.
    """
    array = read_array(file, group + name)
    if name != "surrogate/feature_counts" or array.dtype != jnp.int32:
        return array
    factor = min(1.0, last_count(like.dtype) / max(1, int(read_data_set(file, f"{group}n_samples"))))
    return jnp.asarray(np.asarray(array, np.float64) * factor, like.dtype)


def describe(value: Any) -> Any:
    """JSON of a configuration: ``{"class": name, field: value, ...}`` for objects, plain values for the rest.

    Raises:
      TypeError: for objects of classes without a name, see `jax_mmf.register_configuration`.
    """
    if isinstance(value, GradientUpdate):
        return {"class": "GradientUpdate"}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) is tuple:
        return {"class": "tuple", "items": [describe(item) for item in value]}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        return (array if array.dtype.kind in "biu" else array.astype(float)).tolist()
    name = configuration_name(type(value))
    if name is None:
        kind = type(value).__name__
        if not dataclasses.is_dataclass(value):
            raise TypeError(f"a model file can't hold {kind}; use numbers, text, arrays or tuples as fields")
        raise TypeError(
            f"a model file can't hold {kind}, a class without a name in files: register it by "
            f'jax_mmf.register_configuration(name="mylab.{kind}"), or save state.dictionary alone'
        )
    return {"class": name} | {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}


def build(description: Any) -> Any:
    """The configuration that `describe` described.

    Raises:
      ValueError: for a class that is not registered, and a `GradientUpdate`, which a file does not hold.
      TypeError: for fields that are not those of the class.
    """
    if not isinstance(description, dict):
        return np.asarray(description) if isinstance(description, list) else description
    name = description["class"]
    if name == "GradientUpdate":
        raise ValueError("the model learned with an optax optimiser, which a file can't hold; give solver=")
    if name == "tuple":
        return tuple(build(item) for item in description["items"])
    cls = configuration_named(name)
    if cls is None:
        raise ValueError(
            f"it has a part {name!r}, and no class is registered under this name: import the module that does so, "
            f'with jax_mmf.register_configuration(name="{name}")'
        )
    values = {field: build(value) for field, value in description.items() if field != "class"}
    if cls is OnlineFactorization and not {"penalty", "constraint"} <= values.keys():
        raise ValueError("the solver in the model lacks its penalty or its constraint")  # defaults may be others
    return cls(**values)
