"""Forgetting: how much a mini-batch weighs against everything seen before it.

The statistics of a factorization are ``S <- (1 - w) S + w (mean over the batch)``, and a forgetting rule gives w. It
is a setting of its own, and it matters: slow forgetting keeps codes that were computed in early, bad dictionaries; fast
forgetting keeps the noise of the last batches. All numbers may be traced.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp

from jax_mmf.pytrees import register_configuration
from jax_mmf.typing import Array, Float
from jax_mmf.validation import check_real


@runtime_checkable
class Forgetting(Protocol):
    """A pytree that gives the weight of a mini-batch."""

    def weight(self, n_before: Array, batch_size: int) -> Array:
        """Weight in (0, 1] of a batch.

        Args:
          n_before: scalar, number of samples seen before the batch.
          batch_size: number of samples in the batch (static).

        Returns:
          a scalar.
        """


@register_configuration
@dataclass(frozen=True)
class PowerForgetting:
    """Sample i weighs ``i^-exponent``: ``w = 1 - prod_i (1 - i^-exponent)`` over the batch ([TSP18], [JMLR10]).

    The convergence proof of [TSP18] asks for an exponent in (11/12, 1]; its experiments used 0.9. Lower ones are
    allowed, and often converge far sooner.

    Attributes:
      exponent: > 0; 1 is the plain average over all samples.

    Raises:
      ValueError: if the exponent is known on the host and not positive.
    """

    exponent: Float = 0.9

    def __post_init__(self) -> None:
        check_real("exponent", self.exponent, low=0.0, open_low=True)

    def weight(self, n_before: Array, batch_size: int) -> Array:
        """Weight of a batch; arguments as in `Forgetting.weight`."""
        exponent = jnp.asarray(self.exponent, jnp.result_type(self.exponent, float))
        index = n_before + 1 + jnp.arange(batch_size, dtype=exponent.dtype)
        # In logarithms, since 1 - i^-u rounds to 1 in single precision long before a terabyte is through. The first
        # sample of all, of weight 1, has no logarithm.
        share = jnp.where(index > 1, index, 2) ** -exponent
        kept = jnp.sum(jnp.log1p(-jnp.where(index > 1, share, 0)))
        return jnp.where(n_before > 0, -jnp.expm1(kept), 1)


@register_configuration
@dataclass(frozen=True)
class ScaledForgetting:
    """``w = c b / (n + c b)`` for a batch of b samples after n: ``c / (t + c)`` after t batches of one size.

    Statistics are averages in which sample i weighs ``i^(c - 1)``: whatever the number of samples, the last 1/c of
    them counts most. ``scale=1`` is the plain average; no other scale is in the range of the proof of [TSP18].

    Attributes:
      scale: c, > 0.

    Raises:
      ValueError: if the scale is known on the host and not positive.
    """

    scale: Float = 8.0

    def __post_init__(self) -> None:
        check_real("scale", self.scale, low=0.0, open_low=True)

    def weight(self, n_before: Array, batch_size: int) -> Array:
        """Weight of a batch; arguments as in `Forgetting.weight`."""
        scaled = jnp.asarray(self.scale) * batch_size
        return scaled / (n_before + scaled)


@register_configuration
@dataclass(frozen=True)
class ConstantForgetting:
    """Every sample weighs the same against those before it, for endless streams: ``w = 1 - (1 - rate)^b``.

    The memory is about ``1 / rate`` samples long. Outside of the range of the proof of [TSP18].

    Attributes:
      rate: weight of one sample, in (0, 1].

    Raises:
      ValueError: if the rate is known on the host and out of range.
    """

    rate: Float = 1e-3

    def __post_init__(self) -> None:
        check_real("rate", self.rate, low=0.0, high=1.0, open_low=True)

    def weight(self, n_before: Array, batch_size: int) -> Array:
        """Weight of a batch; arguments as in `Forgetting.weight`."""
        rate = jnp.asarray(self.rate, jnp.result_type(self.rate, float))
        return -jnp.expm1(batch_size * jnp.log1p(-rate))
