"""Backward rules where torch's functions are hidden or written otherwise: they apply as they should, or say that they do not."""

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from sfumato.methods.deconvnet import Deconvnet
from sfumato.methods.excitation_backprop import ContrastiveExcitationBackprop, ExcitationBackprop
from sfumato.methods.gradient import Gradient
from sfumato.methods.guided_backprop import GuidedBackprop
from sfumato.rectifiers import gate
from sfumato.rules import BackwardRules

RECTIFYING = {"guided": GuidedBackprop, "deconvnet": Deconvnet}
both_rules = pytest.mark.parametrize("rule", RECTIFYING)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scripted(function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.script(function)


# Ways of writing a ReLU.


class OwnReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, signal):
        (x,) = ctx.saved_tensors
        return signal * (x > 0)


class InSteps(OwnReLU):
    """Several operations, none of which is a rectifier by name."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        y = x.clone()
        y[x < 0] = 0
        return y


class WithNumpy(OwnReLU):
    """What torch cannot see at all."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy().clip(min=0))


class InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x.clamp_(min=0)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx, signal):
        (y,) = ctx.saved_tensors
        return signal * (y > 0)


@torch.library.custom_op("sfumato_tests::rectify", mutates_args=())
def rectify(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(x.detach().numpy().clip(min=0))


def rectify_setup(ctx, inputs, output):
    ctx.save_for_backward(output)


def rectify_backward(ctx, signal):
    (output,) = ctx.saved_tensors
    return signal * (output > 0)


rectify.register_autograd(rectify_backward, setup_context=rectify_setup)


def assigned(x):
    x = x.clone()
    x[x < 0] = 0
    return x


def unseen(x):
    with torch._C.DisableTorchFunction():
        return torch.relu(x)


class Subclass(torch.Tensor):
    """With torch's own way of calling functions, for which it switches the subclass's off."""


def of_a_subclass(x):
    return torch.relu(x.as_subclass(Subclass)).as_subclass(torch.Tensor)


def _relu(x):
    return torch.relu(x)


def _where(x):
    return torch.where(x > 0, x, torch.zeros_like(x))


SCRIPTS = {"scripted": scripted(_relu), "scripted where": scripted(_where)}
COMPILED = torch.compile(_relu, backend="aot_eager")
FORMS = {
    "maximum": lambda x: torch.maximum(x, torch.zeros(())),
    "maximum, other order": lambda x: torch.maximum(torch.zeros_like(x), x),
    "max": lambda x: torch.max(x, torch.zeros_like(x)),
    "fmax": lambda x: torch.fmax(x, torch.zeros((), dtype=x.dtype)),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "where, zeros": _where,
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "masked_fill_": lambda x: x.clone().masked_fill_(x < 0, 0),
    "times a comparison": lambda x: x * (x > 0),
    "comparison times": lambda x: (x > 0).to(x.dtype) * x,
    "times a step": lambda x: x * torch.heaviside(x.detach(), torch.zeros((), dtype=x.dtype)),
    "half of the sum": lambda x: (x + x.abs()) / 2,
    "half of the difference": lambda x: 0.5 * (x.abs() + x),
    "minus the minimum": lambda x: x - torch.minimum(x, torch.zeros(())),
    "negated minimum": lambda x: -torch.minimum(-x, torch.zeros(())),
    "clamp by a tensor": lambda x: x.clamp(min=torch.zeros(())),
    "clip by tensors": lambda x: torch.clip(x, torch.zeros_like(x), torch.full_like(x, 99)),
    "assigned": assigned,
    "index_put": lambda x: x.index_put((x < 0,), torch.zeros((), dtype=x.dtype)),
    "autograd.Function": OwnReLU.apply,
    "autograd.Function in steps": InSteps.apply,
    "autograd.Function with numpy": lambda x: WithNumpy.apply(x) * 1,
    "autograd.Function in place": lambda x: InPlace.apply(x * 1),
    "custom operator": lambda x: rectify(x) * 1,
    "hidden from Python": unseen,
    "subclass": of_a_subclass,
    "compiled": lambda x: COMPILED(x),
    "vmap": torch.vmap(torch.relu),
    "vmap of two": torch.vmap(torch.vmap(lambda x: torch.maximum(x, torch.zeros(())))),
    "vmap, inner axis": lambda x: torch.vmap(F.relu, in_dims=1, out_dims=1)(x),
    "functional_call": lambda x: torch.func.functional_call(nn.ReLU(), {}, (x,)),
    **SCRIPTS,
}


def literal(rule, x, signal):
    """The papers' rules for one ReLU, a number at a time."""
    found = torch.zeros_like(x)
    for index in itertools.product(*map(range, x.shape)):
        helps, active = signal[index] > 0, x[index] > 0
        if helps and (active or rule == "deconvnet"):
            found[index] = signal[index]
    return found


@both_rules
@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_write_a_relu(form, rule):
    leaf, signal = numbers(3, 4, 5).requires_grad_(), numbers(3, 4, 5, seed=1)
    for _ in range(3):  # torch.jit compiles what it has run once or twice
        with BackwardRules(rule):
            y = FORMS[form](leaf * 1)
        torch.testing.assert_close(y, leaf.detach().clamp(min=0))
        (found,) = torch.autograd.grad(y, leaf, signal)
        torch.testing.assert_close(found, literal(rule, leaf.detach(), signal))
    with BackwardRules(rule):
        y = FORMS[form](leaf.view(3, 4, 5))
    (found,) = torch.autograd.grad(y, leaf, signal)
    torch.testing.assert_close(found, literal(rule, leaf.detach(), signal))


@both_rules
def test_of_a_leaf_itself(rule):
    leaf, signal = numbers(3, 4, 5).requires_grad_(), numbers(3, 4, 5, seed=1)
    for form in (FORMS["maximum"], FORMS["half of the sum"], OwnReLU.apply, torch.vmap(torch.relu)):
        with BackwardRules(rule):
            y = form(leaf)
        (found,) = torch.autograd.grad(y, leaf, signal)
        torch.testing.assert_close(found, literal(rule, leaf.detach(), signal))


SMOOTH = {
    "swish": (lambda x: x * torch.sigmoid(x), F.silu),
    "swish, other order": (lambda x: x.sigmoid() * x, F.silu),
    "GELU": (lambda x: x * 0.5 * (1.0 + torch.erf(x / 2**0.5)), F.gelu),
    "leaky": (lambda x: torch.where(x > 0, x, 0.1 * x), lambda x: F.leaky_relu(x, 0.1)),
    "leaky maximum": (lambda x: torch.maximum(x, 0.2 * x), lambda x: F.leaky_relu(x, 0.2)),
    "ReLU6": (lambda x: torch.clamp(x, torch.zeros(()), torch.full((), 6.0)), F.relu6),
    "vmap of GELU": (torch.vmap(F.gelu), F.gelu),
    "vmap of Hardswish": (torch.vmap(F.hardswish), F.hardswish),
    "vmap of PReLU": (
        torch.vmap(lambda x: F.prelu(x, torch.full((1,), 0.3, dtype=x.dtype))),
        lambda x: F.leaky_relu(x, 0.3),
    ),
}


@both_rules
@pytest.mark.parametrize("name", SMOOTH)
def test_other_activations_by_hand(name, rule):
    by_hand, function = SMOOTH[name]
    leaf, signal = (4 * numbers(3, 8, 5)).requires_grad_(), numbers(3, 8, 5, seed=1)
    found = []
    for form in (by_hand, function):
        with BackwardRules(rule):
            y = form(leaf * 1)
        found += torch.autograd.grad(y, leaf, signal)
    torch.testing.assert_close(*found)


# Whole networks.


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)).double().eval()


