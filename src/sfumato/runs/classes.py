"""Which of a model's outputs each class of a data set is: by the names of both, as a plan says, or one after the other.

Names count as the same whatever their case, accents, spaces, underscores and hyphens, and so do their synonyms (the parts
between commas), what is left without a WordNet id or a number in front, and the plural. Taken one after the other are classes
and outputs of the same number only where no name of one is a name of the other, as between synset ids and words. What is
doubtful is refused: some names that match and some that do not, one name with two labels, two classes of one label.
"""

import difflib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sfumato.data import Data
from sfumato.labels import numbered, synonyms
from sfumato.models.names import near
from sfumato.runs.catalogue import SettingError

IN_ORDER = "in order"

NAME, PLURAL, PLACE, PLAN, ORDER, PLAN_ORDER = (
    "by name",
    "by a plural",
    "by name and place",
    "as the plan says",
    IN_ORDER,
    "in order, as the plan says",
)
WAYS = (NAME, PLACE, PLURAL, PLAN, ORDER, PLAN_ORDER)

LISTED = 8
"""Classes that a message names, and lines that it gives to write."""

ALIKE, ALIKE_ENOUGH = 0.7, 0.8
"""How much alike two spellings are, by difflib's ratio, for one to be called near the other, and to be offered in its place."""

COMPARED = 100_000
"""Pairs of names, at most, whose spellings are compared before all are taken in order: about a second."""

WORDNET_ID = re.compile(r"(?<![a-z0-9])n\d{8}(?!\d)", re.IGNORECASE)
NUMBER_IN_FRONT = re.compile(r"^\d+[\s._:-]+(?=\D)")
NAMELESS = re.compile(r"(?:class )?\d+")
"""A class that is known by its number only; so does a table of numbers call its classes."""
BACKGROUND = ("background", "void", "none", "other")


Candidates = Mapping[int, tuple[frozenset[int], str]]
"""By class, the labels that its name may mean, and how."""


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
        """What to write under the data set of that name, line by line; empty where nothing can be said."""
        table = _key(data)
        told = ["say what the model calls it, or its output's index:", f"  [data.{table}.classes]"]
        text = "\n".join([*told, *(f"  {line}" for line in self.lines)]) if self.lines else ""
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


@dataclass(frozen=True)
class ClassNames:
    """What a plan says of a data set's classes, under `classes`.

    `labels` has, by class, what models call it: a label, several (each model has one of them), or the output's index. With
    `first`, the outputs are in the classes' order, and that is the output of the first class.
    """

    labels: tuple[tuple[str, str | int | tuple[str, ...]], ...] = ()
    first: int | None = None

    @classmethod
    def read(cls, value: Any, keys: tuple[str, ...]) -> "ClassNames":
        """What a plan's `classes` means; `keys` lead to it. Raises `SettingError`."""
        if isinstance(value, str):
            order = re.fullmatch(r"in order(?: from (\d+))?", value.strip())
            if not order:
                raise SettingError(
                    keys, f'classes are "in order", "in order from 1", or a table such as puma = "lynx"; got {value!r}'
                )
            return cls(first=int(order[1] or 0))
        if not isinstance(value, Mapping):
            raise SettingError(keys, f'classes are a table such as puma = "lynx", or "in order"; got {value!r}')
        labels: list[tuple[str, str | int | tuple[str, ...]]] = []
        for name, label in value.items():
            if isinstance(label, list) and label and all(isinstance(one, str) for one in label):
                labels.append((name, tuple(label)))
            elif isinstance(label, str) or (isinstance(label, int) and not isinstance(label, bool) and label >= 0):
                labels.append((name, label))
            else:
                raise SettingError(
                    (*keys, name), f"a class is a model's label, a list of labels, or an output's index; got {label!r}"
                )
        return cls(tuple(labels))


def asked(data: Data) -> frozenset[int]:
    """The classes of a data set that are explained: all, unless it says which (`Subset` does)."""
    return frozenset(getattr(data, "asked", range(len(data.classes))))


