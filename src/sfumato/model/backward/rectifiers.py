r"""Finds rectifiers however they are written: `torch.maximum(x, 0)`, `x * (x > 0)`, a scripted function, `autograd.Function`.

A search for the names of functions misses these. Here every operation that runs is examined, after torch has decomposed
modules, functions, scripts and `vmap`. Its outputs for values of both signs show whether it is a rectifier, or the last of
several operations that form one: see `gate` and `sfumato.model.backward.curves`. A node of the autograd graph that hides its
operations is recognised by its derivative, and an operation of the user's own by its symmetry: see `Rectifiers`.
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
    Dependence,
    Root,
    Switch,
    abscissa,
    has_one_sign,
    is_elementwise,
    is_straight,
    soft_slope,
)
from sfumato.model.backward.functions import SLOPED, is_rectifier
from sfumato.model.backward.gates import Operation, Trial, flat_tensors, gate, is_dense, power_of_two
from sfumato.model.backward.hooks import Hooks, Rectifier, refuse
from sfumato.model.backward.rule import FunctionRule, RectifierRule
from sfumato.model.effects import DISPATCH_MODES

DETACH = torch.ops.aten.detach.default
TORCH = ("aten", "prim", "prims", "torchvision")
"""The namespaces of torch's own operations, none of which hides a rectifier. Other operations may compute anything."""
RULED = "sfumato.rule"
"""The key in a node's metadata that says that its rule is installed."""


def place() -> str:
    """The place in the user's code: the innermost Python frame that is neither in torch nor in this package; "" without one."""
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


class History(NamedTuple):
    """The rectifiers by which a tensor was computed."""

    parts: tuple[Rectifier, ...] = ()
    """All rectifiers before the tensor."""
    last: Rectifier | None = None
    """The rectifier whose output the tensor is."""


OUT_OF_REACH = "a rectifier that the rules of this method cannot reach"
UNSEEN = "an operation that the rules of this method cannot see into, and that may be or hold a rectifier"


def is_opaque(node: Any) -> bool:
    """Whether a node of the graph may hide any operations: an `autograd.Function`, or a fused node of torch.jit."""
    return isinstance(node, torch.autograd.function.BackwardCFunction) or type(node).__name__ == "CppFunction"


