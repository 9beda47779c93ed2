"""Where a worker is: it says so before each step, so that it is known what a process was at that died or hangs."""

from dataclasses import dataclass

LOADING, PICTURE, METHOD, PROTOCOL, SENDING = "loading", "picture", "method", "protocol", "sending"
"""The models are loaded · a picture is read and shown to the model · the method explains · a protocol measures · the answer is
sent. No item is at fault in the first and the last."""


@dataclass(frozen=True)
class Step:
    """A step of the work on a chunk."""

    stage: str
    places: tuple[int, ...] = ()
    """Of the units in the chunk that are in it: of a method, a batch."""
    number: int = 0
    """Of a protocol in the chunk's combination."""
