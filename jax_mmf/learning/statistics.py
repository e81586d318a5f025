"""Regression statistics: the Gram matrix and the correlations that codes are computed from ([TSP18], section III-B).

Codes need ``G = D D^T`` and ``beta = x D^T``. From a subset S of the features, both can be estimated, but
they must come from the same features. A full Gram matrix with correlations from the subset, or the other way round,
gives codes whose noise shrinks the atoms. Each class of this module is therefore a consistent pair.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp

from jax_mmf.codes import CodeProblem, gram_per_sample
from jax_mmf.core import check_choice, check_methods, check_real, inner_products, register_configuration
from jax_mmf.learning.subsampling import FeatureSubset
from jax_mmf.typing import Array, Float, Key


class Memory(NamedTuple):
    """Memory of averaged statistics: one row per sample, kept outside of the state.

    Attributes:
      beta: ``(n, k)`` averaged correlations.
      sq_norm: ``(n,)`` averaged squared norms.
      gram: ``(n, k, k)`` averaged Gram matrices, or None.
      visits: ``(n,)`` int32, how often the sample was seen.

    Example:
      >>> import jax_mmf as mmf
      >>> import jax
      >>> solver = mmf.OnlineFactorization(
      ...     n_components=2, subset=mmf.UniformSubset(4), statistics=mmf.AveragedStatistics()
      ... )
      >>> state = solver.init(jax.random.key(0), dictionary=jax.numpy.eye(2, 8))
      >>> solver.init_memory(state, n_samples=10).visits.shape
      (10,)
    """

    beta: Array
    sq_norm: Array
    gram: Array | None
    visits: Array


class View(NamedTuple):
    """The part of a mini-batch and of the dictionary that a step sees.

    Attributes:
      x: ``(b, p)`` whole samples, or None where only the subset is known.
      x_subset: ``(b, s)``.
      dictionary: ``(k, p)``.
      dictionary_subset: ``(k, s)``.
      gram: ``(k, k)`` the Gram matrix of the whole dictionary, or None unless ``needs_gram``.
      reduction: scalar, the inverse of the probability that a feature is in the subset.
      key: PRNG key of the statistics, the same for the whole run, or None.
      step: int32 scalar, number of the step.
      mask: ``(b, p)`` weights of the entries of ``x``, zero for a missing one, whose value is zero; or None.
      mask_subset: the same for ``x_subset``.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> view = mmf.extending.View(
      ...     x=None, x_subset=jnp.ones((4, 2)), dictionary=jnp.eye(3, 8), dictionary_subset=jnp.eye(3, 2), gram=None,
      ...     reduction=4, key=None, step=0
      ... )
      >>> problem, memory = mmf.MaskedStatistics().estimate(view, None)
      >>> problem.gram.shape, problem.beta.shape, memory
      ((3, 3), (4, 3), None)
    """

    x: Array | None
    x_subset: Array
    dictionary: Array
    dictionary_subset: Array
    gram: Array | None
    reduction: Array
    key: Key | None = None
    step: Array | int = 0
    mask: Array | None = None
    mask_subset: Array | None = None


@runtime_checkable
class Statistics(Protocol):
    """A consistent pair of estimators of the Gram matrix and of the correlations.

    Statistics that take the mask of a `View` into account have an attribute ``takes_mask`` that is true. Others are
    rejected together with a mask.

    Example:
      >>> import jax_mmf as mmf
      >>> mmf.FullStatistics().needs_whole_samples, mmf.MaskedStatistics().needs_whole_samples
      (True, False)
    """

    @property
    def needs_whole_samples(self) -> bool:
        """Whether features outside of the subset are read (static)."""

    @property
    def needs_gram(self) -> bool:
        """Whether the solver must keep the Gram matrix of the whole dictionary (static)."""

    def init_memory(self, n_samples: int, n_components: int, dtype: jnp.dtype) -> Memory | None:
        """Return the memory of samples that have not been seen, or None if these statistics keep none."""

    def estimate(self, view: View, memory: Memory | None) -> tuple[CodeProblem, Memory | None]:
        """Return the problem of the codes of a batch, and the memory of its samples afterwards."""


@register_configuration
@dataclass(frozen=True)
class MaskedStatistics:
    """Estimates from the subset: ``G = r D_S D_S^T``, ``beta = r X_S D_S^T``. They read nothing else, and cost O(s).

    Example:
      >>> import jax_mmf as mmf
      >>> solver = mmf.OnlineFactorization(n_components=2, subset=mmf.UniformSubset(4), partial_b=True)
      >>> solver.statistics, solver.needs_whole_samples
      (MaskedStatistics(), False)
    """

    @property
    def needs_whole_samples(self) -> bool:
        """False: only features of the subset are read."""
        return False

    @property
    def needs_gram(self) -> bool:
        """False: the Gram matrix is that of the subset."""
        return False

    @property
    def takes_mask(self) -> bool:
        """True: with a mask, each sample has its own Gram matrix."""
        return True

    def init_memory(self, n_samples: int, n_components: int, dtype: jnp.dtype) -> Memory | None:
        """Return None: there is no memory of samples."""
        return None

    def estimate(self, view: View, memory: Memory | None) -> tuple[CodeProblem, Memory | None]:
        """Estimate the problem of a batch; arguments as in `Statistics.estimate`."""
        atoms, samples = view.dictionary_subset, view.x_subset
        if view.mask_subset is not None:
            return _masked_problem(atoms, samples, view.mask_subset, view.reduction), None
        gram, beta = (view.reduction * inner_products(m, atoms) for m in (atoms, samples))
        return CodeProblem(gram, beta, view.reduction * jnp.sum(samples**2, -1)), None


@register_configuration
@dataclass(frozen=True)
class SubsampledStatistics:
    """Estimates from a separate subset, ``G = r D_S D_S^T`` and ``beta = r X_S D_S^T``, in O((b + k) k p / r).

    They are for solvers whose dictionary and B see all features. On data with many more features than atoms, a small
    part of the features determines the codes, while each feature of the dictionary needs all samples. A step then
    costs the update of B, of the dictionary, and little else.

    Attributes:
      subset: `UniformSubset`, or any `FeatureSubset` that does not need permuted data. 100 to 200 times as many
        features as atoms are enough (docs/notes/subsampling.md).

    Raises:
      TypeError: for a subset that lacks a method.
      ValueError: for blocks, such as those of `BlockSubset`, which need permuted features.

    Example:
      >>> import jax_mmf as mmf
      >>> statistics = mmf.SubsampledStatistics(mmf.UniformSubset(reduction=8, width=16))
      >>> mmf.OnlineFactorization(n_components=2, statistics=statistics).needs_whole_samples
      True
    """

    subset: FeatureSubset

    def __post_init__(self) -> None:
        check_methods("subset", self.subset, "feature subset", ("draw", "reduction", "n_blocks"))
        if self.subset.n_blocks is not None and self.subset.reduction > 1:
            raise ValueError(
                f"subset must not consist of wide blocks, which are random only if the features are permuted; got "
                f"{self.subset!r}. Use UniformSubset({self.subset.reduction:g}, width=16)"
            )

    @property
    def needs_whole_samples(self) -> bool:
        """True: the subset is not that of the step."""
        return True

    @property
    def needs_gram(self) -> bool:
        """False: the Gram matrix is that of the subset."""
        return False

    @property
    def takes_mask(self) -> bool:
        """True: with a mask, each sample has its own Gram matrix."""
        return True

    def init_memory(self, n_samples: int, n_components: int, dtype: jnp.dtype) -> Memory | None:
        """Return None: there is no memory of samples."""
        return None

    def estimate(self, view: View, memory: Memory | None) -> tuple[CodeProblem, Memory | None]:
        """Estimate the problem of a batch; arguments as in `Statistics.estimate`."""
        assert view.x is not None
        assert view.key is not None
        subset = self.subset.draw(view.key, jnp.asarray(view.step), view.dictionary.shape[1])
        atoms, samples = subset.gather(view.dictionary), subset.gather(view.x)
        reduction = jnp.asarray(subset.reduction, view.x.dtype)
        mask = None if view.mask is None else subset.gather(view.mask)
        masked = view._replace(x_subset=samples, dictionary_subset=atoms, reduction=reduction, mask_subset=mask)
        return MaskedStatistics().estimate(masked, memory)


@register_configuration
@dataclass(frozen=True)
class FullStatistics:
    """Exact values from all features: ``G = D D^T``, kept up to date in O(k^2 s), and ``beta = X D^T`` in O(b k p).

    Example:
      >>> import jax_mmf as mmf
      >>> solver = mmf.OnlineFactorization(
      ...     n_components=2, subset=mmf.UniformSubset(4), statistics=mmf.FullStatistics(), partial_b=True
      ... )
      >>> solver.needs_whole_samples
      True
    """

    @property
    def needs_whole_samples(self) -> bool:
        """True: all features are read."""
        return True

    @property
    def needs_gram(self) -> bool:
        """True: the Gram matrix is that of all features."""
        return True

    @property
    def takes_mask(self) -> bool:
        """True: with a mask, each sample has its own Gram matrix."""
        return True

    def init_memory(self, n_samples: int, n_components: int, dtype: jnp.dtype) -> Memory | None:
        """Return None: there is no memory of samples."""
        return None

    def estimate(self, view: View, memory: Memory | None) -> tuple[CodeProblem, Memory | None]:
        """Estimate the problem of a batch; arguments as in `Statistics.estimate`."""
        assert view.x is not None
        assert view.gram is not None
        if view.mask is not None:
            return _masked_problem(view.dictionary, view.x, view.mask, jnp.ones((), view.x.dtype)), None
        return CodeProblem(view.gram, inner_products(view.x, view.dictionary), jnp.sum(view.x**2, -1)), None


@register_configuration
@dataclass(frozen=True)
class AveragedStatistics:
    """Estimates from the subsets of all visits to a sample, averaged: ``beta_i <- (1 - g) beta_i + g r x_S D_S^T``.

    On visit c of a sample, ``g = c^-power``. The averages live in a `Memory`, outside of the solver's state:
    ``(n, k)`` numbers, and ``(n, k, k)`` if the Gram matrices are averaged too.

    Attributes:
      power: v, > 0. The proof of [TSP18] asks for v in (3/4, 3 u - 2) with u the exponent of `PowerForgetting`.
      gram: ``"full"``, the Gram matrix of the whole dictionary, or ``"averaged"``, per sample (static).

    Raises:
      ValueError: if power is known on the host and not positive, or gram is another text.

    Example:
      >>> import jax_mmf as mmf
      >>> import jax
      >>> solver = mmf.OnlineFactorization(
      ...     n_components=2, subset=mmf.UniformSubset(4), statistics=mmf.AveragedStatistics()
      ... )
      >>> state = solver.init(jax.random.key(0), dictionary=jax.numpy.eye(2, 8))
      >>> memory = solver.init_memory(state, n_samples=10)
      >>> memory.beta.shape
      (10, 2)
    """

    power: Float = 0.76
    gram: str = field(default="full", metadata={"static": True})

    def __post_init__(self) -> None:
        check_real("power", self.power, low=0.0, open_low=True)
        if self.gram == "masked":
            raise ValueError(
                "gram must be 'full' or 'averaged', got 'masked': a Gram matrix from one subset and correlations "
                "from many are not those of any least-squares problem, and the noise of such codes shrinks the atoms"
            )
        check_choice("gram", self.gram, ("full", "averaged"))

    @property
    def needs_whole_samples(self) -> bool:
        """False: only features of the subset are read."""
        return False

    @property
    def needs_gram(self) -> bool:
        """Whether the Gram matrix is the full one."""
        return self.gram == "full"

    def init_memory(self, n_samples: int, n_components: int, dtype: jnp.dtype) -> Memory:
        """Return the memory of samples that have not been seen."""
        n, k = n_samples, n_components
        return Memory(
            beta=jnp.zeros((n, k), dtype),
            sq_norm=jnp.zeros((n,), dtype),
            gram=None if self.gram == "full" else jnp.zeros((n, k, k), dtype),
            visits=jnp.zeros((n,), jnp.int32),
        )

    def estimate(self, view: View, memory: Memory | None) -> tuple[CodeProblem, Memory | None]:
        """Estimate the problem of a batch; arguments as in `Statistics.estimate`."""
        assert memory is not None
        now, _ = MaskedStatistics().estimate(view, None)
        visits = memory.visits + 1
        new = visits.astype(now.beta.dtype) ** -jnp.asarray(self.power, now.beta.dtype)
        average = lambda old, value, g: (1 - g) * old + g * value  # noqa: E731
        beta = average(memory.beta, now.beta, new[:, None])
        sq_norm = average(memory.sq_norm, now.sq_norm, new)
        gram = None if memory.gram is None else average(memory.gram, now.gram[None], new[:, None, None])
        used = view.gram if gram is None else gram
        assert used is not None
        return CodeProblem(used, beta, sq_norm), Memory(beta, sq_norm, gram, visits)


def _masked_problem(atoms: Array, samples: Array, mask: Array, reduction: Array) -> CodeProblem:
    """Return the problem of samples ``(b, s)`` with weights of their entries: ``G_i = r D diag(m_i) D^T``."""
    weighted = mask * samples
    gram = reduction * gram_per_sample(atoms, mask)
    return CodeProblem(gram, reduction * inner_products(weighted, atoms), reduction * jnp.sum(weighted * samples, -1))
