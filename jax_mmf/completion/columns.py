"""Conversion and checks of columns of numbers and times, which entries have besides user and item."""

import datetime
import decimal
import numbers
from typing import Any

import numpy as np

from jax_mmf.typing import HostArray

_ADVICE = "give seconds, NumPy dates, or ISO text such as 2020-01-31 or 2020-01-31T12:00:00"


def real_column(name: str, values: Any, n: int) -> HostArray:
    """Convert ``(n,)`` finite real numbers to float32.

    Raises:
      TypeError: for data other than numbers.
      ValueError: for another shape, and numbers that are missing, not finite or too large.
    """
    array = _plain(name, values)
    if array.dtype == object:
        array = from_objects(array)
    if array.dtype.kind not in "iufb":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    _check_shape(name, array, n)
    _check_finite(name, array)
    return as_float32(name, array)


def time_column(name: str, values: Any, n: int) -> HostArray:
    """Convert ``(n,)`` times to finite real numbers or NumPy dates; ISO text and `datetime` objects become UTC dates.

    Raises:
      TypeError: for other objects, and text that is not a date.
      ValueError: for another shape, and times that are missing or infinite, which would be sorted last.
    """
    array = _plain(name, values)
    _check_shape(name, array, n)
    if array.dtype.kind in "OU":
        array = from_objects(array)
    if array.dtype.kind in "OU":
        dates = [_date(name, v, entry) for entry, v in enumerate(array.tolist())]
        array = np.array(dates, "datetime64[us]")
    if array.dtype.kind not in "iufM":
        raise TypeError(f"{name} must be numbers or dates, got dtype {array.dtype}; {_ADVICE}")
    _check_finite(name, array)
    return array


def as_float32(name: str, array: HostArray) -> HostArray:
    """Convert numbers to float32; raise ValueError if they are too large."""
    if np.abs(array).max() > np.finfo(np.float32).max:
        raise ValueError(f"{name} must fit into float32, got {np.abs(array).max():g}; scale them")
    return array.astype(np.float32)


def utc(date: datetime.datetime) -> datetime.datetime:
    """Convert a date to UTC and drop its time zone; a date without time zone stays as it is."""
    return date if date.tzinfo is None else date.astimezone(datetime.UTC).replace(tzinfo=None)


def _plain(name: str, values: Any) -> HostArray:
    if np.ma.is_masked(values):
        raise ValueError(f"{name} must not be masked; drop such entries first")
    return np.asarray(values)


def from_objects(array: HostArray) -> HostArray:
    """Convert objects ``(n,)`` to floats if all are numbers or missing (NaN), as in nullable columns of frames."""
    items = array.tolist()
    missing = [v is None or type(v).__name__ in ("NAType", "NaTType") for v in items]
    real = numbers.Real | decimal.Decimal
    if not all(m or (isinstance(v, real) and not isinstance(v, bool)) for v, m in zip(items, missing, strict=True)):
        return array
    return np.array([np.nan if m else float(v) for v, m in zip(items, missing, strict=True)])


def _date(name: str, value: Any, entry: int) -> datetime.datetime | None:
    if value is None or type(value).__name__ == "NaTType":
        return None
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime.combine(value, datetime.time())
    try:
        date = value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be numbers or dates, got {value!r} in entry {entry}; {_ADVICE}") from None
    return utc(date)


def _check_shape(name: str, array: HostArray, n: int) -> None:
    if array.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), like users, got {array.shape}")


def _check_finite(name: str, array: HostArray) -> None:
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(
            f"{name} must be finite, got {array[bad[0]]} in {bad.size} of {len(array)} entries, first in entry "
            f"{bad[0]} (counted from 0); drop them first"
        )
