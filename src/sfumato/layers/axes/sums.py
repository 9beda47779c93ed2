"""Rules of operations that weigh, sum or choose entries along an axis: convolutions, windows, products, attention, indexing.

Each function without an underscore is a rule (see `store.Rule`). A weighted sum over channels gives channels. A weighted sum
over places is open until it is added to known values, as the output of a token mixer is.
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
    resize,
    resolve,
)
from sfumato.layers.axes.store import LabelStore, first_tensor


def _features(label: Label, size: int) -> Label:
    """The label of weighted sums over an axis: channels if it counts channels or places within patches, otherwise open."""
    parts = tuple(part for part in resolve(label) if not is_fine(part))
    kinds = kinds_of(parts)
    sums = kinds != {OPEN} or any(part.factor.sums for part in parts)
    return channel_label(size) if kinds <= {CHANNEL} else label_of(Factor(OPEN, size, sums=sums))


def slide(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    """Pooling and interpolation: windows slide over the last axes."""
    values = first_tensor(arguments)
    labels = store.labels(values)
    kernel = arguments.get("kernel_size")
    spatial = len(kernel) if isinstance(kernel, list | tuple) else values.ndim - 2
    leading = values.ndim - spatial
    if kernel is None:
        places = [resize(labels[axis], values.shape[axis], output.shape[axis]) for axis in range(leading, values.ndim)]
    else:
        places = _windows(labels[leading:], values.shape[leading:], output.shape[leading:], kernel, arguments)
    return [*labels[:leading], *places]


def _windows(
    labels: Sequence[Label],
    sizes: Sequence[int],
    new_sizes: Sequence[int],
    kernel: Sequence[int],
    arguments: Mapping[str, Any],
) -> list[Label]:
    """The labels of axes over which windows slide. The place of an output is the middle of its window."""
    count = len(sizes)
    stride = _per_axis(arguments.get("stride") or kernel, count)
    padding, dilation = _per_axis(arguments.get("padding", 0), count), _per_axis(arguments.get("dilation", 1), count)
    begins = [-padding[axis] + (dilation[axis] * (kernel[axis] - 1) + 1 - stride[axis]) / 2 for axis in range(count)]
    return [
        resize(label, size, new, begin, begin + new * step)
        for label, size, new, begin, step in zip(labels, sizes, new_sizes, begins, stride, strict=True)
    ]


def _per_axis(value: Any, count: int) -> list[int]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * count if len(values) == 1 else values


def convolve(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    values, weight = first_tensor(arguments), arguments["weight"]
    labels, spatial = store.labels(values), weight.ndim - 2
    leading = values.ndim - spatial
    features, count = labels[leading - 1], output.shape[leading - 1]
    # A depthwise convolution leaves the axis of channels as it is.
    depthwise = count == values.shape[leading - 1] == arguments.get("groups", 1)
    sizes, new_sizes = values.shape[leading:], output.shape[leading:]
    if arguments.get("transposed"):
        places = [resize(*axis) for axis in zip(labels[leading:], sizes, new_sizes, strict=True)]
    else:
        places = _windows(labels[leading:], sizes, new_sizes, weight.shape[2:], arguments)
    return [*labels[: leading - 1], features if depthwise else _features(features, count), *places]


def product(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    """Products of two matrices, of a matrix and a vector, or of a batch of pairs of matrices."""
    left, right = next(
        (arguments[left_name], arguments[right_name])
        for left_name, right_name in (("mat1", "mat2"), ("batch1", "batch2"), ("self", "mat2"), ("self", "vec"))
        if left_name in arguments and right_name in arguments
    )
    left_labels, right_labels = store.labels(left), store.labels(right)
    leading = [merge(left_labels[0], right_labels[0], output.shape[0])] if output.ndim == 3 else []
    if right.ndim == 1:
        return [*leading, left_labels[-2]]
    # The remaining axis of a matrix of weights counts the weighted sums.
    rows = left_labels[-2] if store.knows(left) else _features(right_labels[-2], left.shape[-2])
    columns = right_labels[-1] if store.knows(right) else _features(left_labels[-1], right.shape[-1])
    return [*leading, rows, columns]


def linear(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    labels = store.labels(first_tensor(arguments))
    return [*labels[:-1], _features(labels[-1], output.shape[-1])]


def attention(store: LabelStore, arguments: dict[str, Any], output: Tensor, index: int) -> list[Label] | None:
    """Scaled dot product attention: the places of the queries, and the channels of the values."""
    if index:
        return None
    query, value = store.labels(arguments["query"]), store.labels(arguments["value"])
    del output
    return [*query[:-1], value[-1]]


def encode(store: LabelStore, arguments: dict[str, Any], output: Tensor, index: int) -> list[Label] | None:
    """Fused layers of a transformer or a recurrent network: the axes of the first operand, with new channels."""
    values = first_tensor(arguments)
    if index or output.ndim != values.ndim:
        return None
    return [*store.labels(values)[:-1], channel_label(output.shape[-1])]


def pixel_shuffle(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    values = first_tensor(arguments)
    labels = store.labels(values)
    places = [resize(labels[axis], values.shape[axis], output.shape[axis]) for axis in (-2, -1)]
    return [*labels[:-3], _features(labels[-3], output.shape[-3]), *places]


def im2col(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    """`im2col`: windows side by side as columns."""
    values = first_tensor(arguments)
    labels = store.labels(values)
    grid = [
        (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for side, padding, dilation, kernel, stride in zip(
            values.shape[-2:],
            arguments["padding"],
            arguments["dilation"],
            arguments["kernel_size"],
            arguments["stride"],
            strict=True,
        )
    ]
    places = [resize(labels[axis], values.shape[axis], size) for axis, size in zip((-2, -1), grid, strict=True)]
    return [*labels[:-3], _features(labels[-3], output.shape[-2]), join([*places[0], *places[1]])]


def col2im(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label] | None:
    """`col2im`: from windows back to maps."""
    labels = store.labels(first_tensor(arguments))
    parts = resolve(labels[-1])
    if len(parts) != 2 or not all(part.factor.kind == PLACE and part.complete for part in parts):
        return None
    places = [resize((part,), part.size, size) for part, size in zip(parts, output.shape[-2:], strict=True)]
    return [*labels[:-2], _features(labels[-2], output.shape[-3]), *places]


def index(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label] | None:
    """`values[:, index]` with one index: the indexed axis is replaced by the axes of the index, and all others stay."""
    values, indices = first_tensor(arguments), arguments["indices"]
    indexed = [axis for axis, index in enumerate(indices) if index is not None]
    if len(indexed) != 1 or indices[indexed[0]].dtype == torch.bool:
        sums = bool(set().union(*(kinds_of(store.labels(values)[axis]) for axis in indexed)) - {OPEN, CHANNEL})
        return [label_of(Factor(OPEN, size, sums=sums)) for size in output.shape]
    labels, axis = store.labels(values), indexed[0]
    learnt, kinds = not store.knows(values), kinds_of(labels[axis])
    sums = bool(kinds - {OPEN, CHANNEL})
    index_labels = [label_of(Factor(OPEN, size, learnt=learnt, sums=sums)) for size in indices[axis].shape]
    if kinds == {CHANNEL} and len(index_labels) == 1:
        index_labels = [channel_label(size) for size in indices[axis].shape]
    return [*labels[:axis], *index_labels, *labels[axis + 1 :]]


def index_select(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    labels = list(store.labels(first_tensor(arguments)))
    axis = arguments["dim"]
    labels[axis] = resize(labels[axis], -1, output.shape[axis])
    return labels


def along(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label] | None:
    """Operations that mix or pick the entries along some axes: sorting, gathering, flipping, Fourier transforms."""
    values = first_tensor(arguments)
    dim = arguments.get("dim", arguments.get("dims", -1))
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
            labels[axis] = resize(label, values.shape[axis], output.shape[axis], 0, output.shape[axis])
    return labels


def embedding(store: LabelStore, arguments: dict[str, Any], output: Tensor, _index: int) -> list[Label]:
    return [*store.labels(arguments["indices"]), channel_label(output.shape[-1])]
