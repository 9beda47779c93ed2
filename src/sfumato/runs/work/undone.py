"""What of a plan is left to do, a window of queries after the other."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from sfumato.data.plain import example_of
from sfumato.runs.plans.plan import Combination, Plan
from sfumato.runs.stores.content import AWAY, content, stamp
from sfumato.runs.stores.store import Item, Planned, Store, data_note
from sfumato.runs.work.items import Chunk, Unit

QUERIES = 1000
"""That are looked at together, about."""

Window = list[tuple[Chunk, list[Item]]]
"""Chunks of which something is not done, with those items."""


def undone(plan: Plan, recipes: Mapping[tuple[Combination, str], int], store: Store) -> Iterator[Window]:
    """All that is planned and not done: of each data set and model, each chunk of queries by all methods before the next.

    Files that have changed since they were last looked into are looked into, and are other queries where they hold something
    else.
    """
    together: dict[tuple[str, str], list[Combination]] = {}
    for combination in plan.combinations():
        together.setdefault((combination.data, combination.model), []).append(combination)
    size = plan.batch * -(-QUERIES // plan.batch)
    for (data, _), combinations in together.items():
        numbers = [tuple(recipes[each, protocol] for protocol in each.protocols) for each in combinations]
        stream = _planned(store, data)
        while queries := list(islice(stream, size)):
            if not _complete(store, queries, {number for each in numbers for number in each}):
                chunks = _chunks(store, queries, combinations, numbers, plan.batch)
                known = store.known([item for chunk in chunks for item in chunk.all_items])
                missing = [(chunk, [item for item in chunk.all_items if item not in known]) for chunk in chunks]
                if missing := [(chunk, items) for chunk, items in missing if items]:
                    yield missing


def _planned(store: Store, data: str) -> Iterator[Planned]:
    """The queries of a data set in order, their files looked into."""
    for first in range(0, _examples(store, data), QUERIES):
        last = first + QUERIES - 1
        page = store.planned(data, first, last)
        if _look_into(store, data, page):
            page = store.planned(data, first, last)
        yield from page


def look(plan: Plan, store: Store) -> None:
    """Look into all files that have changed since they were looked into, so that what is done of them does not count; those
    that never were have their turn."""
    for data in plan.data:
        for first in range(0, _examples(store, data), QUERIES):
            _look_into(store, data, [each for each in store.planned(data, first, first + QUERIES - 1) if each.stamp])


def _look_into(store: Store, data: str, page: Sequence[Planned]) -> bool:
    """Look into those files of a page's examples that have changed; whether there are any.

    What was looked into before and is away now is no other picture: its rows stay, and what is new of it fails.
    """
    stale = {
        each.example: (now, each.files)
        for each in page
        if (now := stamp(each.files)) != each.stamp and not (each.content and AWAY in now)
    }
    store.looked_into(data, [(example, now, content(paths)) for example, (now, paths) in stale.items()])
    return bool(stale)


def _examples(store: Store, data: str) -> int:
    return int(store.notes()[data_note(data)]["examples"])


def _complete(store: Store, queries: Sequence[Planned], recipes: set[int]) -> bool:
    """Whether all is done of queries whose numbers follow each other: counting is quicker than looking each up."""
    numbers = [each.query for each in queries]
    first, last = min(numbers), max(numbers)
    if last - first + 1 != len(numbers):
        return False
    return all(store.known_between(recipe, first, last) == len(numbers) for recipe in recipes)


def _chunks(
    store: Store,
    queries: Sequence[Planned],
    combinations: Sequence[Combination],
    numbers: Sequence[tuple[int, ...]],
    batch: int,
) -> list[Chunk]:
    bodies = store.bodies({each.example for each in queries})
    units = [_unit(each, bodies[each.example]) for each in queries]
    return [
        Chunk(combination, tuple(units[first : first + batch]), recipes)
        for first in range(0, len(units), batch)
        for combination, recipes in zip(combinations, numbers, strict=True)
    ]


def _unit(planned: Planned, body: str) -> Unit:
    said = json.loads(body)
    if "reason" in said:
        return Unit(planned.query, said["name"], planned.target, None, reason=said["reason"])
    return Unit(planned.query, said["name"], planned.target, example_of(said), planned.content)
