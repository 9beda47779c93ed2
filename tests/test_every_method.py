"""What every exported method promises, whatever it does inside; a new method is tested by being exported."""

import copy
import pickle
import threading
from dataclasses import replace

import pytest
import torch
from networks import PATHS, Network
from traces import assert_unchanged, state

from sfumato import (
    Blur,
    CanvasMask,
    ExtremalPerturbation,
    GridMask,
    LevelSet,
    Logit,
    Probability,
    SmoothMask,
    load,
    methods,
)
from sfumato.settings import as_json, from_json

SETTINGS = {
    "ExtremalPerturbation": {
        "areas": (0.1, 0.4),
        "steps": 4,
        "perturbation": Blur(3, 3),
        "mask": SmoothMask(step=3, sigma=6),
    },
    "ExtremalOrder": {"areas": (0.1, 0.4), "steps": 4, "mask": LevelSet(3, 3)},
    "MeaningfulPerturbation": {"steps": 4, "mask": GridMask(scale=3, sigma=2)},
    **dict.fromkeys(("IGOS", "IGOSPlus"), PATHS),
    "RISE": {"samples": 24, "cells": 4},
    "Sobol": {"designs": 4, "cells": 3},
    "HSIC": {"samples": 24, "cells": 4},
    "Captum": {"name": "Saliency"},
    "ExtremalChannels": {"layer": "features.1", "counts": (1, 3), "steps": 4},
    "GradCAM": {"layer": "features.1"},
    "LayerCAM": {"layer": "features.1"},
    "ScoreCAM": {"layer": "features.1"},
    "LinearApproximation": {"layer": "features.1"},
    "ExcitationBackprop": {"layer": "features.1"},
    "ContrastiveExcitationBackprop": {"layer": "features.1"},
}
EVERY = {name: getattr(methods, name)(**SETTINGS.get(name, {})) for name in methods.__all__}
EVERY["at a layer"] = replace(EVERY["ExtremalPerturbation"], layer="more", perturbation=None, mask=SmoothMask(6, 12))
EVERY["penalised"] = ExtremalPerturbation.torchray((0.1, 0.4), steps=4, mask=CanvasMask(step=3, sigma=6))


@pytest.fixture(params=EVERY)
def method(request):
    if request.param == "Captum":
        pytest.importorskip("captum", reason="captum is not installed")
    return EVERY[request.param]


def pictures(count=2):
    return torch.randn(count, 3, 16, 13, generator=torch.Generator().manual_seed(0))


def test_the_result_has_a_map_for_every_query(method):
    model = Network().eval()
    result = method(model, pictures(), [1, 4])
    assert result.map.shape == (2, 1, 16, 13)
    assert result.map.dtype == torch.float32
    assert torch.isfinite(result.map).all()
    assert (result.map.flatten(1).std(dim=1) > 0).all()
    assert not result.map.requires_grad
    assert from_json(result.about["method"]) == method
    assert result.about["versions"]["torch"] == torch.__version__
    outputs = model(pictures())[[0, 1], [1, 4]]
    probabilities = model(pictures()).softmax(1)[[0, 1], [1, 4]]
    explained = probabilities if "Probability" in str(result.about["score"]) else outputs
    torch.testing.assert_close(result.whole, explained)


@pytest.mark.parametrize(("training", "wanting_gradients"), [(True, False), (True, True), (False, False)])
def test_nothing_changes(method, training, wanting_gradients):
    model, inputs = Network().train(training), pictures().requires_grad_(wanting_gradients)
    model.drop.train(not training)  # modules in several modes
    before = state(model, inputs)
    result = method(model, inputs, 1)
    assert not any(tensor.requires_grad for tensor in result.tensors().values())
    assert_unchanged(before, state(model, inputs))
    assert model.hooked == model.calls > 0


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("after", [0, 1, 2, "all but the last"])
def test_nothing_changes_where_the_model_fails(method, error, after):
    calls = Network()
    method(calls, pictures(), 1)
    last = after == "all but the last"
    after = calls.calls - 1 if last else min(after, calls.calls - 1)
    model, inputs = Network(error, after), pictures()
    before = state(model, inputs)
    with pytest.raises(type(error)):
        method(model, inputs, 1)
    if last or isinstance(error, KeyboardInterrupt):  # the first calls are tried another way where they raise an error
        assert model.calls == after + 1
    assert_unchanged(before, state(model, inputs))


def test_bad_targets_and_inputs_are_refused_and_change_nothing(method):
    model, inputs = Network(), pictures()
    before = state(model, inputs)
    for target in (7, -1, [0, 1, 2], "cat", None, lambda outputs: outputs):
        with pytest.raises(ValueError, match="target|score function"):
            method(model, inputs, target)
    for bad in (inputs[0, 0], inputs.to(torch.uint8), inputs * torch.nan, inputs[:0]):
        with pytest.raises(ValueError, match="inputs"):
            method(model, bad, 1)
    assert_unchanged(before, state(model, inputs))


