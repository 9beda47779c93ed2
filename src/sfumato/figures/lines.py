"""Texts in lines of a width, as they are drawn."""

from bisect import bisect
from functools import cache
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

POINTS, DPI = 72, 160
"""Points of an inch, and pixels in a figure of pixels."""


def broken(text: str, width: float, size: float) -> list[str]:
    """A text in lines no wider than `width`, in inches, with letters of `size`, in points.

    It is broken at spaces; a word that is wider than a line is broken itself. A non-breaking space holds words together.
    """
    lines, line = [], ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if width_of(longer, size) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
        while width_of(line, size) > width and len(line) > 1:
            most = max(1, bisect(range(1, len(line)), width, key=lambda end: width_of(line[:end], size)))
            lines.append(line[:most])
            line = line[most:]
    return [*lines, line]


def width_of(text: str, size: float) -> float:
    """The width of one line, in inches, in letters of `size`, in points: as in a notebook or in a file, where it is wider.

    Letters have whole pixels, so that a line of narrow ones is up to a sixth wider where there are few pixels.
    """
    wide = sum(east_asian_width(letter) in "WF" for letter in text)  # those of other fonts, which are as wide as high
    usual = "".join(letter for letter in text if east_asian_width(letter) not in "WF")
    font = _font(size)
    measured = (
        renderer.get_text_width_height_descent(usual, font, ismath=False)[0] / renderer.dpi for renderer in _renderers()
    )
    return float(max(measured)) + wide * size / POINTS


@cache
def _font(size: float) -> "FontProperties":
    from matplotlib.font_manager import FontProperties

    return FontProperties(size=size)


@cache
def _renderers() -> "tuple[RendererAgg, ...]":
    """What draws letters in a notebook and in a file."""
    from matplotlib import rcParams
    from matplotlib.backends.backend_agg import RendererAgg

    return tuple(RendererAgg(1, 1, dpi) for dpi in (rcParams["figure.dpi"], DPI))
