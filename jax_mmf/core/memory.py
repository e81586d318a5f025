"""Host memory: arrays that JAX uses without a copy, and what becomes of memory that was freed."""

import ctypes
import mmap
import sys
from contextlib import suppress
from typing import Any

import numpy as np

from jax_mmf.typing import HostArray

_ALIGNMENT = 64  # bytes: JAX uses host arrays with this alignment without a copy
_HUGE_PAGE = 2**21  # bytes

# Parameters of mallopt, from malloc.h of the GNU C library.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


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


def reuse_memory() -> bool:
    """Let the process keep memory that it frees, instead of giving it back to the operating system.

    The GNU C library gives large blocks back as soon as they are freed. JAX allocates the temporary arrays of each step
    anew, which then takes a page fault for each page. A step on 128 samples of 200,000 features takes 1.3 times as long
    because of them (docs/performance.md). The process does not shrink any more after this call.

    Call it before the first computation. The command ``jax-mmf`` does. It affects the whole process.

    Returns:
      whether it had an effect: only with the GNU C library, that is on most Linux systems.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    # Threads with arenas of their own would still take large blocks from the operating system.
    settings = {_ARENA_MAX: 1, _MMAP_THRESHOLD: 2**31 - 1, _TRIM_THRESHOLD: 2**31 - 1}
    return all(mallopt(parameter, value) for parameter, value in settings.items())
