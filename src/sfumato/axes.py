"""What the axes of a network's values stand for: the batch, channels, or places of the input.

One pass of the network is watched, operation by operation, as PyTorch runs it. Each operation says what becomes of the
axes: a convolution keeps the batch and the places and makes new channels, a permutation moves axes, a view splits and
joins them. So nothing is guessed from sizes: the axes of a layer's output are known by how they were computed.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from sfumato.probing import Hook, hooked

BATCH, PLACE, CHANNEL, JOINED, MIXED, OPEN = "batch", "place", "channel", "joined", "mixed", "open"
"""The kinds of a factor: the queries; places along an axis of the input; features; pieces of other kinds one behind the
other; sums of different kinds; and what is not known, or not yet."""


@dataclass(eq=False)
class Factor:
    """What an axis, or a part of one, counts."""

    kind: str
    size: int
    axis: int = 0
    """Of places: the axis of the input's space."""
    begin: float = 0.0
    end: float = 0.0
    """Of places: the stretch of the input that they share out evenly, in places of the input."""
    turned: int = 0
    """Of places: by how many they are rolled."""
    pieces: "tuple[tuple[int, Label], ...]" = ()
    """Of what is joined: the length of each piece, and what it counts."""
    same: "Label | None" = None
    """Of what was open: what it was met with in a sum or product, and so must be."""
    learnt: bool = False
    """Of what is open: whether it is an axis of weights, which no input was met with."""
    sums: bool = False
    """Of what is open: whether its entries are weighted sums, or a choice, of places, as inside a token mixer."""


class Part(NamedTuple):
    """A factor, or every `stride`-th of its entries, or the rest of its division by that: as a view splits axes."""

    factor: Factor
    stride: int
    size: int

    @property
    def complete(self) -> bool:
        """Whether it reaches over the whole factor, if in steps."""
        return self.stride * self.size == self.factor.size


Label = tuple[Part, ...]
"""What one axis counts: parts from the outermost to the innermost, none for an axis of length 1."""

Labels = tuple[Label, ...]
"""Those of a tensor's axes."""


@dataclass(frozen=True)
class Piece:
    """A stretch of an axis of places: `length` entries, on the `grid` of `(axis of space, places)`; none have no place."""

    length: int
    grid: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Axis:
    """What an axis of a layer's values was seen to count."""

    kind: str
    """"batch", "places", "channels", "window" (the places within each patch), "one" (of length 1), "mixed" (several of
    these), or "open" where that is not known."""
    pieces: tuple[Piece, ...] = ()
    """Of places: those, and what stands before and behind them, such as the token of the class."""
    words: str = ""
    """Of "mixed": what."""
    size: int = 0
    """Its length in the pass that was watched."""


Axes = tuple[Axis, ...]


def _whole(factor: Factor) -> Label:
    return (Part(factor, 1, factor.size),) if factor.size != 1 else ()


def _open(size: int, learnt: bool = False) -> Label:
    return _whole(Factor(OPEN, size, learnt=learnt))


def _channels(size: int) -> Label:
    return _whole(Factor(CHANNEL, size))


def _split(part: Part, outer: int) -> tuple[Part, Part]:
    """The part as `outer` times the rest."""
    inner = part.size // outer
    return Part(part.factor, part.stride * inner, outer), Part(part.factor, part.stride, inner)


def _joined(parts: Sequence[Part]) -> Label:
    """The parts, with those that a view had split put together again."""
    joined: list[Part] = []
    for part in parts:
        if part.size == 1:
            continue
        last = joined[-1] if joined else None
        if last is not None and last.factor is part.factor and last.stride == part.stride * part.size:
            joined[-1] = Part(part.factor, part.stride, last.size * part.size)
        else:
            joined.append(part)
    return tuple(joined)


