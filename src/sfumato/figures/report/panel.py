"""One result of one query: its masks under a slider, the curve beside them, the numbers, and how it was made."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.figures.panels import percent
from sfumato.figures.report.curve import curve
from sfumato.figures.report.encoded import SMALL_QUALITY, jpeg, png
from sfumato.figures.report.markup import Html, tag
from sfumato.figures.report.numbers import MaskRow, Sought, bound, figure, mask_rows, sought
from sfumato.figures.report.page import wide
from sfumato.figures.report.shown import Frames, Perturbed, frames
from sfumato.methods.sufficient import SmallestArea

VIEWS = {"overlay": "Overlay", "black": "Blacked out", "seen": "Blurred", "heat": "Heat map"}
"""What may be shown of a mask, by the names that the script knows."""


@dataclass(frozen=True, eq=False)
class Panel:
    """A result of one query, by its method's name."""

    name: str
    result: Attribution
    search: SmallestArea | None = None
    picture: Tensor | None = None
    """`(3, H, W)` in [0, 1]."""
    perturbed: Perturbed | None = None
    note: str = ""
    """Of what the network saw, or why that is not shown."""

    def views(self) -> list[str]:
        """Those that there are, by name."""
        if self.frames is None:
            return []
        if self.picture is None:
            return ["heat"]
        if not self.frames.are_masks or self.layer:
            return ["overlay", "heat"]
        return [name for name in VIEWS if name != "seen" or self.perturbed is not None]

    @property
    def layer(self) -> str:
        """The layer that the masks lie at, whose values they hide; nothing for masks of the picture."""
        return str(self.result.method.get("layer") or "") if self.result.masks is not None else ""

    @property
    def slides(self) -> bool:
        """Whether there is more than one mask to move through."""
        return self.frames is not None and len(self.frames.values) > 1

    @cached_property
    def frames(self) -> Frames | None:
        return frames(self.result, mask_rows(self.result), self.picture)

    def html(self, identity: str) -> Html:
        """`identity` is unique in the page."""
        rows = mask_rows(self.result)
        start = len(rows) // 2
        search = sought(self.result, self.search)
        parts: list[Html | None] = [tag("h3", self.name, id=f"{identity}-name")]
        shown = self.frames
        if shown is not None:
            parts.append(self._figure(shown, rows, start, identity))
        drawn = curve(rows, bound(self.result.whole), bound(self.result.blank), search, start, self._said(rows))
        if drawn is not None:
            parts.append(tag("div", drawn, class_="plot"))
        if rows:
            parts.append(wide(f"Numbers of {self.name}", _table(rows, start)))
        if self.layer:
            parts.append(
                tag("p", f"The masks lie at the layer {self.layer}, and are shown over the picture.", class_="small")
            )
        elif self.note:
            parts.append(tag("p", self.note, class_="small"))
        parts.append(_bounds(self.result, rows))
        if search is not None:
            parts.append(_told(search))
        parts.append(_made(self.result.about))
        return tag(
            "article",
            *parts,
            class_="panel",
            aria_labelledby=f"{identity}-name",
            data_views=" ".join(self.views()),
            data_outlined=shown is not None and shown.are_masks,
        )

    def _figure(self, shown: Frames, rows: Sequence[MaskRow], start: int, identity: str) -> Html:
        """The canvas, its slider, and the pictures that it is drawn from; without a script these are seen."""
        height, width = shown.values.shape[1:]
        heads = [row.said for row in rows] if len(rows) == len(shown.values) else ["the map"] * len(shown.values)
        sources = [
            tag("img", src=png(values), alt=f"Mask: {head}", data_role="mask")
            for values, head in zip(shown.values, heads, strict=True)
        ]
        if self.perturbed is not None and "seen" in self.views():
            sources += [
                tag(
                    "img",
                    src=jpeg(level, SMALL_QUALITY),
                    alt=f"{self.perturbed.name}, level {place}",
                    data_role="level",
                )
                for place, level in enumerate(self.perturbed.levels)
            ]
        parts: list[Html] = [
            tag("canvas", width=width, height=height, role="img", aria_label=self.name),
            tag("div", *sources, class_="sources"),
        ]
        if len(shown.values) > 1:
            ends = percent(rows[0].achieved), percent(rows[-1].achieved)
            slider = tag(
                "input",
                type="range",
                id=f"{identity}-area",
                min=0,
                max=len(rows) - 1,
                step=1,
                value=start,
                aria_valuetext=rows[start].said,
            )
            words = "Area" if rows[0].count is None else "Channels"
            named = tag("label", words, tag("span", f", {ends[0]} to {ends[1]}"), for_=f"{identity}-area")
            parts.append(tag("div", named, slider, class_="slider"))
        said = rows[start].said if rows else "The saliency map: the warmer a place, the more it counts."
        parts.append(tag("output", said, for_=f"{identity}-area" if len(shown.values) > 1 else None))
        return tag("div", *parts, class_="shown")

    def _said(self, rows: Sequence[MaskRow]) -> str:
        """The curve in words."""
        points = "; ".join(row.said for row in rows)
        return f"Score against area, {self.name}: {points}" if points else f"Score against area, {self.name}"


