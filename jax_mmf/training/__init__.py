"""`fit`, which trains a solver on a source of samples, with its feed, evaluation and callbacks; codes of sources."""

from jax_mmf.io import Record
from jax_mmf.training.callbacks import Callback, EarlyStopping, Event, JSONLines, ProgressBar, Start
from jax_mmf.training.fitting import fit
from jax_mmf.training.interrupt import deferred_interrupt
from jax_mmf.training.result import Best, FitResult
from jax_mmf.training.streaming import encode, encode_with_info, explained_variance, objective

__all__ = [
    "Best",
    "Callback",
    "EarlyStopping",
    "Event",
    "FitResult",
    "JSONLines",
    "ProgressBar",
    "Record",
    "Start",
    "deferred_interrupt",
    "encode",
    "encode_with_info",
    "explained_variance",
    "fit",
    "objective",
]
