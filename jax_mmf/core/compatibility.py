"""Experimental parts of JAX and undocumented parts of XLA that the package uses, and what it does without them.

Nothing else in the package imports `jax.experimental` or names an attribute of XLA. Seen to work with jaxlib 0.10.2 to
0.12.0; a test looks at a compiled program to see whether XLA still takes the attributes.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from jax_mmf.core.user_warnings import warn

try:
    from jax.experimental.xla_metadata import set_xla_metadata
except ImportError:
    set_xla_metadata = None  # type: ignore[assignment]

try:
    from jax.experimental.custom_partitioning import custom_partitioning
except ImportError:
    custom_partitioning = None  # type: ignore[assignment, misc]


def of_all_processes(array: Any) -> Any:
    """Collect an array of all processes on each of them, as a NumPy array. All processes call this.

    What it is: `jax.experimental.multihost_utils.process_allgather`, of which JAX has no stable version.

    Args:
      array: a global array, which is collected whole; or a NumPy array of this process, which those of the other
        processes are stacked with.
    """
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array, tiled=isinstance(array, jax.Array))


def one_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let XLA compile a whole function, loops and all, into one kernel on CPU.

    What it is: a call of a jitted function is marked with two attributes of XLA, by `set_xla_metadata`.

    - ``xla_cpu_small_call``: the thunk emitter of XLA:CPU compiles such a call into one kernel. XLA sets the attribute
      itself, on loops over a few bytes (its pass ``SmallWhileLoopHoistingPass``); it works on any call.
    - ``inlineable``: the call inliner leaves the call as it is (https://github.com/openxla/xla/pull/23947).

    Without it: the results are the same. XLA starts a kernel for each operation of a loop, and these starts take most
    of the time of operations on a few numbers (https://github.com/jax-ml/jax/issues/26145): a coordinate descent over
    256 numbers took 8 times longer with jaxlib 0.10.2. If JAX can't set the attributes, there is one warning per
    process. If XLA ignores them, as on accelerators, or has dropped them, there is no warning.

    When it can go: once XLA:CPU compiles loops of many small operations into one kernel by itself. Recent releases of
    JAX also have ``xla_metadata_call``, which marks a function instead of its results
    (https://github.com/jax-ml/jax/pull/39201).

    Args:
      function: from arrays to a tuple of arrays.

    Returns:
      the function, to be called under `jax.jit`.
    """
    jitted = jax.jit(function)

    def call(*args: Any) -> Any:
        # XLA aborts the process where an argument of such a call is a constant of more than 10,000 bytes, as data that
        # a traced function closes over are (seen with jaxlib 0.10.2 and 0.12.0). A barrier hides that it is constant.
        return _marked(jitted(*jax.lax.optimization_barrier(args)))

    return call


def _marked(results: Any) -> Any:
    """Attach the attributes to the call that the results come from."""
    if set_xla_metadata is not None:
        try:
            return set_xla_metadata(results, xla_cpu_small_call="true", inlineable="false")
        except TypeError:  # the signature has changed
            pass
    if jax.default_backend() == "cpu":
        _warn_of_slow_loops()
    return results


@functools.cache
def _warn_of_slow_loops() -> None:
    warn(
        f"jax {jax.__version__} can't mark loops that are to be compiled into one kernel: codes are the same, but "
        "ActiveSet, the default solver of sparse codes on CPU, is several times slower. Install a release of jax from "
        "0.10.2 to 0.12.0, where this works"
    )


def partitioned(
    function: Callable[..., Any], partition: Callable[..., Any], rule: str, shared: tuple[str, ...]
) -> Callable[..., Any]:
    """Let each device run a function on its own share of the samples.

    What it is: `jax.experimental.custom_partitioning`, which gives XLA's partitioner a sharding rule for a function
    that it can't split by itself, such as a loop over samples.

    Without it: the results are the same, but each device is sent all samples, and solves all of them.

    When it can go: once JAX has a stable way to give a function a sharding rule. `jax.shard_map` does not help: it
    needs the mesh, which is not known where the function is traced.

    Args:
      function: from arrays to a tuple of arrays.
      partition: as the argument of ``custom_partitioning.def_partition``.
      rule: the sharding rule, letters for axes as in einsum.
      shared: letters of axes that each device needs as a whole.
    """
    if custom_partitioning is None:
        return function
    split = custom_partitioning(function)
    split.def_partition(partition=partition, sharding_rule=rule, need_replication_factors=shared)
    return split
