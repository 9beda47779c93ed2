r"""The rule of excitation backprop: the probability of an output is divided among its inputs in proportion to their excitation.

J. Zhang, Z. Lin, J. Brandt, X. Shen, S. Sclaroff: *Top-down neural attention by excitation backprop*, ECCV 2016, sections 3.2
and 3.3.

`Excited` is the equation. `ExcitationRule` is a group of small rules, each for one kind of function. To add a function, write
such a rule and use both: `BackwardRules(ExcitationRule(), MyRule())`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sfumato.model.backward.functions import (
    ADDITIONS,
    BOUNDED,
    CONVOLUTIONS,
    GROWING,
    IN_PLACE,
    NEGATIONS,
    NORMS,
    POOLING_BY_MEANS,
    PRODUCTS,
    RECTIFIERS,
    ROUNDING,
    SIGMOIDS,
    SUBTRACTIONS,
    TRANSPOSED,
    Function,
    carries,
    every,
)
from sfumato.model.backward.rule import FunctionRule, GroupRule


class Excited(torch.autograd.Function):
    r"""A linear function by which the probability of each output flows back to its inputs (Zhang et al. 2016, section 3.2).

    $P(a_i) = a_i \sum_j w^+_{ij} P(y_j) \big/ \sum_{i'} w^+_{i'j} a_{i'}$, without biases. Nothing flows back from an output
    that no input excites. The paper has activations $a \ge 0$; here a negative activation counts as 0.

    `positive(sign, *a)` computes the denominator from non-negative inputs. `sign` is one number or one per output channel;
    where it is negative, the weights are those of $-y$. `weights` is the kind of the layer's weights: "foldable" if `sign` may
    be one number per channel, "" if there are no weights. `directions` are 1 for inputs that are added, -1 for subtracted ones.
    """

    @staticmethod
    def forward(
        ctx: Any,
        run: Function,
        positive: Function,
        weights: str,
        in_place: bool,
        directions: tuple[int, ...],
        *inputs: Tensor,
    ) -> Tensor:
        ctx.positive, ctx.weights, ctx.directions, ctx.sign = positive, weights, directions, 1.0
        ctx.save_for_backward(*(x.clone() if in_place and not index else x for index, x in enumerate(inputs)))
        y = run(*inputs)
        if in_place:
            ctx.mark_dirty(inputs[0])
        return y

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> Any:
        (signal,), inputs = signals, ctx.saved_tensors
        # If the user calls backward inside the context, the rule must not apply to its own functions.
        with torch._C.DisableTorchFunction(), torch.enable_grad():
            activations = [
                (x if direction > 0 else -x).detach().to(_at_least_float32(x.dtype)).clamp(min=0).requires_grad_()
                for x, direction in zip(inputs, ctx.directions, strict=True)
            ]
            total = ctx.positive(ctx.sign, *activations)
            signal = signal.to(total.dtype)
            quotients = torch.where(total > torch.finfo(total.dtype).tiny, signal / total, 0.0).detach()
            gradients = torch.autograd.grad(total, activations, quotients)
            shares = [
                (a.detach() * gradient).to(x.dtype)
                for x, a, gradient in zip(inputs, activations, gradients, strict=True)
            ]
        return None, None, None, None, None, *shares


def excite(
    run: Callable[..., Tensor],
    positive: Callable[..., Tensor],
    *inputs: Tensor,
    weights: str = "",
    in_place: bool = False,
    directions: tuple[int, ...] = (1,),
) -> Tensor:
    """`run(*inputs)` with the backward pass of `Excited`."""
    return Excited.apply(run, positive, weights, in_place, directions, *inputs)


class PassedThrough(torch.autograd.Function):
    """A function by which the signal flows back unchanged. It works in place if `run` does."""

    @staticmethod
    def forward(ctx: Any, run: Function, x: Tensor) -> Tensor:
        y = run(x)
        if y is x:
            ctx.mark_dirty(x)
        return y

    @staticmethod
    def backward(_: Any, *signals: Any) -> Any:
        return None, *signals


class Refused(torch.autograd.Function):
    """The input of a function without a rule: an error if a signal flows back to it."""

    @staticmethod
    def forward(ctx: Any, name: str, x: Tensor) -> Tensor:
        ctx.name = name
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise ValueError(
            f"excitation backprop is defined for layers with weights, not for {ctx.name} of activations, as in "
            "attention; name a layer above the last one of these, or use another method, such as GradCAM, LayerCAM or "
            "ExtremalPerturbation"
        )


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The type for quotients, which are too coarse in half precision."""
    return torch.promote_types(dtype, torch.float32)


def top_layers(score: Tensor) -> list[Any]:
    """The nodes of the graph of the first layers with weights that a signal from `score` meets, under the rule."""
    layers, visited, stack = [], set(), [score.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if getattr(node, "weights", ""):
            layers.append(node)
        else:
            stack.extend(next_node for next_node, _ in node.next_functions)
    return layers


@contextmanager
def negated(nodes: Sequence[Any]) -> Iterator[None]:
    """Negate the weights of these layers: the dual of their outputs, for contrastive excitation backprop (section 3.3)."""
    for node in nodes:
        node.sign = -node.sign
    try:
        yield
    finally:
        for node in nodes:
            node.sign = -node.sign


# The rules, one for each kind of function.


@dataclass(frozen=True)
class PassRule(FunctionRule):
    """$R_x = R_y$ for activations and other functions that pass their signal on."""

    of: frozenset[Function] = field(
        default=RECTIFIERS | BOUNDED | SIGMOIDS | NORMS | ROUNDING | GROWING | NEGATIONS, repr=False
    )

    def __call__(self, func: Function, x: Any, *args: Any, **kwargs: Any) -> Any:
        return pass_through(func, x, *args, **kwargs)


def pass_through(func: Function, x: Any, *args: Any, **kwargs: Any) -> Any:
    """The result of `func`, whose signal flows back to `x` unchanged if `x` carries one."""
    return PassedThrough.apply(lambda x: func(x, *args, **kwargs), x) if carries(x) else func(x, *args, **kwargs)


@dataclass(frozen=True)
class WeightRule(FunctionRule):
    """Convolutions and linear layers: the probability is divided by their positive weights."""

    of: frozenset[Function] = field(
        default=every("conv1d", "conv2d", "conv3d", "linear") | TRANSPOSED | CONVOLUTIONS, repr=False
    )

    def __call__(self, func: Function, x: Any, weight: Tensor, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not carries(x):
            return func(x, weight, bias, *args, **kwargs)

        def positive(sign: float | Tensor, a: Tensor) -> Tensor:
            w = weight.detach().to(a.dtype)
            if isinstance(sign, Tensor):
                sign = sign.to(a.dtype).view(-1, *[1] * (w.ndim - 1))
            return func(a, (w * sign).clamp(min=0), None, *args, **kwargs)

        transposed = func in TRANSPOSED or (func in CONVOLUTIONS and kwargs.get("transposed", args[3:4] == (True,)))
        kind = "transposed" if transposed else "foldable"
        return excite(lambda x: func(x, weight, bias, *args, **kwargs), positive, x, weights=kind)


@dataclass(frozen=True)
class AddmmRule(FunctionRule):
    """`addmm`, which a linear layer is in a decomposed program: the first tensor is a bias, the last a weight."""

    of: frozenset[Function] = field(default=every("addmm"), repr=False)

    def __call__(self, func: Function, x: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
        if carries(x) or carries(b):
            return without_rule(func, x, a, b, beta=beta, alpha=alpha)
        bias = beta * x.expand(len(a), -1) if x.ndim > 1 else beta * x
        return WeightRule()(nn.functional.linear, a, (alpha * b).mT, bias)


@dataclass(frozen=True)
class MatrixRule(FunctionRule):
    """A product of matrices, or an `einsum`, of one operand with a signal and constant weights."""

    of: frozenset[Function] = field(default=every("matmul", "mm", "bmm", "einsum"), repr=False)

    def __call__(self, func: Function, *args: Any, **kwargs: Any) -> Any:
        leading, operands = ((), args) if isinstance(args[0], Tensor) else (args[:1], args[1:])
        if operands and not isinstance(operands[0], Tensor):  # einsum also takes its operands as a list
            operands = tuple(operands[0])
        if "other" in kwargs or "mat2" in kwargs:
            operands = (*operands, kwargs.pop("other") if "other" in kwargs else kwargs.pop("mat2"))
        signals = [index for index, operand in enumerate(operands) if carries(operand)]
        if not signals:
            return func(*leading, *operands, **kwargs)
        if len(signals) > 1 or len(operands) > 2:
            return without_rule(func, *leading, *operands, **kwargs)
        (index,) = signals

        def run(signal: Tensor, constants: Sequence[Tensor] = operands) -> Tensor:
            return func(*leading, *constants[:index], signal, *constants[index + 1 :], **kwargs)

        def positive(sign: float, a: Tensor) -> Tensor:
            return run(a, [(operand.detach().to(a.dtype) * sign).clamp(min=0) for operand in operands])

        return excite(run, positive, operands[index], weights="matrix")


@dataclass(frozen=True)
class MeanRule(FunctionRule):
    """Pooling by means, sums and linear interpolation, which are layers with constant positive weights."""

    of: frozenset[Function] = field(
        default=POOLING_BY_MEANS | every("mean", "sum", "interpolate", "upsample"), repr=False
    )

    def __call__(self, func: Function, x: Any, *args: Any, **kwargs: Any) -> Any:
        if not carries(x):
            return func(x, *args, **kwargs)
        return excite(lambda x: func(x, *args, **kwargs), lambda _, a: func(a, *args, **kwargs), x)


@dataclass(frozen=True)
class SumRule(FunctionRule):
    """Sums: each summand gets a share in proportion to what it contributed. Constants are biases and get none."""

    of: frozenset[Function] = field(default=ADDITIONS, repr=False)

    def __call__(self, func: Function, x: Any, y: Any = None, alpha: float = 1, **kwargs: Any) -> Any:
        y = kwargs.pop("other", y)
        if carries(x) and carries(y):
            scale = -alpha if func in SUBTRACTIONS else alpha
            return excite(
                lambda x, y: func(x, y, alpha=alpha),
                lambda _, a, b: torch.add(a, b, alpha=abs(scale)),
                *(x, y),
                in_place=func in IN_PLACE,
                directions=(1, 1 if scale >= 0 else -1),
            )
        if carries(y):
            if func in IN_PLACE:  # x is a constant, so that the graph does not need its former values
                return x.copy_(self(torch.sub if func in SUBTRACTIONS else torch.add, x, y, alpha=alpha))
            return PassedThrough.apply(lambda y: func(x, y, alpha=alpha), y)
        return pass_through(func, x, y, alpha=alpha)


@dataclass(frozen=True)
class ProductRule(FunctionRule):
    """Products: the larger factor, or the first if both have one size, is the signal and gets all; the other is a gate."""

    of: frozenset[Function] = field(default=PRODUCTS, repr=False)

    def __call__(self, func: Function, x: Any, y: Any = None, **kwargs: Any) -> Any:
        y = kwargs.pop("other", y)
        second_is_larger = carries(y) and isinstance(x, Tensor) and x.numel() < y.numel()
        if carries(x) and not second_is_larger:
            return PassedThrough.apply(lambda x: func(x, y, **kwargs), x)
        if carries(y) and func not in IN_PLACE:
            return PassedThrough.apply(lambda y: func(x, y, **kwargs), y)
        return func(x, y, **kwargs)


@dataclass(frozen=True)
class GluRule(FunctionRule):
    """`glu`: the first half of the channels is the signal, the second half its gate."""

    of: frozenset[Function] = field(default=every("glu"), repr=False)

    def __call__(self, func: Function, x: Any, dim: int = -1) -> Any:
        if not carries(x):
            return func(x, dim)
        signal, gate = x.chunk(2, dim)
        return ProductRule()(torch.mul, signal, gate.sigmoid())


@dataclass(frozen=True)
class BatchNormRule(FunctionRule):
    """Batch normalisation in evaluation mode: a scale for each channel, which is folded into the convolution before it.

    The size of the scale cancels in numerator and denominator, and the shift is a bias, so that only the sign of the scale
    matters. Elsewhere, e.g. after a sum, the layer passes its signal on.
    """

    of: frozenset[Function] = field(default=every("batch_norm"), repr=False)

    def __call__(self, func: Function, x: Any, *args: Any, **kwargs: Any) -> Any:
        index = 2 if func is nn.functional.batch_norm else 0  # torch.batch_norm has another order of arguments
        scale = kwargs.get("weight", args[index] if len(args) > index else None)
        node: Any = x.grad_fn if carries(x) else None
        if isinstance(scale, Tensor) and getattr(node, "weights", "") == "foldable":
            node.sign = torch.where(scale.detach() < 0, -1.0, torch.ones_like(scale, dtype=torch.float32))
        return pass_through(func, x, *args, **kwargs)


@dataclass(frozen=True)
class FirstOutputRule(FunctionRule):
    """A rule for functions whose first output is that of the layer, and whose other outputs are statistics."""

    rule: FunctionRule = field(kw_only=True)

    def __call__(self, func: Function, *args: Any, **kwargs: Any) -> Any:
        statistics: list[Tensor] = []

        def run(*args: Any, **kwargs: Any) -> Tensor:
            output, *statistics[:] = func(*args, **kwargs)
            return output

        return (self.rule(run, *args, **kwargs), *statistics)


@dataclass(frozen=True)
class NoRule(FunctionRule):
    """Products of activations with activations, for which the paper has no rule: an error if a signal flows back to them."""

    of: frozenset[Function] = field(
        default=every("baddbmm", "addbmm", "scaled_dot_product_attention", "multi_head_attention_forward"), repr=False
    )

    def __call__(self, func: Function, *args: Any, **kwargs: Any) -> Any:
        return without_rule(func, *args, **kwargs)


def without_rule(func: Function, *args: Any, **kwargs: Any) -> Any:
    """The result of `func`, with an error for a signal that flows back to it."""
    name = getattr(func, "__name__", str(func))

    def refuse(value: Any) -> Any:
        return Refused.apply(name, value) if carries(value) else value

    return func(*map(refuse, args), **{key: refuse(value) for key, value in kwargs.items()})


PARTS: tuple[FunctionRule, ...] = (
    WeightRule(),
    AddmmRule(),
    MatrixRule(),
    MeanRule(),
    SumRule(),
    ProductRule(),
    GluRule(),
    PassRule(),
    FirstOutputRule(every("native_layer_norm", "native_group_norm"), rule=PassRule()),
    BatchNormRule(),
    FirstOutputRule(every("native_batch_norm", "_native_batch_norm_legit_no_training"), rule=BatchNormRule()),
    NoRule(),
)


@dataclass(frozen=True)
class ExcitationRule(GroupRule):
    r"""$P(a_i) = a_i \sum_j w^+_{ij} P(y_j) \big/ \sum_{i'} w^+_{i'j} a_{i'}$ through layers with weights (Zhang et al. 2016).

    Sums are divided in proportion to what each summand contributed, means are layers of equal weights, and activations and
    normalisation pass their signal on. Signals are probabilities, which `BackwardRules.check` checks at every operation.
    """

    conserves: ClassVar[bool] = True
    parts: tuple[FunctionRule, ...] = field(default=PARTS, repr=False)

    @property
    def title(self) -> str:
        return "excitation backprop"
