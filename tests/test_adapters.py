"""torchvision, timm and transformers as sources of models: pictures, classes and weights are as in the library itself.

Nothing is downloaded: settings come with the libraries, and networks are small ones with random weights.
"""

import importlib.util
import json
import os
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import nn
from torchvision import models as torchvision_models

import sfumato
from sfumato import models
from sfumato.models import Embedder, TransformPreparation, hf, prepared_by
from sfumato.models.class_names import read_class_names
from sfumato.models.questions import Spelling, question
from sfumato.models.timm import is_tower
from sfumato.settings import as_json
from sfumato.web.served import served

SHARED = Path(os.environ.get("SFUMATO_SHARED", Path(__file__).parents[1] / "../shared/data"))
SHAPES = [(300, 200), (120, 333), (97, 97), (30, 220), (23, 17)]


@cache
def picture(size):
    """Smooth and with noise, so that filters and places both matter."""
    generator = np.random.default_rng(size[0])
    coarse = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(size)
    noise = generator.integers(-20, 20, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


def assert_true_to(preparation, transform, slack=0.0):
    """For every shape of picture: the same input, and the window that the input shows; `restore` undoes the values."""
    for size in SHAPES:
        expected = transform(picture(size))
        inputs = preparation(picture(size))
        torch.testing.assert_close(inputs, expected, atol=1e-6, rtol=1e-6)
        again = preparation.normalised(preparation.restore(inputs))
        inside = preparation.normalisation.pictures(inputs, axes=2)
        inside = (inside >= 0) & (inside <= 1)
        torch.testing.assert_close(again[inside], inputs[inside], atol=1e-4, rtol=1e-4)
        assert_shows(preparation, size, slack)
    assert preparation.shape == tuple(preparation(picture((97, 97))).shape)


def assert_shows(preparation, size, slack):
    """The window is where the input's pixels are: on ramps, colours say which place a pixel shows, but for `slack` pixels."""
    left, top, right, bottom = preparation.window(size)
    down, across = np.mgrid[: size[1], : size[0]]
    ramps = np.stack([across * 255 / size[0], down * 255 / size[1], 0 * down + 255], -1).round().astype(np.uint8)
    red, green, blue = preparation.restore(preparation(Image.fromarray(ramps)))
    assert blue.max() == 1
    for values, start, stop, length in [
        (red[len(red) // 2], left, right, size[0]),
        (green[:, green.shape[1] // 2], top, bottom, size[1]),
    ]:
        pixel = (stop - start) / len(values)
        place = start + (torch.arange(len(values)) + 0.5) * pixel  # in pixels of the picture
        margin = 3 * max(1, pixel)  # near borders, filters are cut off
        inner = (place > max(start, 0) + margin) & (place < min(stop, length) - margin)
        found = values[inner] * length + 0.5
        tolerance = length / 255 + 0.25 * pixel + 0.02 + slack
        assert (found - place[inner]).abs().max() < tolerance if inner.any() else length < 8 * max(1, pixel)


# --- torchvision ------------------------------------------------------------------------------------------------------


@cache
def presets():
    """30 names of torchvision with all presets that differ, the small ones first."""
    names = torchvision_models.list_models(torchvision_models)
    transforms = {name: torchvision_models.get_model_weights(name).DEFAULT.transforms() for name in names}
    different = list({repr(transform): name for name, transform in transforms.items()}.values())
    return sorted(
        different + [name for name in names if name not in different],
        key=lambda name: transforms[name].crop_size[0] > 400,
    )[:30]


@pytest.mark.parametrize("index", range(30))
def test_torchvisions_pictures_are_torchvisions(index):
    transform = torchvision_models.get_model_weights(presets()[index]).DEFAULT.transforms()
    preparation = prepared_by(transform)
    assert preparation.mean == tuple(transform.mean)
    assert preparation.std == tuple(transform.std)
    assert_true_to(preparation, transform)


def test_torchvisions_sizes_are_truncated():
    """A picture of 300 × 203 becomes 378 × 256 (378.3 truncated), and the crop begins at 77, 16."""
    preparation = prepared_by(torchvision_models.ResNet50_Weights.IMAGENET1K_V1.transforms())
    left, top, right, bottom = preparation.window((300, 203))
    assert (left, right) == pytest.approx((77 * 300 / 378, 301 * 300 / 378))
    assert (top, bottom) == pytest.approx((16 * 203 / 256, 240 * 203 / 256))


# --- timm -------------------------------------------------------------------------------------------------------------


@cache
def configurations():
    """30 of timm's ways to prepare pictures: all that pad, ten that squeeze, others that cut; the smaller ones."""
    different = {}
    for name in timm.list_pretrained():
        config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict(), verbose=False)
        if max(config["input_size"]) <= 400:
            different.setdefault(json.dumps(config), config)
    kinds = {
        kind: [one for one in different.values() if one["crop_mode"] == kind] for kind in ("border", "squash", "center")
    }
    chosen = [*kinds["border"][:2], *kinds["squash"][:10], *kinds["center"]]
    oblong = [one for one in kinds["center"] if one["input_size"][1] != one["input_size"][2]]
    return (oblong[:1] + chosen)[:30]


@pytest.mark.parametrize("index", range(30))
def test_timms_pictures_are_timms(index):
    config = configurations()[index]
    transform = create_transform(**config, is_training=False)
    preparation = prepared_by(transform)
    assert preparation.mean == pytest.approx(config["mean"], abs=1e-6)
    assert preparation.shape == tuple(config["input_size"])
    assert_true_to(preparation, transform)
    if config["crop_mode"] == "border" and config["crop_pct"] == 1:
        assert preparation.window((300, 200)) == pytest.approx((0, -50, 300, 250), abs=1)
    if config["crop_mode"] == "squash" and config["crop_pct"] == 1:
        assert preparation.window((300, 200)) == (0, 0, 300, 200)


def test_the_configurations_of_timm_are_of_all_kinds():
    assert {config["crop_mode"] for config in configurations()} == {"border", "squash", "center"}
    assert len({json.dumps(config) for config in configurations()}) == 30


# --- transformers -----------------------------------------------------------------------------------------------------

PROCESSORS = [
    *((name, {}) for name in (
        "BeitImageProcessor", "BitImageProcessor", "CLIPImageProcessor", "ConvNextImageProcessor", "DeiTImageProcessor",
        "EfficientNetImageProcessor", "LevitImageProcessor", "MobileNetV1ImageProcessor", "MobileNetV2ImageProcessor",
        "MobileViTImageProcessor", "PerceiverImageProcessor", "PoolFormerImageProcessor", "PvtImageProcessor",
        "SegformerImageProcessor", "SiglipImageProcessor", "ViTImageProcessor", "BeitImageProcessorPil",
        "CLIPImageProcessorPil", "ConvNextImageProcessorPil", "MobileViTImageProcessorPil", "PoolFormerImageProcessorPil",
        "ViTImageProcessorPil",
    )),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 256}, "crop_pct": 0.95, "resample": 2}),
    ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 224}}),
    ("ViTImageProcessor", {"size": {"height": 64, "width": 96}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 256}, "do_normalize": False}),
    ("BitImageProcessor", {"size": {"shortest_edge": 100}, "crop_size": 80, "resample": 0}),
    ("MobileViTImageProcessor", {"size": {"shortest_edge": 288}, "crop_size": {"height": 256, "width": 256}}),
    ("PoolFormerImageProcessor", {"crop_pct": 0.95, "size": {"shortest_edge": 224}}),
]  # fmt: skip
"""Image processors of transformers, of both backends, with settings of well-known repositories."""


