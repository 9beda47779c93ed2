"""Jobs and their queue: one job runs at a time, as there is one network. Clients take turns, and so do the tabs of a client."""

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]
"""An event of a job: plain JSON with a "type"."""

QUEUED, STEP, DONE, FAILED, CANCELLED = "queued", "step", "done", "failed", "cancelled"
FINAL = (DONE, FAILED, CANCELLED)

MOST_JOBS, MOST_OF_CLIENT = 4, 12
"""The largest numbers of jobs of one tab and of one client that wait or run."""

PATIENCE = 30.0
"""Seconds after which a job that nobody follows is cancelled."""


class CancelledError(Exception):
    """Raised inside a job that is cancelled."""


class BusyError(ValueError):
    """A tab or a client has too many jobs."""


@dataclass(eq=False)
class Job:
    """Work for a tab, and the last event of it."""

    tab: str
    """The name of the tab."""
    work: Callable[["Job"], Event]
    """Does the work and returns the final event. It calls `report` between, which raises `CancelledError`."""
    client: str = ""
    """Who asks: the address of the machine."""
    name: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    last_event: Event = field(default_factory=lambda: {"type": QUEUED})
    version: int = 0
    """The number of events so far. A slow reader gets the last one only."""
    result: Any = None
    """The result that `work` stores for exports. The queue does not use it."""
    memory: int = 0
    """The bytes of the result, and of what it needs."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    followers: int = 0
    """How many readers of the events there are."""
    followed_until: float = field(default_factory=time.monotonic)
    """When the last reader left."""

    def report(self, event: Event) -> None:
        """Publish an event. Raises `CancelledError` if the job is cancelled."""
        self.check()
        self._publish(event)

    def check(self) -> None:
        """Raise `CancelledError` if the job is cancelled, or if nobody has followed it for a while."""
        if self.cancelled.is_set() or self.is_abandoned:
            raise CancelledError

    @property
    def is_abandoned(self) -> bool:
        return not self.followers and time.monotonic() - self.followed_until > PATIENCE

    def follow(self) -> None:
        """Begin to follow the job. It ends some time after its last follower has left."""
        self.followers += 1

    def unfollow(self) -> None:
        """End to follow the job."""
        self.followers -= 1
        self.followed_until = time.monotonic()

    @property
    def ended(self) -> bool:
        return self.last_event["type"] in FINAL

    def _publish(self, event: Event) -> None:
        self.last_event, self.version = event, self.version + 1

    def run(self) -> None:
        """Do the work. Errors become events."""
        try:
            self.report({"type": STEP, "index": 0, "steps": 0})
            self._publish(self.work(self))
        except CancelledError:
            self._publish({"type": CANCELLED})
        except ValueError as error:
            self._publish({"type": FAILED, "message": str(error)})
        except Exception as error:  # noqa: BLE001  # a model may raise anything, and the page should show it
            self._publish({"type": FAILED, "message": f"{type(error).__name__}: {error}"})
        finally:
            self.work = _nothing  # it holds the picture


def _nothing(_: Job) -> Event:
    return {"type": CANCELLED}


Turns = OrderedDict[str, OrderedDict[str, deque[Job]]]
"""The waiting jobs of the tabs of each client. The client at the front is the next, and so is its tab at the front."""


class JobQueue:
    """Runs jobs in one thread.

    The next job is that of the waiting client whose last job began longest ago, and of its tab whose last job did.
    """

    def __init__(self) -> None:
        self._waiting: Turns = OrderedDict()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run_jobs, name="sfumato-jobs", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Add a job to its tab's queue. Raises `BusyError` if the tab or the client has too many jobs."""
        for other in self._abandoned():
            self.cancel(other)
        with self._changed:
            tabs = self._waiting.get(job.client, OrderedDict())
            queue = tabs.get(job.tab, deque())
            running = self._running
            of_tab = len(queue) + (running is not None and running.tab == job.tab)
            of_client = sum(map(len, tabs.values())) + (running is not None and running.client == job.client)
            if of_tab >= MOST_JOBS:
                raise BusyError(f"{MOST_JOBS} jobs of this tab are waiting already; stop one of them first")
            if of_client >= MOST_OF_CLIENT:
                raise BusyError(f"{MOST_OF_CLIENT} jobs from your machine are waiting already; stop one of them first")
            queue.append(job)
            tabs[job.tab] = queue
            self._waiting[job.client] = tabs
            self._changed.notify_all()

    def position(self, job: Job) -> int:
        """How many jobs end before this one begins, if no other job is submitted; 0 for the running job."""
        with self._changed:
            if self._running is job:
                return 0
            waiting: Turns = OrderedDict(
                (client, OrderedDict((tab, deque(queue)) for tab, queue in tabs.items()))
                for client, tabs in self._waiting.items()
            )
            before = int(self._running is not None)
        while waiting:
            if _take(waiting) is job:
                return before
            before += 1
        return 0

    def cancel(self, job: Job) -> None:
        """Cancel a job: it is removed from the queue, or ends with its next step."""
        with self._changed:
            job.cancelled.set()
            tabs = self._waiting.get(job.client, OrderedDict())
            queue = tabs.get(job.tab, deque())
            is_waiting = job in queue
            if is_waiting:
                queue.remove(job)
                if not queue:
                    del tabs[job.tab]
                if not tabs:
                    del self._waiting[job.client]
        if is_waiting:
            job.run()  # this only publishes that it is cancelled

    def close(self) -> None:
        """Cancel the running job, and begin no other."""
        with self._changed:
            self._open = False
            self._waiting.clear()
            if self._running is not None:
                self._running.cancelled.set()
            self._changed.notify_all()
        self._thread.join(timeout=10)

    def _abandoned(self) -> list[Job]:
        """The waiting jobs that nobody follows."""
        with self._changed:
            queues = [queue for tabs in self._waiting.values() for queue in tabs.values()]
            return [job for queue in queues for job in queue if job.is_abandoned]

    def _run_jobs(self) -> None:
        while (job := self._next()) is not None:
            job.run()
            with self._changed:
                self._running = None

    def _next(self) -> Job | None:
        """Wait for the next job; `None` when the queue is closed."""
        with self._changed:
            while self._open:
                if self._waiting:
                    self._running = _take(self._waiting)
                    return self._running
                self._changed.wait()
            return None


def _take(waiting: Turns) -> Job:
    """Remove the next job. Its tab goes behind the other tabs of its client, and its client behind the other clients."""
    client, tabs = waiting.popitem(last=False)
    tab, queue = tabs.popitem(last=False)
    job = queue.popleft()
    if queue:
        tabs[tab] = queue
    if tabs:
        waiting[client] = tabs
    return job
