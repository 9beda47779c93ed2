"""`sfumato explain --score`: questions that are not about a class, from arguments to files, on networks with known answers."""

import json
from pathlib import Path

import pytest
import torch
from factories import importable
from PIL import Image, ImageFilter
from torch import nn
from torchvision_operators import torchvision_nms  # noqa: F401  # a fixture
from typer.testing import CliRunner

import sfumato
from sfumato import cli
from sfumato.models import Classifier, Detector, Embedder, Preparation

pytest.importorskip("matplotlib", reason="figures need matplotlib")

SIDE = 32
PLAIN = Preparation(SIDE, SIDE, (0.0,) * 3, (1.0,) * 3)
LABELS = ("red", "green", "blue")


class Means(nn.Module):
    """Logits of red, green and blue."""

    def forward(self, inputs):
        return 4 * inputs.mean((2, 3))


class Maps(nn.Module):
    """How red, green and blue each place is, on a coarser grid."""

    def forward(self, inputs):
        return nn.functional.avg_pool2d(inputs, 4)


class Squares(nn.Module):
    """A detector of a red square in the left half and a green one in the right half, as sure as these are coloured."""

    def forward(self, inputs):
        return [
            {
                "boxes": torch.tensor([[4.0, 8, 12, 24], [20, 8, 28, 24]]),
                "labels": torch.tensor([1, 2]),
                "scores": torch.stack([one[0, 8:24, 4:12].mean(), 0.5 * one[1, 8:24, 20:28].mean()]),
            }
            for one in inputs
        ]


def means():
    return Classifier("means", Means(), PLAIN, LABELS)


def maps():
    return Classifier("maps", Maps(), PLAIN, LABELS)


def squares():
    return Detector("squares", Squares(), PLAIN, ("background", "red", "green"))


def embedder():
    return Embedder("embedder", Means(), PLAIN, ())


@pytest.fixture(autouse=True)
def pictures(monkeypatch, tmp_path):
    """A picture of 64 × 64 pixels with a red and a green square, which a network sees at half its size."""
    importable(monkeypatch, tmp_path, "asked", __name__)
    monkeypatch.chdir(tmp_path)
    picture = Image.new("RGB", (64, 64), (60, 60, 60))
    picture.paste((250, 0, 0), (8, 16, 24, 48))
    picture.paste((0, 250, 0), (40, 16, 56, 48))
    picture.save("two.png")
    Image.new("RGB", (64, 64), (250, 40, 30)).save("red.png")
    mask = Image.new("1", (64, 64))
    mask.paste(1, (40, 16, 56, 48))
    mask.save("right.png")


def explain(model, *arguments, pictures=("two.png",)):
    quick = ["--steps", "2", "--areas", "0.2", "--out", "out"]
    return CliRunner().invoke(cli.app, ["explain", *pictures, "--model", f"asked:{model}", *quick, *arguments])


def done(tmp_path, model, *arguments):
    """The summary and the result of a command that succeeds, and the words on the terminal."""
    run = explain(model, *arguments)
    assert run.exit_code == 0, run.output
    (file,) = (tmp_path / "out").glob("*.json")
    return json.loads(file.read_text()), sfumato.load(file.with_suffix(".safetensors")), run.stdout, file.stem


def refused(model, *arguments, pictures=("two.png",)):
    """The one line of a command that is refused."""
    run = explain(model, *arguments, pictures=pictures)
    assert run.exit_code in (1, 2), run.output
    (line,) = run.stderr.splitlines()
    return line


def inputs():
    return PLAIN(Image.open("two.png"))[None]


def test_entropy(tmp_path):
    summary, result, words, stem = done(tmp_path, "means", "--score", "entropy")
    p = Means()(inputs()).softmax(1)
    assert float(result.whole) == pytest.approx(-float((p * p.log()).sum()), rel=1e-5)
    assert summary["score"]["class"].endswith("Entropy")
    assert (summary["question"], stem) == ("how undecided the network is (entropy)", "two-entropy")
    assert "two.png: how undecided the network is (entropy)" in words
    assert "target" not in summary


def test_an_output_that_estimates_a_number(tmp_path):
    summary, result, _, stem = done(tmp_path, "means", "--score", "regression", "--target", "2")
    assert float(result.whole) == pytest.approx(float(Means()(inputs())[0, 2]), rel=1e-5)
    assert summary["score"]["target"] == 2
    assert (summary["question"], stem) == ("output 2, blue (estimated number)", "two-output-2")


