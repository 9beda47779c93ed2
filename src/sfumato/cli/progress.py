"""A progress bar for a terminal, which shows every step of a method."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from sfumato.search.loop import AnyStep


@contextmanager
def progress_bar(title: str = "", console: "Console | None" = None) -> "Iterator[Callable[[AnyStep], None]]":
    """What a method's `progress=` takes; shows the steps done, the mean score and the mean area, and the time left.

    It is written to stderr or to `console`, starts again at the first step of each search, and is removed at the end. Without
    a terminal, nothing is written.
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

    def show(step: "AnyStep") -> None:
        if bar.disable:
            return
        if step.index == 0:
            bar.reset(task, total=step.steps)
        score, area = float(step.values.mean()), float(step.areas.mean())
        parts = [*([title] if title else []), f"score {score:.2f}", f"area {100 * area:.1f} %"]
        bar.update(task, completed=step.index + 1, description=" · ".join(parts))

    with bar:
        yield show
