"""Watching a layer: which module a name means, which of its calls, and what it puts out or takes in there.

All other modules watch layers with what is here: `watched` shows one layer, `watched_calls` many, `captured` keeps one output.

A network may call a module several times: one backbone for several frames, a block that is applied again and again, one ReLU
for all. A `call` counts them from 0, or from -1, the last, backwards, as in a list; a `number` counts from 0 alone. An output
is counted as its call ends, an input as its call begins; the order differs only for a module that calls itself.
"""

import difflib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.model.effects import Model, hooked, in_transform
from sfumato.settings import is_whole

SIDES = {"output": "puts out", "input": "takes in, as its first positional argument,"}
"""At which a layer may be watched, and what messages say that it does there."""


def check_layer(layer: Any, at: Any = "output", call: Any = -1) -> None:
    """Raise `ValueError` unless they can name a layer, its side, and one of its calls."""
    if not isinstance(layer, str):
        raise ValueError(f'layer is the dotted name of a module, "" for the input; got {layer!r}')
    if at not in SIDES:
        raise ValueError(f"at must be one of {', '.join(map(repr, SIDES))}; got {at!r}")
    if not is_whole(call):
        raise ValueError(f"call is the number of a layer's call, from 0, or from -1 backwards; got {call!r}")


def find_layer(model: Model, layer: str) -> nn.Module:
    """The submodule of this name."""
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"layer={layer!r} names a part of an nn.Module; the model is a {type(model).__name__}, which has none"
        )
    if hasattr(model, "_orig_mod"):
        raise ValueError(
            "the model is compiled by torch.compile, inside which no layer can be watched; give the one from before, "
            "model._orig_mod"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    if layer not in modules:
        names = [name for name in modules if name]
        close = difflib.get_close_matches(layer, names, n=5, cutoff=0.5) or names[-5:]
        raise ValueError(
            f"the model has no layer {layer!r}. Did you mean {' or '.join(map(repr, close)) or 'none: it has no layers'}? "
            "All: [name for name, _ in model.named_modules()]"
        )
    return modules[layer]


class CallChooser:
    """Holds what is shown at one call of several: the call of a number, or one counted from the last.

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
        """What there is at the next call."""
        if self.call < 0 or self.calls == self.call:
            self._last.append(value)
        self.calls += 1

    @property
    def chosen(self) -> Any:
        """What there was at the chosen call; `ValueError` where there was no such call."""
        if not self.calls:
            raise ValueError(
                f"the model did not call its layer {self.layer!r}; name one that takes part, and none within a part that is "
                "compiled or scripted, or that the model runs in another thread"
            )
        if self.calls <= self.call or self.calls < -self.call:
            raise ValueError(
                f"the model calls its layer {self.layer!r} {self.calls} time{'s' if self.calls > 1 else ''}; got "
                f"call={self.call}, expected a number from {-self.calls} to {self.calls - 1}"
            )
        return self._last[0]

    @property
    def number(self) -> int:
        """Of the chosen call, from 0."""
        _ = self.chosen
        return self.call % self.calls if self.call < 0 else self.call


def plain_tensor(value: Any) -> bool:
    """Whether it is a tensor whose shape can be read: one outside of `torch.vmap` and its like."""
    return isinstance(value, Tensor) and not in_transform(value)


def floating(value: Any, layer: str, at: str = "output") -> Tensor:
    """What a layer puts out or takes in; `ValueError` unless it is a tensor of floating-point numbers that can be read."""
    if in_transform(value):
        raise ValueError(
            f"the layer {layer!r} runs under torch.vmap or another transform of torch.func, within which it cannot be watched; "
            "name a layer outside, or call the model without it"
        )
    if isinstance(value, Tensor) and value.is_floating_point():
        return value
    kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(
        f"the layer {layer!r} {SIDES[at]} a {kind}, not a tensor of floating-point numbers; name a layer within it"
    )


def check_rows(activation: Tensor, rows: int, layer: str, at: str = "output", places: bool = False) -> None:
    """Raise `ValueError` unless it is `(N, C, …)` for `N` rows of inputs; with `places`, `(N, C, *L)` with axes of space."""
    if len(activation.shape) >= 2 + places and len(activation) == rows:
        return
    wanted = "(N, C, *L)" if places else "(N, C, …)"
    remedy = "name another"
    if places and activation.ndim < 3:
        wanted, remedy = f"{wanted}: it has no places to show", "name a layer further down"
    raise ValueError(
        f"the layer {layer!r} {SIDES[at]} shape {tuple(activation.shape)} for {rows} inputs, not {wanted}; {remedy}"
    )


@contextmanager
def watched(module: nn.Module, at: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Show `change` what the module puts out, or takes in, at each of its calls in this thread.

    The model goes on with what it returns, or with the same if that is `None`.
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
    """Show all calls of these modules in this thread: `called(name)` as one begins, `returned(name, output)` as it ends."""

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
    """The number from 0 of the layer's call, by running the model once without gradients."""
    chooser = CallChooser(layer, call)
    with watched(module, at, lambda _: chooser.show(None)), torch.no_grad():
        run()
    return chooser.number


class Capture:
    """What a layer puts out at one of its calls, once the model has run."""

    def __init__(self, layer: str, call: int = -1, cut: bool = False) -> None:
        self.layer, self.cut = layer, cut
        self.chooser = CallChooser(layer, call)

    @property
    def output(self) -> Tensor:
        """The layer's output at the chosen call."""
        output: Tensor = self.chooser.chosen
        return output

    def see(self, output: Any) -> Tensor | None:
        """Remember the output if it may be the chosen one, and let the model go on with a copy."""
        call, number = self.chooser.call, self.chooser.calls
        if call >= 0 and number != call:
            self.chooser.show(None)
            return None
        return self.keep(floating(output, self.layer))

    def keep(self, output: Tensor) -> Tensor:
        """Remember the output; what the model is to go on with, a copy, may be changed in place."""
        if self.cut:
            output = output.detach().requires_grad_()
        self.chooser.show(output)
        return output.clone()


@contextmanager
def captured(model: Model, layer: str, cut: bool = False, call: int = -1) -> Iterator[Capture]:
    """Capture the output of a submodule, named as in `model.named_modules()`; "" means the model's input.

    With `cut`, what is captured is a new leaf of the graph that requires gradients: nothing flows back below the layer;
    `call` is then a number from 0, or -1. The hook goes when the context is left. Raises `ValueError` where there is no such
    layer, or none that can be watched.
    """
    capture = Capture(layer, call, cut)
    with watched(find_layer(model, layer), "output" if layer else "input", capture.see):
        yield capture
