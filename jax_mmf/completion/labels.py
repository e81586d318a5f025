"""Ids of users and items: any hashable values, numbered from zero."""

import re
from collections.abc import Iterable, Mapping, Set
from functools import cached_property
from typing import Any

import numpy as np

from jax_mmf.core import warn
from jax_mmf.typing import HostArray

_WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*")
_WHOLE_FLOAT = re.compile(r"\s*[+-]?[0-9]+\.0\s*")
_SORTABLE = "iumM"  # kinds of arrays that NumPy sorts and searches as they are


def label_array(values: Any) -> HostArray:
    """Convert ids to a 1-D array, which is the same for the same ids in any container.

    Whole numbers and dates become arrays of these types. Text and other ids become an array of objects, since NumPy's
    arrays of strings drop trailing NULs, and use the space of the longest string for every element.
    """
    if isinstance(values, str | bytes | Mapping | Set) or not isinstance(values, Iterable) or _is_scalar_array(values):
        raise TypeError(f"ids must be a list or an array with one for each entry, got a {type(values).__name__}")
    values = _column(values)
    if isinstance(values, np.ma.MaskedArray):
        if np.ma.is_masked(values):
            raise ValueError("ids must not be masked; drop such entries first")
        values = values.data
    if hasattr(values, "__array__") and not isinstance(values, np.ndarray) and getattr(values, "ndim", None) == 1:
        values = np.asarray(values)
    if not isinstance(values, np.ndarray) or values.ndim != 1:
        return _from_items(list(values))
    if values.dtype.kind == "f":
        return _whole_floats(values)
    if values.dtype == np.uint64 and (len(values) == 0 or values.max() <= np.iinfo(np.int64).max):
        return values.astype(np.int64)
    if values.dtype.kind in "mM" and np.isnat(values).any():
        raise ValueError("ids must not be NaT; drop such entries first")
    return values if values.dtype.kind in _SORTABLE else _from_items(values.tolist())


def whole_or_text(cells: list[str]) -> list[int] | list[str]:
    """Convert cells to integers if all are whole numbers, or all are written as 7.0; else return them unchanged."""
    if all(map(_WHOLE.fullmatch, cells)):
        return list(map(int, cells))
    if all(map(_WHOLE_FLOAT.fullmatch, cells)):
        return [int(cell.partition(".")[0]) for cell in cells]
    return cells


def is_one_label(value: Any) -> bool:
    """Whether a value is a single id: text, a tuple, or a value that can't be iterated over."""
    return isinstance(value, str | bytes | tuple) or not isinstance(value, Iterable) or _is_scalar_array(value)


def as_labels(value: Any) -> HostArray:
    """Convert one id, or many, to a 1-D array."""
    return label_array([value] if is_one_label(value) else value)


def kind_mismatch(name: str, labels: "Labels", asked: HostArray) -> str | None:
    """Explain why all ids are unknown if their type differs: numbers for text, text for numbers, "7.0" for "7".

    Args:
      name: what the ids name, such as ``"users"``.
      labels: the known ids.
      asked: ids that are not among them.

    Returns:
      a sentence, or None for ids that may simply be new.
    """
    if len(labels) == 0 or len(asked) == 0:
        return None
    known, got = labels.kinds, _kinds(asked)
    if known & got:
        spelled = [s for v in asked[:100].tolist() if isinstance(v, str) for s in _spellings(v)]
        if not spelled or (labels.positions(spelled) < 0).all():
            return None
    (example,), (came,) = labels.values[:1].tolist(), asked[:1].tolist()
    return (
        f"none of the {len(asked)} {name} is known: they are {', '.join(sorted(got))}, such as {came!r}, and the known "
        f"ones are {', '.join(sorted(known))}, such as {example!r}; convert them"
    )


def mismatch_detail(name: str, labels: "Labels", asked: HostArray) -> str:
    """Return the sentence of `kind_mismatch` after a colon, or nothing, for the end of a message."""
    problem = kind_mismatch(name, labels, asked)
    return "" if problem is None else f": {problem}"