class Middle(nn.Module):
    """The same network, whose middle, from the first ReLU to the second, is computed in another way."""

    def __init__(self, middle):
        super().__init__()
        self.net, self.middle = network(), middle

    def forward(self, x):
        return self.net[4:](self.middle(self.net[0](x), self.net[1:4]))


def from_relu_to_relu(x, weight, bias):
    return torch.relu(F.conv2d(torch.relu(x), weight, bias))


SCRIPTED_MIDDLE = scripted(from_relu_to_relu)


class Fused(torch.autograd.Function):
    """A convolution with its ReLU."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        y = F.conv2d(x, weight, bias).clamp(min=0)
        ctx.save_for_backward(x, weight, y)
        return y

    @staticmethod
    def backward(ctx, signal):
        x, weight, y = ctx.saved_tensors
        return torch.nn.grad.conv2d_input(x.shape, weight, signal * (y > 0)), None, None


class ReluWithin(Fused):
    """A ReLU with the convolution after it."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return F.conv2d(x.clamp(min=0), weight, bias)

    @staticmethod
    def backward(ctx, signal):
        x, weight = ctx.saved_tensors
        return torch.nn.grad.conv2d_input(x.shape, weight, signal) * (x > 0), None, None


def fused(x, part):
    return Fused.apply(part[0](x), part[1].weight, part[1].bias)


