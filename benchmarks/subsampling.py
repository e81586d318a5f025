"""What forgetting and subsampling are worth, on the patches of a real hyperspectral scene.

Runs of equal length in seconds (reading from memory, evaluation and compilation not counted) on one problem each:
lasso codes with l2 atoms, and ridge codes with l1 atoms. Prints the held-out objective relative to the best of all
runs at three times, and the seconds to within 1 % of it; draws the curves.

    python benchmarks/subsampling.py [--seconds 20] [--seeds 1] [--figure docs/_static/subsampling.png]
"""

from pathlib import Path

import click
import jax
import numpy as np

import jax_mmf as mmf
from jax_mmf.datasets import iter_patches, load_indian_pines, standardize_bands
from jax_mmf.plotting import new_figure, save_figure

PROBLEMS = {
    "lasso codes, l2 atoms": {"penalty": mmf.Lasso(0.02), "constraint": mmf.L2Ball()},
    "ridge codes, l1 atoms": {"penalty": mmf.Ridge(0.002), "constraint": mmf.L1Ball(30.0)},
}
PAPERS = mmf.PowerForgetting(0.917)
FAST = mmf.PowerForgetting(0.7)
SCALED = mmf.ScaledForgetting(8.0)
RUNS = {
    "r = 1, u = 0.917": {"forgetting": PAPERS},
    "r = 1, u = 0.7": {"forgetting": FAST},
    "r = 1, c = 4": {"forgetting": mmf.ScaledForgetting(4.0)},
    "r = 1, c = 8": {"forgetting": SCALED},
    "r = 1, c = 16": {"forgetting": mmf.ScaledForgetting(16.0)},
    "r = 4, full B, u = 0.917": {"forgetting": PAPERS, "subset": mmf.BlockSubset(4)},
    "r = 4, full B, c = 8": {"forgetting": SCALED, "subset": mmf.BlockSubset(4)},
    "r = 12, full B, u = 0.917": {"forgetting": PAPERS, "subset": mmf.BlockSubset(12)},
    "r = 12, full B, c = 8": {"forgetting": SCALED, "subset": mmf.BlockSubset(12)},
    "r = 12, full B, c = 8, full codes": {
        "forgetting": SCALED, "subset": mmf.BlockSubset(12), "statistics": mmf.FullStatistics(),
    },
    "r = 12, partial B, u = 0.917": {"forgetting": PAPERS, "subset": mmf.BlockSubset(12), "partial_b": True},
    "r = 12, partial B, c = 8": {"forgetting": SCALED, "subset": mmf.BlockSubset(12), "partial_b": True},
}  # fmt: skip
COLORS = {"u = 0.917": "#D55E00", "u = 0.7": "#E69F00", "c = 4": "#56B4E9", "c = 8": "#0072B2", "c = 16": "#009E73"}


def run(x, held_out, options, seconds, seed):
    solver = mmf.OnlineFactorization(n_components=64, **options)
    common = {"key": jax.random.key(seed), "batch_size": 128, "held_out": held_out}
    mmf.fit(solver, x[:1000], n_epochs=1, **common)  # compiles
    return mmf.fit(
        solver, x, n_epochs=1000, evaluate_every=15, **common,
        callbacks=(lambda event: event.record is not None and event.record.seconds > seconds,),
    ).history  # fmt: skip


def at(history, seconds):
    return next((r.objective for r in history if r.seconds >= seconds), history[-1].objective)


@click.command()
@click.option("--seconds", default=20.0, show_default=True, help="Of each run.")
@click.option("--seeds", default=1, show_default=True, help="Runs of each configuration; medians are reported.")
@click.option("--figure", type=click.Path(path_type=Path), help="Picture to write.")
def main(seconds: float, seeds: int, figure: Path | None) -> None:
    cube = standardize_bands(load_indian_pines())
    p = 64 * cube.shape[2]
    cube /= np.sqrt(np.float32(p))
    order = np.random.default_rng(0).permutation(138 * 138)
    x = np.concatenate(list(iter_patches(cube, 8, order=order)))
    held_out, x = x[:512], x[512:]
    fig, axes = new_figure(1, len(PROBLEMS), figsize=(12, 4.8))
    for ax, (problem, fixed) in zip(axes[0], PROBLEMS.items(), strict=True):
        histories = {name: [] for name in RUNS}
        for seed in range(seeds):  # interleaved: a change of the machine's speed falls on all alike
            for name, options in RUNS.items():
                histories[name].append(run(x, held_out, fixed | options, seconds, seed))
        best = min(r.objective for runs in histories.values() for h in runs for r in h)
        print(f"\n{problem}: best {best:.5f}; objective above it after three times, and seconds to 1 %")
        for name, runs in histories.items():
            excess = [np.median([at(h, s) / best - 1 for h in runs]) for s in (seconds / 10, seconds / 3, seconds)]
            reached = [next((r.seconds for r in h if r.objective <= 1.01 * best), np.inf) for h in runs]
            rate = np.median([h[-1].n_samples / h[-1].seconds for h in runs])
            print(f"  {name:<36}" + "".join(f"{100 * e:8.1f} %" for e in excess)
                  + f"{np.median(reached):8.1f} s{rate:10,.0f} samples/s", flush=True)  # fmt: skip
            style = "-" if name.startswith("r = 1,") else "--" if "full B" in name else ":"
            color = next(c for key, c in COLORS.items() if name.split(", full codes")[0].endswith(key))
            ax.plot([r.seconds for r in runs[0]], [r.objective / best - 1 for r in runs[0]], style, color=color,
                    label=name, alpha=0.4 if "full codes" in name else 1,
                    lw=2.5 if "r = 12" in name else 1.4)  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel="seconds", title=problem, ylabel="held-out objective above the best")
        ax.set_ylim(2e-3, 1)
        ax.axhline(0.01, color="0.6", lw=0.8)
        ax.grid(visible=True, color="0.92")
    axes[0][1].legend(fontsize=7, frameon=False)
    if figure is not None:
        save_figure(fig, figure)


if __name__ == "__main__":
    main()
