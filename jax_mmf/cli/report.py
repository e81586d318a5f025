"""Texts of ``jax-mmf fit``: the description of the data, and the messages."""

import math
from contextlib import suppress
from typing import Any

import click
import numpy as np

from jax_mmf.io import Source
from jax_mmf.typing import HostArray

_SAMPLES = 64  # samples from which the scale of the data is computed


def described(name: str, source: Source) -> str:
    """Describe a matrix in one line: its shape, dtype and size, and the scale of its numbers."""
    x = _first_samples(source)
    finite = x[np.isfinite(x)]
    scale = f"standard deviation {finite.std():.3g}, largest {np.abs(finite).max():.3g}" if finite.size else "no number"
    size = source.n_samples * source.n_features * source.dtype.itemsize
    return (
        f"{name}: {source.n_samples:,} x {source.n_features:,} {source.dtype}, {size_of(size)}; "
        f"first {len(x)} samples: {scale}"
    )


def _first_samples(source: Source) -> HostArray:
    """Read a few consecutive samples, in one read of limited size."""
    count = min(source.n_samples, _SAMPLES, max(1, 2**26 // (8 * source.n_features)))
    return source.read(np.arange(count)).astype(np.float64)


def size_of(size: int) -> str:
    """Describe a number of bytes."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


def without_nan(fields: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN, which JSON does not have, with None."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in fields.items()}


def say(text: str, *, err: bool = False) -> None:
    """Write a line. Do nothing if the terminal is closed, as after SIGHUP."""
    with suppress(OSError):
        click.echo(text, err=err)
