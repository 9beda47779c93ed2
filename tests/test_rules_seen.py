"""Backward rules where torch's functions are hidden or written otherwise: the right value, or a sentence."""

import concurrent.futures
import itertools
import math
import threading
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from sfumato.methods.deconvnet import Deconvnet
from sfumato.methods.excitation_backprop import ContrastiveExcitationBackprop, ExcitationBackprop
from sfumato.methods.gradient import Gradient
from sfumato.methods.guided_backprop import GuidedBackprop
from sfumato.model.backward.rectifiers import gate
from sfumato.model.backward.rules import BackwardRules

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
    "compiled": COMPILED,
    "vmap": torch.vmap(torch.relu),
    "vmap of two": torch.vmap(torch.vmap(lambda x: torch.maximum(x, torch.zeros(())))),
    "vmap, inner axis": torch.vmap(F.relu, in_dims=1, out_dims=1),
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


SIGNS = {"positive": torch.abs, "negative": lambda x: -x.abs(), "small": lambda x: x / 100}


@both_rules
@pytest.mark.parametrize("form", [form for form in FORMS if form != "autograd.Function with numpy"])
def test_every_way_to_write_a_relu_whose_inputs_have_one_sign(form, rule):
    """A rectifier that changes nothing in the example still stops what does not help."""
    for sign in SIGNS.values():
        leaf, signal = sign(numbers(3, 4, 5)).requires_grad_(), numbers(3, 4, 5, seed=1)
        with BackwardRules(rule):
            y = FORMS[form](leaf * 1)
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


@both_rules
def test_a_mask_from_elsewhere_makes_a_relu_where_the_values_tell(rule):
    """Of a mask that numpy has made nothing is known but its values."""
    leaf, signal = numbers(3, 4, 5).requires_grad_(), numbers(3, 4, 5, seed=1)
    with BackwardRules(rule):
        x = leaf * 1
        y = x * torch.from_numpy(x.detach().numpy() > 0)
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


def tanh_gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))


# Of several operations, none of which need be a rectifier.
COMPOSED = {
    "ELU, where": (lambda x: torch.where(x > 0, x, x.exp() - 1), F.elu),
    "ELU, two parts": (lambda x: torch.max(x, torch.zeros(())) + torch.min(torch.zeros(()), x.exp() - 1), F.elu),
    "ELU, two functions": (lambda x: F.relu(x) - F.relu(1 - x.exp()), F.elu),
    "ELU, two clamps": (lambda x: x.clamp(min=0) + x.clamp(max=0).expm1(), F.elu),
    "CELU": (lambda x: torch.where(x > 0, x, 2 * torch.expm1(x / 2)), lambda x: F.celu(x, 2.0)),
    "SELU": (lambda x: torch.where(x > 0, x, 1.6732632423543772 * x.expm1()), lambda x: F.selu(x) / 1.0507009873554805),
    "Softplus": (lambda x: torch.log(1 + torch.exp(x)), F.softplus),
    "Softplus, log1p": (lambda x: x.exp().log1p(), F.softplus),
    "Softplus, logaddexp": (lambda x: torch.logaddexp(x, torch.zeros_like(x)), F.softplus),
    "Softplus, stable": (lambda x: F.relu(x) + torch.log1p(torch.exp(-x.abs())), F.softplus),
    "Softplus, logsigmoid": (lambda x: -F.logsigmoid(-x), F.softplus),
    "Softplus, in place": (lambda x: (torch.exp(x) * 1).add_(1).log(), F.softplus),
    "Mish": (lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))), F.mish),
    "Mish, softplus": (lambda x: x * torch.tanh(F.softplus(x)), F.mish),
    "Hardswish": (lambda x: x * F.relu6(x + 3) / 6, F.hardswish),
    "Hardswish, clamp": (lambda x: x * ((x + 3).clamp(0, 6) / 6), F.hardswish),
    "QuickGELU": (lambda x: x * torch.sigmoid(1.702 * x), lambda x: F.silu(1.702 * x) / 1.702),
    "GELU by tanh": (tanh_gelu, lambda x: F.gelu(x, approximate="tanh")),
    "Swish, quotient": (lambda x: x / (1 + torch.exp(-x)), F.silu),
    "PReLU": (lambda x: F.relu(x) - 0.25 * F.relu(-x), lambda x: F.leaky_relu(x, 0.25)),
    "PReLU, abs": (lambda x: F.relu(x) + 0.125 * (x - x.abs()), lambda x: F.leaky_relu(x, 0.25)),
    "scaled first": (lambda x: 0.5 * x * (x > 0) * 2, F.relu),
    "in a larger one": (lambda x: torch.maximum(x, torch.zeros(())) ** 2, lambda x: F.relu(x) ** 2),
    "shifted": (lambda x: torch.log(1 + torch.exp(x)) - math.log(2), F.softplus),
    **SMOOTH,
}
ALL_SIGNS = {"both": lambda x: x, **SIGNS}


