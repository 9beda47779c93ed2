"""A run, read from its folder: what was planned, how far it is, where its rows are. Models, pictures and data sets are
not needed."""

import re
import secrets
import warnings
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.runs.stores.opened import FILE, open_store
from sfumato.runs.stores.store import ORIGINS, Store, StoreError, Tally, data_note, measures_note

if TYPE_CHECKING:  # torch takes seconds, and how far a run is says its store alone
    from sfumato.metrics.protocol import Protocol
    from sfumato.runs.plans.plan import Plan
    from sfumato.runs.stores.shards import Shards


@dataclass(frozen=True)
class Place:
    """Where a run is kept: its folder, and the address of a database if its rows are not in the folder."""

    folder: Path
    url: str | None = None

    def __post_init__(self) -> None:
        if "://" in str(self.folder) or re.match(r"\w{2,}:/", self.folder.as_posix()):  # a path holds one slash of two
            raise ValueError(
                "a run has a folder, whose name cannot be an address; if its rows are to be in a database, write "
                "--out FOLDER --store ADDRESS"
            )

    def store(self, create: bool = False) -> AbstractContextManager[Store]:
        """Open the run's store. Raises `StoreError` if there is none, unless `create` is given, and if the rows of the run in
        this folder are in the other kind of store.
        """
        in_file = (self.folder / FILE).exists()
        if self.url is None and self.in_database:
            raise StoreError(
                f"the rows of the run in {str(self.folder)!r} are in a database: give its address with --store, or in the "
                "variable SFUMATO_STORE"
            )
        if self.url is not None and in_file and not self._name_file.exists():
            raise StoreError(
                f"the rows of the run in {str(self.folder)!r} are in its file {FILE}: leave out --store, and the variable "
                "SFUMATO_STORE, or take another folder"
            )
        named = self.url is None or self._name_file.exists()
        try:
            return open_store(self.folder, self.url, self.name if self.url else None, create)
        except BaseException:
            if not named:  # nothing is there under the new name
                self._name_file.unlink(missing_ok=True)
            raise

    @property
    def in_database(self) -> bool:
        """Whether the rows of the run that was begun here are in a database."""
        return self._name_file.exists() and not (self.folder / FILE).exists()

    def plan_text(self) -> str | None:
        """The plan of the run that is here; `None` if there is none. Raises `StoreError` if it cannot be read."""
        if not (self.folder / FILE).exists() and not self._name_file.exists():
            return None
        with self.store(create=self.url is not None) as store:
            text: str | None = store.notes().get("plan", {}).get("text")
            return text

    @property
    def _name_file(self) -> Path:
        """Only a run whose rows are in a database has it."""
        return self.folder / "name.txt"

    @property
    def name(self) -> str:
        """The name of the run in a database: that of its first folder, and a random number."""
        file = self._name_file
        if not file.exists():
            file.write_text(f"{self.folder.resolve().name[:32]}-{secrets.token_hex(4)}\n", encoding="utf-8")
        return file.read_text(encoding="utf-8").strip()

    @property
    def shards(self) -> "Shards":
        """The folder of the results of methods, if the run keeps them."""
        from sfumato.runs.stores.shards import Shards

        return Shards(self.folder / "masks")


@dataclass(frozen=True)
class Where:
    """A cell of a run's table, by the names in the plan, and the number of its recipe."""

    data: str
    model: str
    method: str
    protocol: str
    recipe: int


