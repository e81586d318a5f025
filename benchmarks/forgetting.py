"""Forgetting rules: samples to within 1 % of the best held-out objective of all rules.

Every step uses all features, and batches have one size per problem. The number of samples therefore measures the time,
independently of the load of the machine. ``c`` is `ScaledForgetting`, ``u`` is `PowerForgetting`. Target: one rule
within 10 % of the best one on each problem.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.convergence import Problem, problems
from benchmarks.curves import add_times, best, curve_panels, fit_arguments, race_of_fits
from benchmarks.evaluation import Penalty
from benchmarks.harness import Contestant
from benchmarks.problems import patches_problem, synthetic_fmri_problem
from benchmarks.report import Panel, Record, records_of

RULES: dict[str, list[Any]] = {
    **{f"c = {c}": ["ScaledForgetting", {"scale": c}] for c in (4, 8, 16, 32, 64)},
    **{f"u = {u}": ["PowerForgetting", {"exponent": u}] for u in (0.7, 0.8, 0.917)},
}
HELD_OUT = 1024


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    records: list[Record] = []
    for problem, batch_size in _problems(quick, cache):
        paths = problem.paths()
        common = fit_arguments(paths, problem.penalty, problem.seconds, ball=problem.ball, radius=problem.radius)
        contestants = [
            Contestant(name, "benchmarks.fits:jax_mmf_fit", threads[-1], forgetting=rule, batch_size=batch_size,
                       checkpoints=24, **common)
            for name, rule in RULES.items()
        ]  # fmt: skip
        outcomes = race_of_fits(contestants, np.load(paths["held_out"])[:HELD_OUT], problem.penalty, problem.seconds)
        add_times(outcomes, 1.01 * best(outcomes))
        records += records_of("forgetting", problem.name, problem.setting, outcomes)
    return records


def _problems(quick: bool, cache: Path) -> list[tuple[Problem, int]]:
    """Those of `benchmarks.convergence`, the synthetic one smaller, and patches of photographs; sizes of batches."""
    seconds = 0.5 if quick else 12.0
    shape = {"n": 400, "p": 4000} if quick else {"n": 5000, "p": 50_000}
    found = [(problem._replace(seconds=seconds), 128) for problem in problems(quick, cache)]
    if not quick:
        smaller = lambda: synthetic_fmri_problem(70, cache, **shape)  # noqa: E731
        found[-1] = (found[-1][0]._replace(paths=smaller), 128)
    for side, k in ((8, 32),) if quick else ((8, 256), (16, 100)):
        n, n_held_out = (10_000, 512) if quick else (100_000, 4096)
        paths = lambda side=side, k=k, n=n, m=n_held_out: patches_problem(side, k, cache, n=n, n_held_out=m)  # noqa: E731
        name = f"patches of {side} x {side} pixels"
        found.append((Problem(name, "lasso codes, l2 atoms", paths, Penalty(0.1), "l2", 1.0, seconds), 256))
    return found


def panels(records: Sequence[Record]) -> list[Panel]:
    return curve_panels(records, ("n_samples",))
