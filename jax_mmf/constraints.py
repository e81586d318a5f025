"""Constraint sets of atoms: balls of an additive gauge, and the simplex.

An atom d is feasible when ``gauge(d) <= radius`` with::

    gauge(d) = l1_ratio |d|_1 + (1 - l1_ratio) |d|_2^2,     optionally with d >= 0.

The square has no factor 1/2 and no root, so the gauge adds up over disjoint sets of features. A step that sees a subset
of the features can therefore keep the whole atom feasible: it projects its part of the atom onto a ball whose radius is
the share of the budget that the other features leave ([TSP18], section III-C).

Atoms may have entries of any size, since nothing is squared before it is scaled. See `jax_mmf.core.projection`.
"""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jax import lax

from jax_mmf.core import check_real, nearest, register_configuration
from jax_mmf.typing import Array, Float


@runtime_checkable
class Constraint(Protocol):
    """A constraint set of atoms, as the dictionary update needs it. Every method takes one atom ``(p,)``.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> ball = mmf.L1Ball(radius=2.0)
      >>> float(ball.gauge(jnp.array([3.0, -1.0]))), float(ball.radius)
      (4.0, 2.0)
    """

    @property
    def radius(self) -> Float:
        """Largest gauge of a feasible atom."""

    @property
    def nonneg(self) -> bool:
        """Whether atoms must be non-negative (static)."""

    def gauge(self, atom: Array) -> Array:
        """Size of an atom, or of a part of it: a scalar that adds up over disjoint sets of features."""

    def project(self, atom: Array, radius: Array | None = None) -> Array:
        """Return the nearest point with ``gauge <= radius``; by default the radius of the set."""

    def scale(self, atom: Array) -> Array:
        """Stretch or shrink an atom so that its gauge is the radius."""


@register_configuration
@dataclass(frozen=True)
class ElasticNetBall:
    """Elastic-net ball: ``l1_ratio |d|_1 + (1 - l1_ratio) |d|_2^2 <= radius``.

    Attributes:
      l1_ratio: share of the l1 norm, in [0, 1]; 0 is the (squared) l2 ball, 1 the l1 ball.
      radius: > 0.
      nonneg: whether atoms must be non-negative (static).

    Raises:
      ValueError: if a value known on the host is out of range.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> ball = mmf.ElasticNetBall(l1_ratio=0.5)
      >>> float(ball.gauge(jnp.array([2.0, 0.0]))), float(ball.gauge(ball.project(jnp.array([2.0, 0.0]))))
      (3.0, 1.0)
    """

    l1_ratio: Float = 0.5
    radius: Float = 1.0
    nonneg: bool = field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        check_real("l1_ratio", self.l1_ratio, low=0.0, high=1.0)
        check_real("radius", self.radius, low=0.0, open_low=True)

    def gauge(self, atom: Array) -> Array:
        """``l1_ratio |d|_1 + (1 - l1_ratio) |d|_2^2``: ``(..., p) -> (...)``."""
        ratio = jnp.asarray(self.l1_ratio, atom.dtype)
        # Not (1 - ratio) * atom**2: with ratio = 1, a square that overflows would give 0 * inf.
        return jnp.sum(ratio * jnp.abs(atom) + (1 - ratio) * atom * atom, -1)

    def project(self, atom: Array, radius: Array | None = None) -> Array:
        """Return the nearest point of the ball.

        Args:
          atom: ``(p,)``.
          radius: of the ball; by default that of the set. Zero gives zeros.

        Returns:
          ``(p,)``.
        """
        atom = _nonneg_part(atom, self.nonneg)
        return _project(atom, self.radius if radius is None else radius, self.l1_ratio)

    def scale(self, atom: Array) -> Array:
        """Stretch or shrink an atom ``(p,)`` so that its gauge is the radius; zeros stay zeros."""
        atom = _nonneg_part(atom, self.nonneg)
        mu = jnp.asarray(self.l1_ratio, atom.dtype)
        zero, atom, _ = _normalised(atom)
        linear, square = mu * jnp.sum(jnp.abs(atom), -1), (1 - mu) * jnp.sum(atom**2, -1)
        # Positive root of square c^2 + linear c = radius, in the form that does not cancel.
        radius = jnp.asarray(self.radius, atom.dtype)
        bottom = linear + jnp.sqrt(jnp.where(zero, 1, linear**2 + 4 * square * radius))
        return jnp.where(zero, 0, atom * (2 * radius / bottom))


