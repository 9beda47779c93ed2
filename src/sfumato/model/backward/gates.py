"""Recognises a rectifier by its values: by inputs and outputs of a call, or by outputs for noise."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map

SAMPLE = 4096
"""The number of values, spread over a tensor, by which a rectifier is recognised."""


class Operation(NamedTuple):
    """An operation of torch, about to run."""

    func: Any
    args: Sequence[Any]
    kwargs: dict[str, Any]
    tensors: Sequence[Tensor]
    """The arguments that are tensors."""
    signals: Sequence[Tensor]
    """The tensors among the arguments to which a signal flows back."""

    def run(self) -> Any:
        """The result of the operation."""
        return self.func(*self.args, **self.kwargs)

    @property
    def in_place(self) -> bool:
        """Whether the operation writes into its first argument."""
        return bool(self.func._schema.is_mutable)


def gate(x: Float[Tensor, "*P"], y: Float[Tensor, "*P"]) -> float:
    r"""The scale $c$ if $y = c\,\sigma(x)$ for a rectifier $\sigma$, $-c$ if $y = -c\,\sigma(-x)$, or 0 for any other function.

    Every rectifier is a product $\sigma(x) = x\,s(x)$ with a gate $s$ that is nearly 0 for negative $x$ and 1 for positive $x$.
    Two kinds are recognised, both by the values of `x` and `y`:

    - two slopes, $s = 1$ above zero and $s = \alpha \in [0, 0.5]$ below: ReLU, LeakyReLU, and ReLU6, whose outputs have a
      largest value;
    - a smooth gate, which grows with $x$ from less than 0.1 to 1 and is about a half at zero: SiLU, GELU, Mish. Their scale
      is assumed to be a power of two, as in $x\,\sigma(x)$ and $\tfrac{1}{2} x (1 + \operatorname{erf}(x / \sqrt 2))$.

    The scale is 0, too, if `x` has values of one sign only.
    """
    places = next((sample for sample in (spread(x.shape, SAMPLE), ()) if _both_signs(x[sample])), None)
    if places is None:
        return 0.0
    a, b = (values[places].detach().reshape(-1).cpu().to(torch.float64) for values in (x, y))
    finite = a.isfinite() & b.isfinite() & (a != 0)
    a, b = a[finite], b[finite]
    if not _both_signs(a) or bool((a * b < 0).any()):
        return 0.0
    resolution = max(torch.finfo(values.dtype).eps for values in (x, y))
    return _gate_scale(a, b, 8 * resolution) or -_gate_scale(-a, -b, 8 * resolution)


def _both_signs(x: Tensor) -> bool:
    return x.numel() > 0 and bool((x.detach() < 0).any() & (x.detach() > 0).any())


@cache
def spread(shape: torch.Size, count: int) -> tuple[slice, ...]:
    """Slices that choose at most `count` places, spread over a tensor of this shape."""
    steps, sizes = [1] * len(shape), list(shape)
    while torch.Size(sizes).numel() > count:
        longest = max(range(len(sizes)), key=lambda axis: sizes[axis])
        steps[longest] = 2 * steps[longest] + 1  # odd, so that both places of a repeated pair are chosen
        sizes[longest] = -(-shape[longest] // steps[longest])
    return tuple(slice(None, None, step) for step in steps)


def _gate_scale(a: Float[Tensor, " n"], b: Float[Tensor, " n"], tolerance: float) -> float:
    """The scale of `b` if the gate `b / a` opens as `a` grows, else 0. `a` has both signs, `b` the same sign as `a` or 0."""
    s = b / a
    below, above = s[a < 0], s[a > 0]
    scale = float(above.max())
    if not scale > 0 or float(below.max()) > 0.7 * scale:
        return 0.0
    slack = tolerance * scale
    unsaturated = above[b[a > 0] < b.max()]  # not at the largest output, where ReLU6 saturates
    slopes = above if 2 * len(unsaturated) < len(above) else unsaturated
    if float(slopes.min()) >= scale - slack:
        return scale if float(below.max() - below.min()) <= slack and float(below.max()) <= 0.5 * scale else 0.0
    order = a.argsort()
    grows = bool((s[order].diff() >= -slack).all())
    smooth = len(a) >= 32 and float(below.min()) <= 0.1 * scale and float(above.min()) >= 0.4 * scale
    if not (grows and smooth):
        return 0.0
    # For small values the gate has not reached the scale yet, which is 1, or 2 with a factor of a half before it.
    return power_of_two(scale, 0.01 if float(a.max()) > 8 else math.inf)


def power_of_two(scale: float, within: float) -> float:
    """The nearest power of two if `scale` is `within` this share of it, else `scale`."""
    if not scale:
        return 0.0
    power = 2.0 ** round(math.log2(scale))
    return power if abs(scale - power) <= within * power else scale


@dataclass(frozen=True, eq=False)
class Trial:
    """An operation of unknown content that is run on noise."""

    operation: Operation
    noise: dict[int, Tensor]
    """The noise by the identity of the arguments to which signals flow back."""

    @classmethod
    def of(cls, operation: Operation) -> "Trial":
        """A trial with normal noise in the place of each of these arguments."""
        generator = torch.Generator("cpu").manual_seed(0)
        noise = {
            id(x): torch.randn(x.shape, generator=generator, dtype=torch.float64, device="cpu").to(x.detach())
            for x in operation.signals
        }
        return cls(operation, noise)

    def symmetric(self) -> bool:
        r"""Whether $f(x) + f(-x) = 2 f(0)$, so that there is no rectifier inside.

        Linear functions, normalisation, attention, tanh and sigmoid have this symmetry in all signals together, products in
        each signal alone, and functions with a rectifier in neither. False if the operation fails on noise.
        """
        try:
            return self._is_symmetric(self.noise) or all(self._is_symmetric({key}) for key in self.noise)
        except Exception:  # noqa: BLE001  # an operation may fail on noise in any way
            return False

    def gate(self) -> float:
        """The scale of the rectifier if the operation is one, else 0. See `gate`."""
        if len(self.noise) != 1:
            return 0.0
        try:
            (x,), (y,) = self.noise.values(), self._outputs(1.0, self.noise)
        except Exception:  # noqa: BLE001
            return 0.0
        return gate(x, y) if x.shape == y.shape and is_dense(x) and is_dense(y) else 0.0

    def _is_symmetric(self, varied: Collection[int]) -> bool:
        for plus, minus, middle in zip(*(self._outputs(factor, varied) for factor in (1.0, -1.0, 0.0)), strict=True):
            size = max(float(values.abs().max()) for values in (plus, minus, middle)) if plus.numel() else 0.0
            slack = max(1e-3, 16 * torch.finfo(plus.dtype).eps) * size
            if not bool(((plus + minus - 2 * middle).abs() <= slack).all()):
                return False
        return True

    def _outputs(self, factor: float, varied: Collection[int]) -> list[Tensor]:
        """The outputs with `factor` times the noise for the arguments `varied`, and the noise itself for the others."""

        def at_noise(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            noise = self.noise.get(id(value))
            return value.detach().clone() if noise is None else (factor if id(value) in varied else 1.0) * noise

        with torch.no_grad():
            func, args, kwargs, *_ = self.operation
            result = func(*tree_map(at_noise, tuple(args)), **tree_map(at_noise, kwargs))
        return [y for y in flat_tensors((result,)) if y.is_floating_point()]


def is_dense(values: Tensor) -> bool:
    """Whether a tensor is dense, neither sparse nor nested."""
    return values.layout is torch.strided and not values.is_nested


def flat_tensors(values: Any) -> list[Tensor]:
    """The tensors in nested tuples and lists."""
    if isinstance(values, Tensor):
        return [values]
    tensors: list[Tensor] = []
    for value in values if isinstance(values, tuple | list) else ():
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, tuple | list):
            tensors += flat_tensors(value)
    return tensors
