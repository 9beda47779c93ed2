"""The answers of a black box, one for each input: split, kept, and joined again."""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten


@dataclass(frozen=True, eq=False)
class Rows:
    """What a model returns for one input: tensors with an axis of length 1 for it, or an item of its own."""

    value: Any
    of_items: bool
    """Whether the outputs are a list with an item for each input, as detectors return it."""

    @classmethod
    def split(cls, outputs: Any, count: int) -> list["Rows"]:
        """The answers to so many inputs. Raises `ValueError` unless the outputs have one row for each.

        A list has an item for each input if it is as long; so a model with several heads should return a tuple.
        """
        if isinstance(outputs, int | float | list) and _is_numbers(outputs):
            outputs = torch.tensor(outputs, dtype=torch.float32, device="cpu")
            outputs = outputs[None] if outputs.ndim == 0 else outputs
        if isinstance(outputs, list) and len(outputs) == count:
            return [cls(item, True) for item in outputs]
        if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(outputs)):  # e.g. a dict of a service's JSON

            def has_rows(value: Any) -> bool:
                rows = isinstance(value, list) and len(value) == count and all(isinstance(row, list) for row in value)
                return rows and _is_numbers(value)

            outputs = tree_map(
                lambda value: torch.tensor(value, dtype=torch.float32, device="cpu") if has_rows(value) else value,
                outputs,
                is_leaf=has_rows,
            )
        leaves, form = tree_flatten(outputs)
        if not any(isinstance(leaf, Tensor) for leaf in leaves) or any(
            isinstance(leaf, Tensor) and (not leaf.ndim or len(leaf) != count) for leaf in leaves
        ):
            shapes = [tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__ for leaf in leaves]
            hint = "; write outputs[None] for the answer to a single input" if count == 1 else ""
            if is_dataclass(outputs):
                hint = (
                    f"; return the part of it that counts, e.g. outputs.{fields(outputs)[0].name}, or several in a dict"
                )
            raise ValueError(
                f"the function must return one row for each of {count} inputs, as tensors, arrays or a list; got "
                f"{type(outputs).__name__} of {', '.join(map(str, shapes)) or 'nothing'}{hint}"
            )
        parts = [leaf.split(1) if isinstance(leaf, Tensor) else [leaf] * count for leaf in leaves]
        return [cls(tree_unflatten([part[row] for part in parts], form), False) for row in range(count)]

    @staticmethod
    def joined(rows: Sequence["Rows"]) -> Any:
        """The outputs for several inputs, of the answers to each."""
        if all(row.of_items for row in rows):
            return [row.value for row in rows]
        flat = [tree_flatten(row.value) for row in rows]
        form = flat[0][1]
        if any(row.of_items for row in rows) or any(other != form for _, other in flat):
            raise ValueError(
                "the function returns outputs of different forms for different inputs; return a tensor, a list with an item "
                "for each input, or several outputs in a tuple"
            )
        leaves = [
            torch.cat(parts) if isinstance(parts[0], Tensor) else parts[0]
            for parts in zip(*(leaves for leaves, _ in flat), strict=True)
        ]
        return tree_unflatten(leaves, form)


def _is_numbers(value: Any) -> bool:
    """Whether it is a number, or lists of numbers, as a service's JSON has them."""
    if isinstance(value, list):
        return bool(value) and all(map(_is_numbers, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


class Answers:
    """Answers by the digests of what was asked: in memory, and in a file of SQLite if there is a path.

    `kept` says whether any are kept. Raises `ValueError` for a file that is another function's, or no file of answers.
    """

    def __init__(self, cache: bool | str | os.PathLike[str], function: str) -> None:
        self.kept = cache is not False
        self._memory: dict[bytes, Rows] = {}
        self._file: sqlite3.Connection | None = None
        if not isinstance(cache, bool):
            self._file = _opened(Path(cache), function)

    def get(self, key: bytes) -> Rows | None:
        """The answer of this digest, if it is known."""
        if key in self._memory or self._file is None:
            return self._memory.get(key)
        found = self._file.execute("SELECT of_items, value FROM answers WHERE digest = ?", (key,)).fetchone()
        if found is None:
            return None
        self._memory[key] = Rows(torch.load(BytesIO(found[1]), weights_only=True), bool(found[0]))
        return self._memory[key]

    def put(self, rows: Mapping[bytes, Rows]) -> None:
        """Keep answers by their digests. Raises `ValueError` where a file cannot hold one."""
        if not self.kept:
            return
        if self._file is not None:
            rows = {key: Rows(_plain(row.value), row.of_items) for key, row in rows.items()}
            with self._file:
                self._file.executemany(
                    "INSERT OR REPLACE INTO answers VALUES (?, ?, ?)",
                    [(key, row.of_items, _written(row.value)) for key, row in rows.items()],
                )
        self._memory.update(rows)


def _written(value: Any) -> bytes:
    file = BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _opened(path: Path, function: str) -> sqlite3.Connection:
    try:
        file = sqlite3.connect(path, check_same_thread=False)
        file.execute("PRAGMA journal_mode = WAL")  # so that a call waits for no disk
        file.execute("PRAGMA synchronous = NORMAL")
        with file:
            file.execute("CREATE TABLE IF NOT EXISTS answers (digest BLOB PRIMARY KEY, of_items INTEGER, value BLOB)")
            file.execute("CREATE TABLE IF NOT EXISTS functions (path TEXT PRIMARY KEY)")
            file.execute("INSERT INTO functions SELECT ? WHERE NOT EXISTS (SELECT * FROM functions)", (function,))
            (owner,) = file.execute("SELECT path FROM functions").fetchone()
    except sqlite3.Error as error:
        raise ValueError(f"cannot keep answers in {str(path)!r} ({error}); give the path of a new file") from error
    if owner != function:
        file.close()
        raise ValueError(
            f"{str(path)!r} holds the answers of {owner}, not of {function}; give the path of another file"
        )
    return file


def _plain(value: Any) -> Any:
    """The value with plain containers. Raises `ValueError` where it has anything but tensors, numbers and text."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()  # a row is a view of its batch, of which a file would hold the whole
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        "a file of answers holds tensors, numbers and text, also in lists, tuples and dicts; the function returns a "
        f"{type(value).__name__}"
    )
