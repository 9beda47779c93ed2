"""COCO's instances (Lin et al., ECCV 2014), of 2014 and 2017, and other sets annotated in the same form."""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data import reading
from sfumato.data.example import Box, Example, Run, Thing
from sfumato.data.json_elements import element, elements
from sfumato.data.listing import Listing, check_part, set_paths_

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class COCO(Listing):
    """The pictures of an instances file, with boxes, polygons and masks.

    Of the file only is kept where each picture's entries lie: some 30 bytes an instance. An entry of a picture that is not in
    the file is passed over.
    """

    path: str
    """The folder of `annotations` and of the pictures' folders."""
    year: int = 2017
    split: str = "val"
    annotations: str = ""
    """The file, where it is not `annotations/instances_SPLITYEAR.json`; seen from `path`."""
    pictures: str = ""
    """The folder, where it is neither `SPLITYEAR` nor `images/SPLITYEAR`; seen from `path`."""
    crowds: bool = True
    """Whether groups that were not taken apart (`iscrowd`) count as things."""

    def __post_init__(self) -> None:
        set_paths_(self, "path", "annotations", "pictures")
        check_part(self.year, self.split, "2014 or 2017", "a part such as 'train' or 'val'")

    @property
    def classes(self) -> tuple[str, ...]:
        """The categories' names, by ascending id."""
        return self._index.names

    @property
    def sources(self) -> list[Path]:
        return [self._file]

    def __len__(self) -> int:
        return len(self._index.pictures)

    def example(self, index: int) -> Example:
        spans = self._index
        with self._file.open("rb") as source:
            try:
                picture = element(source, *spans.pictures[index].tolist())
                entries = [element(source, *span) for span in spans.entries_of(index).tolist()]
            except ValueError:
                raise ValueError(f"{str(self._file)!r} has changed since it was listed; start again") from None
        try:
            name = picture["file_name"]
            path = self._folder / name
        except (KeyError, TypeError):
            raise ValueError(
                f"{str(self._file)!r}: picture {index} of the list has no file_name: {picture!r:.80}"
            ) from None
        things = []
        for entry in entries:
            try:
                if self.crowds or not entry.get("iscrowd"):
                    things.append(_thing(entry, spans.labels))
            except ValueError as error:
                raise ValueError(f"{str(self._file)!r}, annotation {entry.get('id')} of {name!r}: {error}") from None
        return Example(name, path, tuple(things), reading.size(picture.get("width"), picture.get("height")))

    @property
    def _part(self) -> str:
        return f"{self.split}{self.year}"

    @cached_property
    def _file(self) -> Path:
        candidates = [self.annotations or f"annotations/instances_{self._part}.json"]
        return reading.file(self.path, candidates, "instances file")

    @cached_property
    def _folder(self) -> Path:
        candidates = [self.pictures] if self.pictures else [self._part, f"images/{self._part}"]
        return reading.folder(self.path, candidates, "pictures")

    @cached_property
    def _index(self) -> "_Index":
        return _indexed(self._file)


@dataclass(frozen=True, eq=False)
class _Index:
    """Where in the file things are; spans are `(n, 2)`: first byte and length."""

    names: tuple[str, ...]
    labels: dict[int, int]
    pictures: Array
    entries: Array
    """Ordered by picture."""
    first: Array
    """`(pictures + 1,)`: each picture's entries are `entries[first[i]:first[i + 1]]`."""

    def entries_of(self, index: int) -> Array:
        return self.entries[self.first[index] : self.first[index + 1]]


def _indexed(path: Path) -> _Index:
    categories: dict[int, str] = {}
    spans = {"images": array("q"), "annotations": array("q")}  # a tenth of lists of tuples
    ids = {"images": array("q"), "annotations": array("q")}
    for name, start, length, value in elements(path):
        if name == "categories":
            with path.open("rb") as source:
                categories |= _category(path, element(source, start, length))
        elif name in spans:
            key = value.get("id" if name == "images" else "image_id") if isinstance(value, dict) else None
            spans[name].extend((start, length))
            ids[name].append(key if isinstance(key, int) and 0 <= key < 1 << 63 else -1)
    if not categories or not spans["images"]:
        missing = "categories" if spans["images"] else "images"
        raise ValueError(f"{str(path)!r} has no {missing}; expected a file such as instances_val2017.json")
    rows = {key: row for row, key in enumerate(ids["images"]) if key >= 0}
    of = np.fromiter((rows.get(key, -1) for key in ids["annotations"]), dtype=np.int64)
    order = np.argsort(of, kind="stable")
    order = order[np.searchsorted(of[order], 0) :]
    return _Index(
        names=tuple(categories[key] for key in sorted(categories)),
        labels={key: label for label, key in enumerate(sorted(categories))},
        pictures=np.array(spans["images"]).reshape(-1, 2),
        entries=np.array(spans["annotations"]).reshape(-1, 2)[order],
        first=np.searchsorted(of[order], np.arange(len(ids["images"]) + 1)),
    )


def _category(path: Path, value: Any) -> dict[int, str]:
    try:
        return {int(value["id"]): str(value["name"])}
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{str(path)!r} has the category {value!r:.80}; expected an id and a name") from None


def _thing(entry: Mapping[str, Any], labels: Mapping[int, int]) -> Thing:
    category = entry.get("category_id")
    if not isinstance(category, int) or category not in labels:
        raise ValueError(f"there is no category {category!r}; expected one of the file's {len(labels)}")
    where = entry.get("segmentation")
    box = _box(entry["bbox"]) if entry.get("bbox") else None
    if isinstance(where, Mapping):
        return Thing(labels[category], box, run=_run(where))
    return Thing(labels[category], box, tuple(_polygon(each) for each in where or ()))


def _box(values: Any) -> Box:
    if not (isinstance(values, Sequence) and len(values) == 4):
        raise ValueError(f"bbox is left, top, width and height; got {values!r:.80}")
    try:
        left, top, width, height = values
        return reading.box(left, top, left + width, top + height)
    except TypeError:
        raise ValueError(f"bbox is four numbers; got {values!r:.80}") from None


def _polygon(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) < 6 or len(values) % 2:
        raise ValueError(f"a polygon is x, y of three points or more; got {values!r:.80}")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise ValueError(f"a polygon is made of numbers; got {values!r:.80}")
    return tuple(map(float, values))


def _run(where: Mapping[str, Any]) -> Run:
    """A mask of runs, which are whole numbers or, compressed, a text."""
    try:
        height, width = map(int, where["size"])
        counts = where["counts"]
        lengths = decompressed(counts) if isinstance(counts, str) else tuple(map(int, counts))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a mask has a size (height, width) and counts of pixels; got {where!r:.80}") from error
    if min(lengths, default=0) < 0 or sum(lengths) != width * height:
        raise ValueError(f"a mask's counts must add up to its {width} × {height} pixels; got {sum(lengths)}")
    return Run((width, height), lengths)


def decompressed(counts: str) -> tuple[int, ...]:
    r"""Runs from COCO's text: numbers in groups of five bits, the lowest first, a character each from "0" on.

    A sixth bit says that the number goes on; the highest bit of its last group is its sign. From the fourth on, a number is the
    difference from that before the last.

    >>> decompressed("52203")  # 5, 2, 2, 2 + 0, 2 + 3
    (5, 2, 2, 2, 5)
    """
    lengths: list[int] = []
    value = shift = 0
    for character in counts:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise ValueError(f"{character!r} is not a character of compressed counts")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the compressed counts end within a number")
    return tuple(lengths)
