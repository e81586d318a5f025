"""Codes of samples in a dictionary, and their derivatives."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from jax_mmf.code_solvers import CodeSolver, default_code_solver
from jax_mmf.compaction import SolveInfo
from jax_mmf.duality import solved, weights_of
from jax_mmf.implicit import codes_tangent, polish
from jax_mmf.linalg import matmul, power_of_two_below, self_product
from jax_mmf.parts import at_once, in_parts, parts_of
from jax_mmf.penalties import Penalty, is_ridge, penalty_value
from jax_mmf.pytrees import register_configuration
from jax_mmf.typing import Array, ArrayLike, Float
from jax_mmf.user_warnings import warn, warn_of_blas_threads
from jax_mmf.validation import as_real_array, check_methods, check_shape

_ON_THE_BALL = 1e-3  # difference from one, of the norms of atoms that were learned on a ball


class ConvergenceWarning(UserWarning):
    """Codes that are further from the best ones than the solver was asked for."""


def encode(
    dictionary: ArrayLike,
    x: ArrayLike,
    penalty: Penalty,
    *,
    mask: ArrayLike | None = None,
    solver: CodeSolver | None = None,
    init: ArrayLike | None = None,
) -> Array:
    """Codes of samples: ``argmin_a 1/2 |x - a D|^2 + Omega(a)``, each sample on its own.

    Differentiable with respect to the dictionary, the samples, the mask and the numbers in the penalty, forward and
    reverse, at any order: on the support of a code, the optimality condition is a linear system whose solution is
    differentiated implicitly ([TPAMI12], proposition 1); off the support the derivative is zero. `UnrolledFISTA` is
    differentiated step by step instead.

    Args:
      dictionary: ``(k, p)``.
      x: one sample ``(p,)`` or a batch ``(n, p)``, in the dtype of the dictionary or cast to it.
      penalty: `Ridge`, `Lasso`, `ElasticNet`, or any `Penalty`.
      mask: None, or weights >= 0 of the squared error of each feature, ``(p,)`` or ``(n, p)``; zero for a missing
        feature, whose value in ``x`` is then never looked at and may be NaN.
      solver: a `CodeSolver`; by default `Cholesky` for ridge, else `ActiveSet`; `UnrolledFISTA` for derivatives of a
        few steps.
      init: ``(k,)`` or ``(n, k)`` codes to start from; zeros by default.

    Returns:
      ``(k,)`` or ``(n, k)``.

    Raises:
      ValueError: for shapes that do not fit.
      TypeError: for arguments that are not real numbers, or no penalty or solver.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> print(mmf.encode(jnp.eye(3), jnp.array([2.0, -0.05, -1.0]), mmf.Lasso(0.1)))
      [ 1.9  0.  -0.9]
    """
    return encode_with_info(dictionary, x, penalty, mask=mask, solver=solver, init=init)[0]


def encode_with_info(
    dictionary: ArrayLike,
    x: ArrayLike,
    penalty: Penalty,
    *,
    mask: ArrayLike | None = None,
    solver: CodeSolver | None = None,
    init: ArrayLike | None = None,
) -> tuple[Array, SolveInfo]:
    """As `encode`, with the duality gap and the number of iterations of each sample.

    Returns:
      codes ``(k,)`` or ``(n, k)``, and a `SolveInfo` of ``()`` or ``(n,)``.
    """
    dictionary = as_real_array("dictionary", dictionary, ndim=(2,))
    x = as_real_array("x", x, ndim=(1, 2), dtype=dictionary.dtype)
    k, p = dictionary.shape
    check_shape("x", x, (*x.shape[:-1], p), "(n_features,)" if x.ndim == 1 else "(n_samples, n_features)")
    if k == 0:
        raise ValueError(f"dictionary must hold at least one atom, got shape {dictionary.shape}")
    check_methods("penalty", penalty, "penalty", ("l1", "l2", "nonneg"))
    for name in ("l1", "l2"):
        shape = jnp.shape(getattr(penalty, name))
        if shape not in ((), (k,)):
            raise ValueError(
                f"penalty must have one weight, or one for each of the {k} atoms; got {name} of shape {shape}"
            )
    solver = default_code_solver(penalty) if solver is None else solver
    check_methods("solver", solver, "code solver", ("solve",))
    batch = x[None] if x.ndim == 1 else x
    start = None
    if init is not None:
        start = as_real_array("init", init, ndim=(x.ndim,), dtype=x.dtype)
        meaning = "(n_components,)" if x.ndim == 1 else "(n_samples, n_components)"
        check_shape("init", start, (*x.shape[:-1], k), meaning)
        start = start.reshape(-1, k)
    if mask is not None:
        mask = as_real_array("mask", mask, ndim=(1, x.ndim), dtype=x.dtype)
        check_shape("mask", mask, (*mask.shape[:-1], p), "(n_features,) or the shape of x")
        if mask.ndim == 2:
            check_shape("mask", mask, (batch.shape[0], p), "the shape of x")
    shared, own = (mask, None) if mask is None or mask.ndim == 1 else (None, mask)
    codes, info = _encode_rows(dictionary, _Rows(batch, own, start), penalty, shared, solver)
    return jax.tree.map(lambda a: a[0], (codes, info)) if x.ndim == 1 else (codes, info)


class _Rows(NamedTuple):
    """What comes with each sample."""

    x: Array  # (n, p)
    mask: Array | None  # (n, p), where each sample has its own
    init: Array | None  # (n, k)


def _encode_rows(
    dictionary: Array, rows: _Rows, penalty: Penalty, mask: Array | None, solver: CodeSolver
) -> tuple[Array, SolveInfo]:
    """Codes of a batch. Where nothing is traced, in parts, and with checks of what comes in and out."""
    n, k = rows.x.shape[0], dictionary.shape[0]
    if n == 0:
        none = jnp.zeros((0,), dictionary.dtype)
        return jnp.zeros((0, k), dictionary.dtype), SolveInfo(none, none.astype(jnp.int32), none.astype(bool))
    parts = parts_of(solver, rows, dictionary, penalty, mask)
    if parts is None:
        return _encode(dictionary, None, rows, penalty, mask, solver)
    if is_ridge(penalty):
        warn_of_blas_threads(k)

    def solve() -> tuple[Array, SolveInfo]:
        if rows.init is not None and not np.isfinite(np.asarray(rows.init)).all():
            raise ValueError("init holds nan or infinity; start from zeros, by init=None, or from finite codes")
        for weights in map(np.asarray, jax.tree.leaves((mask, rows.mask))):
            if not ((weights >= 0) & np.isfinite(weights)).all():
                raise ValueError("mask must hold weights >= 0, zero for a missing feature; got negative numbers or nan")
        gram = _shared_gram(dictionary, mask) if rows.mask is None else None
        codes, info = in_parts(lambda part: _encode(dictionary, gram, part, penalty, mask, solver), rows, parts)
        _check_codes(dictionary, rows, mask, codes)
        return codes, info

    codes, info = at_once(solve)
    _warn_if_swapped(dictionary, rows.x)
    _warn_unless_converged(info)
    return codes, info


def _check_codes(dictionary: Array, rows: _Rows, shared_mask: Array | None, codes: Array) -> None:
    """Raise where codes are not finite, and name what made them so."""
    if np.isfinite(np.asarray(codes)).all():
        return
    if not np.isfinite(np.asarray(dictionary)).all():
        raise ValueError("dictionary holds nan or infinity, as one that was learned from numbers that overflowed does")
    x, mask = np.asarray(rows.x), rows.mask if rows.mask is not None else shared_mask
    bad = ~np.isfinite(x) if mask is None else ~np.isfinite(x) & (np.asarray(mask) != 0)
    if bad.any():
        i, j = np.argwhere(bad)[0]
        raise ValueError(
            f"x holds {x[i, j]} at sample {i}, feature {j}; clean or impute the data, or give a mask that is zero there"
        )
    raise FloatingPointError(f"codes are not finite: {codes.dtype} overflowed; scale dictionary and x, or use float64")


def _warn_if_swapped(dictionary: Array, x: Array) -> None:
    """Warn where x looks like a dictionary, in the order of scikit-learn's arguments: a few rows, all of norm one."""
    if not 1 < x.shape[0] < dictionary.shape[0]:
        return
    rows, atoms = np.asarray(x), np.asarray(dictionary)
    for order in (1, 2):
        with np.errstate(over="ignore", invalid="ignore"):
            norms, others = (np.linalg.norm(a, order, axis=1) for a in (rows, atoms))
        if np.abs(norms - 1).max() < _ON_THE_BALL and (np.abs(others - 1) > _ON_THE_BALL).all():
            warn(
                f"encode(dictionary, x, penalty) takes the dictionary first: all {len(rows)} rows of x have norm 1, as "
                f"atoms have, and none of the {len(atoms)} rows of dictionary has. Are they in the wrong order?"
            )


