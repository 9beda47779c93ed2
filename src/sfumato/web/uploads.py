"""Uploaded pictures. They are checked before they are decoded, and never written to a file."""

import re
import threading
import warnings

from PIL import Image

from sfumato.data.pictures import decode

MOST_BYTES = 20 * 2**20
MOST_PIXELS = 40_000_000
"""The largest number of pixels that a file may declare. A small file can declare any number."""

LOCK = threading.Lock()
"""One picture is decoded at a time. This bounds the memory, and only one thread changes the filter of Python's warnings."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are recognised by the first bytes of a file. The file's name and the declared type are not used."""


def picture(content: bytes, paper: str = "white") -> Image.Image:
    """The picture in an upload: RGB, upright, without metadata, and on `paper` where it is transparent.

    Raises `ValueError` with a sentence for the page.
    """
    if not content:
        raise ValueError("the file is empty; choose a picture")
    if len(content) > MOST_BYTES:
        raise ValueError(f"the file is larger than {MOST_BYTES // 2**20} MB; make the picture smaller")
    with LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning that only the first of several frames is read; the page shows it
        return decode(content, "the upload", FORMATS, MOST_PIXELS, paper)


LONGEST_NAME = 100
"""Characters of a file's name that are kept."""

UNUSABLE = re.compile(r'[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff"*:<>?|]')
"""Characters that a file's name cannot have in all systems, or that change the direction of the text around."""


def file_name(text: str) -> str:
    """The name of a file that a page sends: the last part of a path, without characters that a name cannot have.

    >>> file_name("my cat.jpg"), file_name("../..\\\\a/b<c>.png"), file_name("..")
    ('my cat.jpg', 'bc.png', 'picture.png')
    """
    name = UNUSABLE.sub("", re.split(r"[/\\]", text)[-1]).strip(". ")
    stem, dot, suffix = name.rpartition(".")
    if len(name) > LONGEST_NAME and dot and len(suffix) < 8:  # a usual suffix
        name = stem[: LONGEST_NAME - len(suffix) - 1] + dot + suffix
    return name[:LONGEST_NAME] or "picture.png"
