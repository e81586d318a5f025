"""Constraint sets of atoms: balls of an additive gauge, and the simplex.

An atom d is feasible when ``gauge(d) <= radius`` with::

    gauge(d) = l1_ratio |d|_1 + (1 - l1_ratio) |d|_2^2,     optionally with d >= 0.

There is no 1/2 on the square and no root: this gauge adds up over disjoint sets of features. That is what lets a step
which sees a subset of the features keep the whole atom feasible: it projects the part that it sees on the ball whose
radius is what the other features leave over ([TSP18], section III-C).

Projections find the multiplier of the constraint by Newton's method on a convex decreasing function, started to the
left of its root: monotone, finite for the l1 ball and the simplex (Michelot 1986), and without a sort.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.pytrees import register_configuration
from jax_mmf.typing import Array, Float
from jax_mmf.validation import check_real

_MAX_NEWTON = 60


@runtime_checkable
class Constraint(Protocol):
    """What the dictionary update needs to know of a constraint set. Every method takes one atom ``(p,)``."""

    @property
    def radius(self) -> Float:
        """Largest gauge of a feasible atom."""

    @property
    def nonneg(self) -> bool:
        """Whether atoms must be non-negative (static)."""

    def gauge(self, atom: Array) -> Array:
        """Size of an atom, or of a part of it: a scalar that adds up over disjoint sets of features."""

    def project(self, atom: Array, radius: Array | None = None) -> Array:
        """Nearest point with ``gauge <= radius``; by default the radius of the set."""

    def scale(self, atom: Array) -> Array:
        """The atom stretched or shrunk so that its gauge is the radius."""


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
        return jnp.sum(ratio * jnp.abs(atom) + (1 - ratio) * atom**2, -1)

    def project(self, atom: Array, radius: Array | None = None) -> Array:
        """Nearest point of the ball.

        Args:
          atom: ``(p,)``.
          radius: of the ball; by default that of the set. Zero gives zeros.

        Returns:
          ``(p,)``.
        """
        atom = _nonneg_part(atom, self.nonneg)
        mu = jnp.asarray(self.l1_ratio, atom.dtype)
        radius = jnp.asarray(self.radius if radius is None else radius, atom.dtype)
        size = jnp.abs(atom)

        # The projection is soft(d, t mu) / (1 + 2 t (1 - mu)) with the smallest t >= 0 that makes it feasible.
        def excess(t: Array, size: Array, radius: Array, mu: Array) -> _Excess:
            stretch = 1 + 2 * t * (1 - mu)
            active = size > t * mu
            kept = jnp.where(active, size - t * mu, 0)
            count, l1, l2 = (jnp.sum(v) for v in (active.astype(size.dtype), kept, kept**2))
            value = mu * l1 / stretch + (1 - mu) * l2 / stretch**2 - radius
            slope = -(mu * mu * count + 2 * (1 - mu) * mu * l1 / stretch) / stretch
            slope -= 2 * (1 - mu) * (mu * l1 + 2 * (1 - mu) * l2 / stretch) / stretch**2
            return _Excess(value, slope, count)

        t = _newton_root(excess, False, size, radius, mu)
        inside = atom - jnp.clip(atom, -t * mu, t * mu)
        return jnp.where(radius > 0, inside / (1 + 2 * t * (1 - mu)), 0)

    def scale(self, atom: Array) -> Array:
        """Stretch or shrink an atom ``(p,)`` so that its gauge is the radius; zeros stay zeros."""
        atom = _nonneg_part(atom, self.nonneg)
        mu = jnp.asarray(self.l1_ratio, atom.dtype)
        # Normalised first, so that squares of large or small data neither overflow nor vanish.
        largest = jnp.abs(atom).max()
        atom = atom / jnp.where(largest > 0, largest, 1)
        linear, square = mu * jnp.sum(jnp.abs(atom), -1), (1 - mu) * jnp.sum(atom**2, -1)
        # Positive root of square c^2 + linear c = radius, in the form that does not cancel.
        radius = jnp.asarray(self.radius, atom.dtype)
        zero = largest == 0
        bottom = linear + jnp.sqrt(jnp.where(zero, 1, linear**2 + 4 * square * radius))
        return jnp.where(zero, 0, atom * (2 * radius / bottom))


@register_configuration
@dataclass(frozen=True)
class L2Ball:
    """Squared l2 ball: ``|d|_2^2 <= radius``, the constraint of classical dictionary learning.

    Attributes:
      radius: > 0; of the SQUARED norm.
      nonneg: whether atoms must be non-negative (static).

    Raises:
      ValueError: if radius is known on the host and not positive.
    """

    radius: Float = 1.0
    nonneg: bool = field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        check_real("radius", self.radius, low=0.0, open_low=True)

    def gauge(self, atom: Array) -> Array:
        """``|d|_2^2``: ``(..., p) -> (...)``."""
        return jnp.sum(atom**2, -1)

    def project(self, atom: Array, radius: Array | None = None) -> Array:
        """Nearest point of the ball, in closed form; arguments as in `ElasticNetBall.project`."""
        atom = _nonneg_part(atom, self.nonneg)
        radius = jnp.asarray(self.radius if radius is None else radius, atom.dtype)
        gauge = self.gauge(atom)
        outside = gauge > radius
        # The inner `where` keeps the derivative of the square root finite inside the ball.
        ratio = jnp.where(outside, radius / jnp.where(outside, gauge, 1), 1)
        return atom * jnp.where(ratio > 0, jnp.sqrt(jnp.where(ratio > 0, ratio, 1)), 0)

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
    """

    radius: Float = 1.0
    nonneg: bool = field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        check_real("radius", self.radius, low=0.0, open_low=True)

    def gauge(self, atom: Array) -> Array:
        """``|d|_1``: ``(..., p) -> (...)``."""
        return jnp.sum(jnp.abs(atom), -1)

    def project(self, atom: Array, radius: Array | None = None) -> Array:
        """Nearest point of the ball; arguments as in `ElasticNetBall.project`."""
        atom = _nonneg_part(atom, self.nonneg)
        radius = jnp.asarray(self.radius if radius is None else radius, atom.dtype)
        threshold = _simplex_threshold(jnp.abs(atom), radius, equality=False)
        return jnp.where(radius > 0, atom - jnp.clip(atom, -threshold, threshold), 0)

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
        """Nearest point of the simplex; arguments as in `ElasticNetBall.project`."""
        radius = jnp.asarray(self.radius if radius is None else radius, atom.dtype)
        threshold = _simplex_threshold(atom, radius, equality=True)
        return jnp.where(radius > 0, jnp.maximum(atom - threshold, 0), 0)

    def scale(self, atom: Array) -> Array:
        """Clip an atom ``(p,)`` at zero and scale its sum to the radius; zeros become the uniform distribution."""
        atom = jnp.maximum(atom, 0)
        atom = jnp.where(atom.max() > 0, atom, 1)
        return ElasticNetBall(1.0, self.radius).scale(atom)


