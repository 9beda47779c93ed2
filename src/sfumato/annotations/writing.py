"""Files that are there whole or not at all."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sfumato.pictures import AnyPath


def write(content: Mapping[str, Any] | str | bytes, path: AnyPath) -> None:
    """Write what `as_coco` and the others give, whole or not at all: a mapping as JSON, text as UTF-8.

    Raises `ValueError` where the folder is missing or cannot be written.
    """
    path = Path(path)
    if isinstance(content, Mapping):
        content = json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise ValueError(
            f"cannot write {str(path)!r}: {error.strerror or error}; expected a folder to write to"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()
