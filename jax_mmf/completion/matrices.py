"""Matrices and frames as triplets: the arguments of `Ratings.from_triplets`."""

from typing import Any

import numpy as np

from jax_mmf.completion.columns import from_objects
from jax_mmf.completion.labels import Labels


def sparse_triplets(matrix: Any, user_ids: Any, item_ids: Any) -> dict[str, Any]:
    """Convert a SciPy sparse matrix; see `Ratings.from_scipy`."""
    if not hasattr(matrix, "tocoo"):
        raise TypeError(f"matrix must be a SciPy sparse matrix, got {type(matrix).__name__}; use from_dense")
    if len(matrix.shape) != 2:
        raise ValueError(f"matrix must have 2 axes, users and items, got shape {matrix.shape}")
    coo = matrix.tocoo(copy=False)
    return _triplets(coo.row, coo.col, coo.data, *_labels(coo.shape, user_ids, item_ids))


def dense_triplets(matrix: Any, user_ids: Any, item_ids: Any) -> dict[str, Any]:
    """Convert an array or a frame with missing entries; see `Ratings.from_dense`."""
    if hasattr(matrix, "tocoo"):
        raise TypeError("matrix must be dense, got a sparse one; use from_scipy")
    if hasattr(matrix, "columns"):
        user_ids = getattr(matrix, "index", None) if user_ids is None else user_ids
        item_ids = matrix.columns if item_ids is None else item_ids
    masked = np.ma.getmaskarray(matrix) if isinstance(matrix, np.ma.MaskedArray) else None
    dense = np.asarray(np.ma.getdata(matrix))
    if dense.ndim != 2:
        raise ValueError(f"matrix must have 2 axes, users and items, got shape {dense.shape}")
    if dense.dtype == object:
        dense = from_objects(dense.ravel()).reshape(dense.shape)
    if dense.dtype.kind not in "iufb":
        raise TypeError(f"matrix must hold real numbers, got dtype {dense.dtype}")
    missing = np.isnan(dense) if dense.dtype.kind == "f" else np.zeros(dense.shape, bool)
    rows, columns = np.nonzero(~(missing if masked is None else missing | masked))
    return _triplets(rows, columns, dense[rows, columns], *_labels(dense.shape, user_ids, item_ids))


def frame_triplets(frame: Any, names: dict[str, str | None]) -> dict[str, Any]:
    """Select columns of a frame; ``names`` are the arguments of `Ratings.from_frame`."""
    fields = getattr(getattr(frame, "dtype", None), "names", None)  # of a structured array
    fields = getattr(frame, "column_names", None) if fields is None else fields  # of a table of pyarrow
    try:
        known = list(fields or (frame.columns if hasattr(frame, "columns") else frame))
    except TypeError:
        raise TypeError(f"frame must have named columns, as a pandas frame or a dictionary, got {frame!r}") from None
    found = {}
    for argument, name in names.items():
        if name is not None and name not in known:
            raise ValueError(
                f"{argument}={name!r} is not a column of the frame, which has {', '.join(map(str, known))}"
            )
        found[argument] = None if name is None else frame[name]
    return {f"{argument}s": column for argument, column in found.items()}


def _triplets(rows: Any, columns: Any, values: Any, users: Labels, items: Labels) -> dict[str, Any]:
    return {
        "users": users.values[rows], "items": items.values[columns], "values": values, "user_ids": users,
        "item_ids": items,
    }  # fmt: skip


def _labels(shape: tuple[int, ...], user_ids: Any, item_ids: Any) -> tuple[Labels, Labels]:
    pair = []
    for name, given, size in (("user_ids", user_ids, shape[0]), ("item_ids", item_ids, shape[1])):
        labels = Labels(np.arange(size) if given is None else given)
        if len(labels) != size:
            raise ValueError(f"{name} must hold {size} ids, to match the shape {shape} of matrix, got {len(labels)}")
        pair.append(labels)
    return pair[0], pair[1]
