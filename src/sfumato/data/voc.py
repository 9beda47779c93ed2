"""PASCAL VOC (Everingham et al., IJCV 2010): the development kit's layout, and sets annotated in its form."""

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

    A box in the files is of whole pixels, counted from 1, its last row and column inside; here the upper left corner of the
    picture is 0 and the last edge outside.
    """

    path: str
    """The folder of `VOC2007` and the like, of `VOCdevkit`, or that year's folder itself."""
    year: int = 2007
    split: str = "test"
    """A list in `ImageSets/Main`, or in another folder of `ImageSets` ("Segmentation/val"). Of the lists of one class
    ("cat_val") the pictures not marked -1 are taken."""
    names: tuple[str, ...] = labels.VOC
    """The classes, for other sets in this form."""

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
        return [self._list, *(annotations / f"{name}.xml" for name in self._listed)]

    def __len__(self) -> int:
        return len(self._listed)

    def example(self, index: int) -> Example:
        name = self._listed[index]
        path = self._folder / "Annotations" / f"{name}.xml"
        root = reading.xml(path)
        things = []
        for position, found in enumerate(root.iterfind("object"), 1):
            try:
                things.append(self._thing(found))
            except ValueError as error:
                raise ValueError(f"{str(path)!r}, object {position}: {error}") from None
        return Example(name, self._folder / "JPEGImages" / f"{name}.jpg", tuple(things), size_of(root))

    def _thing(self, found: ET.Element) -> Thing:
        label = reading.index_of((found.findtext("name") or "").strip(), self._indices)
        corners = found.find("bndbox")
        left, top, right, bottom = (reading.number(corners, edge) for edge in ("xmin", "ymin", "xmax", "ymax"))
        difficult = (found.findtext("difficult") or "0").strip() != "0"
        return Thing(label, reading.box(left - 1, top - 1, right, bottom), difficult=difficult)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    @cached_property
    def _folder(self) -> Path:
        year = f"VOC{self.year}"
        lists = reading.folder(
            self.path, [f"{each}/ImageSets" for each in (year, f"VOCdevkit/{year}", ".")], f"lists of {year}"
        )
        return lists.parent

    @property
    def _list(self) -> Path:
        candidates = [f"{self.split}.txt"] if "/" in self.split else [f"Main/{self.split}.txt"]
        return reading.file(str(self._folder / "ImageSets"), candidates, f"list {self.split!r}")

    @cached_property
    def _listed(self) -> list[str]:
        rows = [line.split() for line in reading.lines(self._list)]
        return list(dict.fromkeys(row[0] for row in rows if row and row[1:2] != ["-1"]))


def size_of(root: ET.Element) -> tuple[int, int] | None:
    """The width and height that an annotation gives."""
    try:
        return reading.size(reading.number(root.find("size"), "width"), reading.number(root.find("size"), "height"))
    except ValueError:
        return None
