"""The labels of all tensors of a pass, and what a rule needs of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from sfumato.layers.axes.labels import (
    BATCH,
    OPEN,
    PLACE,
    Factor,
    Label,
    Labels,
    channel_label,
    label_of,
    length_of,
    merge,
    open_label,
    resolved,
)


class LabelStore:
    """The labels of tensors, as long as these live."""

    def __init__(self) -> None:
        super().__init__()
        self._labels: Any = WeakTensorKeyDictionary()

    def see(self, inputs: Tensor, net: nn.Module) -> None:
        """Begin with the network's inputs, `(N, C, *S)`, and its weights."""
        for values in (*net.parameters(), *net.buffers()):
            if not isinstance(values, nn.UninitializedParameter | nn.UninitializedBuffer):
                self._labels[values] = tuple(open_label(size, learnt=True) for size in values.shape)
        batch, channels, *space = inputs.shape
        places = [label_of(Factor(PLACE, size, axis, 0.0, float(size))) for axis, size in enumerate(space)]
        self._labels[inputs] = (label_of(Factor(BATCH, batch)), channel_label(channels), *places)

    def labels(self, values: Tensor) -> Labels:
        """What is known of the axes of values; of those that come from elsewhere, as from numpy, nothing."""
        labels: Labels | None = self._labels.get(values)
        if labels is None or [length_of(label) for label in labels] != list(values.shape):
            labels = tuple(open_label(size) for size in values.shape)
            self._labels[values] = labels
        return labels

    def knows(self, values: Tensor) -> bool:
        """Whether values come from the network's inputs, and not from its weights alone."""
        labels = self.labels(values)
        return any(part.factor.kind != OPEN or not part.factor.learnt for label in labels for part in resolved(label))

    def mark(self, values: Tensor, labels: Labels) -> None:
        """Say what the axes of values are."""
        self._labels[values] = labels

    def broadcast(self, tensors: Sequence[Tensor], output: Tensor) -> list[Label]:
        """Of operations on each entry: each axis counts what it does in the operands."""
        labels: list[Label] = [()] * output.ndim
        for tensor in tensors:
            for axis, label in enumerate(self.labels(tensor), start=output.ndim - tensor.ndim):
                size = output.shape[axis]
                if axis >= 0 and size != 1 and length_of(label) == size:
                    labels[axis] = merge(labels[axis], label, size) if labels[axis] else label
        return [label or open_label(size) for label, size in zip(labels, output.shape, strict=True)]

    def reduced(self, values: Tensor, dim: Any, keepdim: bool, output: Tensor) -> list[Label]:
        """Of sums, means, maxima over some axes."""
        dims = range(values.ndim) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
        gone = {axis % values.ndim for axis in dims} if values.ndim else set()
        labels = self.labels(values)
        if keepdim or output.ndim == values.ndim:
            return [() if axis in gone else label for axis, label in enumerate(labels)]
        return [label for axis, label in enumerate(labels) if axis not in gone]


def first_tensor(given: Mapping[str, Any]) -> Tensor:
    """The first of an operation's arguments that is a tensor."""
    return next(value for value in given.values() if isinstance(value, Tensor))


Rule = Callable[[LabelStore, dict[str, Any], Tensor, int], Sequence[Label] | None]
"""From the store, an operation's arguments by name, one of its outputs and the number of that among them, to the labels of the
output's axes; None where nothing is known of them."""
