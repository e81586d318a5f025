"""Names of types that several modules use."""

from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

Array = jax.Array
"""An array of JAX, concrete or traced."""

ArrayLike = jax.typing.ArrayLike
"""Anything that JAX turns into an array: Python scalars, NumPy arrays, JAX arrays."""

HostArray = NDArray[Any]
"""A NumPy array in host memory."""

Key = jax.Array
"""A PRNG key of `jax.random.key`, or an older one of `jax.random.PRNGKey`."""

Float = float | np.floating[Any] | Array
"""A real hyperparameter: a Python float, an array, or a traced value."""
