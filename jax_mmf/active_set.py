"""Active sets: codes solved exactly on their support, which grows and shrinks by an atom at a time."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

from jax_mmf.compiled_loop import compiled_loop
from jax_mmf.duality import Gap, Weights
from jax_mmf.typing import Array
from jax_mmf.vectors import (
    FIRST,
    SEARCHED,
    WIDTH,
    add_rank_one,
    any_of,
    ceil_div,
    clear,
    cut,
    each,
    get,
    largest,
    loop,
    order_of,
    paste,
    positions,
    put,
    put_vector,
    row_of,
    sum_vectors,
    times,
    tree,
    vector,
    whole_row,
)

_SHARE = 0.7  # of the largest violation: atoms that violate optimality by more are tried before all are priced again
_REFINEMENTS = 2  # of the target for rounding
_ROWS = 4  # of the Gram matrix per pass over the correlations


class Supports(NamedTuple):
    """What `solve_supports` found.

    Attributes:
      codes: ``(b, k)``.
      gap: duality gaps relative to the objective, ``(b,)`` each; no bound where an l1 weight is zero.
      n_rounds: ``(b,)`` changes of the support; int32.
    """

    codes: Array
    gap: Gap
    n_rounds: Array


class _Sample(NamedTuple):
    """A problem: correlations and Gram matrix are padded with zeros to a whole number of vectors."""

    gram: Array  # (..., q) rows of all Gram matrices, with the l2 penalty on their diagonals
    first_row: Array  # of the Gram matrix of this sample
    beta: Array  # (q,)
    sq_norm: Array
    l1: Array  # (q,)
    per_l1: Array  # (q,)
    nonneg: bool
    tol: Array


class _Support(NamedTuple):
    """Active atoms, in slots of which those with a sign of 0 are free. What is to be thrown away goes to slot m."""

    n_slots: Array  # those from here on have never been used
    atoms: Array  # (m + 32,)
    sign: Array  # (m + 32,) that the coefficient must have
    feasible: Array  # (m + 32,) coefficients with the right signs
    target: Array  # (m + 32,) minimum for these atoms and signs, whose own signs may be wrong
    inverse: Array  # (m, m) of the Gram matrix of the active atoms; zero elsewhere
    any_wrong: Array  # whether a target has the wrong sign
    n_entered: Array  # atoms that entered since all were priced
    n_rounds: Array


class _Prices(NamedTuple):
    """What all atoms would gain."""

    correlation: Array  # (q,) with the residual; zero for atoms that are active or were tried
    threshold: Array  # of violations that are worth trying
    close: Array  # the gap is within tolerance and rounding
    solved: Array  # no atom has to enter, or none can
    n_refined: Array  # how often the target was corrected since an atom entered
    gap: Gap  # () each


class _Entry(NamedTuple):
    """How an atom that is tried depends on those that are active."""

    column: Array  # (m + 32,) coefficients of the active atoms that come nearest to it
    sign: Array  # that its own coefficient would have
    dependent: Array  # whether it could not enter because it is a combination of them


class _Trial(NamedTuple):
    """Atoms that are tried one after another."""

    support: _Support
    correlation: Array  # (q,) zero for those that were tried
    violation: Array  # the largest that is left
    atom: Array  # where it is
    waits: Array  # whether the atom enters next whatever its violation, another one has made way for it
    value: Array  # with which it then enters


def solve_supports(gram: Array, beta: Array, sq_norm: Array, weights: Weights, tol: Array, init: Array) -> Supports:
    """Codes of samples by the feature-sign search of Lee et al. (2006), one sample after another.

    Each round moves a sample from its feasible codes towards the minimum on its support. The first coefficient that
    would change its sign leaves the support; if there is none, an atom that violates the optimality condition enters.
    Either is an update of rank one of the inverse Gram matrix of the support. The objective decreases in every round,
    so the search ends. The correlations of all atoms with the residual cost more than a round: they are computed once
    for all atoms that violate the condition by much, and whether one of these still does, when its turn comes, takes a
    product with its row of the Gram matrix only.

    A loop over scalars and vectors of a few dozen numbers: fast where it is compiled into one kernel, on CPU.

    Args:
      gram: ``(k, k)``, or ``(b, k, k)``.
      beta: ``(b, k)`` correlations.
      sq_norm: ``(b,)``.
      weights: of the penalty.
      tol: relative duality gap at which a sample is done.
      init: ``(b, k)`` codes to start from.
    """
    l1, l2 = weights.l1[:, 0], weights.l2[:, 0]
    dtype = jnp.promote_types(beta.dtype, jnp.float32)  # the search orders numbers of fewer bits badly
    tol = jnp.broadcast_to(tol, sq_norm.shape)
    arrays = [a.astype(dtype) for a in (gram + jnp.diag(l2), beta, sq_norm, l1, tol, init)]
    search = compiled_loop(
        lambda *args: _solve_all(*args, nonneg=weights.nonneg),
        ("k l" if gram.ndim == 2 else "b k l") + ", b k, b, k, b, b k -> b k, b, b, b",
        ("k", "l"),
    )
    codes, relative, rounding, n_rounds = sequential_vmap(search)(*arrays)
    return Supports(codes.astype(beta.dtype), Gap(relative.astype(beta.dtype), rounding.astype(beta.dtype)), n_rounds)


def _solve_all(
    gram: Array, beta: Array, sq_norm: Array, l1: Array, tol: Array, init: Array, *, nonneg: bool
) -> tuple[Array, Array, Array, Array]:
    b, k = beta.shape
    pad = _padded(k) - k
    per_l1 = 1 / jnp.maximum(l1, jnp.finfo(l1.dtype).tiny * 2**24)
    gram = jnp.pad(gram, [(0, 0)] * (gram.ndim - 1) + [(0, pad)])
    beta, init = (jnp.pad(a, [(0, 0), (0, pad)]) for a in (beta, init))
    l1, per_l1 = jnp.pad(l1, (0, pad)), jnp.pad(per_l1, (0, pad))
    room = ceil_div(k, WIDTH) * WIDTH
    n_own = k if gram.ndim == 3 else 0
    gram = gram.reshape(-1, k + pad)

    def solve(n: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        inverse, codes, relative, rounding, n_rounds = carry
        sample = _Sample(gram, n * n_own, whole_row(beta, n), get(sq_norm, n), l1, per_l1, nonneg, get(tol, n))
        found, support = _solve_one(sample, _nobody(room, inverse), whole_row(init, n))
        return (
            clear(support.inverse, support.n_slots),
            paste(codes, lax.expand_dims(_scatter(support, k + pad), (0,)), (n, FIRST)),
            put(relative, n, found.gap.relative),
            put(rounding, n, found.gap.rounding),
            put(n_rounds, n, support.n_rounds),
        )

    start = (
        jnp.zeros((room, room), beta.dtype),
        jnp.zeros_like(beta),
        *(jnp.zeros_like(sq_norm) for _ in Gap._fields),
        jnp.zeros((b,), jnp.int32),
    )
    _, codes, relative, rounding, n_rounds = loop(b, solve, start)
    return codes[:, :k], relative, rounding, n_rounds


def _solve_one(sample: _Sample, support: _Support, init: Array) -> tuple[_Prices, _Support]:
    """The support of a sample, from an empty one, and how good it is."""
    if sample.nonneg:
        init = jnp.maximum(init, 0)
    unsolved = Gap(*(jnp.zeros((), init.dtype) for _ in Gap._fields))
    no = jnp.zeros((), bool)
    first = _Prices(init, jnp.zeros((), init.dtype), no, no, jnp.zeros((), jnp.int32), unsolved)
    warm = largest(_size(init, sample)) > 0

    def go_on(carry: tuple[_Prices, _Support, Array, Array]) -> Array:
        prices, support, _, _ = carry
        return ~prices.solved & (support.n_rounds < 8 * support.inverse.shape[0])

    def body(carry: tuple[_Prices, _Support, Array, Array]) -> tuple[_Prices, _Support, Array, Array]:
        before, support, starting, has_start = carry
        prices = _price(sample, support, before.n_refined)
        support = support._replace(n_entered=jnp.zeros((), jnp.int32))
        support = _refine(sample, support, prices.correlation, jnp.where(prices.n_refined > 0, support.n_slots, 0))
        # Codes to start from enter as they are, one by one, before any leaves.
        tiny = jnp.finfo(init.dtype).tiny
        correlation = jnp.where(starting, init, prices.correlation)
        threshold = jnp.where(starting, tiny, prices.threshold)
        nothing = jnp.zeros((), bool), jnp.zeros((), init.dtype)

        def attempt(trial: _Trial) -> _Trial:
            forced = starting | trial.waits
            value = jnp.where(trial.waits, trial.value, get(init, trial.atom))
            allowed = trial.waits | (trial.violation >= threshold)
            support, entry = _enter(sample, trial.support, trial.atom, value, allowed, forced)
            correlation = put(trial.correlation, trial.atom, jnp.zeros((), init.dtype))
            violation, atom = _most_violating(sample, correlation)
            leaving = ~starting | (violation < threshold)

            def somebody_leaves(carry: tuple[_Support, Array, Array, Array]) -> Array:
                support, makes_way, waits, _ = carry
                return makes_way | (support.any_wrong & leaving & ~waits)

            def leave(carry: tuple[_Support, Array, Array, Array]) -> tuple[_Support, Array, Array, Array]:
                support, makes_way, _, _ = carry
                support, way = _leave(support, entry, makes_way)
                waits = makes_way & jnp.isfinite(way)
                # A way of no length still has a direction.
                return support, jnp.zeros((), bool), waits, jnp.where(waits, entry.sign * jnp.maximum(way, tiny), 0)

            support, _, waits, value = lax.while_loop(somebody_leaves, leave, (support, entry.dependent, *nothing))
            return _Trial(support, correlation, violation, jnp.where(waits, trial.atom, atom), waits, value)

        def more(trial: _Trial) -> Array:
            return (trial.violation >= threshold) | trial.support.any_wrong | trial.waits

        trial = _Trial(support, correlation, *_most_violating(sample, correlation), *nothing)
        trial = lax.while_loop(more, attempt, trial)
        # Where a start leads to a support that no atom can enter and that is not the best, the search starts from zero.
        solved = prices.solved & ~starting
        stuck = solved & ~prices.close & has_start
        return (
            prices._replace(solved=solved & ~stuck),
            _empty(trial.support, stuck),
            jnp.zeros((), bool),
            has_start & ~stuck,
        )

    prices, support, _, _ = lax.while_loop(go_on, body, (first, support, warm, warm))
    return prices, support


def _price(sample: _Sample, support: _Support, n_refined: Array) -> _Prices:
    """Correlations of all atoms with the residual of the target, and the duality gap."""

    def product(i: Array, correlation: Array) -> Array:
        atoms, coefficients = (each(cut(a, (i * _ROWS,), (_ROWS,))) for a in (support.atoms, support.target))
        for atom, coefficient in zip(atoms, coefficients, strict=True):
            correlation = correlation - coefficient * _gram_row(sample, atom)
        return correlation

    # The first rows are taken by themselves: a loop that starts from beta would copy it, number by number.
    correlation = product(jnp.zeros((), jnp.int32), sample.beta)
    correlation = loop(ceil_div(support.n_slots, _ROWS), product, correlation, first=1)
    overshoot = jnp.maximum(largest(_size(correlation, sample)), 1)

    def collect(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        linear, along, penalty = carry
        atom, coefficient = get(support.atoms, i), get(support.target, i)
        return (
            linear + coefficient * get(sample.beta, atom),
            along + coefficient * get(correlation, atom),
            penalty + get(sample.l1, atom) * jnp.abs(coefficient),
        )

    zero = jnp.zeros((), correlation.dtype)
    linear, along, penalty = loop(support.n_slots, collect, (zero, zero, zero))

    # As in `duality_gap`, with the residual scaled to be feasible.
    residual = jnp.maximum(sample.sq_norm - linear - along, 0)
    shift = 1 - 1 / overshoot
    excess = jnp.maximum(penalty - along + shift * along + shift**2 * residual / 2, 0)
    scale = jnp.maximum(residual / 2 + penalty, sample.sq_norm / 2000)
    scale = jnp.where(scale > 0, scale, 1)
    gap = Gap(excess / scale, 8 * jnp.finfo(scale.dtype).eps * sample.sq_norm / scale)

    # Where no atom could enter, what is left of the gap is rounding of the target: it is corrected.
    close = (gap.relative <= sample.tol + gap.rounding) & (sample.tol > 0)
    stuck = support.n_entered == 0
    solved = close | (stuck & (n_refined == _REFINEMENTS))
    refine = stuck & ~solved

    def mask(i: Array, correlation: Array) -> Array:
        atom = get(support.atoms, i)
        return put(correlation, atom, jnp.where(get(support.sign, i) != 0, 0, get(correlation, atom)))

    correlation = loop(jnp.where(refine, 0, support.n_slots), mask, correlation)
    most = largest(_size(correlation, sample))
    threshold = jnp.where(solved | refine, jnp.inf, jnp.maximum(_SHARE * most + (1 - _SHARE), 1))
    return _Prices(correlation, threshold, close, solved, jnp.where(refine, n_refined + 1, 0), gap)


def _refine(sample: _Sample, support: _Support, correlation: Array, n: Array) -> _Support:
    """Correct the target by what the correlations of the active atoms, in the first n slots, are off."""

    def collect(i: Array, error: Array) -> Array:
        atom, sign = get(support.atoms, i), get(support.sign, i)
        return put(error, i, jnp.where(sign != 0, get(correlation, atom) - get(sample.l1, atom) * sign, 0))

    error = loop(n, collect, jnp.zeros_like(support.target))
    one = jnp.ones((), error.dtype)
    return _move_target(support, one, times(support.inverse, error, n), n, jnp.zeros((), bool))


def _enter(
    sample: _Sample, support: _Support, atom: Array, value: Array, allowed: Array, forced: Array
) -> tuple[_Support, _Entry]:
    """Let an atom enter if it violates optimality, or with a value if it is forced to."""
    room = support.inverse.shape[0]
    row, correlation, free = _relate(sample, support, atom)
    l1, curvature = get(sample.l1, atom), get(_gram_row(sample, atom), atom)
    beyond = (correlation if sample.nonneg else jnp.abs(correlation)) - l1
    eps, tiny = jnp.finfo(l1.dtype).eps, jnp.finfo(l1.dtype).tiny
    wanted = allowed & (forced | (beyond > 4 * eps * jnp.sqrt(curvature * sample.sq_norm)))
    wanted = wanted & (curvature > tiny / eps) & (free < room)

    n = jnp.where(wanted, support.n_slots, 0)
    column = times(support.inverse, row, n)
    along = sum_vectors(n, lambda c: vector(row, c) * vector(column, c), row.dtype)
    distance = curvature - along  # of the atom to the span of the others, squared
    enters = wanted & (distance > 100 * eps * curvature)

    slot = jnp.where(enters, free, room)
    n_slots = jnp.where(enters, jnp.maximum(support.n_slots, slot + 1), support.n_slots)
    n = jnp.where(enters, n_slots, 0)
    direction = put(column, slot, -1)
    scale = 1 / jnp.where(enters, distance, 1)
    sign = jnp.sign(jnp.where(forced, value, correlation))
    support = support._replace(
        n_slots=n_slots,
        atoms=put(support.atoms, slot, atom),
        sign=put(support.sign, slot, sign),
        feasible=put(support.feasible, slot, jnp.where(forced, value, 0)),
        inverse=add_rank_one(support.inverse, scale, direction, n, jnp.full((), -1, jnp.int32)),
        n_entered=support.n_entered + enters,
        n_rounds=support.n_rounds + enters,
    )
    support = _move_target(support, -scale * (correlation - sign * l1), direction, n, forced)
    return support, _Entry(column, jnp.sign(correlation), wanted & ~enters & ~forced)


def _relate(sample: _Sample, support: _Support, atom: Array) -> tuple[Array, Array, Array]:
    """Products of an atom with the active ones, its correlation with the residual of the target, and a free slot."""

    def gather(c: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        row, correlation, free = carry
        active = vector(support.sign, c) != 0
        entries = jnp.where(active, _gram_entries(sample, atom, vector(support.atoms, c)), 0)
        slots = jnp.where(active, support.inverse.shape[0], positions(c))
        correlation = correlation - tree(jnp.add, entries * vector(support.target, c))
        return put_vector(row, c, entries), correlation, jnp.minimum(free, tree(jnp.minimum, slots))

    start = (jnp.zeros_like(support.target), get(sample.beta, atom), support.n_slots)
    return loop(ceil_div(support.n_slots, WIDTH), gather, start)


def _leave(support: _Support, entry: _Entry, makes_way: Array) -> tuple[_Support, Array]:
    """Move the feasible codes until a coefficient would change its sign, and let that one go.

    They move towards the target. Or they make way for an atom that is a combination of them: its coefficient grows and
    theirs shrink, without a change of what the code stands for, which makes the penalty smaller until one is zero.

    Returns:
      the support, and the length of the way; infinite if no coefficient would change its sign.
    """

    def step(c: Array, feasible: Array) -> Array:
        return jnp.where(makes_way, -entry.sign * vector(entry.column, c), vector(support.target, c) - feasible)

    way, slot = _first_zero(support, step, support.n_slots)
    n = jnp.where(jnp.isfinite(way), support.n_slots, 0)
    return _remove(_go(support, step, way, slot, n), slot, n), way


def _first_zero(support: _Support, step: Callable[[Array, Array], Array], n: Array) -> tuple[Array, Array]:
    """How many steps from the feasible codes until a coefficient in the first n slots is zero, and its slot."""

    def first(c: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        shortest, slot = carry
        feasible = vector(support.feasible, c)
        move = step(c, feasible)
        shrinks = move * vector(support.sign, c) < 0
        order = order_of(jnp.abs(jnp.where(shrinks, feasible / jnp.where(shrinks, move, 1), jnp.inf)))
        least = tree(jnp.minimum, order)
        here = tree(jnp.minimum, jnp.where(order == least, jnp.arange(WIDTH, dtype=jnp.int32), WIDTH))
        return jnp.minimum(shortest, least), jnp.where(least < shortest, c * WIDTH + here, slot)

    never = order_of(jnp.full((), jnp.inf, support.feasible.dtype))
    shortest, slot = loop(ceil_div(n, WIDTH), first, (never, jnp.zeros((), jnp.int32)))
    return lax.bitcast_convert_type(shortest, support.feasible.dtype), slot


def _go(support: _Support, step: Callable[[Array, Array], Array], way: Array, zero: Array, n: Array) -> _Support:
    """Move the feasible codes, where one of them becomes zero exactly."""

    def move(c: Array, feasible: Array) -> Array:
        other = positions(c) != zero
        old = vector(feasible, c)
        return put_vector(feasible, c, jnp.where(other, old + way * step(c, old), 0))

    return support._replace(feasible=loop(ceil_div(n, WIDTH), move, support.feasible))


def _remove(support: _Support, slot: Array, n: Array) -> _Support:
    """Let the atom of a slot go; nothing if n, the number of slots in use, is 0."""
    column = row_of(support.inverse, slot, n)
    scale = -1 / jnp.where(n > 0, get(column, slot), 1)
    move = scale * get(support.target, slot)
    sign = put(support.sign, jnp.where(n > 0, slot, support.inverse.shape[0]), 0)

    def aim(c: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        target, wrong = carry
        stays = positions(c) != slot
        new = jnp.where(stays, vector(target, c) + move * vector(column, c), 0)
        return put_vector(target, c, new), wrong | any_of(new * vector(sign, c) < 0)

    start = (support.target, support.any_wrong & (n == 0))
    target, any_wrong = loop(ceil_div(n, WIDTH), aim, start)
    return support._replace(
        sign=sign,
        target=target,
        inverse=add_rank_one(support.inverse, scale, column, n, slot),
        any_wrong=any_wrong,
        n_rounds=support.n_rounds + (n > 0),
    )


def _move_target(support: _Support, scale: Array, direction: Array, n: Array, keep_feasible: Array) -> _Support:
    """Add to the targets of the first n slots; the old ones are feasible, unless told otherwise."""

    def step(c: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        feasible, target, wrong = carry
        old = vector(target, c)
        new = old + scale * vector(direction, c)
        feasible = put_vector(feasible, c, jnp.where(keep_feasible, vector(feasible, c), old))
        return feasible, put_vector(target, c, new), wrong | any_of(new * vector(support.sign, c) < 0)

    start = (support.feasible, support.target, support.any_wrong & (n == 0))
    feasible, target, any_wrong = loop(ceil_div(n, WIDTH), step, start)
    return support._replace(feasible=feasible, target=target, any_wrong=any_wrong)


# Gram matrices.


def _gram_row(sample: _Sample, atom: Array) -> Array:
    return whole_row(sample.gram, sample.first_row + atom)


def _gram_entries(sample: _Sample, atom: Array, others: Array) -> Array:
    start = (sample.first_row + atom) * sample.gram.shape[1]
    return jnp.take(sample.gram.reshape(-1), start + others, mode="clip")


# Violations of the optimality condition.


def _size(correlation: Array, sample: _Sample) -> Array:
    """Correlations in units of the l1 weight: an atom with more than 1 has to enter."""
    return (correlation if sample.nonneg else jnp.abs(correlation)) * sample.per_l1


def _most_violating(sample: _Sample, correlation: Array) -> tuple[Array, Array]:
    """About the largest size, and its atom: in one search, with the number of the atom in the last bits of its size."""
    q = correlation.shape[0]
    order = order_of(_size(correlation, sample))
    low = jnp.asarray(2 ** max(1, (q - 1).bit_length()) - 1, order.dtype)
    key = tree(jnp.maximum, (order & ~low | jnp.arange(q, dtype=order.dtype)).reshape(-1, min(q, SEARCHED)).max(0))
    atom = (key & low).astype(jnp.int32)
    return get(_size(correlation, sample), atom), atom


# Supports as codes.


def _nobody(room: int, inverse: Array) -> _Support:
    slots, none = jnp.zeros((room + WIDTH,), inverse.dtype), jnp.zeros((), jnp.int32)
    wrong, entered = jnp.zeros((), bool), jnp.ones((), jnp.int32)
    return _Support(none, jnp.zeros((room + WIDTH,), jnp.int32), slots, slots, slots, inverse, wrong, entered, none)


def _empty(support: _Support, wanted: Array) -> _Support:
    """Nobody again, if wanted; the rounds count on."""
    n = jnp.where(wanted, support.n_slots, 0)
    none = lambda array: loop(  # noqa: E731
        ceil_div(n, WIDTH), lambda c, a: put_vector(a, c, jnp.zeros((WIDTH,), a.dtype)), array
    )
    return support._replace(
        n_slots=support.n_slots - n,
        sign=none(support.sign),
        feasible=none(support.feasible),
        target=none(support.target),
        inverse=clear(support.inverse, n),
        any_wrong=support.any_wrong & ~wanted,
        n_entered=support.n_entered + wanted,
    )


def _scatter(support: _Support, q: int) -> Array:
    def place(i: Array, codes: Array) -> Array:
        atom = get(support.atoms, i)
        return put(codes, atom, jnp.where(get(support.sign, i) != 0, get(support.target, i), get(codes, atom)))

    return loop(support.n_slots, place, jnp.zeros((q,), support.target.dtype))


def _padded(k: int) -> int:
    """Atoms with those that fill the last step of a search."""
    return ceil_div(k, SEARCHED) * SEARCHED if k > SEARCHED else 2 ** (k - 1).bit_length()
