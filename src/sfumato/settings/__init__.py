"""Checks of settings, and frozen dataclasses as JSON: so a result's file holds how the result was made."""

import importlib
import inspect
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, field, fields, is_dataclass, replace
from functools import cache, wraps
from itertools import islice
from pathlib import PurePath
from types import ModuleType
from typing import Any, ParamSpec, Self, TypeGuard, TypeVar

from sfumato.settings.words import listed as listed
from sfumato.settings.words import near as near
from sfumato.settings.words import no_argument, no_setting

CLASS = "class"

BY_NAME = ("torch:dtype", "torch:device")
"""Types whose values are written as text. This module does not import torch, so that the command line's help is fast."""

PER_QUERY = {"per_query": True}
"""Metadata for fields of a dataclass that may hold a tuple with one value for each query."""

P = ParamSpec("P")
T = TypeVar("T")


def check_memory(memory: float | None) -> None:
    """Raise `ValueError` unless the memory, in GiB, is a number above 0 or `None`."""
    if memory is not None:
        check_number("memory", memory, "in GiB", above=0)


WIDEST_VALUE = 60
"""How many characters of a value an error shows."""


def told(value: Any) -> str:
    """A value in an error: on one line, the beginning of a long one.

    >>> told("blur"), told("x" * 100)[-4:]
    ("'blur'", 'xxx…')
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= WIDEST_VALUE else f"{text[: WIDEST_VALUE - 1]}…"


def check_number(
    name: str,
    value: Any,
    meaning: str,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> None:
    """Raise `ValueError` unless the value is a finite number, from `least` to `most`, more than `above` and less than `below`.

    >>> check_number("rate", "fast", "a length in places", above=0)
    Traceback (most recent call last):
    ValueError: rate is a length in places, more than 0; got 'fast'
    """
    limits = [
        f"{words} {limit:g}"
        for words, limit in (("at least", least), ("more than", above), ("less than", below), ("at most", most))
        if limit is not None
    ]
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or (least is not None and value < least)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
        or (most is not None and value > most)
    ):
        raise ValueError(
            f"{name} is {', '.join([meaning, ' and '.join(limits)]) if limits else meaning}; got {told(value)}"
        )


def is_whole(value: Any, least: float = -math.inf) -> TypeGuard[int]:
    """Whether the value is a whole number, at least `least`. True and False are not, although they are `int` in Python.

    >>> is_whole(1, least=1), is_whole(0, least=1), is_whole(True), is_whole(2.0)
    (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise `ValueError` unless the value is a whole number, at least `least`.

    >>> check_whole("steps", 2.5)
    Traceback (most recent call last):
    ValueError: steps must be a whole number from 1 up; got 2.5
    """
    if not is_whole(value, least):
        raise ValueError(f"{name} must be a whole number from {least} up; got {told(value)}")


def number(value: Any, digits: int = 6) -> float | None:
    """A number for JSON, rounded to `digits` digits; `None` for NaN and infinity, which JSON does not have.

    >>> number(1 / 3), number(float("nan"))
    (0.333333, None)
    """
    rounded = float(f"{float(value):.{digits}g}")
    return rounded if math.isfinite(rounded) else None


def percent(share: float | None) -> str:
    """A share as text, in per cent: to one decimal, or of less than a thousandth to two digits.

    >>> percent(0.05), percent(0.1234), percent(-0.004), percent(0.00042), percent(-0.0), percent(None)
    ('5 %', '12.3 %', '-0.4 %', '0.042 %', '0 %', '–')
    """
    if share is None or not math.isfinite(share):
        return "–"
    share += 0.0  # which has no sign
    return f"{round(100 * share, 1) if abs(share) >= 0.001 else float(f'{100 * share:.2g}'):g} %"


def numbered(names: Iterable[str]) -> list[str]:
    """The names, with a number where one occurs again.

    >>> numbered(["Blur", "Fade", "Blur"])
    ['Blur', 'Fade', 'Blur 2']
    """
    counts: Counter[str] = Counter()
    found = []
    for name in names:
        counts[name] += 1
        found.append(name if counts[name] == 1 else f"{name} {counts[name]}")
    return found


def batched(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """The values in lists of `size`; the last may be shorter.

    >>> list(batched("abc", 2))
    [['a', 'b'], ['c']]
    """
    rest = iter(values)
    while batch := list(islice(rest, size)):
        yield batch


def check_seed(seed: Any) -> None:
    """Raise `ValueError` unless the seed is a whole number of 64 bits, as torch's generators need."""
    if not is_whole(seed):
        raise ValueError(f"seed must be a whole number; got {told(seed)}")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must be from -2**63 to 2**64 - 1; got {seed}")


def check_flag(name: str, value: Any) -> None:
    """Raise `ValueError` unless the value is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is True or False; got {told(value)}")


@cache
def parameters(function: Callable[..., Any]) -> tuple[str, ...] | None:
    """The names of the arguments of a function, without `self`; `None` if it takes any keyword."""
    found = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in found):
        return None
    return tuple(parameter.name for parameter in found if parameter.name != "self")


class Settings:
    """The base of configurations. A setting that a class does not have is a `TypeError` that says what to write instead."""

    def __new__(cls, /, *_values: Any, **settings: Any) -> Self:
        known = parameters(cls.__init__)
        for word in settings:
            if known is not None and word not in known:
                call = parameters(cls.__call__) if "__call__" in dir(cls) else ()
                raise TypeError(no_setting(cls.__name__, word, known, call or ()))
        return super().__new__(cls)


def keywords_told(function: Callable[P, T]) -> Callable[P, T]:
    """The function, with a `TypeError` that says what to write instead of a keyword that it does not take.

    The call of an object with settings also says which word is a setting.
    """
    known = parameters(function) or ()

    @wraps(function)
    def told(*values: P.args, **keywords: P.kwargs) -> T:
        for word in keywords:
            if word not in known:
                of = values[0] if values and function.__name__ == "__call__" else None
                name = function.__name__ if of is None else type(of).__name__
                raise TypeError(no_argument(name, word, known, None if of is None else parameters(type(of).__init__)))
        return function(*values, **keywords)

    return told


LATER = "later"


def later(default: T) -> T:
    """The default of a setting that a class did not have when earlier runs were made. `as_key` leaves it out at its default."""
    return field(default=default, metadata={LATER: True})


BEFORE = "before"


def renewed(default: T, before: Any) -> T:
    """The default of a setting that had another one when earlier runs were made, although their rows are what it gives now.

    `as_key` writes the earlier one.
    """
    return field(default=default, metadata={BEFORE: before})


def as_json(value: Any) -> Any:
    """A configuration as numbers, strings, lists and dicts.

    Data types and devices of torch, and file paths, become text. A function or class becomes its dotted path, any other value
    the dotted path of its class.
    """
    return _plain(value, as_json, lambda _: True)


def as_key(value: Any) -> Any:
    """Like `as_json`, without `later` settings at their defaults, and with the earlier default of `renewed` ones, so that
    earlier runs have the same key."""
    key = _plain(
        value, as_key, lambda entry: not (entry.metadata.get(LATER) and getattr(value, entry.name) == entry.default)
    )
    if is_dataclass(value) and not isinstance(value, type):
        for entry in fields(value):
            if BEFORE in entry.metadata and getattr(value, entry.name) == entry.default:
                key[entry.name] = entry.metadata[BEFORE]
    return key


def _plain(value: Any, convert: Callable[[Any], Any], counts: Callable[["Field[Any]"], bool]) -> Any:
    """The value as JSON. `convert` is applied to its parts; `counts` selects the fields of a dataclass."""
    if is_dataclass(value) and not isinstance(value, type):
        return {CLASS: public_path(type(value))} | {
            entry.name: convert(getattr(value, entry.name)) for entry in fields(value) if entry.init and counts(entry)
        }
    if isinstance(value, tuple | list):
        return [convert(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): convert(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    if isinstance(value, PurePath) or dotted_path(type(value)) in BY_NAME:
        return str(value)
    return dotted_path(value if hasattr(value, "__qualname__") else type(value))


def per_query(value: Any, path: str) -> list[str]:
    """The dotted paths, from `path`, at which `as_json(value)` holds lists with one value for each query.

    >>> from sfumato.scores import Logit
    >>> per_query(Logit(3) - Logit((1, 2)), "score")
    ['score.terms.1.1.target']
    """
    if is_dataclass(value) and not isinstance(value, type):
        paths = []
        for entry in fields(value):
            item, name = getattr(value, entry.name), f"{path}.{entry.name}"
            listed = entry.metadata.get("per_query") and isinstance(item, tuple | list)
            paths += [name] if listed else per_query(item, name)
        return paths
    if isinstance(value, tuple | list):
        return [name for place, item in enumerate(value) for name in per_query(item, f"{path}.{place}")]
    return []


def part_of(value: T, query: int, queries: int) -> T:
    """A configuration for one of so many queries: of each setting with one value for each query, that of this one.

    >>> from sfumato.scores import Logit
    >>> part_of(2.0 * Logit((1, 2)), 1, 2)
    Combined(terms=((2.0, Logit(target=(2,))),))
    """
    if isinstance(value, tuple):
        return tuple(part_of(item, query, queries) for item in value)  # type: ignore[return-value]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changes = {}
    for entry in fields(value):
        item = getattr(value, entry.name)
        if not entry.init:
            continue
        listed = entry.metadata.get("per_query") and isinstance(item, tuple | list) and len(item) == queries
        changes[entry.name] = (item[query],) if listed else part_of(item, query, queries)
    return replace(value, **changes)


def from_json(value: Any) -> Any:
    """The configuration of what `as_json` wrote. It makes only classes of this package; dotted paths stay text.

    Raises `ValueError` for a class of another package, and for settings that the class does not have or does not accept.
    """
    if isinstance(value, Mapping):
        items = {key: from_json(item) for key, item in value.items() if key != CLASS}
        return _build(value[CLASS], items) if CLASS in value else items
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    return value


KEY = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[\w-]+)"""
"""A pattern for a key of TOML: bare, or between quotes, where it may have spaces and dots."""

DOTTED_KEY = rf"{KEY}(?:\s*\.\s*{KEY})*"


def _keys(dotted: str) -> tuple[str, ...]:
    """The parts of a dotted key."""
    parts = []
    for key in re.findall(KEY, dotted):
        try:
            parts.append(json.loads(key) if key.startswith('"') else key.strip("'"))
        except ValueError:  # an escape that JSON does not have, or a line of a longer text instead of a key
            parts.append(key.strip('"'))
    return tuple(parts)


def line_of(text: str, keys: tuple[str | int, ...]) -> int | None:
    """The number of the line of a TOML file with this key, or else with the innermost table around it; `None` without both.

    For tables `[[name]]`, an index follows the name in `keys`.

    >>> line_of("[[rule]]\\n[[rule]]\\nrule = 'flip'", ("rule", 1, "rule"))
    3
    >>> line_of("[names]\\n'hot dog' = 1", ("names", "hot dog"))
    2
    """
    best: int | None = None
    depth = 0
    table: tuple[str | int, ...] = ()
    counts: dict[tuple[str | int, ...], int] = {}
    for place, line in enumerate(text.splitlines(), 1):
        if header := re.match(rf"\s*(\[+)\s*({DOTTED_KEY})\s*\]+", line):
            table = _keys(header[2])
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            here = table
        elif key := re.match(rf"\s*({DOTTED_KEY})\s*=", line):
            here = (*table, *_keys(key[1]))
        else:
            continue
        if here == keys[: len(here)] and len(here) > depth:
            best, depth = place, len(here)
    return best


def dotted_path(value: type | Callable[..., Any]) -> str:
    """The path "package.module:Name" of a class or function."""
    return f"{value.__module__}:{value.__qualname__}"


ROOT = __name__.split(".")[0]

FORMER_HOMES = (ROOT, f"{ROOT}.search", f"{ROOT}.space")
"""Packages that now export classes whose modules in earlier versions no longer exist."""


def public_path(cls: type) -> str:
    """The path of a class in files: for this package, that of the outermost package that exports it, so modules may move."""
    return current_path(dotted_path(cls))


@cache
def current_path(path: str) -> str:
    """The path that files now have for a class of this package, which an earlier version wrote by its module.

    Other paths stay as they are.

    >>> current_path("sfumato.masks:SmoothMask"), current_path("mine:SmoothMask")
    ('sfumato:SmoothMask', 'mine:SmoothMask')
    """
    return _exported(path) or path if path.split(".", maxsplit=1)[0] == ROOT else path


def public_names(namespace: Mapping[str, Any]) -> list[str]:
    """The `__all__` of a package that only exports names: those of its lines `from … import name as name`.

    They are sorted: constants first, then classes, then functions.
    """
    names = [
        name
        for name, value in namespace.items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and value is not public_names
    ]
    return sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))


