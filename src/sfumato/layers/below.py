"""The network below a layer: a function from inputs to the layer's activations, with nothing above it computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.layers.capture import CallChooser, check_floating, check_layer, find_layer, number_of_call, watched
from sfumato.model.arguments import split_arguments
from sfumato.model.effects import Model, frozen
from sfumato.model.inputs import check_inputs, check_model
from sfumato.model.modes import Surroundings
from sfumato.model.of_pictures import PictureModel


def activations(
    model: Model | PictureModel, layer: str, inputs: Any, at: str = "output", call: int = -1
) -> Float[Tensor, "..."]:
    r"""The output of a layer for the inputs, $\Phi_l(x)$, or with `at="input"` the layer's input.

    `layer` is named as in `model.named_modules()`; "" means the model's input. `at="input"` means the first positional
    argument: for the projection that ends an attention layer, for example, the joined outputs of its heads. If the model calls
    the layer several times, `call` is the index of one call: 0 is the first, -1 the last. The model runs in evaluation mode,
    under the caller's autocast, and is left unchanged. All inputs go through it in one batch. The result does not require
    gradients.

    With a `Classifier`, `inputs` may also be pictures or paths of pictures.

    Raises `ValueError` if there is no such layer, if the model does not call it, or if its value there is no tensor.
    """
    if isinstance(model, PictureModel):
        inputs = model.inputs_of(inputs)
        model = model.net
    inputs = check_inputs(inputs)
    net, more = split_arguments(model)
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
) -> Iterator[Callable[[Float[Tensor, "N C *S"]], Float[Tensor, "..."]]]:
    r"""The function $\Phi_l$ from inputs to the layer's activations, through which gradients flow.

    `layer`, `at` and `call` are those of `activations`. The forward pass stops at the layer, so that nothing above it is
    computed. If `call` is negative, the whole model runs once before the first pass, without gradients, to count the layer's
    calls. Within the context the model is frozen: in evaluation mode, with parameters that need no gradients. `run` replaces
    `model(inputs)` as the way to run the model.

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
    """A model that runs up to a layer."""

    def __init__(self, module: nn.Module, layer: str, at: str, run: Callable[[Tensor], Any], call: int) -> None:
        self.module, self.layer, self.at, self.run, self.call = module, layer, at, run, call
        self.number = call if call >= 0 else None
        """The number of the layer's call from 0, once it is known."""

    def __call__(self, inputs: Float[Tensor, "N C *S"]) -> Float[Tensor, "..."]:
        """The activations for the inputs."""
        if not self.layer:
            return self._run_to_layer(inputs, 0)
        if self.number is None:
            self.number = number_of_call(self.module, self.layer, self.call, lambda: self.run(inputs), self.at)
        return self._run_to_layer(inputs, self.number)

    def _run_to_layer(self, inputs: Float[Tensor, "N C *S"], number: int) -> Float[Tensor, "..."]:
        chooser = CallChooser(self.layer, number)

        def stop(values: Any) -> None:
            if chooser.calls == number:
                raise _LayerReachedError(check_floating(values, self.layer, self.at))
            chooser.show(None)

        try:
            with watched(self.module, self.at, stop):
                self.run(inputs)
        except _LayerReachedError as signal:
            return signal.activation
        if self.call >= 0:
            _ = chooser.number  # raises the error that there are not so many calls
        raise ValueError(
            f"the model called its layer {self.layer!r} {number + 1} times at first and now {chooser.calls} times; name a "
            "layer that it calls equally often for all inputs"
        )


class _LayerReachedError(BaseException):
    """Stops a forward pass. It is not an `Exception`, because a model may catch those."""

    def __init__(self, activation: Float[Tensor, "..."]) -> None:
        super().__init__()
        self.activation = activation
