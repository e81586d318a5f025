"""Dense products at full precision, and checks of numbers."""

import jax
import jax.numpy as jnp

from jax_mmf.typing import Array


def matmul(left: Array, right: Array) -> Array:
    """Matrix product at the full precision of its inputs.

    Accelerators round the factors of a float32 product to TensorFloat-32 or bfloat16 unless told otherwise. The
    statistics of a factorization are differences of nearly equal products, which do not survive that.

    Args:
      left: ``(..., m, n)``.
      right: ``(..., n, q)``.

    Returns:
      ``(..., m, q)``.
    """
    return jnp.matmul(left, right, precision="highest")


def all_finite(*arrays: Array) -> Array:
    """True where every entry of every array is finite: a boolean scalar."""
    return jnp.stack([jnp.isfinite(a).all() for a in jax.tree.leaves(arrays)]).all()
