"""Prediction of entries that were hidden from the codes."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.codes import decode, encode
from jax_mmf.core import as_real_array, check_count, check_key, check_shape
from jax_mmf.penalties import AnyPenalty
from jax_mmf.typing import Array, ArrayLike, HostArray, Key


def hidden_errors(dictionary: ArrayLike, x: ArrayLike, penalty: AnyPenalty, *, key: Key, n_folds: int = 5) -> HostArray:
    """Return how well each sample is predicted in features that its code has not seen.

    The features are divided at random into folds. For each fold, codes are computed from the other features, and
    predict the features of the fold. The squared errors of the other features are scaled up to all features, and
    ``alpha`` means the same as for whole samples. This is the bi-cross-validation of Owen and
    Perry (2009), with a dictionary that was learned from other samples. The errors have no part for the penalty. They
    increase when codes fit the noise, and are comparable between strengths and numbers of atoms.

    Features should not share noise. A code that fits the noise of a feature predicts its copy in the neighbouring
    feature, so images that were smoothed favour small strengths and many atoms.

    Args:
      dictionary: ``(k, p)``.
      x: ``(n, p)`` samples that the dictionary was not learned from.
      penalty: of the codes.
      key: PRNG key of the folds.
      n_folds: number of folds, from 2 to p.

    Returns:
      ``(n,)`` float64: the sum of squared errors of each sample, where each feature is predicted once.

    Raises:
      ValueError: for shapes that do not fit, and for numbers of folds out of range.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (8, 8))
      >>> errors = mmf.selection.hidden_errors(jax.numpy.eye(3, 8), x, mmf.Lasso(0.1), key=jax.random.key(1), n_folds=2)
      >>> errors.shape
      (8,)
    """
    dictionary, x = as_real_array("dictionary", dictionary, ndim=(2,)), as_real_array("x", x, ndim=(2,))
    p = dictionary.shape[1]
    check_shape("x", x, (None, p), "(n_samples, n_features)")
    check_folds(n_folds, p)
    check_key(key)
    fold = jax.random.permutation(key, jnp.arange(p) % n_folds)
    total = np.zeros(x.shape[0])
    for number in range(n_folds):
        hidden = fold == number
        total += np.asarray(_errors_of_fold(dictionary, x, penalty, hidden), np.float64)
    return total


def check_folds(n_folds: int, n_features: int) -> None:
    """Raise unless features can be divided into a number of folds."""
    check_count("n_folds", n_folds, low=2)
    if n_folds > n_features:
        raise ValueError(f"n_folds must be at most the number of features, {n_features}, got {n_folds}")


def _errors_of_fold(dictionary: Array, x: Array, penalty: AnyPenalty, hidden: Array) -> Array:
    """Return the sum of squared errors of the hidden features, ``(n,)``."""
    share = 1 - jnp.mean(hidden.astype(x.dtype))
    codes = encode(dictionary, x, penalty, mask=jnp.where(hidden, 0, 1 / share).astype(x.dtype))
    return jnp.sum(jnp.where(hidden, x - decode(dictionary, codes), 0) ** 2, -1)
