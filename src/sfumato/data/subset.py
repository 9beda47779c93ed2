"""A part of a data set: fewer pictures, fewer classes, or only difficult or small cases."""

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
from sfumato.settings import check_flag, check_number, check_seed, check_whole, is_whole, later

SIDEWAYS = range(5, 9)
"""EXIF orientations that exchange width and height."""


@dataclass(frozen=True)
class Subset(Listing):
    """The pictures of a data set with a class that meets the conditions; of these, all, the `first` ones or a `sample`.

    The conditions are `only`, `without`, `difficult` and `smaller`.

    Classes that are left out stay in the annotations of a picture (see `Example.asked`). A picture whose annotation or file
    cannot be read is included; the error comes when the picture is used. Without conditions, no annotation is read.
    """

    data: Data
    first: int | None = None
    """The number of pictures, from the start of the data set."""
    sample: int | None = None
    """The number of pictures, drawn at random, in the order of the data set. With the same seed, a larger sample contains a
    smaller one."""
    seed: int = 0
    only: tuple[str, ...] = ()
    """The classes to explain; empty for all."""
    without: tuple[str, ...] = ()
    """Classes not to explain."""
    difficult: bool = False
    """Only cases that are difficult (see `Truth.difficult`)."""
    smaller: float | None = None
    """Only classes that cover less than this fraction of the picture, in (0, 1]."""
    skip: int = later(0)
    """The number of pictures that are left out, for example those on which settings were chosen: the first ones of those that
    meet the conditions."""

    def __post_init__(self) -> None:
        set_names_(self, "only")
        set_names_(self, "without")
        check_seed(self.seed)
        for name in ("first", "sample"):
            count = getattr(self, name)
            if count is not None and not is_whole(count, 1):
                raise ValueError(f"{name} must be a number of pictures, from 1; got {count!r}")
        if self.first is not None and self.sample is not None:
            raise ValueError("first and sample are two ways to take fewer pictures; got both. Give one of them")
        check_whole("skip", self.skip, 0)
        check_flag("difficult", self.difficult)
        if self.smaller is not None:
            check_number("smaller", self.smaller, "a fraction of the picture", above=0)
            if self.smaller > 1:
                raise ValueError(f"smaller is a fraction of the picture, in (0, 1]; got {self.smaller}")

    @property
    def classes(self) -> Sequence[str]:
        return self.data.classes

    @property
    def sources(self) -> Sequence[Path] | None:
        """The files of the data set; `None` if sizes count, as these may come from the picture files."""
        return None if self.difficult or self.smaller is not None else getattr(self.data, "sources", None)

    @property
    def asked_classes(self) -> frozenset[int]:
        """The classes to explain in pictures that show them."""
        labels = getattr(self.data, "asked_classes", range(len(self.classes)))
        return frozenset(labels) - self._excluded

    def __len__(self) -> int:
        return len(self._selection)

    def example(self, index: int) -> Example:
        position, labels = self._selection[index]
        example = self.data[position]
        return example if labels is None else replace(example, asked=labels)

    @cached_property
    def _selection(self) -> list[tuple[int, tuple[int, ...] | None]]:
        """The index of each picture in the data set, and its classes to explain; `None` for all of its targets."""
        matches = ((index, labels) for index in range(len(self.data)) if (labels := self._labels(index)) != ())
        selection = list(islice(matches, self.skip, None if self.first is None else self.skip + self.first))
        if not selection:
            raise ValueError(
                "the subset is empty: no picture of the data set meets its conditions"
                + (f", after the first {self.skip}" if self.skip else "")
            )
        if self.sample is None:
            return selection
        generator = torch.Generator("cpu").manual_seed(self.seed)
        order = torch.randperm(len(selection), generator=generator, dtype=torch.long, device="cpu")
        return [selection[position] for position in order[: self.sample].sort().values.tolist()]

    def _labels(self, index: int) -> tuple[int, ...] | None:
        """The classes of a picture that meet the conditions; `None` for all targets, or if the picture cannot be read."""
        if not (self.only or self.without or self.difficult or self.smaller is not None):
            return None
        try:
            example = self.data[index]
        except ValueError:  # the annotation is damaged: the error comes when the example is used
            return None
        labels = [label for label in example.targets if label not in self._excluded]
        if labels and (self.difficult or self.smaller is not None):
            size = example.size or _size(example)
            if size is not None:
                labels = [label for label in labels if self._fits(example, label, size)]
        return None if labels and len(labels) == len(example.targets) else tuple(labels)

    @cached_property
    def _excluded(self) -> frozenset[int]:
        indices = {name: index for index, name in enumerate(self.classes)}
        without = {reading.index_of(name, indices) for name in self.without}
        only = {reading.index_of(name, indices) for name in self.only} or set(indices.values())
        return frozenset(without | (set(indices.values()) - only))

    def _fits(self, example: Example, label: int, size: tuple[int, int]) -> bool:
        try:
            case = truth(example, label, size)
        except ValueError:  # an invalid place, whose error comes when the example is used; or no place at all
            return any(
                thing.run or thing.mask or thing.polygons or thing.box
                for thing in example.things
                if thing.label == label
            )
        return (not self.difficult or case.difficult) and (self.smaller is None or case.share < self.smaller)


def _size(example: Example) -> tuple[int, int] | None:
    """The size of the upright picture, from the header of its file; `None` if that cannot be read."""
    try:
        with Image.open(example.path) as picture:
            width, height = picture.size
            return (height, width) if picture.getexif().get(0x0112) in SIDEWAYS else (width, height)
    except Exception:  # noqa: BLE001  # for damaged files, decoders raise errors of any type
        return None
