r"""The centre: what a map is worth that knows nothing of the picture.

Objects lie in the middle of photographs, so that pointing there hits many; a method is to be judged by how much better
it does. As a baseline in J. Zhang et al.: *Top-down neural attention by excitation backprop*, ECCV 2016.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.about import about_run
from sfumato.attribution import Attribution
from sfumato.model.effects import Model
from sfumato.model.subject import Subject
from sfumato.scores import check_meaning
from sfumato.settings import check_number, later

MEMORY = 2.0
"""GiB that the model may keep."""


@dataclass(frozen=True)
class Centre:
    r"""$S(u) = \exp\bigl(-\tfrac12 \sum_i (u_i - c_i)^2 / (\sigma L_i)^2\bigr)$, the same for every input.

    `sigma`: width of the bump as a fraction of each axis's length $L_i$. Along an axis of even length the two places next to
    the middle $c_i$ are equally high.

    The model is asked for nothing but `result.whole`, the score of each input, which other methods tell, too. `score`: what a
    class index means there, "logit", "probability", "log-odds" or "sigmoid".
    """

    sigma: float = 0.25
    score: str = later("logit")

    def __post_init__(self) -> None:
        check_number("sigma", self.sigma, "a fraction of the input's sides", above=0)
        check_meaning(self.score)

    def __call__(
        self,
        model: Model,
        inputs: Tensor,
        targets: Any,
        progress: object = None,  # noqa: ARG002  # for the sake of the common call: there are no steps to tell
    ) -> Attribution:
        """The map for inputs `(B, C, *S)`, prepared as the model wants them.

        `targets`: a class index, one per input, a `Score`, or a function of the model's outputs. Raises `ValueError` where
        the inputs or the targets cannot be used. The model comes out as it went in.
        """
        with Subject.prepared(model, inputs, targets, self.score) as subject:
            _, whole = subject.looked_at(MEMORY)
            with subject.surroundings.computing():
                x = subject.inputs
                saliency = bump(x.shape[2:], self.sigma).to(x.device).expand(len(x), 1, *x.shape[2:]).contiguous()
            return Attribution(map=saliency, whole=whole, about=about_run(self, subject.used_score))


def bump(shape: Sequence[int], sigma: float) -> Tensor:
    """A Gaussian over `(*S)` that is symmetric about the middle, and largest there."""
    exponent = torch.zeros(tuple(shape), dtype=torch.float32, device="cpu")
    for axis, length in enumerate(shape):
        offset = torch.arange(length, dtype=torch.float32, device="cpu") - (length - 1) / 2  # halves at most: exact
        away = (offset / (sigma * length)).square() / 2
        exponent = exponent + away.view(-1, *[1] * (len(shape) - axis - 1))
    return torch.exp(-exponent)
