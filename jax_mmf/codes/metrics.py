"""Measures of a factorization: objective, explained variance, and how well planted atoms were found."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.codes.chunks import at_once, chunks_of, in_chunks
from jax_mmf.codes.encoding import encode
from jax_mmf.codes.solve import scaled
from jax_mmf.codes.solver import CodeSolver
from jax_mmf.core import as_array, as_real_array, check_shape, matmul, power_of_two_below
from jax_mmf.penalties import AnyPenalty, Penalty, ProximalPenalty, penalty_value
from jax_mmf.typing import Array, ArrayLike, HostArray


def objective(
    dictionary: ArrayLike,
    x: ArrayLike,
    penalty: AnyPenalty,
    *,
    mask: ArrayLike | None = None,
    solver: CodeSolver | None = None,
) -> Array:
    """Return the mean of ``1/2 |x - a D|^2 + Omega(a)`` over samples, at the optimal codes and on all features.

    Differentiable in everything, as `encode` is.

    Args:
      dictionary: ``(k, p)``.
      x: ``(n, p)``, or one sample ``(p,)``.
      penalty: of the codes.
      mask: None, or weights of the squared error of each feature, as in `encode`; zero for a missing feature.
      solver: of the codes; by default that of `encode`.

    Returns:
      a scalar.

    Raises:
      ValueError: for shapes that do not fit, no samples, and as `encode` does.
    """
    dictionary = as_real_array("dictionary", dictionary, ndim=(2,))
    x = as_real_array("x", x, ndim=(1, 2), dtype=dictionary.dtype)
    if x.shape[0] == 0:
        raise ValueError(f"x must hold at least one sample to take a mean over, got shape {x.shape}")
    codes = encode(dictionary, x, penalty, mask=mask, solver=solver)
    x, codes = jnp.atleast_2d(x, codes)
    entries = _entries(mask, x)
    chunks = chunks_of(None, (x, codes, entries), dictionary, penalty)
    if chunks is None:
        return objective_per_sample(dictionary, x, codes, penalty, entries).mean()

    def mean() -> Array:
        rows = (x, codes, entries)
        each = in_chunks(lambda rows: _objectives(dictionary, *rows[:2], penalty, rows[2]), rows, chunks)
        value, scale = (np.asarray(a, np.float64) for a in each)
        with np.errstate(over="ignore"):  # infinite, then
            return jnp.asarray((value * scale**2).mean().astype(x.dtype))

    return at_once(mean)


def explained_variance(
    dictionary: ArrayLike,
    x: ArrayLike,
    codes: ArrayLike | AnyPenalty,
    *,
    mask: ArrayLike | None = None,
    solver: CodeSolver | None = None,
) -> Array:
    """Return the share of the sum of squares that is explained, ``1 - |X - A D|^2 / |X|^2``.

    This is a share of the variance if X is centred.

    Args:
      dictionary: ``(k, p)``.
      x: ``(n, p)``.
      codes: ``(n, k)``, or a penalty, for the codes of `encode`.
      mask: None, or weights of the squares of each feature, as in `encode`; zero for a missing feature.
      solver: of these codes; by default that of `encode`.

    Returns:
      a scalar, at most 1; NaN if X is zero.

    Raises:
      ValueError: for shapes that do not fit, no samples, and as `encode` does.
    """
    dictionary, x = (as_real_array(n, v, ndim=(2,)) for n, v in (("dictionary", dictionary), ("x", x)))
    if isinstance(codes, Penalty | ProximalPenalty):
        codes = encode(dictionary, x, codes, mask=mask, solver=solver)
    if isinstance(codes, str):
        raise TypeError(f"codes must be an array (n, k), or a penalty such as Lasso(0.1); got {codes!r}")
    codes = as_real_array("codes", codes, ndim=(2,))
    check_shape("codes", codes, (x.shape[0], dictionary.shape[0]), "(n_samples, n_components)")
    check_shape("x", x, (codes.shape[0], dictionary.shape[1]), "(n_samples, n_features)")
    if x.shape[0] == 0:
        raise ValueError(f"x must hold at least one sample, got shape {x.shape}")
    rows = x, codes, _entries(mask, x)
    chunks = chunks_of(None, rows, dictionary)
    if chunks is None:
        left, total, _ = (a.sum() for a in squares(dictionary, *rows))
        return jnp.where(total > 0, 1 - left / total, jnp.nan)

    def share() -> Array:
        each = in_chunks(lambda rows: squares(dictionary, *rows), rows, chunks)
        left, total, scale = (np.asarray(a, np.float64) for a in each)
        everything = (total * scale**2).sum()
        value = 1 - (left * scale**2).sum() / everything if everything > 0 else np.nan
        return jnp.asarray(value, x.dtype)

    return at_once(share)


def _entries(mask: ArrayLike | None, x: Array) -> Array | None:
    """Return the mask of each row ``(n, p)`` of samples, or None."""
    if mask is None:
        return None
    entries = as_real_array("mask", mask, ndim=(1, 2), dtype=x.dtype)
    check_shape("mask", entries, x.shape[-entries.ndim :], "(n_features,) or the shape of x")
    return jnp.broadcast_to(entries, x.shape)


@jax.jit
def _objectives(*args: Any) -> tuple[Array, Array]:
    return scaled_objective_per_sample(*args)


@jax.jit
def squares(dictionary: Array, x: Array, codes: Array, mask: Array | None = None) -> tuple[Array, Array, Array]:
    """Return squared norms of residuals and of samples, over the square of a scale, and the scale: ``(n,)`` each."""
    x, scale = _known(x, mask)
    x, codes = x / scale, codes / scale
    left, total = _weighted_squares(x - matmul(codes, dictionary), mask), _weighted_squares(x, mask)
    return left, total, jnp.full(left.shape, scale)


def match_atoms(dictionary: ArrayLike, reference: ArrayLike) -> tuple[HostArray, HostArray]:
    """Match atoms with reference atoms, greedily by the largest absolute cosine.

    Args:
      dictionary: ``(k, p)``.
      reference: ``(m, p)``.

    Returns:
      ``(m,)`` the atom paired with each reference atom, -1 if none was left; ``(m,)`` absolute cosines, 0 if none.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> atoms, cosines = mmf.match_atoms(jnp.eye(3), jnp.array([[0.0, 0.0, -2.0], [3.0, 0.0, 0.0]]))
      >>> print(atoms, cosines)
      [2 0] [1. 1.]
    """
    left, right = (np.asarray(as_array(n, a), float) for n, a in (("dictionary", dictionary), ("reference", reference)))
    check_shape("reference", right, (None, left.shape[1]), "(m, n_features)")
    unit: Any = lambda a: a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), np.finfo(float).tiny)  # noqa: E731
    cosine = np.abs(unit(right) @ unit(left).T)
    pair, value = np.full(right.shape[0], -1), np.zeros(right.shape[0])
    for _ in range(min(cosine.shape)):
        i, j = np.unravel_index(cosine.argmax(), cosine.shape)
        pair[i], value[i] = j, cosine[i, j]
        cosine[i, :] = cosine[:, j] = -1
    return pair, value


def objective_per_sample(
    dictionary: Array, x: Array, codes: Array, penalty: AnyPenalty, mask: Array | None = None
) -> Array:
    """Return ``1/2 |x - a D|^2 + Omega(a)`` of each sample: ``(k, p), (n, p), (n, k) -> (n,)``."""
    x, _ = _known(x, mask)
    return 0.5 * _weighted_squares(x - matmul(codes, dictionary), mask) + penalty_value(penalty, codes)


def scaled_objective_per_sample(
    dictionary: Array, x: Array, codes: Array, penalty: AnyPenalty, mask: Array | None = None
) -> tuple[Array, Array]:
    """Return `objective_per_sample` over the square of a scale, and the scale, whose square may be out of range."""
    x, scale = _known(x, mask)
    value = objective_per_sample(dictionary, x / scale, codes / scale, scaled(penalty, scale), mask)
    return value, jnp.full(value.shape, scale)


def _known(x: Array, mask: Array | None) -> tuple[Array, Array]:
    """Return samples without NaN and infinity in missing features, and a scale of those that are not missing."""
    # A finite value of weight zero still has a derivative with respect to its weight.
    x = x if mask is None else jnp.where((mask == 0) & ~jnp.isfinite(x), 0, x)
    scale = power_of_two_below(x if mask is None else jnp.where(mask == 0, 0, x)).max(initial=0)
    return x, jnp.where(scale > 0, scale, 1)


def _weighted_squares(errors: Array, mask: Array | None) -> Array:
    """Sum squares over the features, with the weights of a mask: ``(n, p) -> (n,)``."""
    return jnp.sum(errors**2 if mask is None else (mask * errors) * errors, -1)
