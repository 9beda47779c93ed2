"""Detectors and segmentations by name, from torchvision and transformers: small ones, with random weights."""

import importlib
import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision_operators import torchvision_nms  # noqa: F401  # a fixture
from typer.testing import CliRunner

import sfumato
from sfumato import cli, models
from sfumato.layers.default import traced
from sfumato.models import Detector, Preparation
from sfumato.models.questions import detected

BENCH = Path(__file__).parents[1] / "bench"

PICTURE = Image.effect_noise((90, 70), 80).convert("RGB")


CALM = {"rpn.head.bbox_pred.weight": 1e-3, "predictor.bbox_pred.weight": 1e-4, "predictor.cls_score.weight": 1e-3}


@pytest.fixture
def checkpoint(tmp_path):
    """A function that writes the weights of a network of torchvision, and returns the file."""
    vision = pytest.importorskip("torchvision").models

    def write(name, **settings):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = vision.get_model(name, weights=None, weights_backbone=None, **settings)
            for part, weight in net.named_parameters():
                if weight.ndim > 1:
                    nn.init.kaiming_normal_(weight)  # with torchvision's own, a new detector hardly looks at its input
                # With random ones, Faster R-CNN moves boxes far out of the picture, and is sure of everything.
                weight.data *= next((factor for end, factor in CALM.items() if part.endswith(end)), 1)
        torch.save(net.state_dict(), tmp_path / "mine.pth")
        return tmp_path / "mine.pth"

    return write


@pytest.mark.usefixtures("torchvision_nms")
@pytest.mark.parametrize(
    ("name", "classes", "width"),
    [("ssdlite320_mobilenet_v3_large", 4, 320), ("fasterrcnn_mobilenet_v3_large_320_fpn", 3, 411)],
)
def test_a_detector_of_torchvision_with_other_classes(checkpoint, name, classes, width):
    """They have several outputs for a class: for each anchor, and for each side of a box."""
    names = ["cat", "dog", "cow"][: classes - 1]  # the background needs no name
    detector = models.load(f"torchvision:{name}", checkpoint(name, num_classes=classes), names)
    assert isinstance(detector, Detector)
    assert detector.labels == ("background", *names)
    assert detector.preparation.shape == (3, 320, 320)
    inputs = detector.inputs_of(PICTURE)
    assert inputs.shape == (1, 3, 320, width)
    found = detector.found(inputs)[0]
    assert found, "the threshold is low"
    score = detector.surest(inputs, found[0].target)
    assert score.box == (found[0].box,)
    assert [one.sureness for one in found] == sorted((one.sureness for one in found), reverse=True)
    outputs = detector.net(inputs)
    assert score(outputs, torch.tensor([0])).item() >= found[0].sureness - 1e-6  # it finds itself


