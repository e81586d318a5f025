"""Learning a dictionary of image patches, lasso codes and l2 atoms: seconds to the final objective of SPAMS.

The target is the objective at the end of the best run of SPAMS over its sizes of mini-batches, on patches from held-out
parts of the pictures. ``compile_s`` is the time of compilation of jax_mmf, which its seconds exclude. Targets: at most
1/2 of the seconds of SPAMS, 1/4 of those of scikit-learn.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.curves import add_times, curve_panels, fit_arguments, race_of_fits
from benchmarks.evaluation import Penalty
from benchmarks.harness import Contestant
from benchmarks.problems import patches_problem
from benchmarks.report import Panel, Record, records_of

PROBLEMS = ((8, 256), (16, 100))
L1 = 0.1
BATCHES = (256, 512, 1024)
COLUMNS = 2  # of the figure: a number of threads each


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    records: list[Record] = []
    penalty, seconds = Penalty(L1), 1.0 if quick else 10.0
    for side, k in ((8, 32),) if quick else PROBLEMS:
        paths = patches_problem(side, k, cache, n=10_000 if quick else 100_000, n_held_out=512 if quick else 4096)
        common = fit_arguments(paths, penalty, seconds, ball="l2")
        for n in threads:
            spams = [
                Contestant(f"SPAMS, batches of {b}", "benchmarks.fits:spams_fit", n, batch_size=b, **common)
                for b in (BATCHES[:1] if quick else BATCHES)
            ]
            others = [
                *(
                    Contestant(f"jax_mmf, batches of {b}", "benchmarks.fits:jax_mmf_fit", n, batch_size=b,
                               jax=True, **common)
                    for b in BATCHES[: 1 if quick else 2]
                ),
                Contestant("scikit-learn, batches of 256", "benchmarks.fits:sklearn_fit", n, **common),
            ]  # fmt: skip
            outcomes = race_of_fits([*spams, *others], np.load(paths["held_out"]), penalty, seconds)
            ends = [o["curve"]["objective"][-1] for o in outcomes[: len(spams)] if "curve" in o]
            add_times(outcomes, min(ends) if ends else -np.inf)
            problem = f"{side} x {side} pixels, k = {k}"
            records += records_of("patches", problem, f"l1 = {L1}", outcomes)
    return records


def panels(records: Sequence[Record]) -> list[Panel]:
    return curve_panels(records, ("seconds",))
