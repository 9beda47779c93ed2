"""A folder that holds an explanation and all that supports it, and can be checked later.

Its manifest, `manifest.json`, has the hash of each file. It is written last, so a folder without one was not finished.
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

FORMAT = "sfumato evidence 1"


@contextmanager
def bundle(folder: str | os.PathLike[str], facts: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """A folder to write files into; its manifest is written at the end of the block, with `facts`, plain JSON, in it.

    The folder is made. Raises `ValueError` where it exists and is not empty. After an error what was written stays, without a
    manifest.
    """
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ValueError(f"a bundle is written into a new or empty folder; {str(place)!r} is neither")
    place.mkdir(parents=True, exist_ok=True)
    yield place
    files = {name: _described(place / name) for name in _names(place)}
    content = {"format": FORMAT, "versions": versions(), "facts": dict(facts or {}), "files": files}
    with written(place / MANIFEST) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def verify(folder: str | os.PathLike[str]) -> list[str]:
    """What is wrong with a bundle, a sentence each; nothing if each file is as it was written.

    Raises `ValueError` where there is no such folder.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"there is no folder {str(place)!r}")
    manifest = place / MANIFEST
    if not manifest.is_file():
        return ["There is no manifest: the bundle was not finished, or this is no bundle."]
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        files = {str(name): dict(known) for name, known in content["files"].items()}
        known_format = content["format"] == FORMAT
    except (ValueError, KeyError, TypeError, AttributeError):
        return ["The manifest cannot be read."]
    if not known_format:
        return [f"The manifest is of another format than {FORMAT!r}: {content['format']!r}."]
    there = set(_names(place))
    wrong = [f"{name} is missing." for name in files if name not in there]
    wrong += [f"{name} has changed." for name in files if name in there and _described(place / name) != files[name]]
    return wrong + [f"{name} is not in the manifest." for name in sorted(there - set(files))]


def _names(place: Path) -> list[str]:
    """All files below, by their path from there; without the manifest."""
    paths = sorted(path for path in place.rglob("*") if path.is_file() or path.is_symlink())
    return [path.relative_to(place).as_posix() for path in paths if path != place / MANIFEST]


def _described(path: Path) -> dict[str, Any]:
    """The size and the hash of a file; of a broken link neither."""
    if not path.is_file():
        return {}
    with path.open("rb") as stream:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
