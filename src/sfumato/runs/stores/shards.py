"""Results of methods, many items in one file, which is on the disk before a row names it."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from sfumato.attribution import Attribution, attribution_of, file_tensors
from sfumato.runs.stores.processes import has_ended, machine, this_process
from sfumato.runs.stores.sqlite import make_folder, sync_folder
from sfumato.runs.stores.store import Owner, StoreError

FORMAT = "sfumato-shard-1"

SUFFIX = ".safetensors"

ANEW = "what it held is computed anew where the run needs it"


@dataclass(frozen=True)
class Shards:
    """A folder of safetensors files, each with the results of several items. Tensors are called `KEY/FIELD`; the rest
    is JSON in the metadata `shard`. The name of a file is a hash of its content."""

    folder: Path

    def keep(self, results: Mapping[str, Attribution]) -> str:
        """Write a shard, whole or not at all, and return its name. It survives a loss of power. Raises `StoreError`."""
        return self._write(_content(results))

    def take(self, other: "Shards", name: str) -> None:
        """Copy a shard of another folder, unless it is here. Raises `StoreError`."""
        if not (self.folder / name).exists():
            with other._read(name):
                content = (other.folder / name).read_bytes()
            self._write(content)

    def _write(self, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()[:32] + SUFFIX
        partial = self.folder / f".{name}.{_mark(this_process())}.partial"
        try:
            make_folder(self.folder)
            try:
                with partial.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(self.folder / name)
                sync_folder(self.folder)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot keep masks in {str(self.folder)!r}: {error.strerror}; make room or mend the folder, and run the same "
                "command again, what was committed is kept"
            ) from error
        return name

    def read(self, name: str, key: str, device: str | torch.device = "cpu") -> Attribution:
        """Read the result of an item from a shard. Raises `StoreError` if it is missing or damaged."""
        with self._opened(name, device) as (file, about):
            if key not in about:
                raise StoreError(f"the shard {str(self.folder / name)!r} holds nothing of the item {key!r}; {ANEW}")
            # Copies, as each tensor may hold its file open for as long as it lives.
            tensors = {field: file.get_tensor(f"{key}/{field}").clone() for field in about[key]["tensors"]}
            return attribution_of(tensors, about[key]["about"], f"the item {key!r}")

    def check(self, name: str) -> None:
        """Raise `StoreError` if a shard is missing, or differs from what was written."""
        with self._read(name), (self.folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest()[:32] + SUFFIX != name:
                raise ValueError("its content is not what it was")

    def keys(self, name: str) -> list[str]:
        """The keys of the items in a shard."""
        with self._opened(name) as (_, about):
            return sorted(about)

    @contextmanager
    def _opened(self, name: str, device: str | torch.device = "cpu") -> Iterator[tuple[Any, dict[str, Any]]]:
        with (
            self._read(name),
            safetensors.safe_open(self.folder / name, framework="pt", device=str(device)) as file,
        ):
            yield file, _about(file.metadata())

    @contextmanager
    def _read(self, name: str) -> Iterator[None]:
        """Turn errors with a shard, until the block ends, into `StoreError`."""
        path = self.folder / name
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"cannot read the shard {str(path)!r} ({error}); {ANEW}") from error
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"the shard {str(path)!r} is damaged ({error}); {ANEW}") from error

    def sweep(self, names_in_rows: Callable[[], set[str]] | None = None) -> None:
        """Remove unfinished files of killed processes of this machine, and shards that no row names.

        `names_in_rows` gives the shards that rows name. It is called only where there are shards, and nobody may be about to
        name another.
        """
        there = [path for path in self.folder.glob(f"*{SUFFIX}") if not path.name.startswith(".")]
        if there and names_in_rows is not None:
            needed = names_in_rows()
            for path in there:
                if path.name not in needed:
                    with suppress(OSError):
                        path.unlink()
        for partial in self.folder.glob(".*.partial"):
            match = re.search(r"\.([0-9a-f]{16})-(\d+)-(\w*)\.partial$", partial.name)
            if match and match[1] == _hash(machine()) and has_ended(Owner(machine(), int(match[2]), match[3])):
                with suppress(OSError):
                    partial.unlink()


def _content(results: Mapping[str, Attribution]) -> bytes:
    """The bytes of a shard; they do not depend on the order of the results."""
    tensors: dict[str, Tensor] = {}
    about: dict[str, Any] = {}
    for key, result in sorted(results.items()):
        parts = file_tensors(result)
        tensors |= {f"{key}/{name}": value for name, value in parts.items()}
        about[key] = {"tensors": list(parts), "about": dict(result.about)}
    # One entry only, as safetensors writes several in no fixed order.
    return save(tensors, {"shard": json.dumps({"format": FORMAT, "items": about}, sort_keys=True)})


def _about(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    shard = json.loads((metadata or {}).get("shard", "{}"))
    if shard.get("format") != FORMAT:
        raise ValueError(f"its format is {shard.get('format')!r}, not {FORMAT!r}")
    return shard["items"]


def _mark(owner: Owner) -> str:
    return f"{_hash(owner.machine)}-{owner.process}-{owner.started}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
