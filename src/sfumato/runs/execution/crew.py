"""A crew of workers on a Ray cluster: actors that start where there is room, compute chunks, and are replaced when they die."""

import os
import platform
import sys
import sysconfig
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfumato.attribution import Attribution
from sfumato.data.plain import files
from sfumato.runs.execution.driver import POLL, Report
from sfumato.runs.execution.session import current
from sfumato.runs.execution.supervision import Queue, Task
from sfumato.runs.execution.workers import Pool
from sfumato.runs.plans.cluster import Cluster
from sfumato.runs.plans.plan import Plan
from sfumato.runs.stores.content import content
from sfumato.runs.stores.store import Done, Item
from sfumato.runs.work.cache import MethodResult
from sfumato.runs.work.faults import KILLED, Fault, OpenItems, describe_error
from sfumato.runs.work.items import Chunk, Code, Unit

LOOK = 2.0
"""Seconds between two looks at the machines of the cluster."""

PATIENCE = 300.0
"""Seconds to wait for a machine with room for a worker, if machines may still join."""


@dataclass(frozen=True, eq=False)
class Answer(Report):
    """The answer of a worker."""

    machine: str = ""
    put_off: tuple[Task, ...] = ()
    """Tasks to try when nothing else runs."""
    others: tuple[Path, ...] = ()
    """Pictures that are missing on its machine, or differ from those of the driver."""
    fault: str = ""
    """Why the worker cannot work; not the fault of an item."""


class Worker:
    """An actor on the cluster. It has no store: the driver sends it chunks with the wanted items, and commits its answers.

    A process below the actor holds the plan's models and computes, as on one machine. So an item that ends its process, or
    takes too long, does not end the actor."""

    def __init__(self, plan: Plan, weights: Mapping[str, str], code: Code, made_by: Mapping[str, str]) -> None:
        self._made_by = made_by
        self._pool = Pool(1, plan, dict(weights), code)

    def ready(self) -> Answer:
        """Check that the code here is the same as on the machine of the driver."""
        here = current()
        if here == self._made_by:
            return self._answer()
        differ = ", ".join(f"{name} {here.get(name)}" for name in here if here.get(name) != self._made_by.get(name))
        return self._answer(fault=f"another version is installed there ({differ}); give every machine the driver's")

    def compute(
        self, chunk: Chunk, wanted: frozenset[Item], cached: Mapping[int, MethodResult], *, alone: bool = False
    ) -> Answer:
        """Compute the wanted items of a chunk. `alone` says that nothing else runs at the same time."""
        queue = _One(Task(chunk, wanted, cached, alone))
        done: list[Done] = []
        results: dict[tuple[Item, ...], Attribution] = {}
        left: list[OpenItems] = []
        suspects: list[OpenItems] = []
        try:
            for reports in self._pool.through(queue, POLL):
                for report in reports:
                    done += report.done
                    results |= report.results
                    left += report.left
                    suspects += report.suspects
        except Exception as error:  # noqa: BLE001  # the driver says it
            return self._answer(fault=describe_error(error))
        return self._answer(
            done=tuple(done),
            results=results,
            left=tuple(left),
            suspects=tuple(suspects),
            put_off=tuple(queue.later),
            others=tuple(unit.example.path for unit in chunk.units if unit.example and not _same(unit)),
        )

    def rest(self) -> None:
        """End the process, to free its memory, until there is work again."""
        self._pool.rest()

    def _answer(self, **about: Any) -> Answer:
        return Answer(machine=platform.node(), **about)


class _One(Queue):
    """A queue that holds one task and the tasks into which it is split."""

    def __init__(self, task: Task) -> None:
        self._alone = task.alone
        self._tasks = [task]
        self.later: list[Task] = []

    def take(self, count: int) -> list[Task]:
        tasks, self._tasks = self._tasks[:count], self._tasks[count:]
        return tasks

    def again(self, tasks: Collection[Task]) -> None:
        self._tasks += tasks

    def put_off(self, tasks: Collection[Task]) -> None:
        (self._tasks if self._alone else self.later).extend(tasks)

    def alone(self) -> Task | None:
        return None


def _same(unit: Unit) -> bool:
    """Whether the files of an example have the same content here as on the machine of the driver."""
    return unit.example is None or content(files(unit.example)) == unit.content


@dataclass(eq=False)
class _Member:
    """A worker of the cluster, as the driver sees it."""

    actor: Any
    ready: bool = False
    tasks: dict[Any, Task] = field(default_factory=dict)
    """Its tasks by the references to their answers, in the order of work."""


