"""What a run of ``jax-mmf fit`` leaves behind, however it ends."""

import signal
import tempfile
from pathlib import Path

from jax_mmf.cli.report import say
from jax_mmf.training import FitResult

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""They end a run after its step."""


class ElsewhereError(OSError):
    """A model could not be written where it should, and is in another place."""


def exit_status(number: int) -> int:
    """Return the exit status after a signal, as shells have it; 0 for none."""
    return 128 + number if number else 0


def write_model(result: FitResult, output: Path) -> None:
    """Write the model of a run, in the folder for temporary files or in the home folder if its own one can't be used.

    Raises:
      ElsewhereError: if the model is in another place, which the message names.
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
    """Write the model of the steps before an error, if there was one, and say so."""
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
