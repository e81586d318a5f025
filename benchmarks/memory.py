"""Memory of one compiled step in addition to its arguments, as the compiled program reports it.

``over`` is peak / (dictionary + B + batch) - 1. The peak of XLA consists of arguments, outputs that do not reuse their
memory, and temporary arrays. The state is donated. Target: 0.25.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Contestant, race
from benchmarks.report import Record, records_of

Run = Callable[[], dict[str, Any]]


def jax_memory(p: int, k: int, b: int, reduction: int, partial_b: bool, penalty: str) -> Run:
    import jax
    import jax.numpy as jnp

    import jax_mmf as mmf
    from jax_mmf.learning.step import step_partial, step_whole

    solver = mmf.OnlineFactorization(
        n_components=k,
        penalty={"ridge": mmf.Ridge(0.1), "lasso": mmf.Lasso(0.1)}[penalty],
        constraint=mmf.L2Ball(),
        subset=mmf.FullSubset() if reduction == 1 else mmf.BlockSubset(reduction),
        partial_b=partial_b,
    )
    state = solver.init(jax.random.key(0), dictionary=jnp.ones((k, p)))
    start, subset = jnp.zeros((b, k)), solver.draw_subset(state)
    if partial_b:
        batch = jnp.zeros((b, subset.size))
        lowered = jax.jit(step_partial, donate_argnames="state").lower(solver, state, batch, subset, None, start)
    else:
        batch = jnp.zeros((b, p))
        lowered = jax.jit(step_whole, donate_argnames="state").lower(solver, state, batch, None, start)

    def run() -> dict[str, Any]:
        need = lowered.compile().memory_analysis()
        peak = need.argument_size_in_bytes + need.output_size_in_bytes - need.alias_size_in_bytes
        peak += need.temp_size_in_bytes
        return {"peak": peak, "temporary": need.temp_size_in_bytes, "data": 4 * (2 * k * p + batch.size)}

    return run


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    sizes = {"p": 4_000, "k": 16, "b": 16} if quick else {"p": 200_000, "k": 64, "b": 64}
    settings = {"r = 1": (1, False), "r = 12, full B": (12, False), "r = 12, partial B": (12, True)}
    records: list[Record] = []
    for penalty in ("ridge", "lasso"):
        outcomes = race(
            [
                Contestant(name, "benchmarks.memory:jax_memory", threads[0], reduction=r, partial_b=partial,
                           penalty=penalty, **sizes)
                for name, (r, partial) in settings.items()
            ],
            0,
        )  # fmt: skip
        for outcome in outcomes:
            if "error" not in outcome:
                need = outcome["result"]
                megabytes = {f"{name}_MB": need[name] / 1e6 for name in ("data", "peak", "temporary")}
                outcome["quality"] = megabytes | {"over": need["peak"] / need["data"] - 1}
            outcome.pop("first_seconds", None)
            outcome.pop("peak_rss_bytes", None)
        records += records_of("memory", ", ".join(f"{n} = {v:,}" for n, v in sizes.items()), penalty, outcomes)
    return records
