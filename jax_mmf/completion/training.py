"""`fit`, which trains a model on ratings, with validation, early stopping and callbacks."""

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jax_mmf.completion import metrics
from jax_mmf.completion.fitted import Fitted, make_fitted
from jax_mmf.completion.labels import positions_or_warning
from jax_mmf.completion.lookup import check_kind
from jax_mmf.completion.model import EpochRecord, Model
from jax_mmf.completion.ratings import Ratings
from jax_mmf.core import Stream, check_count, check_methods, check_process, stream_key, warn_of_blas_threads
from jax_mmf.penalties import RelativeAlpha
from jax_mmf.training import deferred_interrupt
from jax_mmf.typing import Key

Score = Callable[[Fitted, Ratings], float]
"""Function of a model and validation ratings that returns a number; smaller is better."""

_METHODS = ("feedback", "prepare", "init", "epoch", "resume", "fold_in", "factors")
_EPOCHS = 20
_init = jax.jit(lambda model, key, data: model.init(key, data))


@functools.partial(jax.jit, donate_argnums=2)
def _epoch(model: Model, key: Key, state: Any, data: Any) -> Any:
    return model.epoch(key, state, data)


@dataclass(frozen=True)
class CompletionEvent:
    """Description of an epoch, for callbacks.

    Its arrays are valid only during the call, since the next epoch reuses their memory.

    Attributes:
      model: the configuration.
      state: after the epoch.
      record: of the epoch.
      history: of all epochs so far.
    """

    model: Model
    state: Any
    record: EpochRecord
    history: Sequence[EpochRecord]


def fit(
    model: Model,
    train: Ratings,
    *,
    key: Key,
    n_epochs: int | None = None,
    validation: Ratings | None = None,
    patience: int | None = None,
    score: Score | None = None,
    callbacks: Sequence[Callable[[CompletionEvent], Any]] = (),
    mesh: Mesh | None = None,
    start: Fitted | None = None,
) -> Fitted:
    """Learn a model from ratings.

    One program is compiled for all epochs. Further runs on the same ratings with other numbers, such as alpha, compile
    nothing.

    Ctrl-C ends the run after the current epoch, and the model so far is returned with ``stopped_by="interrupt"``. A
    second Ctrl-C raises KeyboardInterrupt immediately.

    Args:
      model: `ExplicitALS`, `BayesianMF`, `ExplicitOnline`, `ImplicitALS`, `EASE`, `BPR`, or any `Model`.
      train: ratings to learn from.
      key: PRNG key. The same key gives the same bits.
      n_epochs: passes over the ratings; by default 20, one for `EASE`, and all sweeps for `BayesianMF`.
      validation: ratings on which the model is scored after each epoch. The model of the best epoch is returned.
      patience: number of epochs without a better score after which the run ends; None runs all epochs. Needs
        validation.
      score: function of a model and validation ratings; smaller is better. By default the root mean squared error for
        explicit feedback, and ``1 - NDCG@10`` without training items for implicit feedback.
      callbacks: called with a `CompletionEvent` after each epoch; one that returns a true value ends the run.
      mesh: mesh of devices with one axis, over which the rows are spread; None for one device.
      start: model of the same configuration from which to start. New users and items start as in a new run.

    Returns:
      a `Fitted`.

    Raises:
      ValueError: for empty ratings, for patience or a score without validation, and for a start whose users were folded
        in.
      TypeError: for a model that lacks a method, and for arguments of another type.
      FloatingPointError: if numbers overflow.
      Exception: of a callback or the score. Its attribute ``result`` is the model so far, a `Fitted`.
    """
    check_process()
    n_epochs = getattr(model, "n_epochs", _EPOCHS) if n_epochs is None else n_epochs
    _check_arguments(model, train, n_epochs, validation, patience, score)
    _check_run(callbacks, mesh)
    warn_of_blas_threads(getattr(model, "n_components", 0))
    score = default_score(model, train) if score is None else score
    limits = (float(train.values.min()), float(train.values.max())) if model.feedback == "explicit" else None

    data = model.prepare(train, mesh)
    state = _init(model, stream_key(key, Stream.INITIALIZATION), data)
    if start is not None:
        check_kind("start", start, Fitted)
        _check_start(start, model, state)
        users = start.ratings.user_ids.positions(train.user_ids.values)
        items = start.ratings.item_ids.positions(train.item_ids.values)
        # A copy, since epochs reuse the memory of their input, and the start must stay valid.
        state = jax.tree.map(jnp.copy, model.resume(start.state, state, users, items))
    history: list[EpochRecord] = []
    best, best_score, stale, seconds, stopped_by = None, math.inf, 0, 0.0, "epochs"

    def result() -> Fitted:
        kept = state if best is None else jax.tree.map(jnp.asarray, best)
        return make_fitted(model, kept, train, limits, history, stopped_by)

    with deferred_interrupt("ending after this epoch; press Ctrl-C again to stop immediately") as interrupted:
        for epoch in range(1, n_epochs + 1):
            began = time.perf_counter()
            state = jax.block_until_ready(_epoch(model, stream_key(key, Stream.EPOCH, epoch), state, data))
            seconds += time.perf_counter() - began
            now = math.nan
            try:
                if validation is not None:
                    now = score(make_fitted(model, state, train, limits, history), validation)
                    better = now < best_score  # False for NaN
                    stale = 0 if better else stale + 1
                    if better or best is None:
                        best, best_score = jax.tree.map(np.asarray, state), now if better else best_score
                history.append(EpochRecord(epoch, seconds, now))
                event = CompletionEvent(model, state, history[-1], history)
                stops = [callback(event) for callback in callbacks]
            except (Exception, KeyboardInterrupt) as error:
                stopped_by = "error"
                error.result = result()  # type: ignore[union-attr]
                error.add_note("The model learned so far is in the attribute `result` of this error.")
                raise
            if any(stops) or (patience is not None and stale >= patience) or interrupted():
                stopped_by = "callback" if any(stops) else "interrupt" if interrupted() else "patience"
                break
    learned = result()
    if not all(np.isfinite(np.asarray(a)).all() for a in learned.factors):
        raise FloatingPointError(
            f"factors are not finite after {len(history)} epochs; scale the ratings, or raise alpha"
        )
    return learned


