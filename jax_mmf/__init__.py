"""Factorization of massive matrices in JAX: ``X ~ A D`` with sparse or non-negative factors, a mini-batch at a time."""

from importlib.metadata import version

from jax_mmf import completion, datasets
from jax_mmf.callbacks import Callback, EarlyStopping, Event, JSONLines, ProgressBar, Start
from jax_mmf.code_solvers import FISTA, ActiveSet, Cholesky, CodeSolver, CoordinateDescent, UnrolledFISTA
from jax_mmf.coding import ConvergenceWarning, decode, encode, encode_with_info
from jax_mmf.compaction import SolveInfo
from jax_mmf.compilation_cache import enable_compilation_cache
from jax_mmf.constraints import Constraint, ElasticNetBall, L1Ball, L2Ball, Simplex
from jax_mmf.defaults import default_solver
from jax_mmf.dictionary_update import BlockCoordinateDescent, DictionaryUpdate, GradientUpdate, ProjectedGradient
from jax_mmf.forgetting import ConstantForgetting, Forgetting, PowerForgetting, ScaledForgetting
from jax_mmf.initialization import Initialization, KMeansPlusPlus, RandomizedSVD, RandomSamples
from jax_mmf.io import Checkpoint, load_model, open_source, save_model, write_permuted
from jax_mmf.metrics import explained_variance, match_atoms, objective
from jax_mmf.online import OnlineFactorization
from jax_mmf.penalties import (
    ElasticNet,
    Lasso,
    Penalty,
    RelativeAlpha,
    Ridge,
    alpha_max,
    penalty_prox,
    penalty_value,
    resolve_alpha,
)
from jax_mmf.result import Best, FitResult, Record
from jax_mmf.state import Info, State
from jax_mmf.statistics import AveragedStatistics, FullStatistics, MaskedStatistics, Memory, Statistics
from jax_mmf.subsampling import BlockSubset, FeatureSubset, FullSubset, Subset, UniformSubset
from jax_mmf.training import fit

__version__ = version("jax-mmf")

__all__ = [
    "FISTA",
    "ActiveSet",
    "AveragedStatistics",
    "Best",
    "BlockCoordinateDescent",
    "BlockSubset",
    "Callback",
    "Checkpoint",
    "Cholesky",
    "CodeSolver",
    "ConstantForgetting",
    "Constraint",
    "ConvergenceWarning",
    "CoordinateDescent",
    "DictionaryUpdate",
    "EarlyStopping",
    "ElasticNet",
    "ElasticNetBall",
    "Event",
    "FeatureSubset",
    "FitResult",
    "Forgetting",
    "FullStatistics",
    "FullSubset",
    "GradientUpdate",
    "Info",
    "Initialization",
    "JSONLines",
    "KMeansPlusPlus",
    "L1Ball",
    "L2Ball",
    "Lasso",
    "MaskedStatistics",
    "Memory",
    "OnlineFactorization",
    "Penalty",
    "PowerForgetting",
    "ProgressBar",
    "ProjectedGradient",
    "RandomSamples",
    "RandomizedSVD",
    "Record",
    "RelativeAlpha",
    "Ridge",
    "ScaledForgetting",
    "Simplex",
    "SolveInfo",
    "Start",
    "State",
    "Statistics",
    "Subset",
    "UniformSubset",
    "UnrolledFISTA",
    "__version__",
    "alpha_max",
    "completion",
    "datasets",
    "decode",
    "default_solver",
    "enable_compilation_cache",
    "encode",
    "encode_with_info",
    "explained_variance",
    "fit",
    "load_model",
    "match_atoms",
    "objective",
    "open_source",
    "penalty_prox",
    "penalty_value",
    "resolve_alpha",
    "save_model",
    "write_permuted",
]
