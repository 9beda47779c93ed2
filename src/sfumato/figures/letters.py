"""Letters that matplotlib's own font lacks, such as Chinese and Japanese: other fonts of the machine draw them."""

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text


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
