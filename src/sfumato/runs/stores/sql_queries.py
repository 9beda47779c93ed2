"""The data sets of a run in its database: their examples, queries, and the hashes of their files."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sfumato.runs.stores.causes import cause
from sfumato.runs.stores.sql_places import GONE, find_moves, move
from sfumato.runs.stores.store import QueryKey, StoredExample, StoredFiles, StoredQuery
from sfumato.runs.stores.tables import Rows

T = TypeVar("T")

PLANNED = "(queries.id IS NULL OR queries.live = 1 AND examples.place >= 0)"
"""Whether the query of a row in `done` is planned; a row of no data set counts as well."""

JOINED = "LEFT JOIN queries ON queries.id = done.query LEFT JOIN examples ON examples.id = queries.example"


class SqlQueries(ABC):
    """The part of a `Store` that is about queries."""

    @abstractmethod
    def _transaction(self, work: Callable[[Rows], T], write: bool = False) -> T: ...

    @abstractmethod
    def _read(self, statement: str, *values: Any) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    def _parse(self, text: str) -> Any: ...

    def put_examples(self, data: str, first: int, examples: Sequence[StoredExample]) -> None:
        last = first + len(examples) - 1

        def work(rows: Rows) -> None:
            there = {
                place: (number, annotation, body)
                for place, number, annotation, body in rows(
                    "SELECT place, id, annotation, body FROM examples WHERE data = ? AND place BETWEEN ? AND ?",
                    *(data, first, last),
                )
            }
            wanted = dict(enumerate(examples, first))
            same = {
                place for place, example in wanted.items() if place in there and there[place][1] == example.annotation
            }
            rows.each(
                "UPDATE examples SET body = ?, files = ?, stamp = '' WHERE id = ?",  # of a set that lies elsewhere now
                [
                    (wanted[place].body, json.dumps(wanted[place].files), there[place][0])
                    for place in sorted(same)
                    if there[place][2] != wanted[place].body
                ],
            )
            rows.each(
                f"UPDATE examples SET place = {GONE} WHERE id = ?",
                [(number,) for place, (number, _, _) in there.items() if place not in same],
            )
            new = {place: example for place, example in wanted.items() if place not in same}
            _put_at_places(rows, data, new)
            if _set_targets(rows, data, wanted) or new:
                rows(
                    """INSERT INTO notes (name, value) VALUES (?, 'true')
                    ON CONFLICT (name) DO UPDATE SET value = excluded.value""",
                    _recount_note(data),
                )

        if examples:
            self._transaction(work, write=True)

    def finish_examples(self, data: str, count: int) -> int:
        def work(rows: Rows) -> int:
            beyond = rows("SELECT id FROM examples WHERE data = ? AND place >= ?", data, count)
            rows.each(f"UPDATE examples SET place = {GONE} WHERE id = ?", beyond)
            if beyond or rows("SELECT 1 FROM notes WHERE name = ?", _recount_note(data)):
                self._count_data_again(rows, data)
                rows("DELETE FROM notes WHERE name = ?", _recount_note(data))
            return int(
                rows(
                    """SELECT count(*) FROM examples JOIN queries ON queries.example = examples.id
                    WHERE examples.data = ? AND examples.place >= 0 AND queries.live = 1""",
                    data,
                )[0][0]
            )

        return self._transaction(work, write=True)

    def planned(self, data: str, first: int, last: int) -> list[StoredQuery]:
        statement = """SELECT queries.id, queries.target, examples.id, examples.place, files, stamp, content
            FROM examples CROSS JOIN queries WHERE queries.example = examples.id
                AND data = ? AND place BETWEEN ? AND ? AND live = 1 ORDER BY place, target"""
        records = self._transaction(lambda rows: rows(statement, data, first, last))
        files = self._parse(f"[{','.join(record[4] for record in records)}]")  # at once, which takes less time
        return [
            StoredQuery(query, target, example, place, tuple(paths), stamp, content)
            for (query, target, example, place, _, stamp, content), paths in zip(records, files, strict=True)
        ]

    def files(self, data: str, first: int, last: int) -> list[StoredFiles]:
        statement = """SELECT id, files, stamp, content FROM examples WHERE data = ? AND place BETWEEN ? AND ?
            AND EXISTS (SELECT 1 FROM queries WHERE queries.example = examples.id AND live = 1) ORDER BY place"""
        records = self._read(statement, data, first, last)
        files = self._parse(f"[{','.join(record[1] for record in records)}]")
        return [
            StoredFiles(example, tuple(paths), stamp, content)
            for (example, _, stamp, content), paths in zip(records, files, strict=True)
        ]

    def order(self, data: str, first: int, last: int) -> list[tuple[int, int, int]]:
        statement = """SELECT queries.id, examples.id, queries.target FROM examples CROSS JOIN queries
            WHERE queries.example = examples.id AND data = ? AND place BETWEEN ? AND ? AND live = 1 ORDER BY place, target"""
        return [(query, example, target) for query, example, target in self._read(statement, data, first, last)]

    def query_keys(self, data: str, first: int, last: int) -> dict[int, QueryKey]:
        statement = """SELECT queries.id, annotation, content, target FROM examples CROSS JOIN queries
            WHERE queries.example = examples.id AND data = ? AND place BETWEEN ? AND ? AND live = 1 AND content <> ''
            ORDER BY place, target"""
        return {query: QueryKey(*key) for query, *key in self._read(statement, data, first, last)}

    def find_queries(self, data: str, keys: Collection[QueryKey]) -> dict[QueryKey, list[int]]:
        statement = """SELECT queries.id, annotation, content, target FROM examples CROSS JOIN queries
            WHERE queries.example = examples.id AND data = ? AND annotation IN (SELECT listed.value FROM $words)
                AND place >= 0 AND live = 1 ORDER BY place, target"""
        wanted = set(keys)
        found: dict[QueryKey, list[int]] = {}
        for query, *key in self._read(statement, data, json.dumps(sorted({key.annotation for key in wanted}))):
            if QueryKey(*key) in wanted:
                found.setdefault(QueryKey(*key), []).append(query)
        return found

    def bodies(self, examples: Collection[int]) -> dict[int, str]:
        statement = "SELECT id, body FROM examples WHERE id IN (SELECT listed.value FROM $ids)"
        ids = json.dumps(sorted(set(examples)))
        return dict(self._transaction(lambda rows: rows(statement, ids)))

    def bodies_by_name(self, data: str, names: Collection[str]) -> dict[str, str]:
        statement = """SELECT name, body FROM examples
            WHERE data = ? AND name IN (SELECT listed.value FROM $words) AND place >= 0"""
        words = json.dumps([json.dumps(name) for name in names])
        return {self._parse(name): body for name, body in self._transaction(lambda rows: rows(statement, data, words))}

    def set_contents(self, data: str, contents: Sequence[tuple[int, str, str]]) -> bool:
        def work(rows: Rows) -> bool:
            moves = find_moves(rows, data, contents)
            before = self._counts(rows, moves.examples)
            move(rows, data, moves)
            self._add_counts(rows, before, self._counts(rows, moves.examples))
            return bool(moves.arrivals)

        return self._transaction(work, write=True) if contents else False

    def _counts(self, rows: Rows, examples: Collection[int]) -> dict[tuple[int, str], tuple[int, str]]:
        """How many items of some examples are done and count: by recipe and cause, with the name of one."""
        statement = """SELECT done.recipe, done.shape, done.measured, examples.name
            FROM examples CROSS JOIN queries CROSS JOIN recipes CROSS JOIN done
            WHERE examples.id IN (SELECT listed.value FROM $ids) AND examples.place >= 0
                AND queries.example = examples.id AND queries.live = 1
                AND done.recipe = recipes.id AND done.query = queries.id"""
        return self._tally(rows(statement, json.dumps(sorted(examples)))) if examples else {}

    def _tally(self, records: Iterable[tuple[Any, ...]]) -> dict[tuple[int, str], tuple[int, str]]:
        """Count records of (recipe, shape, measured, name of the example) by recipe and cause, each with the first name."""
        counts: dict[tuple[int, str], tuple[int, str]] = {}
        for recipe, shape, measured, example in records:
            name = '""' if example is None else example
            why = "" if shape else cause_as_json(self._parse(measured), self._parse(name))
            count, first = counts.get((recipe, why), (0, name))
            counts[recipe, why] = count + 1, first
        return counts

    def _add_counts(
        self,
        rows: Rows,
        before: Mapping[tuple[int, str], tuple[int, str]],
        after: Mapping[tuple[int, str], tuple[int, str]],
    ) -> None:
        """Add to the counts of items how many more of some examples count now than before. (To count all again for each page of
        examples would take time that grows with the square of their number.)"""
        changes = [
            (*key, after.get(key, (0, ""))[0] - before.get(key, (0, ""))[0], (after.get(key) or before[key])[1])
            for key in sorted({*before, *after})
        ]
        rows.each(
            """INSERT INTO tallies (recipe, cause, count, example) VALUES (?, ?, ?, ?)
            ON CONFLICT (recipe, cause) DO UPDATE SET count = tallies.count + excluded.count""",
            [change for change in changes if change[2]],
        )

    def _count_data_again(self, rows: Rows, data: str) -> None:
        """Count the items of a data set's recipes again."""
        for recipe, about in rows("SELECT id, about FROM recipes"):
            if self._parse(about).get("data") == data:
                self._count_recipe_again(rows, recipe)

    def _not_planned(self, rows: Rows, queries: Collection[int]) -> set[int]:
        """Those of the queries that were replaced after they were planned: their items do not count."""
        statement = """SELECT queries.id FROM queries JOIN examples ON examples.id = queries.example
            WHERE queries.id IN (SELECT listed.value FROM $ids) AND NOT (queries.live = 1 AND examples.place >= 0)"""
        return {query for (query,) in rows(statement, json.dumps(sorted(queries)))}

    def _count_recipe_again(self, rows: Rows, recipe: int) -> None:
        """Count the items of a recipe again."""
        rows("DELETE FROM tallies WHERE recipe = ?", recipe)
        statement = f"FROM done {JOINED} WHERE recipe = ? AND {PLANNED}"
        count, name = rows(f"SELECT count(*), min(examples.name) {statement} AND shape <> 0", recipe)[0]
        counts: Counter[str] = Counter({"": count})
        names = {"": name or '""'}
        for measured, example in rows(
            f"SELECT measured, examples.name {statement} AND shape = 0 ORDER BY query",
            recipe,
        ):
            why = cause_as_json(self._parse(measured), "" if example is None else self._parse(example))
            counts[why] += 1
            names.setdefault(why, example or '""')
        rows.each(
            "INSERT INTO tallies (recipe, cause, count, example) VALUES (?, ?, ?, ?)",
            [(recipe, why, number, names[why]) for why, number in counts.items() if number],
        )


