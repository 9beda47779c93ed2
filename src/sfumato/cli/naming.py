"""What people type and what it means: methods by their names, with their settings, and numbers."""

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

N = TypeVar("N", int, float)

CAPTUM = "captum:"
"""Captum's methods go by the names of their classes, as `captum:IntegratedGradients`."""


Model = Annotated[str, typer.Option(help="A model; see `sfumato models`.")]
"""The option --model."""

Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Weights for the model, as torch.save or safetensors writes a state dict; code in it is not run. "
        "[default: the model's own]",
    ),
]
"""The option that goes with --model."""


def method_classes() -> dict[str, Any]:
    """Every method by a short name: that of its file, or of its class where a file holds several."""
    from sfumato.runs.plans.catalogue import exported

    classes: list[Any] = list(exported("sfumato.methods", "__call__").values())
    files = [cls.__module__.rpartition(".")[2].replace("_", "-") for cls in classes]
    named = {}
    for cls, file in zip(classes, files, strict=True):
        short = file if files.count(file) == 1 else _kebab(cls.__name__)
        named[f"{CAPTUM}NAME" if short == "captum" else short] = cls
    return named


def methods_named(names: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The methods of these names, separated by commas, each with those settings that it takes; one takes each."""
    classes = _classes_named(names)
    takes = {name: {field.name for field in fields(cls) if field.init} for name, cls in classes.items()}
    for setting in settings:
        if not any(setting in taken for taken in takes.values()):
            raise ValueError(f"method {names!r} has no {setting}; leave out --{setting}")
    made = {}
    for name, cls in classes.items():
        fitting = {setting: value for setting, value in settings.items() if setting in takes[name]}
        made[name] = cls(name=name, **fitting) if name.startswith(CAPTUM) else cls(**fitting)
    return made


def _classes_named(names: str) -> dict[str, Any]:
    """The class for each name between commas, as it was typed."""
    classes: dict[str, Any] = {}
    meant = set()
    for typed in names.split(","):
        name = typed.strip()
        if not name:
            raise ValueError(
                f"--method names an empty method in {names!r}; expected names separated by commas, e.g. grad-cam,extremal"
            )
        cls = _class_named(name)
        which = name if name.startswith(CAPTUM) else cls  # all of Captum's have one class here
        if which in meant:
            raise ValueError(f"method {name!r} is named twice in {names!r}; name each method once")
        meant.add(which)
        classes[name] = cls
    return classes


def _class_named(name: str) -> Any:
    """The class of that short name, class name, or dotted path "package.module:Name"."""
    known = method_classes()
    example = f"{CAPTUM}NAME"
    if name.startswith(CAPTUM):
        return known[example]
    for short, cls in known.items():
        if name.casefold().replace("_", "-") in (short, cls.__name__.casefold()) and short != example:
            return cls
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"no method {name!r}; expected one of {', '.join(known)}, or package.module:Name")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"method {name!r} cannot be imported ({error}); expected package.module:Name") from error
    if not (isinstance(cls, type) and is_dataclass(cls) and "__call__" in dir(cls)):
        raise ValueError(f"method {name!r} is no dataclass that can be called; derive it from sfumato.Method")
    return cls


def makes_masks(method: Any) -> bool:
    """Whether the method's results have masks of the picture, not of a layer: of these there is more to say than of a map."""
    return bool(getattr(method, "makes_masks", False)) and not getattr(method, "layer", "")


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers between commas, as `option` takes them.

    >>> numbers("0.05,0.1", "--areas")
    (0.05, 0.1)
    """
    return _separated(text, float, f"{option} takes numbers separated by commas, e.g. 0.05,0.1,0.2")


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers between commas, as `option` takes them.

    >>> whole_numbers("5,10", "--counts")
    (5, 10)
    """
    return _separated(text, int, f"{option} takes whole numbers separated by commas, e.g. 5,10,25")


def _separated(text: str, kind: Callable[[str], N], expected: str) -> tuple[N, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{expected}; got {text!r}") from None


def _kebab(name: str) -> str:
    """A class's name as a command line has it.

    >>> _kebab("ExcitationBackprop"), _kebab("GradCAM")
    ('excitation-backprop', 'grad-cam')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
