"""Signals during a run: the first one ends the run and keeps its result, the second one stops immediately."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any


class _Note:
    """Handler that notes the first signal, and raises KeyboardInterrupt at the next one."""

    def __init__(self, message: str | None) -> None:
        self.message, self.noted = message, 0

    def __call__(self, number: int, frame: Any) -> None:
        if self.noted:
            raise KeyboardInterrupt
        self.noted = number
        if self.message is not None:
            with suppress(RuntimeError, OSError):  # the signal may come while something else is being written
                sys.stderr.write(f"\n{self.message}\n")
                sys.stderr.flush()


_notes: list[_Note] = []  # notes of the blocks that the main thread is in


@contextmanager
def deferred_interrupt(
    message: str | None = None, signals: Sequence[int] = (signal.SIGINT,)
) -> Iterator[Callable[[], int]]:
    """Note the first Ctrl-C (SIGINT) in a block without an error; a loop can then end after its step.

    A second one raises KeyboardInterrupt. At the end of the block, the previous handlers are restored. A block inside
    of another one shares its note, and the outer message is shown. Handlers other than Python's default are left
    unchanged. In threads other than the main thread, which signals do not reach, the block has no effect.

    Args:
      message: a line for standard error at the first signal, or None.
      signals: numbers of the signals.

    Yields:
      a function without arguments that returns the number of the signal, or 0 if there was none.

    Example:
      >>> from jax_mmf.training.interrupt import deferred_interrupt
      >>> with deferred_interrupt() as interrupted:
      ...     for step in range(3):
      ...         if interrupted():
      ...             break
      >>> step
      2
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    if _notes:
        shared = _notes[-1]
        yield lambda: shared.noted
        return
    note = _Note(message)
    before = {number: signal.getsignal(number) for number in signals}
    ours = [n for n, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
    _notes.append(note)
    try:
        for number in ours:
            signal.signal(number, note)
        yield lambda: note.noted
    finally:
        for number in ours:
            signal.signal(number, before[number])
        _notes.remove(note)
