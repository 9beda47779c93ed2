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
    "vmap of PReLU": (torch.vmap(lambda x: F.prelu(x, torch.full((1,), 0.3, dtype=x.dtype))), lambda x: F.leaky_relu(x, 0.3)),
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
