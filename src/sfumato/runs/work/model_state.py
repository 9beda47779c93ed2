"""The state of a loaded model, so that what one method or protocol does to it shows in no row of another."""

from collections import OrderedDict
from copy import copy
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

CONTAINERS = (dict, OrderedDict, list, set)
"""Types of attributes whose entries are kept too, such as hooks, submodules and a user's own lists."""

COLUMNS = 1021
"""Sums that a mark of a parameter consists of: a prime, so that exchanged rows, columns or channels change some of them."""

WORD = 8
"""Bytes of a number that is summed."""


class ModelState:
    """A network as it was loaded: modules with their attributes and hooks, parameters and buffers."""

    def __init__(self, net: nn.Module) -> None:
        self._modules = [_Module(module) for module in net.modules()]
        self._modes = [(module, module.training) for module in net.modules()]
        self._buffers = [_Buffer(tensor) for tensor in [*net.buffers(), *plain_tensors(net).values()]]
        self._parameters = [_Parameter(parameter) for parameter in net.parameters()]
        classes = dict.fromkeys(base for module in net.modules() for base in type(module).__mro__ if base is not object)
        self._functions = [(kind, name, value) for kind in classes for name, value in _functions(kind)]

    def restore(self, thorough: bool = False) -> bool:
        """Set everything back but the values of parameters, and return whether these are as they were.

        `thorough` finds changes that leave no trace too, as those by `parameter.data`; it reads all parameters.
        """
        modes = [(module, training) for module, training in self._modes if module.training != training]
        for module, training in modes:
            module.training = training
        for kept in self._modules:
            kept.restore()
        if thorough or modes or any(buffer.touched for buffer in self._buffers):
            for buffer in self._buffers:  # all, as batch normalisation writes to some of its buffers without a trace
                buffer.restore()
        if thorough:
            for kind, name, value in self._functions:
                if vars(kind).get(name) is not value:
                    setattr(kind, name, value)
        unchanged = [parameter.restore(thorough) for parameter in self._parameters]
        return all(unchanged)


class _Module:
    """A module's class and attributes, and the entries of those that are containers."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._class = module, type(module)
        self._attributes = dict(vars(module))
        containers = [value for value in self._attributes.values() if type(value) in CONTAINERS]
        self._empty = [container for container in containers if not container]
        self._filled = [(container, copy(container)) for container in containers if container]

    def restore(self) -> None:
        attributes = vars(self._module)
        if type(self._module) is not self._class:
            self._module.__class__ = self._class
        if not _alike(attributes, self._attributes):
            attributes.clear()
            attributes.update(self._attributes)
        if any(self._empty):
            for container in self._empty:
                container.clear()
        for container, entries in self._filled:
            if not _alike(container, entries):
                container.clear()
                container.extend(entries) if isinstance(container, list) else container.update(entries)


class _Parameter:
    """A parameter, and what changes when it is written to."""

    def __init__(self, parameter: Tensor) -> None:
        self._parameter = parameter
        self._requires_grad, self._grad = parameter.requires_grad, parameter.grad
        self._facts, self._mark = _facts(parameter), _mark(parameter)

    def restore(self, thorough: bool) -> bool:
        """Set flag and gradient back, and return whether all else is as it was."""
        if self._parameter.requires_grad != self._requires_grad:
            self._parameter.requires_grad_(self._requires_grad)
        if self._parameter.grad is not self._grad:
            self._parameter.grad = self._grad
        return self._facts == _facts(self._parameter) and not (
            thorough
            and any(not torch.equal(one, other) for one, other in zip(self._mark, _mark(self._parameter), strict=True))
        )


class _Buffer:
    """A buffer, or another tensor that a module has as an attribute, and a copy of its values."""

    def __init__(self, buffer: Tensor) -> None:
        self._buffer, self._values = buffer, buffer.detach().clone()
        self._facts = _facts(buffer)

    @property
    def touched(self) -> bool:
        """Whether the buffer was written to."""
        return _facts(self._buffer) != self._facts

    def restore(self) -> None:
        with torch.no_grad():
            if _facts(self._buffer)[1:] != self._facts[1:]:
                self._buffer.data = self._values.clone()
            else:
                self._buffer.copy_(self._values)
        self._facts = _facts(self._buffer)


def plain_tensors(net: nn.Module) -> dict[str, Tensor]:
    """The tensors that modules have as attributes, and that are no parameters or buffers, by their dotted names.

    What is computed from parameters, as by weight normalisation, is left out.
    """
    known = {id(tensor) for tensor in (*net.parameters(), *net.buffers())}
    return {
        f"{name}.{attribute}".lstrip("."): value
        for name, module in net.named_modules()
        for attribute, value in sorted(vars(module).items())
        if isinstance(value, Tensor) and value.is_leaf and value.layout is torch.strided and id(value) not in known
    }


def _facts(tensor: Tensor) -> tuple[Any, ...]:
    """What changes when a tensor is written to, or gets other memory or hooks. The first is a number that grows with each
    write; an inference tensor has none."""
    try:
        address = tensor.data_ptr()
    except RuntimeError:  # of a subclass without memory of its own
        address = 0
    version = 0 if tensor.is_inference() else tensor._version
    return version, address, tensor.dtype, tensor.shape, tensor.stride(), bool(tensor._backward_hooks)


def _mark(tensor: Tensor) -> list[Tensor]:
    """Sums of a tensor's bits, and the bits that are left over. It reads the tensor once, and makes no copy of it."""
    with torch.no_grad():
        flat = tensor.detach().contiguous().flatten()
        if flat.storage_offset() * flat.element_size() % WORD:
            flat = flat.clone()
        bits = flat.view(torch.uint8)
        summed = len(bits) // (WORD * COLUMNS) * (WORD * COLUMNS)
        return [bits[:summed].view(torch.int64).view(-1, COLUMNS).sum(0), bits[summed:].clone()]


def _functions(kind: type) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in vars(kind).items() if isinstance(value, FunctionType)]


def _alike(one: Any, other: Any) -> bool:
    """Whether two containers of one type hold the same objects, or equal ones, in the same order."""
    try:
        return bool(one == other) and (not isinstance(one, dict) or list(one) == list(other))
    except Exception:  # noqa: BLE001  # of arrays, which cannot be compared as a whole: they are others
        return False
