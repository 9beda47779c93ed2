"""The network above a layer, replayed from the layer's stored activation.

What a network computes below a layer is the same for every mask, so it is computed once. Later passes run the network's own
code, but skip the modules below the layer: their calls return the stored values of the first pass, or an empty stand-in if
nothing uses the value. Operations outside of modules, such as adding an embedding, are computed again from these values.
Shortcuts around the layer carry their stored values.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map, tree_structure, tree_unflatten

from sfumato.layers.capture import CallChooser, check_floating, check_rows, find_layer
from sfumato.model.arguments import WithArguments
from sfumato.model.effects import Substitution, substituted
from sfumato.model.outputs import pairs_of, same_first_row, tolerance
from sfumato.model.subject import Subject

Key = tuple[nn.Module, int]
"""A module and the number of its call. Calls are counted over the whole pass, also inside of skipped calls."""

Leaf = Callable[[Int[Tensor, " N"]], Any]
"""A function from the queries of the rows to a value that a skipped call returns, or a part of it."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Stored values, `rows` for each query. Each call returns a new tensor, which may be changed in place."""

    values: Shaped[Tensor, "B rows ..."]

    def __call__(self, query: Int[Tensor, " N"]) -> Shaped[Tensor, "..."]:
        return self.values[query].flatten(0, 1)


@dataclass(frozen=True, eq=False)
class StandIn:
    """A tensor of the right shape and type without content, for a value that nothing uses."""

    like: Shaped[Tensor, "rows ..."]
    """The values of one query, expanded from one number so that they take no memory."""

    @classmethod
    def of(cls, rows: Rows) -> "StandIn":
        return cls(rows.values.new_zeros(()).expand(rows.values.shape[1:]))

    def __call__(self, query: Int[Tensor, " N"]) -> Shaped[Tensor, "..."]:
        rows, *row_shape = self.like.shape
        return self.like.new_zeros(()).expand(len(query) * rows, *row_shape)


@dataclass(frozen=True, eq=False)
class Same:
    """A value that is the same for all queries."""

    value: Any

    def __call__(self, query: Int[Tensor, " N"]) -> Any:  # noqa: ARG002
        return self.value.clone() if isinstance(self.value, Tensor) else self.value


@dataclass(frozen=True, eq=False)
class ReturnValue:
    """The return value of a skipped call, as a function of the queries."""

    leaves: tuple[Leaf, ...]
    form: Any
    """How the leaves are nested, as a tree specification of `torch.utils._pytree`."""
    inner_calls: Mapping[nn.Module, int]
    """How often the call calls other modules. These calls are counted although they are skipped."""

    def __call__(self, query: Int[Tensor, " N"]) -> Any:
        return tree_unflatten([leaf(query) for leaf in self.leaves], self.form)


@dataclass(frozen=True, eq=False)
class Replay:
    """The network above a layer: a function from the layer's output (or input) and the queries of its rows to the outputs."""

    net: nn.Module
    layer: nn.Module
    at: str
    number: int
    """The number of the layer's call whose value is replaced."""
    inputs: Leaf
    skipped: Mapping[Key, ReturnValue]
    more: WithArguments | None = None
    """Further arguments of the network, if it needs any."""

    def __call__(self, activation: Float[Tensor, "N ..."], query: Int[Tensor, " N"]) -> Any:
        """The network's outputs with `activation` as the layer's value. Its rows belong to the queries."""
        calls: Counter[nn.Module] = Counter()
        modules = {module for module, _ in self.skipped} | {self.layer}
        arguments, named = self.more.of(query) if self.more is not None else ((), {})
        with substituted({module: self._forward(module, activation, query, calls) for module in modules}):
            return self.net(self.inputs(query), *arguments, **named)

    def _forward(
        self, module: nn.Module, activation: Float[Tensor, "N ..."], query: Int[Tensor, " N"], calls: Counter[nn.Module]
    ) -> Substitution:
        def substitution(original: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*arguments: Any, **named: Any) -> Any:
                number = calls[module]
                calls[module] += 1
                if module is self.layer and number == self.number:
                    return activation if self.at == "output" else original(activation, *arguments[1:], **named)
                returned = self.skipped.get((module, number))
                if returned is None:
                    return original(*arguments, **named)
                calls.update(returned.inner_calls)
                return returned(query)

            return forward

        return substitution


