"""Figures of codes and of their second moments."""

from typing import Any

import numpy as np

from jax_mmf.plotting.figures import COLORS, as_matrix, finished, place_ticks, pyplot_axes
from jax_mmf.typing import ArrayLike


def plot_sparsity(codes: ArrayLike, *, ax: Any = None) -> Any:
    """Plot how many samples have how many codes that are not zero.

    Args:
      codes: ``(n, k)``.
      ax: matplotlib axes to draw on; by default those of a new pyplot figure.

    Returns:
      the axes.

    Raises:
      ValueError: unless codes are a matrix.

    Example:
      >>> from jax_mmf.plotting import new_figure
      >>> ax = plot_sparsity([[0, 1.0, 0], [2, 0, 3], [0, 0, 4]], ax=new_figure(1, 1)[1][0, 0])
      >>> [int(bar.get_height()) for bar in ax.patches]  # of 1 and 2 codes
      [2, 1]
    """
    counts = (as_matrix("codes", codes, "(n, k)") != 0).sum(1)
    ax = pyplot_axes() if ax is None else ax
    heights = np.bincount(counts)
    sizes = np.arange(counts.min(), len(heights))
    ax.bar(sizes, heights[sizes], width=1.0 if len(sizes) > 20 else 0.8, color=COLORS[0])
    ax.axvline(counts.mean(), color=COLORS[1], lw=1.6, ls="--", label=f"mean: {counts.mean():.3g}")
    ax.set(xlabel="non-zero codes of a sample", ylabel="samples")
    ax.xaxis.get_major_locator().set_params(integer=True)
    return finished(ax)


def plot_eigenvalues(c: ArrayLike, *, ax: Any = None) -> Any:
    """Plot the eigenvalues of C, the second moments of the codes, on a logarithmic axis.

    Small eigenvalues are combinations of atoms that the samples hardly use. Eigenvalues that are not positive, up to
    rounding, are left out and counted in the legend.

    Args:
      c: ``(k, k)``, such as ``result.state.surrogate.c``.
      ax: matplotlib axes to draw on; by default those of a new pyplot figure.

    Returns:
      the axes.

    Raises:
      ValueError: if C is not a square matrix of finite numbers.

    Example:
      >>> from jax_mmf.plotting import new_figure
      >>> ax = plot_eigenvalues([[2.0, 0], [0, 8]], ax=new_figure(1, 1)[1][0, 0])
      >>> print(ax.lines[0].get_ydata())
      [8. 2.]
    """
    matrix = as_matrix("c", c, "(k, k)")
    if matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ValueError(f"c must be a square matrix of finite numbers, such as result.state.surrogate.c; got shape "
                         f"{matrix.shape}")  # fmt: skip
    values = np.linalg.eigvalsh(matrix)[::-1]
    positive = values[values > np.finfo(np.float32).eps * max(values[0], 0)]
    ax = pyplot_axes() if ax is None else ax
    label = f"{len(positive)} of {len(values)} are positive"
    ax.plot(np.arange(1, len(positive) + 1), positive, color=COLORS[0], marker=".", label=label)
    ax.set(xlabel="number", ylabel="eigenvalue of C", yscale="log")
    if len(positive):
        place_ticks(ax.yaxis)
    return finished(ax)
