"""An example: a picture of a data set, with its annotations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels. The pixel of column c covers [c, c + 1), so `right - left` is the width."""


@dataclass(frozen=True)
class Run:
    """A binary mask of `size` (width, height) in COCO's form.

    `lengths` are the lengths of runs, of 0 and of 1 in turn, down each column.
    """

    size: tuple[int, int]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Thing:
    """An instance of a class in a picture, and where it is, in pixels of the whole picture.

    The first known of these says where: `run`, `polygons` (each x, y, x, y, …), `mask` (a picture file of the same size,
    in which the pixels of the instance are not 0), `box`.
    """

    label: int
    """The index of the class in the data set's `classes`."""
    box: Box | None = None
    polygons: tuple[tuple[float, ...], ...] = ()
    run: Run | None = None
    mask: Path | None = None
    difficult: bool = False
    """The mark of VOC's annotators. A class is no target if all its instances have this mark."""


@dataclass(frozen=True)
class Example:
    """A picture file and its annotations. Making an example does not read the file, which may be missing or damaged."""

    name: str
    """Unique in the data set, and independent of the folder that the data set is in."""
    path: Path
    things: tuple[Thing, ...] = ()
    size: tuple[int, int] | None = None
    """Width and height as annotated, if they are. The size of the picture file takes precedence."""
    asked: tuple[int, ...] | None = None
    """The classes to explain, if a subset leaves out others. The others are still in the picture. `None` for all classes."""
    listed: tuple[int, ...] | None = None
    """The classes that a published list marks as difficult in this picture; `None` without such a list."""

    @property
    def targets(self) -> tuple[int, ...]:
        """The classes to explain, ascending: those present, of `asked`, with an instance that is not marked difficult."""
        present = {thing.label for thing in self.things if not thing.difficult}
        return tuple(sorted(present if self.asked is None else present & set(self.asked)))


class Data(Protocol):
    """A data set: a sequence of examples with named classes. Reading an example decodes no picture.

    A data set may have `sources`, see `Listing`. A run then reads it again only if one of these files has changed.
    """

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes, by index; empty if the data set has no classes."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...
