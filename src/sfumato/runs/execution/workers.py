"""Workers on this machine: processes that compute, and a parent that processes out the work and sees what becomes of them.

A process that dies, hangs or loses its device takes nothing with it: it has said where it was, so the item is known, and
another process goes on.
"""

import atexit
import multiprocessing
import os
import pickle
import signal
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.runs.execution.driver import Report, Workers, drive, portable
from sfumato.runs.execution.execute import AT_ONCE, BETWEEN_COMMITS, Progress, renewed
from sfumato.runs.execution.session import Session
from sfumato.runs.execution.supervision import Death, Queue, Task, verdict_of
from sfumato.runs.periodic import start_periodic
from sfumato.runs.plans.plan import Plan
from sfumato.runs.stores.processes import present
from sfumato.runs.work.faults import Fault, LostDeviceError, said
from sfumato.runs.work.steps import LOADING, Step
from sfumato.runs.work.workbench import Workbench

STARTS = 4
"""Processes that may die one after another before they did anything: it is the machine, or a model that cannot be loaded."""

PATIENCE = 5.0
"""Seconds for which a process may take to end that has said it will."""

LONG = 600.0
"""Seconds after which something is said of an item that is still under way, where no time is set."""

AHEAD = 0.25
"""Seconds of work that a process has before it at most, where it is sent more than one chunk, so that it need not wait."""

MOST_AHEAD = 8
"""Chunks that it is sent ahead, at most."""

ROOM = 4096
"""Bytes that it is sent ahead, at most: far below what a pipe holds, so that sending never waits for a process that hangs."""

OUTSIDE = tuple(
    getattr(signal, name)
    for name in ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGBUS", "SIGXCPU")
    if hasattr(signal, name)
)
"""Signals that the system sends for want of memory, room or time, or a person: they say little of the item."""


def spread(session: Session, workers: int = 1) -> Generator[Progress]:
    """Do the session's work in so many processes of one thread each, and yield how far it is, now and then.

    What an item does to its process, by `os.abort` or a fault of memory, by ending it, or by taking longer than the plan's
    `timeout`, makes it a failed one. Raises `RuntimeError` where something other than an item is wrong; what is done is kept.
    """
    if session.bench is not None:
        session.bench.let_go()
    with session.place.store() as store:
        if next(session.undone(store), None) is None:
            return  # no process is needed to do nothing
        me = present(f"{time.time_ns()}")
        with renewed(store, me), closing(Pool(workers, portable(session.plan), dict(session.weights))) as pool:
            yield from drive(session, store, me, pool)


@dataclass(frozen=True)
class Warned:
    """What a process warns of."""

    text: str


@dataclass(frozen=True)
class Ready:
    """A process can be sent work."""


@dataclass(frozen=True)
class Unable:
    """Why a process cannot work at all; no item's fault."""

    reason: str


@dataclass(frozen=True)
class Lost:
    """A process cannot use its device any more, and ends."""

    fault: Fault


@dataclass(eq=False)
class WorkerProcess:
    """A process, as its parent sees it."""

    process: Any
    connection: Connection
    ready: bool = False
    tasks: deque[tuple[Task, int]] = field(default_factory=deque)
    """What it was sent, and the bytes of that; the first is under way."""
    step: Step = Step(LOADING)
    age: float = 0.0
    """Seconds since the step began, as far as the parent has been there to see."""
    warn_at: float = LONG
    fault: Fault | None = None
    began: float = 0.0
    """When the first task was."""

    @property
    def ahead(self) -> int:
        """The bytes that wait to be read."""
        return sum(size for _, size in list(self.tasks)[1:])


