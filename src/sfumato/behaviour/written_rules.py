"""Reads rules that people write on a command line or in a TOML file:

rotation:15              the answer does not change under rotations up to 15 degrees; also search for the largest rotation
rotation                 only search for the largest rotation under which the answer does not change
flip                     the answer does not change if left and right are exchanged
shift:0.05+blur:2        the answer does not change under both transformations together
presence:tabby           f(x) > t if and only if the picture shows the class; t is learnt on a part of the pictures
presence:tabby>0.3       the same with t = 0.3
presence:tabby=cat       the model's class "tabby", which the data set calls "cat"

In a file, each rule is a table `[[rule]]` with `rule = "rotation:15"` and settings of its own. Settings above the tables are
for all rules.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sfumato.behaviour.invariance import Invariance
from sfumato.behaviour.presence import Presence
from sfumato.behaviour.transformations import TRANSFORMATIONS, Together, Transformation
from sfumato.data import labels
from sfumato.settings import check_number, line_of, near

PRESENCE = "presence"
OF_PRESENCE = ("threshold", "response", "learn", "seed")
OF_INVARIANCE = ("epsilon", "response", "draws", "seed", "target", "most", "strongest")
OF_ONE_RULE = ("threshold", "most")
"""Settings in the units of one rule, which cannot be set for all rules."""


@dataclass(frozen=True)
class WrittenRule:
    """A rule as a person wrote it, before the model and the data are known."""

    text: str
    transformation: Transformation | None = None
    """`None` for a rule on the presence of a class."""
    has_strength: bool = True
    """Whether the text has a strength, which is tested."""
    model_class: str = ""
    """The model's name of the class."""
    data_class: str = ""
    """The data set's name of the class; empty if the text does not have it."""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_search(self) -> bool:
        """Whether to search for the strongest transformation."""
        graded = self.transformation is not None and self.transformation.graded
        return graded and (not self.has_strength or bool(self.settings.get("strongest", True)))

    @property
    def most(self) -> float | None:
        """The strength at which the search begins; `None` for the default of the transformation."""
        return self.settings.get("most")

    def invariance(self, classes: Sequence[str]) -> Invariance:
        """The rule for a model with these classes. Raises `ValueError` for a rule on presence or a wrong target."""
        if self.transformation is None:
            raise ValueError(f"{self.text!r} is a rule on presence, not an invariance")
        settings = {name: value for name, value in self.settings.items() if name not in ("most", "strongest")}
        if (target := settings.pop("target", None)) is not None:
            settings["target"] = labels.find(classes, str(target))
        return Invariance(self.transformation, **settings)

    def presence(self, classes: Sequence[str], data_classes: Sequence[str]) -> Presence:
        """The rule for a model with `classes` and a data set with `data_classes`. Raises `ValueError` for an unknown class."""
        target = labels.find(classes, self.model_class)
        if not data_classes:
            raise ValueError(
                f"rule {self.text!r} needs to know what is in the pictures; put them into subfolders named by class"
            )
        return Presence(target, self._in_data(classes[target], data_classes), **self.settings)

    def _in_data(self, label: str, data_classes: Sequence[str]) -> str:
        """The data set's class with the written name, or else with the name, label or a synonym of the model's class."""
        if self.data_class:
            return data_classes[labels.find(data_classes, self.data_class)]
        names = {name.casefold(): name for name in reversed(data_classes)}
        for spelling in (self.model_class, label, *labels.synonyms(label)):
            folded = spelling.casefold()
            for variant in (folded, folded.replace(" ", "_"), folded.replace(" ", "-")):
                if variant in names:
                    return names[variant]
        listed = ", ".join(data_classes[: labels.LISTED]) + (", …" if len(data_classes) > labels.LISTED else "")
        raise ValueError(
            f"the data set has no class {self.model_class!r}{near(self.model_class, data_classes)}; it has {listed}. "
            f"Give the data set's name as {PRESENCE}:{self.model_class}=NAME"
        )


def parse_rule(text: str, settings: Mapping[str, Any] | None = None) -> WrittenRule:
    """The rule of a text, with those of the settings that fit its kind. Raises `ValueError` for text that is no rule.

    >>> parse_rule("rotation:15").transformation
    Rotation(strength=15.0)
    >>> parse_rule("presence:tabby=cat>0.3").settings
    {'threshold': 0.3}
    """
    settings = {} if settings is None else settings
    kind, _, argument = text.strip().partition(":")
    if kind.strip().casefold() == PRESENCE:
        return _presence(text, argument.strip(), settings)
    parts = [_part(part, text) for part in text.split("+")]
    transformations = tuple(transformation for transformation, _ in parts)
    has_strength = len(parts) > 1 or parts[0][1] or not transformations[0].graded
    transformation = transformations[0] if len(parts) == 1 else Together(parts=transformations)
    fitting = {name: value for name, value in settings.items() if name in OF_INVARIANCE}
    rule = WrittenRule(text, transformation, has_strength, settings=fitting)
    if rule.most is not None:
        check_number("most", rule.most, "the strength at which the search begins", above=0)
        transformation.at(rule.most)
    if not isinstance(fitting.get("strongest", True), bool):
        raise ValueError(f"strongest must be true or false; got {fitting['strongest']!r}")
    _check_invariance(rule)
    return rule


