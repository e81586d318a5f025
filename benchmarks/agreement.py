"""Check that all contestants solve the same problem: objectives of accurate codes in one dictionary.

The reference is the exact LARS of SPAMS. An objective that differs by more than 1e-4 is an error. It means that a
convention was misread, and that times can't be compared.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.evaluation import Penalty, codes_quality
from benchmarks.harness import Contestant, race
from benchmarks.problems import codes_problem
from benchmarks.report import Record, records_of

TOLERANCE = 1e-4
PENALTIES = {"lasso": Penalty(0.1), "lasso, a >= 0": Penalty(0.1, 0.0, True), "elastic net": Penalty(0.05, 0.1)}
KNOWN: dict[str, dict[str, Any]] = {  # the first is the reference
    "spams_codes": {},
    "spams_cd_codes": {"tol": 1e-6},
    "jax_mmf_codes": {"tol": 1e-6},
    "jaxopt_codes": {"tol": 1e-3},
    "celer_codes": {"tol": 1e-8},
    "skglm_codes": {"tol": 1e-6},
    "sklearn_lasso_cd_codes": {},
    "sklearn_lasso_lars_codes": {},
}
LASSO_ONLY = ("spams_cd_codes", "sklearn_lasso_lars_codes")
NO_L2 = (*LASSO_ONLY, "sklearn_lasso_cd_codes")
N_SAMPLES = 16  # of all, so that the slowest are compared on the same ones


def several_codes(function: str, arguments: dict[str, dict[str, Any]]) -> peers.Made:
    """Factory of a contestant that solves several problems, each named, in one run."""
    made = {name: getattr(peers, function)(**own) for name, own in arguments.items()}

    def finish(outs: dict[str, Any]) -> dict[str, Any]:
        return {name: made[name][1](out)["codes"] for name, out in outs.items()}

    return lambda: {name: run() for name, (run, _) in made.items()}, finish


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    paths = codes_problem(64, 256, cache)
    dictionary, samples = np.load(paths["dictionary"]), np.load(paths["samples"])[:N_SAMPLES]

    def evaluate(_: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        solved = {kind: codes[:N_SAMPLES] for kind, codes in arrays.items()}
        return {kind: codes_quality(dictionary, samples, codes, PENALTIES[kind]) for kind, codes in solved.items()}

    outcomes = race([_contestant(function, paths) for function in KNOWN], 0, evaluate=evaluate)
    records: list[Record] = []
    for kind in PENALTIES:
        expected = outcomes[0].get(kind, {}).get("objective")
        own = [_compared(o, kind, expected) for o in outcomes if kind in o or "error" in o]
        records += records_of("agreement", "k = 64, 16 samples, p = 64", kind, own)
    return records


def _compared(outcome: dict[str, Any], kind: str, expected: float | None) -> dict[str, Any]:
    kept = {name: outcome[name] for name in ("name", "threads", "error") if name in outcome}
    if "error" in outcome or expected is None:
        return kept
    difference = outcome[kind]["objective"] / expected - 1
    kept["quality"] = outcome[kind] | {"difference": difference}
    if abs(difference) > TOLERANCE:
        kept["error"] = f"its objective differs by {difference:.1e} from that of SPAMS LARS"
    return kept


def _contestant(function: str, paths: dict[str, Path]) -> Contestant:
    data = {"dictionary": str(paths["dictionary"]), "samples": str(paths["samples"])} | KNOWN[function]
    if function.startswith(("celer", "skglm", "sklearn")):
        data["n_samples"] = N_SAMPLES
    arguments = {}
    for kind, (l1, l2, nonneg) in PENALTIES.items():
        if (l2 > 0 and function in NO_L2) or (nonneg and function in LASSO_ONLY):
            continue
        more = {name: value for name, value in (("l2", l2), ("nonneg", nonneg)) if value}
        arguments[kind] = data | {"l1": l1} | more
    kinds = {"jax": function.startswith("jax"), "old_openblas": function.startswith("spams")}
    return Contestant(
        function, "benchmarks.agreement:several_codes", 1, **kinds, function=function, arguments=arguments
    )