@pytest.mark.parametrize(("name", "settings"), PROCESSORS, ids=[name for name, _ in PROCESSORS])
def test_pictures_of_transformers_are_its_image_processors(tmp_path, name, settings):
    processor = getattr(transformers, name)(**settings)
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    again = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    if name.endswith("Pil"):
        again = processor  # from a folder, transformers makes the other backend where torchvision is installed
    preparation = hf.preparation("hf:some", again)
    slack = 0.5 if settings.get("resample") == 0 else 0  # the nearest pixel may lie half a pixel away
    assert_true_to(preparation, lambda one: processor(images=one, return_tensors="pt")["pixel_values"][0], slack)
    if "MobileViT" in name:
        assert preparation.order == (2, 1, 0)  # blue first, and not normalised
        assert (preparation.mean, preparation.std) == ((0, 0, 0), (1, 1, 1))


def test_thirty_image_processors_are_compared():
    assert len(PROCESSORS) == 30
    assert len({json.dumps(entry) for entry in PROCESSORS}) == 30


def test_a_resnet_of_transformers_resizes_and_cuts():
    """It squeezed the picture, as its settings have no key crop_size."""
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.875)
    assert hf.preparation("hf:some", processor).window((512, 256)) == (144, 16, 368, 240)


def test_what_makes_no_picture_is_refused():
    with pytest.raises(
        ValueError, match=r"image processor Siglip2ImageProcessor of 'hf:some' fails .*got \(256, 768\)"
    ):
        hf.preparation("hf:some", transformers.Siglip2ImageProcessor())
    with pytest.raises(ValueError, match="keep the colours of a picture"):
        prepared_by(lambda one: torch.from_numpy(np.array(one)).permute(2, 0, 1).float().cumsum(0))
    with pytest.raises(ValueError, match="must make one input .* got list"):
        prepared_by(lambda one: [one])


