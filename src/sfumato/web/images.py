"""Pictures as what a page can show."""

import torch
from torch import Tensor

from sfumato.perturbations import Blur

SMALL = 112
"""Pixels along the longer side of a mask that is still evolving."""

BLUR = 10.0
"""Width of the blur in which what is hidden is shown, in pixels of the network's input."""


def blurred(picture: Tensor) -> Tensor:
    """RGB `(3, H, W)` as it looks where nothing is shown of it."""
    whole = Blur(max_sigma=BLUR, levels=2)(picture[None].float())
    hidden = torch.zeros(1, 1, *picture.shape[1:], dtype=torch.float32, device=picture.device)
    return whole(hidden, torch.zeros(1, dtype=torch.long, device=picture.device))[0]
