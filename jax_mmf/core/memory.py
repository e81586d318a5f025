"""Host memory: arrays that JAX uses without a copy."""

import mmap
from contextlib import suppress
from typing import Any

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
