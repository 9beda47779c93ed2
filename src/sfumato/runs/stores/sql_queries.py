"""The data sets of a run in its database: which examples there are, with which queries, and what their files held."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from sfumato.runs.stores.causes import cause
from sfumato.runs.stores.store import Listed, Planned
from sfumato.runs.stores.tables import Rows

T = TypeVar("T")

GONE = -1
"""The place of an example that is not in its data set any more."""

PLANNED = "(queries.id IS NULL OR queries.live = 1 AND examples.place >= 0)"
"""Whether a row of `done` is of a query that is planned; one of no known data set counts too."""

JOINED = "LEFT JOIN queries ON queries.id = done.query LEFT JOIN examples ON examples.id = queries.example"


class SqlQueries(ABC):
    """The part of a `Store` that is about queries."""

    @abstractmethod
    def _transaction(self, work: Callable[[Rows], T], write: bool = False) -> T: ...

    @abstractmethod
    def _read(self, statement: str, *values: Any) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    def _parsed(self, text: str) -> Any: ...

    def lists(self, data: str, first: int, examples: Sequence[Listed]) -> None:
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
            same = {place for place, each in wanted.items() if place in there and there[place][1] == each.annotation}
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
            new = {place: each for place, each in wanted.items() if place not in same}
            _placed(rows, data, new)
            if _targeted(rows, data, wanted) or new:
                rows(
                    """INSERT INTO notes (name, value) VALUES (?, 'true')
                    ON CONFLICT (name) DO UPDATE SET value = excluded.value""",
                    _recount(data),
                )

        if examples:
            self._transaction(work, write=True)

    def listed(self, data: str, count: int) -> int:
        def work(rows: Rows) -> int:
            beyond = rows("SELECT id FROM examples WHERE data = ? AND place >= ?", data, count)
            rows.each(f"UPDATE examples SET place = {GONE} WHERE id = ?", beyond)
            if beyond or rows("SELECT 1 FROM notes WHERE name = ?", _recount(data)):
                self._recounted(rows, data)
                rows("DELETE FROM notes WHERE name = ?", _recount(data))
            return int(
                rows(
                    """SELECT count(*) FROM examples JOIN queries ON queries.example = examples.id
                    WHERE examples.data = ? AND examples.place >= 0 AND queries.live = 1""",
                    data,
                )[0][0]
            )

        return self._transaction(work, write=True)

    def planned(self, data: str, first: int, last: int) -> list[Planned]:
        statement = """SELECT queries.id, queries.target, examples.id, examples.place, files, stamp, content
            FROM examples CROSS JOIN queries WHERE queries.example = examples.id
                AND data = ? AND place BETWEEN ? AND ? AND live = 1 ORDER BY place, target"""
        found = self._transaction(lambda rows: rows(statement, data, first, last))
        return [
            Planned(query, target, example, place, tuple(self._parsed(files)), stamp, content)
            for query, target, example, place, files, stamp, content in found
        ]

    def order(self, data: str, first: int, last: int) -> list[tuple[int, int, int]]:
        statement = """SELECT queries.id, examples.id, queries.target FROM examples CROSS JOIN queries
            WHERE queries.example = examples.id AND data = ? AND place BETWEEN ? AND ? AND live = 1 ORDER BY place, target"""
        return [(query, example, target) for query, example, target in self._read(statement, data, first, last)]

    def bodies(self, examples: Collection[int]) -> dict[int, str]:
        statement = "SELECT id, body FROM examples WHERE id IN (SELECT listed.value FROM $ids)"
        listed = json.dumps(sorted(set(examples)))
        return dict(self._transaction(lambda rows: rows(statement, listed)))

    def named(self, data: str, names: Collection[str]) -> dict[str, str]:
        statement = """SELECT name, body FROM examples
            WHERE data = ? AND name IN (SELECT listed.value FROM $words) AND place >= 0"""
        listed = json.dumps([json.dumps(name) for name in names])
        return {
            self._parsed(name): body for name, body in self._transaction(lambda rows: rows(statement, data, listed))
        }

    def looked_into(self, data: str, seen: Sequence[tuple[int, str, str]]) -> bool:
        def work(rows: Rows) -> bool:
            ids = json.dumps([example for example, _, _ in seen])
            known = dict(rows("SELECT id, content FROM examples WHERE id IN (SELECT listed.value FROM $ids)", ids))
            as_known = [each for each in seen if known.get(each[0]) in ("", each[2])]
            rows.each(
                "UPDATE examples SET stamp = ?, content = ? WHERE id = ?",
                [(stamp, content, example) for example, stamp, content in as_known],
            )
            changed = [each for each in seen if each[0] in known and known[each[0]] not in ("", each[2])]
            _replaced(rows, data, changed)
            if changed:
                self._recounted(rows, data)
            return bool(changed)

        return self._transaction(work, write=True) if seen else False

    def _recounted(self, rows: Rows, data: str) -> None:
        """Count anew what is done of a data set's recipes."""
        for recipe, about in rows("SELECT id, about FROM recipes"):
            if self._parsed(about).get("data") == data:
                self._tallied(rows, recipe)

    def _not_planned(self, rows: Rows, queries: Collection[int]) -> set[int]:
        """Those of the queries that another has replaced since they were given out: what is done of them does not count."""
        statement = """SELECT queries.id FROM queries JOIN examples ON examples.id = queries.example
            WHERE queries.id IN (SELECT listed.value FROM $ids) AND NOT (queries.live = 1 AND examples.place >= 0)"""
        return {query for (query,) in rows(statement, json.dumps(sorted(queries)))}

    def _tallied(self, rows: Rows, recipe: int) -> None:
        """Count anew what is done of a recipe."""
        rows("DELETE FROM tallies WHERE recipe = ?", recipe)
        statement = f"FROM done {JOINED} WHERE recipe = ? AND {PLANNED}"
        count, name = rows(f"SELECT count(*), min(examples.name) {statement} AND shape <> 0", recipe)[0]
        found: Counter[str] = Counter({"": count})
        names = {"": name or '""'}
        for measured, example in rows(
            f"SELECT measured, examples.name {statement} AND shape = 0 ORDER BY query",
            recipe,
        ):
            why = caused(self._parsed(measured), "" if example is None else self._parsed(example))
            found[why] += 1
            names.setdefault(why, example or '""')
        rows.each(
            "INSERT INTO tallies (recipe, cause, count, example) VALUES (?, ?, ?, ?)",
            [(recipe, why, number, names[why]) for why, number in found.items() if number],
        )


