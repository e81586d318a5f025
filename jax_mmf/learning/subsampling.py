"""Feature subsets: which of the p features a step sees ([ICML16], [TSP18] section III).

A subset depends only on a key and the number of the step, not on the samples. A reader can therefore fetch just these
features ahead of time. Every feature is equally likely.

Memory, disks and accelerators are fastest with blocks of contiguous features. Such blocks are random subsets only if
neighbouring features are unrelated: permute the features once, when the data are loaded or written (`fit` does it; see
`jax_mmf.io.FeaturePermutation`).
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.core import check_count, check_real, register_configuration
from jax_mmf.defaults import N_BLOCKS
from jax_mmf.learning.subset import Subset
from jax_mmf.typing import Array, Key


@runtime_checkable
class FeatureSubset(Protocol):
    """Rule that draws subsets of features.

    Example:
      >>> import jax_mmf as mmf
      >>> subset = mmf.BlockSubset(reduction=4, n_blocks=8)
      >>> subset.reduction, subset.n_blocks
      (4, 8)
    """

    @property
    def reduction(self) -> float:
        """Approximate ratio of p to the number of features that a step sees (static)."""

    @property
    def n_blocks(self) -> int | None:
        """Number of contiguous blocks in a step (static); None if features are drawn one by one."""

    def draw(self, key: Key, step: Array, n_features: int) -> Subset:
        """Draw the subset of a step.

        Args:
          key: PRNG key, the same for the whole run.
          step: scalar, number of the step.
          n_features: p (static).

        Returns:
          the subset, whose size depends on n_features only.

        Raises:
          ValueError: if there are fewer features than the reduction.
        """


@register_configuration(static=True)
@dataclass(frozen=True)
class FullSubset:
    """All features in every step: online matrix factorization as in [JMLR10].

    Example:
      >>> import jax, jax_mmf as mmf
      >>> mmf.FullSubset().draw(jax.random.key(0), 0, n_features=8).is_full
      True
    """

    @property
    def reduction(self) -> float:
        """1: a step sees all features."""
        return 1.0

    @property
    def n_blocks(self) -> int | None:
        """None: there are no blocks."""
        return None

    def draw(self, key: Key, step: Array, n_features: int) -> Subset:
        """Return all features; arguments as in `FeatureSubset.draw`."""
        return Subset(indices=jnp.arange(n_features, dtype=jnp.int32), reduction=1.0, n_features=n_features)


@register_configuration(static=True)
@dataclass(frozen=True)
class UniformSubset:
    """Random features, or random groups of a few contiguous features. The data need not be permuted.

    The features are put in a random order, and consecutive steps take one part of it after another: each feature is
    seen once in about r steps. Every r steps the order is a new one. The papers draw features in the same way. Learning
    needs fewer samples than with independent draws.

    Reading and writing scattered columns costs ten times more than contiguous ones. Groups of 16 features, a cache line
    of float32 numbers, cost little more than wide blocks. They learn nearly like single features if a step sees about
    ten times as many groups as there are atoms. For fewer features, take ``width=1``.

    Attributes:
      reduction: r >= 1 (static); a step sees about ``p / r`` features.
      width: contiguous features in a group (static).

    Raises:
      ValueError: if reduction < 1 or width < 1.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> mmf.UniformSubset(reduction=2).draw(jax.random.key(0), 0, n_features=8).indices.shape
      (4,)
    """

    reduction: float
    width: int = 1

    def __post_init__(self) -> None:
        check_real("reduction", self.reduction, low=1.0)
        check_count("width", self.width)

    @property
    def n_blocks(self) -> int | None:
        """None: the features need no random order."""
        return None

    def draw(self, key: Key, step: Array, n_features: int) -> Subset:
        """Draw random features; arguments as in `FeatureSubset.draw`."""
        _check_reduction(self.reduction, n_features)
        width = min(self.width, n_features)
        total = -(-n_features // width)
        return _draw(key, step, n_features, width, total, max(1, round(total / self.reduction)))


@register_configuration(static=True)
@dataclass(frozen=True)
class BlockSubset:
    """Random blocks of contiguous features, out of about ``n_blocks * reduction`` blocks of one width.

    They are for files from which a step reads only its features (`jax_mmf.write_permuted`), with ``partial_b=True``.
    Blocks are drawn as `UniformSubset` draws features: each is seen once in about r steps.

    Neighbouring features must be unrelated: permute them once (`fit` does). With ``partial_b=True`` a step needs many
    blocks, at least 16: features that are always seen together would be factorized separately from the others. With
    full B a single block is enough.

    Attributes:
      reduction: r >= 1 (static).
      n_blocks: about the number of blocks in a step (static). A step that sees fewer features has a block for each.

    Raises:
      ValueError: if reduction < 1 or n_blocks < 1.
      TypeError: if n_blocks is not a whole number.

    Example:
      >>> import jax_mmf as mmf
      >>> width, n_blocks, n_drawn = mmf.BlockSubset(reduction=4, n_blocks=8).layout(n_features=1024)
      >>> width, n_blocks, n_drawn
      (32, 32, 8)
    """

    reduction: float
    n_blocks: int = N_BLOCKS

    def __post_init__(self) -> None:
        check_real("reduction", self.reduction, low=1.0)
        check_count("n_blocks", self.n_blocks)

    def layout(self, n_features: int) -> tuple[int, int, int]:
        """Divide p features into blocks.

        Args:
          n_features: p.

        Returns:
          the width of a block, the number of blocks, and the number of blocks that a step sees.
        """
        _check_reduction(self.reduction, n_features)
        width = math.ceil(n_features / (self.n_blocks * self.reduction))
        total = -(-n_features // width)
        return width, total, max(1, round(total / self.reduction))

    def draw(self, key: Key, step: Array, n_features: int) -> Subset:
        """Draw random blocks, in ascending order; arguments as in `FeatureSubset.draw`."""
        return _draw(key, step, n_features, *self.layout(n_features))


@register_configuration(static=True)
@dataclass(frozen=True)
class SubsetPerShare:
    """A subset that is drawn separately from equal shares of the features, which are spread over devices.

    No block spans two shares, so gathering and replacing the features of a step needs no communication. `fit` uses this
    class with a mesh.

    Attributes:
      subset: rule for each share (static).
      n_shards: number of shares (static). If it does not divide p, the last shares have fewer features.

    Raises:
      ValueError: if n_shards < 1.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> subset = mmf.SubsetPerShare(mmf.UniformSubset(reduction=2), n_shards=2)
      >>> subset.draw(jax.random.key(0), 0, n_features=8).size
      4
    """

    subset: FeatureSubset
    n_shards: int

    def __post_init__(self) -> None:
        check_count("n_shards", self.n_shards)

    @property
    def reduction(self) -> float:
        """The reduction of the rule."""
        return self.subset.reduction

    @property
    def n_blocks(self) -> int | None:
        """Number of blocks in a step, as in the rule; None if features are drawn one by one."""
        n_blocks = self.subset.n_blocks
        return None if n_blocks is None else n_blocks * self.n_shards

    def draw(self, key: Key, step: Array, n_features: int) -> Subset:
        """Draw a subset of each share; arguments as in `FeatureSubset.draw`.

        Raises:
          ValueError: if a share has fewer features than the reduction, and where the rule raises one.
        """
        size = -(-n_features // self.n_shards)
        if self.reduction > size:
            raise ValueError(
                f"reduction must be at most the number of features on each device, got {self.reduction:g} for {size} "
                f"of {n_features} features on {self.n_shards} devices; use a smaller reduction, or split the samples"
            )
        one = self.subset.draw(key, step, size)
        if one.is_full:
            return FullSubset().draw(key, step, n_features)

        def of_share(number: Array) -> tuple[Array, Array | None]:
            drawn = self.subset.draw(jax.random.fold_in(key, number), step, size)
            return drawn.indices + number * size, drawn.valid

        indices, valid = jax.vmap(of_share)(jnp.arange(self.n_shards, dtype=jnp.int32))
        indices, valid = indices.ravel(), None if valid is None else valid.ravel()
        if n_features % self.n_shards:
            inside = indices < n_features
            valid = inside if valid is None else valid & inside
        return Subset(
            indices=indices,
            reduction=one.reduction,
            valid=valid,
            n_shards=self.n_shards,
            n_features=n_features,
        )


def _draw(key: Key, step: Array, n_features: int, width: int, total: int, drawn: int) -> Subset:
    """Draw some of all blocks of a width; the last block overlaps the previous one if the width does not divide p."""
    if drawn == total:
        return FullSubset().draw(key, step, n_features)
    n_parts = total // drawn
    order = _random_order(jax.random.fold_in(key, step // n_parts), total)
    chosen = jnp.sort(lax.dynamic_slice_in_dim(order, step % n_parts * drawn, drawn))
    if width == 1:
        return Subset(indices=chosen, reduction=total / drawn, n_features=n_features)
    starts = jnp.minimum(chosen * width, n_features - width)
    indices = (starts[:, None] + jnp.arange(width, dtype=jnp.int32)[None]).ravel()
    return Subset(
        indices=indices,
        reduction=total / drawn,
        starts=starts,
        valid=None if total * width == n_features else indices >= jnp.repeat(chosen * width, width),
        width=width,
        n_features=n_features,
    )


def _random_order(key: Key, n: int) -> Array:
    """Return the numbers 0 to n - 1 in a random order: ``(n,)`` int32.

    One sort of numbers whose upper bits are random, which is many times faster than `jax.random.permutation` on CPU.
    Where the random bits are equal, the order is ascending.
    """
    n_bits = (n - 1).bit_length()
    upper = jax.random.bits(key, (n,), jnp.uint32) >> n_bits << n_bits
    ordered = jnp.sort(upper | jnp.arange(n, dtype=jnp.uint32))
    return (ordered & (2**n_bits - 1)).astype(jnp.int32)


def _check_reduction(reduction: float, n_features: int) -> None:
    if reduction > n_features:
        raise ValueError(
            f"reduction must be at most the number of features, got {reduction:g} for {n_features} features; "
            "use a smaller reduction"
        )
