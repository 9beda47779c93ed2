"""Likely first wrong commands: each is answered in one sentence that says what to write, and leaves no folder behind."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from sfumato import cli, models
from sfumato.cli.files import writable
from sfumato.models import Classifier, Preparation

REFUSED = [
    ("cat.png", "'cat.png' is no command. To explain pictures, write: sfumato explain cat.png"),
    ("explian cat.png", "Did you mean 'explain'?"),
    ("bench plan.toml", "'plan.toml' is no command. To run a plan, write: sfumato bench run plan.toml --out FOLDER"),
    ("help explain", "'help' is no command. Write: sfumato explain --help"),
    ("help", "'help' is no command. Write: sfumato --help"),
    ("bench help run", "'help' is no command. Write: sfumato bench run --help"),
    ("bench cat.png", "'cat.png' is no command. To explain pictures, write: sfumato explain cat.png"),
    ("bench none", "'none' is no command. To see how far the run in a folder is, write: sfumato bench status none"),
    ("bench rum plan.toml", "Did you mean 'run'"),
    (
        "explain https://example.org/cat.png",
        "'https://example.org/cat.png' is an address, not a file; save the picture",
    ),
    ("explain dog.jpg -o sfumato-out", "no file or folder 'dog.jpg'"),
    ("explain dog.jpg", "no file or folder 'dog.jpg'; expected the path of a picture"),
    ("explain cat.png --target gren", "no class is called 'gren' (near: 1 'green')"),
    ("explain cat.png --target 7", "7"),
    ("explain cat.png --areas 20", "Write --areas 0.2"),
    ("explain cat.png --smallest 90", "Write --smallest 0.9"),
    ("explain cat.png --smallest 1.5", "Write --smallest 0.9"),
    ("explain cat.png --method linear", "did you mean linear-approximation?"),
    ("explain cat.png --method cam", "did you mean grad-cam or layer-cam or score-cam?"),
    ("explain cat.png --out cat.pdf", "--out names a folder; got 'cat.pdf'. Write --out cat"),
    ("explain cat.png --out out/result.safetensors", "Write --out out/result"),
    ("explain cat.png --device gpu", "--device is auto, cpu, cuda or mps; got 'gpu'"),
    ("explain cat.png --method grad-cam --layer layer4", "has no layer 'layer4'"),
    ("explain notes.jpg", "cannot read picture 'notes.jpg': it is not a picture of a known kind"),
    ("explain none", "folder 'none' holds no pictures"),
    ("channels cat.png --layer layer4", "has no layer 'layer4'"),
    ("channels cat.png --layer 0 --target gren", "no class is called 'gren'"),
    ("channels cat.png --layer 0 --per-class --target gren", "no class is called 'gren'"),
    ("compare-models toy toy none", "folder 'none' holds no pictures"),
    ("calibrate toy none --out sfumato-out", "folder 'none' holds no pictures"),
    ("bench rules none --rule rotation:15", "none"),
    ("bench run plan.toml --out sfumato-out", "plan.toml"),
]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    toy = Classifier("toy", net, Preparation(32, None), ("red", "green", "blue"))
    monkeypatch.setattr(models, "load", lambda *_: toy)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32), "red").save("cat.png")
    Path("notes.jpg").write_text("not a picture")
    Path("none").mkdir()


@pytest.mark.parametrize(("command", "said"), REFUSED, ids=[command for command, _ in REFUSED])
def test_a_refusal_says_what_to_write_and_leaves_nothing(command, said):
    before = sorted(Path().iterdir())
    done = CliRunner().invoke(cli.app, command.split())
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Usage:") or done.stderr.count("\n") == 1
    assert sorted(Path().iterdir()) == before


def test_folders_that_were_made_for_nothing_are_removed():
    Path("here").mkdir()
    with writable(Path("here/a/b")):
        assert Path("here/a/b").is_dir()
    assert list(Path("here").iterdir()) == []
    with writable(Path("here")):
        pass
    assert Path("here").is_dir(), "it was there before"
    with writable(Path("here/a/b")):
        Path("here/a/result.txt").touch()
    assert sorted(Path("here").rglob("*")) == [Path("here/a"), Path("here/a/result.txt")]