@register_configuration
@dataclass(frozen=True)
class L2Ball:
    """Squared l2 ball: ``|d|_2^2 <= radius``, the constraint of classical dictionary learning.

    Attributes:
      radius: bound on the SQUARED norm, > 0.
      nonneg: whether atoms must be non-negative (static).

    Raises:
      ValueError: if radius is known on the host and not positive.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> print(mmf.L2Ball().project(jnp.array([3.0, 4.0])))
      [0.6 0.8]
    """

    radius: Float = 1.0
    nonneg: bool = field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        check_real("radius", self.radius, low=0.0, open_low=True)

    def gauge(self, atom: Array) -> Array:
        """``|d|_2^2``: ``(..., p) -> (...)``."""
        return jnp.sum(atom**2, -1)

    def project(self, atom: Array, radius: Array | None = None) -> Array:
        """Return the nearest point of the ball, in closed form; arguments as in `ElasticNetBall.project`."""
        atom = _nonneg_part(atom, self.nonneg)
        radius = jnp.asarray(self.radius if radius is None else radius, atom.dtype)
        limits, gauge = jnp.finfo(atom.dtype), self.gauge(atom)
        usual = (gauge > limits.tiny / limits.eps) & (gauge < limits.max)
        usual &= (radius >= gauge * limits.tiny) | (radius == 0)
        # If squares, or the ratio of two, are out of range, the normalised atom is used, which costs two more passes.
        point = lax.cond(usual, self._shrink, self._shrink_normalised, atom, radius)
        return jnp.where(radius > 0, point, 0)

    def _shrink(self, atom: Array, radius: Array) -> Array:
        gauge = self.gauge(atom)
        outside = gauge > radius
        # The inner `where` keeps derivatives finite inside the ball and at radius zero.
        ratio = jnp.where(outside & (radius > 0), radius / jnp.where(outside, gauge, 1), 1)
        return atom * jnp.sqrt(ratio)

    def _shrink_normalised(self, atom: Array, radius: Array) -> Array:
        wanted = jnp.sqrt(jnp.where(radius > 0, radius, 1))
        zero, unit, inverse = _normalised(atom)
        norm = jnp.sqrt(jnp.where(zero, 1, jnp.sum(unit**2)))
        return jnp.where(norm > wanted * inverse, unit * (wanted / norm), atom)

    def scale(self, atom: Array) -> Array:
        """Stretch or shrink an atom ``(p,)`` so that its squared norm is the radius; zeros stay zeros."""
        return ElasticNetBall(0.0, self.radius, self.nonneg).scale(atom)


@register_configuration
@dataclass(frozen=True)
class L1Ball:
    """l1 ball: ``|d|_1 <= radius``, for sparse atoms.

    Attributes:
      radius: > 0.
      nonneg: whether atoms must be non-negative (static).

    Raises:
      ValueError: if radius is known on the host and not positive.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> print(mmf.L1Ball().project(jnp.array([2.0, 0.5])))
      [1. 0.]
    """

    radius: Float = 1.0
    nonneg: bool = field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        check_real("radius", self.radius, low=0.0, open_low=True)

    def gauge(self, atom: Array) -> Array:
        """``|d|_1``: ``(..., p) -> (...)``."""
        return jnp.sum(jnp.abs(atom), -1)

    def project(self, atom: Array, radius: Array | None = None) -> Array:
        """Return the nearest point of the ball; arguments as in `ElasticNetBall.project`."""
        atom = _nonneg_part(atom, self.nonneg)
        return _project(atom, self.radius if radius is None else radius, 1.0)

    def scale(self, atom: Array) -> Array:
        """Stretch or shrink an atom ``(p,)`` so that its l1 norm is the radius; zeros stay zeros."""
        return ElasticNetBall(1.0, self.radius, self.nonneg).scale(atom)


@register_configuration
@dataclass(frozen=True)
class Simplex:
    """Simplex: ``d >= 0`` and ``sum(d) = radius``, for atoms that are distributions.

    Attributes:
      radius: > 0.

    Raises:
      ValueError: if radius is known on the host and not positive.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> print(mmf.Simplex().project(jnp.array([1.0, 0.5])))
      [0.75 0.25]
    """

    radius: Float = 1.0

    def __post_init__(self) -> None:
        check_real("radius", self.radius, low=0.0, open_low=True)

    @property
    def nonneg(self) -> bool:
        """True: atoms are non-negative."""
        return True

    def gauge(self, atom: Array) -> Array:
        """``|d|_1``, which on the simplex is the sum: ``(..., p) -> (...)``."""
        return jnp.sum(jnp.abs(atom), -1)

    def project(self, atom: Array, radius: Array | None = None) -> Array:
        """Return the nearest point of the simplex; arguments as in `ElasticNetBall.project`."""
        return _project(atom, self.radius if radius is None else radius, 1.0, equality=True)

    def scale(self, atom: Array) -> Array:
        """Clip an atom ``(p,)`` at zero and scale its sum to the radius; zeros become the uniform distribution."""
        atom = jnp.maximum(atom, 0)
        atom = jnp.where(atom.max() > 0, atom, 1)
        return ElasticNetBall(1.0, self.radius).scale(atom)


def _nonneg_part(atom: Array, nonneg: bool) -> Array:
    return jnp.maximum(atom, 0) if nonneg else atom


def _project(atom: Array, radius: Float, ratio: Float, *, equality: bool = False) -> Array:
    radius, ratio = (jnp.asarray(value, atom.dtype) for value in (radius, ratio))
    positive = radius > 0
    return jnp.where(positive, nearest(equality, atom, jnp.where(positive, radius, 1), ratio)[0], 0)


def _normalised(atom: Array) -> tuple[Array, Array, Array]:
    """Return whether an atom is zero, the atom scaled to a largest entry of about 1, and the scale factor.

    For functions of the direction alone. Derivatives treat the factor as a constant, since its own derivative would
    hold squares of very small or very large numbers.
    """
    largest, info = lax.stop_gradient(jnp.abs(atom).max(initial=0)), jnp.finfo(atom.dtype)
    # Stay in the range in which the inverse is neither infinite nor flushed to zero.
    inverse = 1 / jnp.clip(largest, 4 * info.tiny, info.max / 4)
    return largest == 0, atom * inverse, inverse
