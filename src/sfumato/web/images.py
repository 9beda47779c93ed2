"""Masks and maps as what a page can show."""

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.perturbations import Blur

SMALL = 112
"""Pixels along the longer side of a mask that is still evolving."""

BLUR = 10.0
"""Width of the blur in which what is hidden is shown, in pixels of the network's input."""


def grey(values: Tensor, most: int | None = None) -> str:
    """Values `(H, W)` in [0, 1] as the address of a grey PNG, made smaller where a side is longer than `most`."""
    picture = Image.fromarray((values.detach().float().cpu().clamp(0, 1).numpy() * 255).round().astype(np.uint8))
    if most is not None and max(picture.size) > most:
        picture.thumbnail((most, most), Image.Resampling.BILINEAR)
    return _address(picture, "PNG")


def stretched(values: Tensor) -> Tensor:
    """Values brought to [0, 1]; zeros where all are equal."""
    values = values.detach().float().cpu()
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)


def colours(picture: Tensor) -> str:
    """RGB `(3, H, W)` in [0, 1] as the address of a JPEG."""
    values = (picture.detach().float().cpu().clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return _address(Image.fromarray(values), "JPEG")


def blurred(picture: Tensor) -> Tensor:
    """RGB `(3, H, W)` as it looks where nothing is shown of it."""
    whole = Blur(max_sigma=BLUR, levels=2)(picture[None].float())
    return whole(torch.zeros(1, 1, *picture.shape[1:]), torch.zeros(1, dtype=torch.long))[0]


def _address(picture: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": False}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
