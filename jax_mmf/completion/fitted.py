"""Fitted models of ratings, which predict and recommend by the ids of users and items."""

import functools
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.codes import power_of_two
from jax_mmf.completion.ease import click_rows
from jax_mmf.completion.factors import Factors, predict, score_all
from jax_mmf.completion.labels import as_labels, kind_mismatch
from jax_mmf.completion.lookup import by_parts, known_positions, learns_prior, scores_clicks, without_unrated
from jax_mmf.completion.model import Model
from jax_mmf.completion.neighbours import most_similar, without_each
from jax_mmf.completion.ragged import ragged_rows
from jax_mmf.completion.ratings import Ratings
from jax_mmf.completion.side_features import has_features
from jax_mmf.core import check_count, check_process
from jax_mmf.typing import Array, HostArray

_SCORES = 1 << 24  # in memory at a time
_PREDICTIONS = 1 << 20  # per call of the compiled program
_DEVIATIONS = 1 << 16  # the same, for standard deviations
_FOLDED = 8  # smallest number of users that are folded in together

_predict = jax.jit(predict)
_predict_std = jax.jit(lambda model, state, users, items: model.predict_std(state, users, items))
_fold_in = jax.jit(lambda model, state, rows: model.fold_in(state, rows))


class Recommendations(NamedTuple):
    """The best items of each user.

    Attributes:
      users: ``(m,)`` ids.
      items: ``(m, n)`` ids, the best first. Where fewer than n items are left for a user: -1 for numbers, NaT for
        dates, None for other ids.
      scores: ``(m, n)`` predictions, ``-inf`` where there is no item.
    """

    users: HostArray
    items: HostArray
    scores: HostArray


