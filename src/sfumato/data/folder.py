"""A folder of pictures, or a folder with one subfolder of pictures for each class."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sfumato.data import pictures, reading
from sfumato.data.example import Example, Thing
from sfumato.data.listing import Listing, set_paths_


@dataclass(frozen=True)
class Folder(Listing):
    """The pictures of a folder. If the folder itself has none, its subfolders are classes, as in torchvision's ImageFolder.

    A class has all pictures inside its subfolder, at any depth. There are no boxes or masks. Hidden files and folders are
    ignored.
    """

    path: str

    def __post_init__(self) -> None:
        set_paths_(self, "path")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The sorted names of the subfolders, also of those without pictures; empty for a folder of pictures."""
        return () if self._top_files else tuple(path.name for path in self._entries if path.is_dir())

    @property
    def sources(self) -> list[Path]:
        return reading.tree(reading.folder(self.path, ["."], "pictures"))

    def __len__(self) -> int:
        return len(self._files)

    def example(self, index: int) -> Example:
        path, label = self._files[index]
        name = path.relative_to(self.path).as_posix()
        return Example(name, path, () if label is None else (Thing(label),))

    @cached_property
    def _entries(self) -> list[Path]:
        root = reading.folder(self.path, ["."], "pictures")
        return [path for path in reading.entries(root) if not path.name.startswith(".")]

    @cached_property
    def _top_files(self) -> list[Path]:
        return [path for path in self._entries if path.suffix.lower() in pictures.EXTENSIONS and path.is_file()]

    @cached_property
    def _files(self) -> list[tuple[Path, int | None]]:
        if self._top_files:
            return [(path, None) for path in self._top_files]
        files: list[tuple[Path, int | None]] = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted(Path(self.path, name).rglob("*"))
            if path.suffix.lower() in pictures.EXTENSIONS and path.is_file()
            if not any(part.startswith(".") for part in path.relative_to(self.path).parts)
        ]
        if not files:
            raise ValueError(
                f"folder {self.path!r} holds no pictures; expected pictures in it, or in one subfolder for each class"
            )
        return files