def _regrouped(parts: Sequence[Part], sizes: Sequence[int]) -> list[Label] | None:
    """The parts shared out among axes of these sizes, in order; None where their sizes do not fall apart so."""
    queue, labels = list(reversed(parts)), []
    for size in sizes:
        taken: list[Part] = []
        wanted = size
        while wanted > 1:
            if not queue:
                return None
            part = queue.pop()
            if wanted % part.size == 0:
                taken.append(part)
                wanted //= part.size
            elif part.size % wanted == 0:
                outer, inner = _split(part, wanted)
                taken.append(outer)
                queue.append(inner)
                wanted = 1
            else:
                return None
        labels.append(_joined(taken))
    return None if queue else labels


def resolved(label: Label) -> Label:
    """The label with what was found out later about its open factors."""
    parts: list[Part] = []
    for part in label:
        same = part.factor.same
        if same is None:
            parts.append(part)
            continue
        outer = part.factor.size // (part.stride * part.size)
        shares = _regrouped(resolved(same), (outer, part.size, part.stride))
        parts.extend([part] if shares is None else shares[1])
    return _joined(parts)


def _kinds(label: Label) -> set[str]:
    kinds: set[str] = set()
    for part in resolved(label):
        if part.factor.kind == JOINED:
            kinds |= set().union(*(_kinds(piece) for _, piece in part.factor.pieces))
        else:
            kinds.add(part.factor.kind)
    return kinds


def _tidy(label: Label) -> bool:
    """Whether it has whole factors alone, none that a view took to pieces."""
    return all(part.size == part.factor.size and part.factor.kind not in (OPEN, MIXED) for part in label)


def _fine(part: Part) -> bool:
    """Whether it counts places within each patch or window, and not the patches."""
    return part.factor.kind == PLACE and not part.complete


def _near(one: Factor, two: Factor) -> bool:
    """Whether these are the same places: of one axis, as many, over much the same stretch, turned alike."""
    margin = max(2 * (one.end - one.begin) / one.size, (one.end - one.begin) / 4)
    return (
        (one.axis, one.size, one.turned) == (two.axis, two.size, two.turned)
        and abs(one.begin - two.begin) <= margin
        and abs(one.end - two.end) <= margin
    )


def _merged(one: Label, two: Label, size: int) -> Label:
    """What an axis counts where values of both labels are added or multiplied."""
    one, two = resolved(one), resolved(two)
    if one == two:
        return one
    for first, second in ((one, two), (two, one)):  # weights take part in many ways: they stay open
        if all(part.factor.kind == OPEN and part.factor.learnt for part in first):
            return second
    plain = any(part.factor.sums for part in one) and not any(part.factor.sums for part in two)
    for first, second in ((two, one), (one, two)) if plain else ((one, two), (two, one)):
        if len(first) == 1 and first[0].factor.kind == OPEN and first[0].size == first[0].factor.size:
            if all(part.factor is not first[0].factor for part in second):
                first[0].factor.same = second
            return second
    kinds = _kinds(one) | _kinds(two)
    if kinds == {CHANNEL}:
        return one
    if _tidy(one) != _tidy(two) and OPEN not in kinds:  # what is added to places in their order is at these places
        return one if _tidy(one) else two
    if len(one) == len(two) == 1:
        return _merged_parts(one[0], two[0])
    for first, second in ((one, two), (two, one)):
        shares = _regrouped(second, [part.size for part in first]) if len(first) > 1 else None
        if shares is not None:
            merged = [_merged((part,), share, part.size) for part, share in zip(first, shares, strict=True)]
            return _joined([part for label in merged for part in label])
    return _open(size) if OPEN in kinds else _whole(Factor(MIXED, size))


def _merged_parts(one: Part, two: Part) -> Label:
    """What they count together, where neither is a whole open factor."""
    kinds = {one.factor.kind, two.factor.kind}
    if OPEN in kinds:
        return (two if one.factor.kind == OPEN else one,)
    if kinds == {PLACE} and one[1:] == two[1:] and _near(one.factor, two.factor):
        return (one,)
    if kinds == {JOINED} and [size for size, _ in one.factor.pieces] == [size for size, _ in two.factor.pieces]:
        pairs = zip(one.factor.pieces, two.factor.pieces, strict=True)
        pieces = tuple((size, _merged(first, second, size)) for (size, first), (_, second) in pairs)
        return _whole(Factor(JOINED, one.size, pieces=pieces))
    return _whole(Factor(MIXED, one.size))