def relu_within(x, part):
    return F.relu(ReluWithin.apply(x, part[1].weight, part[1].bias))


def through_view(x, part):
    x = x * 1
    view = x[:, :2]
    view.masked_fill_(view < 0, 0)
    return part(x)


def checkpointed(x, part):
    return checkpoint(part, x, use_reentrant=False)


def mapped(x, part):
    return torch.vmap(lambda row: part(row[None])[0])(x)


def in_script(x, part):
    return SCRIPTED_MIDDLE(x, part[1].weight, part[1].bias)


def explained(method, net, inputs, layer=""):
    """With its message, if it refuses."""
    try:
        return method(layer=layer, resize=False)(net, inputs, 1).map, ""
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize(
    ("middle", "method", "message"),
    [
        (checkpointed, GuidedBackprop, ""),
        (checkpointed, Deconvnet, ""),
        (checkpointed, ExcitationBackprop, ""),
        (checkpointed, ContrastiveExcitationBackprop, ""),
        (mapped, GuidedBackprop, ""),
        (mapped, Deconvnet, ""),
        (mapped, ExcitationBackprop, "excitation backprop stops at relu.*torch.vmap.*name a layer above"),
        (in_script, GuidedBackprop, ""),
        (in_script, Deconvnet, ""),
        (in_script, ExcitationBackprop, "stops at .*Backward.*do not add up.*name a layer above"),
        (fused, GuidedBackprop, ""),
        (fused, Deconvnet, r"cannot reach: aten.clamp.default in Fused.forward, line \d+ of .*inside FusedBackward"),
        (fused, ExcitationBackprop, "stops at FusedBackward, which has no rule"),
        (relu_within, GuidedBackprop, r"cannot reach: aten.clamp.default in ReluWithin.forward.*functional.relu"),
        (relu_within, Deconvnet, r"cannot reach: aten.clamp.default in ReluWithin.forward.*functional.relu"),
        (relu_within, ExcitationBackprop, "stops at ReluWithinBackward, which has no rule"),
        (through_view, GuidedBackprop, r"cannot reach: aten.masked_fill_.Scalar in through_view, line \d+ of "),
        (through_view, Deconvnet, r"cannot reach: aten.masked_fill_.Scalar in through_view, line \d+ of "),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_right_value_or_a_sentence(middle, method, message):
    inputs = numbers(2, 3, 8, 8)
    expected, _ = explained(method, network(), inputs)
    for _ in range(4):  # scripts change as they warm up: what is right once may be refused later, but never wrong
        found, error = explained(method, Middle(middle), inputs)
        if middle is in_script and found is None:
            assert "DifferentiableGraphBackward" in error or message
        elif message:
            pass
        else:
            torch.testing.assert_close(found, expected, msg=error or None)
        if message:
            with pytest.raises(ValueError, match=message):
                method(resize=False)(Middle(middle), inputs, 1)


def test_a_signal_that_does_not_get_there_is_not_refused():
    """A rectifier that cannot be reached, beside the way from the layer to the score or below the layer."""
    net, inputs = Middle(relu_within), numbers(2, 3, 8, 8)
    for method in (GuidedBackprop, Deconvnet):
        above, _ = explained(method, net, inputs, "net.4")
        torch.testing.assert_close(above, explained(method, network(), inputs, "4")[0])


# What is no rectifier.


class Ordinary(nn.Module):
    """Masks, gates, padding, clamping, indices, normalisation, attention: nothing that a ReLU's rule is for."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.gate, self.double_width = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 16, 1)
        self.norm, self.qkv = nn.LayerNorm(8), nn.Linear(8, 24)
        self.drop, self.head = nn.Dropout(), nn.Linear(8, 5)

    def forward(self, x):
        x = self.embed(x)
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid() + x * torch.sigmoid(self.gate(x))
        x = F.glu(self.double_width(x), 1) + F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1) - F.max_pool2d(-x, 3, 1, 1)
        chosen = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.3
        x = (x * chosen / 0.7).masked_fill(~chosen, 0) + torch.where(chosen, x, 0.1) + torch.maximum(x, x.flip(1))
        places = torch.linspace(-3, 9, 8, dtype=x.dtype).clamp(min=torch.zeros(()))
        x = x + x.clamp(-1, 1) + x.clamp(min=-1) + F.hardshrink(x) + F.softshrink(x) + x.tanh() + x.abs() + x**2 + x**3
        x = (
            F.lp_pool2d(x, 2, 2) * places.mean()
            + F.instance_norm(F.avg_pool2d(x, 2))
            + F.local_response_norm(x, 3)[..., ::2, ::2]
        )
        x = self.norm(torch.roll(x, 1, 2).flatten(2).mT)
        q, k, v = self.qkv(x).chunk(3, -1)
        masked = (q @ k.mT).masked_fill(torch.ones(4, 4, dtype=torch.bool).triu(1), -1e9)
        x = x + masked.softmax(-1) @ v + F.scaled_dot_product_attention(q, k, v)
        return self.head(self.drop(x).amax(1))


def test_what_is_no_rectifier_keeps_its_gradient():
    net, inputs = Ordinary().double().eval(), numbers(2, 3, 16, 16)
    expected, _ = explained(Gradient, net, inputs)
    assert expected.any()
    for method in RECTIFYING.values():
        found, error = explained(method, net, inputs)
        torch.testing.assert_close(found, expected, msg=error or None)


@pytest.mark.parametrize("size", [(7,), (3, 5), (40, 3, 64, 65), (2, 1000, 77)])
def test_the_gate(size):
    x = numbers(*size) * 5
    assert gate(x, x.relu()) == pytest.approx(1)
    assert gate(x, 3 * x.relu()) == pytest.approx(3)
    assert gate(x, -2 * F.relu(-x)) == pytest.approx(-2)
    assert gate(x, F.leaky_relu(x, 0.3)) == pytest.approx(1)
    for other in (
        x,
        -x,
        x.abs(),
        x.sigmoid(),
        x.tanh(),
        x.clamp(-1, 1),
        x.clamp(min=-1),
        x**2,
        x**3,
        x.sign(),
        0 * x,
        x + 1,
    ):
        assert gate(x, other) == 0
    assert gate(x, x * (numbers(*size, seed=3) > 0)) == 0
    assert gate(x.abs(), x.abs()) == 0  # nothing to tell it from the identity
    if x.numel() > 100:
        assert gate(x, F.silu(x)) == gate(x, F.gelu(x)) == gate(x, F.hardswish(x)) == gate(x, F.relu6(x)) == 1
        assert gate(x, x * numbers(*size, seed=4).sigmoid()) == 0
    half = x.bfloat16()
    assert gate(half, half.relu()) == pytest.approx(1)


def test_threads_and_compilers_are_left_alone():
    """A mode for operations is the whole process's business in torch; afterwards functions are compiled as before."""
    from torch.utils import _python_dispatch as modes

    before = modes._get_current_dispatch_mode()
    with pytest.raises(RuntimeError, match="broken"), BackwardRules("guided"):
        raise RuntimeError("broken")
    assert modes._get_current_dispatch_mode() is before
    assert not modes.is_in_torch_dispatch_mode()
