"""Letters that matplotlib's own font lacks are drawn by another font, or replaced with one sentence; never a warning each."""

import warnings

import pytest

pytest.importorskip("matplotlib", reason="figures need matplotlib")

from fontTools.fontBuilder import FontBuilder  # it comes with matplotlib
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from sfumato.figures import letters, panels


def titled(title):
    figure = panels.blank((2, 1))
    figure.suptitle(title)
    return figure


@pytest.fixture
def with_cat(tmp_path, monkeypatch):
    """A font that has one letter: a square for 猫."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(corner)
    pen.closePath()
    empty = TTGlyphPen(None).glyph()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "cat"])
    font.setupCharacterMap({ord("猫"): "cat"})
    font.setupGlyf({".notdef": empty, "cat": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (700, 0), "cat": (700, 0)})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Only Cats", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "cats.ttf")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    font_manager.fontManager.addfont(str(tmp_path / "cats.ttf"))


@pytest.mark.usefixtures("with_cat")
def test_another_font_draws_what_the_own_one_lacks(tmp_path):
    figure = titled("cat 猫")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        panels.save(figure, tmp_path / "cat.png")
    assert figure.get_suptitle() == "cat 猫"
    assert "Only Cats" in figure._suptitle.get_fontfamily()


def test_without_a_font_there_is_one_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(letters, "_fonts", lambda: iter(()))
    figure = titled("猫の写真, α")
    with pytest.warns(UserWarning, match="no font of this machine has the letters") as said:
        panels.save(figure, tmp_path / "cat.png")
    assert len(said) == 1
    assert figure.get_suptitle() == "????, α"


def test_plain_text_looks_for_no_font(tmp_path, monkeypatch):
    monkeypatch.setattr(letters, "_fonts", lambda: pytest.fail("fonts were read"))
    panels.save(titled("Egyptian cat, 10 % – β"), tmp_path / "cat.png")
