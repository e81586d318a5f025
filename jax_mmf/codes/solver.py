"""The protocol of a code solver."""

from typing import Protocol, runtime_checkable

from jax_mmf.codes.compaction import SolveInfo
from jax_mmf.codes.problem import CodeProblem
from jax_mmf.penalties import AnyPenalty, Penalty, is_weighted
from jax_mmf.typing import Array


@runtime_checkable
class CodeSolver(Protocol):
    """A pytree that solves the codes of a batch.

    A solver may have two more static attributes, which are False for one that lacks them:

    - ``unrolled``: derivatives of the codes are those of the solver's operations. Without it, they are those of the
      problem, implicit on the support of the codes.
    - ``sequential``: the solver solves a sample after another, on one core of a CPU. Outside of transformations,
      `jax_mmf.encode` then distributes the samples over threads.

    Example:
      >>> import jax_mmf as mmf
      >>> solver = mmf.ActiveSet(tol=1e-6)
      >>> solver.sequential, callable(solver.solve)
      (True, True)
    """

    def solve(self, problem: CodeProblem, penalty: AnyPenalty, init: Array) -> tuple[Array, SolveInfo]:
        """Solve a batch of samples.

        Args:
          problem: of the batch.
          penalty: of the codes.
          init: ``(b, k)`` codes to start from.

        Returns:
          codes ``(b, k)`` and how well they were solved.

        Raises:
          TypeError: for a penalty that this solver does not support.
        """


def is_unrolled(solver: CodeSolver) -> bool:
    """Whether derivatives go through the operations of a solver."""
    return bool(getattr(solver, "unrolled", False))


def is_sequential(solver: CodeSolver | None) -> bool:
    """Whether a solver works on one core."""
    return bool(getattr(solver, "sequential", False))


def check_weighted(penalty: AnyPenalty, solver: CodeSolver) -> Penalty:
    """Raise TypeError unless a penalty is a weighted elastic net."""
    if is_weighted(penalty):
        return penalty
    given = getattr(penalty, "penalty", penalty)  # without the scale of the samples
    raise TypeError(
        f"{type(solver).__name__} solves penalties with l1, l2 and nonneg only, got {type(given).__name__} with "
        "value and prox; use FISTA, or UnrolledFISTA for derivatives"
    )
