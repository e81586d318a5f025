"""Choice of the strength of the lasso and of the number of atoms for data with a known answer.

The data are sparse combinations of 8 atoms, plus noise.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

import jax_mmf as mmf
from jax_mmf.selection import alpha_grid, choose, stability


def main(quick: bool = False, figure: Path | None = None) -> dict:
    """Print the table of candidates and the stability; ``quick`` takes fewer candidates and seeds."""
    planted = mmf.datasets.make_sparse_codes(jax.random.key(0), 4500, 40, 8, n_nonzero=2, noise=0.15)
    x = np.asarray(planted.x)
    train, test = x[:4000], x[4000:]
    sizes = [6, 8, 10] if quick else [4, 6, 8, 10, 12]

    solver = mmf.OnlineFactorization(n_components=8, penalty=mmf.Lasso(0.1), constraint=mmf.L2Ball())
    alphas = alpha_grid(solver, train, key=jax.random.key(1), n_alphas=6 if quick else 10)
    options = {"key": jax.random.key(2), "n_components": sizes, "n_epochs": 2}
    choice = choose(solver, train, test, alphas=alphas, **options)
    print(choice)
    alphas = [alpha for alpha in alphas if alpha >= choice.chosen.alpha]
    found = stability(solver, train, alphas=alphas, n_seeds=3 if quick else 5, **options)
    print("    k  cosine  Amari distance")
    for row in found:
        print(f"{row.n_components:5d}  {row.cosines.mean():6.3f}  {row.distances.mean():14.3f}")
    if figure is not None:
        draw(choice, found, figure)
    return {"chosen": choice.chosen, "stability": found, "atoms": planted.dictionary}


def draw(choice, found, path):
    """Draw the path for the number of atoms chosen, the choice, and the stability."""
    from jax_mmf.plotting import new_figure, plot_choice, plot_path, plot_stability, save_figure

    fig, axes = new_figure(1, 3, figsize=(12, 3.6))
    plot_path([c for c in choice.candidates if c.n_components == choice.chosen.n_components], ax=axes[0][0])
    plot_choice(choice, ax=axes[0][1])
    plot_stability(found, ax=axes[0][2])
    titles = "smaller alpha always explains more", "hidden entries decide", "atoms in excess differ between seeds"
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=10)
    save_figure(fig, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer candidates and seeds")
    parser.add_argument("--figure", type=Path, help="picture to write")
    main(**vars(parser.parse_args()))
