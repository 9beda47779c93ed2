"""The labels of all tensors of a pass, with the operations on them that rules need."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Float
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
    resolve,
)


class LabelStore:
    """The labels of tensors, stored for as long as the tensors exist."""

    def __init__(self) -> None:
        super().__init__()
        self._labels: Any = WeakTensorKeyDictionary()

    def begin(self, inputs: Float[Tensor, "N C *S"], net: nn.Module) -> None:
        """Label the network's inputs and its weights."""
        for values in (*net.parameters(), *net.buffers()):
            if not isinstance(values, nn.UninitializedParameter | nn.UninitializedBuffer):
                self._labels[values] = tuple(open_label(size, learnt=True) for size in values.shape)
        batch, channels, *space = inputs.shape
        places = [label_of(Factor(PLACE, size, axis, 0.0, float(size))) for axis, size in enumerate(space)]
        self._labels[inputs] = (label_of(Factor(BATCH, batch)), channel_label(channels), *places)

    def labels(self, values: Tensor) -> Labels:
        """The labels of a tensor's axes. They are open for a tensor from outside the pass, e.g. from numpy."""
        labels: Labels | None = self._labels.get(values)
        if labels is None or [length_of(label) for label in labels] != list(values.shape):
            labels = tuple(open_label(size) for size in values.shape)
            self._labels[values] = labels
        return labels

    def knows(self, values: Tensor) -> bool:
        """Whether a tensor depends on the network's inputs, and not on its weights alone."""
        labels = self.labels(values)
        return any(part.factor.kind != OPEN or not part.factor.learnt for label in labels for part in resolve(label))

    def mark(self, values: Tensor, labels: Labels) -> None:
        """Set the labels of a tensor's axes."""
        self._labels[values] = labels

    def broadcast(self, tensors: Sequence[Tensor], output: Tensor) -> list[Label]:
        """The labels of an elementwise operation's output, merged from those of its operands."""
        labels: list[Label] = [()] * output.ndim
        for tensor in tensors:
            for axis, label in enumerate(self.labels(tensor), start=output.ndim - tensor.ndim):
                size = output.shape[axis]
                if axis >= 0 and size != 1 and length_of(label) == size:
                    labels[axis] = merge(labels[axis], label, size) if labels[axis] else label
        return [label or open_label(size) for label, size in zip(labels, output.shape, strict=True)]

    def reduced(self, values: Tensor, dim: Any, keepdim: bool, output: Tensor) -> list[Label]:
        """The labels of sums, means or maxima over some axes."""
        dims = range(values.ndim) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
        removed = {axis % values.ndim for axis in dims} if values.ndim else set()
        labels = self.labels(values)
        if keepdim or output.ndim == values.ndim:
            return [() if axis in removed else label for axis, label in enumerate(labels)]
        return [label for axis, label in enumerate(labels) if axis not in removed]


def first_tensor(arguments: Mapping[str, Any]) -> Tensor:
    """The first tensor among an operation's arguments."""
    return next(value for value in arguments.values() if isinstance(value, Tensor))


Rule = Callable[[LabelStore, dict[str, Any], Tensor, int], Sequence[Label] | None]
"""`rule(store, arguments, output, index)` gives the labels of an output's axes, or None if nothing is known of them.

`arguments` are those of the operation by name, and `index` is the number of the output among the operation's outputs."""
