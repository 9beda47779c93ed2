"""Take the rows of one run into another: those of the same recipes, for the same pictures and classes."""

import math
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sfumato.runs.results.record import Record, Where
from sfumato.runs.stores.content import digest
from sfumato.runs.stores.processes import this_process
from sfumato.runs.stores.store import Done, Item, QueryKey, Store, StoreError

PLACES = 1000
"""How many places of a data set are taken at a time."""

LEASE = 600.0
"""Seconds in which the masks of one part must be copied. Claims hold as long, so that no start of this run removes them."""

MACHINE = ("made by", "device")
"""The parts of a recipe that only change digits: two runs of one plan on two machines differ in them."""


@dataclass(frozen=True)
class Taken:
    """How many items of another run were taken, and why others were not."""

    new: int = 0
    """They were open here, or had failed here."""
    known: int = 0
    """They were done here already; what is here stays."""
    failed: int = 0
    """They failed there, and are left to be tried here."""
    elsewhere: int = 0
    """Their pictures, annotations or classes are not those of this run."""

    def __add__(self, other: "Taken") -> "Taken":
        return Taken(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


def shared_recipes(into: Record, store: Store, other: Record, other_store: Store, adopt: bool) -> dict[int, int]:
    """The recipes that both runs have: the number in the other run, and that in this one.

    Raises `ValueError` if they have none in common, or, unless `adopt`, if another version or device computed some.
    """
    mine, theirs = store.recipes(), other_store.recipes()
    by_question = {_question(mine[where.recipe]): where.recipe for where in into.places}
    pairs = {
        where.recipe: by_question[question]
        for where in other.places
        if (question := _question(theirs[where.recipe])) in by_question
    }
    where = f"the run in {str(other.place.folder)!r}"
    if not pairs:
        raise ValueError(f"{where} has nothing that this one asks: {_first_difference(into, mine, other, theirs)}")
    changed = next(filter(None, (_changed(mine[here], theirs[number]) for number, here in pairs.items())), "")
    if changed and not adopt:
        raise ValueError(
            f"{where} was made by another version or on another device ({changed}), so that its digits may differ; nothing was "
            "changed. To take its items nevertheless, add --adopt"
        )
    return pairs


def merge(into: Record, store: Store, other: Record, other_store: Store, adopt: bool = False) -> Iterator[Taken]:
    """Take from another run what is not done in this one; yields, after each part, what became of its items.

    A row belongs to a recipe (the method, model, protocol and data set with all their settings, weights and code), to the
    content of a picture and its annotation, and to a class. It is taken where this run asks for the same and has no row. Failed
    items are not taken, nor times, as they are of another machine. Masks are taken if this run keeps them. An interrupted merge
    may be repeated.

    Raises as `shared_recipes` does, and `StoreError`.
    """
    pairs = shared_recipes(into, store, other, other_store, adopt)
    versions = ", ".join(f"{name} {version}" for name, version in other.made_by.items())
    masks = bool(tomllib.loads(into.text).get("masks", False))
    by_data: dict[str, list[int]] = {}
    for number in pairs:
        by_data.setdefault(other.recipes[number], []).append(number)
    for data, numbers in by_data.items():
        used: Counter[QueryKey] = Counter()
        for first in range(0, other.data[data]["examples"], PLACES):
            keys = other_store.query_keys(data, first, first + PLACES - 1)
            queries = _queries(store.find_queries(data, keys.values()), keys, used)
            taken = Taken()
            for there in numbers:
                taken += _take(into, store, other, other_store, (there, pairs[there]), keys, queries, masks, versions)
            yield taken


def _queries(
    here: Mapping[QueryKey, Sequence[int]], keys: Mapping[int, QueryKey], used: Counter[QueryKey]
) -> dict[int, int]:
    """The query of this run for each of another run that has the same key. Of a picture that this run has several times, the
    first is for the first, and so on; `used` says how many were before."""
    queries = {}
    for number, key in keys.items():
        same = here.get(key, ())
        if used[key] < len(same):
            queries[number] = same[used[key]]
        if len(same) > 1:
            used[key] += 1
    return queries


def _take(
    into: Record,
    store: Store,
    other: Record,
    other_store: Store,
    recipes: tuple[int, int],
    keys: Collection[int],
    queries: Mapping[int, int],
    masks: bool,
    origin: str,
) -> Taken:
    """Take the items of a recipe, by its numbers there and here; `queries` holds the numbers here of those in `keys`."""
    there, here = recipes
    done = list(other_store.look_up([Item(there, query) for query in keys]))
    placed = [entry for entry in done if entry.item.query in queries]
    measured = {Item(here, queries[entry.item.query]): entry for entry in placed if entry.row is not None}
    failed = sum(entry.row is None for entry in placed)
    here_done = list(store.look_up(measured))
    store.forget([entry.item for entry in here_done if entry.row is None])
    known = {entry.item for entry in here_done if entry.row is not None}
    new = {item: entry for item, entry in measured.items() if item not in known}
    me = this_process("merge")
    store.claim(list(new), me, LEASE)
    try:
        shards = (
            _copied(into, other, {_shard(entry) for entry in new.values() if entry.masks}) if masks else frozenset()
        )
        count = store.commit(
            [
                replace(entry, item=item, seconds=math.nan, masks=entry.masks if _shard(entry) in shards else "")
                for item, entry in new.items()
            ],
            origin,
        )
    finally:
        store.release(me)
    return Taken(count, len(placed) - failed - count, failed, len(done) - len(placed))


def _shard(entry: Done) -> str:
    return entry.masks.partition("/")[0]


def _copied(into: Record, other: Record, shards: Collection[str]) -> frozenset[str]:
    """Copy shards into this run; returns those that the other run has not lost."""
    there = set()
    for name in sorted(shards):
        try:
            other.place.shards.check(name)
        except StoreError:  # what it held is computed anew where this run needs it
            continue
        into.place.shards.take(other.place.shards, name)
        there.add(name)
    return frozenset(there)


def _question(recipe: Mapping[str, Any]) -> str:
    """What a recipe asks, whatever computes the answer."""
    return digest({name: value for name, value in recipe.items() if name not in MACHINE})


def _changed(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """In which versions and device two recipes differ, in words; empty if they do not."""
    here, there = ({**recipe["made by"], "device": recipe["device"]} for recipe in (mine, theirs))
    return ", ".join(
        f"{name} {there.get(name, '?')}, here {here[name]}" for name in here if here[name] != there.get(name)
    )


def _first_difference(
    into: Record, mine: Mapping[int, Mapping[str, Any]], other: Record, theirs: Mapping[int, Mapping[str, Any]]
) -> str:
    """Why no recipe is shared, in words: in what those differ that the two plans call the same."""

    def name(where: Where) -> tuple[str, ...]:
        return where.data, where.model, where.method, where.protocol

    here = {name(where): mine[where.recipe] for where in into.places}
    for where in other.places:
        if name(where) in here:
            one, two = here[name(where)], theirs[where.recipe]
            parts = [part for part in one if part not in MACHINE and one[part] != two.get(part)]
            return f"{', '.join(name(where))} differ in their {', '.join(parts)}"
    return "their plans have no data set, model, method and protocol of the same names in common"
