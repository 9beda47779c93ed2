"""Rules as people write them, on a command line or in a TOML file:

rotation:15              the answer stays when the picture is turned by up to 15 degrees; also: up to how many does it?
rotation                 only: up to how many degrees does the answer stay?
flip                     it stays when left and right are exchanged
shift:0.05+blur:2        it stays when both are done
presence:tabby           f(x) > t if and only if the class is there; t is learnt on a part of the pictures
presence:tabby>0.3       the same with t = 0.3
presence:tabby=cat       the model's class "tabby", which the data set calls "cat"

In a file, each is a table `[[rule]]` with `rule = "rotation:15"` and settings of its own; those above the tables are for all.
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
"""In units that only one rule has."""


@dataclass(frozen=True)
class Asked:
    """A rule as it was written, before model and data are known."""

    text: str
    transformation: Transformation | None = None
    """`None` for a rule on the presence of a class."""
    given: bool = True
    """Whether its strength was given, to be tested."""
    named: str = ""
    """What the model calls the class."""
    called: str = ""
    """What the data set calls it, where that was said."""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def searched(self) -> bool:
        """Whether the strongest transformation is asked for."""
        graded = self.transformation is not None and self.transformation.graded
        return graded and (not self.given or bool(self.settings.get("strongest", True)))

    @property
    def most(self) -> float | None:
        """Where the search begins, if that was said."""
        return self.settings.get("most")

    def invariance(self, classes: Sequence[str]) -> Invariance:
        """The rule for a model of these classes."""
        if self.transformation is None:
            raise ValueError(f"{self.text!r} is no invariance")
        settings = {name: value for name, value in self.settings.items() if name not in ("most", "strongest")}
        if (target := settings.pop("target", None)) is not None:
            settings["target"] = labels.find(classes, str(target))
        return Invariance(self.transformation, **settings)

    def presence(self, classes: Sequence[str], data_classes: Sequence[str]) -> Presence:
        """The rule for a model of these classes, on a data set of those."""
        target = labels.find(classes, self.named)
        if not data_classes:
            raise ValueError(
                f"rule {self.text!r} needs to know what is in the pictures; sort them into subfolders named by class"
            )
        return Presence(target, self._in_data(classes[target], data_classes), **self.settings)

    def _in_data(self, label: str, data_classes: Sequence[str]) -> str:
        """The data set's class that was named, or which the label or one of its synonyms means."""
        if self.called:
            return data_classes[labels.find(data_classes, self.called)]
        known = {name.casefold(): name for name in reversed(data_classes)}
        for spelling in (self.named, label, *labels.synonyms(label)):
            plain = spelling.casefold()
            for one in (plain, plain.replace(" ", "_"), plain.replace(" ", "-")):
                if one in known:
                    return known[one]
        listed = ", ".join(data_classes[: labels.LISTED]) + (", …" if len(data_classes) > labels.LISTED else "")
        raise ValueError(
            f"the data set has no class {self.named!r}{near(self.named, data_classes)}; it has {listed}: "
            f"say which is meant with {PRESENCE}:{self.named}=NAME"
        )


def asked(text: str, settings: Mapping[str, Any] | None = None) -> Asked:
    """What a rule's text means; of the settings, those that are for its kind.

    >>> asked("rotation:15").transformation
    Rotation(strength=15.0)
    >>> asked("presence:tabby=cat>0.3").settings
    {'threshold': 0.3}
    """
    settings = {} if settings is None else settings
    kind, _, rest = text.strip().partition(":")
    if kind.strip().casefold() == PRESENCE:
        return _presence(text, rest.strip(), settings)
    parts = [_part(part, text) for part in text.split("+")]
    transformations = tuple(transformation for transformation, _ in parts)
    given = len(parts) > 1 or parts[0][1] or not transformations[0].graded
    transformation = transformations[0] if len(parts) == 1 else Together(parts=transformations)
    fitting = {name: value for name, value in settings.items() if name in OF_INVARIANCE}
    rule = Asked(text, transformation, given, settings=fitting)
    if rule.most is not None:
        check_number("most", rule.most, "the strongest to be tried", above=0)
        transformation.at(rule.most)
    if not isinstance(fitting.get("strongest", True), bool):
        raise ValueError(f"strongest must be true or false; got {fitting['strongest']!r}")
    _invariance_settings(rule)
    return rule


