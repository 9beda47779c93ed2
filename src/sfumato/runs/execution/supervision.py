"""What becomes of the items of a process that died, hung or lost its device: pure decisions, on one machine and on a cluster.

A batch goes query by query, as one that raises an error does: a process that dies again then dies at one query. The item of one
protocol and query at which a process died has failed, and all else of the chunk is done again. What something else may have
killed, as the system does where memory is wanting, is put off until nothing else runs, and fails only if it dies again then.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from sfumato.runs.stores.store import Done, Item
from sfumato.runs.work.faults import KILLED, Fault, OpenItems
from sfumato.runs.work.items import Chunk
from sfumato.runs.work.kept import Explained
from sfumato.runs.work.steps import METHOD, PROTOCOL, Step
from sfumato.runs.work.workbench import failure, open_items


@dataclass(eq=False)
class Task:
    """A chunk on its way."""

    chunk: Chunk
    wanted: frozenset[Item]
    kept: Mapping[int, Explained]
    """The results that the run has already."""
    alone: bool = False
    """Whether nothing else may run meanwhile, as a process was killed at it before."""
    deaths: int = 0
    """Workers elsewhere that died at it."""


class Queue(Protocol):
    """Where tasks come from."""

    def take(self, count: int) -> list[Task]:
        """At most so many tasks, for now; fewer only where no more are left."""
        ...

    def again(self, tasks: Collection[Task]) -> None:
        """Take tasks back, to be given out first."""
        ...

    def put_off(self, tasks: Collection[Task]) -> None:
        """Take tasks back, to be given out one by one when no others are left."""
        ...

    def alone(self) -> Task | None:
        """One of those that were put off."""
        ...


@dataclass(frozen=True)
class Death:
    """How a process ended, or why it was ended."""

    cause: str
    """Such as "the process died (SIGABRT)"."""
    killed: bool = False
    """Whether something else may have ended it."""
    fault: Fault | None = None
    """What is wrong with the machine, where the process could say it."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What becomes of a task."""

    done: tuple[Done, ...] = ()
    """Items that failed."""
    left: tuple[OpenItems, ...] = ()
    again: tuple[Task, ...] = ()
    put_off: tuple[Task, ...] = ()
    suspects: tuple[OpenItems, ...] = ()
    """At what a process was killed, that is not left open yet."""


def verdict_of(task: Task, step: Step, death: Death) -> Verdict:
    """What becomes of a task whose process died at a step of it."""
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
    """The units that were not in a batch together, and each that was, alone; without those of which nothing is wanted."""
    others = [place for place in range(len(task.chunk.units)) if place not in places]
    return [part for part in (others, *([place] for place in places)) if _wanted(task, part)]


def _part(task: Task, places: Collection[int]) -> Task:
    """The task, of some of its units."""
    units = tuple(task.chunk.units[place] for place in places)
    return replace(task, chunk=replace(task.chunk, units=units), wanted=_wanted(task, places))


def _wanted(task: Task, places: Collection[int]) -> frozenset[Item]:
    return task.wanted & {item for place in places for item in task.chunk.items[place]}
