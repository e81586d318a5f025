"""Samples shared out among the cores of a CPU, for code solvers that are one loop on one core.

XLA compiles such a loop into a kernel (see `jax_mmf.compiled_loop`), and runs the kernels of a program one after
another: parts of a batch in one program gain nothing. Programs that different threads call run side by side. So where a
batch is at hand, outside of any transformation, each thread calls one program on its part.
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp

from jax_mmf.typing import Array

_FEWEST = 64  # samples that are worth a thread


def n_parts(solver: Any, n_samples: int, *arrays: Array) -> int:
    """In how many parts codes are best solved: 1 under a transformation, on accelerators, and by other solvers.

    Args:
      solver: of the codes; one with an attribute ``sequential`` that is true runs on one core.
      n_samples: in the batch.
      arrays: what the codes are computed from.
    """
    if not getattr(solver, "sequential", False) or not all(map(_is_on_one_cpu, arrays)):
        return 1
    return max(1, min(_n_cores(), n_samples // _FEWEST))


def in_parts(function: Callable[[int, int], Any], n_samples: int, n_parts: int) -> Any:
    """``function(first, size)`` of parts of a batch, in a thread each, and what they return as one.

    Args:
      function: gives a pytree of arrays ``(size, ...)``, the same for a sample whatever part it is in. All parts have
        one size, so that one program does for all: the last two may overlap.
      n_samples: in the batch.
      n_parts: at most so many.
    """
    size = -(-n_samples // n_parts)
    firsts = [min(i * size, n_samples - size) for i in range(n_parts)]
    config: Any = jax.config
    x64, device = config.jax_enable_x64, config.jax_default_device

    def part(first: int) -> Any:
        # These settings belong to a thread.
        with jax.enable_x64(x64), jax.default_device(device):
            return jax.block_until_ready(function(first, size))

    return _join(tuple(_pool().map(part, firsts)), n_samples)


@functools.partial(jax.jit, static_argnums=1)
def _join(parts: tuple[Any, ...], n_samples: int) -> Any:
    def join(*arrays: Array) -> Array:
        *others, last = arrays
        done = sum(map(len, others))
        return jnp.concatenate([*others, last[done + len(last) - n_samples :]])

    return jax.tree.map(join, *parts)


def _is_on_one_cpu(array: Array) -> bool:
    if isinstance(array, jax.core.Tracer):
        return False
    devices = list(array.devices())
    return len(devices) == 1 and devices[0].platform == "cpu"


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_n_cores(), thread_name_prefix="jax-mmf-codes")
