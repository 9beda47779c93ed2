"""Every backward rule beside a slow twin of the same interface, written from its equation a number at a time.

`PROBLEMS` is one list: a rule, a function, what goes into it, and the twin. A new rule needs one more line here.
"""

import itertools
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.methods.gradient import Gradient
from sfumato.methods.guided_backprop import GuidedBackprop
from sfumato.model.backward.excitation import (
    PARTS,
    BatchNormRule,
    ExcitationRule,
    FirstOutputRule,
    NoRule,
    PassRule,
    WeightRule,
)
from sfumato.model.backward.functions import every
from sfumato.model.backward.rectifier_rules import DeconvnetRule, GuidedRule
from sfumato.model.backward.rule import BackwardRule, FunctionRule, RectifierRule
from sfumato.model.backward.rules import BackwardRules


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# A user's own rules.


@dataclass(frozen=True)
class LeakyGuidedRule(RectifierRule):
    """Guided backprop that lets a part of what hinders through."""

    alpha: float = 0.1

    def transform(self, signal):
        return torch.where(signal > 0, signal, self.alpha * signal)


@dataclass(frozen=True)
class ClipRule(RectifierRule):
    """No signal is larger than a limit, which makes a rule to which the size of a signal matters."""

    limit: float = 0.5

    def transform(self, signal):
        return signal.clamp(-self.limit, self.limit)


# What carries a signal back: the rules, and their twins.


@dataclass
class Fast:
    rules: Sequence[BackwardRule]
    function: Callable[..., Tensor]

    def back(self, inputs: Sequence[Tensor], signal: Tensor) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in inputs]
        with BackwardRules(*self.rules):
            y = self.function(*(x.view(x.shape) for x in leaves))
        return [
            torch.zeros_like(x) if g is None else g
            for x, g in zip(leaves, torch.autograd.grad(y, leaves, signal, allow_unused=True), strict=True)
        ]


@dataclass
class LiteralRectifier:
    r"""Of $y = c\,\sigma(x)$, or $c\,\sigma(-x)$ where $c$ is negative, for one $x$ at a time."""

    transforms: Sequence[Callable[[float], float]]
    derivative: bool
    slope: Callable[[float], float]
    scale: float = 1

    def back(self, inputs: Sequence[Tensor], signal: Tensor) -> list[Tensor]:
        (x,) = inputs
        result = torch.zeros_like(x)
        for index in itertools.product(*map(range, x.shape)):
            direction = 1 if self.scale > 0 else -1
            at_rectifier = self.scale * signal[index].item()
            for transform in self.transforms:
                at_rectifier = transform(at_rectifier)
            if self.derivative:
                at_rectifier *= self.slope(direction * x[index].item())
            result[index] = direction * at_rectifier
        return [result]


@dataclass
class LiteralExcitation:
    r"""$P(a_i) = \sum_j \frac{w^+_{ij} a_i}{\sum_{i'} w^+_{i'j} a_{i'}} P(y_j)$, the $i$ being the numbers of all inputs."""

    function: Callable[..., Tensor]
    """Linear but for a bias: its weights are what it makes of each unit vector."""
    directions: Sequence[int] = (1,)

    def back(self, inputs: Sequence[Tensor], signal: Tensor) -> list[Tensor]:
        nothing = [torch.zeros_like(x) for x in inputs]
        bias = self.function(*nothing).flatten()
        units = [(k, i) for k, x in enumerate(inputs) for i in range(x.numel())]
        shares = [torch.zeros(x.numel(), dtype=x.dtype) for x in inputs]
        excitement = []
        for k, i in units:
            unit = [x.clone() for x in nothing]
            unit[k].view(-1)[i] = 1
            weights = self.function(*unit).flatten() - bias
            excitement.append(
                [
                    max(self.directions[k] * w, 0) * max(self.directions[k] * inputs[k].flatten()[i].item(), 0)
                    for w in weights.tolist()
                ]
            )
        for j, probability in enumerate(signal.flatten().tolist()):
            total = sum(row[j] for row in excitement)
            for (k, i), row in zip(units, excitement, strict=True):
                shares[k][i] += probability * row[j] / total if total > 0 else 0
        return [share.view(x.shape) for share, x in zip(shares, inputs, strict=True)]


