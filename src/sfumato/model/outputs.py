"""What a model puts out: brought to tensors, taken apart, and compared between two passes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten


def as_tensors(outputs: Any, device: torch.device) -> Any:
    """The outputs with numpy arrays, also those in a list, tuple or dict, as tensors on the device."""
    if isinstance(outputs, Tensor):
        return outputs.to(device)  # of a model that spreads over several
    if isinstance(outputs, np.ndarray):
        array = torch.from_numpy(np.array(outputs))  # a copy, as a session's own may be read-only or change
        return array.to(device, torch.float32 if array.is_floating_point() else array.dtype)
    if isinstance(outputs, Mapping) and any(isinstance(item, np.ndarray) for item in outputs.values()):
        return {key: as_tensors(item, device) for key, item in outputs.items()}
    if isinstance(outputs, list | tuple) and any(isinstance(item, np.ndarray) for item in outputs):
        return [as_tensors(item, device) for item in outputs]
    return outputs


def paired(one: Any, other: Any) -> list[tuple[Any, Any]] | None:
    """The values of two nested outputs side by side; None where they are nested in different ways.

    >>> paired({"logits": 1, "boxes": [2, 3]}, {"logits": 4, "boxes": [5, 6]})
    [(1, 4), (2, 5), (3, 6)]
    >>> paired([1, 2], [1]) is None
    True
    """
    values, form = tree_flatten(one)
    others, other_form = tree_flatten(other)
    return list(zip(values, others, strict=True)) if form == other_form else None


def tolerance(values: Tensor, rounding: float = 0.0) -> Tensor:
    """How far the same values, computed in another way, may lie from these: a share of the largest magnitude.

    The share is `rounding`, and at least the root of the type's resolution: 3e-4 for float32.
    """
    return max(rounding, torch.finfo(values.dtype).eps ** 0.5) * values.abs().amax()


def same_first_row(one: Any, several: Any, rounding: float) -> bool:
    """Whether the first row of all tensors among some outputs is that of others, which may have more rows.

    `rounding` is how far apart they may be, as a share of the largest value. Values that are not finite are for others to see.
    """
    pairs = paired(one, several)
    if pairs is None:
        return True  # lists of findings, as detectors give, whose rows are unknown
    for value, other in pairs:
        if not (isinstance(value, Tensor) and isinstance(other, Tensor) and value.is_floating_point() and value.ndim):
            continue
        if len(value) != 1 or not len(other) or not value.numel() or value.shape[1:] != other.shape[1:]:
            continue
        if ((value - other[:1]).abs() > tolerance(value, rounding)).any():
            return False
    return True


def same_outputs(one: Any, other: Any, rounding: float) -> bool:
    """Whether the outputs of two passes are the same, up to `rounding`; False where they hold what cannot be compared."""
    pairs = paired(one, other)
    return pairs is not None and all(_same(value, its_other, rounding) for value, its_other in pairs)


def _same(value: Any, other: Any, rounding: float) -> bool:
    if not isinstance(value, Tensor):
        return isinstance(value, bool | int | float | str | None) and bool(value == other)
    if not isinstance(other, Tensor) or value.shape != other.shape or value.dtype != other.dtype:
        return False
    if not value.is_floating_point():
        return torch.equal(value, other)
    # Not where they are not finite: no comparison with NaN holds.
    return not value.numel() or bool(((value - other).abs() <= tolerance(value, rounding)).all())