def _warn_unless_converged(info: SolveInfo) -> None:
    converged = np.asarray(info.converged)
    if not converged.all():
        n_open = converged.size - int(converged.sum())
        warn(
            f"codes of {n_open} of {converged.size} samples are not within the tolerance of the solver: the largest "
            f"relative duality gap is {np.asarray(info.gap).max():.1e}. Give the solver more max_iter or a larger tol, "
            "raise alpha, or compute in float64",
            ConvergenceWarning,
        )


@jax.jit
def _encode(
    dictionary: Array,
    gram: Array | None,
    rows: _Rows,
    penalty: Penalty,
    shared_mask: Array | None,
    solver: CodeSolver,
) -> tuple[Array, SolveInfo]:
    """Codes of samples, with the Gram matrix ``(k, k)`` if it is known."""
    x, mask, init = rows
    if init is None:
        init = jnp.zeros((x.shape[0], dictionary.shape[0]), x.dtype)
    if mask is None and gram is None:
        gram = _shared_gram(dictionary, shared_mask)
    mask = shared_mask if mask is None else mask
    if mask is None:
        beta = matmul(x, dictionary.T)
        scale = power_of_two_below(x)
        sq_norm = jnp.sum(_divided(x, scale) ** 2, -1)
    else:
        # A missing value is not looked at; one that is there but weighs nothing still has a derivative in its weight.
        x = jnp.where((mask == 0) & ~jnp.isfinite(x), 0, x)
        beta = matmul(mask * x, dictionary.T)
        scale = power_of_two_below(jnp.where(mask == 0, 0, x))
        scaled = _divided(x, scale)
        sq_norm = jnp.sum((mask * scaled) * scaled, -1)  # a huge value that weighs nothing must not overflow
    if gram is None:
        # One sample after another, and again for derivatives: the weighted dictionaries of a batch would not fit.
        gram = lax.map(jax.checkpoint(lambda m: matmul(dictionary * m, dictionary.T)), mask)
    return solve_codes(gram, beta, penalty, sq_norm=sq_norm, scale=scale, solver=solver, init=init)


