"""Ctrl-C during a run: the first one ends the run and keeps its result, the second one stops immediately."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


class _Note:
    """SIGINT handler that notes the first signal, and raises KeyboardInterrupt at the next one."""

    def __init__(self, message: str | None) -> None:
        self.message, self.noted = message, False

    def __call__(self, number: int, frame: Any) -> None:
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True
        if self.message is not None:
            with suppress(RuntimeError, OSError):  # the signal may come while something else is being written
                sys.stderr.write(f"\n{self.message}\n")
                sys.stderr.flush()


@contextmanager
def deferred_interrupt(message: str | None = None) -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C (SIGINT) in a block without an error, so that a loop can end after its step.

    A second Ctrl-C raises KeyboardInterrupt. At the end of the block, the previous handler is restored. A block inside
    of another one shares its note, and the outer message is shown. SIGINT handlers other than Python's default are left
    unchanged. In threads other than the main thread, which signals do not reach, the block has no effect.

    Args:
      message: a line for standard error at the first Ctrl-C, or None.

    Yields:
      a function without arguments that returns whether Ctrl-C was pressed.

    Example:
      >>> from jax_mmf.training.interrupt import deferred_interrupt
      >>> with deferred_interrupt() as interrupted:
      ...     for step in range(3):
      ...         if interrupted():
      ...             break
      >>> step
      2
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
    elif isinstance(before, _Note):
        yield lambda: before.noted
    elif before is not signal.default_int_handler:
        yield lambda: False
    else:
        note = _Note(message)
        signal.signal(signal.SIGINT, note)
        try:
            yield lambda: note.noted
        finally:
            signal.signal(signal.SIGINT, before)
