"""Notable cases of a protocol: the best and worst of each method, and those where methods disagree."""

from sfumato.figures.report.cases import disagreements, rank
from sfumato.figures.report.markup import Html, tag
from sfumato.figures.report.page import scrollable
from sfumato.figures.report.protocol_cases import ProtocolCases
from sfumato.figures.report.thumbnails import Thumbnails

MOST = 4
"""The largest number of cases of each kind."""


def best_and_worst(cases: ProtocolCases, thumbnails: Thumbnails) -> Html | None:
    """The best and the worst cases of each method; `None` if there are none."""
    parts: list[Html] = []
    for method, values in cases.values.items():
        order = rank(values, cases.measure.higher_is_better)
        if not len(order):
            continue
        below_best = order[values[order] != values[order[0]]]  # empty if all cases have the same value
        for kind, rows in (("worst", below_best[::-1][:MOST]), ("best", order[:MOST])):
            if not len(rows):
                continue
            last = float(values[rows[-1]])
            count = int((values == last).sum())
            ties = f" ({count} have {cases.format(last)})" if count > 1 else ""
            items = [_item(cases, method, row, thumbnails) for row in rows]
            parts.append(tag("h4", f"{method}, {kind}{ties}"))
            parts.append(tag("ul", *items, class_="cases"))
    if not parts:
        return None
    return tag("details", tag("summary", f"Best and worst cases, by {cases.measure.name}"), *parts)


def _item(cases: ProtocolCases, method: str, row: int, thumbnails: Thumbnails) -> Html:
    """A list item for a row of a method: its picture, with the method's map if it is stored, and its value."""
    case = cases.case(method, int(cases.tables[method].queries[row]))
    caption = f"{cases.title(case)}: {cases.format(float(cases.values[method][row]))}"
    stored = cases.stored_result(method, case.query)
    picture = thumbnails.explained(cases.data, cases.model, method, case, stored)
    return tag("li", tag("figure", picture, tag("figcaption", caption)))


def disagreement_table(cases: ProtocolCases, thumbnails: Thumbnails, name: str) -> Html | None:
    """The cases where methods differ most, with the value of each method; `None` if there are none."""
    queries = {method: table.queries for method, table in cases.tables.items()}
    largest = disagreements(queries, cases.values, MOST)
    if not largest:
        return None
    head = tag("tr", *(tag("th", title, scope="col") for title in ("", "case", *cases.values)))
    rows = []
    for query, values, highest, lowest in largest:
        case = cases.case(highest, query)
        picture = thumbnails.plain(cases.data, case)
        cells = [
            tag("td", cases.format(values.get(method)), class_="best" if method in (highest, lowest) else None)
            for method in cases.values
        ]
        rows.append(tag("tr", tag("td", picture), tag("th", cases.title(case), scope="row"), *cells))
    table = tag("table", tag("thead", head), tag("tbody", *rows))
    return tag(
        "details",
        tag("summary", f"Where methods disagree most, by {cases.measure.name}"),
        scrollable(f"Disagreements, {name}", table),
    )
