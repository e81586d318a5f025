"""Permutations of the features, after which contiguous features are a random subset."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_mmf.core import HostStream, host_generator
from jax_mmf.learning import State, map_arrays
from jax_mmf.typing import HostArray, Key


@dataclass(frozen=True)
class FeaturePermutation:
    """An order of the features.

    Attributes:
      order: ``(p,)``; column j of permuted data is feature ``order[j]``.

    Raises:
      ValueError: if order does not hold each of 0 to p - 1 once.

    Example:
      >>> import numpy as np, jax_mmf as mmf
      >>> permutation = mmf.io.FeaturePermutation(np.array([2, 0, 1]))
      >>> permutation.apply(np.array([10, 11, 12]))
      array([12, 10, 11])
    """

    order: HostArray

    def __post_init__(self) -> None:
        if self.order.ndim != 1 or not np.array_equal(np.sort(self.order), np.arange(self.order.size)):
            raise ValueError(f"order must hold each of 0 to p - 1 once, got shape {self.order.shape}")

    @classmethod
    def random(cls, key: Key, n_features: int) -> "FeaturePermutation":
        """A random order of n features."""
        return cls(host_generator(key, HostStream.PERMUTATION).permutation(n_features))

    @property
    def inverse(self) -> "FeaturePermutation":
        """The permutation that undoes this one."""
        return FeaturePermutation(np.argsort(self.order))

    def apply(self, array: HostArray) -> HostArray:
        """Permute the last axis of an array in host memory."""
        return np.take(array, self.order, axis=-1)

    def apply_to_state(self, state: State) -> State:
        """Permute everything in a solver's state that has features: the same run, on permuted data."""
        return map_arrays(lambda _, axes, array: self._columns(axes, array), state)

    def _columns(self, axes: str | None, array: Any) -> Any:
        return jnp.take(array, self.order, axis=axes.index("p")) if axes is not None and "p" in axes else array
