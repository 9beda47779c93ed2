"""The progress of a method: a bar on a terminal, and else a line now and then. Both say how long it will take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfumato.cli.progress_of_runs import duration

if TYPE_CHECKING:
    from rich.console import Console

    from sfumato.search.loop import AnyStep

MEASURED = 3
"""After so many steps it says how long all will take; earlier if they take longer than `INTERVAL`."""

LONG = 10.0
"""Seconds: what is shorter needs no estimate."""

INTERVAL = 10.0
"""Seconds between the lines that are written without a terminal."""


@contextmanager
def progress_bar(
    title: str = "", console: "Console | None" = None, left: float = 1, clock: Callable[[], float] = time.monotonic
) -> "Iterator[Callable[[AnyStep], None]]":
    """What a method's `progress=` takes; shows the steps done, the mean score and the mean area, and the time left.

    It is written to stderr or to `console`, starts again at the first step of each search, and is removed at the end. Without
    a terminal, a line is written every `INTERVAL` seconds.

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
    task = bar.add_task(title, total=None)
    pace = Pace(clock)
    last_line, estimated = clock(), False

    def show(step: "AnyStep") -> None:
        nonlocal last_line, estimated
        pace.see(step)
        late = step.index > 0 and clock() - last_line >= INTERVAL  # steps so slow that nobody should wait for more
        if not estimated and (step.index + 1 == MEASURED or late):
            estimated = True
            if text := pace.estimate(step.steps, left):
                console.print(f"{title or 'The search'} {text}", markup=False, highlight=False, soft_wrap=True)
                last_line = clock()
        if bar.disable:
            if step.index and clock() - last_line >= INTERVAL and step.index + 1 < step.steps:
                last_line = clock()
                line = f"{title or 'search'}: step {step.index + 1} of {step.steps}, about {duration(pace.left(step))} left"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            return
        if step.index == 0:
            bar.reset(task, total=step.steps)
        score, area = float(step.values.mean()), float(step.areas.mean())
        parts = [*([title] if title else []), f"score {score:.2f}", f"area {100 * area:.1f} %"]
        bar.update(task, completed=step.index + 1, description=" · ".join(parts))

    with bar:
        yield show


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
