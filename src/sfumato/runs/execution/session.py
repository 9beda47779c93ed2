"""A session of a run: begin it or continue it, do what is left, and choose what is done again."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

from sfumato.about import versions
from sfumato.files import made_folder
from sfumato.metrics.estimate import Row
from sfumato.runs.checks.check import check_plan
from sfumato.runs.execution.execute import Progress, execute
from sfumato.runs.plans.findings import sentence
from sfumato.runs.plans.plan import Combination, Plan
from sfumato.runs.results.noted_protocol import note_of
from sfumato.runs.results.record import Place, Record, Where, read_record
from sfumato.runs.stores.content import digest
from sfumato.runs.stores.store import Store, StoreError, data_note, measures_note
from sfumato.runs.work import items
from sfumato.runs.work.cache import ResultCache
from sfumato.runs.work.register import is_registered, register
from sfumato.runs.work.source import code
from sfumato.runs.work.undone import Window, look, open_windows
from sfumato.runs.work.workbench import Workbench, identity
from sfumato.scores import differing
from sfumato.settings import near

ANEW, ADOPT = "anew", "adopt"
"""What to do with items that another version made: do them again, or count them as done."""


SAMPLE = 100
"""Rows of each method from which a protocol says its measures."""


@dataclass(frozen=True, eq=False)
class Session(Record):
    """A run with its plan: all that the remaining work needs."""

    plan: Plan
    bench: Workbench | None = None
    """The models, if this process has loaded them already."""
    code: items.Code = field(default_factory=dict)
    """The code of the methods and protocols when the session began. A worker that has other code does not work."""

    @cached_property
    def numbers(self) -> dict[tuple[Combination, str], int]:
        """The recipes' numbers in the store."""
        recipes = {(where.data, where.model, where.method, where.protocol): where.recipe for where in self.places}
        return {
            (combination, protocol): recipes[combination.data, combination.model, combination.method, protocol]
            for combination in self.plan.combinations()
            for protocol in combination.protocols
        }

    def undone(self, store: Store, looked: bool = False) -> Iterator[Window]:
        """The items that are planned and not done, as windows of chunks. `looked` says that `look` was called just now."""
        return open_windows(self.plan, self.numbers, store, looked)

    def look(self, store: Store) -> int:
        """Check whether files of pictures have changed, and count the items that are not done."""
        look(self.plan, store)
        return self.left(store)

    def work(self) -> Iterator[Progress]:
        """Do in this process all that is not done. There is no time limit, and an item that ends its process ends this one; see
        `sfumato.runs.execution.workers.spread` for work in processes of its own."""
        bench = self.bench or Workbench(self.plan, self.weights, self.code)
        with self.place.store() as store:
            cache = self.cache(store)
            yield from execute(
                lambda: self.undone(store),
                lambda chunk, wanted: bench.compute(chunk, wanted, cache.of(chunk, wanted)),
                store,
                self.place.shards.keep if self.plan.masks else None,
            )
            self.note_measures(store)

    def note_measures(self, store: Store) -> None:
        """Note what the protocols of other packages make of their rows: a copy may be read where they are missing."""
        for name, protocol in self.protocols.items():
            if type(protocol).__module__.startswith("sfumato."):
                continue
            rows: list[Row] = []
            for where in self.places:
                for page in islice(store.pages(where.recipe), 1 if where.protocol == name else 0):
                    values = islice(zip(*page.values, strict=True), SAMPLE)
                    rows += [dict(zip(page.names, row, strict=True)) for row in values]
            measures = note_of(protocol, rows) if rows else None
            if measures is not None and store.notes().get(measures_note(name)) != measures:
                store.note(measures_note(name), measures)

    def cache(self, store: Store) -> ResultCache:
        """The results of methods that the run has kept; empty if the plan keeps no masks."""
        alike: dict[str, list[int]] = {}
        if self.plan.masks:
            for number, recipe in store.recipes().items():
                alike.setdefault(items.explanation(recipe), []).append(number)
        by_recipe = {number: numbers for numbers in alike.values() for number in numbers}
        return ResultCache(store, self.place.shards, by_recipe)

    def redo(self, store: Store, name: str) -> None:
        """Forget what was done with a method, model or protocol of the plan, so that it is done again.

        For a method or model, this includes rows of protocols that have left the plan: their masks would be used otherwise."""
        numbers = {
            where.recipe
            for where in self.places
            if name in (where.method, where.model, where.protocol, *self.plan.protocols[where.protocol].others)
        }
        if not numbers:
            names = {word for where in self.places for word in (where.method, where.model, where.protocol)}
            names |= {other for where in self.places for other in self.plan.protocols[where.protocol].others}
            raise ValueError(
                f"nothing in the plan is called {name!r}{near(name, sorted(names))}; expected a method, a model or a protocol "
                f"of it: {', '.join(sorted(names))}"
            )
        recipes = store.recipes()
        explained = {
            items.explanation(recipes[where.recipe]) for where in self.places if name in (where.method, where.model)
        }
        numbers |= {number for number, recipe in recipes.items() if items.explanation(recipe) in explained}
        for recipe in sorted(numbers):
            store.forget_recipe(recipe)

    def retry(self, store: Store) -> None:
        """Forget the failed items, so that they are tried again."""
        for recipe in sorted(self.recipes):
            store.forget_recipe(recipe, failed=True)


