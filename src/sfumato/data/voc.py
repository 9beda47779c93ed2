"""PASCAL VOC (Everingham et al., IJCV 2010), and other data sets in the same format."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree as ET

from sfumato.data import labels, reading
from sfumato.data.example import Example, Thing
from sfumato.data.listing import Listing, check_part, set_names_, set_paths_


@dataclass(frozen=True)
class VOC(Listing):
    """The pictures of one list of VOC, with their boxes.

    The files count whole pixels from 1 and include the last row and column of a box. Here the top left corner of the picture is
    0, and the right and bottom edges are outside.
    """

    path: str
    """The folder that contains `VOC2007` (or another year), or `VOCdevkit`; or the folder of the year itself."""
    year: int = 2007
    split: str = "test"
    """A list in `ImageSets/Main`, or in another folder of `ImageSets` ("Segmentation/val"). A list of one class ("cat_val")
    gives the pictures that it does not mark with -1."""
    names: tuple[str, ...] = labels.VOC
    """The classes, for other data sets in this format."""

    def __post_init__(self) -> None:
        set_paths_(self, "path")
        set_names_(self, "names")
        check_part(self.year, self.split, "2007 or 2012", "a list such as 'test' or 'val'")

    @property
    def classes(self) -> tuple[str, ...]:
        return self.names

    @property
    def sources(self) -> list[Path]:
        annotations = self._folder / "Annotations"
        return [self._list, *(annotations / f"{name}.xml" for name in self._pictures)]

    def __len__(self) -> int:
        return len(self._pictures)

    def example(self, index: int) -> Example:
        name = self._pictures[index]
        path = self._folder / "Annotations" / f"{name}.xml"
        root = reading.xml(path)
        things = []
        for position, element in enumerate(root.iterfind("object"), 1):
            try:
                things.append(self._thing(element))
            except ValueError as error:
                raise ValueError(f"{str(path)!r}, object {position}: {error}") from None
        return Example(name, self._folder / "JPEGImages" / f"{name}.jpg", tuple(things), size_of(root))

    def _thing(self, element: ET.Element) -> Thing:
        label = reading.index_of((element.findtext("name") or "").strip(), self._indices)
        corners = element.find("bndbox")
        left, top, right, bottom = (reading.number(corners, edge) for edge in ("xmin", "ymin", "xmax", "ymax"))
        difficult = (element.findtext("difficult") or "0").strip() != "0"
        return Thing(label, reading.box(left - 1, top - 1, right, bottom), difficult=difficult)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    @cached_property
    def _folder(self) -> Path:
        year = f"VOC{self.year}"
        lists = reading.folder(
            self.path, [f"{root}/ImageSets" for root in (year, f"VOCdevkit/{year}", ".")], f"lists of {year}"
        )
        return lists.parent

    @property
    def _list(self) -> Path:
        candidates = [f"{self.split}.txt"] if "/" in self.split else [f"Main/{self.split}.txt"]
        return reading.file(str(self._folder / "ImageSets"), candidates, f"list {self.split!r}")

    @cached_property
    def _pictures(self) -> list[str]:
        """The names of the pictures, in the order of the list."""
        rows = [line.split() for line in reading.lines(self._list)]
        return list(dict.fromkeys(row[0] for row in rows if row and row[1:2] != ["-1"]))


def size_of(root: ET.Element) -> tuple[int, int] | None:
    """The width and height of an annotation; `None` if it has no valid ones."""
    try:
        return reading.size(reading.number(root.find("size"), "width"), reading.number(root.find("size"), "height"))
    except ValueError:
        return None
