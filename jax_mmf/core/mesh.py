"""Arrays that are spread over a mesh of devices, and programs that depend on the kind of device."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, Mesh

from jax_mmf.typing import Array


def on_mesh(*arrays: Array) -> bool:
    """Whether the function being traced computes on several devices, as far as JAX knows.

    This is so in the context of `jax.set_mesh`, and if the types of its arguments have a mesh. Inside of
    `jax.shard_map`, a function computes on one device.
    """
    meshes = [jax.sharding.get_abstract_mesh(), *(jax.typeof(array).sharding.mesh for array in arrays)]
    return any(
        not mesh.empty and mesh.size > 1 and any(kind != AxisType.Manual for kind in mesh.axis_types) for mesh in meshes
    )


def by_platform(*arrays: Array, default: Callable[..., Any], **functions: Callable[..., Any]) -> Any:
    """Call a function on arrays: that of the platform of a single device, such as ``cpu=``, or else ``default``.

    A loop over parts that fit into cache is fast on a CPU. If the features are spread over devices, such a loop would
    send each part to all of them.
    """
    return default(*arrays) if on_mesh(*arrays) else lax.platform_dependent(*arrays, default=default, **functions)


def with_auto_axes(mesh: Any) -> Mesh:
    """Return a mesh with automatic axes, which XLA partitions programs over, and which no array type names."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
