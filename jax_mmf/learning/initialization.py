"""Initial dictionaries.

All of them are made from samples, not from noise. Codes on random Gaussian atoms carry little information, and learning
from such codes is slow, or fails on data of low rank.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.core import check_count, matmul, register_configuration
from jax_mmf.typing import Array, Key


@runtime_checkable
class Initialization(Protocol):
    """Rule that chooses the directions of k atoms from samples; the solver scales them to its constraint.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> solver = mmf.OnlineFactorization(n_components=2, initialization=mmf.KMeansPlusPlus())
      >>> solver.init(jax.random.key(0), samples=jax.numpy.eye(4)).dictionary.shape
      (2, 4)
    """

    def __call__(self, key: Key, samples: Array, n_components: int) -> Array:
        """Return directions ``(k, p)`` from samples ``(m, p)`` with ``m >= k``."""


@register_configuration(static=True)
@dataclass(frozen=True)
class RandomSamples:
    """Distinct random samples; samples of zeros are chosen last.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> mmf.RandomSamples()(jax.random.key(0), jax.numpy.eye(4), n_components=2).shape
      (2, 4)
    """

    def __call__(self, key: Key, samples: Array, n_components: int) -> Array:
        """Return directions ``(k, p)`` from samples ``(m, p)``."""
        priority = jax.random.uniform(key, (samples.shape[0],)) + (samples != 0).any(-1).astype(float)
        return samples[lax.top_k(priority, n_components)[1]]


@register_configuration(static=True)
@dataclass(frozen=True)
class RandomizedSVD:
    """Leading right singular vectors, by random projection and power iteration (Halko, Martinsson, Tropp 2011).

    If there are fewer vectors than atoms, random samples fill the rest. The largest entry of each vector is positive,
    since a constraint with ``d >= 0`` keeps the positive part only.

    Attributes:
      n_oversamples: number of random directions beyond the rank (static).
      n_iter: power iterations (static).

    Example:
      >>> import jax, jax_mmf as mmf
      >>> mmf.RandomizedSVD()(jax.random.key(0), jax.numpy.eye(4), n_components=2).shape
      (2, 4)
    """

    n_oversamples: int = 10
    n_iter: int = 3

    def __post_init__(self) -> None:
        check_count("n_oversamples", self.n_oversamples, low=0)
        check_count("n_iter", self.n_iter, low=0)

    def __call__(self, key: Key, samples: Array, n_components: int) -> Array:
        """Return directions ``(k, p)`` from samples ``(m, p)``."""
        key_svd, key_fill = jax.random.split(key)
        fill = RandomSamples()(key_fill, samples, n_components)
        samples = _scaled(samples, jnp.abs(samples).max(initial=0))
        rank = min(n_components, *samples.shape)
        width = min(rank + self.n_oversamples, *samples.shape)
        test = jax.random.normal(key_svd, (samples.shape[1], width), samples.dtype)
        basis = jnp.linalg.qr(matmul(samples, test))[0]
        for _ in range(self.n_iter):
            features = jnp.linalg.qr(matmul(samples.T, basis))[0]
            basis = jnp.linalg.qr(matmul(samples, features))[0]
        _, scale, vectors = jnp.linalg.svd(matmul(basis.T, samples), full_matrices=False)
        vectors = vectors[:rank] * jnp.where(vectors[:rank].max(1) < -vectors[:rank].min(1), -1, 1)[:, None]
        kept = jnp.pad(vectors, [(0, n_components - rank), (0, 0)])
        usable = jnp.arange(n_components) < jnp.sum(scale > scale[0] * jnp.finfo(scale.dtype).eps * max(samples.shape))
        return jnp.where(usable[:, None], kept, fill)


@register_configuration(static=True)
@dataclass(frozen=True)
class KMeansPlusPlus:
    """Samples of different directions, drawn one after another as in k-means++ (Arthur and Vassilvitskii 2007).

    The probability of a sample is proportional to the squared sine of its smallest angle to the samples drawn before.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> mmf.KMeansPlusPlus()(jax.random.key(0), jax.numpy.eye(4), n_components=2).shape
      (2, 4)
    """

    def __call__(self, key: Key, samples: Array, n_components: int) -> Array:
        """Return directions ``(k, p)`` from samples ``(m, p)``."""
        directions = _scaled(samples, jnp.abs(samples).max(-1, keepdims=True))
        norms = jnp.linalg.norm(directions, axis=-1, keepdims=True)
        directions = directions / jnp.where(norms > 0, norms, 1)

        def choose(carry: tuple[Array, Array], key: Key) -> tuple[tuple[Array, Array], Array]:
            distance, free = carry
            # The floor keeps a choice possible if every remaining sample is a copy of a chosen one.
            weight = jnp.where(free, jnp.maximum(distance, jnp.finfo(distance.dtype).tiny), 0)
            index = jax.random.categorical(key, jnp.log(weight))
            distance = jnp.minimum(distance, 1 - matmul(directions, directions[index]) ** 2)
            return (jnp.maximum(distance, 0), free.at[index].set(False)), index

        distance = (norms[:, 0] > 0).astype(samples.dtype)
        start = (distance, jnp.ones(samples.shape[0], bool))
        _, chosen = lax.scan(choose, start, jax.random.split(key, n_components))
        return samples[chosen]


def _scaled(samples: Array, size: Array) -> Array:
    """Divide samples by their size, so that squares neither vanish nor overflow; zeros stay zeros."""
    info = jnp.finfo(samples.dtype)
    return samples * (1 / jnp.clip(size, 4 * info.tiny, info.max / 4))
