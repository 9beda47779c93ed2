r"""Rectifiers however they are written: as `torch.maximum(x, 0)`, `x * (x > 0)`, a scripted function, an `autograd.Function`.

A rule that looks for the names of functions misses these. Here every operation that really runs is looked at, after torch
has taken modules, functions, scripts and `vmap` apart. What it makes of values of both signs tells whether it is a rectifier,
or the end of one of several operations: see `gate` and `sfumato.model.backward.curves`. A node of the autograd graph that
hides its operations is asked for its derivative as well, and an operation of the user's own for its symmetry: see `Rectifiers`.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from sfumato.model.backward.curves import (
    Curve,
    Curves,
    Root,
    Step,
    Switch,
    abscissa,
    bent,
    elementwise,
    one_sign,
    straight,
)
from sfumato.model.backward.functions import SLOPED, is_rectifier
from sfumato.model.backward.gates import Operation, Trial, flat, gate, plain, power_of_two
from sfumato.model.backward.hooks import Hooks, Rectifier, refuse
from sfumato.model.backward.rule import FunctionRule, RectifierRule
from sfumato.model.effects import DISPATCH_MODES

DETACH = torch.ops.aten.detach.default
TORCH = ("aten", "prim", "prims", "torchvision")
"""Where torch's own operations live, none of which hides a rectifier. What is inside of all others may be anything."""
RULED = "sfumato.rule"
"""Marks a node whose signal has its rule."""


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


class Past(NamedTuple):
    """What a tensor was made of."""

    parts: tuple[Rectifier, ...] = ()
    """The rectifiers on its way."""
    own: Rectifier | None = None
    """That which made the tensor itself."""


OUT_OF_REACH = "a rectifier that the rules of this method cannot reach"
UNSEEN = "what the rules of this method cannot see into, and what may be or hold a rectifier"


def opaque(node: Any) -> bool:
    """Whether a node of the graph may be any computation: an `autograd.Function`, or one that torch.jit has put together."""
    return isinstance(node, torch.autograd.function.BackwardCFunction) or type(node).__name__ == "CppFunction"


