"""A `Classifier` in place of a model: pictures, paths and names of classes, and the picture in a notebook."""

import html
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch import nn

import sfumato
from sfumato.data.pictures import read
from sfumato.models import Classifier, Preparation

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)
METHOD = sfumato.ExtremalPerturbation(areas=(0.2, 0.4), steps=3)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    net = nn.Sequential()
    net.add_module("features", features)
    net.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)))
    with torch.no_grad():
        net.head[2].bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    return Classifier(
        "toy", net.eval(), Preparation(16, None), ("cat, house cat", "dog", "fish"), {"GradCAM": "features"}
    )


def test_a_picture_and_a_name_are_what_inputs_and_an_index_are(classifier, tmp_path):
    PICTURE.save(tmp_path / "p.png")
    inputs = classifier.prepare(PICTURE)[None]
    expected = METHOD(classifier.net, inputs, 1)
    for pictures in (PICTURE, tmp_path / "p.png", str(tmp_path / "p.png"), PIXELS, [PICTURE], inputs):
        for target in ("dog", 1, [1], sfumato.Logit(1)):
            assert torch.equal(METHOD(classifier, pictures, target).masks, expected.masks)


def test_what_is_prepared_may_be_a_path_or_an_array(classifier, tmp_path):
    PICTURE.save(tmp_path / "p.png")
    for picture in (tmp_path / "p.png", str(tmp_path / "p.png"), PIXELS):
        assert torch.equal(classifier.prepare(picture), classifier.prepare(PICTURE))
    with pytest.raises(ValueError, match="a picture is a PIL picture, a path, or an array"):
        classifier.prepare(torch.zeros(3, 16, 16))


def test_a_file_is_read_once(classifier, tmp_path, monkeypatch):
    PICTURE.save(tmp_path / "p.png")
    seen = []
    monkeypatch.setattr("sfumato.models.classifier.read", lambda path: seen.append(path) or read(path))
    METHOD(classifier, tmp_path / "p.png", 1)
    assert seen == [tmp_path / "p.png"]


