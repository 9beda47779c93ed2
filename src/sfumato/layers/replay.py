"""The network above a layer, replayed from the layer's stored activation.

What a network does below a layer is the same for every mask, so it is done once. The modules that are called on the way to
the layer, and do not lead to it, are skipped from then on: their calls return what they returned at first, or an empty
stand-in where nothing looks at that. What else is computed there, as adding an embedding, is computed again from these. So
any network runs with its own code, and shortcuts around the layer carry what they carried.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map, tree_structure, tree_unflatten

from sfumato.layers.capture import CallChooser, check_rows, find_layer, floating
from sfumato.model.arguments import WithArguments
from sfumato.model.effects import Substitution, substituted
from sfumato.model.outputs import paired, same_first_row, tolerance
from sfumato.model.subject import Subject

Key = tuple[nn.Module, int]
"""A module and the number of its call, counted over the whole pass, in calls that are skipped too."""

Leaf = Callable[[Tensor], Any]
"""From the queries `(N,)` of the rows to a value."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Values `(B, rows of a query, …)`; as they are handed out they may be changed in place."""

    values: Tensor

    def __call__(self, query: Tensor) -> Tensor:
        return self.values[query].flatten(0, 1)


@dataclass(frozen=True, eq=False)
class StandIn:
    """Of the right shape and type, and empty: for what nothing looks at."""

    like: Tensor
    """`(rows of a query, …)`, without memory of its own."""

    @classmethod
    def of(cls, rows: Rows) -> "StandIn":
        return cls(rows.values.new_zeros(()).expand(rows.values.shape[1:]))

    def __call__(self, query: Tensor) -> Tensor:
        rows, *rest = self.like.shape
        return self.like.new_zeros(()).expand(len(query) * rows, *rest)


@dataclass(frozen=True, eq=False)
class Same:
    """A value that is the same whatever the queries."""

    value: Any

    def __call__(self, query: Tensor) -> Any:  # noqa: ARG002
        return self.value.clone() if isinstance(self.value, Tensor) else self.value


@dataclass(frozen=True, eq=False)
class Returned:
    """What a skipped call returns: its leaves, and how they are nested."""

    leaves: tuple[Leaf, ...]
    form: Any
    within: Mapping[nn.Module, int]
    """How often it calls other modules, which do not count themselves while it is skipped."""

    def __call__(self, query: Tensor) -> Any:
        return tree_unflatten([leaf(query) for leaf in self.leaves], self.form)


@dataclass(frozen=True, eq=False)
class Replay:
    """The network above a layer: a function of what the layer puts out (or takes in), for rows of given queries."""

    net: nn.Module
    layer: nn.Module
    at: str
    number: int
    """Of the call of the layer that counts."""
    inputs: Leaf
    skipped: Mapping[Key, Returned]
    more: WithArguments | None = None
    """What the network needs besides its input."""

    def __call__(self, activation: Tensor, query: Tensor) -> Any:
        """The network's outputs where the layer puts out `activation`, whose rows belong to the queries `(N,)`."""
        calls: Counter[nn.Module] = Counter()
        modules = {module for module, _ in self.skipped} | {self.layer}
        arguments, named = self.more.of(query) if self.more is not None else ((), {})
        with substituted({module: self._forward(module, activation, query, calls) for module in modules}):
            return self.net(self.inputs(query), *arguments, **named)

    def _forward(self, module: nn.Module, activation: Tensor, query: Tensor, calls: Counter[nn.Module]) -> Substitution:
        def substitution(own: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*arguments: Any, **named: Any) -> Any:
                number = calls[module]
                calls[module] += 1
                if module is self.layer and number == self.number:
                    return activation if self.at == "output" else own(activation, *arguments[1:], **named)
                returned = self.skipped.get((module, number))
                if returned is None:
                    return own(*arguments, **named)
                calls.update(returned.within)
                return returned(query)

            return forward

        return substitution


