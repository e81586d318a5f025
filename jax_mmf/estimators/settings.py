"""Precision, device and random key of an estimator."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from sklearn.utils import check_random_state

from jax_mmf.typing import Key


@contextmanager
def computing(dtype: Any, device: str | None) -> Iterator[None]:
    """Compute in a dtype and on a device: float64 is enabled for the time of the call only.

    Args:
      dtype: float32 or float64.
      device: ``"cpu"``, ``"gpu"``, ``"gpu:1"``, or None for JAX's default device.

    Raises:
      ValueError: for a device that does not exist.
    """
    x64 = bool(jax.config.jax_enable_x64) or np.dtype(dtype) == np.float64  # type: ignore[attr-defined]
    with jax.enable_x64(x64), jax.default_device(_device(device)):
        yield


def _device(name: str | None) -> Any:
    if name is None:
        settings: Any = jax.config
        return settings.jax_default_device
    platform, _, index = str(name).partition(":")
    try:
        return {str(device.id): device for device in jax.devices(platform)}[index or "0"]
    except (RuntimeError, KeyError) as error:
        here = ", ".join(f"{device.platform}:{device.id}" for device in jax.devices())
        raise ValueError(
            f"device must be a device of JAX, such as 'cpu' or 'gpu:0'; got {name!r}, has {here}"
        ) from error


def key_of(random_state: Any) -> Key:
    """Return a JAX key from an int, a `numpy.random.RandomState`, or None for a random one."""
    return jax.random.key(int(check_random_state(random_state).randint(np.iinfo(np.int32).max)))
