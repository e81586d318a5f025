"""Random numbers: keys of JAX, and generators of NumPy that depend on them."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.typing import Key


def host_generator(key: Key, *tags: int) -> np.random.Generator:
    """A NumPy generator that depends on a JAX key, for orders that are made on the host."""
    if not isinstance(key, jax.Array):
        raise TypeError(f"key must be a key of jax.random.key, got {key!r}")
    data = jax.random.key_data(key) if is_typed_key(key) else key
    return np.random.default_rng([*np.asarray(data).ravel().tolist(), *tags])


def is_typed_key(key: Key) -> bool:
    """Whether a key is one of `jax.random.key`, and not an array of `jax.random.PRNGKey`."""
    return bool(jnp.issubdtype(key.dtype, jax.dtypes.prng_key))
