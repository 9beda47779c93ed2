"""Workers on this machine: processes that compute, and a parent that sends them work and watches them.

A process reports each step before it begins. So if it dies, hangs or loses its device, the parent knows the item, and another
process continues.
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
from sfumato.runs.execution.driver import Report, Workers, drive, portable, windows_left
from sfumato.runs.execution.execute import AT_ONCE, BETWEEN_COMMITS, Progress, renewed_claims
from sfumato.runs.execution.session import Session
from sfumato.runs.execution.supervision import Death, Queue, Task, verdict_of
from sfumato.runs.periodic import start_periodic
from sfumato.runs.plans.plan import Plan
from sfumato.runs.stores.processes import this_process
from sfumato.runs.work.faults import LONGEST, Fault, LostDeviceError, describe_error
from sfumato.runs.work.items import Code
from sfumato.runs.work.steps import LOADING, Step
from sfumato.runs.work.workbench import Workbench

STARTS = 4
"""How many processes in a row may die before they have done anything. More mean that the machine or a model is at fault."""

PATIENCE = 5.0
"""Seconds that a process may take to end after it has announced that."""

LONG = 600.0
"""Seconds after which there is a warning about an item that still runs, if the plan sets no `timeout`."""

AHEAD = 0.25
"""The most seconds of work that a process has in its pipe, so that it need not wait for the next chunk."""

MOST_AHEAD = 8
"""The most chunks that a process has in its pipe."""

ROOM = 4096
"""The most bytes that a process has in its pipe: far below its capacity, so that sending never blocks on a process that
hangs."""

OUTSIDE = tuple(
    getattr(signal, name)
    for name in ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGBUS", "SIGXCPU")
    if hasattr(signal, name)
)
"""Signals that the system or a person sends, for want of memory, room or time: the item need not be at fault."""


def spread(session: Session, workers: int = 1, looked: bool = False) -> Generator[Progress]:
    """Do the session's work in processes of one thread each, and yield the progress now and then. `looked` says that
    `Session.look` was called just now, so that not all files need be looked at again.

    An item that ends its process (`os.abort`, a segmentation fault, `sys.exit`) or takes longer than the plan's `timeout` has
    failed; the others are done. Raises `RuntimeError` if something other than an item is wrong; what is done is kept.
    """
    if session.bench is not None:
        session.bench.unload()
    with session.place.store() as store:
        if (windows := windows_left(session, store, looked)) is None:
            return  # no process is needed to do nothing
        me = this_process(f"{time.time_ns()}")
        with (
            renewed_claims(store, me),
            closing(Pool(workers, portable(session.plan), dict(session.weights), session.code)) as pool,
        ):
            yield from drive(session, store, me, pool, windows)
        session.note_measures(store)


@dataclass(frozen=True)
class WorkerWarning:
    """A warning from a process."""

    text: str


@dataclass(frozen=True)
class Ready:
    """The process is ready for work."""


@dataclass(frozen=True)
class CannotWork:
    """The process cannot work at all, and why; not the fault of an item."""

    reason: str


@dataclass(frozen=True)
class DeviceLost:
    """The process cannot use its device any more, and ends."""

    fault: Fault


@dataclass(eq=False)
class WorkerProcess:
    """A worker process, as its parent sees it."""

    process: Any
    connection: Connection
    ready: bool = False
    tasks: deque[tuple[Task, int]] = field(default_factory=deque)
    """The tasks that were sent to it, each with its size in bytes; the first is being done."""
    step: Step = Step(LOADING)
    age: float = 0.0
    """Seconds since the step began. Time during which the parent itself was stopped does not count."""
    warn_at: float = LONG
    fault: Fault | None = None
    began: float = 0.0
    """When the first task began."""

    @property
    def ahead(self) -> int:
        """Bytes in the pipe that the process has not read."""
        return sum(size for _, size in list(self.tasks)[1:])


class Pool(Workers):
    """Processes of this machine that are started when there is work, and replaced when they die."""

    def __init__(self, workers: int, plan: Plan, weights: dict[str, str], code: Code) -> None:
        self._workers = workers
        self._timeout = plan.timeout
        self._hello = pickle.dumps((plan, weights, code))
        self._context = multiprocessing.get_context("spawn")
        self._processes: list[WorkerProcess] = []
        self._waiting: deque[Task] = deque()
        self._lot = workers
        self._taken = self._looked = 0.0
        self._seconds: dict[tuple[str, str], float] = {}
        """About how many seconds a task takes, by model and method."""
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
            yield self._collect(queue, poll)

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
        """Claim as many tasks as fill the time between two commits, as each claim is a transaction."""
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
        """Send tasks to processes that have room, and start processes if there are too few."""
        idle = [worker for worker in self._processes if not worker.tasks]
        wanted = min(self._workers - len(self._processes), len(self._waiting) - len(idle))
        for _ in range(wanted):
            self._processes.append(self._start())
        for turn in range(MOST_AHEAD + 1):
            for worker in self._processes:
                if worker.ready and len(worker.tasks) == turn and self._waiting:
                    self._send_to(worker, self._waiting[0])

    def _send_to(self, worker: WorkerProcess, task: Task) -> None:
        """Send a task to a process that is idle or nearly so."""
        if worker.tasks and self._expected(task) + sum(self._expected(other) for other, _ in worker.tasks) > AHEAD:
            return
        payload = pickle.dumps((task.chunk, task.wanted, task.cached))
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
        """Seconds that a task is expected to take; infinite for a method that has not run yet."""
        return self._seconds.get((task.chunk.combination.model, task.chunk.combination.method), float("inf"))

    def _start(self) -> WorkerProcess:
        """Start a process that ignores Ctrl-C from its first moment."""
        resource_tracker.ensure_running()  # it would undo the mask
        here, there = self._context.Pipe()
        process = self._context.Process(target=_worker, args=(there, self._hello))
        with _without_interrupts():
            process.start()
        there.close()
        return WorkerProcess(process, here)

    def _collect(self, queue: Queue, poll: float) -> list[Report]:
        """Wait for messages, at most `poll` seconds, and return the reports in them."""
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
                if ((worker.connection in come or dead) and not self._read_message(worker, reports)) or dead:
                    self._handle_death(worker, reports, queue)
                elif worker.tasks and worker.step is before and before.places:
                    worker.age += passed
                    self._end_overdue(worker, reports, queue)
        return reports

    def _read_message(self, worker: WorkerProcess, reports: list[Report]) -> bool:
        """Read a message of a process. Returns whether its pipe is still open."""
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
            case DeviceLost():
                worker.fault = message.fault
            case WorkerWarning():
                warnings.warn(message.text, stacklevel=1)
            case CannotWork():
                raise RuntimeError(f"a worker failed: {message.reason}")

    def _enter(self, worker: WorkerProcess, step: Step) -> None:
        worker.step, worker.age, worker.warn_at = step, 0.0, LONG

    def _end_overdue(self, worker: WorkerProcess, reports: list[Report], queue: Queue) -> None:
        """End a process whose step takes too long. A batch may take `timeout` for each of its queries."""
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
        self._read_message(worker, reports)
        moved = worker.step is not step or not worker.tasks or worker.tasks[0][0] is not task  # at the last moment
        death = Death(f"took longer than {self._timeout:g} s")
        self._reassign(worker, Step(LOADING) if moved else step, death, reports, queue)

    def _handle_death(self, worker: WorkerProcess, reports: list[Report], queue: Queue) -> None:
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
        """Decide what happens to the tasks of a process that has ended."""
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
        """Wait for the end of a process and kill it if need be. Returns whether it had to be killed."""
        until = time.monotonic() + PATIENCE
        while worker.process.is_alive() and time.monotonic() < until:
            time.sleep(0.01)  # to join it would wait for ever where it has closed what tells of its end
        lives = bool(worker.process.is_alive())
        if lives:
            worker.process.kill()
            worker.process.join()
        return lives


def _worker(connection: Connection, hello: bytes) -> None:
    """The main function of a worker process. It ends when its parent closes the pipe."""
    _end_with(os.getppid())
    _ignore_interrupts()

    def send(message: Any) -> None:
        connection.send_bytes(pickle.dumps(message))

    _pass_on_warnings(send)
    try:
        plan, weights, code = pickle.loads(hello)  # noqa: S301  # of our own parent
        bench = Workbench(plan, weights, code, on_step=send, isolated=True)
        bench.check_code()
        send(Ready())
        with one_thread():
            while True:
                chunk, wanted, cached = pickle.loads(connection.recv_bytes())  # noqa: S301
                outcome = bench.compute(chunk, wanted, cached)
                results = {items: detach(result) for items, result in outcome.results.items()} if plan.masks else {}
                send(Report(tuple(outcome.done), results, tuple(outcome.left)))
    except LostDeviceError as error:
        send(DeviceLost(error.fault))
    except EOFError:
        pass  # there is no more to do
    except Exception as error:  # noqa: BLE001  # the parent says it
        with suppress(BrokenPipeError):  # where there still is one
            send(CannotWork(describe_error(error)))


def detach(result: Attribution) -> Attribution:
    """The result with its tensors on the CPU, each in memory of its own: else the memory of a whole batch is sent with
    each query."""
    values = {entry.name: getattr(result, entry.name) for entry in fields(result)}
    tensors: dict[str, Any] = {
        name: value.detach().cpu().clone() for name, value in values.items() if isinstance(value, Tensor)
    }
    return replace(result, **tensors)


def _pass_on_warnings(send: Any) -> None:
    """Send warnings for users to the parent, which shows them; show all others here."""
    show = warnings.showwarning

    def shown(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if category is UserWarning:
            send(WorkerWarning(" ".join(str(message)[:LONGEST].split())))
        else:
            show(message, category, *place, **more)

    warnings.showwarning = shown


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block Ctrl-C until the block ends. Processes that start meanwhile block it until they unblock it themselves."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ignore_interrupts() -> None:
    """Ignore Ctrl-C, which goes to all processes of a terminal: the parent ends this one. The signal has an empty
    handler instead of SIG_IGN, which processes that this one starts would inherit."""
    signal.signal(signal.SIGINT, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _end_with(parent: int) -> None:
    """End this process when its parent has died: a parent that is killed cannot end it."""

    def watch() -> None:
        if os.getppid() != parent:
            os._exit(1)

    start_periodic(watch, 1, "sfumato-parent")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread until the block ends, so that digits do not depend on the number of workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
