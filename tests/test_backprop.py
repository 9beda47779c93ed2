"""The backward methods against naive float64 networks written from the papers, and what they leave behind."""

import json
import pickle
import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from traces import assert_unchanged, state

from sfumato.attribution import Attribution
from sfumato.layers.capture import captured
from sfumato.layers.tokens import laid_out
from sfumato.methods.deconvnet import Deconvnet
from sfumato.methods.excitation_backprop import ContrastiveExcitationBackprop, ExcitationBackprop
from sfumato.methods.grad_cam import GradCAM
from sfumato.methods.gradient import Gradient
from sfumato.methods.guided_backprop import GuidedBackprop
from sfumato.methods.linear_approximation import LinearApproximation
from sfumato.model.backward.rules import BackwardRules
from sfumato.scores import Contrastive, Logit, Output, Probability
from sfumato.settings import as_json, from_json

METHODS = {
    "gradient": Gradient(),
    "deconvnet": Deconvnet(),
    "guided": GuidedBackprop(),
    "linear": LinearApproximation(layer="input"),
    "cam": GradCAM(layer="first"),
    "excitation": ExcitationBackprop(layer="first"),
    "contrastive": ContrastiveExcitationBackprop(layer="first"),
}
INPUT = {name: "input" if kind.needs_layer else "" for name, kind in METHODS.items()}
"""What each calls the model's input."""
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
RULES = ("deconvnet", "guided", "excitation")


def pictures(*shape, seed=0, dtype=torch.float64):
    shape = shape or (2, 3, 6, 6)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# Three small networks with the habits of large ones.


class Plain(nn.Module):
    """Like VGG: sequential, one ReLU in place, fully connected layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 5, 3)
        self.fc1 = nn.Linear(5, 12)
        self.fc2 = nn.Linear(12, 4)

    def forward(self, x):
        x = F.max_pool2d(self.act(self.first(x)), 2)
        x = self.second(x).relu()
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Residual(nn.Module):
    """Like ResNet: batch normalisation, one ReLU module used over and over, `+=`, a mean over space."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x = self.relu(self.norm1(self.first(x)))
        y = self.norm2(self.second(x))
        y += x
        return self.fc(self.relu(y).mean((2, 3)))


