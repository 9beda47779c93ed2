"""`sfumato calibrate`: what it writes is what a certificate reads."""

import pytest
import torch
from factories import importable
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from sfumato import cli
from sfumato.evidence import Calibration, Survival
from sfumato.models import Classifier, Preparation


class Brightness(nn.Module):
    """Red, green and blue: sure of the brightest."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 8 * x.mean((2, 3))


def colours() -> Classifier:
    return Classifier("colours", Brightness(), Preparation(32, 32), ("red", "green", "blue"))


@pytest.fixture
def pictures(monkeypatch, tmp_path):
    importable(monkeypatch, tmp_path, "colours_for_calibration", __name__)
    for name, colour in (("red", (220, 20, 20)), ("green", (20, 220, 20))):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (32, 32), colour).save(tmp_path / name / f"{number}.png")
    return tmp_path


def run(*arguments: object):
    return CliRunner().invoke(cli.app, ["calibrate", "colours_for_calibration:colours", *map(str, arguments)])


def test_it_writes_a_calibration_and_prints_it(pictures) -> None:
    found = run(pictures / "red", pictures / "green", "--out", pictures / "out")
    assert found.exit_code == 0, found.output
    (path,) = (pictures / "out").iterdir()
    calibration = Calibration.load(path)
    assert calibration.pictures == 4
    assert calibration.model == "colours_for_calibration:colours"
    assert "0 % to 2 %" in found.stdout
    assert str(path) in found.stdout


def test_the_folders_name_the_right_classes(pictures) -> None:
    right = run(pictures / "red", "--by-folder", "--out", pictures / "right")
    assert right.exit_code == 0, right.output
    (pictures / "red").rename(pictures / "blue")
    wrong = run(pictures / "blue", "--by-folder", "--out", pictures / "wrong")
    assert wrong.exit_code == 0
    (first,), (second,) = (list((pictures / name).iterdir()) for name in ("right", "wrong"))
    assert Calibration.load(first).temperatures[0][-1] < 1 < Calibration.load(second).temperatures[0][-1]
    (pictures / "green").rename(pictures / "gold")
    unknown = run(pictures / "gold", "--by-folder", "--out", pictures / "none")
    assert unknown.exit_code == 2
    assert "no class is called 'gold'" in unknown.stderr


def test_files_that_are_there_are_replaced_only_on_demand(pictures) -> None:
    arguments = (pictures / "red", "--out", pictures / "out")
    assert run(*arguments).exit_code == 0
    (path,) = (pictures / "out").iterdir()
    path.write_text("mine")
    found = run(*arguments)
    assert found.exit_code == 2
    assert "calibration.json' is there already. Write --overwrite to replace it" in found.stderr
    assert path.read_text() == "mine"
    assert run(*arguments, "--overwrite").exit_code == 0
    assert Calibration.load(path).pictures == 2
    survives = path.with_name(path.name.replace(".calibration.", ".survival."))
    survives.write_text("mine")  # which only --survival writes
    assert run(*arguments, "--overwrite").exit_code == 0
    path.unlink()
    found = run(*arguments, "--survival", "--areas", "0.5", "--steps", 2)
    assert found.exit_code == 2
    assert "survival.json' is there already" in found.stderr
    assert not path.exists()


def test_areas_of_survival_are_written_too(pictures) -> None:
    found = run(pictures / "red", "--survival", "--areas", "0.2,0.5", "--steps", 2, "--out", pictures / "out")
    assert found.exit_code == 0, found.output
    (path,) = (pictures / "out").glob("*.survival.json")
    survival = Survival.load(path)
    assert len(survival.areas) == 2
    assert survival.method.areas == (0.2, 0.5)
    assert survival.method.steps == 2
    assert "(2 pictures)" in found.stdout


def test_a_broken_picture_is_left_out(pictures) -> None:
    (pictures / "red" / "broken.png").write_bytes(b"no picture")
    found = run(pictures / "red", "--out", pictures / "out")
    assert found.exit_code == 1
    assert "broken.png" in found.stderr
    (path,) = (pictures / "out").iterdir()
    assert Calibration.load(path).pictures == 2


def test_a_picture_counts_once(pictures) -> None:
    found = run(pictures / "red", pictures / "red" / "0.png", pictures / "green" / "0.png", "--out", pictures / "out")
    assert found.exit_code == 0, found.output
    (path,) = (pictures / "out").iterdir()
    assert Calibration.load(path).pictures == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--steps", 3), "--steps is for --survival; write both"),
        (("--areas", "0.1"), "--areas is for --survival; write both"),
        (("--survival", "--areas", ""), "--areas takes numbers separated by commas"),
        (("--device", "tpu"), "--device is auto, cpu, cuda or mps"),
    ],
)
def test_wrong_options_are_refused(pictures, arguments, says: str) -> None:
    found = run(pictures / "red", *arguments, "--out", pictures / "out")
    assert found.exit_code == 2
    assert says in found.stderr
    assert not (pictures / "out").exists() or not list((pictures / "out").iterdir())


def test_a_folder_that_cannot_be_written_is_said_first(pictures) -> None:
    found = run(pictures / "red", "--out", pictures / "red" / "0.png")
    assert found.exit_code == 2
    assert "cannot write to folder" in found.stderr
