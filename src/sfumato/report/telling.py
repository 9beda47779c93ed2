"""A protocol's telling cases: where each method does best and worst, and where methods disagree."""

from sfumato.report.cases import Key, alike, disagreements, ranked
from sfumato.report.judged import Judged
from sfumato.report.markup import Html, tag
from sfumato.report.page import wide
from sfumato.report.thumbnails import Thumbnails

SHOWN = 4
"""Cases of each kind."""


def extremes(judged: Judged, thumbnails: Thumbnails) -> Html | None:
    """The best and the worst cases of each method."""
    parts: list[Html] = []
    for method, values in judged.values.items():
        order = ranked(values, judged.measure.higher_is_better)
        if not order:
            continue
        best, worst = order[:SHOWN], [case for case in order[::-1] if values[case] != values[order[0]]][:SHOWN]
        for kind, cases in (("worst", worst), ("best", best)):
            if not cases:
                continue  # all cases are alike
            ties = alike(values, cases)
            tied = f" ({ties} have {judged.shown(values[cases[-1]])})" if ties > 1 else ""
            parts.append(tag("h4", f"{method}, {kind}{tied}"))
            parts.append(tag("ul", *(_case(judged, method, case, thumbnails) for case in cases), class_="cases"))
    if not parts:
        return None
    return tag("details", tag("summary", f"Best and worst cases, by {judged.measure.name}"), *parts)


def _case(judged: Judged, method: str, case: Key, thumbnails: Thumbnails) -> Html:
    kept = judged.kept.get(method, {})
    said = f"{judged.named(case)}: {judged.shown(judged.values[method][case])}"
    seen = thumbnails.explained(judged.data, judged.model, method, case, kept)
    return tag("li", tag("figure", seen, tag("figcaption", said)))


def disagreeing(judged: Judged, thumbnails: Thumbnails, name: str) -> Html | None:
    """The cases where methods differ most, with what each has."""
    cases = disagreements(judged.values, SHOWN)
    if not cases:
        return None
    head = tag("tr", *(tag("th", words, scope="col") for words in ("", "case", *judged.values)))
    rows = []
    for case, upper, lower in cases:
        seen = thumbnails.plain(judged.data, case)
        cells = [
            tag("td", judged.shown(values.get(case)), class_="best" if method in (upper, lower) else None)
            for method, values in judged.values.items()
        ]
        rows.append(tag("tr", tag("td", seen), tag("th", judged.named(case), scope="row"), *cells))
    table = tag("table", tag("thead", head), tag("tbody", *rows))
    return tag(
        "details",
        tag("summary", f"Where methods disagree most, by {judged.measure.name}"),
        wide(f"Disagreements, {name}", table),
    )
