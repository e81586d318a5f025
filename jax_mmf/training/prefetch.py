"""Prefetching: a thread fills a short queue while the caller computes."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from jax_mmf.core import warn, with_settings_of_this_thread

T = TypeVar("T")

_PATIENCE = 10.0  # seconds to wait for a thread that reads, when nothing more is needed
_POLL = 0.1  # seconds


def in_one_thread(*sources: Any) -> bool:
    """Whether sources must be read in the thread that launches the steps, see `MatrixSource`."""
    return any(getattr(source, "reads_on_several_devices", False) for source in sources)


def prefetch(items: Iterable[T], depth: int = 2, stop: Callable[[], Any] | None = None) -> Generator[T]:
    """Iterate over items in a thread that has the JAX settings of this one, up to ``depth`` items ahead.

    An exception of the iterable is raised in the caller, after the items before it. The thread ends when this generator
    is closed, and closes ``items`` if they are a generator. A thread that is still in a read after 10 seconds is
    abandoned, with a warning. It does not prevent Python from ending.

    Args:
      items: iterated over in the thread.
      depth: largest number of items in the queue; 0 iterates in the caller, without a thread.
      stop: function that returns whether to end instead of waiting for the next item, or None. It is called only after
        the first item.

    Yields:
      the items, in order.
    """
    if depth == 0:
        yield from items
        return
    waiting: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind: str, value: T | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((kind, value), timeout=_POLL)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    break
            if isinstance(items, Generator):
                items.close()  # now, instead of at garbage collection
        except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it
            put("error", error)
        else:
            put("end", None)

    thread = threading.Thread(target=with_settings_of_this_thread(work), name="jax-mmf-reader", daemon=True)
    thread.start()
    begun = False
    try:
        while True:
            try:
                kind, value = waiting.get(timeout=_POLL)
            except queue.Empty:
                if begun and stop is not None and stop():
                    return
                continue
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            if kind == "end":
                return
            begun = True
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join(_PATIENCE)
        if thread.is_alive():
            warn(f"a read of the source has taken over {_PATIENCE:.0f} seconds; its thread is abandoned")