@pytest.mark.slow
@pytest.mark.usefixtures("torchvision_nms")
@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
@pytest.mark.parametrize("size", [(90, 70), (333, 500), (1200, 200)])
def test_torchvisions_boxes_are_those_of_the_picture_itself(checkpoint, name, size):
    """The library is given the whole picture, in [0, 1], which the network resizes: to a fixed size, or a long one."""
    picture = Image.effect_noise(size, 80).convert("RGB")
    detector = models.load(f"torchvision:{name}", checkpoint(name, num_classes=3))
    with torch.no_grad():
        (expected,) = detector.net([torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255])
    scores, boxes = expected["scores"], expected["boxes"]
    found = detected(detector, size, detector.inputs_of(picture))
    assert found
    for one, box in found[:5]:
        nearest = int((boxes - torch.tensor(box)).abs().amax(1).argmin())
        assert box == pytest.approx(boxes[nearest].tolist(), rel=1e-3, abs=0.05)
        assert one.sureness == pytest.approx(float(scores[nearest]), rel=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("torchvision_nms")
def test_a_box_of_torchvisions_detector_is_explained(checkpoint):
    name = "ssdlite320_mobilenet_v3_large"
    detector = models.load(f"torchvision:{name}", checkpoint(name, num_classes=3))
    result = sfumato.Gradient()(detector, PICTURE)
    assert result.map.abs().sum() > 0
    assert result.about["score"]["class"].endswith("Box")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a level of the pyramid may have no part in this box
        result = sfumato.GradCAM()(detector, PICTURE)
    assert result.layer.startswith("backbone.")


@pytest.mark.slow
@pytest.mark.usefixtures("torchvision_nms")
def test_a_box_of_faster_r_cnn_is_explained(checkpoint):
    """Its second head looks at maps through RoI align, and drops boxes that overlap. What is left has a slope."""
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    detector = models.load(f"torchvision:{name}", checkpoint(name, num_classes=3))
    few = {"training": 20, "testing": 20}
    detector.net.rpn._pre_nms_top_n, detector.net.rpn._post_nms_top_n = few, few
    inputs = detector.inputs_of(PICTURE)
    asked = detector.surest(inputs)
    result = sfumato.Gradient()(detector, inputs, asked)
    assert float(result.whole) == pytest.approx(detector.found(inputs)[0][0].sureness, abs=1e-5)
    assert result.map.isfinite().all()
    assert result.map.abs().sum() > 0
    result = sfumato.GradCAM()(detector, inputs, asked)
    assert result.layer.startswith("backbone.")
    assert result.map.isfinite().all()


def without_operators(*_):
    raise RuntimeError("Couldn't load custom C++ ops. This can happen if your PyTorch and torchvision versions differ.")


def not_for_the_cpu(*_):
    raise NotImplementedError("Could not run 'torchvision::nms' with arguments from the 'CPU' backend. This may be …")


@pytest.mark.parametrize("missing", [without_operators, not_for_the_cpu])
def test_a_detector_of_a_torchvision_without_operators_is_refused_when_it_is_loaded(checkpoint, monkeypatch, missing):
    name = "ssdlite320_mobilenet_v3_large"
    file = checkpoint(name, num_classes=3)
    monkeypatch.setattr("torchvision.ops.nms", missing)
    with pytest.raises(
        ImportError, match=r"needs a torchvision that was built for the installed torch .*; install both"
    ):
        models.load(f"torchvision:{name}", file)


@pytest.mark.slow
def test_a_segmentation_of_torchvision(checkpoint):
    name = "lraspp_mobilenet_v3_large"
    segmentation = models.load(f"torchvision:{name}", checkpoint(name, num_classes=3), ["ground", "road", "sky"])
    maps = segmentation.net(segmentation.inputs_of(PICTURE))
    assert maps.shape[:2] == (1, 3)
    assert maps.ndim == 4


class TwoHeads(nn.Module):
    """A detector with one map, from which one head makes boxes and another one their scores, which may be saturated."""

    def __init__(self, sure=0.0):
        super().__init__()
        self.sure = sure
        self.body = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.boxes = nn.Conv2d(4, 4, 1)
        self.scores = nn.Conv2d(4, 1, 1)

    def forward(self, inputs):
        maps = self.body(inputs)
        boxes, scores = self.boxes(maps), self.scores(maps)
        boxes = torch.cat([boxes[:, :2] - 4, boxes[:, 2:] + 4], 1)
        return [
            {"boxes": box.flatten(1).T, "scores": (score.flatten() + self.sure).sigmoid()}
            for box, score in zip(boxes, scores, strict=True)
        ]


def test_the_layer_of_a_detector_that_is_sure_of_everything():
    assert traced(TwoHeads(sure=200.0).eval(), torch.zeros(1, 3, 16, 16))[1] == "body"


def test_the_layer_of_a_detector_is_one_that_decides_box_and_score():
    net = TwoHeads().eval()
    assert traced(net, torch.zeros(1, 3, 16, 16))[1] == "body"
    result = sfumato.GradCAM()(net, torch.randn(1, 3, 16, 16), sfumato.Box((0, 0, 6, 6), 0))
    assert result.layer == "body"


@pytest.fixture
def detr(tmp_path, monkeypatch):
    """The folder of a DETR of three classes, as small as the one of the page of compatibility."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(BENCH)
    families = importlib.import_module("families")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.DetrConfig(
            **families.DETR,
            backbone_config=transformers.ResNetConfig(**families.BACKBONE),
            id2label={0: "cat", 1: "dog", 2: "cow"},
        )
        transformers.DetrForObjectDetection(config).save_pretrained(tmp_path)
    transformers.DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 100}).save_pretrained(tmp_path)
    return tmp_path


def test_detr_from_a_folder(detr):
    detector = models.load(f"hf:{detr}")
    assert isinstance(detector, Detector)
    assert (detector.labels, detector.link) == (("cat", "dog", "cow"), "softmax")
    inputs = detector.inputs_of(PICTURE)
    height, width = inputs.shape[2:]
    found = detector.found(inputs)[0]
    assert len(found) == 5
    with torch.no_grad():
        raw = detector.net(inputs)
    one = raw["logits"].softmax(2)[0, :, :3].amax(1)
    assert found[0].sureness == pytest.approx(float(one.max()), rel=1e-5)
    corners = sfumato.scores.detections.corners(raw["pred_boxes"][0]) * torch.tensor([width, height, width, height])
    assert float((corners - torch.tensor(found[0].box)).abs().amax(1).min()) < 1e-3  # one of them, in pixels
    result = sfumato.RISE(samples=8, cells=2)(detector, PICTURE)
    assert result.map.shape == (1, 1, height, width)


def test_detr_with_a_checkpoint_of_other_classes(detr, tmp_path):
    """Its logits have one more, for no object."""
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(detr)
    config.num_labels = 7
    torch.save(transformers.DetrForObjectDetection(config).state_dict(), tmp_path / "seven.pth")
    detector = models.load(f"hf:{detr}", checkpoint=tmp_path / "seven.pth")
    assert len(detector.labels) == 7
    assert detector.net(detector.inputs_of(PICTURE))["logits"].shape[2] == 8


@pytest.mark.parametrize("size", [(90, 70), (50, 200), (301, 77)])
def test_detr_is_as_sure_of_boxes_as_its_library_says(detr, size):
    """In the same order, with the same scores and boxes in pixels of the picture."""
    transformers = pytest.importorskip("transformers")
    picture = Image.effect_noise(size, 80).convert("RGB")
    detector = models.load(f"hf:{detr}")
    processor = transformers.DetrImageProcessor.from_pretrained(detr)
    inputs = processor(images=picture, return_tensors="pt")
    with torch.no_grad():
        outputs = detector.net.model(**inputs)
    expected = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[size[::-1]])[0]
    places = expected["scores"].argsort(descending=True).tolist()
    found = detected(detector, size, detector.inputs_of(picture))
    assert len(found) == len(places)
    for (one, box), place in zip(found, places, strict=True):
        assert one.sureness == pytest.approx(float(expected["scores"][place]), rel=1e-4)
        assert box == pytest.approx(expected["boxes"][place].tolist(), rel=1e-3, abs=1e-2)
        assert one.target == int(expected["labels"][place])


def test_a_box_of_a_detector_without_a_class_for_nothing_may_be_of_several():
    """As many pairs of a box and a class as there are boxes, by their own probabilities, as of RT-DETR in its library."""
    logits = torch.tensor([[[2.0, 1.5], [-3.0, -2.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.25, 0.25, 0.5, 0.5]]])

    class Fixed(nn.Module):
        def forward(self, inputs):
            return {"logits": logits.expand(len(inputs), -1, -1), "pred_boxes": boxes.expand(len(inputs), -1, -1)}

    for link, expected in (("sigmoid", [(0, 2.0), (1, 1.5)]), ("softmax", None)):
        detector = Detector("fixed", Fixed(), Preparation(size=20, resize=20), ("cat", "dog"), link=link)
        found = detector.found(torch.zeros(1, 3, 20, 20))[0]
        if expected:
            assert [(one.target, round(torch.logit(torch.tensor(one.sureness)).item(), 3)) for one in found] == expected
            assert [one.box for one in found] == [(5.0, 5.0, 15.0, 15.0)] * 2
            assert detector.surest(torch.zeros(1, 3, 20, 20), "dog").box == ((5.0, 5.0, 15.0, 15.0),)
        else:
            assert sorted({one.box for one in found}) == [
                (0.0, 0.0, 10.0, 10.0),
                (5.0, 5.0, 15.0, 15.0),
            ]  # one class each


def test_a_detector_whose_pictures_are_padded_is_refused(detr):
    transformers = pytest.importorskip("transformers")
    size = {"shortest_edge": 64, "longest_edge": 80}
    transformers.DetrImageProcessor(size=size, pad_size={"height": 99, "width": 99}).save_pretrained(detr)
    with pytest.raises(
        ValueError, match=r"has its pictures padded to .*99.*; save its image processor with pad_size=None"
    ):
        models.load(f"hf:{detr}")


def test_detr_on_the_page(detr, monkeypatch):
    """From the command that serves it, over HTTP, to an answer about a box in pixels of the picture."""
    pytest.importorskip("uvicorn", reason="the page is served by uvicorn")
    pytest.importorskip("httpx2", reason="the test client of starlette needs httpx2")
    from starlette.testclient import TestClient
    from test_web import HOST, encoded, handed_in, heard, opened

    apps = []
    server = SimpleNamespace(run=lambda **_: None)
    monkeypatch.setattr("sfumato.web.slow_clients.server", lambda app: apps.append(app) or server)
    run = CliRunner().invoke(cli.app, ["serve", "--port", "0", "--model", f"hf:{detr}"])
    assert run.exit_code == 0, run.output
    with TestClient(apps[0], base_url=f"http://{HOST}") as client:
        tab = opened(client)
        picture = handed_in(client, tab, encoded(PICTURE)).json()
        assert picture["size"] == [90, 70]
        (first, *_) = picture["top"]
        assert first["label"] in ("cat", "dog", "cow")
        assert -1 <= min(first["box"]) < max(first["box"]) <= 91
        asked = {"picture": picture["picture"], "settings": {"steps": 1, "areas": [0.2]}, "target": first["index"]}
        job = client.post("/api/jobs", content=json.dumps(asked | {"score": "box"}), headers=tab).json()["job"]
        done = heard(client, tab, job)[-1]
        assert done["type"] == "done", done
        where = ",".join(f"{side:.0f}" for side in first["box"])
        assert done["title"].startswith(f"{first['label']} ({first['index']}) in the box {where}")
        assert done["section"].count('data-role="asked"') == 1
        content = client.get(f"/api/jobs/{job}/export/safetensors", headers=tab).content
    (detr / "result.safetensors").write_bytes(content)
    result = sfumato.load(detr / "result.safetensors")
    detector = models.load(f"hf:{detr}")
    score = detector.surest(detector.inputs_of(PICTURE), first["index"])
    outputs = detector.net(detector.inputs_of(PICTURE))
    assert float(result.whole) == pytest.approx(score(outputs, torch.tensor([0])).item(), rel=1e-4)


def test_a_detector_whose_scores_are_no_numbers_names_no_box():
    class Broken(nn.Module):
        def forward(self, inputs):
            boxes = torch.tensor([[1.0, 1, 9, 9], [2, 2, 20, 20]])
            return [
                {"boxes": boxes, "labels": torch.tensor([1, 2]), "scores": torch.tensor([0.9, torch.nan])}
                for _ in inputs
            ]

    detector = Detector("broken", Broken(), Preparation(size=32, resize=None), ("none", "cat", "dog"))
    with pytest.raises(ValueError, match="1 of the detector's 2 scores are NaN, so that no box comes first"):
        detector.surest(torch.rand(1, 3, 32, 32))
