"""Plain tables on the terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from sfumato.runs.grid import Grid

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


def fitted(grid: "Grid", mark: str, width: int) -> "list[tuple[Grid, Table]]":
    """A table, parted by its measures where a terminal of so many columns cannot hold it.

    No cell is broken, nor a method's name unless, beside a single measure, it is too long.
    """
    from rich.cells import cell_len

    def widths(part: "Grid") -> "list[int]":
        cells = [part.header, *part.marked(mark.format)]
        longest = [[max(map(cell_len, text.split()), default=0) for text in part.header], *cells[1:]]
        return [
            max(words if isinstance(words, int) else cell_len(words) for words in column)
            for column in zip(*longest, strict=True)
        ]

    first, *measures = widths(grid)
    sizes, taken = [0], first
    for measure in measures:
        if sizes[-1] and taken + GAP + measure > width:
            sizes, taken = [*sizes, 0], first
        sizes[-1] += 1
        taken += GAP + measure
    return [(part, _unbroken(part, mark, widths(part), width)) for part in grid.parted(sizes)]


def _unbroken(grid: "Grid", mark: str, widths: "Sequence[int]", width: int) -> "Table":
    """The table, whose heads alone may be broken, between words."""
    made = table(*grid.header)
    for column, least in zip(made.columns, widths, strict=True):
        column.min_width = least
    if sum(widths) + GAP * (len(widths) - 1) > width:  # a name too long for any table
        made.columns[0].min_width, made.columns[0].overflow = None, "fold"
    for cells in grid.marked(mark.format):
        made.add_row(*cells)
    return made


def console() -> "Console":
    """Where tables and lines go: stdout, with names taken as they are, brackets, colons and all."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)
