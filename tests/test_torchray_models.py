"""TorchRay's networks: files of the published layout, narrow and random, through the code that loads the published ones."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from sfumato import methods, models
from sfumato.data import labels
from sfumato.models import torchray
from sfumato.scores import Logit

WIDTH, HIDDEN = 4, 12
CHANNELS = (1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M")  # VGG16's, in first layers
STAGES = (3, 4, 6, 3)  # ResNet50's blocks
NAMES = ["vgg16_voc", "resnet50_voc", "vgg16_coco", "resnet50_coco"]


def random(seed):
    generator = torch.Generator().manual_seed(seed)

    def convolution(*shape):  # keeps the size of what goes in, about
        return torch.randn(shape, generator=generator) * (2 / np.prod(shape[1:])) ** 0.5

    return generator, convolution


def vgg16_file(classes):
    """Convolutions and linear layers, by torchvision's names."""
    generator, convolution = random(0)
    weights, channels, index = {}, 3, 0
    for wider in CHANNELS:
        if wider == "M":
            index += 1
            continue
        weights[f"features.{index}.weight"] = convolution(WIDTH * wider, channels, 3, 3)
        weights[f"features.{index}.bias"] = torch.rand(WIDTH * wider, generator=generator)
        channels, index = WIDTH * wider, index + 2
    for name, wide, narrow in [("0", HIDDEN, channels * 49), ("3", HIDDEN, HIDDEN), ("6", classes, HIDDEN)]:
        weights[f"classifier.{name}.weight"] = convolution(wide, narrow)
        weights[f"classifier.{name}.bias"] = torch.rand(wide, generator=generator)
    return weights


def resnet50_file(classes):
    """By torchvision's names, but each normalisation in two layers and a bias in the first convolution."""
    generator, convolution = random(1)
    weights = {"conv1.weight": convolution(WIDTH, 3, 7, 7), "conv1.bias": torch.rand(WIDTH, generator=generator)}

    def normalisation(name, channels):
        for part, low in [("0.running_mean", -0.5), ("0.running_var", 0.5), ("1.weight", 0.5), ("1.bias", -0.5)]:
            weights[f"{name}.{part}"] = torch.rand(channels, generator=generator) + low

    normalisation("bn1", WIDTH)
    channels = WIDTH
    for stage, count in enumerate(STAGES, 1):
        inner = WIDTH * 2 ** (stage - 1)
        for block in range(count):
            name = f"layer{stage}.{block}"
            weights[f"{name}.conv1.weight"] = convolution(inner, channels, 1, 1)
            weights[f"{name}.conv2.weight"] = convolution(inner, inner, 3, 3)
            weights[f"{name}.conv3.weight"] = convolution(4 * inner, inner, 1, 1)
            for index, wide in [(1, inner), (2, inner), (3, 4 * inner)]:
                normalisation(f"{name}.bn{index}", wide)
            if block == 0:
                weights[f"{name}.downsample.0.weight"] = convolution(4 * inner, channels, 1, 1)
                normalisation(f"{name}.downsample.1", 4 * inner)
            channels = 4 * inner
    weights["fc.weight"] = convolution(classes, channels)
    weights["fc.bias"] = torch.rand(classes, generator=generator)
    return weights


def written(folder, name):
    """The file, and what is in it."""
    kind, _, dataset = name.partition("_")
    weights = {"vgg16": vgg16_file, "resnet50": resnet50_file}[kind]({"voc": 20, "coco": 80}[dataset])
    path = folder / torchray.FILES[name]
    torch.save(weights, path)
    return path, weights


