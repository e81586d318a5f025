"""Evaluation of codes and dictionaries in float64 NumPy, independent of the libraries that are compared.

The problem of a sample is always ``min_a 1/2 |x - a D|^2 + l1 |a|_1 + l2 / 2 |a|_2^2``, optionally with ``a >= 0``.
"""

from typing import Any, NamedTuple

import numpy as np

_ROWS = 1024
_FLOOR = 1e-3  # gaps are relative to the objective, but to no less than this share of that of zero codes


class Penalty(NamedTuple):
    l1: float
    l2: float = 0.0
    nonneg: bool = False


def objective_per_sample(dictionary: np.ndarray, x: np.ndarray, codes: np.ndarray, penalty: Penalty) -> np.ndarray:
    """``(k, p), (n, p), (n, k) -> (n,)``; infinite where a code breaks ``nonneg``."""
    dictionary, x, codes = (np.asarray(a, np.float64) for a in (dictionary, x, codes))
    value = 0.5 * np.sum((x - codes @ dictionary) ** 2, 1)
    value += penalty.l1 * np.abs(codes).sum(1) + 0.5 * penalty.l2 * np.sum(codes**2, 1)
    return np.where(penalty.nonneg & (codes < 0).any(1), np.inf, value)


def relative_gap(dictionary: np.ndarray, x: np.ndarray, codes: np.ndarray, penalty: Penalty) -> np.ndarray:
    """Duality gap relative to the objective, ``(n,)``: the better of two bounds.

    With l1 > 0, the l2 part is written as more features of a lasso, whose dual point is the residual, scaled in the
    best feasible way. With l2 > 0, the dual point is the residual, and the conjugate of the penalty is finite.
    """
    l1, l2, nonneg = penalty
    if l1 <= 0 and l2 <= 0:
        raise ValueError("without a penalty, the duality gap has no finite bound; use kkt_residual")
    dictionary, x, codes = (np.asarray(a, np.float64) for a in (dictionary, x, codes))
    residual = x - codes @ dictionary
    correlation = residual @ dictionary.T
    inner, sq_residual = np.sum(x * residual, 1), np.sum(residual**2, 1)
    dual = np.full(len(x), -np.inf)
    if l1 > 0:
        augmented = correlation - l2 * codes
        size = np.maximum((augmented if nonneg else np.abs(augmented)).max(1), np.finfo(float).tiny)
        sq_augmented = np.maximum(sq_residual + l2 * np.sum(codes**2, 1), np.finfo(float).tiny)
        scale = np.clip(inner / sq_augmented, 0 if nonneg else -l1 / size, l1 / size)
        dual = scale * inner - 0.5 * scale**2 * sq_augmented
    if l2 > 0:
        excess = np.maximum((correlation if nonneg else np.abs(correlation)) - l1, 0)
        dual = np.maximum(dual, inner - 0.5 * sq_residual - np.sum(excess**2, 1) / (2 * l2))
    primal = objective_per_sample(dictionary, x, codes, penalty)
    bottom = np.maximum(np.where(np.isfinite(primal), primal, 1), _FLOOR * 0.5 * np.sum(x**2, 1))
    return np.maximum(primal - dual, 0) / np.where(bottom > 0, bottom, 1)


def kkt_residual(dictionary: np.ndarray, x: np.ndarray, codes: np.ndarray, penalty: Penalty) -> np.ndarray:
    """Largest violation of the optimality conditions, relative to the largest ``|x D^T|`` of the sample: ``(n,)``."""
    l1, l2, nonneg = penalty
    dictionary, x, codes = (np.asarray(a, np.float64) for a in (dictionary, x, codes))
    ascent = (x - codes @ dictionary) @ dictionary.T - l2 * codes
    at_zero = np.maximum((ascent if nonneg else np.abs(ascent)) - l1, 0)
    violation = np.where(codes == 0, at_zero, np.abs(ascent - l1 * np.sign(codes)))
    violation = np.where(nonneg & (codes < 0), np.inf, violation)
    scale = np.abs(x @ dictionary.T).max(1)
    return violation.max(1) / np.where(scale > 0, scale, 1)


def codes_quality(dictionary: np.ndarray, x: np.ndarray, codes: np.ndarray, penalty: Penalty) -> dict[str, float]:
    """Objective, gaps and sparsity of codes of the first samples of ``x``, as many as there are codes."""
    x = x[: len(codes)]
    gap = relative_gap(dictionary, x, codes, penalty)
    return {
        "objective": float(objective_per_sample(dictionary, x, codes, penalty).mean()),
        "max_gap": float(gap.max()),
        "mean_gap": float(gap.mean()),
        "kkt": float(kkt_residual(dictionary, x, codes, penalty).max()),
        "nonzero": float(np.mean(codes != 0)),
    }


def best_codes(dictionary: np.ndarray, x: np.ndarray, penalty: Penalty, tol: float = 1e-6) -> np.ndarray:
    """Codes solved to a tight tolerance, by ridge regression in closed form or by jax_mmf."""
    if penalty.l1 == 0 and not penalty.nonneg:
        atoms = np.asarray(dictionary, np.float64)
        return np.linalg.solve(atoms @ atoms.T + penalty.l2 * np.eye(len(atoms)), atoms @ np.asarray(x, np.float64).T).T
    import jax_mmf as mmf

    solver = mmf.ActiveSet(tol=tol, max_iter=5000)
    return np.asarray(mmf.encode(dictionary, x, as_jax_mmf(penalty), solver=solver))


def held_out_objective(dictionary: np.ndarray, x: np.ndarray, penalty: Penalty) -> dict[str, float]:
    """Mean objective of held-out samples at the best codes, and the mean duality gap, which bounds its error."""
    values, gaps = [], []
    for first in range(0, len(x), _ROWS):
        part = np.asarray(x[first : first + _ROWS])
        codes = best_codes(dictionary, part, penalty)
        values.append(objective_per_sample(dictionary, part, codes, penalty))
        gaps.append(relative_gap(dictionary, part, codes, penalty))
    return {"objective": float(np.concatenate(values).mean()), "mean_gap": float(np.concatenate(gaps).mean())}


def mean_objective(dictionary: np.ndarray, x: np.ndarray, penalty: Penalty) -> float:
    """Mean objective at the best codes; for ridge codes from Gram matrix and correlations, without residuals."""
    if penalty.l1 > 0 or penalty.nonneg:
        return float(objective_per_sample(dictionary, x, best_codes(dictionary, x, penalty), penalty).mean())
    atoms, rows = np.asarray(dictionary, np.float64), np.asarray(x, np.float64)
    gram, correlation = atoms @ atoms.T + penalty.l2 * np.eye(len(atoms)), rows @ atoms.T
    explained = np.sum(correlation * np.linalg.solve(gram, correlation.T).T, 1)
    return float(0.5 * np.mean(np.sum(rows**2, 1) - explained))


def as_jax_mmf(penalty: Penalty) -> Any:
    """The same penalty as a class of jax_mmf."""
    import jax_mmf as mmf

    l1, l2, nonneg = penalty
    if l2 == 0:
        return mmf.Lasso(l1, nonneg=nonneg)
    if l1 == 0:
        return mmf.Ridge(l2, nonneg=nonneg)
    return mmf.ElasticNet(l1 + l2, l1_ratio=l1 / (l1 + l2), nonneg=nonneg)
