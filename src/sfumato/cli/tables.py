"""Plain tables on the terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sfumato.runs.results.grid import Grid

NUMBERS = ("score", "of whole", "probability")


def table(*columns: str) -> "Table":
    """A plain table: the first column is words, the others are numbers or words after it."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        numbers = column in NUMBERS
        made.add_column(column, justify="right" if numbers else "left", no_wrap=numbers)
    return made


GAP = 3
"""Between two columns."""


def fitted(grid: "Grid", mark: str, width: int) -> "list[tuple[str, Table]]":
    """A table, parted by its measures where a terminal of so many columns cannot hold it, each part with its title.

    No cell is broken, nor a method's name unless, beside a single measure, it is too long.
    """
    widths = _widths(grid, mark)
    sizes, taken = [0], widths[0]
    for measure in widths[1:]:
        if sizes[-1] and taken + GAP + measure > width:
            sizes, taken = [*sizes, 0], widths[0]
        sizes[-1] += 1
        taken += GAP + measure
    return [(part.title, _unbroken(part, mark, width)) for part in grid.parted(sizes)]


def _widths(grid: "Grid", mark: str) -> list[int]:
    """What each column needs at least: its longest cell, or the longest word of its head."""
    from rich.cells import cell_len

    words = [max(map(cell_len, head.split())) for head in grid.header]
    rows = [[cell_len(text) for text in cells] for cells in grid.body(mark.format)]
    return [max(column) for column in zip(words, *rows, strict=True)]


def _unbroken(grid: "Grid", mark: str, width: int) -> "Table":
    """The table, whose heads alone may be broken, between words."""
    from rich.cells import cell_len

    made = table(*grid.header)
    widths = _widths(grid, mark)
    room = width - sum(widths) - GAP * (len(widths) - 1)
    if room < 0:  # a name too long for any table
        widths[0], made.columns[0].overflow = max(widths[0] + room, 1), "fold"
    for place, (column, head) in enumerate(zip(made.columns, grid.header, strict=True)):
        more = min(max(room, 0), max(cell_len(head) - widths[place], 0))  # for a head on one line
        column.width, room = widths[place] + more, room - more
    for cells in grid.body(mark.format):
        made.add_row(*cells)
    return made


def console() -> "Console":
    """Where tables and lines go: stdout, with names taken as they are, brackets, colons and all."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)
