"""Masks within the network: the part above a layer equals the whole, and known channels, heads and places are found."""

import json
import pickle
import warnings
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import nn

import sfumato
from sfumato import ExtremalChannels, ExtremalPerturbation, Fade, Output, smallest
from sfumato.layers.above import above
from sfumato.masks.channels import Channels, largest
from sfumato.model.subject import Subject
from sfumato.settings import as_json, from_json


def pictures(*shape, seed=0):
    return torch.randn(*(shape or (3, 3, 12, 12)), generator=torch.Generator().manual_seed(seed))


class Chain(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
        )  # fmt: skip


class Block(nn.Module):
    """A shortcut whose sum is in place, and one activation module called twice."""

    def __init__(self, channels):
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        y = self.two(self.relu(self.one(x)))
        y += x
        return self.relu(y)


class Residual(nn.Module):
    """Shortcuts within and around blocks, one of them to the end."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.ModuleList(Block(6) for _ in range(3))
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = early = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(torch.cat([x.mean((2, 3)), early.amax((2, 3))], 1))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Patches of 3 × 3, a class token, an embedding of places that is added outside of modules."""

    def __init__(self, width=8, heads=2):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 3, 3)
        self.start = nn.Parameter(torch.randn(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, 17, width))
        self.blocks = nn.ModuleList(Attention(width, heads) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.start.expand(len(x), -1, -1), x], 1) + self.place
        for block in self.blocks:
            x = x + block(x)
        x = self.norm(x)
        return self.head(x[:, 0] + x[:, 1:].mean(1))


class Windows(nn.Module):
    """Rows of a query in windows, `(B · 4, …)`, a table that does not depend on the input, and a tuple returned."""

    def __init__(self):
        super().__init__()
        self.table = nn.Linear(1, 36)
        self.split = Split()
        self.mix = nn.Linear(36, 36)
        self.join = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        table = self.table(torch.ones(2, 1))
        (windows, size) = self.split(x)
        windows = self.mix(windows + table[0])
        x = windows.view(len(x), 4, 3, 6, 6).permute(0, 2, 1, 3, 4).reshape(len(x), 3, 2, 2, 6, 6)
        x = x.permute(0, 1, 2, 4, 3, 5).reshape(len(x), *size)
        return self.head(self.join(x).mean((2, 3)))


class Split(nn.Module):
    def forward(self, x):
        windows = x.unflatten(2, (2, 6)).unflatten(4, (2, 6)).permute(0, 2, 4, 1, 3, 5)
        return windows.reshape(len(x) * 4, 3, 36), tuple(x.shape[1:])


class Shared(nn.Module):
    """One layer called three times, of which the last call counts."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.again = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.first(x)
        for _ in range(3):
            x = self.again(x).relu()
        return self.head(x.mean((2, 3)))


class Viewing(nn.Module):
    """Takes no inputs that lie channels-last, which is found out by its failing."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6 * 12 * 12, 5)

    def forward(self, x):
        x = self.second(self.first(x).relu()).relu()
        return self.head(x.view(len(x), -1))


CASES = [
    (Viewing, "first", "output", ["first"]),
    (Viewing, "second", "output", ["first", "second"]),
    (Chain, "1", "output", ["0", "1"]),
    (Chain, "3", "output", ["0", "1", "2", "3"]),
    (Chain, "3", "input", ["0", "1", "2"]),
    (Chain, "6", "output", ["0", "3", "5", "6"]),
    (Residual, "stem", "output", ["stem"]),
    (Residual, "blocks.1", "output", ["stem", "blocks.0.one", "blocks.1.one"]),
    (Residual, "blocks.1.two", "output", ["stem", "blocks.0.one", "blocks.1.one", "blocks.1.two"]),
    (Residual, "blocks.2.relu", "output", ["stem", "blocks.2.two"]),
    (Transformer, "patches", "output", ["patches"]),
    (Transformer, "blocks.0", "output", ["patches", "blocks.0.qkv"]),
    (Transformer, "blocks.1.proj", "input", ["patches", "blocks.0.qkv", "blocks.0.proj", "blocks.1.qkv"]),
    (Transformer, "norm", "output", ["blocks.1.proj", "norm"]),
    (Windows, "join", "output", ["split", "mix", "join"]),
    (Shared, "again", "output", ["first", "again"]),
]


def made(kind):
    torch.manual_seed(0)
    return kind().eval()


