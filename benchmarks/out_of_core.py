"""Peak memory of runs on data that do not fit into memory: does it depend on the number of samples?

`jax_mmf.convert` writes files of several lengths from samples that are made as they are read. `fit` at r = 1 and at
r = 12 with partial B learns from them, for one epoch, and `encode` writes codes to a file. The peak is that of the
process, as Linux counts it (VmHWM), the interpreter and its libraries included; "over start" is what came after the
imports.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Contestant, race
from benchmarks.report import Record, records_of

Run = Callable[[], dict[str, Any]]
BATCH = 128
LIMIT = 3600.0  # seconds


def samples(n: int, p: int) -> Any:
    """A source of n samples that takes the memory of 64."""
    from jax_mmf.io import MatrixSource

    class Samples(MatrixSource):
        def __init__(self) -> None:
            super().__init__("samples", (n, p), np.float32)
            generator = np.random.default_rng(0)
            codes, atoms = generator.standard_normal((64, 8)), generator.standard_normal((8, p), dtype=np.float32)
            self._base = (codes.astype(np.float32) @ atoms) / np.float32(np.sqrt(p))

        def _read_into(self, out: np.ndarray, rows: np.ndarray, columns: np.ndarray | None) -> None:
            for row, place in zip(rows.tolist(), out, strict=True):
                source = self._base[row % 64]
                np.multiply(source if columns is None else source[columns], 1 + row % 7, out=place)
            self.bytes_read += out.nbytes

    return Samples()


def jax_convert(path: str, n: int, p: int) -> Run:
    import jax

    import jax_mmf as mmf

    def run() -> dict[str, Any]:
        subset = mmf.BlockSubset(12)
        mmf.convert(samples(n, p), path, key=jax.random.key(0), block_width=subset, rows_per_chunk=BATCH)
        return {}

    return run


def jax_fit(path: str, k: int, reduction: int) -> Run:
    import jax

    import jax_mmf as mmf

    subset = mmf.FullSubset() if reduction == 1 else mmf.BlockSubset(reduction)
    solver = mmf.OnlineFactorization(n_components=k, penalty=mmf.Ridge(0.1), subset=subset, partial_b=reduction > 1)

    def run() -> dict[str, Any]:
        with mmf.open_source(path) as source:
            mmf.fit(solver, source, key=jax.random.key(1), batch_size=BATCH)
        return {}

    return run


def jax_encode(path: str, codes: str, k: int) -> Run:
    import jax

    import jax_mmf as mmf

    def run() -> dict[str, Any]:
        with mmf.open_source(path) as source:
            dictionary = np.asarray(jax.random.normal(jax.random.key(0), (k, source.n_features)))
            place = np.lib.format.open_memmap(codes, "w+", np.float32, (source.n_samples, k))
            mmf.encode(dictionary, source, mmf.Ridge(0.1), out=place)
        return {}

    return run


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    p, k, lengths = (4_000, 8, (2_000, 8_000)) if quick else (200_000, 64, (5_000, 25_000))
    records: list[Record] = []
    cache.mkdir(parents=True, exist_ok=True)
    for n in lengths:
        with tempfile.TemporaryDirectory(dir=cache) as name:
            path, codes = str(Path(name) / "x.h5"), str(Path(name) / "codes.npy")
            contestants = [
                Contestant("convert", "benchmarks.out_of_core:jax_convert", threads[0], path=path, n=n, p=p),
                Contestant("fit, r = 1", "benchmarks.out_of_core:jax_fit", threads[0], path=path, k=k, reduction=1),
                Contestant("fit, r = 12", "benchmarks.out_of_core:jax_fit", threads[0], path=path, k=k, reduction=12),
                Contestant("encode", "benchmarks.out_of_core:jax_encode", threads[0], path=path, codes=codes, k=k),
            ]
            outcomes = [outcome for one in contestants for outcome in race([one], 0, limit=LIMIT)]
        for outcome in outcomes:
            if "error" not in outcome:
                added = outcome["peak_rss_bytes"] - outcome["setup_rss_bytes"]
                outcome["quality"] = {"data_GB": 4e-9 * n * p, "over_start_MB": added / 1e6}
        records += records_of("out_of_core", f"p = {p:,}, k = {k}", f"n = {n:,}", outcomes)
    return records
