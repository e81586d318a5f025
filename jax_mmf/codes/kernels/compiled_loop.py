"""Loops over scalars and short vectors, compiled into one kernel on CPU as a compiler of C would do."""

from collections.abc import Callable
from typing import Any

from jax.sharding import NamedSharding, PartitionSpec

from jax_mmf.core import one_kernel, partitioned
from jax_mmf.typing import Array


def compiled_loop(
    function: Callable[..., tuple[Array, ...]], rule: str, shared: tuple[str, ...]
) -> Callable[..., tuple[Array, ...]]:
    """Compile a loop over samples into one kernel on CPU, and let each device run it on its own samples.

    In the kernel, operations are plain loops of machine code on one thread: right for vectors of up to some thousand
    numbers, wrong for matrix products. An array that is updated while its old values are still needed is copied each
    time. On other platforms the results are the same, at the speed of any other loop.

    Where samples are spread over devices, XLA compiles one kernel under `jax.shard_map` only: its partitioner drops the
    attributes of calls.

    Args:
      function: from arrays to a tuple of arrays, made of `jax.lax` loops over samples that don't depend on each other.
      rule: letters for the axes of arguments and results, as in einsum: ``"k q, b q -> b"``. ``b`` is the axis of the
        samples, and comes first in arrays that have it.
      shared: letters of axes that every device needs as a whole.

    Returns:
      the function, to be called under `jax.jit`.
    """
    call = one_kernel(function)

    def partition(mesh: Any, arguments: Any, results: Any) -> tuple[Any, ...]:
        inputs, outputs = (side.split(", ") for side in rule.split(" -> "))
        first = next(i for i, axes in enumerate(inputs) if axes.startswith("b"))
        spec = arguments[first].sharding.spec
        spread = NamedSharding(mesh, PartitionSpec(spec[0] if spec else None))
        whole = NamedSharding(mesh, PartitionSpec())
        shardings = lambda side: tuple(spread if axes.startswith("b") else whole for axes in side)  # noqa: E731
        return mesh, call, shardings(outputs), shardings(inputs)

    return partitioned(call, partition, rule, shared)
