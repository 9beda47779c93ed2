"""Where hiding everything takes no score away, no part of a picture is worth anything: the command line and reports say so."""

import json

import pytest
import torch
from factories import importable
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from sfumato import cli
from sfumato.models import Classifier, Preparation

pytest.importorskip("matplotlib", reason="figures need matplotlib")


class Darkness(nn.Module):
    """How dark the middle is, and how bright: a bright picture speaks against the first class."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = 6 * x[:, :, 12:20, 12:20].mean((1, 2, 3))
        return torch.stack([-value, value], 1)


def darkness() -> Classifier:
    return Classifier("darkness", Darkness(), Preparation(32, 32), ("dark", "bright"))


def test_masks_of_a_class_that_the_picture_speaks_against_have_no_worth(monkeypatch, tmp_path) -> None:
    importable(monkeypatch, tmp_path, "darkness_for_worth", __name__)
    picture = Image.new("RGB", (32, 32), (40, 40, 40))
    picture.paste((250, 250, 250), (10, 10, 22, 22))
    picture.save(tmp_path / "photo.png")
    start = (
        "explain",
        tmp_path / "photo.png",
        "--model",
        "darkness_for_worth:darkness",
        "--steps",
        4,
        "--areas",
        "0.2,0.4",
    )

    def run(*more: object) -> str:
        done = CliRunner().invoke(cli.app, [str(word) for word in (*start, *more, "--out", tmp_path / "out")])
        assert done.exit_code == 0, done.output
        return done.stdout

    against, speaks_for = run("--target", "dark"), run("--target", "bright")
    assert "The hidden picture scores about as much as the whole one, or more" in against
    assert against.count("–") >= 4  # of the whole, the hidden one, and two masks
    assert "about as much as the whole" not in speaks_for
    worths = [row["worth"] for row in json.loads((tmp_path / "out" / "photo-dark.json").read_text())["areas"]]
    assert worths == [None, None]
    done = CliRunner().invoke(
        cli.app, ["report", str(tmp_path / "out" / "photo-dark.safetensors"), "-o", str(tmp_path / "a.html")]
    )
    assert done.exit_code == 0, done.output
    page = (tmp_path / "a.html").read_text()
    assert "with everything hidden" in page
    assert "Worth: 100 %" not in page
