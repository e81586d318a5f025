"""The argument ``held_out``: a number of samples, a share of them, or separate samples."""

import numbers
from typing import Any

import jax
import numpy as np

from jax_mmf.core import as_real_array, check_shape, feature_names
from jax_mmf.typing import HostArray


def is_count_or_share(held_out: Any) -> bool:
    """Whether ``held_out`` is None or a scalar, and not samples."""
    is_array = isinstance(held_out, np.ndarray | jax.Array)
    return (
        held_out is None or isinstance(held_out, numbers.Number | np.generic | str) or (is_array and held_out.ndim == 0)
    )


def number_of(held_out: Any) -> dict[str, Any]:
    """Return the argument of `fit` for files, ``{"held_out": number}``; nothing for samples."""
    if held_out is None:
        return {"held_out": None}
    return {"held_out": np.asarray(held_out).item()} if is_count_or_share(held_out) else {}


def count_held_out(held_out: Any, n_samples: int) -> int:
    """Return the number of samples of a source that are held out.

    Args:
      held_out: a share of the samples (float), or a number of them (int). None and separate samples hold out nothing.
      n_samples: number of samples of the source.

    Raises:
      TypeError: for other scalars.
      ValueError: for numbers that leave no samples for evaluation, or none for training.
    """
    if held_out is None or not is_count_or_share(held_out):
        return 0
    number: Any = held_out.item() if isinstance(held_out, np.ndarray | np.generic | jax.Array) else held_out
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise TypeError(
            f"held_out must be a share of the samples (float), a number of them (int), or an array; got {held_out!r}"
        )
    if isinstance(number, numbers.Integral):
        if not 1 <= int(number) < n_samples:
            raise ValueError(
                f"held_out, as a number of samples (int), must be at least 1 and below the {n_samples} of source; got "
                f"{held_out!r}. Pass None to hold none out"
            )
        return int(number)
    if not 0 < float(number) < 1:
        raise ValueError(
            f"held_out, as a share of the samples (float), must be above 0 and below 1; got {held_out!r}. Pass an int "
            "for a number of samples, None to hold none out"
        )
    count = round(float(number) * n_samples)
    if not 1 <= count < n_samples:
        raise ValueError(
            f"held_out={held_out!r} of {n_samples} samples is {'less than one' if count < 1 else 'all of them'}; pass "
            "another share (float), or a number of samples (int)"
        )
    return count


def samples_held_out(held_out: Any, n_features: int, dtype: Any, names: tuple[str, ...] | None) -> HostArray:
    """Check and convert separate samples for evaluation.

    Args:
      held_out: ``(m, p)``, in any container that can be converted to an array.
      n_features: p.
      dtype: of the result.
      names: names of the features in the source, or None.

    Returns:
      ``(m, p)``.

    Raises:
      TypeError: if it does not hold real numbers.
      ValueError: for other shapes, frames with other columns, NaN and infinity.
    """
    x = np.asarray(as_real_array("held_out", held_out, ndim=(2,), dtype=dtype))
    check_shape("held_out", x, (None, n_features), "(m, n_features)")
    if len(x) == 0:
        raise ValueError("held_out must hold at least one sample, got none; pass None to hold none out")
    own = feature_names(held_out)
    if own is not None and names is not None and own != names:
        raise ValueError(f"held_out must have the columns of source, {names}, in this order; got {own}")
    if not np.isfinite(x).all():
        raise ValueError("held_out holds nan or infinity; clean or impute the data first")
    return x
