"""A module that a network calls several times: which of its calls a method means."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import sfumato
from sfumato import ExtremalChannels, ExtremalPerturbation, SmoothMask, activations, methods

SEARCH = ExtremalPerturbation(areas=(0.2,), steps=3, layer="block.1", mask=SmoothMask(step=3, sigma=6))


class Loop(nn.Module):
    """One block applied three times, and one rectifier for all."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Tanh())
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, 5)

    def forward(self, values):
        values = self.relu(self.stem(values))
        for _ in range(3):
            values = self.block(values)
        return self.head(self.relu(values).mean((2, 3)))


class Siamese(nn.Module):
    """Two halves of the channels through one backbone, whose parts are called once by each of its calls."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()
        )
        self.head = nn.Linear(8, 5)

    def forward(self, values):
        halves = [self.backbone(half).mean((2, 3)) for half in values.chunk(2, 1)]
        return self.head(torch.cat(halves, 1))


def pictures(channels=3):
    return torch.randn(2, channels, 12, 12, generator=torch.Generator().manual_seed(0))


def silenced(net, layer, call, inputs):
    """The outputs with nothing of the layer at one of its calls, by a hook on the whole network."""
    numbers = iter(range(99))
    hook = net.get_submodule(layer).register_forward_hook(
        lambda _module, _inputs, output: output * 0 if next(numbers) == call else output
    )
    outputs = net(inputs)
    hook.remove()
    return outputs


@pytest.mark.parametrize("call", [-3, -2, -1, 0, 1, 2])
def test_a_mask_hides_what_the_chosen_call_puts_out(call):
    net, x = Loop().eval(), pictures()
    result = replace(SEARCH, call=call)(net, x, 1)
    torch.testing.assert_close(result.whole, net(x)[:, 1])
    torch.testing.assert_close(result.blank, silenced(net, "block.1", call % 3, x)[:, 1])
    assert not torch.allclose(result.blank, result.whole)


@pytest.mark.parametrize("call", [0, 1])
def test_a_part_of_a_backbone_that_is_called_twice(call):
    net, x = Siamese().eval(), pictures(6)
    for layer in ("backbone", "backbone.1", "backbone.3"):
        result = replace(SEARCH, layer=layer, call=call)(net, x, 1)
        torch.testing.assert_close(result.blank, silenced(net, layer, call, x)[:, 1])
        channels = ExtremalChannels(layer=layer, call=call, counts=(2,), steps=2)(net, x, 1)
        torch.testing.assert_close(channels.blank, silenced(net, layer, call, x)[:, 1])


@pytest.mark.parametrize("call", [-3, -2, -1, 0, 1, 2])
def test_activations_of_a_call(call):
    net, x = Loop().eval(), pictures()
    values = torch.relu(net.stem(x))
    for _ in range(call % 3 + 1):
        before, values = values, net.block(values)
    torch.testing.assert_close(activations(net, "block", x, call=call), values)
    torch.testing.assert_close(activations(net, "block", x, at="input", call=call), before)


@pytest.mark.parametrize("call", [-3, -2, -1, 0, 1, 2])
@pytest.mark.parametrize("kind", ["Gradient", "GradCAM", "LinearApproximation"])
def test_gradients_at_a_call(kind, call):
    """Beside a network with three blocks in place of the loop, which share their weights."""
    net, x = Loop().eval(), pictures()
    with torch.no_grad():
        values = torch.relu(net.stem(x))
        for _ in range(call % 3 + 1):
            values = net.block(values)
    values.requires_grad_()
    end = values
    for _ in range(2 - call % 3):
        end = net.block(end)
    (slope,) = torch.autograd.grad(net.head(torch.relu(end).mean((2, 3)))[:, 1].sum(), values)
    wanted = {
        "Gradient": slope.abs().amax(1, keepdim=True),
        "GradCAM": (slope.mean((2, 3), keepdim=True) * values).sum(1, keepdim=True).clamp(min=0),
        "LinearApproximation": (slope * values).sum(1, keepdim=True),
    }[kind]
    result = getattr(methods, kind)(layer="block", call=call, resize=False)(net, x, 1)
    torch.testing.assert_close(result.map, wanted.detach(), atol=1e-7, rtol=1e-4)


def test_an_inversion_at_a_call():
    net, x = Loop().eval(), pictures()
    target = activations(net, "block", x, call=0)
    found = sfumato.invert(net, "block", target, shape=(3, 12, 12), mean=None, std=None, call=0, steps=3)
    again = activations(net, "block", found.inputs, call=0)
    errors = (again - target).flatten(1).square().sum(1) / target.flatten(1).square().sum(1)
    torch.testing.assert_close(found.errors, errors)


@pytest.mark.parametrize("call", [3, -4])
def test_a_call_that_there_is_not(call):
    net, x = Loop().eval(), pictures()
    message = rf"calls its layer 'block.1' 3 times; got call={call}, expected a number from -3 to 2"
    for work in (
        lambda: replace(SEARCH, call=call)(net, x, 1),
        lambda: methods.GradCAM(layer="block.1", call=call)(net, x, 1),
        lambda: activations(net, "block.1", x, call=call),
    ):
        with pytest.raises(ValueError, match=message):
            work()


@pytest.mark.parametrize("call", [0.5, True, "last"])
def test_what_is_no_number_of_a_call(call):
    with pytest.raises(ValueError, match="call is the number of a layer's call"):
        replace(SEARCH, call=call)
    with pytest.raises(ValueError, match="call is the number of a layer's call"):
        methods.Gradient(call=call)


def test_the_class_token_alone_is_read_after_the_last_layer():
    """Masks and maps that cannot act are said to be such."""

    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embed = nn.Conv2d(3, 8, 4, 4)
            self.token = nn.Parameter(torch.randn(1, 1, 8))
            self.mix = nn.Linear(10, 10)
            self.last, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

        def forward(self, values):
            tokens = self.embed(values).flatten(2).mT
            tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1)
            tokens = tokens + self.mix(tokens.mT).mT
            return self.head(self.last(tokens)[:, 0])

    net, x = Token().eval(), pictures()
    for method in (
        replace(SEARCH, layer="last"),
        methods.GradCAM(layer="last"),
        methods.LinearApproximation(layer="last"),
    ):
        with pytest.warns(UserWarning, match=r"score of input 0, 1 does not change with the places of layer 'last'"):
            method(net, x, 1)
    result = methods.GradCAM(layer="embed")(net, x, 1)
    assert result.map.abs().max() > 0