@both_rules
@pytest.mark.parametrize("name", COMPOSED)
def test_other_activations_by_hand(name, rule):
    by_hand, function = COMPOSED[name]
    for sign, shape in (("both", (3, 8, 5)), ("both", (2, 3)), ("positive", (3, 8, 5)), ("small", (2, 3))):
        leaf, signal = ALL_SIGNS[sign](4 * numbers(*shape)).requires_grad_(), numbers(*shape, seed=1)
        found = []
        for form in (by_hand, function):
            with BackwardRules(rule):
                y = form(leaf * 1 if sign == "both" else leaf)
            found += torch.autograd.grad(y, leaf, signal)
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_activations_by_hand_in_every_precision(dtype):
    x, signal = (numbers(3, 8, seed=seed).to(dtype) for seed in (0, 1))
    for name in ("ELU, where", "Softplus", "Mish", "GELU by tanh", "scaled first"):
        by_hand, function = COMPOSED[name]
        found = []
        for form in (by_hand, function):
            leaf = x.abs().requires_grad_()
            with BackwardRules("guided"):
                y = form(leaf)
            found += torch.autograd.grad(y, leaf, signal)
        torch.testing.assert_close(*found, rtol=0.05, atol=0.05)  # as coarse as bfloat16 is


UNRULED = {
    "clamp(min=-1)": lambda x: x.clamp(min=-1),
    "clamp(min=1)": lambda x: x.clamp(min=1),
    "clamp(min=1e-6)": lambda x: x.clamp(min=1e-6),
    "exp": torch.exp,
    "square": lambda x: x * x,
    "cube": lambda x: x**3,
    "softsign": lambda x: x / (1 + x.abs()),
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "log cosh": lambda x: torch.log(torch.cosh(x)),
    "log cosh, stable": lambda x: x.abs() + torch.logaddexp(-2 * x.abs(), torch.zeros_like(x)) - math.log(2),
    "root": lambda x: (x * x + 1).sqrt(),
    "residual": lambda x: x + x.tanh(),
    "masked": lambda x: x.masked_fill(torch.arange(5) > 2, 0),
    "scaled": lambda x: (x - 3) * torch.linspace(-1, 1, 5, dtype=x.dtype) + 2,
}


@both_rules
@pytest.mark.parametrize("name", UNRULED)
def test_functions_of_one_number_that_are_no_rectifiers(name, rule):
    for sign in ALL_SIGNS.values():
        leaf, signal = sign(numbers(3, 4, 5)).requires_grad_(), numbers(3, 4, 5, seed=1)
        (expected,) = torch.autograd.grad(UNRULED[name](leaf * 1), leaf, signal)
        with BackwardRules(rule):
            y = UNRULED[name](leaf * 1)
        (found,) = torch.autograd.grad(y, leaf, signal)
        torch.testing.assert_close(found, expected)


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


# Somebody's own operations.


