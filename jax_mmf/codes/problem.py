"""The least-squares problem of codes, given products of samples and atoms."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.core import matmul
from jax_mmf.typing import Array


class CodeProblem(NamedTuple):
    """Least-squares problems of a batch, to which a penalty Omega is added, per sample::

        minimize over a    1/2 a G a^T - a . beta + 1/2 |x|^2 + Omega(a),      G = D D^T,  beta = x D^T

    G and beta are those of a dictionary and of samples, or estimates of them. A direction of a derivative is a
    `CodeProblem` too.

    Attributes:
      gram: ``(k, k)`` G shared by the batch, or ``(b, k, k)``.
      beta: ``(b, k)`` correlations of samples and atoms.
      sq_norm: ``(b,)`` squared norms of the samples.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> x, dictionary = jnp.array([[3.0, 4.0]]), jnp.eye(2)
      >>> problem = mmf.extending.CodeProblem(dictionary @ dictionary.T, x @ dictionary.T, jnp.sum(x**2, 1))
      >>> print(problem.sq_norm)
      [25.]
    """

    gram: Array
    beta: Array
    sq_norm: Array

    def image(self, codes: Array) -> Array:
        """Multiply codes ``(b, k)`` by the symmetric Gram matrix: ``(b, k)``."""
        if self.gram.ndim == 2:
            return matmul(codes, self.gram)
        return jnp.einsum("bij,bj->bi", self.gram, codes, precision="highest")


def image_of(gram: Array, codes: Array) -> Array:
    """Multiply codes by Gram matrices where samples come last: ``(k, k)`` or ``(k, k, b)``, ``(k, b) -> (k, b)``."""
    if gram.ndim == 2:
        return matmul(gram, codes)
    return jnp.sum(gram * codes[None], axis=1)


def gram_per_sample(dictionary: Array, mask: Array) -> Array:
    """Return ``D diag(m_i) D^T`` for each row of a mask: ``(k, p), (b, p) -> (b, k, k)``.

    One sample at a time, recomputed for derivatives: the weighted dictionaries of a batch are too large.
    """
    return lax.map(jax.checkpoint(lambda m: matmul(dictionary * m[None], dictionary.T)), mask)