@pytest.mark.parametrize(
    ("kind", "layer", "side", "not_run"), CASES, ids=[f"{c[0].__name__}-{c[1]}-{c[2]}" for c in CASES]
)
def test_the_part_above_a_layer_equals_the_whole(kind, layer, side, not_run):
    net, x = made(kind), pictures()
    reference = made(kind)
    with Subject.prepared(net, x, 1) as subject:
        subject_above = above(subject, layer, side, by_channel=True)
        query = torch.tensor([2, 0, 0, 1, 2])
        computed = []
        for name, module in net.named_modules():
            forward = module.forward
            module.forward = lambda *a, name=name, forward=forward, **k: computed.append(name) or forward(*a, **k)
        with torch.no_grad():
            outputs = subject_above.outputs(subject_above.inputs[query], query)
            again = subject_above.outputs(subject_above.inputs[query], query)
        torch.testing.assert_close(outputs, reference(x[query]), rtol=1e-5, atol=1e-6)
        assert torch.equal(outputs, again), "what was stored is as it was"
        assert not set(computed) & set(not_run), "nothing below the layer is computed"


@pytest.mark.parametrize(
    ("kind", "layer", "side", "not_run"), CASES, ids=[f"{c[0].__name__}-{c[1]}-{c[2]}" for c in CASES]
)
def test_what_a_mask_changes_is_what_the_whole_network_would_do(kind, layer, side, not_run):
    """The same mask by a hook on the whole network gives the same scores and gradients."""
    net, x = made(kind), pictures()
    calls = {"again": 3, "blocks.2.relu": 2}.get(layer, 1)
    with Subject.prepared(net, x, 1) as subject:
        subject_above = above(subject, layer, side, by_channel=True)
        shape = (len(x), subject_above.inputs.shape[1], *[1] * (subject_above.inputs.ndim - 2))
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
        score = subject_above.phi(subject_above.inputs * mask, subject.query)
    (found,) = torch.autograd.grad(score.sum(), mask)

    other = mask.detach().clone().requires_grad_()
    seen = []

    def masked(values):
        seen.append(1)
        own = other if values.ndim == mask.ndim == 4 else (other.mT if values.ndim == 3 else other[:, :, 0])
        return values * own if len(seen) == calls else values

    module = net.get_submodule(layer)
    if side == "output":
        handle = module.register_forward_hook(lambda _, arguments, output: masked(output))
    else:
        handle = module.register_forward_pre_hook(lambda _, arguments: (masked(arguments[0]),))
    expected = net(x)[:, 1]
    handle.remove()
    torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), other)[0], rtol=1e-4, atol=1e-6)


class Parts(nn.Module):
    """Eight channels that are copies of the input's, of which class 1 counts numbers 2, 5 and 6, with weights."""

    WEIGHTS: ClassVar = {2: 1.0, 5: 3.0, 6: 2.0}

    def __init__(self):
        super().__init__()
        self.channels = nn.Conv2d(1, 8, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 3, bias=False)
        with torch.no_grad():
            self.channels.weight.fill_(1.0)
            self.head.weight.fill_(0.0)
            for channel, weight in self.WEIGHTS.items():
                self.head.weight[1, channel] = weight

    def forward(self, x):
        return self.head(self.relu(self.channels(x)).mean((2, 3)))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("game", ["preserve", "delete", "dual"])
def test_the_channels_that_count_are_found(binary, game):
    method = ExtremalChannels(layer="relu", counts=(1, 2, 3), steps=40, game=game, binary=binary)
    result = method(Parts().eval(), pictures(2, 1, 12, 12).abs(), 1)
    assert result.masks.shape == (2, 3, 8, 1, 1)
    for variant, channels in enumerate(([5], [5, 6], [2, 5, 6])):
        expected = torch.zeros(8)
        expected[channels] = 1
        found = result.masks[:, variant, :, 0, 0]
        torch.testing.assert_close(found, expected.expand(2, 8), atol=0 if binary else 0.005, rtol=0)
    indices, weights = result.channels(4)
    assert indices[:, :3].tolist() == [[5, 6, 2]] * 2
    torch.testing.assert_close(weights, torch.tensor([1, 2 / 3, 1 / 3, 0]).expand(2, 4), atol=0.005, rtol=0)
    torch.testing.assert_close(result.achieved, torch.tensor([1 / 8, 2 / 8, 3 / 8]).expand(2, 3))
    torch.testing.assert_close(
        result.scores, result.whole[:, None] * torch.tensor([3 / 6, 5 / 6, 1.0]), atol=0.01, rtol=0
    )
    assert result.complements[:, 2].abs().max() < 0.01


