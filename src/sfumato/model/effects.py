"""Effects on a user's model. Each is undone on leaving, also after an exception, and none is seen by another thread.

Several threads may hold one model at a time. What is set on the model itself (its mode, its parameters' flags) is counted:
the first thread in sets it, the last one out restores it. What changes a computation (hooks, other forwards) acts in the
thread that asked for it alone.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

Model = Callable[..., Any]


def device_of(model: Model) -> torch.device:
    """Where a model's first parameter or buffer is; the CPU for what has neither."""
    tensors = chain(model.parameters(), model.buffers()) if isinstance(model, nn.Module) else ()
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


@dataclass
class Hold:
    """Something of a model that is held: what it was before, and by how many holders it is held."""

    thing: Any
    before: Any
    holders: int = 0


@dataclass
class Holds:
    """A kind of thing that any number of threads may hold: the first one in reads and sets it, the last one out restores it."""

    read: Callable[[Any], Any]
    """What it is."""
    hold: Callable[[Any], object]
    """Sets it to what it is to be meanwhile."""
    restore: Callable[[Any, Any], object]
    """Given the thing, and what was read."""
    lock: threading.RLock = field(default_factory=threading.RLock)
    held: dict[int, Hold] = field(default_factory=dict)
    """By identity, as a module may define an equality of its own."""

    @contextmanager
    def __call__(self, things: list[Any]) -> Iterator[None]:
        taken: list[Any] = []
        try:
            with self.lock:
                for thing in things:
                    if id(thing) not in self.held:
                        self.held[id(thing)] = Hold(thing, self.read(thing))
                    self.held[id(thing)].holders += 1
                    taken.append(thing)
                    self.hold(thing)
            yield
        finally:
            with self.lock:
                for thing in taken:
                    hold = self.held[id(thing)]
                    hold.holders -= 1
                    if not hold.holders:
                        del self.held[id(thing)]
                        self.restore(thing, hold.before)


def _buffers(module: nn.Module) -> dict[str, tuple[Tensor, int, Tensor]]:
    """A module's own buffers: each with its version and a copy."""
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
    module.training = training  # not by `train`, which a model may have changed, and which goes on to its parts


MODES = Holds(lambda module: module.training, lambda module: _to_mode(module, False), _to_mode)
FLAGS = Holds(
    lambda parameter: parameter.requires_grad, lambda parameter: parameter.requires_grad_(False), Tensor.requires_grad_
)
BUFFERS = Holds(_buffers, lambda _: None, _restore_buffers)


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """The model in evaluation mode with parameters that need no gradients, until the last thread that froze it leaves.

    Its buffers come out as they went in, although a model may count its calls. Callables that are no `nn.Module` are left
    alone: gradients are only ever taken with respect to masks, so nothing accumulates in parameters either way.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    modules = list(model.modules())
    # A frozen TorchScript module is in evaluation mode for good, and has no such attribute any more.
    in_a_mode = [module for module in modules if hasattr(module, "training")]
    with_buffers = [
        module for module in modules if len(module._buffers) and not isinstance(module, torch.jit.ScriptModule)
    ]
    with MODES(in_a_mode), FLAGS(list(model.parameters())), BUFFERS(with_buffers):
        yield


@dataclass(eq=False)
class Door:
    """Stands in for a module's `forward`: a thread that substituted it gets its own function, any other the module's."""

    module: nn.Module
    own: Callable[..., Any] | None
    """A `forward` that the user gave to this one module, if there was any."""
    original: Callable[..., Any]
    """What the module computes by itself."""
    functions: dict[int, list[Callable[..., Any]]] = field(default_factory=dict)
    """By thread, the innermost last."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        functions = self.functions.get(threading.get_ident())
        return functions[-1](*arguments, **named) if functions else self.original(*arguments, **named)

    def __getstate__(self) -> dict[str, Any]:
        """A copy that another thread makes of the module meanwhile has nothing substituted."""
        return vars(self) | {"functions": {}}


DOORS = threading.RLock()
"""Held while doors are put in or taken out."""

Substitution = Callable[[Callable[..., Any]], Callable[..., Any]]
"""From a module's forward to the function that takes its place."""


@contextmanager
def substituted(substitutions: Mapping[nn.Module, Substitution]) -> Iterator[None]:
    """Each of the modules computes with another function than its `forward`, in this thread; its hooks stay as they are."""
    thread = threading.get_ident()
    entered: list[Door] = []
    try:
        with DOORS:
            for module, substitution in substitutions.items():
                own = vars(module).get("forward")
                door = own if isinstance(own, Door) else Door(module, own, module.forward)
                vars(module)["forward"] = door
                functions = door.functions.setdefault(thread, [])
                entered.append(door)
                functions.append(substitution(functions[-1] if functions else door.original))
        yield
    finally:
        with DOORS:
            for door in entered:
                door.functions[thread].pop()
                if not door.functions[thread]:
                    del door.functions[thread]
                if not door.functions:
                    del vars(door.module)["forward"]
                    if door.own is not None:
                        vars(door.module)["forward"] = door.own


@dataclass(eq=False)
class Hook:
    """A forward hook that acts in one thread."""

    function: Callable[..., Any] | None
    thread: int = field(default_factory=threading.get_ident)

    def __call__(self, module: nn.Module, *seen: Any) -> Any:
        if self.function is not None and threading.get_ident() == self.thread:
            return self.function(module, *seen)
        return None

    def __getstate__(self) -> dict[str, Any]:
        """In a copy that another thread makes of the module meanwhile it does nothing."""
        return vars(self) | {"function": None}


DISPATCH_MODES = threading.RLock()
"""Held while a `TorchDispatchMode` is on: torch keeps for the whole process whether one is, and restores what it found."""

Before = Callable[[tuple[Any, ...]], tuple[Any, ...] | None]
"""Is shown a call's positional arguments, and may return others."""

After = Callable[[Any], Any]
"""Is shown what a call returns, and may return another value, or `None` for the same."""


@contextmanager
def hooked(module: nn.Module, before: Before | None = None, after: After | None = None) -> Iterator[None]:
    """Hooks on the module's calls in this thread, behind those of the user."""
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
    """How much memory a computation keeps for its backward pass."""
    alive: list[Tensor] = []  # to the end, so that no later tensor takes the place of one that is counted

    def keep(tensor: Tensor) -> Tensor:
        # Without its history: what a tensor is made by would keep the tensor, and it that, so that neither is ever freed.
        alive.append(tensor.detach())
        return alive[-1]

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    del result
    storages = [part.untyped_storage() for tensor in alive for part in _dense_parts(tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _dense_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """A tensor, or those that a sparse one consists of."""
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,) if tensor.layout == torch.strided else ()


def in_transform(value: Any) -> bool:
    """Whether it is a tensor within `torch.vmap` or another transform of `torch.func`, whose shape lacks the axes outside."""
    return isinstance(value, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(value)
