"""A folder of pictures with one file `annotations.json`."""

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
"""Side length, in pixels, of pictures with `boxes_227`. These pictures were resized to a square."""


@dataclass(frozen=True)
class Annotated(Listing):
    """`annotations.json` next to a folder `images`. The file holds {"classes": […], "images": […]}.

    A class is a name or {"names": …}. A picture has a `file` and boxes in one of two forms:

    - `width`, `height` and `boxes`. A box has a `label` and `xyxy`: left, top, right, bottom in pixels.
    - one `label` and `boxes_227`, in pixels of a picture of 227 × 227.

    `person_polygons` is the outline of the picture's only person. Other instances have boxes only.
    """

    path: str

    def __post_init__(self) -> None:
        set_paths_(self, "path")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        names = [entry.get("names") if isinstance(entry, Mapping) else entry for entry in self._list("classes")]
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"{str(self._file)!r}: classes must be names, or objects with names")
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
            is_square = "boxes_227" in entry
            size = (SIDE, SIDE) if is_square else reading.size(entry.get("width"), entry.get("height"))
            things = self._of_one_class(entry) if is_square else self._of_many(entry)
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
            raise ValueError(f"label must be an index below {len(self.classes)}; got {label!r}")
        return label

    @cached_property
    def _file(self) -> Path:
        return reading.file(self.path, ["annotations.json"], "annotations")

    @cached_property
    def _content(self) -> dict[str, Any]:
        return reading.object_of(self._file)

    def _list(self, name: str) -> list[Any]:
        entries = self._content.get(name)
        if not isinstance(entries, list):
            raise ValueError(f"{str(self._file)!r} has no list {name!r}; expected classes and images")
        return entries
