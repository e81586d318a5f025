"""Figures of runs, atoms, codes and choices, with matplotlib (extra ``plot``).

Each function takes ``ax=``, matplotlib axes to draw on, and returns the axes. Without it, it makes a pyplot figure.
"""

from jax_mmf.plotting.atoms import composite, plot_abundance, plot_matches, plot_patches, plot_spectra
from jax_mmf.plotting.codes import plot_eigenvalues, plot_sparsity
from jax_mmf.plotting.figures import COLORS, new_figure, pyplot_axes, save_figure
from jax_mmf.plotting.runs import plot_convergence, plot_history
from jax_mmf.plotting.selection import plot_choice, plot_path, plot_stability

__all__ = [
    "COLORS",
    "composite",
    "new_figure",
    "plot_abundance",
    "plot_choice",
    "plot_convergence",
    "plot_eigenvalues",
    "plot_history",
    "plot_matches",
    "plot_patches",
    "plot_path",
    "plot_sparsity",
    "plot_spectra",
    "plot_stability",
    "pyplot_axes",
    "save_figure",
]