class Rectifiers(TorchDispatchMode):
    """In this context, rectifiers are found and get the rules as hooks. Without rules nothing is examined.

    Functions compiled by `torch.compile` run as they were written: torch does not use compiled code under a dispatch mode.
    """

    def __init__(self, rules: tuple[RectifierRule, ...]) -> None:
        super().__init__()
        self.hooks, self.examining = Hooks(rules), bool(rules)
        self.spans: list[range] = []
        """Numbers of the nodes that were made while a `FunctionRule` ran."""
        self.pauses = 0
        """The number of nested `paused` contexts; above 0, nothing is examined."""
        self.pending: list[tuple[Tensor, Rectifier]] = []
        """Outputs of rectifiers whose nodes do not exist yet."""
        self.hidden = WeakTensorKeyDictionary()
        """The `History` of tensors that are computed outside of the graph, e.g. inside of an `autograd.Function`."""
        self.curves = Curves()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False, as torch would otherwise import its compiler, which takes seconds; see `BesideCompiler`."""
        return False

    def __enter__(self) -> Self:
        self.spans.clear()
        DISPATCH_MODES.acquire()
        super().__enter__()
        return self

    @contextmanager
    def paused(self, pause: bool) -> Iterator[None]:
        """If `pause`, nothing is examined in this context, because the function in it has its rule or needs none."""
        self.pauses += pause
        try:
            yield
        finally:
            self.pauses -= pause

    def apply(self, rule: FunctionRule, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The result of a function under its rule. The function is not examined, and the nodes that it makes count as ruled."""
        if self.examining:
            self._settle([x for x in flat_tensors((args,)) if x.is_floating_point()])
        start = next_number()
        self.spans.append(range(start, sys.maxsize))
        try:
            with self.paused(True):
                result = rule(func, *args, **kwargs)
        finally:
            self.spans[-1] = range(start, next_number())
        for y in flat_tensors((result,)):
            self.curves.keep(y, {}, written=False)  # no curve, or a larger rectifier would bypass the rule
        return result

    def is_ruled(self, node: Any) -> bool:
        """Whether a rule made this node, which is then an `autograd.Function`."""
        return is_opaque(node) and any(node._sequence_nr() in span for span in self.spans)

    def __exit__(self, *error: object) -> None:
        try:
            super().__exit__(*error)
        finally:
            DISPATCH_MODES.release()
        if self.examining and error[0] is None:
            self._settle(list(self.hidden.keys()))
        self.pending.clear()
        self.hidden.clear()
        self.curves.clear()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.examining:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            tensors = flat_tensors((args, tuple(kwargs.values())))
            floats = [value for value in tensors if value.is_floating_point()]
            # An autograd.Function detaches the tensors that it saves, before its node is complete.
            if func is not DETACH:
                self._settle(floats)
            signals = [x for x in floats if x.requires_grad or (self.hidden and x in self.hidden)]
            if not signals and not is_elementwise(func):
                return func(*args, **kwargs)
            return self._run_and_examine(Operation(func, args, kwargs, tensors, signals))

    def _run_and_examine(self, operation: Operation) -> Any:
        """The result of an operation. A rectifier that ends in it is recorded."""
        func, args, kwargs, _, signals = operation
        roots = [Root(x) for x in signals]
        dependences = self.curves.follow(operation, roots)
        written = operation.in_place
        if self.pauses or not signals:
            result = operation.run()
            if dependences:
                self._keep(result, dependences, written)
            return result
        named = is_rectifier(func, args, kwargs)
        before = [x.detach().clone() if written and x is args[0] and not named else x for x in signals]
        # Without gradients, outputs have no node yet; they may get one at the end of an autograd.Function.
        graph = torch.is_grad_enabled() and any(x.requires_grad for x in signals) and func is not DETACH
        parts = tuple(dict.fromkeys(part for x in signals for part in self.hidden.get(x, History()).parts))
        result = operation.run()
        outputs = [y for y in flat_tensors((result,)) if y.is_floating_point()]
        rectifier = None
        if outputs and func is not DETACH:  # detach computes nothing, and torch calls it at every operation in place
            rectifier = self._rectifier(operation, named, before, roots, dependences, outputs[0])
        if dependences:
            # Without the derivative SELU's slope of 1.05 would be lost, so that a factor after it makes a larger rectifier.
            final = self.hooks.derivative or func not in SLOPED
            self._keep(result, dependences, written, rectifier if final else None)
        if rectifier is not None:
            parts += (rectifier,)
            if graph:
                self.pending.append((outputs[0], rectifier))
        if not graph:
            for y in outputs:
                self.hidden[y] = History(parts, rectifier)
                base = y._base if written and y._is_view() else None
                if base is not None:  # the operation wrote into a part of a larger tensor
                    self.hidden[base] = History((*self.hidden.get(base, History()).parts, *parts))
        return result

    def _rectifier(
        self,
        operation: Operation,
        named: bool,
        before: Sequence[Tensor],
        roots: Sequence[Root],
        dependences: Sequence[Dependence],
        y: Tensor,
    ) -> Rectifier | None:
        """The rectifier that ends in this operation, whose output is `y`, or None.

        `named` says whether the operation is a rectifier by its name. `before` are the operation's signals before it ran, and
        `roots` the same as roots.
        """
        func = operation.func
        root_and_scale: tuple[Root, float] | None = None
        others: tuple[Root, ...] = ()
        if named:
            root_and_scale = next(
                ((root, 1.0) for x, root in zip(before, roots, strict=True) if _same_shape(x, y)), None
            )
        elif dependences and any(dependence.curve.values is not None for dependence in dependences):
            root_of = {id(x): root for x, root in zip(operation.signals, roots, strict=True)}
            end = next((entry for entry in dependences if _ends_rectifier(entry, dependences, root_of)), None)
            if end is not None:
                scales = ((root_of[id(x)], _scale(curve, end.curve)) for x, curve in end.arguments if id(x) in root_of)
                root_and_scale = next((pair for pair in scales if pair[1]), (end.root, _scale_of_root(end)))
                others = tuple(entry.root for entry in dependences if _scale_of_root(entry))
                for switch in end.curve.switches:
                    switch.on = False
        nearest = dependences[0] if dependences else None
        if root_and_scale is None and not (nearest and nearest.alone and nearest.curve.values is not None):
            scales = ((root, gate(x, y)) for x, root in zip(before, roots, strict=True) if _same_shape(x, y))
            root_and_scale = next((pair for pair in scales if pair[1]), None)
            if root_and_scale is None and func.namespace not in TORCH:
                trial = Trial.of(operation)
                root_and_scale = None if trial.symmetric() else (roots[0], trial.gate())
        if root_and_scale is None:
            return None
        root, scale = root_and_scale
        return Rectifier(root, scale, f"{func} in {place()}", Switch(), root not in roots, others)

    def _keep(
        self, result: Any, dependences: Sequence[Dependence], written: bool, rectifier: Rectifier | None = None
    ) -> None:
        """Store the curves of an operation's output."""
        result = result[0] if isinstance(result, tuple) and result else result
        if not isinstance(result, Tensor):
            return
        curves = {dependence.root: dependence.curve for dependence in dependences}
        if rectifier is not None:
            curves = {root: curve.of_rectifier(rectifier.switch) for root, curve in curves.items()}
        self.curves.keep(result, curves, written)

    def _settle(self, tensors: Sequence[Tensor]) -> None:
        """Install the rules at the rectifiers that have run, whose nodes now exist."""
        pending, self.pending = self.pending, []
        for y, rectifier in pending:
            through_view = y._is_view() and type(y._base.grad_fn).__name__ == "CopySlices"  # type: ignore[union-attr]
            node = y._base.grad_fn if through_view else y.grad_fn  # type: ignore[union-attr]
            if self._is_new(node):
                self._install(node, y, rectifier)
        for y in tensors:
            if is_opaque(y.grad_fn) and self._is_new(y.grad_fn):
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
        else:  # the operation ran in place on a view, where torch loses a node's hooks
            refuse(node, f"{OUT_OF_REACH if rectifier.scale else UNSEEN}: {rectifier.name}")

    def _examine(self, node: Any, y: Tensor) -> None:
        r"""Install the rules at a node that hides its operations if it ends in a rectifier; refuse it if one is further inside.

        The output $y$ of a rectifier is never negative, and nothing flows back where it is 0. If a signal of ones flows back as
        $c\,[y > 0]$, the node is only a rectifier, and all rules apply. If it does not (e.g. for a convolution with a rectifier
        after it), rules with the derivative still apply, as guided backprop: the signal is transformed first.
        """
        history = self.hidden.get(y)
        parts = tuple(part for part in history.parts if part.switch.on) if history is not None else ()
        last = history.last if history is not None else None
        if last is not None and last.scale and parts == (last,):
            for candidate in (last._replace(root=root, apart=False) for root in (last.root, *last.others)):
                if candidate.ways(node):
                    self._install(node, y, candidate)
                    return
        node.metadata[RULED] = True
        scale, alone = self._derivative(node, y)
        ways = [index for index, (next_node, _) in enumerate(node.next_functions) if next_node is not None]
        if scale and len(parts) <= 1 and (alone or self.hooks.derivative):
            self.hooks.install(node, y.output_nr, scale, ways, Switch())
        elif scale or parts:
            names = " and ".join(dict.fromkeys(part.name for part in parts)) or "one"
            known = scale or any(part.scale for part in parts)
            refuse(node, f"{OUT_OF_REACH if known else UNSEEN}: {names} inside {node.name()}")
        elif history is None and not y._is_view():  # a view is an input that the node returns
            refuse(node, f"{UNSEEN}: {node.name()}")

    def _derivative(self, node: Any, y: Tensor) -> tuple[float, bool]:
        """The scale of the rectifier in which a node ends, 0 without one, and whether the node is only a rectifier."""
        shut = y.detach() == 0
        if bool((y.detach() < 0).any() | ~shut.any() | shut.all()):
            return 0.0, False
        edges = [GradientEdge(next_node, index) for next_node, index in node.next_functions if next_node is not None]

        def gradients_of(signal: Tensor) -> list[Tensor]:
            gradients = torch.autograd.grad(y, edges, signal.to(y.dtype), retain_graph=True, allow_unused=True)
            return [gradient for gradient in gradients if gradient is not None]

        try:
            blocked, through = gradients_of(shut), gradients_of(~shut)
        except RuntimeError:  # the Function has only one backward pass, or works only in backward()
            return 0.0, False
        if any(bool(gradient.any()) for gradient in blocked) or not any(bool(gradient.any()) for gradient in through):
            return 0.0, False
        if len(through) != 1 or through[0].shape != y.shape:
            return 1.0, False
        scale = float(through[0].max())
        alone = scale > 0 and torch.allclose(through[0], scale * (~shut).to(through[0].dtype))
        return (scale, True) if alone else (1.0, False)


