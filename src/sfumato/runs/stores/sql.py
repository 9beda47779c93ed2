"""A store in a database: the part that SQLite and PostgreSQL share, but for a few words."""

import json
import math
import operator
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import cache, lru_cache
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar

from sfumato.runs.stores.earlier import upgrade
from sfumato.runs.stores.processes import has_ended
from sfumato.runs.stores.sql_queries import JOINED, PLANNED, SqlQueries, cause_as_json
from sfumato.runs.stores.store import LEASE, ORIGINS, Done, Item, Owner, Page, StoreError, Tally
from sfumato.runs.stores.tables import FORMAT, TABLES, Rows
from sfumato.settings import check_number

PAGE = 5000
"""How many rows are read at once."""

PART = 10_000
"""How many items one statement asks for."""

COLUMNS = (
    "done.recipe, done.query, examples.name, queries.target, shapes.names, done.measured, done.seconds, done.masks"
)

BESIDE = """LEFT JOIN shapes ON shapes.id = done.shape LEFT JOIN queries ON queries.id = done.query
    LEFT JOIN examples ON examples.id = queries.example"""

LISTED = "$items CROSS JOIN done WHERE done.recipe = listed.recipe AND done.query = listed.query"
"""The rows of the items in a list. (SQLite joins the tables of a CROSS JOIN in their order. Otherwise it may begin with
the long one, as it does not know how short the list is.)"""

HELD = "claims.since <= $now AND claims.until > $now"
"""Whether a claim lasts. One that was made in the future, by a clock that ran ahead and was set right, does not."""

T = TypeVar("T")


