"""A run on this machine: chunk after chunk is claimed, done and committed, until nothing is left."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from sfumato.attribution import Attribution
from sfumato.runs.periodic import periodically
from sfumato.runs.stores.processes import present
from sfumato.runs.stores.store import LEASE, Done, Item, Owner, Store
from sfumato.runs.work.faults import Troubles
from sfumato.runs.work.items import Chunk
from sfumato.runs.work.undone import Window
from sfumato.runs.work.workbench import Outcome

BETWEEN_COMMITS = 2.0
"""Seconds of work that one commit holds, about: what a killed worker loses."""

AT_ONCE = 256
"""Chunks that are claimed at once, at most."""

WAIT = 0.5
"""Seconds between looks at what others have claimed."""


@dataclass(frozen=True)
class Progress:
    """How far a worker is: items that it has done since it began."""

    done: int
    failed: int
    seconds: float
    left: str = ""
    """How many items are left open, as the machine failed, and why; empty where none are."""


Keep = Callable[[Mapping[str, Attribution]], str]
"""Writes results, by their keys, where they last, and says the name of the shard."""

Results = Mapping[tuple[Item, ...], Attribution]
"""What a method found, each by the items that rest on it."""

Work = Callable[[Chunk, frozenset[Item]], Outcome]
"""Does a chunk's items, of those that are wanted."""


def execute(
    windows: Callable[[], Iterator[Window]], work: Work, store: Store, keep: Keep | None = None
) -> Iterator[Progress]:
    """Do all that is planned and not yet done, and yield after each commit.

    Any number of processes may do so at once, on one store: each chunk is claimed first. What another has claimed is waited
    for, and taken over if it dies. However the caller stops, claims are given up, and what was committed is kept. Items at
    which the machine failed are left open. Raises `RuntimeError` where it fails at one picture after the other.
    """
    troubles = Troubles()
    me = present(f"{time.time_ns()}-{threading.get_ident()}")
    began, done, failed, together = time.monotonic(), 0, 0, 1
    with renewed(store, me):
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
                            troubles.note(outcome.left, measured=any(each.row is not None for each in outcome.done))
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
    """What is done and not yet committed."""

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
        """How many chunks to claim next, where so many were just done: so many as take the time between two commits. They grow
        no more than twofold, as the next ones may be of a slower method."""
        each = (time.monotonic() - self.began) / chunks
        return max(1, min(2 * chunks, AT_ONCE, int(BETWEEN_COMMITS / max(each, 1e-6))))

    @property
    def failed(self) -> int:
        return sum(each.row is None for each in self.done)

    def commit(self, store: Store, keep: Keep | None) -> None:
        """The results first, so that no row names a shard which is not there."""
        places: dict[Item, str] = {}
        if keep is not None and self.results:
            shard = keep({_name(items[0]): result for items, result in self.results.items()})
            places = {item: f"{shard}/{_name(items[0])}" for items in self.results for item in items}
        store.commit(
            [each if each.row is None else replace(each, masks=places.get(each.item, each.masks)) for each in self.done]
        )
        self.done, self.results, self.began = [], {}, time.monotonic()


def _name(item: Item) -> str:
    """By which a shard knows the result on which an item rests."""
    return f"{item.recipe}-{item.query}"


@contextmanager
def renewed(store: Store, me: Owner) -> Iterator[None]:
    """The owner's claims last meanwhile, and are given up at the end."""

    def renew() -> None:
        with suppress(OSError):  # the next commit says what is wrong
            store.renew(me)

    try:
        with periodically(renew, LEASE / 3, "sfumato-lease"):
            yield
    finally:
        with suppress(OSError):  # a lost store forgets the claims by itself
            store.release(me)
