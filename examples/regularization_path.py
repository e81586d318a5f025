"""A whole regularisation path in one call, by `jax.vmap` over alpha.

The example learns dictionaries of handwritten digits (scikit-learn's, 8 x 8) at 12 strengths of the lasso together.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
from sklearn.datasets import load_digits

import jax_mmf as mmf


def main(quick: bool = False, figure: Path | None = None) -> dict:
    """Learn the dictionaries; ``quick`` takes fewer strengths."""
    x = jnp.asarray(load_digits().data / 16, jnp.float32)
    x = x - x.mean(0)
    train, test = x[:1536].reshape(12, 128, 64), x[1536:]

    @jax.jit
    def learn(alpha):
        """Do two epochs of online dictionary learning in one program."""
        solver = mmf.OnlineFactorization(n_components=32, penalty=mmf.Lasso(alpha), constraint=mmf.L2Ball())
        state = solver.init(jax.random.key(0), samples=train[0])
        state, _ = jax.lax.scan(solver.update, state, jnp.concatenate([train, train]))
        codes = mmf.encode(state.dictionary, test, solver.penalty)
        unexplained = jnp.sum((test - mmf.decode(state.dictionary, codes)) ** 2) / jnp.sum(test**2)
        return unexplained, jnp.mean(codes != 0), state.dictionary

    alphas = jnp.logspace(-2.5, 0, 4 if quick else 12)
    unexplained, densities, dictionaries = jax.vmap(learn)(alphas)
    print("   alpha  unexplained  codes that are not zero")
    for row in zip(alphas, unexplained, densities, strict=True):
        print("{:8.4f}  {:10.1%}  {:10.1%}".format(*row))
    if figure is not None:
        draw(figure, alphas, unexplained, densities, dictionaries)
    return {"unexplained": unexplained, "densities": densities}


def draw(path, alphas, unexplained, densities, dictionaries):
    """Draw the path, and the atoms at a weak and at a strong penalty."""
    from jax_mmf.plotting import new_figure, plot_patches, save_figure

    figure, _ = new_figure(0, 0, figsize=(10, 3.4))
    curves, weak, strong = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    curves.semilogx(alphas, unexplained, marker="o", color="#0072B2", label="variance unexplained")
    curves.semilogx(alphas, densities, marker="s", color="#D55E00", label="codes that are not zero")
    curves.set(xlabel="alpha", ylim=(0, 1))
    curves.legend(frameon=False)
    for ax, i in ((weak, 0), (strong, len(alphas) * 3 // 4)):
        plot_patches(dictionaries[i], 8, ax=ax)
        ax.set_title(f"atoms at alpha = {alphas[i]:.2g}", fontsize=10)
    save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer strengths")
    parser.add_argument("--figure", type=Path, help="picture to write")
    main(**vars(parser.parse_args()))
