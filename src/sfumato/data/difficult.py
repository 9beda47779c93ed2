"""Published lists of difficult cases: those of excitation backprop (Zhang et al., ECCV 2016), as TorchRay's files have them."""

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
    """A data set whose cases are difficult where a file says so, instead of by the rule (see `Truth.difficult`).

    The file has a line for each picture: its name, without the suffix, and for each class of the data set, in order, a tab
    and 1 where the case is difficult, else 0; for pictures that it does not name the rule holds. Or it is a table
    `picture,class` with that header and a line, with the class's name, for each case that is difficult; no other is.
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
        beneath = getattr(self.data, "sources", None)
        return None if beneath is None else [*beneath, Path(self.path)]

    @property
    def asked_classes(self) -> frozenset[int]:
        """The classes that are explained where they are present."""
        return frozenset(getattr(self.data, "asked_classes", range(len(self.classes))))

    def __len__(self) -> int:
        return len(self.data)

    def example(self, index: int) -> Example:
        found = self.data[index]
        absent = None if self._by_picture else ()
        return replace(found, listed=self._listed.get(_key(found.name), absent))

    @cached_property
    def _lines(self) -> list[str]:
        return reading.lines(reading.given(self.path, "list of difficult cases"))

    @property
    def _by_picture(self) -> bool:
        """Whether the file has a line for each picture, not for each case."""
        return any("\t" in line for line in self._lines[:1])

    @cached_property
    def _listed(self) -> dict[str, tuple[int, ...]]:
        return self._flagged() if self._by_picture else self._named()

    def _flagged(self) -> dict[str, tuple[int, ...]]:
        count = len(self.classes)
        found = {}
        for number, line in enumerate(self._lines, 1):
            if not line.strip():
                continue
            name, *flags = line.split("\t")
            if len(flags) != count or not {*flags} <= {"0", "1"}:
                raise ValueError(
                    f"{self.path!r}, line {number}: expected a name and 0 or 1 for each of {count} classes; got {line!r:.80}"
                )
            found[_key(name)] = tuple(label for label, flag in enumerate(flags) if flag == "1")
        return found

    def _named(self) -> dict[str, tuple[int, ...]]:
        header, *rows = self._lines or [""]
        if header.replace(" ", "") != "picture,class":
            raise ValueError(
                f"{self.path!r}, line 1: expected names and tabs, or the header 'picture,class'; got {header!r:.80}"
            )
        indices = {name: index for index, name in enumerate(self.classes)}
        found: dict[str, tuple[int, ...]] = {}
        for number, line in enumerate(rows, 2):
            name, comma, label = line.partition(",")
            if not line.strip():
                continue
            try:
                index = reading.index_of(label.strip().strip('"') if comma else None, indices)
            except ValueError as error:
                raise ValueError(f"{self.path!r}, line {number}: {error}") from None
            key = _key(name.strip().strip('"'))
            found[key] = (*found.get(key, ()), index)
        return found


def _key(name: str) -> str:
    """A picture's name without suffix; COCO's pictures of 2014 are numbered as those of 2017 are, behind a prefix.

    >>> _key("COCO_val2014_000000262148.jpg"), _key("000000262148.jpg"), _key("000001")
    ('000000262148', '000000262148', '000001')
    """
    path = PurePosixPath(name)
    stem = path.stem if path.suffix.lower() in EXTENSIONS else path.name
    return stem.rpartition("_")[2] if stem.startswith("COCO_") else stem
