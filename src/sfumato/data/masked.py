"""Pictures with a mask each, in folders by class: the layout of FSS-1000's excerpt among the project's shared data."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sfumato.data import reading
from sfumato.data.example import Example, Thing
from sfumato.data.folder import Folder
from sfumato.data.listing import Listing, set_paths_


@dataclass(frozen=True)
class Masked(Listing):
    """`images/CLASS/NAME.jpg` with `masks/CLASS/NAME.png`, which is not black where the thing is.

    A picture without a mask has its class and no place.
    """

    path: str

    def __post_init__(self) -> None:
        set_paths_(self, "path")

    @property
    def classes(self) -> tuple[str, ...]:
        """The folders' names, sorted."""
        return self._pictures.classes

    @property
    def sources(self) -> list[Path]:
        return [*self._pictures.sources, *reading.tree(self._masks)]

    def __len__(self) -> int:
        return len(self._pictures)

    def example(self, index: int) -> Example:
        plain = self._pictures.example(index)
        mask = (self._masks / plain.name).with_suffix(".png")
        place = mask if mask.is_file() else None
        return Example(plain.name, plain.path, tuple(Thing(thing.label, mask=place) for thing in plain.things))

    @cached_property
    def _pictures(self) -> Folder:
        return Folder(str(reading.folder(self.path, ["images"], "pictures")))

    @cached_property
    def _masks(self) -> Path:
        return reading.folder(self.path, ["masks"], "masks")