def test_a_class_in_a_box_in_pixels_of_the_picture(tmp_path):
    summary, result, words, stem = done(tmp_path, "maps", "--score", "region", "--box", "40,16,56,48")
    # By default the class of the region, green; four rows and two columns of the outputs lie in it.
    assert float(result.whole) == pytest.approx(float(Maps()(inputs())[0, 1, 2:6, 5:7].mean()), rel=1e-5)
    assert summary["target"] == {"index": 1, "label": "green"}
    assert stem == "two-green-in-box-40-16-56-48"
    assert "two.png: green in box 40,16,56,48 (1)" in words
    assert sfumato.scores.Places.in_box((20, 8, 28, 24), (SIDE, SIDE)).runs == tuple(
        summary["score"]["mask"][0]["runs"]
    )


def test_a_class_in_a_mask_of_the_pictures_size(tmp_path):
    summary, result, _, stem = done(tmp_path, "maps", "--score", "region", "--mask", "right.png", "--target", "red")
    assert float(result.whole) == pytest.approx(float(Maps()(inputs())[0, 0, 2:6, 5:7].mean()), rel=1e-5)
    assert (summary["target"]["label"], stem) == ("red", "two-red-in-right")


@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0)])
def test_what_is_transparent_in_a_mask_is_not_in_the_region(tmp_path, colour):
    """As drawing programs save a selection; of white paper under it, the whole picture would be the region."""
    mask = Image.new("RGBA", (64, 64), (*colour, 0))
    mask.paste((*colour, 255), (40, 16, 56, 48))
    mask.save("right.png")
    test_a_class_in_a_mask_of_the_pictures_size(tmp_path)


@pytest.mark.parametrize("mode", ["L", "P"])
def test_a_map_of_labels_is_no_mask(mode):
    """Of three labels, which one is the region? Before, those of more than half of the largest."""
    labels = Image.new(mode, (64, 64))
    if mode == "P":
        labels.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])  # as those of Pascal VOC, each as bright as the other
    labels.paste(1, (40, 16, 56, 48))
    labels.paste(2, (8, 16, 24, 48))
    labels.save("right.png")
    line = refused("maps", "--score", "region", "--mask", "right.png")
    assert "--mask: 'right.png' has 3 colours or shades, as a map of labels has; give a picture that is white" in line


def test_a_mask_with_a_soft_outline_is_one(tmp_path):
    mask = Image.new("L", (640, 640))
    mask.paste(255, (400, 160, 560, 480))
    soft = mask.filter(ImageFilter.GaussianBlur(3))
    soft.resize((64, 64)).save("right.jpg", quality=60)
    Path("right.jpg").rename("right.png")
    test_a_class_in_a_mask_of_the_pictures_size(tmp_path)


def test_the_surest_box_of_a_detector(tmp_path):
    summary, result, _, stem = done(tmp_path, "squares")
    assert float(result.whole) == pytest.approx(float(inputs()[0, 0, 8:24, 4:12].mean()), rel=1e-5)
    assert summary["score"]["box"] == [[4.0, 8.0, 12.0, 24.0]]
    assert (summary["question"], stem) == ("red (1) in the box 8,16,24,48", "two-red-box")
    assert [row["label"] for row in summary["top_classes"]] == ["red", "green", "background"]


def test_the_surest_box_of_a_class(tmp_path):
    summary, result, _, _ = done(tmp_path, "squares", "--score", "box", "--target", "green")
    assert float(result.whole) == pytest.approx(0.5 * float(inputs()[0, 1, 8:24, 20:28].mean()), rel=1e-5)
    assert summary["question"] == "green (2) in the box 40,16,56,48"


def test_a_box_that_is_given_is_in_pixels_of_the_picture(tmp_path):
    """It covers half of the green square, and no more: the overlap is one half."""
    summary, result, _, _ = done(tmp_path, "squares", "--target", "2", "--score", "box", "--box", "40,16,56,32")
    assert float(result.whole) == pytest.approx(0.25 * float(inputs()[0, 1, 8:24, 20:28].mean()), rel=1e-5)
    assert summary["score"]["box"] == [[20.0, 8.0, 28.0, 16.0]]


@pytest.mark.parametrize("model", ["embedder", "means"])
def test_how_similar_two_pictures_are(tmp_path, model):
    summary, result, words, stem = done(tmp_path, model, "--score", "similarity", "--to", "red.png")
    one, other = Means()(inputs()), Means()(PLAIN(Image.open("red.png"))[None])
    assert float(result.whole) == pytest.approx(float(torch.cosine_similarity(one, other)), rel=1e-5)
    assert (summary["question"], stem) == ("similarity to red.png", "two-similarity-to-red")
    assert "top classes" not in words


