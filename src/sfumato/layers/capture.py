"""Watching a layer: which module a name means, which of its calls is meant, and its output or input at that call.

All other modules watch layers with the functions of this file: `watched` watches one layer, `watched_calls` many, and
`captured` stores one output.

A network may call a module several times: one backbone for several frames, a block that is applied again and again, one ReLU
for all. A `call` is an index into these calls as into a list: 0 is the first, -1 the last. A `number` counts from 0 only. An
output is counted when its call ends, an input when its call begins. The two orders differ only for a module that calls itself.
"""

import difflib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.model.effects import Model, hooked, in_transform
from sfumato.settings import is_whole, told

INPUT = "input"
"""The name of the model's input for methods that otherwise take a default layer; a module of this name comes first."""

SIDES = {"output": "puts out", "input": "takes in, as its first positional argument,"}
"""The sides at which a layer may be watched, and the verb for each in messages: "the layer 'x' puts out shape …"."""


def check_layer(layer: Any, at: Any = "output", call: Any = -1) -> None:
    """Raise `ValueError` unless the arguments can name a layer, a side of it, and one of its calls."""
    if not isinstance(layer, str):
        raise ValueError(
            f'layer is the dotted name of a module, "" for the input; got {told(layer)}. Write layer="" or leave it out for '
            'the input, or a name of model.named_modules(), e.g. layer="layer4"'
        )
    if at not in SIDES:
        raise ValueError(f"at must be one of {', '.join(map(repr, SIDES))}; got {at!r}")
    if not is_whole(call):
        raise ValueError(
            f"call is the number of a layer's call, 0 for the first and -1 for the last, as in a list; got {call!r}"
        )


