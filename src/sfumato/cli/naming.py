"""Values of options: methods by their names, with their settings, choices, and lists of numbers."""

import difflib
import importlib
import inspect
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sfumato.settings import near

if TYPE_CHECKING:
    from sfumato.models import Classifier

N = TypeVar("N", int, float)

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

Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Names of the classes: text with one in each line, or JSON. [default: the checkpoint's or the model's]",
    ),
]
"""The option --labels."""


Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting of the method, with a value as in a plan, e.g. evenly=true, or mask=SmoothMask, or perturbation="
        "'{use=\"Blur\", max_sigma=10}'; may be repeated.",
        show_default=False,
    ),
]
"""The option --set."""


def build_methods(names: str, options: Mapping[str, Any], settings: Sequence[str] = ()) -> dict[str, Any]:
    """Build the methods of these names, separated by commas. Each gets the settings that it has.

    `options` are settings with options of their own, such as --areas; `settings` are the texts of --set. Raises `ValueError`
    if none of the methods has a setting, or for values that cannot be used; the message names the option.
    """
    from sfumato.runs.plans.catalogue import CAPTUM, lines_of_classes

    classes = _find_classes(names)
    values = {**options, **_values(settings, options)}
    own_names = {name: [field.name for field in fields(cls) if field.init] for name, cls in classes.items()}
    for setting in values:
        if not any(setting in own for own in own_names.values()):
            all_names = list(dict.fromkeys(one for own in own_names.values() for one in own))
            remedy = f"leave out --{setting}"
            if setting not in options:
                remedy = f"expected one of {', '.join(all_names)}{near(setting, all_names)}"
            raise ValueError(f"method {names!r} has no {setting}; {remedy}")
    methods = {}
    for name, cls in classes.items():
        own = {setting: value for setting, value in values.items() if setting in own_names[name]}
        captum = {"name": name.removeprefix(CAPTUM)} if name.startswith(CAPTUM) else {}
        try:
            methods[name] = cls(**captum, **own)
        except (ValueError, TypeError) as error:
            lines = [f"--set {line!r}" for line in lines_of_classes(cls, {**captum, **own}).values()]
            remedy = f". Write {' '.join(lines)}" if lines else ""
            raise ValueError(_in_options(str(error), own, options) + remedy) from error
    return methods


