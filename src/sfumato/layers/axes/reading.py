"""A watched pass, and what it says of a layer's axes in the end."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.layers.axes.labels import (
    BATCH,
    CHANNEL,
    JOINED,
    MIXED,
    OPEN,
    PLACE,
    Label,
    Labels,
    Part,
    channel_label,
    is_fine,
    kinds_of,
    length_of,
    resolved,
)
from sfumato.layers.axes.watch import Watch
from sfumato.layers.capture import CallChooser, plain_tensor, watched
from sfumato.model.effects import DISPATCH_MODES, Hook


@dataclass(frozen=True)
class Piece:
    """A stretch of an axis of places: `length` entries, on the `grid` of `(axis of space, places)`; none have no place."""

    length: int
    grid: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Axis:
    """What an axis of a layer's values was seen to count."""

    kind: str
    """"batch", "places", "channels", "window" (the places within each patch), "one" (of length 1), "mixed" (several of
    these), or "open" where that is not known."""
    pieces: tuple[Piece, ...] = ()
    """Of places: those, and what stands before and behind them, such as the token of the class."""
    words: str = ""
    """Of "mixed": what."""
    size: int = 0
    """Its length in the pass that was watched."""


Axes = tuple[Axis, ...]


@contextmanager
def following(net: nn.Module, inputs: Tensor) -> Iterator[Watch]:
    """Follow the axes of what the network computes from inputs `(N, C, *S)`, as long as the context lasts.

    Layers that run step by step over an axis, such as an LSTM, are followed as one.
    """
    watch = Watch()
    watch.see(inputs, net)

    def ran(_module: Any, arguments: tuple[Any, ...], output: Any) -> None:
        values, given = output[0], arguments[0] if arguments else None
        if isinstance(values, Tensor) and isinstance(given, Tensor) and values.ndim == given.ndim:
            watch.mark(values, (*watch.labels(given)[:-1], channel_label(values.shape[-1])))

    with ExitStack() as effects:
        for module in net.modules():
            if isinstance(module, nn.RNNBase):
                effects.callback(module.register_forward_hook(Hook(ran)).remove)
        effects.enter_context(DISPATCH_MODES)
        effects.enter_context(watch)
        yield watch


def in_short(labels: Labels, space: Sequence[int]) -> Axes:
    """What the labels of a layer's values say, for inputs of `space`."""
    parts = [part for label in labels for part in resolved(label)]
    if parts and all(part.factor.kind == OPEN and part.factor.learnt for part in parts):
        return tuple(Axis("mixed", words="weights", size=length_of(label)) for label in labels)
    return tuple(replace(_axis(label, space), size=length_of(label)) for label in labels)


def _axis(label: Label, space: Sequence[int]) -> Axis:
    label = resolved(label)
    kinds = kinds_of(label)
    if not label:
        return Axis("one")
    if any(part.factor.sums for part in label):
        return Axis("mixed", words="sums or a choice of places")
    if all(map(is_fine, label)) or (
        CHANNEL in kinds and kinds_of(tuple(p for p in label if not is_fine(p))) == {CHANNEL}
    ):
        return Axis("window" if kinds == {PLACE} else "channels")
    if kinds <= {OPEN, CHANNEL}:
        return Axis("channels" if kinds == {CHANNEL} else "open")
    if kinds == {BATCH}:
        return Axis("batch") if label[0].size == label[0].factor.size else Axis("mixed", words="a part of the batch")
    if BATCH in kinds:
        return Axis("mixed", words=f"the batch and {_named(kinds - {BATCH})}")
    if len(label) == 1 and label[0].factor.kind == JOINED and label[0].size == label[0].factor.size:
        parts = [(size, resolved(piece)) for size, piece in label[0].factor.pieces]
    elif kinds == {PLACE}:
        parts = [(length_of(label), label)]
    else:
        return Axis("mixed", words=_named(kinds))
    pieces: list[Piece] = []
    for size, piece in parts:
        if PLACE not in kinds_of(piece):
            pieces.append(Piece(size, ()))
        elif kinds_of(piece) == {PLACE} and all(_covers(part, space) for part in piece):
            pieces.append(Piece(size, tuple((part.factor.axis, part.size) for part in piece)))
        else:
            return Axis("mixed", words="places that do not cover the input in its order, as in windows")
    return Axis("places", tuple(pieces))


def _named(kinds: set[str]) -> str:
    names = {PLACE: "places", CHANNEL: "channels", OPEN: "what is not known", MIXED: "sums of unlike axes"}
    return " and ".join(names[kind] for kind in sorted(kinds))


def _covers(part: Part, space: Sequence[int]) -> bool:
    """Whether the places lie over the whole input in its order, but for a margin of two of them or a quarter of it."""
    factor = part.factor
    if factor.kind != PLACE or not part.complete or factor.turned:
        return False
    length = space[factor.axis]
    margin = max(2 * (factor.end - factor.begin) / part.size, length / 4)
    return abs(factor.begin) <= margin and abs(factor.end - length) <= margin


def axes_of(
    net: nn.Module, module: nn.Module, at: str, inputs: Tensor, run: Callable[[Tensor], Any], call: int = -1
) -> Axes | None:
    """What the axes of a module's output, or at the "input" of what it takes in, count at one of its calls.

    `run` runs the network for inputs `(N, C, *S)`. None where that cannot be watched, there is no such call, or no tensor
    at it.
    """
    chooser = CallChooser("", call)

    def show(values: Any) -> None:
        chooser.show(watch.labels(values) if plain_tensor(values) else None)

    try:
        with ExitStack() as effects, torch.no_grad():
            watch = effects.enter_context(following(net, inputs))
            effects.enter_context(watched(module, at, show))
            run(inputs)
        labels: Labels | None = chooser.chosen
    except Exception:  # noqa: BLE001  # what does not stand to be watched is read by its sizes
        return None
    return None if labels is None else in_short(labels, inputs.shape[2:])
