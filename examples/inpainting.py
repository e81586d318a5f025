"""Inpainting of a photograph with half of its pixels missing: a dictionary is trained to predict hidden pixels.

Every 8 x 8 patch has its own mask: `mmf.encode(..., mask=mask)` finds the code that explains the observed pixels, and
the dictionary predicts the others. Overlapping patches are averaged. There are two dictionaries:

- "before": learned on patches of another photograph;
- "after": trained further on the picture itself. Each step hides some of the observed pixels from the codes. The
  gradient of the error on these pixels, through the codes, updates the atoms and the strength of the penalty. Missing
  pixels are never used.

They are compared with two methods that assume a smooth picture: biharmonic inpainting (scikit-image) and total
variation. On a temple with much detail, the PSNR in dB is: total variation 21.1, biharmonic 21.5, dictionary 23.4
before and 24.8 after. If detail does not repeat, there is less to gain: on a crop of foliage, 24.3, 24.0, 24.7, and
24.7 after.

    python examples/inpainting.py --figure inpainting.png
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_sample_image

import jax_mmf as mmf

SIDE, N_ATOMS, HIDDEN = 8, 64, 0.2
RATES = {"dictionary": 0.01, "log_alpha": 0.03}  # step sizes of Adam
CONSTRAINT = mmf.L2Ball()
CODES = mmf.CoordinateDescent(tol=1e-4, max_iter=300)  # accurate enough for pixels


def photograph(name):
    """Load a grey photograph, from 0 (black) to 1 (white)."""
    return (load_sample_image(name) @ np.array([0.299, 0.587, 0.114]) / 255).astype(np.float32)


def cut(image, stride):
    """Cut an image into patches ``(n, 64)``; a stride of 1 gives all of them."""
    return sliding_window_view(image, (SIDE, SIDE))[::stride, ::stride].reshape(-1, SIDE**2)


def average(patches, shape, stride):
    """Return the image whose pixels are means over all patches that contain them."""
    pixels = cut(np.arange(np.prod(shape)).reshape(shape), stride)
    total = np.bincount(pixels.ravel(), np.asarray(patches).ravel())
    return (total / np.bincount(pixels.ravel())).reshape(shape).astype(np.float32)


def predict(params, x, mask):
    """Predict whole patches from their observed pixels."""
    # An additional constant atom without penalty stands for the brightness of a patch.
    dictionary = jnp.concatenate([jnp.full((1, SIDE**2), 1 / SIDE), params["dictionary"]])
    alphas = jnp.full(N_ATOMS + 1, jnp.exp(params["log_alpha"])).at[0].set(0)
    codes = mmf.encode(dictionary, x, mmf.Lasso(alphas), mask=mask, solver=CODES)
    return mmf.decode(dictionary, codes)


def loss(params, x, mask, key):
    """Squared error on observed pixels that are hidden from the codes."""
    hidden = mask * jax.random.bernoulli(key, HIDDEN, mask.shape)
    return jnp.sum(hidden * (x - predict(params, x, mask - hidden)) ** 2) / jnp.sum(hidden)


@partial(jax.jit, static_argnames="n_steps")
def refine(params, x, mask, key, n_steps):
    """Train the dictionary and alpha to predict observed pixels from others."""
    optimiser = optax.adam(optax.cosine_decay_schedule(1.0, n_steps))

    def step(carry, key):
        params, state = carry
        batch = jax.random.choice(key, len(x), (256,), replace=False)
        value, gradient = jax.value_and_grad(loss)(params, x[batch], mask[batch], key)
        updates, state = optimiser.update(gradient, state)
        params = optax.apply_updates(params, jax.tree.map(jnp.multiply, updates, RATES))
        params["dictionary"] = jax.vmap(CONSTRAINT.project)(params["dictionary"])
        return (params, state), value

    (params, _), losses = jax.lax.scan(step, (params, optimiser.init(params)), jax.random.split(key, n_steps))
    return params, losses


@jax.jit
def fill_patches(params, x, mask):
    """Predict all patches, 512 at a time: each has its own Gram matrix, and all of them would not fit in memory."""
    padded = [jnp.pad(a, [(0, -len(a) % 512), (0, 0)]).reshape(-1, 512, SIDE**2) for a in (x, mask)]
    return jax.lax.map(lambda batch: predict(params, *batch), tuple(padded)).reshape(-1, SIDE**2)[: len(x)]


@jax.jit
def total_variation(observed, mask):
    """Return the picture of least total variation with the observed pixels (Chambolle and Pock 2011)."""

    def slopes(u):
        return jnp.stack([jnp.diff(u, axis=0, append=u[-1:]), jnp.diff(u, axis=1, append=u[:, -1:])])

    transpose = jax.linear_transpose(slopes, observed)
    step_size = 1 / jnp.sqrt(8.0)

    def step(carry, _):
        u, ahead, dual = carry
        dual = dual + step_size * slopes(ahead)
        dual = dual / jnp.maximum(1, jnp.linalg.norm(dual, axis=0))
        moved = jnp.where(mask, observed, u - step_size * transpose(dual)[0])
        return (moved, 2 * moved - u, dual), None

    start = jnp.where(mask, observed, jnp.mean(observed, where=mask))
    return jax.lax.scan(step, (start, start, jnp.zeros((2, *start.shape))), length=500)[0][0]


def psnr(image, truth):
    """Peak signal-to-noise ratio in dB."""
    return float(-10 * np.log10(np.mean((np.clip(image, 0, 1) - truth) ** 2)))


def main(quick: bool = False, figure: Path | None = None) -> dict:
    """Inpaint a crop in four ways; return their PSNR."""
    from skimage.restoration import inpaint_biharmonic

    stride, n_steps = (2, 50) if quick else (1, 250)
    truth = photograph("china.jpg")[150:278, 130:258]
    mask = np.random.default_rng(0).random(truth.shape) < 0.5  # True where observed
    observed = np.where(mask, truth, 0)

    other = cut(photograph("flower.jpg"), stride=4)
    solver = mmf.OnlineFactorization(n_components=N_ATOMS, penalty=mmf.Lasso(0.02), constraint=CONSTRAINT)
    learned = mmf.fit(solver, other - other.mean(1, keepdims=True), key=jax.random.key(0), n_epochs=2)
    before = {"dictionary": learned.state.dictionary, "log_alpha": jnp.log(0.02)}
    patches, masks = jnp.asarray(cut(observed, stride)), jnp.asarray(cut(mask, stride), jnp.float32)
    after, losses = refine(before, patches, masks, jax.random.key(1), n_steps)

    def fill(params):
        return np.where(mask, observed, average(fill_patches(params, patches, masks), truth.shape, stride))

    images = {
        "total variation": np.asarray(total_variation(observed, mask)),
        "biharmonic": inpaint_biharmonic(observed, ~mask),
        "dictionary, before": fill(before),
        "dictionary, after": fill(after),
    }
    found = {name: psnr(image, truth) for name, image in images.items()}
    for name, value in found.items():
        print(f"{name:20s} {value:6.2f} dB")
    first, last = losses[: n_steps // 4].mean() ** 0.5, losses[-n_steps // 4 :].mean() ** 0.5
    print(
        f"error on hidden pixels from {first:.3f} to {last:.3f}, alpha from 0.02 to {jnp.exp(after['log_alpha']):.3f}"
    )
    assert found["dictionary, after"] > max(found["total variation"], found["biharmonic"], found["dictionary, before"])
    if figure is not None:
        plot(figure, {"masked": np.where(mask, truth, np.nan)} | images | {"truth": truth}, found)
    return found


def plot(path, images, found):
    """Draw the pictures side by side."""
    from jax_mmf.plotting import new_figure, save_figure

    fig, axes = new_figure(2, 3, figsize=(7.1, 5.2))
    for ax, (name, image) in zip(axes.ravel(), images.items(), strict=True):
        ax.set_facecolor("#E69F00")  # missing pixels
        ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.set_title(name + (f", {found[name]:.1f} dB" if name in found else ""), fontsize=10)
    save_figure(fig, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer patches and steps")
    parser.add_argument("--figure", type=Path, help="where to write a picture")
    main(**vars(parser.parse_args()))
