"""The interface of a store, where a run keeps what is done: a file on one machine, or a database server for many."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:  # numpy is not needed to say how far a run is
    from sfumato.metrics.estimate import Row

LEASE = 60.0
"""Seconds that a claim lasts unless it is renewed. The items of a worker that died on another machine are free after
that time."""


def data_note(name: str) -> str:
    """The name of the note about a data set: its classes, and how many examples and queries it has."""
    return f"data {name}"


def measures_note(protocol: str) -> str:
    """The name of the note about the measures of a protocol, by its name in the plan."""
    return f"measures {protocol}"


ORIGINS = "origins"
"""The name of the note that says how many items came from elsewhere: by origin, then by recipe (see `Store.commit`)."""


class StoreError(OSError):
    """The store cannot be read or written. The message says in one sentence what is wrong and what to do. Commits are kept."""


class Item(NamedTuple):
    """The unit of work: a recipe and a query, by their numbers in the run's store. Each item is done once."""

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
    """Seconds of the method for this query: of a batch, its share."""
    masks: str = ""
    """Where the method's result is kept, as `SHARD/KEY`; empty if it is not."""


@dataclass(frozen=True)
class StoredExample:
    """An example of a data set, as the store keeps it."""

    name: str
    annotation: str
    """A hash of its name and annotation."""
    files: tuple[str, ...]
    """The paths of its picture and masks; empty if the example could not be read."""
    body: str
    """The example as JSON, or why it could not be read."""
    targets: tuple[int, ...]
    """The classes to explain."""


class StoredQuery(NamedTuple):
    """A query of a data set, as the store keeps it."""

    query: int
    target: int
    example: int
    place: int
    files: tuple[str, ...]
    stamp: str
    """The stamp of its files when they were last hashed (see `content.stamp`); empty before that."""
    content: str
    """The hash of their content; empty before that."""


class QueryKey(NamedTuple):
    """What a query is in every run: a picture with its annotation, and a class."""

    annotation: str
    """A hash of the example's name and annotation."""
    content: str
    """A hash of the content of its files."""
    target: int


class StoredFiles(NamedTuple):
    """The files of an example that has queries; the fields are as in `StoredQuery`."""

    example: int
    files: tuple[str, ...]
    stamp: str
    content: str


class Tally(NamedTuple):
    """How many items of a recipe failed for one cause, or were measured (the cause is empty)."""

    recipe: int
    cause: str
    items: int
    example: str
    """The name of one example."""


class Page(NamedTuple):
    """Measured items of one recipe as columns. Their rows have the same names."""

    names: tuple[str, ...]
    queries: Sequence[int]
    values: Sequence[Sequence[Any]]
    """By name, a value for each item."""
    seconds: Sequence[float | None]
    """`None` where the method's time is not known."""


@dataclass(frozen=True)
class Owner:
    """The owner of claims: a process on a machine. Claims of a dead process on this machine are free immediately."""

    machine: str
    process: int
    started: str
    """When the process started, which tells it from a later one with the same number."""


class Store(Protocol):
    """All methods are atomic, may be called from several processes on any machine, and raise `StoreError`.

    A store is a context manager, which closes it.
    """

    def add_recipes(self, recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
        """Add recipes (plain JSON) by their hashes, unless they are there already. Returns their numbers."""
        ...

    def recipes(self) -> dict[int, dict[str, Any]]: ...

    def note(self, name: str, value: Any) -> None:
        """Set a note of the run (plain JSON) by its name."""
        ...

    def notes(self) -> dict[str, Any]: ...

    def which_done(self, items: Collection[Item]) -> set[Item]:
        """Those of the items that are done."""
        ...

    def count_done(self, recipe: int, first: int, last: int) -> int:
        """How many items of a recipe are done for the queries `first` to `last`, both included."""
        ...

    def look_up(self, items: Collection[Item]) -> Iterator[Done]:
        """Those of the items that are done."""
        ...

    def claim(self, items: Sequence[Item], owner: Owner, lease: float = LEASE) -> list[Item]:
        """Claim items for an owner. Returns those that are neither done nor claimed by another.

        A claim of another counts while its lease lasts, unless its process was on this machine and has ended.
        """
        ...

    def renew(self, owner: Owner, lease: float = LEASE) -> None:
        """Extend the owner's claims by another lease."""
        ...

    def release(self, owner: Owner) -> None:
        """Release the owner's claims."""
        ...

    def commit(self, done: Sequence[Done], origin: str = "") -> int:
        """Write items that are done, and release their claims. Items that another has committed stay as they are.

        `origin` says where they come from, if they were not computed by this run. Returns how many are new."""
        ...

    def forget(self, items: Collection[Item]) -> None:
        """Remove items, so that they count as not done."""
        ...

    def forget_recipe(self, recipe: int, failed: bool = False) -> None:
        """Remove all items of a recipe; with `failed` only its failed ones."""
        ...

    def done(self, recipe: int | None = None) -> Iterator[Done]:
        """All items that are done, or those of one recipe, in the order of their numbers; read page by page."""
        ...

    def row_names(self) -> list[str]:
        """The names of all values that rows hold."""
        ...

    def tallies(self) -> list[Tally]:
        """How many items were measured or failed, counting queries that are planned."""
        ...

    def pages(self, recipe: int) -> Iterator[Page]:
        """The measured items of a recipe, in the order of their queries."""
        ...

    def shards(self) -> set[str]:
        """The names of all shards that rows name."""
        ...

    def claimed(self) -> int:
        """How many claims hold."""
        ...

    # The queries of the data sets

    def put_examples(self, data: str, first: int, examples: Sequence[StoredExample]) -> None:
        """Put examples at the places of a data set from `first` on. Items of the examples that were there are kept, and are not
        counted any more; counts are right after `finish_examples`."""
        ...

    def finish_examples(self, data: str, count: int) -> int:
        """End the list of a data set, which has `count` examples. Returns how many queries it has."""
        ...

    def planned(self, data: str, first: int, last: int) -> list[StoredQuery]:
        """The queries of the examples at the places `first` to `last`, in the data set's order."""
        ...

    def files(self, data: str, first: int, last: int) -> list[StoredFiles]:
        """The files of the examples at these places that have queries: quicker to read than `planned`."""
        ...

    def order(self, data: str, first: int, last: int) -> list[tuple[int, int, int]]:
        """The queries of these examples, each as (query, example, target) with the numbers of query and example."""
        ...

    def query_keys(self, data: str, first: int, last: int) -> dict[int, QueryKey]:
        """The queries of these examples, by number, without those whose files were never hashed."""
        ...

    def find_queries(self, data: str, keys: Collection[QueryKey]) -> dict[QueryKey, list[int]]:
        """The queries of a data set with these keys. There are several where a data set has a picture several times."""
        ...

    def bodies(self, examples: Collection[int]) -> dict[int, str]:
        """The examples with these numbers, as JSON."""
        ...

    def bodies_by_name(self, data: str, names: Collection[str]) -> dict[str, str]:
        """The examples of a data set with these names, as JSON."""
        ...

    def set_contents(self, data: str, contents: Sequence[tuple[int, str, str]]) -> bool:
        """Set the stamps and content hashes of examples' files, each as (example, stamp, content). If the content of one has
        changed, new queries replace those that were planned. Returns whether there is such an example."""
        ...
