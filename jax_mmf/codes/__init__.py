"""Codes of samples in a dictionary: solvers, duality gaps, derivatives, and metrics."""

from jax_mmf.codes.checks import ConvergenceWarning
from jax_mmf.codes.chunks import places_of, power_of_two
from jax_mmf.codes.compaction import SolveInfo
from jax_mmf.codes.duality import relative_gap
from jax_mmf.codes.encoding import decode, encode, encode_with_info
from jax_mmf.codes.metrics import explained_variance, match_atoms, objective
from jax_mmf.codes.metrics import objective_per_sample as objective_per_sample
from jax_mmf.codes.metrics import squares as squares
from jax_mmf.codes.problem import CodeProblem
from jax_mmf.codes.problem import gram_per_sample as gram_per_sample
from jax_mmf.codes.proximal import FISTA, UnrolledFISTA
from jax_mmf.codes.solve import solve_codes
from jax_mmf.codes.solver import CodeSolver
from jax_mmf.codes.solvers import ActiveSet, Cholesky, CoordinateDescent, default_code_solver

__all__ = [
    "FISTA",
    "ActiveSet",
    "Cholesky",
    "CodeProblem",
    "CodeSolver",
    "ConvergenceWarning",
    "CoordinateDescent",
    "SolveInfo",
    "UnrolledFISTA",
    "decode",
    "default_code_solver",
    "encode",
    "encode_with_info",
    "explained_variance",
    "match_atoms",
    "objective",
    "places_of",
    "power_of_two",
    "relative_gap",
    "solve_codes",
]
