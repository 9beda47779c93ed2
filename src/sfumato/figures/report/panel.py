"""The panel of a result of one query: its masks with a slider, the curve, the numbers, and how it was made."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.figures.asked import asked_places
from sfumato.figures.panels import name_of_score
from sfumato.figures.report.channels import channels
from sfumato.figures.report.curve import curve
from sfumato.figures.report.encoding import SMALL_QUALITY, jpeg, png
from sfumato.figures.report.markup import Html, tag
from sfumato.figures.report.numbers import MaskRow, SearchOutcome, format_score, mask_rows, search_outcome, single_value
from sfumato.figures.report.page import scrollable
from sfumato.figures.report.pictures import Frames, PerturbedLevels, frames
from sfumato.methods.sufficient import SmallestArea
from sfumato.settings import number, percent
from sfumato.space.smoothing import enlarged

CERTIFICATE = "certificate"
"""The entry of `about` with a certificate's findings."""

WORDS = {"True": "Yes", "False": "No"}
"""Whether a claim holds, in words."""

HELD = {"True": "held", "False": "failed"}
"""The same as a class of style."""

VIEWS = {"overlay": "Overlay", "black": "Blacked out", "seen": "Blurred", "heat": "Heat map"}
"""Views of a mask, by their names in the script."""


@dataclass(frozen=True, eq=False)
class Panel:
    """A result of one query."""

    name: str
    """The name of the method."""
    result: Attribution
    search: SmallestArea | None = None
    picture: Float[Tensor, "3 H W"] | None = None
    """In [0, 1]."""
    perturbed: PerturbedLevels | None = None
    note: str = ""
    """A sentence about what the network saw, or why it is not shown."""

    def views(self) -> list[str]:
        """The names of the views that this result has."""
        if self.frames is None:
            return []
        if self.picture is None:
            return ["heat"]
        if not self.frames.are_masks or self.layer:
            return ["overlay", "heat"]
        return [name for name in VIEWS if name != "seen" or self.perturbed is not None]

    @property
    def layer(self) -> str:
        """The layer whose values the masks hide; empty for masks of the picture."""
        return str(self.result.method.get("layer") or "") if self.result.masks is not None else ""

    @property
    def slides(self) -> bool:
        """Whether there is a slider, for more than one mask."""
        return self.frames is not None and len(self.frames.values) > 1

    @cached_property
    def frames(self) -> Frames | None:
        return frames(self.result, mask_rows(self.result), self.picture)

    @cached_property
    def asked(self) -> Float[Tensor, "H W"] | None:
        """The places that the question was about, if it was about some and the picture is shown."""
        return None if self.picture is None else asked_places(self.result, self.picture.shape[1:])

    def restarts(self, rows: Sequence[MaskRow]) -> list[tuple[Float[Tensor, "V H W"], list[MaskRow]]]:
        """What each restart of a search found alone: its sets as pictures, and their rows; both in the order of `rows`."""
        result, frames = self.result, self.frames
        if frames is None or not frames.are_masks or result.alternatives is None or result.alternative_scores is None:
            return []
        sets = result.alternatives[0].detach().float().cpu()[[row.variant for row in rows]]  # (V, R, 1, *M)
        scores = result.alternative_scores[0][[row.variant for row in rows]]
        whole, blank = single_value(result.whole), single_value(result.blank)
        found = []
        for restart in range(sets.shape[1]):
            own = [
                _restarted(row, number(score), whole, blank)
                for row, score in zip(rows, scores[:, restart], strict=True)
            ]
            found.append((enlarged(sets[:, restart], frames.values.shape[1:])[:, 0].clamp(0, 1), own))
        return found

    def html(self, identity: str) -> Html:
        """The element of the panel. `identity` is unique in the page."""
        rows = mask_rows(self.result)
        start = len(rows) // 2
        search = search_outcome(self.result, self.search)
        parts: list[Html | None] = [tag("h3", self.name, id=f"{identity}-name")]
        if self.frames is not None:
            parts.append(self._figure(self.frames, rows, start, identity))
        whole, blank = single_value(self.result.whole), single_value(self.result.blank)
        quantity = name_of_score(self.result)
        plot = curve(rows, whole, blank, search, start, quantity, self._describe_curve(rows, quantity))
        if plot is not None:
            parts.append(tag("div", plot, class_="plot"))
        if rows:
            parts.append(scrollable(f"Numbers of {self.name}", _table(rows, start)))
        if self.layer:
            note = f"The masks hide values of the layer {self.layer}, and are shown over the picture."
            parts.append(tag("p", note, class_="small"))
        elif self.note:
            parts.append(tag("p", self.note, class_="small"))
        if self.asked is not None and self.frames is not None:
            parts.append(tag("p", "The blue line is around the place that was asked about.", class_="small"))
        parts.append(_bounds(quantity, whole, blank, has_worth=any(row.worth is not None for row in rows)))
        if search is not None:
            parts.append(_search_sentence(search, quantity))
        parts.append(_claims(self.result.about.get(CERTIFICATE)))
        parts.append(_about_table({key: value for key, value in self.result.about.items() if key != CERTIFICATE}))
        parts.append(channels(self.result, self.picture))
        return tag(
            "article",
            *parts,
            class_="panel",
            aria_labelledby=f"{identity}-name",
            data_views=" ".join(self.views()),
            data_outlined=self.frames is not None and self.frames.are_masks,
        )

    def _figure(self, frames: Frames, rows: Sequence[MaskRow], start: int, identity: str) -> Html:
        """The canvas, its slider, and the pictures that the script draws it from. Without a script, these are visible."""
        height, width = frames.values.shape[1:]
        count = len(frames.values)
        captions = [row.sentence for row in rows] if len(rows) == count else ["the map"] * count
        sources = [
            tag("img", src=png(values), alt=f"Mask: {caption}", data_role="mask")
            for values, caption in zip(frames.values, captions, strict=True)
        ]
        if self.perturbed is not None and "seen" in self.views():
            sources += [
                tag(
                    "img",
                    src=jpeg(level, SMALL_QUALITY),
                    alt=f"{self.perturbed.name}, level {index}",
                    data_role="level",
                )
                for index, level in enumerate(self.perturbed.levels)
            ]
        if self.asked is not None:
            words = "The place that was asked about is white"
            sources.append(tag("img", src=png(self.asked), alt=words, hidden=True, data_role="asked"))
        restarts = self.restarts(rows)
        for index, (sets, own) in enumerate(restarts, 1):
            sources += [
                tag(
                    "img",
                    src=png(values),
                    alt=f"Restart {index}: {row.sentence}",
                    hidden=True,
                    data_role="restart",
                    data_restart=index,
                    data_sentence=row.sentence,
                    data_score=format_score(row.score),
                )
                for values, row in zip(sets, own, strict=True)
            ]
        parts: list[Html] = [
            tag("canvas", width=width, height=height, role="img", aria_label=self.name),
            tag("div", *sources, class_="sources"),
        ]
        if count > 1:
            ends = percent(rows[0].achieved), percent(rows[-1].achieved)
            slider = tag(
                "input",
                type="range",
                id=f"{identity}-area",
                min=0,
                max=len(rows) - 1,
                step=1,
                value=start,
                aria_valuetext=rows[start].sentence,
            )
            title = "Area" if rows[0].count is None else "Channels"
            label = tag("label", title, tag("span", f", {ends[0]} to {ends[1]}"), for_=f"{identity}-area")
            parts.append(tag("div", label, slider, class_="slider"))
        caption = rows[start].sentence if rows else "The saliency map: the warmer a place, the more it counts."
        parts.append(tag("output", caption, for_=f"{identity}-area" if count > 1 else None))
        if restarts:
            names = ["the answer", *(f"restart {index}" for index in range(1, len(restarts) + 1))]
            choices = [
                tag(
                    "label",
                    tag("input", type="radio", name=f"{identity}-set", value=index, checked=not index),
                    f"{name} ",
                    tag("span", data_role="score"),
                )
                for index, name in enumerate(names)
            ]
            parts.append(tag("fieldset", tag("legend", "Show the set of"), *choices, class_="sets"))
        return tag("div", *parts, class_="shown")

    def _describe_curve(self, rows: Sequence[MaskRow], quantity: str) -> str:
        """The curve in words."""
        points = "; ".join(row.sentence for row in rows)
        title = f"{_begun(quantity)} against area, {self.name}"
        return f"{title}: {points}" if points else title


