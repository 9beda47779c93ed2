r"""The centre: a baseline map that does not depend on the picture.

Photographs often have their object in the middle, so that pointing there hits many objects. A method should do better. The
baseline is that of J. Zhang et al.: *Top-down neural attention by excitation backprop*, ECCV 2016.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.methods.method import Method
from sfumato.model.subject import Subject
from sfumato.search.loop import Progress
from sfumato.settings import check_number, later

MEMORY = 2.0
"""GiB that the model may keep for its backward pass."""


@dataclass(frozen=True)
class Centre(Method):
    r"""$S(u) = \exp\bigl(-\tfrac12 \sum_i (u_i - c_i)^2 / (\sigma L_i)^2\bigr)$, the same for every input.

    `sigma`: width of the bump as a fraction of each axis's length $L_i$. Along an axis of even length the two places next to
    the middle $c_i$ are equally high.

    The model is run only for `result.whole`, the score of each input, which is part of every result. `score`: what a class
    index means there, "logit", "probability", "log-odds" or "sigmoid".
    """

    sigma: float = 0.25
    score: str = later("logit")

    def __post_init__(self) -> None:
        check_number("sigma", self.sigma, "a fraction of the input's sides", above=0)
        super().__post_init__()

    def explain(self, subject: Subject, progress: Progress | None) -> Attribution:  # noqa: ARG002  # there are no steps
        _, whole = subject.probe(MEMORY)
        with subject.surroundings.computing():
            x = subject.inputs
            saliency = bump(x.shape[2:], self.sigma).to(x.device).expand(len(x), 1, *x.shape[2:]).contiguous()
        return Attribution(map=saliency, whole=whole, about=self.about(subject))


def bump(shape: Sequence[int], sigma: float) -> Float[Tensor, "*S"]:
    """A Gaussian that is symmetric about the middle, and largest there."""
    exponent = torch.zeros(tuple(shape), dtype=torch.float32, device="cpu")
    for axis, length in enumerate(shape):
        offset = torch.arange(length, dtype=torch.float32, device="cpu") - (length - 1) / 2  # halves at most: exact
        away = (offset / (sigma * length)).square() / 2
        exponent = exponent + away.view(-1, *[1] * (len(shape) - axis - 1))
    return torch.exp(-exponent)
