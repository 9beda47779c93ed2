"""The state of the process, so that what code of a plan does to it shows in no row of other code."""

import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.modules import module as modules

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


SETTINGS = (
    Setting(torch.get_default_dtype, torch.set_default_dtype),
    Setting(torch.get_default_device, torch.set_default_device),
    Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    Setting(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    Setting(torch.get_num_threads, torch.set_num_threads),
    Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    Setting(PRECISION.read, PRECISION.write),
    Setting(_read_autocast, _write_autocast),
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