# --- any transform ----------------------------------------------------------------------------------------------------


def grey(one):
    return torch.from_numpy(np.array(one.convert("L").resize((20, 10))))[None] / 127.5 - 1


def cut(one):
    """The middle of the picture, whatever its size."""
    width, height = one.size
    part = one.crop(((width - 40) // 2, (height - 40) // 2, (width + 40) // 2, (height + 40) // 2))
    return torch.from_numpy(np.array(part)).permute(2, 0, 1) / 255


def test_a_transform_may_make_pictures_grey():
    preparation = prepared_by(grey)
    assert preparation.shape == (1, 10, 20)
    assert preparation.order == ()
    assert preparation.mean == preparation.std == (0.5,)
    assert preparation.window((60, 90)) == (0, 0, 60, 90)
    assert preparation.restore(preparation(picture((97, 97)))).shape == (3, 10, 20)
    assert preparation.normalised(torch.ones(2, 3, 4, 4)).shape == (2, 1, 4, 4)


def test_a_transform_that_cuts_without_resizing_shows_less_of_a_larger_picture():
    preparation = prepared_by(cut)
    assert not preparation.proportional
    assert preparation.window((100, 100)) == (30, 30, 70, 70)
    assert preparation.window((200, 100)) == (80, 30, 120, 70)


def test_preparations_are_values():
    one, other = (prepared_by(torchvision_models.ResNet50_Weights.DEFAULT.transforms()) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert as_json(one) == as_json(other)
    assert "resize_size=[232]" in as_json(one)["described"]
    assert prepared_by(cut) != prepared_by(grey)
    assert isinstance(one, TransformPreparation)


# --- checkpoints of one's own -----------------------------------------------------------------------------------------


def test_the_classes_and_their_names_are_read_from_the_checkpoint(tmp_path):
    weights = timm.create_model("test_resnet", num_classes=3).state_dict()
    torch.save({"model_state_dict": weights, "class_to_idx": {"b": 1, "a": 0, "c": 2}}, tmp_path / "mine.pth")
    classifier = models.load("timm:test_resnet", checkpoint=tmp_path / "mine.pth")
    assert classifier.labels == ("a", "b", "c")
    assert torch.equal(classifier.net.state_dict()["fc.weight"], weights["fc.weight"])
    (tmp_path / "classes.txt").write_text("eins\nzwei\ndrei\n")
    named = models.load("timm:test_resnet", checkpoint=tmp_path / "mine.pth", labels=tmp_path / "classes.txt")
    assert named.labels == ("eins", "zwei", "drei")
    with pytest.raises(ValueError, match="labels has 2 names, but the model has 3 classes"):
        models.load("timm:test_resnet", checkpoint=tmp_path / "mine.pth", labels=["one", "two"])


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", None])
def test_checkpoints_of_wrapped_models(tmp_path, prefix, key):
    weights = {prefix + name: value for name, value in nn.Linear(3, 2).state_dict().items()}
    torch.save(weights if key is None else {key: weights, "epoch": 3}, tmp_path / "mine.pth")
    net = nn.Linear(3, 2)
    models.checkpoint.load_weights_(net, tmp_path / "mine.pth")
    assert torch.equal(net.weight, weights[f"{prefix}weight"])


def test_a_network_with_such_a_name_of_its_own_keeps_it(tmp_path):
    net = nn.ModuleDict({"model": nn.Linear(3, 2)})
    torch.save({f"module.{name}": value for name, value in net.state_dict().items()}, tmp_path / "mine.pth")
    other = nn.ModuleDict({"model": nn.Linear(3, 2)})
    models.checkpoint.load_weights_(other, tmp_path / "mine.pth")
    assert torch.equal(net["model"].weight, other["model"].weight)
    torch.save(
        {**net.state_dict(), **{f"module.{name}": value for name, value in net.state_dict().items()}},
        tmp_path / "two.pth",
    )
    with pytest.raises(ValueError, match="module.model.bias is not in the model"):
        models.checkpoint.load_weights_(other, tmp_path / "two.pth")


def test_another_architecture_is_not_another_number_of_classes(tmp_path):
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), tmp_path / "mine.pth")
    with pytest.raises(ValueError, match="does not fit ResNet: .* is not in the model"):
        models.load("timm:test_resnet", checkpoint=tmp_path / "mine.pth")


@pytest.mark.parametrize("heads", [True, False])
def test_googlenet_with_and_without_the_heads_for_training(tmp_path, heads):
    net = torchvision_models.googlenet(num_classes=2, aux_logits=True, init_weights=False, transform_input=True).eval()
    weights = net.state_dict()
    if not heads:
        weights = {name: value for name, value in weights.items() if not name.startswith("aux")}
    torch.save(weights, tmp_path / "mine.pth")
    classifier = models.load("torchvision:googlenet", checkpoint=tmp_path / "mine.pth")
    inputs = classifier.prepare(picture((97, 97)))[None]
    with torch.no_grad():  # as torchvision's own, which normalise their input once more
        torch.testing.assert_close(classifier.net(inputs), net(inputs))


def test_a_checkpoint_with_other_classes_in_transformers(tmp_path):
    small_resnet(2).save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 64}).save_pretrained(tmp_path)
    torch.save(small_resnet(5).state_dict(), tmp_path / "mine.pth")
    classifier = models.load(f"hf:{tmp_path}", checkpoint=tmp_path / "mine.pth", labels=list("abcde"))
    assert classifier.labels == tuple("abcde")
    assert classifier.net(classifier.prepare(picture((97, 97)))[None]).shape == (1, 5)


