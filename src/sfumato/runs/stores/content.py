"""Hashes of files. A file is hashed once, and again if its size, its number on the disk, or one of its times has changed."""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

MISSING = "missing"
"""Stands for the hash of a file that cannot be read; the run reports that when it reads the picture."""


AWAY = "null"
"""Stands in a stamp for a missing file."""


def stamp(paths: Sequence[str | Path]) -> str:
    """The sizes, times and numbers (inodes) of files as JSON, which show a change; null stands for a missing file.

    Files that were written one after the other may have the same times: the number tells them apart where a link or a folder
    is exchanged for another.
    """
    # As json.dumps writes it, in a fraction of the time: a start makes as many as there are pictures.
    return f"[{','.join(_as_json(_stamp(str(path))) for path in paths)}]"


def _as_json(mark: tuple[int, int, int, int] | None) -> str:
    return AWAY if mark is None else f"[{mark[0]},{mark[1]},{mark[2]},{mark[3]}]"


def content(paths: Sequence[str | Path]) -> str:
    """A hash of the content of files, which does not depend on their paths."""
    hashes = [hash_file(str(path)) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:32]


def hash_file(path: str) -> str:
    """A hash of a file's content, or `MISSING` if it cannot be read."""
    times = _stamp(path)
    return MISSING if times is None else _hash_file(path, times)


@lru_cache(maxsize=10_000)
def _hash_file(path: str, _: tuple[int, ...]) -> str:
    """Hash a file with this stamp; the result is cached, as several data sets may share the file."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # a million paths are not worth as many objects
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError:
        return MISSING


def _stamp(path: str) -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  # as above
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


DIGITS = 32
"""Hexadecimal digits of a hash: enough that no two are the same."""


def digest(value: Any) -> str:
    """A hash of plain JSON, such as a recipe."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:DIGITS]