def test_a_query_does_not_depend_on_its_batch(method):
    model, inputs = Network(), pictures(4)
    together = method(model, inputs, [0, 1, 4, 2])
    for row, target in enumerate([0, 1, 4, 2]):
        alone = method(model, inputs[row : row + 1], target)
        torch.testing.assert_close(alone.map[0], together.map[row], atol=1e-4, rtol=1e-4)
    order = [2, 0, 3, 1]
    turned = method(model, inputs[order], torch.tensor([4, 0, 2, 1]))
    torch.testing.assert_close(turned.map, together.map[order], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradient_modes(method, mode):
    expected = method(Network(), pictures(), 1)
    model, inputs = Network(), pictures()
    with mode():
        before = state(model, inputs)
        result = method(model, inputs, 1)
        made_inside = method(model, inputs + 0, 1)
        assert_unchanged(before, state(model, inputs))
    for found in (result, made_inside):
        torch.testing.assert_close(found.tensors(), expected.tensors())


def test_autocast_and_half_precision(method):
    model, inputs = Network(), pictures()
    with torch.autocast("cpu", torch.bfloat16):
        assert method(model, inputs, 1).map.dtype == torch.float32
    half = method(copy.deepcopy(model).to(torch.bfloat16), inputs.to(torch.bfloat16), 1)
    assert half.map.dtype == torch.float32
    assert torch.isfinite(half.map).all()


def test_scores_are_taken_as_they_are(method):
    model, inputs = Network(), pictures()
    named = method(model, inputs, Logit([1, 4]))
    function = method(model, inputs, lambda outputs: outputs[:, 1] if len(outputs) != 2 else outputs[[0, 1], [1, 1]])
    assert named.about["score"]["target"] == [1, 4]
    torch.testing.assert_close(function.map[0], named.map[0], atol=1e-4, rtol=1e-4)
    assert "Probability" in str(method(model, inputs, Probability(1)).about["score"])


def test_settings_are_values(method):
    assert hash(method) == hash(copy.copy(method))
    assert pickle.loads(pickle.dumps(method)) == method  # noqa: S301
    assert from_json(as_json(method)) == method
    with pytest.raises(AttributeError):
        method.memory = 1.0


def test_the_same_call_gives_the_same_result_whatever_the_caller_drew(method):
    torch.manual_seed(1)
    one = method(Network(), pictures(), 1).map
    torch.manual_seed(2)
    assert torch.equal(method(Network(), pictures(), 1).map, one)


def test_results_are_kept_in_files(method, tmp_path):
    result = method(Network(), pictures(), 1)
    result.save(tmp_path / "result.safetensors")
    again = load(tmp_path / "result.safetensors")
    assert torch.equal(again.map, result.map)
    assert from_json(again.about["method"]) == method


def test_little_memory_gives_the_same(method):
    if not hasattr(method, "memory"):
        pytest.skip("has no chunks")
    expected = method(Network(), pictures(3), [0, 1, 4])
    little = replace(method, memory=1e-9)(Network(), pictures(3), [0, 1, 4])
    torch.testing.assert_close(little.map, expected.map, atol=1e-4, rtol=1e-4)


def test_two_threads_with_different_methods_do_not_meet(method):
    """Each on a model of its own, the other with rules that change how gradients flow."""
    other = methods.GuidedBackprop()
    work = [(method, Network(), pictures(), 1), (other, Network(), pictures(), 4)]
    expected = [each(model, inputs, target).map for each, model, inputs, target in work]
    found = [[], []]
    together = threading.Barrier(2)

    def run(place):
        each, model, inputs, target = work[place]
        together.wait()
        found[place] = [each(model, inputs, target).map for _ in range(3)]

    threads = [threading.Thread(target=run, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place in range(2):
        assert len(found[place]) == 3
        for each in found[place]:
            torch.testing.assert_close(each, expected[place])


def test_eight_threads_share_one_model_in_training_mode(method):
    """Each gets what it would get alone, and the model comes out as it went in, whoever leaves last."""
    model, inputs = Network(), pictures()
    targets = [place % 5 for place in range(8)]
    expected = [method(Network(), inputs, target) for target in targets]
    before = state(model, inputs)
    results = in_threads([lambda target=target: method(model, inputs, target) for target in targets])
    assert_unchanged(before, state(model, inputs))
    for result, alone in zip(results, expected, strict=True):
        torch.testing.assert_close(result.map, alone.map, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(result.whole, alone.whole)


def test_a_thread_that_fails_leaves_the_model_to_the_others(method):
    model, inputs = Network(), pictures()
    before = state(model, inputs)
    alone = method(model, inputs, 1)

    def fails():
        with pytest.raises(ValueError, match="out of range"):
            method(model, inputs, 7)

    work = [fails, lambda: method(model, inputs, 1)] * 4
    results = in_threads(work)
    assert_unchanged(before, state(model, inputs))
    for result in results[1::2]:
        torch.testing.assert_close(result.map, alone.map, atol=1e-4, rtol=1e-3)


def in_threads(work):
    """What functions return that begin together, each in a thread of its own."""
    together, results = threading.Barrier(len(work)), [None] * len(work)

    def run(place):
        together.wait()
        results[place] = work[place]()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
