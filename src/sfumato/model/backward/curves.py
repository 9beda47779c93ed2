"""Chains of elementwise operations as functions of one number, computed for values of both signs.

`torch.maximum(x, 0)` is a rectifier, but changes nothing if no value of `x` is negative. `torch.log(1 + torch.exp(x))` is a
rectifier, but none of its three operations is. So each chain of elementwise operations is computed once more with a `grid` of
about fifty values in the place of its first tensor, and the resulting curve shows whether the chain is a rectifier.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sfumato.model.backward.gates import Operation, spread


@cache
def grid(dtype: torch.dtype) -> Float[Tensor, " G"]:
    """Values of both signs, denser towards zero and without zero: up to 24, or 8 in half precision, where `exp` overflows."""
    steps = 28 if torch.finfo(dtype).bits > 16 else 24
    positive = 0.02 * 1.3 ** torch.arange(steps, dtype=torch.float64, device="cpu")
    return torch.cat([-positive.flip(0), positive])


PLACES = 16
"""The number of places of a tensor at which a curve is computed, as other operands may differ from place to place."""

ROOTS = 6
"""The number of earlier tensors as functions of which a tensor is examined, the nearest first."""


@dataclass(eq=False)
class Switch:
    """Whether the rule applies at a rectifier. A larger rectifier that contains it switches it off."""

    on: bool = True


class Root:
    """A tensor of which others are functions. It is identified by its place in the graph, not by its values."""

    def __init__(self, x: Tensor) -> None:
        self.node: Any = x if x.is_leaf else x.grad_fn
        """The node that made the tensor; for a leaf of the graph, the tensor itself."""
        self.output = x.output_nr
        """The index of the tensor among the node's outputs."""
        self.tensor = weakref.ref(x)

    def hook(self, function: Callable[[Tensor], Tensor]) -> None:
        """Change the sum of all signals that flow back to the tensor."""

        def at_node(signals: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(function(s) if i == self.output and s is not None else s for i, s in enumerate(signals))

        x = self.node if isinstance(self.node, Tensor) else self.tensor()
        if x is not None and (x is self.node or x.grad_fn is self.node):
            x.register_hook(function)  # a hook on the node would not run if the gradient of the tensor itself is wanted
        else:
            self.node.register_prehook(at_node)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Root) and self.node is other.node and self.output == other.output

    def __hash__(self) -> int:
        return hash((id(self.node), self.output))


@dataclass(eq=False)
class Curve:
    """A tensor as a function of a root."""

    compute: Callable[[], Shaped[Tensor, " G *s"] | None]
    switches: tuple[Switch, ...] = ()
    """The switches of the rectifiers between the root and the tensor."""
    rectified: tuple["Curve", ...] = ()
    """The curves of the outputs of these rectifiers."""

    @cached_property
    def values(self) -> Shaped[Tensor, " G *s"] | None:
        """The values at the `grid`, for some places `*s`, computed on first use; `None` if that is impossible."""
        return self.compute()

    def of_rectifier(self, switch: Switch) -> "Curve":
        """This curve as the output of a rectifier with this switch."""
        return Curve(lambda: self.values, (*self.switches, switch), (*self.rectified, self))


@dataclass(frozen=True, eq=False)
class Dependence:
    """The output of an operation as a function of one root."""

    root: Root
    curve: Curve
    arguments: tuple[tuple[Tensor, Curve], ...]
    """The operation's arguments that are functions of the root, with their curves."""
    alone: bool
    """Whether all its arguments are functions of the root, except for single numbers."""

    @property
    def ruled(self) -> bool:
        """Whether the output is a function of a rectifier that has a rule already, and of nothing else."""
        if len(self.arguments) == 1 and any(switch.on for switch in self.curve.switches):
            return True
        values = self.curve.values
        rectified = [curve.values for curve in self.curve.rectified]
        return values is not None and any(inner is not None and multiples(values, inner) for inner in rectified)


