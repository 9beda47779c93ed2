"""How a result was made: what goes into its `about`, and how `about` is cut to some of the queries."""

import math
import platform
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch

import sfumato
from sfumato import perturbations
from sfumato.perturbations import Perturbation
from sfumato.settings import ROOT, as_json, from_json, is_whole, per_query


def about_run(
    method: Any, score: Any, values: Mapping[str, Sequence[Any]] | None = None, **used: Any
) -> dict[str, Any]:
    """The `about` of a result, as plain JSON.

    `method` and `score` are written with their settings. Each list in `values` has one value for each query. `used` holds what
    was used where the settings leave it open. If the method hides places, `perturbation` says what hid them.
    """
    values = {name: [_finite(value) for value in column] for name, column in (values or {}).items()}
    perturbations = method.used_perturbations()
    if perturbations:
        used = {"perturbation": perturbations if len(perturbations) > 1 else perturbations[0]} | used
    about = {"method": as_json(method), "score": as_json(score), "versions": versions()} | as_json(used) | values
    paths = [*values, *per_query(score, "score")]
    return about | ({"per_query": paths} if paths else {})


def with_labels(about: Mapping[str, Any], labels: Sequence[str], queries: int) -> dict[str, Any]:
    """The `about` of a result with the names of the explained classes, one for each query, if its score is of a class.

    >>> with_labels({"score": {"target": [1, 0]}, "per_query": ["score.target"]}, ("cat", "dog"), 2)["labels"]
    ['dog', 'cat']
    """
    score = about.get("score")
    target = score.get("target") if isinstance(score, Mapping) else None
    targets: list[Any] = target if isinstance(target, list) else [target] * queries
    if len(targets) != queries or not all(is_whole(index, 0) and index < len(labels) for index in targets):
        return dict(about)
    names = [labels[index] for index in targets]
    return {**about, "labels": names, "per_query": [*about.get("per_query", ()), "labels"]}


def rebuild(description: Any) -> Perturbation:
    """Build a perturbation of this package from its JSON. Raises `ValueError` for a perturbation of another package."""
    name = description.get("class") if isinstance(description, Mapping) else description
    if isinstance(description, Mapping) and re.split("[.:]", str(name))[0] == ROOT:
        perturbation: Perturbation = from_json(description)
        if type(perturbation).__module__ == perturbations.__name__:
            return perturbation
    raise ValueError(
        f"places were hidden with {name!r}, which cannot be built again from its name; give the perturbation of the method"
    )


def about_part(about: Mapping[str, Any], rows: Sequence[int], queries: int) -> dict[str, Any]:
    """The `about` of some rows of a result with so many queries: every list with one value for each query is cut to them."""
    paths = about.get("per_query")
    if not isinstance(paths, list | tuple):  # a file from before `per_query` was written
        paths = ["samples", "standard_error", *_target_paths(about.get("score"), "score")]
    part: Any = dict(about)
    for path in paths:
        part = _select_rows(part, str(path).split("."), rows, queries)
    return dict(part)


def _select_rows(value: Any, path: Sequence[str], rows: Sequence[int], queries: int) -> Any:
    """The value, with the list at the path cut to these rows. A list of another length than `queries` stays as it is."""
    if not path:
        is_column = isinstance(value, list | tuple) and len(value) == queries
        return [value[row] for row in rows] if is_column else value
    first, *rest = path
    if isinstance(value, Mapping) and first in value:
        return {**value, first: _select_rows(value[first], rest, rows, queries)}
    if isinstance(value, list | tuple) and first.isdecimal() and int(first) < len(value):
        index = int(first)
        return [*value[:index], _select_rows(value[index], rest, rows, queries), *value[index + 1 :]]
    return value


def _target_paths(score: Any, path: str) -> list[str]:
    """The dotted paths of lists in a score's JSON that have a class for each query."""
    if isinstance(score, list | tuple):
        return [name for index, item in enumerate(score) for name in _target_paths(item, f"{path}.{index}")]
    if not isinstance(score, Mapping):
        return []
    own = [f"{path}.{name}" for name in ("target", "against") if isinstance(score.get(name), list | tuple)]
    return own + [name for key, item in score.items() for name in _target_paths(item, f"{path}.{key}")]


def _finite(value: Any) -> Any:
    """The value, or `None` for NaN and infinity, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions() -> dict[str, str]:
    """The versions of sfumato, torch and Python."""
    return {"sfumato": own_version(), "torch": torch.__version__, "python": platform.python_version()}


@cache
def own_version() -> str:
    """`sfumato.__version__`. It is cached, because looking it up takes milliseconds."""
    return str(sfumato.__version__)
