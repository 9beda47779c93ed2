"""A run on many machines: Ray's workers compute; one driver claims, sends, and commits what comes back.

Nothing that matters lives on the cluster: workers and machines may die at any time and are replaced, and when the driver dies
its claims are free, so that another, or the same command again, goes on from what was committed. The driver also writes the
results, where they are kept, in place of the workers on a folder that all share: it has to write the row after the file, and so
needs no other machine's word that a file is on the disk.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

from sfumato.data import Example
from sfumato.runs.classes import asked_classes
from sfumato.runs.cluster import Cluster
from sfumato.runs.crew import PATIENCE, Crew, Task
from sfumato.runs.execute import WAIT, Parcel, renewed, undone
from sfumato.runs.items import Chunk
from sfumato.runs.kept import Kept
from sfumato.runs.plan import Plan
from sfumato.runs.processes import present
from sfumato.runs.session import Session, current
from sfumato.runs.store import Owner, Store

POLL = 0.5
"""Seconds for which the driver waits for an answer before it looks at what else there is to do."""

LOCAL = "ray"
"""The address of a cluster that is started on this machine, for this run alone."""


def spread(session: Session, address: str, cluster: Cluster | None = None) -> Generator[None]:
    """Do the session's work on a Ray cluster, and yield now and then meanwhile.

    `address` is "ray" for a cluster of this machine's own, which ends with the run; "auto", "HOST:PORT" or "ray://HOST:PORT"
    for one that runs. Each machine needs the same packages, and the models' files and the pictures under the same paths; only
    the driver reads the data sets' annotations. Raises `RuntimeError` where workers fail; what is done is kept.
    """
    cluster = cluster or Cluster()
    cluster.check_device(session.plan.device)
    if session.bench is not None:
        session.bench.let_go()
    with session.place.store() as store:
        if next(undone(session.chunks(), store), None) is None:
            return  # no cluster is needed to do nothing
        with connected(address, cluster) as (ray, ours):
            hello = (_portable(session.plan), dict(session.weights), current())
            me = present("ray")
            with renewed(store, me), closing(Crew(ray, cluster, hello, 0 if ours else PATIENCE)) as crew:
                yield from _driven(session, store, me, crew)


def _driven(session: Session, store: Store, me: Owner, crew: Crew) -> Iterator[None]:
    keep = session.place.shards.keep if session.plan.masks else None
    parcel = Parcel()
    try:
        while True:
            queue = Claims(undone(session.chunks(), store), store, me, session.kept(store))
            for reports in crew.through(queue, POLL):
                for report in reports:
                    parcel.add(report.done, report.results)
                if parcel.due:
                    parcel.commit(store, keep)
                    yield
            if parcel.done:
                parcel.commit(store, keep)
            yield
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

    def __init__(self, windows: Iterator[list[tuple[Chunk, list[str]]]], store: Store, me: Owner, kept: Kept) -> None:
        self._rest = chain.from_iterable(windows)
        self._store, self._me, self._kept = store, me, kept
        self._back: deque[Task] = deque()
        self.contended = False
        """Whether another has claimed, or has just done, some of it: there will be a second look at these."""
        self.given = 0

    def take(self, count: int) -> list[Task]:
        tasks = [self._back.popleft() for _ in range(min(count, len(self._back)))]
        while lot := list(islice(self._rest, count - len(tasks))):
            mine = set(self._store.claim([key for _, keys in lot for key in keys], self._me))
            for chunk, keys in lot:
                wanted = frozenset(mine.intersection(keys))
                self.contended |= len(wanted) < len(set(keys))
                if wanted:
                    tasks.append(Task(chunk, wanted, self._kept.of(chunk, wanted)))
        self.given += len(tasks)
        return tasks

    def again(self, tasks: list[Task]) -> None:
        self._back.extend(tasks)


@contextmanager
def connected(address: str, cluster: Cluster) -> Iterator[tuple[Any, bool]]:
    """Ray, connected to a cluster, and whether that was started here and ends here. A process that is connected stays so."""
    ray = _imported()
    if ray.is_initialized():
        yield ray, False
        return
    ours = address == LOCAL
    settings = {"log_to_driver": cluster.logs, "logging_level": logging.ERROR}
    try:
        if ours:
            ray.init("local", include_dashboard=False, **settings)
        else:
            ray.init(address, **settings)
    except (ConnectionError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f'no Ray cluster answers at {address!r} ({said}); start one with: ray start --head, or use "ray" for one that '
            "is this machine"
        ) from error
    try:
        yield ray, ours
    finally:
        ray.shutdown()


def _imported() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers; read at the import
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a run on a cluster needs Ray; install it with: pip install 'sfumato[ray]'"
        ) from error
    return ray


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


def _portable(plan: Plan) -> Plan:
    """The plan without its data sets' lists, which may be large and lie on the driver's machine only."""
    data = {
        name: replace(entry, data=Classes(tuple(entry.data.classes), asked_classes(entry.data)))
        for name, entry in plan.data.items()
    }
    return replace(plan, data=data)
