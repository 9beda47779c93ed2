"""A network of one's own whose outputs are no classes, or classes without names: nobody is told of a class that is none."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from factories import importable
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import sfumato
from sfumato import cli, models
from sfumato.evidence import SameAnswer
from sfumato.models import Embedder

pytest.importorskip("matplotlib", reason="figures need matplotlib")


class Tower(nn.Module):
    """512 numbers for a picture, as long as they are or of length 1 together."""

    def __init__(self, of_length_one):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.of_length_one = nn.Conv2d(3, 512, 16, stride=16), of_length_one

    def forward(self, inputs):
        outputs = self.body(inputs).mean((2, 3))
        return nn.functional.normalize(outputs) if self.of_length_one else outputs


def tower():
    return Tower(of_length_one=True)


def numbers():
    return Tower(of_length_one=False)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    importable(monkeypatch, tmp_path, "mine", __name__)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), (250, 40, 30)).save("red.png")
    Image.effect_noise((64, 64), 80).save("noise.png")


def explained(*options):
    return CliRunner().invoke(cli.app, ["explain", "noise.png", "--method", "gradient", *options])


def test_numbers_of_length_one_are_no_classes(tmp_path):
    run = explained("--model", "mine:tower")
    assert run.exit_code == 2
    says = "model 'mine:tower' gives 512 numbers that have the length 1 together, as embeddings have, and no logits of "
    assert (
        says + "classes; explain how similar its embeddings are, with sfumato explain --score similarity --to PICTURE"
        in run.stderr
    )
    assert not (tmp_path / "sfumato-out").exists()


@pytest.mark.parametrize("factory", ["tower", "numbers"])
def test_they_are_explained_as_an_embedding(tmp_path, factory):
    run = explained("--model", f"mine:{factory}", "--score", "similarity", "--to", "red.png")
    assert run.exit_code == 0, run.output
    assert "without names" not in run.output
    assert (tmp_path / "sfumato-out/noise-similarity-to-red.json").exists()
    assert isinstance(models.load(f"mine:{factory}", embeds=True), Embedder)


def test_outputs_without_names_are_said_to_be_taken_for_classes(tmp_path):
    run = explained("--model", "mine:numbers")
    assert run.exit_code == 0, run.output
    says = "mine:numbers has 512 outputs without names, which are taken for classes. --labels FILE names them; if they are an "
    assert says + "embedding, write --score similarity --to PICTURE." in run.output
    (tmp_path / "names.txt").write_text("\n".join(f"name {index}" for index in range(512)))
    run = explained("--model", "mine:numbers", "--labels", "names.txt", "--out", "named")
    assert "without names" not in run.output
    run = explained("--model", "mine:numbers", "--score", "regression", "--out", "numbers")
    assert "without names" not in run.output


def test_a_thousand_outputs_of_ones_own_are_said_to_be_taken_for_imagenet(monkeypatch):
    labels = models.load("lite0").labels
    own = models.Classifier("mine:numbers", nn.Identity(), models.Preparation(), labels)
    (remark,) = models.remarks(own)
    assert "has 1000 outputs without names, which are taken for ImageNet's classes" in remark
    assert not models.remarks(models.load("lite0"))


class Means(nn.Module):
    """Three numbers that say how red, green and blue a picture is, after a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        return self.function(4 * inputs.mean((2, 3)))


def named(function):
    return models.Classifier("mine:means", Means(function), models.Preparation(32, 32), ("red", "green", "blue"))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (
            nn.Sigmoid(),
            "went through a sigmoid already, so that the percentages of its classes are wrong. Leave the sigmoid out",
        ),
        (
            nn.Softmax(1),
            "went through a softmax already, so that the percentages of its classes are wrong. Leave the softmax out",
        ),
        (nn.Identity(), ""),
        (nn.LogSoftmax(1), ""),
    ],
)
def test_outputs_that_are_probabilities_already(function, says):
    said = models.remarks(named(function))
    assert len(said) == bool(says)
    assert says in "".join(said)


def multi_label():
    return named(nn.Sigmoid())


