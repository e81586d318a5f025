"""Padding of batches to a few sizes, which share compiled programs."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_mmf.core.memory import aligned_empty


def filled_up(rows: Any, size: int, value: float = 0) -> Any:
    """Pad arrays ``(n, ...)`` with rows of one value, up to a number of rows.

    On the host and on CPU this compiles no program.

    Args:
      rows: pytree of NumPy arrays and of JAX arrays, each of these on one device.
      size: number of rows in the result, at least n.
      value: of all entries of the new rows.

    Returns:
      a pytree of arrays ``(size, ...)``, each on the device where it was.
    """

    def fill(array: Any) -> Any:
        n_rows = array.shape[0]
        if n_rows == size:
            return array
        if isinstance(array, jax.Array) and any(device.platform != "cpu" for device in array.devices()):
            return jnp.pad(array, [(0, size - n_rows)] + [(0, 0)] * (array.ndim - 1), constant_values=value)
        filled = aligned_empty((size, *array.shape[1:]), array.dtype)
        filled[:n_rows], filled[n_rows:] = array, value
        return jax.device_put(filled) if isinstance(array, jax.Array) else filled

    return jax.tree.map(fill, rows)