class _Excess(NamedTuple):
    value: Array  # of the convex decreasing function whose root is sought
    slope: Array
    active: Array  # number of entries that the current multiplier leaves non-zero


def _nonneg_part(atom: Array, nonneg: bool) -> Array:
    return jnp.maximum(atom, 0) if nonneg else atom


def _simplex_threshold(values: Array, radius: Array, *, equality: bool) -> Array:
    """The t with ``sum(max(values - t, 0)) = radius``; unless equality is asked for, 0 if that t is negative."""

    def excess(t: Array, values: Array, radius: Array) -> _Excess:
        active = values > t
        count = jnp.sum(active.astype(values.dtype))
        return _Excess(jnp.sum(jnp.where(active, values - t, 0)) - radius, -count, count)

    return _newton_root(excess, equality, values, radius)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _newton_root(function: Callable[..., _Excess], equality: bool, values: Array, radius: Array, *more: Array) -> Array:
    """Root t of a convex decreasing ``function(t, values, radius, *more)``, approached from the left.

    Newton's iterates increase and never pass the root. They stop when the set of active entries repeats and rounding
    moves them no more.

    Returns:
      the root; 0 if the function is not positive there, unless equality is asked for.
    """
    inputs = (values, radius, *more)
    # With every entry of a simplex active, the root of the sum lies to the left of the root sought.
    start = (jnp.sum(values) - radius) / values.shape[-1] if equality else jnp.zeros((), values.dtype)
    first = function(start, *inputs)
    tolerance = 4 * jnp.finfo(values.dtype).eps * radius

    def unfinished(carry: tuple[Array, _Excess, Array, Array]) -> Array:
        _, at, before, n = carry
        return (at.value > 0) & ((at.active != before) | (at.value > tolerance)) & (n < _MAX_NEWTON)

    def body(carry: tuple[Array, _Excess, Array, Array]) -> tuple[Array, _Excess, Array, Array]:
        t, at, _, n = carry
        t_next = t - at.value / jnp.where(at.slope < 0, at.slope, -1)
        after = function(t_next, *inputs)
        # An iterate that rounding no longer moves is the root.
        after = after._replace(value=jnp.where(t_next > t, after.value, 0))
        return t_next, after, at.active, n + 1

    t, last, *_ = lax.while_loop(unfinished, body, (start, first, first.active - 1, jnp.zeros((), jnp.int32)))
    # What the loop leaves is at the level of rounding; a last step takes that too.
    return t - jnp.where((last.value > 0) & (last.slope < 0), last.value / jnp.where(last.slope < 0, last.slope, -1), 0)


@_newton_root.defjvp
def _newton_root_jvp(
    function: Callable[..., _Excess], equality: bool, primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
    """Implicit differentiation: ``dt = -(df / d inputs) / (df / dt)`` where the constraint binds, at any order."""
    t = _newton_root(function, equality, *primals)
    at, d_at = jax.jvp(lambda *inputs: function(t, *inputs), primals, tangents)
    binding = (at.slope < 0) & ((t > 0) | equality)
    return t, jnp.where(binding, -d_at.value / jnp.where(binding, at.slope, -1), 0)
