"""The subject above a layer: the score as a function of the layer's activations."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.layers.flow import axes_at
from sfumato.layers.replay import Replay, replay_of
from sfumato.layers.tokens import Layout, LayoutError, channel_layout, layout
from sfumato.model.outputs import as_tensors
from sfumato.model.subject import LAST, Subject


@dataclass(frozen=True, eq=False)
class AboveLayer(Subject):
    """A subject whose `inputs` are activations `(B, C, *L)` of a layer, and whose model is the network above it."""

    replay: Replay
    layout: Layout
    leading: Float[Tensor, "B ..."]
    """The tokens without a place, in the network's own form. No mask hides them."""
    format: torch.memory_format
    """The memory format of the layer's activations."""
    maps: Layout | None
    """The layout that shows the places, if there are places. With `by_channel`, `layout` may have tokens in a row instead."""
    space: int
    """How many axes of space the model's inputs have."""

    def outputs(self, rows: Float[Tensor, "N C *L"], query: Int[Tensor, " N"]) -> Any:
        """The model's outputs for activations whose rows belong to the queries."""
        activation = self.layout.restore(rows.to(self.inputs.dtype), self.leading[query])
        activation = activation.contiguous(memory_format=self.format)
        return as_tensors(
            self.surroundings.call(lambda values: self.replay(values, query), activation), self.inputs.device
        )

    def shown(self) -> Float[Tensor, "B C *L"]:
        """The activations with as many axes as the model's input; without places, the mean over all tokens."""
        if self.maps is None:
            return self.inputs.flatten(2).mean(2)[(..., *[None] * self.space)]
        return self.maps.places(self.layout.restore(self.inputs, self.leading))


def above(
    subject: Subject, layer: str, at: str = "output", by_channel: bool = False, letters: str = "", call: int = -1
) -> AboveLayer:
    """The subject above the output of a layer, or with `at="input"`, above its input.

    A transformer's tokens `(N, tokens, C)` become `(N, C, *L)` with the tokens that have a place in the picture, or with
    `by_channel`, `(N, C, tokens)` with all tokens. The order of the axes is determined from a pass, unless `letters` give it,
    e.g. "BHWC". `call` is the index of one of the layer's calls.

    Raises `LayoutError` if the axes cannot be determined, and `ValueError` if the layer cannot be watched or replaced.
    """
    with subject.surroundings.computing():
        axes = axes_at(
            subject.model,
            layer,
            at,
            subject.inputs,
            lambda inputs: subject.outputs(inputs, subject.query[: len(inputs)]),
            letters,
            call,
        )
    replay, activation = replay_of(subject, layer, at, call)
    shape, space = activation.shape, subject.inputs.shape[2:]
    masked = (channel_layout if by_channel else layout)(shape, space, layer, axes, letters, at)
    maps: Layout | None = masked
    if by_channel:
        try:
            maps = layout(shape, space, layer, axes, letters, at)
        except LayoutError:
            maps = None
    last = LAST.get(activation.ndim)
    channels_last = last is not None and activation.is_contiguous(memory_format=last) and not activation.is_contiguous()
    return AboveLayer(
        model=subject.model,
        inputs=masked.places(activation),
        score=subject.score,
        surroundings=subject.surroundings,
        habits=subject.habits,
        more=subject.more,
        replay=replay,
        layout=masked,
        leading=masked.outside(activation),
        format=last if last is not None and channels_last else torch.contiguous_format,
        maps=maps,
        space=len(space),
    )
