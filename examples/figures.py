"""Figures of jax_mmf.plotting: what to look at after a run.

Two dictionaries of the patches of a photograph are learned, with different seeds, and then dictionaries at several
strengths of the lasso. Each panel is one function.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from sklearn.datasets import load_sample_image

import jax_mmf as mmf
from jax_mmf import images, selection

K, SIZE = 36, 8


def main(quick: bool = False, figure: Path | None = None) -> dict:
    """Learn the dictionaries; ``quick`` takes fewer patches."""
    photo = load_sample_image("china.jpg")[60:316, 150:406].mean(2) / 255
    source = images.PatchSource(photo, SIZE, n_patches=4_000 if quick else 12_000, key=jax.random.key(0))
    x = source.read(np.arange(source.n_samples))
    train, held_out = x[:-500], x[-500:]
    solver = mmf.OnlineFactorization(n_components=K, penalty=mmf.Lasso(0.1), constraint=mmf.L2Ball())
    options = {"batch_size": 128, "held_out": held_out, "evaluate_every": 8}
    mmf.fit(solver, train, key=jax.random.key(0), **options)  # compiles, which the seconds below leave out
    runs = {f"seed {seed}": mmf.fit(solver, train, key=jax.random.key(seed), **options) for seed in (0, 1)}
    alphas = selection.alpha_grid(solver, train, key=jax.random.key(2), n_alphas=5)
    choice = selection.choose(
        solver, train[:3000], held_out, alphas=alphas, key=jax.random.key(3), n_components=[K // 4, K]
    )
    cosines = mmf.match_atoms(*(run.dictionary for run in runs.values()))[1]
    print(f"mean cosine of matched atoms: {cosines.mean():.2f}")
    codes = np.asarray(runs["seed 0"].encode(held_out))
    print(f"{(codes != 0).sum(1).mean():.1f} codes of a patch are not zero")
    if figure is not None:
        draw(figure, runs, codes, choice)
    return {"cosines": cosines, "codes": codes}


def draw(path, runs, codes, choice):
    """Draw a panel with each function."""
    from jax_mmf import plotting

    figure, axes = plotting.new_figure(2, 4, figsize=(14, 6.4))
    first, second = runs.values()
    histories = {name: run.history for name, run in runs.items()}
    panels = axes.ravel()
    for ax, against in zip(panels, ("seconds", "n_samples", "bytes_read"), strict=False):
        plotting.plot_convergence(histories, against=against, ax=ax)
    panels[0].legend(fontsize=8, frameon=False)
    plotting.plot_patches(first.dictionary, SIZE, ax=panels[3])
    plotting.plot_matches(second.dictionary, first.dictionary, ax=panels[4])
    plotting.plot_sparsity(codes, ax=panels[5])
    plotting.plot_eigenvalues(first.state.surrogate.c, ax=panels[6])
    plotting.plot_path(choice.candidates, ax=panels[7])
    names = [*3 * ["convergence"], "patches", "matches", "sparsity", "eigenvalues", "path"]
    for ax, name in zip(panels, names, strict=True):
        ax.set_title(f"plot_{name}", fontsize=10, family="monospace")
    plotting.save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer patches")
    parser.add_argument("--figure", type=Path, help="picture to write")
    main(**vars(parser.parse_args()))