class Rectifiers(TorchDispatchMode):
    """Within this context, signals will flow through rectifiers as the rules say.

    Without rules nothing is looked at.

    Functions compiled by `torch.compile` run as they were written: under such a mode torch does not use what it compiled.
    """

    def __init__(self, rules: tuple[RectifierRule, ...]) -> None:
        super().__init__()
        self.hooks, self.looking = Hooks(rules), bool(rules)
        self.spans: list[range] = []
        """Numbers of the nodes that were made while a `FunctionRule` ran."""
        self.resting = 0
        """Above 0 while nothing is to be looked at."""
        self.pending: list[tuple[Tensor, Rectifier]] = []
        """Outputs of rectifiers whose nodes are not made yet."""
        self.hidden = WeakTensorKeyDictionary()
        """Tensors made of the signal out of the graph's sight, as within an `autograd.Function`: their `Past`."""
        self.curves = Curves()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import its compiler, for seconds, to keep it out of here; see `BesideCompiler`."""
        return False

    def __enter__(self) -> Self:
        self.spans.clear()
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

    def ruled(self, rule: FunctionRule, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What a rule makes of a function. It is not looked into, and the nodes that it makes have their way back."""
        if self.looking:
            self._settle([x for x in flat((args,)) if x.is_floating_point()])
        start = next_number()
        self.spans.append(range(start, sys.maxsize))
        try:
            with self.rest(True):
                result = rule(func, *args, **kwargs)
        finally:
            self.spans[-1] = range(start, next_number())
        for y in flat((result,)):
            self.curves.keep(y, {}, written=False)  # a larger rectifier would go round the rule
        return result

    def is_ruled(self, node: Any) -> bool:
        """Whether a rule made this node, as its own `autograd.Function`."""
        return opaque(node) and any(node._sequence_nr() in span for span in self.spans)

    def __exit__(self, *error: object) -> None:
        try:
            super().__exit__(*error)
        finally:
            DISPATCH_MODES.release()
        if self.looking and error[0] is None:
            self._settle(list(self.hidden.keys()))
        self.pending.clear()
        self.hidden.clear()
        self.curves.clear()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.looking:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            tensors = flat((args, tuple(kwargs.values())))
            floats = [value for value in tensors if value.is_floating_point()]
            if func is not DETACH:  # which an autograd.Function does to what it saves, before its node can be asked
                self._settle(floats)
            signals = [x for x in floats if x.requires_grad or (self.hidden and x in self.hidden)]
            if not signals and not elementwise(func):
                return func(*args, **kwargs)
            return self._looked_at(Operation(func, args, kwargs, tensors, signals))

    def _looked_at(self, operation: Operation) -> Any:
        func, args, kwargs, _, signals = operation
        roots = [Root(x) for x in signals]
        steps = self.curves.follow(operation, roots)
        written = operation.in_place
        if self.resting or not signals:
            result = operation.run()
            if steps:
                self._keep(result, steps, written)
            return result
        named = is_rectifier(func, args, kwargs)
        before = [x.detach().clone() if written and x is args[0] and not named else x for x in signals]
        # Without gradients, or for the values alone, outputs have no node; they may get one where an autograd.Function ends.
        graph = torch.is_grad_enabled() and any(x.requires_grad for x in signals) and func is not DETACH
        parts = tuple(dict.fromkeys(part for x in signals for part in self.hidden.get(x, Past()).parts))
        result = operation.run()
        outputs = [y for y in flat((result,)) if y.is_floating_point()]
        rectifier = None
        if outputs and func is not DETACH:  # which makes nothing, and which torch does at every operation in place
            rectifier = self._rectifier(operation, named, before, roots, steps, outputs[0])
        if steps:
            # Without the derivative SELU's slope of 1.05 is lost: a factor after it makes a larger rectifier.
            final = self.hooks.derivative or func not in SLOPED
            self._keep(result, steps, written, rectifier if final else None)
        if rectifier is not None:
            parts += (rectifier,)
            if graph:
                self.pending.append((outputs[0], rectifier))
        if not graph:
            for y in outputs:
                self.hidden[y] = Past(parts, rectifier)
                base = y._base if written and y._is_view() else None
                if base is not None:  # into a part of a larger tensor
                    self.hidden[base] = Past((*self.hidden.get(base, Past()).parts, *parts))
        return result

    def _rectifier(
        self,
        operation: Operation,
        named: bool,
        before: Sequence[Tensor],
        roots: Sequence[Root],
        steps: Sequence[Step],
        y: Tensor,
    ) -> Rectifier | None:
        """That which ends in this operation, with the output `y`, if there is one.

        `named` says whether it is one by its name; `before` are the signals as they were, and `roots` these as roots.
        """
        func = operation.func
        root_and_scale: tuple[Root, float] | None = None
        others: tuple[Root, ...] = ()
        if named:
            root_and_scale = next(((root, 1.0) for x, root in zip(before, roots, strict=True) if _fit(x, y)), None)
        elif steps and any(step.curve.values is not None for step in steps):
            at = {id(x): root for x, root in zip(operation.signals, roots, strict=True)}
            step = next((step for step in steps if _bends(step, steps, at)), None)
            if step is not None:
                scales = ((at[id(x)], _scale(curve, step.curve)) for x, curve in step.arguments if id(x) in at)
                root_and_scale = next((pair for pair in scales if pair[1]), (step.root, _scale_of_root(step)))
                others = tuple(other.root for other in steps if _scale_of_root(other))
                for switch in step.curve.switches:
                    switch.on = False
        if root_and_scale is None and not (steps and steps[0].alone and steps[0].curve.values is not None):
            scales = ((root, gate(x, y)) for x, root in zip(before, roots, strict=True) if _fit(x, y))
            root_and_scale = next((pair for pair in scales if pair[1]), None)
            if root_and_scale is None and func.namespace not in TORCH:
                trial = Trial.of(operation)
                root_and_scale = None if trial.symmetric() else (roots[0], trial.gate())
        if root_and_scale is None:
            return None
        root, scale = root_and_scale
        return Rectifier(root, scale, f"{func} in {place()}", Switch(), root not in roots, others)

    def _keep(self, result: Any, steps: Sequence[Step], written: bool, rectifier: Rectifier | None = None) -> None:
        """Remember what an operation's output is a function of."""
        result = result[0] if isinstance(result, tuple) and result else result
        if not isinstance(result, Tensor):
            return
        curves = {step.root: step.curve for step in steps}
        if rectifier is not None:
            curves = {root: curve.of_rectifier(rectifier.switch) for root, curve in curves.items()}
        self.curves.keep(result, curves, written)

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
        return node is not None and RULED not in node.metadata and not self.is_ruled(node)

    def _install(self, node: Any, y: Tensor, rectifier: Rectifier) -> None:
        node.metadata[RULED] = True
        ways = rectifier.ways(node)
        if rectifier.apart and not y._is_view():
            self.hooks.install_apart(node, y.output_nr, rectifier)
        elif ways and rectifier.scale:
            self.hooks.install(node, y.output_nr, rectifier.scale, ways, rectifier.switch)
        else:  # it was applied in place to a view, where a node's hooks are lost
            refuse(node, f"{OUT_OF_REACH if rectifier.scale else UNSEEN}: {rectifier.name}")

    def _examine(self, node: Any, y: Tensor) -> None:
        r"""Find out whether a node that hides its operations ends in a rectifier, and refuse what hides one within.

        The output $y$ of a rectifier is never negative, and where it is 0 nothing flows back. If all that flows back is
        $c\,[y > 0]$ for a signal of ones, the node is nothing but a rectifier, to which both rules apply. If it is more (a
        convolution with a rectifier after it), guided backprop still applies: its signal is rectified first.
        """
        past = self.hidden.get(y)
        parts = tuple(part for part in past.parts if part.switch.on) if past is not None else ()
        own = past.own if past is not None else None
        if own is not None and own.scale and parts == (own,):
            for stand_in in (own._replace(root=root, apart=False) for root in (own.root, *own.others)):
                if stand_in.ways(node):
                    self._install(node, y, stand_in)
                    return
        node.metadata[RULED] = True
        scale, alone = self._derivative(node, y)
        ways = [place for place, (onward, _) in enumerate(node.next_functions) if onward is not None]
        if scale and len(parts) <= 1 and (alone or self.hooks.derivative):
            self.hooks.install(node, y.output_nr, scale, ways, Switch())
        elif scale or parts:
            names = " and ".join(dict.fromkeys(part.name for part in parts)) or "one"
            known = scale or any(part.scale for part in parts)
            refuse(node, f"{OUT_OF_REACH if known else UNSEEN}: {names} inside {node.name()}")
        elif past is None and not y._is_view():  # which is an input, handed on
            refuse(node, f"{UNSEEN}: {node.name()}")

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


