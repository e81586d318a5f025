"""A custom training loop on a stream that is never stored: constant forgetting, and subsets of the features.

Each mini-batch is generated when it is needed, and only on the features of the step's subset.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp

import jax_mmf as mmf

P, K, BATCH, STEPS = 6000, 6, 64, 600


def hidden_parts():
    """Return the parts that the stream mixes, ``(K, P)``: sparse, non-negative, of norm 1."""
    parts = jnp.abs(jax.random.normal(jax.random.key(0), (K, P)))
    parts = parts * (jax.random.uniform(jax.random.key(1), (K, P)) < 0.1)
    return parts / jnp.linalg.norm(parts, axis=1, keepdims=True)


@jax.jit
def samples(parts, step, indices):
    """Generate a mini-batch on some features: sparse non-negative mixtures of the hidden parts, plus noise."""
    key = jax.random.fold_in(jax.random.key(2), step)
    codes = jax.random.exponential(key, (BATCH, K)) * (jax.random.uniform(jax.random.fold_in(key, 1), (BATCH, K)) < 0.4)
    noise = 0.005 * jax.random.normal(jax.random.fold_in(key, 2), (BATCH, P))
    return codes @ parts[:, indices] + noise[:, indices]


def main(quick: bool = False, figure: Path | None = None) -> dict:
    """Learn the parts from the stream; ``quick`` looks at them half as often."""
    parts, every = hidden_parts(), 40 if quick else 20
    solver = mmf.OnlineFactorization(
        n_components=K,
        penalty=mmf.Lasso(0.05, nonneg=True),
        constraint=mmf.L2Ball(nonneg=True),
        subset=mmf.BlockSubset(reduction=10),  # the features of this stream are already in random order
        partial_b=True,
        forgetting=mmf.ConstantForgetting(1e-3),
        initialization=mmf.KMeansPlusPlus(),
    )
    state = solver.init(jax.random.key(3), samples=samples(parts, 0, jnp.arange(P)))
    update = jax.jit(solver.partial_update, donate_argnums=0)
    seen = jnp.zeros((STEPS, P), bool)
    steps, cosines = [], []
    for step in range(1, STEPS + 1):
        subset = solver.draw_subset(state)
        seen = seen.at[step - 1, subset.indices].set(True)
        state, _ = update(state, samples(parts, step, subset.indices), subset)
        if step % every == 0:
            steps.append(step)
            cosines.append(mmf.match_atoms(state.dictionary, parts)[1])
        if step % 100 == 0:
            found = mmf.match_atoms(state.dictionary, parts)[1].round(2)
            print(f"step {step}: {subset.size} of {P} features a step, parts found at cosines {found}")
    if figure is not None:
        draw(figure, seen, steps, cosines)
    return {"cosines": cosines[-1]}


def draw(path, seen, steps, cosines):
    """Draw which features the first steps saw, and how close the atoms came to the parts."""
    from jax_mmf.plotting import COLORS, new_figure, save_figure

    figure, axes = new_figure(1, 2, figsize=(9, 3.4))
    raster, curves = axes[0]
    raster.imshow(seen[:40], aspect="auto", cmap="Greys", interpolation="nearest")
    raster.set(xlabel="feature", ylabel="step", title="features seen by the first 40 steps")
    for color, curve in zip(COLORS, jnp.stack(cosines, 1), strict=True):
        curves.plot(steps, curve, color=color)
    curves.set(xlabel="step", ylabel="cosine with the hidden part", title="six atoms", ylim=(None, 1))
    save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="look at the parts half as often")
    parser.add_argument("--figure", type=Path, help="picture to write")
    main(**vars(parser.parse_args()))
