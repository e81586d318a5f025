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

__all__ = [
    "composite",
    "new_figure",
    "plot_abundance",
    "plot_choice",
    "plot_convergence",
    "plot_history",
    "plot_patches",
    "plot_path",
    "plot_spectra",
    "plot_stability",
    "pyplot_axes",
    "save_figure",
]

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


def plot_path(candidates: Sequence[Any], *, ax: Any = None) -> Any:
    """Plot explained variance and density of the codes against the strength, with a line for each number of atoms.

    Args:
      candidates: of a `jax_mmf.selection.Choice`.
      ax: matplotlib axes to draw on; by default those of a new pyplot figure.

    Returns:
      the axes.
    """
    ax = pyplot_axes() if ax is None else ax
    for color, (k, own) in zip(itertools.cycle(COLORS), _by_size(candidates).items(), strict=False):
        alphas = [c.alpha for c in own]
        ax.plot(alphas, [c.explained_variance for c in own], color=color, marker=".", label=f"explained, k = {k}")
        ax.plot(alphas, [c.density for c in own], color=color, marker=".", ls=":", label=f"non-zero codes, k = {k}")
    ax.set(xscale="log", ylim=(-0.03, 1.03), xlabel="alpha", ylabel="share of held-out samples")
    return _finished(ax)


def plot_choice(choice: Any, *, ax: Any = None) -> Any:
    """Plot the prediction of hidden entries against the strength, with a line for each number of atoms.

    Bars are standard errors of the difference to the best candidate. A circle marks the choice.

    Args:
      choice: of `jax_mmf.selection.choose`.
      ax: matplotlib axes to draw on; by default those of a new pyplot figure.

    Returns:
      the axes.
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
    ax.set(xscale="log", xlabel="alpha", ylabel="explained variance of hidden entries")
    return _finished(ax)


def plot_stability(stabilities: Sequence[Any], *, ax: Any = None) -> Any:
    """Plot the agreement of dictionaries of several seeds against the number of atoms.

    Lines are means over pairs of seeds, bands go from the least to the greatest agreement.

    Args:
      stabilities: of `jax_mmf.selection.stability`.
      ax: matplotlib axes to draw on; by default those of a new pyplot figure.

    Returns:
      the axes.
    """
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
    return _finished(ax)


def _by_size(candidates: Sequence[Any]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for candidate in candidates:
        found.setdefault(candidate.n_components, []).append(candidate)
    return found


def _finished(ax: Any) -> Any:
    ax.grid(visible=True, color="0.92")
    ax.set_axisbelow(True)
    ax.legend(fontsize=8, frameon=False)
    return ax


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


def plot_spectra(spectra: HostArray, *, wavelengths: Sequence[float] | None = None, ax: Any = None) -> Any:
    """Plot the spectra of endmembers.

    Args:
      spectra: ``(m, bands)``, such as ``unmixing.endmembers``.
      wavelengths: ``(bands,)``; by default the numbers of the bands.
      ax: matplotlib axes to draw on; by default those of a new pyplot figure.

    Returns:
      the axes.
    """
    ax = pyplot_axes() if ax is None else ax
    x = np.arange(spectra.shape[1]) if wavelengths is None else np.asarray(wavelengths)
    for number, (color, spectrum) in enumerate(zip(itertools.cycle(COLORS), spectra, strict=False)):
        style = ("-", "--", ":", "-.")[number // len(COLORS) % 4]
        ax.plot(x, spectrum, color=color, ls=style, lw=1.6, label=f"endmember {number + 1}")
    ax.set(xlabel="band" if wavelengths is None else "wavelength", ylabel="value")
    return _finished(ax)


def plot_abundance(abundance: HostArray, *, title: str = "", ax: Any = None) -> Any:
    """Draw the map of the abundance of one endmember, from 0 (dark) to 1 (bright).

    Args:
      abundance: ``(rows, columns)``, such as ``unmixing.abundances[..., 0]``.
      title: of the axes.
      ax: matplotlib axes to draw on; by default those of a new pyplot figure.

    Returns:
      the axes.
    """
    ax = pyplot_axes() if ax is None else ax
    shown = ax.imshow(abundance, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=10)
    ax.figure.colorbar(shown, ax=ax, shrink=0.8, ticks=[0, 0.5, 1])
    return ax


def plot_patches(dictionary: HostArray, patch_size: int, *, ax: Any = None) -> Any:
    """Draw atoms as patches, each scaled to its largest absolute value: grey is zero.

    Args:
      dictionary: ``(k, patch_size * patch_size * bands)``. Three bands are red, green and blue. Of other
        numbers of bands, the mean is drawn.
      patch_size: side of a patch in pixels.
      ax: matplotlib axes to draw on; by default those of a new pyplot figure.

    Returns:
      the axes.

    Raises:
      ValueError: if the atoms are not square patches of this size.
    """
    if dictionary.shape[1] % patch_size**2:
        raise ValueError(f"patch_size={patch_size} does not fit atoms of {dictionary.shape[1]} pixels")
    ax = pyplot_axes() if ax is None else ax
    patches = np.asarray(dictionary).reshape(len(dictionary), patch_size, patch_size, -1)
    patches = patches if patches.shape[3] == 3 else patches.mean(3, keepdims=True).repeat(3, 3)
    columns = math.ceil(math.sqrt(len(patches)))
    rows = math.ceil(len(patches) / columns)
    tiles = np.ones((rows * columns, patch_size + 1, patch_size + 1, 3))
    tiles[: len(patches), :-1, :-1] = composite(patches, (0, 1, 2))
    sheet = tiles.reshape(rows, columns, patch_size + 1, patch_size + 1, 3).swapaxes(1, 2)
    ax.imshow(sheet.reshape(rows * (patch_size + 1), -1, 3), interpolation="nearest")
    ax.set_axis_off()
    return ax