def small_resnet(classes):
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=classes)
    return transformers.ResNetForImageClassification(config)


@pytest.mark.parametrize(
    ("file", "text", "names"),
    [
        ("names.txt", "1 dog\n2 cow\n0 cat, house cat\n", ("cat, house cat", "dog", "cow")),
        ("names.csv", "2,cow\n0,cat\n1,dog\n", ("cat", "dog", "cow")),
        ("names.txt", "{0: 'cat',\n 1: \"dog\",\n 2: 'cow'}", ("cat", "dog", "cow")),
        ("names.txt", "3 musketeers\n1 cat\n7 up\n", ("3 musketeers", "1 cat", "7 up")),
        ("names.json", '{"0": "2", "1": "0", "2": "1"}', ("2", "0", "1")),
        ("names.json", '{"0": 0, "10": 1, "2": 2}', ("0", "10", "2")),
    ],
)
def test_names_come_in_the_order_of_their_indices(tmp_path, file, text, names):
    """Also where lines begin with indices, and where digits are names, as those of a folder of digits."""
    (tmp_path / file).write_text(text)
    assert read_class_names(tmp_path / file, 3) == names


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ({"2": "c", "0": "a", "1": "b"}, ("a", "b", "c")),
        ({"0": "a", "2": "c", "5": "x"}, ("class 0", "class 1", "class 2")),
        ({"1": "a", "2": "b", "3": "c"}, ("class 0", "class 1", "class 2")),
    ],
)
def test_names_in_the_configuration_of_transformers_may_be_unsorted_or_of_other_indices(tmp_path, given, labels):
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], num_labels=3)
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 64}).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"id2label": given}))
    assert models.load(f"hf:{tmp_path}").labels == labels


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_transformers_that_are_stored_in_half_precision(tmp_path, dtype):
    net = small_resnet(2).eval().to(dtype)
    net.save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 64}).save_pretrained(tmp_path)
    classifier = models.load(f"hf:{tmp_path}")
    inputs = classifier.prepare(picture((97, 97)))[None]
    with torch.no_grad():
        torch.testing.assert_close(classifier.net(inputs), net.float()(pixel_values=inputs).logits)


