"""Export the tables and rows of a run: Markdown, LaTeX, CSV, Parquet, JSON."""

import csv
import io
import itertools
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.files import printable, written
from sfumato.runs.results.grid import Undecided, by_data_and_model, grids
from sfumato.runs.results.parquet import write_parquet
from sfumato.runs.results.summary import Line

SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".parquet": "parquet", ".json": "json"}


LISTS = (list, tuple, dict)
"""Values that are JSON in a cell of CSV."""

NUMBERS = frozenset({float, int, bool, type(None)})
"""Types of values that every form of file takes as they are. Of millions of rows, most values are."""

Notes = Callable[[str, str], str]
"""A sentence to stand under the table of a data set and a model, by their names; empty for none."""


MEASURES = 6
"""Columns that a table in Markdown has at most; in LaTeX, whose lines hold some ninety characters, four."""


def markdown(
    lines: Iterable[Line],
    seconds: Mapping[tuple[str, str, str], float] | None = None,
    notes: Notes = lambda data, model: "",  # noqa: ARG005
    undecided: Undecided | None = None,
) -> str:
    """For each data set, model and protocol a table: a row a method, a column a measure.

    Bold marks the best of each column and those that are not settled worse: `undecided` names them; without it, they are
    those whose intervals overlap that of the best.
    """
    parts = []
    for (data, model), group in by_data_and_model(lines).items():
        parts.append(f"### {_one_line(data)}, {_one_line(model)}\n")
        parts += [f"{text}\n" for text in (cost(group, seconds), notes(data, model)) if text]
        for table in grids(group, undecided, MEASURES):
            body = table.body("**{}**".format, _markdown)
            parts.append(f"#### {_one_line(table.title)}\n")
            parts.append(markdown_table([_markdown(words) for words in table.header], body))
            parts += [f"{legend}\n"] if (legend := table.legend("bold")) else []
    return "\n".join(parts)


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, of cells that are Markdown."""
    return _row(header) + _row(["---"] * len(header)) + "".join(_row(cells) for cells in body)


def latex(
    lines: Iterable[Line],
    seconds: Mapping[tuple[str, str, str], float] | None = None,
    notes: Notes = lambda data, model: "",  # noqa: ARG005
    undecided: Undecided | None = None,
) -> str:
    """The same tables for LaTeX, with the rules of the package booktabs."""
    parts = []
    for (data, model), group in by_data_and_model(lines).items():
        for table in grids(group, undecided, MEASURES - 2):
            remarks = [table.legend("bold"), cost(group, seconds), notes(data, model)]
            parts += [
                f"% {_one_line(data)}, {_one_line(model)}: {_one_line(table.title)}",
                rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
                r"\toprule",
                _latex_row([_latex(words) for words in table.header]),
                r"\midrule",
                *(_latex_row(cells) for cells in table.body(r"\textbf{{{}}}".format, _latex)),
                r"\bottomrule",
                r"\end{tabular}",
                *(rf"\par{{\footnotesize {_latex(text)}\par}}" for text in remarks if text),
                "",
            ]
    return "\n".join(parts)


def cost(lines: Iterable[Line], seconds: Mapping[tuple[str, str, str], float] | None) -> str:
    """A sentence on the time of each method; empty if it is not known."""
    places = dict.fromkeys((line.data, line.model, line.method) for line in lines)
    costs = [f"{place[2]} {seconds[place]:.2g}" for place in places if seconds and place in seconds]
    return f"Seconds a query: {', '.join(costs)}." if costs else ""


def records(lines: Iterable[Line]) -> list[dict[str, Any]]:
    """The lines as records, with all digits."""
    return [
        {
            "data": line.data,
            "model": line.model,
            "method": line.method,
            "protocol": line.protocol,
            "measure": line.measure.name,
            "value": line.estimate.value,
            "low": line.estimate.low,
            "high": line.estimate.high,
            "rows": line.estimate.count,
            "pictures": line.estimate.pictures,
            "few": line.estimate.few,
            "failed": line.failed,
        }
        for line in lines
    ]


def write(records: Iterable[Mapping[str, Any]], path: Path, names: Sequence[str] | None = None) -> None:
    """Records as CSV, Parquet or JSON, as the file's name ends; whole or not at all.

    `names` are the columns, in their order. With them, records are written one by one, and memory does not grow with their
    number; without, all are held first to collect their names. Raises `ValueError` for a record with another name.
    """
    if names is None:
        records = list(records)
        names = list(dict.fromkeys(name for record in records for name in record))
    plain = (
        {name: value if type(value) in NUMBERS else _plain(value) for name, value in record.items()}
        for record in check_names(records, names)
    )
    with written(path) as partial:
        if path.suffix == ".parquet":
            write_parquet(plain, partial, names)
        else:
            with partial.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(_json(plain) if path.suffix == ".json" else _comma_separated(plain, names))


def check_names(records: Iterable[Mapping[str, Any]], names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The records one by one. Raises `ValueError` at one with another name than these."""
    columns = set(names)
    for record in records:
        if not record.keys() <= columns:
            other = next(name for name in record if name not in columns)
            raise ValueError(
                f"a record has the name {other!r}, which is none of the columns {', '.join(names)}; add it to names"
            )
        yield record


def _comma_separated(records: Iterable[Mapping[str, Any]], names: Sequence[str]) -> Iterator[str]:
    """CSV, line by line; lists in a cell are JSON."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    rows = (
        [_as_json(value) if isinstance(value, LISTS) else value for value in map(record.get, names)]
        for record in records
    )
    for cells in itertools.chain([names], rows):
        writer.writerow(cells)
        yield text.getvalue()
        text.seek(0)
        text.truncate()


def _json(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A list in JSON, record by record."""
    lead = "[\n"
    for record in records:
        yield lead + textwrap.indent(_as_json(record, indent=1), " ")
        lead = ",\n"
    yield "[]\n" if lead == "[\n" else "\n]\n"


def _as_json(value: Any, indent: int | None = None) -> str:
    """A value as JSON, with null for NaN, which JSON does not have."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent)


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's, and text that may be written."""
    if isinstance(value, str):
        return printable(value)
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _finite(value: Any) -> Any:
    """The value with `None` for NaN and infinities, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


def _markdown(text: str) -> str:
    """A text for a cell in Markdown, whatever characters it has."""
    return re.sub(r"([\\|*`<])", r"\\\1", _one_line(text))


LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    | {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--"}
)
"""What has another meaning in LaTeX, character by character: done at once, so that no escape is escaped again."""


def _latex(text: str) -> str:
    return _one_line(text).translate(LATEX)


def _latex_row(cells: Sequence[str]) -> str:
    r"""A row, whose first cell must not be taken for an argument of the `\\` before it."""
    return ("{}" if cells[0][:1] in {"[", "*"} else "") + " & ".join(cells) + r" \\"


def _one_line(text: str) -> str:
    """The text on one line: a line break in a name would end the heading or the row."""
    return " ".join(text.split())
