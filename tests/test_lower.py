"""The network up to a layer: the same activations as hooks see, gradients, nothing computed above, nothing left behind."""

import pytest
import torch
from networks import Counted, OneLayer
from torch import nn
from traces import assert_unchanged, state

from sfumato.layers.below import activations, below


class Network(nn.Module):
    """A block called twice, dropout, in-place changes, a tuple, and more above."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.pair = Pair()
        self.above = Counted(nn.Linear(4, 5))
        self.unused = nn.Linear(2, 2)
        self.train()

    def forward(self, x):
        x = self.stem(x)
        x += 1  # changes what the layer put out
        x = self.drop(self.twice(self.twice(x).relu()))
        return self.above(self.pair(x)[0].mean((2, 3)))


class Pair(nn.Module):
    def forward(self, x):
        return x, x.shape


def inputs(rows=2):
    return torch.randn(rows, 3, 6, 5, generator=torch.Generator().manual_seed(1))


def by_hand(net, x):
    """What the second call of `twice` is given, and puts out."""
    given = net.twice(net.stem(x) + 1).relu()
    return given, net.twice(given)


def test_the_last_call_counts_at_the_output_and_at_the_input():
    net = Network()
    before = state(net)
    found = {at: activations(net, "twice", inputs(), at) for at in ("output", "input")}
    stem = activations(net, "stem", inputs())
    assert_unchanged(before, state(net))
    with torch.no_grad():
        given, output = by_hand(net.eval(), inputs())
        assert torch.allclose(found["input"], given)
        assert torch.allclose(found["output"], output)
        assert torch.allclose(stem, net.stem(inputs())), "as the layer put it out, before it was changed in place"
    assert not any(each.requires_grad for each in found.values())


def test_activations_made_in_inference_mode_can_be_used_outside():
    net = Network()
    with torch.inference_mode():
        found = activations(net, "stem", inputs())
    assert not found.is_inference()


def test_activations_are_those_of_the_callers_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert activations(Network(), "twice", inputs()).dtype == torch.bfloat16
    assert activations(Network(), "twice", inputs()).dtype == torch.float32


def test_gradients_flow_to_the_input_and_to_nothing_else():
    net, x = Network(), inputs().requires_grad_()
    with below(net, "twice") as phi:
        (gradient,) = torch.autograd.grad(phi(x).square().sum(), x)
        assert all(not p.requires_grad for p in net.parameters())
    net.eval()
    (expected,) = torch.autograd.grad(by_hand(net, x)[1].square().sum(), x)
    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_nothing_above_is_computed_once_the_calls_are_counted():
    net = Network()
    with below(net, "twice") as phi:
        phi(inputs())
        counted = net.above.calls
        for _ in range(3):
            phi(inputs())
    assert (counted, net.above.calls) == (1, 1)


def test_the_name_of_nothing_is_the_input():
    net = Network()
    assert torch.equal(activations(net, "", inputs()), inputs())
    assert net.above.calls == 0


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("when", ["while counting", "later", "outside"])
def test_nothing_is_left_behind_by_errors(error, when):
    net = Network()
    before = state(net)

    def run():
        with below(net, "twice") as phi:
            if when == "while counting":
                net.stem[0].forward = breaking
            phi(inputs())
            if when == "later":
                net.stem[0].forward = breaking
                phi(inputs())
            raise error

    def breaking(*_):
        raise error

    with pytest.raises(type(error)):
        run()
    vars(net.stem[0]).pop("forward", None)
    assert_unchanged(before, state(net))


def test_a_model_that_catches_exceptions_is_stopped_all_the_same():
    class Careful(OneLayer):
        def forward(self, x):
            try:
                return self.layer(x)
            except Exception:  # noqa: BLE001
                return torch.zeros(())

    net = Careful(nn.Conv1d(1, 1, 1))
    torch.testing.assert_close(activations(net, "layer", torch.ones(1, 1, 4)), net.layer(torch.ones(1, 1, 4)).detach())


def test_a_layer_called_more_or_less_often_later_is_refused():
    class Varying(OneLayer):
        def forward(self, x):
            for _ in range(int(x.flatten()[0])):
                x = self.layer(x)
            return x

    with below(Varying(nn.ReLU()), "layer") as phi:
        assert phi(torch.full((1, 1, 2), 2.0)).shape == (1, 1, 2)
        with pytest.raises(ValueError, match="called its layer 'layer' 2 times at first and now 1 times"):
            phi(torch.full((1, 1, 2), 1.0))


@pytest.mark.parametrize(
    ("layer", "at", "message"),
    [
        ("twise", "output", r"no layer 'twise'. Did you mean 'twice'"),
        ("unused", "output", r"did not call its layer 'unused'"),
        ("pair", "output", r"'pair' puts out a tuple, not a tensor of floating-point numbers; name a layer within it"),
        ("stem", "middle", r"at must be one of 'output', 'input'; got 'middle'"),
    ],
)
def test_what_cannot_be_used_is_refused(layer, at, message):
    with pytest.raises(ValueError, match=message):
        activations(Network(), layer, inputs(), at)


def test_a_layer_given_no_positional_tensor_is_refused():
    class Keywords(OneLayer):
        def forward(self, x):
            return self.layer(input=x)

    net = Keywords(nn.ReLU())
    assert activations(net, "layer", inputs()).shape == inputs().shape
    with pytest.raises(ValueError, match="takes in, as its first positional argument, a NoneType"):
        activations(net, "layer", inputs(), at="input")


def test_models_and_inputs_that_are_none_are_refused():
    with pytest.raises(ValueError, match="which has none"):
        activations(lambda x: x, "layer", inputs())
    with pytest.raises(ValueError, match="no axis of space"):
        activations(Network(), "stem", torch.zeros(1, 3))