def read(path: Path, settings: Mapping[str, Any]) -> tuple[list[Asked], Mapping[str, Any] | None]:
    """The rules in a TOML file, over these settings, and its table `[data]`, if it has one.

    Raises `ValueError` that names the file, the line and the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}; expected a TOML file of rules") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {str(path)!r}: it is no UTF-8 text; expected a TOML file of rules") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}; expected TOML") from error
    data, tables = content.pop("data", None), content.pop("rule", [])
    known = [name for name in dict.fromkeys((*OF_INVARIANCE, *OF_PRESENCE)) if name not in OF_ONE_RULE]
    for key in content:
        if key not in known:
            raise _at(path, text, None, key, f"no setting {key!r}{near(key, ('rule', 'data', *known))}")
    if data is not None and not isinstance(data, Mapping):
        raise _at(path, text, None, "data", f"[data] is a table of a data set's settings; got {data!r}")
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables) or not tables:
        raise ValueError(f'{path}: there are no rules; expected tables [[rule]], each with rule = "rotation:15" or so')
    rules = [_table(path, text, index, table, {**settings, **content}) for index, table in enumerate(tables)]
    return rules, data


def _table(path: Path, text: str, index: int, table: Mapping[str, Any], settings: Mapping[str, Any]) -> Asked:
    own = dict(table)
    written = own.pop("rule", None)
    if not isinstance(written, str):
        raise _at(path, text, index, "rule", f'a rule is a text such as "rotation:15"; got {written!r}')
    about_class = written.partition(":")[0].strip().casefold() == PRESENCE
    takes = OF_PRESENCE if about_class else OF_INVARIANCE
    for key in own:
        if key not in takes:
            kind = "a rule on presence" if about_class else "an invariance"
            raise _at(
                path,
                text,
                index,
                key,
                f"{kind} has no setting {key!r}{near(key, takes)}; expected one of {', '.join(takes)}",
            )
    try:
        return asked(written, {**settings, **own})
    except ValueError as error:
        key = str(error).split()[0]
        raise _at(path, text, index, key if key in own else "rule", str(error)) from error


def _at(path: Path, text: str, index: int | None, key: str, message: str) -> ValueError:
    """The error with its place: the key above all tables, or in the table `[[rule]]` of that index."""
    line = line_of(text, (key,) if index is None else ("rule", index, key))
    return ValueError(f"{path}, line {line}, {key}: {message}" if line else f"{path}, {key}: {message}")


def _presence(text: str, rest: str, settings: Mapping[str, Any]) -> Asked:
    fitting = {name: value for name, value in settings.items() if name in OF_PRESENCE}
    name, above, threshold = rest.partition(">")
    name, equals, called = name.partition("=")
    if not name.strip() or (equals and not called.strip()):
        raise ValueError(f"rule {text!r} names no class; expected e.g. {PRESENCE}:tabby or {PRESENCE}:tabby=cat")
    if above:
        fitting["threshold"] = _number(threshold, text)
    Presence(0, "", **fitting)  # raises where a setting is wrong
    return Asked(text, named=name.strip(), called=called.strip(), settings=fitting)


def _part(part: str, text: str) -> tuple[Transformation, bool]:
    """A transformation, and whether its strength was given."""
    name, colon, strength = part.strip().partition(":")
    make = TRANSFORMATIONS.get(name.strip().casefold())
    if make is None:
        known = (PRESENCE, *TRANSFORMATIONS)
        raise ValueError(
            f"no rule {name.strip()!r}{near(name.strip(), known)}; expected one of {', '.join(known)}, as in rotation:15"
        )
    return (make(strength=_number(strength, text)), True) if colon else (make(), False)  # type: ignore[call-arg]


def _number(typed: str, text: str) -> float:
    try:
        return float(typed)
    except ValueError:
        raise ValueError(f"rule {text!r}: {typed.strip()!r} is no number; expected e.g. rotation:15") from None


def _invariance_settings(rule: Asked) -> None:
    """Raise `ValueError` where a setting is wrong, before model and data are loaded."""
    known = {name: value for name, value in rule.settings.items() if name not in ("target", "most", "strongest")}
    target = rule.settings.get("target")
    if isinstance(target, bool) or not isinstance(target, str | int | None):
        raise ValueError(f"target is a class, by index or label; got {target!r}")
    if rule.transformation is not None:
        replace(Invariance(rule.transformation), **known)
