"""Entries of ratings as columns of positions and numbers: their order, and entries of the same pair."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jax_mmf.completion.columns import as_float32
from jax_mmf.completion.labels import Labels, label_array, mismatch_detail
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
        pairs = self.users.astype(np.int64)
        pairs *= n_items
        pairs += self.items
        return pairs

    def order(self, n_items: int) -> tuple[HostArray, HostArray]:
        """Return the stable order by user, item and time, and the numbers of the pairs in this order."""
        pairs = self.pairs(n_items)
        order = np.argsort(pairs, kind="stable")
        pairs = pairs[order]
        if self.timestamps is not None:
            same = pairs[1:] == pairs[:-1]
            repeated = np.flatnonzero(np.concatenate([same, [False]]) | np.concatenate([[False], same]))
            some = order[repeated]  # few, as a rule
            order[repeated] = some[np.lexsort((self.timestamps[some], pairs[repeated]))]
        return order, pairs

    def sorted(self, n_items: int) -> "Entries":
        """Sort by user, item and time; the sort is stable."""
        return self.take(self.order(n_items)[0])

    def latest(self, n_items: int) -> "Entries":
        """Sort by user and item, and keep the last entry of each pair in the given order; times may be equal."""
        pairs = self.pairs(n_items)
        return self.take(len(pairs) - 1 - np.unique(pairs[::-1], return_index=True)[1])


def arranged(entries: Entries, aggregate: str | None, user_ids: Labels, item_ids: Labels) -> Entries:
    """Sort entries, and combine those of the same pair as ``aggregate`` says; None for an error."""
    if aggregate is not None:
        check_choice("aggregate", aggregate, _AGGREGATES)
    order, pairs = entries.order(len(item_ids))
    is_first = np.concatenate([[True], pairs[1:] != pairs[:-1]])
    del pairs
    if is_first.all():
        return entries.take(order)
    if aggregate is None:
        second = np.flatnonzero(~is_first)
        user, item = user_ids.values[entries.users[order[second[0]]]], item_ids.values[entries.items[order[second[0]]]]
        raise ValueError(
            f"{len(second)} entries repeat a pair, the first one that of user {user} and item {item}; choose "
            f"aggregate= {', '.join(map(repr, _AGGREGATES))}, or drop them"
        )
    first = np.flatnonzero(is_first)
    if aggregate == "first":
        return entries.take(order[first])
    chosen = entries.take(order[np.append(first[1:], len(order)) - 1])
    return chosen if aggregate == "last" else _combined(entries.take(order), chosen, first, aggregate)


def _combined(entries: Entries, last: Entries, first: HostArray, how: str) -> Entries:
    """Combine the values and weights of sorted entries of the same pair.

    Args:
      entries: sorted.
      last: the last entry of each pair, whose time is kept.
      first: ``(n_pairs,)``, place of the first entry of each pair.
      how: one of ``"mean"``, ``"sum"``, ``"min"`` and ``"max"``.
    """
    values = entries.values.astype(np.float64)
    total = None if entries.weights is None else np.add.reduceat(entries.weights.astype(np.float64), first)
    if how == "mean":
        weights = np.ones(len(values)) if entries.weights is None else entries.weights.astype(np.float64)
        if total is not None:
            counts = np.diff(first, append=len(values))
            weights = np.where(np.repeat(total, counts) > 0, weights, 1)
        values = np.add.reduceat(weights * values, first) / np.add.reduceat(weights, first)
    else:
        values = {"min": np.minimum, "max": np.maximum, "sum": np.add}[how].reduceat(values, first)
    values = as_float32("values", values)
    return replace(last, values=values, weights=None if total is None else as_float32("weights", total))


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
        (unknown, *_) = values[positions < 0].tolist()
        detail = mismatch_detail(name, labels, values) if (positions < 0).all() else ""
        raise ValueError(
            f"{name} has {(positions < 0).sum()} ids that are not in {name[:-1]}_ids, such as {unknown!r}{detail}"
        )
    return positions, labels
