"""A folder of pictures, or of folders of pictures of a class each."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sfumato.data import pictures, reading
from sfumato.data.example import Example, Thing
from sfumato.data.listing import Listing, set_paths_


@dataclass(frozen=True)
class Folder(Listing):
    """Pictures by their files. Where the folder itself has none, its subfolders are the classes, by name, with all pictures
    within (as torchvision's ImageFolder); nothing says where things are. Hidden files and folders are passed over.
    """

    path: str

    def __post_init__(self) -> None:
        set_paths_(self, "path")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The subfolders' names, sorted, even of those without pictures; empty for a folder of pictures."""
        return () if self._at_the_top else tuple(path.name for path in self._entries if path.is_dir())

    @property
    def sources(self) -> list[Path]:
        return reading.tree(reading.folder(self.path, ["."], "pictures"))

    def __len__(self) -> int:
        return len(self._listed)

    def example(self, index: int) -> Example:
        path, label = self._listed[index]
        name = path.relative_to(self.path).as_posix()
        return Example(name, path, () if label is None else (Thing(label),))

    @cached_property
    def _entries(self) -> list[Path]:
        root = reading.folder(self.path, ["."], "pictures")
        return [path for path in reading.inside(root) if not path.name.startswith(".")]

    @cached_property
    def _at_the_top(self) -> list[Path]:
        return [path for path in self._entries if path.suffix.lower() in pictures.EXTENSIONS and path.is_file()]

    @cached_property
    def _listed(self) -> list[tuple[Path, int | None]]:
        if self._at_the_top:
            return [(path, None) for path in self._at_the_top]
        found: list[tuple[Path, int | None]] = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted(Path(self.path, name).rglob("*"))
            if path.suffix.lower() in pictures.EXTENSIONS and path.is_file()
            if not any(part.startswith(".") for part in path.relative_to(self.path).parts)
        ]
        if not found:
            raise ValueError(
                f"folder {self.path!r} holds no pictures; expected some in it, or in a folder for each class"
            )
        return found
