"""Learning on an accelerator: `fit` from its memory, the host's and HDF5, beside its steps and one CPU thread.

2,048 frames of 201,840 voxels, 70 atoms in the l2 ball, updated all at once, codes and subsets as in `benchmarks.feed`.
"steps" are the steps of `fit` on two mini-batches on the device, and "products" those of X D^T, D D^T and A^T X.
"TensorFloat-32" are steps whose products have precision "high". Contestants on the device share a process and take
turns, so that programs are compiled once; the reference is `fit` from the host's memory on one CPU thread. Times are of
1,000 samples. The objective is that of held-out frames with exact codes, after four epochs with either precision.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import feed
from benchmarks.harness import Contestant, race, summary
from benchmarks.report import Record, records_of

CASES = {
    "ridge, r = 1, batches of 128": ("all", 128, 24),
    "ridge, r = 1, batches of 1,024": ("all", 1024, 6),
    "ridge, r = 12, full B, batches of 50": ("subset", 50, 60),
    "lasso, r = 1, batches of 128": ("lasso", 128, 24),
    "lasso, r = 12, full B, batches of 50": ("lasso subset", 50, 60),
}
"""Kind of step, samples per step, steps in a turn; ten times as many where the data are on the device."""
ON_CPU = 3  # steps
EPOCHS = 4


def measure(path: str, quick: bool, repeats: int) -> Iterator[tuple[str, str, list[float] | float]]:
    """Measure on the device; gives case, contestant, and seconds or objective, one by one."""
    import time

    for case, (kind, batch_size, n_steps) in CASES.items():
        common: dict[str, Any] = {"path": path, "kind": kind, "batch_size": min(batch_size, 128 if quick else 1024)}
        few, many = common | {"n_steps": 3 if quick else n_steps}, common | {"n_steps": 3 if quick else 10 * n_steps}
        runs = {
            "steps": feed.jax_steps(**many),
            "fit, device": feed.jax_fit(storage="device", **many),
            "fit, memory": feed.jax_fit(storage="memory", **few),
            "fit, HDF5": feed.jax_fit(storage="HDF5", **few),
            "products": feed.jax_products(**many),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(1 + repeats):
            for name, run in runs.items():
                start = time.perf_counter()
                scale = run()["scale"]
                if turn:
                    seconds[name].append((time.perf_counter() - start) * scale)
        yield from ((case, name, values) for name, values in seconds.items())
        if batch_size == 128:
            with _precision("high"):
                run = feed.jax_steps(**many)
                run()
                values = []
                for _ in range(repeats):
                    start = time.perf_counter()
                    scale = run()["scale"]
                    values.append((time.perf_counter() - start) * scale)
            yield case, "steps, TensorFloat-32", values
    for case, kind in (("ridge", "all"), ("lasso", "lasso")):
        for precision in ("highest", "high"):
            yield f"objective, {case}", f"precision {precision!r}", _objective(path, kind, precision)


def jax_measure(path: str, quick: bool, repeats: int) -> feed.Run:
    """All of `measure`."""
    return lambda: {"measured": list(measure(path, quick, repeats))}


def _objective(path: str, kind: str, precision: str) -> float:
    import jax

    import jax_mmf as mmf

    with _precision(precision):
        result = mmf.fit(feed._solver(kind), jax.device_put(np.load(path)), key=jax.random.key(0), n_epochs=EPOCHS,
                         batch_size=128, evaluate_every=10**6)  # fmt: skip
    test = np.load(Path(path).with_name("held_out.npy"))
    return float(mmf.objective(result.dictionary, test, result.solver.penalty))


class _precision:  # noqa: N801 - a context manager
    """Products with another precision."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self._set(self.name)

    def __exit__(self, *_: object) -> None:
        self._set("highest")

    def _set(self, name: str) -> None:
        import jax

        from jax_mmf.core import linalg

        linalg._PRECISION = name
        jax.clear_caches()


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    path, problem = feed.frames(quick, cache, 2048)
    whole = Contestant("device", "benchmarks.accelerator:jax_measure", threads[-1], path=path, quick=quick,
                       repeats=repeats)  # fmt: skip
    (outcome,) = race([whole], 0, limit=3600)
    if "error" in outcome:
        return records_of("accelerator", problem, "all", [outcome])
    records: list[Record] = []
    measured = outcome["result"]["measured"]
    for case in dict.fromkeys(case for case, _, _ in measured):
        found = {name: value for this, name, value in measured if this == case}
        if case.startswith("objective"):
            outcomes = [{"name": n, "threads": threads[-1], "result": {"objective": v}} for n, v in found.items()]
        else:
            kind, batch_size, _ = CASES[case]
            cpu = Contestant("fit, one CPU thread", "benchmarks.feed:jax_fit", 1, platform="cpu", path=path, kind=kind,
                             batch_size=batch_size, n_steps=ON_CPU, storage="memory")  # fmt: skip
            outcomes = race([cpu], 2)
            reference = outcomes[0]["seconds"]["median"]
            outcomes += [
                {"name": n, "threads": threads[-1], "seconds": summary(v), "ratio": summary([t / reference for t in v])}
                for n, v in found.items()
            ]
        records += records_of("accelerator", problem, case, outcomes)
    return records