CHUNK = 16
"""Queries at once, when their activations are stored."""


def replay_of(subject: Subject, layer: str, at: str, call: int = -1) -> tuple[Replay, Tensor]:
    """The network above a call of the layer, and what the layer puts out for the subject's inputs, `(B, …)` in its own form.

    A warning says so where the network must be run from its input each time, or a good part of it. Raises `ValueError` where
    there is no such layer, or none that can be watched, or the network does not take the layer's own output in its place.
    """
    net, module = subject.model, find_layer(subject.model, layer)
    assert isinstance(net, nn.Module)  # noqa: S101  # for the type checker: nothing else has layers
    recorder = PassRecorder(subject, module, layer, at, call)
    with subject.surroundings.computing(), torch.no_grad():
        first = recorder.record(subject.query[:1])
        full = Replay(net, module, at, first.layer_call.number, Rows(subject.inputs[:, None]), {}, subject.more)
        plan, products, reason = full, 0, ""
        try:
            plan, products = _planned(subject, recorder, full, first)
        except Exception as error:  # noqa: BLE001  # the network then runs from its input
            reason = f"{type(error).__name__}: {error}"
        wanted = [
            key for key, returned in plan.skipped.items() if any(isinstance(leaf, Rows) for leaf in returned.leaves)
        ]
        chunk = 1 if subject.habits.alone else CHUNK
        passes = [recorder.record(queries, wanted) for queries in subject.query.split(chunk)]
        activation = torch.cat([one.activation(layer, at) for one in passes])
        if not reason:
            plan = _filled(plan, passes, subject.inputs)
            reason = _difference(subject, plan, activation, first, passes)
        apart = _difference(subject, full, activation, first, passes) if reason else ""
        if apart and same_first_row(
            first.outputs, recorder.record(subject.query[:1], ()).outputs, subject.surroundings.rounding
        ):  # not by chance
            raise ValueError(
                f"the network cannot be run with the {at} of its layer {layer!r} put back in its place ({apart}); name "
                "another layer"
            )
    if reason:
        _warn(f"the network runs from its input each time, not from layer {layer!r} ({reason})")
        return full, activation
    if products:
        _warn(f"below layer {layer!r}, {products} convolutions or products outside of modules are computed each time")
    return plan, activation


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


@dataclass(frozen=True, eq=False)
class ModuleCall:
    """A call of a module during a pass."""

    module: nn.Module
    number: int
    """How many calls of this module went before."""
    callers: "tuple[ModuleCall, ...]"
    """Those during which it happened, from the outermost."""


@dataclass(frozen=True, eq=False)
class RecordedPass:
    """What happened while the network ran once, for rows of queries."""

    calls: list[ModuleCall]
    """In the order in which they began."""
    returned: dict[Key, Any]
    """Copies of what they returned."""
    layer_call: ModuleCall
    """The layer's call that counts."""
    value: Any
    """A copy of what the layer put out there, or took in."""
    outputs: Any
    rows: int

    def activation(self, layer: str, at: str) -> Tensor:
        """What the layer put out or took in, `(rows, …)`."""
        activation = floating(self.value, layer, at)
        check_rows(activation, self.rows, layer, at)
        return activation

    def within(self, key: Key) -> dict[nn.Module, int]:
        """How often a call, or calls within it, called each module."""
        inside = (call.module for call in self.calls if any((by.module, by.number) == key for by in call.callers))
        return dict(Counter(inside))