def turned(path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    PICTURE.save(path, exif=exif)


@pytest.mark.parametrize(
    "write",
    [
        turned,
        lambda path: Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]])).save(path),
        lambda path: Image.fromarray(257 * PIXELS[..., 0].astype(np.uint16)).save(path),
        lambda path: PICTURE.convert("P").save(path, transparency=3),
        lambda path: PICTURE.convert("LA").save(path),
    ],
    ids=["EXIF", "transparent", "16 bits", "palette", "grey"],
)
def test_an_open_picture_is_what_its_file_is(classifier, tmp_path, write):
    write(tmp_path / "p.png")
    inputs = classifier.inputs_of(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert torch.equal(classifier.inputs_of(picture), inputs)
        assert torch.equal(classifier.prepare(picture)[None], inputs)
    assert torch.equal(classifier.prepare(read(tmp_path / "p.png"))[None], inputs)


def test_several_pictures_have_a_class_each(classifier):
    result = sfumato.Gradient()(classifier, [PICTURE, PICTURE.rotate(180)], ["house cat", 2])
    assert result.about["score"]["target"] == [0, 2]
    assert len(result) == 2


def test_without_a_target_it_is_the_top_class(classifier):
    result = sfumato.Gradient()(classifier, PICTURE)
    top = int(classifier.logits(classifier.prepare(PICTURE)[None]).argmax())
    assert result.about["score"]["target"] in (top, [top])


def test_a_network_alone_needs_a_target(classifier):
    with pytest.raises(
        ValueError, match=r"got None\. Write e\.g\. targets=281, or targets=model\(inputs\)\.argmax\(1\)"
    ):
        sfumato.Gradient()(classifier.net, classifier.prepare(PICTURE)[None])


def test_a_method_gets_the_classifiers_layer(classifier):
    assert sfumato.GradCAM()(classifier, PICTURE, "dog").layer == "features"
    assert sfumato.GradCAM(layer="features.0")(classifier, PICTURE, "dog").layer == "features.0"


def test_the_smallest_area_of_a_picture(classifier):
    method = sfumato.ExtremalPerturbation(steps=2)
    settings = {"areas": (0.3, 0.6), "tolerance": 0.2}
    found = sfumato.smallest(method, classifier, PICTURE, "fish", **settings)
    expected = sfumato.smallest(method, classifier.net, classifier.prepare(PICTURE)[None], 2, **settings)
    assert torch.equal(found.attribution.masks, expected.attribution.masks)
    assert "data:image/jpeg" in found._repr_html_()
    with pytest.raises(ValueError, match=r"smallest takes a search for masks, .*, as its first argument; got RISE"):
        sfumato.smallest(sfumato.RISE(samples=8), classifier, PICTURE, "fish")


def test_a_layers_activations_are_those_of_the_picture(classifier):
    expected = sfumato.activations(classifier.net, "features", classifier.prepare(PICTURE)[None])
    assert torch.equal(sfumato.activations(classifier, "features", PICTURE), expected)
    found = sfumato.invert(classifier, "features", expected, shape=(3, 16, 16), steps=2)
    assert found.pictures.shape == (1, 3, 16, 16)


def test_a_notebook_shows_a_picture_in_its_own_shape(classifier):
    """The network sees it squashed to a square."""
    result = METHOD(classifier, [PICTURE, PICTURE.resize((40, 20))], 1)
    assert result.about["shapes"] == [1.5, 2.0]
    page = html.unescape(result[1]._repr_html_())
    assert 'data-shape="2.0"' in page
    assert 'data-shape="1.5"' not in page
    found = sfumato.smallest(METHOD, classifier, PICTURE, 1, tolerance=0.5)
    assert found.attribution.about["shapes"] == [1.5]
    for others in (PICTURE.resize((20, 20)), classifier.prepare(PICTURE)[None]):
        assert "shapes" not in METHOD(classifier, others, 1).about


def test_a_notebook_shows_the_picture_and_a_file_does_not_hold_it(classifier, tmp_path):
    result = METHOD(classifier, [PICTURE, PICTURE.rotate(180)], "dog")
    seen = classifier.restore(classifier.prepare(PICTURE))
    torch.testing.assert_close(result[0].pictures[0] / 255.0, seen, atol=0.5 / 255 + 1e-6, rtol=0)
    assert not torch.equal(result.pictures[0], result[1].pictures[0])
    page, without = result._repr_html_(), replace(result, pictures=None)._repr_html_()
    assert "overlay" in page
    assert "data:image/jpeg" in page
    assert "data:image/jpeg" not in without
    result.save(tmp_path / "r.safetensors")
    assert sfumato.load(tmp_path / "r.safetensors").pictures is None


def test_a_result_names_the_classes_that_were_explained(classifier, tmp_path):
    result = METHOD(classifier, [PICTURE, PICTURE], ["dog", "fish"])
    assert "dog (1)" in result._repr_html_()
    assert "fish (2)" not in result[0]._repr_html_()
    assert "fish (2)" in result[1]._repr_html_()
    result.save(tmp_path / "r.safetensors")
    assert "fish (2)" in sfumato.load(tmp_path / "r.safetensors")[1]._repr_html_()
    found = sfumato.smallest(METHOD, classifier, PICTURE, "cat", areas=(0.3, 0.6), tolerance=0.2)
    assert found.attribution.about["labels"] == ["cat, house cat"]
    both = METHOD(classifier, PICTURE, sfumato.Logit(0) + sfumato.Logit(1))
    assert "labels" not in both.about


def test_its_repr_is_a_line(classifier):
    assert repr(classifier) == "Classifier('toy', Sequential, 3 classes)"


def test_the_network_decides_the_type(classifier):
    double = replace(classifier, net=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)).double())
    assert double.inputs_of(PICTURE).dtype == torch.float64


@pytest.mark.parametrize(
    ("pictures", "target", "message"),
    [
        (PICTURE, "bird", "no class is called 'bird'"),
        ("nothing.png", "dog", "nothing.png"),
        (
            PIXELS.astype(float),
            "dog",
            r"an array \(H, W, 3\) of 8 bits; got an array of float64 of shape \(20, 30, 3\)",
        ),
        ([], "dog", "inputs of one shape; got none"),
        ({"pixel_values": PICTURE}, "dog", "a picture is a PIL picture, a path, .* got dict"),
    ],
)
def test_what_is_no_picture_or_no_class_is_one_sentence(classifier, pictures, target, message):
    with pytest.raises(ValueError, match=message) as error:
        sfumato.Gradient()(classifier, pictures, target)
    assert not re.search(r"\n", str(error.value))


def test_a_certificate_of_a_picture(classifier):
    method = sfumato.ExtremalPerturbation(steps=2, areas=(0.3,))
    certify = sfumato.Certify(claims=(sfumato.evidence.Suffices(), sfumato.evidence.SameAnswer()))
    found = certify(method(classifier, PICTURE, "fish"), classifier, PICTURE, "fish")
    inputs = classifier.prepare(PICTURE)[None]
    expected = certify(method(classifier.net, inputs, 2), classifier.net, inputs, 2, labels=classifier.labels)
    assert str(found[0]) == str(expected[0])
    assert "fish" in str(certify(method(classifier, PICTURE, "fish"), classifier, PICTURE)[0])
