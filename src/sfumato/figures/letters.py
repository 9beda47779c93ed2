"""Letters that matplotlib's own font lacks, such as Chinese and Japanese: other fonts of the machine draw them."""

import warnings
from bisect import bisect
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.text import Text

POINTS, DPI = 72, 160
"""Points of an inch, and pixels in a figure of pixels."""


def draw_all_letters(figure: "Figure") -> None:
    """Give each text of a figure the fonts that have its letters.

    Letters that no font of the machine has are replaced by "?", with one warning.
    """
    from matplotlib import font_manager
    from matplotlib.text import Text

    missing: set[str] = set()
    for text in figure.findobj(Text):
        strange = _lacking(text)
        if not strange:
            continue
        fonts = []
        for font, letters in _fonts():
            if strange & letters:
                fonts.append(font)
                strange -= letters
            if not strange:
                break
        own = font_manager.FontProperties(family=text.get_fontfamily())
        text.set_fontfamily([*own.get_family(), *fonts])
        if strange:
            missing |= strange
            text.set_text("".join("?" if letter in strange else letter for letter in text.get_text()))
    if missing:
        warnings.warn(
            f"no font of this machine has the letters {''.join(sorted(missing))}, which are drawn as question marks; install "
            "one that has them, e.g. the package fonts-noto-cjk",
            stacklevel=3,
        )


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


def _lacking(text: "Text") -> set[str]:
    """The letters of a text that its font lacks."""
    from matplotlib import font_manager

    content = text.get_text()
    if content.isascii():
        return set()
    font = font_manager.get_font(font_manager.findfont(text.get_fontproperties()))
    known = font.get_charmap()
    return {letter for letter in content if not letter.isspace() and ord(letter) not in known}


def _fonts() -> Iterator[tuple[str, set[str]]]:
    """The names of the fonts of the machine, upright and of usual weight, with their letters."""
    from matplotlib import font_manager

    seen = set()
    for entry in font_manager.fontManager.ttflist:
        if entry.name.startswith("Last Resort"):  # it has a box with a number for every letter there is
            continue
        if entry.name not in seen and entry.style == "normal" and entry.weight in (400, "normal", "regular"):
            seen.add(entry.name)
            yield entry.name, set(map(chr, font_manager.get_font(entry.fname).get_charmap()))
