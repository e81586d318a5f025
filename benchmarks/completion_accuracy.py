"""Accuracy on MovieLens 100K, with the same number of random trials to tune each recommender.

Rating: root mean squared error of predictions clipped to 1..5, over random splits with a quarter for the test. Ranking:
NDCG@10 of films rated 4 or more, with a fifth of each user's for the test, and without training films. The trials are
validated on a tenth of the training part. The best values are fitted to all of it, and tested once. Ranges are in
`RATING` and `RANKING`; strengths of the two ALS of clicks are drawn from two decades each, around good values for
either. The numbers of epochs of peers are drawn like other values. Ours are the best ones of each trial on the
validation part, up to `EPOCHS`. "best peer" is the best one on each split, which can't be known before the test.
``search_s`` is the time of a whole search with compilation, on one split. LIBMF is missing, since the package has no
wheel.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Contestant, race
from benchmarks.report import Record

Space = dict[str, tuple[Any, ...]]
_WIDE = {"alpha": ("log", 0.05, 0.6), "scaling": ("uniform", 0, 1), "bias_alpha": ("log", 1, 10)}
_FACTORS = ("choice", 16, 32, 64, 128)

RATING: dict[str, Space] = {
    "jax_mmf ExplicitALS": {"n_components": ("choice", 8, 16, 32)},
    "jax_mmf BayesianMF": {"n_components": ("choice", 8, 16, 32)},
    "jax_mmf ExplicitALS, fixed priors": {
        "n_components": ("choice", 8, 16, 32), **_WIDE, "alpha": ("log", 0.03, 0.4),
    },
    "jax_mmf ExplicitALS, point estimates": {"n_components": ("choice", 8, 16, 32), **_WIDE},
    "jax_mmf ExplicitOnline": {
        "n_components": ("choice", 4, 8, 16, 32), **_WIDE,
        "forgetting": ("choice", "ScaledForgetting", "PowerForgetting"), "scale": ("log", 1, 16),
        "exponent": ("uniform", 0.5, 1),
    },
    "Surprise SVD": {
        "n_factors": ("log integer", 8, 200), "n_epochs": ("log integer", 10, 60), "lr_all": ("log", 0.002, 0.02),
        "reg_all": ("log", 0.01, 0.2),
    },
    "Surprise SVDpp": {
        "n_factors": ("log integer", 8, 50), "n_epochs": ("log integer", 10, 40), "lr_all": ("log", 0.002, 0.02),
        "reg_all": ("log", 0.01, 0.2),
    },
    "cmfrec CMF": {
        "k": ("log integer", 8, 100), "lambda_": ("log", 1, 50), "lambda_scaled": ("log", 0.01, 0.5),
        "scale_lam": ("choice", False, True), "biases": ("choice", True, True, True, False),
        "add_implicit_features": ("choice", False, True), "niter": ("log integer", 5, 30), "use_cg": ("choice", False),
    },
    "myFM": {"rank": ("choice", 8, 16, 32), "n_samples": ("choice", 100, 200)},
    "SMURFF": {
        "num_latent": ("choice", 8, 16, 32), "n_samples": ("choice", 100, 200), "precision": ("log", 0.5, 4),
    },
    "biases": {"user_damping": ("log", 1, 30), "item_damping": ("log", 1, 30)},
}  # fmt: skip
"""What is drawn for each contestant. ``lambda_scaled`` stands in for ``lambda_`` with ``scale_lam``."""

RANKING: dict[str, Space] = {
    "jax_mmf ImplicitALS": {
        "n_components": _FACTORS, "alpha": ("log", 0.01, 1), "unobserved_weight": ("log", 0.01, 1),
        "scaling": ("uniform", 0, 1),
    },
    "jax_mmf EASE": {"alpha": ("log", 30, 1000)},
    "jax_mmf BPR": {
        "n_components": _FACTORS, "alpha": ("log", 1e-4, 0.1), "learning_rate": ("choice", 0.003, 0.01, 0.03),
    },
    "implicit ALS": {
        "factors": _FACTORS, "regularization": ("log", 1, 100), "alpha": ("log", 1, 100),
        "iterations": ("log integer", 5, 30),
    },
    "implicit BPR": {
        "factors": _FACTORS, "regularization": ("log", 1e-4, 0.1), "learning_rate": ("log", 0.003, 0.2),
        "iterations": ("log integer", 20, 300),
    },
    "popularity": {},
}  # fmt: skip

EPOCHS = {"jax_mmf ExplicitOnline": 20, "jax_mmf ImplicitALS": 20, "jax_mmf BPR": 100}
_EPOCHS = 30  # of the others of ours
_BASELINES = ("biases", "popularity")
_QUICK = {
    "n_components": 8,
    "factors": 8,
    "k": 8,
    "n_factors": 8,
    "n_epochs": 3,
    "niter": 3,
    "iterations": 3,
    "rank": 8,
    "num_latent": 8,
}


def draw(space: Space, rng: np.random.Generator) -> dict[str, Any]:
    """One value for each name."""
    drawn: dict[str, Any] = {}
    for name, (kind, *bounds) in space.items():
        if kind == "choice":
            drawn[name] = bounds[rng.integers(len(bounds))]
        elif kind == "uniform":
            drawn[name] = float(rng.uniform(*bounds))
        else:
            value = math.exp(rng.uniform(*np.log(bounds)))
            drawn[name] = round(value) if kind == "log integer" else value
    return drawn


def search(
    name: str, space: Space, train: Any, score: Callable[..., float], *, trials: int, seed: int, threads: int,
    by: str = "random", n_epochs: int = _EPOCHS,
) -> tuple[dict[str, Any], int, float]:  # fmt: skip
    """The best values, number of epochs, and score (less is better) of random trials on a tenth of the ratings."""
    import jax

    from benchmarks.recommenders import learn
    from jax_mmf import completion

    inner, validation = completion.train_test_split(train, test_size=0.1, key=jax.random.key(100 + seed), by=by)
    rng = np.random.default_rng(seed)
    best: tuple[dict[str, Any], int, float] = ({}, 0, math.inf)
    drawn = [draw(space, rng) for _ in range(trials if space else 1)]
    for values in [v for i, v in enumerate(drawn) if v not in drawn[:i]]:  # equal trials once
        try:
            fitted = learn(name, inner, values, threads=threads, n_epochs=n_epochs, validation=validation)
        except FloatingPointError:  # a trial that failed
            continue
        found = score(fitted, validation, inner)
        if found < best[2]:
            scores = [record.score for record in fitted.history if not math.isnan(record.score)]
            best = values, int(np.argmin(scores)) + 1 if scores else 0, found
    return best


def rating_error(fitted: Any, test: Any, _: Any) -> float:
    from jax_mmf import completion

    return completion.rmse(fitted, test)


def ranking_loss(fitted: Any, test: Any, train: Any) -> float:
    from jax_mmf import completion

    return 1 - completion.ndcg(fitted, test, k=10, exclude=train)


def searched(
    contestant: str, task: str, seed: int, trials: int, n_threads: int, quick: bool = False
) -> Callable[[], dict[str, Any]]:
    """A search on one split: values chosen, validation and test score, seconds. quick: 8 factors, few epochs."""
    import jax

    from benchmarks.recommenders import learn
    from jax_mmf import completion

    ratings = completion.read_ratings(completion.movielens_100k()[0])
    key = jax.random.key(seed)
    if task == "rating":
        space, score, by, test_size = RATING[contestant], rating_error, "random", 0.25
    else:
        space, score, by, test_size = RANKING[contestant], ranking_loss, "user", 0.2
        ratings = ratings.positives(4)
    train, test = completion.train_test_split(ratings, test_size=test_size, key=key, by=by)
    if quick:
        space = {name: ("choice", _QUICK[name]) if name in _QUICK else known for name, known in space.items()}

    def run() -> dict[str, Any]:
        began = time.perf_counter()
        values, n_epochs, validation = search(
            contestant,
            space,
            train,
            score,
            trials=trials,
            seed=seed,
            threads=n_threads,
            by=by,
            n_epochs=3 if quick else EPOCHS.get(contestant, _EPOCHS),
        )
        found = time.perf_counter()
        fitted = learn(contestant, train, values, threads=n_threads, n_epochs=n_epochs)
        refitted = time.perf_counter()
        return {
            "values": values | ({"n_epochs": n_epochs} if n_epochs else {}),
            "validation": validation,
            "test": score(fitted, test, train),
            "search_seconds": found - began,
            "refit_seconds": refitted - found,
        }

    return run


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    records: list[Record] = []
    for task, spaces, n_trials in (("rating", RATING, 12), ("ranking", RANKING, 24)):
        trials = 2 if quick else n_trials
        splits: list[dict[str, dict[str, Any]]] = []
        for seed in range(1 if quick else 5):
            contestants = [
                Contestant(
                    name, "benchmarks.completion_accuracy:searched", threads[-1], jax=True, task=task, seed=seed,
                    trials=trials, n_threads=threads[-1], quick=quick, contestant=name,
                )
                for name in spaces
            ]  # fmt: skip
            splits.append({o["name"]: o for o in race(contestants, 0, limit=6 * 3600)})
        records += _records(task, splits, trials)
    return records


def _records(task: str, splits: Sequence[dict[str, dict[str, Any]]], trials: int) -> list[Record]:
    """One for each contestant: means and spreads over the splits."""
    measure, sign = ("rmse", 1) if task == "rating" else ("ndcg", -1)
    records = []
    peers = [name for name in splits[0] if not name.startswith("jax_mmf") and name not in _BASELINES]
    for name, first in splits[0].items():
        record: Record = {
            "part": "completion_accuracy", "problem": f"MovieLens 100K, {task}", "contestant": name,
            "setting": f"{len(splits)} splits, {trials} trials", "threads": first["threads"],
        }  # fmt: skip
        outcomes = [split[name] for split in splits]
        failed = next((o["error"] for o in outcomes if "error" in o), None)
        if failed is not None:
            records.append(record | {"error": failed})
            continue
        own = [o["result"] for o in outcomes]
        losses = np.array([result["test"] for result in own])
        best_peers = np.array(
            [min((s[p]["result"]["test"] for p in peers if "error" not in s[p]), default=np.nan) for s in splits]
        )
        scores = losses if sign == 1 else 1 - losses
        above = sign * (losses - best_peers)
        record["quality"] = {
            measure: float(scores.mean()),
            "sd": float(scores.std(ddof=1)) if len(scores) > 1 else 0.0,
            "min": float(scores.min()),
            "max": float(scores.max()),
            "minus_best_peer": float(above.mean()),
            "least_difference": float(above.min()),
            "largest_difference": float(above.max()),
            "splits_better": int((losses < best_peers).sum()),
            "search_s": float(np.mean([result["search_seconds"] for result in own])),
        }
        record["peak_rss_bytes"] = max(o["peak_rss_bytes"] for o in outcomes)
        record["splits"] = [
            result | {measure: float(score), "minus_best_peer": float(difference)}
            for result, score, difference in zip(own, scores, above, strict=True)
        ]
        records.append(record)
    return records
