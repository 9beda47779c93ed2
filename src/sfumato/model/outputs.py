"""The outputs of a model: converted to tensors, paired, and compared between two passes."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map


def as_tensors(outputs: Any, device: torch.device) -> Any:
    """The outputs on the device. Numpy arrays, also those in lists, tuples and mappings, become tensors.

    >>> as_tensors((np.zeros(2), {"scores": np.ones(1)}), torch.device("cpu"))
    (tensor([0., 0.]), {'scores': tensor([1.])})
    """
    if isinstance(outputs, Tensor):
        return outputs.to(device)  # a model may be spread over several devices
    if any(isinstance(leaf, np.ndarray) for leaf in tree_leaves(outputs)):
        return tree_map(lambda leaf: _as_tensor(leaf, device) if isinstance(leaf, np.ndarray) else leaf, outputs)
    return outputs


def _as_tensor(values: Any, device: torch.device) -> Shaped[Tensor, "..."]:
    array = torch.from_numpy(np.array(values))  # a copy, as a session's own may be read-only or change
    return array.to(device, torch.float32 if array.is_floating_point() else array.dtype)


def are_probabilities(outputs: Any) -> bool:
    """Whether the outputs `(N, K)` of a classifier went through a softmax: of three classes or more, in [0, 1], with the sum 1.

    >>> are_probabilities(torch.tensor([[2.0, 0.5, -1.0]])), are_probabilities(torch.tensor([[2.0, 0.5, -1.0]]).softmax(1))
    (False, True)
    """
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 3 or not outputs.is_floating_point():
        return False
    values = outputs.detach().float()
    return bool(len(values)) and bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < 1e-3).all())


def through_sigmoid(outputs: Any) -> bool:
    """Whether the last thing that was done to outputs `(N, K)` is a sigmoid, as their graph says; False without a graph.

    >>> x = torch.zeros(1, 2, requires_grad=True)
    >>> through_sigmoid(x.sigmoid()), through_sigmoid(2 * x)
    (True, False)
    """
    return isinstance(outputs, Tensor) and outputs.grad_fn is not None and outputs.grad_fn.name() == "SigmoidBackward0"


def pairs_of(a: Any, b: Any) -> list[tuple[Any, Any]] | None:
    """The corresponding values of two nested outputs; None if they are nested in different ways.

    >>> pairs_of({"logits": 1, "boxes": [2, 3]}, {"logits": 4, "boxes": [5, 6]})
    [(1, 4), (2, 5), (3, 6)]
    >>> pairs_of([1, 2], [1]) is None
    True
    """
    values_a, form_a = tree_flatten(_parts(a) if is_dataclass(a) else a)
    values_b, form_b = tree_flatten(_parts(b) if is_dataclass(b) else b)
    return list(zip(values_a, values_b, strict=True)) if form_a == form_b else None


def _parts(outputs: Any) -> Any:
    """A dataclass as a dict; those of transformers, which are mappings too, as they are."""
    if not isinstance(outputs, type | Mapping):
        return {entry.name: getattr(outputs, entry.name) for entry in fields(outputs)}
    return outputs


def tolerance(values: Float[Tensor, "..."], rounding: float = 0.0) -> Float[Tensor, ""]:
    """The largest difference of the same values computed in another way: a share of the largest magnitude.

    The share is `rounding`, or the root of the type's resolution if that is larger: 3e-4 for float32.
    """
    return max(rounding, torch.finfo(values.dtype).eps ** 0.5) * values.abs().amax()


def same_first_row(single: Any, batch: Any, rounding: float) -> bool:
    """Whether the outputs of a single row agree with the first row of the outputs of a batch.

    `rounding` is the largest difference, as a share of the largest value. Only floating-point tensors are compared, and NaN
    counts as equal, as other checks find it.
    """
    pairs = pairs_of(single, batch)
    if pairs is None:
        return True  # e.g. a detector's lists of boxes, which have no rows
    for row, rows in pairs:
        if not (isinstance(row, Tensor) and isinstance(rows, Tensor) and row.is_floating_point() and row.ndim):
            continue
        if len(row) != 1 or not len(rows) or not row.numel() or row.shape[1:] != rows.shape[1:]:
            continue
        if ((row - rows[:1]).abs() > tolerance(row, rounding)).any():
            return False
    return True


def same_outputs(a: Any, b: Any, rounding: float) -> bool:
    """Whether the outputs of two passes are the same, up to `rounding`. False if they have values that cannot be compared."""
    pairs = pairs_of(a, b)
    return pairs is not None and all(_same(value_a, value_b, rounding) for value_a, value_b in pairs)


def _same(a: Any, b: Any, rounding: float) -> bool:
    if not isinstance(a, Tensor):
        return isinstance(a, bool | int | float | str | None) and bool(a == b)
    if not isinstance(b, Tensor) or a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    # False for NaN, which compares as false.
    return not a.numel() or bool(((a - b).abs() <= tolerance(a, rounding)).all())