@dataclass
class LiteralPass:
    """All to one of the inputs, as it is."""

    to: int = 0

    def back(self, inputs: Sequence[Tensor], signal: Tensor) -> list[Tensor]:
        return [signal if index == self.to else torch.zeros_like(x) for index, x in enumerate(inputs)]


def positive_part(signal: float) -> float:
    return max(signal, 0)


def leaky_part(signal: float) -> float:
    return signal if signal > 0 else 0.3 * signal


def clipped(signal: float) -> float:
    return min(max(signal, -0.5), 0.5)


RULES_OF_RECTIFIERS = {
    "deconvnet": ((DeconvnetRule(),), (positive_part,), False),
    "guided": ((GuidedRule(),), (positive_part,), True),
    "leaky guided": ((LeakyGuidedRule(0.3),), (leaky_part,), True),
    "clip": ((ClipRule(0.5),), (clipped,), True),
    "leaky guided, then clip": ((LeakyGuidedRule(0.3), ClipRule(0.5)), (leaky_part, clipped), True),
    "clip, then deconvnet": ((ClipRule(0.5), DeconvnetRule()), (clipped, positive_part), False),
}
ACTIVATIONS = {
    "relu": (F.relu, lambda x: x > 0, 1),
    "in place": (lambda x: F.relu((x * 1)[:], inplace=True), lambda x: x > 0, 1),
    "relu by hand": (lambda x: torch.maximum(x, torch.zeros(())), lambda x: x > 0, 1),
    "relu of several operations": (lambda x: (x + x.abs()) / 2, lambda x: x > 0, 1),
    "twice a relu": (lambda x: x + x.abs(), lambda x: x > 0, 2),
    "turned about": (lambda x: torch.minimum(x, torch.zeros(())), lambda x: x > 0, -1),
    "twice, turned about": (lambda x: x - x.abs(), lambda x: x > 0, -2),
    "relu6": (F.relu6, lambda x: 0 < x < 6, 1),
    "leaky relu": (lambda x: F.leaky_relu(x, 0.2), lambda x: 1 if x > 0 else 0.2, 1),
    "elu": (F.elu, lambda x: 1 if x > 0 else math.exp(x), 1),
    "softplus by hand": (lambda x: torch.log(1 + torch.exp(x)), lambda x: 1 / (1 + math.exp(-x)), 1),
}
WEIGHT, KERNEL = numbers(5, 4, seed=7), numbers(3, 2, 3, seed=9)
SCALES = torch.tensor([0.9, -0.6, 1.2], dtype=torch.float64)
STATISTICS = (torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
BIAS = numbers(5, seed=8)


def plain_normalisation(x):
    """What batch normalisation makes of a convolution's output: that output, times a number a channel."""
    return F.conv1d(x, KERNEL) * SCALES[:, None]


LAYERS = {
    "linear": (lambda x: F.linear(x, WEIGHT, BIAS), (3, 4)),
    "convolution": (lambda x: F.conv1d(x, KERNEL, stride=2, padding=1), (2, 2, 5)),
    "transposed convolution": (lambda x: F.conv_transpose1d(x, KERNEL, stride=2), (2, 3, 3)),
    "addmm": (lambda x: torch.addmm(BIAS, x, WEIGHT.T, beta=0.5, alpha=2), (3, 4)),
    "matmul": (lambda x: x @ WEIGHT.T, (3, 4)),
    "matmul, by name": (lambda x: torch.matmul(x, other=WEIGHT.T), (3, 4)),
    "matmul, other order": (lambda x: torch.matmul(WEIGHT, x), (4, 3)),
    "batched": (lambda x: torch.bmm(x, mat2=WEIGHT.T.expand(2, 4, 5)), (2, 3, 4)),
    "einsum": (lambda x: torch.einsum("oi,ni->no", WEIGHT, x), (3, 4)),
    "pooling": (lambda x: F.avg_pool1d(x, 2), (2, 2, 4)),
    "mean": (lambda x: x.mean(1), (3, 4)),
    "sum": (lambda x: x.sum(0), (3, 4)),
    "interpolation": (lambda x: F.interpolate(x, scale_factor=2, mode="linear"), (1, 2, 3)),
}
SUMS = {
    "sum of two": (torch.add, (1, 1)),
    "sum of two, by name": (lambda x, y: torch.add(x, other=y), (1, 1)),
    "in place": (lambda x, y: x.clone().add_(y, alpha=2), (1, 1)),
    "difference": (lambda x, y: x - y, (1, -1)),
    "difference, weighted": (lambda x, y: torch.sub(x, y, alpha=-3), (1, 1)),
}


def first(output):
    return output[0]


# The function, of how many inputs of what shape, to which of these all goes.
PASSING = {
    "tanh": (torch.tanh, ((3, 4),), 0),
    "layer norm": (lambda x: F.layer_norm(x, (4,)), ((3, 4),), 0),
    "native layer norm": (lambda x: first(torch.native_layer_norm(x, (4,), None, None, 1e-5)), ((3, 4),), 0),
    "bounded": (lambda x: x.clamp(-1, 1), ((3, 4),), 0),
    "gate": (lambda x, gate: x * gate, ((3, 4), (3, 4)), 0),
    "gate, by name": (lambda x, gate: torch.mul(x, other=gate), ((3, 4), (3, 4)), 0),
    "gate first": (lambda gate, x: gate * x, ((3, 1), (3, 4)), 1),
    "glu": (lambda x, gate: F.glu(torch.cat([x, gate], 1), 1), ((3, 4), (3, 4)), 0),
    "batch norm of a sum": (lambda x: F.batch_norm(x, *STATISTICS, SCALES), ((3, 3),), 0),
}


@dataclass
class Problem:
    fast: Fast
    twin: LiteralRectifier | LiteralExcitation | LiteralPass
    shapes: Sequence[tuple[int, ...]]


EXCITATION = (ExcitationRule(),)
PROBLEMS = {
    f"{rule}: {name}": Problem(Fast(rules, function), LiteralRectifier(transforms, derivative, slope, scale), [(3, 8)])
    for rule, (rules, transforms, derivative) in RULES_OF_RECTIFIERS.items()
    for name, (function, slope, scale) in ACTIVATIONS.items()
}
PROBLEMS |= {
    f"excitation: {name}": Problem(Fast(EXCITATION, function), LiteralExcitation(function), [shape])
    for name, (function, shape) in LAYERS.items()
}
PROBLEMS |= {
    f"excitation: {name}": Problem(
        Fast(EXCITATION, function), LiteralExcitation(function, directions), [(3, 4), (3, 4)]
    )
    for name, (function, directions) in SUMS.items()
}
PROBLEMS |= {
    f"excitation: {name}": Problem(Fast(EXCITATION, function), LiteralPass(to), shapes)
    for name, (function, shapes, to) in PASSING.items()
}
PROBLEMS |= {
    f"excitation: {name}": Problem(Fast(EXCITATION, function), LiteralExcitation(plain_normalisation), [(2, 2, 4)])
    for name, function in {
        "batch norm": lambda x: F.batch_norm(F.conv1d(x, KERNEL), *STATISTICS, SCALES),
        "native batch norm": lambda x: first(
            torch.native_batch_norm(F.conv1d(x, KERNEL), SCALES, None, *STATISTICS, False, 0.1, 1e-5)
        ),
    }.items()
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_rule_is_its_literal_twin(name):
    problem = PROBLEMS[name]
    inputs = [3 * numbers(*shape, seed=seed) for seed, shape in enumerate(problem.shapes)]
    signal = numbers(*problem.fast.function(*inputs).shape, seed=5)
    for fast, literal in zip(
        problem.fast.back(inputs, signal), problem.twin.back(inputs, signal), strict=True
    ):  # float64 sums in another order; softplus by hand is straight to three digits only far above zero
        torch.testing.assert_close(fast, literal, rtol=1e-4 if "softplus" in name else 1e-9, atol=1e-10)


def test_every_part_of_excitation_has_a_twin():
    """A part that no problem calls would have none; `NoRule` has no equation, and an error of its own."""
    parts = [part for part in PARTS if not isinstance(part, NoRule)]
    called = set()

    @dataclass(frozen=True)
    class Watching(FunctionRule):
        part: FunctionRule | None = None

        def __call__(self, func, *args, **kwargs):
            called.add(self.part)
            return self.part(func, *args, **kwargs)

    rule = ExcitationRule(tuple(Watching(part.of, part) for part in parts))
    for name, problem in PROBLEMS.items():
        if name.startswith("excitation"):
            inputs = [numbers(*shape) for shape in problem.shapes]
            function = problem.fast.function
            Fast((rule,), function).back(inputs, torch.ones_like(function(*inputs)))
    assert called == set(parts)


# Rules that users write, add and combine.


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)).double().eval()


