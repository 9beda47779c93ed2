"""Tensors as functions of one number: what elementwise operations make of values of both signs, whatever came by.

`torch.maximum(x, 0)` of an `x` that is nowhere negative does nothing, and yet it is a rectifier; `torch.log(1 + torch.exp(x))`
is one although none of its three operations is. So a chain of elementwise operations is computed once more, on a `grid` of
values in the place of its first tensor: some hundred numbers.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sfumato.model.backward.gates import Operation, spread


@cache
def grid(dtype: torch.dtype) -> Tensor:
    """Values of both signs, denser towards zero, and without it: up to 24, or 8 in half precision, where `exp` ends soon."""
    steps = 28 if torch.finfo(dtype).bits > 16 else 24
    positive = 0.02 * 1.3 ** torch.arange(steps, dtype=torch.float64, device="cpu")
    return torch.cat([-positive.flip(0), positive])


PLACES = 16
"""At so many places of a tensor, as what else comes in may differ from place to place."""

ROOTS = 6
"""A tensor is looked at as a function of so many of those that it was made of, the nearest first."""


@dataclass(eq=False)
class Switch:
    """Whether the rule acts at a rectifier; a larger rectifier that it is a part of switches it off."""

    on: bool = True


class Root:
    """A tensor of which others are functions, known by its place in the graph and not by its values."""

    def __init__(self, x: Tensor) -> None:
        self.node: Any = x if x.is_leaf else x.grad_fn
        """The node that made it; for a leaf of the graph, that tensor."""
        self.output = x.output_nr
        """Which of that node's outputs it is."""
        self.tensor = weakref.ref(x)

    def hook(self, function: Callable[[Tensor], Tensor]) -> None:
        """Change what flows back to it, all ways together."""

        def at_node(signals: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(function(s) if i == self.output and s is not None else s for i, s in enumerate(signals))

        x = self.node if isinstance(self.node, Tensor) else self.tensor()
        if x is not None and (x is self.node or x.grad_fn is self.node):
            x.register_hook(function)  # also where the signal is asked for right there, before the node is run
        else:
            self.node.register_prehook(at_node)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Root) and self.node is other.node and self.output == other.output

    def __hash__(self) -> int:
        return hash((id(self.node), self.output))


@dataclass(eq=False)
class Curve:
    """A tensor as a function of a root."""

    compute: Callable[[], Tensor | None]
    switches: tuple[Switch, ...] = ()
    """Those of the rectifiers on the way from the root."""
    rectified: tuple["Curve", ...] = ()
    """The curves that those rectifiers have."""

    @cached_property
    def values(self) -> Tensor | None:
        """`(G, *s)` at the `grid`, for some places `(*s)`, once they are asked for; `None` where there is no such function."""
        return self.compute()

    def of_rectifier(self, switch: Switch) -> "Curve":
        """The same, of a rectifier."""
        return Curve(lambda: self.values, (*self.switches, switch), (*self.rectified, self))


@dataclass(frozen=True, eq=False)
class Step:
    """An operation whose output is a function of a root."""

    root: Root
    curve: Curve
    arguments: tuple[tuple[Tensor, Curve], ...]
    """Those of the operation's arguments which are functions of the root, and what they are."""
    alone: bool
    """Whether all its arguments are, but for single numbers."""

    @property
    def ruled(self) -> bool:
        """Whether it is nothing but a function of what has a rule already."""
        if len(self.arguments) == 1 and any(switch.on for switch in self.curve.switches):
            return True
        own, others = self.curve.values, [curve.values for curve in self.curve.rectified]
        return own is not None and any(other is not None and multiples(own, other) for other in others)


@dataclass(eq=False)
class Curves:
    """What is known of the tensors of a forward pass."""

    known: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)
    """By tensor: its version, and its curves by root, the nearest first."""

    def clear(self) -> None:
        self.known.clear()

    def of(self, x: Tensor) -> dict[Root, Curve]:
        """What a tensor is known to be a function of."""
        entry = self.known.get(x)
        return entry[1] if entry is not None and entry[0] == x._version else {}

    def keep(self, y: Tensor, curves: dict[Root, Curve], written: bool) -> None:
        """Remember what a tensor is a function of; torch will count it as changed if it has been `written`."""
        if curves:
            self.known[y] = (y._version + written, curves)
        elif y in self.known:
            del self.known[y]

    def follow(self, operation: Operation, roots: Sequence[Root]) -> list[Step]:
        """What an operation that is about to run makes of values of both signs, by root, the nearest first.

        `roots` are its signals as roots. Nothing comes of an operation that is not elementwise, and of one that has several
        signals with nothing in common.
        """
        func, args, kwargs, tensors, signals = operation
        if not elementwise(func):
            return []
        own = {id(x): root for x, root in zip(signals, roots, strict=True)}
        curves: list[tuple[Tensor, dict[Root, Curve]]] = []
        for x in tensors:
            fresh = {own[id(x)]: Curve(partial(at_root, x.shape, x.dtype, x.device))} if id(x) in own else {}
            curves.append((x, fresh | self.of(x)))
        sources = [known for x, known in curves if (id(x) in own if own else known)]
        common = [root for root in sources[0] if all(root in known for known in sources)] if sources else []
        steps = []
        for root in common[:ROOTS]:
            arguments = tuple((x, known[root]) for x, known in curves if root in known)
            switches = tuple(dict.fromkeys(switch for _, curve in arguments for switch in curve.switches))
            rectified = tuple(dict.fromkeys(inner for _, curve in arguments for inner in curve.rectified))
            shape = arguments[0][0].shape
            alone = all(root in known or not x.ndim for x, known in curves)
            functions = {id(x): curve for x, curve in arguments}
            given = _replaced(tuple(args), functions)
            named = {name: _replaced(value, functions) for name, value in kwargs.items()}
            compute = partial(_computed, func, given, named, shape)
            steps.append(Step(root, Curve(compute, switches, rectified), arguments, alone))
        return steps