def kernel(name, function, backward):
    """An operation of which torch sees no more than the name."""

    @torch.library.custom_op(f"sfumato_tests::{name}", mutates_args=())
    def own(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(function(x.detach().numpy())))

    own.register_autograd(
        lambda ctx, signal: backward(ctx.saved_tensors[0], signal),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
    )
    return own


MATRIX = numbers(6, 6, seed=5).numpy()


def normalised(x):
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)


def through(function):
    """The gradient of a function of torch."""

    def backward(x, signal):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return torch.autograd.grad(function(leaf), leaf, signal)[0]

    return backward


KERNELS = {
    "linear": (lambda x: x @ MATRIX, lambda x: x @ torch.from_numpy(MATRIX)),
    "normalised": (normalised, lambda x: F.layer_norm(x, (6,))),
    "hyperbolic": (np.tanh, torch.tanh),
    "rectified_before": (lambda x: x.clip(min=0) @ MATRIX, lambda x: x.clamp(min=0) @ torch.from_numpy(MATRIX)),
    "rectified_between": (
        lambda x: (x @ MATRIX).clip(min=0) @ MATRIX,
        lambda x: (x @ torch.from_numpy(MATRIX)).clamp(min=0) @ torch.from_numpy(MATRIX),
    ),
    "soft": (lambda x: np.logaddexp(x, 0), F.softplus),
}
OPERATIONS = {name: kernel(name, function, through(same)) for name, (function, same) in KERNELS.items()}


@both_rules
@pytest.mark.parametrize("name", KERNELS)
def test_operations_of_one_s_own(name, rule):
    """What is symmetric keeps its gradient, and what is not may have a rectifier inside."""
    for sign in ALL_SIGNS.values():
        leaf, signal = sign(numbers(3, 6)).requires_grad_(), numbers(3, 6, seed=1)
        with BackwardRules(rule):
            y = OPERATIONS[name](leaf * 1) * 1
        if name in ("linear", "normalised", "hyperbolic"):
            (found,) = torch.autograd.grad(y, leaf, signal)
            torch.testing.assert_close(found, through(KERNELS[name][1])(leaf, signal))
        else:
            with pytest.raises(ValueError, match=rf"cannot see into.*hold a rectifier: sfumato_tests.{name}.*Gradient"):
                torch.autograd.grad(y, leaf, signal)


class LinearWithNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(x.detach().numpy() @ MATRIX)

    @staticmethod
    def backward(ctx, signal):
        return signal @ torch.from_numpy(MATRIX).T


class InParts(torch.autograd.Function):
    """Writes into what it has made, of which torch sees the parts."""

    @staticmethod
    def forward(ctx, x):
        y = torch.empty_like(x)
        y[:, :3], y[:, 3:] = x[:, 3:], 2 * x[:, :3]
        return y

    @staticmethod
    def backward(ctx, signal):
        return torch.cat([2 * signal[:, 3:], signal[:, :3]], 1)


class HandedOn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, signal):
        return -signal


@both_rules
def test_functions_of_one_s_own(rule):
    leaf, signal = numbers(3, 6).requires_grad_(), numbers(3, 6, seed=1)
    for function, expected in ((InParts, InParts.backward(None, signal)), (HandedOn, -signal)):
        with BackwardRules(rule):
            y = function.apply(leaf * 1) * 1
        torch.testing.assert_close(*torch.autograd.grad(y, leaf, signal), expected)
    for function in (LinearWithNumpy, WithNumpy):  # nothing tells the one from the other
        positive = numbers(3, 6).abs().requires_grad_()
        with BackwardRules(rule):
            y = function.apply(positive * 1) * 1
        with pytest.raises(ValueError, match=f"cannot see into.*: {function.__name__}Backward"):
            torch.autograd.grad(y, positive, signal)


class InAnotherThread(nn.Module):
    """A part of it, or all of it."""

    def __init__(self, parts):
        super().__init__()
        self.net, self.parts = network(), parts

    def forward(self, x):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            for place, part in enumerate(self.net):
                x = pool.submit(part, x).result() if place in self.parts else part(x)
        return x


