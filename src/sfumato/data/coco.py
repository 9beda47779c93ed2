"""COCO's instances (Lin et al., ECCV 2014) of 2014 and 2017, and other data sets in the same format."""

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

    The file may be large. So only the position of each entry in the file is stored, about 30 bytes for an instance. Annotations
    of pictures that are not in the file are ignored.
    """

    path: str
    """The folder that contains `annotations` and the folders of pictures."""
    year: int = 2017
    split: str = "val"
    annotations: str = ""
    """The instances file, relative to `path`; by default `annotations/instances_SPLITYEAR.json`."""
    pictures: str = ""
    """The folder of pictures, relative to `path`; by default `SPLITYEAR` or `images/SPLITYEAR`."""
    crowds: bool = True
    """Whether groups annotated as one instance (`iscrowd`) are included."""

    def __post_init__(self) -> None:
        set_paths_(self, "path", "annotations", "pictures")
        check_part(self.year, self.split, "2014 or 2017", "a part such as 'train' or 'val'")

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the categories, by ascending id."""
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
                raise ValueError(
                    f"{str(self._file)!r} has changed since it was listed; make the data set again"
                ) from None
        try:
            name = picture["file_name"]
            path = self._folder / name
        except (KeyError, TypeError):
            raise ValueError(f"{str(self._file)!r}: picture {index} has no file_name; got {picture!r:.80}") from None
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
        return _build_index(self._file)


@dataclass(frozen=True, eq=False)
class _Index:
    """The positions of entries in the file. Spans are `(n, 2)`: the first byte and the number of bytes."""

    names: tuple[str, ...]
    labels: dict[int, int]
    """The class index of each category id."""
    pictures: Array
    """The spans of pictures."""
    entries: Array
    """The spans of annotations, ordered by picture."""
    offsets: Array
    """`(pictures + 1,)`: the annotations of picture i are `entries[offsets[i]:offsets[i + 1]]`."""

    def entries_of(self, index: int) -> Array:
        return self.entries[self.offsets[index] : self.offsets[index + 1]]


def _build_index(path: Path) -> _Index:
    """Read the file once and store where its pictures and annotations are."""
    categories: dict[int, str] = {}
    spans = {"images": array("q"), "annotations": array("q")}  # a tenth of the memory of lists of tuples
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
    picture = np.fromiter((rows.get(key, -1) for key in ids["annotations"]), dtype=np.int64)
    order = np.argsort(picture, kind="stable")
    order = order[np.searchsorted(picture[order], 0) :]
    return _Index(
        names=tuple(categories[key] for key in sorted(categories)),
        labels={key: label for label, key in enumerate(sorted(categories))},
        pictures=np.array(spans["images"]).reshape(-1, 2),
        entries=np.array(spans["annotations"]).reshape(-1, 2)[order],
        offsets=np.searchsorted(picture[order], np.arange(len(ids["images"]) + 1)),
    )


def _category(path: Path, value: Any) -> dict[int, str]:
    try:
        return {int(value["id"]): str(value["name"])}
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{str(path)!r}: a category needs an id and a name; got {value!r:.80}") from None


def _thing(entry: Mapping[str, Any], labels: Mapping[int, int]) -> Thing:
    category = entry.get("category_id")
    if not isinstance(category, int) or category not in labels:
        raise ValueError(f"category_id must be one of the file's {len(labels)} categories; got {category!r}")
    segmentation = entry.get("segmentation")
    box = _box(entry["bbox"]) if entry.get("bbox") else None
    if isinstance(segmentation, Mapping):
        return Thing(labels[category], box, run=_run(segmentation))
    return Thing(labels[category], box, tuple(_polygon(polygon) for polygon in segmentation or ()))


def _box(values: Any) -> Box:
    if not (isinstance(values, Sequence) and len(values) == 4):
        raise ValueError(f"bbox must be left, top, width and height; got {values!r:.80}")
    try:
        left, top, width, height = values
        return reading.box(left, top, left + width, top + height)
    except TypeError:
        raise ValueError(f"bbox must be four numbers; got {values!r:.80}") from None


def _polygon(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) < 6 or len(values) % 2:
        raise ValueError(f"a polygon must be x, y of three or more points; got {values!r:.80}")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise ValueError(f"a polygon must hold finite numbers; got {values!r:.80}")
    return tuple(map(float, values))


def _run(mask: Mapping[str, Any]) -> Run:
    """A mask given as runs: whole numbers, or one text of compressed numbers."""
    try:
        height, width = map(int, mask["size"])
        counts = mask["counts"]
        lengths = decompress(counts) if isinstance(counts, str) else tuple(map(int, counts))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a mask needs a size (height, width) and counts of pixels; got {mask!r:.80}") from error
    if min(lengths, default=0) < 0 or sum(lengths) != width * height:
        raise ValueError(f"a mask's counts must add up to its {width} × {height} pixels; got {sum(lengths)}")
    return Run((width, height), lengths)


def decompress(counts: str) -> tuple[int, ...]:
    r"""The lengths of runs from COCO's compressed text.

    Each character, counted from "0", is a group of five bits of a number, the lowest group first. A sixth bit marks that
    another group follows. The highest bit of the last group is the sign. From the fourth number on, the text holds the
    difference from the number two before. Raises `ValueError` for other text.

    >>> decompress("52203")  # 5, 2, 2, 2 + 0, 2 + 3
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
        raise ValueError("the compressed counts end in the middle of a number")
    return tuple(lengths)
