"""Effects on a user's model, as context managers. Each is undone at the end of its context, also after an exception.

Several threads may use one model at the same time. Changes of the model itself (its mode, its parameters' flags) are counted:
the first thread to enter makes them, the last one to leave restores the model. Changes of a computation (hooks, replaced
forwards) act only in the thread that entered the context.
"""

import dis
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from types import CellType, FunctionType
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

Model = Callable[..., Any]


def device_of(model: Model) -> torch.device:
    """The device of a model's first parameter or buffer; the CPU for a model with neither."""
    tensors = chain(model.parameters(), model.buffers()) if isinstance(model, nn.Module) else ()
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def modules_of(function: Any) -> list[nn.Module]:
    """The networks that a callable uses, as far as it shows: those in its closure, its arguments and attributes, and globals.

    >>> net = nn.Linear(2, 3)
    >>> modules_of(lambda inputs: net(inputs)) == [net], modules_of(partial(torch.add, net)) == [net], modules_of(net.forward)
    (True, True, [Linear(in_features=2, out_features=3, bias=True)])
    """
    if isinstance(function, nn.Module):
        return [function]
    values = [getattr(function, "__self__", None), *getattr(function, "__dict__", {}).values()]
    if isinstance(function, partial):
        values += [function.func, *function.args, *function.keywords.values()]
    if isinstance(function, FunctionType):
        values += [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
        # Not all of `co_names`, which has attributes too: `other.net` is no global `net`.
        read = [entry.argval for entry in dis.get_instructions(function) if entry.opname == "LOAD_GLOBAL"]
        values += map(function.__globals__.get, dict.fromkeys(read))
    return [value for value in values if isinstance(value, nn.Module)]


@dataclass
class Hold:
    """A module or parameter whose state is changed, its state from before, and the number of contexts that changed it."""

    target: Any
    before: Any
    holders: int = 0


@dataclass
class Holds:
    """A change of state that any number of threads may make: the first reads and sets the state, the last restores it."""

    read: Callable[[Any], Any]
    """From a module or parameter to its state."""
    hold: Callable[[Any], object]
    """Sets the state for the time of the context."""
    restore: Callable[[Any, Any], object]
    """Takes the module or parameter, and the state that was read."""
    lock: threading.RLock = field(default_factory=threading.RLock)
    held: dict[int, Hold] = field(default_factory=dict)
    """By identity, as a module may define an equality of its own."""

    @contextmanager
    def __call__(self, targets: list[Any]) -> Iterator[None]:
        entered: list[Any] = []
        try:
            with self.lock:
                for target in targets:
                    if id(target) not in self.held:
                        self.held[id(target)] = Hold(target, self.read(target))
                    self.held[id(target)].holders += 1
                    entered.append(target)
                    self.hold(target)
            yield
        finally:
            with self.lock:
                for target in entered:
                    hold = self.held[id(target)]
                    hold.holders -= 1
                    if not hold.holders:
                        del self.held[id(target)]
                        self.restore(target, hold.before)


def _buffers(module: nn.Module) -> dict[str, tuple[Tensor, int, Tensor]]:
    """The buffers of a module itself, each with its version and a copy of its values."""
    return {
        name: (buffer, buffer._version, buffer.detach().clone())
        for name, buffer in module._buffers.items()
        if buffer is not None and not buffer.is_inference()
    }


@torch.no_grad()
def _restore_buffers(module: nn.Module, before: dict[str, tuple[Tensor, int, Tensor]]) -> None:
    for name, (buffer, version, values) in before.items():
        if buffer._version != version:
            buffer.copy_(values)
        if module._buffers.get(name) is not buffer:
            module._buffers[name] = buffer


def _to_mode(module: nn.Module, training: bool) -> None:
    module.training = training  # not by `train`, which a model may override, and which also changes its parts


MODES = Holds(lambda module: module.training, lambda module: _to_mode(module, False), _to_mode)
FLAGS = Holds(
    lambda parameter: parameter.requires_grad, lambda parameter: parameter.requires_grad_(False), Tensor.requires_grad_
)
BUFFERS = Holds(_buffers, lambda _: None, _restore_buffers)


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """The model in evaluation mode, with parameters that need no gradients, until the last thread that froze it leaves.

    Its buffers are restored at the end, as a model may count its calls in one. A callable that is no `nn.Module` is not
    changed. It may have parameters, but gradients are taken with respect to masks only, so nothing accumulates in them.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    modules = list(model.modules())
    # A frozen TorchScript module is always in evaluation mode, and has no such attribute.
    with_mode = [module for module in modules if hasattr(module, "training")]
    with_buffers = [
        module for module in modules if len(module._buffers) and not isinstance(module, torch.jit.ScriptModule)
    ]
    with MODES(with_mode), FLAGS(list(model.parameters())), BUFFERS(with_buffers):
        yield


@dataclass(eq=False)
class ThreadForward:
    """Replaces a module's `forward`: a thread that substituted the forward runs its own function, others that of the module."""

    module: nn.Module
    own: Callable[..., Any] | None
    """A `forward` that the user set on this module, if there is one."""
    original: Callable[..., Any]
    """The module's `forward` before any substitution."""
    functions: dict[int, list[Callable[..., Any]]] = field(default_factory=dict)
    """The functions of each thread's nested substitutions, the innermost last."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        functions = self.functions.get(threading.get_ident())
        return functions[-1](*arguments, **named) if functions else self.original(*arguments, **named)

    def __getstate__(self) -> dict[str, Any]:
        """The state for copies: if another thread copies the module meanwhile, the copy has no substitutions."""
        return vars(self) | {"functions": {}}


FORWARDS = threading.RLock()
"""The lock for setting and removing a `ThreadForward`."""

Substitution = Callable[[Callable[..., Any]], Callable[..., Any]]
"""From a module's forward to the function that replaces it."""


@contextmanager
def substituted(substitutions: Mapping[nn.Module, Substitution]) -> Iterator[None]:
    """Replace the `forward` of modules in this thread while the context lasts. Their hooks stay as they are."""
    thread = threading.get_ident()
    entered: list[ThreadForward] = []
    try:
        with FORWARDS:
            for module, substitution in substitutions.items():
                own = vars(module).get("forward")
                forward = own if isinstance(own, ThreadForward) else ThreadForward(module, own, module.forward)
                vars(module)["forward"] = forward
                functions = forward.functions.setdefault(thread, [])
                entered.append(forward)
                functions.append(substitution(functions[-1] if functions else forward.original))
        yield
    finally:
        with FORWARDS:
            for forward in entered:
                forward.functions[thread].pop()
                if not forward.functions[thread]:
                    del forward.functions[thread]
                if not forward.functions:
                    del vars(forward.module)["forward"]
                    if forward.own is not None:
                        vars(forward.module)["forward"] = forward.own


@dataclass(eq=False)
class Hook:
    """A forward hook that acts in one thread."""

    function: Callable[..., Any] | None
    thread: int = field(default_factory=threading.get_ident)

    def __call__(self, module: nn.Module, *values: Any) -> Any:
        if self.function is not None and threading.get_ident() == self.thread:
            return self.function(module, *values)
        return None

    def __getstate__(self) -> dict[str, Any]:
        """The state for copies: if another thread copies the module meanwhile, the copied hook does nothing."""
        return vars(self) | {"function": None}


DISPATCH_MODES = threading.RLock()
"""The lock for `TorchDispatchMode`: torch stores once for the whole process whether one is on, and threads would restore that
in the wrong order."""

Before = Callable[[tuple[Any, ...]], tuple[Any, ...] | None]
"""A function of a call's positional arguments. It returns other arguments, or `None` for the same."""

After = Callable[[Any], Any]
"""A function of a call's return value. It returns another value, or `None` for the same."""


@contextmanager
def hooked(module: nn.Module, before: Before | None = None, after: After | None = None) -> Iterator[None]:
    """Hooks on the module's calls in this thread. They run after those of the user."""
    handles = []
    try:
        if before is not None:
            handles.append(module.register_forward_pre_hook(Hook(lambda _, arguments: before(arguments))))
        if after is not None:
            handles.append(module.register_forward_hook(Hook(lambda _, _arguments, output: after(output))))
        yield
    finally:
        for handle in handles:
            handle.remove()


def saved_bytes(run: Callable[[], object]) -> int:
    """The number of bytes that a computation keeps for its backward pass."""
    alive: list[Tensor] = []  # until the end, so that no later tensor gets the memory of a counted one

    def keep(tensor: Tensor) -> Tensor:
        # Detached: the graph would refer to the tensor and the tensor to the graph, and neither would be freed.
        alive.append(tensor.detach())
        return alive[-1]

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    del result
    storages = [part.untyped_storage() for tensor in alive for part in _dense_parts(tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _dense_parts(tensor: Shaped[Tensor, "..."]) -> tuple[Shaped[Tensor, "..."], ...]:
    """The tensor, or for a sparse tensor the dense tensors in which it is stored."""
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,) if tensor.layout == torch.strided else ()


def in_transform(value: Any) -> bool:
    """Whether it is a tensor inside `torch.vmap` or another transform of `torch.func`, whose shape lacks the mapped axes."""
    return isinstance(value, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(value)
