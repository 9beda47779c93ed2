"""One process drives a run: it claims what is to be done, has workers do it, and commits what comes back."""

import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Protocol

from sfumato.data import Example
from sfumato.runs.execution.execute import WAIT, Parcel, Progress, Results
from sfumato.runs.execution.session import Session
from sfumato.runs.execution.supervision import Queue, Task
from sfumato.runs.plans.classes import asked_classes
from sfumato.runs.plans.plan import Plan
from sfumato.runs.stores.store import Done, Item, Owner, Store
from sfumato.runs.work.faults import OpenItems, Troubles
from sfumato.runs.work.kept import Kept
from sfumato.runs.work.undone import Window

POLL = 0.5
"""Seconds for which the driver waits for an answer before it looks at what else there is to do."""


@dataclass(frozen=True, eq=False)
class Report:
    """What came of some tasks."""

    done: tuple[Done, ...] = ()
    results: Results = field(default_factory=dict)
    left: tuple[OpenItems, ...] = ()
    """What is left open, as the machine failed."""
    suspects: tuple[OpenItems, ...] = ()
    """At what a worker was killed, that is not left open yet."""


class Workers(Protocol):
    """Those who work, on this machine or elsewhere."""

    def through(self, queue: Queue, poll: float) -> Iterator[Sequence[Report]]:
        """Do all that the queue gives, and yield what is done, at least every `poll` seconds. Raises `RuntimeError` where
        something other than an item is wrong."""
        ...


def drive(session: Session, store: Store, me: Owner, workers: Workers) -> Iterator[Progress]:
    """Have the workers do all of a session that is not done, and yield how far they are.

    Raises `RuntimeError` where the machine fails at one picture after the other, after what is done was committed.
    """
    keep = session.place.shards.keep if session.plan.masks else None
    parcel, troubles = Parcel(), Troubles()
    began, done, failed = time.monotonic(), 0, 0

    def progress() -> Progress:
        return Progress(done, failed, time.monotonic() - began, troubles.summary())

    try:
        while True:
            queue = Claims(session.undone(store), store, me, session.kept(store), troubles.left)
            for reports in workers.through(queue, POLL):
                for report in reports:
                    parcel.add(report.done, report.results)
                    done, failed = done + len(report.done), failed + sum(each.row is None for each in report.done)
                    troubles.note(report.left, measured=any(each.row is not None for each in report.done))
                    for each in report.suspects:
                        troubles.count(each)
                if troubles.reason:
                    raise RuntimeError(troubles.reason)
                if parcel.due:
                    parcel.commit(store, keep)
                yield progress()
            if parcel.done:
                parcel.commit(store, keep)
            yield progress()
            if not queue.contended:
                return
            if not queue.given:
                time.sleep(WAIT)
    except OSError:
        raise  # of the store: nothing can be kept in it now
    except BaseException:
        if parcel.done:
            parcel.commit(store, keep)
        raise


class Claims:
    """The tasks of a run: what is not done, each chunk claimed when it is about to be sent."""

    def __init__(
        self,
        windows: Iterator[Window],
        store: Store,
        me: Owner,
        kept: Kept,
        without: Collection[Item] = (),
    ) -> None:
        self._rest = chain.from_iterable(windows)
        self._store, self._me, self._kept = store, me, kept
        self._without = without
        self._back: deque[Task] = deque()
        self._put_off: deque[Task] = deque()
        self.contended = False
        """Whether another has claimed, or has just done, some of it: there will be a second look at these."""
        self.given = 0

    def take(self, count: int) -> list[Task]:
        tasks = [self._back.popleft() for _ in range(min(count, len(self._back)))]
        while lot := list(islice(self._rest, count - len(tasks))):
            mine = set(self._store.claim([item for _, items in lot for item in items], self._me))
            for chunk, items in lot:
                wanted = frozenset(mine.intersection(items))
                self.contended |= len(wanted) < len(set(items))
                if wanted := wanted.difference(self._without):
                    tasks.append(Task(chunk, wanted, self._kept.of(chunk, wanted)))
        self.given += len(tasks)
        return tasks

    def again(self, tasks: Collection[Task]) -> None:
        self._back.extend(tasks)

    def put_off(self, tasks: Collection[Task]) -> None:
        self._put_off.extend(tasks)

    def alone(self) -> Task | None:
        return self._put_off.popleft() if self._put_off else None


@dataclass(frozen=True)
class Classes:
    """What a worker needs of a data set: its classes. The examples come with the chunks."""

    classes: Sequence[str]
    asked_classes: frozenset[int]
    """Those that are explained."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Example:
        raise IndexError(index)


def portable(plan: Plan) -> Plan:
    """The plan without its data sets' lists, which may be large and lie on the driver's machine only."""
    data = {
        name: replace(entry, data=Classes(tuple(entry.data.classes), asked_classes(entry.data)))
        for name, entry in plan.data.items()
    }
    return replace(plan, data=data)
