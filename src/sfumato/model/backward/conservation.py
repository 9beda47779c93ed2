r"""A check that probabilities add up under rules like excitation backprop. It needs no list of supported functions.

An operation with such a rule turns probabilities into probabilities: none is negative, and their sum does not change. So for
any signal $R$, $\sum_i R_{x_i} = \sum_j R_{y_j}$ and $\sum_i |R_{x_i}| \le \sum_j |R_{y_j}|$. An operation that only moves
values (a view, a maximum, a padding) may lose what would flow to constants. The check applies this to every node of the graph
without a rule of its own. A node with a rule loses only what reaches a unit that nothing excites.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.model.backward.rectifiers import next_number, place
from sfumato.space.precision import widest_float

TOLERANCE = 1e-3


class Call(NamedTuple):
    """A function that ran with its own gradient; its nodes have numbers in `[start, end)`."""

    start: int
    end: int
    name: str
    place: str
    missed: bool
    """Whether the function has a rule that could not be applied."""


@dataclass
class Span:
    """The nodes of the graph that were made within a context, by their numbers: autograd numbers nodes as they are made."""

    start: int = 0
    stop: int = 0
    calls: list[Call] = field(default_factory=list)

    def begin(self) -> None:
        self.calls.clear()
        self.start = next_number()

    def end(self) -> None:
        self.stop = next_number()

    def call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], missed: bool) -> Any:
        """Run a function with its own gradient, and record the call if it made nodes."""
        start = next_number()
        result = func(*args, **kwargs)
        if next_number() > start:
            self.calls.append(Call(start, next_number(), getattr(func, "__name__", str(func)), place(), missed))
        return result

    def __contains__(self, node: Any) -> bool:
        return self.start <= node._sequence_nr() < self.stop

    def of(self, node: Any) -> Call | None:
        """The recorded call that made a node, if there is one."""
        number = node._sequence_nr()
        return next((call for call in self.calls if call.start <= number < call.end), None)


@dataclass
class Passage:
    """The signals that flowed through a node: the sums of their values, and of their magnitudes."""

    node: Any
    incoming: tuple[float, float] = (0.0, 0.0)
    """The two sums of the signals at the node's outputs."""
    outgoing: tuple[float, float] = (0.0, 0.0)
    """The two sums of the gradients that the node computes for its inputs."""
    signals: tuple[Any, ...] = ()
    """Ones of the shapes of the incoming signals."""
    tolerance: float = TOLERANCE

    def record(self, gradients: tuple[Any, ...], signals: tuple[Any, ...]) -> None:
        """Store the sums; a hook on the node."""
        with torch._C.DisableTorchFunction(), torch.no_grad():
            self.incoming, self.outgoing = _sums(signals), _sums(gradients)
            next_nodes = [next_node for next_node, _ in self.node.next_functions]
            if any(g is None for g, next_node in zip(gradients, next_nodes, strict=False) if next_node is not None):
                self.outgoing = _sums(self._gradients(signals))  # also those that autograd does not need here
            self.signals = tuple(None if s is None else s.new_ones(()).expand_as(s) for s in signals)
            coarsest = max((torch.finfo(s.dtype).eps for s in (*gradients, *signals) if s is not None), default=0.0)
            self.tolerance = max(TOLERANCE, 8 * coarsest)

    @property
    def conserved(self) -> bool:
        """Whether the sum of the signals did not change, and no part is negative."""
        slack = self.tolerance * self.incoming[1]
        if self.outgoing[1] > self.incoming[1] + slack:
            return False
        return abs(self.outgoing[0] - self.incoming[0]) <= slack or self._moves()

    def _gradients(self, signals: Sequence[Any]) -> list[Tensor]:
        """The gradients that the node computes from signals for all its inputs."""
        # Nodes of Python have `apply`, nodes of C++ are callable.
        gradients = getattr(self.node, "apply", self.node)(*signals)
        return [g for g in (gradients if isinstance(gradients, tuple) else (gradients,)) if g is not None]

    def _moves(self) -> bool:
        """Whether the operation only moves values: each one of a signal of ones flows to one place, or to a constant."""
        with torch._C.DisableTorchFunction(), torch.no_grad():
            shares = self._gradients(self.signals)
            counts = all(bool(((share - share.round()).abs() <= 1e-6).all() & (share >= 0).all()) for share in shares)
            total = sum(float(share.sum()) for share in shares)
            return counts and 0 < total <= sum(s.numel() for s in self.signals if s is not None)


