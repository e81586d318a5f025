"""Batches in chunks of a few sizes, which share compiled programs, fit into caches, and use all cores of a CPU.

Outside of transformations the rows of a batch are concrete arrays. This module decides how to divide them:

- The sizes of chunks are powers of two, and the last chunk is padded with rows of zeros. Batches with any number of
  rows share a few compiled programs.
- Code solvers pass over a batch many times, and are up to four times faster where it stays in cache.
- A solver that loops over the samples runs on one core: XLA compiles such a loop into a kernel (see
  `jax_mmf.codes.kernels`), and runs the kernels of a program one after another. Programs that are called from
  different threads run in parallel.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.codes.solver import is_sequential
from jax_mmf.core import aligned_empty, filled_up, n_cores, with_settings_of_this_thread
from jax_mmf.typing import HostArray

_MOST = 4096  # samples in a chunk
_FEWEST = 64  # samples that are worth a thread
_MOST_BYTES = 2**26  # of the samples in a chunk


class Chunks(NamedTuple):
    """How a batch is divided.

    Attributes:
      size: rows in a chunk.
      n_threads: number of chunks that are computed at a time.
      on_host: whether the host divides the batch. If not, there is one chunk.
    """

    size: int
    n_threads: int
    on_host: bool


def chunks_of(solver: Any, rows: Any, *inputs: Any) -> Chunks | None:
    """Choose how to divide a batch; None under a transformation and for arrays that are sharded over devices.

    Args:
      solver: of the codes; one with an attribute ``sequential`` that is true runs on one core.
      rows: pytree of arrays ``(n, ...)``, the samples first, with n > 0.
      inputs: pytrees of all that the result depends on beside the rows. A single traced number, such as alpha, counts
        as a transformation.
    """
    platforms = places_of(solver, rows, inputs)
    if platforms is None:
        return None
    samples = jax.tree.leaves(rows)[0]
    n_samples = samples.shape[0]
    if platforms - {"cpu"}:
        return Chunks(power_of_two(n_samples), 1, on_host=False)
    sequential = is_sequential(solver)
    n_threads = max(1, min(n_cores(), n_samples // _FEWEST)) if sequential else 1
    size = min(_MOST, power_of_two(-(-n_samples // n_threads)))
    if n_threads > 1:
        size = max(_FEWEST, size // 2)  # more chunks than threads are shared out more evenly
    row_bytes = max(1, samples.nbytes // n_samples)
    size = max(1, min(size, power_of_two(_MOST_BYTES // row_bytes + 1) // 2))
    return Chunks(size, n_threads, on_host=True)


def places_of(*inputs: Any) -> set[str] | None:
    """Return the platform of the device that arrays are on; an empty set, if all of them are NumPy arrays.

    None if a value is traced, and for arrays that are sharded over devices, which must stay where they are.
    """
    leaves = jax.tree.leaves(inputs)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return None
    devices = {device for leaf in leaves if isinstance(leaf, jax.Array) for device in leaf.devices()}
    return None if len(devices) > 1 else {device.platform for device in devices}


def at_once(function: Callable[[], Any]) -> Any:
    """Call a function of concrete arrays immediately, even inside of a function that is being traced.

    Inside of a trace, JAX traces operations on constants too. Another thread does not trace.
    """
    if not isinstance(jnp.zeros(()), jax.core.Tracer):
        return function()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(with_settings_of_this_thread(function)).result()


def in_chunks(function: Callable[[Any], Any], rows: Any, chunks: Chunks) -> Any:
    """Apply a function to the chunks of a batch, and join the results.

    Args:
      function: from a pytree of arrays ``(size, ...)`` to a pytree of arrays ``(size, ...)``. The result for a sample
        must not depend on its chunk. Zeros fill up a short chunk.
      rows: pytree of arrays ``(n, ...)``, none of them traced.
      chunks: how the batch is divided.
    """
    n_samples, size = jax.tree.leaves(rows)[0].shape[0], chunks.size
    if size == n_samples:
        return function(rows)
    if not chunks.on_host:
        return jax.tree.map(lambda a: a[:n_samples], function(filled_up(rows, size)))
    on_host = jax.tree.map(np.asarray, rows)

    @with_settings_of_this_thread
    def chunk(first: int) -> Any:
        cut = jax.tree.map(lambda a: a[first : first + size], on_host)
        return jax.tree.map(np.asarray, function(jax.device_put(filled_up(cut, size))))

    firsts = range(0, n_samples, size)
    results = _pool().map(chunk, firsts) if chunks.n_threads > 1 else map(chunk, firsts)
    joined = None
    for first, result in zip(firsts, results, strict=True):
        if joined is None:
            joined = jax.tree.map(lambda a: aligned_empty((n_samples, *a.shape[1:]), a.dtype), result)
        last = min(first + size, n_samples)
        jax.tree.map(functools.partial(_paste, first, last), joined, result)
    return jax.tree.map(jax.device_put, joined)


def _paste(first: int, last: int, whole: HostArray, chunk: HostArray) -> None:
    whole[first:last] = chunk[: last - first]


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_cores(), thread_name_prefix="jax-mmf-codes")
