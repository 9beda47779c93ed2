"""Jobs and their queue: one job runs at a time, as there is one network, and the tabs take turns."""

import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]
"""An event of a job: plain JSON with a "type"."""

QUEUED, STEP, DONE, FAILED, CANCELLED = "queued", "step", "done", "failed", "cancelled"
FINAL = (DONE, FAILED, CANCELLED)

MOST_JOBS = 4
"""The largest number of jobs of one tab that wait or run."""


class CancelledError(Exception):
    """Raised inside a job that is cancelled."""


class BusyError(ValueError):
    """A tab has too many jobs."""


@dataclass(eq=False)
class Job:
    """Work for a tab, and the last event of it."""

    tab: str
    """The name of the tab."""
    work: Callable[["Job"], Event]
    """Does the work and returns the final event. It calls `report` between, which raises `CancelledError`."""
    name: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    last_event: Event = field(default_factory=lambda: {"type": QUEUED})
    version: int = 0
    """The number of events so far. A slow reader gets the last one only."""
    result: Any = None
    """The result that `work` stores for exports. The queue does not use it."""
    cancelled: threading.Event = field(default_factory=threading.Event)

    def report(self, event: Event) -> None:
        """Publish an event. Raises `CancelledError` if the job is cancelled."""
        if self.cancelled.is_set():
            raise CancelledError
        self._publish(event)

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


class JobQueue:
    """Runs jobs in one thread. The next job is that of the waiting tab whose last job began longest ago."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run_jobs, name="sfumato-jobs", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Add a job to its tab's queue. Raises `BusyError` if the tab has too many jobs."""
        with self._changed:
            queue = self._waiting.get(job.tab, deque())
            is_running = self._running is not None and self._running.tab == job.tab
            if len(queue) + is_running >= MOST_JOBS:
                raise BusyError(f"{MOST_JOBS} jobs of this tab are waiting already; stop one of them first")
            queue.append(job)
            self._waiting[job.tab] = queue
            self._changed.notify_all()

    def position(self, job: Job) -> int:
        """How many jobs end before this one begins, if no other job is submitted; 0 for the running job."""
        with self._changed:
            if self._running is job:
                return 0
            queues = OrderedDict((tab, deque(queue)) for tab, queue in self._waiting.items())
            before = int(self._running is not None)
        while queues:
            tab, queue = queues.popitem(last=False)
            if queue.popleft() is job:
                return before
            before += 1
            if queue:
                queues[tab] = queue
        return 0

    def cancel(self, job: Job) -> None:
        """Cancel a job: it is removed from the queue, or ends with its next step."""
        with self._changed:
            job.cancelled.set()
            queue = self._waiting.get(job.tab, deque())
            is_waiting = job in queue
            if is_waiting:
                queue.remove(job)
                if not queue:
                    del self._waiting[job.tab]
        if is_waiting:
            job.run()  # this only publishes that it is cancelled

    def close(self) -> None:
        """Cancel the running job, and begin no other."""
        with self._changed:
            self._open = False
            for queue in self._waiting.values():
                queue.clear()
            if self._running is not None:
                self._running.cancelled.set()
            self._changed.notify_all()
        self._thread.join(timeout=10)

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
                    tab, queue = self._waiting.popitem(last=False)
                    self._running = queue.popleft()
                    if queue:
                        self._waiting[tab] = queue  # behind the other tabs
                    return self._running
                self._changed.wait()
            return None
