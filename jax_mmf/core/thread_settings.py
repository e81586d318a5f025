"""Settings of JAX that belong to a thread."""

from collections.abc import Callable
from typing import Any

import jax


def with_settings_of_this_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function for another thread, which would otherwise have the settings that JAX started with."""
    settings: Any = jax.config
    x64, device = settings.jax_enable_x64, settings.jax_default_device

    def call(*args: Any) -> Any:
        with jax.enable_x64(x64), jax.default_device(device):
            return function(*args)

    return call