def test_the_smallest_set_of_channels_and_the_curve():
    x = pictures(2, 1, 12, 12).abs()
    for keep, count in ((0.4, 1), (0.5, 1), (0.51, 2), (0.9, 3), (1.0, 3)):
        found = smallest(ExtremalChannels(layer="relu", steps=20), Parts().eval(), x, 1, keep=keep)
        assert found.count.tolist() == [count, count], keep
        assert found.curve_areas.tolist() == [1 / 8, 2 / 8, 5 / 8, 1]
        whole = found.attribution.whole
        torch.testing.assert_close(found.curve_scores, whole[:, None] * torch.tensor([3 / 6, 5 / 6, 1, 1]))
        torch.testing.assert_close(found.curve_scores[:, -1], whole)  # all channels are the whole
        assert found.attribution.masks.flatten(1).sum(1).tolist() == [count, count]
    sampled = smallest(ExtremalChannels(layer="relu", steps=20), Parts().eval(), x, 1, areas=(2, 8))
    assert sampled.count.tolist() == [3, 3]
    with pytest.raises(ValueError, match="counts are numbers of channels"):
        smallest(ExtremalChannels(layer="relu"), Parts().eval(), x, 1, areas=(0.1,))


@pytest.mark.parametrize("keep", [0.77, *(pytest.param(keep, marks=pytest.mark.slow) for keep in (0.3, 0.999))])
def test_the_smallest_set_among_many_channels(keep):
    """Of 1279 channels of falling weight, whose sums are known; the numbers are no round fractions."""
    count = 1279
    weights = torch.linspace(1, 0.1, count)

    class Falling(nn.Module):
        def __init__(self):
            super().__init__()
            self.channels = nn.Conv2d(1, count, 1, bias=False)
            nn.init.ones_(self.channels.weight)

        def forward(self, x):
            return (self.channels(x).mean((2, 3)) * weights).sum(1, keepdim=True)

    sums = weights.double().cumsum(0)
    found = smallest(ExtremalChannels(layer="channels", steps=40), Falling(), torch.ones(1, 1, 8, 8), 0, keep=keep)
    expected = int((sums < keep * sums[-1]).sum()) + 1
    assert abs(found.count.item() - expected) <= 2, "ties of neighbours aside"
    assert found.attribution.masks.sum().item() == found.count.item()
    assert found.attribution.scores.item() >= found.wanted.item()


@pytest.mark.parametrize("binary", [True, False])
def test_all_channels_keep_the_full_score(binary):
    net, x = made(Residual), pictures()
    result = ExtremalChannels(layer="blocks.1", counts=(3, 6), steps=6, binary=binary)(net, x, [1, 2, 3])
    torch.testing.assert_close(result.scores[:, 1], net(x)[range(3), [1, 2, 3]].detach())
    torch.testing.assert_close(result.scores[:, 1], result.whole)
    assert torch.equal(result.masks[:, 1], torch.ones(3, 6, 1, 1))


def test_heads_are_groups_of_what_the_projection_takes_in():
    """Class 1 is what the second of three heads carries."""
    torch.manual_seed(0)
    net = Transformer(width=9, heads=3).eval()
    with torch.no_grad():
        net.blocks[1].proj.weight[:, :3] = 0
        net.blocks[1].proj.weight[:, 6:] = 0
    method = ExtremalChannels(layer="blocks.1.proj", at="input", groups=3, counts=(1, 2), steps=20, game="dual")
    x, others = pictures(), torch.tensor([0, 2])
    score = Output(lambda outputs: outputs[:, 1] ** 2)
    for row in range(3):
        result = method(net, x[row : row + 1], score)
        assert result.masks.shape == (1, 2, 3, 1)
        # Heads without a way to the score change nothing, whatever the mask.
        kept = result.masks[0, 0, 1].item()
        assert torch.isclose(result.scores[0, 0], result.whole[0] if kept else result.blank[0], rtol=1e-4)
        assert (kept == 1) == bool(result.whole[0] > result.blank[0])
        assert len(set(result.masks[0, 0, others].flatten().tolist())) <= 2
    assert result.activation.shape == (1, 9, 4, 4), "the class token has no place"
    assert result.map.shape == (1, 1, 12, 12)


