"""A thread that does something every so often: the line of a log, the renewal of a lease, a look whether the parent lives."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def periodically(action: Callable[[], object], seconds: float, name: str, first: float | None = None) -> Iterator[None]:
    """Call `action` every `seconds` in a thread called `name` until the block ends; the first time after `first` seconds.

    The thread has ended when the block has: nothing is called afterwards. What `action` raises ends the thread, not the block.
    """
    stop = threading.Event()
    thread = start_periodic(action, seconds, name, first, stop)
    try:
        yield
    finally:
        stop.set()
        thread.join()


def start_periodic(
    action: Callable[[], object],
    seconds: float,
    name: str,
    first: float | None = None,
    stop: threading.Event | None = None,
) -> threading.Thread:
    """Start the thread of `periodically`; without `stop` it goes on until the process ends, which it does not delay."""
    ended = threading.Event() if stop is None else stop

    def repeat() -> None:
        wait = seconds if first is None else first
        while not ended.wait(wait):
            action()
            wait = seconds

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    return thread
