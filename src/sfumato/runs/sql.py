"""The tables of a run, and the SQL over them that SQLite and PostgreSQL share but for a few words."""

import json
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import cache
from itertools import islice
from string import Template
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from sfumato.configuration import check_number
from sfumato.runs.processes import gone
from sfumato.runs.store import LEASE, Done, Owner, StoreError

FORMAT = 1
"""Of the tables below. A run with a higher one was made by a version that is newer than this."""

TABLES = (
    "CREATE TABLE format (version BIGINT NOT NULL)",
    "CREATE TABLE recipes (hash $name PRIMARY KEY, about TEXT NOT NULL)",
    "CREATE TABLE notes (name $name PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE done (
        key $name PRIMARY KEY, recipe $name NOT NULL, failed SMALLINT NOT NULL, example TEXT NOT NULL, target BIGINT NOT NULL,
        measured TEXT, reason TEXT NOT NULL, seconds DOUBLE PRECISION, masks TEXT NOT NULL)""",
    "CREATE INDEX done_of ON done (recipe, failed)",  # with the key in it, each commit would write twice as much
    """CREATE TABLE claims (
        key $name PRIMARY KEY, machine TEXT NOT NULL, process BIGINT NOT NULL, started TEXT NOT NULL,
        until DOUBLE PRECISION NOT NULL)""",
    "CREATE INDEX claims_of ON claims (machine, process, started)",
)
"""`example`, `measured` and `reason` are JSON in ASCII: so NaN, infinities and the sign of zero pass, and any word, even the
name of a file that is no Unicode. `failed` is 1 where `measured` is missing. `until` is in seconds since 1970, by the clock of
the database."""

COLUMNS = "key, recipe, example, target, measured, reason, seconds, masks"

Dialect = Mapping[str, str]
"""What the databases call differently: `name` (the type of words that are compared byte by byte), `keys` (a table `listed`
of the strings `value` in a JSON list), `now` (seconds since 1970) and `value` (the place of a parameter)."""

PAGE = 1000
"""Rows that are read at once."""

PART = 10_000
"""Keys that are asked for at once."""

T = TypeVar("T")


class Rows(Protocol):
    """A transaction that is under way."""

    def __call__(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Execute a statement, and what it gives."""
        ...

    def each(self, statement: str, values: Sequence[tuple[Any, ...]]) -> None:
        """Execute a statement for each of the values."""
        ...


