"""The classes that a plan may name: methods, protocols, data sets, and their parts."""

import importlib
import inspect
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from sfumato.settings import near

USE = "use"
"""The key that names a class, in a table whose other keys are its settings."""


CAPTUM = "captum:"
"""The beginning of the names of Captum's methods, such as `captum:IntegratedGradients`."""


class SettingError(ValueError):
    """An error in a setting, with the keys that lead to it."""

    def __init__(self, keys: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.keys = keys


def exported(module: str, does: str = "__init__") -> dict[str, Callable[..., Any]]:
    """The dataclasses that a module exports and that have the attribute `does`, by their names."""
    home = importlib.import_module(module)
    things = {name: getattr(home, name) for name in home.__all__}
    return {
        name: thing
        for name, thing in things.items()
        if isinstance(thing, type) and is_dataclass(thing) and hasattr(thing, does) and not inspect.isabstract(thing)
    }


def method_classes() -> dict[str, Any]:
    """All methods by the short names of the command line, in the order of the lines of `sfumato.methods`.

    The short name is that of the file, or of the class if the file has several. All methods of Captum have one entry,
    "captum:NAME".
    """
    module = "sfumato.methods"
    classes: dict[str, Any] = exported(module, "__call__")
    names = [name for name in vars(importlib.import_module(module)) if name in classes]
    files = [file_name(classes[name]) for name in names]
    by_name = {}
    for name, file in zip(names, files, strict=True):
        short_name = file if files.count(file) == 1 else kebab(name)
        by_name[f"{CAPTUM}NAME" if short_name == "captum" else short_name] = classes[name]
    return by_name


def file_name(cls: Callable[..., Any]) -> str:
    """The name of the file that defines a class, as it stands in short names."""
    return cls.__module__.rpartition(".")[2].replace("_", "-")


def docstring(short_name: str, cls: Any) -> str:
    """What is said about a method: by its file, or by the class if the file has another method with the file's name."""
    of_file = short_name.partition(":")[0] == file_name(cls)
    return inspect.cleandoc((sys.modules[cls.__module__].__doc__ if of_file else cls.__doc__) or "")


def make_method(spec: Any, keys: tuple[str, ...]) -> Any:
    """Make the method of an entry in a plan. Its name is that of a class, or a short one, as for `--method`."""
    settings = {USE: spec} if isinstance(spec, str) else spec
    if isinstance(settings, Mapping):
        name = settings.get(USE, keys[-1])
        if isinstance(name, str) and name.startswith(CAPTUM):
            spec = {**settings, USE: "Captum", "name": name.removeprefix(CAPTUM)}
    return make(spec, {**exported("sfumato.methods", "__call__"), **method_classes()}, keys, "method")


def make(spec: Any, classes: Mapping[str, Callable[..., Any]], keys: tuple[str, ...], kind: str) -> Any:
    """Make the object of an entry in a plan: the name of one of the `classes`, or a table of its settings with the name
    under "use".

    A class of a third party is named by its dotted path, "package.module:Name". Raises `SettingError`.
    """
    settings = {USE: spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else None
    if settings is None:
        raise SettingError(keys, f"{keys[-1]!r} must be the name of a {kind} or a table of its settings; got {spec!r}")
    name = settings.pop(USE, keys[-1])
    if not isinstance(name, str):
        raise SettingError((*keys, USE), f"{USE!r} names a {kind}; got {name!r}")
    make = _find(name, classes, (*keys, USE) if isinstance(spec, Mapping) and USE in spec else keys, kind)
    takes = [field.name for field in fields(make) if field.init] if is_dataclass(make) else list(settings)
    for key, value in settings.items():
        if key not in takes:
            raise SettingError(
                (*keys, key), f"{name} has no setting {key!r}{near(key, takes)}; expected one of {', '.join(takes)}"
            )
        settings[key] = made(value, classes, (*keys, key))
    try:
        return make(**settings)
    except (ValueError, TypeError) as error:
        if lines := lines_of_classes(make, settings):
            place = (*keys, next(iter(lines))) if len(lines) == 1 else keys
            raise SettingError(place, f"{error}. Write {' and '.join(lines.values())}") from error
        raise SettingError(keys, str(error)) from error


CALL = re.compile(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*")
"""The name of a class, as text, also as it is made in Python."""


def lines_of_classes(make: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, str]:
    """The lines of a plan, by setting, for settings that name classes by texts alone, where tables do.

    Empty where there are none, or where they are of no use to `make`, which is called with the settings.
    """
    lines = {key: line for key, value in settings.items() if (line := _line(key, value))}
    try:
        tables = tomllib.loads("\n".join(lines.values()))
        make(**{**settings, **{key: made(value, settings_classes(), (key,)) for key, value in tables.items()}})
    except (ValueError, TypeError):
        return {}
    return lines


def _line(key: str, value: Any) -> str:
    """The line of a plan for a setting that names classes by a text; empty for other values.

    >>> _line("windows", "PhaseWindows"), _line("game", "delete")
    ('windows = { use = "PhaseWindows" }', '')
    >>> _line("perturbation", ("Blur(max_sigma=10)", "Fade()"))
    'perturbation = [{ use = "Blur", max_sigma = 10 }, { use = "Fade" }]'
    """
    tables = []
    for text in value if isinstance(value, tuple) else (value,):
        found = CALL.fullmatch(text) if isinstance(text, str) else None
        name = found and next((one for one in settings_classes() if plain(one) == plain(found[1])), None)
        if not found or not name:
            return ""
        arguments = [re.sub(r"\s*=\s*", " = ", argument.strip(), count=1) for argument in (found[2] or "").split(",")]
        named = all(re.match(r"\w+ = ", argument) for argument in arguments)  # others are for their reader to name
        parts = [f'{USE} = "{name}"', *(arguments if named else [])]
        tables.append(f"{{ {', '.join(parts)} }}")
    listed = f"[{', '.join(tables)}]" if isinstance(value, tuple) else "".join(tables)
    return f"{key} = {listed}" if tables else ""


def named_paths(entry: Any, name: str) -> list[str]:
    """The dotted paths that an entry in a plan names: of its own class or factory, and of those of its settings.

    >>> named_paths({"use": "mine.methods:make", "mask": {"use": "mine.masks:Disc"}, "steps": 3}, "made")
    ['mine.methods:make', 'mine.masks:Disc']
    """
    used = entry.get(USE, name) if isinstance(entry, Mapping) else entry if isinstance(entry, str) else ""
    paths = [used] if isinstance(used, str) and ":" in used else []
    settings = entry if isinstance(entry, Mapping) else {}
    for key, value in settings.items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Mapping):
                paths += named_paths(part, key)
    return paths


def _find(name: str, classes: Mapping[str, Callable[..., Any]], keys: tuple[str, ...], kind: str) -> Callable[..., Any]:
    for one, thing in classes.items():
        if plain(one) == plain(name):
            return thing
    module, _, attribute = name.partition(":")
    if not attribute:
        names = {
            thing: one for one, thing in reversed(list(classes.items()))
        }  # the first of a class with several names
        raise SettingError(
            keys, f"no {kind} {name!r}{near(name, classes)}; expected one of {', '.join(sorted(names.values()))}"
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingError(
            keys, f"{kind} {name!r} cannot be imported ({error}); expected package.module:Name"
        ) from error


def settings_classes() -> dict[str, Callable[..., Any]]:
    """The classes that a setting may name: all that `sfumato` exports, and ascents, rules of their steps, and moves."""
    return {**exported("sfumato.space"), **exported("sfumato.search"), **exported("sfumato")}


def plain(name: str) -> str:
    """A name without regard to case, hyphens and underscores.

    >>> plain("grad-cam") == plain("GradCAM")
    True
    """
    return name.casefold().replace("-", "").replace("_", "")


def kebab(name: str) -> str:
    """The name of a class in lower case, with hyphens.

    >>> kebab("ExcitationBackprop"), kebab("GradCAM"), kebab("IGOSPlus")
    ('excitation-backprop', 'grad-cam', 'igos-plus')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def made(value: Any, classes: Mapping[str, Callable[..., Any]], keys: tuple[str, ...]) -> Any:
    """A setting for a dataclass: lists become tuples, and a table names a class, of this kind or of any that is exported."""
    if isinstance(value, list):
        return tuple(made(item, classes, keys) for item in value)
    if isinstance(value, Mapping):
        return make(value, {**settings_classes(), **classes}, keys, "setting")
    return value
