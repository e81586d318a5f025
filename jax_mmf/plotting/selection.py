"""Figures of the choice of the strength and of the number of atoms."""

import itertools
from collections.abc import Sequence
from typing import Any

from jax_mmf.plotting.figures import COLORS, finished, pyplot_axes


def plot_path(candidates: Sequence[Any], *, ax: Any = None) -> Any:
    """Plot explained variance and density of the codes against the strength, with a line for each number of atoms.

    Args:
      candidates: of a `jax_mmf.selection.Choice`.
      ax: matplotlib axes to draw on; by default those of a new pyplot figure.

    Returns:
      the axes.

    Example:
      >>> from types import SimpleNamespace as Candidate  # as `jax_mmf.selection.choose` gives them
      >>> one = Candidate(n_components=4, alpha=0.1, explained_variance=0.8, density=0.3,
      ...                 hidden_explained_variance=0.6, standard_error=0.0)
      >>> from jax_mmf.plotting import new_figure
      >>> ax = plot_path([one], ax=new_figure(1, 1)[1][0, 0])
      >>> [line.get_label() for line in ax.lines]
      ['explained, k = 4', 'non-zero codes, k = 4']
    """
    ax = pyplot_axes() if ax is None else ax
    for color, (k, own) in zip(itertools.cycle(COLORS), _by_size(candidates).items(), strict=False):
        alphas = [c.alpha for c in own]
        ax.plot(alphas, [c.explained_variance for c in own], color=color, marker=".", label=f"explained, k = {k}")
        ax.plot(alphas, [c.density for c in own], color=color, marker=".", ls=":", label=f"non-zero codes, k = {k}")
    ax.set(xscale="log", ylim=(-0.03, 1.03), xlabel="alpha", ylabel="share of held-out samples")
    return finished(ax)


def plot_choice(choice: Any, *, ax: Any = None) -> Any:
    """Plot the prediction of hidden entries against the strength, with a line for each number of atoms.

    Bars are standard errors of the difference to the best candidate. A circle marks the choice.

    Args:
      choice: of `jax_mmf.selection.choose`.
      ax: matplotlib axes to draw on; by default those of a new pyplot figure.

    Returns:
      the axes.

    Example:
      >>> from types import SimpleNamespace as Candidate  # as `jax_mmf.selection.choose` gives them
      >>> one = Candidate(n_components=4, alpha=0.1, explained_variance=0.8, density=0.3,
      ...                 hidden_explained_variance=0.6, standard_error=0.0)
      >>> choice = Candidate(candidates=[one], chosen=one)
      >>> from jax_mmf.plotting import new_figure
      >>> ax = plot_choice(choice, ax=new_figure(1, 1)[1][0, 0])
      >>> ax.lines[-1].get_label()
      'chosen: k = 4, alpha = 0.1'
    """
    ax = pyplot_axes() if ax is None else ax
    for color, (k, own) in zip(itertools.cycle(COLORS), _by_size(choice.candidates).items(), strict=False):
        values, errors = [c.hidden_explained_variance for c in own], [c.standard_error for c in own]
        ax.errorbar([c.alpha for c in own], values, errors, color=color, marker=".", capsize=2, label=f"k = {k}")
    chosen = choice.chosen
    ax.plot(
        [chosen.alpha], [chosen.hidden_explained_variance], "o", ms=12, mfc="none", color="0.2",
        label=f"chosen: k = {chosen.n_components}, alpha = {chosen.alpha:.3g}",
    )  # fmt: skip
    ax.set(xscale="log", xlabel="alpha", ylabel="hidden explained variance")
    return finished(ax)


def plot_stability(stabilities: Sequence[Any], *, ax: Any = None) -> Any:
    """Plot the agreement of dictionaries of several seeds against the number of atoms.

    Lines are means over pairs of seeds, bands go from the least to the greatest agreement.

    Args:
      stabilities: of `jax_mmf.selection.stability`.
      ax: matplotlib axes to draw on; by default those of a new pyplot figure.

    Returns:
      the axes.

    Example:
      >>> import numpy as np
      >>> from types import SimpleNamespace as Stability  # as `jax_mmf.selection.stability` gives them
      >>> rows = [Stability(n_components=k, cosines=np.full(3, 0.9), distances=np.full(3, 0.2)) for k in (2, 4)]
      >>> from jax_mmf.plotting import new_figure
      >>> ax = plot_stability(rows, ax=new_figure(1, 1)[1][0, 0])
      >>> print(ax.lines[0].get_xdata())
      [2 4]
    """
    if len(stabilities) == 0:
        raise ValueError("stabilities must hold at least one, such as those of jax_mmf.selection.stability")
    ax = pyplot_axes() if ax is None else ax
    rows = sorted(stabilities, key=lambda s: s.n_components)
    sizes = [s.n_components for s in rows]
    lines = {
        "mean cosine of matched atoms": [s.cosines for s in rows],
        "1 - Amari distance": [1 - s.distances for s in rows],
    }
    for color, (label, values) in zip(COLORS, lines.items(), strict=False):
        ax.plot(sizes, [v.mean() for v in values], color=color, marker=".", label=label)
        ax.fill_between(sizes, [v.min() for v in values], [v.max() for v in values], color=color, alpha=0.2, lw=0)
    ax.set(xlabel="number of atoms", ylabel="agreement of seeds", xticks=sizes)
    return finished(ax)


def _by_size(candidates: Sequence[Any]) -> dict[int, list[Any]]:
    """Candidates by their number of atoms, in the order of their strengths."""
    if len(candidates) == 0:
        raise ValueError("candidates must hold at least one, such as the candidates of jax_mmf.selection.choose")
    found: dict[int, list[Any]] = {}
    for candidate in sorted(candidates, key=lambda c: c.alpha):
        found.setdefault(candidate.n_components, []).append(candidate)
    return found
