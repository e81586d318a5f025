"""What ``jax-mmf fit`` tells of its data and of its history."""

import math
from typing import Any

import numpy as np

from jax_mmf.io import Source
from jax_mmf.training import Record
from jax_mmf.typing import HostArray

_SAMPLES = 64  # looked at to tell the scale of the data


def described(name: str, source: Source) -> str:
    """One line about a matrix: its shape, dtype and size, and how large its numbers are."""
    x = _first_samples(source)
    finite = x[np.isfinite(x)]
    scale = f"standard deviation {finite.std():.3g}, largest {np.abs(finite).max():.3g}" if finite.size else "no number"
    size = source.n_samples * source.n_features * source.dtype.itemsize
    return (
        f"{name}: {source.n_samples:,} x {source.n_features:,} {source.dtype}, {_bytes(size)}; "
        f"first {len(x)} samples: {scale}"
    )


def _first_samples(source: Source) -> HostArray:
    """Samples for a look at the data: consecutive ones, which are one read, and not many bytes."""
    count = min(source.n_samples, _SAMPLES, max(1, 2**26 // (8 * source.n_features)))
    return source.read(np.arange(count)).astype(np.float64)


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


def without_nan(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in fields.items()}


def joined(before: list[Record], after: list[Record]) -> list[Record]:
    """The history of a run that went on: its seconds and bytes count on."""
    if not before:
        return after
    seconds, read = before[-1].seconds, before[-1].bytes_read
    return before + [r._replace(seconds=seconds + r.seconds, bytes_read=read + r.bytes_read) for r in after]
