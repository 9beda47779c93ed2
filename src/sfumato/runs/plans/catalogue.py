"""The classes that a plan may name: methods, protocols, data sets, and their parts."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from sfumato.settings import near

USE = "use"
"""The key that names a class, in a table whose other keys are its settings."""


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
        settings[key] = _value(value, classes, (*keys, key))
    try:
        return make(**settings)
    except (ValueError, TypeError) as error:
        raise SettingError(keys, str(error)) from error


def _find(name: str, classes: Mapping[str, Callable[..., Any]], keys: tuple[str, ...], kind: str) -> Callable[..., Any]:
    plain = name.casefold().replace("-", "").replace("_", "")
    for one, thing in classes.items():
        if one.casefold() == plain:
            return thing
    module, _, attribute = name.partition(":")
    if not attribute:
        raise SettingError(
            keys, f"no {kind} {name!r}{near(name, classes)}; expected one of {', '.join(sorted(classes))}"
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingError(
            keys, f"{kind} {name!r} cannot be imported ({error}); expected package.module:Name"
        ) from error


def _value(value: Any, classes: Mapping[str, Callable[..., Any]], keys: tuple[str, ...]) -> Any:
    """A setting for a dataclass: lists become tuples, and a table names a class, of this kind or of any that is exported."""
    if isinstance(value, list):
        return tuple(_value(item, classes, keys) for item in value)
    if isinstance(value, Mapping):
        return make(value, {**exported("sfumato"), **classes}, keys, "setting")
    return value
