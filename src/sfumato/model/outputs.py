"""The outputs of a model: converted to tensors, paired, and compared between two passes."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from sfumato.scores.link import SIGMOID, SOFTMAX


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


SUM = 1e-3
"""How far the sum of probabilities may be from 1."""

SORTED = "sorted"
STEPS = {"SoftmaxBackward0": SOFTMAX, "SigmoidBackward0": SIGMOID, "SortBackward0": SORTED, "TopkBackward0": SORTED}
"""What makes something else of logits, by the name of its step in the graph."""

CHANCE = 8
"""Numbers that are in descending order by chance once in 40,320 times."""


def last_step(outputs: Any, by_values: bool = True) -> str:
    """What was done to the logits of outputs `(N, K, *P)` last: "softmax", "sigmoid", "sorted", or an empty text for nothing.

    The graph says it, where there is one. The values show it `by_values` of three probabilities or more, which have the sum 1,
    and of many numbers in descending order. A softmax and an order along another axis than that of the classes do not count.

    >>> x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    >>> last_step(x.sigmoid()), last_step(x.softmax(1)), last_step(x.topk(2).values), last_step(x.softmax(0)), last_step(2 * x)
    ('sigmoid', 'softmax', 'sorted', '', '')
    >>> x = torch.tensor([[2.0, 0.5, -1.0]])
    >>> last_step(x), last_step(x.softmax(1)), last_step(torch.arange(8.0, 0.0, -1.0)[None])
    ('', 'softmax', 'sorted')
    """
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or not outputs.numel() or not outputs.is_floating_point():
        return ""
    step = STEPS.get(outputs.grad_fn.name(), "") if outputs.grad_fn is not None else ""
    if not step and not by_values:
        return ""
    values = outputs.detach().float()
    count, steps = values.shape[1], values.diff(dim=1)
    if step == SIGMOID:
        return step
    if (step == SOFTMAX or (by_values and count > 2 and bool((values >= 0).all()))) and bool(
        ((values.sum(1) - 1).abs() < SUM).all()
    ):
        return SOFTMAX
    falls = by_values and count >= CHANCE and values.ndim == 2 and bool((steps < 0).all())
    if falls or (step == SORTED and bool((steps <= 0).all() or (steps >= 0).all())):
        return SORTED
    return ""


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