def begin(
    plan: Plan,
    place: Place,
    other_version: str | None = None,
    note: Callable[[str], object] = lambda _: None,
    on_cluster: bool = False,
) -> Session:
    """Begin the run of a plan at a new place, or continue the one that is there: what is done stays done.

    This loads the models, to identify them by their weights, and reads the annotations of the data sets, unless the run has
    them already. `other_version` says what to do if another version made the run. `note` is called with remarks that do not
    stop the run. `on_cluster` says that workers of a cluster will do the work.

    Raises `PlanError` if the plan has faults that show before the first picture, `ValueError` for a run that another version
    made if `other_version` is not given, and `StoreError` if nothing can be written.
    """
    _check_folder(place.folder)
    bench = Workbench(plan)
    findings = check_plan(plan, bench, on_cluster, _registered_data(plan, place))
    findings.stop()
    for finding in findings.notes:
        note(sentence(plan, finding))
    with _made_folder(place.folder), place.store(create=True) as store:
        made_by = _version(store.notes().get("made by"), other_version, place.folder)
        weights = {name: identity(bench.classifier(name), entry.name) for name, entry in plan.models.items()}
        for name, entry in plan.data.items():
            register(store, name, entry)
        indices = {(class_note["data"], class_note["model"]): class_note["indices"] for class_note in findings.classes}
        code = items.code_of(plan)
        recipes = items.recipes(plan, weights, made_by, indices, code)
        hashes = {key: digest(recipe) for key, recipe in recipes.items()}
        numbers = store.add_recipes({hashes[key]: recipe for key, recipe in recipes.items()})
        places = tuple(
            Where(combination.data, combination.model, combination.method, protocol, numbers[name])
            for (combination, protocol), name in hashes.items()
        )
        facts = {"quantities": _quantities(plan), "classes": findings.classes}
        store.note("made by", dict(made_by))
        store.note("weights", dict(weights))
        store.note("places", [vars(where) for where in places])
        store.note("said", facts)
        store.note("plan", {"text": plan.text, "folder": str(plan.folder)})
        notes = store.notes()
        if not store.claimed():  # else somebody may be about to name what he has just written
            place.shards.sweep(store.shards)
    data = {name: notes[data_note(name)] for name in plan.data}
    return Session(place, plan.text, plan.folder, made_by, weights, places, data, facts, plan, bench, code)


def _registered_data(plan: Plan, place: Place) -> list[str]:
    """Names of the data sets that a run of the same plan at this place has read, and that have not changed since."""
    if not place.folder.is_dir():
        return []
    try:
        with place.store() as store:
            same = store.notes().get("plan", {}).get("text") == plan.text
            return [name for name, entry in plan.data.items() if same and is_registered(store, name, entry)]
    except (StoreError, ValueError):  # there is none, or it is said when the run is begun
        return []


def current() -> dict[str, str]:
    """What results depend on besides what a plan says."""
    installed = versions()
    return {"sfumato": installed["sfumato"], "code": code(), "torch": installed["torch"]}


def _quantities(plan: Plan) -> list[dict[str, str]]:
    """A sentence for each table whose methods explain different scores of a class."""
    notes = []
    for name, entry in plan.data.items():
        methods = {method: plan.methods[method] for method in entry.methods}
        sentence = differing(
            {method_name: method.score for method_name, method in methods.items() if hasattr(method, "score")}
        )
        notes += [{"data": name, "model": model, "sentence": sentence} for model in entry.models if sentence]
    return notes


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


@contextmanager
def _made_folder(folder: Path) -> Iterator[None]:
    """A context with a folder, which is made, and removed if nothing is in it at the end."""
    with ExitStack() as folders:
        try:
            folders.enter_context(made_folder(folder))
        except OSError as error:
            raise StoreError(f"cannot make the folder {str(folder)!r}: {error.strerror}") from error
        yield


__all__ = ["ADOPT", "ANEW", "Place", "Session", "begin", "current", "read_record"]