class EpochRecord(NamedTuple):
    """Record of one epoch in the history.

    Attributes:
      epoch: number of epochs so far.
      seconds: time of all epochs so far, with the compilation in the first one, and without evaluation.
      score: on validation ratings, or NaN.
    """

    epoch: int
    seconds: float
    score: float


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted model of ratings, which refers to users and items by their ids.

    Attributes:
      model: the configuration.
      state: the learned state, a pytree for methods of the configuration such as ``model.fold_in``.
      factors: `Factors`, rows in the order of ``ratings.user_ids`` and ``ratings.item_ids``; zero for users and items
        without ratings.
      ratings: the ratings of its users.
      item_counts: ``(n_items,)`` number of training ratings of each item.
      limits: smallest and largest rating, to which predictions are clipped, or None.
      history: an `EpochRecord` per epoch.
      stopped_by: what ended the run: ``"epochs"``, ``"patience"``, ``"callback"``, ``"interrupt"`` (Ctrl-C) or
        ``"error"``; None for a model from a file.
      folded: whether its users were folded in.
    """

    model: Model
    state: Any
    factors: Factors
    ratings: Ratings
    item_counts: HostArray
    limits: tuple[float, float] | None
    history: list[EpochRecord]
    stopped_by: str | None = None
    folded: bool = False

    @property
    def known_items(self) -> HostArray:
        """Whether each item has training ratings: ``(n_items,)`` booleans."""
        return self.item_counts > 0

    def __repr__(self) -> str:
        learned = f"history={len(self.history)} epochs, stopped_by={self.stopped_by!r}"
        return f"Fitted({self.model!r},\n  {self.ratings!r}, {learned})"

    @overload
    def predict(self, users: Any, items: Any, *, unknown: str = ..., return_std: Literal[False] = ...) -> HostArray: ...
    @overload
    def predict(
        self, users: Any, items: Any, *, unknown: str = ..., return_std: Literal[True]
    ) -> tuple[HostArray, HostArray]: ...

    def predict(self, users: Any, items: Any, *, unknown: str = "bias", return_std: bool = False) -> Any:
        """Predict the values of pairs of a user and an item.

        Args:
          users: ``(n,)`` ids, or one id for all items.
          items: ``(n,)`` ids, or one id for all users.
          unknown: treatment of ids that the model has not seen: ``"bias"`` predicts from the mean and the bias of the
            other id of the pair, ``"error"`` raises.
          return_std: whether to return standard deviations too, which `BayesianMF` has, of the ratings around their
            predictions.

        Returns:
          ``(n,)`` float32, never NaN; within the range of the training ratings for explicit feedback. With return_std,
          a pair of these and of standard deviations ``(n,)``.

        Raises:
          ValueError: for lengths that differ, for unknown ids with ``unknown="error"``, and for return_std=True with
            another model, or after `fold_in`.

        Warns:
          UserWarning: if all users, or all items, are unknown and their ids are of another type than those of the
            model, such as text instead of numbers.
        """
        rows = known_positions("users", self.ratings.user_ids, users, unknown)
        columns = known_positions("items", self.ratings.item_ids, items, unknown)
        if len(rows) != len(columns) and 1 not in (len(rows), len(columns)):
            raise ValueError(f"users and items must have the same length, got {len(rows)} and {len(columns)}")
        pairs = np.broadcast_arrays(rows, columns)
        return (self.predict_positions(*pairs), self._std(*pairs)) if return_std else self.predict_positions(*pairs)

    def predict_positions(self, users: HostArray, items: HostArray) -> HostArray:
        """Predict by positions in ``ratings.user_ids`` and ``ratings.item_ids``; -1 means unknown."""
        check_process()
        most = _SCORES // self.ratings.n_items if scores_clicks(self.model) else _PREDICTIONS

        def scores(rows: HostArray, columns: HostArray) -> Array:
            factors, rows = self._with_rows(rows)
            return _predict(factors, rows, columns)

        out = by_parts(scores, users, items, max(1, most))
        return out if self.limits is None else np.clip(out, *self.limits)

    def _with_rows(self, users: HostArray) -> tuple[Factors, HostArray]:
        """Return factors that hold users at positions, and their places there."""
        if not scores_clicks(self.model):
            return self.factors, users
        rows = jnp.asarray(click_rows(self.ratings, users), self.factors.items.dtype)
        places = np.where(users >= 0, np.arange(len(users)), -1)
        return self.factors._replace(users=rows, user_bias=jnp.zeros(len(users), rows.dtype)), places

    def _std(self, users: HostArray, items: HostArray) -> HostArray:
        """Return standard deviations of ratings around predictions, by positions."""
        if not hasattr(self.model, "predict_std"):
            raise ValueError(f"return_std=True needs a model such as BayesianMF, got {type(self.model).__name__}")
        if self.folded:
            raise ValueError("return_std=True needs users of the fit, not ones that were folded in; refit with them")
        return by_parts(lambda *pairs: _predict_std(self.model, self.state, *pairs), users, items, _DEVIATIONS)

    def recommend(
        self, users: Any = None, n: int = 10, *, exclude_seen: bool = True, unknown: str = "bias", items: Any = None,
        exclude: Any = None,
    ) -> Recommendations:  # fmt: skip
        """Recommend the best items to users.

        Args:
          users: ids, or one id; all users of the model by default.
          n: number of items.
          exclude_seen: whether to leave out items that a user has rated.
          unknown: as in `predict`. Users that the model has not seen get the items with the largest biases, or with the
            most ratings if the model has no item biases.
          items: ids of the items to choose from; all by default. Ids that the model does not know are left out.
          exclude: ids of items that are not recommended.

        Returns:
          a `Recommendations` for m users, m = 1 for one id.

        Raises:
          ValueError: for unknown ids with ``unknown="error"``, and n below 1.
          TypeError: for booleans instead of the ids of items.
        """
        check_count("n", n)
        ids = self.ratings.user_ids
        rows = np.arange(len(ids)) if users is None else known_positions("users", ids, users, unknown)
        allowed = np.ones(self.ratings.n_items, bool) if items is None else self._among_items(items)
        if exclude is not None:
            allowed &= ~self._among_items(exclude)
        columns, scores = self.best_items(rows, n, self.ratings if exclude_seen else None, allowed)
        if self.limits is not None:
            scores = np.where(np.isfinite(scores), np.clip(scores, *self.limits), scores)
        labels = self.ratings.item_ids.values
        best = labels[columns]
        if (columns < 0).any():
            missing: Any = {"i": -1, "u": -1, "M": np.datetime64("NaT"), "m": np.timedelta64("NaT")}.get(
                labels.dtype.kind
            )
            wide = {"i": np.int64, "u": object if labels.dtype == np.uint64 else np.int64}.get(labels.dtype.kind)
            best = best if wide is None else best.astype(wide)
            best[columns < 0] = missing
        given = ids.values if users is None else as_labels(users)
        return Recommendations(given, best, scores)

    def _among_items(self, items: Any) -> HostArray:
        """Whether each item is among the ids: ``(n_items,)`` booleans."""
        if getattr(getattr(items, "dtype", None), "kind", "") == "b" and self.ratings.item_ids.values.dtype.kind != "O":
            raise TypeError("items and exclude must be ids of items, got booleans; pass item_ids.values[booleans]")
        at = known_positions("items", self.ratings.item_ids, items, "bias")
        return np.isin(np.arange(self.ratings.n_items), at)

    def best_items(
        self, users: HostArray, n: int, exclude: Ratings | None, allowed: HostArray | None = None
    ) -> tuple[HostArray, HostArray]:
        """Return positions and scores ``(m, n)`` of the best items of users at positions ``(m,)``.

        Where no item is left, they are -1 and -inf. Items without training ratings and features are left out. Users
        without factors get the items with the most ratings if the model has no item biases.
        """
        check_process()
        n_items = self.ratings.n_items
        width = min(n, n_items)
        columns = np.full((len(users), n), -1, np.int64)
        scores = np.full((len(users), n), -np.inf, np.float32)
        size = min(power_of_two(len(users)), max(1, _SCORES // n_items))
        popularity = np.empty(n_items, np.float32)  # ranks; the most rated item has the largest
        popularity[np.argsort(-self.item_counts, kind="stable")] = np.arange(n_items, 0, -1)
        starts = None if exclude is None else exclude.row_starts()
        unknown = ~(self.known_items | self._use_features("item_features", self.ratings))
        unknown = unknown if allowed is None else unknown | ~allowed
        for first in range(0, len(users), size):
            rows = users[first : first + size]
            barred = np.tile(unknown, (size, 1))
            if exclude is not None and starts is not None:
                counts = np.where(rows >= 0, starts[rows + 1] - starts[rows], 0)
                at = np.repeat(np.arange(len(rows)), counts)
                within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
                barred[at, exclude.items[np.repeat(starts[rows], counts) + within]] = True
            m = len(rows)
            factors, places = self._with_rows(np.resize(rows, size))
            best, found = _best(factors, places, barred, popularity, width)
            scores[first : first + m, :width] = np.asarray(best)[:m]
            columns[first : first + m, :width] = np.asarray(found)[:m]
        columns[~np.isfinite(scores)] = -1
        return columns, scores

    def similar_items(self, item: Any, n: int = 10) -> tuple[HostArray, HostArray]:
        """Find the items that are most similar to an item, by the cosine of their factors.

        Args:
          item: an id.
          n: largest number of items.

        Returns:
          ids and cosines ``(n,)``, the most similar first, without the item itself and items without ratings.

        Raises:
          ValueError: for an unknown id, an item without ratings, and n below 1.
        """
        check_count("n", n)
        (position,) = known_positions("items", self.ratings.item_ids, [item], "error")
        if not self.known_items[position]:
            raise ValueError(f"item {item!r} has no ratings to compare it by; choose an item with ratings")
        best, cosines = most_similar(np.asarray(self.factors.items), position, self.known_items, n)
        return self.ratings.item_ids.values[best], cosines

    def similar_users(self, user: Any, n: int = 10) -> tuple[HostArray, HostArray]:
        """Find the users that are most similar to a user, by the cosine of their factors.

        Args:
          user: an id.
          n: largest number of users.

        Returns:
          ids and cosines ``(n,)``, the most similar first, without the user itself and users without ratings.

        Raises:
          ValueError: for an unknown id, a user without ratings, n below 1, and `EASE`, which has no factors of users.
        """
        check_count("n", n)
        vectors = np.asarray(self.factors.users)
        if vectors.shape[1] == 0:
            raise ValueError(f"{type(self.model).__name__} has no factors of users to compare; use another model")
        (position,) = known_positions("users", self.ratings.user_ids, [user], "error")
        known = np.bincount(self.ratings.users, minlength=self.ratings.n_users) > 0
        if not known[position]:
            raise ValueError(f"user {user!r} has no ratings to compare it by; choose a user with ratings")
        best, cosines = most_similar(vectors, position, known, n)
        return self.ratings.user_ids.values[best], cosines

    def explain(self, user: Any, item: Any, n: int = 10) -> tuple[HostArray, HostArray]:
        """Find the ratings of a user that a prediction comes from.

        The contribution of a rating is the difference of the predictions with and without it, where the user is folded
        in from the other ratings. For `EASE`, contributions are the weights of the items, and add up to the score.

        Args:
          user: an id.
          item: an id.
          n: largest number of ratings.

        Returns:
          ids of rated items and contributions ``(n,)``, the largest first.

        Raises:
          ValueError: for unknown ids, users without ratings, and n below 1.
        """
        check_count("n", n)
        (row,) = known_positions("users", self.ratings.user_ids, [user], "error")
        (column,) = known_positions("items", self.ratings.item_ids, [item], "error")
        if not (self.ratings.users == row).any():
            raise ValueError(f"user {user!r} has no ratings; choose a user with ratings")
        copies = replace(self, limits=None).fold_in(without_each(self.ratings, row))
        n_copies = copies.ratings.n_users
        scores = copies.predict_positions(np.arange(n_copies), np.full(n_copies, column)).astype(np.float64)
        rated, share = self.ratings.items[self.ratings.users == row], scores[0] - scores[1:]
        best = np.argsort(-share, kind="stable")[:n]
        return self.ratings.item_ids.values[rated[best]], share[best]

    def fold_in(self, ratings: Ratings) -> "Fitted":
        """Make a model of new users by solving for their factors; the items stay as they are.

        Args:
          ratings: of the new users. Ratings of items that the model does not know are left out.

        Returns:
          a model of the users of ``ratings`` and of the items of this model.

        Raises:
          ValueError: if the model knows none of the items.
        """
        check_process()
        moved = ratings.relabelled(ratings.user_ids, self.ratings.item_ids)
        moved = replace(moved.select(self.known_items[moved.items]), item_features=self.ratings.item_features)
        n = moved.n_users
        described = self._use_features("user_features", moved)
        if len(moved) == 0 and not described.any():
            problem = kind_mismatch("items", self.ratings.item_ids, ratings.item_ids.values)
            detail = "" if problem is None else f": {problem}"
            raise ValueError(f"ratings must be of items that the model knows, and none is{detail}")
        padded = max(_FOLDED, power_of_two(n))
        rows = ragged_rows(moved.users, moved.items, moved.values, moved.weights, padded, few_shapes=True)
        if described.any() and moved.user_features is not None:
            features = np.pad(moved.user_features, ((0, padded - n), (0, 0)), constant_values=np.nan)
            rows = replace(rows, features=jnp.asarray(features))
        users, bias = (a[:n] for a in jax.device_get(_fold_in(self.model, self.state, rows)))
        known = (np.bincount(moved.users, minlength=n) > 0) | described
        factors = self.factors._replace(users=jnp.where(known[:, None], users, 0), user_bias=jnp.where(known, bias, 0))
        return replace(self, factors=factors, ratings=moved, folded=True)

    def _use_features(self, name: str, ratings: Ratings) -> HostArray:
        """Return which users, or items, have features that the model knows to use: ``(n,)`` booleans."""
        given, known = getattr(ratings, name), getattr(self.ratings, name)
        n = ratings.n_users if name == "user_features" else ratings.n_items
        if given is None or known is None or not learns_prior(self.model):
            return np.zeros(n, bool)
        if given.shape[1] != known.shape[1]:
            raise ValueError(f"{name} must have the {known.shape[1]} columns of the model, got {given.shape[1]}")
        return has_features(given, n)


def make_fitted(
    model: Model,
    state: Any,
    ratings: Ratings,
    limits: tuple[float, float] | None,
    history: list[EpochRecord],
    stopped_by: str | None = None,
) -> Fitted:
    """Make the fitted model of a state that was trained on ratings."""
    counts = np.bincount(ratings.items, minlength=ratings.n_items)
    factors = without_unrated(_factors(model, state), ratings, learns_prior(model))
    return Fitted(model, state, factors, ratings, counts, limits, history, stopped_by)


@jax.jit
def _factors(model: Model, state: Any) -> Factors:
    return model.factors(state)


@functools.partial(jax.jit, static_argnames="n")
def _best(factors: Factors, users: Array, barred: Array, popularity: Array, n: int) -> tuple[Array, Array]:
    scores = jnp.where(barred, -jnp.inf, score_all(factors, users))
    # Without item biases, all items score the same for users without factors. They are ranked by popularity then.
    is_unknown = (users < 0) | jnp.all(factors.users[users] == 0, axis=1)
    is_tie = is_unknown[:, None] & jnp.all(factors.item_bias == 0) & ~barred
    _, found = jax.lax.top_k(jnp.where(is_tie, popularity.astype(scores.dtype), scores), n)
    return jnp.take_along_axis(scores, found, 1), found
