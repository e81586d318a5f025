"""Figures of atoms: patches, spectra and maps, and dictionaries beside each other."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_mmf.codes import match_atoms
from jax_mmf.core import check_count
from jax_mmf.plotting.figures import COLORS, as_matrix, finished, pyplot_axes
from jax_mmf.typing import ArrayLike, HostArray


def plot_patches(dictionary: ArrayLike, patch_size: int, *, ax: Any = None) -> Any:
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

    Example:
      >>> from jax_mmf.plotting import new_figure
      >>> ax = plot_patches(np.eye(4), 2, ax=new_figure(1, 1)[1][0, 0])
      >>> ax.images[0].get_array().shape  # 2 x 2 atoms of 2 x 2 pixels, with borders, in RGB
      (6, 6, 3)
    """
    atoms = as_matrix("dictionary", dictionary, "(k, patch_size * patch_size * bands)")
    check_count("patch_size", patch_size)
    if atoms.shape[1] % patch_size**2:
        raise ValueError(
            f"patch_size={patch_size} does not fit atoms of {atoms.shape[1]} features, which must be a multiple of "
            f"{patch_size**2}"
        )
    ax = pyplot_axes() if ax is None else ax
    patches = atoms.reshape(len(atoms), patch_size, patch_size, -1)
    patches = patches if patches.shape[3] == 3 else patches.mean(3, keepdims=True).repeat(3, 3)
    columns = math.ceil(math.sqrt(len(patches)))
    rows = math.ceil(len(patches) / columns)
    tiles = np.ones((rows * columns, patch_size + 1, patch_size + 1, 3))
    tiles[: len(patches), :-1, :-1] = composite(patches, (0, 1, 2))
    sheet = tiles.reshape(rows, columns, patch_size + 1, patch_size + 1, 3).swapaxes(1, 2)
    ax.imshow(sheet.reshape(rows * (patch_size + 1), -1, 3), interpolation="nearest")
    ax.set_axis_off()
    return ax


def plot_spectra(spectra: ArrayLike, *, wavelengths: Sequence[float] | None = None, ax: Any = None) -> Any:
    """Plot the spectra of endmembers.

    Args:
      spectra: ``(m, bands)``, such as ``unmixing.endmembers``.
      wavelengths: ``(bands,)``; by default the numbers of the bands.
      ax: matplotlib axes to draw on; by default those of a new pyplot figure.

    Returns:
      the axes.

    Raises:
      ValueError: for other shapes.

    Example:
      >>> from jax_mmf.plotting import new_figure
      >>> ax = plot_spectra(np.array([[1.0, 2.0], [3.0, 1.0]]), ax=new_figure(1, 1)[1][0, 0])
      >>> [line.get_label() for line in ax.lines]
      ['endmember 1', 'endmember 2']
    """
    values = as_matrix("spectra", spectra, "(m, bands)")
    x = np.arange(values.shape[1]) if wavelengths is None else np.asarray(wavelengths)
    if x.shape != values.shape[1:]:
        raise ValueError(f"wavelengths must be ({values.shape[1]},), one for each band; got shape {x.shape}")
    ax = pyplot_axes() if ax is None else ax
    for number, (color, spectrum) in enumerate(zip(itertools.cycle(COLORS), values, strict=False)):
        style = ("-", "--", ":", "-.")[number // len(COLORS) % 4]
        ax.plot(x, spectrum, color=color, ls=style, lw=1.6, label=f"endmember {number + 1}")
    ax.set(xlabel="band" if wavelengths is None else "wavelength", ylabel="value")
    return finished(ax)


def plot_abundance(abundance: ArrayLike, *, title: str = "", ax: Any = None) -> Any:
    """Draw the map of the abundance of one endmember, from 0 (dark) to 1 (bright).

    Args:
      abundance: ``(rows, columns)``, such as ``unmixing.abundances[..., 0]``.
      title: of the axes.
      ax: matplotlib axes to draw on; by default those of a new pyplot figure.

    Returns:
      the axes.

    Raises:
      ValueError: for another number of axes, such as the maps of all endmembers together.

    Example:
      >>> from jax_mmf.plotting import new_figure
      >>> ax = plot_abundance(np.array([[0.0, 0.5], [0.25, 1.0]]), ax=new_figure(1, 1)[1][0, 0])
      >>> ax.images[0].get_clim()
      (0.0, 1.0)
    """
    shares = as_matrix("abundance", abundance, "(rows, columns) of one endmember")
    ax = pyplot_axes() if ax is None else ax
    shown = ax.imshow(shares, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=10)
    ax.figure.colorbar(shown, ax=ax, shrink=0.8, ticks=[0, 0.5, 1])
    return ax


def composite(patches: HostArray, bands: Sequence[int]) -> HostArray:
    """Render spectral patches ``(k, h, w, bands)`` with three bands as red, green and blue: ``(k, h, w, 3)``.

    Zero is grey; each patch is scaled to its largest absolute value.

    Example:
      >>> print(composite(np.array([[[[2.0, 0.0, -2.0, 7.0]]]]), (0, 1, 2)))
      [[[[1.  0.5 0. ]]]]
    """
    rgb = patches[..., list(bands)]
    largest = np.abs(rgb).max(axis=(1, 2, 3), keepdims=True)
    return np.asarray(0.5 + 0.5 * rgb / np.where(largest > 0, largest, 1))


def plot_matches(dictionary: ArrayLike, reference: ArrayLike, *, ax: Any = None) -> Any:
    """Draw absolute cosines of the atoms of two dictionaries, after matching.

    Equal dictionaries give a bright diagonal. Pairs are those of `jax_mmf.match_atoms`, the most similar pair first.
    Atoms without a partner follow.

    Args:
      dictionary: ``(k, p)``, such as that of a run with another seed.
      reference: ``(m, p)``.
      ax: matplotlib axes to draw on; by default those of a new pyplot figure.

    Returns:
      the axes.

    Raises:
      ValueError: for dictionaries of different numbers of features.

    Example:
      >>> from jax_mmf.plotting import new_figure
      >>> ax = plot_matches(np.eye(3)[[2, 0, 1]], np.eye(3), ax=new_figure(1, 1)[1][0, 0])
      >>> print(ax.images[0].get_array())
      [[1. 0. 0.]
       [0. 1. 0.]
       [0. 0. 1.]]
    """
    left, right = (
        as_matrix(name, part, "(k, p)") for name, part in (("dictionary", dictionary), ("reference", reference))
    )
    pairs, cosines = match_atoms(dictionary, reference)
    ax = pyplot_axes() if ax is None else ax
    order = np.argsort(-cosines, kind="stable")
    matched = pairs[order][pairs[order] >= 0]
    columns = np.r_[matched, np.setdiff1d(np.arange(len(left)), matched)]
    shown = ax.imshow(
        np.abs(_unit(right[order]) @ _unit(left[columns]).T), cmap="cividis", vmin=0, vmax=1, interpolation="nearest"
    )
    ax.set(xlabel="atom of the dictionary", ylabel="atom of the reference")
    ax.set_title(f"mean cosine of pairs: {cosines[order][: len(matched)].mean():.2f}", fontsize=10)
    ax.figure.colorbar(shown, ax=ax, shrink=0.8, ticks=[0, 0.5, 1], label="absolute cosine")
    return ax


def _unit(atoms: HostArray) -> HostArray:
    """Atoms of unit norm; zeros stay."""
    norms = np.linalg.norm(atoms, axis=1, keepdims=True)
    return np.asarray(atoms / np.where(norms > 0, norms, 1))
