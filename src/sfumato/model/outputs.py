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


def are_probabilities(outputs: Any) -> bool:
    """Whether the outputs `(N, K, *P)` went through a softmax: of three classes or more, in [0, 1], with the sum 1.

    >>> are_probabilities(torch.tensor([[2.0, 0.5, -1.0]])), are_probabilities(torch.tensor([[2.0, 0.5, -1.0]]).softmax(1))
    (False, True)
    """
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or outputs.shape[1] < 3 or not outputs.is_floating_point():
        return False
    values = outputs.detach().float()
    return bool(values.numel()) and bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < SUM).all())


SUM = 1e-3
"""How far the sum of probabilities may be from 1."""

SORTED = "sorted"
STEPS = {"SoftmaxBackward0": SOFTMAX, "SigmoidBackward0": SIGMOID, "SortBackward0": SORTED, "TopkBackward0": SORTED}
"""What makes something else of logits, by the name of its step in the graph."""


def last_step(outputs: Any) -> str:
    """The last thing that was done to outputs `(N, K, *P)`, of `STEPS`, as their graph says; empty for another, or without one.

    A softmax and an order along another axis than that of the classes do not count.

    >>> x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    >>> last_step(x.sigmoid()), last_step(x.softmax(1)), last_step(x.topk(2).values), last_step(x.softmax(0)), last_step(2 * x)
    ('sigmoid', 'softmax', 'sorted', '', '')
    """
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or outputs.grad_fn is None:
        return ""
    step, values = STEPS.get(outputs.grad_fn.name(), ""), outputs.detach().float()
    if step == SOFTMAX:
        along = bool(((values.sum(1) - 1).abs() < SUM).all())
    else:
        along = step == SIGMOID or bool((values.diff(dim=1) <= 0).all() or (values.diff(dim=1) >= 0).all())
    return step if along else ""


CHANCE = 8
"""Numbers that are in descending order by chance once in 40,320 times."""


def are_sorted(outputs: Any) -> bool:
    """Whether every row of outputs `(N, K)` is in descending order, which is no chance for so many classes.

    >>> are_sorted(torch.arange(8.0, 0.0, -1.0)[None]), are_sorted(torch.arange(3.0, 0.0, -1.0)[None])
    (True, False)
    """
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < CHANCE or not len(outputs):
        return False
    return bool((outputs[:, 1:] < outputs[:, :-1]).all())


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