def _table(rows: Sequence[MaskRow], start: int) -> Html:
    """A table with a row for each mask, and the columns in which a value is known."""
    quantity = rows[0].quantity  # all have the same
    columns: dict[str, list[str | None]] = {
        "channels": [None if row.count is None else str(row.count) for row in rows],
        "area asked": [None if row.requested is None else percent(row.requested) for row in rows],
        "area": [percent(row.achieved) for row in rows],
        quantity: [None if row.score is None else format_score(row.score) for row in rows],
        "worth": [None if row.worth is None else percent(row.worth) for row in rows],
        f"{quantity} without": [None if row.complement is None else format_score(row.complement) for row in rows],
    }
    known = {name: cells for name, cells in columns.items() if any(cell is not None for cell in cells)}
    head = tag("tr", *(tag("th", name, scope="col") for name in known))
    body = [
        tag(
            "tr",
            *(tag("td", cells[index] or "–") for cells in known.values()),
            data_row=index,
            data_area=f"{row.achieved:.6g}",
            data_sentence=row.sentence,
            data_score=format_score(row.score),
            aria_current="true" if index == start else None,
        )
        for index, row in enumerate(rows)
    ]
    return tag("table", tag("thead", head), tag("tbody", *body), class_="numbers")


def _restarted(row: MaskRow, score: float | None, whole: float | None, blank: float | None) -> MaskRow:
    """A row of a set of the same area with another score."""
    has_worth = score is not None and row.worth is not None
    worth = (score - blank) / (whole - blank) if has_worth else None  # type: ignore[operator]
    return replace(row, score=score, worth=worth, complement=None, agreement=None)


