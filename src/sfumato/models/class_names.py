"""The names of a classifier's classes: from a list, a file, or what a checkpoint holds beside its weights."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfumato.data.labels import default_labels

HOLDERS = ("labels", "classes", "class_names", "names", "id2label", "idx_to_class", "class_to_idx", "label2id")
"""The keys under which checkpoints have class names."""


def read_class_names(
    labels: str | os.PathLike[str] | Sequence[str], count: int, background: bool = False
) -> tuple[str, ...]:
    """The `count` class names of a list, or of a file: text with one name in each line, or JSON.

    JSON is a list, or says for each index its name, {"0": "cat"}, or for each name its index, {"cat": 0}. Lines of text may
    begin with their indices, as in `0 cat`, and then have any order. With `background`, the first of the classes, which is
    none, need not be named. Raises `ValueError` if it cannot be read, or has another number of names.
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


def filled(names: Mapping[int, str] | Sequence[str] | None, count: int) -> tuple[str, ...]:
    """The names of `count` classes as a model or a checkpoint holds them: all default names if it names others, or none.

    A class that a mapping leaves out gets its default name.

    >>> filled({2: "cow", 0: "cat"}, 3), filled({1: "cat", 2: "dog"}, 2), filled(["cat"], 2)
    (('cat', 'class 1', 'cow'), ('class 0', 'class 1'), ('class 0', 'class 1'))
    """
    default = tuple(f"class {index}" for index in range(count)) if names else default_labels(count)
    if isinstance(names, Mapping):
        fits = bool(names) and set(names) <= set(range(count))
        return tuple(names.get(index, default[index]) for index in range(count)) if fits else default
    return tuple(names) if names and len(names) == count else default


def _read(path: Path) -> tuple[str, ...] | None:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.casefold() == ".json":
            return _in_order(json.loads(text))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot read the class names in {str(path)!r} ({error}); expected text or JSON") from error
    return _numbered(text) or _in_order([line.strip() for line in text.strip().splitlines()])


NUMBERED = re.compile(r"""[{\s]*(\d+)\s*[:,;\s]\s*(["']?)(.+?)\2[,}\s]*""")
"""A line with an index and a name, as `3 cat`, `3: 'cat',` or `3,cat`."""


def _numbered(text: str) -> tuple[str, ...] | None:
    """The names of lines that each begin with their index, in whatever order; `None` if the numbers are no indices from 0 up.

    >>> _numbered("1 dog\\n0 cat, house cat"), _numbered("7 up\\n3 musketeers")
    (('cat, house cat', 'dog'), None)
    """
    found = [NUMBERED.fullmatch(line) for line in text.strip().splitlines()]
    lines = [one for one in found if one is not None]
    return _by_index({int(one[1]): one[3] for one in lines}) if len(lines) == len(found) else None


def _in_order(names: Any) -> tuple[str, ...] | None:
    """Names in the order of their indices, of a list or a mapping; `None` if it is something else.

    >>> _in_order({"dog": 1, "cat": 0}), _in_order({"0": ["n02123045", "tabby"]}), _in_order({2: "bird"})
    (('cat', 'dog'), ('tabby',), None)
    >>> _in_order({"0": "7", "1": "3"}), _in_order({"7": 0, "3": 1})  # digits may be names
    (('7', '3'), ('7', '3'))
    """
    if isinstance(names, Mapping):
        return next(
            (ordered for ordered in map(_by_index, (names, _turned(names))) if ordered is not None),
            None,
        )
    if not isinstance(names, list | tuple) or not names:
        return None
    last = [name[-1] if isinstance(name, list | tuple) and name else name for name in names]  # after a WordNet number
    return tuple(last) if all(isinstance(name, str) and name for name in last) else None


def _turned(names: Mapping[Any, Any]) -> dict[Any, Any]:
    """A mapping from names to indices, as one from indices to names; empty if its values are no indices."""
    if not all(_is_index(value) for value in names.values()):
        return {}
    return {value: key for key, value in names.items()}


def _by_index(names: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """The names of a mapping from all indices from 0 up to names; `None` if it is none."""
    if not names or not all(_is_index(key) for key in names):
        return None
    by_index = {int(key): value for key, value in names.items()}
    if len(by_index) != len(names) or sorted(by_index) != list(range(len(by_index))):
        return None
    return _in_order([by_index[index] for index in range(len(by_index))])


def _is_index(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and value.isdecimal())
