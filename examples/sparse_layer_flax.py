"""Sparse coding as a layer of a Flax network: its dictionary and penalty strength are learned end to end.

The layer computes the codes of its inputs with `jax_mmf.encode`, and a linear classifier reads them. Three networks
classify handwritten digits (scikit-learn's, 8 x 8):

- a linear classifier of the pixels, for comparison;
- the classifier after a layer that solves for the codes and differentiates the solution implicitly (the default);
- the classifier after a layer of ten proximal steps, which are differentiated one by one (`UnrolledFISTA`). This is a
  recurrent network with tied weights, as in LISTA.

Needs flax: pip install flax scikit-learn
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import linen, nnx
from sklearn.datasets import load_digits

import jax_mmf as mmf

project = jax.vmap(mmf.L2Ball().project)  # projects each atom


def random_atoms(key, shape):
    return project(jax.random.normal(key, shape))


def penalty_of(log_alpha):
    """Return an elastic net, whose l2 part makes codes unique and the systems of their derivatives well conditioned."""
    alpha = jnp.exp(log_alpha)  # the logarithm is learned, so that the strength stays positive
    return mmf.ElasticNet(alpha, l1_ratio=0.9, nonneg=True)


class SparseCoding(nnx.Module):
    """Codes ``(n, k)`` of samples ``(n, p)``, in Flax NNX. ``solver=None`` solves exactly."""

    def __init__(self, n_features, n_components, *, alpha=0.5, solver=None, rngs):
        self.dictionary = nnx.Param(random_atoms(rngs.params(), (n_components, n_features)))
        self.log_alpha = nnx.Param(jnp.log(alpha))
        self.solver = solver

    def __call__(self, x):
        return mmf.encode(self.dictionary[...], x, penalty_of(self.log_alpha[...]), solver=self.solver)

    def project(self):
        """Project the atoms. Call it after each step: if atoms grew and codes shrank, the penalty would be void."""
        self.dictionary[...] = project(self.dictionary[...])


class LinenSparseCoding(linen.Module):
    """The same layer in Flax Linen. Its parameters are kept outside, and are projected there after each step."""

    n_components: int
    alpha: float = 0.5
    solver: mmf.CodeSolver | None = None

    @linen.compact
    def __call__(self, x):
        dictionary = self.param("dictionary", random_atoms, (self.n_components, x.shape[-1]))
        log_alpha = self.param("log_alpha", lambda _: jnp.log(self.alpha))
        return mmf.encode(dictionary, x, penalty_of(log_alpha), solver=self.solver)


class Classifier(nnx.Module):
    """Classifier into ten classes, of sparse codes, or of pixels if there is no layer of codes."""

    def __init__(self, sparse, n_inputs, rngs):
        self.sparse = sparse
        self.linear = nnx.Linear(n_inputs, 10, rngs=rngs)

    def __call__(self, x):
        return self.linear(x if self.sparse is None else self.sparse(x))


def loss(model, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


@nnx.jit
def train_step(model, optimizer, x, y):
    optimizer.update(model, nnx.grad(loss)(model, x, y))
    if model.sparse is not None:
        model.sparse.project()


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
    """Train the three networks. Draw the atoms that were learned."""
    n_components, n_epochs = (32, 10) if quick else (64, 30)
    train, (x_test, y_test) = digits()
    found = {}
    print("                     test accuracy  learned alpha  active codes")
    for name, solver in (("pixels", None), ("implicit", None), ("unrolled", mmf.UnrolledFISTA(10))):
        rngs = nnx.Rngs(0)
        sparse = None if name == "pixels" else SparseCoding(64, n_components, solver=solver, rngs=rngs)
        model = Classifier(sparse, 64 if sparse is None else n_components, rngs)
        optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
        for x, y in batches(*train, n_epochs):
            train_step(model, optimizer, x, y)
        accuracy = float((model(x_test).argmax(1) == y_test).mean())
        result = {"accuracy": accuracy}
        if sparse is not None:
            result["alpha"] = float(jnp.exp(sparse.log_alpha[...]))
            result["active"] = float((sparse(x_test) != 0).sum(1).mean())
            result["dictionary"] = sparse.dictionary[...]
        found[name] = result
        codes = (
            f"{result['alpha']:13.4f}  {result['active']:4.1f} of {n_components:3d}" if sparse is not None else " " * 24
        )
        print(f"{name:20s} {accuracy:13.1%}  {codes}")
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
