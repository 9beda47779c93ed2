"""Plain tables on the terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

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


def console() -> "Console":
    """Where tables and lines go: stdout, with names taken as they are, brackets, colons and all."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)
