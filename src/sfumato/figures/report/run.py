"""A report about a run: its tables, the best and worst cases of each method, and the cases where methods disagree."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from sfumato.figures.report.markup import Html, tag
from sfumato.figures.report.notable import best_and_worst, disagreement_table
from sfumato.figures.report.page import page, scrollable
from sfumato.figures.report.protocol_cases import ProtocolCases, cases_by_protocol
from sfumato.figures.report.thumbnails import Sheet, Thumbnails
from sfumato.metrics.estimate import FEW, Estimate, Measure, estimates_of
from sfumato.metrics.statistic import length
from sfumato.runs.results import record as records
from sfumato.runs.results import summary
from sfumato.runs.results.grid import Undecided, by_data_and_model, grid
from sfumato.runs.results.leaders import results
from sfumato.runs.results.record import Place, Record
from sfumato.runs.results.summary import Line, paired
from sfumato.runs.stores.store import Store

REASONS = 10
"""The largest number of reasons for failures that are shown."""


def for_run(folder: str | os.PathLike[str], store: str | None = None, title: str | None = None) -> str:
    """An HTML page about the run in a folder, finished or not; `store` is the address of its database, if it has one.

    Pictures are shown if they can be read, with the methods' maps if the run has stored them and its model can be loaded.
    Raises `ValueError` if there is no run in the folder.
    """
    path = Path(folder)
    place = Place(path, store)  # an address is refused before its password is shown
    if not path.is_dir():
        raise ValueError(f"no run in {str(path)!r}: there is no such folder; expected the folder of sfumato bench run")
    sheet = Sheet()
    parts = sections(records.read_record(place), sheet)
    return page(title or path.resolve().name, *parts, style=sheet.style())


def sections(record: Record, sheet: Sheet, heading: str = "", index: int = 0) -> list[Html]:
    """The sections of a run: its progress, then one for each data set and model.

    If the page is about several runs, each has a `heading` and an `index`.
    """
    with record.place.store() as store:
        thumbnails = Thumbnails(record, store, sheet)
        parts = [_progress(record, store, heading)]
        run_results = results(record, store)
        parts += [tag("p", fault) for fault in record.faults.values()]
        for number, ((data, model), lines) in enumerate(by_data_and_model(run_results.lines).items()):
            identity = f"r{index}-{number}"
            children: list[Html | None] = [tag("h2", f"{data}, {model}", id=identity)]
            if seconds := run_results.seconds_text(data, model):
                children.append(tag("p", f"Seconds a query: {seconds}.", class_="small"))
            if note := summary.quantities(record, data, model):
                children.append(tag("p", note, class_="small"))
            is_empty = True
            for cases in cases_by_protocol(record, store, data, model):
                is_empty = False
                protocol_lines = [line for line in lines if line.protocol == cases.protocol]
                children += _protocol(cases, protocol_lines, run_results.leading, thumbnails)
                del cases  # before the next ones are read
            if is_empty:
                children.append(tag("p", "No item is done yet."))
            parts.append(tag("section", *children, aria_labelledby=identity))
    return parts


def _progress(record: Record, store: Store, heading: str) -> Html:
    """How many items are done, why items failed, and how the run was made."""
    reasons = record.failures(store)
    done, failed = record.counts(store)
    parts = [tag("h2", f"Run {heading}")] if heading else []
    parts.append(tag("p", f"{done} of {record.total} items are done, of which {failed} failed."))
    if reasons:
        items = [
            tag("li", f"{count} × {cause} (e.g. {example})")
            for cause, (count, example) in list(reasons.items())[:REASONS]
        ]
        if len(reasons) > REASONS:
            items.append(tag("li", f"… and {len(reasons) - REASONS} other reasons"))
        parts.append(tag("details", tag("summary", "Why items failed"), tag("ul", *items)))
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in dict(record.made_by).items()]
    table = scrollable("Versions", tag("table", tag("tbody", *rows)))
    parts.append(
        tag(
            "details",
            tag("summary", "How it was made"),
            table,
            tag("pre", record.text, class_="wide", tabindex=0),
        )
    )
    return tag("section", *parts, aria_label="The run")


def _protocol(
    cases: ProtocolCases, lines: Sequence[Line], leading: Undecided, thumbnails: Thumbnails
) -> list[Html | None]:
    """The parts of a protocol: its table, how certain the order of methods is, and notable cases."""
    name = f"{cases.protocol} on {cases.data}, {cases.model}"
    table = grid(lines, leading)
    rows = [
        tag(
            "tr",
            tag("th", cells[0], scope="row"),
            *(
                tag("td", cell, class_="best" if (row, column) in table.best else None)
                for column, cell in enumerate(cells[1:])
            ),
        )
        for row, cells in enumerate(table.body("{} *".format))
    ]
    head = tag("tr", *(tag("th", title, scope="col") for title in table.header))
    note = f"{table.legend('*')}."
    return [
        tag("h3", cases.protocol),
        scrollable(f"Results, {name}", tag("table", tag("thead", head), tag("tbody", *rows))),
        tag("p", note, class_="small"),
        _differences(cases, name),
        best_and_worst(cases, thumbnails),
        disagreement_table(cases, thumbnails, name),
    ]


def _differences(cases: ProtocolCases, name: str) -> Html | None:
    """A table of the paired differences between the leading method and the others, on the cases that both have."""
    measure = cases.measure
    values = {
        method: estimates_of([measure], table.columns, resamples=1)[0].value for method, table in cases.tables.items()
    }
    finite = {method: value for method, value in values.items() if math.isfinite(value)}
    if len(finite) < 2:
        return None
    leader = (max if measure.higher_is_better else min)(finite, key=lambda method: finite[method])
    rows = []
    for method in finite:
        first, second = paired(cases.tables[leader], cases.tables[method])
        if method != leader and length(first):
            rows.append(_difference(method, estimates_of([measure], first, second)[0], measure))
    titles = ("minus", "difference", "95 % interval", "cases", "")
    head = tag("tr", *(tag("th", title, scope="col") for title in titles))
    table = tag("table", tag("thead", head), tag("tbody", *rows))
    return tag(
        "details",
        tag("summary", f"Is {leader} ahead by more than chance? ({measure.name})"),
        tag(
            "p",
            f"{leader} minus each other method, on the same cases; tied: the interval contains 0; too few: of fewer than {FEW} "
            "pictures.",
            class_="small",
        ),
        scrollable(f"Differences, {name}", table),
    )


def _difference(method: str, estimate: Estimate, measure: Measure) -> Html:
    """The row of a method in the table of differences."""
    unit = " %" if measure.percent else ""
    cells = [
        *(text + unit for text in measure.signed(estimate)),
        str(estimate.count),
        "too few" if estimate.few else "yes" if estimate.settled else "tied",
    ]
    return tag("tr", tag("th", method, scope="row"), *(tag("td", cell) for cell in cells))
