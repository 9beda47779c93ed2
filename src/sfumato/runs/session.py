"""A run and its folder: begun, gone on with, looked at."""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sfumato.about import versions
from sfumato.runs import items
from sfumato.runs.check import check_plan
from sfumato.runs.execute import Progress, execute
from sfumato.runs.findings import sentence
from sfumato.runs.items import Chunk
from sfumato.runs.kept import Kept
from sfumato.runs.opened import open_store
from sfumato.runs.plan import Combination, Plan, parse
from sfumato.runs.shards import Shards
from sfumato.runs.source import code
from sfumato.runs.store import Done, Store, StoreError
from sfumato.runs.work import Workbench, identity

ANEW, ADOPT = "anew", "adopt"
"""What may be done with items of another version: done again beside them, or taken as done."""


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
    def shards(self) -> Shards:
        """Where results are kept, of runs that keep them."""
        return Shards(self.folder / "masks")


@dataclass(frozen=True, eq=False)
class Session:
    """A plan at a place, with the models' identities: all that says which items there are."""

    plan: Plan
    place: Place
    weights: Mapping[str, str]
    made_by: Mapping[str, str]
    """The versions of which the items are, a part of their keys."""
    bench: Workbench | None = None
    """The models, where they are loaded in this process already."""

    @cached_property
    def recipes(self) -> dict[tuple[Combination, str], dict[str, Any]]:
        return items.recipes(self.plan, self.weights, self.made_by)

    @cached_property
    def names(self) -> dict[tuple[Combination, str], str]:
        """The recipes' hashes."""
        return {key: items.named(recipe) for key, recipe in self.recipes.items()}

    def chunks(self) -> Iterator[Chunk]:
        """All that is planned, in order."""
        return items.chunks(self.plan, self.names)

    @cached_property
    def identities(self) -> dict[str, list[str]]:
        """Those of all queries, by data set, each once.

        Of a million queries these are some hundred megabytes, and their keys for all recipes would be many times that.
        """
        return {
            name: list(dict.fromkeys(unit.identity for unit in items.units(entry.data, entry.targets)))
            for name, entry in self.plan.data.items()
        }

    @cached_property
    def data_of(self) -> dict[str, str]:
        """The data set of each recipe, by the recipe's hash."""
        return {name: combination.data for (combination, _), name in self.names.items()}

    def keys(self, recipe: str) -> set[str]:
        """Those of a recipe's items."""
        return {items.key(recipe, identity) for identity in self.identities[self.data_of[recipe]]}

    @property
    def total(self) -> int:
        """How many items there are."""
        return sum(len(self.identities[data]) for data in self.data_of.values())

    def work(self) -> Iterator[Progress]:
        """Do, in this process, all that is not done."""
        bench = self.bench or Workbench(self.plan, self.weights)
        with self.place.store() as store:
            kept = self.kept(store)
            yield from execute(
                self.chunks,
                lambda chunk, wanted: bench.done(chunk, wanted, kept.of(chunk, wanted)),
                store,
                self.place.shards.keep if self.plan.masks else None,
            )

    def kept(self, store: Store) -> Kept:
        """The results that the run has kept; none of a run that keeps none."""
        alike: dict[str, list[str]] = {}
        if self.plan.masks:
            for name, recipe in store.recipes().items():
                alike.setdefault(items.explanation(recipe), []).append(name)
        by_recipe = {name: names for names in alike.values() for name in names}
        return Kept(store, self.place.shards, by_recipe)

    def left(self, store: Store) -> int:
        """How many items are not done."""
        return self.total - sum(len(store.known(self.keys(recipe))) for recipe in self.data_of)

    def counts(self, store: Store) -> tuple[int, int]:
        """How many items are done, and how many of these failed: quick, and too high where the plan has become smaller."""
        counted = [count for recipe, count in store.count().items() if recipe in self.data_of]
        return sum(done for done, _ in counted), sum(failed for _, failed in counted)

    def done(self, store: Store, recipe: str) -> Iterator[Done]:
        """What is done of a recipe, without what the plan asks for no more."""
        keys = self.keys(recipe)
        return (each for each in store.done(recipe) if each.key in keys)


def begun(
    plan: Plan,
    place: Place,
    other_version: str | None = None,
    note: Callable[[str], object] = lambda _: None,
    on_cluster: bool = False,
) -> Session:
    """The session of a plan at a new place, or at one where a run is already: what is done there stays done.

    Loads the models, to know them by their weights. Raises `PlanError` where it is known before the first picture that items
    will fail, `ValueError` for a run made by another version, unless `other_version` says what is to be done, and `StoreError`
    where nothing can be kept. `note` is told what stops nothing and should be known; `on_cluster` says that workers of a
    cluster will do the work.
    """
    _check_folder(place.folder)
    bench = Workbench(plan)
    findings = check_plan(plan, bench, on_cluster)
    findings.stop()
    for each in findings.notes:
        note(sentence(plan, each))
    _make_folder(place.folder)
    place.shards.sweep()
    with place.store(create=True) as store:
        made_by = _version(store.notes().get("made by"), other_version, place.folder)
        weights = {name: identity(bench.classifier(name)) for name in plan.models}
        session = Session(plan, place, weights, made_by, bench)
        store.tell({session.names[key]: recipe for key, recipe in session.recipes.items()})
        store.note("made by", dict(made_by))
        store.note("plan", {"text": plan.text, "folder": str(plan.folder)})
        store.note("weights", dict(weights))
        store.note("classes", findings.classes)
        store.note(
            "places", [{**key[0]._asdict(), "protocol": key[1], "recipe": name} for key, name in session.names.items()]
        )
    return session


def found(place: Place) -> Session:
    """The session of the run that was last begun at a place, without its models. Raises `ValueError` where there is none."""
    with place.store() as store:
        notes = store.notes()
    if "plan" not in notes:
        raise ValueError(
            f"no run was begun in {str(place.folder)!r}; begin one with: sfumato bench run PLAN --out FOLDER"
        )
    plan = parse(notes["plan"]["text"], Path(notes["plan"]["folder"]), "the run's plan")
    return Session(plan, place, notes["weights"], notes["made by"])


def current() -> dict[str, str]:
    """What results depend on besides what a plan says."""
    known = versions()
    return {"sfumato": known["sfumato"], "code": code(), "torch": known["torch"]}


def _version(before: Mapping[str, str] | None, choice: str | None, folder: Path) -> Mapping[str, str]:
    now = current()
    if before is None or before == now or choice == ANEW:
        return now
    if choice == ADOPT:
        return before
    changed = ", ".join(
        f"{name} {before.get(name, '?')}, here {now[name]}" for name in now if before.get(name) != now[name]
    )
    raise ValueError(
        f"the run in {str(folder)!r} was made by another version ({changed}); nothing was changed. Go on with that version, or "
        "with --other-version anew (its items are done again, beside those) or --other-version adopt (those count as done)"
    )


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out must be a folder, or the name of a new one; got the file {str(folder)!r}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {str(folder)!r}: {error.strerror}") from error