class Crew:
    """The workers of one run. `hello` holds the arguments of every worker."""

    def __init__(self, ray: Any, cluster: Cluster, hello: tuple[Any, ...], patience: float = PATIENCE) -> None:
        self._ray, self._cluster, self._patience = ray, cluster, patience
        self._hello = hello
        paths = os.pathsep.join([*import_paths(), "${PYTHONPATH}"])
        self._hired = ray.remote(Worker).options(
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus,
            max_restarts=0,  # a dead one is replaced by another, wherever there is room
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
        )
        self._members: list[_Member] = []
        self._out: dict[Any, _Member] = {}
        self._stillborn = 0
        self._looked = -LOOK
        self._roomy = time.monotonic()
        self._fault = ""

    def through(self, queue: Queue, poll: float) -> Iterator[list[Answer]]:
        """Do all tasks of the queue, and yield reports, at least every `poll` seconds.

        Raises `RuntimeError` if a worker reports that something other than an item is wrong, and if no machine has room for a
        worker. A chunk whose workers die more than `retries` times, perhaps with their machines, is left open.
        """
        while True:
            self._hire()
            if self._fill(queue):
                task = queue.alone()
                if task is None:
                    return
                self._have_done_alone(task)
            yield self._collect(queue, poll)
            if self._fault:
                raise RuntimeError(self._fault)

    def close(self) -> None:
        """End all workers."""
        for member in self._members:
            self._kill(member)
        self._members, self._out = [], {}

    def _hire(self) -> None:
        """Start workers until there are as many as the settings and the machines allow."""
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        room = self._room()
        for _ in range((self._cluster.actors or room) - len(self._members)):
            member = _Member(self._hired.remote(*self._hello))
            self._members.append(member)
            self._out[member.actor.ready.remote()] = member
        if room or any(member.ready for member in self._members):
            self._roomy = time.monotonic()
        elif time.monotonic() - self._roomy >= self._patience:
            wants = f"{self._cluster.cpus:g} CPUs" + (f" and {self._cluster.gpus:g} GPUs" if self._cluster.gpus else "")
            raise RuntimeError(
                f"no machine of the cluster has {wants} for a worker; add one, or ask for less under [ray]"
            )

    def _room(self) -> int:
        """How many workers have room on the machines that are alive."""
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(self._cluster.fitting(node.get("CPU", 0), node.get("GPU", 0)) for node in alive)

    def _fill(self, queue: Queue) -> bool:
        """Send tasks in turn to workers that have room. Returns whether all tasks are done."""
        ready = [member for member in self._members if member.ready]
        room = [
            member
            for turn in range(self._cluster.in_flight)
            for member in sorted(ready, key=lambda candidate: len(candidate.tasks))
            if len(member.tasks) + turn < self._cluster.in_flight
        ]
        tasks = queue.take(len(room)) if room else []
        for member, task in zip(room, tasks, strict=False):
            self._send(member, task)
        return bool(room) and not any(member.tasks for member in self._members)

    def _send(self, member: _Member, task: Task) -> None:
        reference = member.actor.compute.remote(task.chunk, task.wanted, task.cached, alone=task.alone)
        member.tasks[reference] = task
        self._out[reference] = member

    def _have_done_alone(self, task: Task) -> None:
        """Send a task to one worker, while the others hold no memory."""
        first, *others = (member for member in self._members if member.ready)
        for member in others:
            member.actor.rest.remote()
        self._send(first, task)

    def _collect(self, queue: Queue, poll: float) -> list[Answer]:
        """Wait for answers, at most `poll` seconds, and return them. Tasks of workers that died go back to the queue."""
        out = list(self._out)
        if not out:
            time.sleep(poll)
            return []
        come, _ = self._ray.wait(out, num_returns=1, timeout=poll)
        if come:
            come, _ = self._ray.wait(out, num_returns=len(out), timeout=0)
        reports: list[Answer] = []
        dead: dict[_Member, Exception] = {}
        for reference in come:
            member = self._out.pop(reference)
            try:
                report = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                self._fault = self._fault or f"a worker failed: {describe_error(error)}"
            except self._ray.exceptions.RayError as error:
                dead.setdefault(member, error)
            else:
                member.tasks.pop(reference, None)
                if self._sound(member, report):  # of other files, no row is the picture's
                    queue.put_off(report.put_off)
                    reports.append(report)
        for member, cause in dead.items():
            reports += self._bury(member, cause, queue)
        return reports

    def _sound(self, member: _Member, report: Answer) -> bool:
        """Whether a worker can go on: it reports no fault, and has the same pictures as the driver."""
        if not member.ready:
            member.ready = True
            self._stillborn = 0
        strange = [path for path in report.others if path.exists()]
        if report.fault:
            self._fault = self._fault or f"a worker on {report.machine} failed: {report.fault}"
        elif strange:
            self._fault = self._fault or (
                f"{str(strange[0])!r} is missing on {report.machine}, or another file than here; give every machine the same "
                "data, under the same paths"
            )
        return not report.fault and not strange

    def _bury(self, member: _Member, error: Exception, queue: Queue) -> list[Answer]:
        """Decide what happens to the tasks of a worker that died. The first was being done, and may be the cause."""
        self._members.remove(member)
        for reference in member.tasks:
            self._out.pop(reference, None)
        self._kill(member)
        self._looked = -LOOK
        tasks = list(member.tasks.values())
        if not member.ready:
            self._stillborn += 1
            if self._stillborn > self._cluster.retries:
                self._fault = self._fault or f"no worker can be started: {describe_error(error)}"
        given_up: list[Answer] = []
        if tasks:
            tasks[0].deaths += 1
            if tasks[0].deaths > self._cluster.retries:
                given_up.append(Answer(left=(_deadly(tasks.pop(0), error),)))
            queue.again(tasks)
        return given_up

    def _kill(self, member: _Member) -> None:
        with suppress(Exception):  # it may be dead, or the cluster gone
            self._ray.kill(member.actor)


def _deadly(task: Task, error: Exception) -> OpenItems:
    """The items of a task at which several workers died: they are left open."""
    combination, units = task.chunk.combination, task.chunk.units
    names = ", ".join(dict.fromkeys(unit.name for unit in units))
    fault = Fault(KILLED, f"{task.deaths} workers died one after another; the last: {describe_error(error)}")
    return OpenItems(tuple(task.wanted), names, f"{combination.method!r} of {combination.model!r}", fault)


def import_paths() -> list[str]:
    """The folders that this process imports from, as absolute paths, without Python's own and those of installed packages."""
    standard = {Path(path).resolve() for path in (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))}
    paths: dict[str, None] = {}
    for entry in sys.path:
        path = Path(entry or ".").resolve()
        installed = {"site-packages", "dist-packages"} & set(path.parts) or {path, path.parent} & standard
        if path.exists() and not installed:
            paths[str(path)] = None
    return list(paths)
