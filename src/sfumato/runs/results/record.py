"""A run as its folder tells it: what was planned, how far it is, where its rows are; without models, pictures or data sets."""

import secrets
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.runs.stores.opened import open_store
from sfumato.runs.stores.store import Store, Tally, data_note

if TYPE_CHECKING:  # torch takes seconds, and how far a run is says its store alone
    from sfumato.metrics.protocol import Protocol
    from sfumato.runs.plans.plan import Plan
    from sfumato.runs.stores.shards import Shards


@dataclass(frozen=True)
class Place:
    """Where a run is kept: its folder, and the database for its rows if that is not the folder's own file."""

    folder: Path
    url: str | None = None

    def store(self, create: bool = False) -> AbstractContextManager[Store]:
        """The run's store, opened. Raises `StoreError` where there is none, unless it may be made."""
        return open_store(self.folder, self.url, self.name if self.url else None, create)

    @property
    def name(self) -> str:
        """By which a database knows the run: that of the folder where it was begun, and a number that no other has."""
        file = self.folder / "name.txt"
        if not file.exists():
            file.write_text(f"{self.folder.resolve().name[:32]}-{secrets.token_hex(4)}\n", encoding="utf-8")
        return file.read_text(encoding="utf-8").strip()

    @property
    def shards(self) -> "Shards":
        """Where results are kept, of runs that keep them."""
        from sfumato.runs.stores.shards import Shards

        return Shards(self.folder / "masks")


@dataclass(frozen=True)
class Where:
    """A place in a run's table, by the names of the plan, and the recipe of its rows."""

    data: str
    model: str
    method: str
    protocol: str
    recipe: int


@dataclass(frozen=True, eq=False)
class Record:
    """What was begun at a place, as the store has it."""

    place: Place
    text: str
    """The plan's."""
    folder: Path
    """Which the plan's paths are relative to; it need not be there any more."""
    made_by: Mapping[str, str]
    """The versions of which the items are."""
    weights: Mapping[str, str]
    """The models' identities."""
    places: tuple[Where, ...]
    """In the plan's order."""
    data: Mapping[str, Mapping[str, Any]]
    """Of each data set its classes, and how many examples and queries it has (see `register`)."""
    said: Mapping[str, Any]
    """What else was noted when it was begun, by name."""

    @cached_property
    def protocols(self) -> "dict[str, Protocol]":
        """The plan's protocols, which say what rows come down to."""
        from sfumato.runs.plans import plan as plans

        return plans.protocols(self.text, "the run's plan")

    def read_plan(self) -> "Plan":
        """The plan, made anew: its methods and data sets must be there."""
        from sfumato.runs.plans import plan as plans

        return plans.parse(self.text, self.folder, "the run's plan")

    @property
    def recipes(self) -> dict[int, str]:
        """The recipes of the plan, each with the name of its data set."""
        return {where.recipe: where.data for where in self.places}

    @property
    def total(self) -> int:
        """How many items there are."""
        return sum(self.data[name]["queries"] for name in self.recipes.values())

    def tallies(self, store: Store) -> list[Tally]:
        """How many items of the plan are done, by recipe and cause of failure."""
        return [each for each in store.tallies() if each.recipe in self.recipes]

    def counts(self, store: Store) -> tuple[int, int]:
        """How many items are done, and how many of these failed."""
        found = self.tallies(store)
        return sum(each.items for each in found), sum(each.items for each in found if each.cause)

    def failures(self, store: Store) -> dict[str, tuple[int, str]]:
        """Why items failed: by cause how many, and the name of one example."""
        found: dict[str, tuple[int, str]] = {}
        for each in self.tallies(store):
            if each.cause:
                count, example = found.get(each.cause, (0, each.example))
                found[each.cause] = (count + each.items, example)
        return dict(sorted(found.items(), key=lambda entry: (-entry[1][0], entry[0])))

    def left(self, store: Store) -> int:
        """How many items are not done."""
        return self.total - self.counts(store)[0]


def found(place: Place) -> Record:
    """The record of the run that was last begun at a place. Raises `ValueError` where there is none."""
    with place.store() as store:
        notes = store.notes()
    if "plan" not in notes:
        raise ValueError(
            f"no run was begun in {str(place.folder)!r}; begin one with: sfumato bench run PLAN --out FOLDER"
        )
    return Record(place, notes["plan"]["text"], Path(notes["plan"]["folder"]), **_of_notes(notes))


def _of_notes(notes: Mapping[str, Any]) -> dict[str, Any]:
    places = tuple(Where(**each) for each in notes["places"])
    return {
        "made_by": notes["made by"],
        "weights": notes["weights"],
        "places": places,
        "data": {where.data: notes[data_note(where.data)] for where in places},
        "said": notes.get("said", {}),
    }