class Watch(TorchDispatchMode):
    """Follows the axes of a network's values while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self._labels: Any = WeakTensorKeyDictionary()

    def see(self, inputs: Tensor, net: nn.Module) -> None:
        """Begin with the network's inputs, `(N, C, *S)`, and its weights."""
        for values in (*net.parameters(), *net.buffers()):
            if not isinstance(values, nn.UninitializedParameter | nn.UninitializedBuffer):
                self._labels[values] = tuple(_open(size, learnt=True) for size in values.shape)
        batch, channels, *space = inputs.shape
        places = [_whole(Factor(PLACE, size, axis, 0.0, float(size))) for axis, size in enumerate(space)]
        self._labels[inputs] = (_whole(Factor(BATCH, batch)), _channels(channels), *places)

    def labels(self, values: Tensor) -> Labels:
        """What is known of the axes of values; of those that come from elsewhere, as from numpy, nothing."""
        labels: Labels | None = self._labels.get(values)
        if labels is None or [_length(label) for label in labels] != list(values.shape):
            labels = tuple(_open(size) for size in values.shape)
            self._labels[values] = labels
        return labels

    def knows(self, values: Tensor) -> bool:
        """Whether values come from the network's inputs, and not from its weights alone."""
        labels = self.labels(values)
        return any(part.factor.kind != OPEN or not part.factor.learnt for label in labels for part in resolved(label))

    def mark(self, values: Tensor, labels: Labels) -> None:
        """Say what the axes of values are."""
        self._labels[values] = labels

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: Any = None) -> Any:
        named = named or {}
        result = function(*arguments, **named)
        given = _by_name(function, arguments, named)
        outputs = result if isinstance(result, tuple | list) else [result]
        operands = list(_tensors(given))
        learnt = bool(operands) and not any(map(self.knows, operands))
        for place, output in enumerate(outputs):
            if not isinstance(output, Tensor):
                continue
            labels = None
            if not learnt:
                try:
                    labels = self._of(function, given, output, place)
                except Exception:  # noqa: BLE001  # of an operation used in an unknown way, nothing is known
                    labels = None
            if labels is None or [_length(label) for label in labels] != list(output.shape):
                labels = [_open(size, learnt) for size in output.shape]
            self._labels[output] = tuple(labels)
        return result

    def _of(self, function: Any, given: dict[str, Any], output: Tensor, place: int) -> Sequence[Label] | None:
        """The labels of an output of an operation; None where the operation is not known."""
        name = function._schema.name.removeprefix("aten::")
        rule = RULES.get(name)
        if rule is not None:
            return rule(self, given, output, place)
        tensors = [value for value in given.values() if isinstance(value, Tensor)]
        if torch.Tag.pointwise in function.tags or (name.endswith("_") and tensors and output is tensors[0]):
            return self.broadcast(tensors, output)
        if name in ALIKE and place == 0:
            return self.labels(tensors[0])
        if "dim" in given and tensors and name in REDUCTIONS:
            return self.reduced(tensors[0], given["dim"], bool(given.get("keepdim", False)), output)
        return None

    def broadcast(self, tensors: Sequence[Tensor], output: Tensor) -> list[Label]:
        """Of operations on each entry: each axis counts what it does in the operands."""
        labels: list[Label] = [()] * output.ndim
        for tensor in tensors:
            for axis, label in enumerate(self.labels(tensor), start=output.ndim - tensor.ndim):
                size = output.shape[axis]
                if axis >= 0 and size != 1 and _length(label) == size:
                    labels[axis] = _merged(labels[axis], label, size) if labels[axis] else label
        return [label or _open(size) for label, size in zip(labels, output.shape, strict=True)]

    def reduced(self, values: Tensor, dim: Any, keepdim: bool, output: Tensor) -> list[Label]:
        """Of sums, means, maxima over some axes."""
        dims = range(values.ndim) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
        gone = {axis % values.ndim for axis in dims} if values.ndim else set()
        labels = self.labels(values)
        if keepdim or output.ndim == values.ndim:
            return [() if axis in gone else label for axis, label in enumerate(labels)]
        return [label for axis, label in enumerate(labels) if axis not in gone]


