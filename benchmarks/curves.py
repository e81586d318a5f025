"""Held-out objective against seconds, samples and bytes, for all parts in which contestants learn."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evaluation import Penalty, held_out_objective
from benchmarks.harness import Contestant, race
from benchmarks.report import Panel, Record

_AXES = {
    "seconds": ("seconds of learning", 1),
    "n_samples": ("samples", 1),
    "bytes_read": ("GB needed of the samples", 1e-9),
}


def race_of_fits(
    contestants: Sequence[Contestant], held_out: np.ndarray, penalty: Penalty, max_seconds: float
) -> list[dict[str, Any]]:
    """Each learns once, one after another; outcomes with ``curve``: objective, seconds, n_samples, bytes_read."""

    def evaluate(_: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        objective = [held_out_objective(d, held_out, penalty)["objective"] for d in arrays.pop("dictionaries")]
        return {"curve": {"objective": objective} | {name: array.tolist() for name, array in arrays.items()}}

    outcomes = race(contestants, 0, evaluate=evaluate, limit=60 + 5 * max_seconds)
    for outcome in outcomes:
        outcome.pop("first_seconds", None)
    return outcomes


def add_times(outcomes: Sequence[dict[str, Any]], target: float) -> None:
    """Seconds, samples and bytes to a target, between two checkpoints by interpolation; nothing if it isn't reached."""
    for outcome in outcomes:
        if "curve" not in outcome:
            continue
        curve = {name: np.array(values) for name, values in outcome["curve"].items()}
        quality = {"objective": float(curve["objective"].min())}
        reached = np.flatnonzero(curve["objective"] <= target)
        if reached.size:
            for axis, unit, factor in (("seconds", "s", 1), ("n_samples", "samples", 1), ("bytes_read", "GB", 1e-9)):
                quality[f"{unit}_to_target"] = factor * _crossing(
                    curve[axis], curve["objective"], int(reached[0]), target
                )
        compiled = outcome.get("result", {}).get("compile_seconds")
        if compiled is not None:
            quality["compile_s"] = compiled
        outcome["quality"] = quality


def _crossing(x: np.ndarray, objective: np.ndarray, index: int, target: float) -> float:
    if index == 0:
        return float(x[0])
    share = (objective[index - 1] - target) / (objective[index - 1] - objective[index])
    return float(x[index - 1] + share * (x[index] - x[index - 1]))


def best(outcomes: Sequence[dict[str, Any]]) -> float:
    """Lowest objective that any contestant came to; NaN if all failed."""
    return min((min(outcome["curve"]["objective"]) for outcome in outcomes if "curve" in outcome), default=np.nan)


def curve_panels(
    records: Sequence[Record], axes: Sequence[str] = ("seconds", "n_samples"), drawn: Collection[str] | None = None
) -> list[Panel]:
    """For each problem and setting, the objective above the best of all, against each of the axes.

    ``drawn`` are names of contestants, by default all.
    """
    panels = []
    for key in dict.fromkeys((r["problem"], r["setting"], r["threads"]) for r in records):
        own = [r for r in records if (r["problem"], r["setting"], r["threads"]) == key and "curve" in r]
        if not own:
            continue
        least = best(own)
        for axis in axes:
            label, unit = _AXES[axis]
            lines = {
                r["contestant"]: [
                    (x * unit, max(y / least - 1, 1e-4))
                    for x, y in zip(r["curve"][axis], r["curve"]["objective"], strict=True)
                ]
                for r in own
                if drawn is None or r["contestant"] in drawn
            }
            panels.append(
                Panel(
                    f"{key[0]}, {key[2]} thread{'s' * (key[2] > 1)}\n{key[1]}",
                    label,
                    "objective / best - 1",
                    lines,
                )
            )
    return panels


def fit_arguments(paths: dict[str, Path], penalty: Penalty, max_seconds: float, **more: Any) -> dict[str, Any]:
    """Arguments that the factories of `benchmarks.fits` share."""
    return {
        "samples": paths["train"],
        "init": paths["init"],
        "penalty": penalty._asdict(),
        "max_seconds": max_seconds,
        **more,
    }
