"""Who is served when: one job at a time, as a network can serve only one, and each tab in its turn."""

import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]
"""What is told of a job: plain JSON with a "type"."""

QUEUED, STEP, DONE, FAILED, CANCELLED = "queued", "step", "done", "failed", "cancelled"
ENDS = (DONE, FAILED, CANCELLED)

AT_ONCE = 4
"""Jobs that one tab may have, waiting or under way."""


class CancelledError(Exception):
    """Raised within a job that nobody wants any more."""


class BusyError(ValueError):
    """A tab asks for more than its share."""


@dataclass(eq=False)
class Job:
    """Something to be done for a tab, and the last that was told of it."""

    tab: str
    work: Callable[["Job"], Event]
    """Does it, and returns what is told at its end; calls `tell` and so `check` meanwhile."""
    name: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    told: Event = field(default_factory=lambda: {"type": QUEUED})
    version: int = 0
    """Grows with each event: who looks seldom sees the latest only."""
    result: Any = None
    """What the work leaves here for those who take it away; the desk does not look at it."""
    unwanted: threading.Event = field(default_factory=threading.Event)

    def tell(self, event: Event) -> None:
        """Say how far it is. Raises `CancelledError` when nobody wants it any more."""
        if self.unwanted.is_set():
            raise CancelledError
        self._say(event)

    @property
    def ended(self) -> bool:
        return self.told["type"] in ENDS

    def _say(self, event: Event) -> None:
        self.told, self.version = event, self.version + 1

    def run(self) -> None:
        """Do it, whatever comes of it."""
        try:
            self.tell({"type": STEP, "index": 0, "steps": 0})
            self._say(self.work(self))
        except CancelledError:
            self._say({"type": CANCELLED})
        except ValueError as error:
            self._say({"type": FAILED, "message": str(error)})
        except Exception as error:  # noqa: BLE001  # a model may raise anything; the page is to say so
            self._say({"type": FAILED, "message": f"{type(error).__name__}: {error}"})


class Desk:
    """Takes jobs, and has them done by one thread: of the tabs that wait, the one that was served longest ago is next."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._under_way: Job | None = None
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._serve, name="sfumato-desk", daemon=True)
        self._thread.start()

    def take(self, job: Job) -> None:
        """Put a job into its tab's queue. Raises `BusyError` where that is long enough."""
        with self._changed:
            queue = self._waiting.get(job.tab, deque())
            under_way = self._under_way is not None and self._under_way.tab == job.tab
            if len(queue) + under_way >= AT_ONCE:
                raise BusyError(f"{AT_ONCE} jobs of this tab are waiting already; stop one of them first")
            queue.append(job)
            self._waiting[job.tab] = queue
            self._changed.notify_all()

    def place(self, job: Job) -> int:
        """How many jobs will have been done before it is begun, if no other comes: 0 also for one that is under way."""
        with self._changed:
            if self._under_way is job:
                return 0
            queues = OrderedDict((tab, deque(queue)) for tab, queue in self._waiting.items())
            before = int(self._under_way is not None)
        while queues:
            tab, queue = queues.popitem(last=False)
            if queue.popleft() is job:
                return before
            before += 1
            if queue:
                queues[tab] = queue
        return 0

    def cancel(self, job: Job) -> None:
        """The job is not wanted any more: it leaves the queue, or ends with its next step."""
        with self._changed:
            job.unwanted.set()
            queue = self._waiting.get(job.tab, deque())
            waiting = job in queue
            if waiting:
                queue.remove(job)
                if not queue:
                    del self._waiting[job.tab]
        if waiting:
            job.run()  # which says that it was cancelled

    def close(self) -> None:
        """Finish: no job is begun any more, and the one under way is cancelled."""
        with self._changed:
            self._open = False
            for queue in self._waiting.values():
                queue.clear()
            if self._under_way is not None:
                self._under_way.unwanted.set()
            self._changed.notify_all()
        self._thread.join(timeout=10)

    def _serve(self) -> None:
        while (job := self._next()) is not None:
            job.run()
            with self._changed:
                self._under_way = None

    def _next(self) -> Job | None:
        with self._changed:
            while self._open:
                if self._waiting:
                    tab, queue = self._waiting.popitem(last=False)
                    self._under_way = queue.popleft()
                    if queue:
                        self._waiting[tab] = queue  # at the end of the row
                    return self._under_way
                self._changed.wait()
            return None
