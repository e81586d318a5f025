"""Resumption of a run: checks of what must not change, and the counts of the callbacks."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_mmf.core import is_typed_key, warn
from jax_mmf.io import SavedModel, SavedRun, describe
from jax_mmf.learning import OnlineFactorization, SubsampledStatistics, SubsetPerShare
from jax_mmf.penalties import has_relative_alpha
from jax_mmf.training.result import FitResult
from jax_mmf.typing import Key


def saved_run(resume: Any) -> SavedRun:
    """Return the run to resume.

    Args:
      resume: what `jax_mmf.load_checkpoint`, `jax_mmf.fit` or `jax_mmf.load_model` returned. A loaded model does not
        contain the order of its samples.

    Raises:
      TypeError: for another object.
    """
    if isinstance(resume, SavedRun):
        return resume
    if isinstance(resume, FitResult):
        return resume.saved()
    if isinstance(resume, SavedModel):
        return SavedRun(*resume)
    raise TypeError(
        f"resume must be what jax_mmf.load_checkpoint, fit or load_model returned, got {type(resume).__name__}"
    )


def alpha_of(solver: OnlineFactorization) -> Any:
    """Describe a `RelativeAlpha`, whose value a run computes; None if alpha is a number."""
    return describe(solver.penalty.alpha) if has_relative_alpha(solver.penalty) else None  # type: ignore[union-attr]


def with_alpha_of(solver: OnlineFactorization, saved: SavedRun) -> OnlineFactorization:
    """Replace a `RelativeAlpha` by the value that the saved run computed for the same one."""
    relative = alpha_of(solver)
    if relative is None or relative != saved.told("alpha"):
        return solver
    return dataclasses.replace(solver, penalty=saved.solver.penalty)


def with_shares_of(solver: OnlineFactorization, saved: SavedRun) -> OnlineFactorization:
    """Draw subsets from the same shares of the features as the saved run, for any mesh of that run."""

    def of_run(now: Any, before: Any) -> Any:
        return before if isinstance(before, SubsetPerShare) and before.subset == now else now

    statistics, before = solver.statistics, saved.solver.statistics
    if isinstance(statistics, SubsampledStatistics) and isinstance(before, SubsampledStatistics):
        statistics = dataclasses.replace(statistics, subset=of_run(statistics.subset, before.subset))
    return dataclasses.replace(solver, subset=of_run(solver.subset, saved.solver.subset), statistics=statistics)


def warn_of_other_shares(solver: OnlineFactorization, saved: SavedRun) -> None:
    """Warn if a mesh makes the resumed run draw other subsets than the saved one."""
    if isinstance(solver.subset, SubsetPerShare) and solver.subset.subset == saved.solver.subset:
        warn(
            "the saved run had the features on one device, and this mesh has them on "
            f"{solver.subset.n_shards}: from this step on, the subsets are drawn from the features of each device"
        )


def check_unchanged(saved: SavedRun, order: Mapping[str, Any], key: Key | None, *, allow_changes: bool) -> None:
    """Check that the samples of a resumed run, and their order, are the same as before.

    Args:
      saved: the run.
      order: what determines the order now, as `Feed.order` describes it.
      key: of the call, or None.
      allow_changes: whether a change gives a warning instead of an error.

    Raises:
      ValueError: with a list of the changes.
    """
    before = saved.told("order", {})
    changes = [
        f"{_MEANINGS.get(name, name)} {before[name]!r} before, {value!r} now"
        for name, value in order.items()
        if name in before and before[name] != value
    ]
    if key is not None and not same_keys(key, saved.state.key):
        changes.append("another key before")
    if not changes:
        return
    text = f"resume contradicts this run: {'; '.join(changes)}"
    if not allow_changes:
        raise ValueError(
            f"{text}. The resumed run would differ: samples may be skipped, learned from although held out, or "
            "weighted in another way. Pass what the run had, or allow_changes=True (--allow-changes) to resume it "
            "nevertheless"
        )
    warn(f"{text}; resuming nevertheless, since changes are allowed")


_MEANINGS = {
    "source": "samples with the checksum",
    "source_dtype": "samples of dtype",
    "held_out": "number of held-out samples",
    "held_out_samples": "given held-out samples with the checksum",
    "sample_weight": "weights of the samples with the checksum",
    "mask": "mask whose first, middle and last row have the checksum",
    "stretch": "number of rows read together",
    "window": "number of chunks mixed",
}


def same_keys(a: Key, b: Key) -> bool:
    """Whether two keys have the same bits and the same generator; raw keys have the default generator."""
    (name_a, bits_a), (name_b, bits_b) = map(_bits, (a, b))
    return name_a == name_b and np.array_equal(bits_a, bits_b)


def _bits(key: Key) -> tuple[str, Any]:
    typed = is_typed_key(key)
    name = str(jax.random.key_impl(key)) if typed else str(jax.random.key_impl(jax.random.key(0)))
    return name, np.asarray(jax.random.key_data(key) if typed else key)


def callback_counts(callbacks: Sequence[Any]) -> dict[str, Any]:
    """Collect what callbacks save, by the names of their classes; several of one class are numbered."""
    return {name: save() for name, save in _methods(callbacks, "on_save").items()}


def restore_callbacks(callbacks: Sequence[Any], counts: Mapping[str, Any]) -> None:
    """Give callbacks what they saved; those that saved nothing restart."""
    for name, restore in _methods(callbacks, "on_resume").items():
        if name in counts:
            restore(counts[name])


def _methods(callbacks: Sequence[Any], method: str) -> dict[str, Callable[..., Any]]:
    found = dict[str, Callable[..., Any]]()
    for callback in callbacks:
        if callable(getattr(callback, method, None)):
            name = type(callback).__name__
            n_before = sum(other.partition("/")[0] == name for other in found)
            found[f"{name}/{n_before}" if n_before else name] = getattr(callback, method)
    return found
