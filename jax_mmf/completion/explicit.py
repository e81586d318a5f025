"""Explicit feedback (ratings): mean, biases and factors, by alternating least squares.

With w the weights of the entries, n_u and n_i the total weights of a user and of an item, and a bar for their means
over all users or items, the problem is::

    min  sum over entries  w / 2 (r_ui - mean - b_u - c_i - a_u . d_i)^2
         + alpha  sum over users  n_bar (n_u / n_bar)^scaling Omega(a_u),  and the same for the items d_i
         + bias_alpha / 2 (|b|^2 + |c|^2)

where Omega is an elastic net of strength one. A half-step solves the problem exactly for all users, jointly for b and
a; the next half-step does so for all items.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jax_mmf.codes import CodeProblem, CodeSolver, default_code_solver, solve_codes
from jax_mmf.completion import hierarchical
from jax_mmf.completion.factors import Factors, carry_over
from jax_mmf.completion.ragged import RaggedRows, Tile, map_blocks, observed, sum_rows, total_weight
from jax_mmf.completion.ratings import Ratings
from jax_mmf.core import check_count, check_real, cho_solve, cholesky_shifted, register_configuration
from jax_mmf.penalties import ElasticNet, Penalty, Ridge
from jax_mmf.typing import Array, Float, HostArray, Key

_INITIAL_SCALE = 0.1


class Side(NamedTuple):
    """One side of a model: its users, or its items.

    Attributes:
      factors: ``(n, k)``.
      bias: ``(n,)``.
      variance: ``(n, k)`` of the factors, or None for point estimates.
      mean_weight: scalar, the mean over the training rows of their total weight.
    """

    factors: Array
    bias: Array
    variance: Array | None
    mean_weight: Array


class ALSState(NamedTuple):
    """State of alternating least squares: the two sides, the mean, and the variance of the noise (scalars)."""

    mean: Array
    users: Side
    items: Side
    noise: Array


class RowSums(NamedTuple):
    """Sums over the entries of each row.

    Here e is the value minus the mean and the bias of the column, and d are the factors of the column.

    Attributes:
      gram: ``(m, k, k)`` sum of w d d^T.
      variance: ``(m, k)`` sum of w times the variance of d; None for point estimates.
      beta: ``(m, k)`` sum of w e d.
      column_sum: ``(m, k)`` sum of w d.
      weight: ``(m,)`` sum of w.
      value: ``(m,)`` sum of w e.
      square: ``(m,)`` sum of w e^2.
    """

    gram: Array
    variance: Array | None
    beta: Array
    column_sum: Array
    weight: Array
    value: Array
    square: Array


@register_configuration
@dataclass(frozen=True)
class ExplicitALS:
    """Configuration of alternating least squares for ratings.

    Attributes:
      n_components: k, number of factors (static).
      alpha: strength of the penalty on factors, >= 0, per rating of a user or item with an average number of ratings.
      l1_ratio: share of the l1 norm in an elastic net, in [0, 1]; None for ridge.
      nonneg: whether factors must be non-negative (static).
      scaling: exponent with which the penalty grows with the number of ratings of a user or item: 0 for a constant
        penalty, 1 for a proportional one as in ALS-WR (Zhou et al. 2008). The best value is in between.
      bias_alpha: strength of the penalty on biases, > 0. It acts like ``bias_alpha`` more ratings at the mean.
      biases: whether the model has biases (static).
      variational: whether each factor is a normal distribution instead of a number (static). Half-steps then add the
        variances of the other side to the diagonals of its Gram matrices, and also learn the variance of the noise.
        This is variational Bayes with independent factors (Raiko, Ilin and Karhunen 2007), which overfits less at
        little cost. It needs the ridge penalty, for which it is the default.
      code_solver: solver for penalties other than ridge; None for `ActiveSet`.
      learned_prior: whether the priors of users and items are learned (static), which is the default for distributions
        with biases. Nothing has to be tuned then: alpha and bias_alpha only set the strengths of the first half-steps,
        and scaling is not used. The prior means depend on who rated what, and on features of `Ratings.with_features`.
        False for the problem above, with fixed penalties.

    Raises:
      ValueError: for numbers out of range, and for variational=True or learned_prior=True with a penalty other than
        ridge.
      TypeError: for values that are not numbers.

    Example:
      >>> from jax_mmf import completion
      >>> completion.ExplicitALS(n_components=8, alpha=0.2).penalty
      Ridge(alpha=0.2, nonneg=False)
    """

    n_components: int = field(default=32, metadata={"static": True})
    alpha: Float = 0.1
    l1_ratio: Float | None = None
    nonneg: bool = field(default=False, metadata={"static": True})
    scaling: Float = 0.5
    bias_alpha: Float = 3.0
    biases: bool = field(default=True, metadata={"static": True})
    variational: bool | None = field(default=None, metadata={"static": True})
    code_solver: CodeSolver | None = None
    learned_prior: bool | None = field(default=None, metadata={"static": True})

    feedback = "explicit"

    def __post_init__(self) -> None:
        check_count("n_components", self.n_components)
        check_real("alpha", self.alpha, low=0.0)
        check_real("scaling", self.scaling)
        check_real("bias_alpha", self.bias_alpha, low=0.0, open_low=True)
        if self.l1_ratio is not None:
            check_real("l1_ratio", self.l1_ratio, low=0.0, high=1.0)
        if self.variational and not self._is_ridge:
            raise ValueError("variational=True needs a ridge penalty: leave out variational, or l1_ratio and nonneg")

        if self.learned_prior and not (self.has_variance and self.biases):
            raise ValueError(
                "learned_prior=True needs distributions and biases: leave out learned_prior, or biases=False"
            )

    @property
    def learns_prior(self) -> bool:
        """Whether the priors of users and items are learned (static)."""
        return self.has_variance and self.biases if self.learned_prior is None else self.learned_prior

    @property
    def _is_ridge(self) -> bool:
        return self.l1_ratio is None and not self.nonneg

    @property
    def has_variance(self) -> bool:
        """Whether factors are distributions (static)."""
        return self._is_ridge if self.variational is None else self.variational

    @property
    def penalty(self) -> Penalty:
        """The penalty ``alpha Omega`` of the factors."""
        if self.l1_ratio is None:
            return Ridge(self.alpha, nonneg=self.nonneg)
        return ElasticNet(self.alpha, self.l1_ratio, nonneg=self.nonneg)

    def prepare(self, ratings: Ratings, mesh: Mesh | None = None) -> Any:
        """Convert ratings to arrays on the device, or on the devices of a mesh."""
        return hierarchical.prepare(ratings, mesh) if self.learns_prior else observed(ratings, mesh)

    def init(self, key: Key, data: Any) -> Any:
        """Return random factors for the items, and zeros elsewhere."""
        if self.learns_prior:
            return hierarchical.init(key, data, self.n_components, self.alpha, self.bias_alpha)
        k, n_users, n_items = self.n_components, data.by_user.n_rows, data.by_item.n_rows
        total = total_weight(data.by_user)
        mean = total_weight(data.by_user, values=True) / total
        items = _INITIAL_SCALE * jax.random.normal(key, (n_items, k), mean.dtype)
        items = jnp.abs(items) if self.nonneg else items

        def side(factors: Array) -> Side:
            n = factors.shape[0]
            variance = jnp.zeros((n, k), mean.dtype) if self.has_variance else None
            return Side(factors, jnp.zeros(n, mean.dtype), variance, total / n)

        users = side(jnp.zeros((n_users, k), mean.dtype))
        return ALSState(mean, users, side(items), jnp.ones((), mean.dtype))

    def epoch(self, key: Key, state: Any, data: Any) -> Any:
        """Do a half-step for the users and one for the items; the key is not used."""
        if self.learns_prior:
            return hierarchical.epoch(state, data)
        users, noise = self.half_step(data.by_user, state.users, state.items, state.mean, state.noise)
        items, noise = self.half_step(data.by_item, state.items, users, state.mean, noise)
        return ALSState(state.mean, users, items, noise)

    def resume(self, old: Any, new: Any, users: HostArray, items: HostArray) -> Any:
        """Copy the rows of an old state into a new one; arguments as in `Model.resume`."""
        if self.learns_prior:
            return hierarchical.resume(old, new, users, items)

        def side(old: Side, new: Side, positions: HostArray) -> Side:
            carried = jax.tree.map(lambda a, b: carry_over(a, b, positions), old[:3], new[:3])
            return Side(carried[0], carried[1], carried[2], new.mean_weight)

        return ALSState(new.mean, side(old.users, new.users, users), side(old.items, new.items, items), old.noise)

    def fold_in(self, state: Any, rows: RaggedRows) -> tuple[Array, Array]:
        """Solve for factors ``(m, k)`` and biases ``(m,)`` of new users, from their ratings and the items of a state.

        The result is differentiable in the state, the ratings and the numbers of the configuration.
        """
        if self.learns_prior:
            return hierarchical.fold_in(state, rows)
        shape, dtype = (rows.n_rows, self.n_components), state.mean.dtype
        own = Side(jnp.zeros(shape, dtype), jnp.zeros(shape[0], dtype), None, state.users.mean_weight)
        new, _ = self.half_step(rows, own, state.items, state.mean, state.noise)
        return new.factors, new.bias

    def half_step(self, rows: RaggedRows, own: Side, other: Side, mean: Array, noise: Array) -> tuple[Side, Array]:
        """Solve for the users with given items, or for the items with given users.

        Args:
          rows: ratings by user, or by item.
          own: current side of the rows, from which iterative solvers start.
          other: side of the columns.
          mean: scalar.
          noise: scalar, variance of the ratings around the predictions; used only for distributions.

        Returns:
          the new side, and the new noise, which is unchanged for point estimates.
        """

        def block(shared: Any, tiles: Tile, numbers: Array) -> Any:
            own, other, mean, noise = shared
            sums = sum_rows(tiles, numbers.shape[0], lambda tile: _chunk_sums(tile, other, mean))
            return self._solve(sums, own.factors.at[numbers].get(mode="fill", fill_value=0), own.mean_weight, noise)

        (factors, bias, variance), (square, weight) = map_blocks(block, (own, other, mean, noise), rows)
        if self.has_variance:
            noise = square.sum() / jnp.maximum(weight.sum(), 1)
        return Side(factors, bias, variance, own.mean_weight), noise

    def _solve(
        self, sums: RowSums, start: Array, mean_weight: Array, noise: Array
    ) -> tuple[tuple[Array, Array, Array | None], tuple[Array, Array]]:
        """Return factors, biases and variances of rows, and their squared errors and weights: all ``(m, ...)``."""
        gram, beta, dtype = sums.gram, sums.beta, sums.beta.dtype
        if sums.variance is not None:  # for the expectation of d d^T
            gram += sums.variance[:, None] * jnp.eye(self.n_components, dtype=dtype)
        # Substituting the best bias for given factors leaves a problem in the factors alone.
        damped = 1 / (sums.weight + jnp.asarray(self.bias_alpha, dtype)) if self.biases else jnp.zeros_like(sums.weight)
        column_sum = sums.column_sum
        inner = gram - damped[:, None, None] * column_sum[:, :, None] * column_sum[:, None]
        linear = beta - (damped * sums.value)[:, None] * column_sum
        square = sums.square - damped * sums.value**2
        # Sums are divided by the factor of the penalty of their row, so that all rows share one penalty.
        share = jnp.where(sums.weight > 0, sums.weight, mean_weight) / mean_weight
        scale = share ** -jnp.asarray(self.scaling, dtype) / mean_weight
        inner, linear, square = scale[:, None, None] * inner, scale[:, None] * linear, scale * square
        variance, diagonal = None, jnp.diagonal(gram, axis1=1, axis2=2)
        if self._is_ridge:
            alpha = jnp.asarray(self.alpha, dtype)
            factors = cho_solve(cholesky_shifted(inner, alpha), linear)
            if self.has_variance:
                variance = (noise * scale)[:, None] / (scale[:, None] * diagonal + alpha)
        else:
            solver = self.code_solver or default_code_solver(self.penalty)
            factors = solve_codes(CodeProblem(inner, linear, square), self.penalty, solver=solver, init=start)[0]
        bias = damped * (sums.value - jnp.sum(column_sum * factors, -1))
        error = sums.square + bias**2 * sums.weight - 2 * bias * sums.value
        product = jnp.einsum("mkl,ml->mk", gram, factors, precision="highest")
        error += jnp.sum(factors * (product - 2 * beta + 2 * bias[:, None] * column_sum), -1)
        if variance is not None:
            error += jnp.sum(diagonal * variance, 1)
        return (factors, bias, variance), (error, sums.weight)

    def factors(self, state: Any) -> Factors:
        """Return the factors of a state."""
        if self.learns_prior:
            return hierarchical.factors(state)
        return Factors(state.mean, state.users.bias, state.items.bias, state.users.factors, state.items.factors)


def _chunk_sums(tile: Tile, other: Side, mean: Array) -> RowSums:
    columns, weights = tile.columns, tile.weights
    values = tile.values - mean - other.bias[columns]
    factors = other.factors[columns]
    weighted = weights[..., None] * factors
    gram = jnp.einsum("cwk,cwl->ckl", weighted, factors, precision="highest")
    variance = None
    if other.variance is not None:
        variance = jnp.einsum("cw,cwk->ck", weights, other.variance[columns], precision="highest")
    return RowSums(
        gram=gram,
        variance=variance,
        beta=jnp.einsum("cwk,cw->ck", weighted, values, precision="highest"),
        column_sum=weighted.sum(1),
        weight=weights.sum(1),
        value=(weights * values).sum(1),
        square=(weights * values**2).sum(1),
    )
