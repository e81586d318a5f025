"""Learning of maps from a file of masked scans: the solver, and the run, which can be resumed."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import joblib
import numpy as np

from jax_mmf.constraints import Constraint, L1Ball
from jax_mmf.io import Source
from jax_mmf.learning import OnlineFactorization, default_batch_size, default_solver, default_subset
from jax_mmf.penalties import AnyPenalty, Ridge
from jax_mmf.training import Callback, Checkpoint, FitResult, fit, load_checkpoint
from jax_mmf.typing import HostArray

_STEPS = 50  # at least, if the number of epochs is not given


def solver_of(
    n_components: int,
    n_features: int,
    alpha: float,
    *,
    reduction: float | None = None,
    positive: bool = False,
    penalty: AnyPenalty | None = None,
    constraint: Constraint | None = None,
) -> OnlineFactorization:
    """Return the solver for maps: by default ridge codes, and atoms in an l1 ball.

    The radius of the ball is ``sqrt(n_features / n_components)``: an atom that covers its share of the voxels has
    norm 1.

    Args:
      n_components: number of maps.
      n_features: number of voxels.
      alpha: strength of the default ridge penalty; more gives sparser maps.
      reduction: share of the voxels that a step sees is 1 / reduction; None chooses as `default_solver` does.
      positive: whether the maps of the default ball are non-negative.
      penalty: on the time courses, instead of ridge.
      constraint: of the maps, instead of the l1 ball.
    """
    penalty = Ridge(alpha) if penalty is None else penalty
    constraint = L1Ball((n_features / n_components) ** 0.5, nonneg=positive) if constraint is None else constraint
    options: dict[str, Any] = {}
    if reduction is not None:
        options["subset"] = default_subset(reduction, n_features, n_components, partial_b=False)
    return default_solver(n_components, penalty, constraint, n_features=n_features, **options)


def learned(
    solver: OnlineFactorization,
    source: Source,
    maps: HostArray,
    *,
    seed: int,
    n_epochs: float | None,
    batch_size: int | None,
    callbacks: Sequence[Callback] = (),
    folder: Path | None = None,
) -> FitResult:
    """Learn maps from first ones.

    Args:
      solver: of the run.
      source: of the frames.
      maps: ``(k, p)`` to start from.
      seed: of the order of the frames, and of the subsets.
      n_epochs: passes over the frames, rounded up; None for as many as make 50 steps.
      batch_size: frames per step, or None.
      callbacks: of `fit`.
      folder: for checkpoints of the run, from which the same call resumes after it was stopped. It is removed when the
        run is complete. None writes no checkpoints.

    Returns:
      the result of `fit`.
    """
    batch_size = default_batch_size(solver) if batch_size is None else batch_size
    batch_size = min(batch_size, source.n_samples)
    steps_per_epoch = -(-source.n_samples // batch_size)
    epochs = math.ceil(_STEPS / steps_per_epoch if n_epochs is None else n_epochs)
    options: dict[str, Any] = {"n_epochs": epochs, "batch_size": batch_size}
    if folder is None:
        state = solver.init(jax.random.key(seed), dictionary=maps)
        return fit(solver, source, state=state, callbacks=callbacks, **options)
    names = [Path(path).name for path in getattr(source, "paths", ())]  # with the hash of scans, mask and options
    place = folder / f"run-{joblib.hash([repr(solver), np.asarray(maps), seed, batch_size, names])}"
    saved = load_checkpoint(place) if place.is_dir() else None
    start = {"resume": saved} if saved else {"state": solver.init(jax.random.key(seed), dictionary=maps)}
    result = fit(solver, source, callbacks=[*callbacks, Checkpoint(place)], **start, **options)
    if result.stopped_by == "epochs":
        shutil.rmtree(place, ignore_errors=True)
    return result
