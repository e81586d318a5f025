"""Codes along a path of alpha, and their derivatives at the kinks.

The derivatives follow the conventions of docs/guides/derivatives.md.

The first dictionary has 6 atoms. The second one has a copy of one of them too.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp

import jax_mmf as mmf

COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]


def main(quick: bool = False, figure: Path | None = None) -> dict:
    """Print and draw the derivatives; ``quick`` takes fewer points."""
    key_d, key_x = jax.random.split(jax.random.key(1))
    dictionary = jax.random.normal(key_d, (6, 8)) / jnp.sqrt(8)
    x = jax.random.normal(key_x, (8,))
    alphas = jnp.linspace(0.01, 1.1 * float(mmf.alpha_max(dictionary, x)), 40 if quick else 400)
    descent = mmf.CoordinateDescent()  # keeps both copies if both are in the start; `ActiveSet` keeps one
    code = lambda alpha, atoms, init=None: mmf.encode(atoms, x, mmf.Lasso(alpha), init=init, solver=descent)  # noqa: E731

    path = jax.jit(jax.vmap(lambda a: (code(a, dictionary), jax.jacfwd(code)(a, dictionary))))
    codes, slopes = path(alphas)
    # Copy the atom that is active longest. Codes are then not unique. Starting from half of the code in each copy, the
    # solver is already at a solution, with both copies in the support.
    j = int(jnp.argmax(jnp.sum(codes != 0, 0)))
    twice = jnp.concatenate([dictionary, dictionary[j : j + 1]])
    halves = jnp.append(code(0.2, dictionary), 0.0).at[jnp.array([j, 6])].set(code(0.2, dictionary)[j] / 2)
    by_alpha = jax.jacfwd(code)(0.2, twice, halves)
    alone = jax.jacfwd(code)(0.2, dictionary)

    largest = float(mmf.alpha_max(dictionary, x))
    at_the_end = jax.jacfwd(code)(largest, dictionary)
    print(f"alpha_max = {largest:.3f}; derivative there: {at_the_end}")
    print(f"derivative of the code of atom {j} at alpha = 0.2: {alone[j]:.4f}")
    print(f"with a copy of it:                               {by_alpha[j]:.4f} + {by_alpha[-1]:.4f}")
    if figure is not None:
        draw(alphas, codes, slopes, (alone[j], by_alpha[j], by_alpha[-1]), figure)
    return {"at_alpha_max": at_the_end, "alone": alone[j], "copies": (by_alpha[j], by_alpha[-1])}


def draw(alphas, codes, slopes, copies, figure):
    """Draw the codes, their derivatives, and the derivatives of two copies."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 3, figsize=(11, 3.4), width_ratios=(3, 3, 1.6), layout="constrained")
    for j, color in enumerate(COLORS):
        axes[0].plot(alphas, codes[:, j], color=color, label=f"atom {j + 1}")
        axes[1].plot(alphas, slopes[:, j], ".", ms=2.5, color=color)
    axes[0].set(title="codes: kinks where the support changes", xlabel="alpha", ylabel="code")
    axes[1].set(title="derivatives: zero where a code is zero", xlabel="alpha", ylabel="d code / d alpha")
    axes[0].legend(frameon=False, fontsize=8, ncols=2)
    axes[2].bar(["alone", "copy 1", "copy 2"], copies, color=["0.5", COLORS[0], COLORS[0]])
    axes[2].set(title="two copies of an atom", ylabel="d code / d alpha at 0.2")
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.axhline(0, color="0.7", lw=0.8, zorder=0)
    fig.savefig(figure, dpi=110)
    plt.close(fig)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer points")
    parser.add_argument("--figure", type=Path, help="picture to write")
    main(**vars(parser.parse_args()))
