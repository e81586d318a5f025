"""Ratings: the observed entries of a matrix of users and items."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jax_mmf.completion.columns import as_float32, from_objects, real_column, time_column
from jax_mmf.completion.labels import Labels, kind_mismatch, label_array
from jax_mmf.completion.side_features import aligned, described, updated
from jax_mmf.core import check_choice, check_real
from jax_mmf.typing import HostArray

_AGGREGATES = ("mean", "sum", "min", "max", "first", "last")


@dataclass(frozen=True, eq=False)
class Ratings:
    """Observed entries of a matrix of users (rows) and items (columns), in host memory.

    Create ratings with `from_triplets`, `from_scipy`, `from_dense` or `from_frame`, or read them with `read_movielens`.
    Entries are sorted by user, then by item, and every pair occurs once.

    Attributes:
      user_ids: `Labels` of the ``n_users`` rows.
      item_ids: `Labels` of the ``n_items`` columns.
      users: ``(n,)`` int32, row of each entry.
      items: ``(n,)`` int32, column of each entry.
      values: ``(n,)`` float32: ratings, counts or clicks.
      weights: ``(n,)`` float32 >= 0, weights of the entries in a loss, or None for weights of one.
      timestamps: ``(n,)`` numbers that increase with time, or dates, or None.
      user_features: ``(n_users, p)`` float32, see `with_features`, or None.
      item_features: ``(n_items, p)`` float32, or None.
    """

    user_ids: Labels
    item_ids: Labels
    users: HostArray
    items: HostArray
    values: HostArray
    weights: HostArray | None = None
    timestamps: HostArray | None = None
    user_features: HostArray | None = None
    item_features: HostArray | None = None

    @classmethod
    def from_triplets(
        cls,
        users: Any,
        items: Any,
        values: Any = None,
        *,
        weights: Any = None,
        timestamps: Any = None,
        aggregate: str | None = None,
        user_ids: Any = None,
        item_ids: Any = None,
    ) -> "Ratings":
        """Make ratings from the user, the item and the value of each entry.

        Args:
          users: ``(n,)`` ids of any hashable type.
          items: ``(n,)`` ids of any hashable type.
          values: ``(n,)`` real numbers; by default ones (clicks).
          weights: ``(n,)`` real numbers >= 0, or None.
          timestamps: ``(n,)`` real numbers, or dates (of NumPy, of `datetime`, or ISO text; UTC), or None.
          aggregate: how to combine several entries of one pair: ``"mean"``, ``"sum"``, ``"min"``, ``"max"``, or the
            ``"first"`` or ``"last"`` in time (in the given order, without timestamps). None raises an error. The mean
            is weighted, unless all weights of the pair are zero; sum, min and max ignore weights. The combined entry
            has the sum of the weights and the latest time; with first and last, it has those of the chosen entry.
          user_ids: ids of all rows, to include rows without entries or to choose their order; by default the ids in
            ``users``.
          item_ids: ids of all columns, likewise.

        Returns:
          the ratings.

        Raises:
          ValueError: for no entries, lengths that differ, values and times that are not finite, negative weights,
            repeated pairs without aggregate, and ids that are NaN, None or not in ``user_ids`` and ``item_ids``.
          TypeError: for values that are not numbers, and times that are neither numbers nor dates.
        """
        rows, row_labels = _positions("users", users, user_ids)
        columns, column_labels = _positions("items", items, item_ids)
        n = len(rows)
        if n == 0:
            raise ValueError("users must hold at least one entry, got none")
        values = np.ones(n, np.float32) if values is None else real_column("values", values, n)
        weights = None if weights is None else real_column("weights", weights, n)
        if weights is not None and (weights < 0).any():
            raise ValueError(f"weights must be >= 0, got {weights.min():g}")
        if len(columns) != n:
            raise ValueError(f"items must have the same length as users, {n}, got {len(columns)}")
        timestamps = None if timestamps is None else time_column("timestamps", timestamps, n)
        if aggregate is not None:
            check_choice("aggregate", aggregate, _AGGREGATES)
        entries = _Entries(rows, columns, values, weights, timestamps).sorted(len(column_labels))
        entries = entries.aggregated(aggregate, row_labels, column_labels)
        return cls(row_labels, column_labels, *entries.columns())

    @classmethod
    def from_scipy(
        cls, matrix: Any, *, user_ids: Any = None, item_ids: Any = None, aggregate: str | None = None
    ) -> "Ratings":
        """Make ratings from a SciPy sparse matrix or array with users in rows. Stored zeros are entries.

        Args:
          matrix: ``(n_users, n_items)``, of any format.
          user_ids: of the rows; by default their numbers.
          item_ids: of the columns; by default their numbers.
          aggregate: as in `from_triplets`, for formats that can hold a pair several times.

        Returns:
          the ratings.

        Raises:
          TypeError: if matrix is not sparse.
          ValueError: as `from_triplets` does.
        """
        if not hasattr(matrix, "tocoo"):
            raise TypeError(f"matrix must be a SciPy sparse matrix, got {type(matrix).__name__}; use from_dense")
        if len(matrix.shape) != 2:
            raise ValueError(f"matrix must have 2 axes, users and items, got shape {matrix.shape}")
        coo = matrix.tocoo(copy=False)
        user_labels, item_labels = _matrix_labels(coo.shape, user_ids, item_ids)
        users, items = user_labels.values[coo.row], item_labels.values[coo.col]
        return cls.from_triplets(
            users, items, coo.data, aggregate=aggregate, user_ids=user_labels, item_ids=item_labels
        )

    @classmethod
    def from_dense(cls, matrix: Any, *, user_ids: Any = None, item_ids: Any = None) -> "Ratings":
        """Make ratings from an array or frame with NaN for missing entries, or a masked array, with users in rows.

        Args:
          matrix: ``(n_users, n_items)`` of real numbers.
          user_ids: of the rows; by default the index of a pandas frame, else their numbers.
          item_ids: of the columns; by default the names of the columns of a frame, else their numbers.

        Returns:
          the ratings.

        Raises:
          ValueError: for another number of axes, and as `from_triplets` does.
          TypeError: for a sparse matrix, and values that are not numbers.
        """
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
        user_labels, item_labels = _matrix_labels(dense.shape, user_ids, item_ids)
        return cls.from_triplets(
            user_labels.values[rows], item_labels.values[columns], dense[rows, columns],
            user_ids=user_labels, item_ids=item_labels,
        )  # fmt: skip

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        user: str = "user",
        item: str = "item",
        value: str | None = "rating",
        weight: str | None = None,
        timestamp: str | None = None,
        aggregate: str | None = None,
    ) -> "Ratings":
        """Make ratings from columns of a pandas or polars frame, or of a dictionary of columns.

        Args:
          frame: data with named columns.
          user: name of the column of users.
          item: name of the column of items.
          value: name of the column of values; None for values of one.
          weight: name of the column of weights, or None.
          timestamp: name of the column of times, or None.
          aggregate: as in `from_triplets`.

        Returns:
          the ratings.

        Raises:
          ValueError: for a missing column, and as `from_triplets` does.
        """
        names = getattr(getattr(frame, "dtype", None), "names", None)  # of a structured array
        known = list(names or (frame.columns if hasattr(frame, "columns") else frame))

        def column(argument: str, name: str | None) -> Any:
            if name is None:
                return None
            if name not in known:
                raise ValueError(
                    f"{argument}={name!r} is not a column of the frame, which has {', '.join(map(str, known))}"
                )
            return frame[name]

        return cls.from_triplets(
            column("user", user), column("item", item), column("value", value),
            weights=column("weight", weight), timestamps=column("timestamp", timestamp), aggregate=aggregate,
        )  # fmt: skip

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.values)

    def __repr__(self) -> str:
        return f"Ratings({len(self):,} of {self.n_users:,} users x {self.n_items:,} items)"

    @property
    def n_users(self) -> int:
        """Number of rows."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of columns."""
        return len(self.item_ids)

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_users, n_items)``."""
        return self.n_users, self.n_items

    def select(self, entries: Any) -> "Ratings":
        """Select some entries; users and items stay the same.

        Args:
          entries: ``(n,)`` booleans, or indices of entries, in any order.

        Returns:
          the ratings, possibly empty.

        Raises:
          ValueError: for booleans of another shape, and repeated indices.
          IndexError: for indices out of range.
        """
        chosen = np.asarray(entries)
        if chosen.dtype == bool and chosen.shape != (len(self),):
            raise ValueError(f"entries must be {len(self)} booleans, one for each, got shape {chosen.shape}")
        # Negative indices count from the end. An empty list is converted, since its dtype is float.
        numbers = np.arange(len(self))
        chosen = np.sort(numbers[chosen if chosen.size else chosen.astype(np.int64)])
        if (chosen[1:] == chosen[:-1]).any():
            raise ValueError("entries holds an index twice, and no pair of a user and an item may occur twice")
        take = lambda a: None if a is None else a[chosen]  # noqa: E731
        return replace(
            self, users=self.users[chosen], items=self.items[chosen], values=self.values[chosen],
            weights=take(self.weights), timestamps=take(self.timestamps),
        )  # fmt: skip

    def with_features(
        self, *, user_features: Any = None, users: Any = None, item_features: Any = None, items: Any = None
    ) -> "Ratings":
        """Add features of users and items, from which `ExplicitALS` and `BayesianMF` predict their factors.

        Args:
          user_features: ``(n, p)`` numbers: an array, a SciPy sparse matrix, or a frame without text. NaN, or a masked
            entry, stands for an unknown feature. At most 1,000 columns. The index of a frame is not used.
          users: ``(n,)`` ids of the rows, all different; by default those of ``user_ids``, in their order. New ids
            become users without ratings.
          item_features: as user_features.
          items: as users.

        Returns:
          the ratings, with the features of all users and items.

        Raises:
          ValueError: for another number of rows than ids, repeated ids, infinity, and too many columns.
          TypeError: for features that are not numbers.

        Warns:
          UserWarning: if all ids are unknown and of another type than those of the ratings.
        """
        own, theirs = (
            described(*given)
            for given in (("user", self.user_ids, user_features, users), ("item", self.item_ids, item_features, items))
        )
        return replace(
            self, user_ids=own[0], item_ids=theirs[0],
            user_features=aligned(self.user_features, self.user_ids, own[0]) if own[1] is None else own[1],
            item_features=aligned(self.item_features, self.item_ids, theirs[0]) if theirs[1] is None else theirs[1],
        )  # fmt: skip

    def positives(self, threshold: float) -> "Ratings":
        """Convert ratings to implicit feedback: the entries of at least a threshold, with value one."""
        check_real("threshold", threshold)
        chosen = self.select(self.values >= threshold)
        return replace(chosen, values=np.ones_like(chosen.values))

    def to_scipy(self) -> Any:
        """Return a SciPy CSR array ``(n_users, n_items)`` of the values, without the weights."""
        from scipy.sparse import csr_array

        return csr_array((self.values, self.items, self.row_starts()), shape=self.shape)

    def row_starts(self) -> HostArray:
        """Return starts ``(n_users + 1,)`` int64; user u has the entries ``starts[u]`` to ``starts[u + 1] - 1``."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.users, minlength=self.n_users))])

    def relabelled(self, user_ids: Labels, item_ids: Labels) -> "Ratings":
        """Renumber the entries by other users and items; entries of users and items not among these are dropped."""
        users = user_ids.positions(self.user_ids.values)[self.users]
        items = item_ids.positions(self.item_ids.values)[self.items]
        entries = _Entries(users, items, self.values, self.weights, self.timestamps)
        kept = entries.take(np.flatnonzero((users >= 0) & (items >= 0)))
        return Ratings(
            user_ids, item_ids, *kept.sorted(len(item_ids)).columns(),
            aligned(self.user_features, self.user_ids, user_ids), aligned(self.item_features, self.item_ids, item_ids),
        )  # fmt: skip

    def union(self, newer: "Ratings") -> "Ratings":
        """Join the entries of both, and keep the newer one of each pair. New users and items follow the others.

        Raises:
          ValueError: for dates in one and numbers in the other.
        """
        users, items = self.user_ids.union(newer.user_ids), self.item_ids.union(newer.item_ids)
        at_users, at_items = users.positions(newer.user_ids.values), items.positions(newer.item_ids.values)

        def joined(name: str, default: float) -> HostArray | None:
            ours, theirs = getattr(self, name), getattr(newer, name)
            if ours is None and theirs is None:
                return None
            if name == "timestamps" and (ours is None or theirs is None):
                return None
            if name == "timestamps" and "M" in (kinds := {ours.dtype.kind, theirs.dtype.kind}) and len(kinds) > 1:
                raise ValueError("timestamps are dates in one of the ratings and numbers in the other; convert one")
            fill = lambda a, like: np.full(len(like), default, np.float32) if a is None else a  # noqa: E731
            return np.concatenate([fill(ours, self), fill(theirs, newer)])

        entries = _Entries(
            np.concatenate([self.users, at_users[newer.users]]),
            np.concatenate([self.items, at_items[newer.items]]),
            np.concatenate([self.values, newer.values]),
            joined("weights", 1.0),
            joined("timestamps", 0.0),
        )
        pairs = entries.pairs(len(items))
        # Of equal pairs, the last one in the concatenation is kept, since times may be equal or missing.
        last = len(pairs) - 1 - np.unique(pairs[::-1], return_index=True)[1]
        features = (
            updated(aligned(getattr(self, name), old, ids), aligned(getattr(newer, name), new, ids))
            for name, old, new, ids in (
                ("user_features", self.user_ids, newer.user_ids, users),
                ("item_features", self.item_ids, newer.item_ids, items),
            )
        )
        return Ratings(users, items, *entries.take(last).columns(), *features)


