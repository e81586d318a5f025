"""Sparse codes of a batch in a learned dictionary of image patches.

The weight l1 is a share of the median, over the samples, of the smallest weight that makes a code zero. The reference
is the exact LARS of SPAMS. `tol` is passed to the criterion of each library; the gaps, relative to the objective and
computed in float64, show the accuracy that was reached. A warm start consists of the exact codes for a dictionary whose
atoms moved by 2 %. On an accelerator, where `ActiveSet` is `FISTA`, there are one share and more samples.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.evaluation import Penalty, best_codes, codes_quality
from benchmarks.harness import Contestant, on_accelerator, race
from benchmarks.problems import Paths, cached, codes_problem
from benchmarks.report import Panel, Record, records_of

PROBLEMS = ((256, 1024), (96, 4096), (1024, 512))
MANY = (256, 65_536)  # on an accelerator also this
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5)
ENDS = (0.02, 0.1, 0.5)  # of tight codes and of warm starts
COMMON_SHARE = 0.1  # where every contestant takes part
MOVE = 0.02
ACTIVE_SET = "jax_mmf, ActiveSet"
SPREAD = "jax_mmf, ActiveSet, a device per thread"
DRAWN = ("SPAMS LARS", ACTIVE_SET, SPREAD)
COLUMNS = 2  # of the figure: a number of threads each


class Setting(NamedTuple):
    kind: str  # "lasso", "lasso, a >= 0" or "elastic net"
    share: float
    tol: float
    warm: bool = False

    def __str__(self) -> str:
        return f"{self.kind}, {self.share:g} of alpha_max, tol {self.tol:.0e}{', warm start' if self.warm else ''}"

    def penalty(self, alpha_max: float) -> Penalty:
        l1 = self.share * alpha_max
        return Penalty(l1, l1 if self.kind == "elastic net" else 0.0, self.kind.endswith(">= 0"))


def settings(quick: bool) -> list[Setting]:
    some, shares = ((COMMON_SHARE,), (COMMON_SHARE,)) if quick else (ENDS, SHARES)
    if on_accelerator():
        return [Setting("lasso", COMMON_SHARE, 1e-3)]
    return [
        *(Setting("lasso", share, 1e-3) for share in shares),
        *(Setting("lasso", share, 1e-6) for share in some if not quick),
        *(Setting("lasso", share, 1e-3, warm=True) for share in some),
        *(Setting(kind, COMMON_SHARE, 1e-3) for kind in ("lasso, a >= 0", "elastic net")),
    ]


def contestants(
    setting: Setting, penalty: Penalty, paths: Paths, init: Path | None, threads: int, quick: bool
) -> list[Contestant]:
    """Those that a setting is fit for; the slow ones where all are compared, and on a part of the samples."""
    peers = "benchmarks.peers:"
    data = {"dictionary": paths["dictionary"], "samples": paths["samples"], "l1": penalty.l1}
    whole = data | {"l2": penalty.l2, "nonneg": penalty.nonneg}
    tol = {"tol": setting.tol}
    found = [
        Contestant("SPAMS LARS", peers + "spams_codes", threads, **whole),
        Contestant(ACTIVE_SET, peers + "jax_mmf_codes", threads, **whole, **tol, solver="ActiveSet", init=init),
    ]
    if on_accelerator():
        return found
    if threads > 1:
        found += [
            Contestant(SPREAD, peers + "jax_mmf_codes", threads, **whole, **tol, solver="ActiveSet", init=init,
                       devices=threads)
        ]  # fmt: skip
    if setting.kind == "lasso" and (setting.warm or setting.share == COMMON_SHARE):
        found += [Contestant("SPAMS CD", peers + "spams_cd_codes", threads, **data, **tol, init=init)]
    if setting != Setting("lasso", COMMON_SHARE, 1e-3) or threads > 1:  # to 1e-6, some take minutes with 1,024 atoms
        return found
    found += [
        Contestant(f"jax_mmf, {solver}", peers + "jax_mmf_codes", threads, **whole, **tol, solver=solver)
        for solver in ("CoordinateDescent", "FISTA")
    ]
    few, some = {"n_samples": 8 if quick else 32}, {"n_samples": 64 if quick else 256}
    return [
        *found,
        Contestant("jaxopt", peers + "jaxopt_codes", threads, **whole, **tol),
        Contestant("scikit-learn CD", peers + "sklearn_lasso_cd_codes", threads, **data, **some),
        Contestant("scikit-learn LARS", peers + "sklearn_lasso_lars_codes", threads, **data, **few),
        Contestant("celer", peers + "celer_codes", threads, **data, **tol, **few),
        Contestant("skglm", peers + "skglm_codes", threads, **data, **tol, **few),
    ]


def warm_start(name: str, dictionary: np.ndarray, samples: np.ndarray, penalty: Penalty, cache: Path) -> Path:
    """Codes for atoms that were moved a little, as by a step of learning."""

    def write(folder: Path) -> None:
        noise = np.random.default_rng(2).standard_normal(dictionary.shape)
        moved = dictionary + MOVE * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        moved = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
        np.save(folder / "init.npy", best_codes(moved, samples, penalty))

    return cached(cache, name, write)["init"]


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    records: list[Record] = []
    sizes = ((64, 256),) if quick else (*PROBLEMS, MANY) if on_accelerator() else PROBLEMS
    for k, b in sizes:
        paths = codes_problem(k, b, cache)
        dictionary, samples = np.load(paths["dictionary"]), np.load(paths["samples"])
        alpha_max = float(np.median(np.abs(samples @ dictionary.T).max(1)))
        problem = f"k = {k}, b = {b}, p = {dictionary.shape[1]}"
        for setting in settings(quick):
            penalty = setting.penalty(alpha_max)
            name = f"warm-{k}-{b}-{setting.share:g}"
            init = warm_start(name, dictionary, samples, penalty, cache) if setting.warm else None

            def evaluate(_: str, arrays: dict[str, np.ndarray], penalty: Penalty = penalty) -> dict[str, Any]:
                return {"quality": codes_quality(dictionary, samples, arrays["codes"], penalty)}  # noqa: B023

            for n in threads:
                outcomes = race(
                    contestants(setting, penalty, paths, init, n, quick),
                    repeats,
                    evaluate=evaluate,
                    min_seconds=0.02 if quick else 0.2,
                )
                point = {"share": setting.share, "tol": setting.tol, "warm": setting.warm, "kind": setting.kind}
                records += records_of("codes", problem, str(setting), outcomes, point=point)
    return records


def panels(records: Sequence[Record]) -> list[Panel]:
    """Seconds against l1, cold and warm, per problem and number of threads."""
    kept = [r for r in records if r["point"]["kind"] == "lasso" and "seconds" in r]
    kept = [r for r in kept if r["contestant"] in DRAWN]
    drawn: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for r in kept:
        title, point = f"{r['problem']}\n{r['threads']} thread{'s' * (r['threads'] > 1)}", r["point"]
        line = r["contestant"].removeprefix("jax_mmf, ")
        if line != "SPAMS LARS":
            line += f", {point['tol']:.0e}{', warm' if point['warm'] else ''}"
        elif point["warm"] or point["tol"] != 1e-3:
            continue  # the same run again
        drawn.setdefault(title, {}).setdefault(line, []).append((point["share"], r["seconds"]["median"]))
    curves = {title: lines for title, lines in drawn.items() if max(map(len, lines.values())) > 1}
    return [Panel(title, "l1 / alpha_max", "seconds", lines) for title, lines in curves.items()]