class Branching(nn.Module):
    """Like Inception: branches by convolution and by average pooling, joined by concatenation."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.one = nn.Conv2d(4, 3, 1)
        self.three = nn.Conv2d(4, 2, 3, padding=1)
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Conv2d(9, 4, 1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        joined = torch.cat([F.relu(self.one(x)), torch.relu_(self.three(x)), x], 1)
        return F.adaptive_avg_pool2d(self.head(self.pool(joined)).relu_(), 1).flatten(1)


def built(kind, seed=1, biased=True):
    torch.manual_seed(seed)
    net = kind().double().eval()
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = torch.tensor([0.9, -0.6, 1.2, -1.1], dtype=torch.float64)  # also negative ones
            module.bias.data.normal_(0, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            if not biased:
                module.running_mean.zero_()
        if getattr(module, "bias", None) is not None and not biased:
            module.bias.data = -0.1 * module.bias.data.abs()
        if name == "head":  # its classes are seen through a ReLU
            module.weight.data.abs_().sub_(0.1)
    return net


# The reference: every layer a dense matrix over flat vectors, its way back a loop.


class Node:
    def __init__(self, value, shape):
        self.value, self.shape, self.flow = value, shape, np.zeros_like(value)


class Naive:
    def __init__(self, rule, dual=False):
        self.rule, self.back, self.dual, self.layers = rule, [], dual, 0

    def affine(self, x, matrix, bias, shape, weights=True):
        y = Node(matrix @ x.value + bias, shape)

        def back():
            if self.rule != "excitation":
                x.flow += matrix.T @ y.flow
                return
            flipped = -matrix if self.dual and weights and back is self.top else matrix
            for j, probability in enumerate(y.flow):
                parts = [max(w, 0) * max(a, 0) for w, a in zip(flipped[j], x.value, strict=True)]
                total = sum(parts)
                if total > 0:
                    x.flow += probability * np.array(parts) / total

        self.back.append(back)
        if weights:
            self.top = back
        return y

    def convolution(self, x, layer, norm=None):
        """A convolution, with the batch normalisation that follows it multiplied in."""
        (channels, height, width), weight, pad = x.shape, layer.weight.detach().numpy(), layer.padding[0]
        size = weight.shape[2]
        shape = (len(weight), height + 2 * pad - size + 1, width + 2 * pad - size + 1)
        matrix, bias = np.zeros((*shape, channels, height, width)), np.zeros(shape)
        for k, i, j, c, u, v in np.ndindex(*shape, channels, size, size):
            if 0 <= i + u - pad < height and 0 <= j + v - pad < width:
                matrix[k, i, j, c, i + u - pad, j + v - pad] = weight[k, c, u, v]
        for k in range(len(weight)):
            bias[k] = 0 if layer.bias is None else layer.bias[k].item()
            if norm is not None:
                scale = norm.weight[k].item() / (norm.running_var[k].item() + norm.eps) ** 0.5
                matrix[k] *= scale
                bias[k] = scale * (bias[k] - norm.running_mean[k].item()) + norm.bias[k].item()
        return self.affine(x, matrix.reshape(np.prod(shape), -1), bias.ravel(), shape)

    def linear(self, x, layer):
        bias = layer.bias.detach().numpy()
        return self.affine(x, layer.weight.detach().numpy(), bias, bias.shape)

    def relu(self, x):
        y = Node(np.maximum(x.value, 0), x.shape)

        def back():
            for i, flow in enumerate(y.flow):
                open_ = self.rule in ("deconvnet", "excitation") or x.value[i] > 0
                wanted = self.rule in ("gradient", "excitation") or flow > 0
                x.flow[i] += flow if open_ and wanted else 0

        self.back.append(back)
        return y

    def pooled(self, x, size, largest):
        channels, height, width = x.shape
        shape = (channels, height // size, width // size)
        matrix = np.zeros((*shape, *x.shape))
        values = x.value.reshape(x.shape)
        for c, i, j in np.ndindex(*shape):
            places = [(c, i * size + u, j * size + v) for u in range(size) for v in range(size)]
            if largest:
                matrix[(c, i, j, *max(places, key=lambda place: values[place]))] = 1
            else:
                for place in places:
                    matrix[(c, i, j, *place)] = 1 / size**2
        return self.affine(x, matrix.reshape(np.prod(shape), -1), 0, shape, weights=False)

    def added(self, x, y):
        z = Node(x.value + y.value, x.shape)

        def back():
            for i, flow in enumerate(z.flow):
                a, b = max(x.value[i], 0), max(y.value[i], 0)
                if self.rule != "excitation":
                    x.flow[i] += flow
                    y.flow[i] += flow
                elif a + b > 0:
                    x.flow[i] += flow * a / (a + b)
                    y.flow[i] += flow * b / (a + b)

        self.back.append(back)
        return z

    def joined(self, *parts):
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        y = Node(np.concatenate([part.value for part in parts]), shape)

        def back():
            start = 0
            for part in parts:
                part.flow += y.flow[start : start + len(part.value)]
                start += len(part.value)

        self.back.append(back)
        return y

    def run(self, net, picture):
        """Nodes by layer name, before what happens to them in place; the logits under "out"."""
        x = at = None
        x = Node(picture.numpy().ravel(), tuple(picture.shape))
        if isinstance(net, Plain):
            a = self.convolution(x, net.first)
            b = self.convolution(self.pooled(self.relu(a), 2, largest=True), net.second)
            c = self.linear(self.relu(b), net.fc1)
            at = {"": x, "first": a, "second": b, "out": self.linear(self.relu(c), net.fc2)}
        elif isinstance(net, Residual):
            a = self.relu(self.convolution(x, net.first, net.norm1))
            b = self.convolution(a, net.second, net.norm2)
            c = self.relu(self.added(b, a))
            d = self.linear(self.pooled(c, 6, largest=False), net.fc)
            at = {"": x, "norm2": b, "relu": c, "out": d}
        else:
            a = self.convolution(x, net.first)
            b = self.relu(a)
            c, d = self.convolution(b, net.one), self.convolution(b, net.three)
            e = self.pooled(self.joined(self.relu(c), self.relu(d), b), 2, largest=False)
            f = self.relu(self.convolution(e, net.head))
            at = {"": x, "first": a, "three": d, "pool": e, "out": self.pooled(f, 3, largest=False)}
        self.at = at
        return at

    def descend(self, target):
        self.at["out"].flow[target] = 1
        for back in reversed(self.back):
            back()


def naive_map(name, net, picture, target, layer):
    rule = {"cam": "gradient", "linear": "gradient", "contrastive": "excitation"}.get(name, name)
    flows = []
    for dual in (False, True):
        naive = Naive(rule, dual)
        node = naive.run(net, picture)[layer]
        naive.descend(target)
        flows.append(node.flow.reshape(node.shape))
    flow, value = flows[0], node.value.reshape(node.shape)
    if name == "cam":
        result = sum(flow[k].mean() * value[k] for k in range(len(flow)))
        return np.maximum(result, 0)
    if name == "contrastive":
        return np.maximum((flows[0] - flows[1]).sum(0), 0)
    if name == "excitation":
        return flow.sum(0)
    return (flow * value).sum(0) if name == "linear" else np.abs(flow).max(0)


LAYERS = [
    (Plain, ("", "first", "second")),
    (Residual, ("", "norm2", "relu")),
    (Branching, ("", "first", "three", "pool")),
]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("kind", "layer"), [(kind, layer) for kind, layers in LAYERS for layer in layers])
def test_as_the_papers_say(name, kind, layer):
    if name == "cam" and not layer:
        return
    net, inputs, targets = built(kind), pictures(), [2, 1]
    result = replace(METHODS[name], layer=layer or INPUT[name], resize=False)(net, inputs, targets)
    expected = np.stack([naive_map(name, net, x, t, layer) for x, t in zip(inputs, targets, strict=True)])
    np.testing.assert_allclose(result.map[:, 0], expected, rtol=1e-5, atol=1e-7)
    assert result.map.any() or name in ("cam", "contrastive")  # where those clip everything
    with torch.no_grad():
        np.testing.assert_allclose(result.whole, net(inputs)[[0, 1], targets], rtol=1e-5)


@pytest.mark.parametrize("kind", [Plain, Residual, Branching])
def test_probabilities_are_probabilities_at_every_layer(kind):
    # Without positive biases, whatever is active has been excited, and nothing is lost.
    net, inputs = built(kind, biased=False), pictures(seed=2)
    names = [name for name, _ in net.named_modules() if name and not name.startswith(("fc", "head"))]
    sums = {}
    for layer in names:
        found = ExcitationBackprop(layer=layer, resize=False)(net, inputs, 1).map
        assert (found >= 0).all(), layer
        sums[layer] = found.flatten(1).sum(1)
    branches = ("one", "three") if kind is Branching else ("second", "norm2") if kind is Residual else ()
    for layer in names:
        if layer in branches:  # that much of it went this way
            assert ((sums[layer] > 0) & (sums[layer] < 1)).all(), layer
        else:
            torch.testing.assert_close(sums[layer], torch.ones(2), msg=f"{layer}: {sums[layer]}")


def test_a_named_contrast_layer_is_as_good_as_the_default():
    net = built(Plain)
    default = ContrastiveExcitationBackprop(layer="second")(net, pictures(), 2).map
    # The output of fc1 goes through a ReLU into fc2, the last layer; what a linear way down makes of a difference is the same.
    named = ContrastiveExcitationBackprop(layer="second", contrast_layer="fc1")(net, pictures(), 2).map
    torch.testing.assert_close(named, default)
    same = ContrastiveExcitationBackprop(layer="second", contrast_layer="second")(net, pictures(), 2).map
    torch.testing.assert_close(same, default)


# Every way of writing a ReLU.


def modified(x):
    x.relu_()
    return x * 1  # the caller's tensor has changed


def half(x):
    x = x.clone()
    x[:, :2].relu_()
    return torch.cat([x[:, :2], x[:, 2:].relu()], 1)


FORMS = {
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "F.relu by name": lambda x: F.relu(input=x),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "x.relu": lambda x: x.relu(),
    "x.relu_": modified,
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_": lambda x: x.clamp_(0),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "views in place": half,
    "aten": torch.ops.aten.relu.default,
}
EXPECTED = {
    "deconvnet": lambda x, g: g.clamp(min=0),
    "guided": lambda x, g: g.clamp(min=0) * (x > 0),
    "excitation": lambda x, g: g,
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_relu(form, rule):
    leaf, signal = pictures(2, 4, 5).requires_grad_(), pictures(2, 4, 5, seed=1)
    with BackwardRules(rule):
        x = leaf * 1 if rule != "excitation" else leaf.view(2, 4, 5)  # products are ruled there
        x = x.clone()
        y = FORMS[form](x)
    assert torch.equal(y, leaf.detach().clamp(min=0))
    if form in ("F.relu in place", "torch.relu_", "x.relu_", "module in place", "clamp_"):
        assert torch.equal(x, y)
    (found,) = torch.autograd.grad(y, leaf, signal)
    torch.testing.assert_close(found, EXPECTED[rule](leaf, signal))


RECTIFIERS = {
    "ReLU6": nn.ReLU6(),
    "F.relu6": F.relu6,
    "LeakyReLU": nn.LeakyReLU(0.2),
    "leaky in place": nn.LeakyReLU(0.2, inplace=True),
    "PReLU": nn.PReLU().double().requires_grad_(False),
    "ELU": nn.ELU(inplace=True),
    "SELU": nn.SELU(),
    "CELU": nn.CELU(),
    "GELU": nn.GELU(),
    "SiLU": nn.SiLU(),
    "SiLU in place": nn.SiLU(inplace=True),
    "Mish": nn.Mish(),
    "Hardswish": nn.Hardswish(inplace=True),
    "Softplus": nn.Softplus(),
}
OTHERS = {
    "Tanh": nn.Tanh(),
    "Sigmoid": nn.Sigmoid(),
    "Hardsigmoid": nn.Hardsigmoid(),
    "Hardtanh": nn.Hardtanh(),
    "clamped": lambda x: x.clamp(-1, 1),
}


@pytest.mark.parametrize("name", [*RECTIFIERS, *OTHERS])
def test_other_activations(name):
    activation, signal = (RECTIFIERS | OTHERS)[name], pictures(2, 3, 5, seed=1)
    leaf = (4 * pictures(2, 3, 5)).requires_grad_()
    plain = activation(leaf.clone())
    (own,) = torch.autograd.grad(plain, leaf, torch.ones_like(leaf))
    found = {}
    for rule in RULES:
        with BackwardRules(rule):
            y = activation(leaf.clone())
        assert torch.equal(y, plain)
        (found[rule],) = torch.autograd.grad(y, leaf, signal)
    rectified = signal.clamp(min=0) if name in RECTIFIERS else signal
    torch.testing.assert_close(found["guided"], own * rectified)
    torch.testing.assert_close(found["deconvnet"], rectified if name in RECTIFIERS else own * signal)
    if name != "clamped":
        torch.testing.assert_close(found["excitation"], signal)
    if name == "ReLU6":
        torch.testing.assert_close(found["guided"], signal.clamp(min=0) * ((leaf > 0) & (leaf < 6)))


# What else passes probability on.

CONSERVING = {
    "residual": lambda x: x + x.flip(1),
    "added in place": lambda x: x.clone().add_(x.flip(1)),
    "into a constant": lambda x: torch.ones_like(x).add_(x),
    "difference": lambda x: x - x.flip(1) * -1,
    "weighted sum": lambda x: torch.add(x, x.flip(2), alpha=3),
    "shifted and scaled": lambda x: (2 * x + 1 - 0.5) / 3,
    "gate": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "gate first": lambda x: x.mean((2, 3), keepdim=True).sigmoid() * x,
    "gate in place": lambda x: x.clone().mul_(x.sigmoid()),
    "swish by hand": lambda x: x * torch.sigmoid(x),
    "matrix": lambda x: x @ pictures(6, 5, seed=5).abs(),
    "matrix before": lambda x: torch.matmul(pictures(5, 6, seed=5).abs(), x),
    "transposed convolution": lambda x: F.conv_transpose2d(x, pictures(4, 2, 3, 3, seed=5), stride=2),
    "grouped convolution": lambda x: F.conv2d(x, pictures(4, 1, 3, 3, seed=5).abs(), padding=1, groups=4),
    "enlarged": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
    "sum": lambda x: x.sum((2, 3)),
    "padded, moved, joined": lambda x: torch.cat([F.pad(x, (1, 1)), F.pad(x, (1, 1))], 1).movedim(1, 2)[..., 1:-1],
    "group norm": nn.GroupNorm(2, 4).double(),
    "maxima": lambda x: F.max_pool2d(x, 2).amax((2, 3)),
}


@pytest.mark.parametrize("name", CONSERVING)
def test_excitation_loses_nothing(name):
    leaf = pictures(2, 4, 6, 6).abs().requires_grad_()
    with BackwardRules("excitation"):
        y = CONSERVING[name](leaf.clone())
    with torch.no_grad():
        torch.testing.assert_close(CONSERVING[name](leaf.clone()), y)
    prior = torch.rand_like(y) * (y > 0)
    (found,) = torch.autograd.grad(y, leaf, prior)
    assert (found >= 0).all()
    torch.testing.assert_close(found.flatten(1).sum(1), prior.flatten(1).sum(1))


def test_backward_within_the_context_is_not_ruled_again():
    net, inputs = built(Residual), pictures().requires_grad_()
    with BackwardRules("excitation"):
        (within,) = torch.autograd.grad(net(inputs), inputs, torch.eye(4)[[1, 2]])
        outputs = net(inputs)
    (outside,) = torch.autograd.grad(outputs, inputs, torch.eye(4)[[1, 2]])
    torch.testing.assert_close(within, outside)
    assert within.any()


class Tokens(nn.Module):
    """Like a vision transformer."""

    def __init__(self, leading=1):
        super().__init__()
        self.leading = nn.Parameter(torch.randn(1, leading, 8, generator=torch.Generator().manual_seed(1)))
        self.embed = nn.Conv2d(3, 8, 2, 2)
        self.block = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.embed(x).flatten(2).mT
        x = self.block(torch.cat([self.leading.expand(len(x), -1, -1), x], 1)).relu()
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.norm(x).mean(1))


@pytest.mark.parametrize("leading", [1, 5])
@pytest.mark.parametrize("shape", [(12, 12), (12, 8)])
def test_tokens_are_laid_out(leading, shape):
    torch.manual_seed(0)
    net, x = Tokens(leading).eval(), pictures(2, 3, *shape, dtype=torch.float32)
    found = GradCAM(layer="block", resize=False)(net, x, 1).map
    assert found.shape == (2, 1, shape[0] // 2, shape[1] // 2)
    with captured(net, "block", cut=True) as capture:
        outputs = net(x)
    (gradient,) = torch.autograd.grad(outputs[:, 1].sum(), capture.output)
    weights = gradient[:, leading:].mean(1, keepdim=True)
    expected = (weights * capture.output[:, leading:]).sum(2).clamp(min=0).view(found.shape)
    torch.testing.assert_close(found, expected.detach())
    assert GradCAM(layer="block")(net, x, 1).map.shape == (2, 1, *shape)
    # Above the attention, excitation is defined; below, it says that it is not.
    assert ExcitationBackprop(layer="norm")(net, x, 1).map.isfinite().all()
    with pytest.raises(ValueError, match=r"multi_head_attention_forward.*name a layer above"):
        ExcitationBackprop(layer="block")(net, x, 1)


def test_channels_may_come_last():
    values = pictures(2, 5, 4, 6)
    for found, space in ((values.movedim(1, -1), (8, 12)), (values, (8, 12)), (values, (9, 12)), (values, (6, 9))):
        assert torch.equal(laid_out(found, space, "layer"), values)


# What all have in common.


def network(axes=2):
    torch.manual_seed(axes)
    conv, pool = ((nn.Conv1d, nn.MaxPool1d), (nn.Conv2d, nn.MaxPool2d), (nn.Conv3d, nn.MaxPool3d))[axes - 1]
    net = nn.Sequential()
    net.add_module("first", conv(3, 4, 3))
    net.add_module("relu", nn.ReLU(inplace=True))
    net.add_module("pool", pool(2))
    net.add_module("flat", nn.Flatten())
    net.add_module("last", nn.Linear(4 * 3**axes, 5))
    return net.eval()


@every_method
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_space_of_one_to_three_axes(method, axes):
    inputs = pictures(3, 3, *[8] * axes, dtype=torch.float32)
    net, targets = network(axes), torch.tensor([0, 4, 2])
    result = method(net, inputs, targets)
    assert isinstance(result, Attribution)
    assert result.map.shape == (3, 1, *[8] * axes)
    assert result.map.dtype == torch.float32
    assert not result.map.requires_grad
    assert result.masks is None
    torch.testing.assert_close(result.whole, net(inputs)[range(3), targets].detach())
    for row in range(3):  # in any batch, in any chunk
        alone = method(net, inputs[row : row + 1], targets[row : row + 1])
        torch.testing.assert_close(result.map[row : row + 1], alone.map, rtol=1e-4, atol=1e-6)
    chunked = replace(method, memory=1e-9)(net, inputs, targets)
    torch.testing.assert_close(result.map, chunked.map, rtol=1e-4, atol=1e-6)
    rough = replace(method, resize=False)(net, inputs, targets)
    assert rough.map.shape == (3, 1, *[6 if method.layer == "first" else 8] * axes)
    smooth = replace(method, smooth=0.2)(net, inputs, targets)
    assert smooth.map.std() < result.map.std()


@every_method
def test_a_configuration_is_plain_data(method):
    assert from_json(json.loads(json.dumps(as_json(method)))) == method
    assert pickle.loads(pickle.dumps(method)) == method  # noqa: S301
    assert hash(method) == hash(replace(method))
    about = method(network(), pictures(1, 3, 8, 8, dtype=torch.float32), 1).about
    assert from_json(json.loads(json.dumps(about["method"]))) == method
    assert set(about) == {"method", "score", "versions"}


@every_method
def test_scores_of_all_kinds(method):
    net, inputs = network(), pictures(2, 3, 8, 8, dtype=torch.float32)
    plain = method(net, inputs, 1)
    for score in (Logit(1), Output(lambda outputs: outputs[:, 1]), lambda outputs: outputs[:, 1]):
        torch.testing.assert_close(method(net, inputs, score).map, plain.map)
    for score in (Probability(1), Contrastive(1), Logit(1) + 2 * Logit(0)):
        assert method(net, inputs, score).map.isfinite().all()
    if method.layer in ("", "input"):  # any callable has an input
        torch.testing.assert_close(method(net.forward, inputs, 1).map, plain.map)


@every_method
@pytest.mark.parametrize("mode", ["no_grad", "inference_mode", "autocast", "bfloat16", "channels_last"])
def test_modes_of_the_caller(method, mode):
    net, inputs = network(), pictures(2, 3, 8, 8, dtype=torch.float32)
    plain = method(net, inputs, 1).map
    if mode == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            found = method(net, inputs, 1).map
    elif mode == "bfloat16":
        found = method(network().bfloat16(), inputs.bfloat16(), 1).map
    elif mode == "channels_last":
        found = method(net, inputs.contiguous(memory_format=torch.channels_last), 1).map
    else:
        with getattr(torch, mode)():
            found = method(net, inputs.clone(), 1).map
    tolerance = 0.1 if mode in ("autocast", "bfloat16") else 1e-5
    assert found.dtype == torch.float32
    assert not found.is_inference()
    assert (found - plain).norm() <= tolerance * plain.norm()


@pytest.mark.parametrize("reduction", ["max_abs", "sum_abs", "norm", "sum"])
def test_reductions(reduction):
    net, inputs = network(), pictures(1, 3, 8, 8, dtype=torch.float32)
    x = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(x)[0, 1], x)
    found = Gradient(reduction=reduction)(net, inputs, 1).map
    for u, v in np.ndindex(8, 8):
        values = gradient[0, :, u, v].double().numpy()
        expected = {
            "max_abs": max(abs(values)),
            "sum_abs": sum(abs(values)),
            "norm": sum(values**2) ** 0.5,
            "sum": sum(values),
        }[reduction]
        assert found[0, 0, u, v].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


# What is left behind.


class Sensitive(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.first.weight.requires_grad_(False)
        self.error = None
        self.train()

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)), inplace=True)
        if self.error and torch.is_grad_enabled():
            raise self.error
        return self.head(x.mean((2, 3)) + 1e-3 * torch.rand(()))


@every_method
@pytest.mark.parametrize("error", [None, RuntimeError("broken"), KeyboardInterrupt()], ids=str)
def test_nothing_is_left_behind(method, error):
    net, inputs = Sensitive(), pictures(2, 3, 8, 8, dtype=torch.float32)
    before = state(net)
    net.error = error
    if error:
        with pytest.raises(type(error)):
            method(net, inputs, 1)
    else:
        method(net, inputs, 1)
    assert_unchanged(before, state(net))
    for wrong in (5, "dog", lambda outputs: outputs):
        net.error = None
        with pytest.raises(ValueError, match=r"."):
            method(net, inputs, wrong)
    with pytest.raises(ValueError, match="no layer 'firts'. Did you mean 'first'"):
        replace(method, layer="firts")(net, inputs, 1)
    assert_unchanged(before, state(net))


def test_threads_do_not_notice_each_other():
    inputs = pictures(2, 3, 8, 8, dtype=torch.float32)
    nets = {name: network() for name in METHODS}
    alone = {name: method(nets[name], inputs, 1).map for name, method in METHODS.items()}
    wrong, start = [], threading.Barrier(len(METHODS))

    def work(name):
        start.wait()
        for _ in range(10):
            found = METHODS[name](nets[name], inputs, 1).map  # another rule's signals differ by far more than rounding
            wrong.extend([name] if not torch.allclose(found, alone[name], rtol=1e-4, atol=1e-5) else [])

    threads = [threading.Thread(target=work, args=(name,)) for name in METHODS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Layers.


def test_captured():
    net, inputs = built(Residual), pictures()
    with captured(net, "norm2") as capture, torch.no_grad():
        net(inputs)
    with torch.no_grad():
        x = net.norm1(net.first(inputs)).relu()
        torch.testing.assert_close(capture.output, net.norm2(net.second(x)))  # before `+=`
    with captured(net, "relu") as capture:
        net(inputs)
    torch.testing.assert_close(capture.output, (net.norm2(net.second(x)) + x).relu())  # of the last call
    with captured(net, "") as capture:
        net(inputs)
    assert torch.equal(capture.output, inputs)
    with pytest.raises(RuntimeError, match="broken"), captured(net, "relu"):
        raise RuntimeError("broken")
    assert not net.relu._forward_hooks
    with captured(net, "relu") as capture, pytest.raises(ValueError, match="did not call its layer 'relu'"):
        _ = capture.output
    with pytest.raises(ValueError, match="function, which has none"), captured(lambda x: x, "relu"):
        pass


class Odd(nn.Module):
    """A layer that gives two tensors, one without places, one aside, one under no_grad, one never called."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.pair = nn.GRU(36, 3, batch_first=True)
        self.aside = nn.Conv2d(3, 4, 3)
        self.spare = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        self.aside(x)
        with torch.no_grad():
            y = self.first(x)
        return self.head(self.pair(y.flatten(2))[0].flatten(1) + x.mean())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("pair", "puts out a tuple"),
        ("aside", "does not depend on the layer"),
        ("first", r"does not depend on the layer.*no_grad"),
        ("spare", "did not call its layer"),
        ("head", "no places to show"),
        ("haed", "Did you mean 'head'"),
        ("zzz", r"named_modules"),
    ],
)
def test_layers_that_cannot_serve(layer, message):
    with pytest.raises(ValueError, match=message):
        GradCAM(layer=layer)(Odd(), pictures(2, 3, 8, 8, dtype=torch.float32), 1)


