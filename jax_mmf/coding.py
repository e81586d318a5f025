"""Codes of samples in a dictionary, and their derivatives."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from jax_mmf.code_solvers import CodeSolver, default_code_solver
from jax_mmf.compaction import SolveInfo
from jax_mmf.implicit import codes_tangent, polish
from jax_mmf.linalg import matmul, self_product
from jax_mmf.parts import in_parts, parts_of
from jax_mmf.penalties import Penalty, penalty_value
from jax_mmf.typing import Array, ArrayLike
from jax_mmf.validation import as_real_array, check_methods, check_shape


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
    check_methods("penalty", penalty, "penalty", ("l1", "l2", "nonneg"))
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
    parts = parts_of(solver, batch.shape[0], dictionary, batch, penalty, mask, start)
    if parts.n_parts == 1:
        codes, info = _encode_batch(dictionary, batch, penalty, mask, solver, start)
    else:
        # In a function that is traced, but of constants alone, codes are a constant too, and worked out here and now.
        with jax.ensure_compile_time_eval():
            gram = None if mask is not None and mask.ndim == 2 else _shared_gram(dictionary, mask)
            part = functools.partial(_encode_part, dictionary, gram, batch, penalty, mask, solver, start)
            codes, info = in_parts(part, batch.shape[0], parts)
    return jax.tree.map(lambda a: a[0], (codes, info)) if x.ndim == 1 else (codes, info)


def _encode(
    dictionary: Array,
    gram: Array | None,
    x: Array,
    penalty: Penalty,
    mask: Array | None,
    solver: CodeSolver,
    init: Array | None,
) -> tuple[Array, SolveInfo]:
    """Codes of samples ``(n, p)``; without a Gram matrix ``(k, k)``, each sample has its own, by a mask ``(n, p)``."""
    if init is None:
        init = jnp.zeros((x.shape[0], dictionary.shape[0]), x.dtype)
    if mask is None:
        beta, sq_norm = matmul(x, dictionary.T), jnp.sum(x**2, -1)
    else:
        # A missing value is not looked at; one that is there but weighs nothing still has a derivative in its weight.
        x = jnp.where((mask == 0) & ~jnp.isfinite(x), 0, x)
        beta = matmul(mask * x, dictionary.T)
        sq_norm = jnp.sum((mask * x) * x, -1)  # not x^2: a huge value that weighs nothing must not overflow
    if gram is None:
        # One sample after another, and again for derivatives: the weighted dictionaries of a batch would not fit.
        gram = lax.map(jax.checkpoint(lambda m: matmul(dictionary * m, dictionary.T)), mask)
    return solve_codes(gram, beta, penalty, sq_norm=sq_norm, solver=solver, init=init)


@jax.jit
def _encode_batch(
    dictionary: Array, x: Array, penalty: Penalty, mask: Array | None, solver: CodeSolver, init: Array | None
) -> tuple[Array, SolveInfo]:
    gram = None if mask is not None and mask.ndim == 2 else _shared_gram(dictionary, mask)
    return _encode(dictionary, gram, x, penalty, mask, solver, init)


@functools.partial(jax.jit, static_argnames="size")
def _encode_part(
    dictionary: Array,
    gram: Array | None,
    x: Array,
    penalty: Penalty,
    mask: Array | None,
    solver: CodeSolver,
    init: Array | None,
    first: Array,
    size: int,
) -> tuple[Array, SolveInfo]:
    take = lambda rows: lax.dynamic_slice_in_dim(rows, first, size)  # noqa: E731
    mask = mask if mask is None or mask.ndim == 1 else take(mask)
    return _encode(dictionary, gram, take(x), penalty, mask, solver, None if init is None else take(init))


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


@jax.custom_jvp
def _differentiable_solve(
    gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, solver: CodeSolver, init: Array
) -> tuple[Array, SolveInfo]:
    return _flat_solve(gram, beta, penalty, sq_norm, solver, init)


def solve_codes(
    gram: Array, beta: Array, penalty: Penalty, *, sq_norm: Array, solver: CodeSolver, init: Array
) -> tuple[Array, SolveInfo]:
    """Codes of a batch from Gram matrices and correlations, differentiable in these and in the penalty.

    Args:
      gram: ``(k, k)`` shared by the batch, or ``(b, k, k)``.
      beta: ``(b, k)``.
      penalty: of the codes.
      sq_norm: ``(b,)`` squared norms of the samples.
      solver: a `CodeSolver`.
      init: ``(b, k)``.

    Returns:
      codes ``(b, k)`` and a `SolveInfo` of ``(b,)``.
    """
    if getattr(solver, "unrolled", False):
        return solver.solve(gram, beta, penalty, sq_norm, init)
    return _differentiable_solve(gram, beta, penalty, sq_norm, solver, init)


@_differentiable_solve.defjvp
def _solve_jvp(primals: Any, tangents: Any) -> Any:
    gram, beta, penalty, sq_norm, solver, init = primals
    d_gram, d_beta, d_penalty, *_ = tangents
    codes, info = _differentiable_solve(gram, beta, penalty, sq_norm, solver, init)
    # Under differentiation the codes are those that the derivative is of: a chain of both would mix two points.
    codes = codes + lax.stop_gradient(polish(codes, gram, beta, penalty) - codes)
    d_codes = codes_tangent(codes, gram, penalty, d_gram, d_beta, d_penalty)
    zeros = SolveInfo(jnp.zeros_like(info.gap), jnp.zeros(info.n_iter.shape, jax.dtypes.float0))
    return (codes, info), (d_codes, zeros)


_ALL_BATCHED: Any = (True, SolveInfo(True, True))  # type: ignore[arg-type]


@custom_vmap
def _flat_solve(
    gram: Array, beta: Array, penalty: Penalty, sq_norm: Array, solver: CodeSolver, init: Array
) -> tuple[Array, SolveInfo]:
    return solver.solve(gram, beta, penalty, sq_norm, init)


@_flat_solve.def_vmap
def _flat_solve_vmap(size: int, batched: Any, *args: Any) -> Any:
    """A user's vmap over samples becomes one larger batch, which is what the solvers are fast at."""
    gram, beta, penalty, sq_norm, solver, init = args
    gram_batched, beta_batched, penalty_batched, sq_norm_batched, solver_batched, init_batched = batched
    one_problem = not any(jax.tree.leaves((penalty_batched, solver_batched)))
    own_gram_each = gram_batched and gram.ndim == 3 and beta.shape[-2] == 1
    if not one_problem or not (own_gram_each or (not gram_batched and gram.ndim == 2)):
        # Problems that differ in more than their samples: the solver's loop runs until the last is done.
        axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
        return jax.vmap(lambda *a: a[4].solve(a[0], a[1], a[2], a[3], a[5]), in_axes=axes)(*args), _ALL_BATCHED

    def merge(array: Array, is_batched: bool) -> Array:
        spread = array if is_batched else jnp.broadcast_to(array, (size, *array.shape))
        return spread.reshape(-1, *spread.shape[2:])

    beta, sq_norm, init = merge(beta, beta_batched), merge(sq_norm, sq_norm_batched), merge(init, init_batched)
    out = _flat_solve(gram, beta, penalty, sq_norm, solver, init)
    return jax.tree.map(lambda a: a.reshape(size, -1, *a.shape[1:]), out), _ALL_BATCHED
