"""Time of one donated step against the reduction, interleaved: does the cost fall as 1 / r?

python benchmarks/step_cost.py [--features 200000] [--components 64] [--batch 64] [--repeats 10]
"""

import time

import click
import jax
import jax.numpy as jnp
import numpy as np

import jax_mmf as mmf
from jax_mmf.step import step_partial, step_whole

step_whole = jax.jit(step_whole, donate_argnames="state")
step_partial = jax.jit(step_partial, donate_argnames="state")


class Contestant:
    def __init__(self, x, k, reduction, partial_b, constraint):
        self.solver = mmf.OnlineFactorization(
            n_components=k,
            penalty=mmf.Ridge(0.1),
            constraint=constraint,
            subset=mmf.FullSubset() if reduction == 1 else mmf.BlockSubset(reduction),
            partial_b=partial_b,
        )
        self.state = self.solver.init(jax.random.key(0), samples=x)
        self.start = jnp.zeros((x.shape[0], k))
        self.subset = self.solver.draw_subset(self.state)
        self.x = x[:, self.subset.indices] if partial_b else x
        self.partial_b = partial_b

    def step(self):
        begin = time.perf_counter()
        if self.partial_b:
            self.state, _ = step_partial(self.solver, self.state, self.x, self.subset, None, self.start)
        else:
            self.state, _ = step_whole(self.solver, self.state, self.x, None, self.start)
        jax.block_until_ready(self.state.dictionary)
        return time.perf_counter() - begin


@click.command()
@click.option("--features", default=200_000, show_default=True)
@click.option("--components", default=64, show_default=True)
@click.option("--batch", default=64, show_default=True)
@click.option("--repeats", default=10, show_default=True)
def main(features: int, components: int, batch: int, repeats: int) -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((batch, features)), jnp.float32)
    for constraint in (mmf.L2Ball(), mmf.L1Ball()):
        runs = {"r = 1": Contestant(x, components, 1, False, constraint)}
        for r in (4, 12, 24):
            runs[f"r = {r}, full B"] = Contestant(x, components, r, False, constraint)
            runs[f"r = {r}, partial B"] = Contestant(x, components, r, True, constraint)
        for run in runs.values():
            run.step()  # compiles
        times = [{name: run.step() for name, run in runs.items()} for _ in range(repeats)]
        print(type(constraint).__name__)
        for name in runs:
            ratio = np.median([t["r = 1"] / t[name] for t in times])
            print(f"  {name:<20} {1e3 * np.median([t[name] for t in times]):8.1f} ms   {ratio:6.1f} times faster")


if __name__ == "__main__":
    main()
