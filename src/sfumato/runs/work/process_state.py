"""The state of the process, so that what code of a plan does to it shows in no row of other code."""

import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.modules import module as modules
from torch.utils._device import DeviceContext

from sfumato.model.modes import CUDA_RANDOM, PRECISION, RANDOM

GLOBAL_HOOKS = [
    value for name, value in vars(modules).items() if name.startswith("_global_") and isinstance(value, dict)
]
"""The hooks that torch calls for all modules."""

NAMESPACES = (torch, torch.Tensor, torch.nn.functional)
"""Where some methods put functions of their own for a while, such as a ReLU with another gradient."""

FUNCTIONS = (FunctionType, BuiltinFunctionType, type(torch.Tensor.add))


class Setting(NamedTuple):
    """A state of the process that results may depend on."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


def _read_autocast() -> list[tuple[str, bool, torch.dtype]]:
    return [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")]


def _write_autocast(state: list[tuple[str, bool, torch.dtype]]) -> None:
    for kind, enabled, dtype in state:
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)


def _read_hooks() -> list[list[tuple[int, Any]]]:
    return [list(hooks.items()) for hooks in GLOBAL_HOOKS]


def _write_hooks(state: list[list[tuple[int, Any]]]) -> None:
    for hooks, before in zip(GLOBAL_HOOKS, state, strict=True):
        hooks.clear()
        hooks.update(before)


def _write_environment(state: dict[str, str]) -> None:
    for name in os.environ.keys() - state.keys():
        del os.environ[name]
    os.environ.update(state)


def _read_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109  # as the text that `os.chdir` takes
    except OSError:
        return ""  # it was removed


def _write_folder(state: str) -> None:
    with suppress(OSError):
        os.chdir(state)


def _write_filters(state: list[Any]) -> None:
    warnings.resetwarnings()
    warnings.filters[:] = state  # type: ignore[index]


class Stack(NamedTuple):
    """A stack of modes of torch, each of which sees every call of a function or of an operation."""

    length: Callable[[], int]
    at: Callable[[int], Any]
    pop: Callable[[], Any]
    push: Callable[[Any], object]

    def read(self) -> list[Any]:
        """The modes that were entered, the last one at the end; without that of the default device, a setting of its own."""
        return [mode for mode in self.modes() if not isinstance(mode, DeviceContext)]

    def write(self, state: list[Any]) -> None:
        """These modes, above that of the default device."""
        modes = self.modes()
        for _ in modes:
            self.pop()
        for mode in [*(mode for mode in modes if isinstance(mode, DeviceContext)), *state]:
            self.push(mode)

    def modes(self) -> list[Any]:
        """All modes, the last one that was entered at the end."""
        return [self.at(index) for index in range(self.length())]


FUNCTION_MODES = Stack(
    torch._C._len_torch_function_stack,
    torch._C._get_function_stack_at,
    torch._C._pop_torch_function_stack,
    torch._C._push_on_torch_function_stack,
)
DISPATCH_MODES = Stack(
    torch._C._len_torch_dispatch_stack,
    torch._C._get_dispatch_stack_at,
    partial(torch._C._pop_torch_dispatch_stack, None),
    torch._C._push_on_torch_dispatch_stack,
)


def _read_device() -> torch.device | None:
    """The default device that was set, if one was."""
    return next((mode.device for mode in FUNCTION_MODES.modes() if isinstance(mode, DeviceContext)), None)


def _read_saved() -> Any:
    """The functions that see what is saved for a backward pass, as they were set last; `None` if there are none."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False)


def _write_saved(state: Any) -> None:
    while (here := _read_saved()) is not None and here != state:
        torch._C._autograd._pop_saved_tensors_default_hooks()


def _read_alarms() -> list[bool]:
    """Which of the process's timers are set."""
    return [signal.getitimer(timer)[0] > 0 for timer in TIMERS]


def _write_alarms(state: list[bool]) -> None:
    for timer, was_set in zip(TIMERS, state, strict=True):
        if not was_set:
            signal.setitimer(timer, 0)


TIMERS = [getattr(signal, name) for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF") if hasattr(signal, name)]
"""None on Windows."""

SETTINGS = (
    Setting(torch.get_default_dtype, torch.set_default_dtype),
    Setting(_read_device, torch.set_default_device),
    Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    Setting(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    Setting(torch.get_num_threads, torch.set_num_threads),
    Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    Setting(PRECISION.read, PRECISION.write),
    Setting(_read_autocast, _write_autocast),
    Setting(FUNCTION_MODES.read, FUNCTION_MODES.write),  # after the default device, as that changes the stack
    Setting(DISPATCH_MODES.read, DISPATCH_MODES.write),
    Setting(_read_saved, _write_saved),
    Setting(_read_alarms, _write_alarms),
    Setting(_read_hooks, _write_hooks),
    Setting(np.geterr, lambda state: np.seterr(**state)),
    Setting(sys.getrecursionlimit, sys.setrecursionlimit),
    Setting(lambda: list(warnings.filters), _write_filters),
    Setting(lambda: dict(os.environ), _write_environment),
    Setting(_read_folder, _write_folder),
)


@contextmanager
def process_state_restored() -> Iterator[None]:
    """Set modes, hooks and settings of torch, NumPy and the process back at the end of the block, if it has changed them."""
    with torch.inference_mode(torch.is_inference_mode_enabled()):  # which another may be left in
        before = [setting.read() for setting in SETTINGS]
        try:
            yield
        finally:
            for setting, state in zip(SETTINGS, before, strict=True):
                if setting.read() != state:
                    setting.write(state)


@contextmanager
def functions_restored() -> Iterator[None]:
    """Set functions of torch back at the end of the block, if it has put others in their place."""
    before = [
        (space, {name: value for name, value in vars(space).items() if isinstance(value, FUNCTIONS)})
        for space in NAMESPACES
    ]
    try:
        yield
    finally:
        for space, functions in before:
            current = vars(space)
            for name, function in functions.items():
                if current.get(name) is not function:
                    setattr(space, name, function)


@contextmanager
def random_restored(device: str, seed: int | None = None) -> Iterator[None]:
    """Set the global random states of torch, NumPy and Python back at the end of the block; with a seed, they begin with it."""

    def begin(seed_of_torch: Callable[[int], object]) -> None:
        if seed is not None:
            seed_of_torch(seed % 2**63)

    with ExitStack() as stack:
        stack.enter_context(RANDOM(lambda: begin(torch.default_generator.manual_seed)))
        if torch.device(device).type == "cuda":
            stack.enter_context(CUDA_RANDOM(lambda: begin(torch.cuda.manual_seed)))
        of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002  # what a user's code may draw from
        stack.callback(np.random.set_state, of_numpy)
        stack.callback(random.setstate, of_python)
        if seed is not None:
            np.random.seed(seed % 2**32)  # noqa: NPY002
            random.seed(seed)
        yield


def random_state(device: str) -> tuple[Any, ...]:
    """The global random states of torch, NumPy and Python, which differ after something was drawn."""
    states = [torch.get_rng_state()]
    if torch.device(device).type == "cuda":
        states.append(torch.cuda.get_rng_state())
    name, *of_numpy = np.random.get_state()  # noqa: NPY002  # what a user's code may draw from
    return (
        *(state.numpy().tobytes() for state in states),
        np.asarray(of_numpy[0]).tobytes(),
        name,
        *of_numpy[1:],
        random.getstate(),
    )