def _exported(path: str) -> str:
    """The path of a class by the outermost package that exports its name; empty if none does."""
    module, _, name = path.partition(":")
    parts = module.split(".")
    packages = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    for package in dict.fromkeys([*packages, *FORMER_HOMES]):
        try:
            exported = getattr(importlib.import_module(package), "__all__", ())
        except ModuleNotFoundError:  # a module of an earlier version
            continue
        if name in exported:
            return f"{package}:{name}"
    return ""


def _build(path: Any, settings: Mapping[str, Any]) -> Any:
    """The configuration of the class at a dotted path, with these settings."""
    configuration = _configuration(path)
    names = {entry.name for entry in fields(configuration) if entry.init}
    if unknown := sorted(set(settings) - names):
        raise ValueError(
            f"{path!r} has no setting {', '.join(map(repr, unknown))} in this version of sfumato; update sfumato, or "
            "remove it"
        )
    try:
        return configuration(**settings)
    except TypeError as error:  # a missing setting, or one of a wrong type
        raise ValueError(f"{path!r} cannot be built from {dict(settings)}: {error}") from error


def _configuration(path: Any) -> type:
    """The configuration class of a dotted path. Raises `ValueError` if it is not one of this package."""
    module, _, name = path.partition(":") if isinstance(path, str) else ("", "", "")
    if module.split(".")[0] != ROOT:
        raise ValueError(f"{path!r} is not a configuration of this package; import and build it yourself")
    module, _, name = current_path(path).partition(":")
    try:
        cls = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ValueError(f"{path!r} names no configuration: {error}") from error
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise ValueError(f"{path!r} names no configuration")
    return cls
