"""A run in one process: claim, compute and commit chunk after chunk, until nothing is left."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from sfumato.attribution import Attribution
from sfumato.runs.periodic import periodically
from sfumato.runs.stores.processes import this_process
from sfumato.runs.stores.store import LEASE, Done, Item, Owner, Store
from sfumato.runs.work.faults import Troubles
from sfumato.runs.work.items import Chunk
from sfumato.runs.work.undone import Window
from sfumato.runs.work.workbench import Outcome

BETWEEN_COMMITS = 2.0
"""About how many seconds of work one commit holds. A worker that is killed loses as much."""

AT_ONCE = 256
"""The largest number of chunks that are claimed together."""

WAIT = 0.5
"""Seconds between looks at what others have claimed."""


@dataclass(frozen=True)
class Progress:
    """How far a worker is: items that it has done since it began."""

    done: int
    failed: int
    seconds: float
    left: str = ""
    """How many items the machine left open by its faults, and why; empty if there are none."""


Keep = Callable[[Mapping[str, Attribution]], str]
"""Writes results, by their keys, to a file, and returns the name of the shard."""

Results = Mapping[tuple[Item, ...], Attribution]
"""What a method found, each by the items that rest on it."""

Work = Callable[[Chunk, frozenset[Item]], Outcome]
"""Does a chunk's items, of those that are wanted."""


def execute(
    windows: Callable[[], Iterator[Window]], work: Work, store: Store, keep: Keep | None = None
) -> Iterator[Progress]:
    """Do all that is planned and not yet done, and yield after each commit.

    Any number of processes may work on one store at the same time, as each claims its chunks first. This process waits for
    chunks that another has claimed, and takes them over if the other dies. When the caller stops, for any reason, claims are
    released and commits are kept. Items at which the machine failed are left open. Raises `RuntimeError` if the machine
    fails at several pictures in a row.
    """
    troubles = Troubles()
    me = this_process(f"{time.time_ns()}-{threading.get_ident()}")
    began, done, failed, together = time.monotonic(), 0, 0, 1
    with renewed_claims(store, me):
        left = True
        while left:
            left, worked = False, False
            for missing in windows():
                place = 0
                while some := missing[place : place + together]:
                    place += len(some)
                    parcel = Parcel()
                    mine = frozenset(store.claim([item for _, items in some for item in items], me))
                    for chunk, items in some:
                        claimed = mine.intersection(items)
                        if len(claimed) < len(items):
                            left = True  # another is at it, or has just finished it
                        if claimed := claimed.difference(troubles.left):
                            outcome = work(chunk, claimed)
                            parcel.add(outcome.done, outcome.results)
                            troubles.note(outcome.left, measured=any(item.row is not None for item in outcome.done))
                            worked = True
                        if troubles.reason:
                            break
                    together = parcel.next_size(len(some))
                    if parcel.done or troubles.left:
                        done, failed = done + len(parcel.done), failed + parcel.failed
                        parcel.commit(store, keep)
                        yield Progress(done, failed, time.monotonic() - began, troubles.summary())
                    if troubles.reason:
                        raise RuntimeError(troubles.reason)
            if left and not worked:
                time.sleep(WAIT)


@dataclass(eq=False)
class Parcel:
    """Items that are done and not yet committed."""

    done: list[Done] = field(default_factory=list)
    results: dict[tuple[Item, ...], Attribution] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def add(self, done: Sequence[Done], results: Results) -> None:
        self.done += done
        self.results |= results

    @property
    def due(self) -> bool:
        return bool(self.done) and time.monotonic() - self.began > BETWEEN_COMMITS

    def next_size(self, chunks: int) -> int:
        """How many chunks to claim next, after `chunks` were done: as many as fill the time between two commits.

        The number at most doubles, as the next chunks may be of a slower method."""
        seconds = (time.monotonic() - self.began) / chunks
        return max(1, min(2 * chunks, AT_ONCE, int(BETWEEN_COMMITS / max(seconds, 1e-6))))

    @property
    def failed(self) -> int:
        return sum(item.row is None for item in self.done)

    def commit(self, store: Store, keep: Keep | None) -> None:
        """Write the results before the rows, so that no row names a shard that does not exist."""
        places: dict[Item, str] = {}
        if keep is not None and self.results:
            shard = keep({_name(items[0]): result for items, result in self.results.items()})
            places = {item: f"{shard}/{_name(items[0])}" for items in self.results for item in items}
        store.commit(
            [done if done.row is None else replace(done, masks=places.get(done.item, done.masks)) for done in self.done]
        )
        self.done, self.results, self.began = [], {}, time.monotonic()


def _name(item: Item) -> str:
    """The key in a shard of the result that an item was measured on."""
    return f"{item.recipe}-{item.query}"


@contextmanager
def renewed_claims(store: Store, me: Owner) -> Iterator[None]:
    """Renew the owner's claims until the block ends, and release them then."""

    def renew() -> None:
        with suppress(OSError):  # the next commit says what is wrong
            store.renew(me)

    try:
        with periodically(renew, LEASE / 3, "sfumato-lease"):
            yield
    finally:
        with suppress(OSError):  # a lost store forgets the claims by itself
            store.release(me)
