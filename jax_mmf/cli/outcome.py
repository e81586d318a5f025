"""The exit status of a command, and the model that ``jax-mmf fit`` writes, however the run ends."""

import signal
import tempfile
from pathlib import Path

from jax_mmf.cli.report import say
from jax_mmf.training import FitResult

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that end a run after the current step."""


class ElsewhereError(OSError):
    """A model could not be written to its path, and was written elsewhere."""


def exit_status(number: int) -> int:
    """Return the exit status after a signal, by the convention of shells; 0 for no signal."""
    return 128 + number if number else 0


def write_model(result: FitResult, output: Path) -> None:
    """Write the model of a run. If that fails, write it to the folder for temporary files or to the home folder.

    Raises:
      ElsewhereError: if the model was written to another place, which the message names.
      OSError: if it can't be written anywhere.
    """
    result = result._replace(best=None)
    try:
        result.save(output)
    except OSError as error:
        for folder in (tempfile.gettempdir(), Path.home()):
            try:
                place = Path(tempfile.mkdtemp(prefix="jax-mmf-", dir=folder)) / output.name
                result.save(place)
            except OSError:
                continue
            raise ElsewhereError(f"can't write {output}: {error}. The model is in {place} instead") from error
        raise


def write_partial_model(error: Exception, output: Path) -> None:
    """Write the model of the steps before an error, if there were any, and print its path."""
    result: FitResult | None = getattr(error, "result", None)
    if result is None:
        return
    steps = int(result.state.step)
    try:
        write_model(result, output)
        say(f"jax-mmf: wrote the model of the {steps} steps before the error: {output}", err=True)
    except ElsewhereError as moved:
        say(f"jax-mmf: {moved}; it is of the {steps} steps before the error", err=True)
    except OSError as failed:
        say(f"jax-mmf: the model of the {steps} steps before the error is lost: {failed}", err=True)
