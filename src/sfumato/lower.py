"""The network up to a layer: what the layer makes of inputs, with nothing above it computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.inputs import check_inputs, check_model
from sfumato.layers import find_layer
from sfumato.probing import Model, Surroundings, frozen

SIDES = ("output", "input")


def activations(model: Model, layer: str, inputs: Tensor, at: str = "output") -> Tensor:
    r"""What the layer makes of inputs `(B, C, *S)`, $\Phi_l(x)$, or with `at="input"` what it is given.

    `layer` is named as in `model.named_modules()`; "" means the model's input. At "input" it is the first positional
    argument that counts: for the projection that ends an attention layer, say, what its heads put out. If the model calls
    the layer several times, it is the last call. The model runs in evaluation mode, under the caller's autocast, and is
    left as it was; nothing of the result requires gradients.

    Raises `ValueError` where there is no such layer, the model does not call it, or what it has there is no tensor.
    """
    inputs = check_inputs(inputs)
    check_model(model, inputs)
    surroundings = Surroundings.now(inputs.device)
    call = partial(surroundings.call, model)
    with lower(model, layer, at, call) as phi, surroundings.computing(), torch.no_grad():
        return phi(inputs)


@contextmanager
def lower(
    model: Model, layer: str, at: str = "output", call: Callable[[Tensor], Any] | None = None
) -> Iterator[Callable[[Tensor], Tensor]]:
    r"""The function $\Phi_l$ from inputs `(N, C, *S)` to the layer's activations, through which gradients flow.

    `layer` and `at` are those of `activations`. Where the layer ends, the model's forward pass is broken off: nothing above
    it is computed. Only the first call runs the whole model once, without gradients, to count how often it calls the layer,
    because the last call is the one that counts. Meanwhile the model is frozen: in evaluation mode, with parameters that
    need no gradients. `call` runs the model where `model(inputs)` is not what is wanted.

    >>> net = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2))
    >>> with lower(net, "1") as phi:
    ...     phi(torch.zeros(5, 1, 8)).shape
    torch.Size([5, 4, 6])
    """
    if at not in SIDES:
        raise ValueError(f"at must be one of {', '.join(map(repr, SIDES))}; got {at!r}")
    module = find_layer(model, layer)
    with frozen(model):
        yield Lower(module, layer, at if layer else "input", call or model)


class Lower:
    """A model that runs as far as its layer."""

    def __init__(self, module: nn.Module, layer: str, at: str, call: Callable[[Tensor], Any]) -> None:
        self.module, self.layer, self.at, self.call = module, layer, at, call
        self.calls: int | None = None
        """How often the model calls the layer, once that is known."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """The activations for inputs `(N, C, *S)`."""
        if self.calls is None:
            self.calls = self._count(inputs) if self.layer else 1
        seen = 0

        def stop(values: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == self.calls:
                raise _ReachedError(self._checked(values))

        try:
            with self._watched(stop):
                self.call(inputs)
        except _ReachedError as reached:
            return reached.activation
        raise ValueError(
            f"the model called its layer {self.layer!r} {self.calls} times at first and now {seen} times; name a layer "
            "that it calls equally often for all inputs"
        )

    def _count(self, inputs: Tensor) -> int:
        calls: list[None] = []
        with self._watched(lambda _: calls.append(None)), torch.no_grad():
            self.call(inputs)
        if not calls:
            raise ValueError(
                f"the model did not call its layer {self.layer!r}; name one that takes part, and none within a part that "
                "is compiled or scripted"
            )
        return len(calls)

    @contextmanager
    def _watched(self, see: Callable[[Any], None]) -> Iterator[None]:
        """Show what the layer is given, or what it puts out, at each of its calls; both leave it as it is."""
        if self.at == "input":
            handle = self.module.register_forward_pre_hook(lambda _, given: see(given[0] if given else None))
        else:
            handle = self.module.register_forward_hook(lambda _, _given, output: see(output))
        try:
            yield
        finally:
            handle.remove()

    def _checked(self, values: Any) -> Tensor:
        if isinstance(values, Tensor) and values.is_floating_point():
            return values
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        does = "puts out" if self.at == "output" else "is given, as its first positional argument,"
        raise ValueError(
            f"the layer {self.layer!r} {does} a {kind}, not a tensor of floating-point numbers; name a layer within it"
        )


class _ReachedError(BaseException):
    """Breaks off a forward pass. No `Exception`, which a model may catch on its way."""

    def __init__(self, activation: Tensor) -> None:
        super().__init__()
        self.activation = activation
