"""Parts of a solver that tests loop over: those of the library, and one of a user's own for each protocol.

A class of a user's own is made as docs/guides/extending.md says, with no more than its protocol asks for. It stands in
the same tables as the others, so that what tests promise of the library's parts holds for it too.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import lax

import jax_mmf as mmf
from jax_mmf.extending import CodeProblem, relative_gap


@mmf.register_configuration
@dataclass(frozen=True)
class OwnPenalty:
    """An elastic net by its two weights."""

    l1: jax.Array | float
    l2: jax.Array | float
    nonneg: bool = field(default=False, metadata={"static": True})


@mmf.register_configuration
@dataclass(frozen=True)
class OwnBall:
    """The squared l2 ball, without regard for numbers out of range."""

    radius: float = 1.0
    nonneg: bool = field(default=False, metadata={"static": True})

    def gauge(self, atom):
        return jnp.sum(atom * atom, -1)

    def project(self, atom, radius=None):
        radius = self.radius if radius is None else radius
        gauge = self.gauge(atom)
        return jnp.where(gauge > radius, atom * jnp.sqrt(radius / jnp.where(gauge > radius, gauge, 1)), atom)

    def scale(self, atom):
        gauge = self.gauge(atom)
        return atom * jnp.sqrt(jnp.where(gauge > 0, self.radius / jnp.where(gauge > 0, gauge, 1), 0))


@mmf.register_configuration
@dataclass(frozen=True)
class OwnSubset:
    """Features one by one, in order."""

    reduction: float = field(default=3.0, metadata={"static": True})
    n_blocks: None = field(default=None, metadata={"static": True})

    def draw(self, key, step, n_features):
        if self.reduction > n_features:
            raise ValueError(f"reduction must be at most the number of features, got {self.reduction}")
        size = round(n_features / self.reduction)
        shuffled = jax.random.permutation(jax.random.fold_in(key, step), n_features)
        indices = jnp.sort(shuffled[:size]).astype(jnp.int32)
        return mmf.Subset(indices=indices, reduction=n_features / size, n_features=n_features)


@mmf.register_configuration
@dataclass(frozen=True)
class OwnStatistics:
    """Of the features that are seen alone."""

    needs_whole_samples: bool = field(default=False, metadata={"static": True})
    needs_gram: bool = field(default=False, metadata={"static": True})

    def init_memory(self, n_samples, n_components, dtype):
        return None

    def estimate(self, view, memory):
        atoms, x = view.dictionary_subset, view.x_subset
        products = (atoms @ atoms.T, x @ atoms.T, jnp.sum(x**2, -1))
        return CodeProblem(*(view.reduction * product for product in products)), None


@mmf.register_configuration
@dataclass(frozen=True)
class OwnAverage:
    """Every sample weighs the same."""

    def weight(self, n_before, batch_size):
        floating = jnp.result_type(float)
        return batch_size / (jnp.asarray(n_before, floating) + batch_size)


@mmf.register_configuration
@dataclass(frozen=True)
class OwnISTA:
    """As many proximal gradient steps as it is told."""

    max_iter: int = 900

    def solve(self, problem, penalty, init):
        curvature = jnp.max(jnp.sum(jnp.abs(problem.gram), -1)) + jnp.max(jnp.asarray(penalty.l2, init.dtype))

        def step(_, codes):
            codes = codes - (problem.image(codes) - problem.beta) / jnp.where(curvature > 0, curvature, 1)
            return mmf.penalty_prox(penalty, codes, 1 / jnp.where(curvature > 0, curvature, 1))

        codes = lax.fori_loop(0, self.max_iter, step, init)
        gap = relative_gap(problem, penalty, codes)
        return codes, mmf.SolveInfo(gap, jnp.full(gap.shape, self.max_iter, jnp.int32), jnp.isfinite(gap))


@mmf.register_configuration
@dataclass(frozen=True)
class OwnGradientStep:
    """A projected gradient step whose length the trace of C bounds."""

    def init(self, dictionary):
        return ()

    def update(self, key, atoms, problem, constraint, state):
        rate = 1 / jnp.maximum(jnp.trace(problem.c), jnp.finfo(atoms.dtype).tiny)
        moved = problem.subset.drop_invalid(atoms + rate * (problem.b - problem.c @ atoms))
        projected = problem.subset.drop_invalid(jax.vmap(constraint.project)(moved, problem.budget))
        return jnp.where(jnp.diagonal(problem.c)[:, None] > 0, projected, atoms), state


@mmf.register_configuration
@dataclass(frozen=True)
class OwnFirstSamples:
    """The first samples, in order."""

    def __call__(self, key, samples, n_components):
        return samples[:n_components]


def penalties(alpha=0.5, l1_ratio=0.6):
    """Every kind of penalty, by name."""
    l1, l2 = alpha * l1_ratio, alpha * (1 - l1_ratio)
    return {
        "ridge": mmf.Ridge(alpha),
        "lasso": mmf.Lasso(alpha),
        "elastic net": mmf.ElasticNet(alpha, l1_ratio),
        "own": OwnPenalty(l1, l2),
        "ridge, nonneg": mmf.Ridge(alpha, nonneg=True),
        "lasso, nonneg": mmf.Lasso(alpha, nonneg=True),
        "elastic net, nonneg": mmf.ElasticNet(alpha, l1_ratio, nonneg=True),
        "own, nonneg": OwnPenalty(l1, l2, nonneg=True),
    }


PENALTIES = penalties() | {"simplex codes": mmf.SimplexCodes(2.0)}
CONSTRAINTS = {
    "l2": mmf.L2Ball(),
    "l1": mmf.L1Ball(),
    "elastic net": mmf.ElasticNetBall(0.3, nonneg=True),
    "simplex": mmf.Simplex(),
    "own": OwnBall(),
}
SUBSETS = {
    "full": mmf.FullSubset(),
    "uniform": mmf.UniformSubset(3.0),
    "groups": mmf.UniformSubset(3.0, width=2),
    "blocks": mmf.BlockSubset(3.0, n_blocks=2),
    "one block": mmf.BlockSubset(4.0, n_blocks=1),
    "many blocks": mmf.BlockSubset(2.5, n_blocks=32),
    "own": OwnSubset(),
}
STATISTICS = {
    "masked": mmf.MaskedStatistics(),
    "subsampled": mmf.SubsampledStatistics(mmf.UniformSubset(2.0)),
    "full": mmf.FullStatistics(),
    "full_gram_averaged": mmf.AveragedStatistics(0.8, gram="full"),
    "averaged": mmf.AveragedStatistics(0.8, gram="averaged"),
    "own": OwnStatistics(),
}
FORGETTINGS = {
    "power": mmf.PowerForgetting(0.8),
    "scaled": mmf.ScaledForgetting(5.0),
    "constant": mmf.ConstantForgetting(0.02),
    "own": OwnAverage(),
}
CODE_SOLVERS = {  # of any penalty
    "cd": mmf.CoordinateDescent,
    "fista": mmf.FISTA,
    "active set": mmf.ActiveSet,
}
DICTIONARY_UPDATES = {
    "block coordinate descent": mmf.BlockCoordinateDescent(),
    "projected gradient": mmf.ProjectedGradient(),
    "accelerated": mmf.ProjectedGradient(3),
    "own": OwnGradientStep(),
}
INITIALIZATIONS = {
    "samples": mmf.RandomSamples(),
    "svd": mmf.RandomizedSVD(),
    "kmeans": mmf.KMeansPlusPlus(),
    "own": OwnFirstSamples(),
}
