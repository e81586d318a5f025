"""Figures of a report, as PNG: maps on slices or on surfaces, time courses, spectra, variance and convergence."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from nibabel.affines import apply_affine
from nilearn.image import index_img, resample_to_img
from nilearn.plotting import plot_stat_map, plot_surf_stat_map
from nilearn.surface import SurfaceImage

from jax_mmf.io import Record
from jax_mmf.plotting import COLORS
from jax_mmf.typing import HostArray

_DPI = 110
_WINDOW = 8  # evaluations in the running mean of the objective
_INSIDE = 0.8  # share of the mask in the MNI brain, from which the MNI template is drawn behind maps


class Background(NamedTuple):
    """What maps are drawn on: the MNI template, or a mask, whose outline is drawn."""

    image: Any
    is_template: bool


def background_of(mask: Any) -> Background | None:
    """Return the MNI template if the mask lies in its brain, else the mask; None for surfaces."""
    if isinstance(mask, SurfaceImage):
        return None
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    brain = load_mni152_brain_mask(resolution=4)
    places = apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj) > 0))
    voxels = np.rint(apply_affine(np.linalg.inv(brain.affine), places)).astype(int)
    voxels = voxels[((voxels >= 0) & (voxels < brain.shape)).all(axis=1)]
    if np.asarray(brain.dataobj)[tuple(voxels.T)].sum() >= _INSIDE * len(places):
        return Background(load_mni152_template(resolution=2), is_template=True)
    return Background(mask, is_template=False)


def brain(maps: Any, index: int, background: Background | None) -> bytes:
    """Draw a map at its strongest voxel, or from the side on which its strongest vertex is."""
    if background is None:
        return _surface(maps, index)
    image = index_img(maps, index)
    largest = float(np.abs(np.asarray(image.dataobj)).max())
    if background.is_template:  # nilearn's own interpolation rings: it draws blue around red
        image = resample_to_img(image, background.image, interpolation="linear", force_resample=True)
    display = plot_stat_map(
        image, bg_img=background.image if background.is_template else None, cut_coords=peak_of(maps, index), dim=-0.4,
        display_mode="ortho", threshold=largest * 0.02, vmax=largest or 1.0, symmetric_cbar=True, colorbar=False,
        draw_cross=False, black_bg=False, resampling_interpolation="nearest",
    )  # fmt: skip
    if not background.is_template:
        display.add_contours(background.image, levels=[0.5], colors="0.5", linewidths=1)
    buffer = io.BytesIO()
    display.frame_axes.figure.savefig(buffer, dpi=_DPI, format="png", facecolor="white")
    display.close()
    return buffer.getvalue()


def peak_of(maps: Any, index: int) -> tuple[float, float, float] | None:
    """Return the place of the strongest voxel of a map in mm, or None for surfaces."""
    if isinstance(maps, SurfaceImage):
        return None
    values = np.abs(np.asarray(maps.dataobj[..., index]))
    voxel = np.unravel_index(int(values.argmax()), values.shape)
    x, y, z = (float(value) for value in (maps.affine @ [*voxel, 1])[:3])
    return x, y, z


def _surface(maps: SurfaceImage, index: int) -> bytes:
    from matplotlib.figure import Figure

    parts = {name: np.asarray(part)[..., index] for name, part in maps.data.parts.items()}
    side = max(parts, key=lambda name: np.abs(parts[name]).max())
    largest = float(np.abs(parts[side]).max()) or 1.0
    figure = Figure(figsize=(7.2, 3.2))
    for place, view in enumerate(("lateral", "medial"), 1):
        axes = figure.add_subplot(1, 2, place, projection="3d")
        plot_surf_stat_map(
            stat_map=parts[side], surf_mesh=maps.mesh.parts[side], hemi=side, view=view, vmax=largest,
            threshold=largest * 0.02, symmetric_cbar=True, colorbar=False, figure=figure, axes=axes,
        )  # fmt: skip
        axes.set_box_aspect(None, zoom=1.4)
    return _png(figure)


def time_course(values: HostArray, t_r: float | None) -> bytes:
    """Draw a time course."""
    axes = _axes(7.2, 1.7)
    axes.plot(np.arange(len(values)) * (t_r or 1), values, color=COLORS[0], lw=0.9)
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    axes.set(xlabel="seconds" if t_r else "frame", ylabel="time course", xlim=(0, max(1, len(values) - 1) * (t_r or 1)))
    return _png(axes.figure)


def spectrum(values: HostArray, t_r: float | None) -> bytes:
    """Draw the power spectrum of a time course (Welch 1967)."""
    from scipy.signal import welch

    frequencies, power = welch(values, 1 / (t_r or 1), nperseg=min(len(values), 128))
    axes = _axes(3.6, 1.7)
    axes.fill_between(frequencies, power, color=COLORS[0], alpha=0.25, lw=0)
    axes.plot(frequencies, power, color=COLORS[0], lw=1.1)
    axes.set(xlabel="Hz" if t_r else "cycles per frame", ylabel="power", xlim=(0, frequencies[-1]))
    axes.set_ylim(bottom=0)
    axes.set_yticks([])
    return _png(axes.figure)


def variances(shares: HostArray) -> bytes:
    """Draw the explained variance of each map."""
    axes = _axes(5.4, 2.8)
    axes.bar(np.arange(1, len(shares) + 1), 100 * shares, color=COLORS[0])
    axes.set(xlabel="map", ylabel="% of the variance", xlim=(0.4, len(shares) + 0.6))
    axes.xaxis.get_major_locator().set_params(integer=True)
    return _png(axes.figure)


def convergence(history: Sequence[Record]) -> bytes:
    """Draw the objectives of mini-batches over the course of the run, and their running mean."""
    axes = _axes(5.4, 2.8)
    seen, objectives = np.array([(r.n_samples, r.objective) for r in history]).T
    window = min(_WINDOW, len(history))
    mean = np.convolve(objectives, np.full(window, 1 / window), "valid")
    axes.plot(seen, objectives, ".", color=COLORS[0], alpha=0.35)
    axes.plot(seen[window - 1 :], mean, color=COLORS[0], lw=1.6)
    axes.set(xlabel="frames seen", ylabel="objective")
    axes.ticklabel_format(useOffset=False)
    return _png(axes.figure)


def _axes(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    axes = Figure(figsize=(width, height), layout="constrained").add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    return axes


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=_DPI, format="png")
    return buffer.getvalue()
