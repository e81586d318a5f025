"""Online dictionary learning: feature subsets, estimators, forgetting, surrogate, dictionary updates, step, solver."""

from jax_mmf.learning.arguments import check_takes_mask as check_takes_mask
from jax_mmf.learning.dictionary_update import (
    BlockCoordinateDescent,
    DictionaryProblem,
    DictionaryUpdate,
    GradientUpdate,
    ProjectedGradient,
)
from jax_mmf.learning.forgetting import ConstantForgetting, Forgetting, PowerForgetting, ScaledForgetting
from jax_mmf.learning.initialization import Initialization, KMeansPlusPlus, RandomizedSVD, RandomSamples
from jax_mmf.learning.minibatch import Weights as Weights
from jax_mmf.learning.minibatch import check_weights as check_weights
from jax_mmf.learning.minibatch import imputed as imputed
from jax_mmf.learning.minibatch import without_missing as without_missing
from jax_mmf.learning.online import OnlineFactorization
from jax_mmf.learning.presets import default_batch_size as default_batch_size
from jax_mmf.learning.presets import default_code_reduction as default_code_reduction
from jax_mmf.learning.presets import default_solver
from jax_mmf.learning.presets import default_statistics as default_statistics
from jax_mmf.learning.presets import default_subset as default_subset
from jax_mmf.learning.state import Info, State, map_arrays
from jax_mmf.learning.statistics import (
    AveragedStatistics,
    FullStatistics,
    MaskedStatistics,
    Memory,
    Statistics,
    SubsampledStatistics,
    View,
)
from jax_mmf.learning.step import draw_subset, fill, of_samples, step_partial, step_whole
from jax_mmf.learning.subsampling import BlockSubset, FeatureSubset, FullSubset, SubsetPerShare, UniformSubset
from jax_mmf.learning.subset import Subset
from jax_mmf.learning.surrogate import BatchMoments, Surrogate
from jax_mmf.learning.surrogate import last_count as last_count

__all__ = [
    "AveragedStatistics",
    "BatchMoments",
    "BlockCoordinateDescent",
    "BlockSubset",
    "ConstantForgetting",
    "DictionaryProblem",
    "DictionaryUpdate",
    "FeatureSubset",
    "Forgetting",
    "FullStatistics",
    "FullSubset",
    "GradientUpdate",
    "Info",
    "Initialization",
    "KMeansPlusPlus",
    "MaskedStatistics",
    "Memory",
    "OnlineFactorization",
    "PowerForgetting",
    "ProjectedGradient",
    "RandomSamples",
    "RandomizedSVD",
    "ScaledForgetting",
    "State",
    "Statistics",
    "SubsampledStatistics",
    "Subset",
    "SubsetPerShare",
    "Surrogate",
    "UniformSubset",
    "View",
    "default_solver",
    "draw_subset",
    "fill",
    "map_arrays",
    "of_samples",
    "step_partial",
    "step_whole",
]
