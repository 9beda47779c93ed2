r"""Rectifiers however they are written: as `torch.maximum(x, 0)`, `x * (x > 0)`, a scripted function, an `autograd.Function`.

A rule that looks for the names of functions misses these. Here every operation that really runs is looked at, after torch
has taken modules, functions, scripts and `vmap` apart, and its values tell whether it is a rectifier: see `gate`. A node of
the autograd graph that hides its operations is asked for its derivative as well: see `Rectifiers`.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from sfumato.probing import DISPATCH_MODES

SAMPLE = 4096
"""So many values, spread over a tensor, tell whether it is the output of a rectifier."""
DETACH = torch.ops.aten.detach.default
RULED = "sfumato.rule"
"""Marks a node whose signal has its rule."""


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
    sample = _spread(x, y) if x.numel() > SAMPLE else (x, y)
    if x.numel() > SAMPLE and not _both_signs(sample[0]):
        sample = (x, y)
    if not _both_signs(sample[0]):
        return 0.0
    a, b = (values.detach().reshape(-1).cpu().to(torch.float64) for values in sample)
    finite = a.isfinite() & b.isfinite() & (a != 0)
    a, b = a[finite], b[finite]
    if not _both_signs(a) or bool((a * b < 0).any()):
        return 0.0
    coarse = max(torch.finfo(values.dtype).eps for values in (x, y))
    return _open(a, b, 8 * coarse) or -_open(-a, -b, 8 * coarse)


def _both_signs(x: Tensor) -> bool:
    return x.numel() > 0 and bool((x.detach() < 0).any() & (x.detach() > 0).any())


def _spread(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """About `SAMPLE` values of both, from all over, without a copy of the whole."""
    steps, sizes = [1] * x.ndim, list(x.shape)
    while torch.Size(sizes).numel() > SAMPLE:
        longest = max(range(x.ndim), key=lambda axis: sizes[axis])
        steps[longest] = 2 * steps[longest] + 1  # odd, so that no pattern of pairs is missed
        sizes[longest] = -(-x.shape[longest] // steps[longest])
    places = tuple(slice(None, None, step) for step in steps)
    return x[places], y[places]


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
    # What lies within reach of the values falls short of the scale, which is 1 or, with a half before it, 2.
    return 2.0 ** round(math.log2(scale)) if grows and smooth else 0.0


def place() -> str:
    """Where the user's code is: the innermost Python frame that is neither torch's nor ours; "" where there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        home = str(frame.f_globals.get("__name__", "")).split(".")[0]
        if home not in ("torch", "sfumato"):
            code = frame.f_code
            return (
                f"{code.co_qualname}, line {frame.f_lineno} of {code.co_filename.replace(chr(92), '/').rsplit('/')[-1]}"
            )
        frame = frame.f_back  # type: ignore[assignment]
    return ""


class Rectifier(NamedTuple):
    """A rectifier that has run."""

    node: Any
    """The node to which its input's signal flows; for a leaf of the graph, that tensor."""
    output: int
    """Which of that node's outputs the input is."""
    scale: float
    name: str

    def ways(self, node: Any) -> list[int]:
        """The places, among a node's ways on, of those to the rectifier's input."""
        return [
            place
            for place, (onward, index) in enumerate(node.next_functions)
            if (onward is self.node and index == self.output) or getattr(onward, "variable", onward) is self.node
        ]


class Past(NamedTuple):
    """What a tensor was made of."""

    parts: tuple[Rectifier, ...] = ()
    """The rectifiers on its way."""
    own: Rectifier | None = None
    """That which made the tensor itself."""


@dataclass(frozen=True)
class Way:
    r"""How a signal $R$ flows back through the rectifiers that a node of the graph computes."""

    passed: bool
    r"""Deconvnet's $R_x = c \max(R_y, 0)$; else guided backprop's $R_x = c\,\sigma'(x) \max(R_y, 0)$."""

    def install(self, node: Any, index: int, scale: float, inputs: Sequence[int]) -> None:
        """Hooks on a node whose output `index` is rectified; `inputs` are the places of the signal's ways on."""

        def rectified(signal: Tensor) -> Tensor:
            return signal.clamp(min=0) if scale > 0 else signal.clamp(max=0)

        def before(signals: tuple[Any, ...]) -> tuple[Any, ...]:
            with torch._C.DisableTorchFunction():
                return tuple(rectified(s) if i == index and s is not None else s for i, s in enumerate(signals))

        def after(gradients: tuple[Any, ...], signals: tuple[Any, ...]) -> tuple[Any, ...]:
            with torch._C.DisableTorchFunction():
                (first, *_), signal = inputs, signals[index]
                if signal is None:
                    return gradients
                whole = abs(scale) * rectified(signal)
                return tuple(
                    g if g is None else whole.to(g.dtype) if i == first else torch.zeros_like(g)
                    for i, g in enumerate(gradients)
                )

        node.register_prehook(before)
        if self.passed:
            node.register_hook(after)