def one_sign(values: Tensor) -> bool:
    """Whether a curve never crosses zero, as `exp` does not: then it is no matter what an operation makes of the other sign.

    A line crosses it somewhere.
    """
    return not bool((values < 0).any() & (values > 0).any()) and not straight(values)


@cache
def elementwise(func: Any) -> bool:
    """Whether an operation computes each number from those at the same place, or copies."""
    if func.namespace != "aten" or torch.Tag.nondeterministic_seeded in func.tags:
        return False
    name = func._schema.name.removeprefix("aten::")
    if torch.Tag.pointwise in func.tags or name in COPIES:
        return True
    packet = getattr(torch.ops.aten, name.rstrip("_"), None)  # its sibling that is not in place has the mark
    overload = getattr(packet, func._overloadname, None)
    return overload is not None and (torch.Tag.pointwise in overload.tags or name.rstrip("_") in COPIES)


COPIES = (
    *("detach", "alias", "clone", "_to_copy", "lift_fresh", "index_put", "hardswish", "_prelu_kernel"),
    "log_sigmoid_forward",
)
"""Those without torch's mark for elementwise operations, assignments by a mask of truth values among them."""


def at_root(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The curve of a root itself."""
    return _grid_on(dtype, device).view(-1, *[1] * len(shape)).expand(-1, *_sizes(shape))


@cache
def _grid_on(dtype: torch.dtype, device: torch.device) -> Tensor:
    return grid(dtype).to(device, dtype)


def _replaced(value: Any, curves: dict[int, Curve]) -> Any:
    """An argument with curves in the place of tensors, so that nothing holds these."""
    if isinstance(value, tuple | list):
        return [_replaced(part, curves) for part in value]
    return curves.get(id(value), value) if isinstance(value, Tensor) else value


def _sizes(shape: torch.Size) -> list[int]:
    return [len(range(length)[place]) for length, place in zip(shape, spread(shape, PLACES), strict=True)]


def _computed(func: Any, args: Sequence[Any], kwargs: dict[str, Any], shape: torch.Size) -> Tensor | None:
    """What the operation makes of the curves among its arguments, at places of this shape; `None` if that fails."""
    places = spread(shape, PLACES)

    def at_places(value: Any) -> Any:
        if isinstance(value, list):
            return [at_places(part) for part in value]
        if isinstance(value, Curve):
            if value.values is None:
                raise ValueError
            return value.values
        if not isinstance(value, Tensor):
            return value
        if value.is_nested or value.layout is not torch.strided:
            raise ValueError
        return value.detach() if not value.ndim else value.detach().expand(shape)[places]

    try:
        with torch.no_grad():
            given, named = at_places(list(args)), {name: at_places(value) for name, value in kwargs.items()}
            if func._schema.is_mutable:
                given[0] = given[0].clone()
            result = func(*given, **named)
            result = result[0] if isinstance(result, tuple) else result
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
        return None
    fits = isinstance(result, Tensor) and list(result.shape[1:]) == _sizes(shape) and result.ndim > len(shape)
    return result if fits else None


def bent(values: Tensor) -> float:
    r"""The slope $c$ far above zero of a curve `(G, *s)` that is a soft rectifier, like Softplus or ELU; 0 if it is none.

    Far above zero it is straight, far below it is flat, and at zero it bends: it is neither straight there, as `clamp(min=-1)`
    is, nor flat, as `clamp(min=1)` is.
    """
    x = abscissa(values).flatten(1)[:, 0].cpu().to(torch.float64)
    v = values.detach().cpu().to(torch.float64).flatten(1)
    if not v.numel() or not bool(v.isfinite().all()):
        return 0.0
    middle = (x[1:] + x[:-1]) / 2
    slopes = v.diff(dim=0) / x.diff()[:, None]
    top = slopes[-1]
    c = float(top.median())
    slack = 20 * torch.finfo(values.dtype).eps
    if not c > 0 or bool(((top - c).abs() > max(1e-3, slack) * c).any()):
        return 0.0
    far_above, far_below = slopes[middle > 2] / c, slopes[middle < -6] / c
    # In half precision the values next to zero are too coarse.
    near = slopes[(middle < 0) & (middle > (-0.05 if slack < 1e-3 else -0.6))] / c
    straight, flat = ((near - 1).abs() <= max(2e-3, slack)).all(0), (near <= 0.05).all(0)
    if bool(((far_above - 1).abs() > 0.3).any() | (far_below.abs() > 0.1).any() | straight.any() | flat.any()):
        return 0.0
    return c


def multiples(one: Tensor, other: Tensor) -> bool:
    """Whether a curve is another one times a number and plus a number."""
    a, b = (values.detach().cpu().to(torch.float64).flatten(1) for values in (one, other))
    if a.shape != b.shape:
        return False
    a, b = a - a.mean(0), b - b.mean(0)
    factor = (a * b).sum(0) / (b * b).sum(0).clamp(min=1e-30)
    return bool(((a - factor * b).abs() <= 1e-3 * a.abs().amax(0)).all())


def straight(values: Tensor) -> bool:
    """Whether a curve is a line."""
    if not values.is_floating_point():
        return False
    return multiples(values, abscissa(values))


def abscissa(values: Tensor) -> Tensor:
    """The values of the root at which a curve was had, of the curve's shape."""
    longest = grid(torch.float32)
    x = longest if len(values) == len(longest) else grid(torch.float16)
    return x.to(values).view(-1, *[1] * (values.ndim - 1)).expand_as(values)
