"""Open the store of a run, in its folder or in a database."""

import os
import re
from pathlib import Path

from sfumato.runs.stores.postgres import PostgresStore
from sfumato.runs.stores.sql import SqlStore
from sfumato.runs.stores.sqlite import SqliteStore

FILE = "run.sqlite"


def open_store(
    folder: str | os.PathLike[str], url: str | None = None, run: str | None = None, create: bool = True
) -> SqlStore:
    """Open the store of the run in a folder: its file `run.sqlite`, or with `url` (`postgresql://user@host:5432/database`) a
    PostgreSQL database. There the run has the name `run`, by default that of the folder.

    Without `create`, the run must exist. Raises `StoreError` if it does not, if it cannot be read or written, or if another
    version made it, and `ValueError` for another kind of address.
    """
    folder = Path(folder)
    if url is None:
        return SqliteStore(folder / FILE, create)
    if not re.match(r"postgres(ql)?://", url):
        kind = url.partition("://")[0] if "://" in url else "no scheme"
        raise ValueError(f"a run's database is at postgresql://user@host:5432/database; got an address of {kind!r}")
    return PostgresStore(url, run or folder.resolve().name, create)
