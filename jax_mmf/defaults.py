"""What to use where: the solver of a problem by where its data live. docs/defaults.md has the figures behind it."""

from typing import Any

from jax_mmf.constraints import Constraint
from jax_mmf.online import OnlineFactorization
from jax_mmf.penalties import Penalty
from jax_mmf.subsampling import BlockSubset
from jax_mmf.validation import check_choice

_SLOW_REDUCTION = 8


def default_solver(
    n_components: int, penalty: Penalty, constraint: Constraint, *, storage: str = "memory", **options: Any
) -> OnlineFactorization:
    """The solver for data that live in a place of some speed.

    From memory and from a disk that is faster than learning, all features in each step: the defaults of
    `OnlineFactorization`. From storage that is slower than learning, some hundred MB/s and less, a step reads an eighth
    of the features, of a file that `jax_mmf.write_permuted` wrote. Codes are in closed form for ridge, and by
    coordinate descent as tight as a mini-batch weighs for all other penalties, in each case.

    Args:
      n_components: k, number of atoms.
      penalty: on the codes.
      constraint: of the atoms.
      storage: ``"memory"``, ``"disk"`` or ``"slow"``.
      **options: of `OnlineFactorization`, instead of what is chosen here.

    Returns:
      the solver.

    Raises:
      ValueError: for another storage, and as `OnlineFactorization` does.
      TypeError: as `OnlineFactorization` does.

    Example:
      >>> import jax_mmf as mmf
      >>> mmf.default_solver(8, mmf.Ridge(0.1), mmf.L1Ball(), storage="slow").subset
      BlockSubset(reduction=8, n_blocks=32)
    """
    check_choice("storage", storage, ("memory", "disk", "slow"))
    chosen: dict[str, Any] = {}
    if storage == "slow":
        chosen = {"subset": BlockSubset(_SLOW_REDUCTION), "partial_b": True}
    return OnlineFactorization(n_components=n_components, penalty=penalty, constraint=constraint, **chosen | options)
