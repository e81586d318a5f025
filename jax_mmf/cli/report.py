"""What ``jax-mmf fit`` tells before, during and after a run."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import jax_mmf as mmf
from jax_mmf.io.sources import Source
from jax_mmf.training import Event, Record
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


def nothing_learned(solver: mmf.OnlineFactorization, dictionary: Any, source: Source) -> str:
    """Why no atom is used, and what to try."""
    x = _first_samples(source)
    dictionary = np.asarray(dictionary)
    dictionary = dictionary if source.permutation is None else dictionary[:, source.permutation]
    penalty: Any = solver.penalty
    l1_ratio = {mmf.Ridge: 0.0, mmf.Lasso: 1.0}.get(type(penalty), getattr(penalty, "l1_ratio", 1.0))
    limit = float(mmf.alpha_max(dictionary, x.astype(dictionary.dtype), l1_ratio=l1_ratio, nonneg=penalty.nonneg))
    found = f"nothing was learned: the codes use none of the {solver.n_components} atoms"
    if not x.any():
        return f"{found}; the first {len(x)} samples are zeros: is it the right data set?"
    if not math.isfinite(limit):
        return f"{found}; try a smaller --alpha, or data of another scale"
    return (
        f"{found}. On the first {len(x)} samples, all codes are zero from an alpha of {limit:.3g} on, and alpha is "
        f"{penalty.alpha:g}; try --alpha auto, or --alpha {0.1 * limit:.2g}"
    )


def without_nan(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in fields.items()}


class Log:
    """Callback that appends one JSON line per evaluation, so that what is there is there after a crash."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._mode = path, "w"

    def __call__(self, event: Event) -> None:
        """Write the record of the event, if there is one."""
        if self._path is not None and event.record is not None:
            fields = without_nan(event.record._asdict())
            with self._path.open(self._mode, encoding="utf-8") as file:
                file.write(json.dumps(fields) + "\n")
            self._mode = "a"


@contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[Event], None]]:
    """A progress bar with the time that is left, and the last objective; it says so while programs are compiled."""
    with tqdm(unit="step", desc="compiling", disable=quiet or None, smoothing=0.05) as bar:

        def show(event: Event) -> None:
            if bar.n == 0:
                bar.total, bar.initial = event.n_steps, event.step - 1
                bar.n = event.step - 1
                bar.set_description("learning")
            bar.update()
            if event.record is not None and not math.isnan(event.record.objective):
                bar.set_postfix_str(f"objective {event.record.objective:.5g}")

        yield show


def joined(before: list[Record], after: list[Record]) -> list[Record]:
    """The history of a run that went on: its seconds and bytes count on."""
    if not before:
        return after
    seconds, read = before[-1].seconds, before[-1].bytes_read
    return before + [r._replace(seconds=seconds + r.seconds, bytes_read=read + r.bytes_read) for r in after]
