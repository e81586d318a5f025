"""Random numbers: the streams of one key, for JAX and for NumPy on the host.

The key of `fit`, or of a model, is only the parent of streams: no numbers are drawn from it. A key that numbers are
drawn from, or that is split, must not be used again.
"""

from enum import IntEnum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.typing import Array, Key


class Stream(IntEnum):
    """Tags of random streams of JAX, folded into a key first."""

    INITIALIZATION = 0
    SUBSET = 1
    ATOM_ORDER = 2
    REVIVAL = 3
    EPOCH = 4
    TRIAL = 5
    STATISTICS = 6


class HostStream(IntEnum):
    """The streams of NumPy: what follows the key in the seed of a generator."""

    PERMUTATION = 0
    HELD_OUT = 1
    EPOCH = 2
    DRAW = 3
    SPLIT = 11
    RATINGS = 21


def check_key(key: Any) -> None:
    """Raise TypeError unless an argument is a PRNG key. An integer is not one, also if a transformation traces it."""
    if not isinstance(key, jax.Array) or (key.ndim == 0 and not is_typed_key(key)):
        raise TypeError(f"key must be a PRNG key, such as jax.random.key(0); got {key!r}")


def stream_key(key: Key, stream: Stream, number: int | Array | None = None) -> Key:
    """The key of a stream, or that of one step, epoch or trial in it, by its number."""
    check_key(key)
    key = jax.random.fold_in(key, stream)
    return key if number is None else jax.random.fold_in(key, number)


def host_generator(key: Key, stream: HostStream, *numbers: int) -> np.random.Generator:
    """A NumPy generator of a stream, or of one epoch or draw in it, for orders that are made on the host."""
    check_key(key)
    data = jax.random.key_data(key) if is_typed_key(key) else key
    return np.random.default_rng([*np.asarray(data).ravel().tolist(), stream, *numbers])


def is_typed_key(key: Key) -> bool:
    """Whether a key is one of `jax.random.key`, and not an array of `jax.random.PRNGKey`."""
    return bool(jnp.issubdtype(key.dtype, jax.dtypes.prng_key))