def _fit(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and plain(x) and plain(y)


def _bends(step: Step, steps: Sequence[Step], at: dict[int, Root]) -> bool:
    """Whether an operation is the end of a rectifier of its root, of those that it has in these steps."""
    values = step.curve.values
    if values is None or not bool(values.isfinite().all()) or straight(values) or step.ruled:
        return False
    # What becomes of a root's other sign is no matter where the root is itself a curve that has one sign.
    arguments = [argument for other in steps if other is not step for argument in other.arguments]
    above = [curve.values for x, curve in arguments if at.get(id(x)) == step.root]
    if any(curve is not None and one_sign(curve) for curve in above):
        return False
    return any(_scale(curve, step.curve) for x, curve in step.arguments if id(x) in at) or bool(_scale_of_root(step))


def _scale(one: Curve, of: Curve) -> float:
    """The scale of the rectifier that a curve is of another; 0 if it is none."""
    return 0.0 if one.values is None or of.values is None else gate(one.values, of.values)


def _scale_of_root(step: Step) -> float:
    """The scale of the rectifier that a curve is of its root; 0 if it is none."""
    values = step.curve.values
    if values is None or not bool(values.isfinite().all()):
        return 0.0
    return gate(abscissa(values), values) or power_of_two(bent(values), 0.01)


class BesideCompiler(Rectifiers):
    """The same, where torch's compiler is in use and must be kept out."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return super().__torch_dispatch__(func, types, args, kwargs)


def rectifiers(rules: tuple[RectifierRule, ...]) -> Rectifiers:
    """`Rectifiers`, kept from torch's compiler if that is in use."""
    return (BesideCompiler if "torch._dynamo" in sys.modules else Rectifiers)(rules)


def next_number() -> int:
    """The number that autograd will give to the next node made in this thread."""
    return torch._C._autograd._get_sequence_nr()