@pytest.mark.parametrize("parts", [(1,), (3, 4), range(7)])
def test_what_is_computed_in_another_thread_is_refused(parts):
    inputs = numbers(2, 3, 8, 8)
    net = InAnotherThread(parts)
    expected, _ = explained(Gradient, network(), inputs)
    torch.testing.assert_close(explained(Gradient, net, inputs)[0], expected)

    def refused():
        for method, layer in ((GuidedBackprop, ""), (Deconvnet, ""), (ExcitationBackprop, "input")):
            found, error = explained(method, net, inputs, layer)
            assert found is None
            assert "in another thread" in error

    refused()
    with concurrent.futures.ThreadPoolExecutor(
        1
    ) as pool:  # whose nodes are numbered from 0, like those of the other one
        pool.submit(refused).result()


def test_what_is_computed_in_another_thread_below_the_layer_is_not_refused():
    inputs = numbers(2, 3, 9, 10)
    for method in (GuidedBackprop, Deconvnet, ExcitationBackprop):
        below = method(layer="net.2", layout="BCHW", resize=False)(InAnotherThread((0, 1)), inputs, 1).map
        torch.testing.assert_close(below, explained(method, network(), inputs, "2")[0])


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
    inside = threading.Barrier(2, timeout=30)

    def overlapping(name):
        inside.wait()
        for _ in range(20):
            with BackwardRules(name):
                torch.ones(3, requires_grad=True).relu()

    threads = [threading.Thread(target=overlapping, args=(name,)) for name in ("guided", "excitation")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not modes.is_in_torch_dispatch_mode()
    assert not modes.is_in_any_mode_without_ignore_compile_internals()


# Excitation: more ways to write a layer.

WEIGHT, BIAS = numbers(5, 4, seed=7), numbers(5, seed=8)
LAYERS = {
    "linear": lambda x: F.linear(x, WEIGHT, BIAS),
    "addmm": lambda x: torch.addmm(BIAS, x, WEIGHT.T),
    "addmm of aten": lambda x: torch.ops.aten.addmm.default(BIAS, x, WEIGHT.T),
    "addmm, scaled": lambda x: torch.addmm(BIAS, x, WEIGHT.T / 2, beta=0.5, alpha=2),
    "addmm, a bias a row": lambda x: torch.addmm(BIAS.expand(len(x), 5), x, WEIGHT.T),
    "einsum": lambda x: torch.einsum("oi,ni->no", WEIGHT, x),
    "einsum, other order": lambda x: torch.einsum("ni,oi->no", x, WEIGHT),
    "matmul": lambda x: x @ WEIGHT.T,
    "convolution": lambda x: torch.convolution(
        x[..., None], WEIGHT[..., None], BIAS, [1], [0], [1], False, [0], 1
    ).flatten(1),
    "transposed convolution": lambda x: torch.ops.aten.convolution.default(
        x[..., None], WEIGHT.T[..., None], BIAS, [1], [0], [1], True, [0], 1
    ).flatten(1),
    "with rounding": lambda x: F.linear((x * 1e9).round() / 1e9, WEIGHT, BIAS),
    "gated": lambda x: F.glu(torch.cat([F.linear(x, WEIGHT), torch.ones(len(x), 5)], 1), 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_way_to_write_a_layer(name):
    leaf, prior = numbers(3, 4).requires_grad_(), numbers(3, 5, seed=1).abs()
    with BackwardRules("excitation"):
        y = LAYERS[name](leaf.view(3, 4))
    (found,) = torch.autograd.grad(y, leaf, prior)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for row, j in itertools.product(range(3), range(5)):
        parts = [max(WEIGHT[j, i].item(), 0) * max(leaf[row, i].item(), 0) for i in range(4)]
        for i in range(4):
            expected[row, i] += prior[row, j] * parts[i] / sum(parts) if sum(parts) else 0
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


class Bits(nn.Module):
    """A head of 8-bit integers."""

    def __init__(self, quantise):
        super().__init__()
        self.net, self.quantise = network(), quantise
        weight = self.net[-1].weight.detach()
        self.scale = weight.abs().max().item() / 127
        self.register_buffer("weight", (weight / self.scale).round().to(torch.int8))

    def forward(self, x):
        return F.linear(self.quantise(self.net[:-1](x)), self.weight.to(x.dtype) * self.scale, self.net[-1].bias)


QUANTISED = {
    "weights alone": lambda x: x,
    "rounded": lambda x: (x / 1e-3).round().clamp(-32768, 32767) * 1e-3,
    "fake": lambda x: torch.fake_quantize_per_tensor_affine(x.float(), 1e-3, 0, -32768, 32767).double(),
}


@pytest.mark.parametrize("name", QUANTISED)
def test_integer_heads(name):
    found, error = explained(ExcitationBackprop, Bits(QUANTISED[name]), numbers(2, 3, 8, 8), "net.0")
    expected, _ = explained(ExcitationBackprop, network(), numbers(2, 3, 8, 8), "0")
    assert not error
    assert found.any()
    torch.testing.assert_close(found, expected, rtol=0.02, atol=1e-4)  # eight bits


def decomposed(net, inputs):
    return torch.export.export(net, (inputs,)).run_decompositions().module()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", [ExcitationBackprop, ContrastiveExcitationBackprop, GuidedBackprop, Deconvnet])
def test_decomposed_programs(method):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU6(), nn.ConvTranspose2d(4, 6, 3, 2), nn.GELU()]
    net = nn.Sequential(*layers, nn.GroupNorm(2, 6), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5))
    net = net.double().eval()
    net[1].weight.data = torch.tensor([0.9, -0.6, 1.2, -1.1], dtype=torch.float64)
    net[1].bias.data.normal_()
    inputs = numbers(2, 3, 8, 8)
    layer = "input" if method.needs_layer else ""
    expected, _ = explained(method, net, inputs[:1], layer)
    found, error = explained(method, decomposed(net, inputs[:1]), inputs[:1], layer)
    torch.testing.assert_close(found, expected, msg=error or None)
    assert found.any()


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.kind, self.part = kind, kind(4, 6, batch_first=True)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.part(self.first(x).relu().flatten(2).mT)[0][:, -1])