@dataclass(frozen=True)
class _Entries:
    """Columns of equal length."""

    users: HostArray
    items: HostArray
    values: HostArray
    weights: HostArray | None
    timestamps: HostArray | None

    def columns(self) -> tuple[HostArray, HostArray, HostArray, HostArray | None, HostArray | None]:
        return self.users, self.items, self.values, self.weights, self.timestamps

    def take(self, entries: HostArray) -> "_Entries":
        return _Entries(*(None if c is None else c[entries] for c in self.columns()))  # type: ignore[arg-type]

    def pairs(self, n_items: int) -> HostArray:
        return self.users.astype(np.int64) * n_items + self.items

    def sorted(self, n_items: int) -> "_Entries":
        """Sort by user, item and time; the sort is stable."""
        pairs = self.pairs(n_items)
        order = np.argsort(pairs, kind="stable") if self.timestamps is None else np.lexsort((self.timestamps, pairs))
        return self.take(order)

    def aggregated(self, how: str | None, user_ids: Labels, item_ids: Labels) -> "_Entries":
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


def _positions(name: str, values: Any, given: Any) -> tuple[HostArray, Labels]:
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


def _matrix_labels(shape: tuple[int, ...], user_ids: Any, item_ids: Any) -> tuple[Labels, Labels]:
    pair = []
    for name, given, size in (("user_ids", user_ids, shape[0]), ("item_ids", item_ids, shape[1])):
        labels = Labels(np.arange(size) if given is None else given)
        if len(labels) != size:
            raise ValueError(f"{name} must hold {size} ids, to match the shape {shape} of matrix, got {len(labels)}")
        pair.append(labels)
    return pair[0], pair[1]
