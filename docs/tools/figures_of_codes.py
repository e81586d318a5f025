"""Pictures of codes, of data on disk and of several devices, for ``docs/tools/figures.py``."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from figures import BLUE, COLORS, GREEN, ORANGE, PINK, RED, arrow, new_figure, quiet
from matplotlib.patches import Rectangle

import jax_mmf as mmf

warnings.simplefilter("ignore", mmf.ConvergenceWarning)  # iterations that stop early are the subject
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (3, 1)))


def codes():
    """The duality gap of an iteration, and codes along a path of strengths."""
    figure, axes = new_figure(1, 2, 3.2)
    left, right = axes[0]
    key_d, key_x = jax.random.split(jax.random.key(1))
    with jax.enable_x64(True):
        dictionary = jax.random.normal(key_d, (6, 8)) / jnp.sqrt(8)
        x = jax.random.normal(key_x, (8,))
        largest = float(mmf.alpha_max(dictionary, x))
        penalty = mmf.Lasso(0.1 * largest)
        best = float(mmf.objective(dictionary, x[None], penalty, solver=mmf.ActiveSet(tol=1e-14)))
        counts, gaps, errors = range(1, 41, 3), [], []
        for count in counts:
            found, info = mmf.encode_with_info(dictionary, x, penalty, solver=mmf.FISTA(tol=0, max_iter=count))
            value = 0.5 * jnp.sum((x - found @ dictionary) ** 2) + mmf.penalty_value(penalty, found)
            gaps.append(float(info.gap) * float(value))
            errors.append(float(value) - best)
        alphas = jnp.linspace(0.005, 1.1, 400) * largest
        path = jax.jit(jax.vmap(lambda alpha: mmf.encode(dictionary, x, mmf.Lasso(alpha))))(alphas)
    left.semilogy(counts, gaps, color=RED, lw=1.8, label="duality gap")
    left.semilogy(counts, errors, color=BLUE, ls="--", lw=1.8, label="distance to the minimum")
    left.set(xlabel="iterations", ylabel="difference of objectives", title="The gap bounds the error")
    for number, (color, line) in enumerate(zip(COLORS, LINES, strict=True)):
        right.plot(
            np.asarray(alphas) / largest,
            np.asarray(path)[:, number],
            color=color,
            ls=line,
            lw=1.8,
            label=f"atom {number + 1}",
        )
    right.set(xlabel="alpha / alpha_max", ylabel="code", title="Codes have kinks")
    for ax in axes[0]:
        ax.title.set_size(11)
        ax.grid(color="0.92")
        ax.legend(frameon=False, fontsize=9)
    return figure


def disk():
    """From a file to steps: stretches of rows, shuffled, a few mini-batches in memory."""
    figure, axes = new_figure(1, 1, 2.8)
    ax = axes[0, 0]
    ax.set(xlim=(0, 30), ylim=(-2, 9.2), aspect="equal")
    quiet(ax)
    chosen = {1: BLUE, 4: ORANGE, 6: GREEN}
    for row in range(9):
        ax.add_patch(Rectangle((0.5, 8 - row), 7, 1, fc=chosen.get(row, "white"), ec="0.6", lw=0.8))
    ax.text(4, -0.4, "file on disk:\nstretches of rows", ha="center", va="top", fontsize=10)
    for place, color in enumerate((ORANGE, BLUE, GREEN)):
        y = 6 - 2.5 * place
        ax.add_patch(Rectangle((12, y), 5, 1.6, fc=color, ec="0.6", lw=0.8))
        arrow(ax, (7.7, 8.5 - {ORANGE: 4, BLUE: 1, GREEN: 6}[color]), (11.8, y + 0.8))
    ax.text(14.5, -0.4, "a few mini-batches\nin memory", ha="center", va="top", fontsize=10)
    ax.text(9.8, 8.6, "a thread\nreads ahead", ha="center", va="center", fontsize=10)
    arrow(ax, (17.5, 4.3), (21.5, 4.3))
    ax.text(19.5, 5, "step", ha="center", fontsize=10)
    ax.add_patch(Rectangle((22, 2.5), 7, 3.6, fc=PINK, ec="0.6", lw=0.8))
    ax.text(25.5, 4.3, "D, C and B", ha="center", va="center", fontsize=11)
    ax.text(25.5, -0.4, "the state: its size does not\ndepend on n", ha="center", va="top", fontsize=10)
    return figure


def devices():
    """Which arrays are split over four devices, by samples and by features."""
    figure, axes = new_figure(1, 2, 2.7)
    tints = (BLUE, ORANGE, GREEN, PINK)
    for ax, axis, sent in zip(
        axes[0], ("data", "features"), ("sums of B and C are sent", "products for the codes are sent"), strict=True
    ):
        ax.set(xlim=(-4.5, 17.5), ylim=(-1.4, 12.6), aspect="equal")
        quiet(ax, f'mesh axis "{axis}"')
        by_samples = axis == "data"
        for number, color in enumerate(tints):
            part = (0, 11.2 - 1.2 * number, 16, 1.2) if by_samples else (4 * number, 7.6, 4, 4.8)
            ax.add_patch(Rectangle(part[:2], *part[2:], fc=color, ec="white", lw=1.5))
            if not by_samples:
                for y in (3.9, 0.9):
                    ax.add_patch(Rectangle((4 * number, y), 4, 2.2, fc=color, ec="white", lw=1.5))
        if by_samples:
            for y in (3.9, 0.9):
                ax.add_patch(Rectangle((0, y), 16, 2.2, fc="0.85", ec="0.6", lw=0.8))
                ax.text(8, y + 1.1, "a copy on each device", ha="center", va="center", fontsize=10)
        for y, name in ((10, "batch"), (5, "D"), (2, "B")):
            ax.text(-0.5, y, name, ha="right", va="center", fontsize=10)
        ax.text(8, -0.4, sent, ha="center", va="top", fontsize=10)
    return figure


PICTURES = {"codes": codes, "disk": disk, "devices": devices}
