"""Errors and warnings about codes, outside of transformations, where values are known."""

from typing import NamedTuple

import numpy as np

from jax_mmf.codes.compaction import SolveInfo
from jax_mmf.core import warn
from jax_mmf.typing import Array

_ON_THE_BALL = 1e-3  # largest difference from 1 of the norms of atoms that were learned on a ball


class ConvergenceWarning(UserWarning):
    """Warning of codes that are not within the tolerance of their solver.

    Example:
      >>> import warnings, jax.numpy as jnp, jax_mmf as mmf
      >>> with warnings.catch_warnings():
      ...     warnings.simplefilter("ignore", mmf.ConvergenceWarning)
      ...     codes = mmf.encode(jnp.eye(2), jnp.array([2.0, -0.5]), mmf.Lasso(1.0), solver=mmf.FISTA())
    """


class Rows(NamedTuple):
    """The arrays of a batch that have one row per sample."""

    x: Array  # (n, p)
    mask: Array | None  # (n, p), where each sample has its own
    init: Array | None  # (n, k)


def check_codes(dictionary: Array, rows: Rows, shared_mask: Array | None, codes: Array) -> None:
    """Raise if codes are not finite, and name the argument that caused it."""
    if np.isfinite(np.asarray(codes)).all():
        return
    if not np.isfinite(np.asarray(dictionary)).all():
        raise ValueError(
            "dictionary holds nan or infinity: check the data that it was learned from, which may have overflowed"
        )
    x, mask = np.asarray(rows.x), rows.mask if rows.mask is not None else shared_mask
    bad = ~np.isfinite(x) if mask is None else ~np.isfinite(x) & (np.asarray(mask) != 0)
    if bad.any():
        i, j = np.argwhere(bad)[0]
        raise ValueError(
            f"x holds {x[i, j]} at sample {i}, feature {j}; clean or impute the data, or pass a mask that is zero there"
        )
    raise FloatingPointError(f"codes are not finite: {codes.dtype} overflowed; scale dictionary and x, or use float64")


def warn_if_swapped(dictionary: Array, x: Array) -> None:
    """Warn if x looks like a dictionary: scikit-learn's functions take the data first."""
    if not 1 < x.shape[0] < dictionary.shape[0]:
        return
    rows, atoms = np.asarray(x), np.asarray(dictionary)
    for order in (1, 2):
        with np.errstate(over="ignore", invalid="ignore"):
            norms, others = (np.linalg.norm(a, order, axis=1) for a in (rows, atoms))
        if np.abs(norms - 1).max() < _ON_THE_BALL and (np.abs(others - 1) > _ON_THE_BALL).all():
            warn(
                f"encode(dictionary, x, penalty) takes the dictionary first: all {len(rows)} rows of x have norm 1, "
                f"like atoms, and none of the {len(atoms)} rows of dictionary has. Swap them if x is the dictionary"
            )


def warn_unless_converged(info: SolveInfo) -> None:
    """Warn of codes that are not within the tolerance of their solver."""
    converged = np.asarray(info.converged)
    if not converged.all():
        n_open = converged.size - int(converged.sum())
        warn(
            f"codes of {n_open} of {converged.size} samples are not within the tolerance of the solver: the largest "
            f"gap is {np.asarray(info.gap).max():.1e}. Pass a solver with a larger max_iter or tol, "
            "raise alpha, or compute in float64",
            ConvergenceWarning,
        )