def positions_or_warning(name: str, labels: "Labels", asked: HostArray) -> HostArray:
    """Return the positions of ids; warn if all are unknown because their type differs: see `kind_mismatch`."""
    found = labels.positions(asked)
    problem = kind_mismatch(name, labels, asked) if (found < 0).all() else None
    if problem is not None:
        warn(problem)
    return found


def warn_if_all_unknown(name: str, labels: "Labels", asked: HostArray) -> HostArray:
    """Return the positions of ids; warn if all of several are unknown, or if one is of another type."""
    found = labels.positions(asked)
    if (found >= 0).any() or len(labels) == 0:
        return found
    problem = kind_mismatch(name, labels, asked)
    if problem is None and len(found) > 1:
        (came,), (example,) = asked[:1].tolist(), labels.values[:1].tolist()
        problem = f"none of the {len(found)} {name} is known: they are such as {came!r}, and the known ones {example!r}"
    if problem is not None:
        warn(problem)
    return found


def _kinds(labels: HostArray) -> set[str]:
    """Return the types of ids in words."""
    if labels.dtype.kind in _SORTABLE:
        return {"dates" if labels.dtype.kind in "mM" else "whole numbers"}
    words = {str: "text", int: "whole numbers"}
    return {words.get(kind, kind.__name__) for kind in map(type, labels.tolist())}


def _spellings(text: str) -> list[str]:
    """Return variants of a number or name that spreadsheets and frames write."""
    plain = text.strip()
    return [plain, plain.removesuffix(".0"), f"{plain}.0"]


def _column(values: Any) -> Any:
    """Convert a column of a frame, or of a table of pyarrow, to an array."""
    if hasattr(values, "to_pylist"):
        return values.to_numpy(zero_copy_only=False)
    return values.to_numpy() if hasattr(values, "to_numpy") else values


def _is_scalar_array(value: Any) -> bool:
    return getattr(value, "ndim", None) == 0 and hasattr(value, "item")


def _is_text(labels: HostArray) -> bool:
    return labels.dtype.kind == "O" and set(map(type, labels.tolist())) <= {str}


