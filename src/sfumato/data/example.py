"""A picture of a data set, and what is in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels: the pixel of column c covers [c, c + 1), so that `right - left` is the width."""


@dataclass(frozen=True)
class Run:
    """A binary mask as COCO writes it, of `size` (width, height): the lengths of runs of 0 and 1 by turns, down each column."""

    size: tuple[int, int]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Thing:
    """Something in a picture: an instance of a class, and where it is, in pixels of the whole picture.

    The finest that is known says where: `run`, else `polygons` (each x, y, x, y, …), else `mask` (a picture file of the same
    size, not 0 where the thing is), else `box`.
    """

    label: int
    """The class's index in the data set's `classes`."""
    box: Box | None = None
    polygons: tuple[tuple[float, ...], ...] = ()
    run: Run | None = None
    mask: Path | None = None
    difficult: bool = False
    """Marked so by the annotators of VOC: a class all of whose instances are is no target."""


@dataclass(frozen=True)
class Example:
    """A picture, by its file, with all that is annotated in it. The file may be missing or damaged: nobody looks at it here."""

    name: str
    """It has no other in its data set, and stays the same wherever the set lies."""
    path: Path
    things: tuple[Thing, ...] = ()
    size: tuple[int, int] | None = None
    """Width and height, where the annotation gives them; the file has the last word."""
    asked: tuple[int, ...] | None = None
    """The only classes to be explained, where a subset of the data set leaves others out; these are still in the picture."""
    listed: tuple[int, ...] | None = None
    """The classes that a published list calls difficult in this picture; `None` where none was read."""

    @property
    def targets(self) -> tuple[int, ...]:
        """The classes that are present and asked for, ascending, without those whose every instance is marked difficult."""
        present = {thing.label for thing in self.things if not thing.difficult}
        return tuple(sorted(present if self.asked is None else present & set(self.asked)))


class Data(Protocol):
    """A data set: a sequence of examples over named classes. One file a source; reading it decodes no picture.

    One that has `sources`, as `Listing` says them, is not read again by a run as long as these are what they were.
    """

    @property
    def classes(self) -> Sequence[str]:
        """The classes' names, by index; empty where nothing is known of the pictures."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...
