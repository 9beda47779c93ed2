"""Values of options: methods by their names, with their settings, and lists of numbers."""

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sfumato.settings import near

if TYPE_CHECKING:
    from sfumato.models import Classifier

N = TypeVar("N", int, float)

CAPTUM = "captum:"
"""The beginning of the names of Captum's methods, such as `captum:IntegratedGradients`."""


Model = Annotated[str, typer.Option(help="A model; see `sfumato models`.")]
"""The option --model."""

Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A state dict for the model, written by torch.save or safetensors; code in the file is not run. "
        "[default: the model's own weights]",
    ),
]
"""The option --checkpoint."""


def method_classes() -> dict[str, Any]:
    """All methods by short names: the name of the file, or of the class if the file has several."""
    from sfumato.runs.plans.catalogue import exported

    classes: list[Any] = list(exported("sfumato.methods", "__call__").values())
    files = [cls.__module__.rpartition(".")[2].replace("_", "-") for cls in classes]
    by_name = {}
    for cls, file in zip(classes, files, strict=True):
        name = file if files.count(file) == 1 else _kebab(cls.__name__)
        by_name[f"{CAPTUM}NAME" if name == "captum" else name] = cls
    return by_name


def build_methods(names: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Build the methods of these names, separated by commas. Each gets the settings that it has.

    Raises `ValueError` if none of them has a setting.
    """
    classes = _find_classes(names)
    setting_names = {name: {field.name for field in fields(cls) if field.init} for name, cls in classes.items()}
    for setting in settings:
        if not any(setting in own for own in setting_names.values()):
            raise ValueError(f"method {names!r} has no {setting}; leave out --{setting}")
    methods = {}
    for name, cls in classes.items():
        own = {setting: value for setting, value in settings.items() if setting in setting_names[name]}
        methods[name] = cls(name=name, **own) if name.startswith(CAPTUM) else cls(**own)
    return methods


def _find_classes(names: str) -> dict[str, Any]:
    """The classes of names separated by commas, by the names as they were typed."""
    classes: dict[str, Any] = {}
    keys = set()
    for part in names.split(","):
        name = part.strip()
        if not name:
            raise ValueError(
                f"--method has an empty name in {names!r}; expected names separated by commas, e.g. grad-cam,extremal"
            )
        cls = _find_class(name)
        key = name if name.startswith(CAPTUM) else cls  # all methods of Captum have one class here
        if key in keys:
            raise ValueError(f"method {name!r} is named twice in {names!r}; name each method once")
        keys.add(key)
        classes[name] = cls
    return classes


def _find_class(name: str) -> Any:
    """The class with this short name, class name, or dotted path "package.module:Name"."""
    classes = method_classes()
    captum = f"{CAPTUM}NAME"
    if name.startswith(CAPTUM):
        return classes[captum]
    for short_name, cls in classes.items():
        if name.casefold().replace("_", "-") in (short_name, cls.__name__.casefold()) and short_name != captum:
            return cls
    module, _, attribute = name.partition(":")
    if not attribute:
        hint = near(name.casefold().replace("_", "-"), classes)
        raise ValueError(f"no method {name!r}; expected one of {', '.join(classes)}, or package.module:Name{hint}")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"method {name!r} cannot be imported ({error}); expected package.module:Name") from error
    if not (isinstance(cls, type) and is_dataclass(cls) and "__call__" in dir(cls)):
        raise ValueError(f"method {name!r} is not a dataclass that can be called; derive it from sfumato.Method")
    if inspect.isabstract(cls):
        raise ValueError(f"method {name!r} does not define {' and '.join(sorted(cls.__abstractmethods__))}")
    return cls


def place_at_layer(method: Any, classifier: "Classifier", model: str) -> Any:
    """The method with its layer, or with the classifier's default. Raises `ValueError` if there is none."""
    method = classifier.placed(method)
    if not method.layer:
        raise ValueError(
            f"model {model!r} has no default layer for this; name one with --layer; see: sfumato layers {model}"
        )
    return method


def makes_masks(method: Any) -> bool:
    """Whether the method's results have masks of the picture, not of a layer. Their figures show more than a map."""
    return bool(getattr(method, "makes_masks", False)) and not getattr(method, "layer", "")


def numbers(text: str, option: str) -> tuple[float, ...]:
    """The numbers of an option, separated by commas. Raises `ValueError`.

    >>> numbers("0.05,0.1", "--areas")
    (0.05, 0.1)
    """
    return _split(text, float, f"{option} takes numbers separated by commas, e.g. 0.05,0.1,0.2")


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """The whole numbers of an option, separated by commas. Raises `ValueError`.

    >>> whole_numbers("5,10", "--counts")
    (5, 10)
    """
    return _split(text, int, f"{option} takes whole numbers separated by commas, e.g. 5,10,25")


def _split(text: str, convert: Callable[[str], N], expected: str) -> tuple[N, ...]:
    """The converted parts of a text, separated by commas; the error begins with `expected`."""
    try:
        return tuple(convert(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{expected}; got {text!r}") from None


def _kebab(name: str) -> str:
    """The name of a class in lower case, with hyphens.

    >>> _kebab("ExcitationBackprop"), _kebab("GradCAM")
    ('excitation-backprop', 'grad-cam')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
