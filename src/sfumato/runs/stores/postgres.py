"""A run in a PostgreSQL database, for many machines."""

import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sfumato.runs.stores.sql import SqlStore
from sfumato.runs.stores.store import StoreError
from sfumato.runs.stores.tables import POSTGRES, Rows, translated

if TYPE_CHECKING:
    import psycopg

WAITS = (0.1, 0.5, 2.0, 5.0, 10.0)
"""Seconds before each new attempt to reach a server that was lost."""

SETTINGS = (
    "SET synchronous_commit TO on",  # what is committed outlives the server's loss of power
    "SET lock_timeout TO '60s'",
    "SET idle_in_transaction_session_timeout TO '60s'",  # a process that was stopped in the midst does not stop the others
)

LINK = {
    "connect_timeout": "10",
    "application_name": "sfumato",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""How soon a silent network counts as lost; an address may say otherwise."""

REFUSED = ("password authentication failed", "no password supplied")
"""What a server says to a wrong password, and its library where there is none."""

LONGEST = 48
"""Bytes of a run's name, so that the schema's is one of PostgreSQL."""

T = TypeVar("T")


class PostgresStore(SqlStore):
    """A `Store` in a database at `postgresql://user@host:port/database`, where each run has a schema of its own, "sfumato RUN".

    The user must have the right to create schemas. A connection that is lost is made again, a few times; what was under way is
    repeated, which does no harm, as everything here may be done twice. A password belongs into the file .pgpass or into
    PGPASSWORD; one within the address is told to nobody.
    """

    def __init__(self, url: str, run: str, create: bool = True, waits: Sequence[float] = WAITS) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise StoreError(
                'a run in a PostgreSQL database needs psycopg, which is not installed; run: pip install "sfumato[postgres]"'
            ) from error
        if not run or "\0" in run or len(run.encode(errors="replace")) > LONGEST:
            raise ValueError(f"a run's name in a database has 1 to {LONGEST} bytes; got {run!r}")
        try:
            given: dict[str, Any] | None = psycopg.conninfo.conninfo_to_dict(url)
            self._conninfo = psycopg.conninfo.make_conninfo("", **{**LINK, **(given or {}), "client_encoding": "UTF8"})
        except psycopg.Error:
            given = None
        if given is None or not _is_plain(given):
            # Whatever is said of such an address may quote a part of the password.
            raise StoreError(
                "the database's address cannot be read; it is like postgresql://user@host:5432/database, with %40 for an @ in "
                "a password, and %2F for a /"
            )
        self._password = str(given.get("password") or "")
        self._schema = f"sfumato {run}"
        self.where = f"the run {run!r} at {_shown(given)}"
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._waits: Sequence[float] = ()  # a wrong address is said at once
        try:
            self._begin(create)
        except BaseException:
            self.close()
            raise
        self._waits = waits

    def __repr__(self) -> str:
        return f"<PostgresStore: {self.where}>"

    def close(self) -> None:
        if os.getpid() == self._process:  # a forked one leaves the connection alone
            with self._lock:
                self._hang_up()

    def _tables(self, rows: Rows) -> set[str]:
        return {name for (name,) in rows("SELECT tablename FROM pg_tables WHERE schemaname = ?", self._schema)}

    def _made(self, rows: Rows) -> None:
        self._connected().execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(self._schema)}".encode())
        super()._made(rows)

    def _transaction(self, work: Callable[[Rows], T], write: bool = False) -> T:
        import psycopg

        if os.getpid() != self._process:
            raise StoreError(f"{self.where} was opened by another process; open it anew after a fork")
        with self._lock:
            for attempt in range(len(self._waits) + 1):
                try:
                    return self._once(work, write)
                except psycopg.Error as error:
                    lost = self._connection is None or self._connection.closed
                    again = lost or isinstance(error, psycopg.errors.TransactionRollback)
                    if lost:
                        self._hang_up()
                    if not again or attempt == len(self._waits):
                        raise self._said(error, lost) from error
                    time.sleep(self._waits[attempt])
        raise AssertionError("unreachable")

    def _once(self, work: Callable[[Rows], T], write: bool) -> T:
        connection = self._connected()
        rows = _Rows(connection)
        if not write:
            return work(rows)
        with connection.transaction():
            # One that writes at a time in a run, as in SQLite: nothing to fear from two that interlock.
            rows("SELECT pg_advisory_xact_lock(hashtextextended(?, 0))", self._schema)
            return work(rows)

    def _connected(self) -> "psycopg.Connection[tuple[Any, ...]]":
        import psycopg

        if self._connection is None:
            connection = psycopg.connect(self._conninfo, autocommit=True)
            try:
                for setting in (*SETTINGS, f"SET search_path TO {_quoted(self._schema)}"):
                    connection.execute(setting.encode())
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _said(self, error: "psycopg.Error", lost: bool) -> StoreError:
        """What is wrong and what to do, in a sentence without the password."""
        import psycopg

        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        said = " ".join(lines) if lines[0].endswith(":") else lines[0]
        if self._password:
            said = said.replace(self._password, "…")
        kept = "run the same command again, what was committed is kept"
        if any(word in said for word in REFUSED):
            text = (
                f"{self.where} refuses the password, or there is none ({said}): put the right one into the file .pgpass or "
                "into PGPASSWORD"
            )
        elif lost:
            text = f"{self.where} cannot be reached ({said}): see that the server is there, and {kept}"
        elif isinstance(error, psycopg.errors.DiskFull):
            text = f"the server has no room left for {self.where} ({said}): make some, and {kept}"
        elif isinstance(error, psycopg.errors.LockNotAvailable):
            text = f"another process has kept {self.where} for more than a minute; end it, and {kept}"
        elif isinstance(error, psycopg.errors.InsufficientPrivilege | psycopg.errors.ReadOnlySqlTransaction):
            text = (
                f"{self.where} cannot be written ({said}): ask for the right to create schemas and tables, and {kept}"
            )
        elif isinstance(error, psycopg.errors.UndefinedTable):
            text = f"{self.where} is no longer there ({said}): put a copy there, or begin the run anew"
        else:
            text = f"{self.where} cannot be used ({said}): mend it, and {kept}"
        return StoreError(text)


class _Rows:
    """A transaction of PostgreSQL, or a statement that is one by itself."""

    def __init__(self, connection: "psycopg.Connection[tuple[Any, ...]]") -> None:
        self._connection = connection

    def __call__(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(translated(statement, POSTGRES).encode(), values)
        return cursor.fetchall() if cursor.description else []

    def each(self, statement: str, values: Sequence[tuple[Any, ...]]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(translated(statement, POSTGRES).encode(), values)


def _is_plain(address: Mapping[str, Any]) -> bool:
    """Whether each part is one: of a password with an @ or a /, some is taken for a host, a port or a database."""
    host, port = str(address.get("host") or ""), str(address.get("port") or "")
    return (
        "@" not in host[1:]
        and "@" not in str(address.get("dbname") or "")
        and re.fullmatch(r"[\d,]*", port) is not None
    )


def _shown(address: Mapping[str, Any]) -> str:
    """An address without its password."""
    user = f"{address['user']}@" if address.get("user") else ""
    port = f":{address['port']}" if address.get("port") else ""
    return f"postgresql://{user}{address.get('host') or ''}{port}/{address.get('dbname') or ''}"


def _quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'
