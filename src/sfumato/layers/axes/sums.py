"""Operations that weigh, sum or choose entries along an axis: convolutions, windows, products, attention, indexing.

Each function without an underscore is a rule (see `store.Rule`). A weighted sum over channels gives channels. One over places
is open until it is added to something known, as the output of a token mixer is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sfumato.layers.axes.labels import (
    CHANNEL,
    OPEN,
    PLACE,
    Factor,
    Label,
    channel_label,
    is_fine,
    join,
    kinds_of,
    label_of,
    merge,
    resized,
    resolved,
)
from sfumato.layers.axes.store import LabelStore, first_tensor


def _features(label: Label, size: int) -> Label:
    """What weighted sums over an axis are: of channels or within patches, channels; of places, what they serve as later."""
    parts = tuple(part for part in resolved(label) if not is_fine(part))
    kinds = kinds_of(parts)
    sums = kinds != {OPEN} or any(part.factor.sums for part in parts)
    return channel_label(size) if kinds <= {CHANNEL} else label_of(Factor(OPEN, size, sums=sums))


def slide(store: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    """Of windows that slide over the last axes: pooling, interpolation."""
    values = first_tensor(given)
    labels = store.labels(values)
    kernel = given.get("kernel_size")
    spatial = len(kernel) if isinstance(kernel, list | tuple) else values.ndim - 2
    leading = values.ndim - spatial
    if kernel is None:
        places = [resized(labels[axis], values.shape[axis], output.shape[axis]) for axis in range(leading, values.ndim)]
    else:
        places = _windows(labels[leading:], values.shape[leading:], output.shape[leading:], kernel, given)
    return [*labels[:leading], *places]


def _windows(
    labels: Sequence[Label], sizes: Sequence[int], after: Sequence[int], kernel: Sequence[int], given: Mapping[str, Any]
) -> list[Label]:
    """Axes over which windows slide: each place is the middle of its window."""
    count = len(sizes)
    stride = _each(given.get("stride") or kernel, count)
    padding, dilation = _each(given.get("padding", 0), count), _each(given.get("dilation", 1), count)
    begins = [-padding[axis] + (dilation[axis] * (kernel[axis] - 1) + 1 - stride[axis]) / 2 for axis in range(count)]
    return [
        resized(label, size, new, begin, begin + new * step)
        for label, size, new, begin, step in zip(labels, sizes, after, begins, stride, strict=True)
    ]


def _each(value: Any, count: int) -> list[int]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * count if len(values) == 1 else values


def convolve(store: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    values, weight = first_tensor(given), given["weight"]
    labels, spatial = store.labels(values), weight.ndim - 2
    leading = values.ndim - spatial
    features, count = labels[leading - 1], output.shape[leading - 1]
    # Where each channel has a filter of its own, they stay what they are.
    own = count == values.shape[leading - 1] == given.get("groups", 1)
    sizes, after = values.shape[leading:], output.shape[leading:]
    if given.get("transposed"):
        places = [resized(*axis) for axis in zip(labels[leading:], sizes, after, strict=True)]
    else:
        places = _windows(labels[leading:], sizes, after, weight.shape[2:], given)
    return [*labels[: leading - 1], features if own else _features(features, count), *places]


def product(store: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    """Of matrix products, of one pair or of a batch of them."""
    one, two = next(
        (given[name], given[other])
        for name, other in (("mat1", "mat2"), ("batch1", "batch2"), ("self", "mat2"), ("self", "vec"))
        if name in given and other in given
    )
    first, second = store.labels(one), store.labels(two)
    learnt = [not store.knows(one), not store.knows(two)]
    leading = [merge(first[0], second[0], output.shape[0])] if output.ndim == 3 else []
    rows, columns = first[-2], second[-1] if two.ndim > 1 else ()
    # An axis of weights counts the weighted sums.
    rows = _features(second[-2], one.shape[-2]) if learnt[0] and two.ndim > 1 else rows
    columns = _features(first[-1], two.shape[-1]) if learnt[1] and two.ndim > 1 else columns
    return [*leading, rows, columns] if two.ndim > 1 else [*leading, rows]


def linear(store: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    labels = store.labels(first_tensor(given))
    return [*labels[:-1], _features(labels[-1], output.shape[-1])]


def attention(store: LabelStore, given: dict[str, Any], output: Tensor, place: int) -> list[Label] | None:
    """Of scaled dot products: places of the queries, channels of the values."""
    if place:
        return None
    query, value = store.labels(given["query"]), store.labels(given["value"])
    del output
    return [*query[:-1], value[-1]]


def encode(store: LabelStore, given: dict[str, Any], output: Tensor, place: int) -> list[Label] | None:
    """Of whole layers of a transformer or a recurrent network: the first input's axes, and new channels."""
    values = first_tensor(given)
    if place or output.ndim != values.ndim:
        return None
    return [*store.labels(values)[:-1], channel_label(output.shape[-1])]