CHUNK = 16
"""The number of queries in one pass when their activations are stored."""


def replay_of(subject: Subject, layer: str, at: str, call: int = -1) -> tuple[Replay, Float[Tensor, "B ..."]]:
    """The network above a call of the layer, and the layer's activations for the subject's inputs.

    The activations have the layer's own order of axes. Warns if the network, or a large part of it, must run from its input in
    every pass. Raises `ValueError` if there is no such layer, if it cannot be watched, or if the network's outputs change when
    the layer's own value is put back.
    """
    net, module = subject.model, find_layer(subject.model, layer)
    assert isinstance(net, nn.Module)  # noqa: S101  # for the type checker: find_layer accepts no other model
    recorder = PassRecorder(subject, module, layer, at, call)
    with subject.surroundings.computing(), torch.no_grad():
        first = recorder.record(subject.query[:1])
        full = Replay(net, module, at, first.layer_call.number, Rows(subject.inputs[:, None]), {}, subject.more)
        plan, products, reason = full, 0, ""
        try:
            plan, products = _draft_replay(subject, recorder, full, first)
        except Exception as error:  # noqa: BLE001  # the network then runs from its input
            reason = f"{type(error).__name__}: {error}"
        needed = [
            key for key, returned in plan.skipped.items() if any(isinstance(leaf, Rows) for leaf in returned.leaves)
        ]
        chunk = 1 if subject.habits.alone else CHUNK
        passes = [recorder.record(queries, needed) for queries in subject.query.split(chunk)]
        activation = torch.cat([recorded.activation(layer, at) for recorded in passes])
        if not reason:
            plan = _with_all_queries(plan, passes, subject.inputs)
            reason = _difference(subject, plan, activation, first, passes)
        difference = _difference(subject, full, activation, first, passes) if reason else ""
        if difference and same_first_row(
            first.outputs, recorder.record(subject.query[:1], ()).outputs, subject.surroundings.rounding
        ):  # the network gives the same outputs twice, so that no random numbers explain the difference
            raise ValueError(
                f"the network gives other outputs when the {at} of its layer {layer!r} is stored and put back "
                f"({difference}); name another layer"
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
    """The number of earlier calls of this module in the pass."""
    callers: "tuple[ModuleCall, ...]"
    """The calls that were running when it began, from the outermost."""


@dataclass(frozen=True, eq=False)
class RecordedPass:
    """The record of one pass of the network."""

    calls: list[ModuleCall]
    """In the order in which they began."""
    returned: dict[Key, Any]
    """Copies of their return values."""
    layer_call: ModuleCall
    """The chosen call of the layer."""
    value: Any
    """A copy of the layer's output, or input, at that call."""
    outputs: Any
    """The network's outputs."""
    rows: int
    """The number of inputs."""

    def activation(self, layer: str, at: str) -> Float[Tensor, "{self.rows} ..."]:
        """The layer's output or input. Raises `ValueError` if it is no such tensor."""
        activation = check_floating(self.value, layer, at)
        check_rows(activation, self.rows, layer, at)
        return activation

    def inner_calls(self, key: Key) -> dict[nn.Module, int]:
        """How often each module was called within the call `key`, at any depth."""
        modules = (
            call.module for call in self.calls if any((caller.module, caller.number) == key for caller in call.callers)
        )
        return dict(Counter(modules))


@dataclass(frozen=True, eq=False)
class PassRecorder:
    """Runs a subject's network and records all calls of its modules, and the activation at one call of the layer."""

    subject: Subject
    layer: nn.Module
    name: str
    at: str
    call: int

    def record(self, query: Int[Tensor, " N"], needed: Collection[Key] | None = None) -> RecordedPass:
        """Run one pass for the inputs of these queries. Copies the return values of the `needed` calls, by default of all."""
        numbers: Counter[nn.Module] = Counter()
        calls: list[ModuleCall] = []
        stack: list[ModuleCall] = []
        returned: dict[Key, Any] = {}
        chooser = CallChooser(self.name, self.call)

        def recording(module: nn.Module) -> Substitution:
            def substitution(original: Callable[..., Any]) -> Callable[..., Any]:
                def forward(*arguments: Any, **named: Any) -> Any:
                    call = ModuleCall(module, numbers[module], tuple(stack))
                    numbers[module] += 1
                    calls.append(call)
                    if module is self.layer and self.at == "input":
                        chooser.show((call, _copy(arguments[0] if arguments else None)))
                    stack.append(call)
                    result = original(*arguments, **named)
                    stack.pop()
                    if module is self.layer and self.at == "output":
                        chooser.show((call, _copy(result)))
                    if needed is None or (module, call.number) in needed:
                        returned[module, call.number] = tree_map(_copy, result)
                    return result

                return forward

            return substitution

        net = self.subject.model
        assert isinstance(net, nn.Module)  # noqa: S101  # for the type checker
        with substituted({module: recording(module) for module in net.modules()}):
            outputs = self.subject.outputs(self.subject.inputs[query], query)
        layer_call, value = chooser.chosen
        return RecordedPass(calls, returned, layer_call, value, outputs, len(query))


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _draft_replay(subject: Subject, recorder: PassRecorder, full: Replay, first: RecordedPass) -> tuple[Replay, int]:
    """The replay for the first query, with stand-ins for all values that nothing uses.

    Also returns how many convolutions and products outside of modules are still computed below the layer.
    """
    layer_call = first.layer_call
    below = [
        (call.module, call.number)
        for call in first.calls[: first.calls.index(layer_call)]
        if call.callers == layer_call.callers[: len(call.callers)] and call not in layer_call.callers
    ]
    pair = recorder.record(subject.query[[0, 0]], below)
    values = {key: _return_value(first.returned[key], pair.returned[key], first.inner_calls(key)) for key in below}
    draft = replace(
        full,
        inputs=Rows(subject.inputs[:1, None]),
        skipped={key: returned for key, returned in values.items() if returned is not None},
    )
    activation = first.activation("", full.at)[[0, 0]]
    uses = UseRecorder(activation)
    recording = _with_leaves(draft, uses.record)
    with subject.surroundings.calling(), uses:
        outputs = recording(activation, subject.query[[0, 0]])
    uses.note(outputs)
    return _with_leaves(draft, uses.reduce), uses.products


def _with_leaves(replay: Replay, change: Callable[[Leaf], Leaf]) -> Replay:
    skipped = {
        key: replace(returned, leaves=tuple(change(leaf) for leaf in returned.leaves))
        for key, returned in replay.skipped.items()
    }
    return replace(replay, inputs=change(replay.inputs), skipped=skipped)


def _return_value(single: Any, double: Any, inner_calls: Mapping[nn.Module, int]) -> ReturnValue | None:
    """The return value of a call as a function of the rows, from its values for one row and for the same row twice.

    `None` if these two do not show how the value depends on the rows.
    """
    leaves: list[Leaf] = []
    pairs = pairs_of(single, double)
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
    return ReturnValue(tuple(leaves), tree_structure(single), inner_calls)


class UseRecorder(TorchFunctionMode):
    """Records which of the values that skipped calls return are used by functions of torch."""

    def __init__(self, activation: Float[Tensor, "N ..."]) -> None:
        super().__init__()
        self.activation = activation
        self.below = True
        self.products = 0
        self._leaf_of_value: dict[int, tuple[Any, Leaf]] = {}
        self._used: set[Leaf] = set()

    def record(self, leaf: Leaf) -> Leaf:
        """The leaf, with a record of the values that it returns."""

        def recorded(query: Tensor) -> Any:
            value = leaf(query)
            self._leaf_of_value[id(value)] = (value, leaf)  # with the value, so that no other object gets its identity
            return value

        return recorded

    def reduce(self, leaf: Leaf) -> Leaf:
        """A stand-in for a leaf of rows that nothing has used; any other leaf is unchanged."""
        return StandIn.of(leaf) if isinstance(leaf, Rows) and leaf not in self._used else leaf

    def note(self, values: Any) -> None:
        """Record a use of those values that leaves have returned."""
        for value in tree_leaves(values):
            if value is self.activation:
                self.below = False
            elif id(value) in self._leaf_of_value:
                self._used.add(self._leaf_of_value[id(value)][1])

    def __torch_function__(self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: Any = None) -> Any:
        named = named or {}
        if function not in SHAPES:
            self.note((arguments, named))
            has_weights = any(isinstance(value, nn.Parameter) for value in tree_leaves((arguments, named)))
            self.products += self.below and has_weights and function in PRODUCTS
        return function(*arguments, **named)


SHAPES = {
    torch.Tensor.size,
    torch.Tensor.dim,
    torch.Tensor.ndimension,
    torch.Tensor.is_floating_point,
    *(getattr(torch.Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "layout", "is_cuda")),
}
"""Functions that read only a tensor's shape and type, which stand-ins have, too. They do not count as a use."""

PRODUCTS = {
    *(torch.conv1d, torch.conv2d, torch.conv3d, torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.einsum),
    *(torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.mm, torch.Tensor.bmm),
    *(nn.functional.linear, nn.functional.scaled_dot_product_attention),
}
"""The functions that take most of a network's time when one operand is a weight."""


def _with_all_queries(plan: Replay, passes: Sequence[RecordedPass], inputs: Float[Tensor, "B C *S"]) -> Replay:
    """The plan, which has the values of the first query alone, with the values of all queries from the passes."""

    def all_rows(key: Key, leaves: Sequence[Leaf]) -> Iterator[Leaf]:
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, Rows):
                values = [
                    tree_leaves(recorded.returned[key])[index].unflatten(0, (recorded.rows, -1)) for recorded in passes
                ]
                yield Rows(torch.cat(values))
            else:
                yield leaf

    skipped = {
        key: replace(returned, leaves=tuple(all_rows(key, returned.leaves))) for key, returned in plan.skipped.items()
    }
    return replace(
        plan, inputs=Rows(inputs[:, None]) if isinstance(plan.inputs, Rows) else plan.inputs, skipped=skipped
    )


