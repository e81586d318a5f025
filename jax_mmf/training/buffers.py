"""Reusable host memory for mini-batches."""

from collections import deque
from typing import Any

from jax_mmf.core import transfer_buffer
from jax_mmf.typing import HostArray


class Buffers:
    """Buffers of one dtype, each of which holds a mini-batch until the step that reads it is done.

    On CPU, JAX computes from a buffer without a copy. Accelerators read a buffer directly, since its pages are locked.
    New memory for each mini-batch would cost a page fault per page, which takes longer than reading the data. There
    are as many buffers as mini-batches that are in use at a time.

    Args:
      dtype: of the numbers.
    """

    def __init__(self, dtype: Any) -> None:
        self._dtype = dtype
        self._free: deque[HostArray] = deque()

    def take(self, shape: tuple[int, int]) -> HostArray:
        """Return a buffer of a shape that is not in use; its content is arbitrary."""
        while self._free:
            buffer = self._free.popleft()
            if buffer.shape == shape:  # buffers for smaller batches are dropped
                return buffer
        return transfer_buffer(shape, self._dtype)

    def give_back(self, buffer: HostArray) -> None:
        """Take a buffer back, whose content may be overwritten from now on."""
        self._free.append(buffer)
