"""A run's table in the forms that people take away: Markdown, LaTeX, CSV, Parquet, JSON."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sfumato.runs.summary import Line
from sfumato.whole import written

SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".parquet": "parquet", ".json": "json"}


Notes = Callable[[str, str], str]
"""A sentence to stand under the table of a data set and a model, by their names; empty for none."""


def markdown(
    lines: Iterable[Line],
    seconds: Mapping[tuple[str, str, str], float] | None = None,
    notes: Notes = lambda data, model: "",  # noqa: ARG005
) -> str:
    """Tables for each data set and model: a row a method, a column a measure; the best of each column in bold."""
    parts = []
    for (data, model), group in grouped(lines).items():
        header, body = grid(group, seconds)
        parts += [f"### {data}, {model}\n", tabulated(header, body)]
        parts += [f"{note}\n"] if (note := notes(data, model)) else []
    return "\n".join(parts)


def tabulated(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return _row(header) + _row(["---"] * len(header)) + "".join(_row(cells) for cells in body)


def latex(
    lines: Iterable[Line],
    seconds: Mapping[tuple[str, str, str], float] | None = None,
    notes: Notes = lambda data, model: "",  # noqa: ARG005
) -> str:
    """The same tables for LaTeX, with the rules of the package booktabs."""
    parts = []
    for (data, model), group in grouped(lines).items():
        header, body = grid(group, seconds, best=r"\textbf{{{}}}")
        columns = "l" + "r" * (len(header) - 1)
        parts += [
            f"% {_escaped(data)}, {_escaped(model)}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(_escaped, header)) + r" \\",
            r"\midrule",
            *(" & ".join(map(_escaped, cells)) + r" \\" for cells in body),
            r"\bottomrule",
            r"\end{tabular}",
            *([_escaped(note)] if (note := notes(data, model)) else []),
            "",
        ]
    return "\n".join(parts)


def records(lines: Iterable[Line]) -> list[dict[str, Any]]:
    """A line a record, with all digits."""
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
            "failed": line.failed,
        }
        for line in lines
    ]


def write(records: Iterable[Mapping[str, Any]], path: Path, names: Sequence[str] | None = None) -> None:  # noqa: ARG001
    """Records as CSV, Parquet or JSON, as the file's name ends; whole or not at all."""
    records = list(records)
    with written(path) as partial:
        if path.suffix == ".parquet":
            _parquet(records, partial)
        elif path.suffix == ".json":
            partial.write_text(json.dumps([_plain(each) for each in records], indent=1) + "\n", encoding="utf-8")
        else:
            partial.write_text(comma_separated(records), encoding="utf-8")


def comma_separated(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as CSV; lists in a cell are JSON."""
    names = list(dict.fromkeys(name for each in records for name in each))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for each in records:
        writer.writerow({name: json.dumps(value) if isinstance(value, list) else value for name, value in each.items()})
    return text.getvalue()


def grouped(lines: Iterable[Line]) -> dict[tuple[str, str], list[Line]]:
    """Lines by data set and model."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.data, line.model), []).append(line)
    return groups


def grid(
    lines: Sequence[Line], seconds: Mapping[tuple[str, str, str], float] | None = None, best: str = "**{}**"
) -> tuple[list[str], list[list[str]]]:
    """Lines of one data set and model as a header and a row for each method; `best` marks the best of a column."""
    columns = list(dict.fromkeys((line.protocol, line.measure.name) for line in lines))
    cells = {(line.method, line.protocol, line.measure.name): line for line in lines}
    methods = list(dict.fromkeys(line.method for line in lines))
    leading = {
        column: _leading([cells[method, *column] for method in methods if (method, *column) in cells])
        for column in columns
    }
    header = ["method", *(_title(*column, _any(cells, column)) for column in columns)]
    body = []
    for method in methods:
        row = [method]
        for column in columns:
            line = cells.get((method, *column))
            text = "" if line is None else _cell(line)
            row.append(best.format(text) if line is not None and method in leading[column] else text)
        body.append(row)
    if seconds is not None:
        header.append("s a query")
        where = {line.method: (line.data, line.model, line.method) for line in lines}
        for row in body:
            taken = seconds.get(where[row[0]])
            row.append("" if taken is None else f"{taken:.2g}")
    return header, body


def _title(protocol: str, measure: str, line: Line) -> str:
    arrow = "↑" if line.measure.higher_is_better else "↓"
    return f"{protocol}: {measure}{' %' if line.measure.percent else ''} {arrow}"


def _cell(line: Line) -> str:
    estimate = line.estimate
    if math.isnan(estimate.value):
        return "–"
    scale, digits = (100, 1) if line.measure.percent else (1, 3 if abs(estimate.value) < 10 else 0)
    value, low, high = (f"{scale * number:.{digits}f}" for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]" + (f" ({line.failed} failed)" if line.failed else "")


def _leading(lines: Sequence[Line]) -> set[str]:
    """The methods with the best value, where there is something to lead."""
    known = [line for line in lines if not math.isnan(line.estimate.value)]
    if len(known) < 2:
        return set()
    pick: Callable[..., float] = max if known[0].measure.higher_is_better else min
    value = pick(line.estimate.value for line in known)
    return {line.method for line in known if line.estimate.value == value}


def _any(cells: Mapping[tuple[str, str, str], Line], column: tuple[str, str]) -> Line:
    return next(line for key, line in cells.items() if key[1:] == column)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def _escaped(text: str) -> str:
    for character in "&%_#":
        text = text.replace(character, rf"\{character}")
    return text.replace("↑", r"$\uparrow$").replace("↓", r"$\downarrow$")


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()
    }


def _parquet(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'Parquet files need pyarrow, which is not installed; run: pip install "sfumato[parquet]"', name=error.name
        ) from error
    names = list(dict.fromkeys(name for each in records for name in each))
    parquet.write_table(pa.table({name: [each.get(name) for each in records] for name in names}), path)
