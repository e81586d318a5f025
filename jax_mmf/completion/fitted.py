"""What `jax_mmf.completion.fit` returns: a model of ratings by the ids of its users and items."""

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.codes import power_of_two
from jax_mmf.completion.factors import Factors, predict, score_all
from jax_mmf.completion.labels import Labels, as_labels, kind_mismatch, positions_or_warning
from jax_mmf.completion.model import Model
from jax_mmf.completion.ragged import ragged_rows
from jax_mmf.completion.ratings import Ratings
from jax_mmf.core import check_choice, check_count, check_process
from jax_mmf.typing import Array, HostArray

_SCORES = 1 << 24  # that are in memory at once
_PREDICTIONS = 1 << 20
_FOLDED = 8  # users who are folded in at once, at least

_predict = jax.jit(predict)
_fold_in = jax.jit(lambda model, state, rows: model.fold_in(state, rows))


class Recommendations(NamedTuple):
    """The best items of each user.

    Attributes:
      users: ``(m,)`` ids.
      items: ``(m, n)`` ids, the best first; None (for numbers -1, for dates NaT) where a user has seen nearly
        everything.
      scores: ``(m, n)`` predictions, ``-inf`` where there is no item.
    """

    users: HostArray
    items: HostArray
    scores: HostArray


class EpochRecord(NamedTuple):
    """One line of the history.

    Attributes:
      epoch: number of epochs done.
      seconds: of all epochs so far, the compilation in the first included, evaluation not.
      score: on validation ratings, or NaN.
    """

    epoch: int
    seconds: float
    score: float