@dataclass(frozen=True, eq=False)
class Record:
    """The run at a place, as its store has it."""

    place: Place
    text: str
    """The text of the plan."""
    folder: Path
    """The folder that paths in the plan are relative to; it may be gone."""
    made_by: Mapping[str, str]
    """The versions of the code that made the items."""
    weights: Mapping[str, str]
    """The identities of the models."""
    places: tuple[Where, ...]
    """In the plan's order."""
    data: Mapping[str, Mapping[str, Any]]
    """By data set, its classes and how many examples and queries it has (see `register`)."""
    said: Mapping[str, Any]
    """Other facts that were noted when the run began, by name."""
    measures: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """The measures of protocols of other packages, as JSON, by the protocol's name (see `Session.note_measures`)."""
    merged: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    """By versions, in words, how many items of the plan were taken from other runs."""
    faults: dict[str, str] = field(default_factory=dict, kw_only=True)
    """Why protocols could not sum up their rows, by name: results that were read are without them."""

    @cached_property
    def protocols(self) -> "dict[str, Protocol]":
        """The plan's protocols, which sum up rows. One that cannot be made here sums up as the run has noted, see
        `Session.note_measures`; without a note there is a warning."""
        from sfumato.runs.plans import plan as plans
        from sfumato.runs.results.noted_protocol import NotedProtocol

        protocols: dict[str, Protocol] = {}
        for name, made in plans.protocols(self.text, "the run's plan").items():
            if not isinstance(made, ValueError):
                protocols[name] = made
                continue
            protocols[name] = noted = NotedProtocol.read(self.measures.get(name))
            if not noted.noted:
                warnings.warn(
                    f"protocol {name!r} is left out, as the run has not noted its measures: {made}", stacklevel=1
                )
        return protocols

    def read_plan(self) -> "Plan":
        """Parse the plan again: its methods and data sets must be there."""
        from sfumato.runs.plans import plan as plans

        return plans.parse(self.text, self.folder, "the run's plan")

    @property
    def recipes(self) -> dict[int, str]:
        """By recipe of the plan, the name of its data set."""
        return {where.recipe: where.data for where in self.places}

    @property
    def total(self) -> int:
        """How many items there are."""
        return sum(self.data[name]["queries"] for name in self.recipes.values())

    def tallies(self, store: Store) -> list[Tally]:
        """How many items of the plan are done, by recipe and cause of failure."""
        return [tally for tally in store.tallies() if tally.recipe in self.recipes]

    def counts(self, store: Store) -> tuple[int, int]:
        """How many items are done, and how many of these failed."""
        tallies = self.tallies(store)
        return sum(tally.items for tally in tallies), sum(tally.items for tally in tallies if tally.cause)

    def failures(self, store: Store) -> dict[str, tuple[int, str]]:
        """Why items failed: by cause, how many, and the name of one example. The most frequent comes first."""
        causes: dict[str, tuple[int, str]] = {}
        for tally in self.tallies(store):
            if tally.cause:
                count, example = causes.get(tally.cause, (0, tally.example))
                causes[tally.cause] = (count + tally.items, example)
        return dict(sorted(causes.items(), key=lambda entry: (-entry[1][0], entry[0])))

    def left(self, store: Store) -> int:
        """How many items are not done."""
        return self.total - self.counts(store)[0]


def read_record(place: Place) -> Record:
    """Read the run that was last begun at a place. Raises `ValueError` if there is none."""
    with place.store() as store:
        notes = store.notes()
    if "plan" not in notes:
        raise ValueError(
            f"no run was begun in {str(place.folder)!r}; start one with: sfumato bench run PLAN --out FOLDER"
        )
    return Record(place, notes["plan"]["text"], Path(notes["plan"]["folder"]), **_of_notes(notes))


def _of_notes(notes: Mapping[str, Any]) -> dict[str, Any]:
    places = tuple(Where(**place) for place in notes["places"])
    return {
        "made_by": notes["made by"],
        "weights": notes["weights"],
        "places": places,
        "data": {where.data: notes[data_note(where.data)] for where in places},
        "said": notes.get("said", {}),
        "merged": _merged(notes.get(ORIGINS, {}), {str(where.recipe) for where in places}),
        "measures": {
            where.protocol: notes[measures_note(where.protocol)]
            for where in places
            if measures_note(where.protocol) in notes
        },
    }


def _merged(origins: Mapping[str, Mapping[str, int]], recipes: Collection[str]) -> dict[str, int]:
    """How many items of some recipes came from elsewhere, by origin."""
    counts = {
        origin: sum(count for recipe, count in by_recipe.items() if recipe in recipes)
        for origin, by_recipe in origins.items()
    }
    return {origin: count for origin, count in counts.items() if count}