def refuse(node: Any, what: str) -> None:
    """An error, but only for a signal that gets to this node."""

    def refused(_: Any) -> None:
        raise ValueError(
            f"the signal meets a rectifier that the rules of this method cannot reach: {what}; write it as "
            "torch.nn.functional.relu in the model's forward, or use the method Gradient"
        )

    node.register_prehook(refused)


def opaque(node: Any) -> bool:
    """Whether a node of the graph may be any computation: an `autograd.Function`, or one that torch.jit has put together."""
    return isinstance(node, torch.autograd.function.BackwardCFunction) or type(node).__name__ == "CppFunction"


class Rectifiers(TorchDispatchMode):
    """Within this context, signals will flow the rule's way through rectifiers that `BackwardRules` does not see.

    - `named(operation, args, kwargs)` says whether an operation is a rectifier by its name;
    - `own`: the types of nodes that have a rule already;
    - `way`: the rule, None where nothing is to be looked at.

    Functions compiled by `torch.compile` run as they were written: under such a mode torch does not use what it compiled.
    """

    def __init__(self, named: Callable[..., bool], own: tuple[type, ...], way: Way | None) -> None:
        super().__init__()
        self.named, self.own = named, own
        self.way, self.looking = way or Way(passed=False), way is not None
        self.resting = 0
        """Above 0 while nothing is to be looked at."""
        self.pending: list[tuple[Tensor, Rectifier]] = []
        """Outputs of rectifiers whose nodes are not made yet."""
        self.hidden = WeakTensorKeyDictionary()
        """Tensors made of the signal out of the graph's sight, as within an `autograd.Function`: their `Past`."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import its compiler, for seconds, to keep it out of here; see `BesideCompiler`."""
        return False

    def __enter__(self) -> Self:
        DISPATCH_MODES.acquire()
        super().__enter__()
        return self

    @contextmanager
    def rest(self, really: bool) -> Iterator[None]:
        """While a function runs that has its rule already, or needs none, nothing is looked at."""
        self.resting += really
        try:
            yield
        finally:
            self.resting -= really

    def __exit__(self, *error: object) -> None:
        try:
            super().__exit__(*error)
        finally:
            DISPATCH_MODES.release()
        if self.looking and error[0] is None:
            self._settle(list(self.hidden.keys()))
        self.pending.clear()
        self.hidden.clear()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.looking:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            tensors = [value for value in _flat((args, tuple(kwargs.values()))) if value.is_floating_point()]
            if func is not DETACH:  # which an autograd.Function does to what it saves, before its node can be asked
                self._settle(tensors)
            return func(*args, **kwargs) if self.resting else self._looked_at(func, args, kwargs, tensors)

    def _looked_at(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], tensors: Sequence[Tensor]) -> Any:
        signals = [x for x in tensors if x.requires_grad or x in self.hidden]
        if not signals:
            return func(*args, **kwargs)
        nodes = [(x if x.is_leaf else x.grad_fn, x.output_nr) for x in signals]
        written = bool(func._schema.is_mutable)
        before = [x.detach().clone() if written and x is args[0] else x for x in signals]
        # Without gradients, or for the values alone, outputs have no node; they may get one where an autograd.Function ends.
        graph = torch.is_grad_enabled() and any(x.requires_grad for x in signals) and func is not DETACH
        parts = tuple(dict.fromkeys(part for x in signals for part in self.hidden.get(x, Past()).parts))
        rectifier = None
        result = func(*args, **kwargs)
        outputs = [y for y in _flat((result,)) if y.is_floating_point()]
        for x, (node, index) in zip(before, nodes, strict=True):
            scale = self._scale(func, args, kwargs, x, outputs[0]) if outputs else 0.0
            if scale:
                rectifier = Rectifier(node, index, scale, f"{func} in {place()}")
                parts += (rectifier,)
                if graph:
                    self.pending.append((outputs[0], rectifier))
                break
        if not graph:
            for y in outputs:
                self.hidden[y] = Past(parts, rectifier)
        return result

    def _scale(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], x: Tensor, y: Tensor) -> float:
        if x.shape != y.shape or any(values.layout is not torch.strided or values.is_nested for values in (x, y)):
            return 0.0
        if self.named(func, args, kwargs):
            return 1.0
        return gate(x, y)

    def _settle(self, tensors: Sequence[Tensor]) -> None:
        """Give the rule's way back to the rectifiers that have run, now that their nodes are made."""
        pending, self.pending = self.pending, []
        for y, rectifier in pending:
            through_view = y._is_view() and type(y._base.grad_fn).__name__ == "CopySlices"  # type: ignore[union-attr]
            node = y._base.grad_fn if through_view else y.grad_fn  # type: ignore[union-attr]
            if self._is_new(node):
                self._install(node, y, rectifier)
        for y in tensors:
            if opaque(y.grad_fn) and self._is_new(y.grad_fn):
                self._examine(y.grad_fn, y)

    def _is_new(self, node: Any) -> bool:
        return node is not None and not isinstance(node, self.own) and RULED not in node.metadata

    def _install(self, node: Any, y: Tensor, rectifier: Rectifier) -> None:
        node.metadata[RULED] = True
        ways = rectifier.ways(node)
        if ways:
            self.way.install(node, y.output_nr, rectifier.scale, ways)
        else:  # it was applied in place to a view, where a node's hooks are lost
            refuse(node, rectifier.name)

    def _examine(self, node: Any, y: Tensor) -> None:
        r"""Find out whether a node that hides its operations ends in a rectifier, and refuse what hides one within.

        The output $y$ of a rectifier is never negative, and where it is 0 nothing flows back. If all that flows back is
        $c\,[y > 0]$ for a signal of ones, the node is nothing but a rectifier, to which both rules apply. If it is more (a
        convolution with a rectifier after it), guided backprop still applies: its signal is rectified first.
        """
        parts, own = self.hidden.get(y, Past())
        if own is not None and len(parts) == 1 and own.ways(node):
            self._install(node, y, own)
            return
        node.metadata[RULED] = True
        scale, alone = self._derivative(node, y)
        ways = [place for place, (onward, _) in enumerate(node.next_functions) if onward is not None]
        if scale and len(parts) <= 1 and (alone or not self.way.passed):
            self.way.install(node, y.output_nr, scale, ways)
        elif scale or parts:
            names = dict.fromkeys(part.name for part in parts)
            refuse(node, f"{' and '.join(names) or 'one'} inside {node.name()}")

    def _derivative(self, node: Any, y: Tensor) -> tuple[float, bool]:
        """The scale of the rectifier in which a node ends, 0 without one, and whether the node does nothing else."""
        shut = y.detach() == 0
        if bool((y.detach() < 0).any() | ~shut.any() | shut.all()):
            return 0.0, False
        ways = [GradientEdge(way, index) for way, index in node.next_functions if way is not None]

        def flowing(signal: Tensor) -> list[Tensor]:
            gradients = torch.autograd.grad(y, ways, signal.to(y.dtype), retain_graph=True, allow_unused=True)
            return [gradient for gradient in gradients if gradient is not None]

        try:
            blocked, through = flowing(shut), flowing(~shut)
        except RuntimeError:  # a Function that cannot go back twice, or only in backward(): nothing can be told
            return 0.0, False
        if any(bool(gradient.any()) for gradient in blocked) or not any(bool(gradient.any()) for gradient in through):
            return 0.0, False
        if len(through) != 1 or through[0].shape != y.shape:
            return 1.0, False
        scale = float(through[0].max())
        alone = scale > 0 and torch.allclose(through[0], scale * (~shut).to(through[0].dtype))
        return (scale, True) if alone else (1.0, False)


class BesideCompiler(Rectifiers):
    """The same, where torch's compiler is in use and must be kept out."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return super().__torch_dispatch__(func, types, args, kwargs)


def rectifiers(named: Callable[..., bool], own: tuple[type, ...], way: Way | None) -> Rectifiers:
    """`Rectifiers`, kept from torch's compiler if that is in use."""
    return (BesideCompiler if "torch._dynamo" in sys.modules else Rectifiers)(named, own, way)


def _flat(values: Any) -> list[Tensor]:
    """The tensors in tuples and lists."""
    if isinstance(values, Tensor):
        return [values]
    return [tensor for value in values for tensor in _flat(value)] if isinstance(values, tuple | list) else []