class Pool(Workers):
    """Processes of this machine that are started when there is work, and replaced when they die."""

    def __init__(self, workers: int, plan: Plan, weights: dict[str, str]) -> None:
        self._workers = workers
        self._timeout = plan.timeout
        self._hello = pickle.dumps((plan, weights))
        self._context = multiprocessing.get_context("spawn")
        self._processes: list[WorkerProcess] = []
        self._waiting: deque[Task] = deque()
        self._lot = workers
        self._taken = self._looked = 0.0
        self._seconds: dict[tuple[str, str], float] = {}
        """What a task of a model and a method takes, about."""
        self._changed = False
        """Whether there may be something to send."""
        self._stillborn = 0
        # A daemon could have no processes below it, such as a loader's; others are waited for when Python ends.
        atexit.register(self.close)

    def through(self, queue: Queue, poll: float) -> Iterator[list[Report]]:
        poll = poll if self._timeout is None else min(poll, self._timeout / 2)
        while True:
            self._refill(queue)
            if not self._waiting and not any(worker.tasks for worker in self._processes):
                task = queue.alone()
                if task is None:
                    return
                self._stop(self._processes[1:])  # they would hold the memory that was wanting
                self._waiting.append(task)
            self._send()
            yield self._collected(queue, poll)

    def close(self) -> None:
        """End all processes."""
        atexit.unregister(self.close)
        self.rest()

    def rest(self) -> None:
        """End all processes until there is work again."""
        self._stop(self._processes)

    def _stop(self, processes: Sequence[WorkerProcess]) -> None:
        for worker in processes:
            worker.process.terminate()
        for worker in processes:
            self._wait_for_end(worker)
        self._processes = [worker for worker in self._processes if worker not in processes]

    def _refill(self, queue: Queue) -> None:
        """See that enough tasks wait here: as many as take the time between two commits, as each claim is one."""
        if len(self._waiting) >= self._workers or any(
            task.alone for worker in self._processes for task, _ in worker.tasks
        ):
            return
        now = time.monotonic()
        quick = now - self._taken < BETWEEN_COMMITS
        self._lot = min(2 * self._lot, AT_ONCE) if quick else max(self._workers, self._lot // 2)
        self._taken = now
        self._waiting.extend(queue.take(self._lot))

    def _send(self) -> None:
        """Send tasks to whom has room for them, and start processes where there are too few."""
        idle = [worker for worker in self._processes if not worker.tasks]
        wanted = min(self._workers - len(self._processes), len(self._waiting) - len(idle))
        for _ in range(wanted):
            self._processes.append(self._started())
        for turn in range(MOST_AHEAD + 1):
            for worker in self._processes:
                if worker.ready and len(worker.tasks) == turn and self._waiting:
                    self._send_to(worker, self._waiting[0])

    def _send_to(self, worker: WorkerProcess, task: Task) -> None:
        """Send a task to a process that is idle, or that will soon be."""
        if worker.tasks and sum(self._expected(each) for each in (task, *(each for each, _ in worker.tasks))) > AHEAD:
            return
        payload = pickle.dumps((task.chunk, task.wanted, task.kept))
        if worker.tasks and worker.ahead + len(payload) > ROOM:
            return
        self._waiting.popleft()
        if not worker.tasks:
            worker.began = time.monotonic()
            self._enter(worker, Step(LOADING))
        worker.tasks.append((task, len(payload)))
        with suppress(OSError):  # of one that is dead, as will be seen
            worker.connection.send_bytes(payload)

    def _expected(self, task: Task) -> float:
        """Seconds that a task may take; of a method that nothing is known of, too many."""
        return self._seconds.get((task.chunk.combination.model, task.chunk.combination.method), float("inf"))

    def _started(self) -> WorkerProcess:
        """A new process, for which Ctrl-C is none of its business from the first moment on."""
        resource_tracker.ensure_running()  # it would undo the mask
        here, there = self._context.Pipe()
        process = self._context.Process(target=_worker, args=(there, self._hello))
        with _without_interrupts():
            process.start()
        there.close()
        return WorkerProcess(process, here)

    def _collected(self, queue: Queue, poll: float) -> list[Report]:
        """What has come in after `poll` seconds at most."""
        reports: list[Report] = []
        until, self._changed = time.monotonic() + poll, False
        while not self._changed and (left := until - time.monotonic()) > 0:
            come = wait([worker.connection for worker in self._processes], timeout=left)
            now = time.monotonic()
            # A parent that was itself stopped has seen nothing of that time.
            passed, self._looked = min(now - self._looked, 2 * poll), now
            for worker in list(self._processes):
                before = worker.step
                dead = not worker.process.is_alive()  # of which a process that it has forked may hold the pipe open
                if ((worker.connection in come or dead) and not self._heard(worker, reports)) or dead:
                    self._died(worker, reports, queue)
                elif worker.tasks and worker.step is before and before.places:
                    worker.age += passed
                    self._overdue(worker, reports, queue)
        return reports

    def _heard(self, worker: WorkerProcess, reports: list[Report]) -> bool:
        """Take in what a process says; whether its pipe is open."""
        try:
            while worker.connection.poll():
                self._note(worker, pickle.loads(worker.connection.recv_bytes()), reports)  # noqa: S301  # of our own process
        except (EOFError, OSError):
            return False
        return True

    def _note(self, worker: WorkerProcess, message: Any, reports: list[Report]) -> None:
        match message:
            case Step():
                self._enter(worker, message)
            case Report():
                now = time.monotonic()
                task, _ = worker.tasks.popleft()
                seconds, worker.began = now - worker.began, now
                combination, before = task.chunk.combination, self._expected(task)
                self._seconds[combination.model, combination.method] = (
                    seconds if before == float("inf") else 0.8 * before + 0.2 * seconds
                )
                self._stillborn = 0
                self._changed = True
                self._enter(worker, Step(LOADING))
                reports.append(message)
            case Ready():
                worker.ready = self._changed = True
            case Lost():
                worker.fault = message.fault
            case Warned():
                warnings.warn(message.text, stacklevel=1)
            case Unable():
                raise RuntimeError(f"a worker failed: {message.reason}")

    def _enter(self, worker: WorkerProcess, step: Step) -> None:
        worker.step, worker.age, worker.warn_at = step, 0.0, LONG

    def _overdue(self, worker: WorkerProcess, reports: list[Report], queue: Queue) -> None:
        """End a process that is at a step for too long: for a batch, as many times what a query may take."""
        step, (task, _) = worker.step, worker.tasks[0]
        if self._timeout is None:
            if worker.age > worker.warn_at:
                worker.warn_at *= 2
                unit, combination = task.chunk.units[step.places[0]], task.chunk.combination
                warnings.warn(
                    f"{combination.method!r} of {combination.model!r} has been at {unit.name!r} for {worker.age / 60:.0f} "
                    "minutes; an item may be given a time with: --timeout SECONDS",
                    stacklevel=1,
                )
            return
        if worker.age <= self._timeout * len(step.places):
            return
        worker.process.kill()
        self._wait_for_end(worker)
        self._heard(worker, reports)
        moved = worker.step is not step or not worker.tasks or worker.tasks[0][0] is not task  # at the last moment
        death = Death(f"took longer than {self._timeout:g} s")
        self._reassign(worker, Step(LOADING) if moved else step, death, reports, queue)

    def _died(self, worker: WorkerProcess, reports: list[Report], queue: Queue) -> None:
        lived = self._wait_for_end(worker)
        code = worker.process.exitcode
        if worker.fault is not None:
            death = Death(f"{worker.fault.kind.name}: {worker.fault.about}", fault=worker.fault)
        elif lived:
            death = Death("the process closed the pipe to its parent")
        elif code is not None and code < 0:
            cause = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            death = Death(f"the process died ({cause})", killed=-code in OUTSIDE)
        else:
            death = Death(f"the process ended itself (exit status {code})")
        self._reassign(worker, worker.step, death, reports, queue)

    def _reassign(self, worker: WorkerProcess, step: Step, death: Death, reports: list[Report], queue: Queue) -> None:
        """Decide what becomes of the tasks of a process that is no more."""
        self._processes.remove(worker)
        self._changed = True
        worker.connection.close()
        tasks = [task for task, _ in worker.tasks]
        if not tasks or not step.places:
            self._stillborn += 1
            if self._stillborn >= STARTS:
                raise RuntimeError(
                    f"{self._stillborn} workers died one after another before they did anything, maybe for want of memory: "
                    f"{death.cause}; take fewer workers"
                )
        if not tasks:
            return
        verdict = verdict_of(tasks[0], step, death)
        reports.append(Report(verdict.done, left=verdict.left, suspects=verdict.suspects))
        queue.put_off([task for task in verdict.again if task.alone] + list(verdict.put_off))
        again = [*(task for task in verdict.again if not task.alone), *tasks[1:]]
        self._waiting.extendleft(reversed(again))

    def _wait_for_end(self, worker: WorkerProcess) -> bool:
        """See that a process is no more; whether it did not end though it should."""
        until = time.monotonic() + PATIENCE
        while worker.process.is_alive() and time.monotonic() < until:
            time.sleep(0.01)  # to join it would wait for ever where it has closed what tells of its end
        lives = bool(worker.process.is_alive())
        if lives:
            worker.process.kill()
            worker.process.join()
        return lives


def _worker(connection: Connection, hello: bytes) -> None:
    """A worker process, from its start to its end, when its parent closes the pipe."""
    _end_with(os.getppid())
    _ignore_interrupts()

    def send(message: Any) -> None:
        connection.send_bytes(pickle.dumps(message))

    _pass_on_warnings(send)
    try:
        plan, weights = pickle.loads(hello)  # noqa: S301  # of our own parent
        bench = Workbench(plan, weights, at=send, isolated=True)
        send(Ready())
        with one_thread():
            while True:
                chunk, wanted, kept = pickle.loads(connection.recv_bytes())  # noqa: S301
                outcome = bench.done(chunk, wanted, kept)
                results = {items: detach(result) for items, result in outcome.results.items()} if plan.masks else {}
                send(Report(tuple(outcome.done), results, tuple(outcome.left)))
    except LostDeviceError as error:
        send(Lost(error.fault))
    except EOFError:
        pass  # there is no more to do
    except Exception as error:  # noqa: BLE001  # the parent says it
        with suppress(BrokenPipeError):  # where there still is one
            send(Unable(said(error)))


def detach(result: Attribution) -> Attribution:
    """Its tensors on the CPU, each with a memory of its own, as a batch's would travel with each of its queries."""
    values = {entry.name: getattr(result, entry.name) for entry in fields(result)}
    tensors: dict[str, Any] = {
        name: value.detach().cpu().clone() for name, value in values.items() if isinstance(value, Tensor)
    }
    return replace(result, **tensors)


def _pass_on_warnings(send: Any) -> None:
    """Have the parent say what a user is to know; all else is shown as ever."""
    show = warnings.showwarning

    def shown(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if category is UserWarning:
            send(Warned(" ".join(str(message).split())))
        else:
            show(message, category, *place, **more)

    warnings.showwarning = shown


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits meanwhile, and in the processes that are started meanwhile until they say what becomes of it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ignore_interrupts() -> None:
    """Ctrl-C goes to all processes of a terminal, and the parent ends this one. The signal has a handler and is not ignored, as
    processes that are started here would inherit that."""
    signal.signal(signal.SIGINT, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _end_with(parent: int) -> None:
    """End this process when its parent has died, which a killed parent cannot see to."""

    def watch() -> None:
        if os.getppid() != parent:
            os._exit(1)

    start_periodic(watch, 1, "sfumato-parent")


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread meanwhile: so the digits are the same however many workers there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