def _sums(signals: Sequence[Any]) -> tuple[float, float]:
    """The sum of all values, and the sum of their magnitudes, in float64 unless the device lacks it."""
    values = [signal.detach() for signal in signals if signal is not None and not signal.is_complex()]
    pairs = [(value, widest_float(value.device)) for value in values]
    return (
        float(sum(value.sum(dtype=dtype) for value, dtype in pairs)),
        float(sum(value.abs().sum(dtype=dtype) for value, dtype in pairs)),
    )


def check_thread(scores: Float[Tensor, "..."], outputs: Sequence[Float[Tensor, "..."]], start: int) -> None:
    """Raise `ValueError` if a part between `scores` and `outputs` was computed in another thread, without the rules.

    Each thread numbers the nodes that it makes. So in such a graph a number occurs twice, or is not among those that this
    thread has given since `start`.
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


def _between(scores: Float[Tensor, "..."], outputs: Sequence[Float[Tensor, "..."]]) -> list[Any]:
    """The nodes of the graph through which a signal flows from scores to outputs, without leaves."""
    ends = {output.grad_fn for output in outputs if output.grad_fn is not None}
    leaves = {id(output) for output in outputs if output.grad_fn is None}
    reaching: dict[Any, bool] = {}
    stack: list[tuple[Any, bool]] = [(scores.grad_fn, False)]
    while stack:
        node, children_known = stack.pop()
        children = [child for child, _ in node.next_functions if child is not None]
        if children_known:
            reaching[node] = any(
                child in ends or id(getattr(child, "variable", None)) in leaves or reaching.get(child, False)
                for child in children
            )
        elif node not in reaching:
            reaching[node] = False
            stack += [(node, True)]
            stack += [(child, False) for child in children if child not in ends and child not in reaching]
    return [node for node, reaches in reaching.items() if reaches]


def check_conserved(
    scores: Float[Tensor, "..."],
    outputs: Sequence[Float[Tensor, "..."]],
    span: Span,
    is_ruled: Callable[[Any], bool],
    title: str,
) -> None:
    """Raise `ValueError` if probabilities do not add up between `scores` and `outputs`. The message names the operation.

    Only nodes within the `span` that no rule made are checked. `title` names the rule in the message.
    """
    if not scores.requires_grad:
        return  # the backward pass raises an error of its own for this, and for a signal that reaches no output
    passages = [Passage(node) for node in _nodes(scores) if node in span and not is_ruled(node)]
    hooks = [passage.node.register_hook(passage.record) for passage in passages]
    try:
        signals = torch.autograd.grad([scores.sum()], list(outputs), retain_graph=True, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    if all(signal is None for signal in signals):
        return
    for passage in sorted(passages, key=lambda passage: -passage.node._sequence_nr()):
        call = span.of(passage.node)
        if passage.incoming[1] and (not passage.conserved or (call and call.missed)):
            _refuse(passage, call, title)


def _refuse(passage: Passage, call: Call | None, title: str) -> None:
    name = f"{call.name} ({passage.node.name()})" if call else passage.node.name()
    where = f" in {call.place}" if call and call.place else ""
    if call and call.missed:
        problem = "is computed where its rule cannot be applied, as under torch.vmap"
    else:
        (incoming, magnitude), (outgoing, _) = passage.incoming, passage.outgoing
        problem = f"has no rule, so that probabilities do not add up: of {incoming or magnitude:.4g} it gives on {outgoing:.4g}"
    raise ValueError(f"{title} stops at {name}{where}, which {problem}; name a layer above it, or use another method")


def _nodes(scores: Float[Tensor, "..."]) -> list[Any]:
    """All nodes of a graph."""
    visited, stack = set(), [scores.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in visited:
            visited.add(node)
            stack.extend(next_node for next_node, _ in node.next_functions)
    return list(visited)