def _values(settings: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the texts of --set, "NAME=VALUE", give."""
    from sfumato.runs.plans.catalogue import SettingError, made, settings_classes

    values: dict[str, Any] = {}
    for text in settings:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not (name.isidentifier() and sign and value):
            raise ValueError(f"--set takes NAME=VALUE; got {text!r}. Write e.g. --set steps=300")
        if name in values or name in options:
            twice = f"--{name} and by --set" if name in options else "--set twice"
            raise ValueError(f"{name} is given by {twice}; give it once")
        parts = settings_classes()
        try:
            values[name] = parts[value]() if value in parts else made(parsed(value), parts, ("--set", name))
        except (SettingError, TypeError) as error:
            raise ValueError(f"--set {name}={value}: {error}") from error
    return values


def parsed(text: str) -> Any:
    """The value of a text: TOML, as in a plan, or numbers separated by commas, true, false, none; any other text is itself.

    >>> parsed("0.1"), parsed("0.1,0.2"), parsed("log-odds"), parsed("True"), parsed('{use="Blur", max_sigma=10}')
    (0.1, [0.1, 0.2], 'log-odds', True, {'use': 'Blur', 'max_sigma': 10})
    """
    words = {"true": True, "false": False, "none": None}
    if text.casefold() in words:
        return words[text.casefold()]
    for form in (text, f"[{text}]") if "," in text else (text,):
        try:
            content = tomllib.loads(f"value = {form}")
        except tomllib.TOMLDecodeError:
            continue
        if list(content) == ["value"]:
            return content["value"]
    return text


def _in_options(message: str, settings: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """The message of a method about a setting, with the option by which the setting was given."""
    setting = re.match(r"\w*", message)[0]  # type: ignore[index]  # it matches every text
    if setting not in settings:
        return message
    return f"--{message}" if setting in options else f"--set {message}"


def _find_classes(names: str) -> dict[str, Any]:
    """The classes of names separated by commas, by the names as they were typed."""
    from sfumato.runs.plans.catalogue import CAPTUM

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
    from sfumato.runs.plans.catalogue import CAPTUM, method_classes, plain

    classes = method_classes()
    captum = f"{CAPTUM}NAME"
    if name.startswith(CAPTUM):
        return classes[captum]
    for short_name, cls in classes.items():
        if plain(name) in (plain(short_name), plain(cls.__name__)) and short_name != captum:
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


def place_at_layer(method: Any, classifier: "Classifier", model: str, needed: bool = False) -> Any:
    """The method with its layer, or with the classifier's default. Raises `ValueError` if there is no such layer, or none.

    Methods that work without a layer may have none, unless it is `needed`.
    """
    from sfumato.layers.capture import nearest_layers, place_of
    from sfumato.models import Detector

    method = classifier.placed(method)
    layer = getattr(method, "layer", "")
    finds_it = isinstance(classifier, Detector)  # a method finds it then, which takes some passes
    if not layer and (needed or (getattr(method, "needs_layer", False) and not finds_it)):
        raise ValueError(
            f"model {model!r} has no default layer for this; name one with --layer; see: sfumato layers {model}"
        )
    names = dict(classifier.net.named_modules(remove_duplicate=False))
    if place_of(classifier.net, layer) and layer not in names:
        nearest = nearest_layers(layer, names)
        hint = f"; near ones are {', '.join(nearest)}. Write --layer {nearest[0]}" if nearest else ""
        raise ValueError(f"--layer: model {model!r} has no layer {layer!r}{hint}; see all with: sfumato layers {model}")
    return method


def makes_masks(method: Any) -> bool:
    """Whether the method's results have masks of the picture, not of a layer. Their figures show more than a map."""
    return bool(getattr(method, "makes_masks", False)) and not getattr(method, "layer", "")


def check_choice(option: str, value: str | None, choices: Sequence[str]) -> None:
    """Raise `ValueError` unless the value of an option is one of its choices, or was not given.

    >>> check_choice("--game", "presrve", ["preserve", "delete"])
    Traceback (most recent call last):
    ValueError: --game is preserve or delete; got 'presrve'. Write --game preserve
    """
    if value is not None and value not in choices:
        similar = difflib.get_close_matches(value.casefold(), choices, n=1) or choices
        *first, last = choices
        raise ValueError(f"{option} is {', '.join(first)} or {last}; got {value!r}. Write {option} {similar[0]}")


def check_count(option: str, value: int | None, example: int) -> None:
    """Raise `ValueError` unless the value of an option is at least 1, or was not given."""
    if value is not None and value < 1:
        raise ValueError(f"{option} is a whole number, at least 1; got {value}. Write e.g. {option} {example}")


def check_share(option: str, value: float | None) -> None:
    """Raise `ValueError` unless the value of an option is a share of the score, or was not given.

    >>> check_share("--smallest", 90)
    Traceback (most recent call last):
    ValueError: --smallest is a share of the score, more than 0 and at most 1; got 90. Write --smallest 0.9
    """
    if value is not None and not 0 < value <= 1:
        share = value / 100 if 10 <= value <= 100 else 0.9  # a percentage
        raise ValueError(
            f"{option} is a share of the score, more than 0 and at most 1; got {value:g}. Write {option} {share:g}"
        )


def fractions(text: str, option: str) -> tuple[float, ...]:
    """The growing fractions of an option, separated by commas, between 0 and 1. Raises `ValueError`.

    >>> fractions("20,5", "--areas")
    Traceback (most recent call last):
    ValueError: --areas takes growing fractions of the picture, more than 0 and less than 1; got 20,5. Write --areas 0.05,0.2
    """
    values = numbers(text, option)
    if all(0 < value < 1 for value in values) and list(values) == sorted(set(values)):
        return values
    meant = sorted({value / 100 if value >= 1 else value for value in values if 0 < value < 100})
    raise ValueError(
        f"{option} takes growing fractions of the picture, more than 0 and less than 1; got {text}. Write "
        f"{option} {','.join(f'{value:g}' for value in meant or (0.05, 0.1, 0.2))}"
    )


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
