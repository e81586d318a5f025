"""Files of fitted models of ratings: configuration, state and ratings in one HDF5 file."""

import json
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.completion.bpr import BPR, BPRState
from jax_mmf.completion.fitted import Fitted, make_fitted
from jax_mmf.completion.labels import Labels
from jax_mmf.completion.lookup import check_kind
from jax_mmf.completion.model import EpochRecord, Model
from jax_mmf.completion.ratings import Ratings
from jax_mmf.io import build, describe, find_data_set, opened_model, read_array, read_data_set, sealed_hdf5, write_array
from jax_mmf.typing import Array, HostArray

_FORMAT = "jax-mmf ratings model"
_FORMAT_VERSION = 1
_TEXTS = ("user_ids", "item_ids")
_COLUMNS = ("users", "items", "values", "weights", "timestamps")
_FEATURES = ("user_features", "item_features")


def save_model(path: str | Path, model: Fitted) -> None:
    """Write a fitted model and its ratings to a file, which appears only when it is complete.

    Args:
      path: of the file, .h5 or .hdf5, which is replaced if it exists.
      model: as `fit` returns it. The optimiser of `BPR` and its state are not written.

    Raises:
      ValueError: if the path has another ending, and for users that were folded in.
      TypeError: if model is not a `Fitted`, if ids are neither whole numbers nor text, or the configuration is of a
        custom class that is registered without a name: see `jax_mmf.register_configuration`.
      OSError: if the file can't be written.
    """
    check_kind("model", model, Fitted)
    if model.folded:
        raise ValueError(
            "model must have the users that it learned from, and these were folded in; save the model that fold_in was "
            "called on, and fold in again after load_model"
        )
    with sealed_hdf5(path) as file:
        file.attrs["format"] = _FORMAT
        file.attrs["format_version"] = _FORMAT_VERSION
        file.attrs["jax_mmf_version"] = version("jax-mmf")
        file.attrs["model"] = json.dumps(describe_model(model.model))
        file.attrs["limits"] = json.dumps(model.limits)
        file.attrs["history"] = json.dumps([list(record) for record in model.history])
        for name in _TEXTS:
            _write_ids(file, name, getattr(model.ratings, name).values)
        for name in _COLUMNS + _FEATURES:
            _write_column(file, f"ratings/{name}", getattr(model.ratings, name))
        for index, leaf in enumerate(jax.tree.leaves(_kept(model.state))):
            write_array(file, f"state/{index}", leaf)


