"""Operations that move entries and leave their values: views, permutations, slices, concatenations, paddings, rolls.

Each function is a rule: from an operation's arguments by name, its output and the place of that among the outputs, to the
labels of the output's axes.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from sfumato.axes.labels import (
    BATCH,
    CHANNEL,
    JOINED,
    PLACE,
    Factor,
    Label,
    _channels,
    _joined,
    _kinds,
    _length,
    _merged,
    _open,
    _regrouped,
    _whole,
    resized,
    resolved,
)
from sfumato.axes.store import LabelStore, _first


def _permuted(watch: LabelStore, given: dict[str, Any], _output: Tensor, _place: int) -> list[Label]:
    labels = watch.labels(_first(given))
    return [labels[axis] for axis in given["dims"]]


def _transposed(watch: LabelStore, given: dict[str, Any], _output: Tensor, _place: int) -> list[Label]:
    labels = list(watch.labels(_first(given)))
    if labels:
        one, two = given.get("dim0", 0), given.get("dim1", -1)
        labels[one], labels[two] = labels[two], labels[one]
    return labels


def _viewed(watch: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    """Axes are split and joined in the order of their entries."""
    values = _first(given)
    old, new = list(zip(watch.labels(values), values.shape, strict=True)), list(output.shape)
    labels: list[Label] = []
    while old or new:  # the fewest axes on both sides that hold as many entries
        block, sizes = [old.pop(0)] if old else [], [new.pop(0)] if new else []
        before, after = math.prod(size for _, size in block), math.prod(sizes)
        while before != after:
            if before < after and old:
                block.append(old.pop(0))
                before *= block[-1][1]
            elif before > after and new:
                sizes.append(new.pop(0))
                after *= sizes[-1]
            else:
                return [_open(size) for size in output.shape]
        parts = _joined([part for label, _ in block for part in resolved(label)])
        labels += _regrouped(parts, sizes) or [_open(size) for size in sizes]
    return labels


def _unsqueezed(watch: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    labels = list(watch.labels(_first(given)))
    labels.insert(given["dim"] % output.ndim, ())
    return labels


def _squeezed(watch: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    values = _first(given)
    dim = given.get("dim")
    dims = range(values.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {axis % values.ndim for axis in dims if values.shape[axis] == 1} if values.ndim else set()
    del output
    return [label for axis, label in enumerate(watch.labels(values)) if axis not in gone]


def _expanded(watch: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    """Also of what is repeated: copies of a single entry may come to count anything."""
    values = _first(given)
    learnt = not watch.knows(values)
    fresh = [_open(size, learnt) for size in output.shape]
    for axis, label in enumerate(watch.labels(values), start=output.ndim - values.ndim):
        if _length(label) == output.shape[axis]:
            fresh[axis] = label
    return fresh


def _selected(watch: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    labels = list(watch.labels(_first(given)))
    del labels[given.get("dim", 0)], output
    return labels


def _sliced(watch: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    values = _first(given)
    axis = given.get("dim", 0) % values.ndim
    size = values.shape[axis]
    begin = given.get("start") or 0
    begin = max(begin + size, 0) if begin < 0 else min(begin, size)
    return _cut(watch, values, axis, begin, output.shape[axis], given.get("step", 1))


def _chunked(watch: LabelStore, given: dict[str, Any], output: Tensor, place: int) -> list[Label]:
    values = _first(given)
    axis = given.get("dim", 0) % values.ndim
    sizes = given.get("split_size", given.get("split_sizes"))
    begin = sizes * place if isinstance(sizes, int) else sum(sizes[:place]) if sizes is not None else 0
    return _cut(watch, values, axis, begin, output.shape[axis])


def _cut(watch: LabelStore, values: Tensor, axis: int, begin: int, length: int, step: int = 1) -> list[Label]:
    labels = list(watch.labels(values))
    size = values.shape[axis]
    label = resolved(labels[axis])
    if len(label) == 1 and label[0].factor.kind == JOINED and label[0].size == size and step == 1:
        labels[axis] = _pieces(label[0].factor, begin, length)
    elif length != size:
        # Every second of seven places still covers the stretch of all.
        labels[axis] = resized(
            label, size, length, begin, min(begin + length * step, size) if step > 1 else begin + length
        )
    return labels


def _pieces(factor: Factor, begin: int, length: int) -> Label:
    """A stretch of an axis of joined pieces."""
    kept: list[tuple[int, Label]] = []
    at = 0
    for size, label in factor.pieces:
        low, high = max(begin, at), min(begin + length, at + size)
        if low < high:
            kept.append((high - low, resized(label, size, high - low, low - at, high - at)))
        at += size
    return _concatenated(kept)


def _cat(watch: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    tensors = [tensor for tensor in given["tensors"] if tensor.ndim == output.ndim]
    axis = given.get("dim", 0) % output.ndim
    labels = list(watch.labels(tensors[0]))
    for tensor in tensors[1:]:
        for other, label in enumerate(watch.labels(tensor)):
            if other != axis:
                labels[other] = _merged(labels[other], label, output.shape[other])
    labels[axis] = _concatenated([(tensor.shape[axis], watch.labels(tensor)[axis]) for tensor in tensors])
    return labels


def _concatenated(pieces: Sequence[tuple[int, Label]]) -> Label:
    """Pieces of axes, one behind the other."""
    flat: list[tuple[int, Label]] = []
    for size, piece in pieces:
        label = resolved(piece)
        nested = len(label) == 1 and label[0].factor.kind == JOINED and label[0].size == label[0].factor.size
        flat += label[0].factor.pieces if nested else [(size, label)]
    flat = [(size, label) for size, label in flat if size]
    if len(flat) == 1:
        return flat[0][1]
    size = sum(size for size, _ in flat)
    kinds = set().union(*(_kinds(label) for _, label in flat))
    if kinds == {CHANNEL}:
        return _channels(size)
    if PLACE not in kinds:
        return _open(size)
    factors = [label[0].factor for _, label in flat if len(label) == 1 and label[0].complete and label[0].stride == 1]
    if len(factors) == len(flat) and {factor.kind for factor in factors} == {PLACE}:
        follows = pairwise(factors)
        if all(one.axis == two.axis and abs(one.end - two.begin) < 1e-6 for one, two in follows):
            return _whole(Factor(PLACE, size, factors[0].axis, factors[0].begin, factors[-1].end))
    return _whole(Factor(JOINED, size, pieces=tuple(flat)))


def _stacked(watch: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    tensors = given["tensors"]
    labels = list(watch.broadcast(tensors, tensors[0]))
    axis = given.get("dim", 0) % output.ndim
    labels.insert(axis, _open(output.shape[axis]))
    return labels


def _padded(watch: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    values = _first(given)
    labels = list(watch.labels(values))
    pad: Sequence[int] = given.get("pad", given.get("padding", ()))
    for place in range(len(pad) // 2):
        axis = values.ndim - 1 - place
        before, after = pad[2 * place], pad[2 * place + 1]
        if before or after:
            size = values.shape[axis]
            labels[axis] = resized(labels[axis], size, output.shape[axis], -before, size + after)
    return labels


def _rolled(watch: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    labels = list(watch.labels(_first(given)))
    shifts, dims = (
        value if isinstance(value, list | tuple) else [value] for value in (given["shifts"], given.get("dims") or [])
    )
    if not dims:
        return [_open(size) for size in output.shape]
    for shift, axis in zip(shifts, dims, strict=True):
        label = resolved(labels[axis])
        if not shift % output.shape[axis]:
            continue
        if len(label) == 1 and label[0].factor.kind == PLACE and label[0].complete:
            old, size = label[0].factor, label[0].size
            turned = (old.turned * size // old.size + shift) % size
            labels[axis] = _whole(Factor(PLACE, size, old.axis, old.begin, old.end, turned))
        elif _kinds(label) & {PLACE, BATCH}:
            labels[axis] = _open(output.shape[axis])
    return labels


def _copied(watch: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    return watch.broadcast([given["src"]], output)
