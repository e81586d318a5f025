"""Feature subsets against all features: samples, bytes and seconds to within 1 % of the best objective of all.

"full B" is masked statistics with B of all features ([TSP18]), "partial B" sees the features of its subset only
([ICML16]), and "codes from 1/r" updates the dictionary on all features too (`SubsampledStatistics`). All start from one
dictionary; the data are in memory, and the objective is that of 256 held-out rows with exact codes. Contestants are the
best of the part `subsampling_search` for each r, and those of the papers: batches of 50 and weights of exponent u =
0.917. Figures are medians over three seeds of the order of samples and features, and the range; a seed that does not
reach the target counts as infinite. Samples and bytes do not depend on the load of the machine. Seconds do; they are
without compilation.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.convergence import LASSO, RIDGE
from benchmarks.curves import add_times, best, curve_panels
from benchmarks.evaluation import Penalty
from benchmarks.harness import Contestant, race
from benchmarks.problems import (
    Paths,
    cortical_fmri_problem,
    gaussian_maps_problem,
    indian_pines_problem,
    synthetic_fmri_problem,
)
from benchmarks.report import Panel, Record, records_of

SEEDS, TARGET = 3, 1.01
PAPERS = 0.917
"""The exponent of the papers; a number below 1 in a `Setting` is an exponent."""
AXES = {"seconds": "s", "n_samples": "samples", "bytes_read": "GB"}


class Setting(NamedTuple):
    """One contestant.

    Attributes:
      reduction: r.
      partial: whether B is partial.
      batch_size: samples per mini-batch.
      forgetting: c of `ScaledForgetting`, or an exponent.
      codes: reduction of the features that codes are computed from, with r = 1.
    """

    reduction: int
    partial: bool
    batch_size: int
    forgetting: float
    codes: int = 1

    @property
    def group(self) -> str:
        """Name without the forgetting."""
        kind = "r = 1" if self.reduction == 1 else f"r = {self.reduction}, {'partial' if self.partial else 'full'} B"
        kind = kind if self.codes == 1 else f"codes from 1/{self.codes}"
        return f"{kind}, batches of {self.batch_size}"

    @property
    def name(self) -> str:
        return f"{self.group}, {'u' if self.forgetting < 1 else 'c'} = {self.forgetting:g}"

    def options(self, width: int) -> dict[str, Any]:
        """Return those of the solver, without the forgetting, given the features in a group of `UniformSubset`."""
        options: dict[str, Any] = {"partial_b": self.partial, "batch_size": self.batch_size}
        drawn = lambda r: ["UniformSubset", {"reduction": r, "width": width}]  # noqa: E731
        if self.codes > 1:
            options["statistics"] = ["SubsampledStatistics", {"subset": drawn(self.codes)}]
        if self.reduction > 1:
            blocks = ["BlockSubset", {"reduction": self.reduction}]
            options["subset"] = blocks if self.partial else drawn(self.reduction)
        return options

    def rule(self) -> list[Any]:
        """The forgetting, as an option of the solver."""
        if self.forgetting < 1:
            return ["PowerForgetting", {"exponent": self.forgetting}]
        return ["ScaledForgetting", {"scale": float(self.forgetting)}]


class Race(NamedTuple):
    """A set, what is learned from it, the largest number of whole samples of a run, and the contestants."""

    name: str
    setting: str
    paths: Callable[[], Paths]
    penalty: Penalty
    ball: str
    radius: float
    max_samples: int
    contestants: Sequence[Setting]
    width: int = 1

    def common(self, setting: Setting) -> dict[str, Any]:
        """Arguments of a contestant but its options. All may read as many bytes, so partial B sees more samples."""
        paths, passes = self.paths(), setting.reduction if setting.partial else 1
        return {
            **{"samples": paths["train"], "held_out": paths["held_out"], "init": paths["init"], "in_memory": False},
            **{"penalty": self.penalty._asdict(), "ball": self.ball, "radius": self.radius},
            "max_samples": passes * self.max_samples,
        }


def races(quick: bool, cache: Path, *, small: bool = False) -> list[Race]:
    """The sets, and the contestants that the search selected. With ``small``, the maps have an eighth of the points."""
    maps_options: dict[str, Any] = {"grid": (29, 30, 29)} if small else {}
    if quick:
        maps_options = {"grid": (12, 12, 12), "n": 400, "n_held_out": 64}
    maps = lambda: gaussian_maps_problem(8 if quick else 70, cache, **maps_options)  # noqa: E731
    shape = {"n": 400, "p": 4000} if quick else {"n": 5000, "p": 50_000}
    synthetic = lambda: synthetic_fmri_problem(8 if quick else 70, cache, **shape)  # noqa: E731
    pines = lambda: indian_pines_problem(16 if quick else 64, cache, quick=quick)  # noqa: E731
    cortex = lambda: cortical_fmri_problem(8 if quick else 24, cache, quick=quick)  # noqa: E731
    papers = (Setting(1, False, 50, PAPERS), Setting(12, False, 50, PAPERS))
    whole = lambda c: (Setting(1, False, 128, c), Setting(1, False, 256, c))  # noqa: E731
    full = lambda c, *pairs: tuple(Setting(r, False, b, c) for r, b in pairs)  # noqa: E731
    partial = lambda c: (Setting(4, True, 128, c),)  # noqa: E731
    few = (*papers, *whole(4), *full(4, (4, 20), (4, 50), (12, 20)), *partial(4))
    codes = lambda r, c: (Setting(1, False, 128, c, r), Setting(1, False, 256, c, r))  # noqa: E731
    frames = (*papers, Setting(1, False, 50, 8), *whole(8), *codes(8, 8), *full(4, (4, 20), (12, 20)), *partial(2))
    large = (*papers, *whole(2), *codes(12, 2), *full(2, (8, 50), (12, 20), (12, 50), (24, 20)), *partial(2))
    middle = (*papers, *whole(2), *codes(7, 2), *full(2, (4, 20), (12, 20), (12, 50)), *partial(2))
    lasso = (*papers, *whole(8), *full(8, (4, 20), (4, 50), (12, 20)), *partial(8))
    found = [
        Race("Gaussian maps", "ridge codes, l2 atoms", maps, Penalty(0.0, 0.1), "l2", 1.0, 6000, large, 16),
        Race("synthetic fMRI", "ridge codes, l1 atoms", synthetic, RIDGE, "l1", 60.0, 8000, middle),
        Race("cortical fMRI", "ridge codes, l1 atoms", cortex, RIDGE, "l1", 30.0, 6000, frames),
        Race("Indian Pines", "ridge codes, l1 atoms", pines, RIDGE, "l1", 30.0, 40_000, few),
        Race("Indian Pines", "lasso codes, l2 atoms", pines, LASSO, "l2", 1.0, 40_000, lasso),
    ]
    return [r._replace(max_samples=600, contestants=r.contestants[:2]) for r in found[:1]] if quick else found


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    records: list[Record] = []
    for one in races(quick, cache):
        seeds = range(2 if quick else SEEDS)
        contestants = [
            Contestant(
                setting.name, "benchmarks.fits:jax_mmf_curves", threads[-1],
                **one.common(setting), **setting.options(one.width),
                runs=[{"seed": seed, "forgetting": setting.rule()} for seed in seeds],
            )
            for setting in one.contestants
        ]  # fmt: skip
        outcomes = race(contestants, len(seeds) - 1, limit=600)
        records += records_of("subsampling", one.name, one.setting, with_times(outcomes, TARGET))
    return records


def with_times(outcomes: Sequence[dict[str, Any]], target: float) -> list[dict[str, Any]]:
    """Outcomes with ``curves`` of all seeds, ``curve`` of the first, and what they need to the target."""
    found = [_without_runs(outcome) for outcome in outcomes]
    least = min((best([{"curve": c} for c in outcome.get("curves", ())]) for outcome in found), default=np.nan)
    for outcome in found:
        curves = [{"curve": curve} for curve in outcome.get("curves", ())]
        if curves:
            add_times(curves, target * least)
            outcome["quality"] |= _spread([curve["quality"] for curve in curves])
    return found


def _without_runs(outcome: dict[str, Any]) -> dict[str, Any]:
    kept = {n: v for n, v in outcome.items() if n not in ("seconds", "ratio", "first_seconds", "result")}
    if "result" not in outcome:
        return kept
    curves = [{n: v for n, v in curve.items() if n != "run"} for curve in outcome["result"]["curves"]]
    return kept | {
        "curve": curves[0],
        "curves": curves,
        "quality": {"objective": min(min(curve["objective"]) for curve in curves)},
    }


def _spread(qualities: Sequence[dict[str, float]]) -> dict[str, float]:
    """Median, least and largest of what the seeds needed; infinite where the target was not reached."""
    found: dict[str, float] = {"seeds there": sum("s_to_target" in q for q in qualities)}
    for unit in AXES.values():
        values = np.sort([q.get(f"{unit}_to_target", np.inf) for q in qualities])
        if np.isfinite(values[0]):
            named = {"median": values[len(values) // 2], "least": values[0], "most": values[-1]}
            found |= {f"{unit}, {name}": float(value) for name, value in named.items() if np.isfinite(value)}
    return found


def panels(records: Sequence[Record]) -> list[Panel]:
    return curve_panels(records, tuple(AXES))
