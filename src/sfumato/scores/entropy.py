"""How undecided a network is among its classes."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from sfumato.scores.link import AUTO, SIGMOID, check_link, link_of
from sfumato.scores.score import PlaceScore, class_scores


@dataclass(frozen=True)
class Entropy(PlaceScore):
    r"""$-\sum_c p_c \log p_c$ in nats, of the softmax: 0 for a network that is sure, $\log K$ for one that knows nothing.

    With `link="sigmoid"`, for a head of several labels, it is the sum of $-p_c \log p_c - (1 - p_c) \log (1 - p_c)$ over them;
    so it is by default, "auto", for a model with one output. To see what makes a network sure: `-Entropy()`. It has no target,
    and is the same question for all queries.
    """

    link: str = AUTO

    def __post_init__(self) -> None:
        check_link(self.link)

    def resolve(self, outputs: Any) -> "Entropy":
        return replace(self, link=link_of(self.link, class_scores(outputs).shape[1]))

    def at_places(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, "N 1 *P"]:
        logits = class_scores(outputs, len(query))
        if link_of(self.link, logits.shape[1]) == SIGMOID:
            return binary_cross_entropy_with_logits(logits, logits.sigmoid(), reduction="none").sum(1, keepdim=True)
        logs = logits.log_softmax(1)
        # A probability of 0 adds nothing, also where its logarithm is minus infinity.
        return -(logs.exp() * logs.clamp(min=torch.finfo(logs.dtype).min)).sum(1, keepdim=True)
