"""What tells a rectifier from its values: those that it took and gave, or gives where it is run on noise."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

SAMPLE = 4096
"""So many values, spread over a tensor, tell whether it is the output of a rectifier."""


class Operation(NamedTuple):
    """An operation of torch, about to run."""

    func: Any
    args: Sequence[Any]
    kwargs: dict[str, Any]
    tensors: Sequence[Tensor]
    """Its arguments that are tensors."""
    signals: Sequence[Tensor]
    """Those of them to which a signal flows."""

    def run(self) -> Any:
        return self.func(*self.args, **self.kwargs)

    @property
    def in_place(self) -> bool:
        """Whether it writes into its first argument."""
        return bool(self.func._schema.is_mutable)


def gate(x: Tensor, y: Tensor) -> float:
    r"""The scale $c$ if $y = c\,\sigma(x)$ for a rectifier $\sigma$, minus that if $y = -c\,\sigma(-x)$, 0 if it is none.

    Every rectifier is a product $\sigma(x) = x\,s(x)$ with a gate $s$ that is nearly shut for negative $x$ and open for
    positive $x$. Two kinds are recognised, both by the values of `x` and `y`, tensors of one shape:

    - two slopes, $s = 1$ above zero and $s = \alpha \in [0, 0.5]$ below: ReLU, LeakyReLU, and ReLU6, whose outputs have a
      largest value;
    - a smooth gate, which grows with $x$ from less than 0.1 to 1 and is about a half at zero: SiLU, GELU, Mish. Their scale
      is taken to be a power of two, as in $x\,\sigma(x)$ and $\tfrac{1}{2} x (1 + \operatorname{erf}(x / \sqrt 2))$.

    Where `x` has values of one sign only nothing can be told.
    """
    places = next((some for some in (spread(x.shape, SAMPLE), ()) if _both_signs(x[some])), None)
    if places is None:
        return 0.0
    a, b = (values[places].detach().reshape(-1).cpu().to(torch.float64) for values in (x, y))
    finite = a.isfinite() & b.isfinite() & (a != 0)
    a, b = a[finite], b[finite]
    if not _both_signs(a) or bool((a * b < 0).any()):
        return 0.0
    coarse = max(torch.finfo(values.dtype).eps for values in (x, y))
    return _open(a, b, 8 * coarse) or -_open(-a, -b, 8 * coarse)


def _both_signs(x: Tensor) -> bool:
    return x.numel() > 0 and bool((x.detach() < 0).any() & (x.detach() > 0).any())


@cache
def spread(shape: torch.Size, count: int) -> tuple[slice, ...]:
    """At most `count` places of a tensor, from all over, as slices."""
    steps, sizes = [1] * len(shape), list(shape)
    while torch.Size(sizes).numel() > count:
        longest = max(range(len(sizes)), key=lambda axis: sizes[axis])
        steps[longest] = 2 * steps[longest] + 1  # odd, so that no pattern of pairs is missed
        sizes[longest] = -(-shape[longest] // steps[longest])
    return tuple(slice(None, None, step) for step in steps)


def _open(a: Tensor, b: Tensor, tolerance: float) -> float:
    """The scale, if the gate `b / a` opens as `a` grows; `a` has values of both signs, `b` the same sign or 0."""
    s = b / a
    below, above = s[a < 0], s[a > 0]
    scale = float(above.max())
    if not scale > 0 or float(below.max()) > 0.7 * scale:
        return 0.0
    slack = tolerance * scale
    free = above[b[a > 0] < b.max()]  # not at the largest output, where ReLU6 saturates
    straight = above if 2 * len(free) < len(above) else free
    if float(straight.min()) >= scale - slack:
        return scale if float(below.max() - below.min()) <= slack and float(below.max()) <= 0.5 * scale else 0.0
    order = a.argsort()
    grows = bool((s[order].diff() >= -slack).all())
    smooth = len(a) >= 32 and float(below.min()) <= 0.1 * scale and float(above.min()) >= 0.4 * scale
    if not (grows and smooth):
        return 0.0
    # What lies within reach of small values falls short of the scale, which is 1 or, with a half before it, 2.
    return power_of_two(scale, 0.01 if float(a.max()) > 8 else math.inf)


def power_of_two(scale: float, within: float) -> float:
    """The next power of two, if that is near."""
    if not scale:
        return 0.0
    power = 2.0 ** round(math.log2(scale))
    return power if abs(scale - power) <= within * power else scale


@dataclass(frozen=True, eq=False)
class Trial:
    """An operation that is run on noise, as nobody knows what is inside."""

    operation: Operation
    noise: dict[int, Tensor]
    """By the identity of the arguments to which signals flow."""

    @classmethod
    def of(cls, operation: Operation) -> "Trial":
        generator = torch.Generator("cpu").manual_seed(0)
        noise = {
            id(x): torch.randn(x.shape, generator=generator, dtype=torch.float64, device="cpu").to(x.detach())
            for x in operation.signals
        }
        return cls(operation, noise)

    def symmetric(self) -> bool:
        r"""Whether there is no rectifier inside, as far as symmetry tells: $f(x) + f(-x) = 2 f(0)$.

        So it is with what is linear, normalisation, attention, tanh and sigmoid, of all signals together, and with products,
        of each signal alone; but not where a rectifier is inside. False for an operation that does not stand noise.
        """
        try:
            return self._even(self.noise) or all(self._even({key}) for key in self.noise)
        except Exception:  # noqa: BLE001  # whatever an operation does not stand
            return False

    def gate(self) -> float:
        """The scale, if it is a rectifier and nothing else."""
        if len(self.noise) != 1:
            return 0.0
        try:
            (x,), (y,) = self.noise.values(), self._outputs(1.0, self.noise)
        except Exception:  # noqa: BLE001
            return 0.0
        return gate(x, y) if x.shape == y.shape and plain(x) and plain(y) else 0.0

    def _even(self, of: Collection[int]) -> bool:
        for plus, minus, middle in zip(*(self._outputs(factor, of) for factor in (1.0, -1.0, 0.0)), strict=True):
            size = max(float(values.abs().max()) for values in (plus, minus, middle)) if plus.numel() else 0.0
            slack = max(1e-3, 16 * torch.finfo(plus.dtype).eps) * size
            if not bool(((plus + minus - 2 * middle).abs() <= slack).all()):
                return False
        return True

    def _outputs(self, factor: float, of: Collection[int]) -> list[Tensor]:
        """With so many times the noise for some arguments."""

        def at_noise(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            noise = self.noise.get(id(value))
            return value.detach().clone() if noise is None else (factor if id(value) in of else 1.0) * noise

        with torch.no_grad():
            func, args, kwargs, *_ = self.operation
            result = func(*tree_map(at_noise, tuple(args)), **tree_map(at_noise, kwargs))
        return [y for y in flat((result,)) if y.is_floating_point()]


def plain(values: Tensor) -> bool:
    return values.layout is torch.strided and not values.is_nested


def flat(values: Any) -> list[Tensor]:
    """The tensors in tuples and lists."""
    if isinstance(values, Tensor):
        return [values]
    tensors: list[Tensor] = []
    for value in values if isinstance(values, tuple | list) else ():
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, tuple | list):
            tensors += flat(value)
    return tensors
