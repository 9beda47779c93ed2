"""Where a run's store is: in its folder, or in a database."""

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
    """The store of the run in a folder: its file `run.sqlite`, or, with `url` (`postgresql://user@host:5432/database`), a
    PostgreSQL database, in which runs are kept apart by the name `run`, that of the folder if none is given.

    Without `create` there must be a run already. Raises `StoreError` where it cannot be kept or is none of this version's, and
    `ValueError` for an address of anything else.
    """
    folder = Path(folder)
    if url is None:
        return SqliteStore(folder / FILE, create)
    if not re.match(r"postgres(ql)?://", url):
        kind = url.partition("://")[0] if "://" in url else "no scheme"
        raise ValueError(f"a run's database is at postgresql://user@host:5432/database; got an address of {kind!r}")
    return PostgresStore(url, run or folder.resolve().name, create)
