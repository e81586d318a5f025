"""Which r, batch size and forgetting: samples to within 1 % of the best objective of all, one seed.

The search before the part `subsampling`, which races the best on full sets. Here the Gaussian maps have an eighth of
the points. ``c`` is the scale of `ScaledForgetting`, ``u`` the exponent of `PowerForgetting`.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.curves import curve_panels
from benchmarks.harness import Contestant, race
from benchmarks.report import Panel, Record, records_of
from benchmarks.subsampling import PAPERS, TARGET, Race, Setting, races, with_times

SCALES = (1, 2, 4, 8)
COLUMNS = 2


def settings(quick: bool) -> list[Setting]:
    """All of them; those of one group differ in the forgetting."""
    batches, reductions = ((50,), (4,)) if quick else ((20, 50, 128, 256), (4, 8, 12, 24))
    groups = [(1, False, b) for b in batches if b > 20]
    groups += [(r, False, b) for r in reductions for b in batches]
    groups += [(r, True, 128) for r in (() if quick else (4, 12))]
    return [
        Setting(*group, c) for group in groups for c in (*SCALES, *((PAPERS,) if group[2] == 50 else ()))
    ]  # fmt: skip


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    records: list[Record] = []
    for one in races(quick, cache, small=True):
        outcomes = with_times([o for setting in _groups(quick) for o in _outcomes(one, setting, threads[-1])], TARGET)
        records += records_of("subsampling_search", one.name, one.setting, outcomes)
    return records


def _groups(quick: bool) -> list[list[Setting]]:
    by_group: dict[str, list[Setting]] = {}
    for setting in settings(quick):
        by_group.setdefault(setting.group, []).append(setting)
    return list(by_group.values())


def _outcomes(one: Race, group: list[Setting], threads: int) -> list[dict]:
    """An outcome for each forgetting of a group, which share a process; one group at a time, for memory."""
    runs = [{"seed": 0, "forgetting": setting.rule()} for setting in group]
    contestant = Contestant(
        group[0].group,
        "benchmarks.fits:jax_mmf_curves",
        threads,
        **one.common(group[0]),
        **group[0].options(one.width),
        runs=runs,
    )
    (outcome,) = race([contestant], len(runs) - 1, limit=600)
    if "error" in outcome:
        return [outcome]
    curves = outcome["result"]["curves"]
    return [
        outcome | {"name": setting.name, "result": {"curves": [curve]}}
        for setting, curve in zip(group, curves, strict=True)
    ]


def panels(records: Sequence[Record]) -> list[Panel]:
    return curve_panels(records, ("n_samples",))
