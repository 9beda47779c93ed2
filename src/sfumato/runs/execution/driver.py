"""The driver of a run: it claims chunks, sends them to workers, and commits what they return."""

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
from sfumato.runs.plans.classes import target_classes
from sfumato.runs.plans.plan import Plan
from sfumato.runs.stores.store import Done, Item, Owner, Store
from sfumato.runs.work.cache import ResultCache
from sfumato.runs.work.faults import OpenItems, Troubles
from sfumato.runs.work.undone import Window

POLL = 0.5
"""The longest time in seconds that the driver waits for an answer before it does something else."""


@dataclass(frozen=True, eq=False)
class Report:
    """What workers report about tasks."""

    done: tuple[Done, ...] = ()
    results: Results = field(default_factory=dict)
    left: tuple[OpenItems, ...] = ()
    """Items that the machine left open by a fault."""
    suspects: tuple[OpenItems, ...] = ()
    """Items at which a worker was killed, and which are tried again."""


class Workers(Protocol):
    """Workers, on this machine or elsewhere."""

    def through(self, queue: Queue, poll: float) -> Iterator[Sequence[Report]]:
        """Do all tasks of the queue, and yield reports, at least every `poll` seconds. Raises `RuntimeError` if something
        other than an item is wrong."""
        ...


def drive(
    session: Session, store: Store, me: Owner, workers: Workers, windows: Iterator[Window] | None = None
) -> Iterator[Progress]:
    """Let the workers do all that a session has left, and yield the progress.

    `windows` are the items that are left, if the caller has begun to look for them. They are looked for again only if other
    processes are at work too. Raises `RuntimeError` if the machine fails at several pictures in a row; what is done is
    committed first.
    """
    keep = session.place.shards.keep if session.plan.masks else None
    parcel, troubles = Parcel(), Troubles()
    began, done, failed = time.monotonic(), 0, 0

    def progress() -> Progress:
        return Progress(done, failed, time.monotonic() - began, troubles.summary())

    try:
        while True:
            left, windows = windows or session.undone(store), None
            queue = Claims(left, store, me, session.cache(store), troubles.left)
            for reports in workers.through(queue, POLL):
                for report in reports:
                    parcel.add(report.done, report.results)
                    done, failed = done + len(report.done), failed + sum(item.row is None for item in report.done)
                    troubles.note(report.left, measured=any(item.row is not None for item in report.done))
                    for suspect in report.suspects:
                        troubles.count(suspect)
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
    """The tasks of a run. Each chunk is claimed just before it is sent."""

    def __init__(
        self,
        windows: Iterator[Window],
        store: Store,
        me: Owner,
        cache: ResultCache,
        without: Collection[Item] = (),
    ) -> None:
        self._rest = chain.from_iterable(windows)
        self._store, self._me, self._cache = store, me, cache
        self._without = without
        self._back: deque[Task] = deque()
        self._put_off: deque[Task] = deque()
        self.contended = False
        """Whether another process has claimed or just done some of the items. The driver looks at these again."""
        self.given = 0

    def take(self, count: int) -> list[Task]:
        tasks = [self._back.popleft() for _ in range(min(count, len(self._back)))]
        while lot := list(islice(self._rest, count - len(tasks))):
            mine = set(self._store.claim([item for _, items in lot for item in items], self._me))
            for chunk, items in lot:
                wanted = frozenset(mine.intersection(items))
                self.contended |= len(wanted) < len(set(items))
                if wanted := wanted.difference(self._without):
                    tasks.append(Task(chunk, wanted, self._cache.of(chunk, wanted)))
        self.given += len(tasks)
        return tasks

    def again(self, tasks: Collection[Task]) -> None:
        self._back.extend(tasks)

    def put_off(self, tasks: Collection[Task]) -> None:
        self._put_off.extend(tasks)

    def alone(self) -> Task | None:
        return self._put_off.popleft() if self._put_off else None


def windows_left(session: Session, store: Store, looked: bool) -> Iterator[Window] | None:
    """The items that a session has left; `None` if there are none. In a large run it takes seconds to find the first of them:
    they are looked for once."""
    windows = session.undone(store, looked)
    first = next(windows, None)
    return None if first is None else chain([first], windows)


@dataclass(frozen=True)
class Classes:
    """The part of a data set that a worker needs: its classes. The examples come with the chunks."""

    classes: Sequence[str]
    target_classes: frozenset[int]
    """Indices of the classes that are explained."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Example:
        raise IndexError(index)


def portable(plan: Plan) -> Plan:
    """The plan without the lists of its data sets, which may be large and exist on the driver's machine only."""
    data = {
        name: replace(entry, data=Classes(tuple(entry.data.classes), target_classes(entry.data)))
        for name, entry in plan.data.items()
    }
    return replace(plan, data=data)
