"""A folder of pictures with one `annotations.json`: what the project's shared pictures of COCO and ImageNet have."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sfumato.data import reading
from sfumato.data.example import Example, Thing
from sfumato.data.listing import Listing, set_paths_
from sfumato.settings import is_whole

SIDE = 227
"""Pixels of a picture whose boxes are called `boxes_227`: these have been squashed to a square."""


@dataclass(frozen=True)
class Annotated(Listing):
    """`annotations.json` beside a folder `images`: {"classes": […], "images": […]}.

    A class is a name or {"names": …}. A picture has a `file` and either `boxes`, each of a `label` and `xyxy` (left, top,
    right, bottom in its pixels; with `width` and `height` of the picture), or one `label` for all of `boxes_227`, in pixels of
    a picture of 227 × 227. `person_polygons` are the outline of its only person; all else has boxes alone.
    """

    path: str

    def __post_init__(self) -> None:
        set_paths_(self, "path")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        names = [each.get("names") if isinstance(each, Mapping) else each for each in self._list("classes")]
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"{str(self._file)!r}: classes are names, or objects with names")
        return tuple(map(str, names))

    @property
    def sources(self) -> list[Path]:
        return [self._file]

    def __len__(self) -> int:
        return len(self._list("images"))

    def example(self, index: int) -> Example:
        entry = self._list("images")[index]
        try:
            if not isinstance(entry, Mapping) or not isinstance(entry.get("file"), str):
                raise ValueError(f"expected a file and its boxes; got {entry!r:.80}")
            squashed = "boxes_227" in entry
            size = (SIDE, SIDE) if squashed else reading.size(entry.get("width"), entry.get("height"))
            things = self._of_one_class(entry) if squashed else self._of_many(entry)
            return Example(entry["file"], Path(self.path, "images", entry["file"]), tuple(things), size)
        except (ValueError, TypeError, KeyError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{str(self._file)!r}, picture {index}: {reason}") from None

    def _of_one_class(self, entry: Mapping[str, Any]) -> list[Thing]:
        label = self._label(entry["label"])
        return [Thing(label, reading.box(*box)) for box in entry["boxes_227"]] or [Thing(label)]

    def _of_many(self, entry: Mapping[str, Any]) -> list[Thing]:
        outline = tuple(tuple(map(float, polygon)) for polygon in entry.get("person_polygons", ()))
        person = self.classes.index("person") if outline and "person" in self.classes else None
        return [
            Thing(label, reading.box(*box["xyxy"]), outline if label == person else ())
            for box in entry["boxes"]
            for label in [self._label(box["label"])]
        ]

    def _label(self, label: Any) -> int:
        if not (is_whole(label, 0) and label < len(self.classes)):
            raise ValueError(f"label {label!r} is no class; expected an index below {len(self.classes)}")
        return label

    @cached_property
    def _file(self) -> Path:
        return reading.file(self.path, ["annotations.json"], "annotations")

    @cached_property
    def _content(self) -> dict[str, Any]:
        return reading.object_of(self._file)

    def _list(self, name: str) -> list[Any]:
        found = self._content.get(name)
        if not isinstance(found, list):
            raise ValueError(f"{str(self._file)!r} has no list {name!r}; expected classes and images")
        return found
