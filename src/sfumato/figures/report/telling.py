"""A protocol's telling cases: where each method does best and worst, and where methods disagree."""

from sfumato.figures.report.cases import Case, disagreements, ranked
from sfumato.figures.report.judged import Judged
from sfumato.figures.report.markup import Html, tag
from sfumato.figures.report.page import wide
from sfumato.figures.report.thumbnails import Thumbnails

SHOWN = 4
"""Cases of each kind."""


def extremes(judged: Judged, thumbnails: Thumbnails) -> Html | None:
    """The best and the worst cases of each method."""
    parts: list[Html] = []
    for method, values in judged.values.items():
        order = ranked(values, judged.measure.higher_is_better)
        if not len(order):
            continue
        others = order[values[order] != values[order[0]]]
        for kind, rows in (("worst", others[::-1][:SHOWN]), ("best", order[:SHOWN])):
            if not len(rows):
                continue  # all cases are alike
            last = float(values[rows[-1]])
            ties = int((values == last).sum())
            tied = f" ({ties} have {judged.shown(last)})" if ties > 1 else ""
            shown = [
                _case(
                    judged,
                    method,
                    judged.case(method, int(judged.tables[method].queries[row])),
                    values[row],
                    thumbnails,
                )
                for row in rows
            ]
            parts.append(tag("h4", f"{method}, {kind}{tied}"))
            parts.append(tag("ul", *shown, class_="cases"))
    if not parts:
        return None
    return tag("details", tag("summary", f"Best and worst cases, by {judged.measure.name}"), *parts)


def _case(judged: Judged, method: str, case: Case, value: float, thumbnails: Thumbnails) -> Html:
    said = f"{judged.named(case)}: {judged.shown(float(value))}"
    seen = thumbnails.explained(judged.data, judged.model, method, case, judged.kept(method, case.query))
    return tag("li", tag("figure", seen, tag("figcaption", said)))


def disagreeing(judged: Judged, thumbnails: Thumbnails, name: str) -> Html | None:
    """The cases where methods differ most, with what each has."""
    queries = {method: table.queries for method, table in judged.tables.items()}
    cases = disagreements(queries, judged.values, SHOWN)
    if not cases:
        return None
    head = tag("tr", *(tag("th", words, scope="col") for words in ("", "case", *judged.values)))
    rows = []
    for query, values, upper, lower in cases:
        case = judged.case(upper, query)
        seen = thumbnails.plain(judged.data, case)
        cells = [
            tag("td", judged.shown(values.get(method)), class_="best" if method in (upper, lower) else None)
            for method in judged.values
        ]
        rows.append(tag("tr", tag("td", seen), tag("th", judged.named(case), scope="row"), *cells))
    table = tag("table", tag("thead", head), tag("tbody", *rows))
    return tag(
        "details",
        tag("summary", f"Where methods disagree most, by {judged.measure.name}"),
        wide(f"Disagreements, {name}", table),
    )
