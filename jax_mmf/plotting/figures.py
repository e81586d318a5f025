"""Figures and axes, without a window or with pyplot, in one style."""

from pathlib import Path
from typing import Any

import numpy as np

from jax_mmf.core import as_array, check_real_dtype
from jax_mmf.io import written_aside
from jax_mmf.typing import HostArray

# Okabe and Ito (2008): readers with any colour vision can tell these apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MISSING = "figures need matplotlib; pip install 'jax-mmf[plot]'"


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


def as_matrix(name: str, value: Any, meaning: str) -> HostArray:
    """Return an argument as a float64 matrix with at least one row and one column.

    Args:
      name: of the argument.
      value: of the argument.
      meaning: the shape in words, such as ``"(m, bands)"``.

    Raises:
      ValueError: for another shape, and if no entry is finite.
      TypeError: for entries that are not real numbers.
    """
    array = np.asarray(as_array(name, value))
    check_real_dtype(name, array.dtype)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must be {meaning} with at least one row and one column, got shape {array.shape}")
    array = array.astype(np.float64)
    if not np.isfinite(array).any():
        raise ValueError(f"{name} must be {meaning} of finite numbers, but all are NaN or infinity")
    return array


def finished(ax: Any) -> Any:
    """Give axes the grid and the legend that all figures share, with a column for each six lines."""
    ax.grid(visible=True, color="0.92")
    ax.set_axisbelow(True)
    n_columns = max(1, -(-len(ax.get_legend_handles_labels()[1]) // len(COLORS)))
    spacing = {"columnspacing": 1.0, "handlelength": 1.6, "handletextpad": 0.5}
    ax.legend(fontsize=8 if n_columns < 3 else 6, framealpha=0.8, edgecolor="none", ncols=n_columns, **spacing)
    return ax


def place_ticks(axis: Any) -> None:
    """Label a logarithmic axis of any length with a few round numbers, written as 0.2 and not as 2 x 10^-1."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_view_interval()
    if high < 8 * low:  # too short for powers of ten and their halves and fifths
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
