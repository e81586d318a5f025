"""Duality gaps of codes, for every weighted elastic net."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jax_mmf.codes.problem import CodeProblem
from jax_mmf.penalties import Penalty
from jax_mmf.typing import Array

ROUNDING = 8  # rounding of one evaluation of a gap, in units of eps times the squared norm of the sample
_SHARE = 0.01  # largest gap over an objective that is small compared with the sample
PILED_UP = 8  # rounding that iterations accumulate, in evaluations: about where FISTA stops in single precision


def relative_gap(problem: CodeProblem, penalty: Penalty, codes: Array) -> Array:
    """Duality gap of codes, relative to the objective.

    The objective is ``1/2 |x - a D|^2 + Omega(a)``, taken as at least a thousandth of ``1/2 |x|^2``. The dual point is
    the residual, scaled to be feasible where the penalty has an l1 part, and the conjugate of the penalty where it has
    an l2 part. The gap is the smaller of the bounds. Without a penalty there is no finite bound over all codes. The gap
    is then a bound for codes whose l1 norm is at most twice that of the codes given.

    Args:
      problem: of a batch.
      penalty: of the codes.
      codes: ``(b, k)``.

    Returns:
      ``(b,)``, >= 0.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> x, dictionary = jnp.array([[3.0, 4.0]]), jnp.eye(2)
      >>> problem = mmf.extending.CodeProblem(dictionary @ dictionary.T, x @ dictionary.T, jnp.sum(x**2, 1))
      >>> print(mmf.extending.relative_gap(problem, mmf.Lasso(1.0), jnp.array([[2.0, 3.0]])))
      [0.]
    """
    weights = weights_of(penalty, codes.shape[-1], codes.dtype)
    return duality_gap(weights, problem.beta.T, problem.image(codes).T, codes.T, problem.sq_norm).relative


class Weights(NamedTuple):
    """A penalty in the layout of the code solvers: ``(k, 1)`` weights, coordinates first and samples last."""

    l1: Array  # (k, 1)
    l2: Array  # (k, 1)
    nonneg: bool


class Gap(NamedTuple):
    """Relative gaps of a batch, and the part of them that rounding alone may cause."""

    relative: Array  # (b,)
    rounding: Array  # (b,)


def weights_of(penalty: Penalty, k: int, dtype: Any, pad: int = 0) -> Weights:
    """Return the weights of a penalty for k coordinates, and for ``pad`` more whose codes are always zero."""
    # Padded coordinates have no correlation with anything; the edge value keeps the smallest weight as it is.
    l1, l2 = (
        jnp.pad(jnp.broadcast_to(jnp.asarray(weight, dtype), (k,)), (0, pad), mode="edge")[:, None]
        for weight in (penalty.l1, penalty.l2)
    )
    return Weights(l1, l2, penalty.nonneg)


def solved(
    weights: Weights, beta: Array, image: Array, codes: Array, sq_norm: Array, relative: Array, certain: Array
) -> Array:
    """Return which codes are solved: ``(b,)`` booleans.

    Gaps are relative to at least a thousandth of ``1/2 |x|^2``. Where the objective is smaller than that, codes must be
    within a hundredth of it as well. Where l1 weights are as small as the rounding of correlations, a scaled residual
    proves nothing. There it is enough that no code of the usual size can be better by more than rounding.

    Args:
      weights: of the penalty.
      beta: ``(k, b)``, as in `duality_gap`.
      image: ``(k, b)``.
      codes: ``(k, b)``.
      sq_norm: ``(b,)``.
      relative: ``(b,)`` gaps of a solver.
      certain: ``(b,)`` whether they are within its tolerance.
    """
    l1, l2, nonneg = weights
    augmented = beta - image - l2 * codes
    l1_value, squares = jnp.sum(l1 * jnp.abs(codes), 0), jnp.sum(l2 * codes**2, 0)
    residual = jnp.maximum(sq_norm - 2 * jnp.sum(codes * beta, 0) + jnp.sum(codes * image, 0), 0)
    objective = residual / 2 + l1_value + squares / 2
    close = relative * jnp.maximum(objective, sq_norm / 2000) <= _SHARE * objective
    close = close | (objective >= sq_norm / 2000) | (l1_value + squares == 0)

    slack = jnp.abs(l1_value - jnp.sum(codes * augmented, 0))
    excess = jnp.maximum((augmented if nonneg else jnp.abs(augmented)) - l1, 0).max(0)
    most = jnp.abs(beta).max(0)
    # The l1 norm of the codes given, and that of a single atom that explains the sample.
    reach = 2 * jnp.sum(jnp.abs(codes), 0) + sq_norm / jnp.where(most > 0, most, 1)
    rounding = PILED_UP * ROUNDING * jnp.finfo(codes.dtype).eps * sq_norm
    return (certain & close) | (slack + reach * excess <= jnp.minimum(rounding, _SHARE * objective))


def duality_gap(weights: Weights, beta: Array, image: Array, codes: Array, sq_norm: Array) -> Gap:
    """`relative_gap` in the layout of the code solvers: ``(k, b)``; ``image`` is the Gram matrix times codes."""
    l1, l2, nonneg = weights
    correlation = beta - image  # with the residual x - a D
    augmented = correlation - l2 * codes  # with that of the problem whose l2 penalty is written as more features
    linear = jnp.sum(codes * beta, 0)
    squares = jnp.sum(l2 * codes**2, 0)
    l1_value = jnp.sum(l1 * jnp.abs(codes), 0)
    residual = jnp.maximum(sq_norm - 2 * linear + jnp.sum(codes * image, 0) + squares, 0)
    primal = residual / 2 + l1_value
    slack = l1_value - jnp.sum(codes * augmented, 0)

    has_l1, has_l2 = l1.min() > 0, l2.min() > 0
    size = augmented if nonneg else jnp.abs(augmented)
    overshoot = jnp.maximum((size / jnp.where(l1 > 0, l1, 1)).max(0), 1)
    shift = 1 - 1 / overshoot
    scaled = slack + shift * jnp.sum(codes * augmented, 0) + shift**2 * residual / 2

    excess = jnp.maximum((correlation if nonneg else jnp.abs(correlation)) - l1, 0)
    conjugate = jnp.sum(excess**2 / jnp.where(l2 > 0, 2 * l2, 1), 0)
    fenchel = l1_value + squares / 2 - jnp.sum(codes * correlation, 0) + conjugate
    bounded = slack + 2 * jnp.sum(jnp.abs(codes), 0) * excess.max(0)

    infinite = jnp.asarray(jnp.inf, codes.dtype)
    gap = jnp.minimum(jnp.where(has_l1, scaled, infinite), jnp.where(has_l2, fenchel, infinite))
    gap = jnp.where(has_l1 | has_l2, gap, bounded)
    scale = jnp.maximum(primal, sq_norm / 2000)
    scale = jnp.where(scale > 0, scale, 1)
    rounding = ROUNDING * jnp.finfo(codes.dtype).eps * sq_norm / scale
    return Gap(jnp.maximum(gap, 0) / scale, rounding)
