"""One way to see a layer: every reader counts the same calls, refuses the same values, and says the same of them."""

import threading

import pytest
import torch
from torch import nn

from sfumato import GradCAM, activations
from sfumato.layers.axes import axes_of
from sfumato.layers.capture import check_rows, watched_calls
from sfumato.layers.outline import outline
from sfumato.layers.replay import replay_of
from sfumato.model.outputs import same_first_row, same_outputs, tolerance
from sfumato.model.subject import Subject
from sfumato.models import anatomy
from sfumato.models.classifier import Preparation


class Block(nn.Module):
    """Puts out a pair at one call and a tensor at another; takes its input by keyword or by position."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x=None, *, named=None, pair=False):
        y = self.conv(named if x is None else x)
        return (y, y) if pair else y.permute(0, 2, 3, 1)


class TwoCalls(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        return self.block(self.block(named=x, pair=True)[0]).mean((1, 2))


def inputs_of(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


@pytest.mark.parametrize("at", ["output", "input"])
def test_calls_without_a_tensor_count_for_the_axes_too(at):
    net, inputs = TwoCalls().eval(), inputs_of(2, 3, 6, 6)
    expected = {
        "output": ["batch", "places", "places", "channels"],
        "input": ["batch", "channels", "places", "places"],
    }[at]
    for call in (1, -1):
        axes = axes_of(net, net.block, at, inputs, net, call)
        assert axes is not None
        assert [axis.kind for axis in axes] == expected
    for call in (0, -2):  # no tensor there, so nothing may be said; least of all what holds for the other call
        assert axes_of(net, net.block, at, inputs, net, call) is None
    assert axes_of(net, net.block, at, inputs, net, 2) is None


class Mapped(nn.Module):
    """Ends with a module that runs once for each row, under torch.vmap."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, x):
        return torch.vmap(self.act)(self.conv(x)).mean((2, 3))


def test_no_shape_is_read_within_vmap():
    net = Mapped().eval()
    shapes = {layer.name: layer.shape for layer in outline(net, inputs_of(3, 3, 8, 8))}
    assert shapes == {"conv": (3, 8, 8), "act": None}, "3 channels of one row are not the batch of 3"
    with pytest.raises(ValueError, match=r"'act' runs under torch.vmap"):
        activations(net, "act", inputs_of(3, 3, 8, 8))


def test_the_last_feature_map_is_found_below_a_part_within_vmap():
    preparation = Preparation(size=8, resize=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert anatomy.last_spatial(Mapped().eval(), preparation) == "conv"


class BatchSecond(nn.Module):
    """A layer whose output is (length, batch, channels), as recurrent layers give it."""

    def __init__(self):
        super().__init__()
        self.turn = nn.Identity()
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        return self.head(self.turn(x.permute(2, 0, 1)).mean(0))


def test_a_shape_that_does_not_fit_is_said_as_it_is():
    with pytest.raises(ValueError, match=r"shape \(9, 1, 3\) for 1 inputs, not \(N, C, \*L\); name another"):
        GradCAM(layer="turn", layout="BLC")(BatchSecond(), inputs_of(2, 3, 9), 1)
    with pytest.raises(ValueError, match=r"it has no places to show; name a layer further down"):
        GradCAM(layer="head")(BatchSecond(), inputs_of(2, 3, 9), 1)
    check_rows(torch.zeros(2, 5), 2, "head")
    check_rows(torch.zeros(2, 5, 1), 2, "head", places=True)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(4))
        self.scale = nn.Identity()
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        return self.head(x.mean(2)) * self.scale(self.table)


def test_messages_say_which_side_is_meant():
    words = {"output": "puts out shape", "input": "takes in, as its first positional argument, shape"}
    with Subject.prepared(Scaled(), inputs_of(2, 3, 9), 1) as subject:
        for at, does in words.items():
            with pytest.raises(ValueError, match=rf"'scale' {does} \(4,\) for 2 inputs, not \(N, C, …\)"):
                replay_of(subject, "scale", at)


def test_calls_of_several_modules_in_one_thread():
    net, inputs = TwoCalls().eval(), inputs_of(1, 3, 4, 4)
    began, ended = [], []

    def shown(name, output):
        ended.append((name, type(output).__name__))

    with watched_calls({"block": net.block, "conv": net.block.conv}, began.append, shown):
        other = threading.Thread(target=net, args=(inputs,))  # sees its own calls alone
        other.start()
        other.join()
        assert not began
        assert not ended
        net(inputs)
    assert began == ["block", "conv", "block", "conv"]
    assert ended == [("conv", "Tensor"), ("block", "tuple"), ("conv", "Tensor"), ("block", "Tensor")]
    with watched_calls({"block": net.block}, began.append):
        assert not net.block._forward_hooks, "no hook where nothing is to be shown"
        with pytest.raises(TypeError):
            net(None)
    assert not net.block._forward_pre_hooks


class Forgetful(nn.Module):
    """Changes what its layer puts out in a way that a replay cannot repeat: it depends on the pass."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.conv = nn.Conv1d(3, 4, 1)

    def forward(self, x):
        y = self.conv(x)
        # By a shape that another number of rows has: the replay of three rows gives other numbers than one row.
        return y.mean(2) * self.size * (2.0 if len(x) == 3 else 1.0)


@pytest.mark.parametrize("size", [1.0, 1e-20])
def test_outputs_of_any_size_are_compared(size):
    message = r"differ by 0\.5 of the largest|differ by 1 of the largest"
    with (
        Subject.prepared(Forgetful(size).eval(), inputs_of(2, 3, 9), 1) as subject,
        pytest.raises(ValueError, match=message),
    ):
        replay_of(subject, "conv", "output")


def test_two_comparisons_of_outputs():
    values = torch.tensor([[1.0, -2.0]])
    assert tolerance(values) == pytest.approx(2 * torch.finfo(torch.float32).eps ** 0.5)
    assert tolerance(values, 0.1) == pytest.approx(0.2)
    near, far, broken = values * (1 + 1e-6), values + 0.1, values / 0
    assert same_outputs([values, "a"], [near, "a"], 0.0)
    assert not same_outputs([values, "a"], [near, "b"], 0.0)
    assert not same_outputs([values], [far], 0.0)
    assert same_outputs([values], [far], 0.1)
    assert not same_outputs([values], [values.double()], 0.0)
    assert not same_outputs(values, [values], 0.0)
    assert not same_outputs(broken - broken, broken - broken, 0.0), "NaN is the same as nothing"
    assert same_first_row(values, torch.cat([near, far]), 0.0)
    assert not same_first_row(values, torch.cat([far, near]), 0.0)
    assert same_first_row(values, [values, values], 0.0), "rows that are unknown are not judged"