class SqlStore(SqlQueries, ABC):
    """A `Store` in a database. Threads may share it; a forked process must open its own."""

    where: str
    """Its name in messages."""

    @abstractmethod
    def _transaction(self, work: Callable[[Rows], T], write: bool = False) -> T:
        """Call `work` in one transaction, all or nothing. One transaction writes at a time.

        `work` may be called again if the connection is lost or the database is in use. Raises `StoreError`."""

    @abstractmethod
    def _tables(self, rows: Rows) -> set[str]:
        """The names of the tables in the database."""

    @abstractmethod
    def close(self) -> None:
        """Close the database."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add_recipes(self, recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
        records = [(name, json.dumps(dict(about))) for name, about in recipes.items()]

        def work(rows: Rows) -> dict[str, int]:
            before: dict[str, int] = dict(rows("SELECT hash, id FROM recipes"))
            new = [record for record in records if record[0] not in before]
            rows.each("INSERT INTO recipes (hash, about) VALUES (?, ?)", new)
            numbers: dict[str, int] = dict(rows("SELECT hash, id FROM recipes")) if new else before
            return {name: numbers[name] for name in recipes}

        return self._transaction(work, write=True)

    def recipes(self) -> dict[int, dict[str, Any]]:
        return self._facts("SELECT id, about FROM recipes ORDER BY id")

    def note(self, name: str, value: Any) -> None:
        text = json.dumps(value)
        self._transaction(lambda rows: _write_note(rows, name, text), write=True)

    def notes(self) -> dict[str, Any]:
        return self._facts("SELECT name, value FROM notes ORDER BY name")

    def which_done(self, items: Collection[Item]) -> set[Item]:
        statement = f"SELECT done.recipe, done.query FROM {LISTED}"
        return {Item(*key) for part in _parts(items) for key in self._read(statement, part)}

    def count_done(self, recipe: int, first: int, last: int) -> int:
        statement = "SELECT count(*) FROM done WHERE recipe = ? AND query BETWEEN ? AND ?"
        return int(self._read(statement, recipe, first, last)[0][0])

    def look_up(self, items: Collection[Item]) -> Iterator[Done]:
        statement = f"""SELECT {COLUMNS} FROM (SELECT done.* FROM {LISTED}) AS done {BESIDE}
            ORDER BY done.recipe, done.query"""
        for part in _parts(items, PAGE):
            yield from map(self._done, self._read(statement, part))

    def claim(self, items: Sequence[Item], owner: Owner, lease: float = LEASE) -> list[Item]:
        check_number("lease", lease, "a time in seconds", above=0)

        def work(rows: Rows) -> list[Item]:
            mine: set[Item] = set()
            for part in _parts(items):
                claimed = _free(rows, part, owner)
                rows(
                    """INSERT INTO claims (recipe, query, machine, process, started, since, until)
                    SELECT listed.recipe, listed.query, ?, ?, ?, $now, $now + ? FROM $items WHERE 1 = 1
                    ON CONFLICT (recipe, query) DO UPDATE SET machine = excluded.machine, process = excluded.process,
                        started = excluded.started, since = excluded.since, until = excluded.until""",
                    *astuple(owner),
                    float(lease),
                    json.dumps(claimed),
                )
                mine.update(claimed)
            return [item for item in dict.fromkeys(items) if item in mine]

        return self._transaction(work, write=True) if items else []

    def renew(self, owner: Owner, lease: float = LEASE) -> None:
        check_number("lease", lease, "a time in seconds", above=0)
        statement = """UPDATE claims SET since = $now, until = $now + ?
            WHERE machine = ? AND process = ? AND started = ?"""
        self._transaction(lambda rows: rows(statement, float(lease), *astuple(owner)), write=True)

    def release(self, owner: Owner) -> None:
        statement = "DELETE FROM claims WHERE machine = ? AND process = ? AND started = ?"
        self._transaction(lambda rows: rows(statement, *astuple(owner)), write=True)

    def claimed(self) -> int:
        return int(self._read(f"SELECT count(*) FROM claims WHERE {HELD}")[0][0])

    def commit(self, done: Sequence[Done], origin: str = "") -> int:
        ordered = sorted(done, key=operator.attrgetter("item"))
        first = {entry.item: entry for entry in reversed(ordered)}  # of two for one item, the one that came first
        written = {item: _as_columns(entry) for item, entry in sorted(first.items())}

        def work(rows: Rows) -> int:
            shape_names = sorted({names for names, _, _ in written.values() if names})
            rows.each(
                "INSERT INTO shapes (names) VALUES (?) ON CONFLICT (names) DO NOTHING",
                [(names,) for names in shape_names],
            )
            shapes = {"": 0}
            for names in shape_names:
                shapes[names] = rows("SELECT id FROM shapes WHERE names = ?", names)[0][0]
            done_before: set[tuple[Any, ...]] = set()
            for part in _parts(written):
                done_before.update(rows(f"SELECT done.recipe, done.query FROM {LISTED}", part))
            new = {item: columns for item, columns in written.items() if tuple(item) not in done_before}
            rows.each(
                "INSERT INTO done (recipe, query, shape, measured, seconds, masks) VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (*item, shapes[names], measured, _number(first[item].seconds), first[item].masks or None)
                    for item, (names, measured, _) in new.items()
                ],
            )
            replaced = self._not_planned(rows, {item.query for item in new})
            counts = Counter((item.recipe, why) for item, (_, _, why) in new.items() if item.query not in replaced)
            examples: dict[tuple[int, str], str] = {}
            for item, (_, _, why) in new.items():
                if item.query not in replaced:  # the first is named, however much is committed at once
                    examples.setdefault((item.recipe, why), first[item].example)
            rows.each(
                """INSERT INTO tallies (recipe, cause, count, example) VALUES (?, ?, ?, ?)
                ON CONFLICT (recipe, cause) DO UPDATE SET count = tallies.count + excluded.count""",
                [(*place, count, json.dumps(examples[place])) for place, count in counts.items()],
            )
            for part in _parts(written):
                rows(f"DELETE FROM claims WHERE {_WITHIN}", part)
            if origin and new:
                self._add_origin(rows, origin, Counter(item.recipe for item in new))
            return len(new)

        return self._transaction(work, write=True) if written else 0

    def forget(self, items: Collection[Item]) -> None:
        statement = f"""SELECT done.recipe, done.shape, done.measured, examples.name
            FROM (SELECT done.* FROM {LISTED}) AS done {JOINED} WHERE {PLANNED}"""

        def work(rows: Rows) -> None:
            for part in _parts(items):
                before = self._tally(rows(statement, part))
                rows(f"DELETE FROM done WHERE {_WITHIN}", part)
                self._add_counts(rows, before, {})

        self._transaction(work, write=True)

    def forget_recipe(self, recipe: int, failed: bool = False) -> None:
        statement = "DELETE FROM done WHERE recipe = ?" + (" AND shape = 0" if failed else "")

        def work(rows: Rows) -> None:
            rows(statement, recipe)
            self._count_recipe_again(rows, recipe)
            if not failed:
                self._forget_origin(rows, recipe)

        self._transaction(work, write=True)

    def _origins(self, rows: Rows) -> dict[str, dict[str, int]]:
        """By origin and recipe, how many items came from elsewhere."""
        texts = rows("SELECT value FROM notes WHERE name = ?", ORIGINS)
        return self._parse(texts[0][0]) if texts else {}

    def _add_origin(self, rows: Rows, origin: str, counts: Mapping[int, int]) -> None:
        origins = self._origins(rows)
        before = Counter(origins.get(origin, {}))
        before.update({str(recipe): count for recipe, count in counts.items()})
        _write_note(rows, ORIGINS, json.dumps({**origins, origin: before}))

    def _forget_origin(self, rows: Rows, recipe: int) -> None:
        if origins := self._origins(rows):
            for counts in origins.values():
                counts.pop(str(recipe), None)
            _write_note(rows, ORIGINS, json.dumps(origins))

    def done(self, recipe: int | None = None) -> Iterator[Done]:
        """Pages are read when they are needed: they may or may not have what others commit or forget in the meantime."""
        some = "" if recipe is None else "done.recipe = ? AND "
        statement = f"""SELECT {COLUMNS} FROM done {BESIDE} WHERE {some}(done.recipe, done.query) > (?, ?)
            ORDER BY done.recipe, done.query LIMIT {PAGE}"""
        after = (-1, -1) if recipe is None else (recipe, -(2**62))
        while page := self._read(statement, *(() if recipe is None else (recipe,)), *after):
            yield from map(self._done, page)
            after = page[-1][:2]

    def row_names(self) -> list[str]:
        shapes = self._read("SELECT names FROM shapes ORDER BY id")
        return list(dict.fromkeys(name for (names,) in shapes for name in self._parse(names)))

    def tallies(self) -> list[Tally]:
        records = self._read("SELECT recipe, cause, count, example FROM tallies WHERE count > 0 ORDER BY recipe, cause")
        return [
            Tally(recipe, self._parse(why) if why else "", int(count), self._parse(name))
            for recipe, why, count, name in records
        ]

    def pages(self, recipe: int) -> Iterator[Page]:
        shapes = dict(self._read("SELECT id, names FROM shapes"))
        statement = f"""SELECT query, shape, measured, seconds FROM done WHERE recipe = ? AND query > ?
            ORDER BY query LIMIT {PAGE}"""
        after = -(2**62)
        while page := self._read(statement, recipe, after):
            after = page[-1][0]
            for shape in sorted({row[1] for row in page} - {0}):
                if shape not in shapes:  # made since
                    shapes = dict(self._read("SELECT id, names FROM shapes"))
                some = [row for row in page if row[1] == shape]
                names = tuple(self._parse(shapes[shape]))
                columns = self._columns([row[2] for row in some], len(names))
                yield Page(names, [row[0] for row in some], columns, [row[3] for row in some])

    def _columns(self, rows: Sequence[str], count: int) -> list[list[Any]]:
        """Rows, each a JSON list of so many values, as columns."""
        text = ",".join(rows)
        if count and text.count("[") == len(rows) and '"' not in text:
            # Numbers alone, read as one list: Python's collector of garbage would look at each row's again and again.
            flat = self._parse(f"[{text.replace('[', '').replace(']', '')}]")
            if len(flat) == count * len(rows):
                return [flat[place::count] for place in range(count)]
        values = self._parse(f"[{text}]")
        return [[row[place] for row in values] for place in range(count)]

    def shards(self) -> set[str]:
        records = self._read("SELECT DISTINCT masks FROM done WHERE masks IS NOT NULL")
        return {masks.partition("/")[0] for (masks,) in records}

    def _begin(self, create: bool) -> None:
        """Check the format of the run, and upgrade it; with `create`, make the tables if there are none."""
        version = self._transaction(self._version)
        if version is None and not create:
            raise StoreError(f"there is no run in {self.where}; start one with: sfumato bench run PLAN --out FOLDER")
        if version is None:
            self._transaction(self._make_tables, write=True)
        elif version < FORMAT:
            self._transaction(self._upgrade, write=True)

    def _make_tables(self, rows: Rows) -> None:
        if self._version(rows) is None:  # another process may have been faster
            for statement in TABLES:
                rows(statement)
            rows("INSERT INTO format (version) VALUES (?)", FORMAT)

    def _upgrade(self, rows: Rows) -> None:
        if (version := self._version(rows)) is not None and version < FORMAT:
            upgrade(rows, version)
            for (recipe,) in rows("SELECT id FROM recipes"):
                self._count_recipe_again(rows, recipe)

    def _version(self, rows: Rows) -> int | None:
        """The format of the run in the database, or `None`. Raises `StoreError` if the database holds something else."""
        tables = self._tables(rows)
        if not tables:
            return None
        versions = rows("SELECT version FROM format") if "format" in tables else []
        if len(versions) != 1 or not isinstance(versions[0][0], int):
            raise StoreError(f"{self.where} is not a run of sfumato but another database; name another place")
        version = versions[0][0]
        if version > FORMAT:
            raise StoreError(
                f"{self.where} was made by a newer version of sfumato, in format {version}, and this one knows formats "
                f"up to {FORMAT}; go on with the newer version"
            )
        return version

    def _read(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._transaction(lambda rows: rows(statement, *values))

    def _facts(self, statement: str) -> dict[Any, Any]:
        return {name: self._parse(text) for name, text in self._read(statement)}

    def _done(self, columns: tuple[Any, ...]) -> Done:
        recipe, query, example, target, names, measured, seconds, masks = columns
        values = self._parse(measured)
        return Done(
            Item(recipe, query),
            "" if example is None else self._parse(example),
            0 if target is None else target,
            None if names is None else dict(zip(self._names(names), values, strict=True)),
            values if names is None else "",
            float("nan") if seconds is None else seconds,
            masks or "",
        )

    def _names(self, text: str) -> Sequence[str]:
        """The names of a row's values. Millions of rows have the same."""
        try:
            return _names(text)
        except ValueError:
            return list(self._parse(text))  # which says that the store is damaged

    def _parse(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise StoreError(f"{self.where} is damaged: it holds {text[:40]!r} where JSON should be") from error


@lru_cache(maxsize=256)
def _names(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


_WITHIN = "(recipe, query) IN (SELECT listed.recipe, listed.query FROM $items)"


def _write_note(rows: Rows, name: str, text: str) -> None:
    rows(
        """INSERT INTO notes (name, value) VALUES (?, ?)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value""",
        name,
        text,
    )


def _as_columns(done: Done) -> tuple[str, str, str]:
    """The columns of an item: the names of its row's values (empty for a failed item), the values or the reason, and the cause.

    Raises `ValueError` for values that JSON would change."""
    if done.row is None:
        return "", json.dumps(done.reason), cause_as_json(done.reason, done.example)
    try:
        return json.dumps(list(done.row)), json.dumps(list(done.row.values()), separators=(",", ":")), ""
    except TypeError as error:
        raise ValueError(
            f"a row holds numbers, words and lists of them; that of {done.example!r} does not: {error}"
        ) from error


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)  # SQLite has no NaN


def _free(rows: Rows, items: str, owner: Owner) -> list[Item]:
    """Those of the items that are not done and that no other owner, who may be alive, has claimed."""
    records = rows(
        f"""SELECT listed.recipe, listed.query, claims.machine, claims.process, claims.started
        FROM $items LEFT JOIN claims ON claims.recipe = listed.recipe AND claims.query = listed.query AND {HELD}
        WHERE NOT EXISTS (SELECT 1 FROM done WHERE done.recipe = listed.recipe AND done.query = listed.query)""",
        items,
    )
    dead = cache(has_ended)
    return [
        Item(recipe, query)
        for recipe, query, machine, process, started in records
        if machine is None or (holder := Owner(machine, process, started)) == owner or dead(holder)
    ]


def _parts(items: Collection[Item], size: int = PART) -> Iterator[str]:
    """The items without repetitions, in their order, as JSON lists of `size` items."""
    rest = iter(dict.fromkeys(items))
    while part := list(islice(rest, size)):
        yield json.dumps(part)
