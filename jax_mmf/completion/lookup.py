"""Parts of fitted models: positions of ids, predictions in parts, and what a model uses to predict."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_mmf.codes import power_of_two
from jax_mmf.completion.factors import Factors
from jax_mmf.completion.labels import Labels, as_labels, mismatch_detail, warn_if_all_unknown
from jax_mmf.completion.model import Model
from jax_mmf.completion.ratings import Ratings
from jax_mmf.completion.side_features import has_features
from jax_mmf.core import check_choice
from jax_mmf.typing import Array, HostArray


def by_parts(function: Callable[..., Array], users: HostArray, items: HostArray, most: int) -> HostArray:
    """Apply a compiled function to pairs, a few sizes of which are compiled: ``(n,) -> (n,)``."""
    n = len(users)
    out = np.empty(n, np.float32)
    size = min(most, power_of_two(n)) if n else 0
    for first in range(0, n, size or 1):
        part = slice(first, min(n, first + size))
        pairs = [np.resize(a[part], size) for a in (users, items)]
        out[part] = np.asarray(function(*pairs))[: part.stop - first]
    return out


def check_kind(name: str, value: Any, kind: type[Any]) -> None:
    """Raise TypeError unless an argument is `Ratings`, or a `Fitted`."""
    if not isinstance(value, kind):
        maker = "Ratings.from_triplets makes it" if kind is Ratings else "completion.fit returns it"
        raise TypeError(f"{name} must be {kind.__name__}, as {maker}, got {type(value).__name__}")


def scores_clicks(model: Model) -> bool:
    """Whether a model scores items by the clicks of a user, and not by factors."""
    return bool(getattr(model, "scores_clicks", False))


def learns_prior(model: Model) -> bool:
    """Whether a model predicts factors from features."""
    return bool(getattr(model, "learns_prior", False))


def uses_features(model: Model, name: str, known: Ratings, ratings: Ratings) -> HostArray:
    """Whether each user or item of ratings has features that a model uses: ``(n,)`` booleans.

    Args:
      model: of which ``known`` are the ratings.
      name: ``"user_features"`` or ``"item_features"``.
      known: ratings of the model.
      ratings: of the users and items.
    """
    given, own = getattr(ratings, name), getattr(known, name)
    n = ratings.n_users if name == "user_features" else ratings.n_items
    if given is None or own is None or not learns_prior(model):
        return np.zeros(n, bool)
    if given.shape[1] != own.shape[1]:
        raise ValueError(f"{name} must have the {own.shape[1]} columns of the model, got {given.shape[1]}")
    return has_features(given, n)


def without_unrated(factors: Factors, ratings: Ratings, by_features: bool = False) -> Factors:
    """Set users and items without ratings to zero, except those with features if these predict the factors."""
    users, items = (
        (np.bincount(positions, minlength=size) > 0) | (has_features(features, size) & by_features)
        for positions, size, features in (
            (ratings.users, ratings.n_users, ratings.user_features),
            (ratings.items, ratings.n_items, ratings.item_features),
        )
    )
    return Factors(
        factors.mean,
        jnp.where(users, factors.user_bias, 0),
        jnp.where(items, factors.item_bias, 0),
        jnp.where(users[:, None], factors.users, 0),
        jnp.where(items[:, None], factors.items, 0),
    )


def known_positions(name: str, labels: Labels, values: Any, unknown: str) -> HostArray:
    """Return positions of ids, -1 for unknown ones; name is the argument of the caller, for errors."""
    check_choice("unknown", unknown, ("bias", "error"))
    if _is_mask(values) and "bool" not in labels.kinds:
        raise TypeError(f"{name} must be ids, got booleans; pass ratings.{name[:-1]}_ids.values[booleans]")
    try:
        ids = as_labels(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    if unknown == "bias":
        return warn_if_all_unknown(name, labels, ids)
    positions = labels.positions(ids)
    missing = ids[positions < 0].tolist()
    if missing:
        detail = mismatch_detail(name, labels, ids) if len(missing) == len(ids) else ""
        raise ValueError(f"{name} has {len(missing)} ids that the model does not know, such as {missing[0]!r}{detail}")
    return positions


def among(labels: Labels, items: Any) -> HostArray:
    """Whether each item of a model is among ids that a user gives: ``(n_items,)`` booleans."""
    return np.isin(np.arange(len(labels)), known_positions("items", labels, items, "bias"))


def _is_mask(values: Any) -> bool:
    """Whether values are an array or a list of booleans."""
    if isinstance(values, list):
        return len(values) > 0 and all(isinstance(v, bool | np.bool_) for v in values)
    return getattr(getattr(values, "dtype", None), "kind", "") == "b"