def test_a_method_of_one_s_own_rule():
    """From guided backprop, with no leak, to the gradient, where all leaks."""

    @dataclass(frozen=True)
    class Guided(Gradient):
        rules: ClassVar = LeakyGuidedRule(0.0)

    @dataclass(frozen=True)
    class Leaking(Gradient):
        rules: ClassVar = LeakyGuidedRule(1.0)

    net, inputs = network(), numbers(2, 3, 8, 8)
    for method, same in ((Guided, GuidedBackprop), (Leaking, Gradient)):
        torch.testing.assert_close(method()(net, inputs, 1).map, same()(net, inputs, 1).map)
    assert not torch.allclose(Guided()(net, inputs, 1).map, Leaking()(net, inputs, 1).map)


@dataclass(frozen=True)
class SineRule(FunctionRule):
    """Hands on what it gets, where the paper has no rule."""

    of: frozenset = every("sin")
    conserves: ClassVar[bool] = True

    def __call__(self, func, x):
        return PassRule()(func, x)


@dataclass(frozen=True)
class LossyRule(SineRule):
    """Loses half."""

    def __call__(self, func, x):
        return 0.5 * func(x) + 0.5 * func(x).detach()


def test_a_rule_is_added_to_excitation():
    leaf, prior = numbers(3, 4).abs().requires_grad_(), numbers(3, 5, seed=1).abs()

    def network(x):
        return F.linear(torch.sin(x), WEIGHT.abs())

    with BackwardRules(ExcitationRule()) as alone:
        y = network(leaf * 1)
    with pytest.raises(ValueError, match="excitation backprop stops at sin"):
        alone.check(y, [leaf])
    with BackwardRules("excitation", SineRule()) as rules:
        y = network(leaf * 1)
    rules.check(y, [leaf])
    (share,) = torch.autograd.grad(y, leaf, prior)
    torch.testing.assert_close(share.sum(1), prior.sum(1))
    with BackwardRules("excitation", LossyRule()) as lossy:
        y = network(leaf * 1)
    with pytest.raises(ValueError, match=r"excitation backprop and LossyRule stops at .*Mul.*do not add up"):
        lossy.check(y, [leaf])


