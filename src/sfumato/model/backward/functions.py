"""Tables of the functions of torch by kind, from which rules choose."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Function = Callable[..., Any]


def every(*names: str) -> frozenset[Function]:
    """The functions of these names in all modules of torch, also the operations that exported programs call.

    >>> torch.relu in every("relu"), torch.nn.functional.relu in every("relu"), torch.ops.aten.relu.default in every("relu")
    (True, True, True)
    """
    homes = (nn.functional, torch, Tensor, torch._C._nn)
    functions = {getattr(home, name) for home in homes for name in names if hasattr(home, name)}
    for name in names:
        operation = getattr(torch.ops.aten, name, None)
        if operation is not None:
            functions |= {operation, *(getattr(operation, overload) for overload in operation.overloads())}
    return frozenset(functions)


def with_in_place(*names: str) -> tuple[str, ...]:
    """The names, with those of the functions in place, which end in an underscore."""
    return (*names, *(f"{name}_" for name in names))


RECTIFIERS = every(
    *with_in_place("relu", "relu6", "leaky_relu", "rrelu", "elu", "selu", "celu", "silu", "mish", "hardswish", "gelu"),
    *("prelu", "_prelu_kernel", "softplus", "rrelu_with_noise", "rrelu_with_noise_"),
)
SLOPED = every(*with_in_place("elu", "selu"))
"""Rectifiers whose slope above zero may be another number than 1."""
BOUNDED = every(*with_in_place("clamp", "clip", "clamp_min", "hardtanh", "threshold"))
SIGMOIDS = every(
    *with_in_place("sigmoid", "tanh", "hardsigmoid"),
    *("logsigmoid", "softsign", "tanhshrink", "hardshrink", "softshrink", "softmax", "log_softmax"),
    *("_softmax", "_log_softmax"),
)
ROUNDING = every("round", "floor", "ceil", "trunc", "fix")
GROWING = every("pow", "__pow__", "square", "sqrt", "exp", "log1p")
NEGATIONS = every("neg", "__rsub__", "rsub")
NORMS = every("layer_norm", "group_norm", "instance_norm", "local_response_norm", "rms_norm", "normalize")
SUBTRACTIONS = every(*with_in_place("sub", "subtract"))
ADDITIONS = every(*with_in_place("add")) | SUBTRACTIONS
PRODUCTS = every(*with_in_place("mul", "multiply", "div", "divide", "true_divide"))
IN_PLACE = every("add_", "sub_", "subtract_", "mul_", "multiply_", "div_", "divide_", "true_divide_")
CONVOLUTIONS = every("convolution", "_convolution")
TRANSPOSED = every("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
POOLING_BY_MEANS = every(*(f"{kind}avg_pool{axes}d" for kind in ("", "adaptive_", "_adaptive_") for axes in (1, 2, 3)))

LOWER_BOUNDS = ("min", "min_val", "threshold")
"""The names of the second argument of the functions in `BOUNDED`."""


def is_rectifier(func: Function, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a call is a rectifier by its name: an activation that suppresses negative values, or a clamp with minimum 0.

    >>> is_rectifier(torch.relu, (), {}), is_rectifier(torch.clamp, (), {"min": 0}), is_rectifier(torch.clamp, (), {"min": 1})
    (True, True, False)
    """
    if func in RECTIFIERS:
        return True
    if func not in BOUNDED:
        return False
    bound = args[1] if len(args) > 1 else next((kwargs[name] for name in LOWER_BOUNDS if name in kwargs), None)
    return isinstance(bound, int | float) and bound == 0


def carries(value: Any) -> bool:
    """Whether a signal flows back to a value: whether it is a tensor of the graph and no parameter."""
    return isinstance(value, Tensor) and value.requires_grad and not isinstance(value, nn.Parameter)