class Odd(nn.Module):
    def __init__(self, function, *parts):
        super().__init__()
        self.first, self.parts, self.function = nn.Conv2d(3, 4, 3), nn.ModuleList(parts), function
        self.head = nn.Linear(5, 5)
        for part in (*self.parts, self.head):  # so that whatever is there excites
            for parameter in part.parameters():
                parameter.data.abs_()

    def forward(self, x):
        x = self.first(x).relu()
        return self.head(self.function(x.mean((2, 3)), *self.parts))


def dynamic(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(x, {nn.Linear}, dtype=torch.qint8)


UNACCOUNTED = {
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "rnn_tanh": lambda: Recurrent(nn.RNN),
    "lstm_cell": lambda: Odd(lambda x, cell: cell(x)[0], nn.LSTMCell(4, 5)),
    "bilinear": lambda: Odd(lambda x, layer: layer(x, x), nn.Bilinear(4, 4, 5)),
    "cumsum": lambda: Odd(lambda x, layer: layer(x.cumsum(1)), nn.Linear(4, 5)),
    "sin": lambda: Odd(lambda x, layer: layer(x).clamp(max=1).sin(), nn.Linear(4, 5)),
    "cdist": lambda: Odd(lambda x, layer: torch.cdist(x, layer.weight), nn.Linear(4, 5)),
    "std": lambda: Odd(lambda x, layer: layer(x + x.std(1, keepdim=True)), nn.Linear(4, 5)),
    "addcmul": lambda: Odd(lambda x, layer: torch.addcmul(layer(x), layer(x), layer(x)), nn.Linear(4, 5)),
}


@pytest.mark.parametrize("name", UNACCOUNTED)
def test_probabilities_that_do_not_add_up_are_refused(name):
    torch.manual_seed(3)
    net = UNACCOUNTED[name]().double().eval()
    inputs = numbers(2, 3, 8, 8)
    for method in (ExcitationBackprop, ContrastiveExcitationBackprop):
        with pytest.raises(ValueError, match=rf"stops at {name} \(.*\) in .*, line \d+ of .*, which has no rule"):
            method(layer="first")(net, inputs, 1)


@pytest.mark.filterwarnings("ignore")
def test_kernels_through_which_nothing_flows_are_refused():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    net[4] = dynamic(nn.Sequential(net[4]))
    with pytest.raises(ValueError, match=r"excitation backprop stops at .*of 1 it gives on 0"):
        ExcitationBackprop(layer="0")(net, numbers(1, 3, 8, 8).float(), 1)


def test_what_only_moves_values_may_lose_to_constants():
    """Padding, concatenation and masks with constants, which win what they win."""

    def form(x, layer):
        x = torch.cat([F.pad(x, (1, 0), value=0.5)[:, :4], torch.ones(len(x), 2)], 1)
        x = torch.where(x > 0.01, x, 0.02).index_select(1, torch.tensor([5, 0, 1, 2, 3, 3]))
        return layer(x.expand(2, -1, -1).amax(0))

    net = Odd(form, nn.Linear(6, 5)).double().eval()
    found, error = explained(ExcitationBackprop, net, numbers(2, 3, 8, 8), "first")
    assert not error
    assert (found >= 0).all()
    assert 0 < found[0].sum() < 1


def test_below_the_layer_nothing_is_checked():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softsign(), nn.ELU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 5))
    net.insert(1, Sine())
    found, error = explained(ExcitationBackprop, net.double().eval(), numbers(1, 3, 8, 8), "4")
    assert not error
    assert found.any()


