"""The steps of a worker. It reports each before it begins, so that its parent knows what a dead or hanging process was
doing."""

from dataclasses import dataclass

LOADING, PICTURE, METHOD, PROTOCOL, SENDING = "loading", "picture", "method", "protocol", "sending"
"""The models are loaded · a picture is read and shown to the model · the method explains · a protocol measures · the answer is
sent. No item is at fault in the first and the last."""


@dataclass(frozen=True)
class Step:
    """A step of the work on a chunk."""

    stage: str
    places: tuple[int, ...] = ()
    """The units of the step, by their places in the chunk: for a method, a batch."""
    number: int = 0
    """The number of the protocol in the chunk's combination."""
