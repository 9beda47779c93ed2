"""Pictures with one mask each, in one folder for each class, such as FSS-1000."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sfumato.data import reading
from sfumato.data.example import Example, Thing
from sfumato.data.folder import Folder
from sfumato.data.listing import Listing, set_paths_


@dataclass(frozen=True)
class Masked(Listing):
    """`images/CLASS/NAME.jpg` with `masks/CLASS/NAME.png`. The pixels of the instance are not black in the mask.

    A picture without a mask has only a class.
    """

    path: str

    def __post_init__(self) -> None:
        set_paths_(self, "path")

    @property
    def classes(self) -> tuple[str, ...]:
        """The sorted names of the folders."""
        return self._pictures.classes

    @property
    def sources(self) -> list[Path]:
        return [*self._pictures.sources, *reading.tree(self._masks)]

    def __len__(self) -> int:
        return len(self._pictures)

    def example(self, index: int) -> Example:
        example = self._pictures.example(index)
        path = (self._masks / example.name).with_suffix(".png")
        mask = path if path.is_file() else None
        return Example(example.name, example.path, tuple(Thing(thing.label, mask=mask) for thing in example.things))

    @cached_property
    def _pictures(self) -> Folder:
        return Folder(str(reading.folder(self.path, ["images"], "pictures")))

    @cached_property
    def _masks(self) -> Path:
        return reading.folder(self.path, ["masks"], "masks")