def _is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, NaT, or pandas.NA, whose comparisons have no truth value."""
    try:
        return value is None or bool(value != value)  # noqa: PLR0124
    except (TypeError, ValueError):
        return type(value).__name__ == "NAType"


def _whole_floats(values: HostArray) -> HostArray:
    if not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        raise ValueError("ids must not be NaN, infinite or fractions; drop such entries first")
    limit = 2 ** (np.finfo(values.dtype).nmant + 1)
    if len(values) and np.abs(values).max() >= limit:
        raise ValueError(
            f"ids of dtype {values.dtype} must be below {limit}, since it rounds larger ones, got "
            f"{np.abs(values).max():.17g}; pass them as integers or as text"
        )
    return values.astype(np.int64)


def _whole_numbers(items: list[int]) -> HostArray:
    low, high = min(items), max(items)
    if np.iinfo(np.int64).min <= low and high <= np.iinfo(np.int64).max:
        return np.array(items, np.int64)
    return np.array(items, np.uint64) if low >= 0 and high <= np.iinfo(np.uint64).max else _objects(items)


def _from_items(items: list[Any]) -> HostArray:
    if not set(map(type, items)) <= {str, bytes, int, float}:
        items = [v.item() if _is_scalar_array(v) and getattr(v.dtype, "kind", "") not in "mM" else v for v in items]
    kinds = set(map(type, items))
    if kinds and all(issubclass(kind, int | float) and kind is not bool for kind in kinds):
        if all(isinstance(v, int) or (v.is_integer() and abs(v) < 2**53) for v in items):
            return _whole_numbers(list(map(int, items)))
    elif kinds in ({np.datetime64}, {np.timedelta64}):
        return label_array(np.array(items))
    if not kinds <= {str, bytes}:
        for item in items:
            _check_id(item)
    return _objects(items)


def _check_id(item: Any) -> None:
    try:
        hash(item)
    except TypeError:
        raise ValueError(f"ids must be hashable, got {item!r}") from None
    if _is_missing(item) or (isinstance(item, float) and not np.isfinite(item)):
        raise ValueError(f"ids must not be None, NaN or infinite, got {item!r}; drop such entries first")


def _objects(items: list[Any]) -> HostArray:
    array = np.empty(len(items), dtype=object)
    for position, item in enumerate(items):
        array[position] = item
    return array


def _comparable(left: np.dtype[Any], right: np.dtype[Any]) -> bool:
    """Whether NumPy compares ids of two dtypes exactly; int64 and uint64 are rounded to float64."""
    both = "".join(sorted({left.kind, right.kind}))
    return both in ("i", "u", "m", "M") or (both == "iu" and np.result_type(left, right).kind != "f")


class Labels:
    """The ids of users or of items, in the order of their positions.

    Args:
      values: ids, all different.

    Raises:
      ValueError: if an id occurs twice, is NaN or None, or can't be hashed.
      TypeError: for a single string, a dictionary or a set.
    """

    def __init__(self, values: Any) -> None:
        self.values = label_array(values)
        if self._is_sorted:
            return
        if len(self._index) != len(self.values):
            raise ValueError("ids must all be different")

    @classmethod
    def factorize(cls, values: Any) -> tuple["Labels", HostArray]:
        """Return the distinct ids, and the position of each value among them: ``(n,)`` int32.

        Numbers, dates and text are numbered in ascending order, other ids by their first occurrence.
        """
        array = label_array(values)
        if array.dtype.kind in _SORTABLE:
            distinct, positions = np.unique(array, return_inverse=True)
            return cls(distinct), positions.astype(np.int32)
        index: dict[Any, int] = {}
        numbered = np.fromiter((index.setdefault(v, len(index)) for v in array), np.int32, len(array))
        labels = _objects(list(index))
        if not _is_text(labels):
            return cls(labels), numbered
        order = np.argsort(labels, kind="stable")
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        return cls(labels[order]), rank[numbered]

    def __repr__(self) -> str:
        first = ", ".join(map(repr, self.values[:3].tolist()))
        return f"Labels({len(self):,} ids: {first}{', ...' if len(self) > 3 else ''})"

    def __len__(self) -> int:
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Labels) or len(self) != len(other):
            return False
        return bool((self.positions(other.values) == np.arange(len(self))).all())

    __hash__ = None  # type: ignore[assignment]

    def positions(self, values: Any) -> HostArray:
        """Return the positions of ids ``(n,)`` int32, -1 for unknown ids. A single id counts as a list of one."""
        array = as_labels(values)
        if self._is_sorted and len(self) > 0 and _comparable(array.dtype, self.values.dtype):
            found = np.minimum(np.searchsorted(self.values, array), len(self) - 1)
            return np.where(self.values[found] == array, found, -1).astype(np.int32)
        return np.fromiter((self._index.get(v, -1) for v in array.tolist()), np.int32, len(array))

    def union(self, other: "Labels") -> "Labels":
        """Append the new ids of another `Labels` to these, which keep their positions."""
        new = other.values[self.positions(other.values) < 0]
        if len(new) == 0:
            return self
        if _comparable(self.values.dtype, new.dtype):
            return Labels(np.concatenate([self.values, new]))
        return Labels([*self.values.tolist(), *new.tolist()])

    @cached_property
    def kinds(self) -> set[str]:
        """The types of the ids in words, such as ``"text"``."""
        return _kinds(self.values)

    @cached_property
    def _is_sorted(self) -> bool:
        values = self.values
        return values.dtype.kind in _SORTABLE and bool(np.all(values[:-1] < values[1:]))

    @cached_property
    def _index(self) -> dict[Any, int]:
        return {value: position for position, value in enumerate(self.values.tolist())}
