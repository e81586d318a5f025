"""Checks of arguments. Messages name the argument, the value, what was expected and what to do."""

import numbers
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.core.foreign import as_array
from jax_mmf.typing import Array

_process: int | None = None


def check_process() -> None:
    """Raise in a process that was forked after the library was used, where JAX would hang.

    A fork does not copy the threads of XLA. A fork before the first use does no harm.

    Raises:
      RuntimeError: in the child process.
    """
    global _process  # noqa: PLW0603 - a property of the process
    pid = os.getpid()
    if _process is None:
        _process = pid
    elif _process != pid:
        raise RuntimeError(
            "this process was forked from one that had used JAX, whose threads a fork does not copy: JAX would hang. "
            'Start workers with multiprocessing.get_context("spawn") or "forkserver", or fork before the first use'
        )


def check_real(
    name: str, value: Any, *, low: float | None = None, high: float | None = None, open_low: bool = False
) -> None:
    """Raise unless a hyperparameter is a real number in its range.

    Traced values pass unchecked.

    Args:
      name: of the argument, as the user wrote it.
      value: of the argument.
      low: smallest value allowed, or None.
      high: largest value allowed, or None.
      open_low: whether ``low`` itself is excluded.

    Raises:
      TypeError: for text and other values that are not numbers.
      ValueError: for numbers out of range or not finite.
    """
    kind = value.dtype.kind if isinstance(value, np.generic | np.ndarray) else "f"
    if isinstance(value, str | bytes | list | tuple | dict | complex) or kind not in "biuf":
        raise TypeError(f"{name} must be a real number or an array of them, got {value!r} ({type(value).__name__})")
    known = isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer) and value.is_fully_addressable
    if isinstance(value, bool | np.bool_) or not (known or isinstance(value, numbers.Real | np.ndarray)):
        return
    array = np.asarray(value).astype(float)
    bound = "" if low is None else f" {'>' if open_low else '>='} {low:g}"
    bound += "" if high is None else f"{' and' if bound else ''} <= {high:g}"
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {value!r}")
    too_low = low is not None and bool((array <= low).any() if open_low else (array < low).any())
    if too_low or (high is not None and bool((array > high).any())):
        raise ValueError(f"{name} must be{bound}, got {value!r}")


