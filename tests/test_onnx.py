"""Files of ONNX as models: what they return, in which batches, and that methods without gradients explain them."""

import copy
import pickle

import numpy as np
import onnx_files
import pytest
import torch
from PIL import Image
from torch import nn

import sfumato
from sfumato import RISE, BlackBox, EvolutionAscent, ExtremalPerturbation, GradCAM, Gradient, SmoothMask, models
from sfumato.model.fingerprint import fingerprint

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

WEIGHTS = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).tolist()


def expected(pictures, weights=WEIGHTS):
    return pictures.mean((2, 3)) @ torch.tensor(weights)


def pictures(count=3, channels=3, side=16):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def written(tmp_path):
    def write(**settings):
        path = tmp_path / f"net{len(list(tmp_path.iterdir()))}.onnx"
        path.write_bytes(onnx_files.classifier(settings.pop("weights", WEIGHTS), **settings))
        return path

    return write


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"shape": (1, 3, 16, 16)},
        {"shape": (2, 3, 16, 16)},
        {"shape": (4, 3, 16, 16)},
        {"shape": ("N", 16, 16, 3), "last": True},
        {"kind": onnx_files.DOUBLE},
        {"shape": ("N", 3, "H", "W")},
    ],
    ids=["any", "one", "pairs", "fours", "channels last", "double", "any size"],
)
def test_its_outputs_are_those_of_the_file(settings, written):
    classifier = models.load(f"onnx:{written(**settings)}")
    side = classifier.preparation.shape[1]
    assert side == (224 if settings.get("shape", ())[2:] == ("H", "W") else 16)
    inputs = pictures(side=side)
    torch.testing.assert_close(classifier.net(inputs), expected(inputs), rtol=1e-4, atol=1e-5)
    assert len(classifier.labels) == 5
    assert classifier.prepare(Image.new("RGB", (40, 30))).shape == (3, side, side)


def test_grey_pictures_and_half_precision(written):
    grey = models.load(f"onnx:{written(weights=[[1.0, -2.0]], shape=('N', 1, 16, 16))}")
    inputs = pictures(channels=1)
    torch.testing.assert_close(grey.net(inputs), expected(inputs, [[1.0, -2.0]]), rtol=1e-4, atol=1e-5)
    assert grey.prepare(Image.new("RGB", (40, 30))).shape == (1, 16, 16)
    half = models.load(f"onnx:{written(kind=onnx_files.FLOAT16)}")
    torch.testing.assert_close(half.net(pictures()), expected(pictures()), rtol=1e-2, atol=1e-2)


