"""What one axis of a tensor counts, as a label, and how labels are split, joined, merged and resized.

An axis of 14 × 14 tokens counts two factors, 14 rows and 14 columns; a view that splits it gives each a label of its own.
Nothing here knows of operations or tensors. Labels do not change, except that an open factor can learn later what it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


def label_of(factor: Factor) -> Label:
    """The label of an axis that counts the factor, and nothing else."""
    return (Part(factor, 1, factor.size),) if factor.size != 1 else ()


def open_label(size: int, learnt: bool = False) -> Label:
    """The label of an axis of which nothing is known, or with `learnt`, of one of weights."""
    return label_of(Factor(OPEN, size, learnt=learnt))


def channel_label(size: int) -> Label:
    """The label of an axis of channels."""
    return label_of(Factor(CHANNEL, size))


def _split(part: Part, outer: int) -> tuple[Part, Part]:
    """The part as `outer` times the rest."""
    inner = part.size // outer
    return Part(part.factor, part.stride * inner, outer), Part(part.factor, part.stride, inner)


def join(parts: Sequence[Part]) -> Label:
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


def regroup(parts: Sequence[Part], sizes: Sequence[int]) -> list[Label] | None:
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
        labels.append(join(taken))
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
        shares = regroup(resolved(same), (outer, part.size, part.stride))
        parts.extend([part] if shares is None else shares[1])
    return join(parts)


def kinds_of(label: Label) -> set[str]:
    """The kinds of its factors, and of what is joined in them."""
    kinds: set[str] = set()
    for part in resolved(label):
        if part.factor.kind == JOINED:
            kinds |= set().union(*(kinds_of(piece) for _, piece in part.factor.pieces))
        else:
            kinds.add(part.factor.kind)
    return kinds


def _tidy(label: Label) -> bool:
    """Whether it has whole factors alone, none that a view took to pieces."""
    return all(part.size == part.factor.size and part.factor.kind not in (OPEN, MIXED) for part in label)


def is_fine(part: Part) -> bool:
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


def merge(one: Label, two: Label, size: int) -> Label:
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
    kinds = kinds_of(one) | kinds_of(two)
    if kinds == {CHANNEL}:
        return one
    if _tidy(one) != _tidy(two) and OPEN not in kinds:  # what is added to places in their order is at these places
        return one if _tidy(one) else two
    if len(one) == len(two) == 1:
        return _merged_parts(one[0], two[0])
    for first, second in ((one, two), (two, one)):
        shares = regroup(second, [part.size for part in first]) if len(first) > 1 else None
        if shares is not None:
            merged = [merge((part,), share, part.size) for part, share in zip(first, shares, strict=True)]
            return join([part for label in merged for part in label])
    return open_label(size) if OPEN in kinds else label_of(Factor(MIXED, size))


def _merged_parts(one: Part, two: Part) -> Label:
    """What they count together, where neither is a whole open factor."""
    kinds = {one.factor.kind, two.factor.kind}
    if OPEN in kinds:
        return (two if one.factor.kind == OPEN else one,)
    if kinds == {PLACE} and one[1:] == two[1:] and _near(one.factor, two.factor):
        return (one,)
    if kinds == {JOINED} and [size for size, _ in one.factor.pieces] == [size for size, _ in two.factor.pieces]:
        pairs = zip(one.factor.pieces, two.factor.pieces, strict=True)
        pieces = tuple((size, merge(first, second, size)) for (size, first), (_, second) in pairs)
        return label_of(Factor(JOINED, one.size, pieces=pieces))
    return label_of(Factor(MIXED, one.size))


def length_of(label: Label) -> int:
    """The length of the axis."""
    return math.prod(part.size for part in label)


def resized(label: Label, before: int, after: int, begin: float = 0.0, end: float | None = None) -> Label:
    """An axis of another length: shares of the stretch between `begin` and `end` of its former entries; all by default."""
    end = before if end is None else end
    label = resolved(label)
    place = len(label) == 1 and label[0].factor.kind == PLACE and label[0].complete
    if after == before and (not place or (begin, end) == (0, before)):
        return label
    kinds = kinds_of(label)
    if len(label) == 1:
        (part,) = label
        factor = part.factor
        if factor.kind == PLACE and part.complete and (not factor.turned or after == before):
            step = (factor.end - factor.begin) / before
            return label_of(
                Factor(PLACE, after, factor.axis, factor.begin + begin * step, factor.begin + end * step, factor.turned)
            )
    return channel_label(after) if kinds == {CHANNEL} else label_of(Factor(OPEN, after, sums=bool(kinds - {OPEN})))
