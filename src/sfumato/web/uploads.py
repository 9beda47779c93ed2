"""Pictures from strangers: checked before they are decoded, kept in memory, never written to a file."""

import threading
import warnings

from PIL import Image

from sfumato.data.pictures import decode

MOST_BYTES = 20 * 2**20
MOST_PIXELS = 40_000_000
"""What a picture may claim to have; a small file can claim any number."""

ONE = threading.Lock()
"""One picture at a time: so what a crowd of them takes is bounded, and Python's warnings are watched by one thread."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Kinds that are looked for, by what the file begins with; its name and the type that its sender claims do not count."""


def picture(content: bytes) -> Image.Image:
    """The picture in an upload, RGB, upright, without what else the file held. Raises `ValueError` that says what is wrong."""
    if not content:
        raise ValueError("the file is empty; choose a picture")
    if len(content) > MOST_BYTES:
        raise ValueError(f"the file is larger than {MOST_BYTES // 2**20} MB; make the picture smaller")
    with ONE, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of several frames the first is shown, as one sees
        return decode(content, "the upload", FORMATS, MOST_PIXELS)
