"""The progress of a run: a bar in a terminal, and a line a minute in a file or a pipe."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TextIO

from sfumato.runs.periodic import periodically

FIRST = 10.0
"""Seconds until the first line: early, so that a log shows that the run works, and late enough to measure a rate."""

INTERVAL = 60.0
"""Seconds between two lines: some hundred lines in a night."""

Counts = tuple[int, int]
"""How many items are done, and how many of them failed."""


@contextmanager
def progress(total: int, before: int, stream: TextIO | None = None) -> Iterator[Callable[[int, int], None]]:
    """A callback that is called with how many of the `total` items are done, and how many failed.

    `before` items are done at the start. On a terminal it shows a bar, elsewhere it writes lines. The last line is written at
    the end, also after an error. The default stream is stderr.
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
    """Lines about a run with the rate, the time that is left and the number of failures."""

    total: int
    before: int
    stream: TextIO
    clock: Callable[[], float] = time.monotonic
    first: float = FIRST
    interval: float = INTERVAL
    _counts: Counts | None = None
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    def note(self, done: int, failed: int) -> None:
        """Set how many items are done, and how many of them failed."""
        self._counts = done, failed

    @contextmanager
    def lines(self) -> Iterator[None]:
        """Write lines during the block, whether or not items get done, and a last line at its end."""
        try:
            with periodically(self.write, self.interval, "sfumato-progress", self.first):
                yield
        finally:
            self.write(last=True)

    def write(self, last: bool = False) -> None:
        """Write a line now."""
        with suppress(OSError, ValueError):  # a closed stream or a full disk must not stop the run
            self.stream.write(f"{time.strftime('%H:%M:%S')} {self.line(last)}\n")
            self.stream.flush()

    def line(self, last: bool = False) -> str:
        """The text of a line."""
        done, failed = self._counts or (self.before, 0)
        elapsed, new_items = self.clock() - self._began, done - self.before
        percent = 100 * done / max(self.total, 1)
        share = f" ({percent if done >= self.total else min(percent, 99.9):.3g} %)" if self.total else ""
        parts = [f"{done} of {self.total} items{share}"]
        if new_items and elapsed > 0:
            parts.append(rate(new_items / elapsed))
            if not last:
                parts.append(f"{duration((self.total - done) * elapsed / new_items)} left")
        parts.append(f"{failed} failed" if self._counts else "none done yet")
        return ", ".join([*parts, *([f"{duration(elapsed)} in all"] if last else [])])


def rate(per_second: float) -> str:
    """The rate of items, in words.

    >>> rate(2.345), rate(0.05)
    ('2.35 a second', '3 a minute')
    """
    if per_second >= 1:
        return f"{per_second:.3g} a second" if per_second < 999.5 else f"{per_second:.0f} a second"
    return f"{60 * per_second:.3g} a minute" if 60 * per_second >= 1 else f"{3600 * per_second:.3g} an hour"


def duration(seconds: float) -> str:
    """A duration in words.

    >>> duration(12), duration(600), duration(12000), duration(400000)
    ('12 s', '10 min', '3 h 20 min', '4 d 15 h')
    """
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1g} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


@contextmanager
def _bar(total: int, before: int) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with the rate, the time that is left and the number of failures."""
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
            speed = rate((done - before) / elapsed) if elapsed and done > before else ""
            bar.update(task, completed=done, rate=speed, failed=f"{failed} failed" if failed else "")

        yield report
