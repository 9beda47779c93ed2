"""What the caller's default dtype and device are, no method may notice: every tensor is made with both said."""

import ast
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import PATHS
from torch import nn

import sfumato
from sfumato import Blur, EvolutionAscent, GridMask, Jitter, LevelSet, Noise, SmoothMask, methods, metrics

SOURCES = sorted(Path(sfumato.__file__).parent.rglob("*.py"))

DTYPE_AND_DEVICE = {
    "arange", "as_tensor", "asarray", "empty", "eye", "fftfreq", "full", "linspace", "logspace", "ones", "rand", "randint",
    "randn", "randperm", "rfftfreq", "scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros",
}  # fmt: skip
FACTORIES = {name: {"dtype", "device"} for name in DTYPE_AND_DEVICE} | {"Generator": {"device"}}


def incomplete(source):
    """The lines of calls that make a tensor without its dtype and device."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if not ast.unparse(node.func.value).startswith("torch") or node.func.attr not in FACTORIES:
            continue
        said = {keyword.arg for keyword in node.keywords}
        if node.func.attr == "Generator" and node.args:
            said.add("device")
        if not said >= FACTORIES[node.func.attr]:
            yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(path.parts[path.parts.index("sfumato") :]))
def test_every_tensor_is_made_with_its_dtype_and_device(path):
    assert [f"{path.name}:{line}" for line in incomplete(path.read_text())] == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("torch.zeros(3)", [1]),
        ("x = 1\ntorch.arange(3, device=d)", [2]),
        ("torch.fft.fftfreq(3, dtype=t)", [1]),
        ("torch.full((3,), 1.0, dtype=t, device=d) + torch.ones(2, dtype=t)", [1]),
        ("torch.Generator().manual_seed(0)", [1]),
        ("torch.Generator('cpu'), torch.zeros_like(x), x.new_zeros(3), torch.from_numpy(y)", []),
    ],
)
def test_what_is_looked_for_is_seen(source, lines):
    assert list(incomplete(source)) == lines


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


DEFAULTS = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: default_device("meta"),
}


@pytest.fixture(params=DEFAULTS)
def defaults(request):
    return DEFAULTS[request.param]


SETTINGS = {
    "ExtremalOrder": {"areas": (0.1, 0.4), "steps": 4, "mask": LevelSet(3, 3)},
    "ExtremalPerturbation": {"areas": (0.1, 0.4), "steps": 4, "perturbation": Blur(3, 3), "mask": SmoothMask(3, 6)},
    "MeaningfulPerturbation": {"steps": 4, "mask": GridMask(scale=3, sigma=2)},
    **dict.fromkeys(("IGOS", "IGOSPlus"), PATHS),
    "RISE": {"samples": 24, "cells": 4},
    "Sobol": {"designs": 4, "cells": 3},
    "HSIC": {"samples": 24, "cells": 4},
    "ExtremalChannels": {"layer": "features.1", "counts": (1, 3), "steps": 4},
    "GradCAM": {"layer": "features.1"},
    "LayerCAM": {"layer": "features.1"},
    "ScoreCAM": {"layer": "features.1"},
    "LinearApproximation": {"layer": "features.1"},
    "ExcitationBackprop": {"layer": "features.1"},
    "ContrastiveExcitationBackprop": {"layer": "features.1"},
}
EVERY = {  # without what Captum makes, which is Captum's
    name: getattr(methods, name)(**SETTINGS.get(name, {})) for name in methods.__all__ if name != "Captum"
}


class Network(nn.Module):
    """Convolutions, statistics, a residual sum and an average, on the CPU whatever the default is."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator("cpu").manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.more = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)

    def forward(self, inputs):
        values = self.features(inputs)
        values = torch.relu(self.more(values)) + values
        return self.head(values.mean((2, 3)))


def pictures(count=2):
    return torch.randn(count, 3, 16, 13, generator=torch.Generator().manual_seed(0))


