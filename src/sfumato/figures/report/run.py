"""A report on a run: its tables, where each method does best and worst, and where methods disagree."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sfumato.figures.report.judged import Judged, judged
from sfumato.figures.report.markup import Html, tag
from sfumato.figures.report.page import page, wide
from sfumato.figures.report.telling import disagreeing, extremes
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
"""Why items failed, that are told."""


def for_run(folder: str | os.PathLike[str], store: str | None = None, title: str | None = None) -> str:
    """A page about the run in a folder, as far as it is; `store` is the address of its database, if its rows are in one.

    Raises `ValueError` where no run is. Pictures are shown where they can be read, with the methods' maps where the run keeps
    them and its model can be loaded.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"no run in {str(path)!r}: there is no such folder; expected one that sfumato bench run made")
    sheet = Sheet()
    parts = sections(records.read_record(Place(path, store)), sheet)
    return page(title or path.resolve().name, *parts, style=sheet.style())


def sections(record: Record, sheet: Sheet, heading: str = "", place: int = 0) -> list[Html]:
    """What the page says: how far the run is, then a section for each data set and model. Where the page is about several runs,
    each has a `heading` and a `place`."""
    with record.place.store() as store:
        thumbnails = Thumbnails(record, store, sheet)
        parts = [_progress(record, store, heading)]
        every, leading, cost = results(record, store)
        lines = by_data_and_model(every)
        for number, ((data, model), group) in enumerate(lines.items()):
            identity = f"r{place}-{number}"
            told = [tag("h2", f"{data}, {model}", id=identity), _cost(data, model, cost)]
            if note := summary.quantities(record, data, model):
                told.append(tag("p", note, class_="small"))
            some = False
            for each in judged(record, store, data, model):
                some = True
                table = [line for line in group if line.protocol == each.protocol]
                told += _protocol(each, table, leading, thumbnails)
                del each  # before the next is read
            if not some:
                told.append(tag("p", "No item is done yet."))
            parts.append(tag("section", *told, aria_labelledby=identity))
    return parts


def _progress(record: Record, store: Store, heading: str) -> Html:
    """How far the run is, and why items failed."""
    reasons = record.failures(store)
    done, failed = record.counts(store)
    parts = [tag("h2", f"Run {heading}")] if heading else []
    parts.append(tag("p", f"{done} of {record.total} items are done, of which {failed} failed."))
    if reasons:
        listed = [
            tag("li", f"{count} × {cause} (e.g. {example})")
            for cause, (count, example) in list(reasons.items())[:REASONS]
        ]
        if len(reasons) > REASONS:
            listed.append(tag("li", f"… and {len(reasons) - REASONS} other reasons"))
        parts.append(tag("details", tag("summary", "Why items failed"), tag("ul", *listed)))
    made = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in dict(record.made_by).items()]
    table = wide("Versions", tag("table", tag("tbody", *made)))
    parts.append(
        tag(
            "details",
            tag("summary", "How it was made"),
            table,
            tag("pre", record.text, class_="wide", tabindex=0),
        )
    )
    return tag("section", *parts, aria_label="The run")


def _cost(data: str, model: str, cost: Mapping[tuple[str, str, str], float]) -> Html | None:
    told = [f"{method} {taken:.2g}" for (where, by, method), taken in cost.items() if (where, by) == (data, model)]
    return tag("p", f"Seconds a query: {', '.join(told)}.", class_="small") if told else None


def _protocol(found: Judged, lines: Sequence[Line], leading: Undecided, thumbnails: Thumbnails) -> list[Html | None]:
    """A protocol's table, how sure the order is, and its cases."""
    name = f"{found.protocol} on {found.data}, {found.model}"
    shown = grid(lines, leading)
    rows = [
        tag(
            "tr",
            tag("th", cells[0], scope="row"),
            *(
                tag("td", cell, class_="best" if (row, column) in shown.best else None)
                for column, cell in enumerate(cells[1:])
            ),
        )
        for row, cells in enumerate(shown.body("{} *".format))
    ]
    head = tag("tr", *(tag("th", words, scope="col") for words in shown.header))
    note = f"{shown.legend('*')}."
    return [
        tag("h3", found.protocol),
        wide(f"Results, {name}", tag("table", tag("thead", head), tag("tbody", *rows))),
        tag("p", note, class_="small"),
        _differences(found, name),
        extremes(found, thumbnails),
        disagreeing(found, thumbnails, name),
    ]


def _differences(found: Judged, name: str) -> Html | None:
    """The paired differences of the leading method from each other, on the cases that both have."""
    measure = found.measure
    whole = {method: estimates_of([measure], table.columns, resamples=1)[0] for method, table in found.tables.items()}
    known = {method: each.value for method, each in whole.items() if math.isfinite(each.value)}
    if len(known) < 2:
        return None
    leader = (max if measure.higher_is_better else min)(known, key=lambda method: known[method])
    rows = []
    for other in known:
        first, second = paired(found.tables[leader], found.tables[other])
        if other != leader and length(first):
            rows.append(_difference(other, estimates_of([measure], first, second)[0], measure))
    head = tag("tr", *(tag("th", words, scope="col") for words in ("less", "difference", "95 % interval", "cases", "")))
    table = tag("table", tag("thead", head), tag("tbody", *rows))
    return tag(
        "details",
        tag("summary", f"Is {leader} ahead by more than chance? ({measure.name})"),
        tag(
            "p",
            f"{leader} less each other method, on the same cases; tied: the interval holds 0; too few: of fewer than {FEW} "
            "pictures.",
            class_="small",
        ),
        wide(f"Differences, {name}", table),
    )


def _difference(other: str, estimate: Estimate, measure: Measure) -> Html:
    unit = " %" if measure.percent else ""
    cells = [
        *(words + unit for words in measure.signed(estimate)),
        str(estimate.count),
        "too few" if estimate.few else "yes" if estimate.settled else "tied",
    ]
    return tag("tr", tag("th", other, scope="row"), *(tag("td", cell) for cell in cells))