def _table(rows: Sequence[MaskRow], start: int) -> Html:
    """A row for each mask; a column only where something is known."""
    columns: dict[str, list[str | None]] = {
        "channels": [None if row.count is None else str(row.count) for row in rows],
        "area asked": [None if row.asked is None else percent(row.asked) for row in rows],
        "area": [percent(row.achieved) for row in rows],
        "score kept": [None if row.score is None else figure(row.score) for row in rows],
        "of the whole": [None if row.share is None else percent(row.share) for row in rows],
        "score without": [None if row.complement is None else figure(row.complement) for row in rows],
    }
    known = {name: cells for name, cells in columns.items() if any(cell is not None for cell in cells)}
    head = tag("tr", *(tag("th", name, scope="col") for name in known))
    body = [
        tag(
            "tr",
            *(tag("td", cells[place] or "–") for cells in known.values()),
            data_row=place,
            data_area=f"{row.achieved:.6g}",
            data_said=row.said,
            aria_current="true" if place == start else None,
        )
        for place, row in enumerate(rows)
    ]
    return tag("table", tag("thead", head), tag("tbody", *body), class_="numbers")


def _bounds(result: Attribution, rows: Sequence[MaskRow]) -> Html | None:
    """The scores between which those of the masks lie."""
    whole, blank = bound(result.whole), bound(result.blank)
    parts = [f"{figure(whole)} of the whole input"] if whole is not None else []
    parts += [f"{figure(blank)} of the fully perturbed one"] if blank is not None else []
    if not parts:
        return None
    share = ' "Of the whole" is the share of the way from the second to the first.' if len(parts) == 2 and rows else ""
    return tag("p", f"Scores: {', '.join(parts)}.{share}", class_="small")


def _told(search: Sought) -> Html:
    """What came of the search for the smallest area."""
    wanted = figure(search.wanted)
    if search.area is None:
        return tag(
            "p", f"No area that was tried keeps the score wanted, {wanted}; the mask that came nearest is shown."
        )
    count = "" if search.count is None else f", {search.count} channels"
    return tag("p", f"The smallest area that keeps the score wanted, {wanted}: a* = {percent(search.area)}{count}.")


def _made(about: Mapping[str, Any]) -> Html | None:
    """How it was made, as the result tells it."""
    rows = [tag("tr", tag("th", key, scope="row"), tag("td", value)) for key, value in _flat(about)]
    if not rows:
        return None
    table = wide("How it was made", tag("table", tag("tbody", *rows)))
    return tag("details", tag("summary", "How it was made"), table)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as names with dots, and their values.

    >>> list(_flat({"method": {"class": "a:B", "areas": [0.1, 0.2]}, "layer": ""}))
    [('method', 'a:B'), ('method.areas', '0.1, 0.2'), ('layer', '–')]
    """
    if isinstance(value, Mapping) and value:
        for key, entry in value.items():
            at = name if key == "class" and name else f"{name}.{key}" if name else str(key)
            yield from _flat(entry, at)
    elif isinstance(value, list | tuple) and any(isinstance(entry, Mapping | list | tuple) for entry in value):
        for place, entry in enumerate(value, 1):
            yield from _flat(entry, f"{name} {place}")
    elif isinstance(value, list | tuple):
        yield name, ", ".join(map(str, value)) or "–"
    else:
        yield name, "–" if value is None or value in ("", {}) else str(value)