def check_count(name: str, value: Any, *, low: int = 1) -> None:
    """Raise unless a static size is a whole number of at least ``low``.

    Args:
      name: of the argument.
      value: of the argument.
      low: smallest value allowed.

    Raises:
      TypeError: if it is not a whole number.
      ValueError: if it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r} ({type(value).__name__})")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless a static option is one of its choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_real_dtype(name: str, dtype: Any) -> None:
    """Raise TypeError unless a dtype is of real numbers: booleans, integers, or floating numbers."""
    # NumPy counts timedelta64 as an integer dtype.
    real = any(jnp.issubdtype(dtype, kind) for kind in (jnp.integer, jnp.floating, jnp.bool_))
    if real and getattr(dtype, "kind", None) != "m":
        return
    if getattr(dtype, "hasobject", False):
        raise TypeError(f"{name} must hold real numbers; got Python objects: convert them, e.g. with .astype(float)")
    what = "convert it first"
    if jnp.issubdtype(dtype, jnp.complexfloating):
        what = "use real and imaginary parts as separate features"
    elif getattr(dtype, "names", None):
        what = "convert it with numpy.lib.recfunctions.structured_to_unstructured"
    raise TypeError(f"{name} must hold real numbers; got dtype {dtype}: {what}")


def computing_dtype(given: Any) -> np.dtype[Any]:
    """Return the dtype in which the library computes with data of a dtype.

    Floating dtypes of 16 bits or fewer become float32, since long sums in them overflow or lose small terms. float64
    becomes float32 unless ``jax_enable_x64`` is set. Other dtypes become JAX's default floating dtype.
    """
    if not jnp.issubdtype(given, jnp.floating):
        return np.dtype(jnp.zeros(()).dtype)
    # JAX has no dtype longer than float64.
    bits = min(max(jnp.finfo(given).bits, 32), 64)
    return np.dtype(jax.dtypes.canonicalize_dtype(f"float{bits}"))


def as_computing_dtype(dtype: Any) -> np.dtype[Any]:
    """Return a user's argument ``dtype``: float32, or float64 if ``jax_enable_x64`` is set.

    Raises:
      TypeError: for other dtypes.
      ValueError: for float64 without ``jax_enable_x64``.
    """
    try:
        wanted = np.dtype(dtype).newbyteorder("=")
    except TypeError as error:
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}") from error
    if wanted not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {wanted}")
    if jax.dtypes.canonicalize_dtype(wanted) != wanted:
        raise ValueError(
            'dtype=float64 needs jax.config.update("jax_enable_x64", True) at the start of the program: without it, '
            "JAX computes in float32"
        )
    return wanted


def as_real_array(name: str, value: Any, *, ndim: tuple[int, ...], dtype: Any = None) -> Array:
    """Turn data into a JAX array of real floating numbers.

    Args:
      name: of the argument.
      value: integers, booleans or real numbers, in anything that `as_array` takes: arrays of any byte order, frames,
        tensors, sparse matrices (which become dense), nested lists.
      ndim: numbers of axes that are allowed.
      dtype: the dtype wanted; by default that of a floating ``value`` of at least 32 bits, float32 for fewer bits, and
        JAX's default floating dtype for other numbers.

    Returns:
      the array. Lengths may be zero.

    Raises:
      TypeError: for text, objects and complex numbers.
      ValueError: for another number of axes, masked entries, and numbers that the dtype can't hold.
    """
    check_process()
    array = as_array(name, value)
    check_real_dtype(name, array.dtype)
    dtype = computing_dtype(array.dtype) if dtype is None else jax.dtypes.canonicalize_dtype(dtype)
    if array.ndim not in ndim:
        wanted = " or ".join(str(n) for n in ndim)
        raise ValueError(f"{name} must have {wanted} axes, got shape {tuple(array.shape)}")
    if isinstance(array, jax.Array):
        return jnp.asarray(array, dtype=dtype)
    try:
        with np.errstate(over="raise"):
            return jnp.asarray(array.astype(dtype, copy=False))
    except FloatingPointError as error:
        raise ValueError(
            f"{name} holds numbers that are too large for {np.dtype(dtype)}; scale the data, or compute in float64"
        ) from error


def check_shape(name: str, array: Any, expected: tuple[int | None, ...], meaning: str) -> None:
    """Raise ValueError unless an array has the expected shape; None allows any length.

    Args:
      name: of the argument.
      array: anything with a shape.
      expected: the lengths.
      meaning: the expected shape in words, such as ``"(batch, n_features)"``.
    """
    shape = tuple(array.shape)
    if len(shape) != len(expected) or any(e is not None and e != s for e, s in zip(expected, shape, strict=True)):
        wanted = ", ".join("any" if e is None else str(e) for e in expected)
        raise ValueError(f"{name} must have shape {meaning} = ({wanted}), got {shape}")


_EXAMPLES = {
    "penalty": "jax_mmf.Lasso(0.1), Ridge(0.1) or ElasticNet(0.1, 0.5)",
    "constraint": "jax_mmf.L2Ball(), L1Ball(), ElasticNetBall() or Simplex()",
    "feature subset": "jax_mmf.BlockSubset(8) or UniformSubset(8)",
    "forgetting rule": "jax_mmf.ScaledForgetting(8.0) or ConstantForgetting(0.01)",
    "pair of estimators": "jax_mmf.MaskedStatistics()",
    "dictionary update": "jax_mmf.BlockCoordinateDescent()",
    "initialization": "jax_mmf.RandomSamples() or KMeansPlusPlus()",
    "code solver": "jax_mmf.ActiveSet() or CoordinateDescent()",
}


def check_methods(name: str, value: Any, protocol: str, attributes: tuple[str, ...]) -> None:
    """Raise TypeError unless an object has the attributes of its protocol; the message names the missing ones.

    Args:
      name: of the argument.
      value: the object.
      protocol: kind of the argument, such as ``"constraint"``.
      attributes: names that the object must have.
    """
    missing = [a for a in attributes if not hasattr(value, a)]
    if isinstance(value, type) or missing:
        like = f", such as {_EXAMPLES[protocol]}" if protocol in _EXAMPLES else ""
        what = "the class itself; call it" if isinstance(value, type) else f"without {', '.join(missing)}"
        article = "an" if protocol[0] in "aeiou" else "a"
        raise TypeError(f"{name} must be {article} {protocol} with {', '.join(attributes)}{like}; got {value!r} {what}")
    if any(leaf is value for leaf in jax.tree.leaves(value)):
        raise TypeError(
            f"{name} must be a pytree: decorate {type(value).__name__}, a frozen dataclass, with "
            "@jax_mmf.register_configuration"
        )
