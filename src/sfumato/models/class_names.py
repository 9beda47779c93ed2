"""The names of a classifier's classes: from a list, a file, or what a checkpoint holds beside its weights."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HOLDERS = ("labels", "classes", "class_names", "names", "id2label", "idx_to_class", "class_to_idx", "label2id")
"""The keys under which checkpoints have class names."""


def read_class_names(
    labels: str | os.PathLike[str] | Sequence[str], count: int, background: bool = False
) -> tuple[str, ...]:
    """The `count` class names of a list, or of a file: text with one name in each line, or JSON.

    JSON is a list, or says for each index its name, {"0": "cat"}, or for each name its index, {"cat": 0}. With `background`,
    the first of the classes, which is none, need not be named. Raises `ValueError` if it cannot be read, or has another number
    of names.
    """
    names = class_names(labels)
    origin = f"the file {str(labels)!r}" if isinstance(labels, str | os.PathLike) else "labels"
    if background and len(names) == count - 1:
        return ("background", *names)
    if len(names) != count:
        raise ValueError(
            f"{origin} has {len(names)} names, but the model has {count} classes; give one name for each class, in the "
            "order of the model's outputs"
        )
    return names


def class_names(labels: str | os.PathLike[str] | Sequence[str]) -> tuple[str, ...]:
    """The names of a list or a file, as for `read_class_names`, as many as there are. Raises `ValueError`."""
    if isinstance(labels, str | os.PathLike):
        names, origin = _read(Path(labels)), f"the file {str(labels)!r}"
    else:
        names, origin = _in_order(labels), "labels"
    if names is None:
        raise ValueError(
            f'{origin} must hold names of classes: one in each line, or as JSON ["cat", "dog"] or {{"0": "cat", "1": "dog"}}'
        )
    return names


def names_beside(content: Any) -> tuple[str, ...] | None:
    """The class names that a checkpoint holds beside its weights, if any."""
    for part in (content, content.get("hyper_parameters"), content.get("meta")) if isinstance(content, Mapping) else ():
        for key in HOLDERS:
            names = _in_order(part.get(key)) if isinstance(part, Mapping) else None
            if names:
                return names
    return None


def _read(path: Path) -> tuple[str, ...] | None:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.casefold() == ".json":
            return _in_order(json.loads(text))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot read the class names in {str(path)!r} ({error}); expected text or JSON") from error
    return _in_order([line.strip() for line in text.strip().splitlines()])


def _in_order(names: Any) -> tuple[str, ...] | None:
    """Names in the order of their indices, of a list or a mapping; `None` if it is something else.

    >>> _in_order({"dog": 1, "cat": 0}), _in_order({"0": ["n02123045", "tabby"]}), _in_order({2: "bird"})
    (('cat', 'dog'), ('tabby',), None)
    """
    if isinstance(names, Mapping):
        if all(_is_index(value) for value in names.values()):
            names = {value: key for key, value in names.items()}
        if not all(_is_index(key) for key in names):
            return None
        by_index = {int(key): value for key, value in names.items()}
        if sorted(by_index) != list(range(len(by_index))):
            return None
        names = [by_index[index] for index in range(len(by_index))]
    if not isinstance(names, list | tuple) or not names:
        return None
    last = [name[-1] if isinstance(name, list | tuple) and name else name for name in names]  # after a WordNet number
    return tuple(last) if all(isinstance(name, str) and name for name in last) else None


def _is_index(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and value.isdecimal())