@dataclass(frozen=True)
class ClassMap:
    """The model's output of each of a data set's classes, and how each is known."""

    indices: tuple[int | None, ...]
    """`None` for a class that is never explained and that the model does not have."""
    ways: tuple[str, ...]
    """By class, one of `WAYS`; empty without an index."""

    def __getitem__(self, label: int) -> int:
        """The output of a class. Raises `ValueError` where there is none."""
        index = self.indices[label] if label < len(self.indices) else None
        if index is None:
            raise ValueError(f"the model has no output for class {label} of the data set")
        return index

    def as_json(self, data: str, model: str, classes: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
        """The mapping between a data set and a model, by their names in the plan, as a run keeps it."""
        shown = [
            [classes[place], labels[index] if index < len(labels) else f"output {index}", way]
            for place, (index, way) in enumerate(zip(self.indices, self.ways, strict=True))
            if index is not None and way in (PLURAL, PLAN)
        ]
        counts = {way: self.ways.count(way) for way in WAYS if way in self.ways}
        return {
            "data": data,
            "model": model,
            "classes": len(classes),
            "ways": counts,
            "shown": shown,
            "indices": list(self.indices),
        }


def described(note: Mapping[str, Any]) -> str:
    """A line that says what `ClassMap.as_json` holds.

    >>> described(matched(["dog", "cat"], ["cat, house cat", "Dog"]).as_json("pets", "net", ["dog", "cat"], []))
    'pets → net: 2 of 2 classes by name'
    """
    ways, total = note["ways"], note["classes"]
    if not ways:
        return f"{note['data']} → {note['model']}: none of {total} classes is explained"
    first, *rest = (f"{count} {way}" for way, count in ways.items())
    told = f"{note['data']} → {note['model']}: {first.replace(' ', f' of {total} classes ', 1)}"
    if (left := total - sum(ways.values())) > 0:
        rest.append(f"{left} never explained")
    told = ", ".join([told, *rest]) + (": no name of one is a name of the other" if ORDER in ways else "")
    named = [f"{name} is {label!r}" for name, label, _ in note["shown"][:LISTED]]
    more = len(note["shown"]) - len(named)
    return told + (f" ({', '.join(named)}{f' and {more} more' if more > 0 else ''})" if named else "")


def matched(
    classes: Sequence[str],
    labels: Sequence[str],
    names: ClassNames | None = None,
    outputs: int | None = None,
    asked: Collection[int] | None = None,
) -> ClassMap:
    """The model's output of each of a data set's classes.

    `names` is what the plan says, `outputs` how many the model has, where that is known, and `asked` the classes that are
    explained, where not all are. Raises `ClassesError` where something is doubtful.

    >>> matched(["dog", "cat"], ["cat, house cat", "cow", "Dog"]).indices
    (2, 0)
    """
    names = names or ClassNames()
    asked = range(len(classes)) if asked is None else asked
    outputs = len(labels) if outputs is None else outputs
    labels = list(labels) or list(numbered(outputs))
    if names.first is not None:
        return _in_order(classes, names.first, outputs, asked)
    given = dict(_given(classes, labels, names, outputs))
    wanted = [place for place in asked if place not in given]
    if wanted and outputs != len(labels) and not (outputs == 1 and len(labels) == 2):
        raise _uncounted(classes, labels, outputs)
    candidates = _Spellings(labels).candidates(
        {place: name for place, name in enumerate(classes) if place not in given}
    )
    if wanted and not given and not any(indices for indices, _ in candidates.values()):
        if len(classes) == len(labels) and not _crossed(classes, labels):
            return ClassMap(tuple(range(len(classes))), (ORDER,) * len(classes))
        raise _unknown(classes, labels, wanted, {})
    settled = _settled(len(classes), len(labels), wanted, candidates)
    doubtful = [place for place in wanted if place not in settled]
    if doubtful:
        raise _unknown(classes, labels, doubtful, candidates)
    pairs = {**settled, **{place: (index, PLAN) for place, index in given.items()}}
    found = [pairs.get(place, (None, "")) for place in range(len(classes))]
    return ClassMap(tuple(index for index, _ in found), tuple(way for _, way in found))


def _settled(classes: int, labels: int, wanted: Sequence[int], candidates: Candidates) -> dict[int, tuple[int, str]]:
    """The classes with one label that is no other's. Where all that are so stand in the place of their labels, and there are
    as many classes as labels, a name that two have (ImageNet has two cranes) means the one in its place."""
    sole = {place: next(iter(candidates[place][0])) for place in wanted if len(candidates[place][0]) == 1}
    taken = Counter(sole.values())
    clear = {place: (index, candidates[place][1]) for place, index in sole.items() if taken[index] == 1}
    if len(clear) == len(wanted):
        return clear
    in_place = classes == labels and clear and all(place == index for place, (index, _) in clear.items())
    if in_place and all(place in candidates[place][0] for place in wanted):
        return {place: clear.get(place, (place, PLACE)) for place in wanted}
    return clear


def _in_order(classes: Sequence[str], first: int, outputs: int, asked: Collection[int]) -> ClassMap:
    last = first + max(asked, default=0)
    if last >= max(outputs, 2 if outputs == 1 else 1):
        raise ClassesError(
            f"the {len(classes)} classes are to be its outputs in order, from output {first} on, and it has {outputs} outputs"
        )
    return ClassMap(tuple(first + place for place in range(len(classes))), (PLAN_ORDER,) * len(classes))


def _given(classes: Sequence[str], labels: Sequence[str], names: ClassNames, outputs: int) -> Iterator[tuple[int, int]]:
    """The classes that the plan has a word for, and their outputs."""
    spellings = _Spellings(labels)
    for name, label in names.labels:
        places = [place for place, known in enumerate(classes) if known == name]
        if not places:
            raise ClassesError(f"the data set has no class {name!r}{near(name, classes)}", name)
        if isinstance(label, int):
            if label >= max(outputs, 2 if outputs == 1 else 0):  # of one output, 1 is the complement
                raise ClassesError(f"the model has no output {label}; it has {outputs}, from 0 up", name)
            indices = {label}
        else:
            texts = (label,) if isinstance(label, str) else label
            indices = set().union(*(spellings.candidates({0: text})[0][0] for text in texts))
        if len(indices) != 1:
            raise ClassesError(_ambiguous(name, label, sorted(indices), labels), name)
        (index,) = indices
        yield from ((place, index) for place in places)


def _ambiguous(name: str, label: Any, indices: Sequence[int], labels: Sequence[str]) -> str:
    if not indices:
        texts = [label] if isinstance(label, str) else label
        offered = near(texts[0], dict.fromkeys(part for one in labels for part in synonyms(one)))
        return f"the model has no label {' or '.join(map(repr, texts))}{offered}"
    shown = " and ".join(f"{index} {labels[index]!r}" for index in indices[:LISTED])
    return f"{label!r} is the name of {len(indices)} labels, {shown}; give the index: {_key(name)} = {indices[0]}"


class _Spellings:
    """The labels by all that they may be called."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._exact: dict[str, set[int]] = {}
        self._plain: dict[str, set[int]] = {}
        self._parts: dict[str, set[int]] = {}
        for index, label in enumerate(labels):
            self._exact.setdefault(label, set()).add(index)
            self._plain.setdefault(plain(label), set()).add(index)
            for part in parts(label):
                self._parts.setdefault(part, set()).add(index)

    def candidates(self, names: Mapping[int, str]) -> Candidates:
        """The labels that each name may mean. Where all names are labels to the letter, these are meant, whatever synonyms they
        share with others: ImageNet has the garment "cardigan" beside the dog "Cardigan, Cardigan Welsh corgi"."""
        if all(name in self._exact for name in names.values()):
            return {place: (frozenset(self._exact[name]), NAME) for place, name in names.items()}
        return {place: self.fitting(name) for place, name in names.items()}

    def fitting(self, name: str) -> tuple[frozenset[int], str]:
        """The labels that a name may mean, by the strictest reading that any label fits, and the way of that."""
        own = parts(name)
        readings: tuple[tuple[str, list[set[int]]], ...] = (
            (NAME, [self._plain.get(plain(name), set()) if len(synonyms(name)) > 1 else set()]),
            (NAME, [self._parts.get(part, set()) for part in own]),
            (PLURAL, [self._parts.get(other, set()) for part in own for other in plurals(part)]),
        )
        for way, fitting in readings:
            if indices := frozenset[int]().union(*fitting):
                return indices, way
        return frozenset(), ""


def plain(name: str) -> str:
    """A name's letters and digits in small, those of Latin without accents.

    >>> plain("Crème_brûlée"), plain("T-Shirt"), plain("tv monitor")
    ('cremebrulee', 'tshirt', 'tvmonitor')
    """
    told: list[str] = []
    vowels = False
    for _ in range(
        2
    ):  # as Unicode defines "alike but for case": folding uncovers what can be taken apart, and the reverse
        name = unicodedata.normalize("NFKD", name).casefold()
    for character in unicodedata.normalize("NFKD", name):
        mark = unicodedata.category(character).startswith("M")
        if not mark:
            vowels = character.isalnum() and not character.isascii()
        if character.isalnum() or (mark and vowels):  # in scripts other than Latin, a mark may be a vowel
            told.append(character)
    return "".join(told)


def parts(name: str) -> tuple[str, ...]:
    """The plain synonyms of a name, without WordNet ids and numbers in front, and such ids themselves.

    >>> parts("n02085620-Chihuahua"), parts("001.Black_footed_Albatross")
    (('n02085620', 'chihuahua'), ('001blackfootedalbatross', 'blackfootedalbatross'))
    """
    told: dict[str, None] = {}
    for synonym in synonyms(name):
        ids = WORDNET_ID.findall(synonym)
        rest = WORDNET_ID.sub(" ", synonym)
        told |= dict.fromkeys(plain(one) for one in (*ids, rest, NUMBER_IN_FRONT.sub("", rest)))
    return tuple(part for part in told if part)


def plurals(part: str) -> tuple[str, ...]:
    """What a plain name is in the plural, and what it may be the plural of.

    >>> plurals("puppies")
    ('puppiess', 'puppieses', 'puppie', 'puppi', 'puppy')
    """
    if len(part) < 3 or not part.isalpha():
        return ()
    told = [part + "s", part + "es"]
    for ending, other in (("y", "ies"), ("s", ""), ("es", ""), ("ies", "y")):
        if part.endswith(ending):
            told.append(part.removesuffix(ending) + other)
    return tuple(told)


def _crossed(classes: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether spellings hint that the order is another: a class looks most like a label that is not in its place, or numbers
    in all names do not ascend, as of folders sorted as words, "10" before "2". Names with digits, such as ids, all look alike
    and are compared by these alone."""
    for names in (classes, labels):
        numbers = [[int(digits) for digits in re.findall(r"\d+", name)] for name in names]
        if all(numbers) and numbers != sorted(numbers):
            return True
    words = {part: index for index, label in enumerate(labels) for part in parts(label) if part.isalpha()}
    if len(classes) * len(words) > COMPARED:
        return False
    for place, name in enumerate(classes):
        own = plain(name)
        close = difflib.get_close_matches(own, words, n=1, cutoff=ALIKE) if own.isalpha() else []
        if close and words[close[0]] != place:
            return True
    return False


def _uncounted(classes: Sequence[str], labels: Sequence[str], outputs: int) -> ClassesError:
    return ClassesError(
        f"it has {outputs} outputs and {len(labels)} labels, so that these do not say which output is which; let its factory "
        "give a label for each output",
        order=outputs - len(classes) if outputs in (len(classes), len(classes) + 1) else None,
    )


def _unknown(
    classes: Sequence[str], labels: Sequence[str], doubtful: Sequence[int], candidates: Candidates
) -> ClassesError:
    """What is said of classes without a label of their own, and the lines to write."""
    offers = _Offers(classes, labels, candidates)
    said = [offers.about(place) for place in doubtful[:LISTED]]
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
    return ClassesError(message + ", ".join(said) + more, lines=lines, order=order, most=most)


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
            return f"{_key(name)} = {fitting[0]}  # {shown}"
        offered = [*self._near(name, ALIKE_ENOUGH), *(self._left if len(self._left) == 1 else ())] if guess else []
        if not offered and len(self.labels) == 1 and len(self.classes) == 2:
            return f"{_key(name)} = 1  # what speaks against {self.labels[0]}, the model's only output"
        label = self._short(offered[0]) if offered else "…"
        return f"{_key(name)} = {json.dumps(label, ensure_ascii=False)}"

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
        told: dict[str, set[int]] = {}
        for index, label in enumerate(self.labels):
            for name in {label, *synonyms(label)}:
                told.setdefault(plain(name), set()).add(index)
        return told

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


def _key(name: str) -> str:
    """A key of TOML."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
