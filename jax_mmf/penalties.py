"""Penalties on codes: ridge, lasso and elastic net, with and without non-negativity, and the simplex.

All of them except `SimplexCodes` are weighted elastic nets::

    Omega(a) = alpha (l1_ratio |a|_1 + (1 - l1_ratio) / 2 |a|_2^2),     optionally with a >= 0,

and the code solvers use only three attributes of such a `Penalty`: the weights `l1` and `l2`, and `nonneg`. Any class
with these three attributes, registered as a pytree, can be used in the same places.

Any other penalty is a `ProximalPenalty`: it has a value and a proximal operator. Use it with `FISTA` or
`UnrolledFISTA`.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard, TypeVar, cast, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.core import as_real_array, check_methods, check_real, matmul, register_configuration
from jax_mmf.typing import Array, ArrayLike, Float


@runtime_checkable
class Penalty(Protocol):
    """A weighted elastic net: ``l1 |a|_1 + l2 / 2 |a|_2^2``, optionally with ``a >= 0``.

    A penalty may have one more static attribute, ``ridge``: True if ``l1`` is always zero. Without ``nonneg``, its
    codes then have a closed form; with it, they get the defaults of non-negative ridge. A penalty without this
    attribute may have an l1 part.

    Example:
      >>> import jax_mmf as mmf
      >>> penalty = mmf.ElasticNet(alpha=1.0, l1_ratio=0.25)
      >>> penalty.l1, penalty.l2, penalty.nonneg
      (0.25, 0.75, False)
    """

    @property
    def l1(self) -> Float:
        """Weight of the l1 norm: a scalar, or ``(k,)`` with one weight per atom."""

    @property
    def l2(self) -> Float:
        """Weight of half the squared l2 norm: a scalar, or ``(k,)`` with one weight per atom."""

    @property
    def nonneg(self) -> bool:
        """Whether codes must be non-negative (static)."""


@runtime_checkable
class ProximalPenalty(Protocol):
    """Any penalty whose proximal operator is known. Both methods take the code of one sample.

    Codes are differentiated implicitly, through the derivative of the proximal operator, so ``prox`` must be made of
    operations that JAX differentiates. A penalty with the attributes of `Penalty` is treated as one.

    A penalty may have one more method, ``gap(code, gradient)``: an upper bound, at a code ``(k,)`` that ``prox``
    returned, of the difference between the objective and its minimum, given the gradient ``(k,)`` of the squared error.
    Without it there is no duality gap, and solvers stop on the residual of the fixed-point equation instead.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> print(mmf.SimplexCodes().prox(jnp.array([1.0, 0.5]), 1.0))
      [0.75 0.25]
    """

    def value(self, code: Array) -> Array:
        """Value of the penalty at a code ``(k,)``: a scalar."""

    def prox(self, code: Array, step: Array) -> Array:
        """Proximal operator ``argmin_a 1/2 |a - code|^2 + step Omega(a)`` at ``(k,)``, for a scalar ``step > 0``."""


AnyPenalty = Penalty | ProximalPenalty
PenaltyT = TypeVar("PenaltyT", bound=AnyPenalty)

_NO_SCALE = "alpha of ridge must be a number, got a RelativeAlpha: no finite alpha makes ridge codes zero"


@register_configuration
@dataclass(frozen=True)
class RelativeAlpha:
    """A strength as a share of `alpha_max`, independent of the scale of the data: ``Lasso(RelativeAlpha(0.1))``.

    `jax_mmf.fit` replaces it by a number once, at the start of a new run, with the initial dictionary and the first
    samples: ``result.solver`` has that number. In your own loop, call `resolve_alpha`. Before that, the penalty has no
    weights, and encoding with it is an error.

    Attributes:
      share: in (0, 1). At 1, every code is zero; near 0, codes are dense; 0.1 is a good first try.

    Raises:
      ValueError: if share is out of range.

    Example:
      >>> Lasso(RelativeAlpha(0.1))
      Lasso(alpha=RelativeAlpha(share=0.1), nonneg=False)
    """

    share: Float

    def __post_init__(self) -> None:
        check_real("share", self.share, low=0.0, open_low=True)
        if isinstance(self.share, float | int) and self.share >= 1:
            raise ValueError(f"share must be below 1, where all codes are zero, got {self.share!r}; try 0.1")


@register_configuration
@dataclass(frozen=True)
class ElasticNet:
    """Elastic net: ``alpha (l1_ratio |a|_1 + (1 - l1_ratio) / 2 |a|_2^2)``.

    Attributes:
      alpha: strength, >= 0: a scalar, ``(k,)`` with one strength per atom, or a `RelativeAlpha`.
      l1_ratio: share of the l1 norm, in [0, 1]; 0 is ridge, 1 the lasso.
      nonneg: whether codes must be non-negative (static).

    Raises:
      ValueError: if a value known on the host is out of range.

    Example:
      >>> ElasticNet(alpha=0.1, l1_ratio=0.9)
      ElasticNet(alpha=0.1, l1_ratio=0.9, nonneg=False)
    """

    alpha: Float | RelativeAlpha
    l1_ratio: Float = 0.5
    nonneg: bool = field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        check_real("alpha", self.alpha, low=0.0)
        check_real("l1_ratio", self.l1_ratio, low=0.0, high=1.0)
        if isinstance(self.alpha, RelativeAlpha) and isinstance(self.l1_ratio, float | int) and self.l1_ratio == 0:
            raise ValueError(_NO_SCALE)

    @property
    def l1(self) -> Float:
        """Weight of the l1 norm."""
        return _number(self.alpha) * self.l1_ratio

    @property
    def l2(self) -> Float:
        """Weight of half the squared l2 norm."""
        return _number(self.alpha) * (1.0 - self.l1_ratio)


@register_configuration
@dataclass(frozen=True)
class Ridge:
    """Ridge: ``alpha / 2 |a|_2^2``.

    Attributes:
      alpha: strength, >= 0; a scalar, or ``(k,)`` with one strength per atom.
      nonneg: whether codes must be non-negative (static). With ``alpha=0`` this is the code of non-negative matrix
        factorization.

    Raises:
      ValueError: if alpha is known on the host and negative.
      TypeError: if alpha is a `RelativeAlpha`.

    Example:
      >>> Ridge(0.1)
      Ridge(alpha=0.1, nonneg=False)
    """

    alpha: Float
    nonneg: bool = field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        if isinstance(self.alpha, RelativeAlpha):
            raise TypeError(_NO_SCALE)
        check_real("alpha", self.alpha, low=0.0)

    @property
    def ridge(self) -> bool:
        """True: there is no l1 part."""
        return True

    @property
    def l1(self) -> Float:
        """Weight of the l1 norm: 0."""
        return 0.0

    @property
    def l2(self) -> Float:
        """Weight of half the squared l2 norm."""
        return self.alpha


@register_configuration
@dataclass(frozen=True)
class Lasso:
    """Lasso: ``alpha |a|_1``.

    Attributes:
      alpha: strength, >= 0: a scalar, ``(k,)`` with one strength per atom, or a `RelativeAlpha`.
      nonneg: whether codes must be non-negative (static).

    Raises:
      ValueError: if alpha is known on the host and negative.

    Example:
      >>> Lasso(0.1, nonneg=True)
      Lasso(alpha=0.1, nonneg=True)
    """

    alpha: Float | RelativeAlpha
    nonneg: bool = field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        check_real("alpha", self.alpha, low=0.0)

    @property
    def l1(self) -> Float:
        """Weight of the l1 norm."""
        return _number(self.alpha)

    @property
    def l2(self) -> Float:
        """Weight of half the squared l2 norm: 0."""
        return 0.0


@register_configuration
@dataclass(frozen=True)
class SimplexCodes:
    """Codes on the simplex, ``a >= 0`` and ``sum(a) = total``, as the abundances of a mixture.

    With these codes, a sample is a convex combination of atoms, and encoding is fully constrained least squares
    [Heinz and Chang 2001]. It is a `ProximalPenalty` with a duality gap: that of Frank and Wolfe.

    Codes on similar atoms, such as spectra, lose digits in float32. With ``total=1``, you may subtract the same vector,
    such as the mean of the atoms, from samples and atoms: the codes are the same, and more accurate.

    Attributes:
      total: sum of a code, > 0.

    Raises:
      ValueError: if total is known on the host and not positive.
      TypeError: for a `RelativeAlpha`, and at the first code for an array of totals.

    Example:
      >>> import jax_mmf as mmf
      >>> print(mmf.encode(jnp.eye(3), jnp.array([1.0, 0.5, -1.0]), SimplexCodes()))
      [0.75 0.25 0.  ]
    """

    total: Float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.total, RelativeAlpha):
            raise TypeError(f"total must be a number, got {self.total!r}: codes on the simplex have no strength")
        check_real("total", self.total, low=0.0, open_low=True)

    def _total_like(self, code: Array) -> Array:
        total = jnp.asarray(self.total, code.dtype)
        if total.ndim > 0:
            raise TypeError(f"total must be one number for all samples, got an array of shape {total.shape}")
        return total

    def value(self, code: Array) -> Array:
        """Return 0 on the simplex, up to rounding, and infinity elsewhere: ``(k,) -> ()``."""
        total = self._total_like(code)
        near = jnp.abs(code.sum() - total) <= jnp.sqrt(jnp.finfo(code.dtype).eps) * total
        return jnp.where(near & (code >= 0).all(), jnp.zeros((), code.dtype), jnp.inf)

    def prox(self, code: Array, step: Array) -> Array:
        """Return the nearest point of the simplex, which does not depend on the step: ``(k,) -> (k,)``."""
        # All pairs are compared: for the numbers of atoms of mixtures, this is faster than sorting or searching, and a
        # matrix product with k^2 numbers follows anyway.
        code = code - lax.stop_gradient(code.max())
        above = code[None, :] >= code[:, None]
        threshold = (jnp.sum(jnp.where(above, code, 0), 1) - self._total_like(code)) / jnp.sum(
            above, 1, dtype=code.dtype
        )
        return jnp.maximum(code - threshold.max(), 0)

    def gap(self, code: Array, gradient: Array) -> Array:
        """Return ``a . g - total min(g)``, which bounds the error of the objective: ``(k,), (k,) -> ()``."""
        # By differences: both terms may be large.
        return jnp.sum(code * (gradient - gradient.min()))


def _number(alpha: Float | RelativeAlpha) -> Float:
    if isinstance(alpha, RelativeAlpha):
        raise TypeError(
            "alpha is a RelativeAlpha, which has no value yet: use the penalty of the run, result.solver.penalty, or "
            "call jax_mmf.resolve_alpha(penalty, dictionary, x) first"
        )
    return alpha


def has_relative_alpha(penalty: Any) -> bool:
    """Whether the strength of a penalty is a `RelativeAlpha`, which has no value yet."""
    return isinstance(getattr(penalty, "alpha", None), RelativeAlpha)


def is_weighted(penalty: Any) -> TypeGuard[Penalty]:
    """Whether a penalty is a weighted elastic net; if not, it is a `ProximalPenalty`."""
    # Not isinstance: l1 of a RelativeAlpha raises, and that message is the one to show.
    return all(hasattr(type(penalty), name) or name in vars(penalty) for name in ("l1", "l2", "nonneg"))


def is_ridge(penalty: AnyPenalty) -> bool:
    """Whether a penalty is known to have no l1 part, for all values of its numbers."""
    return is_weighted(penalty) and bool(getattr(penalty, "ridge", False))


def has_closed_form(penalty: AnyPenalty) -> TypeGuard[Penalty]:
    """Whether a penalty is known to give codes in closed form, for all values of its numbers."""
    return is_weighted(penalty) and is_ridge(penalty) and not penalty.nonneg


def check_penalty(penalty: Any) -> None:
    """Raise TypeError, with the missing methods, unless an argument is a `Penalty` or a `ProximalPenalty`."""
    proximal = [callable(getattr(type(penalty), name, None)) for name in ("value", "prox")]
    if any(proximal) and not is_weighted(penalty):
        check_methods("penalty", penalty, "proximal penalty", ("value", "prox"))
    else:
        check_methods("penalty", penalty, "penalty", ("l1", "l2", "nonneg"))


def penalty_value(penalty: AnyPenalty, codes: ArrayLike) -> Array:
    """Return the value of a penalty.

    Args:
      penalty: the penalty.
      codes: ``(..., k)``.

    Returns:
      ``(...)``: the value per sample; infinite where a code breaks ``nonneg``.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> float(mmf.penalty_value(mmf.Lasso(0.5), jnp.array([1.0, -3.0])))
      2.0
    """
    codes = as_real_array("codes", codes, ndim=tuple(range(1, 9)))
    if not is_weighted(penalty):
        return jnp.vectorize(cast(ProximalPenalty, penalty).value, signature="(k)->()")(codes)
    l1, l2 = (jnp.asarray(w, codes.dtype) for w in (penalty.l1, penalty.l2))
    value = jnp.sum(l1 * jnp.abs(codes) + 0.5 * l2 * codes**2, axis=-1)
    if penalty.nonneg:
        value = jnp.where((codes < 0).any(-1), jnp.inf, value)
    return value


def shrink(linear: Array, l1: Array, nonneg: bool) -> Array:
    """Soft-threshold: ``sign(linear) max(|linear| - l1, 0)``, or ``max(linear - l1, 0)`` if codes are non-negative."""
    if nonneg:
        return jnp.maximum(linear - l1, 0)
    return linear - jnp.clip(linear, -l1, l1)


def penalty_prox(penalty: AnyPenalty, codes: ArrayLike, step: ArrayLike = 1.0) -> Array:
    """Apply the proximal operator: ``argmin_a 1/2 |a - codes|^2 + step Omega(a)``.

    Args:
      penalty: the penalty.
      codes: ``(..., k)``.
      step: positive scalar.

    Returns:
      ``(..., k)``.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> print(mmf.penalty_prox(mmf.Lasso(0.5), jnp.array([1.0, -3.0])))
      [ 0.5 -2.5]
    """
    codes = as_real_array("codes", codes, ndim=tuple(range(9)))
    step = jnp.asarray(step, codes.dtype)
    if not is_weighted(penalty):
        return jnp.vectorize(cast(ProximalPenalty, penalty).prox, signature="(k),()->(k)")(codes, step)
    l1, l2 = (jnp.asarray(w, codes.dtype) for w in (penalty.l1, penalty.l2))
    return shrink(codes, step * l1, penalty.nonneg) / (1 + step * l2)


def alpha_max(dictionary: ArrayLike, x: ArrayLike, *, l1_ratio: ArrayLike = 1.0, nonneg: bool = False) -> Array:
    """Return the smallest alpha for which every code is zero: ``max |x D^T| / l1_ratio``.

    Args:
      dictionary: ``(k, p)``.
      x: ``(p,)`` or ``(n, p)``.
      l1_ratio: of the elastic net; 1 is the lasso. For 0, ridge, the result is infinity: ridge codes are never zero.
      nonneg: whether codes are non-negative.

    Returns:
      a scalar: the maximum over all samples.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> float(mmf.alpha_max(jnp.eye(2), jnp.array([1.0, -4.0])))
      4.0
    """
    dictionary = as_real_array("dictionary", dictionary, ndim=(2,))
    x = as_real_array("x", x, ndim=(1, 2), dtype=dictionary.dtype)
    correlation = matmul(x, dictionary.T)
    largest = jnp.maximum(correlation.max(), 0) if nonneg else jnp.abs(correlation).max()
    ratio = jnp.asarray(l1_ratio, correlation.dtype)
    return jnp.where(ratio > 0, largest / jnp.where(ratio > 0, ratio, 1), jnp.inf)


def resolve_alpha(penalty: PenaltyT, dictionary: ArrayLike, x: ArrayLike) -> PenaltyT:
    """Replace a `RelativeAlpha` by a number, its share of `alpha_max`.

    Args:
      penalty: any penalty; one without a `RelativeAlpha` is returned unchanged.
      dictionary: ``(k, p)``, such as the initial one.
      x: ``(p,)`` or ``(n, p)``, such as the first samples.

    Returns:
      the penalty. Its alpha is a float, or traced where an argument is.

    Raises:
      ValueError: for shapes that do not fit.

    Example:
      >>> resolve_alpha(Lasso(RelativeAlpha(0.25)), jnp.eye(2), jnp.array([[1.0, -4.0]]))
      Lasso(alpha=1.0, nonneg=False)
    """
    if not has_relative_alpha(penalty):
        return penalty
    if not isinstance(penalty, Lasso | ElasticNet):
        raise TypeError(
            f"only Lasso and ElasticNet take a RelativeAlpha; give {type(penalty).__name__} a number as alpha"
        )
    assert isinstance(penalty.alpha, RelativeAlpha)
    l1_ratio = penalty.l1_ratio if isinstance(penalty, ElasticNet) else 1.0
    alpha = penalty.alpha.share * alpha_max(dictionary, x, l1_ratio=l1_ratio, nonneg=penalty.nonneg)
    return dataclasses.replace(penalty, alpha=alpha if isinstance(alpha, jax.core.Tracer) else float(alpha))