SMALL = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
TAGS = {"id2label": {0: "sun", 1: "sea", 2: "sky"}}


@pytest.mark.parametrize(
    "settings",
    [
        TAGS | {"problem_type": "multi_label_classification"},
        TAGS | {"problem_type": "single_label_classification"},
        TAGS,
        {"num_labels": 1},
    ],
    ids=["several labels", "one label", "not said", "yes or no"],
)
def test_probabilities_are_those_of_the_librarys_own_pipeline(tmp_path, settings):
    torch.manual_seed(3)
    net = transformers.ResNetForImageClassification(transformers.ResNetConfig(**SMALL, **settings))
    torch.nn.init.normal_(net.classifier[1].weight)
    net.save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 64}).save_pretrained(tmp_path)
    shown, classifier = picture((97, 80)), models.load(f"hf:{tmp_path}")
    pipeline = transformers.pipeline("image-classification", model=str(tmp_path))
    wanted = {entry["label"]: entry["score"] for entry in pipeline(shown, top_k=None)}

    asks = question(None, classifier, torch.device("cpu"), Spelling("write", {}, "--box"))
    (asked,) = asks.ask(shown.size, classifier.prepare(shown), [])
    assert dict(zip(classifier.labels, asked.probabilities.tolist(), strict=True)) == pytest.approx(wanted, abs=1e-5)
    (answered,) = served([classifier])
    rows = answered._top(classifier.prepare(shown)[None], shown.size)
    assert {row["label"]: row["share"] for row in rows} == pytest.approx(wanted, abs=1e-5)
    for index, label in enumerate(classifier.labels):
        result = sfumato.RISE(samples=2, score="probability")(classifier, shown, index)
        assert result.whole.item() == pytest.approx(wanted[label], abs=1e-5)
    assert bool(classifier.multi_label) == (settings.get("problem_type") == "multi_label_classification")


def test_questions_about_several_labels_have_a_sigmoid_each(tmp_path):
    several = models.Classifier("tags", torch.nn.Identity(), models.Preparation(), ("sun", "sea"), multi_label=True)
    one = replace(several, multi_label=False)
    assert (several.probability_link(), one.probability_link(), several.probability_link("softmax")) == (
        "sigmoid", "auto", "softmax",
    )  # fmt: skip
    for method in (sfumato.RISE(), sfumato.GreedyOrder()):
        assert (several.placed(method).score, one.placed(method).score) == ("sigmoid", "probability")
    assert several.placed(sfumato.Gradient(score="log-odds")).score == "logit"  # the same number
    assert several.placed(sfumato.Gradient()).score == "logit"
    doubt = question("entropy", several, torch.device("cpu"), Spelling("write", {}, "--box"))
    (asked,) = doubt.ask((4, 4), torch.tensor([2.0, -1.0]), [])
    p = torch.tensor([2.0, -1.0]).double().sigmoid()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).sum()
    assert asked.score(torch.tensor([[2.0, -1.0]]), torch.tensor([0])).item() == pytest.approx(entropy.item(), rel=1e-5)


@pytest.mark.parametrize("names", [2, 5])
def test_another_count_of_names_than_the_weights_have_classes_is_said(tmp_path, names):
    small_resnet(3).save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 64}).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["id2label"] = {str(index): f"name {index}" for index in range(names)}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    says = rf"has the weights of 3 classes, and {names} names of classes, id2label in its config\.json; write one name there"
    with pytest.raises(ValueError, match=says):
        models.load(f"hf:{tmp_path}")


def test_other_weights_than_those_of_the_configuration_are_said(tmp_path):
    small_resnet(3).save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 64}).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"hidden_sizes": [4, 16]}))
    with pytest.raises(
        ValueError, match=r"weights that do not fit its config\.json: .* is \(.*\), not \(.*\); save both"
    ):
        models.load(f"hf:{tmp_path}")


