"""Solvers by the shape and the storage of the data, and by the kind of machine. Figures: docs/notes/subsampling.md."""

from typing import Any

import jax

from jax_mmf.constraints import Constraint
from jax_mmf.core import check_choice
from jax_mmf.defaults import (
    ACCELERATOR_STEPS,
    BATCH_SIZE,
    CODE_FEATURES_PER_ATOM,
    CODE_REDUCTIONS,
    GROUP_WIDTH,
    GROUPS_PER_ATOM,
    SLOW_STORAGE_REDUCTION,
    SUBSAMPLED_BATCH_SIZE,
    SUBSET_BATCH_SIZE,
)
from jax_mmf.learning.dictionary_update import ProjectedGradient
from jax_mmf.learning.online import OnlineFactorization
from jax_mmf.learning.statistics import MaskedStatistics, Statistics, SubsampledStatistics
from jax_mmf.learning.subsampling import BlockSubset, FeatureSubset, FullSubset, UniformSubset
from jax_mmf.penalties import AnyPenalty, has_closed_form


def default_solver(
    n_components: int,
    penalty: AnyPenalty,
    constraint: Constraint,
    *,
    n_features: int | None = None,
    storage: str = "memory",
    platform: str | None = None,
    **options: Any,
) -> OnlineFactorization:
    """Choose a solver by the number of features, the storage of the data, and the kind of machine.

    For data in memory, and on a disk that is faster than learning, dictionary and B see all features in each step.
    Ridge codes are computed from a part of the features if there are at least 400 times as many as atoms. This needs
    about as many samples as codes from all features, and less time for each.

    For storage that is slower than learning, a few hundred MB/s and less, a step reads an eighth of the features of a
    file that `jax_mmf.write_permuted` wrote. On accelerators all atoms are updated together, by four steps of
    `ProjectedGradient`.

    Args:
      n_components: k, number of atoms.
      penalty: on the codes.
      constraint: of the atoms.
      n_features: p; None computes codes from all features, or from those of ``subset`` if it is among the options.
      storage: ``"memory"``, ``"disk"`` or ``"slow"``.
      platform: the JAX platform, ``"cpu"``, ``"gpu"`` or ``"tpu"``; by default that of this process.
      **options: arguments of `OnlineFactorization`, which take precedence.

    Returns:
      the solver.

    Raises:
      ValueError: for an unknown storage, and as `OnlineFactorization` does.
      TypeError: as `OnlineFactorization` does.

    Example:
      >>> import jax_mmf as mmf
      >>> mmf.default_solver(8, mmf.Ridge(0.1), mmf.L1Ball(), storage="slow").subset
      BlockSubset(reduction=8, n_blocks=32)
    """
    check_choice("storage", storage, ("memory", "disk", "slow"))
    chosen: dict[str, Any] = {}
    if storage == "slow":
        chosen |= {"subset": BlockSubset(SLOW_STORAGE_REDUCTION), "partial_b": True}
    elif n_features is not None and not {"subset", "partial_b"} & options.keys():
        reduction = default_code_reduction(n_features, n_components, penalty)
        chosen["statistics"] = default_statistics(reduction, n_features, n_components)
    if (platform or jax.default_backend()) != "cpu":
        chosen["dictionary_update"] = ProjectedGradient(ACCELERATOR_STEPS)
    return OnlineFactorization(n_components=n_components, penalty=penalty, constraint=constraint, **chosen | options)


def default_subset(reduction: float, n_features: int, n_components: int, *, partial_b: bool) -> FeatureSubset:
    """Choose the kind of subset for a reduction.

    Args:
      reduction: r >= 1.
      n_features: p.
      n_components: k.
      partial_b: whether a step reads its features only.

    Returns:
      blocks for partial B, which files are read in; else random features, in groups if that does not matter.
    """
    if reduction == 1:
        return FullSubset()
    if partial_b:
        return BlockSubset(reduction)
    many = n_features / (reduction * GROUP_WIDTH) >= GROUPS_PER_ATOM * n_components
    return UniformSubset(reduction, width=GROUP_WIDTH if many else 1)


def default_code_reduction(n_features: int, n_components: int, penalty: AnyPenalty) -> float:
    """Return the reduction of the features that codes are computed from, 1 for all: see `default_solver`."""
    lowest, highest = CODE_REDUCTIONS
    reduction = n_features / (CODE_FEATURES_PER_ATOM * n_components)
    return min(reduction, highest) if has_closed_form(penalty) and reduction >= lowest else 1.0


def default_statistics(reduction: float, n_features: int, n_components: int) -> Statistics:
    """Return statistics that estimate codes from one in ``reduction`` features, or from those of the step for 1."""
    if reduction == 1:
        return MaskedStatistics()
    return SubsampledStatistics(default_subset(reduction, n_features, n_components, partial_b=False))


def default_batch_size(solver: OnlineFactorization) -> int:
    """Return the number of samples per step that learns soonest with a solver."""
    if isinstance(solver.statistics, SubsampledStatistics):
        return SUBSAMPLED_BATCH_SIZE
    sees_all = solver.subset.reduction == 1 or solver.partial_b
    return BATCH_SIZE if sees_all else SUBSET_BATCH_SIZE
