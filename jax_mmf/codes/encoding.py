"""Encode samples in a dictionary, and decode them."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.codes.checks import Rows, check_codes, warn_if_swapped, warn_unless_converged
from jax_mmf.codes.chunks import at_once, chunks_of, in_chunks
from jax_mmf.codes.compaction import SolveInfo
from jax_mmf.codes.problem import CodeProblem, gram_per_sample
from jax_mmf.codes.solve import solve_codes
from jax_mmf.codes.solver import CodeSolver
from jax_mmf.codes.solvers import default_code_solver
from jax_mmf.core import (
    as_real_array,
    check_methods,
    check_shape,
    inner_products,
    matmul,
    power_of_two_below,
    self_product,
    warn_of_blas_threads,
)
from jax_mmf.penalties import AnyPenalty, check_penalty, has_closed_form, is_weighted
from jax_mmf.typing import Array, ArrayLike


def encode(
    dictionary: ArrayLike,
    x: ArrayLike,
    penalty: AnyPenalty,
    *,
    mask: ArrayLike | None = None,
    solver: CodeSolver | None = None,
    init: ArrayLike | None = None,
) -> Array:
    """Compute the codes of samples: ``argmin_a 1/2 |x - a D|^2 + Omega(a)`` for each sample.

    Differentiable with respect to the dictionary, the samples, the mask and the numbers in the penalty, forward and
    reverse, at any order: on the support of a code, the optimality condition is a linear system whose solution is
    differentiated implicitly ([TPAMI12], proposition 1); off the support the derivative is zero. With a
    `ProximalPenalty`, the fixed-point equation of a proximal step is differentiated. `UnrolledFISTA` is differentiated
    step by step instead.

    Args:
      dictionary: ``(k, p)``.
      x: one sample ``(p,)`` or a batch ``(n, p)``, in the dtype of the dictionary or cast to it.
      penalty: `Ridge`, `Lasso`, `ElasticNet`, or any `Penalty` or `ProximalPenalty`.
      mask: None, or weights >= 0 of the squared error of each feature, ``(p,)`` or ``(n, p)``; zero for a missing
        feature, whose value in ``x`` is then ignored and may be NaN.
      solver: a `CodeSolver`. By default `Cholesky` for ridge, `FISTA` for a `ProximalPenalty`, and `ActiveSet` for
        others. `UnrolledFISTA` is for derivatives of a few steps.
      init: ``(k,)`` or ``(n, k)`` codes to start from; zeros by default.

    Returns:
      ``(k,)`` or ``(n, k)``.

    Raises:
      ValueError: for shapes that do not fit.
      TypeError: for arguments that are not real numbers, and for a penalty or solver that lacks a method.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> print(mmf.encode(jnp.eye(3), jnp.array([2.0, -0.05, -1.0]), mmf.Lasso(0.1)))
      [ 1.9  0.  -0.9]
    """
    return encode_with_info(dictionary, x, penalty, mask=mask, solver=solver, init=init)[0]


def encode_with_info(
    dictionary: ArrayLike,
    x: ArrayLike,
    penalty: AnyPenalty,
    *,
    mask: ArrayLike | None = None,
    solver: CodeSolver | None = None,
    init: ArrayLike | None = None,
) -> tuple[Array, SolveInfo]:
    """Compute codes as `encode` does, with the duality gap and the number of iterations of each sample.

    Returns:
      codes ``(k,)`` or ``(n, k)``, and a `SolveInfo` of ``()`` or ``(n,)``.
    """
    dictionary = as_real_array("dictionary", dictionary, ndim=(2,))
    x = as_real_array("x", x, ndim=(1, 2), dtype=dictionary.dtype)
    k, p = dictionary.shape
    check_shape("x", x, (*x.shape[:-1], p), "(n_features,)" if x.ndim == 1 else "(n_samples, n_features)")
    if k == 0:
        raise ValueError(f"dictionary must hold at least one atom, got shape {dictionary.shape}")
    check_penalty(penalty)
    for name in ("l1", "l2") if is_weighted(penalty) else ():
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
    codes, info = _encode_rows(dictionary, Rows(batch, own, start), penalty, shared, solver)
    return jax.tree.map(lambda a: a[0], (codes, info)) if x.ndim == 1 else (codes, info)


def _encode_rows(
    dictionary: Array, rows: Rows, penalty: AnyPenalty, mask: Array | None, solver: CodeSolver
) -> tuple[Array, SolveInfo]:
    """Encode a batch; outside of transformations in chunks, with checks of the arguments and of the codes."""
    n, k = rows.x.shape[0], dictionary.shape[0]
    if n == 0:
        none = jnp.zeros((0,), dictionary.dtype)
        return jnp.zeros((0, k), dictionary.dtype), SolveInfo(none, none.astype(jnp.int32), none.astype(bool))
    chunks = chunks_of(solver, rows, dictionary, penalty, mask)
    if chunks is None:
        return _encode(dictionary, None, rows, penalty, mask, solver)
    if has_closed_form(penalty):
        warn_of_blas_threads(k)

    def solve() -> tuple[Array, SolveInfo]:
        if rows.init is not None and not np.isfinite(np.asarray(rows.init)).all():
            raise ValueError("init holds nan or infinity; start from zeros, by init=None, or from finite codes")
        for weights in map(np.asarray, jax.tree.leaves((mask, rows.mask))):
            if not ((weights >= 0) & np.isfinite(weights)).all():
                raise ValueError("mask must hold weights >= 0, zero for a missing feature; got negative numbers or nan")
        gram = _shared_gram(dictionary, mask) if rows.mask is None else None
        codes, info = in_chunks(lambda part: _encode(dictionary, gram, part, penalty, mask, solver), rows, chunks)
        check_codes(dictionary, rows, mask, codes)
        return codes, info

    codes, info = at_once(solve)
    warn_if_swapped(dictionary, rows.x)
    warn_unless_converged(info)
    return codes, info


@jax.jit
def _encode(
    dictionary: Array,
    gram: Array | None,
    rows: Rows,
    penalty: AnyPenalty,
    shared_mask: Array | None,
    solver: CodeSolver,
) -> tuple[Array, SolveInfo]:
    """Encode samples, with the Gram matrix ``(k, k)`` if it is known."""
    x, mask, init = rows
    if init is None:
        init = jnp.zeros((x.shape[0], dictionary.shape[0]), x.dtype)
    if mask is None and gram is None:
        gram = _shared_gram(dictionary, shared_mask)
    mask = mask if shared_mask is None else shared_mask[None]
    if mask is None:
        beta = inner_products(x, dictionary)
        scale = power_of_two_below(x)
        sq_norm = jnp.sum(_divided(x, scale) ** 2, -1)
    else:
        # Missing values are ignored. A finite value of weight zero still has a derivative with respect to its weight.
        x = jnp.where((mask == 0) & ~jnp.isfinite(x), 0, x)
        beta = matmul(mask * x, dictionary.T)
        scale = power_of_two_below(jnp.where(mask == 0, 0, x))
        scaled = _divided(x, scale)
        sq_norm = jnp.sum((mask * scaled) * scaled, -1)  # a huge value of weight zero must not overflow
    if gram is None:
        assert mask is not None
        gram = gram_per_sample(dictionary, mask)
    return solve_codes(CodeProblem(gram, beta, sq_norm), penalty, solver=solver, init=init, scale=scale)


def _divided(x: Array, scale: Array) -> Array:
    return x / jnp.where(scale > 0, scale, 1)[:, None]


@jax.jit
def _shared_gram(dictionary: Array, mask: Array | None) -> Array:
    return self_product(dictionary) if mask is None else matmul(dictionary * mask[None], dictionary.T)


def decode(dictionary: ArrayLike, codes: ArrayLike) -> Array:
    """Reconstruct samples from codes: ``A D``.

    Args:
      dictionary: ``(k, p)``.
      codes: ``(k,)`` or ``(n, k)``.

    Returns:
      ``(p,)`` or ``(n, p)``.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> print(mmf.decode(jnp.eye(2), jnp.array([1.0, -2.0])))
      [ 1. -2.]
    """
    dictionary = as_real_array("dictionary", dictionary, ndim=(2,))
    codes = as_real_array("codes", codes, ndim=(1, 2), dtype=dictionary.dtype)
    check_shape("codes", codes, (*codes.shape[:-1], dictionary.shape[0]), "(..., n_components)")
    return matmul(codes, dictionary)