def picture(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


# --- Caffe's networks, written out without modules --------------------------------------------------------------------


def vgg16_answer(weights, bgr):
    """Of a picture whose last maps are 7 × 7: the classifier is linear, as in the file."""
    x, index = bgr, 0
    for wider in CHANNELS:
        if wider == "M":
            x, index = functional.max_pool2d(x, 2, 2, ceil_mode=True), index + 1
        else:
            x = functional.conv2d(x, weights[f"features.{index}.weight"], weights[f"features.{index}.bias"], padding=1)
            x, index = x.relu(), index + 2
    x = x.flatten(1)
    for name in ("classifier.0", "classifier.3"):
        x = functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"]).relu()
    return functional.linear(x, weights["classifier.6.weight"], weights["classifier.6.bias"])


def resnet50_answer(weights, bgr):
    def normalised(x, name):
        mean, variance, scale, shift = (
            weights[f"{name}.{part}"].reshape(-1, 1, 1)
            for part in ("0.running_mean", "0.running_var", "1.weight", "1.bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    x = functional.conv2d(bgr, weights["conv1.weight"], weights["conv1.bias"], stride=2, padding=3)
    x = functional.max_pool2d(normalised(x, "bn1").relu(), 3, 2, ceil_mode=True)
    for stage, count in enumerate(STAGES, 1):
        for block in range(count):
            name, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            y = functional.conv2d(x, weights[f"{name}.conv1.weight"], stride=stride)
            y = functional.conv2d(normalised(y, f"{name}.bn1").relu(), weights[f"{name}.conv2.weight"], padding=1)
            y = functional.conv2d(normalised(y, f"{name}.bn2").relu(), weights[f"{name}.conv3.weight"])
            if block == 0:
                x = functional.conv2d(x, weights[f"{name}.downsample.0.weight"], stride=stride)
                x = normalised(x, f"{name}.downsample.1")
            x = (normalised(y, f"{name}.bn3") + x).relu()
    return functional.linear(x.mean((2, 3)), weights["fc.weight"], weights["fc.bias"])


ANSWERS = {"vgg16": vgg16_answer, "resnet50": resnet50_answer}


@pytest.mark.parametrize("name", NAMES)
def test_the_network_answers_as_caffes_does_to_bgr(tmp_path, name):
    path, weights = written(tmp_path, name)
    classifier = models.load(f"torchray:{name}", checkpoint=path)
    assert classifier.name == f"torchray:{name}"
    assert not classifier.net.training
    values = picture(224, 224)
    inputs = classifier.prepare(values)[None]
    bgr = torch.from_numpy(np.array(values)[..., ::-1].copy()).permute(2, 0, 1).double()
    bgr -= torch.tensor([103.939, 116.779, 123.68], dtype=torch.float64).reshape(3, 1, 1)
    doubled = {key: value.double() for key, value in weights.items()}
    expected = ANSWERS[name.partition("_")[0]](doubled, bgr[None])
    with torch.no_grad():
        answer = classifier.net(inputs)
    assert answer.shape == (1, len(classifier.labels), 1, 1)
    difference = (answer.flatten(1) - expected).abs().max() / expected.abs().max()
    assert difference < 1e-4
    assert expected.std() > 0.01 * expected.abs().max()  # there was something to get wrong


@pytest.mark.parametrize(("size", "space"), [((448, 224), (7, 14)), ((230, 500), (16, 7)), ((100, 75), (7, 10))])
def test_pictures_of_any_size_are_shown_whole(tmp_path, size, space):
    path, _ = written(tmp_path, "vgg16_voc")
    classifier = models.load("torchray:vgg16_voc", checkpoint=path)
    inputs = classifier.prepare(picture(*size))
    assert min(inputs.shape[1:]) == 224
    assert classifier.preparation.window(size) == (0, 0, *size)
    with torch.no_grad():
        maps = classifier.net.features(inputs[None])
        answer = classifier.net(inputs[None])
    assert maps.shape[2:] == space
    assert answer.shape == (1, 20, space[0] - 6, space[1] - 6)
    # Each place of the answer is what the classifier says of the 7 × 7 maps from there on.
    windows = functional.unfold(maps, 7).mT[0].unflatten(1, (-1, 7, 7))
    with torch.no_grad():
        expected = classifier.net.classifier(windows)
    # Sums of up to 25,088 products in float32, in another order.
    torch.testing.assert_close(answer[0].flatten(1).T, expected.flatten(1), atol=1e-3, rtol=1e-3)
    score = Logit(3)(answer, torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(score, classifier.logits(inputs[None])[:, 3].detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(score, expected[:, 3].mean().reshape(1), atol=1e-3, rtol=1e-3)


def test_preparation_subtracts_the_mean_and_looks_at_the_nearest_pixels():
    values = picture(448, 672)  # twice as large: each pixel is the mean of four
    halves = torch.from_numpy(np.array(values)).permute(2, 0, 1).double().unflatten(1, (336, 2)).unflatten(3, (224, 2))
    expected = halves.mean((2, 4)) - torch.tensor([123.68, 116.779, 103.939], dtype=torch.float64).reshape(3, 1, 1)
    inputs = torchray.PREPARATION(values)
    torch.testing.assert_close(inputs.double(), expected, atol=1e-3, rtol=0)
    seen = (halves.mean((2, 4)) / 255).float()
    torch.testing.assert_close(torchray.PREPARATION.restore(inputs), seen, atol=1e-5, rtol=0)


def test_labels_are_those_of_the_data_sets():
    assert (len(labels.VOC), len(set(labels.VOC))) == (20, 20)
    assert (len(labels.COCO), len(set(labels.COCO))) == (80, 80)
    assert labels.find(labels.VOC, "person") == 14
    assert labels.find(labels.COCO, "toothbrush") == 79
    assert list(labels.VOC) == sorted(labels.VOC)


@pytest.mark.parametrize(
    ("name", "contrast"), [("vgg16_voc", "classifier.4"), ("resnet50_voc", "avgpool")], ids=["vgg16", "resnet50"]
)
def test_every_default_layer_is_one_where_its_method_looks(tmp_path, name, contrast):
    path, _ = written(tmp_path, name)
    classifier = models.load(f"torchray:{name}", checkpoint=path)
    inputs = classifier.prepare(picture(96, 128))[None]
    for method in ("GradCAM", "LinearApproximation", "ExcitationBackprop", "ContrastiveExcitationBackprop"):
        placed = classifier.placed(getattr(methods, method)())
        assert placed.layer
        found = placed(classifier.net, inputs, 3)
        assert found.map.shape == (1, 1, *inputs.shape[2:])
        assert torch.isfinite(found.map).all()
        if method == "ContrastiveExcitationBackprop":
            named = methods.ContrastiveExcitationBackprop(layer=placed.layer, contrast_layer=contrast)
            torch.testing.assert_close(found.map, named(classifier.net, inputs, 3).map)
            assert found.map.max() > 0
    assert isinstance(classifier.net.get_submodule(classifier.layers["ExtremalChannels"]), nn.Module)


# --- where the file comes from, and files that are no good ------------------------------------------------------------


def test_the_published_file_is_downloaded_once(tmp_path, monkeypatch):
    (tmp_path / "server").mkdir()
    path, weights = written(tmp_path / "server", "resnet50_voc")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torchray, "ADDRESS", path.parent.as_uri() + "/")
    net = models.load("torchray:resnet50_voc").net
    assert torch.equal(net.conv1.weight, weights["conv1.weight"].flip(1))
    path.unlink()
    again = models.load("torchray:resnet50_voc").net
    assert torch.equal(net.fc.weight, again.fc.weight)
    with pytest.raises(ValueError, match=r"cannot download file:.*vgg16_voc-b050e8c3.pth.tar .*give it as checkpoint"):
        models.load("torchray:vgg16_voc")


def without(name):
    def change(weights):
        del weights[name]

    return change


def converted(weights):
    weights["classifier.0.weight"] = weights["classifier.0.weight"].reshape(HIDDEN, -1, 7, 7)


def added(weights):
    weights["classifier.9.weight"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("name", "other", "change", "message"),
    [
        ("vgg16_coco", "vgg16_voc", None, r"does not fit VGG16: classifier.6.bias is \(20,\), not \(80,\)"),
        ("resnet50_voc", "vgg16_voc", None, "does not fit ResNet50: bn1.bias is missing"),
        ("vgg16_voc", "vgg16_voc", without("classifier.0.weight"), "classifier.0.weight is missing"),
        ("vgg16_voc", "vgg16_voc", without("features.0.weight"), "features.0.weight is missing"),
        ("vgg16_voc", "vgg16_voc", added, "classifier.9.weight is not in the model"),
        ("vgg16_voc", "vgg16_voc", converted, "is not in TorchRay's layout: classifier.0.weight is"),
    ],
)
def test_files_that_are_no_good(tmp_path, name, other, change, message):
    path, weights = written(tmp_path, other)
    if change is not None:
        change(weights)
        torch.save(weights, path)
    with pytest.raises(ValueError, match=message):
        models.load(f"torchray:{name}", checkpoint=path)


def test_an_unknown_name_lists_the_near_ones():
    with pytest.raises(
        ValueError, match="TorchRay has no model 'vgg16'; did you mean .*vgg16_voc.*; expected vgg16_voc"
    ):
        models.load("torchray:vgg16")


def test_neither_torchray_nor_torchvision_is_imported(tmp_path, monkeypatch):
    for absent in ("torchray", "torchvision"):
        monkeypatch.setitem(sys.modules, absent, None)
    path, _ = written(tmp_path, "vgg16_voc")
    assert len(models.load("torchray:vgg16_voc", checkpoint=path).labels) == 20