def read_rules(path: Path, settings: Mapping[str, Any]) -> tuple[list[WrittenRule], Mapping[str, Any] | None]:
    """The rules in a TOML file, and its table `[data]` if it has one. Settings in the file replace `settings`.

    Raises `ValueError`, with the file, the line and the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}; expected a TOML file of rules") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {str(path)!r}: it is not UTF-8 text; expected a TOML file of rules") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}; expected TOML") from error
    data, tables = content.pop("data", None), content.pop("rule", [])
    allowed = [name for name in dict.fromkeys((*OF_INVARIANCE, *OF_PRESENCE)) if name not in OF_ONE_RULE]
    for key in content:
        if key not in allowed:
            raise _error_at(path, text, None, key, f"no setting {key!r}{near(key, ('rule', 'data', *allowed))}")
    if data is not None and not isinstance(data, Mapping):
        raise _error_at(path, text, None, "data", f"[data] must be a table of a data set's settings; got {data!r}")
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables) or not tables:
        raise ValueError(
            f'{path}: there are no rules; expected tables [[rule]] with a line such as rule = "rotation:15"'
        )
    rules = [_table(path, text, index, table, {**settings, **content}) for index, table in enumerate(tables)]
    return rules, data


def _table(path: Path, text: str, index: int, table: Mapping[str, Any], settings: Mapping[str, Any]) -> WrittenRule:
    own = dict(table)
    rule_text = own.pop("rule", None)
    if not isinstance(rule_text, str):
        raise _error_at(path, text, index, "rule", f'rule must be a text such as "rotation:15"; got {rule_text!r}')
    is_presence = rule_text.partition(":")[0].strip().casefold() == PRESENCE
    allowed = OF_PRESENCE if is_presence else OF_INVARIANCE
    for key in own:
        if key not in allowed:
            kind = "a rule on presence" if is_presence else "an invariance"
            raise _error_at(
                path,
                text,
                index,
                key,
                f"{kind} has no setting {key!r}{near(key, allowed)}; expected one of {', '.join(allowed)}",
            )
    try:
        return parse_rule(rule_text, {**settings, **own})
    except ValueError as error:
        key = str(error).split()[0]
        raise _error_at(path, text, index, key if key in own else "rule", str(error)) from error


def _error_at(path: Path, text: str, index: int | None, key: str, message: str) -> ValueError:
    """An error with its line: that of the key above all tables, or in the table `[[rule]]` of this index."""
    line = line_of(text, (key,) if index is None else ("rule", index, key))
    return ValueError(f"{path}, line {line}, {key}: {message}" if line else f"{path}, {key}: {message}")


def _presence(text: str, argument: str, settings: Mapping[str, Any]) -> WrittenRule:
    fitting = {name: value for name, value in settings.items() if name in OF_PRESENCE}
    name, above, threshold = argument.partition(">")
    name, equals, data_class = name.partition("=")
    if not name.strip() or (equals and not data_class.strip()):
        raise ValueError(f"rule {text!r} names no class; expected e.g. {PRESENCE}:tabby or {PRESENCE}:tabby=cat")
    if above:
        fitting["threshold"] = _number(threshold, text)
    Presence(0, "", **fitting)  # raises if a setting is wrong
    return WrittenRule(text, model_class=name.strip(), data_class=data_class.strip(), settings=fitting)


def _part(part: str, text: str) -> tuple[Transformation, bool]:
    """A transformation, and whether its strength is written."""
    name, colon, strength = part.strip().partition(":")
    make = TRANSFORMATIONS.get(name.strip().casefold())
    if make is None:
        names = (PRESENCE, *TRANSFORMATIONS)
        raise ValueError(
            f"no rule {name.strip()!r}{near(name.strip(), names)}; expected one of {', '.join(names)}, as in rotation:15"
        )
    return (make(strength=_number(strength, text)), True) if colon else (make(), False)  # type: ignore[call-arg]


def _number(number: str, text: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise ValueError(f"rule {text!r}: {number.strip()!r} is no number; expected e.g. rotation:15") from None


def _check_invariance(rule: WrittenRule) -> None:
    """Raise `ValueError` if a setting is wrong, before the model and the data are loaded."""
    settings = {name: value for name, value in rule.settings.items() if name not in ("target", "most", "strongest")}
    target = rule.settings.get("target")
    if isinstance(target, bool) or not isinstance(target, str | int | None):
        raise ValueError(f"target must be a class, by index or label; got {target!r}")
    if rule.transformation is not None:
        replace(Invariance(rule.transformation), **settings)