class Sine(nn.Module):
    def forward(self, x):
        return x.sin()


# Torch's own fused layers.


class Loop(nn.Module):
    """What nn.RNN computes, a step at a time."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        hidden, steps = torch.zeros(len(x), 6, dtype=x.dtype), []
        for step in x.unbind(1):
            inner = F.linear(step, self.part.weight_ih_l0, self.part.bias_ih_l0)
            hidden = F.relu(inner + F.linear(hidden, self.part.weight_hh_l0, self.part.bias_hh_l0))
            steps.append(hidden)
        return torch.stack(steps, 1), hidden


def rnn(*sizes, batch_first):
    return nn.RNN(*sizes, nonlinearity="relu", batch_first=batch_first)


@both_rules
def test_recurrent_layers(rule):
    torch.manual_seed(0)
    net = Recurrent(rnn).double().eval()
    found, _ = explained(RECTIFYING[rule], net, numbers(2, 3, 6, 6))
    net.part = Loop(net.part)
    expected, _ = explained(RECTIFYING[rule], net, numbers(2, 3, 6, 6))
    torch.testing.assert_close(found, expected)
    assert found.any()


@both_rules
def test_the_fast_path_of_transformers(rule):
    torch.manual_seed(0)
    embed, head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, batch_first=True
    )  # in evaluation mode it runs as one kernel, if it may

    def of(layer):
        net = nn.ModuleList([embed, layer, head]).double().eval()
        net.forward = lambda x: head(layer(embed(x).flatten(2).mT).mean(1))
        return net

    found, error = explained(RECTIFYING[rule], of(layer), numbers(2, 3, 8, 8))
    assert not error

    class Spelled(nn.Module):
        def forward(self, x):
            x = layer.norm1(x + layer.self_attn(x, x, x, need_weights=True)[0])
            return layer.norm2(x + layer.linear2(F.relu(layer.linear1(x))))

    expected, _ = explained(RECTIFYING[rule], of(Spelled()), numbers(2, 3, 8, 8))
    torch.testing.assert_close(found, expected)
    assert found.any()
