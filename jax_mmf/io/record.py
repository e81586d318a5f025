"""Record of an evaluation, as kept in the history of a run and in model files."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Record(NamedTuple):
    """Record of one evaluation.

    Attributes:
      step: number of steps done.
      n_samples: number of samples seen.
      epoch: epochs begun.
      seconds: time of the run so far: reading, learning, compilation and callbacks, not evaluation.
      bytes_read: read from the source, evaluation not included.
      objective: mean over the held-out samples, on all features, at the best codes. Without held-out samples, an
        estimate of the training objective: the mean over the last mini-batch, with the codes of its step, in the
        dictionary after the step. If only a subset of the features is read, its squared error is scaled up. The
        estimate shows whether a run converges. It varies with the mini-batch, so do not compare runs by it.
      n_dead: number of unused atoms.
      held_out: whether the objective is that of held-out samples.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (40, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1))
      >>> result = mmf.fit(solver, x, key=jax.random.key(1), held_out=8, n_epochs=2, batch_size=16)
      >>> record = result.history[-1]
      >>> record.step, record.n_samples, record.epoch, record.held_out
      (4, 64, 2, True)
    """

    step: int
    n_samples: int
    epoch: int
    seconds: float
    bytes_read: int
    objective: float
    n_dead: int
    held_out: bool = True


def as_record(line: Mapping[str, Any]) -> Record:
    """The record of a dictionary of its fields. A missing number is NaN; other keys are left out.

    Files of 0.1.0 do not say whether samples were held out; without them, their objective is NaN.

    Raises:
      TypeError: for a field that is not a number.
    """
    known: dict[str, Any] = dict.fromkeys(Record._fields, math.nan)
    known |= {name: value for name, value in line.items() if name in known}
    for name, value in known.items():
        if not isinstance(value, int | float):
            raise TypeError(f"{name} of a record must be a number, got {value!r}")
    known["held_out"] = line.get("held_out", not math.isnan(known["objective"]))
    return Record(**known)