def test_a_rule_of_rectifiers_comes_before_one_of_functions():
    """Excitation that is blocked where a unit is silent: its signal takes the derivative of a ReLU, and nothing else."""
    leaf, signal = numbers(3, 4).requires_grad_(), numbers(3, 5, seed=1)
    expected = LiteralExcitation(lambda x: F.linear(x, WEIGHT)).back([leaf.detach().relu()], signal)[0]
    for form in (torch.relu, lambda x: torch.maximum(x, torch.zeros(()))):
        for rules in ((ExcitationRule(), GuidedRule()), (GuidedRule(), ExcitationRule())):
            with BackwardRules(*rules):
                y = F.linear(form(leaf.view(3, 4)), WEIGHT)
            (share,) = torch.autograd.grad(y, leaf, signal)
            torch.testing.assert_close(share, expected.clamp(min=0) * (leaf > 0))


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, signal):
        return signal / 2


@dataclass(frozen=True)
class HalvedRule(FunctionRule):
    """A backward pass that is a function of the user's own, with more after it."""

    of: frozenset = every("softplus")

    def __call__(self, func, x):
        return Halved.apply(x) * 1


def test_a_rule_s_own_function_is_not_taken_for_a_rectifier():
    """What a rule computes is its own business: here a clamp, in an `autograd.Function` that deconvnet would take over."""
    leaf, signal = numbers(3, 4).requires_grad_(), numbers(3, 4, seed=1)

    @dataclass(frozen=True)
    class SigmoidRule(HalvedRule):
        of: frozenset = every("sigmoid")

    with BackwardRules(DeconvnetRule(), SigmoidRule()):
        y = torch.sigmoid(torch.relu(leaf * 1)) * 1
    (result,) = torch.autograd.grad(y, leaf, signal)
    torch.testing.assert_close(result, signal.clamp(min=0) / 2)
    with BackwardRules(DeconvnetRule(), HalvedRule()):  # a rectifier by its name is one, whatever names it too
        y = F.softplus(leaf * 1)
    torch.testing.assert_close(y, F.softplus(leaf))
    torch.testing.assert_close(torch.autograd.grad(y, leaf, signal)[0], signal.clamp(min=0))


