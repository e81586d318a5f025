"""Defaults that were chosen by measurement, in one table. docs/notes/defaults.md has the figures."""

from typing import Final

# Codes that a user asks for: relative duality gap, and iterations of the solver.
ENCODE_TOL: Final = 1e-6
ENCODE_MAX_ITER: Final = 1000

# Codes within a step. More accuracy does not make learning faster.
STEP_TOL: Final = 1e-3
STEP_MAX_ITER: Final = 200
# Non-negative codes without an l1 penalty: the tolerance follows the weight of the batch between these two. Codes that
# are stopped early have fewer zeros than the best ones, and atoms are learned faster.
NONNEG_RIDGE_STEP_TOL: Final = (1e-3, 0.1)

# Scale c of `ScaledForgetting`: the one that learned fastest, or nearly so, in all measurements.
FORGETTING_SCALE: Final = 8.0
FORGETTING_SCALE_RIDGE: Final = 4.0  # with full B
FORGETTING_SCALE_NONNEG_RIDGE: Final = 32.0

# Subsampling.
N_BLOCKS: Final = 32
FEWEST_BLOCKS: Final = 16  # with fewer, partial statistics end measurably higher
SLOW_STORAGE_REDUCTION: Final = 8
GROUP_WIDTH: Final = 16  # features in a group: a cache line of float32 numbers
GROUPS_PER_ATOM: Final = 15  # groups in a subset, from which groups learn like single features
# Codes from a separate subset: features for each atom, and limits of the reduction. Below the lower limit, a step
# gains little; the upper one is the largest that was measured.
CODE_FEATURES_PER_ATOM: Final = 100
CODE_REDUCTIONS: Final = (4.0, 12.0)

# Gradient steps of `ProjectedGradient` on accelerators.
ACCELERATOR_STEPS: Final = 4

# Runs of `fit`.
BATCH_SIZE: Final = 128
SUBSAMPLED_BATCH_SIZE: Final = 256  # codes from a subset: the update of the dictionary is most of a step
SUBSET_BATCH_SIZE: Final = 50  # full B and features that are not seen in each step: they need more steps, not samples
EVALUATIONS: Final = 40  # in a run whose length is known
STEPS_PER_EVALUATION: Final = 50  # in one whose length is not known
INITIAL_SAMPLES_PER_ATOM: Final = 4