@dataclass(eq=False)
class Curves:
    """The curves of the tensors of a forward pass."""

    known: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)
    """By tensor: its version, and its curves by root, the nearest first."""

    def clear(self) -> None:
        self.known.clear()

    def of(self, x: Tensor) -> dict[Root, Curve]:
        """The curves of a tensor by root; none if it has been changed in place since they were stored."""
        entry = self.known.get(x)
        return entry[1] if entry is not None and entry[0] == x._version else {}

    def keep(self, y: Tensor, curves: dict[Root, Curve], written: bool) -> None:
        """Store the curves of a tensor. With `written`, an operation in place is about to raise the tensor's version."""
        if curves:
            self.known[y] = (y._version + written, curves)
        elif y in self.known:
            del self.known[y]

    def follow(self, operation: Operation, roots: Sequence[Root]) -> list[Dependence]:
        """The output of an operation that is about to run as a function of each root, the nearest first.

        `roots` are the operation's signals as roots. The list is empty if the operation is not elementwise, or if its signals
        have no root in common.
        """
        func, args, kwargs, tensors, signals = operation
        if not is_elementwise(func):
            return []
        root_of = {id(x): root for x, root in zip(signals, roots, strict=True)}
        curves: list[tuple[Tensor, dict[Root, Curve]]] = []
        for x in tensors:
            identity = {root_of[id(x)]: Curve(partial(at_root, x.shape, x.dtype, x.device))} if id(x) in root_of else {}
            curves.append((x, identity | self.of(x)))
        sources = [by_root for x, by_root in curves if (id(x) in root_of if root_of else by_root)]
        common = [root for root in sources[0] if all(root in by_root for by_root in sources)] if sources else []
        dependences = []
        for root in common[:ROOTS]:
            arguments = tuple((x, by_root[root]) for x, by_root in curves if root in by_root)
            switches = tuple(dict.fromkeys(switch for _, curve in arguments for switch in curve.switches))
            rectified = tuple(dict.fromkeys(inner for _, curve in arguments for inner in curve.rectified))
            shape = arguments[0][0].shape
            alone = all(root in by_root or not x.ndim for x, by_root in curves)
            functions = {id(x): curve for x, curve in arguments}
            curve_args = _with_curves(tuple(args), functions)
            curve_kwargs = {name: _with_curves(value, functions) for name, value in kwargs.items()}
            compute = partial(_compute_curve, func, curve_args, curve_kwargs, shape)
            dependences.append(Dependence(root, Curve(compute, switches, rectified), arguments, alone))
        return dependences


def has_one_sign(values: Shaped[Tensor, " G *s"]) -> bool:
    """Whether a curve never crosses zero, like `exp`. An operation on it then has no values of the other sign.

    A line crosses zero somewhere, perhaps outside of the grid.
    """
    return not bool((values < 0).any() & (values > 0).any()) and not is_straight(values)


@cache
def is_elementwise(func: Any) -> bool:
    """Whether an operation computes each number from those at the same place, or copies them."""
    if func.namespace != "aten" or torch.Tag.nondeterministic_seeded in func.tags:
        return False
    name = func._schema.name.removeprefix("aten::")
    if torch.Tag.pointwise in func.tags or name in COPIES:
        return True
    packet = getattr(torch.ops.aten, name.rstrip("_"), None)  # the variant that is not in place has the tag
    overload = getattr(packet, func._overloadname, None)
    return overload is not None and (torch.Tag.pointwise in overload.tags or name.rstrip("_") in COPIES)


COPIES = (
    *("detach", "alias", "clone", "_to_copy", "lift_fresh", "index_put", "hardswish", "_prelu_kernel"),
    "log_sigmoid_forward",
)
"""Elementwise operations without torch's tag `pointwise`. `index_put` is an assignment by a boolean mask."""


