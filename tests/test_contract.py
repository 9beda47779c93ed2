"""What extremal perturbations accept, and what they promise beyond `test_every_method`."""

import copy
import gc
import math
from dataclasses import replace
from typing import get_type_hints

import pytest
import torch
from networks import Network, network
from torch import nn
from traces import assert_unchanged, state

from sfumato import (
    RISE,
    Blur,
    CanvasMask,
    Contrastive,
    ExtremalPerturbation,
    Jitter,
    Logit,
    MeaningfulPerturbation,
    Noise,
    Output,
    SmoothMask,
    invert,
    smallest,
)
from sfumato.methods.method import Method
from sfumato.model.effects import saved_bytes
from sfumato.search.loop import Progress
from sfumato.search.search import Search

PROJECTED = ExtremalPerturbation(
    areas=(0.1, 0.4), steps=4, perturbation=Blur(3, 3), mask=SmoothMask(step=3, sigma=6), smooth=0.1
)
PENALISED = ExtremalPerturbation.torchray((0.1, 0.4), steps=4, mask=CanvasMask(step=3, sigma=6))
METHODS = {"projected": PROJECTED, "penalised": PENALISED}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def pictures(*shape, seed=0):
    return torch.randn(*(shape or (2, 3, 16, 13)), generator=torch.Generator().manual_seed(seed))


@every_method
def test_nothing_changes_where_progress_raises(method):
    def stop(step):
        if step.index == 2:
            raise KeyboardInterrupt

    model, inputs = Network(), pictures()
    before = state(model, inputs)
    with pytest.raises(KeyboardInterrupt):
        method(model, inputs, 1, progress=stop)
    assert_unchanged(before, state(model, inputs))


def test_the_caller_s_random_state_plays_no_part_in_noise_and_jitter():
    method = ExtremalPerturbation((0.3,), steps=4, perturbation=Noise(), mask=PROJECTED.mask, jitter=Jitter(2))
    model, inputs = network(), pictures()
    torch.manual_seed(1)
    one = method(model, inputs, 1)
    torch.manual_seed(2)
    assert torch.equal(one.masks, method(model, inputs, 1).masks)


def test_a_training_model_is_seen_as_in_evaluation():
    model = nn.Sequential(network()[:4], nn.Dropout(0.9), nn.Linear(16, 5)).eval()
    expected = PROJECTED(model, pictures(), 1)
    model.train()
    assert torch.equal(PROJECTED(model, pictures(), 1).masks, expected.masks)
    assert model.training


def test_progress_sees_every_step():
    seen = []
    PROJECTED(network(), pictures(), 1, progress=seen.append)
    assert [(step.index, step.steps) for step in seen] == [(index, 4) for index in range(4)]
    assert all(step.values.shape == step.areas.shape == (4,) for step in seen)


def test_one_callback_takes_the_steps_of_all_methods():
    """What a progress bar reads is the same for searches, rounds of RISE and inversions: `AnyStep`, typed once."""
    steps = {}

    def bar(name):
        def show(step):
            read = (step.index, step.steps, float(step.values.mean()), float(step.areas.mean()))
            steps.setdefault(name, []).append(read)

        return show

    model, inputs = network(), pictures()
    PROJECTED(model, inputs, 1, bar("projected"))
    PENALISED(model, inputs, 1, bar("penalised"))
    MeaningfulPerturbation(steps=4)(model, inputs, 1, bar("meaningful"))
    RISE(samples=400)(model, inputs, 1, bar("rise"))
    smallest(PROJECTED, model, inputs, 1, progress=bar("smallest"))
    invert(model, "", inputs, shape=inputs.shape[1:], mean=None, std=None, steps=4, progress=bar("inversion"))
    for name, read in steps.items():
        count = read[0][1]
        assert [index for index, *_ in read[:count]] == list(range(count)), name
        assert all(0 <= area <= 1 and math.isfinite(value) for *_, value, area in read), name
    assert len(steps) == 6
    hints = [
        get_type_hints(function)["progress"] for function in (Method.__call__, RISE.explain, invert, Search.ascend)
    ]
    assert set(hints) == {Progress | None}


@every_method
def test_autocast_holds_for_the_model_only(method):
    seen = set()
    model, inputs = network(), pictures()

    def watched(inputs):
        outputs = model(inputs)
        seen.add((inputs.dtype, outputs.dtype))
        return outputs

    expected = method(model, inputs, 1)
    with torch.autocast("cpu", torch.bfloat16):
        before = state(model, inputs)
        result = method(watched, inputs, 1)
        assert_unchanged(before, state(model, inputs))
    assert seen == {(torch.float32, torch.bfloat16)}
    for name in ("masks", "scores", "achieved", "whole"):
        assert getattr(result, name).dtype == torch.float32, name
    torch.testing.assert_close(result.whole, expected.whole, atol=0.05, rtol=0)
    if method is PROJECTED:
        torch.testing.assert_close(result.achieved, expected.achieved, atol=1e-3, rtol=0)
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
        method(watched, inputs, 1)
    assert seen == {(torch.float32, torch.float32)}


