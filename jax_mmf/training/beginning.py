"""The first state and memory of a run, new or given."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jax_mmf.core import check_shape, copied, warn
from jax_mmf.defaults import INITIAL_SAMPLES_PER_ATOM
from jax_mmf.learning import Memory, OnlineFactorization, State
from jax_mmf.penalties import has_relative_alpha, resolve_alpha
from jax_mmf.training.feed import Feed
from jax_mmf.typing import Array, Key


def first_state(
    solver: OnlineFactorization, feed: Feed, key: Key, given: State | None
) -> tuple[OnlineFactorization, State]:
    """Return the solver with a resolved alpha, and the first state of a run, with features in the order of the feed.

    Args:
      solver: of the run.
      feed: of the run.
      key: of the run.
      given: a state to resume, or None for a new one.

    Raises:
      ValueError: for a state of another solver or of other data, and for too few samples.
    """
    return _begin(solver, feed, key) if given is None else (solver, _resume(solver, given, feed))


def _begin(solver: OnlineFactorization, feed: Feed, key: Key) -> tuple[OnlineFactorization, State]:
    """Return the solver with a resolved alpha, and the first state."""
    first = feed.first_samples(solver.n_components, INITIAL_SAMPLES_PER_ATOM)
    _warn_of_small_numbers(first)
    state = solver.init(key, samples=first)
    if has_relative_alpha(solver.penalty):
        samples = first if state.mean is None else first - state.mean
        solver = dataclasses.replace(solver, penalty=resolve_alpha(solver.penalty, state.dictionary, samples))
    return solver, feed.placement.put_state(state)


def _warn_of_small_numbers(first: Array) -> None:
    """Warn if the squares of the data would underflow: the moments are sums of such squares."""
    values, limits = np.asarray(first), jnp.finfo(first.dtype)
    largest = float(max(values.max(), -values.min()))
    if 0 < largest < (limits.tiny / limits.eps) ** 0.5:
        warn(
            f"the largest of the first samples is {largest:.1e}, whose square is lost in {first.dtype}: little or "
            "nothing will be learned. Scale the data up, and alpha with it"
        )


def _resume(solver: OnlineFactorization, given: State, feed: Feed) -> State:
    if has_relative_alpha(solver.penalty):
        raise ValueError(
            "alpha is a RelativeAlpha, whose value was computed at the start of the run: resume with the solver of the "
            "result, fit(result.solver, source, resume=result)"
        )
    expected = (solver.n_components, feed.n_features)
    check_shape("state.dictionary", given.dictionary, expected, "(n_components, n_features)")
    if given.surrogate.partial != solver.partial_b:
        raise ValueError(
            f"state is from a run with partial_b={not solver.partial_b}, and the solver has {solver.partial_b}; resume "
            "with the solver of that run"
        )
    if (given.gram is not None) != solver.statistics.needs_gram:
        raise ValueError(
            f"state is from a run with other statistics than {solver.statistics!r}; resume with the solver of that run"
        )
    if (given.mean is not None) != solver.center:
        raise ValueError(
            f"state is from a run with center={not solver.center}, and the solver has {solver.center}; resume with the "
            "solver of that run"
        )
    return feed.adopt(given)


def first_memory(solver: OnlineFactorization, state: State, feed: Feed, memory: Memory | None) -> Memory | None:
    """Return the memory of averaged statistics that a run starts from, or None; arguments as in `first_state`.

    Raises:
      ValueError: for a memory of other data, for a missing memory, and for one that the statistics do not use.
    """
    if solver.init_memory(state, 0) is None:
        if memory is not None:
            raise ValueError(f"memory must be None with statistics={solver.statistics!r}, which keep no memory")
        return None
    if feed.n_samples is None:
        raise ValueError("averaged statistics need a source with numbered samples, not an iterable of batches")
    if int(state.step) > 0 and memory is None:
        raise ValueError("a run with averaged statistics needs memory to be resumed; pass resume=result")
    if memory is not None:
        expected = (feed.n_samples, solver.n_components)
        check_shape("memory.beta", memory.beta, expected, "(n_samples, n_components)")
    # A copy, since steps reuse the buffers of their input.
    memory = solver.init_memory(state, feed.n_samples) if memory is None else copied(memory)
    return feed.placement.put_whole(memory)