def test_the_overlay_is_the_weighted_sum_of_the_layer_s_maps():
    net, x = made(Residual), pictures()
    result = ExtremalChannels(layer="blocks.0", counts=(1, 4), steps=6)(net, x, 1)
    maps = net.blocks[0](net.stem(x)).detach()
    torch.testing.assert_close(result.activation, maps)
    for variant in (0, 1):
        expected = (result.masks[:, variant] * maps).sum(1, keepdim=True)
        torch.testing.assert_close(result.overlay(variant), expected)
    torch.testing.assert_close(result.map, (result.overlay(0) + result.overlay(1)) / 2)
    with pytest.raises(ValueError, match="no masks of channels"):
        ExtremalPerturbation((0.3,), steps=2, layer="stem", mask=sfumato.SmoothMask(3, 6))(net, x, 1).overlay()


def test_channels_of_one_weight_are_ordered_by_their_activations():
    net, x = made(Residual), pictures()
    result = ExtremalChannels(layer="blocks.0", counts=(6,), steps=2)(net, x, 1)
    indices, weights = result.channels(6)
    assert (weights == 1).all()
    sizes = result.activation.abs().mean((2, 3)).gather(1, indices)
    assert (sizes.diff(dim=1) <= 0).all()
    assert indices.sort(1).values.tolist() == [list(range(6))] * 3


def test_groups_are_masked_as_one():
    net, x = made(Residual), pictures()
    result = ExtremalChannels(layer="stem", counts=(1,), groups=3, steps=6)(net, x, 1)
    assert result.masks.shape == (3, 1, 3, 1, 1)
    spread = result.masks[:, 0].repeat_interleave(2, 1)
    expected = (result.activation * spread).sum(1, keepdim=True)
    torch.testing.assert_close(result.overlay(), expected)
    # Scored as the network would with these channels.
    handle = net.stem.register_forward_hook(lambda _, arguments, output: output * spread)
    torch.testing.assert_close(result.scores[:, 0], net(x)[:, 1].detach(), rtol=1e-5, atol=1e-6)
    handle.remove()