def _difference(
    subject: Subject,
    replay: Replay,
    activation: Float[Tensor, "B ..."],
    first: RecordedPass,
    passes: Sequence[RecordedPass],
) -> str:
    """How the outputs of the replay differ from those of the network, in words; empty if they agree.

    The rows are others than in the first pass.
    """
    query = subject.query[-1:] if subject.habits.alone else subject.query[[-1, 0, 0]]
    outputs = subject.surroundings.call(lambda rows: replay(rows, query), activation[query])
    pairs = pairs_of(outputs, first.outputs)
    if pairs is None:
        return "its outputs are then nested in another way"
    for index, (value, single) in enumerate(pairs):
        if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
            continue
        if not value.ndim or len(value) != len(query) or not single.ndim or len(single) != 1:
            continue  # its first axis does not count the rows
        expected = torch.cat([tree_leaves(recorded.outputs)[index] for recorded in passes])[query]
        if value.shape != expected.shape:
            return f"its outputs then have shape {tuple(value.shape)}, not {tuple(expected.shape)}"
        difference = (value - expected).abs()
        # No wider under autocast or TF32: too strict a bound costs time, too wide a one gives a wrong result.
        if not (difference <= tolerance(expected)).all():
            return f"its outputs then differ by {float(difference.max() / expected.abs().max()):.1g} of the largest"
    return ""