def test_the_command_says_that_percentages_would_be_of_probabilities():
    run = explained("--model", "mine:multi_label")
    assert "Leave the sigmoid out of the network, and write --score sigmoid." in run.output


def tags():
    return replace(named(nn.Identity()), multi_label=True)


@pytest.mark.parametrize("method", ["gradient", "rise", "extremal"])
def test_the_command_gives_each_of_several_labels_its_own_probability(tmp_path, method):
    options = (
        ["--steps", "2", "--areas", ".2"]
        if method == "extremal"
        else ["--set", "samples=4"]
        if method == "rise"
        else []
    )
    run = CliRunner().invoke(
        cli.app, ["explain", "red.png", "--model", "mine:tags", "--method", method, *options, "--out", "out"]
    )
    assert run.exit_code == 0, run.output
    (file,) = Path("out").glob("*.json")
    summary, net = json.loads(file.read_text()), tags()
    own = net.logits(net.prepare(Image.open("red.png"))[None])[0].sigmoid()
    assert {row["label"]: row["probability"] for row in summary["top_classes"]} == pytest.approx(
        dict(zip(net.labels, own.tolist(), strict=True)), rel=1e-4
    )


def test_a_certificate_for_one_of_several_labels():
    """Red and green are nearly as sure, and neither takes from the other, as in a softmax."""
    net = tags()
    inputs = net.prepare(Image.open("red.png"))[None]
    inputs[:, 1] = 0.9 * inputs[:, 0]
    method = sfumato.ExtremalPerturbation(areas=(0.3,), steps=2, perturbation=sfumato.Fade())
    for model, least, most in ((net, 90, 100), (net.net, 40, 80)):
        (certificate,) = sfumato.Certify((SameAnswer(),))(method(model, inputs, 1), model, inputs)
        assert least < float(re.search(r"the probability ([\d.]+) %", str(certificate))[1]) < most


def test_a_score_that_takes_a_sigmoid_of_a_sigmoid_warns():
    with pytest.warns(
        UserWarning, match="went through a sigmoid already, and the score makes a probability of it again: leave the"
    ):
        sfumato.Gradient(score="sigmoid")(Means(nn.Sigmoid()), torch.rand(1, 3, 8, 8), 1)
    sfumato.Gradient(score="sigmoid")(Means(nn.Identity()), torch.rand(1, 3, 8, 8), 1)


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (
            "mine.py:numbers",
            "'mine.py' is a file, and a model is named by its module; write mine:numbers, with the folder of the ",
        ),
        (
            "./mine.py:numbers",
            "'./mine.py' is a file, and a model is named by its module; write mine:numbers, with the folder",
        ),
        (
            "two_inputs",
            "takes more than its pictures (TwoInputs.forward() missing 1 required positional argument: 'age'); give ",
        ),
        ("boxes", "got list. For a detector, return a sfumato.models.Detector from the factory"),
        ("several", "got dict. Wrap it in a module that does, e.g. one that returns outputs['out']"),
        ("patches", "got shape (1, 4, 8). For embeddings write --score similarity --to PICTURE; else wrap it"),
    ],
)
def test_what_a_factory_may_not_return(factory, says):
    run = explained("--model", factory if ":" in factory else f"mine:{factory}")
    assert run.exit_code == 2
    assert says in run.stderr
    assert run.stderr.count("\n") == 1


class TwoInputs(nn.Module):
    def forward(self, inputs, age):
        return inputs.mean((2, 3)) + age


class Boxes(nn.Module):
    def forward(self, inputs):
        return [{"boxes": torch.zeros(1, 4), "labels": torch.ones(1), "scores": one.mean()[None]} for one in inputs]


class Several(nn.Module):
    def forward(self, inputs):
        return {"out": inputs.mean((2, 3)), "aux": inputs.mean()}


class Patches(nn.Module):
    def forward(self, inputs):
        return inputs.mean((1, 2, 3))[:, None, None].expand(-1, 4, 8)


def two_inputs():
    return TwoInputs()


def boxes():
    return Boxes()


def several():
    return Several()


def patches():
    return Patches()
