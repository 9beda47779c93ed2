"""What all data sets have: they are frozen dataclasses of what a plan says, and sequences of examples."""

import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, overload

from sfumato.data.example import Example
from sfumato.settings import is_whole


class Listing(Sequence[Example]):
    """Base of the data sets. Their lists are read when first asked for, and not carried to other processes.

    Making one looks only at the settings. Its length, classes and examples raise `ValueError` where the files that list the
    whole set are missing or damaged; an example alone does where only its own annotation is.
    """

    def __getstate__(self) -> dict[str, Any]:
        assert is_dataclass(self)  # noqa: S101  # all that derive from it are
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def sources(self) -> Sequence[Path] | None:
        """The files and folders that all of the set's examples come from, pictures aside. Where none of them has changed, a run
        does not read the examples again. `None` where they are not known: the set is read each time."""
        return None

    @abstractmethod
    def example(self, index: int) -> Example:
        """The example at an index from 0 up."""

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self.example(each) for each in range(len(self))[index]]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no example {index}; expected an index below {len(self)}")
        return self.example(index % len(self))


def set_paths_(settings: Any, *names: str) -> None:
    """Make text of the paths among the settings, so that a data set is hashed and written as JSON alike, however given."""
    for name in names:
        value = getattr(settings, name)
        if not isinstance(value, str | os.PathLike):
            raise ValueError(f"{name} is the path of a file or folder; got {value!r}")
        object.__setattr__(settings, name, os.fspath(value))


def check_part(year: Any, split: Any, years: str, splits: str) -> None:
    """Raise `ValueError` unless the year is a number and the split a name; `years` and `splits` are examples for the errors."""
    if not is_whole(year):
        raise ValueError(f"year is a number such as {years}; got {year!r}")
    if not (isinstance(split, str) and split):
        raise ValueError(f"split names {splits}; got {split!r}")


def set_names_(settings: Any, name: str) -> None:
    """Make a tuple of the names of classes, each of which is there once."""
    value = getattr(settings, name)
    if isinstance(value, str) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{name} are names of classes, in a list; got {value!r}")
    if len(set(value)) < len(value):
        raise ValueError(f"{name} must differ from one another; got {value!r}")
    object.__setattr__(settings, name, tuple(value))
