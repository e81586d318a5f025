"""The features of one step: their columns are gathered from arrays, and written back."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.core import by_platform, register_configuration
from jax_mmf.typing import Array, Float


@register_configuration
@dataclass(frozen=True, kw_only=True)
class Subset:
    """The features of one step, as drawn by `FeatureSubset.draw`.

    Attributes:
      indices: ``(s,)`` int32, the features, all different where ``valid``.
      reduction: inverse of the probability that a feature is drawn; sums over the subset are multiplied by it.
      starts: ``(m,)`` the first feature of each block of the subset, or None if it is not made of blocks.
      valid: ``(s,)`` booleans, or None if all are True. If the width of a block does not divide p, the last block
        overlaps the previous one; the features of the overlap are valid in the previous block only.
      width: of a block (static).
      n_shards: number of equal shares of the features, each with as many features of the subset (static).
      n_features: p (static).

    Example:
      >>> import jax, jax.numpy as jnp, jax_mmf as mmf
      >>> subset = mmf.UniformSubset(reduction=2).draw(jax.random.key(0), 0, n_features=8)
      >>> subset.size, subset.gather(jnp.ones((3, 8))).shape
      (4, (3, 4))
    """

    indices: Array
    reduction: Float
    starts: Array | None = None
    valid: Array | None = None
    width: int = field(default=1, metadata={"static": True})
    n_shards: int = field(default=1, metadata={"static": True})
    n_features: int = field(metadata={"static": True})

    @property
    def size(self) -> int:
        """Number s of columns that a step sees."""
        return int(self.indices.shape[0])

    @property
    def is_full(self) -> bool:
        """Whether the subset is all features, in order."""
        return self.starts is None and self.size == self.n_features

    def gather(self, array: Array) -> Array:
        """Return the columns of the subset: ``(..., p) -> (..., s)``; zeros where not ``valid``."""
        if self.is_full:
            return array

        def one_by_one(array: Array) -> Array:
            return self._in_each_share(lambda share, places: jnp.take(share, places, axis=-1), self.indices, array)

        if self.starts is None:
            return self.drop_invalid(one_by_one(array))
        starts, width = self.starts, self.width

        def in_blocks(array: Array) -> Array:
            def copy(i: Array, out: Array) -> Array:
                block = lax.dynamic_slice_in_dim(array, starts[i], width, axis=-1)
                return lax.dynamic_update_slice_in_dim(out, block, i * width, axis=-1)

            return lax.fori_loop(0, starts.shape[0], copy, jnp.zeros((*array.shape[:-1], self.size), array.dtype))

        # On CPU a loop copies fastest. On a GPU each of its steps needs several launches: 10 ms for a thousand blocks.
        return self.drop_invalid(by_platform(array, cpu=in_blocks, tpu=in_blocks, default=one_by_one))

    def scatter(self, array: Array, values: Array) -> Array:
        """Replace the columns of the subset in an array ``(..., p)`` by values ``(..., s)``."""
        if self.is_full:
            return values
        starts, width, valid = self.starts, self.width, self.valid

        def one_by_one(array: Array, values: Array) -> Array:
            # Invalid features get indices past the last feature, which are dropped.
            past = 2 * self.n_features + jnp.arange(self.size, dtype=self.indices.dtype)
            places = self.indices if valid is None else jnp.where(valid, self.indices, past)

            def put(share: Array, places: Array, values: Array) -> Array:
                return share.at[..., places].set(values, mode="drop", unique_indices=True)

            return self._in_each_share(put, places, array, values)[..., : self.n_features]

        if starts is None:
            return one_by_one(array, values)

        def in_blocks(array: Array, values: Array) -> Array:
            def copy(i: Array, array: Array) -> Array:
                block = lax.dynamic_slice_in_dim(values, i * width, width, axis=-1)
                if valid is not None:
                    old = lax.dynamic_slice_in_dim(array, starts[i], width, axis=-1)
                    block = jnp.where(lax.dynamic_slice_in_dim(valid, i * width, width), block, old)
                return lax.dynamic_update_slice_in_dim(array, block, starts[i], axis=-1)

            return lax.fori_loop(0, starts.shape[0], copy, array)

        return by_platform(array, values, cpu=in_blocks, tpu=in_blocks, default=one_by_one)

    def _in_each_share(self, function: Callable[..., Array], places: Array, array: Array, *more: Array) -> Array:
        """Call a function on each share of the features, with the places ``(s,)`` in it and shares of other arrays."""
        if self.n_shards == 1:
            return function(array, places, *more)
        # Reshaped like this, whole shares stay on their devices.
        split = lambda a: a.reshape(*a.shape[:-1], self.n_shards, -1)  # noqa: E731
        length = -(-self.n_features // self.n_shards)
        missing = length * self.n_shards - array.shape[-1]
        if missing:  # the last share is shorter
            array = jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])
        first = jnp.arange(self.n_shards, dtype=places.dtype) * length
        axes = (-2, 0, *(-2 for _ in more))
        shares = jax.vmap(function, axes, -2)(split(array), split(places) - first[:, None], *map(split, more))
        return shares.reshape(*shares.shape[:-2], -1)

    def drop_invalid(self, values: Array) -> Array:
        """Set values ``(..., s)`` to zero where not ``valid``."""
        return values if self.valid is None else jnp.where(self.valid, values, jnp.zeros((), values.dtype))
