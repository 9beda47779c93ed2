"""Rules of operations that move entries and leave their values: views, permutations, slices, concatenations, paddings, rolls.

Each function without an underscore is a rule (see `store.Rule`), named after an operation of PyTorch.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from sfumato.layers.axes.labels import (
    BATCH,
    CHANNEL,
    JOINED,
    PLACE,
    Factor,
    Label,
    channel_label,
    join,
    kinds_of,
    label_of,
    length_of,
    merge,
    open_label,
    regroup,
    resize,
    resolve,
)
from sfumato.layers.axes.store import LabelStore, first_tensor


def permute(store: LabelStore, arguments: dict[str, Any], _output: Tensor, _index: int) -> list[Label]:
    labels = store.labels(first_tensor(arguments))
    return [labels[axis] for axis in arguments["dims"]]


def transpose(store: LabelStore, arguments: dict[str, Any], _output: Tensor, _index: int) -> list[Label]:
    labels = list(store.labels(first_tensor(arguments)))
    if labels:
        first, second = arguments.get("dim0", 0), arguments.get("dim1", -1)
        labels[first], labels[second] = labels[second], labels[first]
    return labels


def view(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    """A view splits and joins axes in the order of their entries."""
    values = first_tensor(arguments)
    old, new = list(zip(store.labels(values), values.shape, strict=True)), list(output.shape)
    labels: list[Label] = []
    while old or new:  # one block: the fewest axes on both sides with the same number of entries
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
                return [open_label(size) for size in output.shape]
        parts = join([part for label, _ in block for part in resolve(label)])
        labels += regroup(parts, sizes) or [open_label(size) for size in sizes]
    return labels


def unsqueeze(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    labels = list(store.labels(first_tensor(arguments)))
    labels.insert(arguments["dim"] % output.ndim, ())
    return labels


def squeeze(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    values = first_tensor(arguments)
    dim = arguments.get("dim")
    dims = range(values.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    removed = {axis % values.ndim for axis in dims if values.shape[axis] == 1} if values.ndim else set()
    del output
    return [label for axis, label in enumerate(store.labels(values)) if axis not in removed]


def expand(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    """An axis that is expanded or repeated is open, as its copies may count anything."""
    values = first_tensor(arguments)
    learnt = not store.knows(values)
    labels = [open_label(size, learnt) for size in output.shape]
    for axis, label in enumerate(store.labels(values), start=output.ndim - values.ndim):
        if length_of(label) == output.shape[axis]:
            labels[axis] = label
    return labels


def select(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    labels = list(store.labels(first_tensor(arguments)))
    del labels[arguments.get("dim", 0)], output
    return labels


def narrow(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    values = first_tensor(arguments)
    axis = arguments.get("dim", 0) % values.ndim
    size = values.shape[axis]
    begin = arguments.get("start") or 0
    begin = max(begin + size, 0) if begin < 0 else min(begin, size)
    return _cut(store, values, axis, begin, output.shape[axis], arguments.get("step", 1))


def split(store: LabelStore, arguments: dict[str, Any], output: Tensor, index: int) -> list[Label]:
    values = first_tensor(arguments)
    axis = arguments.get("dim", 0) % values.ndim
    sizes = arguments.get("split_size", arguments.get("split_sizes"))
    begin = sizes * index if isinstance(sizes, int) else sum(sizes[:index]) if sizes is not None else 0
    return _cut(store, values, axis, begin, output.shape[axis])


def _cut(store: LabelStore, values: Tensor, axis: int, begin: int, length: int, step: int = 1) -> list[Label]:
    labels = list(store.labels(values))
    size = values.shape[axis]
    label = resolve(labels[axis])
    if len(label) == 1 and label[0].factor.kind == JOINED and label[0].size == size and step == 1:
        labels[axis] = _pieces(label[0].factor, begin, length)
    elif length != size:
        # With a step, the entries still cover the whole range: every second of seven places covers seven.
        labels[axis] = resize(
            label, size, length, begin, min(begin + length * step, size) if step > 1 else begin + length
        )
    return labels


def _pieces(factor: Factor, begin: int, length: int) -> Label:
    """A range of an axis of joined pieces."""
    pieces: list[tuple[int, Label]] = []
    offset = 0
    for size, label in factor.pieces:
        low, high = max(begin, offset), min(begin + length, offset + size)
        if low < high:
            pieces.append((high - low, resize(label, size, high - low, low - offset, high - offset)))
        offset += size
    return _concatenate(pieces)


def cat(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    tensors = [tensor for tensor in arguments["tensors"] if tensor.ndim == output.ndim]
    axis = arguments.get("dim", 0) % output.ndim
    labels = list(store.labels(tensors[0]))
    for tensor in tensors[1:]:
        for index, label in enumerate(store.labels(tensor)):
            if index != axis:
                labels[index] = merge(labels[index], label, output.shape[index])
    labels[axis] = _concatenate([(tensor.shape[axis], store.labels(tensor)[axis]) for tensor in tensors])
    return labels


def _concatenate(pieces: Sequence[tuple[int, Label]]) -> Label:
    """The label of an axis that is made of pieces one behind the other."""
    flat: list[tuple[int, Label]] = []
    for size, piece in pieces:
        label = resolve(piece)
        nested = len(label) == 1 and label[0].factor.kind == JOINED and label[0].size == label[0].factor.size
        flat += label[0].factor.pieces if nested else [(size, label)]
    flat = [(size, label) for size, label in flat if size]
    if len(flat) == 1:
        return flat[0][1]
    size = sum(size for size, _ in flat)
    kinds = set().union(*(kinds_of(label) for _, label in flat))
    if kinds == {CHANNEL}:
        return channel_label(size)
    if PLACE not in kinds:
        return open_label(size)
    factors = [label[0].factor for _, label in flat if len(label) == 1 and label[0].complete and label[0].stride == 1]
    if len(factors) == len(flat) and {factor.kind for factor in factors} == {PLACE}:
        neighbours = pairwise(factors)
        if all(a.axis == b.axis and abs(a.end - b.begin) < 1e-6 for a, b in neighbours):
            return label_of(Factor(PLACE, size, factors[0].axis, factors[0].begin, factors[-1].end))
    return label_of(Factor(JOINED, size, pieces=tuple(flat)))


def stack(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    tensors = arguments["tensors"]
    labels = list(store.broadcast(tensors, tensors[0]))
    axis = arguments.get("dim", 0) % output.ndim
    labels.insert(axis, open_label(output.shape[axis]))
    return labels


def pad(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    values = first_tensor(arguments)
    labels = list(store.labels(values))
    pad: Sequence[int] = arguments.get("pad", arguments.get("padding", ()))
    for index in range(len(pad) // 2):
        axis = values.ndim - 1 - index
        before, after = pad[2 * index], pad[2 * index + 1]
        if before or after:
            size = values.shape[axis]
            labels[axis] = resize(labels[axis], size, output.shape[axis], -before, size + after)
    return labels


def roll(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    labels = list(store.labels(first_tensor(arguments)))
    shifts, dims = (
        value if isinstance(value, list | tuple) else [value]
        for value in (arguments["shifts"], arguments.get("dims") or [])
    )
    if not dims:
        return [open_label(size) for size in output.shape]
    for shift, axis in zip(shifts, dims, strict=True):
        label = resolve(labels[axis])
        if not shift % output.shape[axis]:
            continue
        if len(label) == 1 and label[0].factor.kind == PLACE and label[0].complete:
            old, size = label[0].factor, label[0].size
            total = (old.shift * size // old.size + shift) % size
            labels[axis] = label_of(Factor(PLACE, size, old.axis, old.begin, old.end, total))
        elif kinds_of(label) & {PLACE, BATCH}:
            labels[axis] = open_label(output.shape[axis])
    return labels


def copy(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    return store.broadcast([arguments["src"]], output)
