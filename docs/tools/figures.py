"""Pictures of the concepts: ``python docs/tools/figures.py [NAME ...]`` draws them in docs/_static/concepts.

Colours are those of `jax_mmf.plotting`, which readers with any colour vision can tell apart.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

import jax_mmf as mmf
from jax_mmf import images
from jax_mmf.plotting import COLORS, plot_patches

FOLDER = Path(__file__).parents[1] / "_static" / "concepts"
BLUE, RED, GREEN, PINK, ORANGE, _ = COLORS
GREY = "0.75"


def new_figure(rows, columns, height, **options):
    """Return a figure of one width, and its axes."""
    figure = Figure(figsize=(7.4, height), layout="constrained", dpi=150)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def quiet(ax, title=""):
    """Remove the ticks and the frame."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=11)


def arrow(ax, start, end, **options):
    """Draw an arrow between two points."""
    style = {"arrowstyle": "-|>", "mutation_scale": 12, "color": "0.3", "lw": 1.2} | options
    ax.add_patch(FancyArrowPatch(start, end, **style))


# The front page


def front():
    """A photograph, a dictionary of its patches, and the photograph from a few atoms for each patch."""
    from sklearn.datasets import load_sample_image

    photo = np.asarray(load_sample_image("china.jpg"), np.float32)[60:316, 150:406].mean(2) / 255
    source = images.PatchSource(photo, 8)
    solver = mmf.OnlineFactorization(n_components=64, penalty=mmf.Lasso(0.12))
    result = mmf.fit(solver, source, key=jax.random.key(0), n_epochs=2)
    raw = images.PatchSource(photo, 8, stride=2, center=False)
    patches = raw.read(np.arange(raw.n_samples))
    means = patches.mean(1, keepdims=True)
    codes = np.asarray(result.encode(patches - means))
    rebuilt = images.from_patches(codes @ np.asarray(result.dictionary) + means, photo.shape, places=raw.places)
    figure, axes = new_figure(1, 3, 2.75)
    used = (codes != 0).sum(1).mean()
    for ax, picture, title in ((axes[0, 0], photo, "photograph"), (axes[0, 2], rebuilt, f"{used:.1f} atoms per patch")):
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
        quiet(ax, title)
    plot_patches(result.dictionary, 8, ax=axes[0, 1])
    axes[0, 1].set_title("64 atoms learned from its patches", fontsize=11)
    return figure


# The problem


def problem():
    """Matrices of three factorizations: sparse codes, sparse atoms, non-negative factors."""
    figure, axes = new_figure(3, 3, 6.2, width_ratios=(3, 1, 3))
    rng = np.random.default_rng(0)
    n, p, k = 24, 36, 6
    smooth = np.stack([np.exp(-((np.arange(p) - 6 * i - 3) ** 2) / 12) for i in range(k)])
    sparse = rng.standard_normal((n, k)) * (rng.random((n, k)) < 0.3)
    waves = np.stack([np.sin((i + 1) * np.arange(p) / 5 + i) for i in range(k)])
    rows = (
        ("Sparse codes", sparse, waves),
        ("Sparse atoms", rng.standard_normal((n, k)), smooth * (smooth > 0.25)),
        ("Non-negative", np.abs(sparse) + 0.1 * rng.random((n, k)), smooth + 0.2 * np.abs(waves)),
    )
    for line, (name, codes, atoms) in zip(axes, rows, strict=True):
        for ax, matrix in zip(line, (codes @ atoms, codes, atoms), strict=True):
            limit = np.abs(matrix).max()
            ax.imshow(matrix, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=12)
    titles = ("data X: n samples \u00d7 p features", "codes A: n \u00d7 k", "dictionary D: k atoms \u00d7 p")
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=10)
    for line in axes:
        line[0].annotate("≈", (1.04, 0.5), xycoords="axes fraction", fontsize=16, va="center", ha="center")
        line[1].annotate("\u00d7", (1.13, 0.5), xycoords="axes fraction", fontsize=16, va="center", ha="center")
    return figure


# The step


def grid(ax, corner, shape, color, label, filled=None):
    """Draw a matrix of cells, some of them filled."""
    (x, y), (rows, columns) = corner, shape
    filled = np.ones(shape, bool) if filled is None else filled
    for i in range(rows):
        for j in range(columns):
            face = color if filled[i, j] else "white"
            ax.add_patch(Rectangle((x + j, y + rows - 1 - i), 1, 1, fc=face, ec="0.6", lw=0.5))
    ax.text(x + columns / 2, y - 0.35, label, ha="center", va="top", fontsize=10)


