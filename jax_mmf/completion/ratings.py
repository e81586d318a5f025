"""Ratings: the observed entries of a matrix of users and items."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jax_mmf.completion.columns import real_column, time_column
from jax_mmf.completion.entries import Entries, arranged, joined, positions_of
from jax_mmf.completion.labels import Labels
from jax_mmf.completion.matrices import dense_triplets, frame_triplets, sparse_triplets
from jax_mmf.completion.side_features import aligned, described, updated
from jax_mmf.core import check_real
from jax_mmf.typing import HostArray


@dataclass(frozen=True, eq=False)
class Ratings:
    """Observed entries of a matrix of users (rows) and items (columns), in host memory.

    Create ratings with `from_triplets`, `from_scipy`, `from_dense` or `from_frame`, or read them with `read_ratings`.
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
        rows, row_labels = positions_of("users", users, user_ids)
        columns, column_labels = positions_of("items", items, item_ids)
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
        entries = Entries(rows, columns, values, weights, timestamps)
        return cls(row_labels, column_labels, *arranged(entries, aggregate, row_labels, column_labels).columns())

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
        return cls.from_triplets(**sparse_triplets(matrix, user_ids, item_ids), aggregate=aggregate)

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
        return cls.from_triplets(**dense_triplets(matrix, user_ids, item_ids))

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
        """Make ratings from columns of a frame of pandas, polars or pyarrow, or of a dictionary of columns.

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
        names = {"user": user, "item": item, "value": value, "weight": weight, "timestamp": timestamp}
        return cls.from_triplets(**frame_triplets(frame, names), aggregate=aggregate)

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
        return replace(self, **vars(self._entries.take(chosen)))

    def with_features(
        self, *, user_features: Any = None, users: Any = None, item_features: Any = None, items: Any = None
    ) -> "Ratings":
        """Add features of users and items, from which `ExplicitALS` and `BayesianMF` predict their factors.

        Args:
          user_features: ``(n, p)`` numbers: an array, a SciPy sparse matrix, or a frame without text. NaN, or a masked
            entry, means an unknown feature. At most 1,000 columns.
          users: ``(n,)`` ids of the rows, all different. By default those of the index of a pandas frame, unless it
            only numbers the rows, else those of ``user_ids``, in their order. New ids become users without ratings.
          item_features: as user_features.
          items: as users.

        Returns:
          the ratings, with the features of all users and items.

        Raises:
          ValueError: for another number of rows than ids, repeated ids, infinity, too many columns, and an index of
            a frame that holds none of the known ids.
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

    @property
    def _entries(self) -> Entries:
        return Entries(self.users, self.items, self.values, self.weights, self.timestamps)

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
        moved = replace(self._entries, users=users, items=items)
        kept = moved.take(np.flatnonzero((users >= 0) & (items >= 0)))
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

        entries = joined(self._entries, newer._entries, at_users, at_items).latest(len(items))
        features = (
            updated(aligned(getattr(self, name), old, ids), aligned(getattr(newer, name), new, ids))
            for name, old, new, ids in (
                ("user_features", self.user_ids, newer.user_ids, users),
                ("item_features", self.item_ids, newer.item_ids, items),
            )
        )
        return Ratings(users, items, *entries.columns(), *features)
