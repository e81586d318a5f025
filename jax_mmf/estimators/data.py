"""Samples that a user gives to an estimator: validated by scikit-learn, and read by the library."""

from numbers import Real
from typing import Any

import h5py
import numpy as np
from sklearn.utils.validation import check_array, validate_data

from jax_mmf.core import is_in_memory, is_scipy_sparse
from jax_mmf.io import ObservedEntries, Source, as_source
from jax_mmf.typing import HostArray

_FLOATS = (np.float64, np.float32)  # those that are kept; all others become the first


def validated(estimator: Any, X: Any, *, reset: bool, allow_nan: bool = False) -> Any:
    """Validate samples, and set or check the number and the names of the features of an estimator.

    Samples in memory become an array or a CSR matrix of float32 or float64. Memory maps, `h5py.Dataset`, zarr and dask
    arrays and `jax_mmf.io.Source` objects are returned as they are: the library checks their numbers when it reads
    them.

    Args:
      estimator: whose ``n_features_in_`` and ``feature_names_in_`` are set or checked.
      X: ``(n, p)`` samples.
      reset: whether to set them, or to check against those of the fit.
      allow_nan: whether NaN is allowed, as a missing entry.

    Returns:
      the samples.

    Raises:
      ValueError: for other shapes and other features than in the fit, and for NaN or infinity, with the first place.
      TypeError: if X is not a matrix of real numbers.
    """
    if isinstance(X, Source):
        _set_features(estimator, X, reset=reset)
        return X
    if is_streamed(X):
        return validate_data(estimator, X, reset=reset, skip_check_array=True)
    return in_memory(estimator, X, reset=reset, allow_nan=allow_nan)


def in_memory(estimator: Any, X: Any, *, reset: bool, allow_nan: bool = False, name: str = "X") -> Any:
    """Validate samples as an array or a CSR matrix in memory; arguments and errors as in `validated`."""
    _check_no_dates(X)
    X = validate_data(estimator, X, reset=reset, accept_sparse="csr", dtype=_FLOATS, ensure_all_finite=False)
    check_finite(X, allow_nan=allow_nan, name=name)
    return X


def loaded(X: Any, *, allow_nan: bool = False) -> Any:
    """Return validated samples in memory, with the features in their original order; errors as in `validated`."""
    if not is_streamed(X):
        return X
    source: Any = as_source(X, "X")
    samples = source.read(np.arange(source.n_samples))
    if source.permutation is not None:
        samples = samples[:, np.argsort(source.permutation)]
    check_finite(samples, allow_nan=allow_nan)
    return samples


def spread_samples(X: Any, count: int) -> HostArray:
    """Read samples that are evenly spread over validated ones, all if there are fewer, as a dense array."""
    source: Any = as_source(X, "X")
    rows = np.unique(np.linspace(0, source.n_samples - 1, min(count, source.n_samples)).astype(int))
    samples = np.asarray(source.read(rows))
    return samples if source.permutation is None else samples[:, np.argsort(source.permutation)]


def is_streamed(X: Any) -> bool:
    """Whether samples are read from a file, a part at a time: memory maps, data sets, arrays that are lazy."""
    if isinstance(X, np.memmap):
        return X.ndim == 2 and X.dtype in _FLOATS
    if isinstance(X, h5py.Dataset | Source):
        return True
    shaped = isinstance(getattr(X, "shape", None), tuple) and len(X.shape) == 2 and hasattr(X, "__getitem__")
    return shaped and hasattr(X, "chunks") and not is_in_memory(X) and not is_scipy_sparse(X)


def dtype_of(X: Any, wanted: Any) -> np.dtype[Any]:
    """Return the dtype of the computation: the user's, or that of the samples.

    Args:
      X: validated samples.
      wanted: float32, float64, or None.

    Raises:
      TypeError: for another dtype.
    """
    if wanted is None:
        return np.dtype(np.float32 if np.dtype(X.dtype) == np.float32 else np.float64)
    try:
        dtype = np.dtype(wanted)
    except TypeError as error:
        raise TypeError(f"dtype must be None, float32 or float64, got {wanted!r}") from error
    if dtype not in _FLOATS:
        raise TypeError(f"dtype must be None, float32 or float64, got {wanted!r}")
    return dtype


def n_samples_of(X: Any) -> int:
    """Return the number of samples."""
    return int(X.n_samples if isinstance(X, Source) else X.shape[0])


