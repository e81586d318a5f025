"""Host memory for JAX: aligned arrays, and padding of batches to a few sizes, so that they share compiled programs."""

import mmap
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.typing import HostArray

_ALIGNMENT = 64  # bytes: JAX uses host arrays with this alignment without a copy
_HUGE_PAGE = 2**21  # bytes


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


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> HostArray:
    """Allocate an uninitialized array that JAX uses without a copy.

    Large arrays are in huge pages where the operating system has them. The first write to an array takes a page fault
    for each page, and reads and writes look up the address of each page.
    """
    dtype = np.dtype(dtype)
    n_bytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    large = n_bytes >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE")
    alignment = _HUGE_PAGE if large else _ALIGNMENT
    if large:
        memory = mmap.mmap(-1, n_bytes + alignment)
        with suppress(OSError):  # kernels without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        buffer = np.frombuffer(memory, np.uint8)
    else:
        buffer = np.empty(n_bytes + alignment, np.uint8)
    start = -buffer.ctypes.data % alignment
    return buffer[start : start + n_bytes].view(dtype).reshape(shape)
