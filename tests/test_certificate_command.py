"""`sfumato explain --certificate` and `--bundle`: what is written and printed, and what does not go together."""

import io
import json
from itertools import count

import pytest
import torch
from factories import importable
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import sfumato
from sfumato import cli
from sfumato.cli.evidence import claims_shown
from sfumato.cli.progress import INTERVAL
from sfumato.evidence import Calibration, Survival
from sfumato.evidence.bundle import verify
from sfumato.models import Classifier, Preparation

pytest.importorskip("matplotlib", reason="figures need matplotlib")


class Spot(nn.Module):
    """The brightness of the middle, against a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = 6 * x[:, :, 12:20, 12:20].mean((1, 2, 3))
        return torch.stack([value, torch.full_like(value, 1.0)], 1)


def spotted() -> Classifier:
    return Classifier("spotted", Spot(), Preparation(32, 32), ("bright", "dark"))


@pytest.fixture
def folder(monkeypatch, tmp_path):
    importable(monkeypatch, tmp_path, "spotted_for_certificates", __name__)
    Image.new("RGB", (48, 32), (220, 220, 220)).save(tmp_path / "photo.png")
    return tmp_path


def run(folder, *arguments: object):
    start = ("explain", folder / "photo.png", "--model", "spotted_for_certificates:spotted", "--target", "bright")
    quick = () if "--method" in arguments else ("--steps", 4, "--areas", "0.2,0.4")
    return CliRunner().invoke(cli.app, [str(argument) for argument in (*start, *quick, *arguments)])


def test_a_certificate_is_printed_and_written(folder) -> None:
    found = run(folder, "--certificate", "--out", folder / "out")
    assert found.exit_code == 0, found.output
    for claim in ("Suffices", "Same answer", "Better than chance", "Mostly needed", "The only one", "Steady"):
        assert claim in found.stdout
    stem = folder / "out" / "photo-bright-certificate"
    content = json.loads(stem.with_suffix(".json").read_text())
    assert content["findings"][0]["claim"] == "Suffices"
    assert "Centre" in content["findings"][3]["numbers"]
    sets = load_file(stem.with_suffix(".safetensors"))
    assert sets["places"].dtype == torch.bool
    assert sets["places"].float().mean() == pytest.approx(content["area"])
    assert "Mostly needed: needed" in sets
    with Image.open(stem.with_suffix(".png")) as figure:
        assert figure.width > 500
    assert "bright (0)" in found.stdout
    saved = sfumato.load(folder / "out" / "photo-bright.safetensors")
    assert saved.about["certificate"]["findings"] == content["findings"]
    page = sfumato.report.html(saved)
    assert page.count("<li><strong") == len(content["findings"])
    assert "Shown alone, these" in page


@pytest.mark.parametrize(
    "wrong", [3, {"findings": 3}, {"findings": [3]}, {"findings": [{"holds": "<b>", "claim": "<i>"}]}]
)
def test_a_page_takes_whatever_a_file_says_of_a_certificate(wrong) -> None:
    result = sfumato.Attribution(map=torch.rand(1, 1, 8, 8), about={"certificate": wrong})
    page = sfumato.report.html(result)
    assert "<i>" not in page


def test_what_was_measured_before_is_used(folder) -> None:
    method = sfumato.ExtremalPerturbation(areas=(0.2, 0.4), steps=4)
    calibration = Calibration((0.0, 1.0), (sfumato.Blur(), sfumato.Fade()), ((2.0,), (2.0,)), 9)
    calibration.save(folder / "c.json")
    Survival((0.2,) * 20, method).save(folder / "s.json")
    files = ("--calibration", folder / "c.json", "--survival", folder / "s.json")
    found = run(folder, "--certificate", *files, "--out", folder / "out")
    assert found.exit_code == 0, found.output
    assert "calibrated probability" in found.stdout
    assert "With 90 % confidence the network's answer survives on sets of 20 % made this way" in found.stdout


def test_a_set_is_pasted_on_other_pictures(folder) -> None:
    for name, grey in (("dark", 30), ("light", 120)):
        Image.new("RGB", (40, 40), (grey,) * 3).save(folder / f"{name}.png")
    both = ("--background", folder / "dark.png", "--background", folder / "light.png")
    out = folder / "out"
    found = run(folder, "--certificate", *both, "--out", out)
    assert found.exit_code == 0, found.output
    (finding,) = (
        one
        for one in json.loads((out / "photo-bright-certificate.json").read_text())["findings"]
        if one["claim"] == "Holds elsewhere"
    )
    assert finding["numbers"]["another picture"] == pytest.approx(finding["numbers"]["another picture 2"], abs=1e-3)
    assert 0.3 < finding["numbers"]["another picture"] < 1.2
    again = run(folder, "--certificate", *both, "--out", out, "--resume")
    assert "1 was there already" in again.output
    changed = run(folder, "--certificate", *both[:2], "--out", out, "--resume")
    assert "was made from another certificate" in changed.output


def resizing() -> Classifier:
    return Classifier("resizing", Spot(), Preparation(None, 32), ("bright", "dark"))


def test_another_picture_of_another_shape_is_refused_before_the_search(folder, monkeypatch) -> None:
    Image.new("RGB", (40, 32)).save(folder / "narrow.png")
    Image.new("RGB", (40, 32)).save(folder / "photo2.png")
    (folder / "text.png").write_text("no picture")
    importable(monkeypatch, folder, "resizing_for_certificates", __name__)
    start = ("explain", folder / "photo.png", "--model", "resizing_for_certificates:resizing", "--certificate")
    for arguments, says in (
        (
            ("--background", folder / "narrow.png"),
            "the other picture as 40 × 32 pixels, and the explained one as 48 × 32",
        ),
        (("--background", folder / "narrow.png", "--background", folder / "photo.png"), "in different sizes"),
        (("--background", folder / "text.png"), "text.png"),
        (("--background", folder / "none.png"), "--background: there is no file"),
    ):
        found = CliRunner().invoke(cli.app, [str(one) for one in (*start, *arguments, "--out", folder / "out")])
        assert found.exit_code != 0
        assert says in " ".join(found.output.split()), found.output
    assert "--background is for --certificate" in run(folder, "--background", folder / "photo.png").output


def test_a_bundle_holds_everything_and_verifies(folder) -> None:
    found = run(folder, "--bundle", folder / "bundle", "--expected", "dark")
    assert found.exit_code == 0, found.output
    names = {path.name for path in (folder / "bundle").rglob("*") if path.is_file()}
    stem = "photo-bright"
    assert names == {
        *(f"{stem}{ending}" for ending in (".json", ".png", ".safetensors")),
        *(f"{stem}-certificate{ending}" for ending in (".json", ".png", ".safetensors")),
        "0-photo.png",
        "manifest.json",
    }
    facts = json.loads((folder / "bundle" / "manifest.json").read_text())["facts"]
    assert facts["model"] == "spotted"
    assert len(facts["weights"]) == 64
    assert facts["method"]["steps"] == 4
    assert verify(folder / "bundle") == []
    (entry,) = facts["results"]
    assert entry["result"] == stem
    assert entry["picture"] == "pictures/0-photo.png"
    assert entry["explained"] == {"index": 0, "label": "bright"}
    assert entry["predicted"] | {"probability": 1} == {"index": 0, "label": "bright", "probability": 1}
    assert entry["expected"] == {"index": 1, "label": "dark"}
    again = run(folder, "--bundle", folder / "bundle")
    assert again.exit_code == 2
    assert verify(folder / "bundle") == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--certificate", "--method", "rise"), "--certificate is for the sets of one method"),
        (("--certificate", "--smallest", "0.9"), "--certificate is for the sets of one method"),
        (("--calibration", "c.json"), "--calibration is for --certificate; write both"),
        (("--certificate", "--survival", "none.json"), "--survival: there is no file 'none.json'"),
        (("--expected", "dark"), "--expected is for --bundle; write both"),
        (("--bundle", "new", "--resume"), "--bundle is for a new folder; leave out --overwrite and --resume"),
    ],
)
def test_what_does_not_go_together_is_refused(folder, arguments, says: str) -> None:
    found = run(folder, *arguments, "--out", folder / "out")
    assert found.exit_code == 2
    assert says in found.stderr
    assert not (folder / "out").exists() or not any((folder / "out").iterdir())


def test_an_expected_class_that_is_none_is_refused_first(folder, monkeypatch) -> None:
    without_search(monkeypatch)
    found = run(folder, "--bundle", folder / "bundle", "--expected", "grey")
    assert found.exit_code == 2
    assert "no class is called 'grey'" in found.stderr
    assert not (folder / "bundle").exists()


def without_search(monkeypatch) -> None:
    """From now on, a search is an error."""

    def search(*_: object, **__: object):
        raise AssertionError("searched")

    monkeypatch.setattr("sfumato.ExtremalPerturbation.__call__", search)


WEIGHTS = "0" * 64


@pytest.mark.parametrize(
    ("option", "file", "says"),
    [
        ("--calibration", "{", "is no calibration"),
        ("--calibration", Calibration((0, 1), (sfumato.Noise(),), ((2.0,),), 9), "the calibration knows Noise"),
        (
            "--calibration",
            Calibration((0, 1), (sfumato.Blur(), sfumato.Fade()), ((2.0,), (2.0,)), 9, weights=WEIGHTS),
            "was measured with another network than 'spotted', or other weights",
        ),
        ("--survival", Calibration((0, 1), (sfumato.Blur(),), ((2.0,),), 9), "holds no areas of survival"),
        (
            "--survival",
            Survival((0.2,), sfumato.ExtremalPerturbation(areas=(0.2, 0.4), steps=4), WEIGHTS),
            "was measured with another network",
        ),
        (
            "--survival",
            Survival((0.2,), sfumato.ExtremalPerturbation(areas=(0.1, 0.3), steps=4)),
            "made with areas=0.1,0.3; got 0.2,0.4. Write --areas 0.1,0.3",
        ),
        (
            "--survival",
            Survival((0.2,), sfumato.ExtremalPerturbation(areas=(0.2, 0.4), steps=5)),
            "made with steps=5; got 4. Write --steps 5",
        ),
        ("--survival", Survival((0.2,), sfumato.ExtremalOrder(areas=(0.2, 0.4))), "sets made by ExtremalOrder"),
    ],
)
def test_files_that_do_not_fit_are_refused_before_the_search(folder, monkeypatch, option, file, says: str) -> None:
    path = folder / "measured.json"
    path.write_text(file) if isinstance(file, str) else file.save(path)
    without_search(monkeypatch)
    found = run(folder, "--certificate", option, path, "--out", folder / "out")
    assert found.exit_code == 2, found.output
    assert says in found.stderr
    assert not (folder / "out").exists()


def test_a_result_without_the_certificate_is_not_done(folder) -> None:
    out = folder / "out"
    assert run(folder, "--out", out).exit_code == 0
    found = run(folder, "--certificate", "--resume", "--out", out)
    assert found.exit_code == 2
    assert "was made from another certificate" in found.stderr
    assert run(folder, "--certificate", "--overwrite", "--out", out).exit_code == 0
    assert "1 was there already" in run(folder, "--certificate", "--resume", "--out", out).stdout
    assert "1 was there already" in run(folder, "--resume", "--out", out).stdout
    assert run(folder, "--overwrite", "--out", out).exit_code == 0  # its certificate was of the earlier result
    assert {path.name for path in out.iterdir()} == {
        f"photo-bright{ending}" for ending in (".json", ".png", ".safetensors")
    }


def test_a_bundle_holds_only_what_was_explained(folder) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    found = run(folder, folder / "broken.png", "--bundle", folder / "bundle")
    assert found.exit_code == 1
    assert verify(folder / "bundle") == []
    assert [path.name for path in (folder / "bundle" / "pictures").iterdir()] == ["0-photo.png"]
    (folder / "photo.png").write_bytes(b"no picture")
    found = run(folder, "--bundle", folder / "nothing")
    assert found.exit_code == 2
    assert not (folder / "nothing").exists()


def test_a_picture_that_changed_meanwhile_makes_no_bundle(folder, monkeypatch) -> None:
    search = sfumato.ExtremalPerturbation.__call__

    def slow(*arguments, **named):
        Image.new("RGB", (48, 32), (10, 10, 10)).save(folder / "photo.png")
        return search(*arguments, **named)

    monkeypatch.setattr("sfumato.ExtremalPerturbation.__call__", slow)
    found = run(folder, "--bundle", folder / "bundle")
    assert found.exit_code == 2
    assert "has changed since it was explained" in found.stderr
    assert "There is no manifest" in verify(folder / "bundle")[0]


def test_a_stopped_bundle_is_not_to_be_resumed(folder, monkeypatch) -> None:
    def stopped(*_: object, **__: object):
        raise KeyboardInterrupt

    monkeypatch.setattr("sfumato.cli.masks._print", stopped)  # when the first result is written
    found = run(folder, "--bundle", folder / "bundle")
    assert found.exit_code == 130
    assert "the bundle is not finished: remove it, or write another --bundle" in found.stderr
    assert "--resume" not in found.stderr
    assert "There is no manifest" in verify(folder / "bundle")[0]


@pytest.mark.parametrize(("seconds", "lines"), [(INTERVAL, 2), (INTERVAL / 2, 1), (0, 0)])
def test_without_a_terminal_a_line_says_now_and_then_which_claim_is_tested(seconds, lines) -> None:
    times, text = iter(count(0, seconds)), io.StringIO()
    with claims_shown(Console(file=text, width=40), lambda: next(times)) as progress:
        progress(sfumato.evidence.Suffices(), 0, 7)
        progress(sfumato.evidence.OnlyOne(), 1, 7)
    assert text.getvalue().count("\n") == lines
    if lines:
        assert text.getvalue().endswith("certificate: testing claim 2 of 7, only one\n")


def test_a_terminal_shows_one_line_that_is_removed() -> None:
    text = io.StringIO()
    with claims_shown(Console(file=text, force_terminal=True, width=80)) as progress:
        progress(sfumato.evidence.OnlyOne(), 1, 7)
    assert "claim 2 of 7" in text.getvalue()
    assert "\x1b[2K" in text.getvalue().rpartition("claim 2 of 7")[2]  # the line is erased


def test_a_sentence_begins_beside_its_claim_and_breaks_no_per_cent() -> None:
    finding = sfumato.evidence.Finding("Suffices", True, " ".join(f"of the picture {n} %" for n in range(40)))
    places = torch.zeros(20, 30, dtype=torch.bool)
    places[:10] = True
    found = sfumato.Certificate(places, 0.5, 0, (finding,), 0, {})
    figure = sfumato.plots.certificate(found, Image.new("RGB", (30, 20)))
    figure.canvas.draw()
    texts = {text.get_text(): text.get_window_extent() for text in figure.texts}
    sentence = [words for words in texts if "picture" in words]
    assert len(sentence) > 3
    assert not any(words.startswith("%") for words in sentence)
    assert texts[sentence[0]].y1 == pytest.approx(texts["Suffices"].y1, abs=1)
    below = [texts[words].y1 for words in sentence]
    assert below == sorted(below, reverse=True)


@pytest.mark.parametrize("words", ["of the picture 33 %", "W" * 50, "illicit little lilies", "Wm% %"])
@pytest.mark.parametrize("dots", [100, 160])
def test_the_longest_sentence_stays_within_the_figure(words, dots) -> None:
    finding = sfumato.evidence.Finding("Suffices", True, (words + " ") * (700 // len(words)))
    places = torch.zeros(20, 30, dtype=torch.bool)
    found = sfumato.Certificate(places, 0.5, 0, (finding,), 0, {})
    figure = sfumato.plots.certificate(found, Image.new("RGB", (30, 20)))
    figure.set_dpi(dots)  # of a notebook, and of a file
    figure.canvas.draw()
    edges = [text.get_window_extent().x1 / dots for text in figure.texts]
    assert len(edges) > 5
    assert max(edges) < figure.get_size_inches()[0] - 0.12


def test_a_result_that_is_replaced_only_in_part_does_not_count_as_done(folder, monkeypatch) -> None:
    """Stopped with Ctrl-C between the files of a result: the summary of the earlier one is gone."""
    out = folder / "out"
    assert run(folder, "--out", out).exit_code == 0

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("sfumato.plots.figure", stopped)
        assert run(folder, "--overwrite", "--seed", 1, "--certificate", "--out", out).exit_code == 130
    assert (out / "photo-bright-certificate.json").exists()
    found = run(folder, "--resume", "--out", out)
    assert found.exit_code == 0, found.output
    assert "was there already" not in found.stdout
    assert not (out / "photo-bright-certificate.json").exists()