def check_missing_values(missing_values: Any) -> None:
    """Raise ValueError unless missing values are NaN, a finite number, or None."""
    if missing_values is None:
        return
    number = isinstance(missing_values, Real) and not isinstance(missing_values, bool | np.bool_)
    if not number or np.isinf(float(missing_values)):
        raise ValueError(
            f"missing_values must be np.nan, a finite number, or None for no missing values; got {missing_values!r}"
        )


def observed(X: Any, missing_values: float | None) -> Any:
    """Return the mask of the known entries: an array or a source of ones and zeros.

    Args:
      X: validated samples.
      missing_values: the value of missing entries; None if there are none, for a mask of None.
    """
    if missing_values is None:
        return None
    mask = ObservedEntries(X, missing_values)
    return mask if is_streamed(X) or is_scipy_sparse(X) else mask.read(np.arange(mask.n_samples))


def sample_weights(sample_weight: Any, n_samples: int) -> HostArray | None:
    """Return weights of samples as an array, or None; a number is the weight of each sample.

    Raises:
      ValueError: for another shape, negative or infinite weights, and if all of them are zero.
    """
    if sample_weight is None:
        return None
    if isinstance(sample_weight, Real):
        sample_weight = np.full(n_samples, float(sample_weight))
    weights = check_array(sample_weight, dtype=_FLOATS, ensure_2d=False, input_name="sample_weight")
    if weights.shape != (n_samples,):
        raise ValueError(f"sample_weight must have shape (n_samples,) = ({n_samples},), got {weights.shape}")
    if (weights < 0).any():
        raise ValueError(f"sample_weight must be >= 0, got {weights.min()}")
    if not weights.any():
        raise ValueError("sample_weight must be above zero for some samples; all weights are zero")
    return weights


def check_finite(X: Any, *, allow_nan: bool = False, name: str = "X") -> None:
    """Raise for NaN and infinity in an array or a CSR matrix in memory.

    Raises:
      ValueError: with the first sample and feature that is not finite.
    """
    values = X.data if is_scipy_sparse(X) else X
    refused = np.isinf if allow_nan else _not_finite
    # Both propagate NaN.
    if np.isfinite([values.min(initial=0), values.max(initial=0)]).all() or not refused(values).any():
        return
    i, j = _first_place(X, refused)
    value = X[i, j]
    what = "NaN" if np.isnan(value) else "infinity (inf)"
    impute = (
        "impute it, for instance with sklearn.impute.SimpleImputer, or leave the entry out: missing_values=np.nan of "
        "OnlineNMF and OnlineDictionaryLearning, and MatrixCompletion, learn from matrices with missing entries"
    )
    advice = impute if np.isnan(value) else "clean the data first"
    raise ValueError(f"Input {name} contains {what} at sample {i}, feature {j}; {advice}")


def _check_no_dates(X: Any) -> None:
    """Raise TypeError for dates and times, which would become numbers of an arbitrary unit."""
    dtypes = getattr(X, "dtypes", None)
    for dtype in [getattr(X, "dtype", None)] if dtypes is None else dtypes:
        temporal = getattr(dtype, "is_temporal", None)  # of polars
        if getattr(dtype, "kind", "") in ("M", "m") or (temporal is not None and temporal()):
            raise TypeError(f"X must hold numbers, got {dtype}; convert dates and times to numbers of a unit first")


def _not_finite(values: HostArray) -> HostArray:
    return ~np.isfinite(values)


def _first_place(X: Any, refused: Any) -> tuple[int, int]:
    if not is_scipy_sparse(X):
        i, j = np.argwhere(refused(X))[0]
        return int(i), int(j)
    at = int(np.flatnonzero(refused(X.data))[0])
    return int(np.searchsorted(X.indptr, at, side="right")) - 1, int(X.indices[at])


def _set_features(estimator: Any, source: Source, *, reset: bool) -> None:
    """Set or check the number and the names of the features, as scikit-learn does for arrays and frames."""
    names = getattr(source, "feature_names", None)
    if reset:
        estimator.n_features_in_ = int(source.n_features)
        if names is not None:
            estimator.feature_names_in_ = np.asarray(names, object)
        elif hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
        return
    expected = getattr(estimator, "n_features_in_", source.n_features)
    if source.n_features != expected:
        raise ValueError(
            f"X has {source.n_features} features, but {type(estimator).__name__} is expecting {expected} features as "
            "input"
        )
    known = getattr(estimator, "feature_names_in_", None)
    if names is not None and known is not None and list(names) != list(known):
        raise ValueError("The feature names should match those that were passed during fit")
