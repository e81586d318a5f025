"""Description of the data and the history of ``jax-mmf fit``."""

import math
from typing import Any

import numpy as np

from jax_mmf.io import Source
from jax_mmf.training import Record
from jax_mmf.typing import HostArray

_SAMPLES = 64  # samples from which the scale of the data is computed


def described(name: str, source: Source) -> str:
    """Describe a matrix in one line: its shape, dtype and size, and the scale of its numbers."""
    x = _first_samples(source)
    finite = x[np.isfinite(x)]
    scale = f"standard deviation {finite.std():.3g}, largest {np.abs(finite).max():.3g}" if finite.size else "no number"
    size = source.n_samples * source.n_features * source.dtype.itemsize
    return (
        f"{name}: {source.n_samples:,} x {source.n_features:,} {source.dtype}, {_bytes(size)}; "
        f"first {len(x)} samples: {scale}"
    )


def _first_samples(source: Source) -> HostArray:
    """Read a few consecutive samples, in one read of limited size."""
    count = min(source.n_samples, _SAMPLES, max(1, 2**26 // (8 * source.n_features)))
    return source.read(np.arange(count)).astype(np.float64)


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


def without_nan(fields: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN, which JSON does not have, with None."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in fields.items()}


def joined(before: list[Record], after: list[Record]) -> list[Record]:
    """Join the histories of a run before and after it was resumed; seconds and bytes are cumulative."""
    if not before:
        return after
    seconds, read = before[-1].seconds, before[-1].bytes_read
    return before + [r._replace(seconds=seconds + r.seconds, bytes_read=read + r.bytes_read) for r in after]
