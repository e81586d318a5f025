"""Measures of a factorization: objective, explained variance, and how well planted atoms were found."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.code_solvers import CodeSolver
from jax_mmf.coding import encode, objective_per_sample
from jax_mmf.foreign import as_array
from jax_mmf.linalg import matmul
from jax_mmf.parts import at_once, in_parts, parts_of
from jax_mmf.penalties import Penalty
from jax_mmf.typing import Array, ArrayLike, HostArray
from jax_mmf.validation import as_real_array, check_shape


def objective(dictionary: ArrayLike, x: ArrayLike, penalty: Penalty, *, solver: CodeSolver | None = None) -> Array:
    """Mean over samples of ``1/2 |x - a D|^2 + Omega(a)`` at the best codes: the true one, on all features.

    Differentiable in everything, as `encode` is.

    Args:
      dictionary: ``(k, p)``.
      x: ``(n, p)``, or one sample ``(p,)``.
      penalty: of the codes.
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
    codes = encode(dictionary, x, penalty, solver=solver)
    x, codes = jnp.atleast_2d(x, codes)
    return _mean(lambda rows: _objectives(dictionary, *rows, penalty), (x, codes), dictionary, penalty)


def explained_variance(
    dictionary: ArrayLike, x: ArrayLike, codes: ArrayLike | Penalty, *, solver: CodeSolver | None = None
) -> Array:
    """Share of the sum of squares that is explained: ``1 - |X - A D|^2 / |X|^2``. Centre X first for a variance.

    Args:
      dictionary: ``(k, p)``.
      x: ``(n, p)``.
      codes: ``(n, k)``, or a penalty, for the codes of `encode`.
      solver: of these codes; by default that of `encode`.

    Returns:
      a scalar, at most 1; NaN if X is zero.

    Raises:
      ValueError: for shapes that do not fit, no samples, and as `encode` does.
    """
    dictionary, x = (as_real_array(n, v, ndim=(2,)) for n, v in (("dictionary", dictionary), ("x", x)))
    if isinstance(codes, Penalty):
        codes = encode(dictionary, x, codes, solver=solver)
    codes = as_real_array("codes", codes, ndim=(2,))
    check_shape("codes", codes, (x.shape[0], dictionary.shape[0]), "(n_samples, n_components)")
    check_shape("x", x, (codes.shape[0], dictionary.shape[1]), "(n_samples, n_features)")
    if x.shape[0] == 0:
        raise ValueError(f"x must hold at least one sample, got shape {x.shape}")
    left, total = _mean(lambda rows: _squares(dictionary, *rows), (x, codes), dictionary)
    return jnp.where(total > 0, 1 - left / total, jnp.nan)


_objectives = jax.jit(objective_per_sample)


@jax.jit
def _squares(dictionary: Array, x: Array, codes: Array) -> tuple[Array, Array]:
    """Squared norms of what codes leave of samples, and of the samples: ``(n,)`` each."""
    return jnp.sum((x - matmul(codes, dictionary)) ** 2, -1), jnp.sum(x**2, -1)


def _mean(function: Callable[[Any], Any], rows: tuple[Array, ...], *inputs: Any) -> Any:
    """Means over samples of a function of rows; in parts where nothing is traced."""
    parts = parts_of(None, rows, inputs)
    if parts is None:
        return jax.tree.map(lambda a: a.mean(), function(rows))

    def mean() -> Any:
        each = in_parts(function, rows, parts)
        return jax.tree.map(lambda a: jnp.asarray(np.asarray(a).mean(dtype=np.float64), a.dtype), each)

    return at_once(mean)


def match_atoms(dictionary: ArrayLike, reference: ArrayLike) -> tuple[HostArray, HostArray]:
    """Pair atoms with reference atoms, greedily by the largest absolute cosine.

    Args:
      dictionary: ``(k, p)``.
      reference: ``(m, p)``.

    Returns:
      ``(m,)`` the atom paired with each reference atom, -1 if none was left; ``(m,)`` absolute cosines, 0 if none.
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


def sparsity(array: ArrayLike) -> Array:
    """Share of entries that are zero: a scalar in [0, 1]."""
    return jnp.mean(jax.lax.stop_gradient(jnp.asarray(as_array("array", array))) == 0)
