"""Pictures as data: addresses, small enough to stand in a page."""

import base64
import io

import numpy as np
from PIL import Image
from torch import Tensor

QUALITY = 90
"""Of JPEGs that are looked at closely."""

SMALL_QUALITY = 80
"""Of small pictures, and of blurred ones."""


def jpeg(picture: Tensor, quality: int = QUALITY) -> str:
    """RGB `(3, H, W)` in [0, 1]."""
    return address(Image.fromarray(eight_bits(picture).transpose(1, 2, 0)), "JPEG", quality=quality)


def png(mask: Tensor, most: int | None = None) -> str:
    """A mask `(H, W)` in [0, 1], in 255 steps; made smaller where a side is longer than `most`."""
    picture = Image.fromarray(eight_bits(mask))
    if most is not None:
        picture.thumbnail((most, most), Image.Resampling.BILINEAR)
    return address(picture, "PNG")


def thumbnail(picture: Image.Image, side: int) -> str:
    """An RGB picture, its longer side no more than so many pixels."""
    small = picture.copy()
    small.thumbnail((side, side))
    return address(small, "JPEG", quality=SMALL_QUALITY)


def eight_bits(values: Tensor) -> np.ndarray:
    """Values in [0, 1] as whole numbers to 255; what is no number is 0."""
    bounded = values.detach().float().cpu().nan_to_num(0.0).clamp(0, 1)
    return np.ascontiguousarray(bounded.mul(255).round().byte().numpy())


def address(picture: Image.Image, kind: str, **settings: int) -> str:
    """A picture as a data address; the settings are of its kind of file."""
    stream = io.BytesIO()
    picture.save(stream, kind, **settings)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