EXTREMAL = EVERY["ExtremalPerturbation"]
METHODS = EVERY | {
    "at a layer": replace(EXTREMAL, layer="more", perturbation=None, mask=SmoothMask()),
    "evenly": methods.ExtremalPerturbation(areas=(0.05, 0.2, 0.5), steps=3, mask=SmoothMask(step=3), evenly=True),
    "for the shape": methods.ExtremalPerturbation(areas=(0.2,), steps=3),
    "torchray": methods.ExtremalPerturbation.torchray(areas=(0.2,), steps=3),
    "evolution": replace(EXTREMAL, ascent=EvolutionAscent(pairs=2), perturbation=Noise()),
    "sharp": replace(EXTREMAL, mask=SmoothMask(step=3, temperature=100), jitter=Jitter(1)),
    "several": methods.MeaningfulPerturbation(steps=3, perturbation=(Blur(3, 2), Noise()), start="ones"),
    "sobol": methods.RISE(samples=16, cells=3, draw="sobol"),
}


def results(method, model, inputs):
    """All tensors of a result."""
    result = method(model, inputs, [1, 4])
    names = ("map", "masks", "areas", "achieved", "scores", "complements", "whole", "blank", "activation")
    return {name: getattr(result, name) for name in names if getattr(result, name) is not None}


def assert_alike(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype, name
        assert value.device == other[name].device, name
        torch.testing.assert_close(value, other[name], atol=1e-4, rtol=1e-4)  # of float32, after some steps


@pytest.mark.parametrize("name", METHODS)
def test_methods(name, defaults):
    model, inputs = Network(), pictures()
    expected = results(METHODS[name], model, inputs)
    with defaults():
        found = results(METHODS[name], model, inputs)
    assert_alike(found, expected)
    assert all(value.dtype == torch.float32 for value in expected.values())


@pytest.mark.parametrize("shape", [(40,), (4, 7, 6)])
@pytest.mark.parametrize("method", [EXTREMAL, methods.MeaningfulPerturbation(steps=2), methods.RISE(samples=8)])
def test_other_numbers_of_axes(shape, method, defaults):
    method = replace(method, mask=SmoothMask()) if method is EXTREMAL else method
    weights = torch.randn(5, 3, *shape, generator=torch.Generator().manual_seed(1))
    inputs = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))

    def model(seen):
        return (seen.flatten(1) @ weights.flatten(1).T).tanh()

    expected = results(method, model, inputs)
    with defaults():
        assert_alike(results(method, model, inputs), expected)


def test_what_is_around_the_methods(defaults):
    model, inputs = Network(), pictures(1)
    channels = EVERY["ExtremalChannels"]

    def all_of_them():
        least = sfumato.smallest(EXTREMAL, model, inputs, sfumato.Probability(1), keep=0.5, areas=(0.2, 0.6))
        count = sfumato.smallest(channels, model, inputs, sfumato.Probability(1), keep=0.5)
        layer = sfumato.activations(model, "features.0", inputs)
        inverse = sfumato.invert(model, "features.0", layer, shape=inputs.shape[1:], steps=3)
        return {
            "area": least.area, "curve": least.curve_scores, "count": count.count, "activations": layer,
            "pictures": inverse.pictures, "errors": inverse.errors,
        }  # fmt: skip

    expected = all_of_them()
    with defaults():
        assert_alike(all_of_them(), expected)


@pytest.mark.parametrize(
    "name", ["InsertionDeletion", "Transfer", "SufficientArea", "Monotonicity", "DeletionGame", "Artefacts"]
)
def test_metrics(name, defaults):
    model, inputs = Network(), pictures(1)
    case = metrics.Case(EXTREMAL(model, inputs, 1), model=model, inputs=inputs, target=1)
    protocol = getattr(metrics, name)()
    expected = protocol.measure(case)
    with defaults():
        found = protocol.measure(case)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-3, abs=1e-4, nan_ok=True), key


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_inputs_stay_what_they_are(dtype, defaults):
    """The model sees the inputs' own precision, whatever the default is."""
    model, inputs, seen = Network().to(dtype), pictures().to(dtype), set()
    model.register_forward_pre_hook(lambda _, given: seen.add(given[0].dtype))
    with defaults():
        result = EXTREMAL(model, inputs, 1)
    assert seen == {dtype}
    assert result.masks.dtype == torch.float32
