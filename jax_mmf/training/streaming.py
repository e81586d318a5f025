"""Codes and metrics of samples in memory, and of sources that are read a batch at a time.

The type of ``x`` decides whether it is streamed. NumPy and JAX arrays, traced values, tensors, frames and lists of
rows are in memory and are computed as a whole. The following are sources, which are streamed:

- memory maps of NumPy, `h5py.Dataset`, and other objects of two axes that are sliced by rows (zarr, dask, xarray);
- sparse matrices of SciPy;
- what `jax_mmf.open_source` opens, and your own objects with the attributes of a `jax_mmf.io.Source`;
- iterables of batches ``(b_i, p)``. An iterator is consumed.

A thread reads batches ahead of the computation, so three are in memory at a time. Codes are NumPy arrays in host
memory, and features are in their original order, even if the columns of the file are permuted. The computation is in
the dtype of the dictionary.

Derivatives and other transformations need samples in memory. Inside of them, data that can be converted to an array are
loaded, and other sources raise an error.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf import codes as of_arrays
from jax_mmf.codes import CodeSolver, ConvergenceWarning, SolveInfo, squares
from jax_mmf.core import as_real_array, feature_names, filled_up, warn
from jax_mmf.io import BatchSource, CentredSource, Source, as_source
from jax_mmf.penalties import AnyPenalty, Penalty, ProximalPenalty
from jax_mmf.training.batches import Batch, Batches, is_source
from jax_mmf.training.mask import check_columns
from jax_mmf.typing import Array, ArrayLike, HostArray


def encode(
    dictionary: ArrayLike,
    x: Any,
    penalty: AnyPenalty,
    *,
    mask: Any = None,
    solver: CodeSolver | None = None,
    init: Any = None,
    out: Any = None,
    batch_size: int | None = None,
) -> Any:
    """Compute the codes of samples: ``argmin_a 1/2 |x - a D|^2 + Omega(a)`` for each sample.

    Differentiable with respect to the dictionary, the samples, the mask and the numbers in the penalty, forward and
    reverse, at any order: on the support of a code, the optimality condition is a linear system whose solution is
    differentiated implicitly ([TPAMI12], proposition 1); off the support the derivative is zero. With a
    `ProximalPenalty`, the fixed-point equation of a proximal step is differentiated. `UnrolledFISTA` is differentiated
    step by step instead.

    Args:
      dictionary: ``(k, p)``.
      x: one sample ``(p,)``, a batch ``(n, p)``, or a source ``(n, p)`` that is streamed; in the dtype of the
        dictionary or cast to it.
      penalty: `Ridge`, `Lasso`, `ElasticNet`, or any `Penalty` or `ProximalPenalty`.
      mask: None, or weights >= 0 of the squared error of each feature, ``(p,)`` or ``(n, p)``; zero for a missing
        feature, whose value in ``x`` is then ignored and may be NaN. For a source, a mask ``(n, p)`` may be a source
        too.
      solver: a `CodeSolver`. By default `Cholesky` for ridge, `FISTA` for a `ProximalPenalty`, and `ActiveSet` for
        others. `UnrolledFISTA` is for derivatives of a few steps.
      init: ``(k,)`` or ``(n, k)`` codes to start from; zeros by default.
      out: where to write the codes of a source, for instance a memory map or an `h5py.Dataset` of shape ``(n, k)``:
        anything that has a shape and takes ``out[first:last] = codes``. With ``out`` or ``batch_size``, samples in
        memory are processed like a source.
      batch_size: samples of a source that are read at a time; by default 64 MB and at most 4,096, in whole chunks of
        the file. An iterable of batches determines this itself.

    Returns:
      ``(k,)`` or ``(n, k)``: a JAX array for samples in memory, a NumPy array for a source, or ``out``.

    Raises:
      ValueError: for shapes that do not fit, and for NaN and infinity in samples that are not traced.
      TypeError: for arguments that are not real numbers, for a penalty or solver that lacks a method, and for a source
        inside of a transformation.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> print(mmf.encode(jnp.eye(3), jnp.array([2.0, -0.05, -1.0]), mmf.Lasso(0.1)))
      [ 1.9  0.  -0.9]
    """
    if _in_memory(x, (dictionary, penalty, solver, mask, init), out=out, batch_size=batch_size):
        check_columns(feature_names(mask), feature_names(x))
        return of_arrays.encode(dictionary, x, penalty, mask=mask, solver=solver, init=init)
    batches = Batches(x, dictionary, batch_size, mask=mask, codes=init)
    codes = _Codes(out, batches.n_samples, batches.dictionary)
    for batch, found, _ in _solved(batches, penalty, solver):
        codes.write(batch.first, found)
    return codes.finish()


def encode_with_info(
    dictionary: ArrayLike,
    x: Any,
    penalty: AnyPenalty,
    *,
    mask: Any = None,
    solver: CodeSolver | None = None,
    init: Any = None,
    out: Any = None,
    batch_size: int | None = None,
) -> tuple[Any, SolveInfo]:
    """Compute codes as `encode` does, with the duality gap and the number of iterations of each sample.

    Returns:
      codes ``(k,)`` or ``(n, k)``, and a `SolveInfo` of ``()`` or ``(n,)``: of JAX arrays for samples in memory, and of
      NumPy arrays for a source.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> codes, info = mmf.encode_with_info(jnp.eye(2), jnp.array([2.0, -0.5]), mmf.Lasso(1.0))
      >>> print(codes, bool(info.converged))
      [1. 0.] True
    """
    if _in_memory(x, (dictionary, penalty, solver, mask, init), out=out, batch_size=batch_size):
        check_columns(feature_names(mask), feature_names(x))
        return of_arrays.encode_with_info(dictionary, x, penalty, mask=mask, solver=solver, init=init)
    batches = Batches(x, dictionary, batch_size, mask=mask, codes=init)
    codes, infos = _Codes(out, batches.n_samples, batches.dictionary), list[SolveInfo]()
    for batch, found, info in _solved(batches, penalty, solver):
        codes.write(batch.first, found)
        infos.append(info)
    return codes.finish(), jax.tree.map(lambda *parts: np.concatenate(parts), *infos)


def objective(
    dictionary: ArrayLike,
    x: Any,
    penalty: AnyPenalty,
    *,
    mask: Any = None,
    solver: CodeSolver | None = None,
    batch_size: int | None = None,
) -> Array:
    """Return the mean of ``1/2 |x - a D|^2 + Omega(a)`` over samples, at the optimal codes and on all features.

    Differentiable in everything, as `encode` is.

    Args:
      dictionary: ``(k, p)``.
      x: ``(n, p)``, one sample ``(p,)``, or a source ``(n, p)`` that is streamed.
      penalty: of the codes.
      mask: None, or weights of the squared error of each feature, as in `encode`; zero for a missing feature.
      solver: of the codes; by default that of `encode`.
      batch_size: samples of a source that are read at a time, as in `encode`.

    Returns:
      a scalar. Over the batches of a source, it is added up in float64.

    Raises:
      ValueError: for shapes that do not fit, no samples, and as `encode` does.
      TypeError: as `encode` does.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> float(mmf.objective(jnp.eye(2), jnp.array([2.0, -0.5]), mmf.Lasso(1.0)))
      1.625
    """
    if _in_memory(x, (dictionary, penalty, solver, mask), batch_size=batch_size):
        check_columns(feature_names(mask), feature_names(x))
        return of_arrays.objective(dictionary, x, penalty, mask=mask, solver=solver)
    batches = Batches(x, dictionary, batch_size, mask=mask)
    total, n_samples, n_warnings = 0.0, 0, 0
    of_zeros: float | None = None

    def mean(x: HostArray, mask: HostArray | None) -> float:
        return float(of_arrays.objective(batches.dictionary, x, penalty, mask=mask, solver=solver))

    for batch in batches:
        with _recorded(n_warnings) as caught:
            total += len(batch.x) * mean(batch.x, batch.mask)
        n_warnings += len(caught)
        n_padded = len(batch.x) - batch.n_samples
        if n_padded:  # rows of zeros, whose objective is not zero for every penalty
            if of_zeros is None:
                own = batch.mask is not None and batch.mask.ndim == 2
                of_zeros = mean(np.zeros_like(batch.x), np.zeros_like(batch.x) if own else batch.mask)
            total -= n_padded * of_zeros
        n_samples += batch.n_samples
    return _scalar(total / n_samples, batches.dictionary)


def explained_variance(
    dictionary: ArrayLike,
    x: Any,
    codes: Any,
    *,
    mask: Any = None,
    solver: CodeSolver | None = None,
    batch_size: int | None = None,
) -> Array:
    """Return the share of the sum of squares that is explained, ``1 - |X - A D|^2 / |X|^2``.

    This is a share of the variance if X is centred.

    Args:
      dictionary: ``(k, p)``.
      x: ``(n, p)``, or a source ``(n, p)`` that is streamed.
      codes: ``(n, k)``, or a penalty, for the codes of `encode`. For a source, codes may be a memory map or a data set
        too, and are read a batch at a time.
      mask: None, or weights of the squares of each feature, as in `encode`; zero for a missing feature.
      solver: of these codes; by default that of `encode`.
      batch_size: samples of a source that are read at a time, as in `encode`.

    Returns:
      a scalar, at most 1; NaN if X is zero. Over the batches of a source, squares are added up in float64, and the
      scalar has the dtype of the dictionary.

    Raises:
      ValueError: for shapes that do not fit, no samples, and as `encode` does.
      TypeError: as `encode` does.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> float(mmf.explained_variance(jnp.eye(2), jnp.array([[2.0, 2.0]]), jnp.array([[2.0, 1.0]])))
      0.875
    """
    if _in_memory(x, (dictionary, codes, solver, mask), batch_size=batch_size):
        check_columns(feature_names(mask), feature_names(x))
        return of_arrays.explained_variance(dictionary, x, codes, mask=mask, solver=solver)
    if codes is None or isinstance(codes, str):
        raise TypeError(f"codes must be an array (n, k), or a penalty such as Lasso(0.1); got {codes!r}")
    if isinstance(codes, Penalty | ProximalPenalty):
        batches = Batches(x, dictionary, batch_size, mask=mask)
        pairs = ((batch, found) for batch, found, _ in _solved(batches, codes, solver))
    else:
        batches = Batches(x, dictionary, batch_size, mask=mask, codes=codes, name="codes")
        pairs = ((batch, batch.codes[: batch.n_samples]) for batch in batches if batch.codes is not None)
    left = total = 0.0
    for batch, found in pairs:
        filled = filled_up(found, len(batch.x))  # by rows of zeros, which add nothing
        weights = None if batch.mask is None else np.broadcast_to(batch.mask, batch.x.shape)
        *each, scale = (np.asarray(a, np.float64) for a in squares(batches.dictionary, batch.x, filled, weights))
        left, total = (s + float((a * scale**2).sum()) for s, a in zip((left, total), each, strict=True))
    return _scalar(1 - left / total if total > 0 else np.nan, batches.dictionary)


def centred(x: Any, mean: Array) -> Any:
    """Subtract the mean of a centred model from samples, or from those of a source when they are read.

    Args:
      x: what `encode` takes.
      mean: ``(p,)``.
    """
    if not is_source(x):
        return as_real_array("x", x, ndim=(1, 2), dtype=mean.dtype) - mean
    on_host = np.asarray(mean)
    source = as_source(x, "x")
    return (batch - on_host for batch in source) if isinstance(source, BatchSource) else CentredSource(source, on_host)


def _in_memory(x: Any, others: tuple[Any, ...], **options: Any) -> bool:
    """Whether samples are computed as a whole.

    Args:
      x: the samples.
      others: arguments that hold arrays, any of which may be traced.
      options: arguments that only make sense for a source, each None if it is not given.
    """
    given = [name for name, value in options.items() if value is not None]
    if not is_source(x) and not given:
        return True
    traced = (isinstance(leaf, jax.core.Tracer) for other in others for leaf in _leaves(other))
    if not any(traced) and not isinstance(x, jax.core.Tracer) and not isinstance(jnp.zeros(()), jax.core.Tracer):
        return False
    if given:
        raise TypeError(
            f"{' and '.join(given)} must be None inside of jit, grad, vmap and other transformations, where "
            "samples are not read a batch at a time"
        )
    if isinstance(x, BatchSource | Source) or not hasattr(x, "shape"):
        raise TypeError(
            f"x must be an array inside of jit, grad, vmap and other transformations, where a source can't be read "
            f"a batch at a time; got {type(x).__name__}. Pass an array, such as source.read(np.arange(1000)), or call "
            "this outside"
        )
    return True


def _leaves(argument: Any) -> list[Any]:
    """Return the arrays and numbers of an argument, which can be data of any kind."""
    is_data = isinstance(argument, Iterator) or type(argument) in (list, tuple)
    return [] if is_data else jax.tree.leaves(argument)


def _solved(
    batches: Batches, penalty: AnyPenalty, solver: CodeSolver | None
) -> Iterator[tuple[Batch, HostArray, SolveInfo]]:
    """Solve for the codes of batches, with one warning at the end if some did not converge.

    Yields:
      a batch, its codes ``(b, k)`` and a `SolveInfo` of ``(b,)``, without the rows that fill it up.
    """
    n_open, n_samples, gap = 0, 0, 0.0
    for batch in batches:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            solved = of_arrays.encode_with_info(
                batches.dictionary, batch.x, penalty, mask=batch.mask, solver=solver, init=batch.codes
            )
        codes, info = jax.tree.map(lambda a, n=batch.n_samples: np.asarray(a)[:n], solved)
        n_samples += batch.n_samples
        n_open += batch.n_samples - int(info.converged.sum())
        gap = max(gap, float(info.gap.max()))
        yield batch, codes, info
    if n_open:
        warn(
            f"codes of {n_open} of {n_samples} samples are not within the tolerance of the solver: the largest gap is "
            f"{gap:.1e}. Pass a solver with a larger max_iter or tol, raise alpha, or compute in float64",
            ConvergenceWarning,
        )


@contextmanager
def _recorded(n_before: int) -> Iterator[list[warnings.WarningMessage]]:
    """Record warnings of codes that did not converge, and show only the first one."""
    recorded: list[warnings.WarningMessage] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        yield recorded
    for one in caught:
        if issubclass(one.category, ConvergenceWarning):
            recorded.append(one)
            if n_before + len(recorded) > 1:
                continue
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


class _Codes:
    """The array that codes are written to: a new one, or the user's.

    Args:
      out: None, or where to write.
      n_samples: number of samples, or None if it is not known yet.
      dictionary: ``(k, p)``.
    """

    def __init__(self, out: Any, n_samples: int | None, dictionary: Array) -> None:
        k, dtype = dictionary.shape[0], np.dtype(dictionary.dtype)
        self._parts = list[HostArray]()
        self._n_written = 0
        if out is None:
            self._out: Any = None if n_samples is None else np.empty((n_samples, k), dtype)
            return
        shape = getattr(out, "shape", None)
        if not isinstance(shape, tuple) or not hasattr(out, "__setitem__") or isinstance(out, jax.Array | type):
            raise TypeError(
                "out must be an array that can be written to, such as a NumPy array, a memory map or an h5py.Dataset; "
                f"got {type(out).__name__}"
            )
        wanted = (shape[0] if n_samples is None and shape else n_samples, k)
        if tuple(shape) != wanted:
            raise ValueError(f"out must have shape (n_samples, n_components) = {wanted}, got {tuple(shape)}")
        if not np.can_cast(dtype, getattr(out, "dtype", dtype), "same_kind"):
            raise TypeError(f"out must have a floating dtype, such as that of the codes, {dtype}; got {out.dtype}")
        self._out = out

    def write(self, first: int, codes: HostArray) -> None:
        """Write the codes of samples, given the number of the first one."""
        last = self._n_written = first + len(codes)
        if self._out is None:
            self._parts.append(codes)
            return
        if last > self._out.shape[0]:
            raise ValueError(
                f"out must have a row for each sample of x; it has {self._out.shape[0]} rows, and x has more"
            )
        self._out[first:last] = codes

    def finish(self) -> Any:
        """Return all of the codes."""
        if self._out is None:
            return np.concatenate(self._parts)
        if self._n_written != self._out.shape[0]:
            raise ValueError(
                f"out must have {self._n_written} rows, one for each sample of x; got {self._out.shape[0]}"
            )
        return self._out


def _scalar(value: float, dictionary: Array) -> Array:
    with np.errstate(over="ignore"):  # infinite, then
        return jnp.asarray(np.float64(value).astype(dictionary.dtype))