def test_tokens_that_fit_no_picture():
    torch.manual_seed(0)
    inputs = pictures(2, 3, 12, 12, dtype=torch.float32)
    found = GradCAM(layer="block", resize=False)(Tokens(18).eval(), inputs, 1).map
    assert found.shape == (2, 1, 6, 6), "any number of leading tokens is seen by how they are made"
    with pytest.raises(ValueError, match="54 tokens.*no grid"):
        laid_out(torch.rand(2, 54, 8), (12, 12), "block")


@pytest.mark.parametrize("rule", ["deconvnet", "guided", "excitation", "contrastive"])
def test_hidden_functions_are_refused(rule):
    net, inputs = network(), pictures(1, 3, 8, 8, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(net, inputs)
        part = nn.Sequential(torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())), nn.Flatten())
        compiled = torch.compile(net, backend="eager")
    for model, words in ((scripted, "torch.jit"), (part, "its part '0'.*torch.jit"), (compiled, "torch.compile")):
        with pytest.raises(ValueError, match=words):
            METHODS[rule](model, inputs, 1)
    with pytest.raises(ValueError, match="torch.compile"):
        GradCAM(layer="first")(compiled, inputs, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gradient(reduction="mean"), "max_abs, sum_abs, norm, sum; got 'mean'"),
        (lambda: Gradient(layer=3), "dotted name"),
        (lambda: GuidedBackprop(smooth=-1), "smooth.*at least 0"),
        (lambda: Deconvnet(memory=0), "memory.*more than 0"),
        (lambda: LinearApproximation(resize=14), "resize is True or False; got 14"),
        (lambda: ContrastiveExcitationBackprop(contrast_layer=None), "contrast_layer"),
        (lambda: BackwardRules("lrp"), "deconvnet, guided, excitation; got 'lrp'"),
        (
            lambda: GradCAM()(network().forward, pictures(1, 3, 8, 8), 1),
            r"GradCAM needs layer.*the model is a method, .*layer=\"input\".*RISE\(\)",
        ),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_refusal_is_not_taken_for_an_error_of_the_model():
    """A sound has the shape of a picture without its batch, but what is wrong here is the attention."""

    class Attention(nn.Module):
        def forward(self, sounds):
            tokens = sounds.unflatten(2, (4, 2))[:, 0]
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).mean(1)

    with pytest.raises(ValueError, match="^excitation backprop is defined for layers with weights"):
        ExcitationBackprop(layer="input")(Attention(), torch.rand(1, 1, 8), 1)