def test_several_pictures_in_one_batch(tmp_path):
    run = explain("squares", "--batch", "2", "--target", "red", "--target", "green", pictures=("two.png",))
    assert run.exit_code == 0, run.output
    boxes = [json.loads(path.read_text())["score"]["box"] for path in sorted((tmp_path / "out").glob("*.json"))]
    assert boxes == [[[20.0, 8.0, 28.0, 24.0]], [[4.0, 8.0, 12.0, 24.0]]]


def test_maps_of_several_methods(tmp_path):
    arguments = ["--score", "entropy", "--method", "gradient,rise", "--set", "samples=8", "--set", "cells=2"]
    run = CliRunner().invoke(cli.app, ["explain", "two.png", "--model", "asked:means", "--out", "out", *arguments])
    assert run.exit_code == 0, run.output
    methods = json.loads((tmp_path / "out" / "two-entropy.json").read_text())["methods"]
    assert {entry["explains"] for entry in methods.values()} == {"entropy"}


def test_resume_knows_the_question(tmp_path):
    assert explain("maps", "--score", "region", "--box", "8,16,24,48", "--target", "red").exit_code == 0
    again = explain("maps", "--score", "region", "--box", "8,16,24,48", "--target", "red", "--resume")
    assert "1 was there already" in again.stdout
    (tmp_path / "right.png").rename(tmp_path / "kept.png")
    mask = Image.open("kept.png")
    mask.save("right.png")
    assert explain("maps", "--score", "region", "--mask", "right.png", "--target", "red").exit_code == 0
    Image.new("L", (64, 64), 255).save("right.png")
    line = refused("maps", "--score", "region", "--mask", "right.png", "--target", "red", "--resume")
    assert "was made from another asked" in line


@pytest.mark.parametrize(
    ("model", "arguments", "says"),
    [
        ("maps", ["--score", "region"], "--score region needs --box or --mask, one of them; got neither"),
        ("maps", ["--box", "1,2,3,4"], "--box is for --score box or region; write --score box too"),
        ("means", ["--to", "red.png"], "--to is for --score similarity; write --score similarity too"),
        ("means", ["--score", "similarity"], "write --to PICTURE"),
        ("means", ["--score", "similarity", "--to", "absent.png"], "there is no file 'absent.png'"),
        ("means", ["--score", "box"], "--score box is for detectors, and model 'means' is none"),
        ("squares", ["--score", "entropy"], "is a detector, which finds boxes; got --score entropy. Write --score box"),
        ("squares", ["--target", "blue"], "no class is called 'blue'"),
        ("squares", ["--target", "background"], "squares finds no background; it finds red, green; name another class"),
        ("embedder", [], "gives embeddings; write --score similarity --to PICTURE"),
        ("means", ["--score", "tokens"], "targets = sfumato.Tokens(answer)"),
        ("means", ["--score", "entropi"], "got 'entropi'. Write --score entropy"),
        ("means", ["--score", "entropy", "--target", "1"], "leave out --target 1"),
        ("means", ["--score", "entropy", "--certificate"], "--certificate tests the answer of a class"),
        ("maps", ["--score", "region", "--box", "1,2,3"], "--box is left,top,right,bottom in pixels of the picture"),
        ("maps", ["--score", "region", "--box", "70,2,80,9"], "--box lies outside of what the network sees"),
        ("maps", ["--score", "region", "--mask", "small.png"], "--mask is a picture of 8 × 8 pixels"),
        ("maps", ["--score", "region", "--mask", "none.png"], "'none.png' is white nowhere"),
        ("means", ["--score", "region", "--box", "1,2,30,40"], "a Region is for outputs that are maps"),
    ],
)
def test_what_is_refused(model, arguments, says):
    Image.new("L", (8, 8), 255).save("small.png")
    Image.new("L", (64, 64), 0).save("none.png")
    assert says in refused(model, *arguments)


def test_a_box_is_of_one_picture():
    line = refused("maps", "--score", "region", "--box", "1,2,30,40", pictures=("two.png", "red.png"))
    assert "--box is of one picture; got 2. Explain them one by one" in line


def test_the_channels_of_a_detector_are_refused():
    run = CliRunner().invoke(cli.app, ["channels", "two.png", "--model", "asked:squares", "--layer", "x"])
    assert (
        "sfumato channels explains classes, and model 'squares' is a detector; explain one of its boxes" in run.stderr
    )


def test_what_a_model_without_classes_says_elsewhere():
    with pytest.raises(ValueError, match="is a detector, which gives boxes and no logits"):
        squares().logits(inputs())
    with pytest.raises(ValueError, match="gives embeddings and has no classes"):
        embedder().targets_of(None, inputs())
