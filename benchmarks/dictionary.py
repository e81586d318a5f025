"""Updates of the dictionary, relative to the matrix product C D that all of them need.

The reference is that product in JAX. The updates are one sweep of `BlockCoordinateDescent`, and one step of
`ProjectedGradient`, called "at once". "NumPy, rank-one" is the update as published, one atom after another.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Contestant, on_accelerator, race
from benchmarks.report import Record, records_of

SIZES = ((96, 19_200), (256, 5_120), (256, 51_200))
BALLS = {
    "l2 ball": ("L2Ball", {}),
    "l1 ball": ("L1Ball", {}),
    "elastic-net ball": ("ElasticNetBall", {"l1_ratio": 0.5}),
}
Run = Callable[[], dict[str, Any]]


def statistics(k: int, s: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms ``(k, s)`` of unit norm, and C and B of samples that they nearly explain."""
    rng = np.random.default_rng(0)
    atoms = rng.standard_normal((k, s), np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = rng.standard_normal((4 * k, k), np.float32)
    c = codes.T @ codes / len(codes)
    noise = rng.standard_normal((k, s), np.float32) / np.float32(10 * np.sqrt(s))
    return atoms, c, c @ (atoms + noise)


def jax_product(k: int, s: int) -> Run:
    """``C D``."""
    import jax

    atoms, c, _ = (jax.device_put(array) for array in statistics(k, s))
    product = jax.jit(lambda c, d: jax.numpy.matmul(c, d, precision="highest"))
    return lambda: {"size": product(c, atoms).block_until_ready().size}


def jax_update(k: int, s: int, ball: str, update: str) -> Run:
    """An update of all features, with the atoms of before donated."""
    import jax
    import jax.numpy as jnp

    import jax_mmf as mmf
    from jax_mmf.learning.dictionary_update import DictionaryProblem
    from jax_mmf.learning.surrogate import BatchMoments

    start, c, b = (jax.device_put(array) for array in statistics(k, s))
    name, arguments = BALLS[ball]
    # A budget that binds, as in learning: half of what the atoms have.
    constraint = getattr(mmf, name)(**arguments)
    budget = 0.5 * constraint.gauge(start)
    chosen = getattr(mmf, update)()

    @lambda f: jax.jit(f, donate_argnums=0)
    def step(atoms: jax.Array, key: jax.Array, c: jax.Array, b: jax.Array, budget: jax.Array) -> jax.Array:
        subset = mmf.FullSubset().draw(key, jnp.zeros((), jnp.int32), s)
        problem = DictionaryProblem(c, b, BatchMoments(c, b), budget, subset)
        return chosen.update(key, atoms, problem, constraint, chosen.init(atoms))[0]

    state = {"atoms": jnp.array(start)}
    key = jax.random.key(0)

    def run() -> dict[str, Any]:
        state["atoms"] = step(state["atoms"], key, c, b, budget).block_until_ready()
        return {}

    return run


def numpy_update(k: int, s: int) -> Run:
    """One atom after another with a rank-one update of the gradient; l2 ball."""
    from scipy.linalg.blas import sger

    atoms, c, b = statistics(k, s)

    def run() -> dict[str, Any]:
        gradient = np.asfortranarray(b - c @ atoms)
        for j in range(k):
            old = atoms[j].copy()
            new = old + gradient[j] / c[j, j]
            atoms[j] = new * min(1.0, np.sqrt(0.5 / float(new @ new)))
            gradient = sger(-1.0, c[:, j], atoms[j] - old, a=gradient, overwrite_a=1)
        return {}

    return run


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    records: list[Record] = []
    for k, s in ((32, 1024),) if quick else SIZES:
        for n in threads:
            sizes = {"k": k, "s": s}
            contestants = [
                Contestant("product C D", "benchmarks.dictionary:jax_product", n, **sizes),
                *(
                    Contestant(ball + said, "benchmarks.dictionary:jax_update", n, **sizes, ball=ball, update=update)
                    for update, said in (("BlockCoordinateDescent", ""), ("ProjectedGradient", ", at once"))
                    for ball in BALLS
                ),
            ]
            if not on_accelerator():
                contestants += [
                    Contestant("NumPy, rank-one, l2 ball", "benchmarks.dictionary:numpy_update", n, **sizes)
                ]
            outcomes = race(contestants, repeats, min_seconds=0.02 if quick else 0.3)
            records += records_of("dictionary", f"k = {k}, s = {s:,}", "one sweep or step", outcomes)
    return records
