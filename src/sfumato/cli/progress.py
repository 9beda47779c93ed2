"""The progress of a method: a bar on a terminal, and else a line now and then. Both say how long it will take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sfumato.cli.progress_of_runs import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from sfumato.search.loop import AnyStep, Stage

MEASURED = 3
"""After so many steps it says how long all will take; earlier if they take longer than `INTERVAL`."""

LONG = 10.0
"""Seconds: what is shorter needs no estimate."""

INTERVAL = 10.0
"""Seconds between the lines that are written without a terminal."""


@contextmanager
def progress_bar(
    title: str = "", console: "Console | None" = None, left: float = 1, clock: Callable[[], float] = time.monotonic
) -> "Iterator[Shown]":
    """What a method's `progress=` takes; shows the steps done, the mean score and the mean area, and the time left.

    It is written to stderr or to `console`, starts again at the first step of each search, and is removed at the end. Without
    a terminal, a line is written every `INTERVAL` seconds. What is done before the first step is shown in the same way.

    `left` is how many such searches are left, this one included. After `MEASURED` steps of the first search a line says how
    long it and all of them will take, if that is more than `LONG` seconds.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = console or Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        yield Shown(title, console, bar, bar.add_task(title, total=None), left, clock)


@dataclass(eq=False)
class Shown:
    """The progress of searches on a console. It is called with each step."""

    title: str
    console: "Console"
    bar: "Progress"
    task: "TaskID"
    left: float
    """How many searches are left, the first one included."""
    clock: Callable[[], float]
    pace: "Pace" = field(init=False)
    last_line: float = field(init=False)
    """When the last line was written."""
    estimated: bool = False
    """Whether it was said how long all will take."""

    def __post_init__(self) -> None:
        self.pace, self.last_line = Pace(self.clock), self.clock()

    @property
    def waited(self) -> bool:
        """Whether it is time for another line."""
        return self.clock() - self.last_line >= INTERVAL

    def __call__(self, step: "AnyStep") -> None:
        self.pace.see(step)
        late = step.index > 0 and self.waited  # steps so slow that nobody should wait for more
        if not self.estimated and (step.index + 1 == MEASURED or late):
            self.estimated = True
            if text := self.pace.estimate(step.steps, self.left):
                self._write(f"{self.title or 'The search'} {text}")
        if self.bar.disable:
            if step.index and self.waited and step.index + 1 < step.steps:
                rest = f"about {duration(self.pace.left(step))} left"
                self._write(f"{self.title or 'search'}: step {step.index + 1} of {step.steps}, {rest}")
            return
        if step.index == 0:
            self.bar.reset(self.task, total=step.steps)
        score, area = float(step.values.mean()), float(step.areas.mean())
        parts = [*([self.title] if self.title else []), f"score {score:.2f}", f"area {100 * area:.1f} %"]
        self.bar.update(self.task, completed=step.index + 1, description=" · ".join(parts))

    def stage(self, stage: "Stage") -> None:
        """Show what is done before the first step."""
        if self.bar.disable:
            if self.waited:
                self._write(f"{self.title or 'search'}: {stage.what}, {stage.done} of {stage.count}")
            return
        description = " · ".join(filter(None, (self.title, stage.what)))
        self.bar.update(self.task, total=stage.count, completed=stage.done, description=description)

    def _write(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.last_line = self.clock()


@dataclass
class Pace:
    """The time that a step takes, measured from the end of the first one, which is often slower."""

    clock: Callable[[], float]
    began: float = 0.0
    seconds: float = 0.0
    """Of one step."""

    def see(self, step: "AnyStep") -> None:
        """Measure a step that has been done."""
        if step.index == 0:
            self.began = self.clock()
        else:
            self.seconds = (self.clock() - self.began) / step.index

    def left(self, step: "AnyStep") -> float:
        """The seconds that are left of the search."""
        return self.seconds * (step.steps - step.index - 1)

    def estimate(self, steps: int, searches: float) -> str:
        """How long a search of so many steps takes, and how long all searches; empty if all are done soon.

        >>> pace = Pace(time.monotonic, seconds=0.2)
        >>> pace.estimate(10, 1), pace.estimate(150, 1), pace.estimate(150, 20)
        ('', 'takes about 30 s', 'takes about 30 s, and 10 min for all that is left')
        """
        one = self.seconds * steps
        if one * searches < LONG:
            return ""
        return f"takes about {duration(one)}" + (
            f", and {duration(one * searches)} for all that is left" if searches > 1 else ""
        )
