"""Time of one learning step on a mini-batch in memory, against the reduction r: does it cost r times less?

The state is donated. Codes are ridge codes with k = b = 64, and the dictionary is updated by `BlockCoordinateDescent`;
on an accelerator also by `ProjectedGradient`, called "at once". The reference is the step at r = 1. Targets with
partial B: 1/9 of it at r = 12, 1/16 at r = 24.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Contestant, on_accelerator, race
from benchmarks.report import Record, records_of

REDUCTIONS = (4, 8, 12, 24)
Run = Callable[[], dict[str, Any]]


def jax_step(
    p: int, k: int, b: int, reduction: int, partial_b: bool, ball: str, update: str = "BlockCoordinateDescent"
) -> Run:
    """`step_whole` or, with partial B, `step_partial`; jitted, with the state donated."""
    import jax
    import jax.numpy as jnp

    import jax_mmf as mmf
    from jax_mmf.learning.step import step_partial, step_whole

    x = jnp.asarray(np.random.default_rng(0).standard_normal((b, p), np.float32))
    solver = mmf.OnlineFactorization(
        n_components=k,
        penalty=mmf.Ridge(0.1),
        constraint={"l1": mmf.L1Ball, "l2": mmf.L2Ball}[ball](),
        subset=mmf.FullSubset() if reduction == 1 else mmf.BlockSubset(reduction),
        partial_b=partial_b,
        dictionary_update=getattr(mmf, update)(),
    )
    start = jnp.zeros((b, k))
    state = {"now": solver.init(jax.random.key(0), samples=x)}
    subset = solver.draw_subset(state["now"])
    if partial_b:
        part = jnp.asarray(np.asarray(x)[:, np.asarray(subset.indices)])
        step = jax.jit(step_partial, donate_argnames="state")
        advance = lambda state: step(solver, state, part, subset, None, start)[0]  # noqa: E731
    else:
        step = jax.jit(step_whole, donate_argnames="state")
        advance = lambda state: step(solver, state, x, None, start)[0]  # noqa: E731

    def run() -> dict[str, Any]:
        state["now"] = jax.block_until_ready(advance(state["now"]))
        return {}

    return run


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    p, k, b = (4_000, 16, 16) if quick else (200_000, 64, 64)
    records: list[Record] = []
    for n in threads:
        for ball in ("l2", "l1"):
            common = {"p": p, "k": k, "b": b, "ball": ball}
            factory = "benchmarks.step:jax_step"
            contestants = [Contestant("r = 1", factory, n, reduction=1, partial_b=False, **common)]
            for partial, said in ((True, "partial B"), (False, "full B")):
                contestants += [
                    Contestant(f"r = {r}, {said}", factory, n, reduction=r, partial_b=partial, **common)
                    for r in (REDUCTIONS[:1] if quick else REDUCTIONS)
                ]
            if on_accelerator():
                chosen = [c for c in contestants if c.name in ("r = 1", "r = 12, partial B", "r = 12, full B")]
                at_once = [
                    Contestant(f"{c.name}, at once", factory, n, **c.arguments, update="ProjectedGradient")
                    for c in chosen
                ]
                contestants = [*chosen, *at_once]
            outcomes = race(contestants, repeats, min_seconds=0.02 if quick else 0.5)
            records += records_of("step", f"p = {p:,}, k = {k}, b = {b}", f"{ball} ball", outcomes)
    return records
