"""Conversion of data of other libraries to arrays: frames, tensors, sparse matrices and lists.

This module imports none of the libraries: data can only come from a library that is already imported.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jax_mmf.typing import HostArray

_LARGEST_DENSE = 2**33  # bytes; a larger dense array may not fit into memory


def is_instance(value: Any, module: str, *names: str) -> bool:
    """Whether a value is an instance of some classes of a module, which need not be installed."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, tuple(getattr(loaded, name) for name in names))


def is_scipy_sparse(value: Any) -> bool:
    """Whether a value is a sparse matrix or array of SciPy."""
    scipy_sparse = sys.modules.get("scipy.sparse")
    return scipy_sparse is not None and scipy_sparse.issparse(value)


def is_frame(value: Any) -> bool:
    """Whether a value is a table with named columns in memory, such as those of pandas, polars and pyarrow."""
    return _is_arrow(value) or (callable(getattr(value, "to_numpy", None)) and hasattr(value, "columns"))


def is_in_memory(value: Any) -> bool:
    """Whether a value is an array, or a table or tensor that can be converted to one as a whole."""
    is_array = isinstance(value, np.ndarray | jax.Array)
    return is_array or is_frame(value) or _is_jax_sparse(value) or _is_tensor(value)


def as_array(name: str, value: Any) -> HostArray | jax.Array:
    """Convert data to an array: JAX arrays are returned as they are, other data as arrays in host memory.

    Missing values of frames become NaN, and sparse matrices become dense.

    Args:
      name: of the argument, as the user wrote it.
      value: an array, frame, tensor, sparse matrix, number, or nested list of numbers.

    Returns:
      the array, whose dtype may be anything: see `jax_mmf.core.validation.check_real_dtype`.

    Raises:
      TypeError: for data that can't be converted, and frames with columns that do not hold numbers.
      ValueError: for masked arrays with masked entries, and sparse matrices that are too large to be dense.
    """
    if isinstance(value, jax.Array | np.memmap):
        return value
    if hasattr(value, "__jax_array__"):
        return value.__jax_array__()
    for row in value if isinstance(value, list | tuple) else [value]:
        _refuse_masked(name, row)
    convert = next((convert for has_type, convert in _CONVERSIONS if has_type(value)), _by_numpy)
    return convert(name, value)


def in_native_order(array: HostArray) -> HostArray:
    """Return an array in the byte order of this machine."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def feature_names(value: Any) -> tuple[str, ...] | None:
    """Return the column names of a frame or a labelled array; None if it has none, or only the numbers 0, 1, 2, ..."""
    if _is_arrow(value):
        return tuple(value.schema.names)
    if is_frame(value):
        labels = list(value.columns)
    elif is_instance(value, "xarray", "DataArray") and value.ndim == 2 and value.dims[1] in value.coords:
        labels = value.coords[value.dims[1]].values.tolist()
    else:
        return None
    return None if labels == list(range(len(labels))) else tuple(map(str, labels))


def text_of(value: Any) -> str:
    """Describe a value for error messages, with the method to call first if it is lazy."""
    name = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    for method in ("collect", "compute"):  # of lazy frames, in polars and in dask
        if hasattr(value, method) and not isinstance(value, Mapping):
            return f"{name}; call .{method}() first"
    return name


def _is_arrow(value: Any) -> bool:
    return is_instance(value, "pyarrow", "Table", "RecordBatch")


def _is_jax_sparse(value: Any) -> bool:
    return is_instance(value, "jax.experimental.sparse", "JAXSparse")


def _is_tensor(value: Any) -> bool:
    return is_instance(value, "torch", "Tensor")


def _refuse_masked(name: str, value: Any) -> None:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(
            f"{name} has {np.ma.count_masked(value)} masked entries, whose values are undefined; fill them in, call "
            "encode with x.data and mask=~x.mask, or see jax_mmf.completion for missing values"
        )


def _by_numpy(name: str, value: Any) -> HostArray:
    try:
        # asarray converts subclasses, such as np.matrix, whose operators and indices mean something else.
        array = np.asarray(value)
    except Exception as error:
        raise TypeError(f"{name} must be an array of real numbers; got {type(value).__name__}: {error}") from error
    if array.dtype.hasobject and array.ndim == 0:
        raise TypeError(f"{name} must be an array of real numbers; got {text_of(value)}")
    return array


def _dense(name: str, matrix: Any) -> HostArray | jax.Array:
    n_bytes = np.prod(matrix.shape, dtype=float) * matrix.dtype.itemsize
    if n_bytes > _LARGEST_DENSE:
        raise ValueError(
            f"{name} is sparse, of shape {tuple(matrix.shape)}, and would take {n_bytes / 1e9:.0f} GB as a dense "
            "array; pass some of its rows at a time"
        )
    return matrix.todense() if _is_jax_sparse(matrix) else matrix.toarray()


def _values_of_tensor(name: str, tensor: Any) -> HostArray:
    tensor = tensor.detach().cpu()
    tensor = tensor.to_dense() if "sparse" in str(tensor.layout) else tensor
    # NumPy has no bfloat16.
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def _values_of_frame(name: str, frame: Any) -> HostArray:
    if is_instance(frame, "pandas", "DataFrame"):
        is_number = sys.modules["pandas"].api.types.is_numeric_dtype
        _check_columns(name, [(c, t) for c, t in zip(frame.columns, frame.dtypes, strict=True) if not is_number(t)])
        array = frame.to_numpy()
        # Columns of different or nullable dtypes give an array of Python objects.
        return frame.to_numpy(np.float64, na_value=np.nan) if array.dtype.hasobject else array
    if is_instance(frame, "polars", "DataFrame"):
        boolean = sys.modules["polars"].Boolean
        _check_columns(name, [(c, t) for c, t in frame.schema.items() if not (t.is_numeric() or t == boolean)])
        array = frame.to_numpy()
        return frame.cast(sys.modules["polars"].Float64).to_numpy() if array.dtype.hasobject else array
    if _is_arrow(frame):
        return _values_of_arrow(name, frame)
    return np.asarray(frame.to_numpy())


def _values_of_arrow(name: str, table: Any) -> HostArray:
    types = sys.modules["pyarrow"].types
    kinds = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    _check_columns(name, [(f.name, f.type) for f in table.schema if not any(is_kind(f.type) for is_kind in kinds)])
    if table.num_columns == 0:
        return np.empty((table.num_rows, 0))
    columns = [column.to_numpy(zero_copy_only=False) for column in table.columns]
    # Decimals, and booleans with missing values, become Python objects.
    return np.column_stack([c.astype(float) if c.dtype.hasobject else c for c in columns])


def _check_columns(name: str, others: list[tuple[Any, Any]]) -> None:
    if others:
        column, kind = others[0]
        more = f" and {len(others) - 1} others" if len(others) > 1 else ""
        raise TypeError(f"{name} must hold real numbers; column {column!r}{more} holds {kind}: drop or convert it")


_CONVERSIONS: tuple[tuple[Callable[[Any], bool], Callable[[str, Any], Any]], ...] = (
    (is_scipy_sparse, _dense),
    (_is_jax_sparse, _dense),
    (is_frame, _values_of_frame),
    (_is_tensor, _values_of_tensor),
)
