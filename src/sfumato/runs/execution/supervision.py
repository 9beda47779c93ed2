"""What happens to the items of a process that died, hung or lost its device: pure functions, for one machine and for a cluster.

A batch at which a process died is tried again query by query, as after an error: a process that dies again then dies at
one query. If a process died at one query and one protocol, that item has failed, and the rest of the chunk is done
again. If something else may have killed the process, such as the system for want of memory, the task waits until
nothing else runs, and fails only if its process dies again.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from sfumato.runs.stores.store import Done, Item
from sfumato.runs.work.cache import MethodResult
from sfumato.runs.work.faults import KILLED, Fault, OpenItems
from sfumato.runs.work.items import Chunk
from sfumato.runs.work.steps import METHOD, PROTOCOL, Step
from sfumato.runs.work.workbench import failure, open_items


@dataclass(eq=False)
class Task:
    """A chunk that is sent to a worker."""

    chunk: Chunk
    wanted: frozenset[Item]
    cached: Mapping[int, MethodResult]
    """The results that the run has already."""
    alone: bool = False
    """Whether nothing else may run at the same time, as a process was killed at this task before."""
    deaths: int = 0
    """How many workers of a cluster died at this task."""


class Queue(Protocol):
    """Where tasks come from."""

    def take(self, count: int) -> list[Task]:
        """Up to `count` tasks; fewer only if no more are left now."""
        ...

    def again(self, tasks: Collection[Task]) -> None:
        """Take tasks back; they are given out before others."""
        ...

    def put_off(self, tasks: Collection[Task]) -> None:
        """Take tasks back; they are given out one by one when no others are left."""
        ...

    def alone(self) -> Task | None:
        """One of the tasks that were put off."""
        ...


@dataclass(frozen=True)
class Death:
    """How a process ended, or why it was ended."""

    cause: str
    """For example "the process died (SIGABRT)"."""
    killed: bool = False
    """Whether something outside, such as the system, may have ended it."""
    fault: Fault | None = None
    """The fault of the machine, if the process could report one."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What happens to a task whose process has ended."""

    done: tuple[Done, ...] = ()
    """Items that failed."""
    left: tuple[OpenItems, ...] = ()
    again: tuple[Task, ...] = ()
    put_off: tuple[Task, ...] = ()
    suspects: tuple[OpenItems, ...] = ()
    """Items at which a process was killed, and which are tried again."""


def verdict_of(task: Task, step: Step, death: Death) -> Verdict:
    """Decide what happens to a task whose process died at this step."""
    chunk, places = task.chunk, step.places
    if not places:
        return Verdict(again=(task,))
    if death.killed and not task.alone:
        fault = Fault(KILLED, death.cause)
        suspects = (open_items(chunk, places[0], (), fault),)  # of a batch one, as there was one death
        return Verdict(put_off=(replace(task, alone=True),), suspects=suspects)
    if step.stage == METHOD and len(places) > 1:
        return Verdict(again=tuple(_part(task, part) for part in _split(task, places)))
    (place,) = places
    combination = chunk.combination
    numbers: Iterable[int] = range(len(combination.protocols))
    where = "reading the picture and showing it to the model"
    if step.stage == METHOD:
        where = f"method {combination.method!r}"
    elif step.stage == PROTOCOL:
        numbers, where = (
            (step.number,),
            f"protocol {combination.protocols[step.number]!r} of method {combination.method!r}",
        )
    numbers = [number for number in numbers if chunk.items[place][number] in task.wanted]
    items = frozenset(chunk.items[place][number] for number in numbers)
    if step.stage == PROTOCOL:  # the same batch again, so that its digits stay
        rest = replace(task, wanted=task.wanted - items)
    else:
        rest = _part(task, [other for other in range(len(chunk.units)) if other != place])
    again = (rest,) if rest.wanted else ()
    if not numbers:
        return Verdict(again=again)
    if death.fault is not None:
        return Verdict(left=(open_items(chunk, place, numbers, death.fault),), again=again)
    return Verdict(tuple(failure(chunk, place, number, f"{death.cause} at {where}") for number in numbers), again=again)


def _split(task: Task, places: Collection[int]) -> list[list[int]]:
    """Split a task: the units outside the batch stay together, each unit of the batch becomes a task. Units without
    wanted items are left out."""
    others = [place for place in range(len(task.chunk.units)) if place not in places]
    return [part for part in (others, *([place] for place in places)) if _wanted(task, part)]


def _part(task: Task, places: Collection[int]) -> Task:
    """The task with some of its units."""
    units = tuple(task.chunk.units[place] for place in places)
    return replace(task, chunk=replace(task.chunk, units=units), wanted=_wanted(task, places))


def _wanted(task: Task, places: Collection[int]) -> frozenset[Item]:
    return task.wanted & {item for place in places for item in task.chunk.items[place]}
