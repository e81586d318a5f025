"""Settings of JAX that belong to a thread, and the number of cores for threads."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import jax
from jax.sharding import Mesh


def n_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _mesh_of_this_thread() -> Mesh | None:
    """Return the mesh of `jax.set_mesh`, or None if there is none, and while a function is traced, as JAX wants it."""
    try:
        mesh = jax.sharding.get_mesh()
    except ValueError:
        return None
    return None if mesh.empty else mesh


def with_settings_of_this_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function for another thread, which would otherwise have the settings that JAX started with."""
    settings: Any = jax.config
    x64, device, mesh = settings.jax_enable_x64, settings.jax_default_device, _mesh_of_this_thread()

    def call(*args: Any) -> Any:
        with jax.enable_x64(x64), jax.default_device(device), nullcontext() if mesh is None else jax.set_mesh(mesh):
            return function(*args)

    return call