@dataclass(frozen=True, eq=False)
class PassRecorder:
    """Runs a subject's network and records all calls of its modules, and the activation at one call of the layer."""

    subject: Subject
    layer: nn.Module
    name: str
    at: str
    call: int

    def record(self, query: Tensor, wanted: Collection[Key] | None = None) -> RecordedPass:
        """A pass for the inputs of these queries. Copies are kept of what the `wanted` calls return, by default all."""
        numbers: Counter[nn.Module] = Counter()
        calls: list[ModuleCall] = []
        stack: list[ModuleCall] = []
        returned: dict[Key, Any] = {}
        chooser = CallChooser(self.name, self.call)

        def recording(module: nn.Module) -> Substitution:
            def substitution(own: Callable[..., Any]) -> Callable[..., Any]:
                def forward(*arguments: Any, **named: Any) -> Any:
                    call = ModuleCall(module, numbers[module], tuple(stack))
                    numbers[module] += 1
                    calls.append(call)
                    if module is self.layer and self.at == "input":
                        chooser.show((call, _copied(arguments[0] if arguments else None)))
                    stack.append(call)
                    result = own(*arguments, **named)
                    stack.pop()
                    if module is self.layer and self.at == "output":
                        chooser.show((call, _copied(result)))
                    if wanted is None or (module, call.number) in wanted:
                        returned[module, call.number] = tree_map(_copied, result)
                    return result

                return forward

            return substitution

        net = self.subject.model
        assert isinstance(net, nn.Module)  # noqa: S101  # for the type checker
        with substituted({module: recording(module) for module in net.modules()}):
            outputs = self.subject.outputs(self.subject.inputs[query], query)
        layer_call, value = chooser.chosen
        return RecordedPass(calls, returned, layer_call, value, outputs, len(query))


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _planned(subject: Subject, recorder: PassRecorder, full: Replay, first: RecordedPass) -> tuple[Replay, int]:
    """The replay for the first query, with stand-ins for all values that nothing uses.

    Also how many convolutions and products are computed below the layer all the same.
    """
    layer_call = first.layer_call
    below = [
        (call.module, call.number)
        for call in first.calls[: first.calls.index(layer_call)]
        if call.callers == layer_call.callers[: len(call.callers)] and call not in layer_call.callers
    ]
    pair = recorder.record(subject.query[[0, 0]], below)
    known = {key: _returned(first.returned[key], pair.returned[key], first.within(key)) for key in below}
    draft = replace(
        full,
        inputs=Rows(subject.inputs[:1, None]),
        skipped={key: returned for key, returned in known.items() if returned is not None},
    )
    activation = first.activation("", full.at)[[0, 0]]
    uses = UseRecorder(activation)
    recorded = _with_leaves(draft, uses.recorded)
    with subject.surroundings.calling(), uses:
        outputs = recorded(activation, subject.query[[0, 0]])
    uses.note(outputs)
    return _with_leaves(draft, uses.reduced), uses.products


def _with_leaves(replay: Replay, change: Callable[[Leaf], Leaf]) -> Replay:
    skipped = {
        key: replace(returned, leaves=tuple(change(leaf) for leaf in returned.leaves))
        for key, returned in replay.skipped.items()
    }
    return replace(replay, inputs=change(replay.inputs), skipped=skipped)


def _returned(one: Any, two: Any, within: Mapping[nn.Module, int]) -> Returned | None:
    """What a call returned for one row, and for two; `None` if that does not tell how it depends on the rows."""
    leaves: list[Leaf] = []
    pairs = paired(one, two)
    if pairs is None:
        return None
    for value, pair in pairs:
        if not isinstance(value, Tensor):
            if value != pair or not isinstance(value, int | float | str | None):
                return None
            leaves.append(Same(value))
        elif value.shape == pair.shape:
            leaves.append(Same(value))
        elif value.ndim and pair.shape == (2 * value.shape[0], *value.shape[1:]):
            leaves.append(Rows(value[None]))
        else:
            return None
    return Returned(tuple(leaves), tree_structure(one), within)


