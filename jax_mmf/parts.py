"""Batches in parts: small enough for the caches of a CPU, and one for each core where a code solver runs on one.

Code solvers pass over a batch again and again, and are up to four times faster where it stays in cache. Those that are
one loop over the samples run on one core: XLA compiles such a loop into a kernel (see `jax_mmf.compiled_loop`), and
runs the kernels of a program one after another, so that parts in one program would gain nothing. Programs that
different threads call run side by side. So where a batch is at hand, outside of any transformation, one program is
called for each of its parts.
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_mmf.typing import Array

_MOST = 4096  # samples in a part
_FEWEST = 64  # that are worth a thread


class Parts(NamedTuple):
    """How a batch is worked on: in parts of one size, of which so many at a time."""

    n_parts: int
    n_threads: int


def parts_of(solver: Any, n_samples: int, *inputs: Any) -> Parts:
    """How codes of a batch are best solved: in one part under a transformation, and on accelerators.

    Args:
      solver: of the codes; one with an attribute ``sequential`` that is true runs on one core.
      n_samples: in the batch.
      inputs: pytrees of all that the codes are computed from beside the solver. A number of a penalty that somebody
        traces is enough for a transformation.
    """
    if not all(map(_is_at_hand, jax.tree.leaves((solver, inputs)))):
        return Parts(1, 1)
    n_threads = max(1, min(_n_cores(), n_samples // _FEWEST)) if getattr(solver, "sequential", False) else 1
    n_rounds = max(1, -(-n_samples // (n_threads * _MOST)))
    return Parts(n_rounds * n_threads, n_threads)


def in_parts(function: Callable[[int, int], Any], n_samples: int, parts: Parts) -> Any:
    """``function(first, size)`` of the parts of a batch, and what they return as one.

    Args:
      function: gives a pytree of arrays ``(size, ...)``, the same for a sample whatever part it is in. All parts have
        one size, so that one program does for all: the last two may overlap.
      n_samples: in the batch.
      parts: at most how many there are.
    """
    size = -(-n_samples // parts.n_parts)
    firsts = [min(first, n_samples - size) for first in range(0, n_samples, size)]
    if parts.n_threads == 1:
        return _join(tuple(function(first, size) for first in firsts), n_samples)
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


def _is_at_hand(leaf: Any) -> bool:
    """Whether it is a number or an array, on the host or on one CPU, and no tracer."""
    if isinstance(leaf, jax.core.Tracer):
        return False
    return not isinstance(leaf, jax.Array) or [device.platform for device in leaf.devices()] == ["cpu"]


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_n_cores(), thread_name_prefix="jax-mmf-codes")
