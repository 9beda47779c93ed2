"""Match the classes of a data set with the outputs of a model: by their names, by the plan, or by their order.

Case, accents, spaces, underscores and hyphens do not matter in names. A name also matches by its synonyms (the parts
between commas), without a WordNet id or a number in front, and in the plural. Classes and outputs are matched in their
order only if there are as many of both, and no name matches, as between synset ids and words. Doubtful cases are
refused: some names match and others do not, one name matches two labels, two classes match one label.
"""

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sfumato.data import Data
from sfumato.data.labels import default_labels, synonyms
from sfumato.runs.plans.catalogue import SettingError
from sfumato.runs.plans.class_notes import IN_ORDER, LISTED
from sfumato.runs.plans.spellings import NAME, PLURAL, Candidates, Spellings, parts, plain
from sfumato.runs.plans.unmatched import ALIKE, ClassesError, toml_key, uncounted, unknown
from sfumato.settings import near

PLACE, PLAN, ORDER, PLAN_ORDER = "by name and place", "as the plan says", IN_ORDER, "in order, as the plan says"
WAYS = (NAME, PLACE, PLURAL, PLAN, ORDER, PLAN_ORDER)

COMPARED = 100_000
"""The most pairs of names whose spellings are compared before classes are matched in order: about a second."""


@dataclass(frozen=True)
class ClassNames:
    """The entry `classes` of a data set in a plan.

    `labels` has, by class, what models call it: a label, several (each model has one of them), or the output's index. With
    `first`, the outputs are in the classes' order, and that is the output of the first class.
    """

    labels: tuple[tuple[str, str | int | tuple[str, ...]], ...] = ()
    first: int | None = None

    @classmethod
    def read(cls, value: Any, keys: tuple[str, ...]) -> "ClassNames":
        """Read the entry `classes` of a plan, which `keys` lead to. Raises `SettingError`."""
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


def target_classes(data: Data) -> frozenset[int]:
    """The classes of a data set that are explained: all, unless it names them (as `Subset` does)."""
    return frozenset(getattr(data, "asked_classes", range(len(data.classes))))


@dataclass(frozen=True)
class ClassMap:
    """The model's output for each class of a data set, and how each was matched."""

    indices: tuple[int | None, ...]
    """`None` for a class that is never explained and that the model does not have."""
    ways: tuple[str, ...]
    """By class, one of `WAYS`; empty without an index."""

    def __getitem__(self, label: int) -> int:
        """The output of a class. Raises `ValueError` if it has none."""
        index = self.indices[label] if label < len(self.indices) else None
        if index is None:
            raise ValueError(f"the model has no output for class {label} of the data set")
        return index

    def as_json(self, data: str, model: str, classes: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
        """The mapping between a data set and a model, by their names in the plan, as a run keeps it."""
        examples = [
            [classes[place], labels[index] if index < len(labels) else f"output {index}", way]
            for place, (index, way) in enumerate(zip(self.indices, self.ways, strict=True))
            if index is not None and way in (PLURAL, PLAN, ORDER, PLAN_ORDER)
        ]
        counts = {way: self.ways.count(way) for way in WAYS if way in self.ways}
        return {
            "data": data,
            "model": model,
            "classes": len(classes),
            "ways": counts,
            "shown": examples,
            "indices": list(self.indices),
        }


def match_classes(
    classes: Sequence[str],
    labels: Sequence[str],
    names: ClassNames | None = None,
    outputs: int | None = None,
    targets: Collection[int] | None = None,
) -> ClassMap:
    """The model's output of each of a data set's classes.

    `names` is what the plan says, `outputs` how many the model has, where that is known, and `targets` the classes that are
    explained, where not all are. Raises `ClassesError` where something is doubtful.

    >>> match_classes(["dog", "cat"], ["cat, house cat", "cow", "Dog"]).indices
    (2, 0)
    """
    names = names or ClassNames()
    targets = range(len(classes)) if targets is None else targets
    outputs = len(labels) if outputs is None else outputs
    labels = list(labels) or list(default_labels(outputs))
    if names.first is not None:
        return _in_order(classes, names.first, outputs, targets)
    by_plan = dict(_pairs_of_plan(classes, labels, names, outputs))
    needed = [place for place in targets if place not in by_plan]
    if needed and outputs != len(labels) and not (outputs == 1 and len(labels) == 2):
        raise uncounted(classes, labels, outputs)
    candidates = Spellings(labels).candidates(
        {place: name for place, name in enumerate(classes) if place not in by_plan}
    )
    if needed and not by_plan and not any(indices for indices, _ in candidates.values()):
        if len(classes) == len(labels) and not _orders_differ(classes, labels):
            return ClassMap(tuple(range(len(classes))), (ORDER,) * len(classes))
        raise unknown(classes, labels, needed, {})
    certain = _certain_pairs(len(classes), len(labels), needed, candidates)
    doubtful = [place for place in needed if place not in certain]
    if doubtful:
        raise unknown(classes, labels, doubtful, candidates)
    pairs = {**certain, **{place: (index, PLAN) for place, index in by_plan.items()}}
    outcomes = [pairs.get(place, (None, "")) for place in range(len(classes))]
    return ClassMap(tuple(index for index, _ in outcomes), tuple(way for _, way in outcomes))


def _certain_pairs(
    classes: int, labels: int, needed: Sequence[int], candidates: Candidates
) -> dict[int, tuple[int, str]]:
    """The classes with one label that no other class has.

    If all these have the places of their labels, and there are as many classes as labels, then a name that two labels have
    (ImageNet has two cranes) means the one in its place."""
    sole = {place: next(iter(candidates[place][0])) for place in needed if len(candidates[place][0]) == 1}
    uses = Counter(sole.values())
    clear = {place: (index, candidates[place][1]) for place, index in sole.items() if uses[index] == 1}
    if len(clear) == len(needed):
        return clear
    in_place = classes == labels and clear and all(place == index for place, (index, _) in clear.items())
    if in_place and all(place in candidates[place][0] for place in needed):
        return {place: clear.get(place, (place, PLACE)) for place in needed}
    return clear


def _in_order(classes: Sequence[str], first: int, outputs: int, targets: Collection[int]) -> ClassMap:
    last = first + max(targets, default=0)
    if last >= max(outputs, 2 if outputs == 1 else 1):
        raise ClassesError(
            f"the {len(classes)} classes are to be its outputs in order, from output {first} on, and it has {outputs} outputs"
        )
    return ClassMap(tuple(first + place for place in range(len(classes))), (PLAN_ORDER,) * len(classes))


def _pairs_of_plan(
    classes: Sequence[str], labels: Sequence[str], names: ClassNames, outputs: int
) -> Iterator[tuple[int, int]]:
    """The classes that the plan names, with their outputs."""
    spellings = Spellings(labels)
    for name, label in names.labels:
        places = [place for place, candidate in enumerate(classes) if candidate == name]
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
    listing = " and ".join(f"{index} {labels[index]!r}" for index in indices[:LISTED])
    return f"{label!r} is the name of {len(indices)} labels, {listing}; give the index: {toml_key(name)} = {indices[0]}"


def _orders_differ(classes: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether spellings suggest that classes and labels have different orders.

    Either a class is spelt most like a label in another place, or the numbers in all names do not ascend, as of folders that
    are sorted as words, "10" before "2". Names with digits, such as ids, all look alike: only their numbers are compared."""
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
