"""A cache of results on disk, one file for each record, so that an interrupted computation can go on."""

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
"""The tensors of one result, by name."""


@dataclass(frozen=True)
class Records:
    """A folder of records. The name of a file is a hash of everything that its record depends on; the file holds that too."""

    folder: Path | None
    """`None` to store nothing."""

    @classmethod
    def at(cls, folder: AnyPath | None) -> "Records":
        """The records in a folder, which is made if it does not exist. Raises `ValueError` if it is a file."""
        if folder is None:
            return cls(None)
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"out must be a folder, or the name of a new one; got the file {str(folder)!r}")
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    def get_or_compute(self, about: Mapping[str, Any], compute: Callable[[], Record]) -> Record:
        """The record with this description: read from its file, or computed and written if the file is missing or damaged."""
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
    """The record in a file; `None` if the file is missing, damaged, or has another description."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("about") == about:
                # Copies: a tensor may keep its file open for its whole life.
                return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError):
        pass
    return None


def check_describable(name: str, value: Any) -> None:
    """Raise `ValueError` if `as_json` may give another value the same description: records would be mixed up."""
    if is_dataclass(value) and not isinstance(value, type):
        for entry in fields(value):
            check_describable(name, getattr(value, entry.name))
    elif isinstance(value, tuple | list):
        for item in value:
            check_describable(name, item)
    elif not (value is None or isinstance(value, bool | int | float | str) or _is_named(value)):
        raise ValueError(
            f"with out=…, {name} must be made of frozen dataclasses, numbers, words and functions with a name in their "
            f"module, so that no other value has the same description; it holds {value!r}"
        )


def _is_named(value: Any) -> bool:
    return "<" not in getattr(value, "__qualname__", "<") and not isinstance(value, MethodType)