def find_layer(model: Model, layer: str) -> nn.Module:
    """The submodule of this name. Raises `ValueError` if there is none."""
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"layer={layer!r} names a part of an nn.Module; the model is a {type(model).__name__}, which has none"
        )
    if hasattr(model, "_orig_mod"):
        raise ValueError(
            "the model is compiled by torch.compile, inside which no layer can be watched; give the model from before, "
            "model._orig_mod"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    if layer not in modules:
        nearest = nearest_layers(layer, modules)
        raise ValueError(
            f"the model has no layer {layer!r}. Did you mean {' or '.join(map(repr, nearest)) or 'none: it has no layers'}? "
            "All: [name for name, _ in model.named_modules()], or sfumato layers MODEL"
        )
    if isinstance(modules[layer], torch.jit.ScriptModule):
        raise ValueError(
            f"the layer {layer!r} is compiled by torch.jit, inside which no layer can be watched; give the model from before"
        )
    return modules[layer]


def place_of(model: Model, layer: str) -> str:
    """The name as the functions here take it: "" for the model's input if that is what `layer` means."""
    if layer != INPUT:
        return layer
    named = isinstance(model, nn.Module) and INPUT in dict(model.named_modules(remove_duplicate=False))
    return layer if named else ""


def nearest_layers(layer: str, names: Iterable[str]) -> list[str]:
    """Up to three of the names that are most like `layer`: first that which it has in another wrapper of the model, such as
    data-parallel training, `torch.compile` and PEFT, then one that differs from it in its numbers only.

    >>> nearest_layers("layer4", ["module", "module.layer3", "module.layer4", "module.layer4.0"])[0]
    'module.layer4'
    >>> nearest_layers("layer4.9.conv3", ["conv1", "layer1.0.conv3", "layer4.1.conv3", "layer4.2.conv2", "layer4.2.conv3"])
    ['layer4.2.conv3', 'layer4.1.conv3', 'layer4.2.conv2']
    """
    candidates = [name for name in names if name]
    numbers = [int(number) for number in re.findall(r"\d+", layer)]

    def distance(name: str) -> tuple[int, int]:
        differences = [abs(int(one) - other) for one, other in zip(re.findall(r"\d+", name), numbers, strict=True)]
        return sum(map(bool, differences)), sum(differences)

    unwrapped = [name for name in candidates if _unwrapped(name) == _unwrapped(layer)]
    same_words = [name for name in candidates if re.sub(r"\d+", "0", name) == re.sub(r"\d+", "0", layer)]
    similar = difflib.get_close_matches(layer, candidates, n=3, cutoff=0.5)
    return list(dict.fromkeys([*unwrapped[:1], *sorted(same_words, key=distance)[:1], *similar]))[:3] or candidates[-2:]


WRAPPERS = frozenset({"module", "_orig_mod", "base_model", "model", "base_layer"})
"""Parts of a layer's name that DistributedDataParallel, torch.compile and PEFT add."""


def _unwrapped(name: str) -> list[str]:
    return [part for part in name.split(".") if part not in WRAPPERS]


class CallChooser:
    """Picks one value of a sequence by an index as in a list: `call` 0 is the first value, -1 the last.

    >>> chooser = CallChooser("block", -2)
    >>> for value in "abc":
    ...     chooser.show(value)
    >>> chooser.chosen
    'b'
    """

    def __init__(self, layer: str, call: int) -> None:
        self.layer, self.call = layer, call
        self.calls = 0
        self._last: deque[Any] = deque(maxlen=-call if call < 0 else 1)

    def show(self, value: Any) -> None:
        """Add the value of the next call."""
        if self.call < 0 or self.calls == self.call:
            self._last.append(value)
        self.calls += 1

    @property
    def chosen(self) -> Any:
        """The value of the chosen call. Raises `ValueError` if there was no such call."""
        if not self.calls:
            raise ValueError(
                f"the model did not call its layer {self.layer!r}; name a layer that takes part, outside of parts that are "
                "compiled, scripted, or run in another thread"
            )
        if self.calls <= self.call or self.calls < -self.call:
            raise ValueError(
                f"the model calls its layer {self.layer!r} {self.calls} time{'s' if self.calls > 1 else ''}; got "
                f"call={self.call}, expected a number from {-self.calls} to {self.calls - 1}"
            )
        return self._last[0]

    @property
    def number(self) -> int:
        """The number of the chosen call, from 0."""
        _ = self.chosen
        return self.call % self.calls if self.call < 0 else self.call


def plain_tensor(value: Any) -> bool:
    """Whether it is a tensor whose shape can be read, which is not so inside `torch.vmap` and other transforms."""
    return isinstance(value, Tensor) and not in_transform(value)


def check_floating(value: Any, layer: str, at: str = "output") -> Float[Tensor, "..."]:
    """A layer's output or input. Raises `ValueError` unless it is a readable tensor of floating-point numbers."""
    if in_transform(value):
        raise ValueError(
            f"the layer {layer!r} runs under torch.vmap or another transform of torch.func, where it cannot be watched; "
            "name a layer outside, or call the model without the transform"
        )
    if isinstance(value, Tensor) and value.is_floating_point():
        return value
    kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(
        f"the layer {layer!r} {SIDES[at]} a {kind}, not a tensor of floating-point numbers; name a layer within it"
    )


def check_rows(
    activation: Float[Tensor, "..."], rows: int, layer: str, at: str = "output", places: bool = False
) -> None:
    """Raise `ValueError` unless the activation is `(N, C, …)` for `N` rows of inputs, or with `places`, `(N, C, *L)`."""
    if len(activation.shape) >= 2 + places and len(activation) == rows:
        return
    expected = "(N, C, *L)" if places else "(N, C, …)"
    remedy = "name another"
    if places and activation.ndim < 3:
        expected, remedy = f"{expected}: it has no places to show", "name a layer further down"
    raise ValueError(
        f"the layer {layer!r} {SIDES[at]} shape {tuple(activation.shape)} for {rows} inputs, not {expected}; {remedy}"
    )


@contextmanager
def watched(module: nn.Module, at: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Call `change` with the module's output or input (first positional argument) at each of its calls in this thread.

    The model continues with the value that `change` returns, or with the unchanged value if that is `None`.
    """

    def before(arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        changed = change(arguments[0] if arguments else None)
        return None if changed is None else (changed, *arguments[1:])

    with hooked(module, before=before) if at == "input" else hooked(module, after=change):
        yield


@contextmanager
def watched_calls(
    modules: Mapping[str, nn.Module],
    called: Callable[[str], None] | None = None,
    returned: Callable[[str, Any], None] | None = None,
) -> Iterator[None]:
    """Watch all calls of modules in this thread: `called(name)` when one begins, `returned(name, output)` when it ends."""

    def began(name: str, _arguments: Any) -> None:
        if called is not None:
            called(name)

    with ExitStack() as effects:
        for name, module in modules.items():
            before = None if called is None else partial(began, name)
            after = None if returned is None else partial(returned, name)
            effects.enter_context(hooked(module, before, after))
        yield


def number_of_call(module: nn.Module, layer: str, call: int, run: Callable[[], object], at: str = "output") -> int:
    """The number from 0 of the layer's call `call`, counted while `run` runs the model once without gradients."""
    chooser = CallChooser(layer, call)
    with watched(module, at, lambda _: chooser.show(None)), torch.no_grad():
        run()
    return chooser.number


class Capture:
    """The output of a layer at one of its calls, available once the model has run."""

    def __init__(self, layer: str, call: int = -1, cut: bool = False) -> None:
        self.layer, self.cut = layer, cut
        self.chooser = CallChooser(layer, call)

    @property
    def output(self) -> Float[Tensor, "..."]:
        """The layer's output at the chosen call. Raises `ValueError` if there was no such call."""
        output: Tensor = self.chooser.chosen
        return output

    def see(self, output: Any) -> Float[Tensor, "..."] | None:
        """Store the output if it may be that of the chosen call. Returns a copy, with which the model continues."""
        call, number = self.chooser.call, self.chooser.calls
        if call >= 0 and number != call:
            self.chooser.show(None)
            return None
        return self.keep(check_floating(output, self.layer))

    def keep(self, output: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        """Store the output. Returns a copy, with which the model continues, as it may change that in place."""
        if self.cut:
            output = output.detach().requires_grad_()
        self.chooser.show(output)
        return output.clone()


@contextmanager
def captured(model: Model, layer: str, cut: bool = False, call: int = -1) -> Iterator[Capture]:
    """Capture the output of a submodule, named as in `model.named_modules()`; "" means the model's input.

    With `cut`, the captured output is a new leaf of the graph that requires gradients, so that nothing flows back below the
    layer; `call` must then be 0 or more, or -1. The hook is removed when the context is left. Raises `ValueError` if there is
    no such layer, or if it cannot be watched.
    """
    capture = Capture(layer, call, cut)
    with watched(find_layer(model, layer), "output" if layer else "input", capture.see):
        yield capture
