"""A folder that holds an explanation and all that supports it, and can be checked later.

Its manifest, `manifest.json`, has the hash of each file, and one of itself. It is written last, so a folder without one was
not finished. The hashes tell of damage and of changes by mistake; who means to deceive can write a new manifest.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sfumato.about import versions
from sfumato.files import written

MANIFEST = "manifest.json"

UNFINISHED = "unfinished"
"""A file that lies in a bundle while it is written."""

FORMAT, FIRST_FORMAT = "sfumato evidence 2", "sfumato evidence 1"
"""The first one had no hash of the manifest itself."""


@contextmanager
def bundle(folder: str | os.PathLike[str], facts: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """A folder to write files into; its manifest is written at the end of the block, with `facts`, plain JSON, in it.

    The folder is made. Raises `ValueError` where it exists and is not empty, and for a link among the files. After an error
    what was written stays, without a manifest. `facts` are read at the end.
    """
    place = Path(folder)
    check_new(place)
    place.mkdir(parents=True, exist_ok=True)
    try:
        (place / UNFINISHED).touch(exist_ok=False)  # two processes may have found the folder empty
    except FileExistsError as error:
        raise _not_new(place) from error
    try:
        yield place
    except BaseException:
        if [path.name for path in place.iterdir()] == [
            UNFINISHED
        ]:  # nothing was written, so the folder can be used again
            (place / UNFINISHED).unlink()
        raise
    files = {name: _described(place / name) for name in _names(place) if name != UNFINISHED}
    if linked := [name for name, known in files.items() if not known]:
        raise ValueError(f"a bundle holds files; {linked[0]!r} is a link, or no file; copy what it is to hold")
    content = {"format": FORMAT, "versions": versions(), "facts": dict(facts or {}), "files": files}
    content = json.loads(json.dumps(content, allow_nan=False))  # as `verify` reads it: numbers as keys become text
    content["sha256"] = _own_hash(content)
    (place / UNFINISHED).unlink()
    with written(place / MANIFEST) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def check_new(folder: str | os.PathLike[str]) -> None:
    """Raise `ValueError` unless a folder is empty, or not there."""
    place = Path(folder)
    if place.is_symlink() or (place.exists() and (not place.is_dir() or any(place.iterdir()))):
        raise _not_new(place)


def _not_new(place: Path) -> ValueError:
    return ValueError(f"a bundle is written into a new or empty folder; {str(place)!r} is neither")


def verify(folder: str | os.PathLike[str]) -> list[str]:
    """What is wrong with a bundle, a sentence each; nothing if each file is as it was written.

    Raises `ValueError` where there is no such folder.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"there is no folder {str(place)!r}")
    manifest = place / MANIFEST
    if not manifest.is_file() or manifest.is_symlink():
        return ["There is no manifest: the bundle was not finished, or this is no bundle."]
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        files = {str(name): dict(known) for name, known in content["files"].items()}
        known_format = content["format"] in (FORMAT, FIRST_FORMAT)
        unchanged = content["format"] == FIRST_FORMAT or content.pop("sha256", None) == _own_hash(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ["The manifest cannot be read."]
    if not known_format:
        return [f"The manifest is of another format than {FORMAT!r}: {content['format']!r}."]
    if not unchanged:
        return [f"{MANIFEST} has changed."]
    there = set(_names(place))
    wrong = [f"{name} is missing." for name in files if name not in there]
    wrong += [f"{name} has changed." for name in files if name in there and _described(place / name) != files[name]]
    return wrong + [f"{name} is not in the manifest." for name in sorted(there - set(files))]


def _names(place: Path) -> list[str]:
    """All that lies below but folders, by its path from there; without the manifest."""
    paths = sorted(path for path in place.rglob("*") if path.is_symlink() or not path.is_dir())
    return [path.relative_to(place).as_posix() for path in paths if path != place / MANIFEST]


def _described(path: Path) -> dict[str, Any]:
    """The size and the hash of a file; neither of a link, which may lead to something else later, or of what is no file."""
    if path.is_symlink() or not path.is_file():
        return {}
    with path.open("rb") as stream:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _own_hash(content: Mapping[str, Any]) -> str:
    """The hash of a manifest's content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
