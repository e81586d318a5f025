"""Learning from slow storage: the benefit of partial reads.

Slow storage is simulated: the reader sleeps until its bytes would have arrived at the named speed. The file was written
by `jax_mmf.io.write_permuted`, so that a step at r > 1 with partial B reads 1/r of a sample in a few pieces. Codes are
ridge codes, atoms are in an l1 ball, and consecutive frames are correlated. Forgetting is the default, or
`ScaledForgetting(c)`. The target is the best objective of all + 1 %.

"Least" is not a method, but an estimate of what every method needs. It takes the codes of a dictionary that was learned
from all samples, and the best atoms for the products of these codes with the data read so far. Its seconds are those of
reading alone.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.curves import add_times, best, curve_panels, race_of_fits
from benchmarks.evaluation import Penalty, as_jax_mmf
from benchmarks.fits import Recorder, as_arrays
from benchmarks.harness import Contestant
from benchmarks.problems import Paths, cached, synthetic_fmri_problem
from benchmarks.report import Panel, Record, records_of

RATES = (100e6, 500e6)
SECONDS = {100e6: 40.0, 500e6: 20.0}
ROWS = 128  # per chunk of the file, and per mini-batch
PENALTY, RADIUS = Penalty(0.0, 0.002), 60.0
SETTINGS: dict[str, dict[str, Any]] = {
    "r = 1": {},
    "r = 1, c = 4": {"scale": 4.0},
    "r = 1, c = 2": {"scale": 2.0},
    "r = 4": {"reduction": 4},
    "r = 8": {"reduction": 8},
    "r = 8, c = 4": {"reduction": 8, "scale": 4.0},
    "r = 12": {"reduction": 12},
    "r = 12, c = 4": {"reduction": 12, "scale": 4.0},
}


class Throttled:
    """A source whose reads take as long as at ``rate`` bytes per second."""

    def __init__(self, source: Any, rate: float) -> None:
        self._source, self._rate, self._free_at = source, rate, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read(self, rows: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
        start = max(time.perf_counter(), self._free_at)
        out = self._source.read(rows, columns)
        self._free_at = start + out.nbytes / self._rate
        time.sleep(max(0.0, self._free_at - time.perf_counter()))
        return out


def jax_throttled_fit(
    samples: str, init: str, rate: float, max_seconds: float, reduction: float = 1, scale: float | None = None,
    batch_size: int = ROWS, checkpoints: int = 16,
) -> Callable[[], dict[str, Any]]:  # fmt: skip
    """`jax_mmf.fit` from a throttled file; the same batches for all reductions."""
    import jax

    import jax_mmf as mmf

    start = np.load(init)
    solver = mmf.OnlineFactorization(
        n_components=len(start),
        penalty=as_jax_mmf(PENALTY),
        constraint=mmf.L1Ball(RADIUS),
        subset=mmf.FullSubset() if reduction == 1 else mmf.BlockSubset(reduction),
        partial_b=reduction != 1,
        forgetting=mmf.ScaledForgetting() if scale is None else mmf.ScaledForgetting(scale),
    )

    def fit(source: Any, n_epochs: int, *callbacks: Callable[[Any], bool]) -> None:
        state = solver.init(jax.random.key(0), dictionary=start)
        common = {"batch_size": batch_size, "evaluate_every": 10**9, "callbacks": callbacks}
        mmf.fit(solver, source, state=state, n_epochs=n_epochs, **common)

    begin = time.perf_counter()
    opened = mmf.open_source(samples)
    fit(opened, 1, lambda event: event.step >= 2)
    compiled = {"compile_seconds": time.perf_counter() - begin}

    def run() -> dict[str, Any]:
        before, seen = opened.bytes_read, 0
        recorder = Recorder(max_seconds, checkpoints)

        def callback(event: mmf.Event) -> bool:
            nonlocal seen
            seen += len(event.info.codes)
            if not recorder.is_due():
                return False
            jax.block_until_ready(event.info.weight)
            seconds = recorder.seconds()
            return recorder.keep(np.asarray(event.state.dictionary), seen, opened.bytes_read - before, seconds)

        fit(Throttled(opened, rate), 10**6, callback)
        return recorder.arrays() | compiled

    return run


def least_reads(
    samples: str, init: str, rate: float, reduction: int, n_epochs: int = 10
) -> Callable[[], dict[str, Any]]:
    """The best atoms from 1/8, 2/8, ... of all numbers: whole samples, or parts of all of them, another in each pass.

    Products of parts are made of residuals of the good dictionary, as with partial B.
    """
    import jax
    import jax.numpy as jnp

    import jax_mmf as mmf
    from jax_mmf.learning.dictionary_update import DictionaryProblem
    from jax_mmf.learning.surrogate import BatchMoments

    x, start = np.load(samples), np.load(init)
    (n, p), k = x.shape, len(start)
    penalty, constraint = as_jax_mmf(PENALTY), mmf.L1Ball(RADIUS)
    solver = mmf.OnlineFactorization(n_components=k, penalty=penalty, constraint=constraint)
    state = solver.init(jax.random.key(0), dictionary=start)
    good = np.asarray(mmf.fit(solver, x, state=state, n_epochs=n_epochs).state.dictionary)
    codes = np.concatenate([mmf.encode(good, x[first : first + ROWS], penalty) for first in range(0, n, ROWS)])

    @jax.jit
    def best_atoms(c: jax.Array, b: jax.Array) -> jax.Array:
        key = jax.random.key(0)
        subset = mmf.FullSubset().draw(key, jnp.zeros((), jnp.int32), p)
        problem = DictionaryProblem(c, b, BatchMoments(c, b), jnp.full((k,), RADIUS), subset)
        return mmf.BlockCoordinateDescent(n_sweeps=20).update(key, good, problem, constraint, ())[0]

    order = np.random.default_rng(0).permutation(n)
    features = np.array_split(np.random.default_rng(1).permutation(p), reduction)

    def moments(eighths: int) -> tuple[np.ndarray, np.ndarray]:
        if reduction == 1:
            rows = np.sort(order[: n * eighths // 8])
            return codes[rows].T @ codes[rows] / len(rows), codes[rows].T @ x[rows] / len(rows)
        c, residual, n_passes = codes.T @ codes / n, np.zeros_like(good), reduction * eighths // 8
        for first in range(reduction):
            rows = np.sort(order[first::reduction])
            for columns in (features[(first + i) % reduction] for i in range(n_passes)):
                left_over = x[np.ix_(rows, columns)] - codes[rows] @ good[:, columns]
                residual[:, columns] += codes[rows].T @ left_over / (n / reduction * n_passes)
        return c, residual + c @ good

    def run() -> dict[str, Any]:
        kept = []
        for eighths in range(1, 9):
            n_bytes = 4 * n * p * eighths // 8
            atoms = np.asarray(best_atoms(*map(jnp.asarray, moments(eighths))))
            kept.append((atoms, n_bytes / rate, reduction * n * eighths // 8, n_bytes))
        return as_arrays(kept)

    return run


def permuted(paths: Paths, cache: Path) -> Path:
    """The samples as a file of `write_permuted`."""

    def write(folder: Path) -> None:
        import jax

        from jax_mmf.io import write_permuted

        x = np.load(paths["train"], mmap_mode="r")
        batches = (x[i : i + ROWS] for i in range(0, len(x), ROWS))
        write_permuted(folder / "permuted.h5", batches, key=jax.random.key(0), rows_per_chunk=ROWS)

    cached(cache, paths["train"].parent.name + "-permuted", write)
    return next(iter((cache).glob(paths["train"].parent.name + "-permuted-v*/permuted.h5")))


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    k, n, p = (8, 400, 4000) if quick else (70, 5_000, 50_000)
    paths = synthetic_fmri_problem(k, cache, n=n, p=p)
    file, held_out = permuted(paths, cache), np.load(paths["held_out"])
    records: list[Record] = []
    for rate in RATES[:1] if quick else RATES:
        seconds = 0.5 if quick else SECONDS[rate]
        contestants = [
            Contestant(name, "benchmarks.storage:jax_throttled_fit", threads[-1], samples=file, init=paths["init"],
                       rate=rate, max_seconds=seconds, **options)
            for name, options in SETTINGS.items()
        ] + [
            Contestant(f"least, r = {r}", "benchmarks.storage:least_reads", threads[-1], samples=paths["train"],
                       init=paths["init"], rate=rate, reduction=r)
            for r in (1, 8)
        ]  # fmt: skip
        outcomes = race_of_fits(contestants, held_out, PENALTY, seconds)
        add_times(outcomes, 1.01 * best(outcomes))
        records += records_of("storage", f"n = {n:,}, p = {p:,}, k = {k}", f"{rate / 1e6:g} MB/s", outcomes)
    return records


def panels(records: Sequence[Record]) -> list[Panel]:
    return curve_panels(records, ("seconds", "bytes_read"))