def step():
    """One step on a mini-batch and a subset of the features, in four panels."""
    figure, axes = new_figure(2, 2, 4.6)
    seen = np.zeros(12, bool)
    seen[[1, 2, 5, 8]] = True
    columns = lambda rows: np.repeat(seen[None], rows, 0)  # noqa: E731
    titles = (
        "1. Draw a mini-batch and features",
        "2. Compute codes from these features",
        "3. Update the statistics C and B",
        "4. Update the atoms on these features",
    )
    for ax, title in zip(axes.flat, titles, strict=True):
        ax.set(xlim=(-1, 26), ylim=(-2, 12), aspect="equal")
        quiet(ax)
        ax.set_title(title, fontsize=11, loc="left")
    first, second, third, fourth = axes.flat
    active = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 1, 0]], bool)
    batch = np.zeros((10, 12), bool)
    batch[[2, 5, 6]] = seen
    grid(first, (6, 0), (10, 12), ORANGE, "data X", batch)
    first.text(4.8, 5, "b samples", rotation=90, ha="center", va="center", fontsize=10)
    first.text(12, 10.3, "p / r features", ha="center", fontsize=10)
    grid(second, (0, 5), (3, 4), ORANGE, "samples")
    grid(second, (7, 4.5), (4, 4), BLUE, "atoms")
    arrow(second, (12.5, 6.5), (17.5, 6.5))
    second.text(15, 7.2, "penalty", ha="center", fontsize=10)
    grid(second, (19, 5), (3, 4), GREEN, "codes A", active)
    grid(third, (0, 5), (3, 4), GREEN, "codes A", active)
    arrow(third, (4.4, 6.5), (6.6, 6.5))
    grid(third, (7, 4.5), (4, 4), PINK, "C")
    grid(third, (12.5, 4.5), (4, 12), PINK, "B: all features, or these", columns(4))
    third.text(12.5, 9.7, "new = (1 - w) old + w batch", ha="center", fontsize=10)
    grid(fourth, (7, 6), (4, 12), BLUE, "dictionary D", columns(4))
    fourth.text(
        13, 0.4, "Each atom is projected onto its ball;\nwhite columns keep their values.", ha="center", fontsize=10
    )
    return figure


def forgetting():
    """Weight of each sample after 2,000 samples, by rules of the library."""
    figure, axes = new_figure(1, 1, 3.2)
    ax, n, b = axes[0, 0], 2000, 20
    rules = {
        "ScaledForgetting(1): plain mean": (mmf.ScaledForgetting(1.0), "0.45", ":"),
        "ScaledForgetting(4)": (mmf.ScaledForgetting(4.0), BLUE, "-"),
        "ScaledForgetting(32)": (mmf.ScaledForgetting(32.0), RED, "--"),
        "PowerForgetting(0.8)": (mmf.PowerForgetting(0.8), GREEN, "-."),
        "ConstantForgetting(1/200)": (mmf.ConstantForgetting(1 / 200), PINK, (0, (5, 1, 1, 1, 1, 1))),
    }
    for label, (rule, color, line) in rules.items():
        weights = np.array([float(rule.weight(jnp.int32(first), b)) for first in range(0, n, b)])
        left = np.append(np.cumprod(1 - weights[::-1])[::-1][1:], 1.0)
        ax.plot(np.arange(b, n + 1, b), 100 * weights * left, color=color, ls=line, lw=1.8, label=label)
    ax.set(xlabel="number of the sample", ylabel="weight of its mini-batch, %", ylim=(0, 12))
    ax.grid(color="0.92")
    ax.legend(frameon=False, fontsize=10)
    return figure


# Penalties and balls


