"""Masks within the network: the part above a layer equals the whole, and known channels, heads and places are found."""

import json
import pickle
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

import sfumato
from sfumato import ExtremalChannels, ExtremalPerturbation, Fade, Output, smallest
from sfumato.channel_mask import Channels, largest
from sfumato.configuration import as_json, from_json
from sfumato.search import Search
from sfumato.subject import Subject
from sfumato.upper import above


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


CASES = [
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
        upper = above(subject, layer, side, by_channel=True)
        query = torch.tensor([2, 0, 0, 1, 2])
        computed = []
        for name, module in net.named_modules():
            forward = module.forward
            module.forward = lambda *a, name=name, forward=forward, **k: computed.append(name) or forward(*a, **k)
        with torch.no_grad():
            outputs = upper.outputs(upper.inputs[query], query)
            again = upper.outputs(upper.inputs[query], query)
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
        upper = above(subject, layer, side, by_channel=True)
        shape = (len(x), upper.inputs.shape[1], *[1] * (upper.inputs.ndim - 2))
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
        score = upper.phi(upper.inputs * mask, subject.query)
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
