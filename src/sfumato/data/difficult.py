"""Published lists of difficult cases (Zhang et al., ECCV 2016), in the format of TorchRay's files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from sfumato.data import reading
from sfumato.data.example import Data, Example
from sfumato.data.listing import Listing, set_paths_
from sfumato.data.pictures import EXTENSIONS


@dataclass(frozen=True)
class Listed(Listing):
    """A data set with a file that says which cases are difficult. Without the file, a rule decides (see `Truth.difficult`).

    The file has one of two formats:

    - One line for each picture: its name without the suffix, then, for each class of the data set in order, a tab and 1 for a
      difficult case or 0. The rule decides for pictures that are not in the file.
    - A table with the header `picture,class` and one line for each difficult case, with the name of the class. All other cases
      are not difficult.
    """

    data: Data
    path: str

    def __post_init__(self) -> None:
        set_paths_(self, "path")

    @property
    def classes(self) -> Sequence[str]:
        return self.data.classes

    @property
    def sources(self) -> list[Path] | None:
        sources = getattr(self.data, "sources", None)
        return None if sources is None else [*sources, Path(self.path)]

    @property
    def asked_classes(self) -> frozenset[int]:
        """The classes to explain in pictures that show them."""
        return frozenset(getattr(self.data, "asked_classes", range(len(self.classes))))

    def __len__(self) -> int:
        return len(self.data)

    def example(self, index: int) -> Example:
        example = self.data[index]
        default = None if self._by_picture else ()
        return replace(example, listed=self._difficult_classes.get(_key(example.name), default))

    @cached_property
    def _lines(self) -> list[str]:
        return reading.lines(reading.existing_file(self.path, "list of difficult cases"))

    @property
    def _by_picture(self) -> bool:
        """Whether the file has one line for each picture, and not one for each case."""
        return any("\t" in line for line in self._lines[:1])

    @cached_property
    def _difficult_classes(self) -> dict[str, tuple[int, ...]]:
        """The difficult classes of each picture."""
        return self._from_flags() if self._by_picture else self._from_names()

    def _from_flags(self) -> dict[str, tuple[int, ...]]:
        count = len(self.classes)
        classes_of = {}
        for number, line in enumerate(self._lines, 1):
            if not line.strip():
                continue
            name, *flags = line.split("\t")
            if len(flags) != count or not {*flags} <= {"0", "1"}:
                raise ValueError(
                    f"{self.path!r}, line {number}: expected a name and 0 or 1 for each of {count} classes; got {line!r:.80}"
                )
            classes_of[_key(name)] = tuple(label for label, flag in enumerate(flags) if flag == "1")
        return classes_of

    def _from_names(self) -> dict[str, tuple[int, ...]]:
        header, *rows = self._lines or [""]
        if header.replace(" ", "") != "picture,class":
            raise ValueError(
                f"{self.path!r}, line 1: expected names and tabs, or the header 'picture,class'; got {header!r:.80}"
            )
        indices = {name: index for index, name in enumerate(self.classes)}
        classes_of: dict[str, tuple[int, ...]] = {}
        for number, line in enumerate(rows, 2):
            name, comma, label = line.partition(",")
            if not line.strip():
                continue
            try:
                index = reading.index_of(label.strip().strip('"') if comma else None, indices)
            except ValueError as error:
                raise ValueError(f"{self.path!r}, line {number}: {error}") from None
            key = _key(name.strip().strip('"'))
            classes_of[key] = (*classes_of.get(key, ()), index)
        return classes_of


def _key(name: str) -> str:
    """A picture's name without its suffix. COCO's pictures of 2014 lose a prefix: their numbers are those of 2017.

    >>> _key("COCO_val2014_000000262148.jpg"), _key("000000262148.jpg"), _key("000001")
    ('000000262148', '000000262148', '000001')
    """
    path = PurePosixPath(name)
    stem = path.stem if path.suffix.lower() in EXTENSIONS else path.name
    return stem.rpartition("_")[2] if stem.startswith("COCO_") else stem