class Corner(nn.Module):
    """Class 1 is the brightness of one quarter, after a layer of half the input's size."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(2)

    def forward(self, x):
        x = self.pool(x)
        weights = torch.zeros_like(x)
        weights[:, :, :8, 8:] = 1
        score = (x * weights).mean((1, 2, 3))
        return torch.stack([-score, score], 1)


@pytest.mark.parametrize("game", ["preserve", "delete"])
def test_the_places_that_count_are_found_at_a_layer(game):
    method = ExtremalPerturbation(areas=(0.1,), steps=80, game=game, layer="pool", mask=sfumato.SmoothMask(4, 6))
    result = method(Corner().eval(), torch.ones(2, 3, 32, 32), 1)
    assert result.masks.shape == (2, 1, 1, 16, 16)
    assert result.map.shape == (2, 1, 32, 32)
    torch.testing.assert_close(result.achieved, torch.full((2, 1), 0.1), atol=1e-4, rtol=0)
    inside = result.masks[:, 0, 0, :8, 8:].sum((1, 2)) / result.masks.sum((1, 2, 3, 4))
    assert (inside > 0.65).all(), "a quarter of it would be chance; the rest is the mask's border"
    assert result.about["method"]["layer"] == "pool"


def test_lengths_of_a_mask_at_a_layer_are_those_of_the_input():
    for stride, step, sigma in ((1, 7, 16), (2, 3.5, 8), (7, 1, 16 / 7), (14, 0.5, 8 / 7), (32, 0.5, 8 / 7)):
        mask = sfumato.SmoothMask(step=7, sigma=16).divided((stride, stride))
        assert mask.step == pytest.approx((step, step))
        assert mask.sigma == pytest.approx((sigma, sigma))
    uneven = sfumato.SmoothMask(step=(4, 8), sigma=(8, 8)).divided((2, 4))
    assert (uneven.step, uneven.sigma) == ((2, 2), (4, 2))


def test_tokens_are_masked_where_they_lie_and_the_class_token_is_left():
    net, x = made(Transformer), pictures()
    result = ExtremalPerturbation(areas=(0.4,), steps=6, layer="blocks.0", mask=sfumato.SmoothMask(3, 6))(net, x, 1)
    assert result.masks.shape == (3, 1, 1, 4, 4)
    mask = torch.cat([torch.ones(3, 1), result.masks.flatten(1)], 1)[:, :, None]
    handle = net.blocks[0].register_forward_hook(lambda _, arguments, output: output * mask)
    torch.testing.assert_close(result.scores[:, 0], net(x)[:, 1].detach(), rtol=1e-5, atol=1e-5)
    handle.remove()


INSIDE = {
    "channels": ExtremalChannels(layer="blocks.1", counts=(2, 4), steps=8),
    "soft channels": ExtremalChannels(layer="blocks.1.two", counts=(2,), steps=8, binary=False, game="dual"),
    "places": ExtremalPerturbation(areas=(0.2, 0.4), steps=8, layer="blocks.1", mask=sfumato.SmoothMask(3, 6)),
}
each_inside = pytest.mark.parametrize("method", INSIDE.values(), ids=INSIDE)


@each_inside
def test_a_query_does_not_depend_on_its_batch(method):
    net, x, targets = made(Residual), pictures(), torch.tensor([1, 4, 2])
    together = method(net, x, targets)
    order = torch.tensor([2, 0, 1])
    turned = method(net, x[order], targets[order])
    cramped = replace(method, memory=1e-9)(net, x, targets)
    for name in ("masks", "scores", "complements", "whole", "blank", "map"):
        value = getattr(together, name)
        torch.testing.assert_close(getattr(turned, name), value[order], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(getattr(cramped, name), value, rtol=1e-4, atol=1e-4)
        for row in range(3):
            alone = getattr(method(net, x[row : row + 1], targets[row]), name)
            torch.testing.assert_close(alone, value[row : row + 1], rtol=1e-4, atol=1e-4)


@each_inside
def test_the_result_travels(method, tmp_path):
    result = method(made(Residual), pictures(), 1)
    result.save(tmp_path / "inside.safetensors")
    loaded = sfumato.load(tmp_path / "inside.safetensors")
    assert torch.equal(loaded.masks, result.masks)
    assert (loaded.activation is None) == (result.activation is None)
    assert from_json(json.loads(json.dumps(as_json(method)))) == method
    assert pickle.loads(pickle.dumps(method)) == method  # noqa: S301
    assert from_json(loaded.about["method"]) == method
    assert torch.equal(method(made(Residual), pictures(), 1).masks, result.masks), "the same seed, the same result"


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@each_inside
def test_in_any_grad_mode(method, mode):
    net = made(Residual)
    with mode():
        result = method(net, pictures(), 1)
    assert torch.equal(result.masks, method(made(Residual), pictures(), 1).masks)


def test_low_precision_and_autocast():
    method = INSIDE["channels"]
    result = method(made(Residual).bfloat16(), pictures().bfloat16(), 1)
    assert result.masks.dtype == result.map.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        method(made(Residual), pictures(), 1)


# Networks that cannot be cut at the layer.


class Functional(nn.Module):
    """All below the layer is computed by functions, with weights of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)))
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.relu(nn.functional.conv2d(x, self.weight)).mean((2, 3)))


