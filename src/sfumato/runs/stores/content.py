"""What is in a file: hashed once, and again only when its size or one of its times has changed."""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

MISSING = "missing"
"""In place of the hash of a file that cannot be read; the run will say so when it reads the picture."""


AWAY = "null"
"""In a stamp, in place of the size and times of a file that is not there."""


def stamp(paths: Sequence[str | Path]) -> str:
    """The sizes and times of files, by which a change is noticed: JSON, with null for a file that is not there."""
    return json.dumps([_stamp(str(path)) for path in paths], separators=(",", ":"))


def content(paths: Sequence[str | Path]) -> str:
    """A hash of what is in files, wherever they lie."""
    hashes = [hashed(str(path)) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:32]


def hashed(path: str) -> str:
    """A hash of a file's content, `MISSING` where it cannot be read."""
    found = _stamp(path)
    return MISSING if found is None else _hashed(path, tuple(found))


@lru_cache(maxsize=10_000)
def _hashed(path: str, _: tuple[int, ...]) -> str:
    """Of a file with these times and size: several data sets may share it."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # a million paths are not worth as many objects
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError:
        return MISSING


def _stamp(path: str) -> list[int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # as above
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


DIGITS = 32
"""Of a hash, in base 16: enough that no two are the same."""


def digest(value: Any) -> str:
    """The hash by which plain JSON goes, such as a recipe."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:DIGITS]