def _length(label: Label) -> int:
    return math.prod(part.size for part in label)


def _by_name(function: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    given = {argument.name: value for argument, value in zip(function._schema.arguments, arguments, strict=False)}
    return {**given, **named}


# What operations do to axes.


def resized(label: Label, before: int, after: int, begin: float = 0.0, end: float | None = None) -> Label:
    """An axis of another length: shares of the stretch between `begin` and `end` of its former entries; all by default."""
    end = before if end is None else end
    label = resolved(label)
    place = len(label) == 1 and label[0].factor.kind == PLACE and label[0].complete
    if after == before and (not place or (begin, end) == (0, before)):
        return label
    kinds = _kinds(label)
    if len(label) == 1:
        (part,) = label
        factor = part.factor
        if factor.kind == PLACE and part.complete and (not factor.turned or after == before):
            step = (factor.end - factor.begin) / before
            return _whole(
                Factor(PLACE, after, factor.axis, factor.begin + begin * step, factor.begin + end * step, factor.turned)
            )
    return _channels(after) if kinds == {CHANNEL} else _whole(Factor(OPEN, after, sums=bool(kinds - {OPEN})))


def _features(label: Label, size: int) -> Label:
    """What weighted sums over an axis are: of channels or within patches, channels; of places, what they serve as later."""
    parts = tuple(part for part in resolved(label) if not _fine(part))
    kinds = _kinds(parts)
    sums = kinds != {OPEN} or any(part.factor.sums for part in parts)
    return _channels(size) if kinds <= {CHANNEL} else _whole(Factor(OPEN, size, sums=sums))


def _slid(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    """Of windows that slide over the last axes: pooling, interpolation."""
    values = _first(given)
    labels = watch.labels(values)
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


def _convolution(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    values, weight = _first(given), given["weight"]
    labels, spatial = watch.labels(values), weight.ndim - 2
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


def _permuted(watch: Watch, given: dict[str, Any], _output: Tensor, _place: int) -> list[Label]:
    labels = watch.labels(_first(given))
    return [labels[axis] for axis in given["dims"]]


def _transposed(watch: Watch, given: dict[str, Any], _output: Tensor, _place: int) -> list[Label]:
    labels = list(watch.labels(_first(given)))
    if labels:
        one, two = given.get("dim0", 0), given.get("dim1", -1)
        labels[one], labels[two] = labels[two], labels[one]
    return labels


def _viewed(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
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


def _unsqueezed(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    labels = list(watch.labels(_first(given)))
    labels.insert(given["dim"] % output.ndim, ())
    return labels


def _squeezed(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    values = _first(given)
    dim = given.get("dim")
    dims = range(values.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {axis % values.ndim for axis in dims if values.shape[axis] == 1} if values.ndim else set()
    del output
    return [label for axis, label in enumerate(watch.labels(values)) if axis not in gone]


def _expanded(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    """Also of what is repeated: copies of a single entry may come to count anything."""
    values = _first(given)
    learnt = not watch.knows(values)
    fresh = [_open(size, learnt) for size in output.shape]
    for axis, label in enumerate(watch.labels(values), start=output.ndim - values.ndim):
        if _length(label) == output.shape[axis]:
            fresh[axis] = label
    return fresh


def _selected(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    labels = list(watch.labels(_first(given)))
    del labels[given.get("dim", 0)], output
    return labels


def _sliced(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    values = _first(given)
    axis = given.get("dim", 0) % values.ndim
    size = values.shape[axis]
    begin = given.get("start") or 0
    begin = max(begin + size, 0) if begin < 0 else min(begin, size)
    return _cut(watch, values, axis, begin, output.shape[axis], given.get("step", 1))


def _chunked(watch: Watch, given: dict[str, Any], output: Tensor, place: int) -> list[Label]:
    values = _first(given)
    axis = given.get("dim", 0) % values.ndim
    sizes = given.get("split_size", given.get("split_sizes"))
    begin = sizes * place if isinstance(sizes, int) else sum(sizes[:place]) if sizes is not None else 0
    return _cut(watch, values, axis, begin, output.shape[axis])


def _cut(watch: Watch, values: Tensor, axis: int, begin: int, length: int, step: int = 1) -> list[Label]:
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


def _cat(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
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


def _stacked(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    tensors = given["tensors"]
    labels = list(watch.broadcast(tensors, tensors[0]))
    axis = given.get("dim", 0) % output.ndim
    labels.insert(axis, _open(output.shape[axis]))
    return labels


def _padded(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
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


def _rolled(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
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


def _product(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    """Of matrix products, of one pair or of a batch of them."""
    one, two = next(
        (given[name], given[other])
        for name, other in (("mat1", "mat2"), ("batch1", "batch2"), ("self", "mat2"), ("self", "vec"))
        if name in given and other in given
    )
    first, second = watch.labels(one), watch.labels(two)
    learnt = [not watch.knows(one), not watch.knows(two)]
    leading = [_merged(first[0], second[0], output.shape[0])] if output.ndim == 3 else []
    rows, columns = first[-2], second[-1] if two.ndim > 1 else ()
    # An axis of weights counts the weighted sums.
    rows = _features(second[-2], one.shape[-2]) if learnt[0] and two.ndim > 1 else rows
    columns = _features(first[-1], two.shape[-1]) if learnt[1] and two.ndim > 1 else columns
    return [*leading, rows, columns] if two.ndim > 1 else [*leading, rows]


def _linear(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    labels = watch.labels(_first(given))
    return [*labels[:-1], _features(labels[-1], output.shape[-1])]


def _attention(watch: Watch, given: dict[str, Any], output: Tensor, place: int) -> list[Label] | None:
    """Of scaled dot products: places of the queries, channels of the values."""
    if place:
        return None
    query, value = watch.labels(given["query"]), watch.labels(given["value"])
    del output
    return [*query[:-1], value[-1]]


def _encoded(watch: Watch, given: dict[str, Any], output: Tensor, place: int) -> list[Label] | None:
    """Of whole layers of a transformer or a recurrent network: the first input's axes, and new channels."""
    values = _first(given)
    if place or output.ndim != values.ndim:
        return None
    return [*watch.labels(values)[:-1], _channels(output.shape[-1])]


def _shuffled(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    values = _first(given)
    labels = watch.labels(values)
    places = [resized(labels[axis], values.shape[axis], output.shape[axis]) for axis in (-2, -1)]
    return [*labels[:-3], _features(labels[-3], output.shape[-3]), *places]


def _unfolded(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    """Of windows side by side as columns, `im2col`."""
    values = _first(given)
    labels = watch.labels(values)
    grid = [
        (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for side, padding, dilation, kernel, stride in zip(
            values.shape[-2:], given["padding"], given["dilation"], given["kernel_size"], given["stride"], strict=True
        )
    ]
    places = [resized(labels[axis], values.shape[axis], size) for axis, size in zip((-2, -1), grid, strict=True)]
    return [*labels[:-3], _features(labels[-3], output.shape[-2]), _joined([*places[0], *places[1]])]


def _folded(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label] | None:
    """Back from windows to maps, `col2im`."""
    labels = watch.labels(_first(given))
    parts = resolved(labels[-1])
    if len(parts) != 2 or not all(part.factor.kind == PLACE and part.complete for part in parts):
        return None
    places = [resized((part,), part.size, size) for part, size in zip(parts, output.shape[-2:], strict=True)]
    return [*labels[:-2], _features(labels[-2], output.shape[-3]), *places]


def _indexed(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label] | None:
    """Of `values[:, index]` with one index: the other axes stay, and what the index counts comes in its place."""
    values, indices = _first(given), given["indices"]
    used = [axis for axis, index in enumerate(indices) if index is not None]
    if len(used) != 1 or indices[used[0]].dtype == torch.bool:
        sums = bool(set().union(*(_kinds(watch.labels(values)[axis]) for axis in used)) - {OPEN, CHANNEL})
        return [_whole(Factor(OPEN, size, sums=sums)) for size in output.shape]
    labels, axis = watch.labels(values), used[0]
    learnt, kinds = not watch.knows(values), _kinds(labels[axis])
    sums = bool(kinds - {OPEN, CHANNEL})
    fresh = [_whole(Factor(OPEN, size, learnt=learnt, sums=sums)) for size in indices[axis].shape]
    if kinds == {CHANNEL} and len(fresh) == 1:
        fresh = [_channels(size) for size in indices[axis].shape]
    return [*labels[:axis], *fresh, *labels[axis + 1 :]]


def _index_selected(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    labels = list(watch.labels(_first(given)))
    axis = given["dim"]
    labels[axis] = resized(labels[axis], -1, output.shape[axis])
    return labels


def _along(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label] | None:
    """Of what mixes or picks the entries along some axes: sorting, gathering, flipping, Fourier transforms."""
    values = _first(given)
    dim = given.get("dim", given.get("dims", -1))
    dims = {axis % values.ndim for axis in ([dim] if isinstance(dim, int) else dim)}
    labels = list(watch.labels(values))
    for axis, label in enumerate(labels):
        kinds = _kinds(label)
        if axis in dims:
            sums = bool(kinds - {OPEN, CHANNEL})
            labels[axis] = (
                _channels(output.shape[axis])
                if kinds == {CHANNEL}
                else _whole(Factor(OPEN, output.shape[axis], sums=sums))
            )
        elif output.shape[axis] != values.shape[axis]:
            labels[axis] = resized(label, values.shape[axis], output.shape[axis], 0, output.shape[axis])
    return labels


def _embedded(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    return [*watch.labels(given["indices"]), _channels(output.shape[-1])]


def _copied(watch: Watch, given: dict[str, Any], output: Tensor, _place: int) -> list[Label]:
    return watch.broadcast([given["src"]], output)


def _tensors(given: Mapping[str, Any]) -> Iterator[Tensor]:
    for value in given.values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value if isinstance(item, Tensor))


def _first(given: Mapping[str, Any]) -> Tensor:
    return next(value for value in given.values() if isinstance(value, Tensor))


Rule = Callable[[Watch, dict[str, Any], Tensor, int], Sequence[Label] | None]

RULES: dict[str, Rule] = {
    **dict.fromkeys(("convolution", "mkldnn_convolution", "_convolution", "convolution_overrideable"), _convolution),
    **dict.fromkeys(
        (
            *("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
            *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d", "adaptive_max_pool2d"),
            *("adaptive_max_pool3d", "fractional_max_pool2d", "mkldnn_max_pool2d", "mkldnn_adaptive_avg_pool2d"),
            *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d"),
            *("_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d"),
            *("upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
        ),
        _slid,
    ),
    **dict.fromkeys(("permute",), _permuted),
    **dict.fromkeys(("transpose", "t", "numpy_T", "transpose_", "t_"), _transposed),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), _viewed),
    **dict.fromkeys(("unsqueeze", "unsqueeze_"), _unsqueezed),
    **dict.fromkeys(("squeeze", "squeeze_"), _squeezed),
    **dict.fromkeys(("expand", "repeat"), _expanded),
    **dict.fromkeys(("select", "unbind"), _selected),
    "slice": _sliced,
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"), _chunked),
    **dict.fromkeys(("cat", "concat"), _cat),
    "stack": _stacked,
    **dict.fromkeys(
        (
            *("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d"),
            *("replication_pad1d", "replication_pad2d", "replication_pad3d"),
        ),
        _padded,
    ),
    "roll": _rolled,
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm", "mv", "_addmm_activation"), _product),
    **dict.fromkeys(("linear", "mkldnn_linear", "_mkl_linear"), _linear),
    **dict.fromkeys(
        (
            *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention"),
            *("_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention"),
            *("_scaled_dot_product_attention_math", "_scaled_dot_product_fused_attention_overrideable"),
        ),
        _attention,
    ),
    **dict.fromkeys(("_native_multi_head_attention", "_transformer_encoder_layer_fwd", "mkldnn_rnn_layer"), _encoded),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), _shuffled),
    "im2col": _unfolded,
    "col2im": _folded,
    "index": _indexed,
    **dict.fromkeys(
        ("gather", "flip", "topk", "sort", "kthvalue", "cummax", "cummin", "_fft_r2c", "_fft_c2c", "_fft_c2r"), _along
    ),
    "index_select": _index_selected,
    "embedding": _embedded,
    "copy_": _copied,
}

ALIKE = {
    *("alias", "detach", "clone", "_to_copy", "contiguous", "lift_fresh", "lift", "_conj", "resolve_conj", "view_as"),
    *("native_layer_norm", "native_group_norm", "native_batch_norm", "_native_batch_norm_legit"),
    *("_native_batch_norm_legit_no_training", "_batch_norm_no_update", "cudnn_batch_norm", "miopen_batch_norm"),
    *("_fused_rms_norm", "_batch_norm_with_update", "_softmax", "_log_softmax", "_safe_softmax", "native_dropout"),
    *("cumsum", "cumprod", "logcumsumexp", "channel_shuffle", "native_channel_shuffle", "bernoulli", "tril", "triu"),
    *("rrelu_with_noise", "_prelu_kernel", "prelu", "zeros_like", "ones_like", "empty_like", "rand_like", "randn_like"),
    *("full_like", "_fused_dropout", "quantize_per_tensor", "dequantize", "_local_scalar_dense", "celu", "renorm"),
    *(
        "log_sigmoid_forward",
        "hardswish",
        "hardsigmoid",
        "silu",
        "mish",
        "relu6",
        "elu",
        "softplus",
        "softshrink",
        "hardshrink",
        "masked_fill",
        "masked_scatter",
        "gelu",
        "hardtanh",
        "leaky_relu",
        "mkldnn_reorder",
    ),
}
"""Operations whose first output has the axes of their first operand."""

REDUCTIONS = {
    *("mean", "sum", "amax", "amin", "max", "min", "prod", "var", "var_mean", "std", "std_mean", "median", "nanmedian"),
    *("linalg_vector_norm", "norm", "logsumexp", "any", "all", "argmax", "argmin", "count_nonzero", "nansum", "mode"),
}


@contextmanager
def watched(net: nn.Module, inputs: Tensor) -> Iterator[Watch]:
    """Follow the axes of what the network computes from inputs `(N, C, *S)`, as long as the context lasts.

    Layers that run step by step over an axis, such as an LSTM, are followed as one.
    """
    watch = Watch()
    watch.see(inputs, net)

    def ran(_module: Any, arguments: tuple[Any, ...], output: Any) -> None:
        values, given = output[0], arguments[0] if arguments else None
        if isinstance(values, Tensor) and isinstance(given, Tensor) and values.ndim == given.ndim:
            watch.mark(values, (*watch.labels(given)[:-1], _channels(values.shape[-1])))

    with ExitStack() as effects:
        for module in net.modules():
            if isinstance(module, nn.RNNBase):
                effects.callback(module.register_forward_hook(Hook(ran)).remove)
        effects.enter_context(watch)
        yield watch


def in_short(labels: Labels, space: Sequence[int]) -> Axes:
    """What the labels of a layer's values say, for inputs of `space`."""
    parts = [part for label in labels for part in resolved(label)]
    if parts and all(part.factor.kind == OPEN and part.factor.learnt for part in parts):
        return tuple(Axis("mixed", words="weights", size=_length(label)) for label in labels)
    return tuple(replace(_axis(label, space), size=_length(label)) for label in labels)


def _axis(label: Label, space: Sequence[int]) -> Axis:
    label = resolved(label)
    kinds = _kinds(label)
    if not label:
        return Axis("one")
    if any(part.factor.sums for part in label):
        return Axis("mixed", words="sums or a choice of places")
    if all(map(_fine, label)) or (CHANNEL in kinds and _kinds(tuple(p for p in label if not _fine(p))) == {CHANNEL}):
        return Axis("window" if kinds == {PLACE} else "channels")
    if kinds <= {OPEN, CHANNEL}:
        return Axis("channels" if kinds == {CHANNEL} else "open")
    if kinds == {BATCH}:
        return Axis("batch") if label[0].size == label[0].factor.size else Axis("mixed", words="a part of the batch")
    if BATCH in kinds:
        return Axis("mixed", words=f"the batch and {_named(kinds - {BATCH})}")
    if len(label) == 1 and label[0].factor.kind == JOINED and label[0].size == label[0].factor.size:
        parts = [(size, resolved(piece)) for size, piece in label[0].factor.pieces]
    elif kinds == {PLACE}:
        parts = [(_length(label), label)]
    else:
        return Axis("mixed", words=_named(kinds))
    pieces: list[Piece] = []
    for size, piece in parts:
        if PLACE not in _kinds(piece):
            pieces.append(Piece(size, ()))
        elif _kinds(piece) == {PLACE} and all(_covers(part, space) for part in piece):
            pieces.append(Piece(size, tuple((part.factor.axis, part.size) for part in piece)))
        else:
            return Axis("mixed", words="places that do not cover the input in its order, as in windows")
    return Axis("places", tuple(pieces))


def _named(kinds: set[str]) -> str:
    names = {PLACE: "places", CHANNEL: "channels", OPEN: "what is not known", MIXED: "sums of unlike axes"}
    return " and ".join(names[kind] for kind in sorted(kinds))


def _covers(part: Part, space: Sequence[int]) -> bool:
    """Whether the places lie over the whole input in its order, but for a margin of two of them or a quarter of it."""
    factor = part.factor
    if factor.kind != PLACE or not part.complete or factor.turned:
        return False
    length = space[factor.axis]
    margin = max(2 * (factor.end - factor.begin) / part.size, length / 4)
    return abs(factor.begin) <= margin and abs(factor.end - length) <= margin


def axes_of(
    net: nn.Module, module: nn.Module, side: str, inputs: Tensor, run: Callable[[Tensor], Any], call: int = -1
) -> Axes | None:
    """What the axes of a module's output, or at the "input" of what it takes in, count at one of its calls.

    `run` runs the network for inputs `(N, C, *S)`. None where that cannot be watched,
    or where there is no such call.
    """
    seen: list[Labels] = []

    def see(values: Any) -> None:
        if isinstance(values, Tensor):
            seen.append(watch.labels(values))

    try:
        with ExitStack() as effects, torch.no_grad():
            watch = effects.enter_context(watched(net, inputs))
            if side == "input":
                effects.enter_context(hooked(module, before=lambda given: see(given[0] if given else None)))
            else:
                effects.enter_context(hooked(module, after=see))
            run(inputs)
    except Exception:  # noqa: BLE001  # what does not stand to be watched is read by its sizes
        return None
    return in_short(seen[call], inputs.shape[2:]) if -len(seen) <= call < len(seen) else None
