"""Everything that an extension needs: the protocols, and the types that their methods take and return.

docs/guides/extending.md and docs/guides/penalties.md have a complete example for each protocol of a solver.
"""

from jax_mmf.codes import CodeProblem, CodeSolver, SolveInfo, relative_gap
from jax_mmf.constraints import Constraint
from jax_mmf.core import register_configuration
from jax_mmf.io import Source
from jax_mmf.learning import (
    BatchMoments,
    DictionaryProblem,
    DictionaryUpdate,
    FeatureSubset,
    Forgetting,
    Info,
    Initialization,
    Memory,
    State,
    Statistics,
    Subset,
    Surrogate,
    View,
)
from jax_mmf.penalties import Penalty, ProximalPenalty
from jax_mmf.training import Callback, Event, Start

__all__ = [
    "BatchMoments",
    "Callback",
    "CodeProblem",
    "CodeSolver",
    "Constraint",
    "DictionaryProblem",
    "DictionaryUpdate",
    "Event",
    "FeatureSubset",
    "Forgetting",
    "Info",
    "Initialization",
    "Memory",
    "Penalty",
    "ProximalPenalty",
    "SolveInfo",
    "Source",
    "Start",
    "State",
    "Statistics",
    "Subset",
    "Surrogate",
    "View",
    "register_configuration",
    "relative_gap",
]
