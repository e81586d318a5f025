"""Plain NumPy twin of the search of `ActiveSet`, for tests to compare with.

Feature-sign search, after H. Lee, A. Battle, R. Raina and A. Ng, Efficient sparse coding algorithms, NIPS 2006,
algorithm 1. It minimises ``1/2 |x - a D|^2 + l1 |a|_1 + l2 / 2 |a|_2^2``, optionally over a >= 0. The active set is the
atoms whose coefficient has a sign. Each step solves its linear system anew: no inverse is updated.
"""

import numpy as np

ROUNDING = 1e-11  # of the correlations with the residual, relative to those with the sample
NULL = 1e-12  # eigenvalues below, relative to the largest one, are zero
MAX_STEPS = 1000


def feature_sign_search(dictionary, x, l1, l2=0.0, nonneg=False, init=None):
    """Codes ``(k,)`` of one sample ``(p,)`` that meet the optimality conditions up to rounding.

    Args: dictionary ``(k, p)``; x ``(p,)``; weights l1 > 0 and l2 >= 0; whether codes must be non-negative; codes to
    start from, or None for zeros.
    """
    gram = dictionary @ dictionary.T + l2 * np.eye(len(dictionary))
    beta = dictionary @ x
    slack = ROUNDING * max(np.abs(beta).max(), l1)
    codes = np.zeros(len(beta)) if init is None else np.array(init, float)
    codes = np.maximum(codes, 0) if nonneg else codes
    signs = np.sign(codes)
    for _ in range(MAX_STEPS):
        correlation = beta - gram @ codes
        active = signs != 0
        if (np.abs(correlation - l1 * signs) <= slack)[active].all():  # condition (a) of step 4
            violation = np.where(active, -np.inf, correlation if nonneg else np.abs(correlation))
            atom = np.argmax(violation)
            if violation[atom] <= l1 + slack:  # condition (b)
                return codes
            signs[atom] = np.sign(correlation[atom])  # step 2: this atom enters
        codes = feature_sign_step(gram, beta, l1, codes, signs, nonneg)
        signs = np.sign(codes)
    raise RuntimeError("feature-sign search did not end")


def feature_sign_step(gram, beta, l1, codes, signs, nonneg):
    """Step 3: the best point on the line to the minimum for these signs: that, or one where a coefficient is zero."""
    direction = np.zeros_like(codes)
    active = np.flatnonzero(signs)
    direction[active] = towards_minimum(gram[np.ix_(active, active)], (beta - gram @ codes)[active], l1, codes, signs)
    breakpoints = np.full(len(codes), np.inf)
    shrinking = codes * direction < 0
    breakpoints[shrinking] = -codes[shrinking] / direction[shrinking]
    steps = [1.0, *breakpoints[breakpoints < 1]]
    if nonneg:  # beyond the first breakpoint a coefficient is negative
        steps = [min(steps)]
    points = [np.where(breakpoints == step, 0, codes + step * direction) for step in steps]
    best = min(points, key=lambda a: a @ gram @ a / 2 - a @ beta + l1 * np.abs(a).sum())
    return np.maximum(best, 0) if nonneg else best


def towards_minimum(gram, correlation, l1, codes, signs):
    """From the coefficients of the active atoms to the minimum of the objective for their signs.

    If the atoms are linearly dependent, there may be none: the penalty falls along a combination of them that is zero.
    Then beyond all breakpoints, one of which is the best point, since the objective is linear between them.
    """
    active = signs != 0
    eigenvalues, vectors = np.linalg.eigh(gram)
    null = vectors[:, eigenvalues <= NULL * eigenvalues[-1]]
    fall = -null @ (null.T @ signs[active])
    if np.abs(fall).max() < 1e-8:
        return np.linalg.lstsq(gram, correlation - l1 * signs[active], rcond=NULL)[0]
    shrinking = codes[active] * fall < 0
    return 2 * fall * np.max(-codes[active][shrinking] / fall[shrinking])
