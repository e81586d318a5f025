"""Projection onto an elastic-net ball or a simplex, for entries of any size, and its derivatives.

The projection of d onto ``mu |d|_1 + (1 - mu) |d|_2^2 <= r`` is, with the smallest t >= 0 that makes it feasible::

    path(d, t) = soft(d, mu t) / (1 + 2 (1 - mu) t)

Two facts make it fast and accurate. First, if the set A of entries that stay non-zero is known, t is the root of a
quadratic equation, with n the number of entries in A::

    t + (1 - mu) t^2 = (gauge(d_A) - r) / (n mu^2 + 4 r (1 - mu))

Surplus entries in A make t smaller, never larger. The search therefore starts with all entries, drops those that t sets
to zero, and repeats until none drops (Michelot 1986, for the simplex). Second, the path can be followed in parts:
``path(d, t + s u) = path(path(d, t), u)`` with ``s = 1 + 2 (1 - mu) t``. The first part goes as far as the largest
entry would have to go if it were the only one. After that, no entry is larger than those of a feasible atom, and no
digits are lost to differences of large numbers. The last part removes what rounding has left over.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.typing import Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def nearest(equality: bool, atom: Array, radius: Array, ratio: Array) -> tuple[Array, Array]:
    """Project an atom onto the ball of a gauge, or onto the simplex.

    Args:
      equality: whether to project onto the simplex, with ratio 1. There t may be negative, and entries below it become
        zero.
      atom: ``(p,)``.
      radius: scalar, > 0.
      ratio: scalar mu in [0, 1], the share of the l1 norm.

    Returns:
      the nearest point ``(p,)``, which is the atom itself if it is feasible, and the multiplier t.
    """
    square = 1 - ratio
    stretch_of = lambda t: 1 + 2 * square * t  # noqa: E731
    size = atom if equality else jnp.abs(atom)
    largest = jnp.max(size, initial=-jnp.inf if equality else 0)
    # Size of an entry that is the only one: square alone^2 + ratio alone = radius, in the form that does not cancel.
    alone = 2 * radius / (ratio + jnp.sqrt(ratio**2 + 4 * square * radius))
    far = (largest > alone) | equality
    first = jnp.where(far, (largest - alone) / (ratio + 2 * square * alone), 0)
    size = jnp.where(far, jnp.maximum(alone - (largest - size) * (1 / stretch_of(first)), 0), size)

    def left_by(t: Array) -> _Left:
        stretch = stretch_of(t)
        kept = jnp.maximum(size - ratio * t, 0)
        # Sums as simple as these halve the time on CPU. The `where` avoids 0 * inf if a square overflows.
        squares = jnp.where(square > 0, square / stretch**2 * jnp.sum(kept * kept), 0)
        gauge = ratio / stretch * jnp.sum(kept) + squares
        return _Left(t, jnp.sum((size > ratio * t).astype(size.dtype)), gauge)

    def farther(left: _Left) -> Array:
        """Return how much farther the path goes from there, if no more entries drop."""
        rise = (left.gauge - radius) / (left.n_left * ratio**2 + 4 * radius * square)
        return 2 * rise / (1 + jnp.sqrt(jnp.maximum(1 + 4 * square * rise, 0)))

    def drop(carry: tuple[_Left, Array]) -> tuple[_Left, Array]:
        left, _ = carry
        return left_by(left.t + stretch_of(left.t) * farther(left)), left.n_left

    start = left_by(jnp.zeros_like(radius))
    outside = start.gauge > radius
    # A pass that drops no entry is the last. An atom with NaN never counts as outside, so the loop ends.
    unfinished = lambda carry: (carry[0].n_left < carry[1]) & outside  # noqa: E731
    left, _ = lax.while_loop(unfinished, drop, (start, start.n_left + 1))
    stretch, last = stretch_of(left.t), farther(left)
    kept = jnp.maximum(size - ratio * left.t, 0)
    kept = jnp.where(kept > 0, jnp.maximum(kept - ratio * (stretch * last), 0), 0)
    kept *= 1 / (stretch * stretch_of(last))
    inside = ~(far | outside)
    t = jnp.where(inside, 0, first + stretch_of(first) * (left.t + stretch * last))
    return jnp.where(inside, atom, kept if equality else jnp.sign(atom) * kept), t


class _Left(NamedTuple):
    t: Array
    n_left: Array  # number of entries that t leaves positive
    gauge: Array  # of the atom after t


@nearest.defjvp
def _nearest_jvp(
    equality: bool, primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Differentiate implicitly, at any order: where the constraint binds, the gauge equals the radius."""
    _, _, ratio = primals
    d_atom, d_radius, d_ratio = tangents
    point, t = nearest(equality, *primals)
    stretch, sign, square = 1 + 2 * (1 - ratio) * t, jnp.sign(point), 1 - ratio
    active = (point != 0) if equality else (point != 0) | (ratio * t == 0)
    normal = jnp.where(active, ratio * sign + 2 * square * point, 0)  # gradient of the gauge
    d_free = d_atom - d_ratio * t * (sign - 2 * point)  # with t held fixed
    d_gauge = jnp.sum(normal * d_free) + stretch * (d_ratio * jnp.sum(jnp.abs(point) - point**2) - d_radius)
    length = jnp.sum(normal**2)
    binding = (length > 0) & ((t > 0) | equality)
    d_t = jnp.where(binding, d_gauge / jnp.where(binding, length, 1), 0)
    return (point, t), (jnp.where(active, d_free - normal * d_t, 0) / stretch, d_t)
