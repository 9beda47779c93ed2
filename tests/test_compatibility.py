"""The page of which method works on which model: two small families, and what counts as working."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sfumato import RISE, Centre, GradCAM, Gradient

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def compatibility(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    for name in ("compatibility", "families"):
        sys.modules.pop(name, None)
    import compatibility as module

    yield module
    for name in ("compatibility", "families"):
        sys.modules.pop(name, None)


def question(compatibility, net, *shape):
    inputs = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    return compatibility.Question(net.eval(), inputs, (1,))


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def test_two_families_and_two_methods(compatibility, tmp_path):
    """A function of sounds has no layer for Grad-CAM, which says so; all else works. What is done is not done again."""
    out, names = tmp_path / "rows.jsonl", ["Centre", "GradCAM"]
    families = ["others: 1-d convolutional network, sounds", "others: a function"]
    compatibility.run(families, names, out, 60)
    rows = compatibility.read(out)
    assert {key: row.outcome for key, row in rows.items()} == {
        (families[0], "Centre"): "works",
        (families[0], "GradCAM"): "works",
        (families[1], "Centre"): "works",
        (families[1], "GradCAM"): "refused",
    }
    assert "the model is a function, which has none" in rows[families[1], "GradCAM"].says
    before = out.read_text(encoding="utf-8")
    compatibility.run(families, names, out, 60)
    assert out.read_text(encoding="utf-8") == before
    page = compatibility.page(rows)
    assert "2 networks, 2 methods, and each pair was run: 3 work, 1 are refused in words, 0 at fault." in page
    assert "| 1-d convolutional network, sounds | ● | ● |" in page
    assert "| a function | a | ● |" in page
    assert "- **a** (1×), here `GradCAM` on others: a function: GradCAM needs layer" in page


def test_every_method_has_a_name_on_the_page(compatibility):
    assert set(compatibility.SHORT) == set(compatibility.methods.__all__)
    assert len(set(compatibility.SHORT.values())) == len(compatibility.SHORT)


class Changing(nn.Module):
    """A network that counts its calls."""

    def __init__(self):
        super().__init__()
        self.net = small()

    def forward(self, pictures):
        self.calls = getattr(self, "calls", 0) + 1
        return self.net(pictures)


def test_what_is_a_fault(compatibility, monkeypatch):
    def outcome(net, method):
        monkeypatch.setattr(compatibility.methods, "Tried", lambda: method, raising=False)
        row = compatibility.tried("family", "Tried", question(compatibility, net, 3, 8, 8))
        return row.outcome, row.says

    assert outcome(small(), Gradient()) == ("works", "")
    found, says = outcome(Changing(), RISE(samples=8, cells=2))
    assert found == "fault"
    assert "the network has other attributes than before" in says
    found, says = outcome(small(), GradCAM(layer="nowhere"))
    assert found == "refused"
    assert says.startswith("the model has no layer 'nowhere'")

    class Broken(Centre):
        def explain(self, subject, progress):
            raise KeyError("a traceback")

    assert outcome(small(), Broken()) == ("fault", "KeyError: 'a traceback'")

    class Flat(Centre):
        def explain(self, subject, progress):
            result = super().explain(subject, progress)
            return type(result)(map=torch.ones_like(result.map), about=result.about)

    assert outcome(small(), Flat()) == ("fault", "a map that is the same everywhere")


def test_refusals_that_differ_in_names_and_numbers_have_one_letter(compatibility):
    rows = [
        compatibility.Row("f", "GradCAM", "refused", f"the layer '{layer}' puts out shape ({size}, 7), not a map")
        for layer, size in (("a", 1), ("b.c", 20))
    ]
    rows.append(compatibility.Row("f", "RISE", "refused", "the layer is missing"))
    assert [(letter, count) for letter, _, count in compatibility.letters(rows).values()] == [("a", 2), ("b", 1)]


def test_a_page_keeps_the_families_that_were_not_run_again(compatibility, monkeypatch):
    """What it shows is read from it: all of it, so that the page of these rows is the same page."""
    text = (BENCH.parent / "docs" / "compatibility.md").read_text(encoding="utf-8")
    made_with = text.partition("Made with ")[2].partition(" by")[0]
    monkeypatch.setattr(compatibility, "versions", lambda: made_with)
    rows = compatibility.rows_of(text)
    assert compatibility.page(rows) == text
    again = {key: compatibility.Row(*key, "works") for key in rows if key[0] == "others: a function"}
    changed = compatibility.page(rows | again)
    assert "| a function | " + " | ".join("●" * len(again)) + " |" in changed
    assert changed.count("\n") <= text.count("\n")
    monkeypatch.setattr(compatibility, "versions", lambda: "torch 0.1")
    assert compatibility.rows_of(text) == {}


def test_faults_are_read_from_a_page_too(compatibility):
    rows = {
        (f"timm: {net}", "GradCAM"): compatibility.Row(f"timm: {net}", "GradCAM", "fault", f"KeyError: a_{net}")
        for net in ("ViT", "Swin")
    }
    assert compatibility.rows_of(compatibility.page(rows)) == rows


def test_the_page_is_what_the_script_writes(compatibility):
    """Its methods are all that there are."""
    text = (BENCH.parent / "docs" / "compatibility.md").read_text(encoding="utf-8")
    for name, short in compatibility.SHORT.items():
        assert f"{short} `{name}`" in text
