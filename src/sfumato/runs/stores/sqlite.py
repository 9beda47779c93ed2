"""A store in a file, for the processes of one machine: SQLite with a write-ahead log."""

import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sfumato.runs.stores.sql import SqlStore
from sfumato.runs.stores.store import StoreError
from sfumato.runs.stores.tables import FORMAT, SQLITE, Rows, translated

READ_ONLY = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")
"""The messages of SQLite if the file or folder is read-only."""

PATIENCE = 60.0
"""Seconds to wait for another process that writes."""

LOG = 4 << 20
"""Size in bytes at which the write-ahead log is copied into the file."""

CACHE = 8 << 10
"""KiB of memory for pages of the file, instead of 2 MB."""

T = TypeVar("T")


class SqliteStore(SqlStore):
    """A `Store` in one file on a disk of this machine. It does not work in a folder that several machines share.

    Commits are on the disk when `commit` returns, and survive a loss of power.
    """

    def __init__(self, path: Path, create: bool = True, patience: float = PATIENCE) -> None:
        self.where = repr(str(path))
        self._path = path
        self._patience = patience
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._log_at_most = LOG
        self._copied: tempfile.TemporaryDirectory[str] | None = None
        try:
            if create:
                make_folder(path.parent)
            elif not path.is_file():
                raise StoreError(
                    f"there is no run in {self.where}; start one with: sfumato bench run PLAN --out FOLDER"
                )
            self._connection = _connect(path)
        except (OSError, sqlite3.Error) as error:
            raise self._store_error(error) from error
        try:
            self._begin_file(create)
        except StoreError as error:
            self._connection.close()
            if create or not _name(error.__cause__).startswith(READ_ONLY):
                raise
            self._look_only(error)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        if os.getpid() == self._process:  # in a forked one it would undo the locks of this
            with self._lock:
                self._connection.close()
                if self._copied is not None:
                    self._copied.cleanup()

    def _look_only(self, refused: StoreError) -> None:
        """Open a run in a folder that cannot be written, which SQLite's log would need. If there is a log, or an
        earlier format to upgrade, a copy of the run is opened."""
        try:
            self._connection = _connect(f"file:{quote(str(self._path))}?mode=ro&immutable=1", uri=True)
            log = Path(f"{self._path}-wal")
            if (log.exists() and log.stat().st_size) or self._transaction(self._version) != FORMAT:
                self._connection.close()
                self._copied = tempfile.TemporaryDirectory(prefix="sfumato-")
                copy = Path(self._copied.name) / self._path.name
                for suffix in ("", "-wal"):
                    if Path(f"{self._path}{suffix}").exists():
                        shutil.copyfile(f"{self._path}{suffix}", f"{copy}{suffix}")
                self._connection = _connect(copy)
                self._begin(create=False)
        except (OSError, sqlite3.Error) as error:
            self._connection.close()
            raise refused from error

    def _begin_file(self, create: bool) -> None:
        if self._transaction(self._version) is not None or create:  # nothing is changed in a file that is no run
            self._patiently(lambda: self._set("PRAGMA journal_mode = WAL", "wal"))
            self._set("PRAGMA synchronous = FULL")
            self._set(f"PRAGMA cache_size = -{CACHE}")
            self._set("PRAGMA fullfsync = ON")  # of macOS, whose fsync does not reach the disk
            self._set("PRAGMA wal_autocheckpoint = 0")  # see _shorten
        self._begin(create)

    def _set(self, pragma: str, expected: str | None = None) -> None:
        got = self._connection.execute(pragma).fetchone()
        if expected is not None and got != (expected,):
            raise StoreError(f"{self.where} lies where SQLite cannot keep a log; put the run on a disk of this machine")

    def _tables(self, rows: Rows) -> set[str]:
        return {name for (name,) in rows("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def _transaction(self, work: Callable[[Rows], T], write: bool = False) -> T:
        def once() -> T:
            self._connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                result = work(_Rows(self._connection))
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    with suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")
                raise
            return result

        if os.getpid() != self._process:
            raise StoreError(f"{self.where} was opened by another process; open it anew after a fork")
        with self._lock:
            result = self._patiently(once)
            if write:
                self._shorten()
        return result

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Try until the file is not in use. SQLite itself waits for a second only, so that Ctrl-C works."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return attempt()
            except sqlite3.Error as error:
                busy = _name(error).startswith(("SQLITE_BUSY", "SQLITE_PROTOCOL"))
                if not busy or time.monotonic() > deadline:
                    raise self._store_error(error) from error

    def _shorten(self) -> None:
        """Copy the log into the file when it is long, in the one mode that locks out other writers.

        SQLite's default mode lets others write. Before 3.51.3, a log that another process reset at that instant could be
        mistaken for one that is in the file already (https://www.sqlite.org/wal.html#walresetbug).
        """
        with suppress(OSError, sqlite3.Error):  # what was committed is in the log, and the next time will do
            size = Path(f"{self._path}-wal").stat().st_size
            if size > self._log_at_most:
                busy, *_ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                self._log_at_most = size + LOG if busy else LOG

    def _store_error(self, error: Exception) -> StoreError:
        """What is wrong and what to do, in a sentence."""
        if isinstance(error, StoreError):
            return error
        name = _name(error)
        if isinstance(error, OSError):
            text = f"cannot keep a run in {self.where}: {error.strerror}; name another place, or mend this one"
        elif name == "SQLITE_FULL":
            text = f"no room is left for {self.where}: make some and run the same command again, what was committed is kept"
        elif name.startswith(("SQLITE_BUSY", "SQLITE_PROTOCOL")):
            text = f"another process has kept {self.where} for {self._patience:g} s; end it, and run the same command again"
        elif name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
            text = f"{self.where} cannot be written: see that its folder and its files may be, and run the same command again"
        elif name == "SQLITE_NOTADB":
            text = (
                f"{self.where} is not a run of sfumato, or damaged; name another place, or put a copy of the run there"
            )
        elif name.startswith("SQLITE_CORRUPT"):
            text = (
                f"{self.where} is damaged ({error}): put a copy there, or save what is left with: sqlite3 FILE .recover"
            )
        elif name.startswith("SQLITE_IOERR"):
            text = (
                f"{self.where} cannot be read or written ({error}, {name}): see whether the disk is full or at fault, and run "
                "the same command again, what was committed is kept"
            )
        else:
            text = f"{self.where} cannot be used: {error}"
        return StoreError(text)


class _Rows:
    """A transaction of SQLite."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __call__(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(translated(statement, SQLITE), values).fetchall()

    def each(self, statement: str, values: Sequence[tuple[Any, ...]]) -> None:
        self._connection.executemany(translated(statement, SQLITE), values)


def _connect(path: Path | str, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False, uri=uri)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, so that they survive a loss of power."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Write the entries of a folder to the disk."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _name(error: BaseException | None) -> str:
    return getattr(error, "sqlite_errorname", None) or ""