def test_of_several_outputs_the_logits_are_explained_or_the_first_and_it_is_said(written):
    classifier = models.load(f"onnx:{written(means=True)}")
    torch.testing.assert_close(classifier.net(pictures()), expected(pictures()), rtol=1e-4, atol=1e-5)
    assert "of which 'logits' is explained, and 'means' not" in " ".join(models.remarks(classifier))
    other = models.load(f"onnx:{written(means=True, sigmoid=True)}")
    torch.testing.assert_close(other.net(pictures()), pictures().mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert "of which 'means' is explained, and 'shares' not" in " ".join(models.remarks(other))


def test_probabilities_become_logits(written):
    classifier = models.load(f"onnx:{written(softmax=True)}")
    outputs = classifier.net(pictures())
    torch.testing.assert_close(outputs.softmax(1), expected(pictures()).softmax(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(outputs, expected(pictures()).log_softmax(1), rtol=1e-4, atol=1e-5)
    assert not models.load(f"onnx:{written()}").net.log_probabilities


def test_methods_without_gradients_explain_it(written):
    net = models.load(f"onnx:{written(shape=(2, 3, 16, 16))}").net
    inputs = pictures(2)
    rise = RISE(samples=32, cells=3)
    torch.testing.assert_close(rise(net, inputs, [1, 2]).map, rise(expected, inputs, [1, 2]).map, rtol=1e-3, atol=1e-4)
    method = ExtremalPerturbation(
        (0.3,), steps=4, ascent=EvolutionAscent(pairs=2), mask=SmoothMask(step=4, sigma=6), perturbation=sfumato.Fade()
    )
    box = BlackBox(net, budget=1000)
    result = method(box, inputs, [1, 2])
    torch.testing.assert_close(result.scores, method(expected, inputs, [1, 2]).scores, rtol=1e-3, atol=1e-3)
    assert result.about["black_box"]["inputs"] == box.spent.inputs > 0


def test_methods_with_gradients_name_those_without(written):
    net = models.load(f"onnx:{written()}").net
    with pytest.raises(ValueError, match="gradient"):
        Gradient()(net, pictures(), 1)
    with pytest.raises(ValueError, match=r"EvolutionAscent\(\)|RISE\(\)"):
        ExtremalPerturbation((0.2,), steps=2)(net, pictures(), 1)
    with pytest.raises(ValueError, match="needs layer"):
        GradCAM()(net, pictures(), 1)


def test_a_session_in_a_black_box(written):
    """As users have it: their own session in a function of arrays."""
    import onnxruntime

    session = onnxruntime.InferenceSession(written(shape=(1, 3, 16, 16)))

    def run(inputs):
        return session.run(None, {"picture": inputs})[0]

    box = BlackBox(run, takes="numpy", retry_on=())
    torch.testing.assert_close(box(pictures()), expected(pictures()), rtol=1e-4, atol=1e-5)
    assert box.spent.failed == 1  # two or more inputs at once
    torch.testing.assert_close(
        RISE(samples=16, cells=3)(box, pictures(), 1).map, RISE(samples=16, cells=3)(expected, pictures(), 1).map,
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip


def test_copies_are_the_same_and_other_files_are_others(written):
    net = models.load(f"onnx:{written(softmax=True)}").net
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):  # noqa: S301
        assert torch.equal(again(pictures()), net(pictures()))
        assert fingerprint(again) == fingerprint(net)
    other = models.load(f"onnx:{written(weights=(-np.array(WEIGHTS)).tolist(), softmax=True)}").net
    assert fingerprint(other) != fingerprint(net)
    assert isinstance(net, nn.Module)
    assert not net.training


def test_the_command_line_takes_it(written, tmp_path):
    from typer.testing import CliRunner

    from sfumato import cli

    Image.new("RGB", (20, 20), (200, 30, 30)).save(tmp_path / "red.png")
    arguments = ["explain", str(tmp_path / "red.png"), "--model", f"onnx:{written()}", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli.app, [*arguments, "--method", "rise", "--set", "samples=16"])
    assert done.exit_code == 0, done.output
    assert list((tmp_path / "out").iterdir())
    refused = CliRunner().invoke(cli.app, [*arguments, "--overwrite"])
    assert refused.exit_code == 2
    assert "EvolutionAscent" in refused.output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inputs": 2}, r"takes 2 inputs \(picture, more0\)"),
        ({"shape": ("N", 3, 16, 12)}, "takes pictures of 16 × 12 pixels"),
        ({"kind": onnx_files.INT64}, r"takes tensor\(int64\)"),
    ],
)
def test_what_is_no_classifier_is_refused(settings, message, written):
    with pytest.raises(ValueError, match=message):
        models.load(f"onnx:{written(**settings)}")


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"no file 'absent.onnx'; expected a model of ONNX"):
        models.load("onnx:absent.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ValueError, match="cannot read"):
        models.load(f"onnx:{tmp_path / 'text.onnx'}")


def test_a_checkpoint_is_refused(written):
    with pytest.raises(ValueError, match="has its weights in its own file"):
        models.load(f"onnx:{written()}", "weights.pth")


def test_a_file_whose_outputs_went_through_a_sigmoid(written):
    """The percentages of its classes would be wrong, which is said; those of logits and of a softmax are right."""
    (_, remark) = models.remarks(models.load(f"onnx:{written(sigmoid=True)}"))
    assert "went through a sigmoid already, so that the percentages of its classes are wrong" in remark
    for settings in ({}, {"softmax": True}):
        (remark,) = models.remarks(models.load(f"onnx:{written(**settings)}"))
        assert "has 5 outputs without names" in remark


def test_a_file_that_gives_embeddings(written):
    embedder = models.load(f"onnx:{written()}", embeds=True)
    assert isinstance(embedder, models.Embedder)
    one, other = Image.effect_noise((16, 16), 80).convert("RGB"), Image.new("RGB", (16, 16), (200, 30, 30))
    result = RISE(samples=8, cells=2)(embedder, one, embedder.similarity(other))
    answers = [embedder.net(embedder.prepare(picture)[None]) for picture in (one, other)]
    assert float(result.whole) == pytest.approx(float(torch.cosine_similarity(*answers)), rel=1e-4)
