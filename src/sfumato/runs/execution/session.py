"""A run that is worked on: begun, gone on with, and what is to be done again."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sfumato.about import versions
from sfumato.runs.checks.check import check_plan
from sfumato.runs.execution.execute import Progress, execute
from sfumato.runs.plans.findings import sentence
from sfumato.runs.plans.plan import Combination, Plan
from sfumato.runs.results.record import Place, Record, Where, found
from sfumato.runs.stores.content import digest
from sfumato.runs.stores.store import Store, StoreError, data_note
from sfumato.runs.work import items
from sfumato.runs.work.kept import Kept
from sfumato.runs.work.register import register, registered
from sfumato.runs.work.source import code
from sfumato.runs.work.undone import Window, look, undone
from sfumato.runs.work.workbench import Workbench, identity
from sfumato.scores import differing
from sfumato.settings import near

ANEW, ADOPT = "anew", "adopt"
"""What may be done with items of another version: done again beside them, or taken as done."""


@dataclass(frozen=True, eq=False)
class Session(Record):
    """A record with its plan: all that is needed to do what is left."""

    plan: Plan
    bench: Workbench | None = None
    """The models, where they are loaded in this process already."""

    @cached_property
    def numbers(self) -> dict[tuple[Combination, str], int]:
        """The recipes' numbers in the store."""
        known = {(each.data, each.model, each.method, each.protocol): each.recipe for each in self.places}
        return {
            (each, protocol): known[each.data, each.model, each.method, protocol]
            for each in self.plan.combinations()
            for protocol in each.protocols
        }

    def undone(self, store: Store) -> Iterator[Window]:
        """What is planned and not done."""
        return undone(self.plan, self.numbers, store)

    def look(self, store: Store) -> int:
        """How many items are not done, after a look at whether the pictures are those that they were."""
        look(self.plan, store)
        return self.left(store)

    def work(self) -> Iterator[Progress]:
        """Do, in this process, all that is not done: an item that ends its process ends this one, and may take any time. See
        `sfumato.runs.execution.workers.spread` for work in processes of its own."""
        bench = self.bench or Workbench(self.plan, self.weights)
        with self.place.store() as store:
            kept = self.kept(store)
            yield from execute(
                lambda: self.undone(store),
                lambda chunk, wanted: bench.done(chunk, wanted, kept.of(chunk, wanted)),
                store,
                self.place.shards.keep if self.plan.masks else None,
            )

    def kept(self, store: Store) -> Kept:
        """The results that the run has kept; none of a run that keeps none."""
        alike: dict[str, list[int]] = {}
        if self.plan.masks:
            for number, recipe in store.recipes().items():
                alike.setdefault(items.explanation(recipe), []).append(number)
        by_recipe = {number: numbers for numbers in alike.values() for number in numbers}
        return Kept(store, self.place.shards, by_recipe)

    def redo(self, store: Store, name: str) -> None:
        """Forget all that was done by a method, of a model or by a protocol of the plan, so that it is done again; of a method
        or model also what protocols found that are not in the plan any more, as their masks would serve the others."""
        chosen = {
            each.recipe
            for each in self.places
            if name in (each.method, each.model, each.protocol, *self.plan.protocols[each.protocol].others)
        }
        if not chosen:
            known = {word for each in self.places for word in (each.method, each.model, each.protocol)}
            known |= {other for each in self.places for other in self.plan.protocols[each.protocol].others}
            raise ValueError(
                f"nothing in the plan is called {name!r}{near(name, sorted(known))}; expected a method, a model or a protocol "
                f"of it: {', '.join(sorted(known))}"
            )
        recipes = store.recipes()
        explained = {
            items.explanation(recipes[each.recipe]) for each in self.places if name in (each.method, each.model)
        }
        chosen |= {number for number, recipe in recipes.items() if items.explanation(recipe) in explained}
        for recipe in sorted(chosen):
            store.forget_recipe(recipe)

    def retry(self, store: Store) -> None:
        """Forget the failures, so that they are tried again."""
        for recipe in sorted(self.recipes):
            store.forget_recipe(recipe, failed=True)


def begun(
    plan: Plan,
    place: Place,
    other_version: str | None = None,
    note: Callable[[str], object] = lambda _: None,
    on_cluster: bool = False,
) -> Session:
    """The session of a plan at a new place, or at one where a run is already: what is done there stays done.

    Loads the models, to know them by their weights, and reads the data sets' annotations, unless the run has them already.
    Raises `PlanError` where it is known before the first picture that items will fail, `ValueError` for a run made by another
    version, unless `other_version` says what is to be done, and `StoreError` where nothing can be kept. `note` is told what
    stops nothing and should be known; `on_cluster` says that workers of a cluster will do the work.
    """
    _check_folder(place.folder)
    bench = Workbench(plan)
    findings = check_plan(plan, bench, on_cluster, _registered(plan, place))
    findings.stop()
    for each in findings.notes:
        note(sentence(plan, each))
    _make_folder(place.folder)
    with place.store(create=True) as store:
        made_by = _version(store.notes().get("made by"), other_version, place.folder)
        weights = {name: identity(bench.classifier(name), entry.name) for name, entry in plan.models.items()}
        for name, entry in plan.data.items():
            register(store, name, entry)
        indices = {(each["data"], each["model"]): each["indices"] for each in findings.classes}
        recipes = items.recipes(plan, weights, made_by, indices)
        hashes = {key: digest(recipe) for key, recipe in recipes.items()}
        numbers = store.tell({hashes[key]: recipe for key, recipe in recipes.items()})
        places = tuple(
            Where(each.data, each.model, each.method, protocol, numbers[name])
            for (each, protocol), name in hashes.items()
        )
        said = {"quantities": _quantities(plan), "classes": findings.classes}
        store.note("made by", dict(made_by))
        store.note("weights", dict(weights))
        store.note("places", [vars(where) for where in places])
        store.note("said", said)
        store.note("plan", {"text": plan.text, "folder": str(plan.folder)})
        notes = store.notes()
        if not store.claimed():  # else somebody may be about to name what he has just written
            place.shards.sweep(store.shards)
    data = {name: notes[data_note(name)] for name in plan.data}
    return Session(place, plan.text, plan.folder, made_by, weights, places, data, said, plan, bench)


def _registered(plan: Plan, place: Place) -> list[str]:
    """The data sets that the run of the same plan at a place has as they are now: nothing new is to be known of them."""
    if not place.folder.is_dir():
        return []
    try:
        with place.store() as store:
            same = store.notes().get("plan", {}).get("text") == plan.text
            return [name for name, entry in plan.data.items() if same and registered(store, name, entry)]
    except (StoreError, ValueError):  # there is none, or it is said when the run is begun
        return []


def current() -> dict[str, str]:
    """What results depend on besides what a plan says."""
    known = versions()
    return {"sfumato": known["sfumato"], "code": code(), "torch": known["torch"]}


def _quantities(plan: Plan) -> list[dict[str, str]]:
    """Where a class does not mean the same to all methods of a table, a sentence that says so."""
    told = []
    for name, entry in plan.data.items():
        methods = {method: plan.methods[method] for method in entry.methods}
        sentence = differing({each: method.score for each, method in methods.items() if hasattr(method, "score")})
        told += [{"data": name, "model": model, "sentence": sentence} for model in entry.models if sentence]
    return told


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


__all__ = ["ADOPT", "ANEW", "Place", "Session", "begun", "current", "found"]
