"""Labels, which say what one axis of a tensor counts, and how labels are split, joined, merged and resized.

An axis of 14 × 14 tokens counts two factors, 14 rows and 14 columns; a view that splits it gives each a label of its own.
Nothing here depends on operations or tensors. Labels are immutable, except that an open factor may become known later.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

BATCH, PLACE, CHANNEL, JOINED, MIXED, OPEN = "batch", "place", "channel", "joined", "mixed", "open"
"""The kinds of a factor: queries; places along an axis of the input; features; pieces of other kinds one behind the other;
sums of different kinds; and not known, or not yet."""


@dataclass(eq=False)
class Factor:
    """What an axis, or a part of one, counts."""

    kind: str
    size: int
    axis: int = 0
    """For places: the axis of the input's space."""
    begin: float = 0.0
    end: float = 0.0
    """For places: the range of the input that they divide evenly, in places of the input."""
    shift: int = 0
    """For places: by how many places they are rolled."""
    pieces: "tuple[tuple[int, Label], ...]" = ()
    """For a joined factor: the length and the label of each piece."""
    same: "Label | None" = None
    """For an open factor: the label with which it was added or multiplied, and which it therefore has."""
    learnt: bool = False
    """For an open factor: whether it is an axis of weights that was not combined with an input yet."""
    sums: bool = False
    """For an open factor: whether its entries are weighted sums, or a choice, of places, as inside a token mixer."""


class Part(NamedTuple):
    """A factor, or a part of it that a view splits off: entry `i` of the part is entry `i * stride` of the factor, and the
    parts of smaller stride count the entries between."""

    factor: Factor
    stride: int
    size: int

    @property
    def complete(self) -> bool:
        """Whether the part covers the whole factor, perhaps in steps."""
        return self.stride * self.size == self.factor.size


Label = tuple[Part, ...]
"""The label of one axis: parts from the outermost to the innermost, none for an axis of length 1."""

Labels = tuple[Label, ...]
"""The labels of a tensor's axes."""


def label_of(factor: Factor) -> Label:
    """The label of an axis that counts this factor only."""
    return (Part(factor, 1, factor.size),) if factor.size != 1 else ()


def open_label(size: int, learnt: bool = False) -> Label:
    """The label of an axis that is not known, or with `learnt`, of an axis of weights."""
    return label_of(Factor(OPEN, size, learnt=learnt))


def channel_label(size: int) -> Label:
    """The label of an axis of channels."""
    return label_of(Factor(CHANNEL, size))


def _split(part: Part, outer: int) -> tuple[Part, Part]:
    """The part as an outer part of size `outer` and an inner part."""
    inner = part.size // outer
    return Part(part.factor, part.stride * inner, outer), Part(part.factor, part.stride, inner)


def join(parts: Sequence[Part]) -> Label:
    """The label of these parts; neighbours that a view had split are one part again."""
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


def regroup(parts: Sequence[Part], sizes: Sequence[int]) -> list[Label] | None:
    """The labels of axes of these sizes, to which the parts are given in order; None if the parts do not divide so."""
    queue, labels = list(reversed(parts)), []
    for size in sizes:
        axis_parts: list[Part] = []
        missing = size
        while missing > 1:
            if not queue:
                return None
            part = queue.pop()
            if missing % part.size == 0:
                axis_parts.append(part)
                missing //= part.size
            elif part.size % missing == 0:
                outer, inner = _split(part, missing)
                axis_parts.append(outer)
                queue.append(inner)
                missing = 1
            else:
                return None
        labels.append(join(axis_parts))
    return None if queue else labels


def resolve(label: Label) -> Label:
    """The label with open factors replaced by what became known of them later."""
    parts: list[Part] = []
    for part in label:
        same = part.factor.same
        if same is None:
            parts.append(part)
            continue
        outer = part.factor.size // (part.stride * part.size)
        shares = regroup(resolve(same), (outer, part.size, part.stride))
        parts.extend([part] if shares is None else shares[1])
    return join(parts)


def kinds_of(label: Label) -> set[str]:
    """The kinds of a label's factors; for a joined factor, the kinds of its pieces."""
    kinds: set[str] = set()
    for part in resolve(label):
        if part.factor.kind == JOINED:
            kinds |= set().union(*(kinds_of(piece) for _, piece in part.factor.pieces))
        else:
            kinds.add(part.factor.kind)
    return kinds