def test_a_network_of_another_kind_is_named(tmp_path):
    config = transformers.ViTMAEConfig(
        image_size=16, patch_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=1, decoder_intermediate_size=8,
    )  # fmt: skip
    transformers.ViTMAEForPreTraining(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"is ViTMAEForPreTraining, and neither a classifier of pictures, nor a detector"
    ):
        models.load(f"hf:{tmp_path}")


def test_a_network_of_sounds_is_named(tmp_path):
    config = transformers.ASTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, max_length=32, num_mel_bins=16
    )
    transformers.ASTForAudioClassification(config).save_pretrained(tmp_path)
    says = r"is ASTForAudioClassification, .* method\(lambda inputs: net\(input_values=inputs\)"
    with pytest.raises(ValueError, match=says):
        models.load(f"hf:{tmp_path}")


def test_numbers_that_transformers_estimates_are_no_classes(tmp_path):
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4], depths=[1], num_labels=2, problem_type="regression"
    )
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 64}).save_pretrained(tmp_path)
    assert "Write --score regression" in " ".join(models.remarks(models.load(f"hf:{tmp_path}")))


def test_a_checkpoint_that_names_other_classes_than_it_has_names_none(tmp_path):
    net = torchvision_models.get_model("squeezenet1_1", num_classes=3)
    torch.save({"state_dict": net.state_dict(), "classes": ["cat", "dog"]}, tmp_path / "mine.pth")
    classifier = models.load("torchvision:squeezenet1_1", checkpoint=tmp_path / "mine.pth")
    assert classifier.labels == ("class 0", "class 1", "class 2")
    assert "outputs without names" in models.remarks(classifier)[0]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("names.json", '{"0": "cat", "2": "dog"}', "must hold names of classes"),
        ("names.json", "[", "cannot read the class names"),
        ("names.txt", "one\n\nthree\n", "must hold names of classes"),
        ("names.txt", None, "cannot read the class names"),
    ],
)
def test_files_of_names_that_are_no_good(tmp_path, file, text, message):
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_class_names(tmp_path / file, 3)


# --- no classifiers that are made up ----------------------------------------------------------------------------------


def test_a_backbone_of_transformers_is_refused(tmp_path):
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    transformers.BitImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"a Dinov2Model, has no weights for classifier.bias.*explain how similar"):
        models.load(f"hf:{tmp_path}")


def test_a_backbone_of_timm_is_refused_before_anything_is_downloaded():
    with pytest.raises(
        ValueError, match="a backbone without a classifier; explain how similar .* or give a checkpoint"
    ):
        models.load("timm:vit_small_patch14_dinov2")


def test_an_encoder_of_pictures_and_texts_is_refused():
    """timm counts the 512 numbers of its embedding as classes. Fine-tuned for classes it is a classifier."""
    with pytest.raises(ValueError, match="a backbone without a classifier; explain how similar"):
        models.load("timm:vit_base_patch16_clip_224.openai")
    towers = {name for name in timm.list_pretrained() if is_tower(timm.get_pretrained_cfg(name))}
    assert {"resnet50_clip.openai", "convnext_base.clip_laion2b", "vit_pe_core_base_patch16_224.fb"} <= towers
    for classifier in ("vit_base_patch16_clip_224.openai_ft_in1k", "resnet18.a1_in1k", "mvitv2_base_cls.fb_inw21k"):
        assert classifier in timm.list_pretrained()
        assert classifier not in towers


TOWER = "vit_pe_core_tiny_patch16_384"