def test_where_two_rules_have_a_function_the_last_one_counts():
    leaf, signal = numbers(3, 4).abs().requires_grad_(), numbers(3, 4, seed=1)
    for rules, factor in (((SineRule(), LossyRule()), 0.5 * leaf.cos()), ((LossyRule(), SineRule()), 1)):
        with BackwardRules(*rules):
            y = torch.sin(leaf * 1)
        torch.testing.assert_close(torch.autograd.grad(y, leaf, signal)[0], factor * signal)


def test_rules_are_plain_objects():
    assert BackwardRules("guided").rules == BackwardRules(GuidedRule()).rules
    assert repr(BackwardRules("excitation", LeakyGuidedRule(0.5))) == (
        "BackwardRules(ExcitationRule(), LeakyGuidedRule(alpha=0.5))"
    )
    for rule in (DeconvnetRule(), GuidedRule(), LeakyGuidedRule(0.3)):
        assert pickle.loads(pickle.dumps(rule)) == rule  # noqa: S301
        assert hash(rule) == hash(type(rule)(*vars(rule).values()))
    # A group is taken apart and put together again.
    assert ExcitationRule().functions() == ExcitationRule(tuple(reversed(PARTS))).functions()
    fewer = ExcitationRule(tuple(part for part in PARTS if not isinstance(part, WeightRule)))
    assert F.linear not in fewer.functions()
    assert isinstance(fewer.functions()[torch.native_batch_norm], FirstOutputRule)
    assert isinstance(fewer.functions()[torch.batch_norm], BatchNormRule)


@dataclass(frozen=True)
class SummingRule(RectifierRule):
    def transform(self, signal):
        return signal.sum(1)


@dataclass(frozen=True)
class Nameless(FunctionRule):
    def __call__(self, func, x):
        return func(x)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((), "no rule given; give one of deconvnet, guided, excitation"),
        ((GuidedRule,), r"got <class .*GuidedRule'>\. Give one of these, or an object, as GuidedRule\(\)"),
        (("guided", "gided"), "got 'gided'"),
        ((Nameless(),), r"Nameless\(\) names no functions; write of=every"),
    ],
)
def test_what_is_no_rule_is_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        BackwardRules(*rules)


def test_a_rule_that_changes_the_shape_is_refused():
    leaf = numbers(3, 4).requires_grad_()
    with BackwardRules(SummingRule()):
        y = torch.relu(leaf)
    with pytest.raises(ValueError, match=r"SummingRule\(\).transform must give .* \[3, 4\]; it gave \[3\]"):
        y.sum().backward()