def refit(previous: Fitted, newer: Ratings, *, key: Key, n_epochs: int | None = None) -> Fitted:
    """Refit a model to its ratings and new ones, also of new users and items, starting from what it has learned.

    Args:
      previous: the model.
      newer: new ratings. They replace earlier ratings of the same pairs.
      key: PRNG key.
      n_epochs: passes over all ratings, old and new. By default 1, and for `BayesianMF` as many as replace all of its
        samples, ``n_samples``.

    Returns:
      a model of all users and items.

    Warns:
      UserWarning: if all users, or all items, of the new ratings are unknown and their ids are of another type than
        those of the model, such as text instead of numbers.
    """
    check_kind("previous", previous, Fitted)
    check_kind("newer", newer, Ratings)
    n_epochs = getattr(previous.model, "n_samples", 1) if n_epochs is None else n_epochs
    known = previous.ratings
    positions_or_warning("users", known.user_ids, newer.user_ids.values)
    positions_or_warning("items", known.item_ids, newer.item_ids.values)
    return fit(previous.model, known.union(newer), key=key, n_epochs=n_epochs, start=previous)


def _check_arguments(model: Any, train: Any, n_epochs: Any, validation: Any, patience: Any, score: Any) -> None:
    check_methods("model", model, "model of ratings", _METHODS)
    if isinstance(getattr(model, "alpha", None), RelativeAlpha):
        raise TypeError(f"alpha of a model of ratings must be a number, got {model.alpha!r}; tune it with search")
    for name, ratings in (("train", train), ("validation", validation)):
        if ratings is None and name == "validation":
            continue
        check_kind(name, ratings, Ratings)
        if len(ratings) == 0:
            raise ValueError(f"{name} holds no ratings")
    if train.weights is not None and not train.weights.any():
        raise ValueError("train must have a weight above zero; all are zero")
    check_count("n_epochs", n_epochs)
    if patience is not None:
        check_count("patience", patience)
    if validation is None and (patience is not None or score is not None):
        raise ValueError("patience and score need validation ratings")
    if score is not None and not callable(score):
        raise TypeError(f"score must be a function of a model and validation ratings, got {score!r}")


def _check_run(callbacks: Any, mesh: Any) -> None:
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise TypeError(f"callbacks must be a list of functions of a CompletionEvent, got {callbacks!r}")
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, such as jax.make_mesh makes, got {mesh!r}")


def _check_start(start: Any, model: Model, state: Any) -> None:
    if start.folded:
        raise ValueError(
            "start must have the users that it learned from, and these were folded in; start from the model that "
            "fold_in was called on, and add the ratings of the new users"
        )
    wanted, got = (
        (type(m).__name__, getattr(m, "n_components", None), jax.tree.structure(s))
        for m, s in ((model, state), (start.model, start.state))
    )
    if wanted != got:
        raise ValueError(
            f"start must be of the configuration of model, {wanted[0]} with {wanted[1]} components, got {got[0]} with "
            f"{got[1]}{', and another kind of state' if wanted[:2] == got[:2] else ''}"
        )


def default_score(model: Model, train: Ratings) -> Score:
    """Return the default score of `fit`."""
    if model.feedback == "explicit":
        return metrics.rmse
    return lambda fitted, validation: 1 - metrics.ndcg(fitted, validation, k=10, exclude=train)