def test_a_checkpoint_of_a_tower_is_no_classifier_and_gives_embeddings(tmp_path):
    net = timm.create_model(TOWER).eval()
    torch.save(net.state_dict(), tmp_path / "tower.pth")
    with pytest.raises(
        ValueError, match=r"is a tower, which gives 512 numbers of an embedding.*--score similarity --to"
    ):
        models.load(f"timm:{TOWER}", checkpoint=tmp_path / "tower.pth")
    loaded = models.load(f"timm:{TOWER}", checkpoint=tmp_path / "tower.pth", embeds=True)
    assert isinstance(loaded, Embedder)
    inputs = loaded.prepare(picture((97, 97)))[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded.net(inputs), net(inputs))
    with pytest.raises(ValueError, match="gives embeddings and has no classes"):
        loaded.logits(inputs)


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_a_checkpoint_without_the_classifier_is_said(tmp_path, name):
    net = timm.create_model("resnet18", num_classes=0)
    torch.save(net.state_dict(), tmp_path / "backbone.pth")
    with pytest.raises(ValueError, match=r"has no weights for 'fc', the last part of ResNet: .*--score similarity"):
        models.load(name, checkpoint=tmp_path / "backbone.pth")


@pytest.mark.parametrize("classes", [0, 7])
def test_what_lies_below_a_classifier_of_timm_is_an_embedding(tmp_path, classes):
    torch.save(timm.create_model("resnet18", num_classes=classes).state_dict(), tmp_path / "net.pth")
    loaded = models.load("timm:resnet18", checkpoint=tmp_path / "net.pth", embeds=True)
    with torch.no_grad():
        assert loaded.net(loaded.prepare(picture((97, 97)))[None]).shape == (1, 512)


def test_a_backbone_of_transformers_gives_embeddings(tmp_path):
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    net = transformers.Dinov2Model(config).eval()
    net.save_pretrained(tmp_path)
    transformers.BitImageProcessor(size={"shortest_edge": 28}, crop_size=28).save_pretrained(tmp_path)
    loaded = models.load(f"hf:{tmp_path}", embeds=True)
    inputs = loaded.prepare(picture((97, 97)))[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded.net(inputs), net(inputs).pooler_output)
    assert float(loaded.similarity(picture((97, 97)))(loaded.net(inputs), torch.tensor([0])).detach()) == pytest.approx(
        1
    )


def test_a_name_without_weights_in_timm_is_refused():
    without = sorted(set(timm.list_models()) - {name.partition(".")[0] for name in timm.list_pretrained()})
    with pytest.raises(ValueError, match="has no weights in timm; give a checkpoint"):
        models.load(f"timm:{without[0]}")


# --- suggestions ------------------------------------------------------------------------------------------------------


def test_a_name_that_two_libraries_have():
    with pytest.raises(ValueError, match=r"did you mean torchvision:resnet50 or timm:resnet50\?"):
        models.load("resnet50")


def test_a_torchvision_that_does_not_fit_torch_is_explained():
    with (
        pytest.raises(ImportError, match="needs a torchvision that was built for the installed torch .* install both"),
        models.checkpoint.requiring("vision", "torchvision:resnet50"),
    ):
        raise RuntimeError("operator torchvision::nms does not exist")


# --- real weights -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo():
    if not (SHARED / "zoo.py").is_file():
        pytest.skip(f"no models at {SHARED}; set SFUMATO_SHARED")
    spec = importlib.util.spec_from_file_location("zoo", SHARED / "zoo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "loader", "layer", "least"),
    [
        pytest.param("torchvision:resnet50", "resnet50", "layer4", 3, marks=pytest.mark.slow),
        ("timm:vit_tiny_patch16_224", "vit_tiny", "blocks.11.norm1", 3),
    ],
)
def test_real_weights_see_real_pictures(zoo, tmp_path, name, loader, layer, least):
    original = getattr(zoo, loader)()
    original = original[0] if loader == "vit_tiny" else original
    torch.save(original.state_dict(), tmp_path / "real.pth")
    classifier = models.load(name, checkpoint=tmp_path / "real.pth")
    assert classifier.default_layer(sfumato.GradCAM) == layer
    annotations = json.loads((SHARED / "imagenet-val-dev" / "annotations.json").read_text())["images"][:4]
    files = [SHARED / "imagenet-val-dev" / "images" / entry["file"] for entry in annotations]
    inputs = torch.stack([classifier.prepare(Image.open(file)) for file in files])
    with torch.no_grad():
        outputs = classifier.net(inputs)
        torch.testing.assert_close(outputs, original(inputs), atol=1e-3, rtol=1e-3)
    right = Counter(int(top) == entry["label"] for top, entry in zip(outputs.argmax(1), annotations, strict=True))
    assert right[True] >= least
