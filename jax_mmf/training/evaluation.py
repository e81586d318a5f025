"""Evaluation during a run: objectives, the clock, and reasons why nothing is learned."""

import math
import threading
import time
import warnings
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp

from jax_mmf.codes import ConvergenceWarning, objective
from jax_mmf.core import filled_up, matmul, with_settings_of_this_thread
from jax_mmf.io import Record, SavedRun
from jax_mmf.learning import Info, OnlineFactorization, State, Subset, without_missing
from jax_mmf.penalties import AnyPenalty, alpha_max, is_weighted, penalty_value
from jax_mmf.training.feed import Item
from jax_mmf.training.placement import Placement
from jax_mmf.typing import Array

_ROWS_PER_EVALUATION = 512


class Evaluation:
    """Evaluator that makes the records of a run. Its clock excludes the time of evaluation.

    Args:
      solver: of the run.
      samples: held-out samples ``(m, p)``, or None.
      mask: of the held-out samples ``(m, p)``, or None.
      before: the run that this one resumes, or None.
      placement: of the samples.
    """

    def __init__(
        self,
        solver: OnlineFactorization,
        samples: Array | None,
        mask: Array | None,
        before: SavedRun | None,
        placement: Placement,
    ) -> None:
        self._solver, self._placement, self._pieces = solver, placement, list[tuple[Array, Array | None]]()
        self.n_held_out, self._warned = 0, False
        if samples is not None:
            self.n_held_out = samples.shape[0]
            # Pieces of one size share one program. Samples of zeros pad the last one.
            n_pieces = -(-self.n_held_out // _ROWS_PER_EVALUATION)
            size = -(-self.n_held_out // n_pieces)
            padded = filled_up((samples, mask), n_pieces * size)
            for first in range(0, n_pieces * size, size):
                cut = jax.tree.map(lambda array, first=first: placement.put_rows(array[first : first + size]), padded)
                self._pieces.append(cut)
        self._seconds = 0.0 if before is None else float(before.told("seconds", _last(before, "seconds")))
        self._since = time.perf_counter()
        self._bytes_before = 0 if before is None else int(before.told("bytes_read", _last(before, "bytes_read")))
        self._compiling: threading.Thread | None = None

    @property
    def seconds(self) -> float:
        """Time of the run so far in seconds, without the time of evaluations."""
        return self._seconds + time.perf_counter() - self._since

    def bytes_read(self, item: Item) -> int:
        """Bytes read up to a mini-batch, including those of the run before."""
        return self._bytes_before + item.bytes_read

    def compile_in_background(self) -> None:
        """Compile the programs of the evaluation in another thread, while the first step is compiled.

        On a mesh, the first evaluation compiles them: this thread would also run them, and programs on several devices
        must run in the same order on all of them.
        """
        if not self._pieces or self._placement.mesh is not None:
            return
        piece, mask = self._pieces[0]
        nothing = jnp.zeros((self._solver.n_components, piece.shape[1]), piece.dtype)

        def work() -> None:
            # Errors are raised again by the evaluation itself.
            with suppress(Exception):
                objective(nothing, piece, self._solver.penalty, mask=mask)

        # Not a daemon: Python waits for it before it ends, since XLA must not be compiling then.
        self._compiling = threading.Thread(target=with_settings_of_this_thread(work), name="jax-mmf-compiler")
        self._compiling.start()

    def __call__(self, state: State, step: int, n_samples: int, item: Item, info: Info) -> Record:
        """Wait until a state is computed, and evaluate it; the clock stops during the evaluation.

        Raises:
          FloatingPointError: if numbers overflowed.
        """
        jax.block_until_ready(state.dictionary)
        self._seconds, self._since = self.seconds, time.perf_counter()
        if not bool(info.finite):
            raise FloatingPointError(
                f"codes are not finite after step {step}: {state.dictionary.dtype} overflowed; scale the data"
            )
        if self._compiling is not None:
            self._compiling.join()
            self._compiling = None
        value = self._of_held_out(state) if self._pieces else self._of_batch(state, item, info)
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the objective is {value} after step {step}: {state.dictionary.dtype} overflowed; scale the data"
            )
        n_dead = int(info.n_dead)
        self._since = time.perf_counter()
        held_out, n_bytes = bool(self._pieces), self.bytes_read(item)
        return Record(step, n_samples, item.epoch + 1, self._seconds, n_bytes, value, n_dead, held_out)

    def _of_held_out(self, state: State) -> float:
        with warnings.catch_warnings():
            if self._warned:  # once per run
                warnings.simplefilter("ignore", ConvergenceWarning)
            total = sum(self._of_piece(state, index) for index in range(len(self._pieces)))
            size, p = self._pieces[0][0].shape
            n_padded = len(self._pieces) * size - self.n_held_out
            total *= size
            if n_padded and not is_weighted(self._solver.penalty):  # for which the objective of zeros is zero
                zeros = jnp.zeros((1, p), state.dictionary.dtype)
                mask = None if self._pieces[0][1] is None else zeros
                total -= n_padded * float(objective(state.dictionary, zeros, self._solver.penalty, mask=mask))
        self._warned = True
        return total / self.n_held_out

    def _of_piece(self, state: State, index: int) -> float:
        """Return the mean objective of a piece, given the number of the piece."""
        x, mask = self._pieces[index]
        if state.mean is not None:
            x = _centred(x, state.mean, self.n_held_out - index * x.shape[0])
        return float(objective(state.dictionary, x, self._solver.penalty, mask=mask))

    def _of_batch(self, state: State, item: Item, info: Info) -> float:
        codes = filled_up(info.codes, item.x.shape[0])  # the batch may be padded with rows of zeros
        dictionary, x, mask = _seen(state, item)
        return float(_batch_objective(self._solver.penalty, dictionary, x, codes, mask)) / item.n_samples


def _last(before: SavedRun, field: str) -> Any:
    """Return a field of the last record of a run, for files without progress."""
    return getattr(before.history[-1], field) if before.history else 0


def _seen(state: State, item: Item) -> tuple[Array, Array, Array | None]:
    """Return dictionary, centred samples and mask of the features that were read.

    Dictionary and samples are scaled: sums over these features then estimate those over all features. Missing entries
    and padding are zeros.
    """
    return _of_features(state.dictionary, item.x, item.subset, state.mean, item.weights.entries, item.n_samples)


@jax.jit
def _of_features(
    dictionary: Array, x: Array, subset: Subset | None, mean: Array | None, mask: Array | None, n_samples: int | Array
) -> tuple[Array, Array, Array | None]:
    x = without_missing(x, mask)
    gather = (lambda array: array) if subset is None else subset.gather
    if mean is not None:
        x = without_missing(_centred(x, gather(mean), n_samples), mask)
    if subset is None:
        return dictionary, x, mask
    scale = jnp.sqrt(jnp.asarray(subset.reduction, x.dtype))
    mask = None if mask is None else subset.drop_invalid(mask)
    return scale * gather(dictionary), scale * subset.drop_invalid(x), mask


@jax.jit
def _centred(x: Array, mean: Array, n_samples: int | Array) -> Array:
    """Subtract the mean from the first rows; others, which are padding, become zeros."""
    return jnp.where((jnp.arange(x.shape[0]) < n_samples)[:, None], x - mean, 0)


@jax.jit
def _batch_objective(penalty: AnyPenalty, dictionary: Array, x: Array, codes: Array, mask: Array | None) -> Array:
    """Sum over the rows of ``1/2 |x - a D|^2 + Omega(a)``."""
    squares = (x - matmul(codes, dictionary)) ** 2
    return 0.5 * jnp.sum(squares if mask is None else mask * squares) + penalty_value(penalty, codes).sum()


def why_nothing_is_learned(penalty: AnyPenalty, state: State, item: Item, info: Info) -> str | None:
    """Explain, from the last mini-batch, why no atom has been used so far, with advice; None if one has been used."""
    if int(info.n_dead) < state.dictionary.shape[0]:
        return None
    if not is_weighted(penalty):
        return None if bool(info.codes.any()) else "every code is zero; check the data, or weaken the penalty"
    dictionary, x, mask = _seen(state, item)
    x = x if mask is None else mask * x
    nonneg = penalty.nonneg
    largest, l1 = float(alpha_max(dictionary, x, nonneg=nonneg)), float(jnp.min(jnp.asarray(penalty.l1)))
    if item.weights.samples is not None and not bool(jnp.any(item.weights.samples)):
        reason = "all weights of the mini-batch are zero; check sample_weight"
    elif mask is not None and not bool(mask.any()):
        reason = "all entries of the mini-batch are missing; check mask"
    elif bool(info.codes.any()):
        reason = f"the squares of the codes are too small for {state.dictionary.dtype}; scale the data up"
    elif not bool(x.any()):
        what = "zero" if state.mean is None else "equal to their mean"
        reason = f"the data are {what}; check how they are read"
    elif not bool(dictionary.any()):
        reason = "every atom is zero; start with another key, or from your own dictionary"
    elif largest == 0:
        advice = "with nonneg=True, data and atoms must agree in sign" if nonneg else "check the data"
        products = f"no sample has a {'positive ' if nonneg else ''}product with an atom (alpha_max is 0)"
        reason = f"every code is zero, since {products}; {advice}"
    elif l1 < largest:
        return None  # atoms have just been revived
    else:
        alpha, largest = (value / float(getattr(penalty, "l1_ratio", 1.0)) for value in (l1, largest))
        reason = (
            f"every code is zero, since alpha={alpha:.3g} is above alpha_max={largest:.3g} of the dictionary on the "
            f"last mini-batch; start again with a smaller one, such as alpha={largest / 10:.2g} or RelativeAlpha(0.1)"
        )
    return reason
