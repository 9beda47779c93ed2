"""Writing annotations to files."""

import json
from collections.abc import Mapping
from typing import Any

from sfumato.data.pictures import AnyPath
from sfumato.files import written


def write(content: Mapping[str, Any] | str | bytes, path: AnyPath) -> None:
    """Write the content from `as_coco` or another format to a file, completely or not at all: a mapping as JSON, text as UTF-8.

    Raises `ValueError` if the folder does not exist or cannot be written.
    """
    if isinstance(content, Mapping):
        content = json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"
    data = content.encode() if isinstance(content, str) else content
    try:
        with written(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise ValueError(str(error)) from error