def caused(reason: str, example: str) -> str:
    """The cause of a failure as the tables have it: JSON, and short enough for an index."""
    return json.dumps(cause(reason, example) or "?")


def _recount(data: str) -> str:
    """The note that what is done of a data set is to be counted anew."""
    return f"recount {data}"


def _placed(rows: Rows, data: str, new: Mapping[int, Listed]) -> None:
    """Put examples at places of their data set: those that the run knows from elsewhere or before, or new ones.

    One that was brought over from a run of an earlier format is known by its name alone. Each takes one place: a set may hold
    several of one name and annotation, of which that with the same files goes first.
    """
    hashes = json.dumps([each.annotation for each in new.values()])
    statement = """SELECT annotation, body, id FROM examples WHERE data = ? AND annotation IN (SELECT listed.value FROM $words)
        AND (place < 0 OR place > ?) ORDER BY place, id"""
    known = rows(statement, data, hashes, max(new, default=0))
    earlier = rows("SELECT name, id FROM examples WHERE data = ? AND annotation = '' ORDER BY place, id", data)
    free = {number for *_, number in (*known, *earlier)}
    candidates: dict[tuple[str, ...], list[int]] = {}
    for annotation, body, number in known:
        candidates.setdefault((annotation, body), []).append(number)
        candidates.setdefault((annotation,), []).append(number)
    for name, number in earlier:
        candidates.setdefault(("earlier", name), []).append(number)
    numbers: dict[int, int] = {}
    for kind in (_by_files, _by_annotation, _by_name):
        for place, each in new.items():
            fitting = candidates.get(kind(each), [])
            while place not in numbers and fitting:
                if (number := fitting.pop()) in free:
                    free.remove(number)
                    numbers[place] = number
    there, fresh = [], []
    for place, each in new.items():
        values = (place, each.annotation, json.dumps(each.files), each.body)
        if place in numbers:
            there.append((*values, numbers[place]))
        else:
            fresh.append((*values, data, json.dumps(each.name)))
    rows.each(
        """INSERT INTO examples (place, annotation, files, body, data, name, content, stamp)
        VALUES (?, ?, ?, ?, ?, ?, '', '')""",
        fresh,
    )
    rows.each("UPDATE examples SET place = ?, annotation = ?, files = ?, body = ?, stamp = '' WHERE id = ?", there)


def _by_files(listed: Listed) -> tuple[str, ...]:
    return listed.annotation, listed.body


def _by_annotation(listed: Listed) -> tuple[str, ...]:
    return (listed.annotation,)


def _by_name(listed: Listed) -> tuple[str, ...]:
    return "earlier", json.dumps(listed.name)


def _targeted(rows: Rows, data: str, wanted: Mapping[int, Listed]) -> bool:
    """Make the queries of the examples at these places those that are wanted; whether anything changed."""
    numbers = dict(
        rows(
            "SELECT place, id FROM examples WHERE data = ? AND place BETWEEN ? AND ?",
            *(data, min(wanted), max(wanted)),
        )
    )
    needed = {(numbers[place], target) for place, each in wanted.items() if place in numbers for target in each.targets}
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


def _replaced(rows: Rows, data: str, changed: Sequence[tuple[int, str, str]]) -> None:
    """Other examples take the places of those whose files hold something else now: ones with that content that were there
    before, and have no place, or new ones. (Of several with one annotation, some may have changed places.)"""
    before = [
        rows("SELECT place, annotation, name, files, body FROM examples WHERE id = ?", example)[0]
        for example, _, _ in changed
    ]
    asked = [
        {target for (target,) in rows("SELECT target FROM queries WHERE example = ? AND live = 1", example)}
        for example, _, _ in changed
    ]
    rows.each(f"UPDATE examples SET place = {GONE} WHERE id = ?", [(example,) for example, _, _ in changed])
    for (place, annotation, *said), targets, (_, stamp, content) in zip(before, asked, changed, strict=True):
        known = rows(
            f"SELECT id FROM examples WHERE data = ? AND annotation = ? AND content = ? AND place = {GONE} ORDER BY id",
            *(data, annotation, content),
        )
        if known:
            number = known[0][0]
            rows(
                "UPDATE examples SET place = ?, stamp = ?, name = ?, files = ?, body = ? WHERE id = ?",
                *(place, stamp, *said, number),
            )
        else:
            ((number,),) = rows(
                """INSERT INTO examples (data, place, annotation, content, stamp, name, files, body)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id""",
                *(data, place, annotation, content, stamp, *said),
            )
        there = {target for (target,) in rows("SELECT target FROM queries WHERE example = ?", number)}
        rows("UPDATE queries SET live = 0 WHERE example = ?", number)
        rows.each(
            "UPDATE queries SET live = 1 WHERE example = ? AND target = ?",
            [(number, each) for each in sorted(targets & there)],
        )
        rows.each(
            "INSERT INTO queries (example, target, live) VALUES (?, ?, 1)",
            [(number, each) for each in sorted(targets - there)],
        )
