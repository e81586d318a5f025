"""Checks of arguments, with messages that name the argument, what came, what was expected and what to do."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.typing import Array, ArrayLike


def check_real(
    name: str, value: Any, *, low: float | None = None, high: float | None = None, open_low: bool = False
) -> None:
    """Raise unless a hyperparameter is a real number in its range.

    Only values that are known on the host are checked. Traced values and device arrays pass.

    Args:
      name: of the argument, as the user wrote it.
      value: what came.
      low: smallest value allowed, or None.
      high: largest value allowed, or None.
      open_low: whether ``low`` itself is excluded.

    Raises:
      TypeError: for text and other things that can't be a number.
      ValueError: for numbers out of range or not finite.
    """
    kind = value.dtype.kind if isinstance(value, np.generic | np.ndarray) else "f"
    if isinstance(value, str | bytes | list | tuple | dict | complex) or kind not in "biuf":
        raise TypeError(f"{name} must be a real number or an array of them, got {value!r} ({type(value).__name__})")
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real | np.ndarray):
        return
    array = np.asarray(value, dtype=float)
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
      value: what came.
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


def as_real_array(name: str, value: ArrayLike, *, ndim: tuple[int, ...], dtype: Any = None) -> Array:
    """Turn data into a JAX array of real floating numbers.

    Args:
      name: of the argument.
      value: integers, booleans or real numbers.
      ndim: numbers of axes that are allowed.
      dtype: the dtype wanted; by default that of a floating ``value``, else JAX's default floating dtype.

    Returns:
      the array.

    Raises:
      TypeError: for text, objects and complex numbers.
      ValueError: for another number of axes.
    """
    given = getattr(value, "dtype", None)
    if given is None:
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise TypeError(f"{name} must be an array of real numbers, got {type(value).__name__}: {error}") from error
        given = value.dtype
    if not any(jnp.issubdtype(given, kind) for kind in (jnp.integer, jnp.floating, jnp.bool_)):
        raise TypeError(f"{name} must hold real numbers, got dtype {given}; convert it first")
    if dtype is None:
        dtype = given if jnp.issubdtype(given, jnp.floating) else jnp.zeros(()).dtype
    array = jnp.asarray(value, dtype=jax.dtypes.canonicalize_dtype(dtype))
    if array.ndim not in ndim:
        wanted = " or ".join(str(n) for n in ndim)
        raise ValueError(f"{name} must have {wanted} axes, got shape {array.shape}")
    return array


def check_shape(name: str, array: Any, expected: tuple[int | None, ...], meaning: str) -> None:
    """Raise ValueError unless an array has the expected shape; None stands for any length.

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
    """Raise TypeError unless an object has the attributes of its protocol, naming those that are missing.

    Args:
      name: of the argument.
      value: the object.
      protocol: what the argument stands for, such as ``"constraint"``.
      attributes: names that the object must have.
    """
    missing = [a for a in attributes if not hasattr(value, a)]
    if isinstance(value, type) or missing:
        like = f", such as {_EXAMPLES[protocol]}" if protocol in _EXAMPLES else ""
        what = "the class itself; call it" if isinstance(value, type) else f"without {', '.join(missing)}"
        raise TypeError(f"{name} must be a {protocol} with {', '.join(attributes)}{like}; got {value!r} {what}")
