"""A part of a data set: fewer pictures, fewer classes, or only the small things."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from sfumato.data import reading
from sfumato.data.example import Data, Example
from sfumato.data.listing import Listing, set_names_
from sfumato.data.truth import truth
from sfumato.settings import check_number, check_seed, is_whole

SIDEWAYS = range(5, 9)
"""EXIF's orientations with width and height exchanged."""


@dataclass(frozen=True)
class Subset(Listing):
    """Of a data set, the pictures with a class to explain that `only`, `without`, `difficult` and `smaller` leave; of these,
    the `first` so many, or a `sample`.

    What is left out stays in the pictures, as other classes (`Example.asked`). A picture whose annotation or file cannot be
    read is kept, to fail where it is used. With none of the four conditions, no annotation is looked at.
    """

    data: Data
    first: int | None = None
    sample: int | None = None
    """So many, drawn at random, in the data set's order. A smaller sample of the same seed is within a larger one."""
    seed: int = 0
    only: tuple[str, ...] = ()
    """The classes to be explained; empty for all."""
    without: tuple[str, ...] = ()
    """Classes not to be explained."""
    difficult: bool = False
    """Only cases that are difficult (see `Truth.difficult`)."""
    smaller: float | None = None
    """Only classes that cover less than this part of the picture, in (0, 1]."""

    def __post_init__(self) -> None:
        set_names_(self, "only")
        set_names_(self, "without")
        check_seed(self.seed)
        for name in ("first", "sample"):
            count = getattr(self, name)
            if count is not None and not is_whole(count, 1):
                raise ValueError(f"{name} is how many pictures, from 1 up; got {count!r}")
        if self.first is not None and self.sample is not None:
            raise ValueError("first and sample are two ways to take fewer pictures; give one of them")
        if not isinstance(self.difficult, bool):
            raise ValueError(f"difficult is true or false; got {self.difficult!r}")
        if self.smaller is not None:
            check_number("smaller", self.smaller, "a part of the picture", above=0)
            if self.smaller > 1:
                raise ValueError(f"smaller is a part of the picture, in (0, 1]; got {self.smaller}")

    @property
    def classes(self) -> Sequence[str]:
        return self.data.classes

    @property
    def sources(self) -> Sequence[Path] | None:
        """Not where sizes count, which may be those of the pictures' files."""
        return None if self.difficult or self.smaller is not None else getattr(self.data, "sources", None)

    @property
    def asked_classes(self) -> frozenset[int]:
        """The classes that are explained where they are present."""
        within = getattr(self.data, "asked_classes", range(len(self.classes)))
        return frozenset(within) - self._left_out

    def __len__(self) -> int:
        return len(self._kept)

    def example(self, index: int) -> Example:
        position, asked = self._kept[index]
        found = self.data[position]
        return found if asked is None else replace(found, asked=asked)

    @cached_property
    def _kept(self) -> list[tuple[int, tuple[int, ...] | None]]:
        """Where the pictures are in the data set, and which classes are asked of each, if not those which it has."""
        holding = ((index, asked) for index in range(len(self.data)) if (asked := self._asked(index)) != ())
        kept = list(islice(holding, self.first))
        if not kept:
            raise ValueError("the subset is empty: no picture of the data set meets its conditions")
        if self.sample is None:
            return kept
        generator = torch.Generator("cpu").manual_seed(self.seed)
        drawn = (
            torch.randperm(len(kept), generator=generator, dtype=torch.long, device="cpu")[: self.sample].sort().values
        )
        return [kept[position] for position in drawn.tolist()]

    def _asked(self, index: int) -> tuple[int, ...] | None:
        """The classes that the conditions leave; `None` for all, or where the picture cannot be looked at."""
        if not (self.only or self.without or self.difficult or self.smaller is not None):
            return None
        try:
            example = self.data[index]
        except ValueError:  # the annotation is damaged: to be told when the example is asked for
            return None
        wanted = [label for label in example.targets if label not in self._left_out]
        if wanted and (self.difficult or self.smaller is not None):
            size = example.size or _size(example)
            if size is not None:
                wanted = [label for label in wanted if self._fits(example, label, size)]
        return None if wanted and len(wanted) == len(example.targets) else tuple(wanted)

    @cached_property
    def _left_out(self) -> frozenset[int]:
        indices = {name: index for index, name in enumerate(self.classes)}
        without = {reading.index_of(name, indices) for name in self.without}
        only = {reading.index_of(name, indices) for name in self.only} or set(indices.values())
        return frozenset(without | (set(indices.values()) - only))

    def _fits(self, example: Example, label: int, size: tuple[int, int]) -> bool:
        try:
            where = truth(example, label, size)
        except ValueError:  # a place that cannot be, to be told when it is used; or no place at all
            return any(
                thing.run or thing.mask or thing.polygons or thing.box
                for thing in example.things
                if thing.label == label
            )
        return (not self.difficult or where.difficult) and (self.smaller is None or where.share < self.smaller)


def _size(example: Example) -> tuple[int, int] | None:
    """The upright picture's size, from the head of its file; `None` where that cannot be read."""
    try:
        with Image.open(example.path) as picture:
            width, height = picture.size
            return (height, width) if picture.getexif().get(0x0112) in SIDEWAYS else (width, height)
    except Exception:  # noqa: BLE001  # on a damaged file, a decoder raises whatever it trips over
        return None
