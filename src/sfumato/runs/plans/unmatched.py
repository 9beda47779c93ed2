"""Classes that cannot be told from a model's labels: why, and what to write in the plan."""

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sfumato.data.labels import synonyms
from sfumato.runs.plans.class_notes import IN_ORDER, LISTED
from sfumato.runs.plans.spellings import Candidates, parts, plain

ALIKE, ALIKE_ENOUGH = 0.7, 0.8
"""How much alike two spellings are, by difflib's ratio, for one to be called near the other, and to be offered in its place."""

NAMELESS = re.compile(r"(?:class )?\d+")
"""A class that is known by its number only; so does a table of numbers call its classes."""
BACKGROUND = ("background", "void", "none", "other")


class ClassesError(ValueError):
    """Classes that cannot be told from a model's labels, and what to write in the plan."""

    def __init__(
        self, message: str, key: str = "", lines: Sequence[str] = (), order: int | None = None, most: bool = False
    ) -> None:
        super().__init__(message)
        self.key = key
        """The class in the plan's table that is wrong, if one is."""
        self.lines = tuple(lines)
        """Of the plan's table, to be looked through."""
        self.order = order
        """The output of the first class, where the outputs may be in the order of the classes."""
        self.most = most
        """Whether that is so of most classes, as of a model that is for other ones."""

    def about(self, what: str) -> "ClassesError":
        """The same of something that is named."""
        return ClassesError(f"{what}: {self}", self.key, self.lines, self.order, self.most)

    def remedy(self, data: str) -> str:
        """What to write under the data set of that name, line by line; empty where nothing can be reasons."""
        table = toml_key(data)
        head = ["say what the model calls it, or its output's index:", f"  [data.{table}.classes]"]
        text = "\n".join([*head, *(f"  {line}" for line in self.lines)]) if self.lines else ""
        if self.order is None and self.most:
            only = (
                f"if the model is for other classes, name those that are for these:\n  [data.{table}]\n  models = […]"
            )
            return f"{only}\nelse {text}" if text else only
        if self.order is None:
            return text
        order = f"in order from {self.order}" if self.order else IN_ORDER
        about = f"from output {self.order} on, " if self.order else ""
        also = f'where the outputs are, {about}in the order of the classes:\n  [data.{table}]\n  classes = "{order}"'
        return f"{text}\nor, {also}" if text else also


def uncounted(classes: Sequence[str], labels: Sequence[str], outputs: int) -> ClassesError:
    return ClassesError(
        f"it has {outputs} outputs and {len(labels)} labels, so that these do not say which output is which; let its factory "
        "give a label for each output",
        order=outputs - len(classes) if outputs in (len(classes), len(classes) + 1) else None,
    )


def unknown(
    classes: Sequence[str], labels: Sequence[str], doubtful: Sequence[int], candidates: Candidates
) -> ClassesError:
    """What is reasons of classes without a label of their own, and the lines to write."""
    offers = _Offers(classes, labels, candidates)
    reasons = [offers.about(place) for place in doubtful[:LISTED]]
    more = f", and {len(doubtful) - LISTED} more" if len(doubtful) > LISTED else ""
    message = f"{len(doubtful)} of {len(classes)} classes cannot be told from its {len(labels)} labels: "
    order = None
    nameless = all(NAMELESS.fullmatch(name) for name in classes) and len(classes) <= len(labels)
    if len(classes) == len(labels) or nameless:
        order = 0
    elif len(labels) == len(classes) + 1 and _is_background(labels[0]):
        order = 1
    most = 2 * len(doubtful) > len(classes)
    lines = [] if nameless else [offers.line(place, guess=not most) for place in doubtful[:LISTED]]
    return ClassesError(message + ", ".join(reasons) + more, lines=lines, order=order, most=most)


@dataclass(frozen=True)
class _Offers:
    """What may be meant by classes which no label fits, or several, or one that fits others too."""

    classes: Sequence[str]
    labels: Sequence[str]
    candidates: Candidates

    def about(self, place: int) -> str:
        name, fitting = self.classes[place], self._fitting(place)
        if len(fitting) > 1:
            return f"{name!r} fits {len(fitting)} ({', '.join(map(self._named, fitting[:3]))})"
        if fitting:
            others = [other for other in self.candidates if other != place and fitting[0] in self.candidates[other][0]]
            return f"{name!r} fits {self._named(fitting[0])} as {self.classes[others[0]]!r} does"
        if near_ones := self._near(name):
            return f"{name!r} fits none (near: {', '.join(map(self._named, near_ones))})"
        left = self._left
        return f"{name!r} fits none" + (f" (without a class is {self._named(left[0])})" if len(left) == 1 else "")

    def line(self, place: int, guess: bool) -> str:
        """Of the plan's table: a label that fits, by its index, or as a guess the one spelt most alike or left."""
        name, fitting = self.classes[place], self._fitting(place)
        if fitting:
            shown = ", or ".join(f"{index}: {self._short(index)}" for index in fitting[:3])
            return f"{toml_key(name)} = {fitting[0]}  # {shown}"
        offered = [*self._near(name, ALIKE_ENOUGH), *(self._left if len(self._left) == 1 else ())] if guess else []
        if not offered and len(self.labels) == 1 and len(self.classes) == 2:
            return f"{toml_key(name)} = 1  # what speaks against {self.labels[0]}, the model's only output"
        label = self._short(offered[0]) if offered else "…"
        return f"{toml_key(name)} = {json.dumps(label, ensure_ascii=False)}"

    def _fitting(self, place: int) -> list[int]:
        """The labels that the name may mean, first those of which it is the first name."""
        indices, _ = self.candidates.get(place, (frozenset[int](), ""))
        own = parts(self.classes[place])
        return sorted(indices, key=lambda index: (parts(self.labels[index])[:1] != own[:1], index))

    def _named(self, index: int) -> str:
        return f"{index} {self._short(index)!r}"

    def _short(self, index: int) -> str:
        """The first synonyms of a label, as many as tell it from others."""
        label = self.labels[index]
        known = synonyms(label)
        for count in range(1, len(known)):
            if len(self._beginnings.get(plain(", ".join(known[:count])), ())) == 1:
                return ", ".join(known[:count])
        return label

    @cached_property
    def _beginnings(self) -> dict[str, set[int]]:
        """The labels by all that they, or synonyms in them, may be called."""
        beginnings: dict[str, set[int]] = {}
        for index, label in enumerate(self.labels):
            for name in {label, *synonyms(label)}:
                beginnings.setdefault(plain(name), set()).add(index)
        return beginnings

    def _near(self, name: str, alike: float = ALIKE) -> list[int]:
        close = difflib.get_close_matches(plain(name), self._words, n=3, cutoff=alike)
        return list(dict.fromkeys(self._words[word] for word in close))

    @cached_property
    def _left(self) -> list[int]:
        """The labels that no class fits."""
        fitted: set[int] = set().union(*(indices for indices, _ in self.candidates.values()))
        return [index for index in range(len(self.labels)) if index not in fitted]

    @cached_property
    def _words(self) -> dict[str, int]:
        return {part: index for index, label in enumerate(self.labels) for part in parts(label)}


def _is_background(label: str) -> bool:
    """Whether a label may be that of what belongs to no class; a number says nothing."""
    return any(part in BACKGROUND or not part.isalpha() for part in parts(label))


def toml_key(name: str) -> str:
    """A key of TOML."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
