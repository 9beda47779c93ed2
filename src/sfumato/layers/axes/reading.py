"""A watched pass from outside, and the summary of a layer's labels as `Axes`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
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
    resolve,
)
from sfumato.layers.axes.watch import Watch
from sfumato.layers.capture import CallChooser, plain_tensor, watched
from sfumato.model.effects import DISPATCH_MODES, Hook


@dataclass(frozen=True)
class Piece:
    """A range of an axis of places: `length` entries. `grid` has an `(axis of space, number of places)` for each axis of space
    that they follow; it is empty if the entries have no place."""

    length: int
    grid: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Axis:
    """What an axis of a layer's values counts, as far as a watched pass shows."""

    kind: str
    """"batch", "places", "channels", "window" (the places within each patch), "one" (an axis of length 1), "mixed" (several of
    these), or "open" (not known)."""
    pieces: tuple[Piece, ...] = ()
    """For "places": the places, and the entries before and behind them, e.g. the class token."""
    words: str = ""
    """For "mixed": what is mixed, in words."""
    size: int = 0
    """The length of the axis in the watched pass."""


Axes = tuple[Axis, ...]


@contextmanager
def following(net: nn.Module, inputs: Float[Tensor, "N C *S"]) -> Iterator[Watch]:
    """Within this context, label the axes of all values that the network computes from the inputs.

    A recurrent layer, e.g. an LSTM, is one operation: its steps along an axis are not followed.
    """
    watch = Watch()
    watch.begin(inputs, net)

    def label_recurrent(_module: Any, arguments: tuple[Any, ...], output: Any) -> None:
        values, operand = output[0], arguments[0] if arguments else None
        if isinstance(values, Tensor) and isinstance(operand, Tensor) and values.ndim == operand.ndim:
            watch.mark(values, (*watch.labels(operand)[:-1], channel_label(values.shape[-1])))

    with ExitStack() as effects:
        for module in net.modules():
            if isinstance(module, nn.RNNBase):
                effects.callback(module.register_forward_hook(Hook(label_recurrent)).remove)
        effects.enter_context(DISPATCH_MODES)
        effects.enter_context(watch)
        yield watch


def summarise(labels: Labels, space: Sequence[int]) -> Axes:
    """The summary of the labels of a layer's values, for inputs whose axes of space have the lengths `space`."""
    parts = [part for label in labels for part in resolve(label)]
    if parts and all(part.factor.kind == OPEN and part.factor.learnt for part in parts):
        return tuple(Axis("mixed", words="weights", size=length_of(label)) for label in labels)
    return tuple(replace(_axis(label, space), size=length_of(label)) for label in labels)


def _axis(label: Label, space: Sequence[int]) -> Axis:
    label = resolve(label)
    kinds = kinds_of(label)
    if not label:
        return Axis("one")
    if any(part.factor.sums for part in label):
        return Axis("mixed", words="sums or a choice of places")
    if all(map(is_fine, label)) or (
        CHANNEL in kinds and kinds_of(tuple(part for part in label if not is_fine(part))) == {CHANNEL}
    ):
        return Axis("window" if kinds == {PLACE} else "channels")
    if kinds <= {OPEN, CHANNEL}:
        return Axis("channels" if kinds == {CHANNEL} else "open")
    if kinds == {BATCH}:
        return Axis("batch") if label[0].size == label[0].factor.size else Axis("mixed", words="a part of the batch")
    if BATCH in kinds:
        return Axis("mixed", words=f"the batch and {_in_words(kinds - {BATCH})}")
    if len(label) == 1 and label[0].factor.kind == JOINED and label[0].size == label[0].factor.size:
        parts = [(size, resolve(piece)) for size, piece in label[0].factor.pieces]
    elif kinds == {PLACE}:
        parts = [(length_of(label), label)]
    else:
        return Axis("mixed", words=_in_words(kinds))
    pieces: list[Piece] = []
    for size, piece in parts:
        if PLACE not in kinds_of(piece):
            pieces.append(Piece(size, ()))
        elif kinds_of(piece) == {PLACE} and all(_covers(part, space) for part in piece):
            pieces.append(Piece(size, tuple((part.factor.axis, part.size) for part in piece)))
        else:
            return Axis("mixed", words="places that do not cover the input in its order, as in windows")
    return Axis("places", tuple(pieces))


def _in_words(kinds: set[str]) -> str:
    names = {PLACE: "places", CHANNEL: "channels", OPEN: "what is not known", MIXED: "sums of unlike axes"}
    return " and ".join(names[kind] for kind in sorted(kinds))


def _covers(part: Part, space: Sequence[int]) -> bool:
    """Whether the places cover the whole input in its order, up to a margin of two places or a quarter of the input."""
    factor = part.factor
    if factor.kind != PLACE or not part.complete or factor.shift:
        return False
    length = space[factor.axis]
    margin = max(2 * (factor.end - factor.begin) / part.size, length / 4)
    return abs(factor.begin) <= margin and abs(factor.end - length) <= margin


def axes_of(
    net: nn.Module,
    module: nn.Module,
    at: str,
    inputs: Float[Tensor, "N C *S"],
    run: Callable[[Tensor], Any],
    call: int = -1,
) -> Axes | None:
    """The axes of a module's output, or with `at="input"` of its input, at one of its calls.

    `run` runs the network for inputs. None if the network cannot be watched, if there is no such call, or if the
    value there is no tensor.
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
    except Exception:  # noqa: BLE001  # a layout can still be inferred from sizes
        return None
    return None if labels is None else summarise(labels, inputs.shape[2:])
