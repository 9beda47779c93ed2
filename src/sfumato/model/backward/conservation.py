r"""Whether probability adds up: the check of rules of probabilities, as excitation backprop, that needs no list of functions.

Through an operation that has the rule probabilities flow back to probabilities: none is negative, and their sum stays.
So for any signal $R$, $\sum_i R_{x_i} = \sum_j R_{y_j}$ and $\sum_i |R_{x_i}| \le \sum_j |R_{y_j}|$. An operation that only
moves values (a view, a maximum, a padding) may lose what it would give to constants. Every node of the graph without a rule
of its own is held to this; those with one lose only what reaches a unit that nothing excites.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sfumato.model.backward.rectifiers import next_number, place

TOLERANCE = 1e-3


class Call(NamedTuple):
    """A function that ran with its own gradient; its nodes have numbers in `[start, end)`."""

    start: int
    end: int
    name: str
    place: str
    missed: bool
    """Whether it has a rule, which could not be applied."""


@dataclass
class Span:
    """The nodes of the graph that were made within a context; autograd numbers them as they are made."""

    start: int = 0
    stop: int = 0
    calls: list[Call] = field(default_factory=list)

    def begin(self) -> None:
        self.calls.clear()
        self.start = next_number()

    def end(self) -> None:
        self.stop = next_number()

    def call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], missed: bool) -> Any:
        """Run a function with its own gradient, and remember it if it made nodes."""
        start = next_number()
        result = func(*args, **kwargs)
        if next_number() > start:
            self.calls.append(Call(start, next_number(), getattr(func, "__name__", str(func)), place(), missed))
        return result

    def __contains__(self, node: Any) -> bool:
        return self.start <= node._sequence_nr() < self.stop

    def of(self, node: Any) -> Call | None:
        """The function that made a node."""
        number = node._sequence_nr()
        return next((call for call in self.calls if call.start <= number < call.end), None)


@dataclass
class Passage:
    """What flowed through a node: sums of signals and of their magnitudes, that came to it and that it gave on."""

    node: Any
    came: tuple[float, float] = (0.0, 0.0)
    gave: tuple[float, float] = (0.0, 0.0)
    signals: tuple[Any, ...] = ()
    """Ones in the place of all that came."""
    tolerance: float = TOLERANCE

    def record(self, gradients: tuple[Any, ...], signals: tuple[Any, ...]) -> None:
        """What the node of the graph calls as it is passed."""
        with torch._C.DisableTorchFunction(), torch.no_grad():
            self.came, self.gave = _sums(signals), _sums(gradients)
            ways = [way for way, _ in self.node.next_functions]
            if any(g is None for g, way in zip(gradients, ways, strict=False) if way is not None):
                self.gave = _sums(self._given(signals))  # also what was not asked for
            self.signals = tuple(None if s is None else s.new_ones(()).expand_as(s) for s in signals)
            coarsest = max((torch.finfo(s.dtype).eps for s in (*gradients, *signals) if s is not None), default=0.0)
            self.tolerance = max(TOLERANCE, 8 * coarsest)

    @property
    def conserved(self) -> bool:
        """Whether what came was given on, with no part negative."""
        slack = self.tolerance * self.came[1]
        if self.gave[1] > self.came[1] + slack:
            return False
        return abs(self.gave[0] - self.came[0]) <= slack or self._moves()

    def _given(self, signals: Sequence[Any]) -> list[Tensor]:
        """What the node gives on of signals, by all its ways."""
        given = getattr(self.node, "apply", self.node)(*signals)  # Python's nodes have the one, C++'s are the other
        return [share for share in (given if isinstance(given, tuple) else (given,)) if share is not None]

    def _moves(self) -> bool:
        """Whether the operation only moves values: of a signal of ones, each goes to one place, or to a constant."""
        with torch._C.DisableTorchFunction(), torch.no_grad():
            shares = self._given(self.signals)
            counts = all(bool(((share - share.round()).abs() <= 1e-6).all() & (share >= 0).all()) for share in shares)
            total = sum(float(share.sum()) for share in shares)
            return counts and 0 < total <= sum(s.numel() for s in self.signals if s is not None)


def _sums(signals: Sequence[Any]) -> tuple[float, float]:
    values = [signal.detach() for signal in signals if signal is not None and not signal.is_complex()]
    fine = [torch.float32 if value.device.type == "mps" else torch.float64 for value in values]  # which has no doubles
    pairs = list(zip(values, fine, strict=True))
    return (
        float(sum(value.sum(dtype=dtype) for value, dtype in pairs)),
        float(sum(value.abs().sum(dtype=dtype) for value, dtype in pairs)),
    )


def check_thread(scores: Tensor, outputs: Sequence[Tensor], start: int) -> None:
    """Raise `ValueError` where what lies between `scores` and `outputs` was computed in another thread, without the rules.

    Each thread numbers the nodes that it makes, so that there numbers come twice, or lie before or beyond those that this one
    has made from `start` on.
    """
    if not scores.requires_grad:
        return
    numbers: set[int] = set()
    for node in _between(scores, outputs):
        number = node._sequence_nr()
        if number in numbers or not start <= number < next_number():
            raise ValueError(
                f"the model computes a part of itself ({node.name()}) in another thread, where the rules of this method do not "
                "act; let it compute in the thread that calls it, or use the method Gradient"
            )
        numbers.add(number)


def _between(scores: Tensor, outputs: Sequence[Tensor]) -> list[Any]:
    """The nodes of the graph by which a signal flows from scores to outputs, leaves not among them."""
    ends = {output.grad_fn for output in outputs if output.grad_fn is not None}
    leaves = {id(output) for output in outputs if output.grad_fn is None}
    reaching: dict[Any, bool] = {}
    waiting: list[tuple[Any, bool]] = [(scores.grad_fn, False)]
    while waiting:
        node, children_known = waiting.pop()
        onward = [way for way, _ in node.next_functions if way is not None]
        if children_known:
            reaching[node] = any(
                way in ends or id(getattr(way, "variable", None)) in leaves or reaching.get(way, False)
                for way in onward
            )
        elif node not in reaching:
            reaching[node] = False
            waiting += [(node, True), *((way, False) for way in onward if way not in ends and way not in reaching)]
    return [node for node, reaches in reaching.items() if reaches]


def check_conserved(
    scores: Tensor, outputs: Sequence[Tensor], span: Span, is_ruled: Callable[[Any], bool], title: str
) -> None:
    """Raise `ValueError` where probability does not add up on its way from `scores` to `outputs`, and say at what.

    Only nodes within the `span` are looked at, and none that a rule made. `title` names the rule in the message.
    """
    if not scores.requires_grad:
        return  # which has an error of its own, as below
    passages = [Passage(node) for node in _nodes(scores) if node in span and not is_ruled(node)]
    hooks = [passage.node.register_hook(passage.record) for passage in passages]
    try:
        flowed = torch.autograd.grad([scores.sum()], list(outputs), retain_graph=True, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    if all(signal is None for signal in flowed):
        return
    for passage in sorted(passages, key=lambda passage: -passage.node._sequence_nr()):
        call = span.of(passage.node)
        if passage.came[1] and (not passage.conserved or (call and call.missed)):
            _refuse(passage, call, title)


def _refuse(passage: Passage, call: Call | None, title: str) -> None:
    name = f"{call.name} ({passage.node.name()})" if call else passage.node.name()
    where = f" in {call.place}" if call and call.place else ""
    if call and call.missed:
        what = "is computed where its rule cannot be applied, as under torch.vmap"
    else:
        (came, size), (gave, _) = passage.came, passage.gave
        what = f"has no rule, so that probabilities do not add up: of {came or size:.4g} it gives on {gave:.4g}"
    raise ValueError(f"{title} stops at {name}{where}, which {what}; name a layer above it, or use another method")


def _nodes(scores: Tensor) -> list[Any]:
    """All nodes of a graph."""
    seen, waiting = set(), [scores.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(onward for onward, _ in node.next_functions)
    return list(seen)
