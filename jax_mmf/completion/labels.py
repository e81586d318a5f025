"""Ids of users and of items: any hashable values, numbered from zero."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

from jax_mmf.typing import HostArray

_SORTABLE = "iuSUmM"  # kinds of arrays that NumPy sorts and searches as they are


def label_array(values: Any) -> HostArray:
    """Ids as a 1-D array: as it is if NumPy has a type for them, else of objects, so that tuples stay tuples."""
    if isinstance(values, np.ndarray) and values.ndim == 1:
        array: HostArray = values
    elif hasattr(values, "to_numpy"):  # a column of a frame
        array = values.to_numpy()
    else:
        items = list(values)
        plain = all(isinstance(v, str) for v in items) or all(_is_whole(v) for v in items)
        array = np.asarray(items) if plain and items else _objects(items)
    if array.dtype.kind == "f":
        whole = np.isfinite(array).all() and (array == np.floor(array)).all()
        if not whole:
            raise ValueError("ids must not be NaN, infinite or fractions; drop such entries first")
        array = array.astype(np.int64)
    return array if array.dtype.kind in _SORTABLE else _objects(array.tolist())


def is_one_label(value: Any) -> bool:
    """Whether a value is one id, and not many: text, a tuple, or anything that can't be iterated over."""
    return isinstance(value, str | bytes | tuple) or not isinstance(value, Iterable)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _comparable(left: np.dtype[Any], right: np.dtype[Any]) -> bool:
    whole = left.kind in "iu" and right.kind in "iu"
    return whole or (left.kind == right.kind and left.kind in _SORTABLE)


def _objects(items: list[Any]) -> HostArray:
    array = np.empty(len(items), dtype=object)
    for position, item in enumerate(items):
        if not _is_hashable(item) or item is None or _is_nan(item):
            raise ValueError(f"ids must be hashable and not None or NaN, got {item!r}")
        array[position] = item
    return array


class Labels:
    """The ids of users or of items, in the order of their positions.

    Args:
      values: ids, all different.

    Raises:
      ValueError: if an id comes twice, is NaN or None, or can't be hashed.
    """

    def __init__(self, values: Any) -> None:
        self.values = label_array(values)
        if self._is_sorted:
            return
        if len(self._index) != len(self.values):
            raise ValueError("ids must all be different")

    @classmethod
    def factorize(cls, values: Any) -> tuple["Labels", HostArray]:
        """Distinct ids, and the position of each value among them ``(n,)`` int32.

        Ids that NumPy can sort are numbered in ascending order, others by their first appearance.
        """
        array = label_array(values)
        if array.dtype.kind in _SORTABLE:
            distinct, positions = np.unique(array, return_inverse=True)
            return cls(distinct), positions.astype(np.int32)
        index: dict[Any, int] = {}
        numbered = np.fromiter((index.setdefault(v, len(index)) for v in array), np.int32, len(array))
        return cls(list(index)), numbered

    def __len__(self) -> int:
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and len(self) == len(other) and bool(np.all(self.values == other.values))

    __hash__ = None  # type: ignore[assignment]

    def positions(self, values: Any) -> HostArray:
        """Positions of ids ``(n,)`` int32, -1 for those that are not there. A single id is a batch of one."""
        array = label_array([values] if is_one_label(values) else values)
        if self._is_sorted and len(self) > 0 and _comparable(array.dtype, self.values.dtype):
            found = np.minimum(np.searchsorted(self.values, array), len(self) - 1)
            return np.where(self.values[found] == array, found, -1).astype(np.int32)
        plain = (v.item() if isinstance(v, np.generic) else v for v in array.tolist())
        return np.fromiter((self._index.get(v, -1) for v in plain), np.int32, len(array))

    def union(self, other: "Labels") -> "Labels":
        """These ids in their positions, and after them those of the other that are new."""
        new = other.values[self.positions(other.values) < 0]
        if len(new) == 0:
            return self
        both = np.concatenate([self.values, new]) if self.values.dtype.kind == new.dtype.kind else None
        return Labels([*self.values.tolist(), *new.tolist()] if both is None else both)

    @cached_property
    def _is_sorted(self) -> bool:
        values = self.values
        return values.dtype.kind in _SORTABLE and bool(np.all(values[:-1] < values[1:]))

    @cached_property
    def _index(self) -> dict[Any, int]:
        return {value: position for position, value in enumerate(self.values.tolist())}
