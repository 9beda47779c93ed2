"""What was found out about each of many things, a file each, so that work which was broken off goes on where it was."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from sfumato.data.pictures import AnyPath
from sfumato.files import written

FORMAT = "sfumato-record-1"

Record = dict[str, Tensor]
"""What was found out about one thing."""


@dataclass(frozen=True)
class Records:
    """A folder of records, a file each, which is named by a hash of all that the record depends on, and holds it too."""

    folder: Path | None
    """Without one, nothing is kept."""

    @classmethod
    def at(cls, folder: AnyPath | None) -> "Records":
        if folder is None:
            return cls(None)
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"out must be a folder, or the name of a new one; got the file {str(folder)!r}")
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    def of(self, about: Mapping[str, Any], compute: Callable[[], Record]) -> Record:
        """The record of this description: read if it is there, undamaged, else computed and written."""
        if self.folder is None:
            return compute()
        words = json.dumps({"format": FORMAT, **about}, sort_keys=True)
        path = self.folder / f"{about['kind']}-{hashlib.sha256(words.encode()).hexdigest()}.safetensors"
        record = _read(path, words)
        if record is None:
            record = compute()
            with written(path) as partial:
                save_file({name: tensor.contiguous() for name, tensor in record.items()}, partial, {"about": words})
        return record


def _read(path: Path, about: str) -> Record | None:
    """What lies there; `None` if it is nothing, damaged, or not of this description."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("about") == about:
                # Copies, as each tensor may hold its file open for as long as it lives.
                return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError):
        pass
    return None


def check_told(name: str, value: Any) -> None:
    """Raise `ValueError` where `as_json` does not tell a value from others: what was found for one would serve another."""
    if is_dataclass(value) and not isinstance(value, type):
        for entry in fields(value):
            check_told(name, getattr(value, entry.name))
    elif isinstance(value, tuple | list):
        for item in value:
            check_told(name, item)
    elif not (value is None or isinstance(value, bool | int | float | str) or _is_named(value)):
        raise ValueError(
            f"with out=…, {name} must be made of frozen dataclasses, numbers, words and functions that have a name of their "
            f"own in a module, so that it can be told from others; it holds {value!r}"
        )


def _is_named(value: Any) -> bool:
    return "<" not in getattr(value, "__qualname__", "<") and not isinstance(value, MethodType)