def _bounds(quantity: str, whole: float | None, blank: float | None, has_worth: bool) -> Html | None:
    """The scores of the whole and of the fully perturbed input."""
    parts = [f"{format_score(whole)} of the whole input"] if whole is not None else []
    parts += [f"{format_score(blank)} with everything hidden"] if blank is not None else []
    if not parts:
        return None
    worth = " Worth: 100 % is the first number, 0 % the second." if has_worth else ""
    return tag("p", f"{_begun(quantity)}: {', '.join(parts)}.{worth}", class_="small")


def _begun(words: str) -> str:
    """Words as at the beginning of a sentence."""
    return words[:1].upper() + words[1:]


def _search_sentence(search: SearchOutcome, quantity: str) -> Html:
    """The outcome of the search for the smallest area."""
    wanted = format_score(search.wanted)
    if search.area is None:
        return tag(
            "p", f"No area that was tried keeps the {quantity} wanted, {wanted}; the mask that comes nearest is shown."
        )
    count = "" if search.count is None else f", {search.count} channels"
    return tag(
        "p", f"The smallest area that keeps the {quantity} wanted, {wanted}: a* = {percent(search.area)}{count}."
    )


def _claims(certificate: Any) -> Html | None:
    """What the explanation may claim and what not, a line for each claim; `None` if it was not tested.

    A file may hold anything in its place; what is no finding is left out.
    """
    findings = certificate.get("findings") if isinstance(certificate, Mapping) else None
    known = [one for one in findings if isinstance(one, Mapping)] if isinstance(findings, list | tuple) else []
    items = [
        tag(
            "li",
            tag("strong", WORDS.get(str(one.get("holds")), "Unknown"), class_=HELD.get(str(one.get("holds")))),
            f" {one.get('claim', '')}. {one.get('sentence', '')}",
        )
        for one in known
    ]
    return (
        tag("div", tag("h4", "What the explanation may claim"), tag("ul", *items, class_="claims")) if items else None
    )


def _about_table(about: Mapping[str, Any]) -> Html | None:
    """The `about` of a result as a table, which can be opened; `None` if it is empty."""
    rows = [tag("tr", tag("th", key, scope="row"), tag("td", value)) for key, value in _flatten(about)]
    if not rows:
        return None
    table = scrollable("How it was made", tag("table", tag("tbody", *rows)))
    return tag("details", tag("summary", "How it was made"), table)


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as pairs of a dotted name and a value.

    >>> list(_flatten({"method": {"class": "a:B", "areas": [0.1, 0.2]}, "layer": ""}))
    [('method', 'a:B'), ('method.areas', '0.1, 0.2'), ('layer', '–')]
    """
    if isinstance(value, Mapping) and value:
        for key, entry in value.items():
            path = name if key == "class" and name else f"{name}.{key}" if name else str(key)
            yield from _flatten(entry, path)
    elif isinstance(value, list | tuple) and any(isinstance(entry, Mapping | list | tuple) for entry in value):
        for number, entry in enumerate(value, 1):
            yield from _flatten(entry, f"{name} {number}")
    elif isinstance(value, list | tuple):
        yield name, ", ".join(map(str, value)) or "–"
    else:
        yield name, "–" if value is None or value in ("", {}) else str(value)