def _divided(x: Array, scale: Array) -> Array:
    return x / jnp.where(scale > 0, scale, 1)[:, None]


@jax.jit
def _shared_gram(dictionary: Array, mask: Array | None) -> Array:
    return self_product(dictionary) if mask is None else matmul(dictionary * mask, dictionary.T)


def decode(dictionary: ArrayLike, codes: ArrayLike) -> Array:
    """Samples that codes stand for: ``A D``.

    Args:
      dictionary: ``(k, p)``.
      codes: ``(k,)`` or ``(n, k)``.

    Returns:
      ``(p,)`` or ``(n, p)``.
    """
    dictionary = as_real_array("dictionary", dictionary, ndim=(2,))
    codes = as_real_array("codes", codes, ndim=(1, 2), dtype=dictionary.dtype)
    check_shape("codes", codes, (*codes.shape[:-1], dictionary.shape[0]), "(..., n_components)")
    return matmul(codes, dictionary)


def objective_per_sample(dictionary: Array, x: Array, codes: Array, penalty: Penalty) -> Array:
    """``1/2 |x - a D|^2 + Omega(a)`` of each sample: ``(k, p), (n, p), (n, k) -> (n,)``."""
    residual = x - matmul(codes, dictionary)
    return 0.5 * jnp.sum(residual**2, -1) + penalty_value(penalty, codes)


def scaled_objective_per_sample(dictionary: Array, x: Array, codes: Array, penalty: Penalty) -> tuple[Array, Array]:
    """As `objective_per_sample`, over the square of a scale, whose own square may be out of range: ``(n,)`` each."""
    scale = power_of_two_below(x).max(initial=0)
    scale = jnp.where(scale > 0, scale, 1)
    value = objective_per_sample(dictionary, x / scale, codes / scale, _Scaled(penalty, scale))
    return value, jnp.full(value.shape, scale)


def _converged(gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, codes: Array, info: SolveInfo) -> Array:
    """Which samples are solved, by their objectives where it is not plain from the gaps."""
    assert info.converged is not None
    certain = info.converged
    plain = certain & (jnp.nan_to_num(penalty_value(penalty, codes)) >= sq_norm / 2000)

    def look() -> Array:
        weights = weights_of(penalty, codes.shape[1], codes.dtype)
        image = matmul(codes, gram) if gram.ndim == 2 else jnp.einsum("bk,bkl->bl", codes, gram, precision="highest")
        return solved(weights, beta.T, image.T, codes.T, sq_norm, info.gap, certain)

    return lax.cond(plain.all(), lambda: certain, look)


@jax.custom_jvp
def _differentiable_solve(
    gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, scale: Array | None, solver: CodeSolver, init: Array
) -> tuple[Array, SolveInfo]:
    return _flat_solve(gram, beta, penalty, sq_norm, scale, solver, init)