def at_root(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Float[Tensor, " G *s"]:
    """The values of the root's own curve, which is the identity."""
    return _grid_on(dtype, device).view(-1, *[1] * len(shape)).expand(-1, *_sizes(shape))


@cache
def _grid_on(dtype: torch.dtype, device: torch.device) -> Float[Tensor, " G"]:
    return grid(dtype).to(device, dtype)


def _with_curves(value: Any, curves: dict[int, Curve]) -> Any:
    """An argument with curves in the place of tensors, so that the curve to compute does not keep the tensors alive."""
    if isinstance(value, tuple | list):
        return [_with_curves(part, curves) for part in value]
    return curves.get(id(value), value) if isinstance(value, Tensor) else value


def _sizes(shape: torch.Size) -> list[int]:
    return [len(range(length)[place]) for length, place in zip(shape, spread(shape, PLACES), strict=True)]


def _compute_curve(
    func: Any, args: Sequence[Any], kwargs: dict[str, Any], shape: torch.Size
) -> Shaped[Tensor, " G *s"] | None:
    """The result of the operation for the curves among its arguments, at some places of this shape; `None` if that fails."""
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
            positional, named = at_places(list(args)), {name: at_places(value) for name, value in kwargs.items()}
            if func._schema.is_mutable:
                positional[0] = positional[0].clone()
            result = func(*positional, **named)
            result = result[0] if isinstance(result, tuple) else result
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
        return None
    fits = isinstance(result, Tensor) and list(result.shape[1:]) == _sizes(shape) and result.ndim > len(shape)
    return result if fits else None


def soft_slope(values: Float[Tensor, " G *s"]) -> float:
    r"""The slope $c$ far above zero if the curve is a soft rectifier, like Softplus or ELU; otherwise 0.

    Such a curve is straight far above zero, flat far below zero, and bends at zero. There it is neither straight, as
    `clamp(min=-1)` is, nor flat, as `clamp(min=1)` is.
    """
    x = at_each_place(abscissa(values))[:, 0].cpu().to(torch.float64)
    v = at_each_place(values.detach().cpu().to(torch.float64))
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
    # In half precision the values next to zero are too coarse, so that the range is wider.
    near = slopes[(middle < 0) & (middle > (-0.05 if slack < 1e-3 else -0.6))] / c
    straight, flat = ((near - 1).abs() <= max(2e-3, slack)).all(0), (near <= 0.05).all(0)
    if bool(((far_above - 1).abs() > 0.3).any() | (far_below.abs() > 0.1).any() | straight.any() | flat.any()):
        return 0.0
    return c


def multiples(first: Shaped[Tensor, "G ..."], second: Shaped[Tensor, "G ..."]) -> bool:
    """Whether one curve is a linear function of the other, at every place."""
    a, b = (at_each_place(values.detach().cpu().to(torch.float64)) for values in (first, second))
    if a.shape != b.shape:
        return False
    a, b = a - a.mean(0), b - b.mean(0)
    factor = (a * b).sum(0) / (b * b).sum(0).clamp(min=1e-30)
    return bool(((a - factor * b).abs() <= 1e-3 * a.abs().amax(0)).all())


def at_each_place(values: Shaped[Tensor, " G *s"]) -> Shaped[Tensor, "G n"]:
    """The values of a curve in a column for each place; a scalar has one."""
    return values.flatten(1) if values.ndim > 1 else values[:, None]


def is_straight(values: Shaped[Tensor, " G *s"]) -> bool:
    """Whether a curve is a line."""
    if not values.is_floating_point():
        return False
    return multiples(values, abscissa(values))


def abscissa(values: Shaped[Tensor, " G *s"]) -> Shaped[Tensor, " G *s"]:
    """The values of the root for which a curve was computed."""
    full = grid(torch.float32)
    x = full if len(values) == len(full) else grid(torch.float16)
    return x.to(values).view(-1, *[1] * (values.ndim - 1)).expand_as(values)