def is_recommender(path: str | Path) -> bool:
    """Whether a file was written by `save_model`."""
    with suppress(OSError), h5py.File(path, "r") as file:
        return str(file.attrs.get("format")) == _FORMAT
    return False


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
      BadFileError: if the file was not written by `save_model`, is damaged, or has a newer format. This is a
        ValueError.
    """
    with opened_model(path, "a model file of ratings", "/", *_TEXTS, "ratings/timestamps") as file:
        return _read(file, model)


def _read(file: h5py.File, model: Model | None) -> Fitted:
    if str(file.attrs.get("format")) != _FORMAT:
        raise ValueError("it is an HDF5 file, but not a model of ratings written by jax-mmf")
    version = int(file.attrs["format_version"])
    if version > _FORMAT_VERSION:
        raise ValueError(f"it was written by jax-mmf {file.attrs['jax_mmf_version']}; install that version or newer")
    if version < 1:
        raise ValueError(f"its format_version is {version}; the first one was 1")
    model = build(_completed(json.loads(file.attrs["model"]))) if model is None else model
    if not isinstance(model, Model):
        raise TypeError(f"its model is a {type(model).__name__}, which is not a model of ratings")
    labels = [Labels(_read_ids(file, name)) for name in _TEXTS]
    columns = [_read_column(file, f"ratings/{name}") for name in _COLUMNS + _FEATURES]
    ratings = Ratings(*labels, *columns)  # type: ignore[arg-type]
    _check_ratings(ratings)
    like = _state_like(model, ratings)
    state = jax.tree.unflatten(jax.tree.structure(_kept(like)), _read_leaves(file, jax.tree.leaves(_kept(like))))
    if isinstance(model, BPR):
        state = BPRState(state, model.transformation.init(state))
    limits, history = json.loads(file.attrs["limits"]), json.loads(file.attrs["history"])
    records = [EpochRecord(*record) for record in history]
    if not all(isinstance(value, int | float) for record in (limits or [], *records) for value in record):
        raise TypeError("its limits or its history hold something else than numbers")
    if limits is not None and not (len(limits) == 2 and limits[0] <= limits[1]):
        raise ValueError(f"its limits must be two numbers, the smaller one first, got {limits}")
    return make_fitted(model, state, ratings, None if limits is None else (limits[0], limits[1]), records)


def _state_like(model: Model, ratings: Ratings) -> Any:
    """Return shapes and dtypes of the state of a model, which depend on users, items and features alone."""
    probe = replace(ratings.select([0]), values=np.ones(1, np.float32), weights=None)
    data = model.prepare(probe)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), data))


def _read_leaves(file: h5py.File, like: list[jax.ShapeDtypeStruct]) -> list[Array]:
    """Read the arrays of a state, whose shapes and dtypes must be those of a new state."""
    leaves = [read_array(file, f"state/{index}") for index in range(len(like))]
    for index, (leaf, want) in enumerate(zip(leaves, like, strict=True)):
        if leaf.shape != want.shape or leaf.dtype != want.dtype:
            raise ValueError(
                f"its state/{index} must be {want.dtype}{list(want.shape)}, got {leaf.dtype}{list(leaf.shape)}"
            )
        if not bool(jnp.isfinite(leaf).all()):
            raise ValueError(f"its state/{index} holds NaN or infinity")
    return leaves


def _check_ratings(ratings: Ratings) -> None:
    """Raise a ValueError unless ratings have the properties that `Ratings` guarantees."""
    n = len(ratings.users)
    for name in _COLUMNS:
        column = getattr(ratings, name)
        kinds = "i" if name in ("users", "items") else "iufM" if name == "timestamps" else "f"
        if column is None and name in ("weights", "timestamps"):
            continue
        if column is None or column.shape != (n,) or n == 0 or column.dtype.kind not in kinds:
            raise ValueError(f"its ratings/{name} must be a column of {n} numbers, as the others")
        if np.isnat(column).any() if column.dtype.kind == "M" else not np.isfinite(column).all():
            raise ValueError(f"its ratings/{name} holds numbers that are not finite or dates that are missing")
    for name, size in (("users", ratings.n_users), ("items", ratings.n_items)):
        column = getattr(ratings, name)
        if column.min() < 0 or column.max() >= size:
            raise ValueError(f"its ratings/{name} must be from 0 to {size - 1}")
    for name, size in zip(_FEATURES, ratings.shape, strict=True):
        features = getattr(ratings, name)
        if features is not None and (features.ndim != 2 or len(features) != size or np.isinf(features).any()):
            raise ValueError(f"its ratings/{name} must be numbers, a row for each of {size} ids")
    pairs = ratings.users.astype(np.int64) * ratings.n_items + ratings.items
    if (np.diff(pairs) <= 0).any():
        raise ValueError("its ratings must be sorted by user and item, and hold each pair once")
    if ratings.weights is not None and (ratings.weights < 0).any():
        raise ValueError("its ratings/weights must not be negative")
    for name in _TEXTS:
        ids = getattr(ratings, name).values
        if ids.ndim != 1 or len(set(ids.tolist())) != len(ids):
            raise ValueError(f"its {name} must differ from each other")


def _completed(description: Any) -> Any:
    """Add what a description lacks that was written before priors were learned."""
    return {"learned_prior": False} | description if description["class"] == "ExplicitALS" else description


def describe_model(model: Model) -> Any:
    """Return the configuration of a model as its class and its fields, for JSON; without the optimiser of `BPR`."""
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
    found = find_data_set(file, name, follow_external=False)
    if found is None:
        return None
    column, dates = read_data_set(file, name), found.attrs.get("dates")
    return column if dates is None else column.astype(str(dates))


def _write_ids(file: h5py.File, name: str, ids: HostArray) -> None:
    if ids.dtype.kind in "iu":
        file[name] = ids
    elif all(isinstance(i, str) and "\0" not in i for i in ids.tolist()):
        file.create_dataset(name, data=ids.astype(object), dtype=h5py.string_dtype())
    else:
        raise TypeError(f"{name} must be whole numbers or text without NUL to be written, got {ids[0]!r} among them")


def _read_ids(file: h5py.File, name: str) -> HostArray:
    ids = read_data_set(file, name)
    if ids.dtype.kind in "iu":
        return ids
    if h5py.check_string_dtype(file[name].dtype) is None:
        raise TypeError(f"its {name} must be whole numbers or text, got {ids.dtype}")
    return np.array([text.decode() for text in ids.tolist()], object)
