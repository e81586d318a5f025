"""Peak memory of `jax-mmf fit` and `encode` on a real matrix, as its number of samples grows.

The 16 x 16 patches of the Indian Pines scene (p = 51,200) are written to HDF5, first some of them, then all (3.5 GB in
float32). Each command runs in a separate process, whose peak resident memory the system reports.

    python benchmarks/large_matrix.py [--folder DIR]
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import h5py
import numpy as np

from jax_mmf.datasets import iter_patches, load_indian_pines, standardize_bands

PATCH = 16


def write(path: Path, cube, order) -> int:
    p = PATCH * PATCH * cube.shape[2]
    with h5py.File(path, "w") as file:
        data = file.create_dataset("X", (order.size, p), np.float32)
        first = 0
        for batch in iter_patches(cube, PATCH, order=order, batch=256):
            data[first : first + len(batch)] = batch
            first += len(batch)
    return path.stat().st_size


def measure(*arguments: str) -> tuple[float, float]:
    """Seconds and peak resident gigabytes of a command."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "jax_mmf", *arguments, "-q"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(arguments)}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), help="For 5 GB of files. [default: a temporary one]")
def main(folder: Path | None) -> None:
    cube = standardize_bands(load_indian_pines())
    cube /= np.sqrt(np.float32(PATCH * PATCH * cube.shape[2]))
    n = (cube.shape[0] - PATCH + 1) * (cube.shape[1] - PATCH + 1)
    order = np.random.default_rng(0).permutation(n)
    print(f"{'samples':>8} {'file GB':>8} {'command':>22} {'seconds':>8} {'peak resident GB':>17}")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        for share in (8, 4, 1):
            data, model, codes = (str(Path(name) / part) for part in ("X.h5", "model.h5", "codes.h5"))
            size = write(Path(data), cube, order[: n // share]) / 1e9
            common = ("fit", data, "-k", "64", "--alpha", "0.02", "-o", model)
            for label, arguments in {
                "fit": common,
                "fit --reduction 12": (*common, "--reduction", "12"),
                "encode": ("encode", model, data, "-o", codes),
            }.items():
                seconds, peak = measure(*arguments)
                print(f"{n // share:>8,} {size:>8.2f} {label:>22} {seconds:>8.1f} {peak:>17.2f}", flush=True)


if __name__ == "__main__":
    main()
