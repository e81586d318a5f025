"""The description of a model of ratings in ``jax-mmf info``."""

from pathlib import Path
from typing import Any

from jax_mmf.cli.report import without_nan
from jax_mmf.completion import describe_model, load_model


def facts_of_recommender(path: Path, *, as_json: bool) -> dict[str, Any]:
    """Return the configuration, the sizes and the outcome of the fit of a model of ratings."""
    fitted = load_model(path)
    ratings, last = fitted.ratings, fitted.history[-1] if fitted.history else None
    facts: dict[str, Any] = {
        "model": describe_model(fitted.model) if as_json else fitted.model,
        "feedback": fitted.model.feedback,
        "n_users": ratings.n_users,
        "n_items": ratings.n_items,
        "n_ratings": len(ratings),
        "user_ids": ", ".join(sorted(ratings.user_ids.kinds)),
        "item_ids": ", ".join(sorted(ratings.item_ids.kinds)),
        "dtype": str(fitted.factors.items.dtype),
        "limits": fitted.limits,
        "epochs": last.epoch if last else None,
        "validation_score": last.score if last else None,
        "seconds": last.seconds if last else None,
    }
    return without_nan(facts)
