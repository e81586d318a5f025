"""Files of fitted models of ratings: configuration, state and ratings in one HDF5 file."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np

from jax_mmf.completion.bpr import BPR, BPRState
from jax_mmf.completion.fitted import EpochRecord, Fitted, make_fitted
from jax_mmf.completion.labels import Labels
from jax_mmf.completion.model import Model
from jax_mmf.completion.ratings import Ratings
from jax_mmf.io import build, describe, hdf5_written_aside, read_array, write_array
from jax_mmf.typing import HostArray

_FORMAT = "jax-mmf ratings model"
_FORMAT_VERSION = 1
_COLUMNS = ("users", "items", "values", "weights", "timestamps")


def save_model(path: str | Path, model: Fitted) -> None:
    """Write a fitted model and its ratings to a file, which appears only when it is complete.

    Args:
      path: of the file, .h5 or .hdf5, which is replaced if it exists.
      model: as `fit` returns it. The optimiser of `BPR` and its state are not written.

    Raises:
      ValueError: if the path has another ending.
      TypeError: if ids are neither whole numbers nor text, or the configuration is of a custom class that is registered
        without a name: see `jax_mmf.register_configuration`.
      OSError: if the file can't be written.
    """
    with hdf5_written_aside(path) as file:
        file.attrs["format"] = _FORMAT
        file.attrs["format_version"] = _FORMAT_VERSION
        file.attrs["jax_mmf_version"] = version("jax-mmf")
        file.attrs["model"] = json.dumps(_described(model.model))
        file.attrs["limits"] = json.dumps(model.limits)
        file.attrs["history"] = json.dumps([list(record) for record in model.history])
        for name in ("user_ids", "item_ids"):
            _write_ids(file, name, getattr(model.ratings, name).values)
        for name in _COLUMNS:
            _write_column(file, f"ratings/{name}", getattr(model.ratings, name))
        for index, leaf in enumerate(jax.tree.leaves(_kept(model.state))):
            write_array(file, f"state/{index}", leaf)


def load_model(path: str | Path, *, model: Model | None = None) -> Fitted:
    """Read a fitted model.

    Args:
      path: of the file.
      model: the configuration, needed if it has an optax optimiser; by default that of the file. Import the modules of
        custom classes first.

    Returns:
      the model, as `fit` returned it, which `refit` can train further.

    Raises:
      FileNotFoundError: if the file does not exist.
      ValueError: if the file was not written by `save_model`, is damaged, or has a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with h5py.File(path, "r") as file:
            return _read(file, model)
    except OSError as error:
        raise ValueError(f"{path} is not a model file, or is truncated: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} can't be read as a model of ratings: {error}") from error


def _read(file: h5py.File, model: Model | None) -> Fitted:
    if str(file.attrs.get("format")) != _FORMAT:
        raise ValueError("it is an HDF5 file, but not a model of ratings written by jax-mmf")
    if file.attrs["format_version"] > _FORMAT_VERSION:
        raise ValueError(f"it was written by jax-mmf {file.attrs['jax_mmf_version']}; install that version or newer")
    model = build(json.loads(file.attrs["model"])) if model is None else model
    if not isinstance(model, Model):
        raise TypeError(f"its model is a {type(model).__name__}, which is not a model of ratings")
    labels = [Labels(_read_ids(file, name)) for name in ("user_ids", "item_ids")]
    columns = [_read_column(file, f"ratings/{name}") for name in _COLUMNS]
    ratings = Ratings(*labels, *columns)  # type: ignore[arg-type]
    like = jax.eval_shape(lambda: model.init(jax.random.key(0), model.prepare(ratings)))
    leaves = [read_array(file, f"state/{index}") for index in range(len(jax.tree.leaves(_kept(like))))]
    state = jax.tree.unflatten(jax.tree.structure(_kept(like)), leaves)
    if isinstance(model, BPR):
        state = BPRState(state, model.transformation.init(state))
    limits = json.loads(file.attrs["limits"])
    history = [EpochRecord(*record) for record in json.loads(file.attrs["history"])]
    return make_fitted(model, state, ratings, None if limits is None else (limits[0], limits[1]), history)


def _described(model: Model) -> Any:
    if isinstance(model, BPR):
        return {"class": "BPR", **{n: describe(getattr(model, n)) for n in ("n_components", "alpha", "batch_size")}}
    return describe(model)


def _kept(state: Any) -> Any:
    """Return the part of a state that is written: all except the state of an optimiser."""
    return state.model if isinstance(state, BPRState) else state


def _write_column(file: h5py.File, name: str, column: HostArray | None) -> None:
    """Write a column. HDF5 has no dates, so they become integers with their unit as an attribute."""
    if column is not None and column.dtype.kind == "M":
        file[name] = column.astype(np.int64)
        file[name].attrs["dates"] = column.dtype.str
    else:
        write_array(file, name, column)


def _read_column(file: h5py.File, name: str) -> HostArray | None:
    if name not in file:
        return None
    column, dates = file[name][...], file[name].attrs.get("dates")
    return column if dates is None else column.astype(str(dates))


def _write_ids(file: h5py.File, name: str, ids: HostArray) -> None:
    if ids.dtype.kind in "iu":
        file[name] = ids
    elif all(isinstance(i, str) and "\0" not in i for i in ids.tolist()):
        file.create_dataset(name, data=ids.astype(object), dtype=h5py.string_dtype())
    else:
        raise TypeError(f"{name} must be whole numbers or text without NUL to be written, got {ids[0]!r} among them")


def _read_ids(file: h5py.File, name: str) -> HostArray:
    stored = file[name]
    return stored.asstr()[...] if h5py.check_string_dtype(stored.dtype) else stored[...]
