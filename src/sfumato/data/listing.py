"""The base of all data sets: frozen dataclasses of their settings, and sequences of examples."""

import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, overload

from sfumato.data.example import Example
from sfumato.settings import Settings, is_whole


class Listing(Settings, Sequence[Example]):
    """Base class of the data sets.

    Making a data set checks only its settings. It reads its files on first use, and pickles only its settings. The length, the
    classes and the examples raise `ValueError` if a file that lists the whole set is missing or damaged. If only the annotation
    of one example is damaged, only that example raises.
    """

    def __getstate__(self) -> dict[str, Any]:
        assert is_dataclass(self)  # noqa: S101  # all subclasses are
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def sources(self) -> Sequence[Path] | None:
        """The files and folders that all examples are read from, without the pictures.

        A run reads the examples again only if one of these has changed. `None` if they are not known: then a run always reads
        all examples.
        """
        return None

    @abstractmethod
    def example(self, index: int) -> Example:
        """The example at an index from 0."""

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self.example(position) for position in range(len(self))[index]]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no example {index}; expected an index below {len(self)}")
        return self.example(index % len(self))


def set_paths_(settings: Any, *names: str) -> None:
    """Convert paths among the settings to text, so that `str` and `Path` give the same hash and the same JSON."""
    for name in names:
        value = getattr(settings, name)
        if not isinstance(value, str | os.PathLike):
            raise ValueError(f"{name} must be the path of a file or folder; got {value!r}")
        object.__setattr__(settings, name, os.fspath(value))


def check_part(year: Any, split: Any, years: str, splits: str) -> None:
    """Raise `ValueError` unless the year is a number and the split a name. `years` and `splits` are examples for the errors."""
    if not is_whole(year):
        raise ValueError(f"year must be a number such as {years}; got {year!r}")
    if not (isinstance(split, str) and split):
        raise ValueError(f"split must name {splits}; got {split!r}")


def set_names_(settings: Any, name: str) -> None:
    """Convert a setting to a tuple of names of classes. Raises `ValueError` unless they are different texts."""
    value = getattr(settings, name)
    if isinstance(value, str) or not all(isinstance(label, str) for label in value):
        raise ValueError(f"{name} must be a list of names of classes; got {value!r}")
    if len(set(value)) < len(value):
        raise ValueError(f"{name} must be different names; got {value!r}")
    object.__setattr__(settings, name, tuple(value))
