"""Fitted models of ratings, which predict and recommend by the ids of users and items."""

from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.completion.ease import click_matrix, click_rows
from jax_mmf.completion.factors import Factors, predict
from jax_mmf.completion.labels import as_labels, mismatch_detail
from jax_mmf.completion.lookup import (
    among,
    by_parts,
    check_kind,
    known_positions,
    learns_prior,
    scores_clicks,
    uses_features,
    without_unrated,
)
from jax_mmf.completion.model import EpochRecord, Model
from jax_mmf.completion.neighbours import similar, without_each
from jax_mmf.completion.ragged import padded_users
from jax_mmf.completion.ranking import MOST_SCORES, Recommendations, RowSource, best_items, labels_at
from jax_mmf.completion.ratings import Ratings
from jax_mmf.core import check_count, check_process
from jax_mmf.typing import Array, HostArray

_PREDICTIONS = 1 << 20  # per call of the compiled program
_DEVIATIONS = 1 << 16  # the same, for standard deviations

_predict = jax.jit(predict)
_predict_std = jax.jit(lambda model, state, users, items: model.predict_std(state, users, items))
_fold_in = jax.jit(lambda model, state, rows: model.fold_in(state, rows))


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
        found = self.predict_positions(*pairs)
        return (found, self._std(*pairs)) if return_std else found

    def predict_positions(self, users: HostArray, items: HostArray) -> HostArray:
        """Predict by positions in ``ratings.user_ids`` and ``ratings.item_ids``; -1 means unknown."""
        check_process()
        most = MOST_SCORES // self.ratings.n_items if scores_clicks(self.model) else _PREDICTIONS
        source = self._row_source()

        def scores(rows: HostArray, columns: HostArray) -> Array:
            factors, places = source(rows)
            return _predict(factors, places, columns)

        out = by_parts(scores, users, items, max(1, most))
        return out if self.limits is None else np.clip(out, *self.limits)

    def _row_source(self) -> RowSource:
        """Return a function from positions of users to factors that hold these users, and their places there."""
        if not scores_clicks(self.model):
            return lambda users: (self.factors, users)
        clicks = click_matrix(self.ratings)

        def source(users: HostArray) -> tuple[Factors, HostArray]:
            rows = jnp.asarray(click_rows(clicks, users), self.factors.items.dtype)
            places = np.where(users >= 0, np.arange(len(users)), -1)
            return self.factors._replace(users=rows, user_bias=jnp.zeros(len(users), rows.dtype)), places

        return source

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
          unknown: as in `predict`. Users that the model has not seen, or that have no ratings, get the items with the
            largest biases. If the model has no item biases, they get the items with the most ratings, all with the
            same score, which shows that the order is by popularity.
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
        allowed = np.ones(self.ratings.n_items, bool) if items is None else among(self.ratings.item_ids, items)
        if exclude is not None:
            allowed &= ~among(self.ratings.item_ids, exclude)
        columns, scores = self.best_items(rows, n, self.ratings if exclude_seen else None, allowed)
        if self.limits is not None:
            scores = np.where(np.isfinite(scores), np.clip(scores, *self.limits), scores)
        given = ids.values if users is None else as_labels(users)
        return Recommendations(given, labels_at(self.ratings.item_ids.values, columns), scores)

    def best_items(
        self, users: HostArray, n: int, exclude: Ratings | None, allowed: HostArray | None = None
    ) -> tuple[HostArray, HostArray]:
        """Return positions and scores ``(m, n)`` of the best items of users at positions, as in `ranking.best_items`.

        Items without training ratings and features are left out.
        """
        check_process()
        known = self.known_items | uses_features(self.model, "item_features", self.ratings, self.ratings)
        known = known if allowed is None else known & allowed
        return best_items(self._row_source(), users, n, known, exclude, self.item_counts)

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
        return similar("item", item, self.ratings.item_ids, self.factors.items, self.known_items, n)

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
        if self.factors.users.shape[1] == 0:
            raise ValueError(f"{type(self.model).__name__} has no factors of users to compare; use another model")
        known = np.diff(self.ratings.row_starts()) > 0
        return similar("user", user, self.ratings.user_ids, self.factors.users, known, n)

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
        check_kind("ratings", ratings, Ratings)
        moved = ratings.relabelled(ratings.user_ids, self.ratings.item_ids)
        moved = replace(moved.select(self.known_items[moved.items]), item_features=self.ratings.item_features)
        described, n = uses_features(self.model, "user_features", self.ratings, moved), moved.n_users
        if len(moved) == 0 and not described.any():
            detail = mismatch_detail("items", self.ratings.item_ids, ratings.item_ids.values)
            raise ValueError(f"ratings must be of items that the model knows, and none is{detail}")
        rows = padded_users(moved, moved.user_features if described.any() else None)
        users, bias = (a[:n] for a in jax.device_get(_fold_in(self.model, self.state, rows)))
        known = (np.bincount(moved.users, minlength=n) > 0) | described
        factors = self.factors._replace(users=jnp.where(known[:, None], users, 0), user_bias=jnp.where(known, bias, 0))
        return replace(self, factors=factors, ratings=moved, folded=True)


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
