"""Prefetching: a thread fills a short queue while the caller computes."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

from jax_mmf.core import with_settings_of_this_thread

T = TypeVar("T")


def prefetch(items: Iterable[T], depth: int = 2) -> Generator[T]:
    """Iterate over items in a thread with the settings of JAX of this one, up to ``depth`` of them ahead.

    An exception of the iterable is raised in the caller, after the items before it. The thread ends when this generator
    is closed, and closes ``items`` if they are a generator.

    Args:
      items: iterated over in the thread.
      depth: largest number of items in the queue; 0 iterates in the caller, without a thread.

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
                waiting.put((kind, value), timeout=0.1)
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
    try:
        while True:
            kind, value = waiting.get()
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            if kind == "end":
                return
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
