"""The network below a layer: a function from inputs to the layer's activations, with nothing above it computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.layers.capture import CallChooser, check_layer, find_layer, floating, number_of_call, watched
from sfumato.model.arguments import parted
from sfumato.model.effects import Model, frozen
from sfumato.model.inputs import check_inputs, check_model
from sfumato.model.modes import Surroundings


def activations(model: Model, layer: str, inputs: Tensor, at: str = "output", call: int = -1) -> Tensor:
    r"""What the layer makes of inputs `(B, C, *S)`, $\Phi_l(x)$, or with `at="input"` what it is given.

    `layer` is named as in `model.named_modules()`; "" means the model's input. At "input" it is the first positional
    argument that counts: for the projection that ends an attention layer, say, what its heads put out. If the model calls
    the layer several times, `call` says which of them is meant: from 0, or from -1, the last, backwards. The model runs in
    evaluation mode, under the caller's autocast, and is left as it was; nothing of the result requires gradients. All inputs go
    through it together, as by a call of it.

    Raises `ValueError` where there is no such layer, the model does not call it, or what it has there is no tensor.
    """
    inputs = check_inputs(inputs)
    net, more = parted(model)
    check_model(net, inputs)
    if more is not None:
        more.check(len(inputs))
    surroundings = Surroundings.now(inputs.device)
    run = partial(surroundings.call, model)
    with below(net, layer, at, run, call) as phi, surroundings.computing(), torch.no_grad():
        return phi(inputs)


@contextmanager
def below(
    model: Model, layer: str, at: str = "output", run: Callable[[Tensor], Any] | None = None, call: int = -1
) -> Iterator[Callable[[Tensor], Tensor]]:
    r"""The function $\Phi_l$ from inputs `(N, C, *S)` to the layer's activations, through which gradients flow.

    `layer`, `at` and `call` are those of `activations`. Where the layer ends, the model's forward pass is broken off: nothing
    above it is computed. Only the first time the whole model runs once, without gradients, to count how often it calls the
    layer, where `call` counts backwards. Meanwhile the model is frozen: in evaluation mode, with parameters that need no
    gradients. `run` runs the model where `model(inputs)` is not what is wanted.

    >>> net = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2))
    >>> with below(net, "1") as phi:
    ...     phi(torch.zeros(5, 1, 8)).shape
    torch.Size([5, 4, 6])
    """
    check_layer(layer, at, call)
    module = find_layer(model, layer)
    with frozen(model):
        yield BelowLayer(module, layer, at if layer else "input", run or (lambda inputs: model(inputs.clone())), call)


class BelowLayer:
    """A model that runs as far as its layer."""

    def __init__(self, module: nn.Module, layer: str, at: str, run: Callable[[Tensor], Any], call: int) -> None:
        self.module, self.layer, self.at, self.run, self.call = module, layer, at, run, call
        self.number = call if call >= 0 else None
        """Of the layer's call, from 0, once that is known."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """The activations for inputs `(N, C, *S)`."""
        if not self.layer:
            return self._reached(inputs, 0)
        if self.number is None:
            self.number = number_of_call(self.module, self.layer, self.call, lambda: self.run(inputs), self.at)
        return self._reached(inputs, self.number)

    def _reached(self, inputs: Tensor, number: int) -> Tensor:
        chooser = CallChooser(self.layer, number)

        def stop(values: Any) -> None:
            if chooser.calls == number:
                raise _ReachedError(floating(values, self.layer, self.at))
            chooser.show(None)

        try:
            with watched(self.module, self.at, stop):
                self.run(inputs)
        except _ReachedError as reached:
            return reached.activation
        if self.call >= 0:
            _ = chooser.number  # says that there are not so many calls
        raise ValueError(
            f"the model called its layer {self.layer!r} {number + 1} times at first and now {chooser.calls} times; name a "
            "layer that it calls equally often for all inputs"
        )


class _ReachedError(BaseException):
    """Breaks off a forward pass. No `Exception`, which a model may catch on its way."""

    def __init__(self, activation: Tensor) -> None:
        super().__init__()
        self.activation = activation