@every_method
def test_autocast_does_not_hold_for_the_map(method):
    method = replace(method, smooth=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert method(network(), pictures(), 1).map.dtype == torch.float32


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_precisions(method, dtype):
    seen = set()
    model = network()
    expected = method(model, pictures(), 1)
    model = copy.deepcopy(model).to(dtype)

    def watched(inputs):
        seen.add(inputs.dtype)
        return model(inputs)

    result = method(watched, pictures().to(dtype), 1)
    assert seen == {dtype}
    for name in ("masks", "map", "scores", "complements", "achieved", "whole", "blank"):
        assert getattr(result, name).dtype == torch.float32, name
    torch.testing.assert_close(result.whole, expected.whole, atol=0.05, rtol=0)
    if dtype == torch.float64:
        torch.testing.assert_close(result.masks, expected.masks, atol=1e-3, rtol=0)


@every_method
def test_memory_formats(method):
    model, inputs = network(), pictures()
    expected = method(model, inputs, 1)
    last = method(model.to(memory_format=torch.channels_last), inputs.to(memory_format=torch.channels_last), 1)
    torch.testing.assert_close(last.masks, expected.masks, atol=1e-4, rtol=0)
    wide = pictures(2, 3, 16, 26)
    wide[..., ::2] = inputs
    torch.testing.assert_close(method(model, wide[..., ::2], 1).masks, expected.masks, atol=1e-4, rtol=0)


class Viewing(nn.Module):
    """Takes for granted that what a convolution gives lies in memory as it is indexed."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 14 * 11, 5)
        self.last = []

    def forward(self, inputs):
        self.last.append(inputs.is_contiguous(memory_format=torch.channels_last))
        features = self.convolution(inputs)
        return self.head(features.view(-1, 4 * 14 * 11))


@every_method
def test_a_model_that_cannot_take_channels_last(method):
    viewing, inputs = Viewing(), pictures()
    reshaping = nn.Sequential(viewing.convolution, nn.Flatten(), viewing.head)
    torch.testing.assert_close(method(viewing, inputs, 1).masks, method(reshaping, inputs, 1).masks, atol=1e-4, rtol=0)
    assert sum(viewing.last) == 1, "the one that is tried, and fails"


@every_method
def test_a_model_that_can_take_channels_last_gets_it(method):
    layouts = []
    model = network()
    model.register_forward_pre_hook(
        lambda _, arguments: layouts.append(arguments[0].is_contiguous(memory_format=torch.channels_last))
    )
    method(model, pictures(), 1)
    assert all(layouts[layouts.index(True) :])
    assert sum(layouts) > len(layouts) / 2


@every_method
@pytest.mark.parametrize(
    "shape", [(2, 1, 40), (1, 3, 33), (1, 1, 12, 30), (3, 3, 25, 11), (1, 1, 9, 7, 8), (2, 2, 6, 9, 7)]
)
def test_shapes(method, shape):
    model, inputs = network(len(shape) - 2, shape[1]), pictures(*shape)
    result = method(model, inputs, 2)
    space = shape[2:]
    assert result.masks.shape == (shape[0], 2, 1, *space)
    assert result.map.shape == (shape[0], 1, *space)
    assert result.areas.tolist() == pytest.approx([0.1, 0.4])
    for values in (result.achieved, result.scores, result.complements):
        assert values.shape == (shape[0], 2)
    assert result.masks.min() >= 0
    assert result.masks.max() <= 1
    torch.testing.assert_close(result.achieved, result.masks.flatten(2).mean(2))
    torch.testing.assert_close(result.whole, model(inputs)[:, 2])
    for variant in range(2):
        masks = result.masks[:, variant]
        query = torch.arange(shape[0])
        for m, scores in ((masks, result.scores), (1 - masks, result.complements)):
            seen = method.perturbation(inputs)(m, query)
            torch.testing.assert_close(scores[:, variant], model(seen)[:, 2], atol=1e-5, rtol=1e-5)
    hidden = method.perturbation(inputs)(torch.zeros_like(masks), query)
    torch.testing.assert_close(result.blank, model(hidden)[:, 2], atol=1e-5, rtol=1e-5)


@every_method
def test_kinds_of_model(method):
    model, inputs = network(), pictures()
    expected = method(model, inputs, 1)

    class Called:
        def __call__(self, inputs):
            return model(inputs)

    def function(inputs):
        return model(inputs)

    for other in (nn.Sequential(model, nn.Identity()), function, Called(), model.forward):
        torch.testing.assert_close(method(other, inputs, 1).masks, expected.masks, atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_model():
    model, inputs = network(), pictures()
    expected = PROJECTED(model, inputs, 1)
    compiled = torch.compile(model, backend="eager")
    for parameter in compiled.parameters():
        assert parameter.requires_grad
    torch.testing.assert_close(PROJECTED(compiled, inputs, 1).masks, expected.masks, atol=1e-5, rtol=0)
    assert all(parameter.requires_grad for parameter in compiled.parameters())
    assert all("eval_frame" not in kind for kind in vars(model))


def assert_alike(result, expected):
    """Equal but for rounding: convolutions of channels that come last in memory are others than of those that come first."""
    torch.testing.assert_close(result.masks, expected.masks, atol=1e-4, rtol=0)
    torch.testing.assert_close(result.scores, expected.scores, atol=1e-4, rtol=0)


class ReturningDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, inputs):
        return {"logits": self.network(inputs), "size": inputs.shape[2:]}


@every_method
def test_functions_of_the_outputs(method):
    model, inputs = ReturningDict(), pictures()
    expected = method(model.network, inputs, 3)
    for score in (lambda outputs: outputs["logits"][:, 3], Output(lambda outputs: outputs["logits"][:, 3])):
        result = method(model, inputs, score)
        assert_alike(result, expected)
        torch.testing.assert_close(result.whole, model(inputs)["logits"][:, 3].detach())


@every_method
def test_targets_of_each_query(method):
    model, inputs = network(), pictures()
    expected = method(model, inputs, [0, 4])
    torch.testing.assert_close(expected.whole, model(inputs).detach()[range(2), [0, 4]])
    for targets in ((0, 4), torch.tensor([0, 4]), torch.tensor([0, 4], dtype=torch.int32), Logit([0, 4])):
        result = method(model, inputs, targets)
        assert_alike(result, expected)
    for row, target in enumerate([0, 4]):
        alone = method(model, inputs[row : row + 1], target)
        torch.testing.assert_close(alone.masks[0], expected.masks[row], atol=1e-4, rtol=0)
    assert not torch.allclose(method(model, inputs, 0).masks[1], expected.masks[1], atol=1e-3)


def test_contrast_with_another_class():
    model, inputs = network(), pictures()
    result = PROJECTED(model, inputs, Contrastive([0, 4], against=[1, 2]))
    outputs = model(inputs)
    expected = torch.stack([outputs[0, 0] - outputs[0, 1], outputs[1, 4] - outputs[1, 2]])
    torch.testing.assert_close(result.whole, expected)


@every_method
def test_a_fully_convolutional_model(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 5, 3))
    result = method(model, pictures(), 1)
    torch.testing.assert_close(result.whole, model(pictures())[:, 1].mean((1, 2)))


def test_modes_of_a_model_that_cannot_be_frozen():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(5)).train()
    with pytest.raises(ValueError, match="lazy modules"):
        PROJECTED(model, pictures(), 1)
    assert all(module.training for module in model.modules())


def test_what_was_measured_of_memory_is_freed():
    """A tensor that is saved by the node that made it must not keep itself alive."""
    assert saved_bytes(lambda: torch.ones(1003, requires_grad=True).exp()) == 4 * 1003  # exp saves what it gives
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is torch.Tensor and thing.shape == (1003,)]


@pytest.mark.parametrize(("inputs", "calls"), [(1, 4), (2, 5)])
def test_a_search_begins_soon(inputs, calls):
    """A look at one input measures the memory and scores it, another sees that its layout changes nothing, one at a pair that
    rows leave one another alone."""
    model, called, begun = network(), [], []
    model.register_forward_hook(lambda *_: called.append(1))
    replace(PROJECTED, steps=1)(model, pictures()[:inputs], 1, progress=lambda _: begun.append(len(called)))
    assert begun == [calls]


@pytest.mark.parametrize(
    ("score", "of"),
    [
        ("logit", lambda outputs: outputs),
        ("probability", lambda outputs: outputs.softmax(1)),
        ("log-odds", lambda outputs: outputs.softmax(1).logit()),
    ],
)
def test_what_a_class_index_means(score, of):
    model, inputs = network(), pictures()
    method = replace(PROJECTED, score=score)
    result = method(model, inputs, [1, 3])
    torch.testing.assert_close(result.whole, of(model(inputs).detach())[range(2), [1, 3]])
    torch.testing.assert_close(method(model, inputs, Logit(1)).whole, model(inputs).detach()[:, 1])  # itself


def test_each_mask_has_the_same_share_of_an_even_map():
    model, inputs = network(), pictures()
    method = replace(PROJECTED, smooth=0.0)
    plain, even = method(model, inputs, 1), replace(method, evenly=True)(model, inputs, 1)
    assert torch.equal(plain.masks, even.masks)
    torch.testing.assert_close(plain.map, plain.masks.mean(1))
    weights = 1 / even.achieved
    weights = (weights / weights.sum(1, keepdim=True))[:, :, None, None, None]
    torch.testing.assert_close(even.map, (weights * even.masks).sum(1))
    shares = (weights * even.masks).flatten(2).sum(2)
    torch.testing.assert_close(shares[:, 0], shares[:, 1])
    assert even.map.amax() <= 1


@pytest.mark.parametrize("preset", [ExtremalPerturbation.smooth_masks, ExtremalPerturbation.torchray])
def test_a_preset_takes_one_area_as_the_class_does(preset):
    assert preset(0.1).areas == ExtremalPerturbation(areas=0.1).areas == (0.1,)
    with pytest.raises(ValueError, match="areas must lie in"):
        preset(10)
