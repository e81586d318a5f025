"""Measures of predicted ratings and of recommendations, against ratings that were not trained on.

Those of recommendations rank all items that the model knows, but for those in ``exclude``, for each user with a
relevant test item, and average over these users.
"""

from typing import TYPE_CHECKING

import numpy as np

from jax_mmf.completion.labels import positions_or_warning
from jax_mmf.completion.ratings import Ratings
from jax_mmf.core import check_count
from jax_mmf.typing import HostArray

if TYPE_CHECKING:
    from jax_mmf.completion.fitted import Fitted


def rmse(fitted: "Fitted", test: Ratings) -> float:
    """Root mean squared error of predicted ratings. Unknown users and items are predicted from what is known.

    Args:
      fitted: a model.
      test: ratings; their weights, if any, weigh the squares.

    Returns:
      the error, in the unit of the ratings.

    Raises:
      ValueError: if test is empty.
    """
    return float(np.sqrt(np.average(_errors(fitted, test) ** 2, weights=test.weights)))


def mae(fitted: "Fitted", test: Ratings) -> float:
    """Mean absolute error of predicted ratings: arguments as in `rmse`."""
    return float(np.average(np.abs(_errors(fitted, test)), weights=test.weights))


def ndcg(
    fitted: "Fitted", test: Ratings, *, k: int = 10, exclude: Ratings | None = None, threshold: float | None = None
) -> float:
    """Normalised discounted cumulative gain of the first k recommendations: gain one for a relevant item.

    Args:
      fitted: a model.
      test: what is to be found.
      k: number of recommendations.
      exclude: ratings whose items are not recommended to their users, such as those that were trained on.
      threshold: smallest value of a relevant entry; None for all.

    Returns:
      the mean over users, in [0, 1].

    Raises:
      ValueError: if test holds nothing relevant, and k below 1.
    """
    hits, n_relevant = _hits(fitted, test, k, exclude, threshold)
    discount = 1 / np.log2(np.arange(2, k + 2))
    best = np.cumsum(discount)[np.minimum(n_relevant, k) - 1]
    return float(np.mean((hits * discount).sum(1) / best))


def recall(
    fitted: "Fitted", test: Ratings, *, k: int = 10, exclude: Ratings | None = None, threshold: float | None = None
) -> float:
    """Share of the relevant items that is among the first k recommendations: arguments as in `ndcg`."""
    hits, n_relevant = _hits(fitted, test, k, exclude, threshold)
    return float(np.mean(hits.sum(1) / n_relevant))


def average_precision(
    fitted: "Fitted", test: Ratings, *, k: int = 10, exclude: Ratings | None = None, threshold: float | None = None
) -> float:
    """Mean average precision (MAP) of the first k recommendations: arguments as in `ndcg`.

    The precision at each hit, summed over the hits of a user, over the largest number of hits possible.
    """
    hits, n_relevant = _hits(fitted, test, k, exclude, threshold)
    precision = np.cumsum(hits, 1) / np.arange(1, k + 1)
    return float(np.mean((precision * hits).sum(1) / np.minimum(n_relevant, k)))


def coverage(fitted: "Fitted", *, k: int = 10, exclude: Ratings | None = None) -> float:
    """Share of the known items that is among the first k recommendations of any user.

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
    if len(test) == 0:
        raise ValueError("test holds no rating")
    if test.weights is not None and not test.weights.any():
        raise ValueError("test has weights that are all zero")
    user_positions, item_positions = _positions(fitted, test)
    users, items = user_positions[test.users], item_positions[test.items]
    errors: HostArray = fitted.predict_positions(users, items).astype(np.float64) - test.values
    return errors


def _hits(
    fitted: "Fitted", test: Ratings, k: int, exclude: Ratings | None, threshold: float | None
) -> tuple[HostArray, HostArray]:
    """Which of the first k recommendations are relevant ``(m, k)``, and how many items are ``(m,)``, by user."""
    check_count("k", k)
    test = test if threshold is None else test.select(test.values >= threshold)
    if len(test) == 0:
        raise ValueError("test holds nothing relevant; look at threshold")
    starts = test.row_starts()
    rows = np.flatnonzero(np.diff(starts))
    users, items = _positions(fitted, test)
    found, _ = fitted.best_items(users[rows], k, _aligned(fitted, exclude))
    # Pairs as single numbers, so that one search answers for all users; unknown items are never found.
    n_items = fitted.ratings.n_items
    known = items[test.items] >= 0
    relevant = np.sort(test.users[known].astype(np.int64) * n_items + items[test.items][known])
    wanted = rows[:, None] * n_items + found
    at = np.minimum(np.searchsorted(relevant, wanted), max(0, len(relevant) - 1))
    hits = (found >= 0) & (relevant[at] == wanted) if len(relevant) else np.zeros(found.shape, bool)
    return hits, np.diff(starts)[rows]


def _positions(fitted: "Fitted", ratings: Ratings) -> tuple[HostArray, HostArray]:
    """Positions in a model of the users and the items of other ratings, with a warning if these are of another kind."""
    known, names = fitted.ratings, ("users", "items")
    pairs = ((known.user_ids, ratings.user_ids), (known.item_ids, ratings.item_ids))
    users, items = (
        positions_or_warning(name, ours, theirs.values) for name, (ours, theirs) in zip(names, pairs, strict=True)
    )
    return users, items


def _aligned(fitted: "Fitted", ratings: Ratings | None) -> Ratings | None:
    """Ratings by the positions of a model's users and items; entries of others are dropped."""
    if ratings is None or (ratings.user_ids is fitted.ratings.user_ids and ratings.item_ids is fitted.ratings.item_ids):
        return ratings
    _positions(fitted, ratings)
    return ratings.relabelled(fitted.ratings.user_ids, fitted.ratings.item_ids)
