"""Each kernel of a step against its roofline: the time that its FLOPs and bytes take at the speeds of the machine.

FLOPs and bytes are the minimum that the mathematics needs. The speeds are those of a square matrix product and of a
copy of large arrays, both in JAX in the same race. ``roofline`` is the share of the kernel's time that these bounds
explain; 1 is optimal. Coordinate descent is one sweep. The dictionary is updated by `BlockCoordinateDescent`, or by
`ProjectedGradient`, called "at once". Problems are larger on an accelerator, where each launch costs some microseconds.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Contestant, on_accelerator, race
from benchmarks.report import Record, records_of

Run = Callable[[], dict[str, Any]]
MATRIX, COPY = "matrix product", "copy"
KERNELS = (
    "Gram matrix", "correlations", "ridge codes", "coordinate descent", "update of B", "update of B, not in tiles",
    "dictionary, l2 ball", "dictionary, l1 ball", "dictionary at once, l2 ball", "dictionary at once, l1 ball",
    "projections, l1 ball", "gather of a subset", "scatter of a subset",
)  # fmt: skip


def jax_kernel(kernel: str, p: int, k: int, b: int, reduction: int, square: int, copied: int) -> Run:
    """A kernel; its result holds the FLOPs and bytes that it needs."""
    import jax
    import jax.numpy as jnp

    import jax_mmf as mmf
    from jax_mmf.codes import CodeProblem
    from jax_mmf.core.linalg import in_tiles, map_rows, matmul
    from jax_mmf.learning.dictionary_update import DictionaryProblem
    from jax_mmf.learning.surrogate import BatchMoments

    rng = np.random.default_rng(0)
    array = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))  # noqa: E731
    atoms, x = array(k, p) / np.float32(np.sqrt(p)), array(b, p)
    gram, beta = matmul(atoms, atoms.T), matmul(x, atoms.T)
    sq_norm, codes = jnp.sum(x**2, 1), array(b, k)
    c, moments = matmul(codes.T, codes) / b + jnp.eye(k), matmul(codes.T, x) / b
    key, zero = jax.random.key(0), jnp.zeros((), jnp.int32)
    whole, part = (s.draw(key, zero, p) for s in (mmf.FullSubset(), mmf.BlockSubset(reduction)))
    s = part.size

    # Arguments, not constants, which XLA would compute with while it compiles.
    data = {"x": x, "atoms": atoms, "codes": codes, "gram": gram, "beta": beta, "sq_norm": sq_norm, "c": c}
    data |= {"moments": moments, "large": array(square, square)}

    def update(ball: Any, updates: Any) -> Callable[..., jax.Array]:
        def sweep(d: jax.Array, t: dict[str, jax.Array]) -> jax.Array:
            budget, batch = 0.5 * ball.gauge(t["atoms"]), BatchMoments(t["c"], t["moments"])
            problem = DictionaryProblem(t["c"], t["moments"], batch, budget, whole)
            return updates.update(key, d, problem, ball, updates.init(d))[0]

        return sweep

    def solve(solver: Any, penalty: Any) -> Callable[..., jax.Array]:
        return lambda start, t: solver.solve(CodeProblem(t["gram"], t["beta"], t["sq_norm"]), penalty, start)[0]

    one_sweep = solve(mmf.CoordinateDescent(tol=0.0, max_iter=1), mmf.Lasso(0.1))
    wide, product_flops = jnp.zeros((64, copied // 64)), 2 * k * k * p
    descent, gradient = mmf.BlockCoordinateDescent(), mmf.ProjectedGradient()
    # function, its argument that is donated, FLOPs, floats read and written
    made: dict[str, tuple[Callable[..., jax.Array], jax.Array, float, float]] = {
        MATRIX: (lambda d, t: matmul(t["large"], d), array(square, square), 2 * square**3, 3 * square**2),
        COPY: (lambda d, t: d + 1, wide, 0, 2 * wide.size),
        "Gram matrix": (lambda d, t: matmul(d, d.T), atoms, 2 * k * k * p, k * p),
        "correlations": (lambda d, t: matmul(t["x"], d.T), atoms, 2 * b * k * p, (b + k) * p),
        "ridge codes": (solve(mmf.Cholesky(), mmf.Ridge(0.1)), codes, k**3 / 3 + 2 * b * k * k, k * k + 3 * b * k),
        "coordinate descent": (one_sweep, codes, 2 * b * k * k, k * k + 3 * b * k),
        "update of B": (
            lambda m, t: in_tiles(lambda take, m: 0.9 * m + matmul(0.1 / b * t["codes"].T, take(t["x"])), m),
            moments, 2 * b * k * p, (2 * k + b) * p,
        ),
        "update of B, not in tiles": (
            lambda m, t: 0.9 * m + matmul(0.1 / b * t["codes"].T, t["x"]), moments, 2 * b * k * p, (2 * k + b) * p,
        ),
        "dictionary, l2 ball": (update(mmf.L2Ball(), descent), atoms, product_flops, 3 * k * p),
        "dictionary, l1 ball": (update(mmf.L1Ball(), descent), atoms, product_flops, 3 * k * p),
        "dictionary at once, l2 ball": (update(mmf.L2Ball(), gradient), atoms, product_flops, 3 * k * p),
        "dictionary at once, l1 ball": (update(mmf.L1Ball(), gradient), atoms, product_flops, 3 * k * p),
        "projections, l1 ball": (lambda d, t: map_rows(mmf.L1Ball(5.0).project, d), atoms, 0, 2 * k * p),
        "gather of a subset": (lambda d, t: part.gather(d), atoms, 0, 2 * k * s),
        "scatter of a subset": (lambda d, t: part.scatter(d, t["atoms"][:, :s]), atoms, 0, 2 * k * s),
    }  # fmt: skip
    function, argument, flops, floats = made[kernel]
    in_place = kernel in (COPY, "scatter of a subset") or kernel.startswith(("update", "dictionary", "coordinate"))
    compiled = jax.jit(function, donate_argnums=0 if in_place else ())
    state = {"argument": jnp.array(argument)}

    def run() -> dict[str, Any]:
        out = jax.block_until_ready(compiled(state["argument"], data))
        if in_place:
            state["argument"] = out
        return {"flops": float(flops), "bytes": 4.0 * floats}

    return run


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    large = on_accelerator() and not quick
    p, k, b, reduction = (4_000, 32, 32, 4) if quick else (409_600 if large else 51_200, 256, 256, 12)
    sizes = {"p": p, "k": k, "b": b, "reduction": reduction}
    names = (MATRIX, COPY, *KERNELS)
    records: list[Record] = []
    for n in threads:
        common = sizes | {"square": 512 if quick else 8192 if large else 2048, "copied": 2**28 if large else 2**24}
        contestants = [Contestant(name, "benchmarks.kernels:jax_kernel", n, kernel=name, **common) for name in names]
        outcomes = race(contestants, repeats, min_seconds=0.02 if quick else 0.3)
        by_name = {outcome["name"]: outcome for outcome in outcomes}
        rate = lambda name, what: by_name[name]["result"][what] / by_name[name]["seconds"]["median"]  # noqa: E731, B023
        peak, bandwidth = rate(MATRIX, "flops"), rate(COPY, "bytes")
        for outcome in outcomes:
            if "error" in outcome:
                continue
            seconds, needs = outcome["seconds"]["median"], outcome["result"]
            bound = max(needs["flops"] / peak, needs["bytes"] / bandwidth)
            outcome["quality"] = {
                "GFLOP_per_s": needs["flops"] / seconds / 1e9,
                "GB_per_s": needs["bytes"] / seconds / 1e9,
                "roofline": bound / seconds,
            }
            outcome.pop("ratio", None)
        problem = ", ".join(f"{name} = {value:,}" for name, value in sizes.items())
        records += records_of("kernels", problem.replace("reduction", "r"), "float32", outcomes)
    return records