class UseRecorder(TorchFunctionMode):
    """Notes which of the values that skipped calls hand out are used by torch's functions."""

    def __init__(self, activation: Tensor) -> None:
        super().__init__()
        self.activation = activation
        self.below = True
        self.products = 0
        self._handed: dict[int, tuple[Any, Leaf]] = {}
        self._used: set[Leaf] = set()

    def recorded(self, leaf: Leaf) -> Leaf:
        """The leaf; what it hands out is noted where it is used."""

        def handed(query: Tensor) -> Any:
            value = leaf(query)
            self._handed[id(value)] = (value, leaf)  # with the value, so that no other gets its identity
            return value

        return handed

    def reduced(self, leaf: Leaf) -> Leaf:
        """A stand-in for a leaf of rows that nothing used; else the leaf."""
        return StandIn.of(leaf) if isinstance(leaf, Rows) and leaf not in self._used else leaf

    def note(self, values: Any) -> None:
        """Note which of these values were handed out."""
        for value in tree_leaves(values):
            if value is self.activation:
                self.below = False
            elif id(value) in self._handed:
                self._used.add(self._handed[id(value)][1])

    def __torch_function__(self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: Any = None) -> Any:
        named = named or {}
        if function not in SHAPES:
            self.note((arguments, named))
            weighed = any(isinstance(value, nn.Parameter) for value in tree_leaves((arguments, named)))
            self.products += self.below and weighed and function in PRODUCTS
        return function(*arguments, **named)


SHAPES = {
    torch.Tensor.size,
    torch.Tensor.dim,
    torch.Tensor.ndimension,
    torch.Tensor.is_floating_point,
    *(getattr(torch.Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "layout", "is_cuda")),
}
"""What tells only of a tensor's shape and kind, which stand-ins have too."""

PRODUCTS = {
    *(torch.conv1d, torch.conv2d, torch.conv3d, torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.einsum),
    *(torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.mm, torch.Tensor.bmm),
    *(nn.functional.linear, nn.functional.scaled_dot_product_attention),
}
"""What costs most in networks, if it is done with weights."""


def _filled(plan: Replay, passes: Sequence[RecordedPass], inputs: Tensor) -> Replay:
    """The plan, which has the values of the first query, with those of all queries from the passes."""

    def filled(key: Key, leaves: Sequence[Leaf]) -> Iterator[Leaf]:
        for place, leaf in enumerate(leaves):
            if isinstance(leaf, Rows):
                rows = [tree_leaves(one.returned[key])[place].unflatten(0, (one.rows, -1)) for one in passes]
                yield Rows(torch.cat(rows))
            else:
                yield leaf

    skipped = {
        key: replace(returned, leaves=tuple(filled(key, returned.leaves))) for key, returned in plan.skipped.items()
    }
    return replace(
        plan, inputs=Rows(inputs[:, None]) if isinstance(plan.inputs, Rows) else plan.inputs, skipped=skipped
    )


def _difference(
    subject: Subject, replay: Replay, activation: Tensor, first: RecordedPass, passes: Sequence[RecordedPass]
) -> str:
    """How the outputs of the replay, for other rows than at first, differ from the network's; empty if they do not."""
    query = subject.query[-1:] if subject.habits.alone else subject.query[[-1, 0, 0]]
    outputs = subject.surroundings.call(lambda rows: replay(rows, query), activation[query])
    pairs = paired(outputs, first.outputs)
    if pairs is None:
        return "its outputs then have another form"
    for place, (value, one) in enumerate(pairs):
        if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
            continue
        if not value.ndim or len(value) != len(query) or not one.ndim or len(one) != 1:
            continue  # its first axis is not that of the rows
        expected = torch.cat([tree_leaves(recorded.outputs)[place] for recorded in passes])[query]
        if value.shape != expected.shape:
            return f"its outputs then have shape {tuple(value.shape)}, not {tuple(expected.shape)}"
        apart = (value - expected).abs()
        # No wider under autocast or TF32: a doubt costs a run from the input, an error a wrong result.
        if not (apart <= tolerance(expected)).all():
            return f"its outputs then differ by {float(apart.max() / expected.abs().max()):.1g} of the largest"
    return ""
