"""Learning from disk: seconds to within 1 % of the best held-out objective of all contestants.

jax_mmf has one setting for all problems, its defaults, and the same with subsets of the features, r = 4 and partial B.
"published" is the algorithm of the papers in NumPy with their settings: weights of exponent 0.917, batches of 50 (20
for the cortical series), masked codes and partial B. Seconds exclude compilation, which is ``compile_s``. Targets: at
most 1/10 of the best published run, 1/3 of SPAMS.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.curves import add_times, best, curve_panels, fit_arguments, race_of_fits
from benchmarks.evaluation import Penalty
from benchmarks.harness import Contestant
from benchmarks.problems import (
    Paths,
    cortical_fmri_problem,
    indian_pines_problem,
    reflectance_problem,
    synthetic_fmri_problem,
)
from benchmarks.report import Panel, Record, records_of

REDUCTIONS = (1, 4, 8, 12, 24)
RIDGE, LASSO, NMF = Penalty(0.0, 0.002), Penalty(0.02), Penalty(0.0, 1e-4, nonneg=True)
PARTIAL: dict[str, Any] = {"subset": ["BlockSubset", {"reduction": 4}], "partial_b": True}


class Problem(NamedTuple):
    name: str
    setting: str
    paths: Callable[[], Paths]
    penalty: Penalty
    ball: str
    radius: float
    seconds: float
    published_batch: int = 50


def problems(quick: bool, cache: Path) -> list[Problem]:
    """The real ones first."""
    pines = lambda: indian_pines_problem(16 if quick else 64, cache, quick=quick)  # noqa: E731
    counts = lambda: reflectance_problem(16 if quick else 64, cache, quick=quick)  # noqa: E731
    cortex = lambda: cortical_fmri_problem(8 if quick else 24, cache, quick=quick)  # noqa: E731
    shape = {"n": 400, "p": 4000} if quick else {}
    synthetic = lambda: synthetic_fmri_problem(8 if quick else 70, cache, **shape)  # noqa: E731
    short, long = (0.5, 0.5) if quick else (20.0, 40.0)
    found = [
        Problem("Indian Pines", "ridge codes, l1 atoms", pines, RIDGE, "l1", 30.0, short),
        Problem("Indian Pines", "lasso codes, l2 atoms", pines, LASSO, "l2", 1.0, short),
        Problem("Indian Pines", "non-negative factorization", counts, NMF, "l2, nonneg", 1.0, short),
        Problem("cortical fMRI", "ridge codes, l1 atoms", cortex, RIDGE, "l1", 30.0, short, 20),
        Problem("synthetic fMRI", "ridge codes, l1 atoms", synthetic, RIDGE, "l1", 60.0, long),
    ]
    return found[1:4] if quick else found


def contestants(problem: Problem, threads: int, quick: bool) -> list[Contestant]:
    fits, paths = "benchmarks.fits", problem.paths()
    common = fit_arguments(paths, problem.penalty, problem.seconds, ball=problem.ball, radius=problem.radius)
    disk = common | {"in_memory": False}
    found = [
        Contestant("jax_mmf", f"{fits}:jax_mmf_fit", threads, **disk),
        Contestant("jax_mmf, r = 4", f"{fits}:jax_mmf_fit", threads, **PARTIAL, **disk),
    ]
    # On one thread only: with more, those of OpenBLAS slow its rank-one updates down.
    reductions = REDUCTIONS[:2] if quick else REDUCTIONS
    found += [
        Contestant(f"published, r = {r}", f"{fits}:published_fit", threads, reduction=r,
                   batch_size=problem.published_batch, **disk)
        for r in (reductions if threads == 1 else ())
    ]  # fmt: skip
    if problem.ball.startswith("l2"):
        without_radius = {name: value for name, value in common.items() if name != "radius"}
        found += [Contestant("SPAMS, in memory", f"{fits}:spams_fit", threads, batch_size=256, **without_radius)]
    if problem.penalty is NMF:
        plain = {"samples": paths["train"], "init": paths["init"], "max_seconds": problem.seconds}
        found += [Contestant("scikit-learn, in memory", f"{fits}:sklearn_nmf_fit", threads, **plain)]
    return found


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    records: list[Record] = []
    for problem in problems(quick, cache):
        held_out = np.load(problem.paths()["held_out"])
        for n in threads:
            outcomes = race_of_fits(contestants(problem, n, quick), held_out, problem.penalty, problem.seconds)
            add_times(outcomes, 1.01 * best(outcomes))
            records += records_of("convergence", problem.name, problem.setting, outcomes)
    return records


def panels(records: Sequence[Record]) -> list[Panel]:
    return curve_panels(records)
