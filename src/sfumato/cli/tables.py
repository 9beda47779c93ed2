"""Tables on the terminal."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sfumato.runs.results.grid import Grid

OF_CLASS, OF_TARGET = "probability\nof the class", "probability\nof the target"
"""The columns of probabilities: of each of the top classes for the picture, and of the target for what a mask shows."""

AGREE = "restarts\nagree"
"""The column that says how far the restarts of a search agree."""

NUMBERS = ("area", "shown", "removed", "worth", OF_CLASS, OF_TARGET, AGREE)
"""Columns that are aligned to the right."""


def table(*columns: str, score: str = "") -> "Table":
    """An empty table with these columns, of which one may hold a `score` by its name.

    Long words are folded, so that nothing is cut on a narrow terminal.
    """
    from rich import box
    from rich.table import Table

    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        is_number = column in (*NUMBERS, score)
        head = column.replace(" ", "\n") if column == score else column
        rows.add_column(head, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    return rows


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring, on one line.

    >>> first_sentence("Find a set. It is\\nsmall.")
    'Find a set.'
    >>> first_sentence("A dot, e.g. one in a name (Fong et al. 2019, eq. 4), ends no sentence. A second one.")
    'A dot, e.g. one in a name (Fong et al. 2019, eq. 4), ends no sentence.'
    """
    return re.split(r"(?<=\.)(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bal\.)(?<!\beq\.)\s", " ".join((text or "").split()))[0]


GAP = 3
"""Characters between two columns."""


def fitted(grid: "Grid", mark: str, width: int) -> "list[tuple[str, Table]]":
    """Tables that fit a terminal of this width, with their titles: the measures of the grid are divided among them.

    No cell is broken. A method's name is broken if it is too long even beside a single measure.
    """
    widths = _min_widths(grid, mark)
    sizes, line_width = [0], widths[0]
    for column in widths[1:]:
        if sizes[-1] and line_width + GAP + column > width:
            sizes, line_width = [*sizes, 0], widths[0]
        sizes[-1] += 1
        line_width += GAP + column
    return [(part.title, _table_of_width(part, mark, width)) for part in grid.split(sizes)]


def _min_widths(grid: "Grid", mark: str) -> list[int]:
    """The smallest width of each column: that of its longest cell, or of the longest word of its header."""
    from rich.cells import cell_len

    words = [max(map(cell_len, header.split())) for header in grid.header]
    rows = [[cell_len(text) for text in cells] for cells in grid.body(mark.format)]
    return [max(column) for column in zip(words, *rows, strict=True)]


def _table_of_width(grid: "Grid", mark: str, width: int) -> "Table":
    """The grid as a table in which only headers are broken, between words."""
    from rich.cells import cell_len

    rows = table(*grid.header)
    widths = _min_widths(grid, mark)
    free = width - sum(widths) - GAP * (len(widths) - 1)
    if free < 0:  # a name is too long for any table
        widths[0], rows.columns[0].overflow = max(widths[0] + free, 1), "fold"
    for column, header, column_width in zip(rows.columns, grid.header, widths, strict=True):
        extra = min(max(free, 0), max(cell_len(header) - column_width, 0))  # so that the header is on one line
        column.width, free = column_width + extra, free - extra
    for cells in grid.body(mark.format):
        rows.add_row(*cells)
    return rows


def console() -> "Console":
    """A console on stdout that prints names as they are, also with brackets and colons."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)
