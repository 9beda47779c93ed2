"""The score against the area, as SVG that a style sheet colours and a script points into."""

from collections.abc import Sequence
from dataclasses import dataclass

from sfumato.figures.panels import percent
from sfumato.figures.report.markup import Html, joined, tag
from sfumato.figures.report.numbers import MaskRow, Sought, figure, ticks

WIDTH, HEIGHT = 380, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 22, 40
"""What lies between the picture's edges and the axes."""


@dataclass(frozen=True)
class Axes:
    """Where areas and scores are drawn."""

    right: float
    """The largest area."""
    low: float
    high: float

    def x(self, area: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * area / self.right, 1)

    def y(self, score: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (self.high - score) / (self.high - self.low), 1)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{self.x(area)},{self.y(score)}" for area, score in points)


def curve(
    rows: Sequence[MaskRow],
    whole: float | None,
    blank: float | None,
    search: Sought | None,
    start: int,
    said: str,
) -> Html | None:
    """The scores of what the masks show and of what they leave, between those of the whole and the blank input, and what a
    search for the smallest area tried; with a legend. `None` where no score is known.

    The points carry `data-row`, the row's place in `rows`, and that of `start` is marked; `said` is the picture in words.
    """
    kept = [(place, row.achieved, row.score) for place, row in enumerate(rows) if row.score is not None]
    left = [(place, row.achieved, row.complement) for place, row in enumerate(rows) if row.complement is not None]
    tried = list(search.tried) if search is not None else []
    wanted = None if search is None else search.wanted
    least = None if search is None else search.area
    lines = [("whole", whole, "whole input"), ("blank", blank, "fully perturbed"), ("wanted", wanted, "wanted")]
    scores = [score for _, _, score in kept + left] + [score for _, score in tried]
    if not scores:
        return None
    scores += [value for _, value, _ in lines if value is not None]
    room = 0.05 * (max(scores) - min(scores)) or 0.5
    largest = max([row.achieved for row in rows] + [area for area, _ in tried] + [least or 0])
    axes = Axes(min(1.0, 1.1 * largest) or 1.0, min(scores) - room, max(scores) + room)

    drawn = [_grid(axes, "area, %" if all(row.count is None for row in rows) else "channels, %")]
    drawn += [
        tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=axes.y(value), y2=axes.y(value), class_=f"bound {name}")
        for name, value, _ in lines
        if value is not None
    ]
    if tried:
        drawn.append(tag("polyline", points=axes.path(tried), class_="line tried"))
        drawn += [tag("circle", cx=axes.x(area), cy=axes.y(score), r=2.5, class_="tried") for area, score in tried]
    if rows:
        here = axes.x(rows[start].achieved)
        drawn.append(tag("line", x1=here, x2=here, y1=TOP, y2=HEIGHT - BOTTOM, class_="guide"))
    if least is not None:
        drawn.append(tag("line", x1=axes.x(least), x2=axes.x(least), y1=TOP, y2=HEIGHT - BOTTOM, class_="least"))
        drawn.append(tag("text", "a*", x=axes.x(least), y=TOP - 4, text_anchor="middle"))
    for name, points in (("left", left), ("kept", kept)):
        drawn.append(tag("polyline", points=axes.path([point[1:] for point in points]), class_=f"line {name}"))
        drawn += [
            tag(
                "circle",
                cx=axes.x(area),
                cy=axes.y(score),
                r=4,
                class_=f"point {name}" + (" now" if place == start else ""),
                data_row=place,
            )
            for place, area, score in points
        ]
    svg = tag("svg", *drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=said, class_="curve")
    keys = [("kept", "the mask alone", bool(kept)), ("left", "all but the mask", bool(left))]
    keys += [("tried", "areas tried", bool(tried))]
    keys += [(name, f"{words}: {figure(value)}", value is not None) for name, value, words in lines]
    if least is not None:
        keys.append(("least", f"a* = {percent(least)}", True))
    legend = [tag("li", tag("span", class_=f"key {name}"), words) for name, words, known in keys if known]
    return joined(svg, tag("ul", *legend, class_="legend"))


def _grid(axes: Axes, across: str) -> Html:
    """The axes with their numbers; `across` says what is on the lower one."""
    bottom = HEIGHT - BOTTOM
    parts = [tag("path", d=f"M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}", class_="axis")]
    for area in ticks(0, axes.right):
        parts.append(tag("text", f"{100 * area:g}", x=axes.x(area), y=bottom + 16, text_anchor="middle"))
        parts.append(tag("line", x1=axes.x(area), x2=axes.x(area), y1=bottom, y2=bottom + 4, class_="axis"))
    for score in ticks(axes.low, axes.high):
        parts.append(tag("text", f"{score:g}", x=LEFT - 6, y=axes.y(score) + 4, text_anchor="end"))
        parts.append(tag("line", x1=LEFT - 3, x2=LEFT, y1=axes.y(score), y2=axes.y(score), class_="axis"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(tag("text", across, x=middle, y=HEIGHT - 6, text_anchor="middle"))
    parts.append(tag("text", "score", x=LEFT, y=TOP - 9, text_anchor="middle"))
    return tag("g", *parts)