def solve_codes(
    gram: Array,
    beta: Array,
    penalty: Penalty,
    *,
    sq_norm: Array,
    solver: CodeSolver,
    init: Array,
    scale: Array | None = None,
) -> tuple[Array, SolveInfo]:
    """Codes of a batch from Gram matrices and correlations, differentiable in these and in the penalty.

    Args:
      gram: ``(k, k)`` shared by the batch, or ``(b, k, k)``.
      beta: ``(b, k)``.
      penalty: of the codes.
      sq_norm: ``(b,)`` squared norms of the samples, each over the square of its scale.
      solver: a `CodeSolver`.
      init: ``(b, k)``; what is not finite counts as zero.
      scale: ``(b,)`` powers of two of the size of the samples, whose squares may be out of the range of the dtype, and
        zeros for samples of zeros; None for ones.

    Returns:
      codes ``(b, k)`` and a `SolveInfo` of ``(b,)``.
    """
    init = jnp.where(jnp.isfinite(init), init, 0)
    solve = _solve_scaled if getattr(solver, "unrolled", False) else _differentiable_solve
    return solve(gram, beta, penalty, sq_norm, scale, solver, init)


@register_configuration
@dataclass(frozen=True)
class _Scaled:
    """The penalty of codes that are divided by a number, which its objective is divided by the square of."""

    penalty: Penalty
    scale: Array

    @property
    def l1(self) -> Float:
        return jnp.minimum(self.penalty.l1 / self.scale, jnp.finfo(self.scale.dtype).max)  # times zero it must be zero

    @property
    def l2(self) -> Float:
        return self.penalty.l2

    @property
    def nonneg(self) -> bool:
        return self.penalty.nonneg


def _solve_scaled(
    gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, scale: Array | None, solver: CodeSolver, init: Array
) -> tuple[Array, SolveInfo]:
    """The codes of a solver for samples of any size: codes are homogeneous in samples and l1 weights."""
    if scale is None or is_ridge(penalty):
        codes, info = solver.solve(gram, beta, penalty, sq_norm, init)
    else:
        common = jnp.where(scale.max() > 0, scale.max(), 1)
        sq_norm, beta = sq_norm * (scale / common) ** 2, beta / common
        scaled = _Scaled(penalty, common)
        codes, info = solver.solve(gram, beta, scaled, sq_norm, init / common)
        if info.converged is not None:
            info = info._replace(converged=_converged(gram, beta, scaled, sq_norm, codes, info))
        codes = codes * common
    if info.converged is None:  # a solver that does not say
        info = info._replace(converged=jnp.ones(info.gap.shape, bool))
    return codes, info


@_differentiable_solve.defjvp
def _solve_jvp(primals: Any, tangents: Any) -> Any:
    gram, beta, penalty, *_ = primals
    d_gram, d_beta, d_penalty, *_ = tangents
    codes, info = _differentiable_solve(*primals)
    # Under differentiation the codes are those that the derivative is of: a chain of both would mix two points.
    codes = codes + lax.stop_gradient(polish(codes, gram, beta, penalty) - codes)
    d_codes = codes_tangent(codes, gram, penalty, d_gram, d_beta, d_penalty)
    whole = jnp.zeros(info.n_iter.shape, jax.dtypes.float0)
    zeros = SolveInfo(jnp.zeros_like(info.gap), whole, whole)
    return (codes, info), (d_codes, zeros)


_ALL_BATCHED: Any = (True, SolveInfo(True, True, True))  # type: ignore[arg-type]


@custom_vmap
def _flat_solve(
    gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, scale: Array | None, solver: CodeSolver, init: Array
) -> tuple[Array, SolveInfo]:
    return _solve_scaled(gram, beta, penalty, sq_norm, scale, solver, init)


@_flat_solve.def_vmap
def _flat_solve_vmap(size: int, batched: Any, *args: Any) -> Any:
    """A user's vmap over samples becomes one larger batch, which is what the solvers are fast at."""
    gram, beta, penalty, _, _, solver, _ = args
    gram_batched, _, penalty_batched, _, _, solver_batched, _ = batched
    one_problem = not any(jax.tree.leaves((penalty_batched, solver_batched)))
    own_gram_each = gram_batched and gram.ndim == 3 and beta.shape[-2] == 1
    if not one_problem or not (own_gram_each or (not gram_batched and gram.ndim == 2)):
        # Problems that differ in more than their samples: the solver's loop runs until the last is done.
        axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
        return jax.vmap(_solve_scaled, in_axes=axes)(*args), _ALL_BATCHED

    def merge(array: Any, is_batched: Any) -> Any:
        if array is None:
            return None
        spread = array if is_batched else jnp.broadcast_to(array, (size, *array.shape))
        return spread.reshape(-1, *spread.shape[2:])

    merged = [merge(args[i], batched[i]) for i in (1, 3, 4, 6)]
    out = _flat_solve(gram, merged[0], penalty, merged[1], merged[2], solver, merged[3])
    return jax.tree.map(lambda a: a.reshape(size, -1, *a.shape[1:]), out), _ALL_BATCHED
