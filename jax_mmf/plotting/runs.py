"""Figures of runs: objectives against time, samples and bytes."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_mmf.core import check_choice
from jax_mmf.io import Record
from jax_mmf.plotting.figures import COLORS, new_figure, place_ticks, pyplot_axes, save_figure

_AXES = {
    "seconds": ("seconds of reading and learning", 1.0),
    "bytes_read": ("gigabytes read", 1e-9),
    "n_samples": ("samples seen", 1.0),
}


def plot_convergence(histories: Mapping[str, Sequence[Record]], *, against: str = "seconds", ax: Any = None) -> Any:
    """Plot the objectives of runs against seconds, bytes read or samples seen, on logarithmic axes.

    Args:
      histories: the history of each run, by its label.
      against: ``"seconds"``, ``"bytes_read"`` or ``"n_samples"``.
      ax: matplotlib axes to draw on; by default those of a new pyplot figure.

    Returns:
      the axes.

    Raises:
      ValueError: for another quantity.

    Example:
      >>> runs = {"one": [Record(1, 10, 1, 0.5, 400, 2.0, 0), Record(2, 20, 1, 1.0, 800, 1.5, 0)]}
      >>> from jax_mmf.plotting import new_figure
      >>> ax = plot_convergence(runs, against="n_samples", ax=new_figure(1, 1)[1][0, 0])
      >>> print(ax.lines[0].get_xdata())
      [10. 20.]
    """
    check_choice("against", against, tuple(_AXES))
    label, unit = _AXES[against]
    ax = pyplot_axes() if ax is None else ax
    seen = [r.objective for records in histories.values() for r in records if math.isfinite(r.objective)]
    for color, (name, records) in zip(itertools.cycle(COLORS), histories.items(), strict=False):
        x = [getattr(r, against) * unit for r in records]
        marker = "o" if len(records) == 1 else None  # a line through one point would be invisible
        ax.plot(x, [r.objective for r in records], color=color, label=name, lw=1.8, marker=marker)
    held_out = all(r.held_out for records in histories.values() for r in records)
    ax.set(xlabel=label, ylabel="held-out objective" if held_out else "objective of mini-batches")
    ax.grid(visible=True, which="both", color="0.92")
    ax.set_axisbelow(True)
    if not seen or min(seen) <= 0:
        return ax  # a logarithmic axis can't show these
    best = min(seen)
    ax.axhline(best * 1.01, color="0.6", lw=1, ls="--")
    ax.annotate(
        "best + 1 %", (0, best * 1.01), xycoords=("axes fraction", "data"), xytext=(4, 2), textcoords="offset points",
        color="0.4", fontsize=8,
    )  # fmt: skip
    ax.set(yscale="log")
    place_ticks(ax.yaxis)
    if all(getattr(r, against) > 0 for records in histories.values() for r in records):
        ax.set(xscale="log")
        place_ticks(ax.xaxis)
    ax.tick_params(which="both", labelsize=8)
    return ax


def plot_history(path: str | Path, histories: Mapping[str, Sequence[Record]], *, title: str = "") -> None:
    """Write a figure of the objectives against seconds and against samples seen.

    Args:
      path: of the picture; its extension gives the format (.png, .pdf, .svg).
      histories: the history of each run, by its label.
      title: of the figure.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_history(f"{folder}/run.png", {"one": [Record(1, 10, 1, 0.5, 400, 2.0, 0)]})
      ...     print([path.name for path in Path(folder).iterdir()])
      ['run.png']
    """
    figure, axes = new_figure(1, 2, figsize=(9, 3.6))
    for ax, against in zip(axes[0], ("seconds", "n_samples"), strict=True):
        plot_convergence(histories, against=against, ax=ax)
    if len(histories) > 1:
        axes[0][0].legend(fontsize=8, frameon=False)
    figure.suptitle(title)
    save_figure(figure, path)
