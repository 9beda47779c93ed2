"""How a result was made, its `about`: what is written there, and which part of it belongs to some of the queries."""

import math
import platform
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch

import sfumato
from sfumato import perturbations
from sfumato.perturbations import Perturbation, default_perturbation, seeded
from sfumato.settings import ROOT, as_json, from_json, per_query


def about_run(
    method: Any, score: Any, values: Mapping[str, Sequence[Any]] | None = None, **used: Any
) -> dict[str, Any]:
    """How a result was made, for its `about`: plain JSON.

    `method` and `score` are written as their settings; `values` are lists with one value for each query. `used` is what was
    used where the settings leave it open. What hid places, for methods that hide any, is always there, as `perturbation`.
    """
    values = {name: [_finite(value) for value in listed] for name, listed in (values or {}).items()}
    applied = used_perturbations(method)
    if applied:
        used = {"perturbation": applied if len(applied) > 1 else applied[0]} | used
    about = {"method": as_json(method), "score": as_json(score), "versions": versions()} | as_json(used) | values
    paths = [*values, *per_query(score, "score")]
    return about | ({"per_query": paths} if paths else {})


def used_perturbations(method: Any) -> tuple[Perturbation, ...]:
    """What a method hides places with, as it is used: with the default, and the seed, that its own settings leave open."""
    if not hasattr(method, "perturbation"):
        return ()
    setting = method.perturbation
    if setting is None:
        setting = default_perturbation(method.layer)
    every = setting if isinstance(setting, tuple) else (setting,)
    return tuple(seeded(perturbation, getattr(method, "seed", 0)) for perturbation in every)


def rebuild(described: Any) -> Perturbation:
    """The perturbation that `as_json` wrote, of this package's own. Raises `ValueError` for another."""
    name = described.get("class") if isinstance(described, Mapping) else described
    if isinstance(described, Mapping) and re.split("[.:]", str(name))[0] == ROOT:
        perturbation: Perturbation = from_json(described)
        if type(perturbation).__module__ == perturbations.__name__:
            return perturbation
    raise ValueError(
        f"places were hidden with {name!r}, which cannot be built again from its name; give the one that the method had"
    )


def about_part(about: Mapping[str, Any], rows: Sequence[int], queries: int) -> dict[str, Any]:
    """How the result of some queries was made: of every list with a value for each query, theirs."""
    paths = about.get("per_query")
    if not isinstance(paths, list | tuple):  # a file of before they were named
        paths = ["samples", "standard_error", *_targets(about.get("score"), "score")]
    part: Any = dict(about)
    for path in paths:
        part = _select_rows(part, str(path).split("."), rows, queries)
    return dict(part)


def _select_rows(value: Any, path: Sequence[str], rows: Sequence[int], queries: int) -> Any:
    """The value with these rows only of the list at a path within it, where there is one of the queries' length."""
    if not path:
        listed = isinstance(value, list | tuple) and len(value) == queries
        return [value[row] for row in rows] if listed else value
    first, *rest = path
    if isinstance(value, Mapping) and first in value:
        return {**value, first: _select_rows(value[first], rest, rows, queries)}
    if isinstance(value, list | tuple) and first.isdecimal() and int(first) < len(value):
        place = int(first)
        return [*value[:place], _select_rows(value[place], rest, rows, queries), *value[place + 1 :]]
    return value


def _targets(score: Any, path: str) -> list[str]:
    """Where a score as JSON has a class for each query."""
    if isinstance(score, list | tuple):
        return [name for place, item in enumerate(score) for name in _targets(item, f"{path}.{place}")]
    if not isinstance(score, Mapping):
        return []
    own = [f"{path}.{name}" for name in ("target", "against") if isinstance(score.get(name), list | tuple)]
    return own + [name for key, item in score.items() for name in _targets(item, f"{path}.{key}")]


def _finite(value: Any) -> Any:
    """JSON has neither NaN nor infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions() -> dict[str, str]:
    """What a result was made with."""
    return {"sfumato": own_version(), "torch": torch.__version__, "python": platform.python_version()}


@cache
def own_version() -> str:
    """`sfumato.__version__`; looked up once, as that takes milliseconds."""
    return str(sfumato.__version__)