def pixel_shuffle(store: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    values = first_tensor(given)
    labels = store.labels(values)
    places = [resized(labels[axis], values.shape[axis], output.shape[axis]) for axis in (-2, -1)]
    return [*labels[:-3], _features(labels[-3], output.shape[-3]), *places]


def im2col(store: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    """Of windows side by side as columns, `im2col`."""
    values = first_tensor(given)
    labels = store.labels(values)
    grid = [
        (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for side, padding, dilation, kernel, stride in zip(
            values.shape[-2:], given["padding"], given["dilation"], given["kernel_size"], given["stride"], strict=True
        )
    ]
    places = [resized(labels[axis], values.shape[axis], size) for axis, size in zip((-2, -1), grid, strict=True)]
    return [*labels[:-3], _features(labels[-3], output.shape[-2]), join([*places[0], *places[1]])]


def col2im(store: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label] | None:
    """Back from windows to maps, `col2im`."""
    labels = store.labels(first_tensor(given))
    parts = resolved(labels[-1])
    if len(parts) != 2 or not all(part.factor.kind == PLACE and part.complete for part in parts):
        return None
    places = [resized((part,), part.size, size) for part, size in zip(parts, output.shape[-2:], strict=True)]
    return [*labels[:-2], _features(labels[-2], output.shape[-3]), *places]


def index(store: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label] | None:
    """Of `values[:, index]` with one index: the other axes stay, and what the index counts comes in its place."""
    values, indices = first_tensor(given), given["indices"]
    used = [axis for axis, index in enumerate(indices) if index is not None]
    if len(used) != 1 or indices[used[0]].dtype == torch.bool:
        sums = bool(set().union(*(kinds_of(store.labels(values)[axis]) for axis in used)) - {OPEN, CHANNEL})
        return [label_of(Factor(OPEN, size, sums=sums)) for size in output.shape]
    labels, axis = store.labels(values), used[0]
    learnt, kinds = not store.knows(values), kinds_of(labels[axis])
    sums = bool(kinds - {OPEN, CHANNEL})
    fresh = [label_of(Factor(OPEN, size, learnt=learnt, sums=sums)) for size in indices[axis].shape]
    if kinds == {CHANNEL} and len(fresh) == 1:
        fresh = [channel_label(size) for size in indices[axis].shape]
    return [*labels[:axis], *fresh, *labels[axis + 1 :]]


def index_select(store: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    labels = list(store.labels(first_tensor(given)))
    axis = given["dim"]
    labels[axis] = resized(labels[axis], -1, output.shape[axis])
    return labels


def along(store: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label] | None:
    """Of what mixes or picks the entries along some axes: sorting, gathering, flipping, Fourier transforms."""
    values = first_tensor(given)
    dim = given.get("dim", given.get("dims", -1))
    dims = {axis % values.ndim for axis in ([dim] if isinstance(dim, int) else dim)}
    labels = list(store.labels(values))
    for axis, label in enumerate(labels):
        kinds = kinds_of(label)
        if axis in dims:
            sums = bool(kinds - {OPEN, CHANNEL})
            labels[axis] = (
                channel_label(output.shape[axis])
                if kinds == {CHANNEL}
                else label_of(Factor(OPEN, output.shape[axis], sums=sums))
            )
        elif output.shape[axis] != values.shape[axis]:
            labels[axis] = resized(label, values.shape[axis], output.shape[axis], 0, output.shape[axis])
    return labels


def embedding(store: LabelStore, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    return [*store.labels(given["indices"]), channel_label(output.shape[-1])]
