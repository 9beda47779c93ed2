"""Sizes and blurs of the pictures on the page."""

import torch
from torch import Tensor

from sfumato.perturbations import Blur

SMALL = 112
"""The longer side of the masks of a running search, in pixels."""

BLUR = 10.0
"""The width of the blur of hidden places, in pixels of the network's input."""


def blur(picture: Tensor) -> Tensor:
    """An RGB picture `(3, H, W)`, blurred everywhere."""
    perturbed = Blur(max_sigma=BLUR, levels=2)(picture[None].float())
    mask = torch.zeros(1, 1, *picture.shape[1:], dtype=torch.float32, device=picture.device)
    return perturbed(mask, torch.zeros(1, dtype=torch.long, device=picture.device))[0]