def cause_as_json(reason: str, example: str) -> str:
    """The cause of a failure for the tables: as JSON, short enough for an index."""
    return json.dumps(cause(reason, example) or "?")


def _recount_note(data: str) -> str:
    """The name of the note that the items of a data set must be counted again."""
    return f"recount {data}"


def _put_at_places(rows: Rows, data: str, new: Mapping[int, StoredExample]) -> None:
    """Put examples at places of their data set. An example that the run has elsewhere, or had before, is moved; others are new.

    An example from a run of an earlier format is known by its name alone. A data set may have several examples of one name and
    annotation: that with the same files is moved first, and each to one place.
    """
    if not new:
        return
    hashes = json.dumps([example.annotation for example in new.values()])
    # Without the "+", SQLite would go through all examples of the data set in the order of their places.
    statement = """SELECT annotation, body, id FROM examples WHERE data = ? AND annotation IN (SELECT listed.value FROM $words)
        AND (place < 0 OR place > ?) ORDER BY +place, id"""
    alike = rows(statement, data, hashes, max(new))
    earlier = rows("SELECT name, id FROM examples WHERE data = ? AND annotation = '' ORDER BY +place, id", data)
    free = {number for *_, number in (*alike, *earlier)}
    candidates: dict[tuple[str, ...], list[int]] = {}
    for annotation, body, number in alike:
        candidates.setdefault((annotation, body), []).append(number)
        candidates.setdefault((annotation,), []).append(number)
    for name, number in earlier:
        candidates.setdefault(("earlier", name), []).append(number)
    numbers: dict[int, int] = {}
    for kind in (_by_files, _by_annotation, _by_name):
        for place, example in new.items():
            fitting = candidates.get(kind(example), [])
            while place not in numbers and fitting:
                if (number := fitting.pop()) in free:
                    free.remove(number)
                    numbers[place] = number
    there, fresh = [], []
    for place, example in new.items():
        values = (place, example.annotation, json.dumps(example.files), example.body)
        if place in numbers:
            there.append((*values, numbers[place]))
        else:
            fresh.append((*values, data, json.dumps(example.name)))
    rows.each(
        """INSERT INTO examples (place, annotation, files, body, data, name, content, stamp)
        VALUES (?, ?, ?, ?, ?, ?, '', '')""",
        fresh,
    )
    rows.each("UPDATE examples SET place = ?, annotation = ?, files = ?, body = ?, stamp = '' WHERE id = ?", there)


