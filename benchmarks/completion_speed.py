"""Test error against seconds of fitting, 32 factors: ours after each epoch, the peers' in runs of 1 to 20 epochs.

Seconds include all of `completion.fit`, with the layout of the ratings, and all of the peers' ``fit``. They exclude the
conversion of the ratings to the format of a peer (lists, a sparse matrix). Predictions are clipped to 1..5 and
evaluated by the same function. Ours has a first run, with compilation; later runs, whose median is shown; and a first
run in a process that finds the programs in JAX's cache on disk. ``compile_s`` and ``cached_first_s`` are the additional
seconds of the first runs. ``own_best_s`` is the time at which a contestant is within 1e-3 of its best error.
``to_PEER_s`` is the time at which ours is at or below the best error of a peer, ``to_PEER_ratio`` its ratio to the
peer's ``own_best_s``, and ``first_ratio`` the same with compilation; they are missing if that error is not reached.
``to_peers`` in results.json has the seconds of each, also with the cache on disk. Surprise always runs on one thread.
LIBMF is missing, since the package has no wheel.

Values are `VALUES`, the best of a few random trials on a tenth of the training part, of the same number for all unless
stated otherwise; ``python -m benchmarks.completion_speed`` finds them. The third problem is for ours alone. It shows
whether the problem fits into memory, and the time of an epoch.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import Contestant, race
from benchmarks.problems import Paths, default_cache
from benchmarks.report import Panel, Record, records_of

RUNS = (1, 2, 3, 5, 8, 12, 20)  # epochs of the peers
EPOCHS = 20  # of ours
SMALL, LARGE = "MovieLens 100K", "shape of MovieLens 1M"
HUGE = "shape of MovieLens 20M"
TOLERANCE = 1e-3
SEARCHES = 8
_HERE = "benchmarks.completion_speed"
_CURVES = ("curve", "first_curve", "cached_curve")

VALUES: dict[str, dict[str, dict[str, Any]]] = {
    SMALL: {
        "jax_mmf": {"alpha": 0.105, "scaling": 0.270, "bias_alpha": 1.10},
        "jax_mmf, point estimates": {"alpha": 0.243, "scaling": 0.270, "bias_alpha": 1.10},
        "Surprise SVD": {"lr_all": 0.0148, "reg_all": 0.107},
        "cmfrec": {"lambda_scaled": 0.144, "scale_lam": True, "add_implicit_features": True},
    },
    LARGE: {
        "jax_mmf": {"alpha": 0.03, "scaling": 0.2, "bias_alpha": 3.0},
        "jax_mmf, point estimates": {"alpha": 0.120, "scaling": 0.729, "bias_alpha": 3.50},
        "Surprise SVD": {"lr_all": 0.00538, "reg_all": 0.0208},
        "cmfrec": {"lambda_": 15.5},
    },
}
"""Found by `tuned` in slightly narrower ranges than `SPACES`; of `LARGE`, the best of 3 trials only, and those of
jax_mmf by hand: the penalty of a mean user that the variances of noise and factors give is 5."""

SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "jax_mmf": {"alpha": ("log", 0.01, 0.4), "scaling": ("uniform", 0, 1), "bias_alpha": ("log", 1, 10)},
    "jax_mmf, point estimates": {
        "alpha": ("log", 0.01, 0.6), "scaling": ("uniform", 0, 1), "bias_alpha": ("log", 1, 10),
    },
    "Surprise SVD": {"lr_all": ("log", 0.003, 0.03), "reg_all": ("log", 0.01, 0.2)},
    "cmfrec": {
        "lambda_": ("log", 1, 50), "lambda_scaled": ("log", 0.01, 0.3), "scale_lam": ("choice", False, True),
        "add_implicit_features": ("choice", False, True),
    },
}  # fmt: skip


class Problem(NamedTuple):
    name: str
    paths: Callable[[], Paths]
    k: int = 32


def problems(quick: bool, cache: Path) -> list[Problem]:
    from benchmarks.recommenders import movielens_problem, synthetic_problem

    if quick:
        return [
            Problem(SMALL, lambda: movielens_problem(cache), 8),
            Problem(LARGE, lambda: synthetic_problem(600, 370, 20_000, cache), 8),
        ]
    return [
        Problem(SMALL, lambda: movielens_problem(cache)),
        Problem(LARGE, lambda: synthetic_problem(6040, 3706, 1_000_209, cache)),
        Problem(HUGE, lambda: synthetic_problem(138_493, 26_744, 20_000_000, cache)),
    ]


def _with_curve(out: dict[str, Any], test: Any) -> dict[str, Any]:
    """Seconds and errors of the models in a result, instead of the models."""
    from jax_mmf import completion

    return {"seconds": out["seconds"], "rmse": [completion.rmse(fitted, test) for fitted in out["fitted"]]}


def jax_mmf_curve(
    paths: dict[str, str], k: int, n_epochs: int, values: dict[str, Any], variational: bool,
    compiled: str | None = None,
) -> tuple[Callable[..., Any], Callable[..., Any]]:  # fmt: skip
    """All epochs in one run. ``compiled`` is a folder for JAX's cache on disk."""
    import jax

    from benchmarks.recommenders import LIMITS, as_fitted, load
    from jax_mmf import completion

    jax.config.update("jax_compilation_cache_dir", compiled)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    train, test = load(paths)
    model = completion.ExplicitALS(k, variational=variational, **values)

    def run() -> dict[str, Any]:
        models, seconds = [], []
        began = time.perf_counter()

        def callback(event: completion.CompletionEvent) -> None:
            nonlocal began
            now = time.perf_counter()
            seconds.append(now - began)
            models.append([np.asarray(a) for a in event.model.factors(event.state)])
            began += time.perf_counter() - now

        completion.fit(model, train, key=jax.random.key(0), n_epochs=n_epochs, callbacks=[callback])
        return {"seconds": seconds, "models": models}

    def finish(out: dict[str, Any]) -> dict[str, Any]:
        fitted = [
            as_fitted(train, users, items, mean=mean, user_bias=user_bias, item_bias=item_bias, limits=LIMITS)
            for mean, user_bias, item_bias, users, items in out["models"]
        ]
        return _with_curve(out | {"fitted": fitted}, test)

    return run, finish


