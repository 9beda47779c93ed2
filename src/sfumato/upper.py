"""What is explained, as seen from a layer: the score as a function of what the layer puts out."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.replay import Rest, rest_of
from sfumato.subject import LAST, Subject, as_tensors
from sfumato.tokens import Layout, channel_layout, layout


@dataclass(frozen=True, eq=False)
class Upper(Subject):
    """A subject whose `inputs` are activations `(B, C, *L)` of a layer, and whose model is the network above it."""

    rest: Rest
    layout: Layout
    leading: Tensor
    """The tokens before those with a place, `(B, leading, C)`, which nothing hides."""
    format: torch.memory_format
    """In which the layer's activations lie in memory."""

    def outputs(self, seen: Tensor, query: Tensor) -> Any:
        """The model's outputs for activations `(N, C, *L)`, whose rows belong to the queries `(N,)`."""
        own = self.layout.own(seen.to(self.inputs.dtype), self.leading[query]).contiguous(memory_format=self.format)
        return as_tensors(self.surroundings.call(lambda own: self.rest(own, query), own), self.inputs.device)


def above(subject: Subject, layer: str, at: str = "output", by_channel: bool = False, call: int = -1) -> Upper:
    """The subject as seen from the output of a layer, or, `at` the "input", from what the layer takes in.

    For a transformer, whose tokens are `(N, tokens, C)`, `(N, C, *L)` are the tokens with a place in the picture; with
    `by_channel`, `(N, C, tokens)` are all of them.
    """
    rest, activation = rest_of(subject, layer, at, call)
    space = subject.inputs.shape[2:]
    laid = channel_layout(activation.shape, space) if by_channel else layout(activation.shape, space, layer)
    last = LAST.get(activation.ndim)
    channels_last = last is not None and activation.is_contiguous(memory_format=last) and not activation.is_contiguous()
    return Upper(
        model=subject.model,
        inputs=laid.places(activation),
        score=subject.score,
        surroundings=subject.surroundings,
        habits=subject.habits,
        more=subject.more,
        rest=rest,
        layout=laid,
        leading=activation[:, : laid.leading],
        format=last if last is not None and channels_last else torch.contiguous_format,
    )
