"""Each default of the library against its alternatives, one at a time: seconds to 1 % above the best of all.

The data are in memory. All contestants start from the same dictionary, unless initial dictionaries are compared.
"defaults" are batches of 128, all features, one sweep of block coordinate descent after each batch, and codes to a gap
of 1e-3. All contestants compile at the same time, on the threads of one, and ``compile_s`` includes this load.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.convergence import Problem, problems
from benchmarks.curves import add_times, best, curve_panels, fit_arguments, race_of_fits
from benchmarks.evaluation import Penalty
from benchmarks.harness import Contestant
from benchmarks.report import Panel, Record, records_of

BLOCKS = lambda r, n=32: {"subset": ["BlockSubset", {"reduction": r, "n_blocks": n}]}  # noqa: E731
ALTERNATIVES: dict[str, dict[str, dict[str, Any]]] = {
    "mini-batches": {"batches of 32": {"batch_size": 32}, "batches of 512": {"batch_size": 512}},
    "sweeps": {
        "two sweeps": {"dictionary_update": ["BlockCoordinateDescent", {"n_sweeps": 2}]},
        "cyclic order": {"dictionary_update": ["BlockCoordinateDescent", {"order": "cyclic"}]},
    },
    "dictionary at once": {
        "one gradient step": {"dictionary_update": ["ProjectedGradient", {}]},
        "four gradient steps": {"dictionary_update": ["ProjectedGradient", {"n_steps": 4}]},
    },
    "first dictionary": {
        "RandomSamples": {"initialization": ["RandomSamples", {}]},
        "RandomizedSVD": {"initialization": ["RandomizedSVD", {}]},
        "KMeansPlusPlus": {"initialization": ["KMeansPlusPlus", {}]},
    },
    "features, full B": {
        "r = 4, full B": BLOCKS(4),
        "r = 4, full B, full codes": BLOCKS(4) | {"statistics": ["FullStatistics", {}]},
    },
    "features, partial B": {
        "r = 4, partial B": BLOCKS(4) | {"partial_b": True},
        "r = 4, partial B, 16 blocks": BLOCKS(4, 16) | {"partial_b": True},
        "r = 4, partial B, 64 blocks": BLOCKS(4, 64) | {"partial_b": True},
        "r = 12, partial B": BLOCKS(12) | {"partial_b": True},
    },
    "codes": {
        "codes to 1e-6": {"code_solver": ["ActiveSet", {"tol": 1e-6}]},
        "codes by coordinate descent": {"code_solver": ["CoordinateDescent", {"tol": 1e-3}]},
    },
}
"""Topic by topic, what is compared with the defaults."""
COLUMNS = 2  # of the figure: a problem each


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    records: list[Record] = []
    for problem in _problems(quick, cache):
        paths, seconds = problem.paths(), 0.5 if quick else 8.0
        # Mapped, so that all contestants share one copy of the samples in memory.
        common = fit_arguments(
            paths, problem.penalty, seconds, ball=problem.ball, radius=problem.radius, in_memory=False
        )
        contestants = [
            Contestant(name, "benchmarks.fits:jax_mmf_fit", threads[-1], **common, **options)
            for name, options in {"defaults": {}, **_alternatives(problem.penalty)}.items()
        ]
        outcomes = race_of_fits(contestants, np.load(paths["held_out"])[:1024], problem.penalty, seconds)
        add_times(outcomes, 1.01 * best(outcomes))
        records += records_of("defaults", problem.name, problem.setting, outcomes)
    return records


def _alternatives(penalty: Penalty) -> dict[str, dict[str, Any]]:
    """Without other solvers of codes that have a closed form."""
    topics = (named for topic, named in ALTERNATIVES.items() if topic != "codes" or penalty.l1 > 0)
    return {name: options for named in topics for name, options in named.items()}


def _problems(quick: bool, cache: Path) -> list[Problem]:
    found = problems(quick, cache)
    return found[:1] if quick else found[:2]


def panels(records: Sequence[Record]) -> list[Panel]:
    """A panel for each topic and problem."""
    panels: list[Panel] = []
    for topic, named in ALTERNATIVES.items():
        of_topic = curve_panels(records, ("seconds",), {"defaults", *named})
        panels += [p._replace(title=f"{topic}\n{p.title}") for p in of_topic if len(p.lines) > 1]
    return panels
