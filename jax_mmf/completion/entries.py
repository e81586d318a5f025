"""Entries of ratings as columns of positions and numbers: their order, and entries of the same pair."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jax_mmf.completion.columns import as_float32
from jax_mmf.completion.labels import Labels, kind_mismatch, label_array
from jax_mmf.core import check_choice
from jax_mmf.typing import HostArray

_AGGREGATES = ("mean", "sum", "min", "max", "first", "last")


@dataclass(frozen=True)
class Entries:
    """Columns of equal length."""

    users: HostArray
    items: HostArray
    values: HostArray
    weights: HostArray | None
    timestamps: HostArray | None

    def columns(self) -> tuple[HostArray, HostArray, HostArray, HostArray | None, HostArray | None]:
        """Return the columns."""
        return self.users, self.items, self.values, self.weights, self.timestamps

    def take(self, entries: HostArray) -> "Entries":
        """Select entries by their places."""
        return Entries(*(None if c is None else c[entries] for c in self.columns()))  # type: ignore[arg-type]

    def pairs(self, n_items: int) -> HostArray:
        """Return a number for each pair of a user and an item: ``(n,)`` int64."""
        return self.users.astype(np.int64) * n_items + self.items

    def sorted(self, n_items: int) -> "Entries":
        """Sort by user and item, and entries of the same pair by time; the sort is stable."""
        pairs = self.pairs(n_items)
        order = np.argsort(pairs, kind="stable")
        if self.timestamps is not None:
            in_order = pairs[order]
            same = in_order[1:] == in_order[:-1]
            repeated = np.flatnonzero(np.concatenate([same, [False]]) | np.concatenate([[False], same]))
            some = order[repeated]  # few, as a rule
            order[repeated] = some[np.lexsort((self.timestamps[some], in_order[repeated]))]
            del in_order
        del pairs
        return self.take(order)

    def latest(self, n_items: int) -> "Entries":
        """Sort by user and item, and keep the last entry of each pair in the given order; times may be equal."""
        pairs = self.pairs(n_items)
        return self.take(len(pairs) - 1 - np.unique(pairs[::-1], return_index=True)[1])

    def aggregated(self, how: str | None, user_ids: Labels, item_ids: Labels) -> "Entries":
        """Combine sorted entries of the same pair."""
        pairs = self.pairs(len(item_ids))
        first = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))
        if len(first) == len(pairs):
            return self
        if how is None:
            twice = np.flatnonzero(pairs[1:] == pairs[:-1])
            user, item = user_ids.values[self.users[twice[0]]], item_ids.values[self.items[twice[0]]]
            raise ValueError(
                f"{len(pairs) - len(first)} entries repeat a pair, the first one that of user {user} and item {item}; "
                f"choose aggregate= {', '.join(map(repr, _AGGREGATES))}, or drop them"
            )
        last = np.concatenate([first[1:], [len(pairs)]]) - 1
        chosen = self.take(first if how == "first" else last)
        if how in ("first", "last"):
            return chosen
        values = self.values.astype(np.float64)
        total = None if self.weights is None else np.add.reduceat(self.weights.astype(np.float64), first)
        if how == "mean":
            weights = np.ones(len(values)) if self.weights is None else self.weights.astype(np.float64)
            if total is not None:
                weights = np.where(np.repeat(total, last - first + 1) > 0, weights, 1)
            values = np.add.reduceat(weights * values, first) / np.add.reduceat(weights, first)
        else:
            values = {"min": np.minimum, "max": np.maximum, "sum": np.add}[how].reduceat(values, first)
        values = as_float32("values", values)
        return replace(chosen, values=values, weights=None if total is None else as_float32("weights", total))


def arranged(entries: Entries, aggregate: str | None, user_ids: Labels, item_ids: Labels) -> Entries:
    """Sort entries, and combine those of the same pair as ``aggregate`` says; None for an error."""
    if aggregate is not None:
        check_choice("aggregate", aggregate, _AGGREGATES)
    return entries.sorted(len(item_ids)).aggregated(aggregate, user_ids, item_ids)


def joined(first: Entries, second: Entries, users: HostArray, items: HostArray) -> Entries:
    """Concatenate entries; users and items are the positions of those of the second ones among those of the first.

    Weights are one, and times are missing, where only one of them has some.

    Raises:
      ValueError: for dates in one and numbers in the other.
    """
    second = replace(second, users=users[second.users], items=items[second.items])
    weights, timestamps = None, None
    if first.weights is not None or second.weights is not None:
        weights = np.concatenate(
            [np.ones(len(e.users), np.float32) if e.weights is None else e.weights for e in (first, second)]
        )
    if first.timestamps is not None and second.timestamps is not None:
        kinds = {first.timestamps.dtype.kind, second.timestamps.dtype.kind}
        if "M" in kinds and len(kinds) > 1:
            raise ValueError("timestamps are dates in one of the ratings and numbers in the other; convert one")
        timestamps = np.concatenate([first.timestamps, second.timestamps])
    users, items, values = (
        np.concatenate([getattr(first, name), getattr(second, name)]) for name in ("users", "items", "values")
    )
    return Entries(users, items, values, weights, timestamps)


def positions_of(name: str, values: Any, given: Any) -> tuple[HostArray, Labels]:
    """Return the positions of ids among given ones, or among all that there are, and these.

    Raises:
      ValueError: for ids that are not among the given ones, and for missing ones; ``name`` is for messages.
    """
    try:
        if given is None:
            labels, positions = Labels.factorize(values)
            return positions, labels
        labels = given if isinstance(given, Labels) else Labels(given)
        values = label_array(values)
        positions = labels.positions(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    if (positions < 0).any():
        unknown = values[np.flatnonzero(positions < 0)[0]]
        problem = kind_mismatch(name, labels, values) if (positions < 0).all() else None
        detail = "" if problem is None else f": {problem}"
        raise ValueError(
            f"{name} has {(positions < 0).sum()} ids that are not in {name[:-1]}_ids, such as {unknown!r}{detail}"
        )
    return positions, labels
