"""Random permutations of any length, of which any part can be computed when it is needed."""

import math

import numpy as np

from jax_mmf.typing import HostArray

_MOST_IN_TABLE = 2**16  # largest n for which a permutation is stored as an array
_ROUNDS = 8


class KeyedPermutation:
    """A permutation of 0 to n - 1, whose memory does not grow with n.

    For up to 65,536 numbers, it is an array, uniform among all permutations. Longer ones are a Feistel network on
    ``a b >= n`` pairs ``(left, right)``: each round adds a hash of one half to the other half, which is invertible. An
    image that is n or more is mapped again until it is below n ("cycle walking"). This is rare, because
    ``a b - n < a``, and a is about the square root of n.

    Args:
      n: how many numbers, at least 1 and below 2^62.
      generator: of the random numbers that determine the permutation.
    """

    def __init__(self, n: int, generator: np.random.Generator) -> None:
        self.n = n
        self._table: HostArray | None = generator.permutation(n) if n <= _MOST_IN_TABLE else None
        if self._table is None:
            a = math.isqrt(n - 1) + 1
            self._lengths = np.array([a, -(-n // a)], np.uint64)
            self._keys = generator.integers(2**64, size=_ROUNDS, dtype=np.uint64)

    def __call__(self, places: HostArray) -> HostArray:
        """Return the numbers ``(m,)``, int64, at the places ``(m,)``."""
        if self._table is not None:
            return self._table[places]
        out = self._scatter(np.asarray(places, np.uint64))
        outside = np.flatnonzero(out >= self.n)
        while outside.size:
            out[outside] = self._scatter(out[outside])
            outside = outside[out[outside] >= self.n]
        return out.astype(np.int64)

    def _scatter(self, numbers: HostArray) -> HostArray:
        """Permute 0 to a b - 1."""
        halves = list(np.divmod(numbers, self._lengths[1]))
        for round_, key in enumerate(self._keys):
            here, length = round_ % 2, self._lengths[round_ % 2]
            moved = halves[here] + _below(mixed(halves[1 - here] ^ key), length)
            halves[here] = np.where(moved < length, moved, moved - length)
        return halves[0] * self._lengths[1] + halves[1]


def mixed(numbers: HostArray) -> HostArray:
    """Hash 64-bit numbers by the finalizer of SplitMix64, which is one to one."""
    x = numbers + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _below(hashes: HostArray, length: np.uint64) -> HostArray:
    """Map hashes to the range 0 to length - 1, for lengths below 2^32."""
    return ((hashes >> np.uint64(32)) * length) >> np.uint64(32)
