"""Forgetting: the weight of a mini-batch relative to all samples before it.

Each step updates the moments of the surrogate as ``S <- (1 - w) S + w (mean over the batch)``, and a forgetting rule
gives w. Its choice matters: slow forgetting keeps codes from early, poor dictionaries; fast forgetting keeps the noise
of the last batches. All numbers may be traced.

The number of samples seen is an int32 that stops at 2^31 - 1. From there on the weight of a batch no longer falls: the
memory stays about that many samples long.
"""

import numbers
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jax import lax

from jax_mmf.core import check_real, register_configuration
from jax_mmf.defaults import FORGETTING_SCALE
from jax_mmf.typing import Array, Float

_CHUNK = 256  # samples per iteration of the loop over a batch of traced size


@runtime_checkable
class Forgetting(Protocol):
    """Rule for the weight of a mini-batch: a pytree.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> round(float(mmf.ScaledForgetting(1.0).weight(jnp.int32(90), 10)), 3)
      0.1
    """

    def weight(self, n_before: Array, batch_size: int | Array) -> Array:
        """Return the weight of a batch, in (0, 1].

        Args:
          n_before: int32 scalar, number of samples seen before the batch, or 2^31 - 1 if there were more: adding
            integers to it may overflow, so convert it to a floating dtype first.
          batch_size: number of samples in the batch: an int (static), or an int32 scalar (concrete or traced), with one
            compiled program for all sizes.

        Returns:
          a scalar.
        """


@register_configuration
@dataclass(frozen=True)
class PowerForgetting:
    """Weight ``i^-exponent`` of sample i: ``w = 1 - prod_i (1 - i^-exponent)`` over the batch ([TSP18], [JMLR10]).

    The convergence proof of [TSP18] requires an exponent in (11/12, 1]; its experiments used 0.9. Lower exponents are
    allowed, and often converge much faster.

    Attributes:
      exponent: > 0; 1 is the plain average over all samples.

    Raises:
      ValueError: if the exponent is known on the host and not positive.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> round(float(mmf.PowerForgetting(1.0).weight(jnp.int32(90), 10)), 3)
      0.1
    """

    exponent: Float = 0.9

    def __post_init__(self) -> None:
        check_real("exponent", self.exponent, low=0.0, open_low=True)

    def weight(self, n_before: Array, batch_size: int | Array) -> Array:
        """Return the weight of a batch; arguments as in `Forgetting.weight`.

        Reverse-mode derivatives in the exponent need a batch size that is an int, since a traced one is processed by a
        loop.
        """
        exponent = _floating(self.exponent)
        seen = jnp.asarray(n_before, exponent.dtype)

        # Logarithms are summed, since 1 - i^-u rounds to 1 in single precision on large data sets. The very first
        # sample is left out: its weight is 1, and log(1 - 1) is infinite.
        def kept(of_batch: Array, counts: Array | bool) -> Array:
            index = seen + 1 + of_batch.astype(seen.dtype)
            counts &= index > 1
            share = jnp.where(counts, index, 2) ** -exponent
            return jnp.sum(jnp.log1p(-jnp.where(counts, share, 0)))

        if isinstance(batch_size, numbers.Integral):
            total = kept(jnp.arange(batch_size), True)
        else:

            def add(chunk: Array, total: Array) -> Array:
                of_batch = chunk * _CHUNK + jnp.arange(_CHUNK)
                return total + kept(of_batch, of_batch < batch_size)

            total = lax.fori_loop(0, -(-batch_size // _CHUNK), add, jnp.zeros((), seen.dtype))
        return jnp.where(seen > 0, -jnp.expm1(total), 1)


@register_configuration
@dataclass(frozen=True)
class ScaledForgetting:
    """Weight ``w = c b / (n + c b)`` of a batch of b samples after n others: ``c / (t + c)`` after t equal batches.

    The moments are averages in which sample i has weight ``i^(c - 1)``: the last 1/c of the samples counts most,
    however many there are. ``scale=1`` is the plain average, and the only scale that the proof of [TSP18] covers.

    Attributes:
      scale: c, > 0.

    Raises:
      ValueError: if the scale is known on the host and not positive.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> round(float(mmf.ScaledForgetting(8.0).weight(jnp.int32(64), 8)), 3)
      0.5
    """

    scale: Float = FORGETTING_SCALE

    def __post_init__(self) -> None:
        check_real("scale", self.scale, low=0.0, open_low=True)

    def weight(self, n_before: Array, batch_size: int | Array) -> Array:
        """Return the weight of a batch; arguments as in `Forgetting.weight`."""
        scaled = _floating(self.scale) * batch_size
        return scaled / (jnp.asarray(n_before, scaled.dtype) + scaled)


@register_configuration
@dataclass(frozen=True)
class ConstantForgetting:
    """Constant weight of every new sample, for endless streams: ``w = 1 - (1 - rate)^b``.

    The memory is about ``1 / rate`` samples long. The proof of [TSP18] does not cover this rule.

    Attributes:
      rate: weight of one sample, in (0, 1].

    Raises:
      ValueError: if the rate is known on the host and out of range.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> round(float(mmf.ConstantForgetting(0.5).weight(jnp.int32(0), 2)), 3)
      0.75
    """

    rate: Float = 1e-3

    def __post_init__(self) -> None:
        check_real("rate", self.rate, low=0.0, high=1.0, open_low=True)

    def weight(self, n_before: Array, batch_size: int | Array) -> Array:
        """Return the weight of a batch; arguments as in `Forgetting.weight`."""
        rate = _floating(self.rate)
        return -jnp.expm1(batch_size * jnp.log1p(-rate))


def _floating(value: Float) -> Array:
    return jnp.asarray(value, jnp.result_type(value, float))
