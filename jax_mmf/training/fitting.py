"""`fit`, which trains a solver on a source of samples, with held-out evaluation, callbacks and resumption."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jax_mmf.core import check_count, warn_of_blas_threads
from jax_mmf.defaults import EVALUATIONS, STEPS_PER_EVALUATION
from jax_mmf.io import SavedModel, SavedRun, check_outputs
from jax_mmf.learning import (
    Info,
    Memory,
    OnlineFactorization,
    State,
    Subset,
    Weights,
    check_takes_mask,
    default_batch_size,
    fill,
    of_samples,
    step_partial,
    step_whole,
)
from jax_mmf.penalties import has_closed_form
from jax_mmf.training.beginning import first_memory, first_state
from jax_mmf.training.callbacks import Callback, ProgressBar, checked, files_of, in_order, notified
from jax_mmf.training.evaluation import Evaluation
from jax_mmf.training.feed import Feed, Item
from jax_mmf.training.held_out import number_of
from jax_mmf.training.interrupt import deferred_interrupt
from jax_mmf.training.placement import Placement, adapted, any_process
from jax_mmf.training.prefetch import prefetch
from jax_mmf.training.result import FitResult
from jax_mmf.training.resumption import (
    alpha_of,
    check_unchanged,
    saved_run,
    warn_of_other_shares,
    with_alpha_of,
    with_shares_of,
)
from jax_mmf.training.run import Run
from jax_mmf.typing import Array, HostArray, Key

_ONE_DEVICE, _NO_WEIGHTS = Placement(None, 0), Weights()


def fit(
    solver: OnlineFactorization,
    source: Any,
    *,
    key: Key | None = None,
    state: State | None = None,
    memory: Memory | None = None,
    resume: SavedRun | FitResult | SavedModel | None = None,
    allow_changes: bool = False,
    n_epochs: int = 1,
    batch_size: int | None = None,
    held_out: float | int | HostArray | Array | None = None,
    sample_weight: Any = None,
    mask: Any = None,
    evaluate_every: int | None = None,
    callbacks: Sequence[Callback] = (),
    revive_every: int | None = None,
    shuffle: bool = True,
    dtype: Any = None,
    read_ahead: int = 2,
    mesh: Mesh | None = None,
    verbose: bool = False,
) -> FitResult:
    """Learn a dictionary from a source of samples, in mini-batches that a thread reads ahead.

    Memory does not grow with the number of samples. With ``BlockSubset`` the features are permuted during reading; all
    results are in the original order. With ``partial_b=True`` only the features of a step's subset are read, if the
    source allows it (see `jax_mmf.io.write_permuted`).

    Args:
      solver: the configuration.
      source: a matrix ``(n, p)`` (an array, memory map, frame, sparse matrix, list of rows, `h5py.Dataset`: see
        `jax_mmf.io.as_source`), a `jax_mmf.io.Source`, or an iterable of batches ``(b_i, p)``.
      key: PRNG key of the initial dictionary, the order of the samples and the subsets. The same key gives the same
        bits.
      state: to continue from, instead of a key. Steps, samples and subsets follow those of the state if the other
        arguments are the same as in its run. This is not checked.
      memory: of averaged statistics, with ``state``.
      resume: a run to resume as if it had never stopped, bit for bit: what `load_checkpoint`, `fit` or `load_model`
        returned, or None for a new run. History, best state and the counts of callbacks are continued. ``n_epochs``
        counts from the beginning of the run. If a key is given, it must be that of the run.
      allow_changes: whether another batch size, choice of held-out samples or source than in ``resume`` gives a warning
        instead of an error. The order of the samples then changes too.
      n_epochs: passes over the source; an iterator allows one pass.
      batch_size: samples per step; by default that of ``resume``, and in a new run 128, or 50 if a step sees a subset
        of the features and updates all of B. The last batch of an epoch may be smaller. Iterables of batches have their
        own sizes.
      held_out: samples for evaluation that are not used for training: a share of the source (float below 1), a number
        of its samples (int: 1 is one sample), or an array ``(m, p)``. They are kept in memory. The state with the best
        evaluation is kept as ``result.best``, a copy about as large as two dictionaries.
      sample_weight: ``(n,)`` weights >= 0 of the samples, for a source with numbered samples; ones by default. See
        `OnlineFactorization.update`. Evaluations do not use them.
      mask: ``(n, p)``, in anything that can be a source, or ``(p,)`` for all samples: weights >= 0 of the squared error
        of each entry, zero for a missing one, whose value in the source may be NaN. Its rows are read together with the
        samples. It needs ``partial_b=True`` and a source with numbered samples. Evaluations use the mask of their
        samples; separate held-out samples must be complete. See `docs/guides/missing_data.md`.
      evaluate_every: steps between evaluations; by default about 40 evaluations per run, or one every 50 steps if the
        length of the run is not known.
      callbacks: called with an `Event` after each step; one that returns a true value ends the run. See `Callback`.
      revive_every: number of steps after which unused atoms are replaced by samples of the source; None for never.
      shuffle: whether the source is read in random order (in stretches of consecutive rows if that is faster).
      dtype: of all computations, float32 or float64. By default that of the source if it is float32, or float64 with
        ``jax_enable_x64``; float32 for shorter floating dtypes; and JAX's default floating dtype for other numbers. A
        resumed run keeps the dtype of its state.
      read_ahead: largest number of mini-batches that are read in advance; 0 reads without a thread, as is done for
        arrays on several devices.
      mesh: devices to spread a run over, of this process or of all processes of `jax.distributed`: mini-batches over
        the axis ``"data"`` of the mesh, features over its axis ``"features"``. A mesh may have one of the two only.
        Results are on one device again. See `docs/guides/devices.md`.
      verbose: whether to show a `ProgressBar`.

    Returns:
      a `FitResult`, even after Ctrl-C: the first one ends the run after its step, with ``stopped_by="interrupt"``.

    Warns:
      UserWarning: once, with the reason, if all codes have been zero so far and nothing is learned.

    Raises:
      ValueError: for data of the wrong shape, NaN or infinity in them, or fewer samples than atoms; and if ``resume``
        is a run on other samples, or in another order. Errors during the run have the result of the last good step
        as attribute ``result``.
      FloatingPointError: if numbers overflow; its ``result`` is that of the last evaluation before.
      KeyboardInterrupt: at the second Ctrl-C.
      TypeError: for a solver, source, state or callback of another type.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (40, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1))
      >>> result = mmf.fit(solver, x, key=jax.random.key(1), held_out=8, n_epochs=2, batch_size=16)
      >>> result.dictionary.shape, result.stopped_by, len(result.history)
      ((3, 8), 'epochs', 4)
    """
    if not isinstance(solver, OnlineFactorization):
        raise TypeError(f"solver must be an OnlineFactorization, got {type(solver).__name__}")
    before = None if resume is None else saved_run(resume)
    if batch_size is None:
        told = None if before is None else before.run.get("batch_size")
        batch_size = default_batch_size(solver) if told is None else int(told)
    _check_counts(n_epochs=n_epochs, batch_size=batch_size, evaluate_every=evaluate_every, revive_every=revive_every)
    check_count("read_ahead", read_ahead, low=0)
    _check_beginning(key, state, memory, before)
    if before is not None:
        solver, state, memory = with_alpha_of(solver, before), before.state, before.memory
    if before is not None:
        solver = with_shares_of(solver, before)
    solver = adapted(solver, mesh)
    if before is not None:
        warn_of_other_shares(solver, before)
    if has_closed_form(solver.penalty):
        warn_of_blas_threads(solver.n_components)
    if mask is not None:
        check_takes_mask(solver)
    callbacks = in_order(checked(callbacks) + ((ProgressBar(),) if verbose and jax.process_index() == 0 else ()))
    run_key: Key = key if state is None else state.key  # type: ignore[assignment]
    feed = Feed(
        source,
        solver,
        run_key,
        n_epochs=n_epochs,
        batch_size=batch_size,
        held_out=held_out,
        shuffle=shuffle,
        dtype=dtype if state is None else state.dictionary.dtype,
        mesh=mesh,
        sample_weight=sample_weight,
        mask=mask,
    )
    check_outputs(files_of(callbacks), *feed.paths)
    if before is not None:
        check_unchanged(before, feed.order, key, allow_changes=allow_changes)
    alpha = alpha_of(solver) if before is None else before.told("alpha")
    solver, current = first_state(solver, feed, run_key, state)
    memory = first_memory(solver, current, feed, memory)
    if revive_every is not None and feed.n_samples is None:
        raise ValueError("revive_every needs a source with random access, not an iterable of batches")
    evaluation = Evaluation(solver, *feed.held_out_samples(), before, feed.placement)
    arguments = {"batch_size": batch_size, "revive_every": revive_every, "shuffle": shuffle} | number_of(held_out)
    run = Run(solver, feed, evaluation, current, memory, arguments, before, alpha=alpha, callbacks=callbacks)
    del state, current, memory  # the steps write into copies
    items = feed.items(run.step, with_rows=run.memory is not None)
    try:
        with feed.placement.active():
            evaluation.compile_in_background()
            depth = 0 if feed.in_one_thread else read_ahead
            return _train(run, items, depth, evaluate_every=evaluate_every, revive_every=revive_every)
    except Exception as error:
        run.attach_result(error)
        raise


def _train(
    run: Run, items: Iterator[Item], read_ahead: int, *, evaluate_every: int | None, revive_every: int | None
) -> FitResult:
    """Make the steps of a run."""
    n_steps, stops = run.n_steps, list[Any]()
    evaluate_every = evaluate_every or (STEPS_PER_EVALUATION if n_steps is None else max(1, n_steps // EVALUATIONS))
    note = "fit: ending after this step; press Ctrl-C again to stop immediately"
    with (
        notified(run.callbacks, run.start()) as ended,
        deferred_interrupt(note) as interrupted,
        # All of several processes must end after the same step.
        closing(prefetch(items, read_ahead, interrupted if jax.process_count() == 1 else None)) as reader,
    ):
        run.restore_callbacks()
        for item in reader:
            run.take(item, *_advance(run.solver, run.state, run.memory, item, run.placement))
            if revive_every is not None and run.step % revive_every == 0:
                run.revive()
            record = run.evaluate() if run.step % evaluate_every == 0 or run.step == n_steps else None
            event = run.event(record)
            stops = [callback(event) for callback in run.callbacks]
            if any_process(any(stops) or bool(interrupted())):
                break
        if run.item is not None and (not run.history or run.history[-1].step < run.step):
            run.evaluate()
        result = run.result("interrupt" if interrupted() else "callback" if any(stops) else "epochs")
        ended(result)
    return result


def _check_beginning(key: Key | None, state: State | None, memory: Memory | None, before: SavedRun | None) -> None:
    if before is not None and (state is not None or memory is not None):
        raise ValueError(
            "resume includes the state and the memory of its run; leave out the arguments state and memory"
        )
    if before is None and (key is None) == (state is None):
        raise ValueError("fit needs either key, for a new run, or resume or state, to continue a run; pass one of them")
    if state is not None and not isinstance(state, State):
        raise TypeError(f"state must be a State, such as result.state; got {type(state).__name__}")


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None or not name.endswith("_every"):
            check_count(name, count)


# The state is donated: a step reuses the memory of the previous state. Full batches are passed like padded ones,
# with their number of samples: both share one program.


@functools.partial(jax.jit, donate_argnames="state", static_argnames="placement")
def _step_whole(
    solver: OnlineFactorization,
    state: State,
    x: Array,
    rows: Memory | None,
    n_samples: Any,
    placement: Placement = _ONE_DEVICE,
    weights: Weights = _NO_WEIGHTS,
) -> tuple[State, Info]:
    state, info = step_whole(solver, state, x, rows, None, fill(solver, state.n_samples, n_samples), weights)
    return placement.constrained(state), info


@functools.partial(jax.jit, donate_argnames="state", static_argnames="placement")
def _step_partial(
    solver: OnlineFactorization,
    state: State,
    x: Array,
    subset: Subset,
    rows: Memory | None,
    n_samples: HostArray | Array,
    placement: Placement = _ONE_DEVICE,
    weights: Weights = _NO_WEIGHTS,
) -> tuple[State, Info]:
    filled = fill(solver, state.n_samples, n_samples)
    state, info = step_partial(solver, state, x, subset, rows, None, filled, weights)
    return placement.constrained(state), info


@jax.jit
def _take_rows(memory: Memory, rows: Array) -> Memory:
    return jax.tree.map(lambda a: a[rows], memory)


@functools.partial(jax.jit, donate_argnames="memory")
def _put_rows(memory: Memory, rows: Array, new: Memory) -> Memory:
    return jax.tree.map(lambda a, b: a.at[rows].set(b), memory, new)


def _advance(
    solver: OnlineFactorization, state: State, memory: Memory | None, item: Item, placement: Placement
) -> tuple[State, Memory | None, Info]:
    rows = None if item.rows is None else _take_rows(memory, item.rows)
    n_samples = np.int32(item.n_samples)
    if item.subset is None:
        state, info = _step_whole(solver, state, item.x, rows, n_samples, placement, item.weights)
    else:
        state, info = _step_partial(solver, state, item.x, item.subset, rows, n_samples, placement, item.weights)
    if rows is not None:
        memory = _put_rows(memory, item.rows, info.memory)
    return state, memory, info if item.n_samples == item.x.shape[0] else of_samples(info, item.n_samples)
