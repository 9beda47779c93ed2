"""Annotation files, read with errors that name the file, the place and what was expected."""

import json
import math
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from sfumato.data.example import Box
from sfumato.settings import near

COMPARED = 1000
"""Names in a folder, at most, that a missing one is compared with."""


def folder(root: str, candidates: Sequence[str], what: str) -> Path:
    """The first of the folders that there is under `root`."""
    return _first(root, candidates, f"no folder of {what}", Path.is_dir)


def file(root: str, candidates: Sequence[str], what: str) -> Path:
    """The first of the files that there is under `root`."""
    return _first(root, candidates, f"no {what}", Path.is_file)


def given(path: str, what: str) -> Path:
    """The file that a person named outright."""
    if not Path(path).is_file():
        raise ValueError(f"there is no {what} {path!r}; expected the path of a file{near_path(Path(path))}")
    return Path(path)


def inside(path: Path) -> list[Path]:
    """What is in a folder, sorted."""
    try:
        return sorted(path.iterdir())
    except OSError as error:
        raise unreadable(path, error) from error


def tree(root: Path, suffix: str = "") -> list[Path]:
    """A folder, those within it at any depth, and with a `suffix` the files in them that end so; without what is hidden.

    A folder's times tell of files that are added, removed or renamed in it. No file is looked at: there may be millions.
    """
    try:
        with os.scandir(root) as scan:  # which says what is a folder without a look at each entry
            entries = sorted((entry.name, entry.is_dir()) for entry in scan if not entry.name.startswith("."))
    except OSError as error:
        raise unreadable(root, error) from error
    found = [root, *(root / name for name, is_folder in entries if not is_folder and _ends(name, suffix))]
    for entry in (name for name, is_folder in entries if is_folder):
        for folder, within, names in os.walk(root / entry):  # the folder of a class may be a link: this follows it
            within[:] = sorted(name for name in within if not name.startswith("."))
            found += [Path(folder), *(Path(folder, name) for name in sorted(names) if _ends(name, suffix))]
    return found


def _ends(name: str, suffix: str) -> bool:
    return bool(suffix) and name.lower().endswith(suffix)


def lines(path: Path) -> list[str]:
    """The lines of a text file."""
    return text(path).splitlines()


def text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text at byte {error.start}; expected a text file") from None
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> ValueError:
    return ValueError(f"cannot read {str(path)!r}: {error.strerror or error}; expected what you may read")


def object_of(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    try:
        content = json.loads(text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(path)!r}, line {error.lineno}: {error.msg}; expected JSON") from None
    except RecursionError:
        raise ValueError(f"{str(path)!r} is nested too deeply; expected JSON annotations") from None
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} holds a {type(content).__name__}; expected an object")
    return content


class _NoDoctype(ET.TreeBuilder):
    """Refuses document types before their entities are read: small ones can stand for gigabytes, or for other files."""

    def doctype(self, *_: object) -> None:
        raise ValueError("it declares a document type, which is refused; expected plain XML")


def xml(path: Path) -> ET.Element:
    """The root of an XML file without a document type."""
    try:
        return ET.fromstring(path.read_bytes(), ET.XMLParser(target=_NoDoctype()))  # noqa: S314  # see above
    except ET.ParseError as error:
        raise ValueError(f"{str(path)!r}, line {error.position[0]}: {error.msg}; expected whole XML") from None
    except FileNotFoundError:
        raise ValueError(f"there is no annotation {str(path)!r}; expected an XML file for each picture") from None
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, LookupError) as error:  # of _NoDoctype; an unknown encoding
        raise ValueError(f"{str(path)!r}: {error}") from None


def number(values: ET.Element | None, name: str) -> float:
    """The number that an element holds under a name."""
    found = None if values is None else values.findtext(name)
    try:
        return float(found or "")
    except ValueError:
        raise ValueError(f"{name} is {found!r}; expected a number") from None


def box(left: Any, top: Any, right: Any, bottom: Any) -> Box:
    """Four finite numbers in order, whatever the picture's size."""
    edges = (left, top, right, bottom)
    if not all(isinstance(edge, int | float) and not isinstance(edge, bool) and math.isfinite(edge) for edge in edges):
        raise ValueError(f"a box is four numbers; got {list(edges)}")
    if right < left or bottom < top:
        raise ValueError(f"a box's right and bottom lie beyond its left and top; got {list(edges)}")
    return (float(left), float(top), float(right), float(bottom))


def size(width: Any, height: Any) -> tuple[int, int] | None:
    """A picture's size as annotated; `None` where that is no size, as the file has the last word anyway."""
    known = all(isinstance(side, int | float) and math.isfinite(side) and side >= 1 for side in (width, height))
    return (int(width), int(height)) if known else None


def index_of(name: Any, indices: dict[str, int]) -> int:
    """The index of a class's name, or a `ValueError` that lists near ones."""
    if isinstance(name, str) and name in indices:
        return indices[name]
    raise ValueError(f"the data set has no class {name!r}{near(str(name), indices)}")


def _first(root: str, candidates: Sequence[str], missing: str, there: Any) -> Path:
    for candidate in candidates:
        path = Path(root, candidate)
        if there(path):
            return path
    paths = [Path(root, candidate) for candidate in candidates]
    tried = " or ".join(repr(str(path)) for path in paths)
    offered = next(filter(None, map(near_path, paths)), "")
    raise ValueError(f"{missing} in {root!r}; expected {tried}{offered}")


def near_path(path: Path) -> str:
    """The end of an error's sentence about a path that is not there: what its first missing part may be."""
    while path.parent != path and not path.parent.exists():
        path = path.parent
    try:
        there = [entry.name for entry in islice(path.parent.iterdir(), COMPARED)]
    except OSError:
        return ""
    return "" if path.exists() else near(path.name, there)