class SqlStore(ABC):
    """A `Store` in a database. It may be shared by threads, but is no good in a forked process: open another there."""

    where: str
    """What to call it in messages."""

    @abstractmethod
    def _transaction(self, work: Callable[[Rows], T], write: bool = False) -> T:
        """Do work in one transaction, all or nothing; only one that writes at a time. It may be begun more than once, where
        the connection is lost or the database is in use. Raises `StoreError`."""

    @abstractmethod
    def _tables(self, rows: Rows) -> set[str]:
        """The names of the tables that are there."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the database."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def tell(self, recipes: Mapping[str, Mapping[str, Any]]) -> None:
        told = [(name, json.dumps(dict(about))) for name, about in sorted(recipes.items())]
        statement = "INSERT INTO recipes (hash, about) VALUES (?, ?) ON CONFLICT (hash) DO NOTHING"
        self._transaction(lambda rows: rows.each(statement, told), write=True)

    def recipes(self) -> dict[str, dict[str, Any]]:
        return self._facts("SELECT hash, about FROM recipes ORDER BY hash")

    def note(self, name: str, value: Any) -> None:
        statement = """INSERT INTO notes (name, value) VALUES (?, ?)
            ON CONFLICT (name) DO UPDATE SET value = excluded.value"""
        text = json.dumps(value)
        self._transaction(lambda rows: rows(statement, name, text), write=True)

    def notes(self) -> dict[str, Any]:
        return self._facts("SELECT name, value FROM notes ORDER BY name")

    def known(self, keys: Collection[str]) -> set[str]:
        statement = "SELECT done.key FROM $keys JOIN done ON done.key = listed.value"
        found: set[str] = set()
        for part in _parts(keys):
            found.update(key for (key,) in self._read(statement, part))
        return found

    def look_up(self, keys: Collection[str]) -> Iterator[Done]:
        statement = f"SELECT {COLUMNS} FROM done WHERE key IN (SELECT listed.value FROM $keys) ORDER BY key"  # noqa: S608
        for part in _parts(keys, PAGE):
            yield from map(self._done, self._read(statement, part))

    def claim(self, keys: Sequence[str], owner: Owner, lease: float = LEASE) -> list[str]:
        check_number("lease", lease, "a time in seconds", above=0)

        def work(rows: Rows) -> list[str]:
            mine: set[str] = set()
            for part in _parts(keys):
                claimed = _free(rows, part, owner)
                rows(
                    """INSERT INTO claims (key, machine, process, started, until)
                    SELECT listed.value, ?, ?, ?, $now + ? FROM $keys WHERE 1 = 1
                    ON CONFLICT (key) DO UPDATE SET machine = excluded.machine, process = excluded.process,
                        started = excluded.started, until = excluded.until""",
                    *astuple(owner),
                    float(lease),
                    json.dumps(claimed),
                )
                mine.update(claimed)
            return [key for key in dict.fromkeys(keys) if key in mine]

        return self._transaction(work, write=True) if keys else []

    def renew(self, owner: Owner, lease: float = LEASE) -> None:
        check_number("lease", lease, "a time in seconds", above=0)
        statement = "UPDATE claims SET until = $now + ? WHERE machine = ? AND process = ? AND started = ?"
        self._transaction(lambda rows: rows(statement, float(lease), *astuple(owner)), write=True)

    def release(self, owner: Owner) -> None:
        statement = "DELETE FROM claims WHERE machine = ? AND process = ? AND started = ?"
        self._transaction(lambda rows: rows(statement, *astuple(owner)), write=True)

    def commit(self, done: Sequence[Done]) -> None:
        written = [_written(each) for each in sorted(done, key=operator.attrgetter("key"))]

        def work(rows: Rows) -> None:
            rows.each(
                f"INSERT INTO done ({COLUMNS}, failed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",  # noqa: S608
                written,
            )
            for part in _parts([each.key for each in done]):
                rows("DELETE FROM claims WHERE key IN (SELECT listed.value FROM $keys)", part)

        if written:
            self._transaction(work, write=True)

    def forget(self, keys: Collection[str]) -> None:
        def work(rows: Rows) -> None:
            for part in _parts(keys):
                rows("DELETE FROM done WHERE key IN (SELECT listed.value FROM $keys)", part)

        self._transaction(work, write=True)

    def done(self, recipe: str | None = None) -> Iterator[Done]:
        """A thousand rows are read at once; what is committed or forgotten meanwhile may or may not be among them."""
        return self._done_of(recipe) if recipe is not None else self._all_done()

    def _all_done(self) -> Iterator[Done]:
        statement = f"SELECT {COLUMNS} FROM done WHERE key > ? ORDER BY key LIMIT {PAGE}"  # noqa: S608
        after = ""
        while page := self._read(statement, after):
            yield from map(self._done, page)
            after = page[-1][0]

    def _done_of(self, recipe: str) -> Iterator[Done]:
        keys = [key for (key,) in self._read("SELECT key FROM done WHERE recipe = ? ORDER BY key", recipe)]
        return self.look_up(keys)

    def count(self) -> dict[str, tuple[int, int]]:
        statement = "SELECT recipe, count(*), sum(failed) FROM done GROUP BY recipe ORDER BY recipe"
        return {recipe: (int(done), int(failed)) for recipe, done, failed in self._read(statement)}

    def _begin(self, create: bool) -> None:
        """See that there is a run of a format that is known; make one where there is nothing."""
        there = self._transaction(self._checked)
        if not there and not create:
            raise StoreError(f"there is no run in {self.where}; begin one with: sfumato bench run PLAN --out FOLDER")
        if not there:
            self._transaction(self._made, write=True)

    def _made(self, rows: Rows) -> None:
        if not self._checked(rows):  # another process may have been faster
            for statement in TABLES:
                rows(statement)
            rows("INSERT INTO format (version) VALUES (?)", FORMAT)

    def _checked(self, rows: Rows) -> bool:
        """Whether there is a run; a `StoreError` where there is something else."""
        tables = self._tables(rows)
        if not tables:
            return False
        versions = rows("SELECT version FROM format") if "format" in tables else []
        if len(versions) != 1 or not isinstance(versions[0][0], int):
            raise StoreError(f"{self.where} is not a run of sfumato but another database; name another place")
        if versions[0][0] > FORMAT:
            raise StoreError(
                f"{self.where} was made by a newer version of sfumato, in format {versions[0][0]}, and this one knows formats "
                f"up to {FORMAT}; go on with the newer version"
            )
        return True

    def _read(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._transaction(lambda rows: rows(statement, *values))

    def _facts(self, statement: str) -> dict[str, Any]:
        return {name: self._parsed(text) for name, text in self._read(statement)}

    def _done(self, columns: tuple[Any, ...]) -> Done:
        key, recipe, example, target, measured, reason, seconds, masks = columns
        return Done(
            key,
            recipe,
            self._parsed(example),
            target,
            None if measured is None else self._parsed(measured),
            self._parsed(reason),
            float("nan") if seconds is None else seconds,
            masks,
        )

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise StoreError(f"{self.where} is damaged: it holds {text[:40]!r} where JSON should be") from error


def _written(done: Done) -> tuple[Any, ...]:
    """A row of the table; `ValueError` for what would not come back as it is."""
    try:
        measured = None if done.row is None else json.dumps(dict(done.row))
    except TypeError as error:
        raise ValueError(
            f"a row holds numbers, words and lists of them; that of {done.example!r} does not: {error}"
        ) from error
    return (
        done.key,
        done.recipe,
        json.dumps(done.example),
        operator.index(done.target),
        measured,
        json.dumps(done.reason),
        None if done.seconds != done.seconds else float(done.seconds),  # SQLite has no NaN
        done.masks,
        int(measured is None),
    )


def _free(rows: Rows, keys: str, owner: Owner) -> list[str]:
    """Of the keys, those that are not done, and that nobody else has claimed who may live."""
    found = rows(
        """SELECT listed.value, claims.machine, claims.process, claims.started
        FROM $keys LEFT JOIN claims ON claims.key = listed.value AND claims.until > $now
        WHERE NOT EXISTS (SELECT 1 FROM done WHERE done.key = listed.value)""",
        keys,
    )
    dead = cache(gone)
    return [
        key
        for key, machine, process, started in found
        if machine is None or (holder := Owner(machine, process, started)) == owner or dead(holder)
    ]


def _parts(keys: Collection[str], size: int = PART) -> Iterator[str]:
    """JSON lists of so many keys each, every key once, in their order."""
    rest = iter(dict.fromkeys(keys))
    while part := list(islice(rest, size)):
        yield json.dumps(part)


@cache
def translated(statement: str, dialect: tuple[tuple[str, str], ...]) -> str:
    """A statement in a dialect's words."""
    words = dict(dialect)
    return Template(statement).substitute(words).replace("?", words["value"])
