"""Host memory: arrays that JAX uses, or sends to an accelerator, without a copy."""

import mmap
import weakref
from contextlib import suppress
from typing import Any

import jax
import numpy as np

from jax_mmf.typing import HostArray

_ALIGNMENT = 64  # bytes: JAX uses host arrays with this alignment without a copy
_HUGE_PAGE = 2**21  # bytes


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


def default_device() -> jax.Device:
    """Return the device that new arrays are on."""
    chosen: Any = jax.config.jax_default_device  # type: ignore[attr-defined]
    return chosen if isinstance(chosen, jax.Device) else jax.local_devices(backend=chosen)[0]


def transfer_buffer(shape: tuple[int, ...], dtype: Any) -> HostArray:
    """Allocate an uninitialized array that JAX sends to its default device without a copy in host memory.

    On CPU this is `aligned_empty`. On accelerators its pages are locked where JAX offers this, and the device reads
    them directly. That takes some milliseconds: such arrays should be used again.
    """
    array = aligned_empty(shape, dtype)
    client = default_device().client
    lock, unlock = getattr(client, "dma_map", None), getattr(client, "dma_unmap", None)
    if client.platform != "cpu" and lock is not None and unlock is not None and array.nbytes:
        with suppress(Exception):  # devices and limits of the system that do not allow it
            lock(array.ctypes.data, array.nbytes)
            # Views of the array keep its base alive, and the base keeps the memory.
            weakref.finalize(array.base, unlock, array.ctypes.data).atexit = False
    return array
