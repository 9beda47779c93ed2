"""How far a run is, while it runs: a bar in a terminal, and in a file or a pipe a line a minute."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TextIO

from sfumato.runs.periodic import periodically

FIRST = 10.0
"""Seconds until the first line: soon enough to see in a log that a run works, and late enough for a rate."""

EACH = 60.0
"""Seconds from line to line: a night is some hundred lines."""

Counts = tuple[int, int]
"""Items that are done, and those of them that failed."""


@contextmanager
def progress(total: int, before: int, stream: TextIO | None = None) -> Iterator[Callable[[int, int], None]]:
    """What is to be told how many of the `total` items are done, and how many failed; `before` were done at the start.

    Where the stream (stderr) is a terminal, it is a bar; else lines, of which the last comes at the end, however that comes.
    """
    stream = stream or sys.stderr
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(total, before) as report:
            yield report
        return
    log = Log(total, before, stream)
    with log.lines():
        yield log.note


@dataclass
class Log:
    """Lines about a run that say the rate, the time that is left and the failures."""

    total: int
    before: int
    stream: TextIO
    clock: Callable[[], float] = time.monotonic
    first: float = FIRST
    each: float = EACH
    _counts: Counts | None = None
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    def note(self, done: int, failed: int) -> None:
        """So many items are done, and so many of them failed."""
        self._counts = done, failed

    @contextmanager
    def lines(self) -> Iterator[None]:
        """Lines are written meanwhile, whether or not anything is done, and one at the end."""
        try:
            with periodically(self.write, self.each, "sfumato-progress", self.first):
                yield
        finally:
            self.write(last=True)

    def write(self, last: bool = False) -> None:
        """Write a line now."""
        with suppress(OSError, ValueError):  # a log that is closed or full stops no run
            self.stream.write(f"{time.strftime('%H:%M:%S')} {self.line(last)}\n")
            self.stream.flush()

    def line(self, last: bool = False) -> str:
        """How far the run is now."""
        done, failed = self._counts or (self.before, 0)
        elapsed, new = self.clock() - self._began, done - self.before
        share = f" ({100 * done / self.total:.3g} %)" if self.total else ""
        parts = [f"{done} of {self.total} items{share}"]
        if new and elapsed > 0:
            parts.append(rate(new / elapsed))
            if not last:
                parts.append(f"{duration((self.total - done) * elapsed / new)} left")
        parts.append(f"{failed} failed" if self._counts else "none done yet")
        return ", ".join([*parts, *([f"{duration(elapsed)} in all"] if last else [])])


def rate(a_second: float) -> str:
    """How fast items are done.

    >>> rate(2.345), rate(0.05)
    ('2.35 a second', '3 a minute')
    """
    if a_second >= 1:
        return f"{a_second:.3g} a second"
    return f"{60 * a_second:.3g} a minute" if 60 * a_second >= 1 else f"{3600 * a_second:.3g} an hour"


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(12), duration(600), duration(12000), duration(400000)
    ('12 s', '10 min', '3 h 20 min', '4 d 15 h')
    """
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1g} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


@contextmanager
def _bar(total: int, before: int) -> Iterator[Callable[[int, int], None]]:
    """A bar with the rate, the time that is left and the failures."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[failed]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("items", total=total, completed=before, rate="", failed="")

        def report(done: int, failed: int) -> None:
            elapsed = bar.tasks[task].elapsed or 0
            new = rate((done - before) / elapsed) if elapsed and done > before else ""
            bar.update(task, completed=done, rate=new, failed=f"{failed} failed" if failed else "")

        yield report
