"""Metrics of predicted ratings and of recommendations, on test ratings.

Metrics of recommendations rank all items that the model knows, except those in ``exclude``. They are averages over the
users with a relevant test item.
"""

from typing import TYPE_CHECKING

import numpy as np

from jax_mmf.completion.labels import positions_or_warning
from jax_mmf.completion.lookup import check_kind
from jax_mmf.completion.ratings import Ratings
from jax_mmf.core import check_count
from jax_mmf.typing import HostArray

if TYPE_CHECKING:
    from jax_mmf.completion.fitted import Fitted


def rmse(fitted: "Fitted", test: Ratings) -> float:
    """Root mean squared error of predicted ratings.

    For an unknown user or item, the prediction uses the mean and the bias of the other one.

    Args:
      fitted: a model.
      test: test ratings; their weights, if any, are those of the squared errors.

    Returns:
      the error, in the unit of the ratings.

    Raises:
      ValueError: if test is empty.
    """
    return float(np.sqrt(np.average(_errors(fitted, test) ** 2, weights=test.weights)))


def mae(fitted: "Fitted", test: Ratings) -> float:
    """Mean absolute error of predicted ratings; arguments as in `rmse`."""
    return float(np.average(np.abs(_errors(fitted, test)), weights=test.weights))


def ndcg(
    fitted: "Fitted", test: Ratings, *, k: int = 10, exclude: Ratings | None = None, threshold: float | None = None
) -> float:
    """Normalised discounted cumulative gain of the first k recommendations, with gain one for relevant items.

    Args:
      fitted: a model.
      test: test ratings.
      k: number of recommendations.
      exclude: ratings whose items are not recommended to their users, such as the training ratings.
      threshold: smallest value of a relevant entry; None for all.

    Returns:
      the mean over users, in [0, 1].

    Raises:
      ValueError: if test holds no relevant rating, or k is below 1.
    """
    hits, n_relevant = _hits(fitted, test, k, exclude, threshold)
    discount = 1 / np.log2(np.arange(2, k + 2))
    best = np.cumsum(discount)[np.minimum(n_relevant, k) - 1]
    return float(np.mean((hits * discount).sum(1) / best))


def recall(
    fitted: "Fitted", test: Ratings, *, k: int = 10, exclude: Ratings | None = None, threshold: float | None = None
) -> float:
    """Share of the relevant items among the first k recommendations; arguments as in `ndcg`."""
    hits, n_relevant = _hits(fitted, test, k, exclude, threshold)
    return float(np.mean(hits.sum(1) / n_relevant))


def average_precision(
    fitted: "Fitted", test: Ratings, *, k: int = 10, exclude: Ratings | None = None, threshold: float | None = None
) -> float:
    """Mean average precision (MAP) of the first k recommendations; arguments as in `ndcg`.

    The average precision of a user is the sum of the precision at each hit, divided by the largest possible number of
    hits.
    """
    hits, n_relevant = _hits(fitted, test, k, exclude, threshold)
    precision = np.cumsum(hits, 1) / np.arange(1, k + 1)
    return float(np.mean((precision * hits).sum(1) / np.minimum(n_relevant, k)))


def coverage(fitted: "Fitted", *, k: int = 10, exclude: Ratings | None = None) -> float:
    """Share of the known items among the first k recommendations of all users.

    Args:
      fitted: a model.
      k: number of recommendations.
      exclude: ratings whose items are not recommended to their users.

    Returns:
      a share in [0, 1].
    """
    check_count("k", k)
    columns, _ = fitted.best_items(np.arange(fitted.ratings.n_users), k, _aligned(fitted, exclude))
    return float(len(np.unique(columns[columns >= 0])) / max(1, fitted.known_items.sum()))


def _errors(fitted: "Fitted", test: Ratings) -> HostArray:
    check_kind("test", test, Ratings)
    if len(test) == 0:
        raise ValueError("test holds no ratings")
    if test.weights is not None and not test.weights.any():
        raise ValueError("test must have a weight above zero; all are zero")
    user_positions, item_positions = _positions(fitted, test)
    users, items = user_positions[test.users], item_positions[test.items]
    errors: HostArray = fitted.predict_positions(users, items).astype(np.float64) - test.values
    return errors


def _hits(
    fitted: "Fitted", test: Ratings, k: int, exclude: Ratings | None, threshold: float | None
) -> tuple[HostArray, HostArray]:
    """Return which of the first k recommendations are relevant ``(m, k)``, and how many items are ``(m,)``."""
    check_count("k", k)
    check_kind("test", test, Ratings)
    test = test if threshold is None else test.select(test.values >= threshold)
    if len(test) == 0:
        raise ValueError("test holds no relevant rating; check test and threshold")
    starts = test.row_starts()
    rows = np.flatnonzero(np.diff(starts))
    users, items = _positions(fitted, test)
    found, _ = fitted.best_items(users[rows], k, _aligned(fitted, exclude))
    # Pairs are encoded as single numbers, so that one search serves all users. Unknown items are never found.
    n_items = fitted.ratings.n_items
    known = items[test.items] >= 0
    relevant = np.sort(test.users[known].astype(np.int64) * n_items + items[test.items][known])
    wanted = rows[:, None] * n_items + found
    at = np.minimum(np.searchsorted(relevant, wanted), max(0, len(relevant) - 1))
    hits = (found >= 0) & (relevant[at] == wanted) if len(relevant) else np.zeros(found.shape, bool)
    return hits, np.diff(starts)[rows]


def _positions(fitted: "Fitted", ratings: Ratings) -> tuple[HostArray, HostArray]:
    """Return the positions in a model of the users and items of ratings; warn if their ids are of another type."""
    known, names = fitted.ratings, ("users", "items")
    pairs = ((known.user_ids, ratings.user_ids), (known.item_ids, ratings.item_ids))
    users, items = (
        positions_or_warning(name, ours, theirs.values) for name, (ours, theirs) in zip(names, pairs, strict=True)
    )
    return users, items


def _aligned(fitted: "Fitted", ratings: Ratings | None) -> Ratings | None:
    """Renumber ratings by the users and items of a model; entries of unknown ones are dropped."""
    if ratings is not None:
        check_kind("exclude", ratings, Ratings)
    if ratings is None or (ratings.user_ids is fitted.ratings.user_ids and ratings.item_ids is fitted.ratings.item_ids):
        return ratings
    _positions(fitted, ratings)
    return ratings.relabelled(fitted.ratings.user_ids, fitted.ratings.item_ids)
