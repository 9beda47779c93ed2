"""Where a run keeps what is done: one small interface, over a file on one machine or a database server for many."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sfumato.metrics.estimate import Row

LEASE = 60.0
"""Seconds for which a claim holds unless renewed: so long after a worker's death on another machine its items are free."""


class StoreError(OSError):
    """The store cannot be read or written: what is wrong and what to do, in one sentence. What was committed is kept."""


@dataclass(frozen=True)
class Done:
    """An item that is done: measured, or failed for a reason that trying again does not change."""

    key: str
    """A hash of all that the outcome depends on."""
    recipe: str
    """The hash of that part which items of one model, method, data set and protocol share."""
    example: str
    """The example's name in its data set."""
    target: int
    """The class that was explained, by the data set's index."""
    row: Row | None
    """What the protocol measured; `None` where the item failed."""
    reason: str = ""
    """Why it failed."""
    seconds: float = 0.0
    """What the method took for this query: of a batch, its share."""
    masks: str = ""
    """Where the method's result is, if it was kept: `SHARD/KEY`, the shard and the key in it."""


@dataclass(frozen=True)
class Owner:
    """Who works on items: a process, on a machine. A dead process of this machine gives up what it had claimed at once."""

    machine: str
    process: int
    started: str
    """Tells processes of one number apart."""


class Store(Protocol):
    """All methods are atomic, may be called from several processes on any machine, and raise `StoreError`.

    A store is a context manager, which closes it.
    """

    def tell(self, recipes: Mapping[str, Mapping[str, Any]]) -> None:
        """Remember what recipes are (plain JSON), by their hashes; those known stay as they are."""
        ...

    def recipes(self) -> dict[str, dict[str, Any]]: ...

    def note(self, name: str, value: Any) -> None:
        """Remember a fact of the run (plain JSON) by its name, in place of what it was."""
        ...

    def notes(self) -> dict[str, Any]: ...

    def known(self, keys: Collection[str]) -> set[str]:
        """Those of the keys whose items are done."""
        ...

    def look_up(self, keys: Collection[str]) -> Iterator[Done]:
        """Those of the items that are done."""
        ...

    def claim(self, keys: Sequence[str], owner: Owner, lease: float = LEASE) -> list[str]:
        """Of these items, those which are neither done nor claimed by another that lives; they are the owner's from now on.

        A claim of another counts while its lease lasts, unless it is of this machine and its process is no more.
        """
        ...

    def renew(self, owner: Owner, lease: float = LEASE) -> None:
        """All that the owner has claimed is its own for another lease."""
        ...

    def release(self, owner: Owner) -> None:
        """The owner's claims are given up."""
        ...

    def commit(self, done: Sequence[Done]) -> None:
        """Write what is done, all or nothing, and end the claims on it. An item that is done already stays as it is."""
        ...

    def forget(self, keys: Collection[str]) -> None:
        """Let items be done again."""
        ...

    def done(self, recipe: str | None = None) -> Iterator[Done]:
        """All that is done, of one recipe or of all, in the order of their keys."""
        ...

    def count(self) -> Mapping[str, tuple[int, int]]:
        """By recipe, how many items are done, and how many of these failed."""
        ...
