"""What a plan has left to do, in windows of queries."""

import json
from collections.abc import Iterator, Mapping, Sequence

from sfumato.data.plain import example_of
from sfumato.runs.plans.plan import Combination, Plan
from sfumato.runs.stores.content import AWAY, content, stamp
from sfumato.runs.stores.store import Item, Store, StoredFiles, StoredQuery, data_note
from sfumato.runs.work.items import Chunk, Unit
from sfumato.settings import batched

QUERIES = 1000
"""About how many queries make a window."""


Window = list[tuple[Chunk, list[Item]]]
"""Chunks with items that are not done, and these items."""


def open_windows(
    plan: Plan, recipes: Mapping[tuple[Combination, str], int], store: Store, looked: bool = False
) -> Iterator[Window]:
    """The items that are planned and not done. For each data set and model, all methods do a chunk of queries before
    the next chunk.

    Files whose size or times have changed are hashed again. If their content has changed, the queries are new ones. `looked`
    says that `look` has just done this with all files: then it is done again only where something is left to do.
    """
    together: dict[tuple[str, str], list[Combination]] = {}
    for combination in plan.combinations():
        together.setdefault((combination.data, combination.model), []).append(combination)
    size = plan.batch * -(-QUERIES // plan.batch)
    for (data, _), combinations in together.items():
        numbers = [
            tuple(recipes[combination, protocol] for protocol in combination.protocols) for combination in combinations
        ]
        all_numbers = {recipe for row in numbers for recipe in row}
        for queries in _incomplete(store, data, size, all_numbers) if looked else batched(_planned(store, data), size):
            if looked or not _complete(store, [query.query for query in queries], all_numbers):
                chunks = _chunks(store, queries, combinations, numbers, plan.batch)
                done = store.which_done([item for chunk in chunks for item in chunk.all_items])
                missing = [(chunk, [item for item in chunk.all_items if item not in done]) for chunk in chunks]
                if missing := [(chunk, items) for chunk, items in missing if items]:
                    yield missing


def _planned(store: Store, data: str) -> Iterator[StoredQuery]:
    """The queries of a data set in order, after a look at their files."""
    for first in range(0, _examples(store, data), QUERIES):
        yield from _page(store, data, first)


def _page(store: Store, data: str, first: int) -> list[StoredQuery]:
    """The queries of the examples at `QUERIES` places from `first` on, after a look at their files."""
    last = first + QUERIES - 1
    _look_into(store, data, store.files(data, first, last))
    return store.planned(data, first, last)


def _incomplete(store: Store, data: str, size: int, recipes: set[int]) -> Iterator[list[StoredQuery]]:
    """The queries of a data set in windows of `size`, without the windows whose items are all done. Only numbers are read of
    these, not files."""
    numbers = (
        (query, first, offset)
        for first in range(0, _examples(store, data), QUERIES)
        for offset, (query, _, _) in enumerate(store.order(data, first, first + QUERIES - 1))
    )
    for window in batched(numbers, size):
        if not _complete(store, [query for query, _, _ in window], recipes):
            (_, first, offset), (_, last, _) = window[0], window[-1]
            pages = [query for page in range(first, last + 1, QUERIES) for query in _page(store, data, page)]
            yield pages[offset : offset + len(window)]


def look(plan: Plan, store: Store, anew: bool = False) -> None:
    """Hash files again whose size or times have changed: if their content has, their items do not count as done.

    Files that were never hashed are left to `open_windows`, as nothing is done with them yet, unless `anew`."""
    for data in plan.data:
        for first in range(0, _examples(store, data), QUERIES):
            page = store.files(data, first, first + QUERIES - 1)
            _look_into(store, data, [entry for entry in page if entry.content or anew])


def _look_into(store: Store, data: str, page: Sequence[StoredFiles]) -> None:
    """Hash the files of examples that have changed, and note what they hold.

    A file that was hashed before and is missing now has not changed: its rows stay, and new items of it fail.
    """
    stale = [
        (entry, now)
        for entry in page
        if (now := stamp(entry.files)) != entry.stamp and not (entry.content and AWAY in now)
    ]
    store.set_contents(data, [(entry.example, now, content(entry.files)) for entry, now in stale])


def _examples(store: Store, data: str) -> int:
    return int(store.notes()[data_note(data)]["examples"])


def _complete(store: Store, numbers: Sequence[int], recipes: set[int]) -> bool:
    """Whether all items of queries with consecutive numbers are done: to count them is quicker than to look each up."""
    first, last = min(numbers), max(numbers)
    if last - first + 1 != len(numbers):
        return False
    return all(store.count_done(recipe, first, last) == len(numbers) for recipe in recipes)


def _chunks(
    store: Store,
    queries: Sequence[StoredQuery],
    combinations: Sequence[Combination],
    numbers: Sequence[tuple[int, ...]],
    batch: int,
) -> list[Chunk]:
    bodies = store.bodies({query.example for query in queries})
    units = [_unit(query, bodies[query.example]) for query in queries]
    return [
        Chunk(combination, tuple(units[first : first + batch]), recipes)
        for first in range(0, len(units), batch)
        for combination, recipes in zip(combinations, numbers, strict=True)
    ]


def _unit(planned: StoredQuery, body: str) -> Unit:
    fields = json.loads(body)
    if "reason" in fields:
        return Unit(planned.query, fields["name"], planned.target, None, reason=fields["reason"])
    return Unit(planned.query, fields["name"], planned.target, example_of(fields), planned.content)