def penalties():
    """Codes of two atoms: level sets of the penalty, and where they touch those of the error."""
    angle = 0.5
    dictionary = jnp.array([[1.0, 0.0], [np.cos(angle + 0.6), np.sin(angle + 0.6)]])
    x = jnp.array([1.4, -0.5]) @ dictionary
    shown = {
        "Ridge(0.5)": mmf.Ridge(0.5),
        "Lasso(0.5)": mmf.Lasso(0.5),
        "ElasticNet(0.5)": mmf.ElasticNet(0.5, 0.5),
        "Lasso(0.5, nonneg=True)": mmf.Lasso(0.5, nonneg=True),
        "Ridge(0, nonneg=True)": mmf.Ridge(0.0, nonneg=True),
        "SimplexCodes()": mmf.SimplexCodes(),
    }
    figure, axes = new_figure(2, 3, 4.7)
    a, b = np.meshgrid(np.linspace(-1.5, 2.2, 221), np.linspace(-1.5, 1.5, 181))
    points = jnp.asarray(np.stack([a, b], -1).reshape(-1, 2))
    error = np.asarray(0.5 * jnp.sum((x - points @ dictionary) ** 2, 1)).reshape(a.shape)
    free = np.linalg.lstsq(np.asarray(dictionary).T, np.asarray(x), rcond=None)[0]
    for ax, (title, penalty) in zip(axes.flat, shown.items(), strict=True):
        code = np.asarray(mmf.encode(dictionary, x, penalty))
        ax.contour(a, b, error, levels=[0.02, 0.1, 0.25, 0.5, 1, 2], colors=GREY, linewidths=0.9)
        if title == "SimplexCodes()":
            ax.plot([0, 1], [1, 0], color=BLUE, lw=2.5)
        elif "nonneg" in title:
            ax.fill_between([0, 2.2], 0, 1.5, color=BLUE, alpha=0.15, lw=0)
        if title not in ("SimplexCodes()", "Ridge(0, nonneg=True)"):
            value = np.asarray(mmf.penalty_value(penalty, points)).reshape(a.shape)
            here = float(mmf.penalty_value(penalty, code))
            ax.contour(a, b, np.where(np.isfinite(value), value, np.nan), levels=[here], colors=BLUE, linewidths=2)
        ax.plot(*free, "x", color="0.3", ms=8, mew=2)
        ax.plot(*code, "o", color=RED, ms=8)
        ax.axhline(0, color="0.6", lw=0.7)
        ax.axvline(0, color="0.6", lw=0.7)
        quiet(ax, title)
        ax.set(aspect="equal", xlim=(-1.2, 2.0), ylim=(-1.2, 1.2), xlabel="code of atom 1", ylabel="code of atom 2")
    return figure


def balls():
    """Sets of atoms in two dimensions, and projections onto them."""
    shown = {
        "L2Ball()": mmf.L2Ball(),
        "ElasticNetBall(0.5)": mmf.ElasticNetBall(0.5),
        "L1Ball()": mmf.L1Ball(),
        "L2Ball(nonneg=True)": mmf.L2Ball(nonneg=True),
        "L1Ball(nonneg=True)": mmf.L1Ball(nonneg=True),
        "Simplex()": mmf.Simplex(),
    }
    figure, axes = new_figure(2, 3, 5.4)
    around = np.linspace(0, 2 * np.pi, 13)[:-1] + 0.14
    outside = 1.45 * np.stack([np.cos(around), np.sin(around)], -1)
    fine = np.stack([np.cos(t := np.linspace(0, 2 * np.pi, 721)), np.sin(t)], -1)
    for ax, (title, ball) in zip(axes.flat, shown.items(), strict=True):
        project = jax.vmap(ball.project)
        edge = np.asarray(project(jnp.asarray(3 * fine)))
        ax.fill(*edge.T, color=BLUE, alpha=0.2, lw=0)
        ax.plot(*edge.T, color=BLUE, lw=2)
        nearest = np.asarray(project(jnp.asarray(outside)))
        for start, end in zip(outside, nearest, strict=True):
            arrow(ax, start, end, color=GREY, mutation_scale=9, shrinkA=0, shrinkB=2)
        zeros = (np.abs(nearest) < 1e-6).any(1)
        ax.plot(*nearest[~zeros].T, "o", color=BLUE, ms=5)
        ax.plot(*nearest[zeros].T, "o", color=RED, ms=7)
        quiet(ax, title)
        ax.set(aspect="equal", xlim=(-1.6, 1.6), ylim=(-1.6, 1.6))
    return figure


def main():
    """Draw the pictures that are named, or all."""
    import figures_of_codes

    drawn = {f.__name__: f for f in (front, problem, step, forgetting, penalties, balls)} | figures_of_codes.PICTURES
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or drawn:
        drawn[name]().savefig(FOLDER / f"{name}.png")
        print(FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
