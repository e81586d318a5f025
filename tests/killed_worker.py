"""A server of processes that run `fit` with checkpoints, to be killed: see test_killed.py.

It imports the library once. For each line of its input it forks a process, and prints its number.
"""

import os
import sys
from pathlib import Path

import jax
import numpy as np

import jax_mmf as mmf

N, P, K, BATCH, N_EPOCHS = 96, 64, 4, 16, 60  # 6 steps in an epoch of 90 samples
SOLVERS = {
    "averaged": mmf.OnlineFactorization(
        n_components=K,
        penalty=mmf.Ridge(0.1),
        statistics=mmf.AveragedStatistics(),
        subset=mmf.BlockSubset(4, 16),
    ),
    "partial": mmf.OnlineFactorization(
        n_components=K, penalty=mmf.Lasso(0.1), subset=mmf.BlockSubset(4, 16), partial_b=True
    ),
}


def run(name, *callbacks, resume=None):
    x = np.random.default_rng(0).standard_normal((N, P)).astype(np.float32)
    return mmf.fit(
        SOLVERS[name],
        x,
        key=jax.random.key(3),
        resume=resume,
        n_epochs=N_EPOCHS,
        batch_size=BATCH,
        held_out=6,
        evaluate_every=50,
        callbacks=[*callbacks, mmf.EarlyStopping(patience=10**6)],
    )


def work(name, folder):
    """Go on with the run, a checkpoint after each step; the result comes last. The first step is told."""
    told = []

    def tell(event):
        if not told:
            told.append(event.step)
            os.write(1, f"step {event.step}\n".encode())

    checkpoint = mmf.Checkpoint(folder / "run", every=1, keep=2)
    run(name, tell, checkpoint, resume=mmf.load_checkpoint(folder / "run")).save(folder / "result.h5")


def main():
    name, folder = sys.argv[1], Path(sys.argv[2])
    mmf.enable_compilation_cache(folder / "cache")
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                work(name, folder)
                status = 0
            finally:
                os._exit(status)
        os.write(1, f"{child}\n".encode())
        os.write(1, f"status {os.waitpid(child, 0)[1]}\n".encode())


if __name__ == "__main__":
    main()
