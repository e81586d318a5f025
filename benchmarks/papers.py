"""The papers' comparison of r = 12 with r = 1, in seconds, samples and bytes, repeated with better settings.

The data are two series of fMRI, whose consecutive frames are similar, with ridge codes and l1 atoms. The first races
have the settings of the papers, an exponent of 0.917 for all r and batches of 20, in the published algorithm in NumPy
and in this library. The others have batches of 128 and the best forgetting for each r (out of c = 4, 8 and 16), and the
simplest alternative, r = 1 on a twelfth of the samples. The target is the best objective of all + 1 %.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.convergence import RIDGE
from benchmarks.curves import add_times, best, curve_panels, fit_arguments, race_of_fits
from benchmarks.harness import Contestant
from benchmarks.problems import cortical_fmri_problem, synthetic_fmri_problem
from benchmarks.report import Panel, Record, records_of

AXES = ("seconds", "n_samples", "bytes_read")


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    records: list[Record] = []
    shape = {"n": 400, "p": 4000} if quick else {"n": 5000, "p": 50_000}
    seconds, k = (0.5, 8) if quick else (20.0, 70)
    cortical = (cortical_fmri_problem(8 if quick else 24, cache, quick=quick), 30.0)
    for name, (paths, radius) in {
        "cortical fMRI": cortical,
        "synthetic fMRI": (synthetic_fmri_problem(k, cache, **shape), 60.0),
    }.items():
        common = fit_arguments(paths, RIDGE, seconds, ball="l1", radius=radius)
        n = len(np.load(paths["train"], mmap_mode="r"))
        contestants = [
            # With more than one thread, those of OpenBLAS slow the rank-one updates of the published algorithm down.
            Contestant(label, f"benchmarks.fits:{factory}", 1, **common, **options)
            for label, factory, options in _settings(n, quick)
        ]
        outcomes = race_of_fits(contestants, np.load(paths["held_out"]), RIDGE, seconds)
        add_times(outcomes, 1.01 * best(outcomes))
        records += records_of("papers", name, "ridge codes, l1 atoms", outcomes)
    return records


def _settings(n: int, quick: bool) -> list[tuple[str, str, dict[str, Any]]]:
    subset = {"subset": ["BlockSubset", {"reduction": 12}], "partial_b": True}
    papers = {"forgetting": ["PowerForgetting", {"exponent": 0.917}], "batch_size": 20}
    scaled = lambda c: {"forgetting": ["ScaledForgetting", {"scale": c}], "batch_size": 128}  # noqa: E731
    found = [
        *(
            (f"published, u = 0.917, r = {r}", "published_fit", {"reduction": r, "batch_size": 20})
            for r in (1, 12)
        ),
        ("u = 0.917, r = 1", "jax_mmf_fit", papers),
        ("u = 0.917, r = 12", "jax_mmf_fit", papers | subset),
        *((f"c = {c}, r = 1", "jax_mmf_fit", scaled(c)) for c in (4, 8, 16)),
        *((f"c = {c}, r = 12", "jax_mmf_fit", scaled(c) | subset) for c in (4, 8, 16)),
        ("c = 4, r = 1, a twelfth of the samples", "jax_mmf_fit", scaled(4) | {"n_samples": max(n // 12, 24)}),
    ]  # fmt: skip
    return [found[i] for i in (0, 2, 5, 8)] if quick else found


def panels(records: Sequence[Record]) -> list[Panel]:
    return curve_panels(records, AXES)