class Peeking(nn.Module):
    """What a skipped module computes also decides, behind torch's back, what comes above."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = Remembering()
        self.layer = nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.layer(self.second(self.first(x)))
        return self.head(x.mean((2, 3)) + self.second.last.mean((2, 3)))


class Remembering(nn.Module):
    def forward(self, x):
        self.last = x
        return x


class Sequence(nn.Module):
    """The batch is the second axis of what the lower module puts out, and a shortcut carries it upwards."""

    def __init__(self):
        super().__init__()
        self.lower = nn.Conv2d(3, 4, 3)
        self.turn = Turn()
        self.layer = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.lower(x)
        turned = self.turn(x)
        return self.head(self.layer(x).mean((2, 3)) + turned.mean(0))


class Turn(nn.Module):
    def forward(self, x):
        return x.flatten(2).permute(2, 0, 1)


@pytest.mark.parametrize(("kind", "layer"), [(Peeking, "layer")])
def test_where_a_network_cannot_be_cut_it_runs_whole_and_that_is_said(kind, layer):
    torch.manual_seed(0)
    net, x = kind().eval(), pictures()
    method = ExtremalChannels(layer=layer, counts=(2, 4), steps=4)
    with pytest.warns(UserWarning, match="runs from its input each time, not from layer 'layer'"):
        result = method(net, x, 1)
    torch.testing.assert_close(result.scores[:, 1], net(x)[:, 1].detach())


def test_a_batch_axis_elsewhere_is_no_obstacle():
    torch.manual_seed(0)
    net, x = Sequence().eval(), pictures()
    result = ExtremalChannels(layer="layer", counts=(2, 4), steps=4)(net, x, 1)
    torch.testing.assert_close(result.scores[:, 1], net(x)[:, 1].detach())


def test_work_below_the_layer_that_must_be_done_again_is_said():
    net, x = Functional().eval(), pictures()
    with pytest.warns(UserWarning, match="1 convolutions or products outside of modules"):
        result = ExtremalChannels(layer="relu", counts=(2, 4), steps=4)(net, x, 1)
    torch.testing.assert_close(result.scores[:, 1], net(x)[:, 1].detach())


def test_what_could_be_cut_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        INSIDE["channels"](made(Residual), pictures(), 1)


# What is no good.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": 3}, "layer is the dotted name"),
        ({"at": "middle"}, "at must be one of 'output', 'input'; got 'middle'"),
        ({"counts": ()}, "counts must grow"),
        ({"counts": (5, 2)}, "counts must grow"),
        ({"counts": (0.1,)}, "counts are numbers of channels, whole and from 1 up; got 0.1"),
        ({"counts": (0,)}, "counts are numbers"),
        ({"groups": 0}, "groups must be a whole number"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"binary": "yes"}, "binary is True or False"),
        ({"game": "win"}, "game must be one of"),
        ({"perturbation": Fade}, "perturbation must be a configuration"),
        ({"ascent": sfumato.search.PenalisedAscent()}, "ascent must be one that holds areas"),
        ({"memory": 0}, "memory is in GiB"),
        ({"seed": 0.5}, "seed must be a whole number"),
    ],
)
def test_settings_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        ExtremalChannels(**{"layer": "stem", **arguments})


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (ExtremalChannels(layer="blocks.9"), "no layer 'blocks.9'. Did you mean 'blocks"),
        (
            ExtremalChannels(layer="stem", counts=(7,)),
            r"layer 'stem' has 6 channels or groups of them; got counts=\(7,\)",
        ),
        (ExtremalChannels(layer="stem", counts=(1,), groups=4), "6 channels do not fall into 4 groups"),
        (ExtremalChannels(layer="blocks", counts=(1,)), "did not call its layer 'blocks'"),
        (ExtremalPerturbation(layer="head"), r"puts out shape \(3, 5\) for inputs with 2 axes of space"),
        (ExtremalPerturbation(layer="stem", mask=sfumato.SmoothMask(40, 80)), "too small for a mask"),
    ],
)
def test_layers_that_cannot_be(method, message):
    net, x = made(Residual), pictures()
    with pytest.raises(ValueError, match=message):
        method(net, x, 1)
    with pytest.raises(ValueError, match="names a part of an nn.Module"):
        method(lambda inputs: net(inputs) + 1, x, 1)


def test_torchray_s_masks_lie_over_the_input_only():
    with pytest.raises(
        ValueError, match="a CanvasMask lies over the input only, as it has no for_shape and divided; got layer='stem'"
    ):
        ExtremalPerturbation.torchray(layer="stem")


def test_channels_of_the_input():
    """The input's own channels: class 1 is its green."""

    def green(x):
        return torch.stack([-x[:, 1].mean((1, 2)), x[:, 1].mean((1, 2))], 1)

    result = ExtremalChannels(layer="input", counts=(1,), steps=10)(green, torch.ones(1, 3, 8, 8), 1)
    assert result.masks.flatten().tolist() == [0, 1, 0]


def test_the_largest_are_as_many_as_they_add_up_to():
    weights = torch.tensor([[0.2, 0.9, 0.9, 0.0], [0.1, 0.1, 0.1, 0.1], [1.0, 1.0, 1.0, 1.0]])
    assert largest(weights).tolist() == [[0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    parameters = weights[:, None].requires_grad_()
    masks = Channels(4, 2, binary=True)(parameters)
    assert masks.shape == (3, 4, 1, 1)
    masks.sum().backward()
    assert torch.equal(parameters.grad, torch.ones(3, 1, 4)), "gradients pass as if the mask were soft"


@pytest.mark.parametrize("tolerance", [0.01, 0.12])
def test_no_tolerance_is_finer_than_one_channel(tolerance):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    x = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    method = ExtremalChannels(layer="1", steps=4)
    found = sfumato.smallest(method, net, x, sfumato.Probability(1), keep=0.99, tolerance=tolerance)
    wanted = sfumato.smallest(method, net, x, sfumato.Probability(1), keep=0.99)
    assert torch.equal(found.count, wanted.count)
