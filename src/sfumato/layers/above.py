"""The subject above a layer: the score as a function of the layer's activations."""

from dataclasses import dataclass
from typing import Any

import torch
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
    leading: Tensor
    """The tokens without a place, in the network's own form, which nothing hides."""
    format: torch.memory_format
    """In which the layer's activations lie in memory."""
    maps: Layout | None
    """Where the places are, if there are such; what is masked may be tokens in a row."""
    space: int
    """How many axes of space the model's inputs have."""

    def outputs(self, seen: Tensor, query: Tensor) -> Any:
        """The model's outputs for activations `(N, C, *L)`, whose rows belong to the queries `(N,)`."""
        own = self.layout.own(seen.to(self.inputs.dtype), self.leading[query]).contiguous(memory_format=self.format)
        return as_tensors(self.surroundings.call(lambda own: self.replay(own, query), own), self.inputs.device)

    def shown(self) -> Tensor:
        """The activations as `(B, C, *L)` with as many axes as the model's input, or where they have no places, their mean."""
        if self.maps is None:
            return self.inputs.flatten(2).mean(2)[(..., *[None] * self.space)]
        return self.maps.places(self.layout.own(self.inputs, self.leading))


def above(
    subject: Subject, layer: str, at: str = "output", by_channel: bool = False, letters: str = "", call: int = -1
) -> AboveLayer:
    """The subject as seen from the output of a layer, or, `at` the "input", from what the layer takes in.

    For a transformer, whose tokens are `(N, tokens, C)`, `(N, C, *L)` are the tokens with a place in the picture; with
    `by_channel`, `(N, C, tokens)` are all of them. Which axis is which is found out, unless `letters` say it, as "BHWC".
    `call` says which of the layer's calls is meant.
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
    laid = (channel_layout if by_channel else layout)(shape, space, layer, axes, letters)
    maps: Layout | None = laid
    if by_channel:
        try:
            maps = layout(shape, space, layer, axes, letters)
        except LayoutError:
            maps = None
    last = LAST.get(activation.ndim)
    channels_last = last is not None and activation.is_contiguous(memory_format=last) and not activation.is_contiguous()
    return AboveLayer(
        model=subject.model,
        inputs=laid.places(activation),
        score=subject.score,
        surroundings=subject.surroundings,
        habits=subject.habits,
        more=subject.more,
        replay=replay,
        layout=laid,
        leading=laid.outside(activation),
        format=last if last is not None and channels_last else torch.contiguous_format,
        maps=maps,
        space=len(space),
    )