def _by_files(example: StoredExample) -> tuple[str, ...]:
    return example.annotation, example.body


def _by_annotation(example: StoredExample) -> tuple[str, ...]:
    return (example.annotation,)


def _by_name(example: StoredExample) -> tuple[str, ...]:
    return "earlier", json.dumps(example.name)


def _set_targets(rows: Rows, data: str, wanted: Mapping[int, StoredExample]) -> bool:
    """Set the targets of the examples at these places. Returns whether anything changed."""
    numbers = dict(
        rows(
            "SELECT place, id FROM examples WHERE data = ? AND place BETWEEN ? AND ?",
            *(data, min(wanted), max(wanted)),
        )
    )
    needed = {
        (numbers[place], target) for place, listed in wanted.items() if place in numbers for target in listed.targets
    }
    there = {
        (example, target): live
        for example, target, live in rows(
            "SELECT example, target, live FROM queries WHERE example IN (SELECT listed.value FROM $ids)",
            json.dumps(list(numbers.values())),
        )
    }
    rows.each("INSERT INTO queries (example, target, live) VALUES (?, ?, 1)", sorted(needed - there.keys()))
    turned = [
        (int(query in needed), *query) for query, live in sorted(there.items()) if bool(live) != (query in needed)
    ]
    rows.each("UPDATE queries SET live = ? WHERE example = ? AND target = ?", turned)
    return bool(turned or needed - there.keys())