def _has_whole_factors(label: Label) -> bool:
    """Whether a label has only whole factors, none that a view has split."""
    return all(part.size == part.factor.size and part.factor.kind not in (OPEN, MIXED) for part in label)


def is_fine(part: Part) -> bool:
    """Whether a part counts the places within each patch or window, and not the patches."""
    return part.factor.kind == PLACE and not part.complete


def _same_places(a: Factor, b: Factor) -> bool:
    """Whether two factors are the same places: of one axis, equal in number and roll, over nearly the same range."""
    margin = max(2 * (a.end - a.begin) / a.size, (a.end - a.begin) / 4)
    return (
        (a.axis, a.size, a.shift) == (b.axis, b.size, b.shift)
        and abs(a.begin - b.begin) <= margin
        and abs(a.end - b.end) <= margin
    )


def merge(a: Label, b: Label, size: int) -> Label:
    """The label of an axis of length `size` whose values, labelled `a` and `b`, are added or multiplied."""
    a, b = resolve(a), resolve(b)
    if a == b:
        return a
    for first, second in ((a, b), (b, a)):  # weights stay open, as they may be combined with other labels later
        if all(part.factor.kind == OPEN and part.factor.learnt for part in first):
            return second
    # Of two open labels, the one without sums becomes known as the other.
    b_first = any(part.factor.sums for part in a) and not any(part.factor.sums for part in b)
    for first, second in ((b, a), (a, b)) if b_first else ((a, b), (b, a)):
        if len(first) == 1 and first[0].factor.kind == OPEN and first[0].size == first[0].factor.size:
            if all(part.factor is not first[0].factor for part in second):
                first[0].factor.same = second
            return second
    kinds = kinds_of(a) | kinds_of(b)
    if kinds == {CHANNEL}:
        return a
    if (
        _has_whole_factors(a) != _has_whole_factors(b) and OPEN not in kinds
    ):  # values added to ordered places are at these
        return a if _has_whole_factors(a) else b
    if len(a) == len(b) == 1:
        return _merge_parts(a[0], b[0])
    for first, second in ((a, b), (b, a)):
        shares = regroup(second, [part.size for part in first]) if len(first) > 1 else None
        if shares is not None:
            merged = [merge((part,), share, part.size) for part, share in zip(first, shares, strict=True)]
            return join([part for label in merged for part in label])
    return open_label(size) if OPEN in kinds else label_of(Factor(MIXED, size))


def _merge_parts(a: Part, b: Part) -> Label:
    """The merged label of two parts of which neither is a whole open factor."""
    kinds = {a.factor.kind, b.factor.kind}
    if OPEN in kinds:
        return (b if a.factor.kind == OPEN else a,)
    if kinds == {PLACE} and a[1:] == b[1:] and _same_places(a.factor, b.factor):
        return (a,)
    if kinds == {JOINED} and [size for size, _ in a.factor.pieces] == [size for size, _ in b.factor.pieces]:
        pairs = zip(a.factor.pieces, b.factor.pieces, strict=True)
        pieces = tuple((size, merge(first, second, size)) for (size, first), (_, second) in pairs)
        return label_of(Factor(JOINED, a.size, pieces=pieces))
    return label_of(Factor(MIXED, a.size))


def length_of(label: Label) -> int:
    """The length of the axis."""
    return math.prod(part.size for part in label)


def resize(label: Label, before: int, after: int, begin: float = 0.0, end: float | None = None) -> Label:
    """The label of an axis that is resized from `before` to `after` entries, which divide the range from `begin` to `end` of
    its former entries; by default all of them."""
    end = before if end is None else end
    label = resolve(label)
    place = len(label) == 1 and label[0].factor.kind == PLACE and label[0].complete
    if after == before and (not place or (begin, end) == (0, before)):
        return label
    kinds = kinds_of(label)
    if len(label) == 1:
        (part,) = label
        factor = part.factor
        if factor.kind == PLACE and part.complete and (not factor.shift or after == before):
            step = (factor.end - factor.begin) / before
            return label_of(
                Factor(PLACE, after, factor.axis, factor.begin + begin * step, factor.begin + end * step, factor.shift)
            )
    return channel_label(after) if kinds == {CHANNEL} else label_of(Factor(OPEN, after, sums=bool(kinds - {OPEN})))
