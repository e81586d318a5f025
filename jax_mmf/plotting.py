"""Figures of runs and of atoms, with matplotlib (extra ``plot``)."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_mmf.core import check_choice
from jax_mmf.io import Record, written_aside
from jax_mmf.typing import HostArray

# Okabe and Ito (2008): readers with any colour vision can tell these apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MISSING = "figures need matplotlib; pip install 'jax-mmf[plot]'"
_AXES = {
    "seconds": ("seconds of reading and learning", 1.0),
    "bytes_read": ("gigabytes read", 1e-9),
    "n_samples": ("samples seen", 1.0),
}


def plot_convergence(axes: Any, histories: Mapping[str, Sequence[Record]], *, against: str = "seconds") -> None:
    """Plot the objectives of runs against seconds, bytes read or samples seen, on logarithmic axes.

    Args:
      axes: matplotlib axes to draw on.
      histories: the history of each run, by its label.
      against: ``"seconds"``, ``"bytes_read"`` or ``"n_samples"``.
    """
    check_choice("against", against, tuple(_AXES))
    label, unit = _AXES[against]
    seen = [r.objective for records in histories.values() for r in records if math.isfinite(r.objective)]
    for color, (name, records) in zip(itertools.cycle(COLORS), histories.items(), strict=False):
        x = [getattr(r, against) * unit for r in records]
        marker = "o" if len(records) == 1 else None  # a line through one point would be invisible
        axes.plot(x, [r.objective for r in records], color=color, label=name, lw=1.8, marker=marker)
    held_out = all(r.held_out for records in histories.values() for r in records)
    axes.set(xlabel=label, ylabel="held-out objective" if held_out else "objective of mini-batches")
    axes.grid(visible=True, which="both", color="0.92")
    axes.set_axisbelow(True)
    if not seen or min(seen) <= 0:
        return  # a logarithmic axis can't show these
    best = min(seen)
    axes.axhline(best * 1.01, color="0.6", lw=1, ls="--")
    axes.annotate(
        "best + 1 %", (0, best * 1.01), xycoords=("axes fraction", "data"), xytext=(4, 2), textcoords="offset points",
        color="0.4", fontsize=8,
    )  # fmt: skip
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        _place_ticks(axis)
    axes.tick_params(which="both", labelsize=8)


def _place_ticks(axis: Any) -> None:
    """Label a logarithmic axis of any length with a few round numbers, written as 0.2 and not as 2 x 10^-1."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_view_interval()
    if high < 8 * low:  # too short for powers of ten and their halves and fifths
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def composite(patches: HostArray, bands: Sequence[int]) -> HostArray:
    """Render spectral patches ``(k, h, w, bands)`` with three bands as red, green and blue: ``(k, h, w, 3)``.

    Zero is grey; each patch is scaled to its largest absolute value.
    """
    rgb = patches[..., list(bands)]
    largest = np.abs(rgb).max(axis=(1, 2, 3), keepdims=True)
    return np.asarray(0.5 + 0.5 * rgb / np.where(largest > 0, largest, 1))


def plot_history(path: str | Path, histories: Mapping[str, Sequence[Record]], *, title: str = "") -> None:
    """Write a figure of the objectives against seconds and against samples seen.

    Args:
      path: of the picture; its extension gives the format (.png, .pdf, .svg).
      histories: the history of each run, by its label.
      title: of the figure.
    """
    figure, axes = new_figure(1, 2, figsize=(9, 3.6))
    for ax, against in zip(axes[0], ("seconds", "n_samples"), strict=True):
        plot_convergence(ax, histories, against=against)
    if len(histories) > 1:
        axes[0][0].legend(fontsize=8, frameon=False)
    figure.suptitle(title)
    save_figure(figure, path)


def new_figure(rows: int, columns: int, **options: Any) -> tuple[Any, Any]:
    """Create a matplotlib figure and its ``(rows, columns)`` axes, without a window or pyplot's global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(_MISSING) from error
    figure = Figure(layout="constrained", dpi=130, **options)
    return figure, figure.subplots(rows, columns, squeeze=False) if rows else None


def pyplot_axes() -> Any:
    """Create the axes of a pyplot figure, which notebooks show and ``matplotlib.pyplot.show()`` opens."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(_MISSING) from error
    return pyplot.subplots(layout="constrained")[1]


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure to a file, which appears only when it is complete."""
    with written_aside(path) as aside:
        figure.savefig(aside, format=Path(path).suffix.lstrip(".") or "png")
