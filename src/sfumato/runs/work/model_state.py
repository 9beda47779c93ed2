"""The state of a loaded model, so that what one method or protocol does to it shows in no row of another."""

from typing import Any

import torch
from torch import Tensor, nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Where a module of torch keeps its hooks."""


class ModelState:
    """The modes, buffers, parameters and hooks of a network when it was loaded."""

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self._modes = [(module, module.training) for module in net.modules()]
        self._buffers = [
            _Buffer(module, name, buffer)
            for module in net.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self._parameters, self._hooks = _versions(net), _hooks(net)

    def restore(self) -> bool:
        """Set modes and buffers back. Returns whether all is as it was: changed parameters and hooks cannot be set back."""
        modes = [(module, training) for module, training in self._modes if module.training != training]
        for module, training in modes:
            module.training = training
        if modes or any(buffer.touched for buffer in self._buffers):
            for buffer in self._buffers:  # all, as batch normalisation writes to some of its buffers without a trace
                buffer.restore()
        return self._parameters == _versions(self._net) and self._hooks == _hooks(self._net)


class _Buffer:
    """A buffer of a module, and a copy of its values."""

    def __init__(self, module: nn.Module, name: str, buffer: Tensor) -> None:
        self._module, self._name, self._buffer = module, name, buffer
        self._values = buffer.detach().clone()
        self._version = _version(buffer)

    @property
    def touched(self) -> bool:
        """Whether the buffer was replaced or written to."""
        return self._module._buffers.get(self._name) is not self._buffer or _version(self._buffer) != self._version

    def restore(self) -> None:
        self._module._buffers[self._name] = self._buffer
        with torch.no_grad():
            self._buffer.copy_(self._values)
        self._version = _version(self._buffer)


def _version(tensor: Tensor) -> int:
    """A number that grows when a tensor is written to."""
    return 0 if tensor.is_inference() else tensor._version


def _versions(net: nn.Module) -> list[tuple[int, int]]:
    """What changes when a parameter is replaced or written to."""
    return [(id(parameter), _version(parameter)) for parameter in net.parameters()]


def _hooks(net: nn.Module) -> list[Any]:
    """The numbers of the hooks of all modules."""
    return [list(getattr(module, kind)) for module in net.modules() for kind in HOOKS]
