"""Pictures as data URLs, small enough to be in a page."""

import base64
import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

QUALITY = 90
"""The quality of JPEGs."""

SMALL_QUALITY = 80
"""The quality of JPEGs that are small or blurred."""


def jpeg(picture: Float[Tensor, "3 H W"], quality: int = QUALITY) -> str:
    """An RGB picture in [0, 1], as a JPEG."""
    return data_url(Image.fromarray(eight_bits(picture).transpose(1, 2, 0)), "JPEG", quality=quality)


def png(mask: Float[Tensor, "H W"], max_side: int | None = None) -> str:
    """A mask in [0, 1], as a grey PNG of 8 bits, made smaller if a side has more than `max_side` pixels."""
    picture = Image.fromarray(eight_bits(mask))
    if max_side is not None:
        picture.thumbnail((max_side, max_side), Image.Resampling.BILINEAR)
    return data_url(picture, "PNG")


def thumbnail(picture: Image.Image, max_side: int) -> str:
    """An RGB picture as a JPEG whose longer side has at most `max_side` pixels."""
    share = max_side / max(picture.size)
    if share < 1:
        width, height = (max(1, round(side * share)) for side in picture.size)
        picture = picture.resize((width, height), reducing_gap=2.0)
    return data_url(picture, "JPEG", quality=SMALL_QUALITY)


def eight_bits(values: Float[Tensor, "*P"]) -> UInt8[np.ndarray, "*P"]:
    """Values in [0, 1] as whole numbers from 0 to 255; NaN becomes 0."""
    bounded = values.detach().float().cpu().nan_to_num(0.0).clamp(0, 1)
    return np.ascontiguousarray(bounded.mul(255).round().byte().numpy())


def data_url(picture: Image.Image, file_format: str, **settings: int) -> str:
    """A picture as a data URL; the settings are those of the file format."""
    stream = io.BytesIO()
    picture.save(stream, file_format, **settings)
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
