"""Task-driven dictionary learning: a dictionary trained through its codes, for the labels and not for the pixels.

A linear classifier reads the elastic-net codes, with 16 atoms, of handwritten digits (scikit-learn's, 8 x 8). The
dictionary is learned in two ways, after Mairal, Bach and Ponce (IEEE TPAMI 2012):

- unsupervised: 16 atoms that reconstruct the images, and stay fixed while the classifier is trained;
- end to end: these atoms are then trained together with the classifier, by gradients through `mmf.encode`.

Both run the same program for the same number of steps; the first one has a step size of zero for the dictionary. The
weight decay of the classifier is chosen for each way on the same validation images. Supervision matters for a small
dictionary, in which there is no room for atoms of both kinds. Over five splits, the test
accuracy is 94.7 % unsupervised and 97.4 % end to end. With 64 atoms there is less to gain: 97.5 % and 98.3 %. Training
shortens most atoms, which means a stronger penalty on their codes. It thus learns which atoms to use as well as their
shape.

    python examples/task_driven.py --figure task_driven.png
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import jax_mmf as mmf

N_ATOMS, N_TRAIN, N_VALIDATION, BATCH = 16, 800, 400, 200
PENALTY, CONSTRAINT = mmf.ElasticNet(alpha=0.1, l1_ratio=0.9), mmf.L2Ball()
RATES = {"dictionary": 3e-3, "weights": 0.3, "bias": 0.3}  # step sizes of Adam


def logits(params, x):
    """Return the logits of images, computed from their codes."""
    return mmf.encode(params["dictionary"], x, PENALTY) @ params["weights"] + params["bias"]


def loss(params, x, y, decay):
    """Return the cross-entropy of the labels, which depends on the dictionary only through the codes."""
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y)
    return entropy.mean() + 0.5 * decay * jnp.sum(params["weights"] ** 2)


@partial(jax.jit, static_argnames="n_steps")
def train(dictionary, x, y, decay, dictionary_rate, key, n_steps):
    """Train the classifier from zero, together with the dictionary unless its rate is zero."""
    rates = RATES | {"dictionary": dictionary_rate}
    optimiser = optax.adam(optax.cosine_decay_schedule(1.0, n_steps))

    def step(carry, key):
        params, state = carry
        batch = jax.random.choice(key, len(x), (BATCH,), replace=False)
        value, gradient = jax.value_and_grad(loss)(params, x[batch], y[batch], decay)
        updates, state = optimiser.update(gradient, state)
        params = optax.apply_updates(params, jax.tree.map(jnp.multiply, updates, rates))
        # A longer atom would be a weaker penalty: keep every atom in the unit ball.
        params["dictionary"] = jax.vmap(CONSTRAINT.project)(params["dictionary"])
        return (params, state), value

    params = {"dictionary": dictionary, "weights": jnp.zeros((len(dictionary), 10)), "bias": jnp.zeros(10)}
    (params, _), _ = jax.lax.scan(step, (params, optimiser.init(params)), jax.random.split(key, n_steps))
    return params


@jax.jit
def accuracy(params, x, y):
    """Return the share of images with the right label."""
    return jnp.mean(jnp.argmax(logits(params, x), 1) == y)


def one_split(x, y, seed, n_steps, decays):
    """Return test accuracies and dictionaries of both ways, on one random split of the images."""
    key = jax.random.key(seed)
    order = jax.random.permutation(key, len(x))
    parts = jnp.split(order, [N_TRAIN, N_TRAIN + N_VALIDATION])
    (x_train, y_train), validation, test = [(x[part], y[part]) for part in parts]

    solver = mmf.OnlineFactorization(n_components=N_ATOMS, penalty=PENALTY, constraint=CONSTRAINT)
    unsupervised = mmf.fit(solver, x_train, key=key, n_epochs=20).state.dictionary
    accuracies, dictionaries = [], []
    for rate in (0.0, RATES["dictionary"]):
        runs = [train(unsupervised, x_train, y_train, decay, rate, key, n_steps) for decay in decays]
        best = max(runs, key=lambda params: accuracy(params, *validation))
        accuracies.append(float(accuracy(best, *test)))
        dictionaries.append(np.asarray(best["dictionary"]))
    return accuracies, dictionaries


def main(quick: bool = False, figure: Path | None = None) -> dict:
    """Compare both ways over several splits; return their test accuracies."""
    digits = load_digits()
    x = jnp.asarray(digits.data / np.linalg.norm(digits.data, axis=1, keepdims=True), jnp.float32)
    y = jnp.asarray(digits.target)
    n_seeds, n_steps, decays = (2, 150, (1e-4,)) if quick else (5, 400, (1e-3, 1e-4, 1e-5, 1e-6))

    results = []
    print("split  unsupervised  end to end   (test accuracy)")
    for seed in range(n_seeds):
        results.append(one_split(x, y, seed, n_steps, decays))
        print("{:5d}  {:12.1%}  {:10.1%}".format(seed, *results[-1][0]), flush=True)
    accuracies = np.array([r[0] for r in results])
    print(" mean  {:12.1%}  {:10.1%}".format(*accuracies.mean(0)))
    assert accuracies[:, 1].mean() > accuracies[:, 0].mean(), "training through the codes should help"
    if figure is not None:
        plot(figure, accuracies, *results[0][1])
    return {"unsupervised": accuracies[:, 0].tolist(), "end_to_end": accuracies[:, 1].tolist()}


def plot(path, accuracies, before, after):
    """Draw accuracies in pairs, and the atoms of the first split before and after."""
    from jax_mmf.plotting import COLORS, new_figure, save_figure

    fig, axes = new_figure(1, 3, figsize=(7.7, 2.9))
    fig.get_layout_engine().set(wspace=0.1)
    left = axes[0][0]
    for pair in accuracies:
        left.plot([0, 1], 100 * pair, color="0.6", lw=1.2, zorder=1)
    for way in (0, 1):
        left.scatter([way] * len(accuracies), 100 * accuracies[:, way], color=COLORS[way], s=36, zorder=2)
    left.set(xticks=[0, 1], xticklabels=["unsupervised", "end to end"], xlim=(-0.4, 1.4), ylabel="test accuracy (%)")
    left.set_title("five splits" if len(accuracies) == 5 else f"{len(accuracies)} splits", fontsize=10)
    largest = max(np.abs(before).max(), np.abs(after).max())
    for ax, atoms, title in zip(axes[0][1:], (before, after), ("atoms, unsupervised", "after training"), strict=True):
        # 16 atoms on a grid of 4 x 4, with a margin between them; white is zero.
        tiles = np.pad(atoms.reshape(4, 4, 8, 8), [(0, 0), (0, 0), (0, 1), (0, 1)], constant_values=np.nan)
        picture = tiles.transpose(0, 2, 1, 3).reshape(36, 36)[:-1, :-1]
        image = ax.imshow(picture, cmap="PuOr_r", vmin=-largest, vmax=largest)
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()
    fig.colorbar(image, ax=axes[0][1:].tolist(), shrink=0.75, label="value of a pixel")
    save_figure(fig, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer splits and steps")
    parser.add_argument("--figure", type=Path, help="where to write a picture")
    main(**vars(parser.parse_args()))