def surprise_curve(
    paths: dict[str, str], k: int, runs: Sequence[int], values: dict[str, Any]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A fit for each number of epochs."""
    from surprise import SVD

    from benchmarks.recommenders import load, surprise_factors, surprise_trainset

    train, test = load(paths)
    trainset = surprise_trainset(train)
    make = lambda n: SVD(n_factors=k, n_epochs=n, random_state=0, **values)  # noqa: E731
    return _separate(make, runs, trainset, lambda solver: surprise_factors(train, solver), test)


def cmfrec_curve(
    paths: dict[str, str], k: int, runs: Sequence[int], values: dict[str, Any], n_threads: int
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A fit for each number of iterations."""
    from benchmarks.recommenders import as_coo, cmfrec_factors, cmfrec_solver, load

    train, test = load(paths)
    make = lambda n: cmfrec_solver({"k": k, "niter": n, **values}, n_threads)  # noqa: E731
    return _separate(make, runs, as_coo(train), lambda solver: cmfrec_factors(train, solver), test)


def _separate(
    make: Callable[[int], Any], runs: Sequence[int], source: Any, factors: Callable[[Any], Any], test: Any
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def run() -> dict[str, Any]:
        solvers, seconds = [], []
        for n in runs:
            solver = make(n)
            began = time.perf_counter()
            solver.fit(source)
            seconds.append(time.perf_counter() - began)
            solvers.append(solver)
        return {"seconds": seconds, "solvers": solvers}

    return run, lambda out: _with_curve(out | {"fitted": [factors(solver) for solver in out["solvers"]]}, test)


def ours(problem: Problem, threads: int, n_epochs: int, compiled: str | None = None) -> list[Contestant]:
    # What is not tuned for itself has the values of the next smaller problem.
    values, common = VALUES.get(problem.name, VALUES[LARGE]), {"paths": _as_text(problem), "k": problem.k}
    return [
        Contestant(name, f"{_HERE}:jax_mmf_curve", threads, n_epochs=n_epochs, values=values[name],
                   variational=name == "jax_mmf", compiled=compiled, **common)
        for name in ("jax_mmf", "jax_mmf, point estimates")
    ]  # fmt: skip


def peers(problem: Problem, threads: int, runs: Sequence[int]) -> list[Contestant]:
    values, common = VALUES[problem.name], {"paths": _as_text(problem), "k": problem.k, "runs": list(runs)}
    return [
        Contestant("Surprise SVD", f"{_HERE}:surprise_curve", threads, values=values["Surprise SVD"], **common),
        *(
            Contestant(name, f"{_HERE}:cmfrec_curve", threads, values=values["cmfrec"] | {"use_cg": use_cg},
                       n_threads=threads, **common)
            for name, use_cg in (("cmfrec, Cholesky", False), ("cmfrec, conjugate gradients", True))
        ),
    ]  # fmt: skip


def _as_text(problem: Problem) -> dict[str, str]:
    return {name: str(path) for name, path in problem.paths().items()}


def race_of_curves(contestants: Sequence[Contestant], repeats: int) -> list[dict[str, Any]]:
    """Outcomes with ``curve``, medians over the repeats, and ``first_curve``: each of seconds and rmse."""
    outcomes = race(contestants, repeats, limit=3600)
    for contestant, outcome in zip(contestants, outcomes, strict=True):
        for name in ("seconds", "ratio", "first_seconds"):  # of several fits, or of their evaluation too
            outcome.pop(name, None)
        outcome.pop("result", None)
        if contestant.error is not None:
            continue
        results = [reply["result"] for reply in contestant.replies]
        seconds = np.median([result["seconds"] for result in results[1:] or results], axis=0)
        outcome["first_curve"] = results[0]
        outcome["curve"] = {"seconds": seconds.tolist(), "rmse": results[-1]["rmse"]}
    return outcomes


def reached(curve: dict[str, list[float]], target: float) -> float | None:
    """Fewest seconds of a model that is at or below the target."""
    return min((s for s, error in zip(curve["seconds"], curve["rmse"], strict=True) if error <= target), default=None)


def add_quality(outcomes: Sequence[dict[str, Any]]) -> None:
    """Best errors and times of all; of ours, the times to the best of each peer, and their ratios to the peer's."""
    found = [o for o in outcomes if "curve" in o]
    for outcome in found:
        best = min(outcome["curve"]["rmse"])
        outcome["quality"] = {"best_rmse": best, "own_best_s": reached(outcome["curve"], best + TOLERANCE)}
    for own in (o for o in found if o["name"].startswith("jax_mmf")):
        quality, warm, first = own["quality"], own["curve"], own["first_curve"]
        quality["s_per_epoch"] = warm["seconds"][-1] / len(warm["seconds"])
        quality["compile_s"] = first["seconds"][-1] - warm["seconds"][-1]
        if "cached_curve" in own:
            quality["cached_first_s"] = own["cached_curve"]["seconds"][-1] - warm["seconds"][-1]
        own["to_peers"] = {}
        for peer in (o for o in found if not o["name"].startswith("jax_mmf")):
            target, theirs = peer["quality"]["best_rmse"], peer["quality"]["own_best_s"]
            found_in = {name: reached(own[name], target) for name in _CURVES if name in own}
            seconds = {name: value for name, value in found_in.items() if value is not None}
            own["to_peers"][peer["name"]] = {"of_the_peer": theirs} | seconds
            if "curve" in seconds:
                quality[f"to_{peer['name']}_s"] = seconds["curve"]
                quality[f"to_{peer['name']}_ratio"] = seconds["curve"] / theirs
            if "first_curve" in seconds:
                quality[f"to_{peer['name']}_first_ratio"] = seconds["first_curve"] / theirs


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    records: list[Record] = []
    for problem in problems(quick, cache):
        is_huge = problem.name == HUGE
        n_epochs = 3 if quick or is_huge else EPOCHS
        turns = 0 if is_huge else min(repeats, 1 if quick else 3)
        for n in threads:
            if is_huge:  # one at a time: each needs gigabytes
                outcomes = [o for contestant in ours(problem, n, n_epochs) for o in race_of_curves([contestant], 0)]
                for outcome in outcomes:
                    _add_epochs(outcome)
            else:
                contestants = ours(problem, n, n_epochs) + peers(problem, n, RUNS[:3] if quick else RUNS)
                outcomes = race_of_curves(contestants, turns)
                _add_cached(outcomes, problem, n, n_epochs)
                add_quality(outcomes)
            records += records_of("completion_speed", problem.name, f"{problem.k} factors", outcomes)
    return records


def _add_epochs(outcome: dict[str, Any]) -> None:
    """Errors and seconds of a run of few epochs: the first one holds the layout of the ratings and compilation."""
    if "curve" in outcome:
        seconds = outcome["curve"]["seconds"]
        outcome["quality"] = {
            "best_rmse": min(outcome["curve"]["rmse"]),
            "first_epoch_s": seconds[0],
            "s_per_epoch": float(np.mean(np.diff(seconds))),
        }


def _add_cached(outcomes: Sequence[dict[str, Any]], problem: Problem, threads: int, n_epochs: int) -> None:
    """``cached_curve`` of ours: the first run of a process that finds the programs of another one on disk."""
    with tempfile.TemporaryDirectory() as folder:
        race_of_curves(ours(problem, threads, 1, folder), 0)
        again = {o["name"]: o for o in race_of_curves(ours(problem, threads, n_epochs, folder), 0)}
    for outcome in outcomes:
        if "curve" in again.get(outcome["name"], {}):
            outcome["cached_curve"] = again[outcome["name"]]["curve"]


def panels(records: Sequence[Record]) -> list[Panel]:
    found = []
    for problem, threads in dict.fromkeys((r["problem"], r["threads"]) for r in records):
        own = [r for r in records if (r["problem"], r["threads"]) == (problem, threads) and "curve" in r]
        if problem == HUGE or not own:
            continue
        points = lambda curve: list(zip(curve["seconds"], curve["rmse"], strict=True))  # noqa: E731
        lines = {r["contestant"]: points(r["curve"]) for r in own}
        lines |= {f"{r['contestant']}, first": points(r["first_curve"]) for r in own if "jax_mmf" in r["contestant"]}
        title = f"{problem}, {threads} thread{'s' * (threads > 1)}"
        found.append(Panel(title, "seconds of fitting", "RMSE on test ratings", lines, y_log=False))
    return found


def tuned(problem: Problem, name: str, trials: int = SEARCHES, threads: int = 1) -> tuple[dict[str, Any], float]:
    """Values for `VALUES`, and their error on the tenth of the training part that they were chosen on."""
    import jax

    from benchmarks.completion_accuracy import draw
    from benchmarks.recommenders import learn, load
    from jax_mmf import completion

    train, validation = completion.train_test_split(load(_as_text(problem))[0], test_size=0.1, key=jax.random.key(7))
    learner, fixed = {
        "jax_mmf": ("jax_mmf ExplicitALS", {"n_components": problem.k}),
        "jax_mmf, point estimates": ("jax_mmf ExplicitALS, point estimates", {"n_components": problem.k}),
        "Surprise SVD": ("Surprise SVD", {"n_factors": problem.k, "n_epochs": RUNS[-1]}),
        "cmfrec": ("cmfrec CMF", {"k": problem.k, "niter": RUNS[-2], "use_cg": False}),
    }[name]
    rng, found = np.random.default_rng(0), []
    for _ in range(trials):
        values = draw(SPACES[name], rng)
        fitted = learn(learner, train, fixed | values, threads=threads, n_epochs=20, validation=validation)
        found.append((completion.rmse(fitted, validation), values))
    error, values = min(found, key=lambda pair: pair[0])
    return values, error


if __name__ == "__main__":
    for _problem in problems(False, default_cache())[:2]:
        for _name in SPACES:
            print(_problem.name, _name, *tuned(_problem, _name), flush=True)