def _same_shape(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and is_dense(x) and is_dense(y)


def _ends_rectifier(dependence: Dependence, dependences: Sequence[Dependence], root_of: dict[int, Root]) -> bool:
    """Whether an operation is the last one of a rectifier of this root. `dependences` are all of the operation."""
    values = dependence.curve.values
    if values is None or not bool(values.isfinite().all()) or is_straight(values) or dependence.ruled:
        return False
    # If the root is itself a function that has only one sign, its values of the other sign do not occur.
    arguments = [argument for entry in dependences if entry is not dependence for argument in entry.arguments]
    root_curves = [curve.values for x, curve in arguments if root_of.get(id(x)) == dependence.root]
    if any(curve is not None and has_one_sign(curve) for curve in root_curves):
        return False
    scales = (_scale(curve, dependence.curve) for x, curve in dependence.arguments if id(x) in root_of)
    return any(scales) or bool(_scale_of_root(dependence))


def _scale(x: Curve, y: Curve) -> float:
    """The scale if curve `y` is a rectifier of curve `x`, else 0."""
    return 0.0 if x.values is None or y.values is None else gate(x.values, y.values)


def _scale_of_root(dependence: Dependence) -> float:
    """The scale if a curve is a rectifier of its root, else 0."""
    values = dependence.curve.values
    if values is None or not bool(values.isfinite().all()):
        return 0.0
    return gate(abscissa(values), values) or power_of_two(soft_slope(values), 0.01)


class BesideCompiler(Rectifiers):
    """`Rectifiers` for a process that has imported torch's compiler, which must not compile them."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return super().__torch_dispatch__(func, types, args, kwargs)


def rectifiers(rules: tuple[RectifierRule, ...]) -> Rectifiers:
    """A `Rectifiers` that torch's compiler does not compile."""
    return (BesideCompiler if "torch._dynamo" in sys.modules else Rectifiers)(rules)


def next_number() -> int:
    """The number that autograd will give to the next node made in this thread."""
    return torch._C._autograd._get_sequence_nr()
