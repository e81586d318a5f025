"""Sparse coding as a layer of an Equinox network: its dictionary and penalty strength are learned end to end.

As usual in Equinox, the layer is written for one sample, and `jax.vmap` applies it to a batch: `jax_mmf.encode` turns
the `vmap` into one batch. Two networks classify handwritten digits (scikit-learn's, 8 x 8). The layer of the first one
solves for the codes and differentiates the solution implicitly (the default). The layer of the second one is ten
proximal steps, which are differentiated one by one (`UnrolledFISTA`).

Needs equinox: pip install equinox scikit-learn
"""

import argparse
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import jax_mmf as mmf

project = jax.vmap(mmf.L2Ball().project)  # projects each atom


class SparseCoding(eqx.Module):
    """Codes ``(k,)`` of a sample ``(p,)``. ``solver=None`` solves exactly."""

    dictionary: jax.Array
    log_alpha: jax.Array  # the logarithm, so that the learned strength stays positive
    solver: mmf.CodeSolver | None = eqx.field(static=True)

    def __init__(self, n_features, n_components, *, alpha=0.5, solver=None, key):
        self.dictionary = project(jax.random.normal(key, (n_components, n_features)))
        self.log_alpha = jnp.log(alpha)
        self.solver = solver

    def __call__(self, x):
        # The l2 part makes codes unique and the systems of their derivatives well conditioned.
        penalty = mmf.ElasticNet(jnp.exp(self.log_alpha), l1_ratio=0.9, nonneg=True)
        return mmf.encode(self.dictionary, x, penalty, solver=self.solver)


class Classifier(eqx.Module):
    """Classifier of the sparse codes of a sample into ten classes."""

    sparse: SparseCoding
    linear: eqx.nn.Linear

    def __init__(self, n_features, n_components, *, solver=None, key):
        keys = jax.random.split(key)
        self.sparse = SparseCoding(n_features, n_components, solver=solver, key=keys[0])
        self.linear = eqx.nn.Linear(n_components, 10, key=keys[1])

    def __call__(self, x):
        return self.linear(self.sparse(x))


def loss(model, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), y).mean()


optimizer = optax.adam(1e-2)


@eqx.filter_jit
def train_step(model, state, x, y):
    updates, state = optimizer.update(eqx.filter_grad(loss)(model, x, y), state)
    model = eqx.apply_updates(model, updates)
    # Without the projection, atoms could grow and codes shrink, which would void the penalty.
    return eqx.tree_at(lambda m: m.sparse.dictionary, model, replace_fn=project), state


def digits():
    """Load pixels, scaled to a mean square of 1 in each picture, and labels: 1500 for training and 297 for the test."""
    x, y = load_digits(return_X_y=True)
    x = jnp.asarray(x, jnp.float32)
    x = x / jnp.sqrt(jnp.mean(x**2, axis=1, keepdims=True))
    return (x[:1500], jnp.asarray(y[:1500])), (x[1500:], jnp.asarray(y[1500:]))


def batches(x, y, n_epochs, size=100):
    for epoch in range(n_epochs):
        order = jax.random.permutation(jax.random.key(epoch), len(x))
        for rows in order.reshape(-1, size):
            yield x[rows], y[rows]


def main(quick: bool = False, figure: Path | None = None) -> dict:
    """Train the two networks. Draw the atoms that were learned."""
    n_components, n_epochs = (32, 10) if quick else (64, 30)
    train, (x_test, y_test) = digits()
    found = {}
    print("           test accuracy  learned alpha  active codes")
    for name, solver in (("implicit", None), ("unrolled", mmf.UnrolledFISTA(10))):
        model = Classifier(64, n_components, solver=solver, key=jax.random.key(0))
        state = optimizer.init(eqx.filter(model, eqx.is_array))
        for x, y in batches(*train, n_epochs):
            model, state = train_step(model, state, x, y)
        codes = jax.vmap(model.sparse)(x_test)
        accuracy = float((jax.vmap(model.linear)(codes).argmax(1) == y_test).mean())
        found[name] = {
            "accuracy": accuracy,
            "alpha": float(jnp.exp(model.sparse.log_alpha)),
            "active": float((codes != 0).sum(1).mean()),
            "dictionary": model.sparse.dictionary,
        }
        print(
            f"{name:10s} {accuracy:13.1%}  {found[name]['alpha']:13.4f}  {found[name]['active']:5.1f} of {n_components}"
        )
    if figure is not None:
        draw(figure, found)
    return found


def draw(path, found):
    """Draw the atoms of each layer, which were learned for the labels."""
    from jax_mmf.plotting import new_figure, plot_patches, save_figure

    figure, axes = new_figure(1, 2, figsize=(7, 3.7))
    for ax, name in zip(axes[0], ("implicit", "unrolled"), strict=True):
        plot_patches(found[name]["dictionary"], 8, ax=ax)
        ax.set_title(f"{name}: test accuracy {found[name]['accuracy']:.1%}", fontsize=10)
    save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller run")
    parser.add_argument("--figure", type=Path, help="picture to write")
    main(**vars(parser.parse_args()))
