"""Reads annotation files. Errors name the file, the position and what was expected."""

import json
import math
import os
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from sfumato.data.example import Box
from sfumato.settings import near

COMPARED = 1000
"""With how many names of a folder, at most, a missing name is compared."""


def folder(root: str, candidates: Sequence[str], content: str) -> Path:
    """The first candidate that is a folder under `root`. Raises `ValueError` if there is none."""
    return _first_existing(root, candidates, f"no folder of {content}", Path.is_dir)


def file(root: str, candidates: Sequence[str], content: str) -> Path:
    """The first candidate that is a file under `root`. Raises `ValueError` if there is none."""
    return _first_existing(root, candidates, f"no {content}", Path.is_file)


def existing_file(path: str, content: str) -> Path:
    """The path, if it is a file. Raises `ValueError` if it is not."""
    if not Path(path).is_file():
        raise ValueError(f"there is no {content} {path!r}; expected the path of a file{near_path(Path(path))}")
    return Path(path)


def entries(path: Path) -> list[Path]:
    """The sorted entries of a folder."""
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
    """The content of a UTF-8 file. Raises `ValueError` if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text at byte {error.start}; expected a text file") from None
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> ValueError:
    return ValueError(f"cannot read {str(path)!r}: {error.strerror or error}; expected a path that you may read")


def object_of(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `ValueError` for anything else."""
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
    """Refuses document types before their entities are expanded: a small one can become gigabytes, or name other files."""

    def doctype(self, *_: object) -> None:
        raise ValueError("it declares a document type, which is not allowed; expected plain XML")


def xml(path: Path) -> ET.Element:
    """The root of an XML file without a document type."""
    try:
        return ET.fromstring(path.read_bytes(), ET.XMLParser(target=_NoDoctype()))  # noqa: S314  # see above
    except ET.ParseError as error:
        raise ValueError(f"{str(path)!r}, line {error.position[0]}: {error.msg}; expected complete XML") from None
    except FileNotFoundError:
        raise ValueError(f"there is no annotation {str(path)!r}; expected an XML file for each picture") from None
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, LookupError) as error:  # from _NoDoctype, or for an unknown encoding
        raise ValueError(f"{str(path)!r}: {error}") from None


def number(values: ET.Element | None, name: str) -> float:
    """The number in the child `name` of an element."""
    content = None if values is None else values.findtext(name)
    try:
        return float(content or "")
    except ValueError:
        raise ValueError(f"{name} must be a number; got {content!r}") from None


def box(left: Any, top: Any, right: Any, bottom: Any) -> Box:
    """A box of four finite numbers. Raises `ValueError` unless left ≤ right and top ≤ bottom."""
    edges = (left, top, right, bottom)
    if not all(isinstance(edge, int | float) and not isinstance(edge, bool) and math.isfinite(edge) for edge in edges):
        raise ValueError(f"a box must be four numbers; got {list(edges)}")
    if right < left or bottom < top:
        raise ValueError(f"a box's right and bottom must not be less than its left and top; got {list(edges)}")
    return (float(left), float(top), float(right), float(bottom))


def size(width: Any, height: Any) -> tuple[int, int] | None:
    """The annotated size of a picture; `None` if it is no valid size, as the size of the picture file takes precedence."""
    valid = all(isinstance(side, int | float) and math.isfinite(side) and side >= 1 for side in (width, height))
    return (int(width), int(height)) if valid else None


def index_of(name: Any, indices: dict[str, int]) -> int:
    """The index of a class. Raises `ValueError`, with similar names, if there is no such class."""
    if isinstance(name, str) and name in indices:
        return indices[name]
    raise ValueError(f"the data set has no class {name!r}{near(str(name), indices)}")


def _first_existing(root: str, candidates: Sequence[str], missing: str, exists: Callable[[Path], bool]) -> Path:
    for candidate in candidates:
        path = Path(root, candidate)
        if exists(path):
            return path
    paths = [Path(root, candidate) for candidate in candidates]
    expected = " or ".join(repr(str(path)) for path in paths)
    suggestion = next(filter(None, map(near_path, paths)), "")
    raise ValueError(f"{missing} in {root!r}; expected {expected}{suggestion}")


def near_path(path: Path) -> str:
    """The end of an error about a missing path: suggestions for its first missing part."""
    while path.parent != path and not path.parent.exists():
        path = path.parent
    try:
        names = [entry.name for entry in islice(path.parent.iterdir(), COMPARED)]
    except OSError:
        return ""
    return "" if path.exists() else near(path.name, names)
