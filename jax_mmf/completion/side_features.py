"""Features of users and items that `Ratings` hold: one row of numbers for each id, NaN where a number is unknown."""

from typing import Any

import numpy as np

from jax_mmf.completion.labels import Labels, positions_or_warning
from jax_mmf.typing import HostArray

_MOST = 1000  # columns
_ROUNDING = 1e-3  # largest error, in units of the range of a column


def described(name: str, labels: Labels, features: Any, ids: Any) -> tuple[Labels, HostArray | None]:
    """Return ids with new ones added, and features in their order.

    Args:
      name: ``"user"`` or ``"item"``, for messages.
      labels: known ids.
      features: as in `Ratings.with_features`, or None.
      ids: of the rows of the features, or None for those of labels.

    Returns:
      the ids, and ``(n, p)`` float32 or None.
    """
    if features is None:
        if ids is not None:
            raise ValueError(f"{name}s are the ids of {name}_features, which must be given too")
        return labels, None
    rows = _index(name, labels, features) if ids is None else Labels(ids)
    positions_or_warning(f"{name}s", labels, rows.values)
    values = _matrix(f"{name}_features", features)
    if len(values) != len(rows):
        raise ValueError(
            f"{name}_features must have one row for each of {len(rows)} ids, got {len(values)}; give the ids of the "
            f"rows as {name}s"
        )
    joined = labels.union(rows)
    return joined, aligned(values, rows, joined)


def _index(name: str, labels: Labels, features: Any) -> Labels:
    """Return the ids of the rows of features: the index of a frame, unless it numbers the rows, or all known ids."""
    index = getattr(features, "index", None)
    if index is None or callable(index) or _numbers_rows(index):
        return labels
    try:
        rows = Labels(index)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}_features has an index that can't be ids: {error}; give {name}s=") from error
    if (labels.positions(rows.values) < 0).all():
        (came,), (example,) = rows.values[:1].tolist(), labels.values[:1].tolist()
        raise ValueError(
            f"{name}_features has an index without any known id: it holds {came!r}, and the ids are such as "
            f"{example!r}; give the ids of the rows as {name}s, or drop the index with reset_index(drop=True)"
        )
    return rows


def _numbers_rows(index: Any) -> bool:
    values = np.asarray(index)
    return values.dtype.kind in "iu" and np.array_equal(values, np.arange(len(values)))


def aligned(features: HostArray | None, old: Labels, new: Labels) -> HostArray | None:
    """Return features ``(n, p)`` in the order of other ids, NaN for ids that have none."""
    if features is None or old is new:
        return features
    at = old.positions(new.values)
    return np.where((at >= 0)[:, None], features[at], np.nan).astype(np.float32)


def updated(old: HostArray | None, new: HostArray | None) -> HostArray | None:
    """Return the new features, and the old ones where the new ones are unknown; both ``(n, p)`` or None."""
    if old is None or new is None:
        return new if old is None else old
    if old.shape != new.shape:
        raise ValueError(f"features must have the same columns in both, got {old.shape[1]} and {new.shape[1]}")
    return np.asarray(np.where(np.isnan(new), old, new))


def has_features(features: HostArray | None, n: int) -> HostArray:
    """Whether some feature of each of n users or items is known: ``(n,)`` booleans."""
    return np.zeros(n, bool) if features is None else np.asarray(np.isfinite(features).any(1))


def _matrix(name: str, features: Any) -> HostArray:
    """Convert features to ``(n, p)`` float32."""
    shape = getattr(features, "shape", None) or np.shape(features)
    if len(shape) != 2:
        raise ValueError(f"{name} must have two axes (n, p), got shape {shape}")
    if shape[1] > _MOST:
        raise ValueError(
            f"{name} must have at most {_MOST} columns, got {shape[1]}; reduce them, for example with "
            "sklearn.decomposition.TruncatedSVD"
        )
    features = features.toarray() if hasattr(features, "toarray") else features
    masked = np.ma.getmaskarray(features) if isinstance(features, np.ma.MaskedArray) else None
    if np.iscomplexobj(features):
        raise TypeError(f"{name} must be real numbers, got complex ones; use real and imaginary parts as two features")
    try:
        with np.errstate(over="ignore"):  # infinity is an error below
            array = np.asarray(features, np.float32)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be numbers: {error}; encode text, for example with pandas.get_dummies") from error
    array = array if masked is None else np.where(masked, np.float32(np.nan), array)
    if np.isinf(array).any():
        raise ValueError(f"{name} must be finite numbers that fit into float32, or NaN where they are unknown")
    _check_digits(name, np.asarray(features), array)
    return array


def _check_digits(name: str, given: HostArray, rounded: HostArray) -> None:
    """Raise ValueError for a column whose rounding to float32 is not small against its range."""
    if given.dtype == np.float32:
        return
    for column, numbers in enumerate(rounded.T):
        there = np.isfinite(numbers)
        exact = np.asarray(given[:, column], np.float64)[there]
        span = np.ptp(exact) if len(exact) else 0
        if span and np.abs(exact - numbers[there]).max() > _ROUNDING * span:
            raise ValueError(
                f"{name} lose digits as float32 in column {column}, whose numbers differ by at most {span:g}; subtract "
                "their mean first"
            )
