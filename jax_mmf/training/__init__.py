"""`fit`, which trains a solver on a source of samples: feed, evaluation and callbacks. Codes of sources."""

from jax_mmf.io import Best, Record
from jax_mmf.training.callbacks import Callback, EarlyStopping, Event, JSONLines, ProgressBar, Start
from jax_mmf.training.checkpoint import Checkpoint, load_checkpoint
from jax_mmf.training.checkpoint import newest_checkpoint as newest_checkpoint
from jax_mmf.training.checkpoint import newest_whole as newest_whole
from jax_mmf.training.fitting import fit
from jax_mmf.training.interrupt import deferred_interrupt
from jax_mmf.training.result import FitResult
from jax_mmf.training.streaming import encode, encode_with_info, explained_variance, objective

__all__ = [
    "Best",
    "Callback",
    "Checkpoint",
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
    "load_checkpoint",
    "objective",
]