@dataclass(frozen=True, eq=False)
class Fitted:
    """A model of ratings that was learned, by the ids of its users and items.

    Attributes:
      model: the configuration.
      state: what it learned: a pytree, for functions of the configuration such as ``model.fold_in``.
      factors: `Factors`, rows in the order of ``ratings.user_ids`` and ``ratings.item_ids``; zero for users and items
        without ratings.
      ratings: of these users.
      item_counts: ``(n_items,)`` numbers of ratings that were learned from.
      limits: smallest and largest rating, to which predictions are clipped, or None.
      history: an `EpochRecord` per epoch.
      stopped_by: what ended the run: ``"epochs"``, ``"patience"``, ``"callback"``, ``"interrupt"`` (Ctrl-C) or
        ``"error"``; None for a model out of a file.
    """

    model: Model
    state: Any
    factors: Factors
    ratings: Ratings
    item_counts: HostArray
    limits: tuple[float, float] | None
    history: list[EpochRecord]
    stopped_by: str | None = None

    @property
    def known_items(self) -> HostArray:
        """``(n_items,)`` booleans, the items that ratings were learned from."""
        return self.item_counts > 0

    def __repr__(self) -> str:
        learned = f"history={len(self.history)} epochs, stopped_by={self.stopped_by!r}"
        return f"Fitted({self.model!r},\n  {self.ratings!r}, {learned})"

    def predict(self, users: Any, items: Any, *, unknown: str = "bias") -> HostArray:
        """Predictions for pairs of a user and an item.

        Args:
          users: ``(n,)`` ids, or one id for all items.
          items: ``(n,)`` ids, or one id for all users.
          unknown: what to do with ids that the model has not seen: ``"bias"`` predicts from the mean and the bias of
            the other one, ``"error"`` raises.

        Returns:
          ``(n,)`` float32, never NaN; within the range of the training ratings for explicit feedback.

        Raises:
          ValueError: for lengths that differ, and for unknown ids with ``unknown="error"``.

        Warns:
          UserWarning: if all users, or all items, are unknown and of another kind than those of the model, such as text
            where these are numbers.
        """
        rows = _known("users", self.ratings.user_ids, users, unknown)
        columns = _known("items", self.ratings.item_ids, items, unknown)
        if len(rows) != len(columns) and 1 not in (len(rows), len(columns)):
            raise ValueError(f"users and items must be as many, got {len(rows)} and {len(columns)}")
        return self.predict_positions(*np.broadcast_arrays(rows, columns))

    def predict_positions(self, users: HostArray, items: HostArray) -> HostArray:
        """As `predict`, by positions in ``ratings.user_ids`` and ``ratings.item_ids``; -1 for unknown."""
        check_process()
        n, factors = len(users), self.factors
        out = np.empty(n, np.float32)
        size = min(_PREDICTIONS, power_of_two(n)) if n else 0
        for first in range(0, n, size or 1):
            part = slice(first, min(n, first + size))
            pairs = [np.resize(a[part], size) for a in (users, items)]
            out[part] = np.asarray(_predict(factors, *pairs))[: part.stop - first]
        return out if self.limits is None else np.clip(out, *self.limits)

    def recommend(
        self, users: Any = None, n: int = 10, *, exclude_seen: bool = True, unknown: str = "bias"
    ) -> Recommendations:
        """The best items of users.

        Args:
          users: ids, or one id; all users of the model by default.
          n: number of items.
          exclude_seen: whether items that a user has rated are left out.
          unknown: as in `predict`: users that the model has not seen get the items of the largest bias; those with the
            most ratings where the model has no biases of items.

        Returns:
          a `Recommendations`, of m users; of one user if one id was given, m = 1.

        Raises:
          ValueError: for unknown ids with ``unknown="error"``, and n below 1.
        """
        check_count("n", n)
        ids = self.ratings.user_ids
        rows = np.arange(len(ids)) if users is None else _known("users", ids, users, unknown)
        columns, scores = self.best_items(rows, n, self.ratings if exclude_seen else None)
        if self.limits is not None:
            scores = np.where(np.isfinite(scores), np.clip(scores, *self.limits), scores)
        labels = self.ratings.item_ids.values
        items = labels[columns]
        if (columns < 0).any():
            missing: Any = {"i": -1, "u": -1, "M": np.datetime64("NaT"), "m": np.timedelta64("NaT")}.get(
                labels.dtype.kind
            )
            wide = {"i": np.int64, "u": object if labels.dtype == np.uint64 else np.int64}.get(labels.dtype.kind)
            items = items if wide is None else items.astype(wide)
            items[columns < 0] = missing
        given = ids.values if users is None else as_labels(users)
        return Recommendations(given, items, scores)

    def best_items(self, users: HostArray, n: int, exclude: Ratings | None) -> tuple[HostArray, HostArray]:
        """Positions and scores ``(m, n)`` of the best items of users ``(m,)``, by positions; -1 and -inf for none.

        Items that nothing was learned of are not among them. Users of whom nothing is known get the items with the most
        ratings, where biases of items don't say better.
        """
        check_process()
        factors, n_items = self.factors, self.ratings.n_items
        width = min(n, n_items)
        columns = np.full((len(users), n), -1, np.int64)
        scores = np.full((len(users), n), -np.inf, np.float32)
        size = min(power_of_two(len(users)), max(1, _SCORES // n_items))
        popularity = np.empty(n_items, np.float32)  # ranks, the largest that of the most rated item
        popularity[np.argsort(-self.item_counts, kind="stable")] = np.arange(n_items, 0, -1)
        starts = None if exclude is None else exclude.row_starts()
        for first in range(0, len(users), size):
            rows = users[first : first + size]
            barred = np.tile(~self.known_items, (size, 1))
            if exclude is not None and starts is not None:
                counts = np.where(rows >= 0, starts[rows + 1] - starts[rows], 0)
                at = np.repeat(np.arange(len(rows)), counts)
                within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
                barred[at, exclude.items[np.repeat(starts[rows], counts) + within]] = True
            best, found = _best(factors, np.resize(rows, size), barred, popularity, width)
            m = len(rows)
            scores[first : first + m, :width] = np.asarray(best)[:m]
            columns[first : first + m, :width] = np.asarray(found)[:m]
        columns[~np.isfinite(scores)] = -1
        return columns, scores

    def similar_items(self, item: Any, n: int = 10) -> tuple[HostArray, HostArray]:
        """The items that resemble an item, by the cosine of their factors.

        Args:
          item: an id.
          n: number of items, at most.

        Returns:
          ids and cosines ``(n,)``, the most similar first; the item itself and items without ratings left out.

        Raises:
          ValueError: for an unknown id, an item without ratings, and n below 1.
        """
        check_count("n", n)
        (position,) = _known("items", self.ratings.item_ids, [item], "error")
        if not self.known_items[position]:
            raise ValueError(f"item {item!r} has no ratings, so that nothing is known that could be similar")
        factors = np.asarray(self.factors.items)
        norms = np.linalg.norm(factors, axis=1)
        unit = factors / np.where(norms > 0, norms, 1)[:, None]
        cosines = unit @ unit[position]
        cosines[position] = -np.inf
        cosines[~self.known_items] = -np.inf
        best = np.argsort(-cosines, kind="stable")[: min(n, np.isfinite(cosines).sum())]
        return self.ratings.item_ids.values[best], cosines[best]

    def fold_in(self, ratings: Ratings) -> "Fitted":
        """A model of other users with these items: their factors are solved for, nothing is learned.

        Args:
          ratings: of the other users. Ratings of items that the model does not know are left out.

        Returns:
          a model of the users of ``ratings`` and of the items of this model.

        Raises:
          ValueError: if the model knows none of the items.
        """
        check_process()
        moved = ratings.relabelled(ratings.user_ids, self.ratings.item_ids)
        moved = moved.select(self.known_items[moved.items])
        if len(moved) == 0:
            problem = kind_mismatch("items", self.ratings.item_ids, ratings.item_ids.values)
            detail = "" if problem is None else f": {problem}"
            raise ValueError(f"ratings must be of items that the model knows, and none is{detail}")
        n = moved.n_users
        padded = max(_FOLDED, power_of_two(n))
        rows = ragged_rows(moved.users, moved.items, moved.values, moved.weights, padded, few_shapes=True)
        users, bias = (a[:n] for a in jax.device_get(_fold_in(self.model, self.state, rows)))
        rated = np.bincount(moved.users, minlength=moved.n_users) > 0
        factors = self.factors._replace(users=jnp.where(rated[:, None], users, 0), user_bias=jnp.where(rated, bias, 0))
        return replace(self, factors=factors, ratings=moved)


def fitted(
    model: Model,
    state: Any,
    ratings: Ratings,
    limits: tuple[float, float] | None,
    history: list[EpochRecord],
    stopped_by: str | None = None,
) -> Fitted:
    """The model of a state that ratings were learned into."""
    counts = np.bincount(ratings.items, minlength=ratings.n_items)
    factors = without_unrated(model.factors(state), ratings)
    return Fitted(model, state, factors, ratings, counts, limits, history, stopped_by)


def without_unrated(factors: Factors, ratings: Ratings) -> Factors:
    """Zeros for users and items without ratings, of which a random start may be left."""
    users, items = (
        np.bincount(positions, minlength=size) > 0
        for positions, size in ((ratings.users, ratings.n_users), (ratings.items, ratings.n_items))
    )
    return Factors(
        factors.mean,
        jnp.where(users, factors.user_bias, 0),
        jnp.where(items, factors.item_bias, 0),
        jnp.where(users[:, None], factors.users, 0),
        jnp.where(items[:, None], factors.items, 0),
    )


@functools.partial(jax.jit, static_argnames="n")
def _best(factors: Factors, users: Array, barred: Array, popularity: Array, n: int) -> tuple[Array, Array]:
    scores = jnp.where(barred, -jnp.inf, score_all(factors, users))
    # Without biases of items, all items score the same for users without factors: popularity says more than position.
    is_unknown = (users < 0) | jnp.all(factors.users[users] == 0, axis=1)
    is_tie = is_unknown[:, None] & jnp.all(factors.item_bias == 0) & ~barred
    _, found = jax.lax.top_k(jnp.where(is_tie, popularity.astype(scores.dtype), scores), n)
    return jnp.take_along_axis(scores, found, 1), found


def _known(name: str, labels: Labels, values: Any, unknown: str) -> HostArray:
    check_choice("unknown", unknown, ("bias", "error"))
    try:
        ids = as_labels(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    if unknown == "bias":
        return positions_or_warning(name, labels, ids)
    positions = labels.positions(ids)
    missing = ids[positions < 0]
    if len(missing):
        problem = kind_mismatch(name, labels, ids) if len(missing) == len(ids) else None
        detail = "" if problem is None else f": {problem}"
        raise ValueError(f"{name} has {len(missing)} ids that the model does not know, such as {missing[0]!r}{detail}")
    return positions
