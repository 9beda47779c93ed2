"""Measured settings in JSON files: written whole or not at all, and read as what they are."""

import json
import os
from pathlib import Path
from typing import Any, TypeVar

from sfumato.files import written
from sfumato.settings import as_json, from_json

T = TypeVar("T")


def save(settings: Any, path: str | os.PathLike[str]) -> None:
    """Write settings as JSON, whole or not at all."""
    with written(path) as partial:
        Path(partial).write_text(json.dumps(as_json(settings), indent=1), encoding="utf-8")


def load(kind: type[T], path: str | os.PathLike[str], wrong: str) -> T:
    """Read what `save` wrote. Raises `ValueError` for what is not of this kind; the message is the path and `wrong`."""
    try:
        found = from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except (TypeError, ValueError, RecursionError) as error:  # JSON and Unicode errors are ValueErrors
        raise ValueError(f"{path} {wrong} ({error}); write one with sfumato calibrate") from error
    if not isinstance(found, kind):
        raise ValueError(f"{path} {wrong}; write one with sfumato calibrate")
    return found
