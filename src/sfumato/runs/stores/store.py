"""Where a run keeps what is done: one small interface, over a file on one machine or a database server for many."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:  # numpy is not needed to say how far a run is
    from sfumato.metrics.estimate import Row

LEASE = 60.0
"""Seconds for which a claim holds unless renewed: so long after a worker's death on another machine its items are free."""


def data_note(name: str) -> str:
    """The note that a store has of a data set: its classes, and how many examples and queries there are."""
    return f"data {name}"


class StoreError(OSError):
    """The store cannot be read or written: what is wrong and what to do, in one sentence. What was committed is kept."""


class Item(NamedTuple):
    """What is done once: a recipe and a query, by their numbers in the run's store."""

    recipe: int
    query: int


@dataclass(frozen=True)
class Done:
    """An item that is done: measured, or failed for a reason that trying again does not change."""

    item: Item
    example: str
    """The example's name in its data set."""
    target: int
    """The class that was explained, by the data set's index."""
    row: "Row | None"
    """What the protocol measured; `None` where the item failed."""
    reason: str = ""
    """Why it failed."""
    seconds: float = 0.0
    """What the method took for this query: of a batch, its share."""
    masks: str = ""
    """Where the method's result is, if it was kept: `SHARD/KEY`, the shard and the key in it."""


@dataclass(frozen=True)
class Listed:
    """An example of a data set, as a run keeps it."""

    name: str
    annotation: str
    """A hash of its name and annotation."""
    files: tuple[str, ...]
    """The paths of its picture and masks; none where there is no example."""
    body: str
    """The example as JSON, or why there is none."""
    targets: tuple[int, ...]
    """The classes to be explained."""


class Planned(NamedTuple):
    """A query of a data set, as a run keeps it, in the data set's order."""

    query: int
    target: int
    example: int
    place: int
    files: tuple[str, ...]
    stamp: str
    """Of its files, when they were last looked into (see `content.stamp`); empty before."""
    content: str
    """A hash of what was in them; empty before."""


class Tally(NamedTuple):
    """How many items of a recipe were measured (no cause), or failed for one cause."""

    recipe: int
    cause: str
    items: int
    example: str
    """The name of one of them."""


class Page(NamedTuple):
    """Measured items of one recipe whose rows have the same names, as columns."""

    names: tuple[str, ...]
    queries: Sequence[int]
    values: Sequence[Sequence[Any]]
    """A value for each item, by name."""
    seconds: Sequence[float | None]
    """`None` where the method's time is not known."""


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

    def tell(self, recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
        """Remember what recipes are (plain JSON), by their hashes; those known stay as they are. Gives their numbers."""
        ...

    def recipes(self) -> dict[int, dict[str, Any]]: ...

    def note(self, name: str, value: Any) -> None:
        """Remember a fact of the run (plain JSON) by its name, in place of what it was."""
        ...

    def notes(self) -> dict[str, Any]: ...

    def known(self, items: Collection[Item]) -> set[Item]:
        """Those of the items that are done."""
        ...

    def known_between(self, recipe: int, first: int, last: int) -> int:
        """How many items of a recipe are done whose queries have these numbers, both ends included."""
        ...

    def look_up(self, items: Collection[Item]) -> Iterator[Done]:
        """Those of the items that are done."""
        ...

    def claim(self, items: Sequence[Item], owner: Owner, lease: float = LEASE) -> list[Item]:
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
        """Keep what is done, once; what another has committed stays as it is. The claims of these items are given up."""
        ...

    def forget(self, items: Collection[Item]) -> None:
        """These items are not done."""
        ...

    def forget_recipe(self, recipe: int, failed: bool = False) -> None:
        """No item of the recipe is done; with `failed` only those that were measured are."""
        ...

    def done(self, recipe: int | None = None) -> Iterator[Done]:
        """All that is done, or all of a recipe, by number; read page by page."""
        ...

    def row_names(self) -> list[str]:
        """The names of all values that rows hold."""
        ...

    def tallies(self) -> list[Tally]:
        """What the items come to whose queries are planned."""
        ...

    def pages(self, recipe: int) -> Iterator[Page]:
        """What was measured of a recipe, by the queries' numbers."""
        ...

    def shards(self) -> set[str]:
        """The names of all shards that rows name."""
        ...

    def claimed(self) -> int:
        """How many claims hold."""
        ...

    # The queries of the data sets

    def lists(self, data: str, first: int, examples: Sequence[Listed]) -> None:
        """The data set's places from `first` on hold these examples. What is done of others is kept, and not counted; counts
        may be late until `listed`."""
        ...

    def listed(self, data: str, count: int) -> int:
        """The data set has so many examples; gives how many queries."""
        ...

    def planned(self, data: str, first: int, last: int) -> list[Planned]:
        """The queries of the examples at the places from first to last, in the data set's order."""
        ...

    def order(self, data: str, first: int, last: int) -> list[tuple[int, int, int]]:
        """The same, each by the numbers of its query and its example, and its target."""
        ...

    def bodies(self, examples: Collection[int]) -> dict[int, str]:
        """What is kept of these examples, as JSON."""
        ...

    def named(self, data: str, names: Collection[str]) -> dict[str, str]:
        """What is kept of a data set's examples with these names, by name."""
        ...

    def looked_into(self, data: str, seen: Sequence[tuple[int, str, str]]) -> bool:
        """Remember the stamp and content of examples' files, each (example, stamp, content). Where the content is another than
        was known, other queries take the place of those that were planned; whether that is so."""
        ...
