r"""Other ways for a signal to flow back through a network: deconvnet, guided backprop and excitation backprop.

A rule sees the functions that a model calls, whoever calls them (a module, `F.relu`, `x.relu_()`, `y += x`), and changes only
how their gradients are computed: no module is replaced, no hook is left on one, and other threads do not notice.
Views, permutations, concatenation, padding, maximum pooling and whatever else is not named below keep their own gradient,
which hands a signal on to where the values came from.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from sfumato.model.backward.conservation import Span, check_conserved, check_thread, next_number
from sfumato.model.backward.curves import Clamp
from sfumato.model.backward.rectifiers import Way, rectifiers

Function = Callable[..., Any]
Rule = Callable[..., Any]
"""Computes what a function computes, given it and its arguments, and prepares another way back."""


class BackwardRules(TorchFunctionMode):
    r"""Within this context, signals through what is computed will flow back by a rule, $R$ being the signal:

    - "deconvnet": $R_x = \max(R_y, 0)$ at every rectifier $y = \sigma(x)$ (Zeiler & Fergus 2014, section 2.1): the signal is
      rectified, whatever the forward pass did.
    - "guided": $R_x = \sigma'(x) \max(R_y, 0)$ (Springenberg et al. 2015); for a ReLU
      $\sigma'(x) = [x > 0]$, for a ReLU6 $[0 < x < 6]$.
    - "excitation": probabilities by positive weights, see `Excited` (Zhang et al. 2016).

    The papers know ReLU alone. Here rectifiers are all activations that silence one half of their input: ReLU, ReLU6,
    LeakyReLU, PReLU, RReLU, ELU, SELU, CELU, GELU, SiLU, Mish, Hardswish, Softplus, and clamping from 0 up. Sigmoid, Tanh
    and their kin, whose place is in gates, keep their own gradient under the first two rules.

    Rectifiers that are written otherwise (`torch.maximum(x, 0)`, `x * (x > 0)`, `torch.log(1 + torch.exp(x))`, within a
    scripted function, an `autograd.Function` or `torch.vmap`) are known by what they make of values of both signs: see
    `sfumato.model.backward.rectifiers`. A signal raises `ValueError` where it meets one to which its rule cannot be applied,
    or what may have one inside: an operation of the user's own that is not symmetric about zero, or an `autograd.Function`
    that computes without torch. What `check` finds: parts that were computed in another thread, and for "excitation" what
    has no rule.

    Two kinds of rectifiers cannot be told and keep their own gradient: one made of operations that are not elementwise, as
    the maximum over a stack of `x` and zeros is, and a smooth one that is neither flat far below zero nor straight far above.

    Only what is computed inside the context counts; the backward pass may run in or out of it. Second derivatives are
    not to be had. Models that hide all their functions are refused before: see `check_visible`.
    """

    def __init__(self, name: str) -> None:
        if name not in RULES:
            raise ValueError(f"the rules are {', '.join(RULES)}; got {name!r}")
        super().__init__()
        self.name, self.rules = name, RULES[name]
        way = None if name == EXCITATION else Way(passed=name == "deconvnet")
        self.operations = rectifiers(self._named, tuple(own._backward_cls for own in (Passed, Excited, Refused)), way)
        self.span, self.first = Span(), next_number()

    def __enter__(self) -> Self:
        self.saving = _saving()
        self.operations.__enter__()
        super().__enter__()
        self.span.begin()
        return self

    def __exit__(self, *error: object) -> None:
        self.span.end()
        super().__exit__(*error)
        self.operations.__exit__(*error)

    def __torch_function__(
        self, func: Function, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # torch.utils.checkpoint would compute anew in the backward pass, without the rules; so it is given nothing to save.
        saving = _saving()
        checkpointed = saving is not None and saving != self.saving and saving[0].__module__ == CHECKPOINT
        with saved_tensors_hooks(*(self.saving or (_same, _same))) if checkpointed else nullcontext():
            return self._ruled(func, args, dict(kwargs or {}))

    def _ruled(self, func: Function, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        rule = self.rules.get(func)
        batched = any(map(_batched, chain(args, kwargs.values())))
        if rule is None or batched or not torch.is_grad_enabled():
            # What torch's own layers are made of is not looked at: F.lp_pool2d calls relu, and is no rectifier.
            with self.operations.rest(rule is None and getattr(func, "__module__", "") == nn.functional.__name__):
                return self._own_gradient(func, args, kwargs, rule is not None)
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        with self.operations.rest(bool(args) and carries(args[0])):
            result = rule(func, *args, **kwargs)
        return self._own_gradient(func, args, kwargs) if result is NotImplemented else result

    def _own_gradient(self, func: Function, args: Sequence[Any], kwargs: dict[str, Any], missed: bool = False) -> Any:
        """The function without a rule; what it was is remembered for what `check` has to say."""
        if self.name != EXCITATION:
            return func(*args, **kwargs)
        return self.span.call(func, args, kwargs, missed)

    def _named(self, func: Function, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        """Whether this is a rectifier by its name."""
        return func in RECTIFIERS or (func in BOUNDED and _bounded_by_zero(args, kwargs))

    def check(self, scores: Tensor, outputs: Sequence[Tensor]) -> None:
        """Raise `ValueError` where the rule did not act on all that lies between scores computed with it and layers' outputs.

        So it is where a part was computed in another thread, and for "excitation" where probability does not add up. The
        outputs are of layers that ran since this object was made.
        """
        check_thread(scores, outputs, self.first)
        if self.name == EXCITATION:
            check_conserved(scores, outputs, self.span, self.operations.own)


CHECKPOINT = "torch.utils.checkpoint"


def _saving() -> tuple[Function, Function] | None:
    """The hooks that take the tensors which are saved for the backward pass, and give them back."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _batched(value: Any) -> bool:
    """Whether a tensor is one of `torch.vmap` or `torch.func.grad`, in which the graph does not see what happens to it."""
    return isinstance(value, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(value)


def check_visible(model: Any) -> None:
    """Raise `ValueError` where the rules would silently not apply: the model's functions are not called from Python."""
    parts = list(model.named_modules()) if isinstance(model, nn.Module) else [("", model)]
    for name, part in parts:
        what = f"its part {name!r}" if name else "the model"
        if isinstance(part, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            raise ValueError(
                f"{what} is compiled by torch.jit, which hides its functions from the rules of this method; give the model "
                "from before torch.jit.script or torch.jit.trace"
            )
        if (
            hasattr(part, "_orig_mod")
            or hasattr(part, "_torchdynamo_orig_callable")
            or getattr(part, "_compiled_call_impl", None) is not None
        ):
            raise ValueError(
                f"{what} is compiled by torch.compile, which hides its functions from the rules of this method; give the "
                "model from before (torch.compile keeps it as model._orig_mod)"
            )


def carries(value: Any) -> bool:
    """Whether a signal flows back to this: a tensor of the graph that is no parameter."""
    return isinstance(value, Tensor) and value.requires_grad and not isinstance(value, nn.Parameter)


class Passed(torch.autograd.Function):
    """A function whose signal flows back unchanged, or rectified; in place where the function is."""

    @staticmethod
    def forward(ctx: Any, run: Function, rectified: bool, x: Tensor) -> Tensor:
        ctx.rectified = rectified
        y = run(x)
        if y is x:
            ctx.mark_dirty(x)
        return y

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> Any:
        (signal,) = signals
        return None, None, signal.clamp(min=0) if ctx.rectified else signal


class Excited(torch.autograd.Function):
    r"""A linear function whose probability flows back to what excited each output (Zhang et al. 2016, section 3.2).

    $P(a_i) = a_i \sum_j w^+_{ij} P(y_j) \big/ \sum_{i'} w^+_{i'j} a_{i'}$, biases left out, and nothing from an output
    that no input excites. The paper's neurons answer with $a \ge 0$; here a negative answer counts as none.

    `positive(sign, *a)` computes the denominator from non-negative inputs. `sign`, one number or one per output channel,
    makes the weights those of $-y$ where it is negative; `weights` is "foldable" where it may be one per channel, "" where
    there are no weights. `directions` are 1 or -1 for inputs that are added or subtracted.
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
        # Whoever calls backward inside the context must not have the rule's own functions ruled.
        with torch._C.DisableTorchFunction(), torch.enable_grad():
            a = [
                (x if way > 0 else -x).detach().to(_wide(x.dtype)).clamp(min=0).requires_grad_()
                for x, way in zip(inputs, ctx.directions, strict=True)
            ]
            total = ctx.positive(ctx.sign, *a)
            signal = signal.to(total.dtype)
            shares = torch.where(total > torch.finfo(total.dtype).tiny, signal / total, 0.0).detach()
            gradients = torch.autograd.grad(total, a, shares)
            found = [
                (each.detach() * gradient).to(x.dtype) for x, each, gradient in zip(inputs, a, gradients, strict=True)
            ]
        return None, None, None, None, None, *found


class Refused(torch.autograd.Function):
    """What goes into a function without a rule: an error, but only for a signal that gets there."""

    @staticmethod
    def forward(ctx: Any, name: str, x: Tensor) -> Tensor:
        ctx.name = name
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise ValueError(
            f"excitation backprop is defined for layers with weights, not for {ctx.name} of activations, as in "
            "attention; name a layer above the last such one, or use another method"
        )


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Quotients of half precision would be too coarse."""
    return torch.promote_types(dtype, torch.float32)


def top_layers(score: Tensor) -> list[Any]:
    """The weighted layers that the signal from `score`, computed under "excitation", meets first: nodes of its graph."""
    found, seen, waiting = [], set(), [score.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if getattr(node, "weights", ""):
            found.append(node)
        else:
            waiting.extend(following for following, _ in node.next_functions)
    return found


@contextmanager
def negated(nodes: Sequence[Any]) -> Iterator[None]:
    """These layers with negated weights: the dual of their outputs, for contrastive excitation backprop (section 3.3)."""
    for node in nodes:
        node.sign = -node.sign
    try:
        yield
    finally:
        for node in nodes:
            node.sign = -node.sign


# The rules for each kind of function.


def _guided(func: Function, x: Any, *args: Any, **kwargs: Any) -> Any:
    # What is done in place to a view becomes part of the tensor it views, and a hook on the view is forgotten.
    own = x.clone() if carries(x) and x._is_view() else x
    y = func(own, *args, **kwargs)
    if carries(y):
        y.register_hook(Clamp())
    return x.copy_(y) if y is own and own is not x else y


def _rectified(func: Function, x: Any, *args: Any, **kwargs: Any) -> Any:
    return _passed(func, x, *args, rectified=True, **kwargs)


def _passed(func: Function, x: Any, *args: Any, rectified: bool = False, **kwargs: Any) -> Any:
    if not carries(x):
        return func(x, *args, **kwargs)
    return Passed.apply(lambda x: func(x, *args, **kwargs), rectified, x)


def _from_zero(rule: Rule) -> Rule:
    """The rule for functions with a lower bound, a rectifier if that is 0."""

    def bounded(func: Function, *args: Any, **kwargs: Any) -> Any:
        return rule(func, *args, **kwargs) if _bounded_by_zero(args, kwargs) else NotImplemented

    return bounded


def _bounded_by_zero(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    bound = args[1] if len(args) > 1 else next((kwargs[name] for name in LOWER_BOUNDS if name in kwargs), None)
    return isinstance(bound, int | float) and bound == 0


LOWER_BOUNDS = ("min", "min_val", "threshold")


def _weighted(func: Function, x: Any, weight: Tensor, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Convolutions and linear layers."""
    if not carries(x):
        return func(x, weight, bias, *args, **kwargs)

    def positive(sign: float | Tensor, a: Tensor) -> Tensor:
        w = weight.detach().to(a.dtype)
        if isinstance(sign, Tensor):
            sign = sign.to(a.dtype).view(-1, *[1] * (w.ndim - 1))
        return func(a, (w * sign).clamp(min=0), None, *args, **kwargs)

    transposed = func in TRANSPOSED or (func in CONVOLUTIONS and kwargs.get("transposed", args[3:4] == (True,)))
    kind = "transposed" if transposed else "foldable"
    return Excited.apply(lambda x: func(x, weight, bias, *args, **kwargs), positive, kind, False, (1,), x)


def _multiplied(func: Function, x: Any, weight: Any, **kwargs: Any) -> Any:
    """A product of matrices, if one of them is constant."""
    if carries(x) and carries(weight):
        return _without_rule(func, x, weight, **kwargs)
    if not (carries(x) or carries(weight)):
        return func(x, weight, **kwargs)
    signal, matrix = (x, weight) if carries(x) else (weight, x)

    def run(signal: Tensor, matrix: Tensor = matrix) -> Tensor:
        return func(*((signal, matrix) if matrix_is_second else (matrix, signal)), **kwargs)

    def positive(sign: float, a: Tensor) -> Tensor:
        return run(a, (matrix.detach().to(a.dtype) * sign).clamp(min=0))

    matrix_is_second = signal is x
    return Excited.apply(run, positive, "matrix", False, (1,), signal)


def _shifted_product(func: Function, x: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """`addmm`, as linear layers become when a program is decomposed: x is a bias, and `b` a weight."""
    if carries(x) or carries(b):
        return _without_rule(func, x, a, b, beta=beta, alpha=alpha)
    return _weighted(nn.functional.linear, a, (alpha * b).mT, beta * x.expand(len(a), -1) if x.ndim > 1 else beta * x)


def _summed_product(func: Function, equation: Any, *operands: Any) -> Any:
    """`einsum` of one signal and one constant."""
    if operands and not isinstance(operands[0], Tensor):
        operands = tuple(operands[0])
    signals = [index for index, operand in enumerate(operands) if carries(operand)]
    if not signals:
        return func(equation, *operands)
    if len(signals) > 1 or len(operands) > 2:
        return _without_rule(func, equation, *operands)
    at = signals[0]

    def run(signal: Tensor, constants: Sequence[Tensor] = operands) -> Tensor:
        return func(equation, *constants[:at], signal, *constants[at + 1 :])

    def positive(sign: float, a: Tensor) -> Tensor:
        return run(a, [(operand.detach().to(a.dtype) * sign).clamp(min=0) for operand in operands])

    return Excited.apply(run, positive, "matrix", False, (1,), operands[at])


def _gated(func: Function, x: Any, dim: int = -1) -> Any:
    """`glu`: the first half of the channels is the signal, the second its gate."""
    if not carries(x):
        return func(x, dim)
    signal, gate = x.chunk(2, dim)
    return _scaled(torch.mul, signal, gate.sigmoid())


def _averaged(func: Function, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Pooling by means, sums and linear interpolation: layers of constant positive weights."""
    if not carries(x):
        return func(x, *args, **kwargs)
    return Excited.apply(lambda x: func(x, *args, **kwargs), lambda _, a: func(a, *args, **kwargs), "", False, (1,), x)


def _added(func: Function, x: Any, y: Any, alpha: float = 1) -> Any:
    """Each summand gets what it contributed; constants are biases."""
    if carries(x) and carries(y):
        scale = -alpha if func in SUBTRACTIONS else alpha
        return Excited.apply(
            lambda x, y: func(x, y, alpha=alpha),
            lambda _, a, b: torch.add(a, b, alpha=abs(scale)),
            "",
            func in IN_PLACE,
            (1, 1 if scale >= 0 else -1),
            x,
            y,
        )
    if carries(y):
        if func in IN_PLACE:  # into a constant, whose values are lost to the graph anyway
            return x.copy_(_added(torch.sub if func in SUBTRACTIONS else torch.add, x, y, alpha=alpha))
        return Passed.apply(lambda y: func(x, y, alpha=alpha), False, y)
    return _passed(func, x, y, alpha=alpha)


def _scaled(func: Function, x: Any, y: Any, **kwargs: Any) -> Any:
    """Of a product, the larger factor, the first of equals, is the signal and gets all; the other is a gate."""
    second_is_larger = carries(y) and isinstance(x, Tensor) and x.numel() < y.numel()
    if carries(x) and not second_is_larger:
        return Passed.apply(lambda x: func(x, y, **kwargs), False, x)
    if carries(y) and func not in IN_PLACE:
        return Passed.apply(lambda y: func(x, y, **kwargs), False, y)
    return func(x, y, **kwargs)


def _normalised(func: Function, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Batch normalisation in evaluation mode is one number a channel, folded into the convolution before it.

    There the number's size cancels (in numerator and denominator) and its shift is a bias; so only its sign is left.
    Elsewhere, e.g. after a sum, the layer hands on what it gets.
    """
    place = 2 if func is nn.functional.batch_norm else 0  # torch.batch_norm orders its arguments otherwise
    scale = kwargs.get("weight", args[place] if len(args) > place else None)
    node: Any = x.grad_fn if carries(x) else None
    if isinstance(scale, Tensor) and getattr(node, "weights", "") == "foldable":
        node.sign = torch.where(scale.detach() < 0, -1.0, torch.ones_like(scale, dtype=torch.float32))
    return _passed(func, x, *args, **kwargs)


def _first(rule: Rule) -> Rule:
    """The rule for a function whose first output is that of the layer, and whose others are its statistics."""

    def of_first(func: Function, *args: Any, **kwargs: Any) -> Any:
        statistics: list[Tensor] = []

        def run(*args: Any, **kwargs: Any) -> Tensor:
            output, *statistics[:] = func(*args, **kwargs)
            return output

        return (rule(run, *args, **kwargs), *statistics)

    return of_first


def _without_rule(func: Function, *args: Any, **kwargs: Any) -> Any:
    name = getattr(func, "__name__", str(func))

    def refused(value: Any) -> Any:
        return Refused.apply(name, value) if carries(value) else value

    return func(*map(refused, args), **{name: refused(value) for name, value in kwargs.items()})


# Which functions are of which kind.


def every(*names: str) -> frozenset[Function]:
    """The functions of these names wherever torch keeps them, and as exported programs call them."""
    homes = (nn.functional, torch, Tensor, torch._C._nn)
    found = {getattr(home, name) for home in homes for name in names if hasattr(home, name)}
    for name in names:
        operation = getattr(torch.ops.aten, name, None)
        if operation is not None:
            found |= {operation, *(getattr(operation, overload) for overload in operation.overloads())}
    return frozenset(found)


def with_in_place(*names: str) -> tuple[str, ...]:
    return (*names, *(f"{name}_" for name in names))


RECTIFIERS = every(
    *with_in_place("relu", "relu6", "leaky_relu", "rrelu", "elu", "selu", "celu", "silu", "mish", "hardswish", "gelu"),
    *("prelu", "_prelu_kernel", "softplus"),
)
BOUNDED = every(*with_in_place("clamp", "clip", "clamp_min", "hardtanh", "threshold"))
SIGMOIDS = every(
    *with_in_place("sigmoid", "tanh", "hardsigmoid"),
    *("logsigmoid", "softsign", "tanhshrink", "hardshrink", "softshrink", "softmax", "log_softmax"),
    *("_softmax", "_log_softmax"),
)
ROUNDING = every("round", "floor", "ceil", "trunc", "fix")
GROWING = every("pow", "__pow__", "square", "sqrt", "exp", "log1p")
NORMS = every("layer_norm", "group_norm", "instance_norm", "local_response_norm", "rms_norm", "normalize")
SUBTRACTIONS = every(*with_in_place("sub", "subtract"))
ADDITIONS = every(*with_in_place("add")) | SUBTRACTIONS
IN_PLACE = every("add_", "sub_", "subtract_", "mul_", "multiply_", "div_", "divide_", "true_divide_")
CONVOLUTIONS = every("convolution", "_convolution")
TRANSPOSED = every("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")

EXCITATION = "excitation"
RULES: dict[str, dict[Function, Rule]] = {
    "deconvnet": dict.fromkeys(RECTIFIERS, _rectified) | dict.fromkeys(BOUNDED, _from_zero(_rectified)),
    "guided": dict.fromkeys(RECTIFIERS, _guided) | dict.fromkeys(BOUNDED, _from_zero(_guided)),
    EXCITATION: {
        function: rule
        for rule, functions in (
            (_weighted, every("conv1d", "conv2d", "conv3d", "linear") | TRANSPOSED | CONVOLUTIONS),
            (_multiplied, every("matmul", "mm", "bmm")),
            (_added, ADDITIONS),
            (_scaled, every(*with_in_place("mul", "multiply", "div", "divide", "true_divide"))),
            (_shifted_product, every("addmm")),
            (_summed_product, every("einsum")),
            (_passed, RECTIFIERS | BOUNDED | SIGMOIDS | NORMS | ROUNDING | GROWING | every("neg", "__rsub__", "rsub")),
            (_first(_passed), every("native_layer_norm", "native_group_norm")),
            (_gated, every("glu")),
            (_normalised, every("batch_norm")),
            (_first(_normalised), every("native_batch_norm", "_native_batch_norm_legit_no_training")),
            (
                _averaged,
                every(*(f"{kind}avg_pool{axes}d" for kind in ("", "adaptive_", "_adaptive_") for axes in (1, 2, 3))),
            ),
            (_averaged, every("mean", "sum", "interpolate", "upsample")),
            (_without_rule, every("baddbmm", "addbmm", "scaled_dot_product_attention")),
            (_without_rule, every("multi_head_attention_forward")),
        )
        for function in functions
    },
}
"""What each rule does, by the function that it replaces."""
