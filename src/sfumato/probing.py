"""Effects on a user's model, each undone on leaving, also after an exception or an interrupt."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Model = Callable[[Tensor], Any]
T = TypeVar("T")


def device_of(model: Model) -> torch.device:
    """Where a model's first parameter or buffer is; the CPU for what has neither."""
    tensors = chain(model.parameters(), model.buffers()) if isinstance(model, nn.Module) else ()
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """The model in evaluation mode with parameters that need no gradients.

    Callables that are no `nn.Module` are left alone: gradients are only ever taken with respect to masks, so nothing
    accumulates in parameters either way.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    training = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in training:
            module.training = False
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, was_training in training:
            module.training = was_training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def substituted(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Each of the modules computes with another function than its `forward`; its hooks stay as they are."""
    before = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module, own in before.items():
            if own is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = own


@dataclass(frozen=True)
class Surroundings:
    """The caller's autocast state, which holds for the model and not for the masks."""

    device_type: str
    autocast: bool
    dtype: torch.dtype

    @classmethod
    def now(cls, device: torch.device) -> "Surroundings":
        kind = device.type
        return cls(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Gradients on and float32 arithmetic, whatever the caller's modes; the global random state comes out as it went in."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.autocast(self.device_type, enabled=False))
            accelerators = [torch.cuda.current_device()] if self.device_type == "cuda" else []
            stack.enter_context(torch.random.fork_rng(accelerators))
            yield

    def each(self, steps: Iterator[T]) -> Iterator[T]:
        """The items of an iterator that computes in these surroundings, handed over in the caller's own modes."""
        while True:
            with self.computing():
                step = next(steps, None)
            if step is None:
                return
            yield step

    def call(self, model: Model, inputs: Tensor) -> Any:
        """The model's outputs, under the caller's autocast."""
        with torch.autocast(self.device_type, dtype=self.dtype, enabled=self.autocast):
            return model(inputs)


def saved_bytes(run: Callable[[], object]) -> int:
    """How much memory a computation keeps for its backward pass."""
    alive: list[Tensor] = []  # to the end, so that no later tensor takes the place of one that is counted

    def keep(tensor: Tensor) -> Tensor:
        # Without its history: what a tensor is made by would keep the tensor, and it that, so that neither is ever freed.
        alive.append(tensor.detach())
        return alive[-1]

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    del result
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in alive}
    return sum(storages.values())
