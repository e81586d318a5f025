"""From the file to the step: the rate of `fit` against that of its own steps, and of steps against their products.

4,000 frames of 201,840 voxels, 70 atoms in the l2 ball, ridge codes: all features in batches of 128; r = 12 with full B
in batches of 50; and codes from a twelfth of the features in batches of 256, with dictionary and B on all. "steps" are
the steps of `fit` on two mini-batches that are there. "products" are the products that a step can't do without: X D^T,
D D^T and A^T X, of which the first two are on the features of the subset. Files are in the page cache. Times are of
1,000 samples, and ratios are to the steps. Targets: `fit` at most 1 / 0.9 from memory and 1 / 0.85 from HDF5; steps at
most 1.4 (r = 1) and 1.5 (r = 12) times their products.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Contestant, race
from benchmarks.problems import gaussian_maps_problem
from benchmarks.report import Record, records_of

Run = Callable[[], dict[str, Any]]
K = 70
_ENCODED = 80  # samples in a batch of `encode`, which takes 64 MB
SAMPLES = 1000
"""Seconds are those of so many samples."""
CASES = {
    "r = 1, batches of 128": ("all", 128, 12),
    "r = 12, full B, batches of 50": ("subset", 50, 60),
    "codes from a twelfth, batches of 256": ("codes", 256, 6),
}
"""Kind of step, samples per step, steps in a turn."""


def jax_steps(path: str, kind: str, batch_size: int, n_steps: int) -> Run:
    """Steps as `fit` makes them, on mini-batches that are there."""
    import jax

    from jax_mmf.training.fitting import _step_whole

    solver, x = _solver(kind), np.load(path, mmap_mode="r")
    batches = [_aligned(x[i * batch_size : (i + 1) * batch_size]) for i in range(2)]
    state = {"now": solver.init(jax.random.key(0), samples=np.array(x[: 4 * K]))}

    def run() -> dict[str, Any]:
        for i in range(n_steps):
            state["now"], info = _step_whole(solver, state["now"], batches[i % 2], None, np.int32(batch_size))
        jax.block_until_ready(info)
        return {"scale": SAMPLES / (n_steps * batch_size)}

    return run


def jax_fit(path: str, storage: str, kind: str, batch_size: int, n_steps: int) -> Run:
    """`fit` on a source; its first steps are not counted."""
    import h5py
    import jax

    import jax_mmf as mmf

    sources: dict[str, Callable[[], Any]] = {
        "device": lambda: jax.device_put(np.load(path)),
        "memory": lambda: np.load(path),
        "memory map": lambda: np.load(path, mmap_mode="r"),
        ".npy": lambda: mmf.open_source(path),
        "HDF5": lambda: h5py.File(Path(path).with_suffix(".h5"))["contiguous"],
        "HDF5 in chunks": lambda: h5py.File(Path(path).with_suffix(".h5"))["chunked"],
    }
    solver, source, first = _solver(kind), sources[storage](), 6
    n_epochs = 2 + (first + n_steps) * batch_size // 1000

    def run() -> dict[str, Any]:
        times: list[float] = []

        def stop(event: mmf.Event) -> bool:
            times.append(time.perf_counter())
            return event.step == first + n_steps

        start = time.perf_counter()
        mmf.fit(solver, source, key=jax.random.key(0), n_epochs=n_epochs, batch_size=batch_size, callbacks=[stop],
                evaluate_every=10**6)  # fmt: skip
        total = time.perf_counter() - start
        # A step is called back when it is dispatched; not more than two are under way, at both ends.
        share = (times[-1] - times[-1 - n_steps]) / total
        return {"scale": share * SAMPLES / (n_steps * batch_size)}

    return run


def jax_encode(path: str, storage: str, n: int) -> Run:
    """Ridge codes of n samples: of a source, or of batches that are there."""
    import jax.numpy as jnp

    import jax_mmf as mmf

    penalty, dictionary = mmf.Ridge(0.1), jnp.asarray(np.load(path, mmap_mode="r")[:K])
    if storage == "batches":
        batch = _aligned(np.load(path, mmap_mode="r")[:_ENCODED])
        return lambda: _encoded([mmf.encode(dictionary, batch, penalty) for _ in range(n // _ENCODED)])
    opened = mmf.open_source(path) if storage == ".npy" else mmf.open_source(Path(path).with_suffix(".h5"), storage)
    return lambda: _encoded(mmf.encode(dictionary, opened, penalty))


def _encoded(codes: Any) -> dict[str, Any]:
    import jax

    jax.block_until_ready(codes)
    return {}


def jax_products(path: str, kind: str, batch_size: int, n_steps: int) -> Run:
    """The large products of a step, each as fast as XLA computes it, with B updated in place."""
    import jax
    import jax.numpy as jnp

    from jax_mmf.core import in_tiles, matmul

    x = _aligned(np.load(path, mmap_mode="r")[:batch_size])
    p = x.shape[1]
    s = p if kind in ("all", "lasso") else p // 12
    d, part = jax.random.normal(jax.random.key(0), (K, s)), x[:, :s]
    codes, b = jax.random.normal(jax.random.key(1), (batch_size, K)), {"now": jnp.zeros((K, p))}
    seen = jax.jit(lambda x, d: (matmul(x, d.T), matmul(d, d.T)))
    add = jax.jit(
        lambda b, a, x: in_tiles(lambda take, b: 0.9 * b + matmul(a.T, take(x)), b), donate_argnums=0
    )  # fmt: skip

    def run() -> dict[str, Any]:
        for _ in range(n_steps):
            products = seen(part, d)
            b["now"] = add(b["now"], codes, x)
        jax.block_until_ready((products, b["now"]))
        return {"scale": SAMPLES / (n_steps * batch_size)}

    return run


def _solver(kind: str) -> Any:
    import jax_mmf as mmf

    subset = mmf.UniformSubset(12, width=16)
    part: dict[str, Any] = {"subset": {"subset": subset}, "codes": {"statistics": mmf.SubsampledStatistics(subset)}}
    # As in the other benchmarks of fMRI shape, the norm of a sample is 1 on average.
    penalty = mmf.Lasso(0.02) if kind.startswith("lasso") else mmf.Ridge(0.1)
    return mmf.default_solver(K, penalty, mmf.L2Ball(), **part.get(kind.removeprefix("lasso").strip(), {}))


def _aligned(x: np.ndarray) -> Any:
    import jax

    from jax_mmf.core import aligned_empty

    out = aligned_empty(x.shape, x.dtype)
    out[:] = x
    return jax.device_put(out)


def _with_hdf5(path: Path) -> Path:
    """Write the samples to HDF5 too, contiguous and in chunks as `write_permuted` writes them."""
    import h5py

    if not path.with_suffix(".h5").exists():
        x, aside = np.load(path, mmap_mode="r"), path.with_suffix(".partial")
        with h5py.File(aside, "w") as file:
            file.create_dataset("contiguous", data=x)
            file.create_dataset("chunked", data=x, chunks=(128, min(512, x.shape[1])))
        aside.rename(path.with_suffix(".h5"))
    return path


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    path, problem = frames(quick, cache)
    records: list[Record] = []
    for n in threads:
        for setting, (kind, batch_size, n_steps) in CASES.items():
            common: dict[str, Any] = {"path": path, "kind": kind, "batch_size": batch_size}
            common["n_steps"] = 3 if quick else n_steps
            fit = "benchmarks.feed:jax_fit"
            contestants = [
                Contestant("steps", "benchmarks.feed:jax_steps", n, **common),
                Contestant("products", "benchmarks.feed:jax_products", n, **common),
                *(
                    Contestant(f"fit, {storage}", fit, n, storage=storage, **common)
                    for storage in ("memory", "memory map", ".npy", "HDF5", "HDF5 in chunks")
                ),
            ]
            records += records_of("feed", problem, setting, race(contestants, repeats))
        encode, of = "benchmarks.feed:jax_encode", {"path": path, "n": _n_rows(path)}
        contestants = [
            Contestant(name, encode, n, storage=storage, **of)
            for name, storage in {
                "batches": "batches",
                "encode, .npy": ".npy",
                "encode, HDF5": "contiguous",
                "encode, HDF5 in chunks": "chunked",
            }.items()
        ]
        records += records_of("feed", problem, "ridge codes of all frames", race(contestants, repeats))
    return records


def _n_rows(path: Path) -> int:
    return int(np.load(path, mmap_mode="r").shape[0])


def frames(quick: bool, cache: Path, n: int = 4000) -> tuple[Path, str]:
    """Path of an .npy file with frames of fMRI shape, beside which they are in HDF5, and the name of the problem."""
    grid, n = ((15, 15, 14), 1000) if quick else ((58, 60, 58), n)
    path = _with_hdf5(gaussian_maps_problem(K, cache, grid=grid, n=n)["train"])
    return path, f"n = {n:,}, p = {np.prod(grid):,}, k = {K}"
