"""A few examples of a data set, before all are read."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from typing import Any

from sfumato.data import Data, Example
from sfumato.runs.plans.classes import target_classes

FEW, MANY = 32, 1000
"""How many examples are read: at first, and before a check reports that no example has something."""


class DataSample:
    """Some examples of a data set, evenly spread from the first to the last. Each is read once.

    Attributes raise the errors of the data set.
    """

    def __init__(self, data: Data) -> None:
        self.data = data
        self._read: dict[int, Example | Exception] = {}

    @cached_property
    def count(self) -> int:
        """How many examples there are."""
        return len(self.data)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.data.classes)

    @cached_property
    def asked(self) -> frozenset[int]:
        """The classes that are explained."""
        return target_classes(self.data)

    def examples(self, most: int = FEW) -> list[Example]:
        """The readable examples among up to `most`."""
        return [example for place in spread(self.count, most) if isinstance(example := self._at(place), Example)]

    @property
    def errors(self) -> list[Exception]:
        """The errors of the first examples that cannot be read."""
        return [example for place in spread(self.count, FEW) if isinstance(example := self._at(place), Exception)]

    def any(self, has: Callable[[Example], bool]) -> bool:
        """Whether any example passes a test: the first few are tried, then more."""
        return any(has(example) for example in self.examples(FEW)) or any(map(has, self._others()))

    @property
    def examples_read(self) -> list[Example]:
        """All readable examples so far."""
        return [example for _, example in sorted(self._read.items()) if isinstance(example, Example)]

    @property
    def tried(self) -> int:
        """How many examples were read so far, readable or not."""
        return len(self._read)

    @property
    def complete(self) -> bool:
        """Whether all examples were read."""
        return self.tried == self.count

    @property
    def queries(self) -> float:
        """About how many queries there are for the classes that are present; an unreadable example counts as one."""
        targets = [
            len(example.targets) if isinstance(example := self._at(place), Example) else 1
            for place in spread(self.count, MANY)
        ]
        return sum(targets) / max(len(targets), 1) * self.count

    def _others(self) -> Iterator[Example]:
        for place in spread(self.count, MANY):
            if place not in self._read and isinstance(example := self._at(place), Example):
                yield example

    def _at(self, place: int) -> Example | Exception:
        if place not in self._read:
            try:
                example = self.data[place]
                if not isinstance(example, Example):
                    raise TypeError(f"example {place} is {example!r:.80}; expected a sfumato.data.Example")
                self._read[place] = example
            except Exception as error:  # noqa: BLE001  # a data set of anyone's own raises whatever it trips over
                self._read[place] = error
        return self._read[place]


def spread(count: int, most: int) -> list[int]:
    """At most so many places, evenly from the first to the last.

    >>> spread(3, 5), spread(101, 3)
    ([0, 1, 2], [0, 50, 100])
    """
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def has_place(example: Example, label: int) -> bool:
    """Whether a box or a mask says where a class is."""
    return any(
        thing.box or thing.polygons or thing.run or thing.mask for thing in example.things if thing.label == label
    )


def has_segmentation(example: Example, label: int) -> bool:
    """Whether all objects of a class have a segmentation."""
    things = [thing for thing in example.things if thing.label == label]
    places = [thing for thing in things if thing.box or thing.polygons or thing.run or thing.mask]
    return bool(places) and all(thing.polygons or thing.run or thing.mask for thing in places)


def setting_meant(value: Any, message: str) -> tuple[str, ...]:
    """The keys of the setting that a message quotes, the longest if several are quoted; empty where none is.

    >>> from sfumato.data import Folder, Subset
    >>> setting_meant(Subset(Folder("/pictures"), first=3), "no folder '/pictures'")
    ('data', 'path')
    """
    quoted = [(repr(text) in message, len(text), keys) for keys, text in _texts(value) if text and text in message]
    return max(quoted)[-1] if quoted else ()


def _texts(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The texts among settings, within settings too, with the keys that lead to them."""
    inner: Mapping[str, Any] = {}
    if is_dataclass(value) and not isinstance(value, type):
        inner = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, str):
            yield keys, text
    for name, setting in inner.items():
        yield from _texts(setting, (*keys, name))
